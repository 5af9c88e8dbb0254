"""Run the command line: ``python -m optuna_agenttts_integrations.cli``."""

import sys

from optuna_agenttts_integrations.cli import main

sys.exit(main())
