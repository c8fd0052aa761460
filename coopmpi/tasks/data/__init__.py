"""Data sets: read, checked, split, dealt to the workers, one copy per node."""
