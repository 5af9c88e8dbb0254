"""Reports about a study: recommendation, note in optuna-dashboard, callbacks."""
