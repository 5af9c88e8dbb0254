import sys
from pathlib import Path

# Helpers live beside the tests and above.
sys.path.insert(0, str(Path(__file__).parent.parent))
sys.path.insert(0, str(Path(__file__).parent))

from store_support import new_target, postgresql_server, target  # noqa: F401
