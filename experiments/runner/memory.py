"""Groups that fit into memory: what does not is cut into slices, before it is tried."""

import os
from collections.abc import Sequence
from typing import NamedTuple

import jax

from experiments.data.images import ImageData
from experiments.messages.errors import SettingsError
from experiments.runner import processes
from experiments.runner.task import DeviceData, GroupTask, Programs
from experiments.settings.grid import Group

_GIB = 2**30

# Of a device's memory. The rest is for a state on its way to a checkpoint, and for the
# next group's start.
_SHARE = 0.8


class Fitting(NamedTuple):
    """Compiled programs that fit, and the slices of their group that remain."""

    task: GroupTask
    programs: Programs
    rest: Sequence[Group]


def available(memory_gib: float) -> float:
    """Bytes that a program may take on each device, the same in every process.

    Args:
        memory_gib: the limit in GiB; 0 for a share of what a device has, or of the
            host's memory where devices have none of their own.
    """
    if memory_gib:
        return memory_gib * _GIB
    statistics = jax.local_devices()[0].memory_stats() or {}
    host = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    total = statistics.get("bytes_limit", host / jax.local_device_count())
    return processes.from_primary(_SHARE * total)


def compile_fitting(
    group: Group, data: ImageData, device_data: DeviceData, limit: float
) -> Fitting:
    """Compiles a group, or the first of as few slices of it as memory asks for.

    What a program takes is known once it is compiled: the state and the data, which
    stay on the device, its results and intermediate values. All but the shared images
    grows with the number of members.

    Args:
        group: the group.
        data: the images.
        device_data: the same, on the device.
        limit: bytes that a program may take on each device.

    Raises:
        SettingsError: a single member does not fit.
    """
    task = GroupTask(group, data, device_data)
    programs = task.compile()
    needed, shared = task.bytes_needed(programs)
    if needed <= limit:
        return Fitting(task, programs, ())
    layout = task.placement.layout
    per_member = (needed - shared) / layout.per_column
    fitting = int((limit - shared) // per_member) * layout.num_columns
    if fitting < 1:
        raise SettingsError(
            f"{group.runs[0].name} needs {(shared + per_member) / _GIB:.3g} GiB on a "
            f"device, of which {limit / _GIB:.3g} may be used: set a smaller "
            "training.batch_size, evaluation.batch_size or evaluation.chunk, or raise "
            "parallel.memory_gib."
        )
    first, *rest = cut(group, fitting)
    found = compile_fitting(first, data, device_data, limit)
    return found._replace(rest=[*found.rest, *rest])


def cut(group: Group, most: int) -> list[Group]:
    """As few slices of a group as possible, of nearly equal size, at most ``most``."""
    size = -(-len(group.runs) // -(-len(group.runs) // most))
    starts = range(0, len(group.runs), size)
    return [Group(group.runs[i : i + size], group.attempt) for i in starts]
