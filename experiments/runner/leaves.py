"""Trees of arrays as files hold them: leaves, named by their paths."""

from collections.abc import Mapping
from typing import Any

import jax


def named_leaves(tree: Any) -> dict[str, Any]:
    """Returns a tree's leaves, named by their paths."""
    leaves, _ = jax.tree_util.tree_flatten_with_path(tree)
    return {_name(path): leaf for path, leaf in leaves}


def from_named_leaves(leaves: Mapping[str, Any], like: Any) -> Any:
    """Returns the tree with the structure of ``like``: inverts ``named_leaves``."""
    return jax.tree_util.tree_map_with_path(lambda path, _: leaves[_name(path)], like)


def _name(path: Any) -> str:
    return jax.tree_util.keystr(path, simple=True, separator="/")
