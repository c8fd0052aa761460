"""Many runs as one: methods that are tuned and compared in several settings, with several seeds."""
