"""Tests of dataclasses as trees of arrays."""

import dataclasses

import jax
import jax.numpy as jnp
import pytest

from vae_jax.samplers import SAMPLERS
from vae_jax.trees import tree_dataclass


@tree_dataclass
@dataclasses.dataclass(frozen=True)
class First:
    x: jax.Array
    kind: str = dataclasses.field(default="a", metadata={"static": True})


@tree_dataclass
@dataclasses.dataclass(frozen=True)
class Second:
    x: jax.Array
    kind: str = dataclasses.field(default="a", metadata={"static": True})


def test_structures_tell_classes_apart():
    first, second, other = (
        jax.tree.structure(each) for each in (First(1.0), Second(1.0), First(1.0, "b"))
    )
    assert first != second
    assert first != other
    assert first == jax.tree.structure(First(2.0))


@pytest.mark.parametrize("name", SAMPLERS)
def test_no_sampler_has_the_structure_of_another(name):
    """A compiled function would else draw by the other one."""
    own = jax.tree.structure(SAMPLERS.make(name))
    others = [jax.tree.structure(SAMPLERS.make(each)) for each in SAMPLERS]
    assert sum(own == other for other in others) == 1


def test_leaves_and_paths_are_those_of_the_fields():
    value = First(jnp.ones(2), "b")
    ((path, _),) = jax.tree.leaves_with_path(value)
    assert jax.tree_util.keystr(path) == ".x"
    doubled = jax.tree.map(lambda each: 2 * each, value)
    assert (doubled.kind, doubled.x[0]) == ("b", 2.0)
    assert jax.jit(lambda value: value)(value).kind == "b"
