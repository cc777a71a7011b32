import dataclasses
import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from vae_jax import objectives, population, training, views
from vae_jax.distributions import latent_noise
from vae_jax.likelihoods import make_likelihood
from vae_jax.model import make_vae
from vae_jax.training import Member, MemberKeys, Recipe, init_state

pytestmark = pytest.mark.usefixtures("keys_are_used_once")

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


class Reports(NamedTuple):
    """What an epoch that ended in a validation reported."""

    epoch: training.EpochMetrics
    validation: training.Validation


# Tests of the same model and recipe share what was compiled.
STEP = jax.jit(training.train_step, static_argnums=(0, 1, 8))
EPOCH = jax.jit(training.train_epoch, static_argnums=(0, 1))
VALIDATE = jax.jit(training.validate, static_argnums=(0, 1))


def compile_anew(function):
    """A function of model and recipe, compiled as it is patched now."""
    return jax.jit(lambda *arguments: function(*arguments), static_argnums=(0, 1))


def train(model, recipe, own, images, validations, train_epoch=EPOCH):
    """The state after so many validations, and what was reported at each."""
    likelihood = model.likelihood
    validation_x = views.observe(
        likelihood.view, jax.random.key(9), jnp.asarray(images[:30]), 17
    )
    state = start(model, recipe, own, images)
    history = []
    for _ in range(validations):
        for _ in range(recipe.validate_every):
            state, metrics = train_epoch(model, recipe, state, own, jnp.asarray(images))
        state, validation = VALIDATE(model, recipe, state, own, validation_x)
        history.append(Reports(metrics, validation))
    return state, history


def assert_same(one, two):
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(two), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("objective", ["elbo", "elbo_log_weight", "iwae"])
def test_training_raises_every_bound(images, objective):
    recipe = dataclasses.replace(RECIPE, objective=objective, num_samples=3)
    _, history = train(build(), recipe, member(), images, 6)
    bounds = [float(metrics.validation.terms.bound) for metrics in history]
    assert bounds[-1] > bounds[0] + 2.0


def test_the_same_seed_gives_the_same_bits_and_another_does_not(images):
    first, _ = train(build(), RECIPE, member(0), images, 2)
    again, _ = train(build(), RECIPE, member(0), images, 2)
    other, _ = train(build(), RECIPE, member(1), images, 2)
    assert_same(first, again)
    kernels = [s.params["decoder"]["output"]["kernel"] for s in (first, other)]
    assert np.any(kernels[0] != kernels[1])


def test_validating_more_often_changes_no_bit(images):
    seldom = dataclasses.replace(RECIPE, validate_every=4)
    often = dataclasses.replace(RECIPE, validate_every=1)
    first, _ = train(build(), seldom, member(), images, 1)
    second, _ = train(build(), often, member(), images, 4)
    assert_same((first.params, first.opt_state), (second.params, second.opt_state))


def test_nothing_is_traced_twice(images):
    traces = []
    model = build()

    def counted(state, own, train_images):
        traces.append(1)
        return training.train_epoch(model, RECIPE, state, own, train_images)

    run = jax.jit(counted)
    own = member()
    state = start(model, RECIPE, own, images)
    for _ in range(3):
        state, _ = run(state, own, jnp.asarray(images))
    assert len(traces) == 1


def test_jit_equals_eager_for_one_step(images):
    model, own = build("bernoulli"), member()
    state = start(model, RECIPE, own, images)
    step = functools.partial(training.train_step, model, RECIPE)
    rest = (jnp.asarray(images[:20]), jnp.int32(3))
    eager, _ = step(state.params, state.opt_state, own, jax.random.key(5), *rest, 80)
    jitted, _ = jax.jit(step, static_argnums=6)(
        state.params, state.opt_state, own, jax.random.key(5), *rest, 80
    )
    for a, b in zip(jax.tree.leaves(eager[0]), jax.tree.leaves(jitted[0]), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("likelihood", ["discretized_logistic", "gaussian_shared"])
def test_a_step_is_adam_on_the_batchs_mean_bound(images, likelihood):
    """The update recomputed with optax's own Adam from the objective's gradient."""
    model, own = build(likelihood), member()
    recipe = RECIPE
    state = start(model, recipe, own, images)
    batch = jnp.asarray(images[:20])
    step_key = jax.random.key(11)
    (params, _), report = STEP(
        model,
        recipe,
        state.params,
        state.opt_state,
        own,
        jax.random.clone(step_key),
        batch,
        jnp.int32(0),
        80,
    )
    view_key, latent_key, _ = jax.random.split(step_key, 3)
    x = views.observe(model.likelihood.view, view_key, batch, 17)

    def loss(params):
        terms = objectives.elbo(model, params, jax.random.clone(latent_key), x)
        return -terms.bound.mean()

    value, gradient = jax.jit(jax.value_and_grad(loss))(state.params)
    adam = optax.adam(3e-3)
    updates, _ = adam.update(gradient, adam.init(state.params), state.params)
    expected = optax.apply_updates(state.params, updates)
    assert report.terms.bound == pytest.approx(-float(value), rel=1e-5)
    assert int(report.offender) == 0
    assert report.gradient_norm == pytest.approx(
        float(optax.tree.norm(gradient)), rel=1e-4
    )
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
        train(model, recipe, member(), images, 1, compile_anew(training.train_epoch))
    jax.effects_barrier()
    visited = np.concatenate(seen)
    assert len(seen) == 6
    assert {tuple(row) for row in visited} == {tuple(row) for row in images}
    assert len(visited) == 96


def test_best_parameters_are_those_of_the_best_validation(images):
    recipe = dataclasses.replace(RECIPE, num_epochs=40, validate_every=1)
    wild = member(learning_rate=0.3)  # so that the bound rises and falls
    state, history = train(build(), recipe, wild, images, 12)
    bounds = [float(metrics.validation.terms.bound) for metrics in history]
    assert float(state.best_bound) == max(bounds)
    assert int(state.best_epoch) == 1 + int(np.argmax(bounds))
    assert bounds[-1] < max(bounds)
    validation = jnp.asarray(images[:30], jnp.int32)
    terms = jax.jit(training.validation_terms, static_argnums=(0, 1))
    again = terms(build(), recipe, state.best_params, wild, validation)
    assert float(again.bound) == pytest.approx(max(bounds), rel=1e-5)


def test_patience_ends_training_when_the_bound_no_longer_rises(images):
    recipe = dataclasses.replace(RECIPE, num_epochs=40, validate_every=1, patience=2)
    state, history = train(build(), recipe, member(learning_rate=0.3), images, 12)
    active = [bool(reports.validation.active) for reports in history]
    stopped = active.index(False)
    assert not any(active[stopped:])
    bounds = [float(reports.validation.terms.bound) for reports in history]
    best = int(np.argmax(bounds[: stopped + 1]))
    assert stopped - best == 2
    assert (int(state.best_epoch), int(state.epoch)) == (best + 1, stopped + 1)


# --- values that are not finite -------------------------------------------------------


def break_a_step(monkeypatch, step, value, *, gradient=False):
    """Makes one step's reconstruction, or gradient alone, not finite."""
    original = training.gradient
    # A step is told by its KL factor: the warm-up rises with every step.
    recipe = dataclasses.replace(RECIPE, kl_warmup_epochs=100)
    factor = float(recipe.kl_factor(4)(step))

    def broken(model, recipe, params, member, keys, x, kl_factor, num_images):
        gradients, terms = original(
            model, recipe, params, member, keys, x, kl_factor, num_images
        )
        damage = jnp.where(jnp.isclose(kl_factor, factor, rtol=1e-5), value, 0.0)
        if gradient:
            return jax.tree.map(lambda leaf: leaf + damage, gradients), terms
        return gradients, terms._replace(reconstruction=terms.reconstruction + damage)

    monkeypatch.setattr(training, "gradient", broken)
    return recipe


@pytest.mark.parametrize("value", [jnp.nan, jnp.inf, -jnp.inf])
@pytest.mark.parametrize("gradient", [False, True])
def test_a_member_stops_before_a_step_that_is_not_finite(
    images, monkeypatch, value, gradient
):
    recipe = break_a_step(monkeypatch, 6, value, gradient=gradient)
    broken = compile_anew(training.train_epoch)
    state, _ = train(build(), recipe, member(), images, 2, broken)
    monkeypatch.undo()
    offender = training.OFFENDERS[int(state.failure.offender)]
    assert offender == ("gradient" if gradient else "reconstruction")
    assert (int(state.epoch), int(state.failure.batch)) == (1, 2)
    assert not bool(state.active)
    # It holds what six good steps gave.
    one_epoch = dataclasses.replace(recipe, validate_every=1)
    good, _ = train(build(), one_epoch, member(), images, 1)
    params, opt_state = good.params, good.opt_state
    keys = MemberKeys.of(member().key)
    batches = training.epoch_batches(keys, jnp.int32(1), len(images), 20)
    for index in (4, 5):
        (params, opt_state), _ = STEP(
            build(),
            recipe,
            params,
            opt_state,
            member(),
            jax.random.fold_in(keys.step, index),
            jnp.asarray(images)[batches[index - 4]],
            jnp.int32(index),
            len(images),
        )
    for a, b in zip(
        jax.tree.leaves((state.params, state.opt_state)),
        jax.tree.leaves((params, opt_state)),
        strict=True,
    ):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)


def test_a_step_that_is_not_finite_can_be_left_out(images, monkeypatch):
    recipe = break_a_step(monkeypatch, 6, jnp.nan)
    recipe = dataclasses.replace(recipe, on_non_finite="skip")
    broken = compile_anew(training.train_epoch)
    state, history = train(build(), recipe, member(), images, 2, broken)
    assert int(state.skipped) == 1
    assert bool(state.active)
    assert int(state.epoch) == 4
    assert int(state.failure.offender) == 0
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(state.params))
    # Neither does it count in the epoch's means.
    steps = len(images) // recipe.batch_size
    assert sum(float(each.epoch.steps) for each in history) == len(history) * steps - 1
    assert all(np.isfinite(jax.tree.leaves(each.epoch)).all() for each in history)


def test_a_validation_bound_that_is_not_finite_stops_the_member(images):
    model, own = build(), member()
    state = start(model, RECIPE, own, images)
    kernel = state.params["decoder"]["output"]["kernel"]
    state.params["decoder"]["output"]["kernel"] = kernel.at[0, 0].set(jnp.nan)
    x = jnp.asarray(images[:30], jnp.int32)
    after, validation = VALIDATE(model, RECIPE, state, own, x)
    offender = training.OFFENDERS[int(after.failure.offender)]
    assert offender == "validation bound"
    assert not bool(validation.active)
    assert_same(after.best_params, state.best_params)


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
    validation = history[0].validation.terms
    assert float(validation.bound) == pytest.approx(float(validation.elbo), rel=1e-5)
    # Half-way up, the training bound charges only a part of the KL.
    train_terms = jax.tree.map(lambda leaf: float(leaf), history[0].epoch.terms)
    assert train_terms.bound > train_terms.elbo


def test_beta_selects_by_the_members_own_bound(images):
    _, history = train(build(), RECIPE, member(beta=4.0), images, 1)
    terms = jax.tree.map(float, history[0].validation.terms)
    assert terms.bound == pytest.approx(terms.reconstruction - 4 * terms.kl, rel=1e-5)


def test_clipping_bounds_the_gradient_but_reports_it_unclipped(images):
    """Adam's first moments after one step are 1 - b1 of the gradient it was given."""
    model = build()
    own = member()
    state = start(model, RECIPE, own, images)

    def one_step(clip_norm):
        recipe = dataclasses.replace(RECIPE, clip_norm=clip_norm)
        (_, opt_state), report = STEP(
            model,
            recipe,
            state.params,
            recipe.optimizer().init(state.params),
            own,
            jax.random.key(11),
            jnp.asarray(images[:20]),
            jnp.int32(0),
            len(images),
        )
        moments = optax.tree.get(opt_state, "mu")
        return jax.tree.map(lambda leaf: leaf / (1 - recipe.adam_b1), moments), report

    free, unclipped = one_step(0.0)
    norm = float(unclipped.gradient_norm)
    assert norm == pytest.approx(float(optax.tree.norm(free)), rel=1e-5)
    clipped, report = one_step(norm / 4)
    assert float(report.gradient_norm) == pytest.approx(norm, rel=1e-6)
    jax.tree.map(
        lambda one, other: np.testing.assert_allclose(
            one, other / 4, rtol=1e-4, atol=1e-6 * norm
        ),
        clipped,
        free,
    )
    unreached, _ = one_step(4 * norm)
    assert_same(unreached, free)


def test_the_optimal_variance_converges_to_the_mean_squared_residual(images):
    recipe = dataclasses.replace(RECIPE, num_epochs=60, schedule="cosine")
    model, own = build("gaussian_optimal"), member()
    state, _ = train(model, recipe, own, images, 30)
    x = views.observe("continuous", jax.random.key(1), jnp.asarray(images), 17)
    z = model.encode(state.params, x).sample(
        latent_noise(jax.random.key(2), 200, len(x), model.latent_dim)
    )
    optimum = model.likelihood.optimal_shared(model.decode(state.params, z), x[None])
    np.testing.assert_allclose(state.params["shared"], optimum, atol=0.03)


# --- pieces ---------------------------------------------------------------------------


@pytest.mark.parametrize("execution", population.EXECUTIONS)
def test_an_epoch_in_pieces_is_the_epoch(images, monkeypatch, execution):
    """Also of members that fail amid a piece; to the bit one after another."""
    recipe = break_a_step(monkeypatch, 6, jnp.nan)
    model, train_images = build(), jnp.asarray(images)
    own = [member(seed) for seed in (0, 1)]
    members = jax.tree.map(lambda *leaves: jnp.stack(leaves), *own)
    expected = jax.tree.map(
        lambda *leaves: jnp.stack(leaves),
        *(start(model, recipe, one, images) for one in own),
    )
    functions = (
        functools.partial(training.train_epoch, model, recipe),
        functools.partial(training.train_piece, model, recipe, len(images)),
    )
    whole, piece = (
        jax.jit(population.over_members(f, num_shared=1, execution=execution))
        for f in functions
    )
    batches = jax.vmap(
        lambda one, epoch: training.epoch_batches(
            MemberKeys.of(one.key), epoch, len(images), recipe.batch_size
        ),
        in_axes=(0, None),
    )
    state = expected
    # What is left of an epoch before has no effect.
    sums = jax.tree.map(lambda _: jnp.full(2, jnp.nan), training.EpochMetrics.empty())
    for epoch in range(2):
        expected, means = whole(expected, members, train_images)
        of_steps = train_images[batches(members, epoch)]
        for first, last in ((0, 3), (3, 4)):
            assert state.epoch.tolist() == [epoch, epoch]
            state, sums = piece(
                state, sums, members, of_steps[:, first:last], jnp.int32(first)
            )
        if execution == "loop":
            assert_same((state, sums), (expected, means))
        for a, b in zip(*map(jax.tree.leaves, (state, expected)), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)
        for a, b in zip(*map(jax.tree.leaves, (sums, means)), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-4)
    assert state.failure.batch.tolist() == [2, 2]
    assert state.epoch.tolist() == [1, 1]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"objective": "elob"}, "objective 'elob' is unknown: choose one of elbo"),
        ({"schedule": "step"}, "schedule 'step' is unknown: choose one of constant"),
        ({"num_samples": 0}, "num_samples is 0: it must be at least 1"),
        ({"microbatches": 0}, "microbatches is 0: it must be at least 1"),
        ({"validate_every": 0}, "validate_every is 0: it must be at least 1"),
        ({"clip_norm": -1.0}, "clip_norm is -1.0: it must be at least 0"),
        ({"clip_norm": float("nan")}, "clip_norm is nan: it must be at least 0"),
        ({"objective": "ciwae", "mixing": 1.5}, r"mixing is 1.5: .* in \[0, 1\]"),
        ({"adam_eps": 0.0}, "adam_eps is 0.0: it must be above 0"),
        ({"microbatches": 3}, "batch_size=20 is not a multiple of microbatches=3"),
        (
            {"microbatches": 2, "objective": "mmd"},
            "microbatches=2 would cut the batch .* 'mmd'.*: set microbatches=1",
        ),
    ],
)
def test_recipes_that_cannot_be_followed_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(RECIPE, **change)


@pytest.mark.parametrize(
    ("num_epochs", "validate_every", "validated"),
    [
        (8, 2, [2, 4, 6, 8]),
        (25, 10, [10, 20, 25]),
        (2, 10, [2]),
        (1, 1, [1]),
        (11, 10, [10, 11]),
    ],
)
def test_the_last_epoch_is_always_validated(num_epochs, validate_every, validated):
    recipe = Recipe(num_epochs=num_epochs, validate_every=validate_every)
    epochs = range(1, num_epochs + 1)
    assert list(filter(recipe.validates_after, epochs)) == validated


def test_fewer_images_than_a_batch_are_refused():
    with pytest.raises(ValueError, match="batch_size=20 is more than the 19 images"):
        training.epoch_batches(MemberKeys.of(jax.random.key(0)), 0, 19, 20)


@pytest.mark.parametrize("objective", ["iwae", "dreg", "renyi", "thermodynamic"])
def test_a_scale_in_closed_form_needs_samples_that_count_equally(images, objective):
    recipe = dataclasses.replace(RECIPE, objective=objective, num_samples=2)
    model = build("gaussian_optimal")
    with pytest.raises(ValueError, match=r"choose .* 'gaussian_shared'"):
        train(model, recipe, member(), images, 1)
    recipe.check_likelihood(build("gaussian_shared").likelihood)
    dataclasses.replace(RECIPE, objective="stl", num_samples=2).check_likelihood(
        model.likelihood
    )


@pytest.mark.parametrize("num_epochs", [8, 100, 1000])
def test_tripling_stages_of_short_runs_start_at_one_and_end_at_a_tenth(num_epochs):
    recipe = dataclasses.replace(
        RECIPE, schedule="tripling_stages", num_epochs=num_epochs, validate_every=2
    )
    factors = jax.vmap(recipe.learning_rate_factor(5))(jnp.arange(5 * num_epochs))
    assert float(factors[0]) == 1.0
    assert float(factors[-1]) == pytest.approx(0.1)
    assert (np.diff(factors) <= 0).all()


def test_tripling_stages_are_those_of_the_paper():
    """3^i epochs at 10^(-i/7) of the rate, i = 0 ... 7: 3280 in all."""
    recipe = dataclasses.replace(
        RECIPE, schedule="tripling_stages", num_epochs=3280, validate_every=40
    )
    factor = jax.vmap(recipe.learning_rate_factor(2))
    stage = np.repeat(np.arange(8), 3 ** np.arange(8))
    epochs = np.arange(3280)
    np.testing.assert_allclose(
        [factor(2 * epochs), factor(2 * epochs + 1)],
        [10 ** (-stage / 7)] * 2,
        rtol=1e-5,
    )


# --- microbatches ---


def compile_gradient(recipe, model, batch):
    """The gradient of a batch, as a function of parameters, key and images."""

    def gradient(params, key, x):
        keys = training.StepKeys(view=key, latent=key, shared=key)
        return training.gradient(
            model, recipe, params, member(), keys, x, jnp.float32(0.5), 80
        )

    shapes = population.param_shapes(model, 16)
    x = jax.ShapeDtypeStruct((batch, 16), jnp.float32)
    return jax.jit(gradient).lower(shapes, jax.random.key(5), x).compile()


def test_microbatches_average_the_gradients_of_their_parts(images):
    recipe = dataclasses.replace(RECIPE, objective="iwae", num_samples=3)
    cut = dataclasses.replace(recipe, microbatches=4)
    model, key = build("gaussian_shared"), jax.random.key(5)
    params = start(model, recipe, member(), images).params
    x = jnp.asarray(images[:20] / 16, jnp.float32)
    actual, terms = compile_gradient(cut, model, 20)(params, key, x)
    of_part = compile_gradient(recipe, model, 5)
    parts = [of_part(params, jax.random.fold_in(key, i), x[i::4]) for i in range(4)]
    mean = jax.tree.map(lambda *leaves: sum(leaves) / 4, *(own for own, _ in parts))
    for a, b in zip(jax.tree.leaves(actual), jax.tree.leaves(mean), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)
    # Each image's terms are in its own place.
    for name, values in terms._asdict().items():
        assert values.shape == (20,)
        for i, (_, own) in enumerate(parts):
            np.testing.assert_allclose(
                values[i::4], getattr(own, name), rtol=1e-4, atol=1e-4
            )


def test_microbatches_take_less_memory():
    recipe, model = dataclasses.replace(RECIPE, batch_size=4000), build("laplace")
    whole, parts = (
        compile_gradient(
            dataclasses.replace(recipe, microbatches=count), model, 4000
        ).memory_analysis()
        for count in (1, 10)
    )
    assert parts.temp_size_in_bytes < 0.3 * whole.temp_size_in_bytes


def test_an_image_that_is_not_finite_is_found_in_its_microbatch(images):
    """The update is not taken, and each image's terms say which image it was."""
    model, own = build("gaussian_shared"), member()
    recipe = dataclasses.replace(RECIPE, microbatches=4)
    state = start(model, recipe, own, images)
    x = jnp.asarray(images[:20] / 16, jnp.float32).at[7, 0].set(jnp.nan)
    gradient = compile_gradient(recipe, model, 20)
    _, terms = gradient(state.params, jax.random.key(5), x)
    assert list(np.flatnonzero(~np.isfinite(terms.bound))) == [7]
    bias = state.params["decoder"]["bias"]
    bias["pixels"] = bias["pixels"].at[0, 0].set(jnp.nan)
    state, _ = EPOCH(model, recipe, state, own, jnp.asarray(images))
    assert training.OFFENDERS[int(state.failure.offender)] == "reconstruction"
    assert (int(state.failure.batch), bool(state.active)) == (0, False)
