"""One training run: from its description to its result file."""
