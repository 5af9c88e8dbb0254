"""Calls of models: where they live, what was drawn before, what is kept."""
