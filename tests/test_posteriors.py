import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from tests import linear_gaussian
from tests.parts import ORDINARY_POSTERIORS
from vae_jax.diagnostics import measure_latent_use
from vae_jax.distributions import DiagonalGaussian, FullCovarianceGaussian, latent_noise
from vae_jax.evidence import annealed_estimate, importance_estimate, inference_gap
from vae_jax.likelihoods import make_likelihood
from vae_jax.model import make_vae
from vae_jax.objectives import ElboLogWeight
from vae_jax.posteriors import (
    POSTERIORS,
    is_hierarchical,
    make_posterior,
)
from vae_jax.priors import StandardNormal

pytestmark = pytest.mark.usefixtures("keys_are_used_once")

POSTERIOR = DiagonalGaussian(
    jnp.array([[0.3, -1.2, 4.0]]), jnp.array([[-0.5, 0.7, -3.0]])
)


def test_log_prob_is_scipys(key):
    z = jax.random.normal(key, (7, 1, 3))
    expected = scipy.stats.norm.logpdf(
        z, POSTERIOR.mean, np.exp(POSTERIOR.log_scale)
    ).sum(-1)
    np.testing.assert_allclose(POSTERIOR.log_prob(z), expected, rtol=1e-5)


def test_the_density_of_a_sample_is_that_of_its_noise(key):
    """This holds even if the rounding of the sample exceeds its scale."""
    noise = jax.random.normal(key, (7, 1, 1))
    narrow = DiagonalGaussian(jnp.full((1, 1), 3.7), jnp.full((1, 1), -16.0))
    z, log_q = narrow.sample_and_log_prob(noise)
    assert (z != 3.7).any()
    expected = scipy.stats.norm.logpdf(noise).sum(-1) + 16.0
    np.testing.assert_allclose(log_q, expected, rtol=1e-6)


def test_prior_log_prob_is_scipys(key):
    z = jax.random.normal(key, (7, 3))
    expected = scipy.stats.norm.logpdf(z).sum(-1)
    np.testing.assert_allclose(StandardNormal(3).log_prob(z), expected, rtol=1e-5)


def test_kl_is_the_mean_log_ratio_within_four_standard_errors(key):
    """With a random key, the false-failure rate would be 6e-5."""
    z = POSTERIOR.sample(latent_noise(key, 200_000, 1, 3))
    ratio = np.asarray(POSTERIOR.log_prob(z) - StandardNormal(3).log_prob(z))
    error = ratio.std() / np.sqrt(ratio.size)
    exact = float(POSTERIOR.kl_to_standard_normal().sum())
    assert abs(ratio.mean() - exact) < 4 * error


def test_kl_of_the_prior_is_exactly_zero_and_stationary():
    zero = jnp.zeros(2)

    def kl(mean, raw):
        posterior = DiagonalGaussian.from_outputs(mean, raw)
        return posterior.kl_to_standard_normal().sum()

    assert kl(zero, zero) == 0
    for gradient in jax.grad(kl, (0, 1))(zero, zero):
        np.testing.assert_array_equal(gradient, 0)


@pytest.mark.parametrize("raw", [-1e4, 1e4])
def test_extreme_encoder_outputs_stay_finite(raw):
    def kl(raw):
        posterior = DiagonalGaussian.from_outputs(jnp.zeros(1), raw)
        return posterior.kl_to_standard_normal().sum()

    value, gradient = jax.value_and_grad(kl)(jnp.array([raw]))
    assert np.isfinite(value)
    assert np.all(np.isfinite(gradient))


def test_noise_of_a_narrow_latent_is_that_of_a_wide_one(key):
    narrow = latent_noise(jax.random.clone(key), 2, 5, 3)
    wide = latent_noise(key, 2, 5, 8)
    assert narrow.shape == (2, 5, 3)
    np.testing.assert_array_equal(narrow, wide[..., :3])


def test_samples_have_the_posteriors_moments(key):
    """Within 4.5 standard errors of each of 6 moments: false-failure rate 4e-5."""
    count = 100_000
    z = np.asarray(POSTERIOR.sample(latent_noise(key, count, 1, 3)))[:, 0]
    scale = np.exp(np.asarray(POSTERIOR.log_scale[0]))
    mean_error = np.abs(z.mean(0) - np.asarray(POSTERIOR.mean[0]))
    assert np.all(mean_error < 4.5 * scale / np.sqrt(count))
    assert np.all(np.abs(z.std(0) / scale - 1) < 4.5 / np.sqrt(2 * count))


# --- all correlations -----------------------------------------------------------------

FULL = FullCovarianceGaussian(
    jnp.array([[0.3, -1.2, 0.8], [0.0, 2.0, -1.0]]),
    jnp.array([[-0.5, 0.7, -1.0], [0.2, 0.0, 0.4]]),
    jnp.array([[0.4, -0.9, 1.5], [-0.3, 0.2, 0.0]]),
)


def covariances(posterior):
    """Returns each image's covariance in float64, from L entry by entry."""
    for log_scale, (first, second, third) in zip(
        np.asarray(posterior.log_scale, np.float64), posterior.lower, strict=True
    ):
        factor = np.diag(np.exp(log_scale))
        factor[1, 0], factor[2, 0], factor[2, 1] = first, second, third
        yield factor @ factor.T


def test_log_prob_of_correlated_latents_is_scipys(key):
    noise = latent_noise(key, 7, 2, 3)
    z, log_q = FULL.sample_and_log_prob(noise)
    expected = [
        scipy.stats.multivariate_normal(mean, covariance).logpdf(z[:, image])
        for image, (mean, covariance) in enumerate(
            zip(FULL.mean, covariances(FULL), strict=True)
        )
    ]
    np.testing.assert_allclose(FULL.log_prob(z), np.transpose(expected), rtol=1e-4)
    np.testing.assert_allclose(log_q, np.transpose(expected), rtol=1e-4)


def test_samples_of_correlated_latents_have_their_covariance(key):
    """Within 4.5 standard errors of each of 12 entries: false-failure rate 8e-5."""
    count = 50_000
    z = np.asarray(FULL.sample(latent_noise(key, count, 2, 3)))
    for image, covariance in enumerate(covariances(FULL)):
        spread = np.outer(np.diag(covariance), np.diag(covariance))
        error = np.sqrt((spread + covariance**2) / count)
        assert np.all(np.abs(np.cov(z[:, image].T) - covariance) < 4.5 * error)


@pytest.mark.parametrize(
    ("mean", "log_scale"),
    [(np.zeros(3), np.zeros(3)), (np.array([1.0, -0.5, 0.0]), np.array([0.3, -1, 1]))],
)
def test_kl_of_correlated_latents_is_that_of_two_gaussians(mean, log_scale):
    """The reference is the general formula for N(mean, diag(exp(2 log_scale)))."""
    precision = np.diag(np.exp(-2 * log_scale))
    expected = []
    for own_mean, covariance in zip(FULL.mean, covariances(FULL), strict=True):
        away = np.asarray(own_mean, np.float64) - mean
        log_determinants = 2 * log_scale.sum() - np.linalg.slogdet(covariance)[1]
        trace = np.trace(precision @ covariance)
        expected.append(0.5 * (trace - 3 + away @ precision @ away + log_determinants))
    relative = FULL.relative_to(
        jnp.asarray(mean, jnp.float32), jnp.asarray(log_scale, jnp.float32)
    )
    np.testing.assert_allclose(
        relative.kl_to_standard_normal()[:, 0], expected, rtol=1e-5
    )


def test_at_the_exact_correlated_posterior_every_log_weight_is_log_px(key):
    """On this model the best diagonal posterior loses 0.44 nats."""
    exact = linear_gaussian.correlated_gaussian()
    diagonal, params = exact.to_vae(linear_gaussian.SHAPE, linear_gaussian.LEVELS)
    model = make_vae(
        diagonal.likelihood,
        image_shape=linear_gaussian.SHAPE,
        latent_dim=linear_gaussian.LATENTS,
        widths=(),
        posterior="full_covariance",
    )
    marginal = linear_gaussian.marginal(exact)
    x = marginal.rvs(16, random_state=2).astype(np.float32)
    _, covariance = exact.posterior(x)
    factor = np.linalg.cholesky(covariance)
    bound_inverse = 20 * np.arctanh(np.log(np.diag(factor)) / 20)
    below = factor[np.tril_indices(linear_gaussian.LATENTS, -1)]
    for name, bias in (("log_scale", bound_inverse), ("lower", below)):
        params["encoder"]["head"][name] = {
            "kernel": jnp.zeros((linear_gaussian.NUM_PIXELS, len(bias))),
            "bias": jnp.asarray(bias, jnp.float32),
        }
    terms = ElboLogWeight(num_samples=5)(model, params, key, x)
    np.testing.assert_allclose(terms.bound, marginal.logpdf(x), atol=5e-5)


def test_one_latent_has_no_correlations():
    family = make_posterior("full_covariance", (1,))
    outputs = {"mean": jnp.array([[0.3]]), "log_scale": jnp.array([[-0.7]])}
    assert dict(family.heads) == {"mean": 1, "log_scale": 1}
    posterior, z = family.at({}, outputs), jnp.array([[[1.3]]])
    same = make_posterior("diagonal", (1,)).at({}, outputs)
    np.testing.assert_allclose(posterior.log_prob(z), same.log_prob(z), rtol=1e-6)
    np.testing.assert_allclose(
        posterior.kl_to_standard_normal(), same.kl_to_standard_normal(), rtol=1e-6
    )


# --- every posterior ------------------------------------------------------------------

# Compiled without optimisation, which would take longer than all runs.
QUICK = {"xla_backend_optimization_level": "0"}


def tiny_model(posterior):
    """Returns a model, its parameters, and images."""
    small = {"layer_widths": (3,), "flow_steps": 1, "flow_widths": (3,)}
    model = make_vae(
        make_likelihood("bernoulli", 2),
        image_shape=(2, 2, 1),
        latent_dim=2,
        widths=(3,),
        upper_layers=(2,) if is_hierarchical(posterior) else (),
        posterior=posterior,
        **{
            name: small[name] for name in POSTERIORS.options(posterior) if name in small
        },
    )
    params = model.init(jax.random.key(1), jnp.full(4, 0.4), jnp.full(4, 0.3))
    x = jax.random.bernoulli(jax.random.key(2), 0.4, (3, 4)).astype(jnp.float32)
    return model, params, x


@pytest.mark.parametrize(
    "posterior",
    [
        "ladder",
        *(
            pytest.param(name, marks=pytest.mark.slow)
            for name in (
                "full_covariance",
                "inverse_autoregressive_flow",
                "spline_coupling",
                "bottom_up",
            )
        ),
    ],
)
def test_every_estimate_of_the_evidence_takes_every_posterior(posterior, key):
    """This tests that they run; other tests compare them with known answers."""
    model, params, x = tiny_model(posterior)

    @jax.jit
    def measure(key, params, x):
        keys = [jax.random.fold_in(key, i) for i in range(4)]
        importance = importance_estimate(
            model, params, keys[0], x[0], num_samples=4, chunk=2
        )
        return {
            "importance": importance,
            "annealed": annealed_estimate(
                model,
                params,
                keys[1],
                x[0],
                schedule=jnp.array([0.0, 0.5, 1.0]),
                num_chains=2,
                num_leapfrog=1,
                initial="posterior",
            ),
            "gap": inference_gap(
                model,
                params,
                keys[2],
                x[0],
                importance.log_px,
                num_steps=5,
                learning_rate=0.01,
                num_samples=2,
                num_eval_samples=4,
                chunk=2,
            ),
            "use": measure_latent_use(
                model,
                params,
                keys[3],
                x,
                jnp.ones(model.latent_dim),
                decompose=True,
                num_permutations=2,
            ),
        }

    found = measure.lower(key, params, x).compile(QUICK)(key, params, x)
    use = found.pop("use")
    assert all(np.all(np.isfinite(leaf)) for leaf in jax.tree.leaves(found))
    parts = use.decomposition.parts
    np.testing.assert_allclose(
        parts.average_kl, parts.mutual_information + parts.marginal_kl, rtol=1e-4
    )
    assert np.isfinite(use.two_samples.p_value)


@pytest.mark.parametrize("posterior", ORDINARY_POSTERIORS)
def test_every_posterior_is_mapped_over_members(posterior, key):
    """Two members' bounds and gradients are those of each alone."""
    model, params, x = tiny_model(posterior)
    mask = jnp.ones(model.latent_dim)

    def gradient(params):
        def bound(params):
            terms = ElboLogWeight()(model, params, key, x, latent_mask=mask)
            return terms.bound.mean()

        return jax.value_and_grad(bound)(params)

    other = jax.tree.map(lambda leaf: 0.9 * leaf + 0.1, params)
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), params, other)
    mapped = jax.jit(jax.vmap(gradient)).lower(stacked).compile(QUICK)(stacked)
    alone = jax.jit(gradient).lower(params).compile(QUICK)
    for member, own in enumerate((params, other)):
        for leaf, expected in zip(
            jax.tree.leaves(mapped), jax.tree.leaves(alone(own)), strict=True
        ):
            assert np.all(np.isfinite(expected))
            np.testing.assert_allclose(leaf[member], expected, rtol=1e-3, atol=1e-5)
