"""One file per algorithm. A new one is a file here with a registered subclass of coopmpi.step.Algorithm."""
