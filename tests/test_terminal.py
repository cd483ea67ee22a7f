import sys
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runlab import printable, shortened


@pytest.mark.parametrize(
    "text",
    [
        "zoë",
        "Ελένη",
        "Мария",
        "अनुराधा",
        "محمد",
        "می\u200cخواهم",
        "李小龍",
        "Nguyễn",
        "e\u0301",
        "🙂",
        "a b",
        "'quoted' \\",
    ],
)
def test_ordinary_text_of_any_script_stays_as_it_is(text):
    assert printable(text) == text


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("\x1b[2J", r"\x1b[2J"),
        ("a\nb\tc\r\x00", r"a\nb\tc\r\x00"),
        ("\u202eabc\u2066", r"\u202eabc\u2066"),
        ("\x9b31m\u2028", r"\x9b31m\u2028"),
        ("\ud800", r"\ud800"),
        ("\U000e0041", r"\U000e0041"),
    ],
)
def test_what_steers_a_terminal_is_escaped(text, shown):
    assert printable(text) == shown


@given(st.text(st.characters(max_codepoint=sys.maxunicode, exclude_categories=())))
def test_nothing_that_is_shown_steers_a_terminal(text):
    for character in printable(text):
        assert unicodedata.category(character) not in ("Cc", "Cs", "Zl", "Zp")
        assert unicodedata.bidirectional(character) not in (
            "LRE",
            "RLE",
            "LRO",
            "RLO",
            "PDF",
            "LRI",
            "RLI",
            "FSI",
            "PDI",
        )


@given(st.text() | st.lists(st.integers()))
def test_a_value_is_shown_in_full_or_cut_in_its_middle(value):
    shown = shortened(value, 40)
    assert shown == repr(value) or (len(shown) == 45 and " ... " in shown)
    assert shown[:20] == repr(value)[:20]
