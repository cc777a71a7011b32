"""Tests of networks in bfloat16: their products, their bounds, and the warning."""

import dataclasses
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import digits
from experiments.data.images import load_data
from experiments.data.settings import DataSettings
from experiments.messages.console import CONSOLE
from experiments.runner import planning
from experiments.runner.precision import doubt_of_precision, processor_features
from experiments.settings import grid
from vae_jax import views
from vae_jax.likelihoods import make_likelihood
from vae_jax.model import make_vae
from vae_jax.networks.products import _rounded, bfloat16_product
from vae_jax.population import Population, member_keys
from vae_jax.training import TrainingConfig

H = jax.random.normal(jax.random.key(0), (2, 6, 40))
KERNEL = jax.random.normal(jax.random.key(1), (40, 24))
COTANGENT = jax.random.normal(jax.random.key(2), (2, 6, 24))


def rounded(array):
    """Returns an array rounded to bfloat16, in NumPy's double precision."""
    return np.asarray(array.astype(jnp.bfloat16).astype(jnp.float32), np.float64)


def test_only_the_factors_of_a_product_and_of_its_gradient_are_rounded():
    outputs, pull_back = jax.vjp(bfloat16_product, H, KERNEL)
    gradients = pull_back(COTANGENT)
    h, kernel, cotangent = map(rounded, (H, KERNEL, COTANGENT))
    expected = (
        h @ kernel,
        cotangent @ kernel.T,
        h.reshape(-1, 40).T @ cotangent.reshape(-1, 24),
    )
    for found, exact in zip((outputs, *gradients), expected, strict=True):
        assert found.dtype == jnp.float32
        np.testing.assert_allclose(found, exact, rtol=1e-5, atol=1e-5)
        assert np.abs(found - rounded(found)).max() > 1e-4


def test_members_that_are_mapped_have_the_products_of_each():
    kernels = jnp.stack([KERNEL, -2 * KERNEL])

    def gradients(h, kernel):
        return jax.vjp(bfloat16_product, h, kernel)[1](COTANGENT[0])

    mapped = jax.vmap(gradients)(H, kernels)
    for i, kernel in enumerate(kernels):
        own = gradients(H[i], kernel)
        for together, alone in zip(mapped, own, strict=True):
            np.testing.assert_allclose(together[i], alone, rtol=1e-5, atol=1e-5)


def test_rounding_is_to_nearest_and_ties_to_even():
    ties = np.arange(2**16, dtype=np.uint32) << 16 | 0x8000
    bits = np.concatenate([ties - 1, ties, ties + 1])
    values = jnp.asarray(bits.view(np.float32))
    values = values[~jnp.isnan(values)]
    found, expected = jax.jit(_rounded)(values), values.astype(jnp.bfloat16)
    np.testing.assert_array_equal(*(a.view(jnp.uint16) for a in (found, expected)))
    assert jnp.isnan(jax.jit(_rounded)(jnp.asarray([np.nan, -np.nan]))).all()


@pytest.mark.skipif(
    not processor_features() & {"avx512_bf16", "amx_bf16"},
    reason="XLA multiplies in float32 where the processor has no such products",
)
def test_no_product_on_a_cpu_is_computed_in_float32():
    def gradients(h, kernel, cotangent):
        return jax.vjp(bfloat16_product, h, kernel)[1](cotangent)

    shapes = (128, 784), (784, 400), (128, 400)
    program = jax.jit(gradients).lower(*map(jnp.ones, shapes)).compile()
    text = program.as_text()
    types = dict(re.findall(r"%(\S+) = (\w+)\[", text))
    factors = re.findall(r" dot\(%([\w.\-]+), %([\w.\-]+)\)", text)
    assert len(factors) == 2
    assert {types[name] for pair in factors for name in pair} == {"bf16"}


@pytest.mark.slow
def test_bounds_are_those_of_float32():
    """Over eight paired seeds they differ by less than two standard errors."""
    data = load_data(DataSettings("digits"))
    train = data.train.images.reshape(-1, data.num_pixels)
    held_out = data.test.images.reshape(-1, data.num_pixels)
    x = views.shared_draw("binary", views.TEST, held_out, data.levels)
    config = TrainingConfig(batch_size=100, num_epochs=60, validate_every=60)

    def bounds(precision):
        model = make_vae(
            make_likelihood("bernoulli", data.levels),
            image_shape=data.image_shape,
            latent_dim=8,
            widths=(128, 128),
            precision=precision,
        )
        population = Population(
            [model] * 8,
            config,
            len(train),
            keys=member_keys(np.arange(8, dtype=np.uint32)),
            beta=[1.0] * 8,
            learning_rate=[3e-3] * 8,
            execution="map",
        )
        statistics = views.pixel_statistics(train, data.levels)
        state = population.init(population.compile_init(*statistics), *statistics)
        images = population.placement.place_shared(train)
        epoch = population.compile_epoch(images)
        for _ in range(config.num_epochs):
            state, _ = epoch(state, population.placed_members, images)
        _, validation = population.compile_validation(x)(
            state, population.placed_members, x
        )
        return np.asarray(validation.terms.bound, np.float64)

    difference = bounds("bfloat16") - bounds("float32")
    error = difference.std(ddof=1) / np.sqrt(len(difference))
    assert 0 < abs(difference.mean()) < 2 * error


def test_one_warning_where_float32_is_faster():
    runs = grid.expand(digits.get_config().to_dict())
    model = dataclasses.replace(runs[0].settings.model, precision="bfloat16")
    settings = dataclasses.replace(runs[0].settings, model=model)
    some = [dataclasses.replace(runs[0], settings=settings), *runs[1:]]
    warning = doubt_of_precision(some, "cpu", {"fma", "avx2"})
    assert "model.precision is 'bfloat16'" in warning
    assert "Set it to 'float32'" in warning
    for quiet in (
        (runs, "cpu", {"fma", "avx2"}),
        (some, "gpu", {"fma", "avx2"}),
        (some, "cpu", {"fma", "avx512_bf16"}),
        (some, "cpu", set()),
    ):
        assert doubt_of_precision(*quiet) == ""


def test_the_warning_comes_before_training(monkeypatch):
    config = digits.get_config("tiny").to_dict()
    config["model"]["precision"] = "bfloat16"
    runs = grid.expand(config)
    data = load_data(runs[0].settings.data)
    monkeypatch.setattr(planning, "processor_features", lambda: {"avx2"})
    with CONSOLE.capture() as capture:
        planning.check_devices(runs, data)
    assert capture.get().count("warning: model.precision is 'bfloat16'") == 1
