"""``environment.json``: what numbers depend on besides the configuration.

It holds the format of the folder, the command that began it and, in
``bits_depend_on``, versions, devices and the commit. Environments in which the folder
was continued and that differ from it are listed in ``continued``.
"""

import importlib.metadata
import os
import platform
import shlex
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax

from experiments.data import cache
from experiments.files.reading import cannot_read, read_facts
from experiments.files.sealed import to_json
from experiments.files.writing import write_atomically
from experiments.guard import lies_here
from experiments.messages.errors import FolderError
from experiments.settings.fingerprint import differing

# The format of run folders. It is raised if older folders can no longer be read.
FORMAT = 2
# The format of images in folders that do not name one; see ``cache.FORMAT``.
_FIRST_IMAGES_FORMAT = 3

_PACKAGES = ("jax", "jaxlib", "flax", "optax", "numpy")


# --- the environment of this process --------------------------------------------------


def shell_command(module: str, *arguments: str) -> str:
    """Returns the line for a shell that runs a module of this package."""
    return shlex.join(["python", *["-P"] * (not lies_here()), "-m", module, *arguments])


def _own_command() -> str:
    """Returns the line for a shell that runs what this process runs."""
    spec = sys.modules["__main__"].__spec__
    if spec is None:  # A file, not a module.
        return shlex.join(["python", *sys.argv])
    return shell_command(spec.name, *sys.argv[1:])


def _commit() -> str:
    """Returns the commit of this code, or 'unknown' without a checkout or git."""
    command = ["git", "describe", "--always", "--dirty", "--abbrev=12"]
    try:
        found = subprocess.run(
            command,
            cwd=Path(__file__).parent,
            capture_output=True,
            text=True,
            check=False,
        )
    except OSError:
        return "unknown"
    return found.stdout.strip() or "unknown"


def environment(
    data_fingerprint: str, settings: Mapping[str, Any], computes: bool = True
) -> dict[str, Any]:
    """Returns the command, and what its bits depend on besides the configuration.

    Args:
        data_fingerprint: fingerprint of the images.
        settings: the settings that decide how numbers are rounded, and nothing else.
        computes: whether this process computes results. If not, the bits depend on
            the images alone.
    """
    facts = {"command": _own_command(), "images_format": cache.FORMAT}
    if not computes:
        return {**facts, "bits_depend_on": {"data": data_fingerprint}}
    devices = jax.devices()
    return {
        **facts,
        "platform": platform.platform(),
        "devices": [str(device) for device in devices],
        "bits_depend_on": {
            "data": data_fingerprint,
            "commit": _commit(),
            "python": platform.python_version(),
            **{name: importlib.metadata.version(name) for name in _PACKAGES},
            "backend": jax.default_backend(),
            "device_kind": devices[0].device_kind,
            "num_devices": len(devices),
            "num_processes": jax.process_count(),
            "machine": platform.machine(),
            "num_cpus": os.cpu_count(),
            "matmul_precision": str(jax.default_matmul_precision.value),
            "xla_flags": os.environ.get("XLA_FLAGS", ""),
            "settings": dict(settings),
        },
    }


# --- the environment of a folder ------------------------------------------------------


def read(folder: Path) -> dict[str, Any]:
    """Returns the environment of a folder.

    Raises:
        FolderError: it is missing or damaged.
    """
    path = folder / "environment.json"
    found = read_facts(path)
    kinds = {"command": str, "bits_depend_on": dict, "continued": list}
    for name, kind in kinds.items():
        if not isinstance({"continued": [], **found}.get(name), kind):
            raise cannot_read(path, f"its {name!r} is no {kind.__name__}")
    return found


def images(folder: Path) -> str:
    """Returns the fingerprint of the images that a folder was begun with."""
    return str(read(folder)["bits_depend_on"].get("data"))


def record(
    folder: Path, now: Mapping[str, Any], report: Callable[[str], object]
) -> None:
    """Records the environment of this process, and warns if it differs.

    Args:
        folder: the run folder; no other process writes its environment at the moment.
        now: the environment of this process.
        report: gets a line if it differs from that in which the folder was begun.

    Raises:
        FolderError: the folder was begun with other images, or cannot be written.
    """
    path = folder / "environment.json"
    if not path.exists():
        write_atomically(path, to_json({"format": FORMAT, **now}))
        return
    present = now["bits_depend_on"]
    refuse_other_images(folder, present["data"])
    if present.keys() == {"data"}:
        return
    before = read(folder)
    earlier = before["bits_depend_on"]
    if earlier.keys() == {"data"}:  # Nothing was computed yet.
        first = {"format": FORMAT, **now, "command": before["command"]}
        write_atomically(path, to_json(first))
    elif changes := differing(earlier, present, "environment"):
        told = "; ".join(line.removeprefix("environment.") for line in changes)
        report(
            f"{folder} was begun elsewhere ({told}): its numbers hold, but its bits "
            "may not be those of an undisturbed run."
        )
        continued = [*before.get("continued", []), now]
        write_atomically(path, to_json({**before, "continued": continued}))


def refuse_another_format(folder: Path) -> None:
    """Refuses a folder that another version wrote in another format.

    A folder without an environment is accepted: a kill left it so, and each of its
    parts is checked when it is read.

    Raises:
        FolderError: its format is another, or its environment is damaged.
    """
    if not (folder / "environment.json").exists():
        return
    found = read(folder)
    if found.get("format", 1) != FORMAT:
        raise FolderError(
            f"{folder} is a run folder of format {found.get('format', 1)!r}: this "
            f"version reads {FORMAT}. Train in another --workdir, or "
            f"{_use_its_version(found)}."
        )


def refuse_other_images(folder: Path, fingerprint: str) -> None:
    """Refuses images that are not those which a folder was begun with.

    Args:
        folder: the run folder.
        fingerprint: fingerprint of the images (``ImageData.fingerprint``).

    Raises:
        FolderError: they are others.
    """
    earlier = images(folder)
    if earlier == fingerprint:
        return
    told = (
        f"{folder} was begun with other images (fingerprint {earlier} there and "
        f"{fingerprint} here)"
    )
    found = read(folder)
    read_as = found.get("images_format", _FIRST_IMAGES_FORMAT)
    if read_as == cache.FORMAT:
        raise FolderError(f"{told}. Restore them, or choose another --workdir.")
    raise FolderError(
        f"{told}, or its version read them in another way (format {read_as!r} of "
        f"images there and {cache.FORMAT} here: since 4, classes of a folder are in "
        "natural order, and photographs upright). Choose another --workdir, or "
        f"{_use_its_version(found)}."
    )


def _use_its_version(found: Mapping[str, Any]) -> str:
    commit = found["bits_depend_on"].get("commit", "unknown")
    return f"use the version that wrote it (commit {commit})"
