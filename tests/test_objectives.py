"""Tests of the contract of objectives, the ELBO's forms, and the bounds' order."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests import linear_gaussian
from tests.parts import ORDINARY_OBJECTIVES
from vae_jax import population
from vae_jax.distributions import (
    FullCovarianceGaussian,
    latent_noise,
    sample_without_score,
)
from vae_jax.likelihoods import LIKELIHOODS, make_likelihood
from vae_jax.model import make_vae
from vae_jax.objectives import OBJECTIVES

# Each objective with its options where they have an effect.
OPTIONS = {
    "elbo": {"free_bits": 0.3},
    "elbo_log_weight": {},
    "stl": {},
    "iwae": {},
    "dreg": {},
    "miwae": {"num_groups": 2},
    "ciwae": {"mixing": 0.3},
    "piwae": {"num_groups": 2},
    "renyi": {"alpha": 0.5},
    "thermodynamic": {"partitions": 3},
    "beta_tc": {"num_images": 50},
    "mmd": {"mmd_weight": 10.0},
}
BETA = 0.7
SAMPLES = 4

# Pairs of objectives that are the same, in value and gradient.
SAME = [
    (("miwae", {"num_groups": 1}), ("iwae", {})),
    (("miwae", {"num_groups": SAMPLES}), ("elbo_log_weight", {})),
    (("ciwae", {"mixing": 0.0}), ("iwae", {})),
    (("ciwae", {"mixing": 1.0}), ("elbo_log_weight", {})),
    (("piwae", {"num_groups": 1}), ("iwae", {})),
    (("renyi", {"alpha": 0.0}), ("iwae", {})),
    (("renyi", {"alpha": 1.0}), ("elbo_log_weight", {})),
    (("renyi", {"alpha": 1 - 1e-6}), ("elbo_log_weight", {})),
    (("mmd", {"mmd_weight": 0.0}), ("elbo_log_weight", {})),
    (("beta_tc", {"beta": 1.0, "num_images": 50}), ("elbo", {"beta": 1.0})),
    (("dreg", {"num_samples": 1}), ("stl", {"num_samples": 1})),
    (("iwae", {"num_samples": 1}), ("elbo_log_weight", {"num_samples": 1})),
]
CASES = [
    *OPTIONS.items(),
    *(case for pair in SAME for case in pair),
    ("elbo_log_weight", {"beta": 1.0}),
    ("thermodynamic", {}),
]


def terms_of(name, *arguments, **given):
    """Returns the terms of an objective by name; takes its options and arguments."""
    own = {key: given.pop(key) for key in given.keys() & {*CALLED_WITH}}
    return OBJECTIVES.make(name, **given)(*arguments, **own)


CALLED_WITH = ("beta", "warmup", "latent_mask", "num_images")
elbo, elbo_log_weight, iwae = (
    functools.partial(terms_of, name) for name in ("elbo", "elbo_log_weight", "iwae")
)


def bernoulli_model(latent_dim, **options):
    return make_vae(
        make_likelihood("bernoulli", 2),
        image_shape=(2, 2, 1),
        latent_dim=latent_dim,
        **options,
    )


def start(model):
    return model.init(jax.random.key(3), jnp.full(4, 0.4), jnp.full(4, 0.3))


def quick_jit(function):
    """Compiles without optimisation, which would take longer than all runs."""
    return jax.jit(function, compiler_options={"xla_backend_optimization_level": "0"})


@pytest.fixture(scope="module")
def small():
    """Returns a small Bernoulli model, its parameters, images; q is not the prior."""
    model = bernoulli_model(3, widths=(5,))
    x = jax.random.bernoulli(jax.random.key(4), 0.4, (10, 4)).astype(jnp.float32)
    return model, start(model), x


def case_name(name, options):
    return (name, *sorted(options.items()))


def evaluate_all(params, x, latents):
    """Returns all cases' terms, with one key's noise, and mean bounds' gradients."""
    model = bernoulli_model(latents, widths=(5,))
    mask = jnp.asarray(population.latent_mask(3, latents))

    def mean_bound(params, name, options):
        options = {"beta": BETA, "num_samples": SAMPLES} | options
        terms = terms_of(
            name, model, params, jax.random.key(8), x, latent_mask=mask, **options
        )
        return terms.bound.mean(), terms

    @quick_jit
    def gradients(params):
        return [
            jax.grad(mean_bound, has_aux=True)(params, name, options)
            for name, options in CASES
        ]

    padded = population.pad(params, population.param_shapes(model))
    names = (case_name(*case) for case in CASES)
    return dict(zip(names, gradients(padded), strict=True))


@pytest.fixture(scope="module")
def evaluate(small):
    """Returns (gradient of the mean bound, terms of each image) of a case."""
    evaluated = evaluate_all(*small[1:], latents=3)
    return lambda name, **options: evaluated[case_name(name, options)]


@pytest.fixture(scope="module")
def evaluate_padded(small):
    """Returns the same for a model that was padded from 3 to 5 latents."""
    evaluated = evaluate_all(*small[1:], latents=5)
    return lambda name, **options: evaluated[case_name(name, options)]


@pytest.fixture(scope="module")
def linear():
    model, params, evidence = linear_gaussian.exact_model()
    x = evidence.rvs(32, random_state=2).astype(np.float32)
    return model, params, jnp.asarray(x), evidence.logpdf(x)


def assert_close(one, other, atol=2e-5):
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=atol)


def test_every_objective_is_tested():
    assert OPTIONS.keys() == set(ORDINARY_OBJECTIVES)


@pytest.mark.parametrize("name", OPTIONS)
def test_the_elbo_is_reconstruction_minus_kl_whatever_the_bound(evaluate, name):
    """All see the same noise; the KL is either in closed form or of the samples."""
    _, terms = evaluate(name, **OPTIONS[name])
    assert {term.shape for term in terms} == {(10,)}
    exact = OBJECTIVES[name].needs_closed_form_kl
    _, plain = (
        evaluate("elbo", beta=1.0) if exact else evaluate("elbo_log_weight", beta=1.0)
    )
    assert_close(terms.elbo, plain.bound)
    assert_close(terms[1:], plain[1:])


@pytest.mark.parametrize("name", OPTIONS)
def test_padding_changes_neither_terms_nor_gradient(evaluate, evaluate_padded, name):
    """The gradient of the padding is exactly 0, so Adam never moves it."""
    gradients, terms = evaluate(name, **OPTIONS[name])
    padded, padded_terms = evaluate_padded(name, **OPTIONS[name])
    assert_close(padded_terms, terms)
    own = population.unpad(padded, gradients)
    assert_close(own, gradients)
    rest = jax.tree.map(
        lambda wide, own: wide - own, padded, population.pad(own, padded)
    )
    for leaf in jax.tree.leaves(rest):
        np.testing.assert_array_equal(leaf, 0.0)
    assert all(np.abs(leaf).max() > 0 for leaf in jax.tree.leaves(gradients["encoder"]))


@pytest.mark.parametrize(("one", "other"), SAME)
def test_where_two_objectives_are_the_same(evaluate, one, other):
    assert_close(evaluate(one[0], **one[1]), evaluate(other[0], **other[1]))


@pytest.mark.parametrize(
    ("name", "other"),
    [
        ("stl", "elbo_log_weight"),
        ("dreg", "iwae"),
        ("piwae", "iwae"),
        ("thermodynamic", "elbo_log_weight"),
    ],
)
def test_another_gradient_for_q_leaves_the_value_and_the_decoders(
    evaluate, name, other
):
    options = OPTIONS[name] if name == "piwae" else {}
    gradients, terms = evaluate(name, **options)
    expected, expected_terms = evaluate(other)
    # Not to the bit: the order of the sums may differ.
    assert_close(terms, expected_terms, atol=1e-6)
    assert_close(gradients["decoder"], expected["decoder"])
    kernel = gradients["encoder"]["head"]["mean"]["kernel"]
    assert np.abs(kernel - expected["encoder"]["head"]["mean"]["kernel"]).max() > 1e-4


def test_piwae_moves_q_as_miwae_does(evaluate):
    gradients, _ = evaluate("piwae", num_groups=2)
    expected, _ = evaluate("miwae", num_groups=2)
    assert_close(gradients["encoder"], expected["encoder"])


def test_ciwae_mixes_gradients(evaluate):
    gradients, _ = evaluate("ciwae", mixing=0.3)
    mixed = jax.tree.map(
        lambda one, many: 0.3 * one + 0.7 * many,
        evaluate("elbo_log_weight")[0],
        evaluate("iwae")[0],
    )
    assert_close(gradients, mixed)


def test_beta_weighs_the_kl_and_nothing_else(small):
    """With one sample every weight is 1, so the bound is linear in beta."""
    model, params, x = small
    names = OPTIONS.keys() - {"thermodynamic", "beta_tc"}

    @quick_jit
    def evaluate(beta):
        return {
            name: terms_of(name, model, params, jax.random.key(8), x, beta=beta)
            for name in names
        }

    light, heavy = evaluate(1.0), evaluate(4.0)
    for name in names:
        np.testing.assert_array_equal(heavy[name].kl, light[name].kl)
        np.testing.assert_allclose(
            heavy[name].bound, light[name].bound - 3.0 * light[name].kl, rtol=1e-5
        )


# Bounds that rise sample by sample. Each partition of the thermodynamic bounds refines
# the one before.
RISING = {
    "thermodynamic": [{"partitions": count} for count in (1, 2, 3, 5, 9, 17)],
    "miwae": [{"num_groups": count} for count in (12, 4, 2, 1)],
    "ciwae": [{"mixing": weight} for weight in (1.0, 0.5, 0.0)],
    "renyi": [
        {"alpha": alpha}
        for alpha in (50.0, 2.0, 1.01, 1.0, 0.99, 0.5, 0.0, -1.0, -50.0)
    ],
}


@pytest.fixture(scope="module")
def rising(small):
    """Returns the bounds ``[values, images]`` of ``RISING``, by name."""
    model, params, x = small

    @quick_jit
    def bounds():
        return {
            name: [
                terms_of(
                    name,
                    model,
                    params,
                    jax.random.key(8),
                    x,
                    num_samples=12,
                    **options,
                ).bound
                for options in values
            ]
            for name, values in RISING.items()
        }

    return {name: np.stack(values) for name, values in bounds().items()}


@pytest.mark.parametrize("name", RISING)
def test_bounds_are_ordered_sample_by_sample(rising, name):
    """They share their log-weights, so Jensen's inequality holds without chance."""
    assert np.all(np.diff(rising[name], axis=0) > 0)


def test_bounds_lie_between_the_elbo_and_that_of_all_weights(rising):
    few, many = rising["miwae"][[0, -1]]
    assert np.all(few < many)
    for name in ("thermodynamic", "ciwae"):
        np.testing.assert_allclose(rising[name][0], few, rtol=1e-5)
    np.testing.assert_allclose(rising["ciwae"][-1], many, rtol=1e-5)
    assert np.all(rising["thermodynamic"][-1] < many)
    covered = (rising["thermodynamic"] - few) / (many - few)
    assert np.all(covered[-1] > 0.8)


# --- forms of the ELBO ----------------------------------------------------------------


def test_at_the_true_posterior_every_log_weight_is_log_px(linear):
    """The weighting has no effect then; only the closed form has noise."""
    model, params, x, log_px = linear

    @quick_jit
    def bounds():
        return {
            name: terms_of(
                name,
                model,
                params,
                jax.random.key(5),
                x,
                num_samples=4,
                **OPTIONS[name],
            ).bound
            for name in OPTIONS.keys() - {"elbo", "beta_tc", "mmd"}
        }

    for name, bound in bounds().items():
        np.testing.assert_allclose(bound, log_px, atol=3e-5, err_msg=name)


def test_at_the_true_posterior_the_analytic_elbo_is_log_px_on_average(key, linear):
    """Within 5 standard errors of the mean over 32 images x 20,000 samples."""
    model, params, x, log_px = linear
    count = 20_000
    reconstruction = elbo(model, params, key, x, num_samples=count)
    # E_q ||x - W z - b||^2 has a standard deviation of about 1.5 nats per sample.
    assert np.max(np.abs(reconstruction.bound - log_px)) < 5 * 1.5 / np.sqrt(count)
    assert abs(np.mean(reconstruction.bound - log_px)) < 5 * 1.5 / np.sqrt(32 * count)


def test_a_wrong_posterior_costs_exactly_its_kl(key, linear):
    """log p(x) - ELBO = KL(q || p(z|x)), which is m^2 / (2 s^2) for a shift by m."""
    model, params, x, log_px = linear
    params = linear_gaussian.shifted(params, 2.0)
    terms = elbo_log_weight(model, params, key, x, num_samples=20_000)
    gap = np.mean(log_px - np.asarray(terms.bound))
    assert gap == pytest.approx(3 * 2.0**2 / 2, abs=0.02)


def test_importance_weighted_bound_rises_with_samples(key, small):
    """It rises on average over 200 draws of each."""
    model, params, x = small

    @quick_jit
    def bounds(keys):
        return [
            jax.vmap(
                lambda key, k=num_samples: (
                    iwae(model, params, key, x, num_samples=k).bound
                )
            )(jax.random.split(key, 200)).mean()
            for key, num_samples in zip(keys, (1, 5, 50), strict=True)
        ]

    first, second, third = bounds(list(jax.random.split(key, 3)))
    assert first < second < third


def test_both_forms_of_the_elbo_have_the_same_expectation(key, small):
    """They agree within 4.5 standard errors over 400 batches: failure rate 7e-6."""
    model, params, x = small

    @quick_jit
    @jax.vmap
    def difference(key):
        first, second = jax.random.split(key)
        one, other = (
            form(model, params, key, x, num_samples=50).bound.mean()
            for form, key in ((elbo, first), (elbo_log_weight, second))
        )
        return other - one

    differences = np.asarray(difference(jax.random.split(key, 400)))
    error = differences.std() / np.sqrt(differences.size)
    assert abs(differences.mean()) < 4.5 * error
    assert error < 0.03


@pytest.mark.parametrize("likelihood", LIKELIHOODS)
def test_gradients_are_finite_where_training_begins(key, likelihood):
    model = make_vae(
        make_likelihood(likelihood, 256),
        image_shape=(3, 3, 1),
        latent_dim=2,
        widths=(4,),
    )
    params = model.init(jax.random.key(0), jnp.zeros(9), jnp.zeros(9))
    dtype = jnp.int32 if model.likelihood.view == "levels" else jnp.float32
    x = jnp.zeros((2, 9), dtype)

    def loss(params):
        return -elbo(model, params, key, x).bound.mean()

    for leaf in jax.tree.leaves(quick_jit(jax.grad(loss))(params)):
        assert np.all(np.isfinite(leaf))


def test_free_bits_charge_each_latent_at_least_so_much(
    small, evaluate, evaluate_padded
):
    """They charge nothing for a padded latent, though its KL of 0 is less."""
    model, params, x = small
    per_latent = model.encode(params, x).kl_to_standard_normal()
    charged = np.maximum(per_latent, 0.3).sum(-1)
    assert np.any(charged > per_latent.sum(-1) + 0.1)
    for evaluated in (evaluate, evaluate_padded):
        _, free = evaluated("elbo", free_bits=0.3)
        np.testing.assert_allclose(free.kl, per_latent.sum(-1), rtol=1e-5)
        np.testing.assert_allclose(
            free.bound, free.reconstruction - BETA * charged, rtol=1e-5
        )


def test_free_bits_of_a_kl_of_one_term_count_once(key, small):
    """Dependent latents have one KL, whatever their number and mask."""
    model = bernoulli_model(3, widths=(), posterior="full_covariance")
    terms = elbo(
        model,
        start(model),
        key,
        small[2],
        latent_mask=jnp.ones(3),
        free_bits=40.0,
    )
    charged = np.maximum(terms.kl, 40.0)
    assert np.any(charged == 40.0)
    np.testing.assert_allclose(terms.bound, terms.reconstruction - charged, rtol=1e-5)


@pytest.mark.parametrize("capacity", [0.1, 3.0])
def test_capacity_charges_the_distance_of_the_kl_from_it(small, capacity):
    model, params, x = small
    terms = elbo(model, params, jax.random.key(8), x, beta=50.0, capacity=capacity)
    expected = terms.reconstruction - 50 * np.abs(terms.kl - capacity)
    np.testing.assert_allclose(terms.bound, expected, rtol=1e-5)


@pytest.mark.parametrize(
    ("posterior", "options"),
    [
        ("full_covariance", {}),
        (
            "inverse_autoregressive_flow",
            {"posterior_options": {"flow_steps": 1, "flow_widths": (3,)}},
        ),
        ("ladder", {"upper_layers": (2,), "layer_widths": (3,)}),
    ],
)
def test_gradients_without_a_score_need_no_more_than_a_density(posterior, options):
    """A posterior with dependent latents has the same value and a finite gradient."""
    model = bernoulli_model(2, widths=(), posterior=posterior, **options)
    names = ("stl", "thermodynamic", "elbo_log_weight", "dreg", "iwae")

    def total(params):
        terms = {
            name: terms_of(
                name, model, params, jax.random.key(8), jnp.eye(4), num_samples=2
            )
            for name in names
        }
        return sum(terms[name].bound.mean() for name in names), terms

    gradients, terms = quick_jit(jax.grad(total, has_aux=True))(start(model))
    for name, other in (
        ("stl", "elbo_log_weight"),
        ("thermodynamic", "elbo_log_weight"),
        ("dreg", "iwae"),
    ):
        np.testing.assert_allclose(terms[name].bound, terms[other].bound, rtol=1e-4)
    assert all(np.all(np.isfinite(leaf)) for leaf in jax.tree.leaves(gradients))


def test_without_a_score_the_value_is_that_of_the_noise():
    """The value from the rounded sample is wrong by thousands of nats there."""
    latents = 16
    entries = latents * (latents - 1) // 2
    posterior = FullCovarianceGaussian(
        jnp.zeros((1, latents)),
        jnp.full((1, latents), -4.0),
        0.5 * jax.random.normal(jax.random.key(1), (1, entries)),
    )
    noise = latent_noise(jax.random.key(2), 3, 1, latents)
    z, expected = posterior.sample_and_log_prob(noise)
    assert np.max(np.abs(posterior.log_prob(z) - expected)) > 1e3
    own_z, log_q = sample_without_score(posterior, noise)
    np.testing.assert_array_equal(own_z, z)
    np.testing.assert_array_equal(log_q, expected)


def test_without_a_score_the_gradient_is_that_of_a_fixed_density():
    posterior = FullCovarianceGaussian(
        jnp.array([[0.3, -1.2]]), jnp.array([[-0.5, 0.4]]), jnp.array([[0.8]])
    )
    noise = latent_noise(jax.random.key(2), 3, 1, 2)

    def by_density(moved):
        return posterior.log_prob(moved.sample(noise)).sum()

    def own(moved):
        return sample_without_score(moved, noise)[1].sum()

    for one, other in zip(
        jax.tree.leaves(jax.grad(own)(posterior)),
        jax.tree.leaves(jax.grad(by_density)(posterior)),
        strict=True,
    ):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6)
