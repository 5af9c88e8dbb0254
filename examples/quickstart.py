"""Tune a real two-stage pipeline of tiny language models under a budget.

Shows: the main job from start to end: search, recommendation, comparison with TPE on problems that
    no trial has seen, a web page about the study. It is the command `agenttts quickstart`.
Needs: `pip install .`, nothing else.
Takes: about a minute.
"""

import sys

from optuna_agenttts_integrations.cli import main

if __name__ == "__main__":
    sys.exit(main(["quickstart", *sys.argv[1:]]))
