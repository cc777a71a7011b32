"""Many models as one compiled program, on one device or many.

Members whose arrays have the same shapes form a group. Their states are stacked on
axis 0 and one program runs them all, mapped together or one after another. Latent
sizes share a group by zero-padding: each member is initialised at its own size (its
own fan-in) and padded with zeros to the group's largest; padded entries get exactly
zero gradient and an Adam update of exactly zero (``objectives.posterior_and_noise``),
so a padded member follows the trajectory of the model trained alone.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, PartitionSpec

from vae_jax.mesh import MEMBERS
from vae_jax.model import VAE, Params
from vae_jax.training import (
    MemberKeys,
    Recipe,
    TrainState,
    init_state,
)

EXECUTIONS = ("map", "loop")

# Values of an array that are drawn in less time without optimisation than it takes.
_LARGEST_UNOPTIMIZED = 2**22

# More than any prior starts at; shapes alone, which cost nothing.
_ENOUGH_IMAGES = 1_000_000


def pad(tree: Any, like: Any) -> Any:
    """Appends zeros to every axis of every leaf until it has the shapes of ``like``."""

    def pad_leaf(leaf, target):
        sizes = zip(leaf.shape, target.shape, strict=True)
        zero = jnp.zeros((), leaf.dtype)
        return jax.lax.pad(leaf, zero, [(0, wide - own, 0) for own, wide in sizes])

    return jax.tree.map(pad_leaf, tree, like)


def unpad(tree: Any, like: Any) -> Any:
    """Cuts every leaf to the shapes of ``like``: the inverse of ``pad``."""
    return jax.tree.map(
        lambda leaf, target: leaf[tuple(slice(n) for n in target.shape)], tree, like
    )


def param_shapes(model: VAE, num_pixels: int) -> Params:
    """Shapes and dtypes of a model's parameters, without computing any."""
    statistics = jax.ShapeDtypeStruct((num_pixels,), jnp.float32)
    images = jax.ShapeDtypeStruct((_ENOUGH_IMAGES, num_pixels), jnp.uint8)
    return jax.eval_shape(
        model.init,
        jax.eval_shape(lambda: jax.random.key(0)),
        statistics,
        statistics,
        images,
    )


def init_population(
    models: Sequence[VAE],
    recipe: Recipe,
    member_keys: jax.Array,
    pixel_mean: jax.Array,
    pixel_std: jax.Array,
    images: jax.Array | None = None,
) -> TrainState:
    """Stacked states of a group's members, padded to the largest latent size.

    Args:
        models: one description per member; they differ in latent size alone.
        recipe: how they are trained.
        member_keys: typed keys, ``[members]``.
        pixel_mean: as in ``VAE.init``.
        pixel_std: as in ``VAE.init``.
        images: as in ``VAE.init``.

    Returns:
        A TrainState whose every leaf has a leading axis ``[members]``.
    """
    widest = max(models, key=lambda model: model.latent_dim)
    shapes = param_shapes(widest, pixel_mean.size)
    # Members of one size are initialised by one mapped program.
    parts, order = [], []
    for model in dict.fromkeys(models):
        rows = np.array([i for i, other in enumerate(models) if other == model])
        own = jax.vmap(
            lambda key, model=model: pad(
                model.init(MemberKeys.of(key).init, pixel_mean, pixel_std, images),
                shapes,
            )
        )(member_keys[rows])
        parts.append(own)
        order.append(rows)
    place = np.argsort(np.concatenate(order))
    stacked = jax.tree.map(lambda *leaves: jnp.concatenate(leaves)[place], *parts)
    return jax.vmap(lambda params: init_state(recipe, params))(stacked)


def compile_init(
    models: Sequence[VAE],
    recipe: Recipe,
    member_keys: jax.Array,
    pixel_mean: jax.Array,
    pixel_std: jax.Array,
    images: jax.Array | None = None,
) -> jax.stages.Compiled:
    """Compiles ``init_population`` for models, as a function of its arrays.

    Of small arrays without optimisation, since it runs once: optimising its many small
    draws takes longer than all else it does, and changes no bit of them.
    """
    init = functools.partial(init_population, models, recipe)
    arguments = [member_keys, pixel_mean, pixel_std]
    if images is not None:
        arguments.append(images)
    lowered = jax.jit(init).lower(*arguments)
    largest = max(leaf.size for leaf in jax.tree.leaves(lowered.out_info))
    options: dict[str, str | bool] = {}
    if largest <= _LARGEST_UNOPTIMIZED * len(models):
        options["xla_backend_optimization_level"] = "0"
    return lowered.compile(compiler_options=options)


def latent_mask(latent_dim: int, widest: int) -> np.ndarray:
    """1 for the latents in use, 0 for padding, ``[widest]``."""
    return (np.arange(widest) < latent_dim).astype(np.float32)


def even_split(num_members: int, num_devices: int) -> tuple[int, int]:
    """How members are split: (devices used, members on each, padding included).

    As few members as possible on the fullest device, then as few devices as possible.
    """
    per_device = -(-num_members // num_devices)
    return -(-num_members // per_device), per_device


def over_members(
    function: Callable[..., Any],
    *,
    num_shared: int,
    execution: str,
    mesh: Mesh | None = None,
) -> Callable[..., Any]:
    """Lifts a function of one member to one of stacked members.

    Args:
        function: takes arguments of one member, then ``num_shared`` arguments that
            all members share (the data).
        num_shared: number of shared arguments, the last ones.
        execution: 'map' runs members together (vmap), 'loop' one after another
            through the same compiled body.
        mesh: members are split over its axis 'members', an equal number on each; see
            ``vae_jax.mesh``. Without, all run where the arguments are.

    Returns:
        A function whose member arguments and results have a leading axis [members].

    Raises:
        ValueError: unknown execution.
    """
    if execution not in EXECUTIONS:
        raise ValueError(
            f"unknown execution {execution!r}: choose one of {', '.join(EXECUTIONS)}."
        )

    def lifted(*arguments):
        split = len(arguments) - num_shared
        own, shared = arguments[:split], arguments[split:]

        def one(own):
            return function(*own, *shared)

        return jax.vmap(one)(own) if execution == "map" else jax.lax.map(one, own)

    if mesh is None:
        return lifted

    def sharded(*arguments):
        specs = [PartitionSpec(MEMBERS)] * (len(arguments) - num_shared)
        specs += [PartitionSpec()] * num_shared
        return jax.shard_map(
            lifted,
            mesh=mesh,
            in_specs=tuple(specs),
            out_specs=PartitionSpec(MEMBERS),
            # The other axis is left to the compiler.
            axis_names={MEMBERS},
            check_vma=False,
        )(*arguments)

    return sharded
