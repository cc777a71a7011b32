"""Tests of the calls of objectives in training, and of refused options."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.parts import ORDINARY_OBJECTIVES
from tests.test_objectives import (
    bernoulli_model,
    elbo,
    elbo_log_weight,
    quick_jit,
    start,
    terms_of,
)
from tests.test_training import CONFIG, build, member
from tests.test_training import start as start_state
from vae_jax.objectives import MMD, OBJECTIVES, BetaTC, Elbo
from vae_jax.training import MemberKeys, Trainer, TrainingConfig

pytestmark = pytest.mark.usefixtures("keys_are_used_once")

beta_tc = functools.partial(terms_of, "beta_tc")
MEMBER = member(latent_dim=2, beta=3.0)

# Options of each objective, where they have an effect.
OPTIONS = {
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


def step_terms(small, objective, warmup, num_images=6):
    """Returns the terms of each image in a training step."""
    model, params, x = small
    config = TrainingConfig(objective=objective, batch_size=6)
    trainer = Trainer(model, config, num_images)
    return quick_jit(
        lambda params: trainer.gradient(
            params, MEMBER, jax.random.key(8), x, jnp.float32(warmup)
        )[1]
    )(params)


def validation_terms(small, objective):
    """Returns the validation terms of the images, for any warm-up."""
    model, params, x = small
    config = TrainingConfig(objective=objective, batch_size=6, kl_warmup_epochs=40)
    trainer = Trainer(model, config, 6)
    return quick_jit(lambda params: trainer.validation_terms(params, MEMBER, x))(params)


def assert_close(one, other):
    for a, b in zip(one, other, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5)


def test_the_warm_up_raises_the_capacity_instead_of_beta(small):
    expected = elbo(*small[:2], jax.random.key(8), small[2], beta=3.0, capacity=2.0)
    assert_close(step_terms(small, Elbo(capacity=8.0), 0.25), expected)
    assert np.any(expected.kl < 2.0)
    config = TrainingConfig(kl_warmup_epochs=4)
    assert config.warmup(10)(10) == pytest.approx(0.25)


def test_the_size_of_the_training_set_reaches_the_objective(small):
    for num_images in (6, 5000):
        expected = beta_tc(
            *small[:2], jax.random.key(8), small[2], beta=1.5, num_images=num_images
        )
        assert_close(step_terms(small, BetaTC(), 0.5, num_images), expected)


def test_an_epoch_tells_how_many_images_it_trains_on(images):
    """It reports all 96, though batches of 20 leave some of them out."""
    told = []

    class Spy(BetaTC):
        def terms(self, batch):
            told.append(batch.num_images)
            return super().terms(batch)

    config = dataclasses.replace(CONFIG, objective=Spy())
    trainer, own = Trainer(build("bernoulli"), config, len(images)), member()
    state = jax.eval_shape(lambda: start_state(trainer, own, images))
    jax.eval_shape(trainer.epoch, state, own, jnp.asarray(images))
    assert told == [96]


def test_validation_is_of_the_bound_that_a_capacity_trains(small):
    """Otherwise the epochs before the KL reaches it would count as the best."""
    model, params, x = small
    found = validation_terms(small, Elbo(capacity=5.0))
    key = MemberKeys.of(MEMBER.key).evaluate

    def one_image(index, x):
        key_of_image = jax.random.fold_in(key, index)
        return elbo(model, params, key_of_image, x[None], beta=3.0, capacity=5.0)

    expected = quick_jit(jax.vmap(one_image))(jnp.arange(6), x)
    assert found.bound == pytest.approx(float(expected.bound.mean()), rel=1e-5)


@pytest.mark.parametrize(
    ("objective", "other", "beta"),
    [
        (BetaTC(num_samples=2), elbo, 1.0),
        (MMD(num_samples=2, mmd_weight=50.0), elbo_log_weight, 3.0),
        (Elbo(num_samples=2, free_bits=5.0), elbo, 3.0),
    ],
)
def test_validation_leaves_out_what_is_of_training_alone(small, objective, other, beta):
    """The two objectives that see the batch are then the ELBO of each image."""
    model, params, x = small
    found = validation_terms(small, objective)
    key = MemberKeys.of(MEMBER.key).evaluate

    def one_image(index, x):
        own = jax.random.fold_in(key, index)
        return other(model, params, own, x[None], beta=beta, num_samples=2)

    expected = quick_jit(jax.vmap(one_image))(jnp.arange(6), x)
    assert_close(found, [term.mean() for term in expected])


@pytest.mark.parametrize(
    ("name", "options", "words"),
    [
        ("elob", {}, ("objective is 'elob': it is unknown", "did you mean 'elbo'")),
        ("elbo", {"num_groups": 2}, ("num_groups is 2", "'miwae' or 'piwae'")),
        ("elbo", {"mixing": 0.5}, ("mixing is 0.5", "Leave it out, or choose 'ciwae'")),
        ("elbo", {"alpha": 0.5}, ("alpha is 0.5", "'renyi'")),
        ("elbo", {"partitions": 5}, ("partitions is 5", "'thermodynamic'")),
        ("elbo", {"mmd_weight": 5.0}, ("mmd_weight is 5.0", "'mmd'")),
        ("stl", {"capacity": 5.0}, ("capacity is 5.0", "'elbo'")),
        ("beta_tc", {"free_bits": 0.5}, ("free_bits is 0.5", "'elbo'")),
        ("elbo", {"num_samples": 0}, ("num_samples is 0", "at least 1")),
        ("renyi", {"alpha": float("nan")}, ("alpha is nan", "finite")),
        ("elbo", {"capacity": float("inf")}, ("capacity is inf", "finite")),
        ("ciwae", {"mixing": 1.5}, ("mixing is 1.5", "at least 0 and at most 1")),
        ("thermodynamic", {"partitions": 0}, ("partitions is 0", "at least 1")),
        (
            "miwae",
            {"num_samples": 6, "num_groups": 4},
            ("num_samples is 6", "num_groups, 4", "Change one of them"),
        ),
        (
            "piwae",
            {"num_groups": 2},
            ("num_samples is 1", "num_groups, 2", "Change one of them"),
        ),
        (
            "thermodynamic",
            {"num_samples": 1},
            ("num_samples is 1", "at least 2", "another objective"),
        ),
        (
            "elbo",
            {"capacity": 5.0, "free_bits": 0.5},
            ("capacity is 5.0", "free_bits is 0.5", "Set one of them to 0"),
        ),
    ],
)
def test_options_that_make_no_sense_are_refused_with_the_alternative(
    name, options, words
):
    with pytest.raises(ValueError, match=words[0]) as caught:
        OBJECTIVES.make(name, **options)
    line = str(caught.value)
    assert "\n" not in line
    assert all(word in line for word in words), line


def test_a_batch_of_one_says_nothing_of_the_aggregated_posterior():
    with pytest.raises(ValueError, match=r"batch_size is 1: .* 'elbo_log_weight'"):
        TrainingConfig(objective=MMD(), batch_size=1)


@pytest.mark.slow
@pytest.mark.parametrize("name", ORDINARY_OBJECTIVES)
def test_training_by_every_objective_raises_the_elbo(images, name):
    """It rises by nats in ten epochs, even if training maximises another bound."""
    objective = OBJECTIVES.make(name, num_samples=3, **OPTIONS.get(name, {}))
    config = dataclasses.replace(CONFIG, objective=objective)
    trainer, own = Trainer(build(), config, len(images)), member()
    state = start_state(trainer, own, images)
    epoch = quick_jit(trainer.epoch)
    history = []
    for _ in range(10):
        state, metrics = epoch(state, own, jnp.asarray(images))
        history.append(float(metrics.terms.elbo))
    assert history[-1] > history[0] + 2.0
    assert int(state.failure.offender) == 0
