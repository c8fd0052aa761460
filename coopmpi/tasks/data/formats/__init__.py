"""Readers of data files, one for each format. None of them loads a pickle."""
