"""What people read of a study: recommendation, note in optuna-dashboard, callbacks."""
