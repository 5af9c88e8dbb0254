"""A pipeline: its stages, how samples become results, how an instance runs through it."""
