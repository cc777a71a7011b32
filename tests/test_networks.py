"""Tests of networks: their dependencies, and the autoregressive distribution."""

import functools
import itertools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import scipy.special

from tests.parts import ORDINARY_NETWORKS
from vae_jax import networks, population
from vae_jax.likelihoods import make_likelihood
from vae_jax.measure import evaluate
from vae_jax.model import VAE, Params, make_vae
from vae_jax.objectives import Elbo, ElboLogWeight

SHAPE = (5, 3, 2)  # odd sides and two channels: nothing fits by accident
NUM_PIXELS = 30

# Each program runs once or twice: not worth optimising.
jit = functools.partial(
    jax.jit, compiler_options={"xla_backend_optimization_level": "0"}
)


def build(network, likelihood="bernoulli", levels=2, **options):
    settings = {"image_shape": SHAPE, "latent_dim": 2, "widths": (6, 4), **options}
    model = make_vae(make_likelihood(likelihood, levels), network=network, **settings)
    mean = jnp.linspace(0.1, 0.9, int(np.prod(settings["image_shape"])))
    return model, jit(model.init)(jax.random.key(1), mean, 0.2 * mean)


def all_images(levels, num_pixels):
    return np.array(list(itertools.product(range(levels), repeat=num_pixels)))


def log_probs(model, params, x, z):
    """Returns log p(x|z) of every image x ``[N, D]`` at one z ``[latent]``."""
    each = jnp.broadcast_to(z, (1, len(x), z.size))
    return np.asarray(jit(model.log_likelihood)(params, x, each)[0])


class Case(NamedTuple):
    """A network by name, its model as initialised, and one program that runs it."""

    network: str
    model: VAE
    params: Params
    run: Callable[..., tuple[jax.Array, jax.Array]]  # outputs and posterior means


@pytest.fixture(scope="module", params=ORDINARY_NETWORKS)
def case(request):
    model, params = build(request.param)

    @jit
    def run(params, z, x):
        return model.decode(params, z, x), model.encode(params, x).mean

    return Case(request.param, model, params, run)


def test_a_decoder_starts_at_the_mean_image(case):
    outputs, _ = case.run(case.params, jnp.zeros((2, 2)), jnp.zeros((2, NUM_PIXELS)))
    means = case.model.likelihood.mean(outputs)
    for mean in means:
        np.testing.assert_allclose(mean, np.linspace(0.1, 0.9, NUM_PIXELS), rtol=1e-4)


def test_each_image_is_computed_by_itself(case):
    """Nothing is normalised over a batch."""
    z, x = jnp.array([[0.5, -1.0], [3.0, 2.0]]), jnp.full((2, NUM_PIXELS), 0.3)
    scale = jnp.array([[1.0], [2.0]])
    one, other = (
        case.run(case.params, z, x),
        case.run(case.params, scale * z, scale * x),
    )
    for before, after in zip(one, other, strict=True):
        np.testing.assert_allclose(before[0], after[0], rtol=1e-5, atol=1e-6)
        assert np.max(np.abs(before[1] - after[1])) > 1e-3


def test_each_pixel_has_its_own_bias(case):
    z, x = jnp.array([[0.5, -1.0], [3.0, 2.0]]), jnp.full((2, NUM_PIXELS), 0.3)
    before, _ = case.run(case.params, z, x)
    step = jnp.arange(NUM_PIXELS, dtype=jnp.float32)[None]
    bias = case.params["decoder"]["bias"]["pixels"] + step
    decoder = {**case.params["decoder"], "bias": {"pixels": bias}}
    after, _ = case.run({**case.params, "decoder": decoder}, z, x)
    for change in after - before:
        np.testing.assert_allclose(change, step, rtol=1e-4, atol=1e-4)


def test_zero_padded_latents_change_nothing_and_get_no_gradient(case):
    wide, wide_params = build(case.network, latent_dim=4)
    padded = population.pad(case.params, wide_params)
    x = jax.random.bernoulli(jax.random.key(2), 0.4, (3, NUM_PIXELS)).astype(float)
    key = jax.random.key(3)

    def bound(model, mask, params):
        return Elbo()(
            model, params, jax.random.clone(key), x, latent_mask=mask
        ).bound.mean()

    alone = jit(functools.partial(bound, case.model, jnp.ones(2)))(case.params)
    mask = jnp.array([1.0, 1.0, 0.0, 0.0])
    gradient = jit(jax.value_and_grad(functools.partial(bound, wide, mask)))
    value, gradients = gradient(padded)
    np.testing.assert_allclose(value, alone, rtol=1e-5)
    used = population.pad(jax.tree.map(jnp.ones_like, case.params), wide_params)
    for leaf, in_use in zip(
        jax.tree.leaves(gradients), jax.tree.leaves(used), strict=True
    ):
        assert np.all(np.isfinite(leaf))
        assert not np.any(np.asarray(leaf)[np.asarray(in_use) == 0])


def test_a_gated_layer_is_its_formula():
    encoder = networks.Gated((3,)).encoder(SHAPE, (("mean", 3),))
    x = jnp.linspace(-1, 1, 2 * NUM_PIXELS).reshape(2, NUM_PIXELS)
    params = encoder.init(jax.random.key(0), x)["params"]
    params = jax.tree.map(lambda leaf: leaf + 0.1, params)
    params["head"]["mean"] = {"kernel": jnp.eye(3), "bias": jnp.zeros(3)}

    def linear(layer):
        return np.asarray(x @ layer["kernel"] + layer["bias"][None])

    expected = linear(params["Dense_0"]) * scipy.special.expit(
        linear(params["Dense_1"])
    )
    actual = encoder.apply({"params": params}, x)["mean"]
    np.testing.assert_allclose(actual, expected, rtol=1e-5, atol=1e-6)


@pytest.fixture(scope="module", params=[("bernoulli", 2), ("discretized_logistic", 3)])
def autoregressive(request):
    """Returns a decoder of six or four dependent pixels, and every image."""
    name, levels = request.param
    shape = (3, 2, 1) if levels == 2 else (2, 2, 1)
    model, params = build(
        "pixelcnn", name, levels, image_shape=shape, widths=(4,), activation="tanh"
    )
    bias = params["decoder"].pop("bias")
    params["decoder"] = jax.tree.map(lambda leaf: 2 * leaf, params["decoder"])
    params["decoder"]["bias"] = bias
    x = all_images(levels, shape[0] * shape[1])
    dtype = jnp.float32 if levels == 2 else jnp.int32
    return model, params, jnp.asarray(x, dtype)


def test_outputs_depend_on_earlier_pixels_alone():
    model, params = build("pixelcnn", "beta", 17, activation="tanh")
    x = jnp.linspace(0.1, 0.9, NUM_PIXELS)
    z = jnp.array([0.5, -1.0])

    @jit
    @jax.jacrev
    def jacobian(x):
        return model.decode(params, z[None], x[None])[0]

    pixel = np.arange(NUM_PIXELS) // 2
    depends = np.any(np.asarray(jacobian(x)) != 0, axis=0)  # [output, input]
    assert not np.any(depends & (pixel[:, None] <= pixel[None]))
    row, column = pixel // 3, pixel % 3
    beside = (row[:, None] == row) & (column[:, None] == column + 1)
    above = (row[:, None] == row + 1) & (abs(column[:, None] - column) <= 1)
    assert np.all(depends[beside | above])


def test_probabilities_of_all_images_sum_to_one(autoregressive):
    model, params, x = autoregressive
    for z in (jnp.zeros(2), jnp.array([1.0, -2.0])):
        probability = np.exp(log_probs(model, params, x, z))
        assert probability.sum() == pytest.approx(1, abs=1e-5)


def test_pixels_are_drawn_one_after_another(autoregressive, key):
    """Counts of 6,000 draws are those of the exact masses: failure rate 1e-5.

    A chi-squared test over all images, of which the rare are taken together; and the
    means returned average to E[x|z] within 4.5 standard errors.
    """
    model, params, x = autoregressive
    z, count, levels = jnp.array([0.1, -0.1]), 6_000, model.likelihood.levels
    draw = jax.jit(model.sample_images)
    means, drawn = draw(params, key, jnp.broadcast_to(z, (count, 2)))
    means = np.asarray(means, np.float64)
    assert drawn.dtype == x.dtype
    mass = np.exp(log_probs(model, params, x, z).astype(np.float64))
    place = levels ** np.arange(x.shape[1])[::-1]
    counts = np.bincount(np.asarray(drawn, int) @ place, minlength=len(x))
    expected = count * mass / mass.sum()
    rare = expected < 10
    counts, expected = (
        np.append(values[~rare], values[rare].sum()) for values in (counts, expected)
    )
    keep = expected > 0
    statistic = ((counts - expected)[keep] ** 2 / expected[keep]).sum()
    assert scipy.special.chdtrc(keep.sum() - 1, statistic) > 1e-5

    # If pixels were independent given z, their joint masses would be far from these.
    marginals = [np.bincount(np.asarray(x[:, i], int), mass) for i in range(len(place))]
    independent = np.prod(
        [m[np.asarray(x[:, i], int)] for i, m in enumerate(marginals)], axis=0
    )
    assert np.abs(independent - mass).sum() > 0.1

    error = means.std(0) / np.sqrt(count)
    exact = mass @ np.asarray(x, np.float64)
    assert np.all(np.abs(means.mean(0) - exact) < 4.5 * error + 1e-5)


def test_an_autoregressive_decoder_is_evaluated_and_generates(autoregressive, key):
    model, params, x = autoregressive
    run = functools.partial(evaluate, model, num_samples=4, chunk=2, batch_size=5)
    evaluation = jit(run)(params, key, x[:5], x[:5].astype(jnp.uint8), jnp.ones(2))
    assert evaluation.squared_error.shape == (5,)
    for leaf in jax.tree.leaves(evaluation):
        assert np.all(np.isfinite(leaf))


def test_an_autoregressive_decoder_without_images_is_refused(autoregressive):
    model, params, _ = autoregressive
    with pytest.raises(ValueError, match=r"x is None, .* autoregressive"):
        model.decode(params, jnp.zeros((1, 2)))


@pytest.mark.parametrize("network", [networks.Conv, networks.ResNet])
def test_convolutions_without_widths_are_refused(network):
    with pytest.raises(ValueError, match=r"widths is \(\): .* one or more"):
        network(())


# --- precision and memory ---

PARTS = {
    **{network: {"network": network} for network in ORDINARY_NETWORKS},
    "flows": {"posterior": "inverse_autoregressive_flow", "prior": "flow"},
    "layers": {"posterior": "ladder", "upper_layers": (2,)},
    "layers upwards": {"posterior": "bottom_up", "upper_layers": (2,)},
}


def make(**options):
    options = {"image_shape": SHAPE, "latent_dim": 2, "widths": (6, 4), **options}
    return make_vae(make_likelihood("bernoulli", 2), **options)


def bound_of(model):
    """Returns the mean bound of images as a function of parameters and images."""

    def bound(params, x):
        terms = ElboLogWeight()(model, params, jax.random.key(3), x)
        return terms.bound.mean()

    return bound


def types_of_products(jaxpr):
    """Returns the operand types of a program's matrix products and convolutions."""
    types = set()
    for equation in jaxpr.eqns:
        if equation.primitive.name in ("dot_general", "conv_general_dilated"):
            types |= {operand.aval.dtype.name for operand in equation.invars}
        for value in jax.tree.leaves(
            list(equation.params.values()), is_leaf=lambda value: hasattr(value, "eqns")
        ):
            if hasattr(value, "eqns"):
                types |= types_of_products(getattr(value, "jaxpr", value))
    return types


@pytest.mark.parametrize("precision", networks.PRECISIONS)
@pytest.mark.parametrize("part", PARTS)
def test_the_precision_is_that_of_networks_and_of_nothing_else(part, precision):
    model = make(**PARTS[part], precision=precision)
    params = population.param_shapes(model)
    assert params == population.param_shapes(make(**PARTS[part]))
    x = jnp.zeros((5, NUM_PIXELS))
    program = jax.make_jaxpr(jax.value_and_grad(bound_of(model)))(params, x)
    # Convolutions as matrix products sum in float32, so their gradients hold both.
    types = types_of_products(program.jaxpr)
    assert precision in types
    assert types <= {precision, "float32"}

    def outputs(params):
        z = jnp.zeros((1, 5, model.latent_dim))
        posterior, prior = model.encode(params, x), model.prior(params)
        return model.decode(params, z, x[None]), posterior, prior.log_prob(z)

    results = (program.out_avals, jax.eval_shape(outputs, params), params)
    assert {leaf.dtype.name for leaf in jax.tree.leaves(results)} == {"float32"}


@pytest.mark.slow
def test_gradients_in_bfloat16_or_rematerialized_are_close(case):
    """Bounds in bfloat16 within 2^-8, its relative rounding; gradients within 6%."""
    x = jax.random.bernoulli(jax.random.key(2), 0.4, (5, NUM_PIXELS)).astype(float)

    def gradient(**options):
        model = make(network=case.network, **options)
        return jit(jax.value_and_grad(bound_of(model)))(case.params, x)

    value, plain = gradient()
    near, rounded = gradient(precision="bfloat16")
    again, recomputed = gradient(rematerialize=True)
    assert near != value
    np.testing.assert_allclose(near, value, rtol=2**-8)
    np.testing.assert_allclose(again, value, rtol=1e-5)
    for other, tolerance in ((rounded, 0.06), (recomputed, 1e-5)):
        error = optax.tree.norm(optax.tree.sub(other, plain))
        assert error < tolerance * optax.tree.norm(plain)


@pytest.mark.parametrize(
    ("network", "widths", "share"),
    [("mlp", (64,) * 8, 0.4), ("gated", (64,) * 8, 0.3), ("resnet", (8, 16), 0.35)],
)
def test_a_rematerialized_network_keeps_less_for_the_backward_pass(
    network, widths, share
):
    """The test counts the bytes that the forward pass leaves, besides parameters.

    The program is not compiled: on a CPU, XLA merges repeated computations.
    """

    def kept(rematerialize):
        model = make(
            network=network,
            image_shape=(8, 8, 1),
            widths=widths,
            rematerialize=rematerialize,
        )
        params = population.param_shapes(model)
        x = jax.ShapeDtypeStruct((256, 64), jnp.float32)
        forward = functools.partial(jax.vjp, bound_of(model))
        _, backward = jax.eval_shape(forward, params, x)
        shapes = {leaf.shape for leaf in jax.tree.leaves(params)}
        return sum(
            leaf.size * leaf.dtype.itemsize
            for leaf in jax.tree.leaves(backward)
            if leaf.shape not in shapes
        )

    assert kept(True) < share * kept(False)
