"""A machine and a network on virtual clocks."""
