"""A cache of decoded images, so that a second start takes a fraction of a second.

An entry is a folder of plain .npy files beside an `entry.json` with their digests. It
is found by a digest of what its content depends on (names, versions, sizes and times of
the original files), so a change of those leads to another entry. The folder can be
deleted at any time.
"""

import hashlib
import json
import os
import pathlib
import shutil
from collections.abc import Callable
from typing import Any

import filelock
import numpy as np
from absl import logging

from experiments.data_sources import Source, Split, expand_user
from experiments.digests import array_digest

# Part of every key: raise it whenever the content or layout of entries changes.
_FORMAT = 2
_ENTRY = "entry.json"
_INCOMPLETE = "incomplete"
_LOCK = ".lock"


def cached(
    read: Callable[[], Source],
    identity: list[Any],
    cache_dir: str = "",
    *,
    memory_mapped: bool = False,
) -> Source:
    """Returns `read()`, or its result of an earlier call with the same identity.

    Args:
        read: reads the images in full.
        identity: JSON values; equal identities promise equal images.
        cache_dir: folder of the cache; '' stands for $VAE_JAX_CACHE, else
            ~/.cache/vae_jax. If it cannot be written, the images are read each time.
        memory_mapped: whether images stay in the files of the cache, from which the
            operating system reads what is asked for.
    """
    folder = expand_user(cache_dir) if cache_dir else default_folder()
    key = hashlib.sha256(json.dumps([_FORMAT, identity]).encode()).hexdigest()
    entry = folder / f"{identity[0]}-{key[:32]}"
    if entry.exists():
        try:
            return _load(entry, memory_mapped)
        except Exception as error:  # Damage comes as any exception.
            logging.warning("rebuilding the damaged cache entry %s: %s", entry, error)
    source = read()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        # One process writes at a time; one that was killed holds no lock.
        with filelock.FileLock(folder / _LOCK, mode=0o666):
            _save(source, identity, entry)
    except (OSError, NotImplementedError) as error:  # Some places have no locks.
        logging.warning("images are not cached, as %s: %s", folder, error)
        return source
    return _load(entry, memory_mapped) if memory_mapped else source


def default_folder() -> pathlib.Path:
    """$VAE_JAX_CACHE, else ~/.cache/vae_jax: what is found again at a second start."""
    return expand_user(os.environ.get("VAE_JAX_CACHE") or "~/.cache/vae_jax")


def _load(entry: pathlib.Path, memory_mapped: bool) -> Source:
    """Returns the source stored in an entry, having compared every digest."""
    description = json.loads((entry / _ENTRY).read_text())
    if description.pop("sha256") != _description_digest(description):
        raise ValueError(f"{_ENTRY} has another digest")
    arrays = {}
    for name, digest in description["digests"].items():
        arrays[name] = np.load(
            entry / f"{name}.npy",
            mmap_mode="r" if memory_mapped else None,
            allow_pickle=False,
        )
        if array_digest(arrays[name]) != digest:
            raise ValueError(f"{name}.npy has another digest")
    splits = {
        split: Split(arrays[f"{split}_images"], arrays.get(f"{split}_labels"))
        for split in description["splits"]
    }
    return Source(description["levels"], splits)


def _description_digest(description: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(description, sort_keys=True).encode()).hexdigest()


def _is_good(entry: pathlib.Path) -> bool:
    try:
        _load(entry, memory_mapped=True)
    except Exception:  # Damage comes as any exception.
        return False
    return True


def _save(source: Source, identity: list[Any], entry: pathlib.Path) -> None:
    """Writes an entry under a temporary name and renames it when it is complete.

    The lock of the cache is held: whatever is incomplete was left by a killed process.
    """
    for left in entry.parent.glob(f"{_INCOMPLETE}*"):
        shutil.rmtree(left, ignore_errors=True)
    if _is_good(entry):  # Another process has written it meanwhile.
        return
    arrays = {}
    for split, (images, labels) in source.splits.items():
        arrays[f"{split}_images"] = images
        if labels is not None:
            arrays[f"{split}_labels"] = labels
    description = {
        "identity": identity,
        "levels": source.levels,
        "splits": list(source.splits),
        "digests": {name: array_digest(array) for name, array in arrays.items()},
    }
    description["sha256"] = _description_digest(description)
    temporary = entry.parent / _INCOMPLETE
    temporary.mkdir()
    try:
        for name, array in arrays.items():
            np.save(temporary / f"{name}.npy", array, allow_pickle=False)
        (temporary / _ENTRY).write_text(json.dumps(description, indent=1))
        shutil.rmtree(entry, ignore_errors=True)
        temporary.rename(entry)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
