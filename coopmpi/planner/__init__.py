"""The fastest strategy on a machine: measured once, then forecast for every candidate."""
