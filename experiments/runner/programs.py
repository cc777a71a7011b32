"""Compiled programs are kept on disk, so that a second start need not compile them."""

import contextlib
import os
import re
import warnings
import zlib
from pathlib import Path
from typing import Any

import jax

from experiments.data import cache
from experiments.messages.console import warn

_show_warning = warnings.showwarning


def keep() -> None:
    """Keeps compiled programs in the folder of all caches.

    JAX_COMPILATION_CACHE_DIR names another folder. JAX_ENABLE_COMPILATION_CACHE=false
    keeps nothing, and neither does a folder that cannot be written. The key of an entry
    is everything that compilation depends on. Entries are compressed by zlib and carry
    a checksum: damaged ones are removed, compiled again and kept again.
    """
    warnings.showwarning = _show  # type: ignore[assignment]
    if jax.config.values["jax_compilation_cache_dir"]:
        return
    folder = cache.default_folder() / "programs"
    places = (folder, *folder.absolute().parents)
    nearest = next(place for place in places if os.path.lexists(place))
    if not (os.path.isdir(nearest) and os.access(nearest, os.W_OK | os.X_OK)):
        return  # The cache of images warns of it; JAX would for each program.
    jax.config.update("jax_compilation_cache_dir", str(folder))
    # Programs that compile faster are not worth a file.
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.1)


def _show(message: Warning | str, *place: Any) -> None:
    """Shows a warning; where JAX cannot read an entry, removes the damaged ones.

    JAX never replaces an entry, so it would compile that program at every start.
    """
    words = r"Error reading persistent compilation cache entry for '(.+?)'"
    found = re.match(words, str(message))
    if not found:
        _show_warning(message, *place)
        return
    folder = Path(jax.config.values["jax_compilation_cache_dir"])
    for entry in folder.glob(f"{found[1]}-*-cache"):
        if not _is_whole(entry):
            with contextlib.suppress(OSError):  # Then the next start finds it again.
                entry.unlink()
            warn(f"{entry} is damaged: the program is compiled again.")


def _is_whole(entry: Path) -> bool:
    try:
        zlib.decompress(entry.read_bytes())
    except (OSError, zlib.error):
        return False
    return True
