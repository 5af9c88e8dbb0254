import contextlib
import sys
from pathlib import Path
from types import SimpleNamespace

import optuna
import pytest

from optuna_agenttts_integrations.testing.serving import LoopbackServer

sys.path.insert(0, str(Path(__file__).parent))


@pytest.fixture(autouse=True)
def _quiet():
    """Keep Optuna's log out of the tests' output."""
    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    yield
    optuna.logging.set_verbosity(before)


@pytest.fixture(params=["openai", "tgi"])
def served(request):
    """Serve chat models over HTTP in a dialect; the function returns their URLs."""
    with contextlib.ExitStack() as stack:

        def serve(chats):
            if request.param == "openai":
                server = stack.enter_context(LoopbackServer(chats))
                return dict.fromkeys(chats, server.url)
            return {
                name: stack.enter_context(LoopbackServer({name: chat}, dialect="tgi")).url
                for name, chat in chats.items()
            }

        yield serve


@pytest.fixture
def data_sets(monkeypatch):
    """Replace the library `datasets` by a fake with settable records and recorded calls."""
    library = SimpleNamespace(records=[], asked=[])

    def load_dataset(*names, **options):
        library.asked.append((*names, options))
        return library.records

    library.load_dataset = load_dataset
    monkeypatch.setitem(sys.modules, "datasets", library)
    return library
