import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vae_jax import views
from vae_jax.diagnostics import active_units
from vae_jax.likelihoods import make_likelihood
from vae_jax.measure import evaluate
from vae_jax.model import make_vae

pytestmark = pytest.mark.usefixtures("keys_are_used_once")


@pytest.fixture
def model_and_params():
    model = make_vae(
        make_likelihood("discretized_logistic", 17),
        image_shape=(4, 4, 1),
        latent_dim=3,
        widths=(8,),
    )
    params = model.init(jax.random.key(1), jnp.full(16, 0.4), jnp.full(16, 0.3))
    return model, params


def run(model, params, key, images, **options):
    images = jnp.asarray(images)
    x = images.astype(jnp.int32)
    settings = {"num_samples": 6, "chunk": 4, "batch_size": 20, **options}
    function = functools.partial(evaluate, model, **settings)
    return jax.jit(function)(params, key, x, images, jnp.ones(3))


@pytest.mark.parametrize("batch_size", [1, 7, 96, 1000])
def test_no_image_is_dropped_and_batching_changes_nothing(
    key, images, model_and_params, batch_size
):
    reference = run(*model_and_params, jax.random.clone(key), images)
    other = run(*model_and_params, key, images, batch_size=batch_size)
    for one, two in zip(
        jax.tree.leaves(reference), jax.tree.leaves(other), strict=True
    ):
        assert one.shape[0] == 96
        np.testing.assert_allclose(one, two, rtol=2e-4, atol=1e-5)


def test_squared_error_is_that_of_the_mean_against_the_integers(
    key, images, model_and_params
):
    model, params = model_and_params
    result = run(model, params, key, images)
    mean = model.encode(params, jnp.asarray(images, jnp.int32)).mean
    expected = model.likelihood.mean(model.decode(params, mean))
    shown = views.to_intensity("levels", expected, 17)
    error = np.mean((np.asarray(shown) - images / 16) ** 2, axis=1)
    np.testing.assert_allclose(result.squared_error, error, rtol=1e-4)


def test_jit_equals_eager(key, images, model_and_params):
    model, params = model_and_params
    few = jnp.asarray(images[:5])
    options = {"num_samples": 3, "chunk": 2, "batch_size": 5}
    arguments = (few.astype(jnp.int32), few, jnp.ones(3))
    eager = evaluate(model, params, jax.random.clone(key), *arguments, **options)
    jitted = jax.jit(functools.partial(evaluate, model, **options))(
        params, key, *arguments
    )
    for one, two in zip(jax.tree.leaves(eager), jax.tree.leaves(jitted), strict=True):
        np.testing.assert_allclose(one, two, rtol=1e-4, atol=1e-5)


def test_active_units_counts_latents_whose_mean_varies():
    rng = np.random.default_rng(0)
    spread = np.array([0.0, 0.09, 0.11, 2.0])  # the threshold is a spread of 0.1
    means = spread * rng.choice([-1.0, 1.0], size=(4000, 1))
    assert int(active_units(jnp.asarray(means))) == 2
