"""A cache of decoded images, so that a second start takes a fraction of a second.

An entry is one sealed file (`experiments.files.sealed`). It is found by a digest of
the names, versions, and contents or last changes of the original files that its content
depends on, so a change of those leads to another entry. Any entry can be
deleted at any time; nothing else that lies in the folder is touched.
"""

import hashlib
import json
import os
import pathlib
from collections.abc import Callable
from typing import Any

import filelock
import numpy as np
from absl import logging

from experiments.data.sources import Source, Split
from experiments.files.paths import expand_user
from experiments.files.tensors import load_arrays, save_arrays
from experiments.files.writing import UNFINISHED
from experiments.messages.errors import DataError, FolderError

# Part of every key: raised whenever the content or layout of entries changes, also
# where files are read otherwise than before. 4: classes are in their natural order,
# photographs are turned upright, and entries hold the names of classes.
FORMAT = 4
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
    text = json.dumps([FORMAT, identity])
    key = hashlib.sha256(text.encode()).hexdigest()
    entry = folder / f"{identity[0]}-{key[:32]}.safetensors"
    if os.path.lexists(entry):
        try:
            return _load(entry, text, memory_mapped)
        except Exception as error:  # Damage comes as any exception.
            logging.warning("rebuilding the damaged cache entry %s: %s", entry, error)
    source = read()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        # One process writes at a time; one that was killed holds no lock.
        with filelock.FileLock(folder / _LOCK, mode=0o666):
            _save(source, entry, text)
    except (OSError, FolderError, NotImplementedError) as error:
        # Some places cannot be written, and some have no locks.
        logging.warning("images are not cached, as %s: %s", folder, error)
        return source
    return _load(entry, text, memory_mapped) if memory_mapped else source


def default_folder() -> pathlib.Path:
    """$VAE_JAX_CACHE, else ~/.cache/vae_jax: what is found again at a second start.

    Raises:
        DataError: there is no such path here.
    """
    if given := os.environ.get("VAE_JAX_CACHE"):
        return expand_user(given)
    try:
        return expand_user("~/.cache/vae_jax")
    except DataError as error:  # As of a number that is no user's, in a container.
        raise DataError(
            "no home folder is known here, in which images and programs are kept for a"
            " second start: set VAE_JAX_CACHE to a folder, as in"
            " VAE_JAX_CACHE=/tmp/vae_jax"
        ) from error


def _load(entry: pathlib.Path, identity: str, memory_mapped: bool) -> Source:
    """Returns the source stored in an entry, having compared its identity and digest.

    Raises:
        Exception: it is damaged, missing, or another one; of any class.
    """
    arrays, facts = load_arrays(
        entry, {"identity": identity}, memory_mapped=memory_mapped
    )
    splits = {
        split: Split(arrays[f"{split}_images"], arrays.get(f"{split}_labels"))
        for split in json.loads(facts["splits"])
    }
    for images, _ in splits.values():
        if images.dtype != np.uint8 or images.ndim != 4:
            raise ValueError(f"it holds images of {images.dtype} {images.shape}")
    class_names, notes = (json.loads(facts[name]) for name in ("class_names", "notes"))
    return Source(int(facts["levels"]), splits, tuple(class_names), tuple(notes))


def _save(source: Source, entry: pathlib.Path, identity: str) -> None:
    """Writes an entry, unless another process has done so meanwhile.

    The lock of the cache is held: what is unfinished was left by a killed process.
    """
    for left in entry.parent.glob(f".{entry.name}.*{UNFINISHED}"):
        if left.is_symlink() or not left.is_file():
            # Written to, it would change a file elsewhere.
            raise OSError(f"{left} is in the way")
        left.unlink()
    try:
        _load(entry, identity, memory_mapped=True)
    except Exception:  # Damage comes as any exception.
        arrays = {}
        for split, (images, labels) in source.splits.items():
            arrays[f"{split}_images"] = images
            if labels is not None:
                arrays[f"{split}_labels"] = labels
        facts = {
            "identity": identity,
            "levels": str(source.levels),
            "splits": json.dumps(list(source.splits)),
            "class_names": json.dumps(source.class_names),
            "notes": json.dumps(source.notes),
        }
        save_arrays(entry, arrays, facts)
