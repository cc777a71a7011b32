"""Functions of one member as compiled programs of many, on one device or several."""

from collections.abc import Callable
from typing import Any

import jax
from jax.sharding import Mesh, PartitionSpec

from vae_jax.checks import require_known
from vae_jax.mesh import MEMBERS

EXECUTIONS = ("map", "loop")


def over_members(
    function: Callable[..., Any],
    *,
    num_shared: int,
    execution: str,
    mesh: Mesh | None = None,
) -> Callable[..., Any]:
    """Lifts a function of one member to stacked members.

    Args:
        function: takes arguments of one member, then ``num_shared`` arguments that
            all members share (the data).
        num_shared: number of shared arguments, the last ones.
        execution: 'map' runs members together (vmap), 'loop' one after another
            through the same compiled body.
        mesh: members are split over its axis 'members', an equal number on each; see
            ``vae_jax.mesh``. If None, all members run where the arguments are.

    Returns:
        A function whose member arguments and results have a leading axis [members].

    Raises:
        ValueError: unknown execution.
    """
    require_known("execution", execution, EXECUTIONS)

    def lifted(*arguments: Any) -> Any:
        split = len(arguments) - num_shared
        own, shared = arguments[:split], arguments[split:]

        def one(own: Any) -> Any:
            return function(*own, *shared)

        return jax.vmap(one)(own) if execution == "map" else jax.lax.map(one, own)

    if mesh is None:
        return lifted

    def sharded(*arguments: Any) -> Any:
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


def optimized(level: int, platform: str) -> dict[str, str | bool]:
    """Returns compiler options for a program that runs once or seldom, for a platform.

    On a CPU, optimising such a program may take longer than running it without. Other
    platforms do not have this option.

    Args:
        level: 0 for a program that mostly draws; the draws keep every bit. 1 for one
            that runs for seconds: it compiles in two thirds of the time of the
            default, 3, and takes up to 3 % longer to run. Its results are rounded
            differently.
        platform: that of the devices.
    """
    return {"xla_backend_optimization_level": str(level)} if platform == "cpu" else {}


def beyond_arguments(program: jax.stages.Compiled) -> int:
    """Returns the bytes that a program takes on a device beside its arguments.

    These are its results, unless they replace arguments, and its temporary arrays.
    """
    found = program.memory_analysis()
    if found is None:
        return 0  # The backend does not report it.
    return int(
        found.output_size_in_bytes
        - found.alias_size_in_bytes
        + found.temp_size_in_bytes
    )
