"""Chat models from names and URLs."""

import asyncio

import pytest
from llm_support import AdversarialServer, ask

from optuna_agenttts.exceptions import AgentTTSError
from optuna_agenttts.llm import HuggingFaceChat, ScriptedChatModel, connect

VARIABLE = "OPTUNA_AGENTTTS_LLM"


@pytest.fixture(autouse=True)
def _unset(monkeypatch):
    """Remove any model named in the environment of the test run."""
    monkeypatch.delenv(VARIABLE, raising=False)


def parts(chat):
    """Return the model and base URL from which a chat model was made."""
    assert type(chat) is HuggingFaceChat
    return chat.model, chat.base_url


NAMES = [
    ("Qwen/Qwen2.5-72B-Instruct", ("Qwen/Qwen2.5-72B-Instruct", None)),
    ("o/m:groq", ("o/m:groq", None)),
    ("gpt2", ("gpt2", None)),
    ("http://127.0.0.1:8080", (None, "http://127.0.0.1:8080")),
    ("https://h/v1", (None, "https://h/v1")),
    ("http://h:1/v1#o/m", ("o/m", "http://h:1/v1")),
    ("http://h:1/v1?version=2#m", ("m", "http://h:1/v1?version=2")),
    ("http://h#", (None, "http://h")),
]


@pytest.mark.parametrize(("name", "expected"), NAMES)
def test_names_lead_to_models_and_servers(name, expected):
    """A model id is for the Hub, a URL is a server, and what follows # is its model."""
    assert parts(connect(name)) == expected


@pytest.mark.parametrize(("name", "expected"), NAMES)
def test_the_environment_names_a_model_where_the_program_does_not(name, expected, monkeypatch):
    """The variable is read as a name is; spaces around it do not matter."""
    monkeypatch.setenv(VARIABLE, f" {name}\n")
    assert parts(connect(None)) == expected


def test_nothing_named_is_no_model():
    """Without a name there is no model; that is no error."""
    assert connect(None) is None


@pytest.mark.parametrize("value", ["", "  ", "\n"])
def test_an_empty_variable_names_nothing(value, monkeypatch):
    """A variable that is set to nothing is as one that is not set."""
    monkeypatch.setenv(VARIABLE, value)
    assert connect(None) is None


def test_what_the_program_names_goes_before_the_environment(monkeypatch):
    """The variable is for where nothing else is said."""
    monkeypatch.setenv(VARIABLE, "not even a model")
    assert parts(connect("o/m")) == ("o/m", None)
    chat = ScriptedChatModel([])
    assert connect(chat) is chat
    with pytest.raises(AgentTTSError, match="not even a model"):
        connect(None)


def test_a_chat_model_is_itself():
    """A chat model of any class is returned unchanged."""

    class Own:
        async def complete(self, request, *, seed):
            """Answer."""

    for chat in (ScriptedChatModel([]), HuggingFaceChat("m"), Own()):
        assert connect(chat) is chat


@pytest.mark.parametrize(
    "nonsense",
    [
        "",
        " ",
        "two words",
        "o/m\n",
        "ftp://h/m",
        "file:///etc/passwd",
        "http://",
        "https://#m",
        "http://me:secret-password@h",
        "http://h h",
        "http://[::1",
        7,
        0,
        b"o/m",
        ["o/m"],
        object(),
        HuggingFaceChat,
    ],
)
def test_nonsense_is_refused(nonsense):
    """The error says what to pass instead, and shows no secrets."""
    with pytest.raises(AgentTTSError) as caught:
        connect(nonsense)
    assert "must be" in str(caught.value) or "as `api_key`" in str(caught.value)
    assert "secret" not in str(caught.value)


def test_a_url_leads_to_an_answer():
    """The connected server replies, and receives the model's name."""
    with AdversarialServer() as server:
        chat = connect(f"{server.url}/v1#some/model")

        async def work():
            try:
                return await chat.complete(ask(), seed=1)
            finally:
                await chat.aclose()

        assert asyncio.run(work()).text == "hi there"
        assert [r.body["model"] for r in server.requests] == ["some/model"]
