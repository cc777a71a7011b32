"""Settings and fixtures that every test runs under."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vae_jax.likelihoods import make_likelihood
from vae_jax.model import make_vae

jax.config.update("jax_numpy_rank_promotion", "raise")


def pytest_configure(config):
    """Keeps compiled programs between runs, since compiling takes most of the time.

    They lie in pytest's own cache, which ``pytest --cache-clear`` empties.
    """
    cache = getattr(config, "cache", None)  # None with -p no:cacheprovider.
    if cache:
        jax.config.update("jax_compilation_cache_dir", str(cache.mkdir("programs")))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
        jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)


@pytest.fixture
def keys_are_used_once():
    """Makes JAX raise if a key is used twice; compiling takes a quarter longer."""
    with jax.debug_key_reuse(True):
        yield


@pytest.fixture
def key():
    """Returns a fresh typed key."""
    return jax.random.key(20260101)


@pytest.fixture(scope="session")
def images():
    """Returns 96 integer images, 4x4, of 17 levels, with structure to learn."""
    rng = np.random.default_rng(0)
    height = rng.uniform(0, 1, (96, 1))
    ramp = np.linspace(0, 1, 16)[None]
    clean = 16 * (height * ramp + (1 - height) * (1 - ramp))
    return np.clip(clean + rng.normal(0, 1, clean.shape), 0, 16).astype(np.uint8)


@pytest.fixture(scope="session")
def untrained():
    """Returns a small Bernoulli model, its first parameters, and binary images."""
    model = make_vae(
        make_likelihood("bernoulli", 2),
        image_shape=(4, 4, 1),
        latent_dim=3,
        widths=(9,),
    )
    params = model.init(jax.random.key(3), jnp.full(16, 0.4), jnp.full(16, 0.3))
    x = jax.random.bernoulli(jax.random.key(4), 0.4, (10, 16)).astype(jnp.float32)
    return model, params, x
