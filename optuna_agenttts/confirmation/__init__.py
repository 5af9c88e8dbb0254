"""Confirmation: the best allocations of a search, compared on fresh instances."""
