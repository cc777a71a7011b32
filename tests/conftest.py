"""Settings and fixtures that every test runs under."""

import jax
import numpy as np
import pytest

jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_debug_key_reuse", True)


@pytest.fixture
def key():
    """A fresh typed key."""
    return jax.random.key(20260101)


@pytest.fixture(scope="session")
def images():
    """Ninety-six 4x4 integer images of 17 levels, with structure to learn."""
    rng = np.random.default_rng(0)
    height = rng.uniform(0, 1, (96, 1))
    ramp = np.linspace(0, 1, 16)[None]
    clean = 16 * (height * ramp + (1 - height) * (1 - ramp))
    return np.clip(clean + rng.normal(0, 1, clean.shape), 0, 16).astype(np.uint8)
