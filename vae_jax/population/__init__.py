"""Many models trained as one program: a ``Population``.

``padding`` gives latent sizes one shape, ``placement`` says where members lie, and
``programs`` compiles functions of one member for many.
"""

from vae_jax.population.padding import (
    check_padding,
    latent_mask,
    pad,
    param_shapes,
    unpad,
)
from vae_jax.population.placement import Layout, Placement, member, put
from vae_jax.population.population import (
    Population,
    Snapshot,
    TrainEpoch,
    Validate,
    member_keys,
)
from vae_jax.population.programs import EXECUTIONS, over_members

__all__ = [
    "EXECUTIONS",
    "Layout",
    "Placement",
    "Population",
    "Snapshot",
    "TrainEpoch",
    "Validate",
    "check_padding",
    "latent_mask",
    "member",
    "member_keys",
    "over_members",
    "pad",
    "param_shapes",
    "put",
    "unpad",
]
