"""Neural networks for many workers at once."""
