"""A cache of decoded images, which makes a second start take a fraction of a second.

An entry is one file (``experiments.files.tensors``). Its name is a digest of everything
that its content depends on: names, versions, and contents or last changes of the
original files; so changed files get another entry. Entries can be deleted at any time,
and nothing else in the folder is touched.
"""

import json
import os
import pathlib
from collections.abc import Callable
from typing import Any

import numpy as np
from absl import logging

from experiments.data.sources import Source, Split
from experiments.files import locks
from experiments.files.digests import json_digest
from experiments.files.paths import expand_user
from experiments.files.tensors import load_arrays, save_arrays
from experiments.files.writing import UNFINISHED
from experiments.messages.errors import DataError, FolderError

# Part of every name: raised whenever the content or layout of entries changes, or files
# are read in another way. 4: classes are in their natural order, photographs are turned
# upright, and entries hold the names of classes.
FORMAT = 4
_LOCK = ".lock"


def cached(
    read: Callable[[], Source],
    identity: list[Any],
    cache_dir: str = "",
    *,
    memory_mapped: bool = False,
) -> Source:
    """Returns ``read()``, or its result of an earlier call with the same identity.

    Args:
        read: reads all images.
        identity: JSON values; equal identities promise equal images.
        cache_dir: folder of the cache; '' stands for $VAE_JAX_CACHE, else
            ~/.cache/vae_jax. If it cannot be written, the images are read each time.
        memory_mapped: whether images stay in the file of the cache, from which the
            operating system reads them as needed.
    """
    folder = expand_user(cache_dir) if cache_dir else default_folder()
    text = json.dumps([FORMAT, identity])
    key = json_digest([FORMAT, identity])[:32]
    entry = folder / f"{identity[0]}-{key}.safetensors"
    if os.path.lexists(entry):
        try:
            return _load(entry, text, memory_mapped)
        except Exception as error:  # Damage raises errors of any class.
            logging.warning("rebuilding the damaged cache entry %s: %s", entry, error)
    source = read()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = locks.take(folder / _LOCK, wait=True)
        assert lock is not None  # It was waited for.
        with open(lock):  # One process writes at a time; closing releases the lock.
            _save(source, entry, text)
    except (OSError, FolderError) as error:  # It cannot be written, or has no locks.
        logging.warning("images are not cached, as %s: %s", folder, error)
        return source
    return _load(entry, text, memory_mapped) if memory_mapped else source


def default_folder() -> pathlib.Path:
    """Returns $VAE_JAX_CACHE, else ~/.cache/vae_jax: the folder of all caches.

    Raises:
        DataError: this machine knows no home folder.
    """
    if given := os.environ.get("VAE_JAX_CACHE"):
        return expand_user(given)
    try:
        return expand_user("~/.cache/vae_jax")
    except DataError as error:  # In a container, a user may be a number without a home.
        raise DataError(
            "no home folder is known here, in which images and programs are kept for a"
            " second start. Set VAE_JAX_CACHE to a folder, as in"
            " VAE_JAX_CACHE=/tmp/vae_jax."
        ) from error


def _load(entry: pathlib.Path, identity: str, memory_mapped: bool) -> Source:
    """Returns the source in an entry, which must have this identity and be undamaged.

    Raises:
        Exception: of any class.
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
    """Writes an entry, unless another process has just written it.

    The caller holds the lock of the cache, so a killed process left unfinished files.
    """
    for left in entry.parent.glob(f".{entry.name}.*{UNFINISHED}"):
        if left.is_symlink() or not left.is_file():
            # Writing to a link would change a file elsewhere.
            raise OSError(f"{left} is in the way")
        left.unlink()
    try:
        _load(entry, identity, memory_mapped=True)
    except Exception:  # There is no undamaged entry.
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
