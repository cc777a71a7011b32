import os
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest

from experiments.data.images import load_data
from experiments.data.settings import DataSettings
from tests import linear_gaussian
from vae_jax.evidence import LinearGaussian, num_surviving, principal_components


@pytest.fixture
def exact():
    return linear_gaussian.correlated_gaussian()


def draw(exact, count):
    return linear_gaussian.marginal(exact).rvs(count, random_state=3)


def data_of_covariance(covariance, mean):
    """Returns points with exactly the given sample mean and covariance, ``[50, D]``."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(50, mean.size))
    x -= x.mean(0)
    whitened = x @ np.linalg.inv(np.linalg.cholesky(x.T @ x / 50)).T
    return whitened @ np.linalg.cholesky(covariance).T + mean


def test_log_prob_is_the_density_of_the_marginal(exact):
    x = draw(exact, 20)
    expected = linear_gaussian.marginal(exact).logpdf(x)
    np.testing.assert_allclose(exact.log_prob(x), expected, rtol=1e-12)


def test_without_latents_it_is_an_isotropic_gaussian(exact):
    isotropic = exact._replace(weights=np.zeros((linear_gaussian.NUM_PIXELS, 0)))
    x = draw(exact, 20)
    expected = linear_gaussian.marginal(isotropic).logpdf(x)
    np.testing.assert_allclose(isotropic.log_prob(x), expected, rtol=1e-12)


def test_the_fit_recovers_a_model_from_its_own_moments(exact):
    covariance = linear_gaussian.marginal(exact).cov
    x = data_of_covariance(covariance, exact.offset)
    fitted = LinearGaussian.fit(x, exact.latent_dim)
    np.testing.assert_allclose(fitted.variance, exact.variance, rtol=1e-10)
    np.testing.assert_allclose(fitted.offset, exact.offset, atol=1e-12)
    np.testing.assert_allclose(
        fitted.weights @ fitted.weights.T, exact.weights @ exact.weights.T, atol=1e-10
    )


def test_no_model_near_the_fit_explains_the_data_better():
    rng = np.random.default_rng(1)
    x = rng.normal(size=(30, 5)) @ rng.normal(size=(5, 5))
    fitted = LinearGaussian.fit(x, 2)
    best = fitted.log_prob(x).mean()
    for _ in range(20):
        other = LinearGaussian(
            fitted.weights + 0.05 * rng.normal(size=(5, 2)),
            fitted.offset + 0.05 * rng.normal(size=5),
            fitted.variance * np.exp(0.05 * rng.normal()),
        )
        assert other.log_prob(x).mean() < best


@pytest.mark.parametrize("latent_dim", [-1, 5])
def test_a_fit_needs_fewer_latents_than_dimensions(latent_dim):
    with pytest.raises(ValueError, match=f"latent_dim is {latent_dim}"):
        LinearGaussian.fit(np.eye(5), latent_dim)


@pytest.mark.parametrize("latent_dim", [1, 3])
def test_equal_eigenvalues_leave_latents_without_use(latent_dim):
    """The mean of equal eigenvalues may be rounded above them."""
    for scale in (0.3, 0.7, 1.1):
        x = scale * np.concatenate([np.eye(4), -np.eye(4)])
        fitted = LinearGaussian.fit(x, latent_dim)
        np.testing.assert_allclose(fitted.weights, 0, atol=1e-7)
        assert np.isfinite(fitted.log_prob(x)).all()


def test_a_fit_needs_noise_to_be_left():
    line = np.outer(np.arange(10.0), np.ones(5))
    with pytest.raises(ValueError, match="no variance for the noise"):
        LinearGaussian.fit(line, 1)


def test_the_posterior_is_the_joint_gaussian_conditioned_on_x(exact):
    """From the blocks of the joint covariance of (z, x), with no use of M."""
    x = draw(exact, 4)
    gain = exact.weights.T @ np.linalg.inv(linear_gaussian.marginal(exact).cov)
    mean, covariance = exact.posterior(x)
    np.testing.assert_allclose(mean, (x - exact.offset) @ gain.T, rtol=1e-10)
    np.testing.assert_allclose(
        covariance, np.eye(exact.latent_dim) - gain @ exact.weights, atol=1e-12
    )


def test_the_elbo_lacks_the_divergence_from_the_posterior(exact):
    """log p(x) - ELBO = KL(q || p(z|x)), the latter between two full Gaussians."""
    rng = np.random.default_rng(2)
    x = draw(exact, 7)
    q_mean, q_log_scale = rng.normal(size=(7, 3)), rng.normal(-1, 0.5, size=(7, 3))
    mean, covariance = exact.posterior(x)
    precision = np.linalg.inv(covariance)
    expected = []
    for m, q_m, q_s in zip(mean, q_mean, q_log_scale, strict=True):
        trace = np.trace(precision @ np.diag(np.exp(2 * q_s)))
        log_determinants = np.linalg.slogdet(covariance)[1] - 2 * q_s.sum()
        squares = (m - q_m) @ precision @ (m - q_m)
        expected.append(0.5 * (trace - 3 + squares + log_determinants))
    actual = exact.log_prob(x) - exact.elbo(x, q_mean, q_log_scale)
    np.testing.assert_allclose(actual, expected, rtol=1e-10)


def test_no_diagonal_gaussian_beats_the_mean_field_one(exact):
    rng = np.random.default_rng(3)
    x = draw(exact, 5)
    mean, log_scale = exact.mean_field(x)
    best = exact.elbo(x, mean, log_scale)
    np.testing.assert_allclose(
        exact.log_prob(x) - best, exact.mean_field_gap(), rtol=1e-10
    )
    for _ in range(20):
        other_mean = mean + 0.01 * rng.normal(size=mean.shape)
        other_scale = log_scale + 0.01 * rng.normal(size=log_scale.shape)
        assert np.all(exact.elbo(x, other_mean, other_scale) < best)


def test_orthogonal_weights_leave_no_mean_field_gap():
    x = draw(linear_gaussian.correlated_gaussian(), 40)
    assert LinearGaussian.fit(x, 3).mean_field_gap() == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize("variance", [0.05, 0.3, 1.0, 10.0])
def test_a_latent_survives_if_a_first_bit_of_it_helps(variance):
    """Columns of length 0.001, one by one, raise the likelihood of the data or not."""
    rng = np.random.default_rng(4)
    x = rng.normal(size=(40, 6)) @ np.diag([2.0, 1.0, 0.7, 0.5, 0.3, 0.1])
    mean, eigenvalues, eigenvectors = principal_components(x)
    without = LinearGaussian(np.zeros((6, 0)), mean, variance).log_prob(x).mean()
    helps = [
        LinearGaussian(1e-3 * vector[:, None], mean, variance).log_prob(x).mean()
        > without
        for vector in eigenvectors.T
    ]
    assert num_surviving(eigenvalues, variance) == sum(helps)


def test_as_a_vae_it_has_the_same_densities_and_the_best_encoder(exact):
    model, params = exact.to_vae(linear_gaussian.SHAPE, linear_gaussian.LEVELS)
    x = draw(exact, 6)
    q = model.encode(params, jnp.asarray(x, jnp.float32))
    mean, log_scale = exact.mean_field(x)
    np.testing.assert_allclose(q.mean, mean, atol=1e-5)
    np.testing.assert_allclose(q.log_scale, np.tile(log_scale, (6, 1)), atol=1e-5)
    z = np.random.default_rng(5).normal(size=(2, 6, 3))
    residual = (x - z @ exact.weights.T - exact.offset) / linear_gaussian.SCALE
    expected = -0.5 * (residual**2 + np.log(2 * np.pi * exact.variance)).sum(-1)
    actual = model.log_likelihood(params, jnp.asarray(x, jnp.float32), jnp.asarray(z))
    np.testing.assert_allclose(actual, expected, rtol=1e-5)


@pytest.fixture(scope="module")
def mnist():
    """The 60,000 training and 10,000 test images of MNIST at k / 255."""
    folder = os.environ.get("TFDS_DATA_DIR", "")
    if not (Path(folder) / "mnist").is_dir():
        pytest.skip("no prepared MNIST: set TFDS_DATA_DIR to a folder that holds one")
    data = load_data(DataSettings("mnist"))
    train = np.concatenate([data.train.images, data.validation.images])
    return [
        images.reshape(len(images), -1) / 255 for images in (train, data.test.images)
    ]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("latent_dim", "variance", "train", "test"),
    [
        (0, 0.067251, -54.3149, -55.5900),
        (2, 0.056096, 12.4277, 14.3601),
        (10, 0.034867, 182.1547, 186.0241),
        (20, 0.024597, 299.7584, 306.5487),
        (50, 0.012596, 507.9054, 517.6033),
        (100, 0.006581, 680.9518, 689.3221),
    ],
)
def test_probabilistic_pca_of_mnist(mnist, latent_dim, variance, train, test):
    """This is the exact maximum of a linear VAE on MNIST, in nats per image."""
    fitted = LinearGaussian.fit(mnist[0], latent_dim)
    assert fitted.variance == pytest.approx(variance, abs=6e-7)
    means = [fitted.log_prob(images).mean() for images in mnist]
    assert means == pytest.approx([train, test], abs=6e-5)


@pytest.mark.slow
def test_latents_that_survive_on_mnist(mnist):
    eigenvalues = principal_components(mnist[0]).eigenvalues
    surviving = [num_surviving(eigenvalues, v) for v in (1, 0.5, 0.1, 0.05, 0.01)]
    assert surviving == [12, 23, 69, 102, 251]
