"""Tests of flows against their Jacobians, and of their densities by quadrature."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vae_jax.distributions import latent_noise
from vae_jax.distributions.flows import STEPS, Flow, SplineCoupling
from vae_jax.networks import MLP
from vae_jax.posteriors import (
    make_posterior,
)
from vae_jax.priors import make_prior


def stirred(params, seed=0, scale=0.5):
    """Returns parameters that differ from the initial ones."""
    keys = jax.random.split(jax.random.key(seed), len(jax.tree.leaves(params)))
    leaves, structure = jax.tree.flatten(params)
    moved = [
        leaf + scale * jax.random.normal(key, leaf.shape)
        for key, leaf in zip(keys, leaves, strict=True)
    ]
    return jax.tree.unflatten(structure, moved)


@pytest.fixture(scope="module", params=STEPS)
def flow(request):
    flow = Flow(request.param, 3, 2, MLP((8,), "tanh"), context_dim=2)
    return flow, stirred(flow.init(jax.random.key(0)))


U = 3.0 * np.random.default_rng(0).normal(size=(4, 5, 3)).astype(np.float32)
CONTEXT = np.random.default_rng(1).normal(size=(1, 5, 2)).astype(np.float32)


def test_the_inverse_undoes_the_flow(flow):
    flow, params = flow
    z, log_det = jax.jit(flow.forward)(params, U, CONTEXT)
    u, log_det_there = jax.jit(flow.inverse)(params, z, CONTEXT)
    assert np.abs(z - U).max() > 0.1
    # A spline's slopes reach 1e-3, so each of its steps multiplies the rounding of u by
    # 1e3 in z. Measured: 3e-3, and 6e-3 if XLA does not optimise.
    np.testing.assert_allclose(u, U, atol=1e-2)
    np.testing.assert_allclose(log_det_there, log_det, atol=1e-2)


def test_the_log_determinant_is_that_of_the_jacobian(flow):
    flow, params = flow

    @jax.jit
    @jax.vmap
    def jacobian(u, context):
        return jax.jacobian(lambda u: flow.forward(params, u, context)[0])(u)

    rows = jacobian(U[0], CONTEXT[0])
    _, log_det = flow.forward(params, U, CONTEXT)
    sign, expected = np.linalg.slogdet(rows)
    np.testing.assert_allclose(log_det[0], expected, atol=1e-4)
    assert np.abs(sign).min() == 1


@pytest.mark.parametrize("width", [2, 3, 9])
def test_an_autoregressive_latent_sees_only_those_before_it(width):
    flow = Flow("inverse_autoregressive_flow", 4, 1, MLP((width, width), "tanh"))
    params = stirred(flow.init(jax.random.key(0)))
    forward = jax.jit(lambda u: flow.forward(params, u)[0])
    jacobian = jax.jacobian(forward)(jnp.ones(4))
    # The order is reversed after the step.
    lower = np.asarray(jacobian)[::-1]
    np.testing.assert_array_equal(np.triu(lower, 1), 0)
    # A narrow network has too few units for every pair, but the last latent sees some
    # of the later half.
    seen = lower[np.tril_indices(4)] if width > 3 else lower[3, 2:]
    assert np.all(seen != 0)


@pytest.mark.parametrize("kind", ["affine_coupling", "spline_coupling"])
def test_couplings_start_at_the_identity(kind):
    flow = Flow(kind, 3, 2, MLP((8,), "tanh"))
    z, log_det = flow.forward(flow.init(jax.random.key(0)), U)
    np.testing.assert_allclose(z, U, atol=1e-5)  # Two reversals.
    np.testing.assert_allclose(log_det, 0, atol=1e-5)


@pytest.mark.parametrize("scale", [0.5, 2.0, 20.0])
def test_the_inverse_of_a_spline_is_right_for_any_point(scale):
    """The reference is float64, at uniform places; knots are rounded by 0.004 nats."""
    rng = np.random.default_rng(0)
    raw = scale * rng.normal(size=(20_000, 1, SplineCoupling.outputs_per_latent))
    place = rng.uniform(-5, 5, (20_000, 1))
    step = SplineCoupling(2, MLP((4,), "tanh"), 0)

    @jax.jit
    def inverse(raw, place):
        return step._move(raw, place, inverse=True)[1]

    found = np.asarray(inverse(jnp.float32(raw), jnp.float32(place)), np.float64)
    with jax.enable_x64(True):
        rounded = (np.float64(np.float32(array)) for array in (raw, place))
        exact = np.asarray(inverse(*rounded))
    np.testing.assert_allclose(found, exact, atol=2e-2)


def test_an_inverse_of_any_spline_is_finite():
    """It is also finite where a slope of 1e-7 lies between two steep knots."""
    rng = np.random.default_rng(0)
    raw = 100 * rng.normal(size=(20_000, 1, SplineCoupling.outputs_per_latent))
    step = SplineCoupling(2, MLP((4,), "tanh"), 0)
    raw, u = jnp.float32(raw), jnp.float32(rng.uniform(-5, 5, (20_000, 1)))
    z, _ = jax.jit(functools.partial(step._move, inverse=False))(raw, u)

    @jax.jit
    def inverse(raw, z):
        def total(raw, z):
            moved, log_slope = step._move(raw, z, inverse=True)
            return log_slope.sum(), (moved, log_slope)

        return jax.grad(total, (0, 1), has_aux=True)(raw, z)

    gradients, (again, log_slope) = inverse(raw, z)
    assert all(np.all(np.isfinite(leaf)) for leaf in (*gradients, log_slope))
    assert np.abs(again).max() <= 5 + 1e-5


def test_a_spline_leaves_far_latents_alone():
    flow = Flow("spline_coupling", 2, 1, MLP((4,), "tanh"))
    params = stirred(flow.init(jax.random.key(0)), scale=2.0)
    u = jnp.array([[0.3, 7.0], [0.3, -100.0], [0.3, 4.0]])
    z, log_det = flow.forward(params, u)
    np.testing.assert_array_equal(z[:2], u[:2, ::-1])
    np.testing.assert_array_equal(log_det[:2], 0)
    assert z[2, 0] != 4.0


@pytest.mark.parametrize("kind", STEPS)
def test_gradients_at_extreme_parameters_are_finite(kind):
    flow = Flow(kind, 3, 2, MLP((8,), "tanh"))
    params = jax.tree.map(
        lambda leaf: 300.0 * leaf + 30.0, flow.init(jax.random.key(0))
    )

    def total(params, u):
        z, log_det = flow.forward(params, u)
        return z.sum() + log_det.sum()

    gradients = jax.jit(jax.grad(total, (0, 1)))(params, jnp.asarray(U[0]))
    assert all(np.all(np.isfinite(leaf)) for leaf in jax.tree.leaves(gradients))


@pytest.mark.parametrize("kind", ["affine_coupling", "spline_coupling"])
def test_couplings_of_one_latent_are_refused(kind):
    with pytest.raises(ValueError, match=r"latent_dim is 1, .* at least 2 latents"):
        make_posterior(kind, (1,))
    with pytest.raises(ValueError, match=r"latent_dim is 1, .* at least 2 latents"):
        make_prior("flow", (1,))


# --- densities ------------------------------------------------------------------------


@jax.jit
def log_prob(posterior, z):
    return posterior.log_prob(z)


@jax.jit
def sample_and_log_prob(posterior, noise):
    return posterior.sample_and_log_prob(noise)


GRID = np.linspace(-12, 12, 321, dtype=np.float32)
PLANE = np.stack(np.meshgrid(GRID, GRID), -1).reshape(-1, 2)
AREA = float((GRID[1] - GRID[0]) ** 2)


@pytest.fixture(scope="module", params=[*STEPS, "full_covariance"])
def posterior(request):
    """Returns q(z|x) of one image with two latents, at parameters that bend it."""
    options = {"flow_steps": 2, "flow_widths": (6,)} if request.param in STEPS else {}
    family = make_posterior(request.param, (2,), **options)
    rng = np.random.default_rng(3)
    outputs = {
        name: jnp.asarray(0.5 * rng.normal(size=(1, size)), jnp.float32)
        for name, size in family.heads
    }
    params = {"posterior": stirred(family.init(jax.random.key(0)), scale=0.2)}
    return family.at(params, outputs)


def test_a_posteriors_density_integrates_to_one(posterior):
    log_q = log_prob(posterior, PLANE[:, None])
    assert np.exp(log_q, dtype=np.float64).sum() * AREA == pytest.approx(1, abs=2e-3)


def test_samples_have_the_density_that_comes_with_them(posterior, key):
    """They have its moments, too, within 4.5 errors of 20,000 samples: rate 3e-5."""
    z, log_q = sample_and_log_prob(posterior, latent_noise(key, 20_000, 1, 2))
    np.testing.assert_allclose(log_prob(posterior, z), log_q, atol=5e-3)
    density = np.exp(log_prob(posterior, PLANE[:, None])[:, 0], dtype=np.float64)
    mean = (PLANE * density[:, None]).sum(0) * AREA
    error = np.asarray(z[:, 0]).std(0) / np.sqrt(20_000)
    assert np.all(np.abs(z[:, 0].mean(0) - mean) < 4.5 * error + 2e-3)


def test_the_expectation_is_that_of_the_density(posterior, key):
    density = np.exp(log_prob(posterior, PLANE[:, None])[:, 0], dtype=np.float64)
    mean = (PLANE * density[:, None]).sum(0) * AREA
    found = posterior.expectation(latent_noise(key, 2000, 1, 2))
    np.testing.assert_allclose(found[0], mean, atol=0.05)


def test_a_held_posterior_still_has_a_gradient_in_z(posterior, key):
    """Sticking the landing needs it; the reference is finite differences."""
    held = jax.lax.stop_gradient(posterior)
    z, _ = sample_and_log_prob(posterior, latent_noise(key, 1, 1, 2))
    gradient = jax.grad(lambda z: log_prob(held, z).sum())(z)
    step = np.array([[[1e-2, 0]]], np.float32)
    slope = (log_prob(held, z + step) - log_prob(held, z - step)) / 2e-2
    np.testing.assert_allclose(gradient[0, 0, 0], slope[0, 0], rtol=0.02, atol=0.02)


def test_a_flow_priors_density_integrates_to_one_and_starts_normal(key):
    family = make_prior("flow", (2,), flow_steps=2, flow_widths=(6,))
    params = family.init(jax.random.key(0), jnp.zeros((0, 4), jnp.uint8), 2)
    fresh = family.at({"prior": params}, lambda x: x).log_prob(jnp.asarray(PLANE[:9]))
    normal = make_prior("standard_normal", (2,)).log_prob(jnp.asarray(PLANE[:9]))
    np.testing.assert_allclose(fresh, normal, rtol=1e-5)
    prior = family.at({"prior": stirred(params, scale=0.3)}, lambda x: x)
    density = np.exp(prior.log_prob(jnp.asarray(PLANE)), dtype=np.float64)
    assert density.sum() * AREA == pytest.approx(1, abs=2e-3)
    samples = np.asarray(prior.sample(key, 20_000))
    mean = (PLANE * density[:, None]).sum(0) * AREA
    assert np.all(np.abs(samples.mean(0) - mean) < 4.5 * samples.std(0) / 141 + 2e-3)


def test_a_posterior_is_a_tree_whose_flow_is_static(posterior):
    mapped = jax.tree.map(lambda leaf: leaf + 0, posterior)
    assert type(mapped) is type(posterior)
    if dataclasses.is_dataclass(posterior):
        assert mapped.flow == posterior.flow
