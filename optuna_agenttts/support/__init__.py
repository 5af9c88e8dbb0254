"""Utilities: marks of experimental features, imports on first use, resets after forks."""
