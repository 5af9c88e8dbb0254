"""Multi-stage objectives for optuna-agenttts."""
