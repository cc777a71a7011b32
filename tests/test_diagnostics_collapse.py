import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.optimize
import scipy.special
import scipy.stats
from sklearn.datasets import load_digits

from vae_jax import views
from vae_jax.diagnostics import (
    ConstantFit,
    active_units,
    bernoulli_floor,
    constant_output,
    fit_constant,
    judge_collapse,
    latent_variances,
    likelihood_floor,
)
from vae_jax.likelihoods import make_likelihood


def fit(log_prob, initial, train_x, x, **options):
    function = functools.partial(fit_constant, log_prob, **{"chunk": 500, **options})
    return jax.jit(function)(initial, train_x, x)


def test_latent_variances_are_those_of_the_means():
    means = np.random.default_rng(0).normal(0, [0.0, 0.05, 1.0], (500, 3))
    np.testing.assert_allclose(
        latent_variances(jnp.float32(means)), means.var(axis=0), rtol=1e-5, atol=1e-9
    )
    assert int(active_units(jnp.float32(means))) == 1


def test_the_bernoulli_floor_is_an_expectation_over_binarizations():
    """All 8 binary images of 3 pixels, weighted by their probability."""
    rng = np.random.default_rng(1)
    train, test = rng.uniform(size=(20, 3)), rng.uniform(size=(5, 3))
    images = np.array(np.meshgrid(*[[0, 1]] * 3)).reshape(3, -1).T  # [8, 3]
    mass = scipy.stats.bernoulli.logpmf(images, train.mean(axis=0)).sum(axis=-1)
    weight = np.exp(scipy.stats.bernoulli.logpmf(images[:, None], test).sum(axis=-1))
    floor = bernoulli_floor(jnp.float32(train), jnp.float32(test))
    np.testing.assert_allclose(floor, -(weight * mass[:, None]).sum(axis=0), rtol=1e-5)


def test_a_pixel_never_seen_on_costs_as_much_as_the_clip_says():
    floor = bernoulli_floor(jnp.zeros((4, 1)), jnp.array([[0.0], [1.0]]))
    np.testing.assert_allclose(floor, [1e-5, -np.log(1e-5)], rtol=1e-4)


def test_no_factorised_bernoulli_is_better_where_it_was_fitted():
    train = jnp.float32(np.random.default_rng(2).uniform(size=(50, 6)))
    best = bernoulli_floor(train, train).mean()
    for shift in (-0.02, 0.02):
        assert bernoulli_floor(train + shift, train).mean() > best + 1e-4


def test_the_search_finds_the_best_bernoulli():
    """The penalty moves it by at most a twentieth of the squared distance over N."""
    rng = np.random.default_rng(3)
    mean = rng.uniform(0.05, 0.95, 16)
    train = jnp.float32(rng.uniform(size=(2000, 16)) < mean)
    test = jnp.float32(rng.uniform(size=(300, 16)) < mean)
    likelihood = make_likelihood("bernoulli", 2)
    initial = jnp.full((1, 16), 0.1)
    everything = jnp.concatenate([train, test])
    result = fit(likelihood.log_prob, initial, train, everything)
    best = jax.scipy.special.logit(train.mean(axis=0))
    np.testing.assert_allclose(result.outputs[0], best, atol=0.05)
    floor = bernoulli_floor(train, everything)
    np.testing.assert_allclose(result.negative_log_prob, floor, atol=0.1)
    excess = float(np.mean(result.negative_log_prob[:2000] - floor[:2000]))
    assert -1e-5 < excess < 0.05 * float(np.sum((best - 0.1) ** 2)) / 2000


def test_the_search_finds_a_gaussians_mean_and_scale_exactly():
    """Shared scale: the tree holds it once. Its optimum is the mean squared error."""
    rng = np.random.default_rng(4)
    train = jnp.float32(rng.normal(0.5, 0.2, (4000, 5)))
    likelihood = make_likelihood("gaussian_shared", 256)

    def log_prob(outputs, x):
        shared = jnp.broadcast_to(outputs["shared"][:, None], (1, 5))
        return likelihood.log_prob(jnp.concatenate([outputs["pixels"], shared]), x)

    initial = {"pixels": jnp.full((1, 5), 0.4), "shared": jnp.zeros(1)}
    result = fit(log_prob, initial, train, train, chunk=333)
    variance = np.mean((train - train.mean(axis=0)[None]) ** 2)
    best = 5 * 0.5 * (np.log(2 * np.pi * variance) + 1)
    np.testing.assert_allclose(
        result.outputs["pixels"][0], train.mean(axis=0), atol=1e-3
    )
    np.testing.assert_allclose(result.negative_log_prob.mean(), best, atol=2e-3)
    assert result.settled


def test_the_search_settles_for_masses_of_integers(images):
    """Categorical: no mass function of one pixel beats the frequencies in training."""
    likelihood = make_likelihood("categorical", 17)
    x = jnp.asarray(images, jnp.int32)
    initial = jnp.zeros((likelihood.pixel_outputs, 16))
    result = fit(likelihood.log_prob, initial, x, x)
    counts = np.stack([np.bincount(pixel, minlength=17) for pixel in images.T])
    entropy = scipy.stats.entropy(counts, axis=1).sum()
    penalty = 0.05 * np.sum(np.square(result.outputs)) / 96
    assert entropy < result.negative_log_prob.mean() < entropy + penalty
    assert result.settled


@pytest.mark.slow
def test_the_search_settles_for_a_mixture():
    """Its components may change places, and many rounds are needed."""
    digits = load_digits().images.reshape(-1, 64).astype(np.int32)
    train, test = digits[:300], digits[300:]
    likelihood = make_likelihood("logistic_mixture", 17, components=5)
    initial = likelihood.initial_outputs(
        jnp.float32(train.mean(0) / 16), jnp.float32(train.std(0) / 16)
    )
    result = fit(likelihood.log_prob, initial, train, test, chunk=300)
    assert result.settled
    assert result.negative_log_prob.mean() < 64 * np.log(17)


def test_the_penalty_moves_little_next_to_many_images():
    """Counts of digits: their optimum in training, the best smoothing on others."""
    digits = load_digits().images.reshape(-1, 64)[:, 24:40].astype(np.int32)
    digits = np.random.default_rng(0).permutation(digits)
    train, test = digits[:1300], digits[1300:]
    likelihood = make_likelihood("categorical", 17)
    initial = likelihood.initial_outputs(
        jnp.float32(train.mean(0) / 16), jnp.float32(train.std(0) / 16)
    )
    result = fit(likelihood.log_prob, initial, train, digits, chunk=1300)
    assert result.settled
    counts = np.stack([(train == level).sum(0) for level in range(17)])

    def smoothed(count, x):
        share = (counts + count) / (counts + count).sum(0)
        return -np.log(share)[x, np.arange(16)].sum(1).mean()

    in_training, on_others = (
        np.asarray(result.negative_log_prob)[part].mean()
        for part in (slice(1300), slice(1300, None))
    )
    # 1e-300 for 0, whose logarithm counts nowhere but NumPy takes everywhere.
    assert 0 < in_training - smoothed(1e-300, train) < 0.01
    best = min(smoothed(count, test) for count in np.geomspace(0.01, 2, 30))
    assert abs(on_others - best) < 0.02


def test_the_fit_does_not_depend_on_the_chunk(images):
    likelihood = make_likelihood("gaussian_pixel", 17)
    x = jnp.float32(images) / 17
    initial = likelihood.initial_outputs(jnp.full(16, 0.5), jnp.full(16, 0.3))
    one, other = (
        fit(likelihood.log_prob, initial, x, x[:10], chunk=chunk) for chunk in (96, 7)
    )
    # The searches may end 1e-3 units from the optimum, in 32 outputs.
    np.testing.assert_allclose(
        one.negative_log_prob, other.negative_log_prob, atol=5e-3
    )


def test_a_search_that_is_cut_short_says_so(images):
    likelihood = make_likelihood("gaussian_pixel", 17)
    x = jnp.float32(images) / 17
    initial = jnp.tile(jnp.array([[5.0], [-4.0]]), (1, 16))
    result = fit(likelihood.log_prob, initial, x, x, max_rounds=1)
    assert not result.settled


def test_a_pixel_that_never_changes_keeps_a_finite_output():
    likelihood = make_likelihood("bernoulli", 2)
    initial = jnp.full((1, 2), -1.0)
    result = fit(likelihood.log_prob, initial, jnp.zeros((1000, 2)), jnp.ones((1, 2)))
    # Where the penalty balances: 1000 sigmoid(l) = -(1 + l) / 10.
    logit = scipy.optimize.brentq(
        lambda t: 1000 * scipy.special.expit(t) + 0.1 * (1 + t), -20, 0
    )
    np.testing.assert_allclose(result.outputs, logit, atol=0.01)
    np.testing.assert_allclose(result.negative_log_prob, -2 * logit, rtol=5e-3)


HEALTHY = {
    "rate": 20.0,
    "mutual_information": 8.0,
    "active_units": 9,
    "latent_dim": 10,
    "gain": 100.0,
}


@pytest.mark.parametrize(
    ("change", "verdict"),
    [
        ({}, "in use"),
        ({"active_units": 5}, "in use"),
        ({"active_units": 4}, "partly collapsed"),
        ({"mutual_information": 0.69}, "partly collapsed"),
        ({"mutual_information": 0.70}, "in use"),
        ({"gain": -5.0}, "partly collapsed"),
        (
            {"rate": 0.5, "mutual_information": 0.4, "active_units": 0, "gain": 0.6},
            "collapsed",
        ),
        (
            {"rate": 0.5, "mutual_information": 0.4, "active_units": 1, "gain": 0.6},
            "partly collapsed",
        ),
        (
            {"rate": 3.0, "mutual_information": 0.0, "active_units": 0, "gain": -3.0},
            "partly collapsed",
        ),
    ],
)
def test_the_verdict_needs_all_signs_of_life_or_none(change, verdict):
    assert judge_collapse(**{**HEALTHY, **change}) == verdict


@pytest.mark.parametrize("name", ["rate", "mutual_information", "gain"])
def test_a_model_that_diverged_has_no_verdict(name):
    with pytest.raises(ValueError, match=f"{name} is nan"):
        judge_collapse(**{**HEALTHY, name: float("nan")})


@pytest.mark.parametrize("name", ["bernoulli", "gaussian_shared"])
def test_the_floor_is_the_best_factorised_model(name, images):
    likelihood = make_likelihood(name, 17)
    intensity = jnp.asarray(images / 16, jnp.float32)
    x = views.observe(likelihood.view, jax.random.key(3), jnp.asarray(images), 17)
    train = intensity if name == "bernoulli" else x
    floor = likelihood_floor(likelihood, intensity.mean(0), intensity.std(0), train, x)
    if name == "bernoulli":
        np.testing.assert_allclose(floor, bernoulli_floor(intensity, x))
        return
    # A mean per pixel and one variance, both by maximum likelihood.
    residual = np.asarray(x) - np.asarray(x).mean(0)
    variance = np.mean(residual**2)
    exact = 0.5 * (residual**2 / variance + np.log(2 * np.pi * variance)).sum(1)
    np.testing.assert_allclose(floor.mean(), exact.mean(), atol=0.05)


@pytest.mark.parametrize("name", ["categorical", "discretized_logistic"])
def test_a_floor_from_counts_is_that_from_images(name, images):
    """The second has a scale that all pixels share."""
    likelihood = make_likelihood(name, 17)
    x = jnp.asarray(images)
    mean, std = jnp.float32(images.mean(0) / 16), jnp.float32(images.std(0) / 16)
    floor = jax.jit(functools.partial(likelihood_floor, likelihood))(mean, std, x, x)
    initial = likelihood.initial_outputs(mean, std)
    own, shared = jnp.split(initial, [likelihood.pixel_outputs])

    def log_prob(outputs, x):
        own, shared = outputs
        return likelihood.log_prob(
            jnp.concatenate([own, jnp.broadcast_to(shared, (len(shared), 16))]), x
        )

    result = fit(log_prob, (own, shared.mean(1, keepdims=True)), x, x)
    assert result.settled
    # Each search ends within 5e-4 nats of the optimum.
    np.testing.assert_allclose(floor.mean(), result.negative_log_prob.mean(), atol=2e-3)


def test_a_floor_that_was_not_found_is_none(images, monkeypatch):
    def fit_constant(log_prob, initial, train_x, x, **_):
        score = jnp.ones(len(x))
        return ConstantFit(score, initial, jnp.bool_(False), jnp.float32(1.0))

    monkeypatch.setattr(constant_output, "fit_constant", fit_constant)
    x = jnp.asarray(images / 17, jnp.float32)
    likelihood = make_likelihood("laplace", 17)
    assert np.all(np.isnan(likelihood_floor(likelihood, x.mean(0), x.std(0), x, x)))
