"""Compiled programs are kept on disk, so that a second start need not compile them."""

import os

import jax

from experiments.data import cache


def keep() -> None:
    """Keeps compiled programs in the folder of all caches.

    JAX_COMPILATION_CACHE_DIR names another folder. JAX_ENABLE_COMPILATION_CACHE=false
    keeps nothing, and neither does a folder that cannot be written. The key of an entry
    is everything that compilation depends on. Entries are compressed by zlib and carry
    a checksum: damaged ones are compiled again.
    """
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
