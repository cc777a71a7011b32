"""Tests of samplers and guidance of chains, against normal data's exact answers."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests import chains
from vae_jax.diffusion import Ends, GaussianImages
from vae_jax.guidance import (
    classifier_free,
    classifier_guided,
    fit_noise_classifier,
)
from vae_jax.networks import DenseDenoiser
from vae_jax.priors.diffusion import DiffusionFamily
from vae_jax.samplers import SAMPLERS, Sampler
from vae_jax.trees import tree_dataclass

# At -log SNR = 9 nothing is left of the mean.
ENDS = Ends(-5.0, 9.0)
exact_chain = functools.partial(chains.exact_chain, ends=ENDS)
NUM = 4000


@pytest.fixture(scope="module")
def images():
    """Returns a normal distribution of images of three values."""
    return chains.normal_images(3, scale=0.6, variance=0.02)


def chain_of_classes(**options):
    """Returns a chain with three classes, and a denoiser of any parameters."""
    options = {"num_classes": 3, "label_dropout": 0.1} | options
    family = DiffusionFamily(4, denoiser_widths=(8,), **options)
    params = family.init(jax.random.key(0), None, 2)
    leaves, tree = jax.tree.flatten(params["denoiser"])
    rng = np.random.default_rng(0)
    moved = [jnp.float32(0.3 * rng.standard_normal(leaf.shape)) for leaf in leaves]
    denoiser = jax.tree.unflatten(tree, moved)
    return family.at({"prior": params | {"denoiser": denoiser}}, None)


@functools.partial(jax.jit, static_argnums=3)
def draw(sampler, chain, key, num):
    return sampler(chain, key, num)


@jax.jit
def denoised(chain, z, gamma):
    return chain.denoised(z, gamma)


def moments_of_z0(images):
    """Returns mean and covariance of q(z_0)."""
    snr = np.exp(-ENDS.gamma_min)
    alpha2 = snr / (1 + snr)
    noise = alpha2 / snr * np.eye(3)
    return np.sqrt(alpha2) * images.mean, alpha2 * images.covariance + noise


def distance(z, mean, covariance):
    """Returns the largest errors of whitened means and covariances."""
    white = np.linalg.solve(np.linalg.cholesky(covariance), (z - mean).T)
    cov = np.cov(white, bias=True) - np.eye(len(mean))
    return np.abs(white.mean(1)).max(), np.abs(cov).max()


# --- exact answers --------------------------------------------------------------------


# With 4,000 samples the standard error of a mean is 0.016, and of a variance 0.022.
# Langevin has further errors, of the size of its steps.
@pytest.mark.parametrize(
    ("name", "options", "tolerance"),
    [
        ("ancestral", {"steps": 300}, 0.08),
        ("ddim", {"steps": 200}, 0.08),
        ("ddim", {"steps": 200, "eta": 0.5}, 0.08),
        ("euler", {"steps": 200}, 0.08),
        ("heun", {"steps": 32}, 0.08),
        (
            "annealed_langevin",
            {"steps": 200, "langevin_steps": 4, "signal_to_noise": 0.3},
            0.15,
        ),
        ("predictor_corrector", {"steps": 200, "signal_to_noise": 0.05}, 0.08),
        ("predictor_corrector", {"steps": 100, "predictor": "heun"}, 0.08),
    ],
)
def test_samples_have_the_mean_and_covariance_of_normal_data(
    images, name, options, tolerance
):
    sampler = SAMPLERS.make(name, **options)
    z = draw(sampler, exact_chain(images), jax.random.key(1), NUM)
    mean_error, cov_error = distance(np.asarray(z), *moments_of_z0(images))
    assert mean_error < 0.06
    assert cov_error < tolerance


def test_annealed_langevin_lags_behind_the_levels_by_what_is_known(images):
    options = {"steps": 100, "langevin_steps": 5, "signal_to_noise": 0.2}
    sampler = SAMPLERS.make("annealed_langevin", **options)
    z = draw(sampler, exact_chain(images), jax.random.key(1), NUM)
    k = 4 * 0.2**2 * 5 * 100 / ENDS.width
    _, covariance = moments_of_z0(images)
    ratio = np.trace(np.linalg.solve(covariance, np.cov(z.T))) / 3
    # The standard error is 0.013 times the ratio.
    np.testing.assert_allclose(ratio - 1, 1 / (k - 1), atol=0.05)


@pytest.mark.parametrize("name", SAMPLERS)
def test_samples_of_exploding_variance_are_the_same(images, name):
    sampler, key = SAMPLERS.make(name, steps=24), jax.random.key(1)
    z, other = (
        draw(sampler, exact_chain(images, preserves_variance=preserves), key, 20)
        for preserves in (True, False)
    )
    alpha = np.sqrt(1 / (1 + np.exp(ENDS.gamma_min)))
    np.testing.assert_allclose(z / alpha, other, atol=2e-3)


def test_every_sampler_is_tested_with_normal_data():
    marks = test_samples_have_the_mean_and_covariance_of_normal_data.pytestmark
    assert {case[0] for case in marks[0].args[1]} == set(SAMPLERS)


@pytest.mark.parametrize(("name", "order"), [("euler", 1), ("ddim", 1), ("heun", 2)])
def test_solvers_have_their_order(images, name, order):
    with jax.enable_x64(True):
        own, key = exact_chain(images), jax.random.key(2)
        start = np.asarray(own.last_layer(key, 10))
        # Along the flow each coordinate keeps its place among its standard deviations.
        snr = np.exp(-np.array([[ENDS.gamma_min], [ENDS.gamma_max]]))
        alpha = np.sqrt(snr / (1 + snr))
        scale = np.sqrt(alpha**2 * images.eigenvalues[None] + alpha**2 / snr)
        center = alpha * (images.mean @ images.eigenvectors)[None]
        place = (start @ images.eigenvectors - center[1:]) / scale[1:]
        exact = (center[:1] + place * scale[:1]) @ images.eigenvectors.T
        errors = []
        for steps in (64, 128, 256):
            found = draw(SAMPLERS.make(name, steps=steps), own, key, 10)
            errors.append(np.abs(np.asarray(found) - exact).max())
    np.testing.assert_allclose(np.divide(errors[:-1], errors[1:]), 2**order, rtol=0.1)


def test_ddim_with_all_noise_new_is_ancestral(images):
    own, key = exact_chain(images), jax.random.key(3)
    ancestral = draw(SAMPLERS.make("ancestral", steps=20), own, key, 50)
    ddim = draw(SAMPLERS.make("ddim", steps=20, eta=1.0), own, key, 50)
    np.testing.assert_allclose(ddim, ancestral, atol=1e-4)


def test_samplers_take_the_steps_of_the_chain(images):
    own, key = exact_chain(images, noise_steps=7), jax.random.key(3)
    found = draw(SAMPLERS.make("ancestral"), own, key, 5)
    other = draw(SAMPLERS.make("ancestral", steps=7), own, key, 5)
    np.testing.assert_array_equal(found, other)
    sample = jax.jit(lambda chain: chain.sample(key, 5))(own)
    np.testing.assert_allclose(found, sample, atol=1e-5)


def test_numbers_of_a_sampler_are_data(images):
    traced = 0

    @jax.jit
    def run(sampler, chain, key):
        nonlocal traced
        traced += 1
        return sampler(chain, key, 2)

    for steps, eta in ((4, 0.0), (8, 0.5), (0, 1.0)):
        sampler = SAMPLERS.make("ddim", steps=steps, eta=eta)
        run(sampler, exact_chain(images), jax.random.key(0))
    assert traced == 1
    assert hash(sampler) == hash(dataclasses.replace(sampler))


def test_a_sampler_of_ones_own_is_a_step(images):
    @tree_dataclass
    @dataclasses.dataclass(frozen=True)
    class Denoising(Sampler):
        def step(self, chain, key, z, gamma, gamma_before):
            del key, gamma_before
            return chain.denoised(z, gamma).x

    own = exact_chain(images)
    found = draw(Denoising(steps=1), own, jax.random.key(0), 4)
    z = own.last_layer(jax.random.key(0), 4)
    expected = own.denoised(z, jnp.full(4, ENDS.gamma_max)).x
    np.testing.assert_allclose(found, expected, atol=1e-6)


# --- guidance -------------------------------------------------------------------------


def test_classifier_free_guidance_blends_the_noise_of_class_and_none():
    own = chain_of_classes().given(jax.nn.one_hot(jnp.arange(5) % 3, 3))
    z = jax.random.normal(jax.random.key(0), (5, 4))
    gamma = jnp.linspace(-3.0, 2.0, 5)
    given, none = (denoised(each, z, gamma) for each in (own, own.given(None)))
    for weight in (0.0, 1.0, 2.5):
        found = denoised(classifier_free(own, weight), z, gamma)
        noise = none.noise + weight * (given.noise - none.noise)
        np.testing.assert_allclose(found.noise, noise, atol=1e-5)
        alpha, sigma = (
            part(gamma)[:, None]
            for part in (own.family.process.alpha, own.family.process.sigma)
        )
        np.testing.assert_allclose(alpha * found.x + sigma * noise, z, atol=1e-5)
    assert not np.allclose(given.noise, none.noise)


def test_at_weight_1_a_guided_chain_is_that_of_the_class():
    own = chain_of_classes().given(jax.nn.one_hot(jnp.arange(6) % 3, 3))
    sampler, key = SAMPLERS.make("ancestral", steps=10), jax.random.key(1)
    z, guided, strong = (
        draw(sampler, each, key, 6)
        for each in (own, classifier_free(own, 1.0), classifier_free(own, 3.0))
    )
    np.testing.assert_allclose(guided, z, atol=1e-4)
    assert not np.allclose(strong, z, atol=1e-2)


def test_a_guided_chain_has_trajectories():
    own = chain_of_classes(noise_steps=4).given(jax.nn.one_hot(jnp.arange(2), 3))
    way = jax.jit(lambda chain: chain.trajectory(jax.random.key(1), 2, 3))
    np.testing.assert_allclose(way(classifier_free(own, 1.0)), way(own), atol=1e-4)


@pytest.mark.parametrize("preserves", [True, False])
def test_guidance_by_an_exact_classifier_is_the_conditional_chain(images, preserves):
    # y is the first value with noise of variance 0.1; p(x|y) is normal, too.
    own, y, noise = exact_chain(images, preserves_variance=preserves), 0.8, 0.1
    m, cov = images.mean, images.covariance
    gain = cov[:, 0] / (cov[0, 0] + noise)
    posterior = GaussianImages(
        m + gain * (y - m[0]), cov - np.outer(gain, cov[0]).astype(float)
    )
    process = own.family.process

    def log_class(z, gamma):
        # x|z_t is normal, with a known mean, and a variance that z does not change.
        x = own.denoised(z, gamma).x[:, 0]
        snr = jnp.exp(-gamma)[:, None]
        values = jnp.float32(images.eigenvalues)[None]
        parts = jnp.float32(images.eigenvectors[0])[None] ** 2
        variance = (parts * values / (1 + snr * values)).sum(-1) + noise
        return -0.5 * ((y - x) ** 2 / variance)

    gamma = jnp.linspace(-4.0, 6.0, 8)
    z = process.size(gamma)[:, None] * jax.random.normal(jax.random.key(0), (8, 3))
    found = denoised(classifier_guided(own, log_class, 1.0), z, gamma)
    expected = denoised(exact_chain(posterior, preserves_variance=preserves), z, gamma)
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(one, other, atol=2e-3, rtol=1e-3)
    none = denoised(classifier_guided(own, log_class, 0.0), z, gamma)
    plain = denoised(own, z, gamma)
    np.testing.assert_allclose(none.noise, plain.noise, atol=1e-4)


def test_a_fitted_classifier_knows_the_class_and_guides_to_it():
    rng = np.random.default_rng(0)
    # Two classes, left and right of zero: all images together are nearly normal.
    x = jnp.float32(0.6 * rng.standard_normal((2000, 3)))
    labels = jnp.int32(x[:, 0] > 0)
    own = exact_chain(GaussianImages(np.zeros(3), 0.36 * np.eye(3)))
    fit = functools.partial(
        fit_noise_classifier,
        num_classes=2,
        num_steps=500,
        batch_size=256,
        learning_rate=1e-2,
        network=DenseDenoiser(widths=(32, 32)),
    )
    classifier = jax.jit(fit)(own, jax.random.key(0), x, labels)
    classify = jax.jit(lambda z, gamma: classifier(z, gamma))
    log_p = classify(x, jnp.full(2000, ENDS.gamma_min))
    np.testing.assert_allclose(jnp.exp(log_p).sum(1), 1, rtol=1e-5)
    assert (log_p.argmax(1) == labels).mean() > 0.9
    pure = classify(jax.random.normal(jax.random.key(1), (500, 3)), jnp.full(500, 9.0))
    assert jnp.abs(jnp.exp(pure) - 0.5).mean() < 0.25
    wanted = jnp.arange(200) % 2
    guided = classifier_guided(own, classifier.log_class(wanted), 1.0)
    z = draw(SAMPLERS.make("ancestral", steps=50), guided, jax.random.key(2), 200)
    # With the exact classifier the share is 0.94 at these steps, without one a half.
    assert ((z[:, 0] > 0) == wanted).mean() > 0.85


# --- refusals -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "options", "words"),
    [
        (
            "ddpm",
            {},
            r"sampler is 'ddpm': it is unknown.*Choose one of ancestral, ddim",
        ),
        ("ddim", {"steps": -1}, r"steps is -1: it must be a whole number"),
        ("ddim", {"eta": 1.5}, r"eta is 1.5: it must be at least 0 and at most 1"),
        ("euler", {"eta": 0.5}, r"eta is 0.5: sampler 'euler' has no such option"),
        ("annealed_langevin", {"langevin_steps": 0}, r"langevin_steps is 0: it must"),
        ("annealed_langevin", {"signal_to_noise": 1}, r"signal_to_noise is 1: it must"),
        (
            "predictor_corrector",
            {"predictor": "annealed_langevin"},
            r"predictor is 'annealed_langevin': it is unknown",
        ),
    ],
)
def test_samplers_refuse_values_that_make_no_sense(name, options, words):
    with pytest.raises(ValueError, match=words):
        SAMPLERS.make(name, **options)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"num_classes": 1}, "num_classes is 1: it must be a whole number of at least"),
        ({"num_steps": 0}, "num_steps is 0: it must be a whole number of at least 1"),
        ({"batch_size": 0}, "batch_size is 0: it must be a whole number of at least 1"),
        ({"learning_rate": 0.0}, r"learning_rate is 0\.0: it must be above 0"),
        ({"network": "mlp"}, "network is 'mlp': it must be of type Denoiser"),
        ({"x": jnp.zeros((4, 2))}, r"x has shape \[4, 2\]: .* an array \[N, 3\]\."),
        ({"labels": jnp.zeros(3, int)}, r"labels has shape \[3\]: x has 4 rows\. Give"),
        (
            {"labels": jnp.array([0, 1, 2, 1])},
            r"labels has the value 2: .* from 0 to 1",
        ),
    ],
)
def test_a_classifier_that_cannot_be_fitted_is_refused(images, change, words):
    given = {"x": jnp.zeros((4, 3)), "labels": jnp.arange(4) % 2, "num_classes": 2}
    given |= {"num_steps": 1, "batch_size": 2, "learning_rate": 1e-3}
    with pytest.raises(ValueError, match=words):
        fit_noise_classifier(exact_chain(images), jax.random.key(0), **given | change)


def test_guidance_without_classes_is_refused(images):
    with pytest.raises(ValueError, match=r"num_classes is 0: .* guide with a class"):
        classifier_free(exact_chain(images), 2.0)
    y = jnp.eye(3)
    with pytest.raises(ValueError, match=r"label_dropout is 0.0: .* such as 0.1, or"):
        classifier_free(chain_of_classes(label_dropout=0.0).given(y), 2.0)
    with pytest.raises(ValueError, match=r"y is None: .* chain.given"):
        classifier_free(chain_of_classes(), 2.0)
    guided = classifier_free(chain_of_classes().given(y), 2.0)
    for guide in (
        lambda: classifier_free(guided, 2.0),
        lambda: classifier_guided(guided, lambda z, gamma: gamma, 2.0),
    ):
        with pytest.raises(ValueError, match=r"chain is guided already: .* Give the"):
            guide()
