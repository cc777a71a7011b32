"""Dataclasses as trees of arrays."""

import dataclasses
from typing import Any, TypeVar

import jax

_Class = TypeVar("_Class", bound=type)


def tree_dataclass(cls: _Class) -> _Class:
    """Decorates a frozen dataclass, which is then a tree of arrays.

    Fields with the metadata ``static=True`` are a part of the structure, and all others
    are leaves or trees.

    ``jax.tree_util.register_dataclass`` is not used: in JAX 0.10 the structures of two
    such classes are equal if their fields are. A compiled function that gets both, such
    as one of a sampler, may then run the program of the other class.

    Args:
        cls: the dataclass; its fields are arguments of its constructor.
    """
    names: dict[bool, list[str]] = {True: [], False: []}
    for field in dataclasses.fields(cls):
        names[bool(field.metadata.get("static"))].append(field.name)
    static, data = names[True], names[False]
    keys = [jax.tree_util.GetAttrKey(name) for name in data]

    def flatten(value: Any) -> tuple[list[Any], tuple[Any, ...]]:
        leaves = [getattr(value, name) for name in data]
        return leaves, tuple(getattr(value, name) for name in static)

    def flatten_with_keys(value: Any) -> tuple[list[Any], tuple[Any, ...]]:
        leaves, structure = flatten(value)
        return list(zip(keys, leaves, strict=True)), structure

    def make(structure: Any, leaves: Any) -> Any:
        fields = dict(zip(static, structure, strict=True))
        return cls(**fields, **dict(zip(data, leaves, strict=True)))

    jax.tree_util.register_pytree_with_keys(cls, flatten_with_keys, make, flatten)
    return cls
