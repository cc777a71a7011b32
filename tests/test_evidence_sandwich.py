"""Tests of the sandwich, and of its columns, on a model whose answers are known."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.evaluation.results import sandwich_columns
from experiments.report import terminal
from experiments.runner import progress
from tests import linear_gaussian
from vae_jax.evidence import measure_sandwich

pytestmark = pytest.mark.usefixtures("keys_are_used_once")


@pytest.fixture(scope="module")
def measured():
    """Returns x, the measurements and p(x) at the exact posterior, which has no gap."""
    model, params, px = linear_gaussian.exact_model()
    x = jnp.asarray(px.rvs(12, random_state=1), jnp.float32)
    options = {"num_samples": 200, "num_temperatures": 20, "num_chains": 8}
    measure = jax.jit(
        functools.partial(measure_sandwich, model, **options, gap_steps=50)
    )
    return px.logpdf(np.asarray(x, np.float64)), measure(
        jax.tree.map(jnp.asarray, params), jax.random.key(0), x
    )


def test_every_estimate_is_exact_at_the_true_posterior(measured):
    exact, found = measured
    assert found.gap.elbo.shape == (12,)
    for estimate in (
        found.importance.log_px,
        found.annealed.log_px,
        found.gap.elbo,
    ):
        np.testing.assert_allclose(estimate, exact, atol=2e-2)
    np.testing.assert_allclose(found.gap.approximation, 0, atol=2e-2)
    np.testing.assert_allclose(found.simulated.gap, 0, atol=2e-2)


def test_columns_add_up_and_are_printed(measured):
    row = sandwich_columns(measured[1])
    assert row["elbo"] + row["amortization_gap"] + row["approximation_gap"] == (
        pytest.approx(row["annealed_log_px"], abs=1e-3)
    )
    assert row["num_images"] == 12
    with progress.CONSOLE.capture() as capture:
        terminal.print_sandwich({"run": "one", "view": "continuous", **row})
    text = capture.get()
    assert "one, nats per image" in text
    assert f"{row['elbo']:.3f}" in text
    assert "generated images" in text
    assert "= log p(x), annealed from below" in text
    with progress.CONSOLE.capture() as capture:
        terminal.print_sandwich({"run": "one", "view": "binary", **row}, "label")
    assert "= log p(x|y), annealed from below" in capture.get()
    assert max(map(len, text.splitlines())) <= 80


def test_a_model_that_cannot_be_simulated_lacks_those_columns(measured):
    row = sandwich_columns(measured[1]._replace(simulated=None))
    assert np.isnan(row["simulated_gap"])
    with progress.CONSOLE.capture() as capture:
        terminal.print_sandwich({"run": "one", "view": "continuous", **row})
    assert "generated images" not in capture.get()
