"""How a recipe hands its options to an objective, and which it refuses."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.test_objectives import bernoulli_model, quick_jit, start
from tests.test_training import RECIPE, build, member
from tests.test_training import start as start_state
from vae_jax import training
from vae_jax.objectives import OBJECTIVES, beta_tc, elbo, elbo_log_weight
from vae_jax.training import Recipe

pytestmark = pytest.mark.usefixtures("keys_are_used_once")

# A recipe for each objective, with its options where they have an effect.
RECIPES = {
    "elbo": {"capacity": 2.0},
    "miwae": {"num_groups": 3},
    "ciwae": {"mixing": 0.3},
    "piwae": {"num_groups": 3},
    "renyi": {"alpha": 0.5},
    "thermodynamic": {"partitions": 3},
    "mmd": {"mmd_weight": 10.0},
}


@pytest.fixture(scope="module")
def small():
    model = bernoulli_model(2, widths=())
    x = jax.random.bernoulli(jax.random.key(4), 0.4, (6, 4)).astype(jnp.float32)
    return model, start(model), x


def step_terms(small, recipe, kl_factor, num_images=None):
    model, params, x = small
    own = member(latent_dim=2, beta=3.0)
    return quick_jit(
        lambda params: training.training_terms(
            model,
            recipe,
            params,
            own,
            jax.random.key(8),
            x,
            jnp.float32(kl_factor),
            num_images,
        )
    )(params)


def assert_close(one, other):
    for a, b in zip(one, other, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5)


def test_the_warm_up_raises_the_capacity_instead_of_beta(small):
    recipe = Recipe(objective="elbo", capacity=8.0, kl_warmup_epochs=4)
    expected = elbo(*small[:2], jax.random.key(8), small[2], beta=3.0, capacity=2.0)
    assert_close(step_terms(small, recipe, 0.25), expected)
    assert np.any(expected.kl < 2.0)
    assert recipe.kl_factor(10)(10) == pytest.approx(0.25)


def test_the_size_of_the_training_set_reaches_the_objective(small):
    recipe = Recipe(objective="beta_tc")
    for num_images in (6, 5000):
        expected = beta_tc(
            *small[:2], jax.random.key(8), small[2], beta=1.5, num_images=num_images
        )
        assert_close(step_terms(small, recipe, 0.5, num_images), expected)


def test_an_epoch_tells_how_many_images_it_trains_on(images, monkeypatch):
    """All 96, though batches of 20 leave some of them out."""
    told = []

    def spy(*arguments, num_images, **options):
        told.append(num_images)
        return beta_tc(*arguments, num_images=num_images, **options)

    spied = dataclasses.replace(OBJECTIVES["beta_tc"], terms=spy)
    monkeypatch.setitem(OBJECTIVES, "beta_tc", spied)
    recipe = dataclasses.replace(RECIPE, objective="beta_tc")
    model, own = build("bernoulli"), member()
    state = jax.eval_shape(lambda: start_state(model, recipe, own, images))
    epoch = functools.partial(training.train_epoch, model, recipe)
    jax.eval_shape(epoch, state, own, jnp.asarray(images))
    assert told == [96]


def test_validation_is_of_the_bound_that_a_capacity_trains(small):
    """Else the epochs before the KL has come up to it would pass for the best."""
    model, params, x = small
    own = member(latent_dim=2, beta=3.0)
    recipe = Recipe(objective="elbo", capacity=5.0, kl_warmup_epochs=40)
    found = quick_jit(
        lambda params: training.validation_terms(model, recipe, params, own, x)
    )(params)
    key = training.MemberKeys.of(own.key).evaluate

    def one_image(index, x):
        key_of_image = jax.random.fold_in(key, index)
        return elbo(model, params, key_of_image, x[None], beta=3.0, capacity=5.0)

    expected = quick_jit(jax.vmap(one_image))(jnp.arange(6), x)
    assert found.bound == pytest.approx(float(expected.bound.mean()), rel=1e-5)


@pytest.mark.parametrize(
    ("objective", "options", "other", "beta"),
    [
        ("beta_tc", {}, elbo, 1.0),
        ("mmd", {"mmd_weight": 50.0}, elbo_log_weight, 3.0),
        ("elbo", {"free_bits": 5.0}, elbo, 3.0),
    ],
)
def test_validation_leaves_out_what_is_of_training_alone(
    small, objective, options, other, beta
):
    """Of the two that see the batch this leaves the ELBO of each image."""
    model, params, x = small
    own = member(latent_dim=2, beta=3.0)
    recipe = Recipe(objective=objective, num_samples=2, **options)
    found = quick_jit(
        lambda params: training.validation_terms(model, recipe, params, own, x)
    )(params)
    key = training.MemberKeys.of(own.key).evaluate

    def one_image(index, x):
        return other(
            model,
            params,
            jax.random.fold_in(key, index),
            x[None],
            beta=beta,
            num_samples=2,
        )

    expected = quick_jit(jax.vmap(one_image))(jnp.arange(6), x)
    assert_close(found, [term.mean() for term in expected])


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"num_groups": 2}, ("num_groups=2", "'miwae' or 'piwae'", "num_groups=1")),
        ({"mixing": 0.5}, ("mixing=0.5", "'ciwae'", "mixing=0.0")),
        ({"alpha": 0.5}, ("alpha=0.5", "'renyi'", "alpha=0.0")),
        (
            {"objective": "renyi", "num_samples": 4, "alpha": float("nan")},
            ("alpha is nan", "finite"),
        ),
        ({"clip_norm": float("inf")}, ("clip_norm is inf", "finite")),
        ({"partitions": 5}, ("partitions=5", "'thermodynamic'", "partitions=1")),
        ({"mmd_weight": 5.0}, ("mmd_weight=5.0", "'mmd'", "mmd_weight=0.0")),
        ({"objective": "stl", "capacity": 5.0}, ("capacity=5.0", "'elbo'")),
        ({"objective": "beta_tc", "free_bits": 0.5}, ("free_bits=0.5", "'elbo'")),
        (
            {"objective": "miwae", "num_samples": 6, "num_groups": 4},
            ("num_samples=6", "num_groups=4", "change one of them"),
        ),
        (
            {"objective": "piwae", "num_groups": 2},
            ("num_samples=1", "num_groups=2", "change one of them"),
        ),
        (
            {"objective": "thermodynamic"},
            ("num_samples=1", "set num_samples to 2 or more", "'stl'"),
        ),
        (
            {"objective": "mmd", "batch_size": 1},
            ("batch_size=1", "set batch_size to 2 or more", "'elbo_log_weight'"),
        ),
        (
            {"capacity": 5.0, "free_bits": 0.5},
            ("capacity=5.0", "free_bits=0.5", "set one of them to 0"),
        ),
    ],
)
def test_what_makes_no_sense_is_refused_with_the_alternative(fields, words):
    with pytest.raises(ValueError, match=words[0]) as caught:
        Recipe(**fields)
    line = str(caught.value)
    assert "\n" not in line
    assert all(word in line for word in words), line


@pytest.mark.slow
@pytest.mark.parametrize("objective", OBJECTIVES)
def test_training_by_every_objective_raises_the_elbo(images, objective):
    """By nats, in ten epochs; where it is not what is trained, as well."""
    recipe = dataclasses.replace(
        RECIPE, objective=objective, num_samples=3, **RECIPES.get(objective, {})
    )
    model, own = build(), member()
    state = start_state(model, recipe, own, images)
    epoch = quick_jit(functools.partial(training.train_epoch, model, recipe))
    history = []
    for _ in range(10):
        state, metrics = epoch(state, own, jnp.asarray(images))
        history.append(float(metrics.terms.elbo))
    assert history[-1] > history[0] + 2.0
    assert int(state.failure.offender) == 0
