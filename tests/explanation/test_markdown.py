"""Names of users and models are text in Markdown, never markup."""

import re

from hypothesis import given
from hypothesis import strategies as st

from optuna_agenttts.explanation.markdown import code, line, plain, table
from optuna_agenttts.report.document import with_code
from optuna_agenttts.support.plain import shortened

TEXTS = st.text(alphabet=st.sampled_from("ab1.)(*_`<>|[]!#+-~\\:/&@$ \n\t\u202e😀"), max_size=40)


@given(TEXTS)
def test_escaped_text_has_no_markup_and_reads_as_before(text):
    found = plain(text)
    assert "\n" not in found
    bare = re.sub(r"\\.", "x", found)
    assert not re.search(r"[`*_{}\[\]<>#!|~$&]|://|www\.|\w@", bare)
    shown = " ".join("".join(c if c.isprintable() else " " for c in text).split())
    assert re.sub(r"\\(.)", r"\1", found.replace("\u2060", "")) == shown


def test_what_would_become_a_list_an_entity_or_a_link_is_escaped():
    assert plain("1. one") == r"1\. one"
    assert plain("- one") == r"\- one"
    assert plain("&lt;b&gt;") == r"\&lt;b\&gt;"
    assert plain("http://x www.y a@b.c") == "http:\u2060//x www\u2060.y a\u2060@b.c"


def test_code_in_sentences_stays_code():
    assert line(with_code("Use `f(x)[0]` *now* .")) == r"Use `f(x)[0]` \*now\* ."
    assert line(with_code("a ` b")) == r"a \` b"


@given(TEXTS, st.integers(3, 20))
def test_long_texts_are_shortened_in_the_middle(text, most):
    found = shortened(text, most)
    assert len(found) <= most
    assert found == text or (found[0] == text[0] and found[-1] == text[-1] and "…" in found)


@given(TEXTS)
def test_code_is_not_ended_by_its_text(text):
    first, *_, last = code(text, 100).split("\n")
    fence = first.removesuffix("text")
    assert fence == last
    assert set(fence) == {"`"}
    assert fence not in text


@given(st.lists(st.tuples(TEXTS, TEXTS), max_size=3))
def test_tables_have_a_line_for_each_row_and_as_many_cells(rows):
    lines = table(("a", "b"), [tuple(map(plain, row)) for row in rows]).split("\n")
    assert len(lines) == 2 + len(rows)
    assert all(len(re.findall(r"(?<!\\)(?:\\\\)*\|", line)) == 3 for line in lines)
