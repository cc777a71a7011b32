"""Memory: a group that does not fit is cut into slices before it is trained."""

import contextlib
import os
import threading
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import jax

from experiments.messages.errors import SettingsError
from experiments.runner import planning, processes
from experiments.runner.images import Images
from experiments.runner.task import CompiledGroup, GroupTask
from experiments.settings.grid import Group

_GIB = 2**30

# Share of a device's memory that a program may take. The rest is for a state that is
# copied to a checkpoint, and for the start of the next group.
_SHARE = 0.8


class Fitting(NamedTuple):
    """A compiled group that fits, its bytes, and the other slices of the whole."""

    compiled: CompiledGroup
    needed: int
    rest: Sequence[Group]


class Room:
    """The memory of a device that groups share while they train at the same time.

    Args:
        limit: bytes that programs may take on each device.
    """

    def __init__(self, limit: float):
        self._limit, self._taken = limit, 0
        self._changed = threading.Condition()

    @contextlib.contextmanager
    def taken(self, needed: int) -> Iterator[None]:
        """Waits until so many bytes are free, or all are, and takes them."""
        with self._changed:
            self._changed.wait_for(
                lambda: not self._taken or self._taken + needed <= self._limit
            )
            self._taken += needed
        try:
            yield
        finally:
            with self._changed:
                self._taken -= needed
                self._changed.notify_all()


def available(memory_gib: float) -> float:
    """Returns the bytes that a program may take on each device.

    The same in every process.

    Args:
        memory_gib: the limit in GiB; 0 for a share of the device's memory, or of the
            host's memory if devices have none of their own.
    """
    if memory_gib:
        return memory_gib * _GIB
    statistics = jax.local_devices()[0].memory_stats() or {}
    host = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    total = statistics.get("bytes_limit", host / jax.local_device_count())
    return processes.from_primary(_SHARE * total)


def compile_fitting(group: Group, images: Images, limit: float) -> Fitting:
    """Compiles a group, or the first of as few slices of it as fit into memory.

    The memory of a program is known once it is compiled: the state and the data, which
    stay on the device, its results and intermediate values. All of it but the shared
    images grows with the number of members.

    Args:
        group: the group.
        images: the data set.
        limit: bytes that a program may take on each device.

    Raises:
        SettingsError: a single member does not fit.
    """
    compiled = GroupTask(group, images).compile()
    needed, shared = compiled.bytes_needed()
    if needed <= limit:
        return Fitting(compiled, needed, ())
    layout = compiled.task.placement.layout
    per_member = (needed - shared) / layout.per_column
    fitting = int((limit - shared) // per_member) * layout.num_columns
    if fitting < 1:
        raise SettingsError(
            f"{group.runs[0].name} needs {(shared + per_member) / _GIB:.3g} GiB on a "
            f"device, where {limit / _GIB:.3g} may be used. Lower training.batch_size, "
            "evaluation.batch_size or evaluation.chunk, or raise parallel.memory_gib."
        )
    first, *rest = planning.cut(group, fitting)
    found = compile_fitting(first, images, limit)
    return found._replace(rest=[*found.rest, *rest])
