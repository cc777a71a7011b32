"""Tests of the parts of the theory's programs about latents."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
from numpy.testing import assert_allclose

from experiments.theory import aggregated_posterior, generation, ignoring_encoder
from experiments.theory.models import Images, train
from vae_jax import evidence
from vae_jax.distributions import DiagonalGaussian
from vae_jax.likelihoods import make_likelihood
from vae_jax.model import make_vae
from vae_jax.training import TrainingConfig


@pytest.fixture(scope="module")
def small_images(images):
    return Images(images, images[:10], (4, 4, 1), 17)


def test_members_of_two_sizes_train_together_and_are_returned_at_their_own(
    small_images,
):
    model = make_vae(
        make_likelihood("bernoulli", 17),
        image_shape=(4, 4, 1),
        latent_dim=3,
        widths=(8,),
    )
    trained, terms = train(
        model,
        small_images,
        TrainingConfig(batch_size=32, num_epochs=20, validate_every=20),
        seeds=[0, 1],
        beta=[1.0, 0.5],
        latent_dims=[1, 3],
    )

    assert [own.model for own in trained] == [model.with_latent_dim(1), model]
    assert terms.elbo.shape == (20, 2)
    assert (terms.elbo[-1] > terms.elbo[0]).all()
    for own in trained:
        z = jnp.ones((5, own.model.latent_dim))
        assert own.model.decode(own.params, z).shape == (5, 1, 16)


def test_training_that_diverges_is_not_returned(small_images):
    model = make_vae(
        make_likelihood("bernoulli", 17), image_shape=(4, 4, 1), latent_dim=1
    )
    config = TrainingConfig(batch_size=32, num_epochs=1, validate_every=1)
    with pytest.raises(FloatingPointError, match="stopped"):
        train(model, small_images, config, beta=1e38, learning_rate=1e3)


def test_entropy_of_pixels_that_never_vary_is_zero():
    means = np.array([0.0, 1.0, 0.5, 0.5])
    found = ignoring_encoder.cross_entropy(means, means)
    assert_allclose(found, 2 * np.log(2), atol=1e-4)


def test_integral_over_the_grid_is_the_closed_form_for_one_gaussian():
    mean, scale = np.array([[1.5, -0.5]]), np.array([[0.3, 0.8]])
    posterior = DiagonalGaussian(jnp.array(mean), jnp.log(scale))
    predicted = 0.5 * (mean**2 + scale**2 - 1 - 2 * np.log(scale)).sum()
    marginal_kl, _ = aggregated_posterior.integrate(posterior, 600)
    assert_allclose(marginal_kl, predicted, rtol=1e-6)


def test_the_prior_has_no_hole_where_it_is_the_aggregated_posterior():
    posterior = DiagonalGaussian(jnp.zeros((5, 2)), jnp.zeros((5, 2)))
    marginal_kl, holes = aggregated_posterior.integrate(posterior, 200)
    assert_allclose(marginal_kl, 0, atol=1e-12)
    assert holes == 0


def test_mass_in_holes_is_that_of_a_half_plane():
    # log q - log p = 8 z1 - 32: below -log 10 where z1 < 4 - log(10) / 8.
    posterior = DiagonalGaussian(jnp.array([[8.0, 0.0]]), jnp.zeros((1, 2)))
    _, holes = aggregated_posterior.integrate(posterior)
    edge = 4 - np.log(10) / 8
    assert_allclose(holes, scipy.stats.norm.cdf(edge), atol=1e-4)


def test_aggregated_density_is_the_mean_of_the_densities(key):
    mean = jax.random.normal(key, (7, 2))
    posterior = DiagonalGaussian(mean, jnp.full((7, 2), -0.5))
    z = jnp.array([[0.3, -0.2], [2.0, 1.0]])
    each = scipy.stats.norm.pdf(np.asarray(z)[:, None], mean, np.exp(-0.5)).prod(-1)
    assert_allclose(
        aggregated_posterior.log_aggregated(posterior, z),
        np.log(each.mean(axis=1)),
        rtol=1e-5,
    )


def test_distance_is_that_to_the_nearest_image():
    images, others = np.array([[0.0, 0.0]]), np.array([[1.0, 1.0], [0.0, 0.5]])
    nearest = aggregated_posterior.distance_to_nearest(images, others)
    assert_allclose(nearest, [0.5 / np.sqrt(2)])


def test_conditional_variance_is_that_of_the_distribution():
    def variance(name, *channels):
        outputs = jnp.array(channels)[None, :, None]  # one image of one pixel
        found = generation.conditional_variance(make_likelihood(name, 3), outputs)
        assert found.shape == (1, 1)
        return float(found[0, 0])

    assert_allclose(variance("bernoulli", np.log(3)), 0.75 * 0.25, rtol=1e-5)
    assert_allclose(variance("gaussian_shared", 0.2, np.log(0.3)), 0.09, rtol=1e-3)
    assert_allclose(variance("laplace", 0.2, np.log(0.3)), 0.18, rtol=1e-3)
    beta = scipy.stats.beta.var(2.0, 5.0)
    assert_allclose(variance("beta", np.log(2), np.log(5)), beta, rtol=1e-3)
    # Levels 0, 1 and 2 with probabilities 1/2, 1/4 and 1/4.
    categorical = variance("categorical", *np.log([0.5, 0.25, 0.25]))
    assert_allclose(categorical, 1.25 - 0.75**2, rtol=1e-5)


@pytest.mark.parametrize("name", ["bernoulli", "laplace", "categorical"])
def test_what_is_generated_is_an_image_of_its_view(name, key):
    """Its mean is an image only in the continuous view; for Laplace it is the mode."""
    model = make_vae(
        make_likelihood(name, 5), image_shape=(2, 2, 1), latent_dim=2, widths=(3,)
    )
    params = model.init(key, jnp.full(4, 0.4), jnp.full(4, 0.2))
    found = generation.generate(model, params, jax.random.key(1))
    outputs = model.decode(params, found.z)
    assert np.all(np.isfinite(model.likelihood.log_prob(outputs, found.x)))
    if name == "laplace":
        assert np.all(found.mean_excess > 0)
    else:
        assert np.all(np.isnan(found.mean_excess))


def test_evidence_of_what_was_generated_is_sandwiched(key):
    """The model is linear Gaussian: log p(x) and the exact posterior are known."""
    exact = evidence.LinearGaussian(np.array([[0.5], [0.2]]), np.zeros(2), 0.04)
    model, params = exact.to_vae((1, 2, 1), 2)
    latent_key, pixel_key, bound_key = jax.random.split(key, 3)
    z = jax.random.normal(latent_key, (20, 1))
    noise = 0.2 * jax.random.normal(pixel_key, (20, 2))
    x = z @ jnp.asarray(exact.weights.T, jnp.float32) + noise
    lower, upper = generation.log_evidence(model, params, bound_key, x, z)
    # With the exact posterior all weights are p(x): both bounds are exact.
    assert_allclose(lower, exact.log_prob(x), atol=1e-4)
    assert_allclose(upper, exact.log_prob(x), atol=1e-4)
