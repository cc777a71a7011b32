import dataclasses
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from vae_jax import population, training, views
from vae_jax.distributions import latent_noise
from vae_jax.likelihoods import make_likelihood
from vae_jax.model import make_vae
from vae_jax.objectives import IWAE, MMD, OBJECTIVES, Elbo
from vae_jax.population import param_shapes
from vae_jax.training import Member, MemberKeys, Trainer, TrainingConfig

pytestmark = pytest.mark.usefixtures("keys_are_used_once")

CONFIG = TrainingConfig(batch_size=20, num_epochs=8, validate_every=2)


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


def start(trainer, own, images):
    mean = jnp.asarray(images.mean(0) / 16, jnp.float32)
    std = jnp.asarray(images.std(0) / 16, jnp.float32)
    return trainer.init(own.key, mean, std)


class Reports(NamedTuple):
    """The report of an epoch that ended in a validation."""

    epoch: training.EpochMetrics
    validation: training.Validation


# Tests of the same trainer share its compiled programs.
STEP, EPOCH, VALIDATE = (
    jax.jit(function, static_argnums=0)
    for function in (Trainer.step, Trainer.epoch, Trainer.validate)
)


def compile_again(function):
    """Compiles a method of a trainer, with its present patches."""
    return jax.jit(lambda *arguments: function(*arguments), static_argnums=0)


def train(model, config, own, images, validations, train_epoch=EPOCH):
    """Returns the state after so many validations, and the report of each."""
    likelihood = model.likelihood
    validation_x = views.observe(
        likelihood.view, jax.random.key(9), jnp.asarray(images[:30]), 17
    )
    trainer = Trainer(model, config, len(images))
    state = start(trainer, own, images)
    history = []
    for _ in range(validations):
        for _ in range(config.validate_every):
            state, metrics = train_epoch(trainer, state, own, jnp.asarray(images))
        state, validation = VALIDATE(trainer, state, own, validation_x)
        history.append(Reports(metrics, validation))
    return state, history


def assert_same(one, two):
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(two), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("objective", ["elbo", "elbo_log_weight", "iwae"])
def test_training_raises_every_bound(images, objective):
    config = dataclasses.replace(
        CONFIG, objective=OBJECTIVES.make(objective, num_samples=3)
    )
    _, history = train(build(), config, member(), images, 6)
    bounds = [float(metrics.validation.terms.bound) for metrics in history]
    assert bounds[-1] > bounds[0] + 2.0


def test_the_same_seed_gives_the_same_bits_and_another_does_not(images):
    first, _ = train(build(), CONFIG, member(0), images, 2)
    again, _ = train(build(), CONFIG, member(0), images, 2)
    other, _ = train(build(), CONFIG, member(1), images, 2)
    assert_same(first, again)
    kernels = [s.params["decoder"]["output"]["kernel"] for s in (first, other)]
    assert np.any(kernels[0] != kernels[1])


def test_validating_more_often_changes_no_bit(images):
    seldom = dataclasses.replace(CONFIG, validate_every=4)
    often = dataclasses.replace(CONFIG, validate_every=1)
    first, _ = train(build(), seldom, member(), images, 1)
    second, _ = train(build(), often, member(), images, 4)
    assert_same((first.params, first.opt_state), (second.params, second.opt_state))


def test_nothing_is_traced_twice(images):
    traces = []
    trainer = Trainer(build(), CONFIG, len(images))

    def counted(state, own, train_images):
        traces.append(1)
        return trainer.epoch(state, own, train_images)

    run = jax.jit(counted)
    own = member()
    state = start(trainer, own, images)
    for _ in range(3):
        state, _ = run(state, own, jnp.asarray(images))
    assert len(traces) == 1


def test_jit_equals_eager_for_one_step(images):
    trainer, own = Trainer(build("bernoulli"), CONFIG, 80), member()
    state = start(trainer, own, images)
    given = (state.params, state.opt_state, own, jnp.asarray(images[:20]), jnp.int32(3))
    eager, _ = trainer.step(*given)
    jitted, _ = STEP(trainer, *given)
    for a, b in zip(jax.tree.leaves(eager[0]), jax.tree.leaves(jitted[0]), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("likelihood", ["discretized_logistic", "gaussian_shared"])
def test_a_step_is_adam_on_the_batchs_mean_bound(images, likelihood):
    """The reference is optax's own Adam on the objective's gradient.

    The schedule is a cosine, whose rate differs from step to step; 20 of 32 steps were
    taken.
    """
    model, own = build(likelihood), member()
    config = dataclasses.replace(CONFIG, schedule="cosine")
    trainer, taken = Trainer(model, config, 80), 20
    state = start(trainer, own, images)
    batch = jnp.asarray(images[:20])
    (params, _), report = STEP(
        trainer, state.params, state.opt_state, own, batch, jnp.int32(taken)
    )
    step_key = jax.random.fold_in(MemberKeys.of(own.key).step, taken)
    view_key, latent_key, _ = jax.random.split(step_key, 3)
    x = views.observe(model.likelihood.view, view_key, batch, 17)

    def loss(params):
        terms = Elbo()(model, params, jax.random.clone(latent_key), x)
        return -terms.bound.mean()

    value, gradient = jax.jit(jax.value_and_grad(loss))(state.params)
    adam = optax.adam(3e-3 * (1 + math.cos(math.pi * taken / 32)) / 2)
    updates, _ = adam.update(gradient, adam.init(state.params), state.params)
    expected = optax.apply_updates(state.params, updates)
    assert report.terms.bound == pytest.approx(-float(value), rel=1e-5)
    assert int(report.offender) == 0
    assert report.gradient_norm == pytest.approx(
        float(optax.tree.norm(gradient)), rel=1e-4
    )
    for a, b in zip(jax.tree.leaves(params), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(a, b, atol=2e-6)


def test_every_image_is_visited_once_an_epoch():
    """With a batch that divides the data, the first epoch's batches partition it."""
    seen = []
    model = build("bernoulli")
    config = dataclasses.replace(CONFIG, batch_size=16, validate_every=1)
    images = np.arange(96, dtype=np.uint8)[:, None] % 17 * np.ones((1, 16), np.uint8)
    images[:, 0] = np.arange(96) // 17
    original = Trainer.step

    def spy(trainer, params, opt_state, own, batch, *rest):
        jax.debug.callback(lambda batch: seen.append(np.asarray(batch)), batch)
        return original(trainer, params, opt_state, own, batch, *rest)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Trainer, "step", spy)
        train(model, config, member(), images, 1, compile_again(Trainer.epoch))
    jax.effects_barrier()
    visited = np.concatenate(seen)
    assert len(seen) == 6
    assert {tuple(row) for row in visited} == {tuple(row) for row in images}
    assert len(visited) == 96


def test_best_parameters_are_those_of_the_best_validation(images):
    config = dataclasses.replace(CONFIG, num_epochs=40, validate_every=1)
    wild = member(learning_rate=0.3)  # so that the bound rises and falls
    state, history = train(build(), config, wild, images, 12)
    bounds = [float(metrics.validation.terms.bound) for metrics in history]
    assert float(state.best_bound) == max(bounds)
    assert int(state.best_epoch) == 1 + int(np.argmax(bounds))
    assert bounds[-1] < max(bounds)
    validation = jnp.asarray(images[:30], jnp.int32)
    terms = jax.jit(Trainer.validation_terms, static_argnums=0)
    trainer = Trainer(build(), config, len(images))
    again = terms(trainer, state.best_params, wild, validation)
    assert float(again.bound) == pytest.approx(max(bounds), rel=1e-5)


def test_patience_ends_training_when_the_bound_no_longer_rises(images):
    config = dataclasses.replace(CONFIG, num_epochs=40, validate_every=1, patience=2)
    state, history = train(build(), config, member(learning_rate=0.3), images, 12)
    active = [bool(reports.validation.active) for reports in history]
    stopped = active.index(False)
    assert not any(active[stopped:])
    bounds = [float(reports.validation.terms.bound) for reports in history]
    best = int(np.argmax(bounds[: stopped + 1]))
    assert stopped - best == 2
    assert (int(state.best_epoch), int(state.epoch)) == (best + 1, stopped + 1)


def test_the_average_is_validated_and_kept(images):
    config, own = dataclasses.replace(CONFIG, ema=0.9), member()
    state, (report,) = train(build(), config, own, images, 1)
    terms = jax.jit(Trainer.validation_terms, static_argnums=0)
    trainer, x = Trainer(build(), config, len(images)), jnp.asarray(images[:30], int)
    bound, of_params = (
        float(terms(trainer, params, own, x).bound)
        for params in (state.average, state.params)
    )
    assert report.validation.terms.bound == pytest.approx(bound, rel=1e-6)
    assert bound != pytest.approx(of_params, rel=1e-3)
    assert_same(state.best_params, state.average)


# --- values that are not finite -------------------------------------------------------


def break_a_step(monkeypatch, step, value, *, gradient=False):
    """Makes one step's reconstruction, or only its gradient, not finite."""
    original = Trainer.gradient
    # The warm-up, which rises with every step, identifies a step.
    config = dataclasses.replace(CONFIG, kl_warmup_epochs=100)
    factor = float(config.warmup(4)(step))

    def broken(trainer, params, member, key, x, warmup):
        gradients, terms = original(trainer, params, member, key, x, warmup)
        damage = jnp.where(jnp.isclose(warmup, factor, rtol=1e-5), value, 0.0)
        if gradient:
            return jax.tree.map(lambda leaf: leaf + damage, gradients), terms
        return gradients, terms._replace(reconstruction=terms.reconstruction + damage)

    monkeypatch.setattr(Trainer, "gradient", broken)
    return config


@pytest.mark.parametrize("value", [jnp.nan, jnp.inf, -jnp.inf])
@pytest.mark.parametrize("gradient", [False, True])
def test_a_member_stops_before_a_step_that_is_not_finite(
    images, monkeypatch, value, gradient
):
    config = break_a_step(monkeypatch, 6, value, gradient=gradient)
    broken = compile_again(Trainer.epoch)
    state, _ = train(build(), config, member(), images, 2, broken)
    monkeypatch.undo()
    offender = training.OFFENDERS[int(state.failure.offender)]
    assert offender == ("gradient" if gradient else "reconstruction")
    assert (int(state.epoch), int(state.failure.batch)) == (1, 2)
    assert not bool(state.active)
    # It holds the results of six good steps.
    one_epoch = dataclasses.replace(config, validate_every=1)
    good, _ = train(build(), one_epoch, member(), images, 1)
    params, opt_state = good.params, good.opt_state
    trainer = Trainer(build(), config, len(images))
    batches = trainer.batches(member().key, 1)
    for index in (4, 5):
        (params, opt_state), _ = STEP(
            trainer,
            params,
            opt_state,
            member(),
            jnp.asarray(images)[batches[index - 4]],
            jnp.int32(index),
        )
    for a, b in zip(
        jax.tree.leaves((state.params, state.opt_state)),
        jax.tree.leaves((params, opt_state)),
        strict=True,
    ):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)


def test_a_step_that_is_not_finite_can_be_left_out(images, monkeypatch):
    config = break_a_step(monkeypatch, 6, jnp.nan)
    config = dataclasses.replace(config, on_non_finite="skip")
    broken = compile_again(Trainer.epoch)
    state, history = train(build(), config, member(), images, 2, broken)
    assert int(state.skipped) == 1
    assert bool(state.active)
    assert int(state.epoch) == 4
    assert int(state.failure.offender) == 0
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(state.params))
    # It does not count in the epoch's means either.
    steps = len(images) // config.batch_size
    assert sum(float(each.epoch.steps) for each in history) == len(history) * steps - 1
    assert all(np.isfinite(jax.tree.leaves(each.epoch)).all() for each in history)


@pytest.mark.parametrize(("on_non_finite", "taken"), [("skip", 7), ("stop", 6)])
def test_the_average_is_that_of_the_steps_taken(
    images, monkeypatch, on_non_finite, taken
):
    """The reference is NumPy's, over the parameters after each step."""
    decay, images = 0.7, jnp.asarray(images)
    config = break_a_step(monkeypatch, 6, jnp.nan)
    config = dataclasses.replace(config, ema=decay, on_non_finite=on_non_finite)
    trainer = Trainer(build("gaussian_optimal"), config, len(images))
    piece, own = compile_again(Trainer.piece), member()
    state, sums = start(trainer, own, images), training.EpochMetrics.empty()
    trajectory = []
    for epoch in (0, 1):
        for index, batch in enumerate(trainer.batches(own.key, epoch)):
            before = state
            given = images[batch][None], jnp.int32(index)
            state, sums = piece(trainer, state, sums, own, *given)
            if np.array_equal(state.params["shared"], before.params["shared"]):
                assert_same(state.average, before.average)
                continue
            trajectory.append(state.params)
            weights = decay ** np.arange(len(trajectory))[::-1]
            expected = jax.tree.map(
                lambda *leaves, w=weights: np.tensordot(w / w.sum(), leaves, 1),
                *trajectory,
            )
            for a, b in zip(
                jax.tree.leaves(state.average), jax.tree.leaves(expected), strict=True
            ):
                np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-7)
    assert len(trajectory) == taken


def test_a_validation_bound_that_is_not_finite_stops_the_member(images):
    trainer, own = Trainer(build(), CONFIG, len(images)), member()
    state = start(trainer, own, images)
    kernel = state.params["decoder"]["output"]["kernel"]
    state.params["decoder"]["output"]["kernel"] = kernel.at[0, 0].set(jnp.nan)
    x = jnp.asarray(images[:30], jnp.int32)
    after, validation = VALIDATE(trainer, state, own, x)
    offender = training.OFFENDERS[int(after.failure.offender)]
    assert offender == "validation bound"
    assert not bool(validation.active)
    assert_same(after.best_params, state.best_params)


def test_schedules_start_at_one_and_cosine_ends_at_zero():
    cosine = dataclasses.replace(CONFIG, schedule="cosine").learning_rate_factor(5)
    assert float(cosine(0)) == 1.0
    assert float(cosine(40)) == pytest.approx(0.0, abs=1e-6)
    assert float(CONFIG.learning_rate_factor(5)(40)) == 1.0


def test_kl_warm_up_rises_linearly_and_leaves_validation_alone(images):
    config = dataclasses.replace(CONFIG, kl_warmup_epochs=4)
    factor = config.warmup(5)
    np.testing.assert_allclose([factor(s) for s in (0, 10, 20, 99)], [0, 0.5, 1, 1])
    _, history = train(build(), config, member(), images, 1)
    validation = history[0].validation.terms
    assert float(validation.bound) == pytest.approx(float(validation.elbo), rel=1e-5)
    # Half-way up, the training bound charges only a part of the KL.
    train_terms = jax.tree.map(lambda leaf: float(leaf), history[0].epoch.terms)
    assert train_terms.bound > train_terms.elbo


def test_beta_selects_by_the_members_own_bound(images):
    _, history = train(build(), CONFIG, member(beta=4.0), images, 1)
    terms = jax.tree.map(float, history[0].validation.terms)
    assert terms.bound == pytest.approx(terms.reconstruction - 4 * terms.kl, rel=1e-5)


def test_clipping_bounds_the_gradient_but_reports_it_unclipped(images):
    """Adam's first moments after one step are 1 - b1 of the gradient it was given."""
    own = member()
    state = start(Trainer(build(), CONFIG, len(images)), own, images)

    def one_step(clip_norm):
        config = dataclasses.replace(CONFIG, clip_norm=clip_norm)
        (_, opt_state), report = STEP(
            Trainer(build(), config, len(images)),
            state.params,
            config.optimizer().init(state.params),
            own,
            jnp.asarray(images[:20]),
            jnp.int32(0),
        )
        moments = optax.tree.get(opt_state, "mu")
        return jax.tree.map(lambda leaf: leaf / (1 - config.adam_b1), moments), report

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
    config = dataclasses.replace(CONFIG, num_epochs=60, schedule="cosine")
    model, own = build("gaussian_optimal"), member()
    state, _ = train(model, config, own, images, 30)
    x = views.observe("continuous", jax.random.key(1), jnp.asarray(images), 17)
    z = model.encode(state.params, x).sample(
        latent_noise(jax.random.key(2), 200, len(x), model.latent_dim)
    )
    optimum = model.likelihood.optimal_shared(model.decode(state.params, z), x[None])
    np.testing.assert_allclose(state.params["shared"], optimum, atol=0.03)


# --- pieces ---------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("execution", population.EXECUTIONS)
def test_an_epoch_in_pieces_is_the_epoch(images, monkeypatch, execution):
    """Members may fail in a piece; sequential members agree to the bit."""
    config = break_a_step(monkeypatch, 6, jnp.nan)
    trainer = Trainer(build(), dataclasses.replace(config, ema=0.5), len(images))
    train_images = jnp.asarray(images)
    own = [member(seed) for seed in (0, 1)]
    members = jax.tree.map(lambda *leaves: jnp.stack(leaves), *own)
    expected = jax.tree.map(
        lambda *leaves: jnp.stack(leaves),
        *(start(trainer, one, images) for one in own),
    )
    whole, piece = (
        jax.jit(
            population.over_members(f, num_shared=1, execution=execution),
            # Equal bits need programs that are compiled as for users (see the
            # Makefile).
            compiler_options={"xla_backend_extra_options": ""},
        )
        for f in (trainer.epoch, trainer.piece)
    )
    batches = jax.vmap(
        lambda one, epoch: trainer.batches(one.key, epoch), in_axes=(0, None)
    )
    state = expected
    # The sums of an earlier epoch have no effect.
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
        (
            {"schedule": "step"},
            "schedule is 'step': it is unknown. Choose one of constant",
        ),
        ({"microbatches": 0}, "microbatches is 0: it must be a whole number of at"),
        ({"validate_every": 0}, "validate_every is 0: it must be a whole number of"),
        ({"num_epochs": 1.5}, "num_epochs is 1.5: it must be a whole number of"),
        ({"batch_size": "8"}, "batch_size is '8': it must be a whole number of"),
        ({"objective": "elbo"}, "objective is 'elbo': it must be of type Objective"),
        ({"clip_norm": -1.0}, "clip_norm is -1.0: it must be at least 0"),
        (
            {"clip_norm": float("nan")},
            "clip_norm is nan: it must be finite",
        ),
        ({"adam_eps": 0.0}, "adam_eps is 0.0: it must be above 0"),
        (
            {"microbatches": 3},
            "batch_size is 20: it is not a multiple of microbatches, 3. Change one",
        ),
        (
            {"microbatches": 2, "objective": MMD()},
            "microbatches is 2: the objective 'mmd' .* whole. Set microbatches=1",
        ),
    ],
)
def test_configs_that_cannot_be_followed_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(CONFIG, **change)


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
    config = TrainingConfig(num_epochs=num_epochs, validate_every=validate_every)
    epochs = range(1, num_epochs + 1)
    assert list(filter(config.validates_after, epochs)) == validated


def test_fewer_images_than_a_batch_are_refused():
    with pytest.raises(
        ValueError, match=r"batch_size is 20: .* more than the 19 images"
    ):
        Trainer(build(), CONFIG, 19)


@pytest.mark.parametrize("objective", ["iwae", "dreg", "renyi", "thermodynamic"])
def test_a_scale_in_closed_form_needs_samples_that_count_equally(images, objective):
    weighs = OBJECTIVES.make(objective, num_samples=2)
    model = build("gaussian_optimal")
    with pytest.raises(ValueError, match=r"Choose .* 'gaussian_shared'"):
        Trainer(model, dataclasses.replace(CONFIG, objective=weighs), len(images))
    weighs.check(build("gaussian_shared"))
    OBJECTIVES.make("stl", num_samples=2).check(model)


@pytest.mark.parametrize("num_epochs", [8, 100, 1000])
def test_tripling_stages_of_short_runs_start_at_one_and_end_at_a_tenth(num_epochs):
    config = dataclasses.replace(
        CONFIG, schedule="tripling_stages", num_epochs=num_epochs, validate_every=2
    )
    factors = jax.vmap(config.learning_rate_factor(5))(jnp.arange(5 * num_epochs))
    assert float(factors[0]) == 1.0
    assert float(factors[-1]) == pytest.approx(0.1)
    assert (np.diff(factors) <= 0).all()


def test_tripling_stages_are_those_of_the_paper():
    """Stage i = 0 ... 7 has 3^i epochs at 10^(-i/7) of the rate: 3280 in all."""
    config = dataclasses.replace(
        CONFIG, schedule="tripling_stages", num_epochs=3280, validate_every=40
    )
    factor = jax.vmap(config.learning_rate_factor(2))
    stage = np.repeat(np.arange(8), 3 ** np.arange(8))
    epochs = np.arange(3280)
    np.testing.assert_allclose(
        [factor(2 * epochs), factor(2 * epochs + 1)],
        [10 ** (-stage / 7)] * 2,
        rtol=1e-5,
    )


# --- microbatches ---


def compile_gradient(config, model, batch):
    """Compiles a batch's gradient as a function of parameters, key and images."""
    trainer = Trainer(model, config, 8000)

    def gradient(params, key, x):
        return trainer.gradient(params, member(), key, x, jnp.float32(0.5))

    shapes = param_shapes(model)
    x = jax.ShapeDtypeStruct((batch, 16), jnp.float32)
    return jax.jit(gradient).lower(shapes, jax.random.key(5), x).compile()


def test_microbatches_average_the_gradients_of_their_parts(images):
    config = dataclasses.replace(CONFIG, objective=IWAE(num_samples=3))
    cut = dataclasses.replace(config, microbatches=4)
    model, key = build("gaussian_shared"), jax.random.key(5)
    params = start(Trainer(model, config, len(images)), member(), images).params
    x = jnp.asarray(images[:20] / 16, jnp.float32)
    actual, terms = compile_gradient(cut, model, 20)(params, key, x)
    of_part = compile_gradient(config, model, 5)
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
    config, model = dataclasses.replace(CONFIG, batch_size=4000), build("laplace")
    whole, parts = (
        compile_gradient(
            dataclasses.replace(config, microbatches=count), model, 4000
        ).memory_analysis()
        for count in (1, 10)
    )
    assert parts.temp_size_in_bytes < 0.3 * whole.temp_size_in_bytes


def test_an_image_that_is_not_finite_is_found_in_its_microbatch(images):
    """The update is not taken, and each image's terms say which image it was."""
    model, own = build("gaussian_shared"), member()
    config = dataclasses.replace(CONFIG, microbatches=4)
    trainer = Trainer(model, config, len(images))
    state = start(trainer, own, images)
    x = jnp.asarray(images[:20] / 16, jnp.float32).at[7, 0].set(jnp.nan)
    gradient = compile_gradient(config, model, 20)
    _, terms = gradient(state.params, jax.random.key(5), x)
    assert list(np.flatnonzero(~np.isfinite(terms.bound))) == [7]
    bias = state.params["decoder"]["bias"]
    bias["pixels"] = bias["pixels"].at[0, 0].set(jnp.nan)
    state, _ = EPOCH(trainer, state, own, jnp.asarray(images))
    assert training.OFFENDERS[int(state.failure.offender)] == "reconstruction"
    assert (int(state.failure.batch), bool(state.active)) == (0, False)
