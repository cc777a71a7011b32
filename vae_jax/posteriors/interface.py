"""What every family of posteriors offers to the rest of the library."""

import inspect
from collections.abc import Mapping
from typing import Any, Protocol

import jax

from vae_jax.distributions import Posterior
from vae_jax.networks import Heads, Params


def make_family(family: Any, size: Any, options: Mapping[str, Any]) -> Any:
    """A family from its size and those of the options that it takes."""
    names = set(inspect.signature(family).parameters)
    return family(size, **{name: options[name] for name in names & options.keys()})


class PosteriorFamily(Protocol):
    """A family of posteriors: hashable, so that it can be static under ``jit``."""

    @property
    def has_closed_form_kl(self) -> bool:
        """Whether its values have ``kl_to_standard_normal`` and ``relative_to``."""

    @property
    def heads(self) -> Heads:
        """What it asks of the encoder: names and sizes of linear outputs."""

    def init(self, key: jax.Array) -> Params:
        """Fresh parameters beyond the encoder's; an empty dictionary where none."""

    def at(self, params: Params, outputs: dict[str, jax.Array]) -> Posterior:
        """The posterior of a batch.

        Args:
            params: the parameters of the whole model.
            outputs: the encoder's, ``[batch, size]`` by name.
        """
