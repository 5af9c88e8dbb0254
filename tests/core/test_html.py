"""HTML for notebooks and web pages: text stays text, and drawings show their values."""

import math
from html.parser import HTMLParser
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from optuna_agenttts.support import html

HOSTILE = "<script>alert(1)</script> \"q\" 'a' & | `x` \n 👩‍👧 " + "m" * 300


class Read(HTMLParser):
    """Text and tags of HTML."""

    def __init__(self, source):
        super().__init__(convert_charrefs=True)
        self.text, self.tags, self.attributes = "", [], []
        self.feed(source)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs

    def handle_data(self, data):
        self.text += data


@given(st.text(st.characters(exclude_categories=["Cc", "Cf", "Cs"])))
def test_a_text_reads_as_it_was_written(text):
    read = Read(html.element("p", text, title=text))

    assert read.text == text
    assert read.tags == ["p"]
    assert dict(read.attributes) == {"title": text}


def test_an_emoji_of_several_characters_stays_one():
    assert html.escape("👩‍👧") == "👩‍👧"


@pytest.mark.parametrize("char", ["\0", "\x1b", "\ud800", "\u202e", "\u2066"])
def test_characters_that_hide_or_reorder_text_are_written_out(char):
    shown = html.escape(f"a{char}b")

    assert shown == f"a\\u{ord(char):04x}b"
    shown.encode()


def test_html_is_not_escaped_twice():
    once = html.element("b", HOSTILE)

    assert html.escape(once) is once
    assert Read(html.paragraph(once)).text == HOSTILE


@pytest.mark.parametrize(
    "built",
    [
        html.heading(HOSTILE),
        html.paragraph(HOSTILE),
        html.bullets([HOSTILE]),
        html.details(HOSTILE, HOSTILE),
        html.facts({HOSTILE: HOSTILE}),
        html.table([HOSTILE], [[HOSTILE]], caption=HOSTILE),
        html.interval(0.5, (0.2, 0.7), (0, 1), label=HOSTILE, marked=0.6),
    ],
)
def test_no_name_becomes_an_element(built):
    read = Read(built)

    assert "script" not in read.tags
    assert HOSTILE in read.text
    # Well formed, so that it can stand in any page.
    ElementTree.fromstring(built)


def test_values_that_are_not_known_are_left_out_of_facts():
    assert Read(html.facts({"a": None, "b": "", "c": 0})).text == "c0"


def test_a_list_of_nothing_is_nothing():
    assert html.bullets([]) == ""


def points(drawing):
    """Positions of the ends of the interval and of the value, in pixels."""
    root = ElementTree.fromstring(drawing)
    name = "{http://www.w3.org/2000/svg}"
    thick = [each for each in root.iter(f"{name}line") if each.get("stroke-width") == "3"]
    ends = [float(each.get(side)) for each in thick for side in ("x1", "x2")]
    return ends, [float(each.get("cx")) for each in root.iter(f"{name}circle")]


def test_intervals_on_one_scale_are_in_order():
    ends, value = points(html.interval(0.5, (0.2, 0.7), (0, 1), label="x"))
    assert ends[0] < value[0] < ends[1]

    later, _ = points(html.interval(0.8, (0.3, 0.9), (0, 1), label="x"))
    assert ends[0] < later[0]
    assert ends[1] < later[1]


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_value_that_is_not_finite_is_not_drawn(value):
    assert points(html.interval(value, (value, value), (0, 1), label="x")) == ([], [])


def test_values_out_of_the_scale_are_drawn_at_its_edges():
    left, right = points(html.interval(0.5, (-1e300, 1e300), (0, 1), label="x"))[0]

    assert 0 <= left < right <= 180


@given(st.lists(st.one_of(st.none(), st.floats(-1e300, 1e300), st.just(math.nan))))
def test_limits_are_a_range_that_holds_all_values(values):
    low, high = html.limits(values)

    assert low < high
    assert all(low <= v <= high for v in values if v is not None and math.isfinite(v))
