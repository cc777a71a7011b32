"""Tests of a model's latent use and of its columns; each tool has its own tests."""

import dataclasses
import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import digits
from experiments.data.images import ImageData
from experiments.data.sources import Split
from experiments.evaluation import diagnosis
from experiments.evaluation.columns import BY_SECTION
from experiments.messages.errors import SettingsError
from experiments.runner import planning
from experiments.settings import grid
from experiments.settings.schema import DiagnosticsSettings
from tests.test_flows import stirred
from vae_jax import population, views
from vae_jax.diagnostics import LatentUse, measure_latent_use
from vae_jax.likelihoods import make_likelihood
from vae_jax.model import make_vae

pytestmark = pytest.mark.usefixtures("keys_are_used_once")

ALL = DiagnosticsSettings(latents=True, permutations=19, floor=True, probes=True)
NONE = DiagnosticsSettings(latents=False, permutations=0, floor=False, probes=False)


def model_of(latent_dim):
    return make_vae(
        make_likelihood("bernoulli", 17),
        image_shape=(4, 4, 1),
        latent_dim=latent_dim,
        widths=(9,),
    )


def measure(model, *arguments, num_permutations=19):
    return jax.jit(
        functools.partial(
            measure_latent_use,
            model,
            decompose=True,
            num_permutations=num_permutations,
        )
    )(*arguments)


@pytest.fixture(scope="module")
def measured(images):
    """Returns an initialised model's parameters, images, and measurements."""
    model, mask = model_of(3), jnp.ones(3)
    params = model.init(jax.random.key(1), jnp.full(16, 0.4), jnp.full(16, 0.3))
    x = views.observe("binary", jax.random.key(2), jnp.asarray(images), 17)
    return params, x, measure(model, params, jax.random.key(5), x, mask)


def columns(use, settings=ALL, num_images=96, **changes):
    row = {"elbo": -9.0, "rate": 2.0, "active_units": 2} | changes
    floor = row.pop("floor", 11.0)
    means = np.random.default_rng(0).normal(size=(num_images, 3))
    labels = (means[:, 0] > 0).astype(int)
    return diagnosis.measured(
        settings, use, row, means, labels, floor=floor, latent_dim=3
    )


def test_padding_changes_nothing(measured):
    params, x, use = measured
    wide = model_of(5)
    padded = population.pad(params, population.param_shapes(wide))
    mask = jnp.asarray(population.latent_mask(3, 5))
    again = measure(wide, padded, jax.random.key(5), x, mask)
    for name in ("average_kl", "mutual_information", "marginal_kl"):
        np.testing.assert_allclose(
            getattr(again.decomposition.parts, name),
            getattr(use.decomposition.parts, name),
            rtol=1e-3,
            atol=1e-5,
        )
    np.testing.assert_allclose(again.two_samples, use.two_samples, rtol=1e-3, atol=1e-5)


def test_columns_hold_every_diagnostic(measured):
    row = columns(measured[2])
    assert list(row) == [column.name for column in BY_SECTION["latents"]]
    assert row["gain"] == 2.0
    assert row["linear_probe"] > 0.8
    assert 0 < row["mmd_p_value"] <= 1
    assert row["latents"] in ("collapsed", "partly collapsed", "in use")


@pytest.mark.parametrize(("scale", "lost"), [(0.02, False), (0.5, True)])
def test_a_density_that_rounding_loses_is_told(images, scale, lost):
    """A spline's samples know their density, but the inverse does not find it."""
    model = make_vae(
        make_likelihood("bernoulli", 17),
        image_shape=(4, 4, 1),
        latent_dim=4,
        widths=(9,),
        posterior="spline_coupling",
    )
    params = model.init(jax.random.key(1), jnp.full(16, 0.4), jnp.full(16, 0.3))
    params["posterior"] = stirred(params["posterior"], scale=scale)
    x = views.observe("binary", jax.random.key(2), jnp.asarray(images), 17)
    use = measure(model, params, jax.random.key(5), x, jnp.ones(4), num_permutations=0)
    row = columns(use, dataclasses.replace(NONE, latents=True))
    assert (row["density_error"] > 0.1) == lost
    assert lost or row["density_error"] < 1e-4


def test_what_is_not_asked_for_is_empty():
    nothing = LatentUse(None, None, None)
    row = columns(nothing, NONE, floor=math.nan)
    assert list(row) == [column.name for column in BY_SECTION["latents"]]
    assert row.pop("latents") == ""
    assert all(math.isnan(value) for value in row.values())


def test_images_too_few_for_a_probe_have_no_scores(measured):
    row = columns(measured[2], num_images=5)
    assert all(math.isnan(row[name]) for name in row if "probe" in name)
    assert math.isfinite(row["mutual_information"])


@pytest.mark.parametrize(("permutations", "fits"), [(5, False), (0, True)])
def test_a_two_sample_test_of_one_image_is_refused(images, permutations, fits):
    split = Split(np.reshape(images, (-1, 4, 4, 1)), None)
    one = Split(split.images[:1], None)
    data = ImageData("squares", 17, split, split, one, "dynamic")
    config = digits.get_config("tiny").to_dict()
    config["training"]["batch_size"] = 10
    config["diagnostics"]["permutations"] = permutations
    runs = grid.expand(config)
    if fits:
        planning.check(runs, data)
        return
    words = r"permutations is 5: .* at least 2 test images, and squares has 1\. Use 0"
    with pytest.raises(SettingsError, match=words):
        planning.check(runs, data)


def test_a_model_that_diverged_has_no_verdict(measured):
    broken = jax.tree.map(lambda leaf: np.full_like(leaf, np.nan), measured[2])
    assert columns(broken, elbo=math.nan, rate=math.nan)["latents"] == ""
