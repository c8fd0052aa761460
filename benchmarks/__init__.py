"""What coopmpi promises to be fast at, measured: `python -m benchmarks NAME`."""
