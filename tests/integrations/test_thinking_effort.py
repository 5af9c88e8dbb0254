"""Thinking efforts in searches: samples, servers, simulated models, checks."""

from dataclasses import replace

from optuna_agenttts.llm import ChatRequest, Message
from optuna_agenttts_integrations import connect_endpoints
from optuna_agenttts_integrations.calls.completions import request_text

URL = "http://host:8080"
REQUEST = ChatRequest(
    model="m", messages=(Message("user", "hello"),), max_tokens=5, temperature=0.7
)


def test_samples_of_each_effort_have_a_key_of_their_own():
    efforts = [None, "off", 0, "low", 1024]
    keys = {request_text(replace(REQUEST, thinking=effort)) for effort in efforts}
    assert len(keys) == len(efforts)
    # Requests without an effort have the keys of earlier versions.
    assert "thinking" not in request_text(REQUEST)


def test_fields_that_carry_efforts_are_part_of_an_endpoint_if_they_are_given():
    def identity(form):
        parameters = {"thinking": form} if form else {}
        return connect_endpoints("m", URL, request_parameters=parameters)["m"].identity

    forms = [None, "reasoning_effort", "thinking", "reasoning_effort thinking"]
    assert len({identity(form) for form in forms}) == len(forms)
    assert identity("reasoning_effort, thinking") == identity("reasoning_effort thinking")
