"""Tests that measurements multiply in float32, in programs lowered for a GPU."""

import functools
import re

import jax
import jax.numpy as jnp
import pytest

from vae_jax import trained
from vae_jax.diagnostics import (
    decompose_gaussian_kl,
    likelihood_floor,
    measure_latent_use,
    mmd_test,
)
from vae_jax.evidence import measure_sandwich
from vae_jax.likelihoods import make_likelihood
from vae_jax.measure import draw, evaluate
from vae_jax.model import make_vae

KEY, X = jax.random.key(0), jnp.zeros((5, 16))
MEAN, STD = jnp.full(16, 0.4), jnp.full(16, 0.3)


def products(function, *arguments):
    """Returns the matrix products and convolutions of a function, lowered for a GPU."""
    traced = jax.jit(function).trace(*arguments)
    text = traced.lower(lowering_platforms=("cuda",)).as_text()
    found = re.findall(r"stablehlo\.(?:dot_general|convolution|dot)\b.*", text)
    assert found
    return found


def model_of(network="mlp", precision="float32", likelihood="bernoulli"):
    model = make_vae(
        make_likelihood(likelihood, 17),
        image_shape=(4, 4, 1),
        latent_dim=3,
        network=network,
        widths=(4,),
        precision=precision,
    )
    return model, model.init(jax.random.key(1), MEAN, STD)


def evaluation(model, params):
    measure = functools.partial(evaluate, model, num_samples=4, chunk=2, batch_size=2)
    return measure, params, KEY, X, X.astype(jnp.uint8), jnp.ones(3)


def sandwich(model, params):
    options = {"num_samples": 4, "num_temperatures": 3, "num_chains": 2, "gap_steps": 5}
    return functools.partial(measure_sandwich, model, **options), params, KEY, X


def latent_use(model, params):
    options = {"decompose": True, "num_permutations": 3}
    measure = functools.partial(measure_latent_use, model, **options)
    return measure, params, KEY, X, jnp.ones(3)


def pictures(model, params):
    return (
        functools.partial(
            draw,
            model,
            num_images=2,
            manifold_side=2,
            num_walks=2,
            num_steps=3,
            num_classes=2,
        ),
        params,
        KEY,
        X,
        jnp.ones(3),
    )


def decoded(model, params):
    decode = functools.partial(trained._mapped, trained._decode, model, ())
    return decode, params, KEY, jnp.ones((2, 3)), 0


def sampled(model, params):
    options = {"num_images": 2, "labels": None, "sampler": None, "guidance": None}
    return functools.partial(trained._sample, model, **options), params, KEY


def floor(model, params):
    del params
    return functools.partial(likelihood_floor, model.likelihood), MEAN, STD, X, X


def kl_parts(model, params):
    del model, params
    noise = jnp.ones((2, 5, 3))
    return functools.partial(decompose_gaussian_kl, chunk=4), noise[0], noise[1], noise


def two_samples(model, params):
    del model, params
    return functools.partial(mmd_test, num_permutations=3), KEY, X, X + 1


@pytest.mark.parametrize(
    "measure",
    [
        evaluation,
        sandwich,
        latent_use,
        pictures,
        decoded,
        sampled,
        floor,
        kl_parts,
        two_samples,
    ],
)
def test_a_measurement_multiplies_in_float32(measure):
    for line in products(*measure(*model_of(likelihood="laplace"))):
        assert line.count("HIGHEST") == 2


@pytest.mark.parametrize("network", ["mlp", "conv"])
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_networks_are_measured_in_the_precision_they_compute_in(network, precision):
    """Exact products of bfloat16 are still products of bfloat16."""
    kind = {"float32": "f32", "bfloat16": "bf16"}[precision]
    for line in products(*evaluation(*model_of(network, precision))):
        assert line.count("HIGHEST") == 2
        left, right = re.findall(r"x([a-z]\w*)>", line)[:2]
        assert (left, right) == (kind, kind)


def test_elsewhere_products_are_as_exact_as_jax_makes_them():
    """Training has the faster products, for any log-likelihood."""
    model, params = model_of()
    z = jnp.zeros((2, 5, 3))
    for line in products(model.log_likelihood, params, X, z):
        assert "HIGHEST" not in line
    with jax.default_matmul_precision("tensorfloat32"):
        assert "HIGHEST" not in products(model.log_likelihood, params, X, z)[0]
        assert "HIGHEST" in products(*evaluation(model, params))[0]
