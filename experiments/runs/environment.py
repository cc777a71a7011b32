"""What the bits of a run depend on besides its configuration, and its command line."""

import importlib.metadata
import os
import platform
import shlex
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax

from experiments.data import cache
from experiments.guard import lies_here

_PACKAGES = ("jax", "jaxlib", "flax", "optax", "numpy")


def shell_command(module: str, *arguments: str) -> str:
    """The line for a shell that runs a module of this package."""
    return shlex.join(["python", *["-P"] * (not lies_here()), "-m", module, *arguments])


def _own_command() -> str:
    """The line for a shell that runs what this process runs."""
    spec = sys.modules["__main__"].__spec__
    if spec is None:  # A file, not a module.
        return shlex.join(["python", *sys.argv])
    return shell_command(spec.name, *sys.argv[1:])


def _commit() -> str:
    """Of this code; 'unknown' where it is no checkout or git is not installed."""
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
    """The command, and what the bits of a run depend on besides its configuration.

    Args:
        data_fingerprint: of the images.
        settings: those that decide how numbers are rounded, and nothing else.
        computes: whether they depend on this process.
    """
    if not computes:
        return {
            "command": _own_command(),
            "images_format": cache.FORMAT,
            "bits_depend_on": {"data": data_fingerprint},
        }
    devices = jax.devices()
    return {
        "command": _own_command(),
        "images_format": cache.FORMAT,
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
