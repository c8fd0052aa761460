"""What travels instead of models: compressors, their wire format, error feedback, gossip of differences, triggers."""
