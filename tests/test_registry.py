"""Tests of vae_jax.registry: one policy for the options of every kind of part."""

import dataclasses
import functools

import pytest

from vae_jax.registry import Registry, name_of


@dataclasses.dataclass(frozen=True)
class Part:
    levels: int
    strength: float = 1.0
    widths: tuple[int, ...] = ()
    name: str = ""


def registry(**parts):
    found = Registry("gadget", num_bound=1)
    for name, part in parts.items():
        found[name] = part
    return found


def test_what_the_library_knows_is_no_option():
    gadgets = registry(part=Part, fixed=functools.partial(Part, strength=2.0))
    assert list(gadgets.options("part")) == ["strength", "widths", "name"]
    assert gadgets.takers("strength") == ["part"]
    assert gadgets.make("fixed", 17) == Part(17, 2.0)


def test_an_option_may_be_called_as_the_arguments_of_make_are():
    assert registry(part=Part).make("part", 17, name="own").name == "own"


def test_a_list_is_taken_as_a_tuple():
    """A part is hashable."""
    assert hash(registry(part=Part).make("part", 17, widths=[8, 4])) == hash(
        Part(17, widths=(8, 4))
    )


def test_a_message_gives_the_name_of_a_part_that_says_most():
    gadgets = registry(part=Part, fixed=functools.partial(Part, strength=2.0))
    assert name_of(gadgets.make("part", 17), gadgets) == "'part'"
    assert name_of(gadgets.make("fixed", 17), gadgets) == "'fixed'"
    assert name_of(Part(17), registry(), registry(other=Part)) == "'other'"
    assert name_of(Part(17), registry()) == "Part"


def test_an_option_that_is_needed_is_asked_for():
    def needs(levels, depth, **others):
        return Part(levels, depth)

    gadgets = registry(needs=needs)
    with pytest.raises(ValueError, match=r"depth is missing: gadget 'needs' has no"):
        gadgets.make("needs", 17)
    assert gadgets.make("needs", 17, depth=2).strength == 2
    with pytest.raises(ValueError, match="others is 1: gadget 'needs' has no such"):
        gadgets.make("needs", 17, depth=2, others=1)


@pytest.mark.parametrize("part", [Part(17), "part", None, dict])
def test_what_makes_no_part_is_refused_when_it_is_registered(part):
    """Otherwise the options of every other part would meet the error."""
    with pytest.raises(ValueError, match="Register a class") as caught:
        registry(own=part)
    assert "\n" not in str(caught.value)


def test_options_without_a_name_are_refused_when_they_are_registered():
    def by_position(levels, depth=1, /):
        return Part(levels, depth)

    with pytest.raises(ValueError, match="takes depth by position alone"):
        registry(own=by_position)
    # The library passes its arguments by position.
    assert registry(own=lambda levels, /: Part(levels)).make("own", 2) == Part(2)
