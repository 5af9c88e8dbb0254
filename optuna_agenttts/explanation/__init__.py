"""Explanations of a study: note, attributes and figures in optuna-dashboard."""
