"""Scoring of results: metrics, and a sandbox that runs generated programs."""
