"""Tests of vae_jax.fitting, and of the trained models that it returns."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.test_training import assert_same
from vae_jax import views
from vae_jax.evidence import importance_estimate
from vae_jax.fitting import epochs, fit
from vae_jax.likelihoods import make_likelihood
from vae_jax.model import make_vae
from vae_jax.population import Population, member_keys, param_shapes, unpad
from vae_jax.training import MemberKeys, Trainer, TrainingConfig

CONFIG = TrainingConfig(batch_size=32, num_epochs=2, validate_every=1)
ONE_IMAGE = np.zeros((1, 16), np.uint8)
SEEDS, BETAS, SIZES = (0, 5), (1.0, 0.5), (3, 2)


SHAPES = {"image_shape": (4, 4, 1), "latent_dim": 3, "widths": (8,)}


def build(likelihood="bernoulli", latent_dim=3):
    shapes = SHAPES | {"latent_dim": latent_dim}
    return make_vae(make_likelihood(likelihood, 17), **shapes)


@pytest.fixture(scope="module")
def trained(images):
    return fit(build(), images, CONFIG, seeds=SEEDS, beta=BETAS, latent_dims=SIZES)


def test_members_are_those_of_a_population(images, trained):
    population = Population(
        [build(latent_dim=size) for size in SIZES],
        CONFIG,
        len(images),
        keys=member_keys(np.array(SEEDS, np.uint32)),
        beta=BETAS,
        learning_rate=[1e-3, 1e-3],
    )
    given = *views.pixel_statistics(images, 17), images
    state = population.init(population.compile_init(*given), *given)
    program = population.compile_epoch(images)
    for _ in range(CONFIG.num_epochs):
        state, _ = program(state, population.placed_members, images)
    stacked = population.placement.fetch(state.params)
    for i, (own, size) in enumerate(zip(trained, SIZES, strict=True)):
        assert own.model == build(latent_dim=size)
        params = jax.tree.map(lambda leaf, i=i: leaf[i], stacked)
        assert_same(own.params, unpad(params, param_shapes(own.model)))


def test_a_member_alone_has_the_bits_of_its_trainer(images):
    config = dataclasses.replace(CONFIG, ema=0.9)
    (own,) = fit(build(), images, config, seeds=5, beta=0.5, learning_rate=3e-3)
    key = member_keys(np.array([5], np.uint32))[0]
    trainer = Trainer(build(), config, len(images))
    member = Population(
        [build()], config, len(images), keys=key[None], beta=[0.5], learning_rate=[3e-3]
    ).members
    member = jax.tree.map(lambda leaf: leaf[0], member)
    statistics = views.pixel_statistics(images, 17)
    state = jax.jit(trainer.init)(key, *statistics, images)
    for _ in range(CONFIG.num_epochs):
        state, _ = jax.jit(trainer.epoch)(state, member, images)
    assert_same(own.params, state.average)


def test_images_come_as_people_have_them(images, trained):
    """They may be rows, with or without a channel, of any type of integers."""
    for same in (
        images.reshape(-1, 4, 4),
        images.reshape(-1, 4, 4, 1).astype(np.int64),
    ):
        again = fit(build(), same, CONFIG, seeds=SEEDS, beta=BETAS, latent_dims=SIZES)
        assert_same([own.params for own in again], [own.params for own in trained])


def test_typed_keys_are_taken_as_they_are(images):
    key = jax.random.key(3)
    for seeds in (key, key[None]):
        (own,) = fit(build(), images, CONFIG, seeds=seeds)
        assert_same(jax.random.key_data(own.key), jax.random.key_data(key))


def test_every_epoch_is_handed_out_and_the_best_is_kept(images):
    held_out, bounds = images[:20], []
    for epoch in epochs(build(), images[20:], CONFIG, validation_images=held_out):
        if epoch.snapshot.validation:
            bounds.append(float(epoch.snapshot.validation.best_bound[0]))
    assert epoch.snapshot.epoch == len(bounds) == CONFIG.num_epochs
    assert bounds == sorted(bounds)
    best = jax.tree.map(lambda leaf: leaf[0], epoch.snapshot.state.best_params)
    assert_same(epoch.trained()[0].params, best)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda images: images[:, :15], r"images has shape \[96, 15\]"),
        (lambda images: images[:0], r"images has shape \[0, 16\]"),
        (lambda images: images.reshape(-1, 2, 8), r"images has shape \[96, 2, 8\]"),
        (lambda images: images / 16, "images has dtype float64"),
        (lambda images: images > 8, "images has dtype bool"),
        (lambda images: images + np.uint8(1), "images has values from 1 to 17"),
        (lambda images: images.astype(int) - 1, "images has values from -1 to 15"),
        (lambda images: images[:31], "batch_size is 32: it is more than the 31"),
    ],
)
def test_images_of_another_kind_are_refused(images, spoil, message):
    assert (images.min(), images.max()) == (0, 16)
    with pytest.raises(ValueError, match=message) as caught:
        fit(build(), spoil(images), CONFIG)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("members", "message"),
    [
        (
            {"seeds": (0, 1), "beta": (1, 2, 3)},
            r"seeds has the shape \[2\]: there are 3",
        ),
        ({"seeds": (0, 1), "latent_dims": ()}, r"latent_dims has the shape \[0\]"),
        ({"beta": [[1.0, 2.0]]}, "beta"),
    ],
)
def test_members_of_different_numbers_are_refused(images, members, message):
    with pytest.raises(ValueError, match=message):
        fit(build(), images, CONFIG, **members)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"seeds": 2**32}, "seeds is 4294967296: give integers from 0 to 4294967295"),
        ({"seeds": 2**70}, "give integers from 0 to 4294967295"),
        ({"seeds": -1}, "seeds is -1: give integers"),
        ({"seeds": 0.5}, "seeds is 0.5: give integers"),
        ({"seeds": [[0, 1], [2]]}, r"seeds is \[\[0, 1\], \[2\]\]: give integers"),
        (
            {"latent_dims": (2, 0)},
            r"latent_dims is \(2, 0\): give integers of",
        ),
        ({"beta": "1"}, "beta is '1': give finite numbers of at least 0"),
        ({"beta": float("inf")}, "beta is inf: give finite numbers"),
        ({"learning_rate": None}, "learning_rate is None: give finite numbers above 0"),
        ({"learning_rate": [0.0]}, r"learning_rate is \[0.0\]: give finite numbers"),
        ({"learning_rate": 1j}, "learning_rate is 1j: give finite numbers above 0"),
        ({"config": {"num_epochs": 1}}, "it must be of type TrainingConfig. Give Tr"),
        (
            {"model": "mlp"},
            "model is 'mlp': it must be of type VAE. Give what",
        ),
        ({"execution": "vmap"}, "execution is 'vmap': it is unknown.*auto, map, loop"),
        ({"devices": []}, r"devices is \[\]: give at least one"),
        ({"devices": "cpu"}, "devices is 'cpu': give at least one"),
        (
            {"validation_images": np.zeros((2, 15), np.uint8)},
            r"validation_images has shape \[2, 15\]",
        ),
        (
            {"model": make_vae(make_likelihood("beta", 300), **SHAPES)},
            "levels is 300: .* Give at most 256",
        ),
        ({"images": [[1, 2], [3]]}, "images is a list of arrays of different shapes"),
    ],
)
def test_values_of_another_kind_are_refused(images, given, message):
    """The refusal is one line, names the argument, and comes before compilation."""
    arguments = {"model": build(), "images": images, "config": CONFIG} | given
    with pytest.raises(ValueError, match=message) as caught:
        fit(**arguments)
    assert "\n" not in str(caught.value)


# --- trained models -------------------------------------------------------------------


def test_a_trained_model_speaks_of_images(images, trained):
    test = images[:10].reshape(10, 4, 4)
    for own, size in zip(trained, SIZES, strict=True):
        z = own.encode(test)
        assert z.shape == (10, size)
        for mean in (own.decode(z), own.reconstruct(test)):
            assert mean.shape == (10, 4, 4)
            assert 1 < mean.max() <= 16  # In units of the images.
            assert mean.min() >= 0
        assert own.reconstruct(images[:10]).shape == (10, 16)
        drawn = own.sample(7, jax.random.key(0))
        assert drawn.shape == (7, 4, 4)
        assert drawn.dtype == np.uint8
        assert set(np.unique(drawn)) == {0, 16}  # Its view is binary.
        assert own.elbo(test, 8).shape == own.log_prob(test, 8).shape == (10,)
        for again in (own.encode(test), own.encode(images[:10])):
            assert_same(again, z)
        assert_same(own.log_prob(test, 8), own.log_prob(test, 8))


@pytest.mark.parametrize("likelihood", ["discretized_logistic", "beta"])
def test_samples_are_integers_of_all_levels(images, likelihood):
    (own,) = fit(build(likelihood), images, CONFIG)
    drawn = own.sample(50, jax.random.key(0))
    assert drawn.dtype == np.uint8
    assert drawn.max() <= 16
    assert len(np.unique(drawn)) > 2


def test_bounds_are_those_of_the_importance_estimate(images, trained):
    own = trained[0]
    x = views.shared_draw("binary", views.TEST, images[:4], 17)
    keys = jax.vmap(jax.random.fold_in, (None, 0))(
        MemberKeys.of(own.key).evaluate, jnp.arange(4)
    )
    expected = jax.vmap(
        lambda key, x: importance_estimate(
            own.model, own.params, key, x, num_samples=20, chunk=20
        )
    )(keys, x)
    np.testing.assert_allclose(own.elbo(images[:4], 20), expected.elbo, rtol=1e-4)
    np.testing.assert_allclose(own.log_prob(images[:4], 20), expected.log_px, rtol=1e-4)
    # Of the mean: the ELBO has its KL in closed form.
    assert own.log_prob(images, 50).mean() > own.elbo(images, 50).mean()


@pytest.mark.parametrize(
    "z", [np.zeros(3), np.zeros((5, 2)), np.zeros((1, 5, 3)), np.zeros((0, 3)), None]
)
def test_other_latents_are_refused(trained, z):
    with pytest.raises(ValueError, match=r"the model has 3 latents. Give an array"):
        trained[0].decode(z)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda own, key: own.sample(0, key), "num_images is 0: it must be a whole"),
        (lambda own, key: own.sample(-1, key), "num_images is -1: it must be a whole"),
        (lambda own, key: own.sample(2.5, key), "num_images is 2.5: it must be"),
        (lambda own, key: own.sample(2, 7), "key is 7: it must be one typed key. Give"),
        (lambda own, key: own.sample(2, key[None]), "it must be one typed key"),
        (
            lambda own, key: own.decode([["a"] * 3]),
            "z is no array of real numbers. Give",
        ),
        (
            lambda own, key: own.decode([[1, 2, 3], [4]]),
            "z is no array of real numbers",
        ),
        *(
            (
                lambda own, key, name=name, k=k: getattr(own, name)(ONE_IMAGE, k),
                f"num_samples is {k!r}: it must be a whole number of at least 1",
            )
            for name in ("elbo", "log_prob")
            for k in (0, -1, 2.5, "5")
        ),
    ],
)
def test_a_trained_model_refuses_values_that_make_no_sense(trained, call, message):
    with pytest.raises(ValueError, match=message) as caught:
        call(trained[0], jax.random.key(0))
    assert "\n" not in str(caught.value)


def test_a_model_that_failed_computes_nothing(images):
    sound, failed = fit(
        build(), images, CONFIG, beta=(1.0, 1e38), learning_rate=(1e-3, 1e3)
    )
    assert not sound.failure
    assert np.isfinite(sound.elbo(images, 4)).all()
    assert failed.failure == "bound"
    for call in (
        lambda: failed.encode(images),
        lambda: failed.decode(np.zeros((1, 3))),
        lambda: failed.reconstruct(images),
        lambda: failed.sample(1, jax.random.key(0)),
        lambda: failed.elbo(images),
        lambda: failed.log_prob(images),
    ):
        with pytest.raises(FloatingPointError, match=r"not finite in bound\. Train it"):
            call()
