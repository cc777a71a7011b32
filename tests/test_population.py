import dataclasses
import math
from typing import ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.parts import ORDINARY_NETWORKS
from tests.test_training import CONFIG, assert_same, build, member, train
from vae_jax import population
from vae_jax.likelihoods import make_likelihood
from vae_jax.model import make_vae
from vae_jax.networks import MLP, NETWORKS, Network, OutputBias
from vae_jax.objectives import OBJECTIVES
from vae_jax.population import Layout, Population, check_padding
from vae_jax.population.programs import optimized
from vae_jax.training import MemberKeys, Trainer

AVERAGED = dataclasses.replace(CONFIG, ema=0.5)
SIZES = (2, 5, 3)
WIDEST = 5


def populate(models, execution="map", *, config=CONFIG, num_images=96):
    return Population(
        models,
        config,
        num_images,
        keys=jnp.stack([member(seed).key for seed in range(len(models))]),
        beta=np.ones(len(models)),
        learning_rate=np.full(len(models), 3e-3),
        execution=execution,
    )


def statistics(images):
    return [np.float32(found / 16) for found in (images.mean(0), images.std(0))]


def run_population(images, likelihood, execution, *, epochs=6, config=CONFIG):
    """Trains members of three latent sizes as one program; returns their state."""
    models = [build(likelihood, size) for size in SIZES]
    members = populate(models, execution, config=config)
    given = statistics(images)
    state = members.init(members.compile_init(*given), *given)
    program = members.compile_epoch(images)
    for _ in range(epochs):
        state, _ = program(state, members.placed_members, images)
    return state


@pytest.fixture(scope="module", params=["discretized_logistic", "gaussian_optimal"])
def trained(request, images):
    """Returns a likelihood and its models' final states, each trained alone."""
    models = [build(request.param, size) for size in SIZES]
    return request.param, [
        train(model, AVERAGED, member(index, model.latent_dim), images, 3)[0]
        for index, model in enumerate(models)
    ]


@pytest.mark.parametrize("likelihood", ["discretized_logistic", "bernoulli"])
def test_no_bit_of_the_first_state_depends_on_optimisation(likelihood, monkeypatch):
    def first_state():
        members = populate([build(likelihood, size) for size in SIZES])
        given = np.full(16, 0.4, np.float32), np.full(16, 0.2, np.float32)
        return members.init(members.compile_init(*given), *given)

    expected = first_state()
    monkeypatch.setattr("vae_jax.population.population._LARGEST_UNOPTIMIZED", 0)
    assert_same(first_state(), expected)


@pytest.mark.parametrize("execution", population.EXECUTIONS)
def test_a_padded_member_follows_the_model_trained_alone(images, trained, execution):
    likelihood, states = trained
    stacked = run_population(images, likelihood, execution, config=AVERAGED)
    for index, alone in enumerate(states):
        own = jax.tree.map(lambda leaf, i=index: leaf[i], stacked)
        for mine, theirs in (
            (own.params, alone.params),
            (own.opt_state, alone.opt_state),
            (own.average, alone.average),
        ):
            unpadded = population.unpad(mine, theirs)
            for a, b in zip(
                jax.tree.leaves(unpadded), jax.tree.leaves(theirs), strict=True
            ):
                np.testing.assert_allclose(a, b, rtol=2e-3, atol=2e-5)
            # The appended zeros are still exactly zero after training.
            assert_same(mine, population.pad(unpadded, mine))


def test_members_start_at_their_own_fan_in(images):
    stacked = run_population(images, "bernoulli", "map", epochs=0)
    for index, size in enumerate(SIZES):
        model = build("bernoulli", size)
        key = MemberKeys.of(member(index).key).init
        alone = model.init(key, *statistics(images))
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
    config = dataclasses.replace(
        CONFIG,
        objective=OBJECTIVES.make(objective, num_samples=3),
        microbatches=microbatches,
    )
    stacked = run_population(images, "bernoulli", "map", epochs=2, config=config)
    for index, size in enumerate(SIZES):
        own = jax.tree.map(lambda leaf, i=index: leaf[i], stacked.params)
        shapes = population.param_shapes(build("bernoulli", size))
        assert_same(own, population.pad(population.unpad(own, shapes), own))
    alone, _ = train(
        build("bernoulli", SIZES[0]), config, member(0, SIZES[0]), images, 1
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
        state, _ = train(model, AVERAGED, own, images, 1)
        states.append(state)
    states[0] = states[0]._replace(active=jnp.bool_(False))
    stacked, stacked_members = (
        jax.tree.map(lambda *leaves: jnp.stack(leaves), *trees)
        for trees in (states, members)
    )

    trainer = Trainer(model, AVERAGED, len(images))

    def one(state, member, train_images, validation_x):
        state, _ = trainer.epoch(state, member, train_images)
        return trainer.validate(state, member, validation_x)

    program = jax.jit(population.over_members(one, num_shared=2, execution=execution))
    data = (jnp.asarray(images), jnp.asarray(images[:30], jnp.int32))
    after, validation = program(stacked, stacked_members, *data)
    assert_same(jax.tree.map(lambda leaf: leaf[0], after), states[0])
    assert int(after.epoch[1]) == 3
    assert list(np.asarray(validation.active)) == [False, True]
    assert float(validation.best_bound[0]) == float(states[0].best_bound)


def test_an_unknown_execution_is_refused():
    with pytest.raises(
        ValueError, match=r"'vmap': it is unknown .*. Choose one of map"
    ):
        population.over_members(lambda x: x, num_shared=1, execution="vmap")


@pytest.mark.parametrize("network", ORDINARY_NETWORKS)
def test_on_a_cpu_small_dense_networks_alone_are_mapped(network):
    model = make_vae(
        make_likelihood("bernoulli", 2),
        image_shape=(4, 4, 1),
        latent_dim=2,
        network=network,
        widths=(4,),
    )
    execution = "map" if network in ("mlp", "gated") else "loop"
    assert populate([model, model], "auto").execution == execution
    assert populate([model], "auto").execution == "loop"


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
    layout = Layout.of(members, range(devices))
    assert (layout.num_used, layout.per_column) == split
    assert layout.devices == tuple(range(split[0]))
    # No other division has fewer members on the fullest device, and none of those
    # that have as many uses fewer devices.
    others = range(1, devices + 1)
    assert split[::-1] == min((-(-members // used), used) for used in others)


def test_columns_of_devices_share_a_batch():
    layout = Layout.of(3, range(8), batch=2)
    assert (layout.num_columns, layout.num_used, layout.per_column) == (4, 3, 1)
    assert layout.devices == tuple(range(6))
    layout = Layout.of(3, range(8), columns=2, batch=2)
    assert (layout.num_columns, layout.num_used, layout.per_column) == (2, 2, 2)


@pytest.mark.parametrize("level", [0, 1])
@pytest.mark.parametrize("platform", ["cpu", "gpu", "tpu"])
def test_options_of_the_cpu_are_for_the_cpu_alone(platform, level):
    assert bool(optimized(level, platform)) == (platform == "cpu")


# --- networks that say that they can be padded ----------------------------------------


class Concatenating(nn.Module):
    """A decoder that gets z once more after its hidden layer."""

    image_shape: tuple[int, ...]
    pixel_outputs: int

    def of_latents(self, z):
        return jnp.concatenate([z, nn.tanh(nn.Dense(4)(z))], -1)

    @nn.compact
    def __call__(self, z):
        size = self.pixel_outputs * math.prod(self.image_shape)
        h = nn.Dense(size, use_bias=False)(self.of_latents(z))
        h = h.reshape(*z.shape[:-1], self.pixel_outputs, -1)
        return OutputBias(name="bias")(h)


class Normalizing(Concatenating):
    """A decoder that divides by the spread of all latents, appended ones included."""

    def of_latents(self, z):
        return nn.LayerNorm()(z)


class Periodic(Concatenating):
    """A decoder with cos(z) as features: 1 of an appended zero."""

    def of_latents(self, z):
        return jnp.cos(z)


@dataclasses.dataclass(frozen=True)
class Claiming(MLP):
    """A network with another decoder that declares that it can be padded."""

    module: type[nn.Module] = Concatenating

    pads_exactly: ClassVar[bool] = True

    def decoder(self, image_shape, pixel_outputs):
        return self.module(image_shape, pixel_outputs)


@dataclasses.dataclass(frozen=True)
class Silent(Claiming):
    """The same network without this declaration."""

    pads_exactly: ClassVar[bool] = Network.pads_exactly


def of_sizes(network, *sizes):
    return [
        make_vae(
            make_likelihood("bernoulli", 17),
            image_shape=(4, 4, 1),
            latent_dim=size,
            network=network,
        )
        for size in sizes
    ]


@pytest.mark.parametrize("module", [Concatenating, Normalizing, Periodic])
def test_a_network_that_claims_to_pad_exactly_is_tried(module):
    network = Claiming((5,), module=module)
    with pytest.raises(ValueError, match="pads_exactly is True of Claiming") as caught:
        populate(of_sizes(network, 2, 3))
    assert "\n" not in str(caught.value)
    assert "declare pads_exactly = False" in str(caught.value)
    assert populate(of_sizes(network, 2, 2)).models  # Nothing is padded.


def test_a_network_that_does_not_declare_it_trains_one_size_at_a_time():
    network = Silent((5,))
    with pytest.raises(ValueError, match="Silent does not declare pads_exactly"):
        populate(of_sizes(network, 2, 3))
    assert populate(of_sizes(network, 3, 3)).models


@pytest.mark.parametrize(
    "name", [name for name, part in NETWORKS.items() if part.pads_exactly]
)
def test_our_networks_pad_exactly(name):
    models = [
        make_vae(
            make_likelihood("bernoulli", 17),
            image_shape=(8, 8, 1),
            latent_dim=size,
            network=name,
            network_options={"widths": (4,)},
        )
        for size in (2, 3)
    ]
    assert check_padding(models) is None
