"""Loopback server and simulated models, for tests and offline examples."""
