import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from vae_jax import training, views
from vae_jax.likelihoods import make_likelihood
from vae_jax.model import make_vae
from vae_jax.training import Member, MemberKeys, Recipe, init_state, train_epochs

RECIPE = Recipe(batch_size=20, num_epochs=8, validate_every=2)


def build(likelihood="discretized_logistic", latent_dim=3):
    return make_vae(
        make_likelihood(likelihood, 17),
        image_shape=(4, 4, 1),
        latent_dim=latent_dim,
        widths=(12,),
    )


def member(seed=0, latent_dim=3, beta=1.0, learning_rate=3e-3):
    return Member(
        key=jax.random.fold_in(jax.random.key(7), seed),
        beta=jnp.float32(beta),
        learning_rate=jnp.float32(learning_rate),
        latent_mask=jnp.ones(latent_dim),
    )


def start(model, recipe, own, images):
    mean = jnp.asarray(images.mean(0) / 16, jnp.float32)
    std = jnp.asarray(images.std(0) / 16, jnp.float32)
    return init_state(recipe, model.init(MemberKeys.of(own.key).init, mean, std))


def train(model, recipe, own, images, calls):
    """State and metrics of each call."""
    likelihood = model.likelihood
    validation = views.observe(
        likelihood.view, jax.random.key(9), jnp.asarray(images[:30]), 17
    )
    state = start(model, recipe, own, images)
    run = jax.jit(functools.partial(train_epochs, model, recipe))
    history = []
    for _ in range(calls):
        state, metrics = run(state, own, jnp.asarray(images), validation)
        history.append(metrics)
    return state, history


def assert_same(one, two):
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(two), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("objective", ["elbo", "elbo_log_weight", "iwae"])
def test_training_raises_every_bound(images, objective):
    recipe = dataclasses.replace(RECIPE, objective=objective, num_samples=3)
    _, history = train(build(), recipe, member(), images, 6)
    bounds = [float(metrics.validation.bound) for metrics in history]
    assert bounds[-1] > bounds[0] + 2.0


def test_the_same_seed_gives_the_same_bits_and_another_does_not(images):
    first, _ = train(build(), RECIPE, member(0), images, 2)
    again, _ = train(build(), RECIPE, member(0), images, 2)
    other, _ = train(build(), RECIPE, member(1), images, 2)
    assert_same(first, again)
    kernels = [s.params["decoder"]["output"]["kernel"] for s in (first, other)]
    assert np.any(kernels[0] != kernels[1])


def test_epochs_in_one_call_or_in_several_are_the_same(images):
    one = dataclasses.replace(RECIPE, validate_every=4)
    other = dataclasses.replace(RECIPE, validate_every=1)
    first, _ = train(build(), one, member(), images, 1)
    second, _ = train(build(), other, member(), images, 4)
    for a, b in zip(
        jax.tree.leaves(first.params), jax.tree.leaves(second.params), strict=True
    ):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


def test_nothing_is_traced_twice(images):
    traces = []
    model = build()

    def counted(state, own, *data):
        traces.append(1)
        return train_epochs(model, RECIPE, state, own, *data)

    run = jax.jit(counted)
    own = member()
    state = start(model, RECIPE, own, images)
    data = (jnp.asarray(images), jnp.asarray(images[:30], jnp.int32))
    for _ in range(3):
        state, _ = run(state, own, *data)
    assert len(traces) == 1


def test_jit_equals_eager_for_one_step(images):
    model, own = build(), member()
    state = start(model, RECIPE, own, images)
    step = functools.partial(training.train_step, model, RECIPE)
    rest = (jnp.asarray(images[:20]), jnp.int32(3))
    eager, _ = step(state.params, state.opt_state, own, jax.random.key(5), *rest, 4)
    jitted, _ = jax.jit(step, static_argnums=6)(
        state.params, state.opt_state, own, jax.random.key(5), *rest, 4
    )
    for a, b in zip(jax.tree.leaves(eager[0]), jax.tree.leaves(jitted[0]), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)


def test_a_step_is_adam_on_the_batchs_mean_bound(images):
    """The update recomputed with optax's own Adam from the objective's gradient."""
    model, own = build(), member()
    recipe = RECIPE
    state = start(model, recipe, own, images)
    batch = jnp.asarray(images[:20])
    step_key = jax.random.key(11)
    (params, _), (means, norm) = training.train_step(
        model,
        recipe,
        state.params,
        state.opt_state,
        own,
        jax.random.clone(step_key),
        batch,
        jnp.int32(0),
        4,
    )
    _, latent_key, _ = jax.random.split(step_key, 3)

    def loss(params):
        terms = training.OBJECTIVES["elbo"](
            model, params, jax.random.clone(latent_key), batch.astype(jnp.int32)
        )
        return -terms.bound.mean()

    value, gradient = jax.value_and_grad(loss)(state.params)
    adam = optax.adam(3e-3)
    updates, _ = adam.update(gradient, adam.init(state.params), state.params)
    expected = optax.apply_updates(state.params, updates)
    assert means.bound == pytest.approx(-float(value), rel=1e-5)
    assert norm == pytest.approx(float(optax.tree.norm(gradient)), rel=1e-4)
    for a, b in zip(jax.tree.leaves(params), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)


def test_every_image_is_visited_once_an_epoch():
    """With a batch that divides the data, the first epoch's batches partition it."""
    seen = []
    model = build("bernoulli")
    recipe = dataclasses.replace(RECIPE, batch_size=16, validate_every=1)
    images = np.arange(96, dtype=np.uint8)[:, None] % 17 * np.ones((1, 16), np.uint8)
    images[:, 0] = np.arange(96) // 17
    original = training.train_step

    def spy(model, recipe, params, opt_state, own, key, batch, *rest):
        jax.debug.callback(lambda batch: seen.append(np.asarray(batch)), batch)
        return original(model, recipe, params, opt_state, own, key, batch, *rest)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(training, "train_step", spy)
        train(model, recipe, member(), images, 1)
    jax.effects_barrier()
    visited = np.concatenate(seen)
    assert len(seen) == 6
    assert {tuple(row) for row in visited} == {tuple(row) for row in images}
    assert len(visited) == 96


def test_best_parameters_are_those_of_the_best_validation(images):
    recipe = dataclasses.replace(RECIPE, num_epochs=40, validate_every=1)
    wild = member(learning_rate=0.3)  # so that the bound rises and falls
    state, history = train(build(), recipe, wild, images, 12)
    bounds = [float(metrics.validation.bound) for metrics in history]
    assert float(state.best_bound) == max(bounds)
    assert int(state.best_epoch) == 1 + int(np.argmax(bounds))
    assert bounds[-1] < max(bounds)
    validation = jnp.asarray(images[:30], jnp.int32)
    keys = MemberKeys.of(wild.key)
    again = training.validate(
        build(), recipe, state.best_params, wild, keys.evaluate, validation
    )
    assert float(again.bound) == pytest.approx(max(bounds), rel=1e-5)


def test_patience_ends_training_when_the_bound_no_longer_rises(images):
    recipe = dataclasses.replace(RECIPE, num_epochs=40, validate_every=1, patience=2)
    _, history = train(build(), recipe, member(learning_rate=0.3), images, 12)
    for epoch, metrics in enumerate(history, start=1):
        assert bool(metrics.active) == (epoch - int(metrics.best_epoch) < 2)
    assert not all(bool(metrics.active) for metrics in history)


def test_schedules_start_at_one_and_cosine_ends_at_zero():
    cosine = dataclasses.replace(RECIPE, schedule="cosine").learning_rate_factor(5)
    assert float(cosine(0)) == 1.0
    assert float(cosine(40)) == pytest.approx(0.0, abs=1e-6)
    assert float(RECIPE.learning_rate_factor(5)(40)) == 1.0


def test_kl_warm_up_rises_linearly_and_leaves_validation_alone(images):
    recipe = dataclasses.replace(RECIPE, kl_warmup_epochs=4)
    factor = recipe.kl_factor(5)
    np.testing.assert_allclose([factor(s) for s in (0, 10, 20, 99)], [0, 0.5, 1, 1])
    _, history = train(build(), recipe, member(), images, 1)
    validation = history[0].validation
    assert float(validation.bound) == pytest.approx(float(validation.elbo), rel=1e-5)
    # Half-way up, the training bound charges only a part of the KL.
    train_terms = jax.tree.map(lambda leaf: float(leaf[-1]), history[0].train)
    assert train_terms.bound > train_terms.elbo


def test_beta_selects_by_the_members_own_bound(images):
    _, history = train(build(), RECIPE, member(beta=4.0), images, 1)
    terms = jax.tree.map(float, history[0].validation)
    assert terms.bound == pytest.approx(terms.reconstruction - 4 * terms.kl, rel=1e-5)


def test_clipping_bounds_the_gradient_but_reports_it_unclipped(images):
    recipe = dataclasses.replace(RECIPE, clip_norm=1e-3)
    clipped, first = train(build(), recipe, member(), images, 1)
    free, second = train(build(), RECIPE, member(), images, 1)
    assert float(first[0].gradient_norm[0]) > 1e-3
    assert float(second[0].gradient_norm[0]) > 1e-3
    kernel = [s.params["decoder"]["output"]["kernel"] for s in (clipped, free)]
    assert np.any(kernel[0] != kernel[1])


def test_the_optimal_variance_converges_to_the_mean_squared_residual(images):
    recipe = dataclasses.replace(RECIPE, num_epochs=60, schedule="cosine")
    model, own = build("gaussian_optimal"), member()
    state, _ = train(model, recipe, own, images, 30)
    x = views.observe("continuous", jax.random.key(1), jnp.asarray(images), 17)
    _, z = training.draw_posterior(
        model, state.params, jax.random.key(2), x, 200, own.latent_mask
    )
    optimum = model.likelihood.optimal_shared(model.decode(state.params, z), x[None])
    np.testing.assert_allclose(state.params["shared"], optimum, atol=0.03)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"objective": "elob"}, "objective 'elob': choose one of elbo"),
        ({"schedule": "step"}, "schedule 'step': choose one of constant, cosine"),
        ({"validate_every": 3}, "num_epochs=8 is not a multiple of validate_every=3"),
    ],
)
def test_recipes_that_cannot_be_followed_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(RECIPE, **change)
