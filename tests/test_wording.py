"""Tests of experiments.wording."""

import pytest

from experiments.wording import counted, listed, suggest


@pytest.mark.parametrize(
    ("number", "words"), [(0, "0 runs"), (1, "1 run"), (2, "2 runs")]
)
def test_a_noun_is_in_the_plural_but_for_one(number, words):
    assert counted(number, "run") == words


def test_of_many_parts_the_first_are_listed():
    assert listed(["a"], "; ") == "a"
    assert listed(list("abcde"), ", ") == "a, b, c, d, e"
    assert listed(list("abcdefg"), " ") == "a b c d e and 2 more"


def test_the_nearest_name_is_suggested():
    names = {"beta": 1, "laplace": 2}
    assert suggest("lapace", names) == (
        ", did you mean 'laplace'? the names there are: beta, laplace"
    )
    assert suggest(3, names) == "; the names there are: beta, laplace"
