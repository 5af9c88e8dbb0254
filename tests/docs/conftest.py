"""Set-up that the tests of pages share."""

import sys
from pathlib import Path

# Helpers live beside the tests.
sys.path.insert(0, str(Path(__file__).parent))
