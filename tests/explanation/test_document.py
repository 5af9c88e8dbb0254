"""Text, HTML and Markdown of a summary hold the same facts, whatever names contain."""

import html
import re

import optuna
import pytest
from explained_studies import objective_of, run, task_of
from hypothesis import given
from hypothesis import strategies as st
from optuna.samplers import RandomSampler
from optuna.trial import TrialState

from optuna_agenttts import AgentTTSSampler, Model
from optuna_agenttts.explanation import markdown
from optuna_agenttts.explanation.note import note
from optuna_agenttts.report.document import (
    Bullets,
    Code,
    Paragraph,
    Section,
    Strong,
    Table,
    with_code,
    words,
)
from optuna_agenttts.report.fragments import section_html
from optuna_agenttts.report.summary import summarize
from optuna_agenttts.report.text import section_text
from optuna_agenttts.study.rounds import Round, write_round

NAMES = st.text(st.sampled_from("ab1.)(*_`<>|[]!#+-~\\:/&@$ \"'😀"), min_size=1, max_size=20)
NAMES = NAMES.filter(str.strip)
LINES = st.one_of(NAMES, NAMES.map(Strong), st.tuples(NAMES, st.builds(Strong, NAMES), NAMES))
ROWS = st.lists(st.tuples(LINES, LINES, LINES), min_size=1, max_size=3).map(tuple)
BLOCKS = st.one_of(
    LINES.map(Paragraph),
    st.lists(LINES, min_size=1, max_size=3).map(tuple).map(Bullets),
    st.builds(Table, st.tuples(NAMES, NAMES, NAMES), ROWS),
)
SECTIONS = st.builds(Section, NAMES, st.lists(BLOCKS, max_size=3).map(tuple))


def squeezed(text):
    """Return a text without white space, which media break and align in their own ways."""
    return "".join(text.replace("\u2060", "").split())


def of_html(text):
    """Return what a page shows."""
    return squeezed(html.unescape(re.sub(r"<[^>]*>", "", text)))


def of_markdown(text):
    """Return what a page shows: without marks, which texts cannot contain unless escaped."""
    kept = re.findall(r"\\(.)|(\*\*)|(.)", squeezed(text))
    return "".join(escaped or other for escaped, _, other in kept)


def facts_of(section):
    """Yield the texts of a section: sentences, list items, and cells."""
    yield section.title
    for block in section.blocks:
        if isinstance(block, Table):
            yield from block.head
            yield from (words(cell) for row in block.rows for cell in row)
        else:
            lines = block.items if isinstance(block, Bullets) else (block.line,)
            yield from map(words, lines)


def rows_of(sections):
    """Return the number of rows of all tables, with their heads."""
    blocks = [block for section in sections for block in section.blocks]
    return sum(1 + len(block.rows) for block in blocks if isinstance(block, Table))


@given(SECTIONS)
def test_each_rendering_of_a_section_holds_all_of_its_texts(section):
    shown = (
        squeezed(section_text(section)),
        of_html(section_html(section)),
        of_markdown(markdown.section(section)),
    )
    for fact in map(squeezed, facts_of(section)):
        assert all(fact in text for text in shown)
    assert section_html(section).count("<tr>") == rows_of([section])
    lines = markdown.section(section).splitlines()
    tables = sum(isinstance(block, Table) for block in section.blocks)
    assert sum(line.startswith("| ") for line in lines) == rows_of([section]) + tables


def searched(kind):
    """Return a study of a kind."""
    hostile = "<img src=x onerror=alert(1)> | `x` [a](http://b) 😀\n# \"q\" 'a' &amp; **b**"
    names = (hostile, "answer") if kind == "hostile" else ("retrieval", "answer")
    models = [Model(f"{names[0]}-{size}B", parameters=size * 1e9) for size in (7, 72)]
    task = task_of(names=names, models=models, metric=names[0], description=names[0])
    options = {"direction": "minimize"} if kind == "minimize" else {}
    sampler = RandomSampler(seed=0) if kind == "random" else AgentTTSSampler(task, explain=False)
    if kind == "nothing":
        study = optuna.create_study(direction="maximize")
    elif kind == "several":
        study = optuna.create_study(directions=["maximize"] * 2)
        study.optimize(lambda t: (len(task.suggest(t)), 1.0), n_trials=2)
    elif kind == "failed":
        study = run(task, 2, sampler, lambda t: float("nan") if task.suggest(t) else 0.0)
        assert study.trials[0].state == TrialState.FAIL
    elif kind == "scores":
        study = run(task, 6, sampler, lambda t: len(str(task.suggest(t))) / 100)
    else:
        study = run(task, 8, sampler, objective_of(task, 30), **options)
        write_round(study, Round(number=1, guidelines=(names[0], "Sample more."), model=names[0]))
    task.register(study)
    return study


KINDS = ["random", "hostile", "minimize", "nothing", "several", "failed", "scores"]


@pytest.mark.parametrize("kind", KINDS)
def test_a_summary_holds_the_same_facts_in_all_media(kind):
    """The same rows, numbers and sentences; and the text is as wide as a page."""
    summary = summarize(searched(kind))
    sections = summary.sections.values()
    text, page, marked = str(summary), summary._repr_html_(), note(summary)
    shown = squeezed(text), of_html(page), of_markdown(marked)
    facts = [squeezed(fact) for section in sections for fact in facts_of(section)]
    assert len(facts) > 10
    for fact in facts:
        # Backticks of code are marks of text and Markdown.
        assert fact in shown[0]
        assert fact.replace("`", "") in shown[1].replace("`", "")
        assert fact in shown[2]
    assert page.count("<tr>") == rows_of(sections)
    assert sum(line.startswith("| ") for line in marked.splitlines()) == rows_of(sections) + sum(
        isinstance(block, Table) for section in sections for block in section.blocks
    )
    if kind != "hostile":
        assert max(map(len, text.splitlines())) <= 100


def test_code_is_marked_unless_backticks_are_not_in_pairs():
    assert with_code("Use `f(x)` now.") == ("Use ", Code("f(x)"), " now.")
    assert with_code("a ` b") == "a ` b"
    section = Section("a", (Paragraph(with_code("Use `f(<x>)` now.")),))
    assert "<code>f(&lt;x&gt;)</code>" in section_html(section)
    assert "`f(<x>)`" in markdown.section(section)
    assert "`f(<x>)`" in section_text(section)
