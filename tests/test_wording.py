"""Tests of experiments.messages: errors and wording."""

import pytest

from experiments.messages.errors import CommandError
from experiments.messages.wording import (
    counted,
    listed,
    plain_label,
    plain_name,
    printable,
)


def test_a_refusal_names_field_and_value_then_reason_and_remedy():
    line = str(CommandError.of("--only", "7", "it fits no run", "Give an index"))
    assert line == "--only is '7': it fits no run. Give an index."
    assert str(CommandError.of("seed", -1, "it must be at least 0")) == (
        "seed is -1: it must be at least 0."
    )


@pytest.mark.parametrize(
    ("number", "words"), [(0, "0 runs"), (1, "1 run"), (2, "2 runs")]
)
def test_a_noun_is_in_the_plural_but_for_one(number, words):
    assert counted(number, "run") == words


def test_of_many_parts_the_first_are_listed():
    assert listed(["a"], "; ") == "a"
    assert listed(list("abcde"), ", ") == "a, b, c, d, e"
    assert listed(list("abcdefg"), " ") == "a b c d e and 2 more"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("plain text, ± and β", "plain text, ± and β"),
        ("\x1b[2J", r"\x1b[2J"),
        ("a\rb\nc\td", r"a\rb\nc\td"),
        ("\x9b2J\x85", r"\x9b2J\x85"),
        ("\u202egnp.exe\u2028", r"\u202egnp.exe\u2028"),
        ("\udc80", r"\udc80"),
        ("\U000e0041", r"\U000e0041"),
        ("", ""),
    ],
)
def test_characters_that_a_terminal_acts_on_are_written_out(text, expected):
    assert printable(text) == expected
    assert expected.isprintable()


@pytest.mark.parametrize(
    ("text", "plain"),
    [
        ("my-faces_v2.1 (small)", "my-faces_v2.1 (small)"),
        ("日本 é #3, 50%", "日本 é #3, 50%"),
        ("a=b+c-d@e", "a=b+c-d@e"),
        ("=1+1", "_1+1"),
        ("+-@=x", "____x"),
        (" \t=x", "_=x"),
        ("\x1b[2Jx\r\ny", "__2Jx__y"),
        ("<b>&amp;\"'|`*[]\\", "_b__amp;________"),
        ("\u202egnp", "_gnp"),
        ("", "unnamed"),
        ("  ", "unnamed"),
    ],
)
def test_a_plain_name_means_itself_everywhere(text, plain):
    assert plain_name(text) == plain
    assert plain_name(plain) == plain
    assert plain_label(text) == plain


def test_classes_that_are_numbers_stay_apart():
    names = ("-1", "+1", "1", "-0.5")
    assert tuple(map(plain_label, names)) == names
    assert plain_label("-1-1") == "_1-1"
