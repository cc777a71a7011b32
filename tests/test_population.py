import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.test_training import RECIPE, assert_same, build, member, train
from vae_jax import population, training
from vae_jax.training import Member, MemberKeys

SIZES = (2, 5, 3)
WIDEST = 5


def run_population(images, likelihood, execution, *, epochs=6, recipe=RECIPE):
    """Trains members of three latent sizes as one program; the stacked state."""
    models = [build(likelihood, size) for size in SIZES]
    keys = jnp.stack([member(seed).key for seed in range(len(SIZES))])
    mean = jnp.asarray(images.mean(0) / 16, jnp.float32)
    std = jnp.asarray(images.std(0) / 16, jnp.float32)
    state = population.compile_init(models, recipe, keys, mean, std)(keys, mean, std)
    members = Member(
        key=keys,
        beta=jnp.ones(len(SIZES)),
        learning_rate=jnp.full(len(SIZES), 3e-3),
        latent_mask=jnp.stack([population.latent_mask(s, WIDEST) for s in SIZES]),
    )
    widest = build(likelihood, WIDEST)
    one = functools.partial(training.train_epoch, widest, recipe)
    program = jax.jit(population.over_members(one, num_shared=1, execution=execution))
    for _ in range(epochs):
        state, _ = program(state, members, jnp.asarray(images))
    return state


@pytest.fixture(scope="module", params=["discretized_logistic", "gaussian_optimal"])
def trained(request, images):
    """A likelihood, and the final states of its models, each trained alone."""
    models = [build(request.param, size) for size in SIZES]
    return request.param, [
        train(model, RECIPE, member(index, model.latent_dim), images, 3)[0]
        for index, model in enumerate(models)
    ]


@pytest.mark.parametrize("likelihood", ["discretized_logistic", "bernoulli"])
def test_no_bit_of_the_first_state_depends_on_optimisation(likelihood, monkeypatch):
    def first_state():
        models = [build(likelihood, size) for size in SIZES]
        keys = jnp.stack([member(seed).key for seed in range(len(SIZES))])
        statistics = jnp.full(16, 0.4), jnp.full(16, 0.2)
        compiled = population.compile_init(models, RECIPE, keys, *statistics)
        return compiled(keys, *statistics)

    expected = first_state()
    monkeypatch.setattr(population, "_LARGEST_UNOPTIMIZED", 0)
    assert_same(first_state(), expected)


@pytest.mark.parametrize("execution", population.EXECUTIONS)
def test_a_padded_member_follows_the_model_trained_alone(images, trained, execution):
    likelihood, states = trained
    stacked = run_population(images, likelihood, execution)
    for index, alone in enumerate(states):
        own = jax.tree.map(lambda leaf, i=index: leaf[i], stacked)
        for mine, theirs in (
            (own.params, alone.params),
            (own.opt_state, alone.opt_state),
        ):
            unpadded = population.unpad(mine, theirs)
            for a, b in zip(
                jax.tree.leaves(unpadded), jax.tree.leaves(theirs), strict=True
            ):
                np.testing.assert_allclose(a, b, rtol=2e-3, atol=2e-5)
            # What was appended is still exactly zero after training.
            assert_same(mine, population.pad(unpadded, mine))


def test_members_start_at_their_own_fan_in(images):
    stacked = run_population(images, "bernoulli", "map", epochs=0)
    for index, size in enumerate(SIZES):
        model = build("bernoulli", size)
        key = MemberKeys.of(member(index).key).init
        mean = jnp.asarray(images.mean(0) / 16, jnp.float32)
        std = jnp.asarray(images.std(0) / 16, jnp.float32)
        alone = model.init(key, mean, std)
        own = jax.tree.map(lambda leaf, i=index: leaf[i], stacked.params)
        assert_same(population.unpad(own, alone), alone)


def test_pad_and_unpad_are_inverse():
    tree = {"kernel": jnp.arange(6.0).reshape(2, 3), "step": jnp.ones(())}
    wide = {"kernel": jnp.zeros((4, 5)), "step": jnp.zeros(())}
    padded = population.pad(tree, wide)
    assert padded["kernel"].shape == (4, 5)
    assert float(padded["kernel"].sum()) == 15.0
    assert_same(population.unpad(padded, tree), tree)


@pytest.mark.parametrize(
    ("objective", "microbatches"),
    [("elbo", 1), ("elbo_log_weight", 1), ("iwae", 1), ("iwae", 4)],
)
def test_padding_stays_zero_under_every_objective(images, objective, microbatches):
    """The log-weight of a padded latent has a gradient unless it is masked."""
    recipe = dataclasses.replace(
        RECIPE, objective=objective, num_samples=3, microbatches=microbatches
    )
    stacked = run_population(images, "bernoulli", "map", epochs=2, recipe=recipe)
    for index, size in enumerate(SIZES):
        own = jax.tree.map(lambda leaf, i=index: leaf[i], stacked.params)
        shapes = population.param_shapes(build("bernoulli", size), images.shape[1])
        assert_same(own, population.pad(population.unpad(own, shapes), own))
    alone, _ = train(
        build("bernoulli", SIZES[0]), recipe, member(0, SIZES[0]), images, 1
    )
    own = jax.tree.map(lambda leaf: leaf[0], stacked.params)
    for a, b in zip(
        jax.tree.leaves(population.unpad(own, alone.params)),
        jax.tree.leaves(alone.params),
        strict=True,
    ):
        np.testing.assert_allclose(a, b, rtol=2e-3, atol=2e-5)


@pytest.mark.parametrize("execution", population.EXECUTIONS)
def test_a_member_that_has_stopped_is_not_touched(images, execution):
    """Its neighbour trains on; it keeps every bit."""
    model = build()
    states, members = [], [member(seed) for seed in (0, 1)]
    for own in members:
        state, _ = train(model, RECIPE, own, images, 1)
        states.append(state)
    states[0] = states[0]._replace(active=jnp.bool_(False))
    stacked, stacked_members = (
        jax.tree.map(lambda *leaves: jnp.stack(leaves), *trees)
        for trees in (states, members)
    )

    def one(state, member, train_images, validation_x):
        state, _ = training.train_epoch(model, RECIPE, state, member, train_images)
        return training.validate(model, RECIPE, state, member, validation_x)

    program = jax.jit(population.over_members(one, num_shared=2, execution=execution))
    data = (jnp.asarray(images), jnp.asarray(images[:30], jnp.int32))
    after, validation = program(stacked, stacked_members, *data)
    assert_same(jax.tree.map(lambda leaf: leaf[0], after), states[0])
    assert int(after.epoch[1]) == 3
    assert list(np.asarray(validation.active)) == [False, True]
    assert float(validation.best_bound[0]) == float(states[0].best_bound)


def test_an_unknown_execution_is_refused():
    with pytest.raises(ValueError, match="'vmap': choose one of map, loop"):
        population.over_members(lambda x: x, num_shared=1, execution="vmap")


@pytest.mark.parametrize(
    ("devices", "members", "split"),
    [
        (1, 5, (1, 5)),
        (8, 12, (6, 2)),
        (8, 8, (8, 1)),
        (8, 13, (7, 2)),
        (5, 12, (4, 3)),
        (4, 7, (4, 2)),
        (3, 2, (2, 1)),
    ],
)
def test_members_are_split_evenly_with_little_padding(devices, members, split):
    assert population.even_split(members, devices) == split
