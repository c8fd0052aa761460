"""The local update: optimisers, learning-rate schedules, periods between communication rounds."""
