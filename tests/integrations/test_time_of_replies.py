"""Long and adversarial replies are read in linear or bounded time."""

import contextlib
import json
import time

import pytest

from optuna_agenttts.llm import ChatRequest, ChatUnavailableError, Message, untrusted
from optuna_agenttts.llm.error_replies import http_error
from optuna_agenttts.llm.replies import parse_completion
from optuna_agenttts_integrations.inspection import text as inspection
from optuna_agenttts_integrations.scoring.code_metrics import completeness
from optuna_agenttts_integrations.scoring.metrics import rouge_l
from optuna_agenttts_integrations.tasks.answering import parse_answer
from optuna_agenttts_integrations.tasks.programs import parse_program, strip_comments
from optuna_agenttts_integrations.tasks.selection import parse_selection

REQUEST = ChatRequest(messages=(Message("user", "h"),), model="m", max_tokens=5, temperature=0.7)


def read_events(text):
    return parse_completion(text.encode(), REQUEST, "m at s")


def read_json(text):
    return untrusted.json_in_reply(text, "candidates")


def show(text):
    return list(inspection._block(text, 80))


@pytest.mark.parametrize(
    ("read", "piece"),
    [
        (completeness, "# implement "),
        (completeness, "# implement\n"),
        (completeness, "x=1;"),
        (strip_comments, "x\n"),
        (strip_comments, "'a';"),
        (strip_comments, '"""a"""\n'),
        (parse_program, "FILE: a.py\n```\nx\n```\n"),
        (parse_program, "```x\n"),
        (lambda text: rouge_l(text, text), "the cat "),
        (read_json, '{"a": "b'),
        (read_json, '"'),
        (lambda text: parse_selection(text, 9), "Answer: [1, "),
        (lambda text: parse_selection(text, 9), "Answer:\n"),
        (lambda text: parse_selection(text, 9), "Answer:\n- 1\n"),
        (lambda text: parse_selection(text, 9), '[{"ids": [1], '),
        (lambda text: parse_selection(text, 9), "\\boxed{1} "),
        (lambda text: parse_selection(text, 9), "answers ids "),
        (lambda text: parse_answer(text, None), "- "),
        (lambda text: parse_answer(text, None), "\\boxed{a{"),
        (lambda text: parse_answer(text, None), "Answer:\n"),
        (read_events, 'data: {"choices":[{"delta":{"content":"a"}}]}\n'),
        (show, "word "),
        (show, "\n"),
    ],
)
def test_time_is_linear_or_bounded(read, piece):
    """Twice the reply takes no more than three times as long."""

    def seconds(length):
        text = (piece * length)[:length]
        times = []
        for _ in range(3):
            started = time.process_time()
            with contextlib.suppress(ChatUnavailableError):
                read(text)
            times.append(time.process_time() - started)
        return min(times)

    # Times below some milliseconds are those of the clock and the caches.
    assert seconds(200_000) < 3 * max(seconds(100_000), 0.01)


def test_source_of_many_tokens_is_left_as_it_is():
    """Comments are stripped, and programs are complete, up to 16,000 tokens."""
    short, long = ("x = 1  # one\n" * lines for lines in (3000, 4000))
    assert "#" not in strip_comments(short)
    assert strip_comments(long) == long.strip()
    assert (completeness(short), completeness(long)) == (1.0, 0.0)


def test_rouge_l_compares_ten_thousand_tokens():
    assert rouge_l("a " * 10_000 + "b " * 5000, "a " * 10_000) == 1.0
    assert rouge_l("b " * 10_000 + "a", "a") == 0.0


def test_json_is_repaired_up_to_a_length():
    """Valid JSON is read up to 60,000 characters; invalid JSON is repaired up to 16,000."""
    rest = ' "x": "' + "y" * 50_000 + '"'
    valid = read_json('{"candidates": [1],' + rest + "}")
    assert (valid["candidates"], len(valid["x"])) == ([1], 50_000)
    assert len(read_json('{"candidates": [1],,' + rest + "}")["x"]) < 16_000


@pytest.mark.parametrize("end", ["\n", "\r", "\r\n"])
def test_events_are_counted_before_they_are_read(end):
    event = f'data: {{"choices":[{{"delta":{{"content":"a"}}}}]}}{end}'
    done = "data: [DONE]"
    assert read_events(event * 59_000 + done).text == "a" * 59_000
    with pytest.raises(ChatUnavailableError, match="not JSON"):
        read_events(event * 61_000 + done)


def test_each_event_is_a_json_value():
    for bad in ('{"a": 1}, {"b": 2}', "{", "]", "1, 2"):
        event = 'data: {"choices":[{"delta":{"content":"a"}}]}\n'
        with pytest.raises(ChatUnavailableError, match="not JSON"):
            read_events(f"{event}data: {bad}\ndata: [DONE]")


def test_errors_are_searched_up_to_20000_characters():
    words = "prompt is too long"
    found = [http_error(500, {}, "x" * n + words, "m at s") for n in (19_000, 20_001)]
    assert [isinstance(error, ChatUnavailableError) for error in found] == [False, True]


def test_texts_of_completions_have_a_million_characters():
    body = json.dumps({"choices": [{"message": {"content": "x" * 1_500_000}}]})
    found = read_events(body)
    assert (len(found.text), found.finish_reason) == (1_000_000, "length")


def test_inspection_shows_the_beginning_of_a_long_reply():
    shown = show("x" * 50_000)
    assert sum(line.count("x") for line in shown) == 20_000
    assert shown[-1].strip() == "[30000 more characters]"
