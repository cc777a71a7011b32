"""Tests of vae_jax.checks."""

import dataclasses
import math
from typing import Annotated

import numpy as np
import pytest

from vae_jax.checks import Range, nearest, require_declared, require_fields


@pytest.mark.parametrize(
    ("values", "inside", "outside", "text"),
    [
        (Range(at_least=0), [0, 5, 1e30], [-1, math.inf, math.nan], "at least 0"),
        (Range(above=0, at_most=3), [1e-9, 3], [0, 3.1], "above 0 and at most 3"),
        (Range(at_least=0, below=1), [0, 0.9], [1, -0.1], "at least 0 and below 1"),
        (Range(at_least=1, other=-1), [1, -1], [0, -2], "at least 1, or -1"),
        (Range(), [-1e9], [-math.inf, math.nan], "finite"),
    ],
    ids=str,
)
def test_a_range_holds_finite_numbers_and_says_which(values, inside, outside, text):
    assert all(number in values for number in inside)
    assert not any(number in values for number in outside)
    assert str(values) == text


@pytest.mark.parametrize("value", [0, 2.0, "2", True, None, math.inf])
def test_a_whole_number_is_one_of_its_range(value):
    hint = Annotated[int, Range(at_least=1)]
    require_declared("count", np.int64(2), hint)
    with pytest.raises(ValueError, match=r"^count is .*: it must be .*\.$"):
        require_declared("count", value, hint)


def test_a_class_refuses_the_first_value_that_a_field_does_not_declare():
    @dataclasses.dataclass
    class Owner:
        rate: Annotated[float, Range(above=0)] = 1.0
        form: Annotated[str, ("round", "square")] = "round"
        free: float = -1.0

    require_fields(Owner())
    with pytest.raises(ValueError, match=r"rate is 0\.0: it must be above 0"):
        require_fields(Owner(rate=0.0, form="oval"))
    line = "form is 'squar': it is unknown .did you mean 'square'... Choose one of"
    with pytest.raises(ValueError, match=line):
        require_fields(Owner(form="squar"))


def test_a_long_text_is_no_name():
    assert nearest("x" * 10_000_000, ["a"]) == ""
