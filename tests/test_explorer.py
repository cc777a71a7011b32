"""Tests of the explorer's programs: they give JAX's numbers, without JAX."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.ad_checkpoint import checkpoint_name
from sklearn.datasets import load_digits

from experiments.explorer import models
from experiments.explorer.operations import FORMULAS
from experiments.explorer.programs import MissingError, Weights, program
from tests.browser import needs_chromium
from tests.explorer_scripts import in_chromium, in_node, needs_node
from tests.test_trained import build
from vae_jax import views
from vae_jax.fitting import fit
from vae_jax.likelihoods import LIKELIHOODS, make_likelihood
from vae_jax.model import make_vae
from vae_jax.networks import ACTIVATIONS
from vae_jax.networks.convolutions import convolve
from vae_jax.per_image import map_batches
from vae_jax.posteriors import POSTERIORS
from vae_jax.training import TrainingConfig

# --- primitives ---

IMAGES = np.random.default_rng(0).normal(size=(2, 5, 6, 4)).astype(np.float32)
KERNEL = np.random.default_rng(1).normal(size=(3, 3, 2, 6)).astype(np.float32)
PLAIN = np.random.default_rng(2).normal(size=(3, 3, 4, 2)).astype(np.float32)
NHWC, NCHW = ("NHWC", "HWIO", "NHWC"), ("NCHW", "OIHW", "NCHW")


def convolution(**options):
    options = {"window_strides": (1, 1), "padding": "SAME"} | options
    options["feature_group_count"] = 2
    return lambda x: jax.lax.conv_general_dilated(
        x, KERNEL, dimension_numbers=NHWC, **options
    )


def channels_first(x):
    return jax.lax.conv_general_dilated(
        x.transpose(0, 3, 1, 2),
        KERNEL.transpose(3, 2, 0, 1),
        (1, 2),
        "VALID",
        dimension_numbers=NCHW,
        feature_group_count=2,
    )


def swapped(x):
    """Returns the states of a loop that exchanges them, and the rows that it makes."""

    def body(state, row):
        return (state[1] + 1, state[0] + row.sum()), (2 * row, state[0])

    return jax.lax.scan(body, (0.0, 1.0), x.reshape(10, -1), reverse=True)


FUNCTIONS = {
    "a convolution": convolution(),
    "strides": convolution(window_strides=(2, 1)),
    "a transposed convolution": convolution(
        padding=((2, 1), (2, 1)), lhs_dilation=(2, 2)
    ),
    "a dilated kernel": convolution(rhs_dilation=(1, 2)),
    "channels first": channels_first,
    "products": lambda x: jnp.einsum(
        "abcd,adef->cbef", x[:1], x.transpose(2, 3, 1, 0)[:1]
    ),
    "a column": lambda x: x.reshape(-1, 4) @ x[0, 0, 0],
    "a transposition": lambda x: x.transpose(2, 0, 3, 1),
    "slices": lambda x: x[:, ::-1, 1:4:2],
    "padding": lambda x: jnp.pad(x, 1, constant_values=3.0),
    "stacks": lambda x: jnp.stack([x, x + 1], 2),
    "parts": lambda x: jnp.concatenate(jnp.split(x, 2, axis=-1)[::-1], axis=1),
    "repetition": lambda x: (jnp.tile(x, (1, 2, 1, 3)), jnp.repeat(x, 2, axis=1)),
    "sums": lambda x: (x.sum(0), x.sum((1, 3)), jnp.cumsum(x, 1), x.prod(-1)),
    "extremes": lambda x: (x.max((0, 2)), x.min(1), x.argmax(1), x.argmin(-1)),
    "running extremes": lambda x: jax.lax.cummax(x, 2, reverse=True),
    "truth": lambda x: ((x > 0).any(1), (x > -3).all((0, 2)), ~(x > 0) ^ (x < 1)),
    "places": lambda x: jnp.take_along_axis(x, jnp.abs(x[:, :3] * 2).astype(int), 1),
    "clipped places": lambda x: jnp.take(x[0, 0], (9 * x).astype(int), 0, mode="clip"),
    "absent places": lambda x: (
        jnp.take(x[0, 0], (9 * x).astype(int), 0),
        jnp.take(x[0, 0], (9 * x).astype(int), 0, mode="fill", fill_value=7.0),
        jnp.take(x[0, 0] > 0, (9 * x).astype(int), 0),
    ),
    "a place that depends on x": lambda x: jax.lax.dynamic_slice(
        x, [x[0, 0, 0, 0].astype(int), 9, 1, 0], (1, 2, 4, 3)
    ),
    "writing": lambda x: jnp.asarray(x).at[:, np.array([3, 1]), 2].set(x[:, :2, 0]),
    "a loop": lambda x: jax.lax.fori_loop(
        1, 7, lambda i, t: t / 2 + jnp.tanh(x - i), x
    ),
    "a loop over rows": swapped,
    "mapped kernels": lambda x: jax.vmap(
        lambda kernel: convolve(x, kernel, (1, 1), "SAME", form="unrolled")
    )(jnp.stack([PLAIN, 2 * PLAIN])),
    "a choice": lambda x: jax.lax.cond(True, jnp.sin, jnp.cos, x),
    "many constants": lambda x: x.reshape(-1, 1) + jnp.log(jnp.full((240, 9), 2.0)),
    "whole numbers": lambda x: (
        (9 * x).astype(int) // 4 + jnp.round(x * 2).astype(int) % 3
    ),
    "gelu": lambda x: jax.nn.gelu(x, approximate=False),
    "error functions": lambda x: (jax.scipy.special.erf(x), jax.scipy.special.erfc(x)),
    "powers": lambda x: (x**3, x**-2, jnp.abs(x) ** 0.3),
    "softmax": lambda x: jax.nn.log_softmax(x, axis=1),
    "rounding": lambda x: 3 * x.astype(jnp.bfloat16).astype(jnp.float32),
    "gradients": jax.grad(lambda x: (x * jnp.sin(x)).sum()),
    "rows": lambda x: jnp.unstack(x, axis=1),
    "names": lambda x: jax.device_put(checkpoint_name(x, "x")) + 1,
    "no numbers": lambda x: (
        x[:0].sum(0) + x[0],
        x[:, :0].transpose(0, 2, 3, 1) @ x[:, :0].transpose(0, 2, 1, 3),
        jnp.concatenate([x, x[:, :0]], 1) @ jnp.ones((4, 0)),
        jax.lax.scan(lambda state, row: (row, row), x[0], x[:0]),
    ),
    "rematerialized": jax.checkpoint(lambda x: jnp.sin(x) @ jnp.ones((4, 2))),
}


def described(functions, *likes, defaults=None):
    """Returns a model whose programs are these functions of x, y, ... -> arrays."""
    weights = Weights()

    def named(function):
        return lambda *arrays: {
            str(i): leaf.astype(jnp.float32)
            for i, leaf in enumerate(jax.tree.leaves(function(*arrays)))
        }

    inputs = dict(zip("xyz", likes, strict=False))
    made = {
        name: program(named(function), inputs, defaults or {}, weights)
        for name, function in functions.items()
    }
    return {"programs": made, "weights": weights.described()}


@needs_node
def test_primitives_give_the_numbers_of_jax():
    inputs = {"x": IMAGES[None]}
    like = jax.ShapeDtypeStruct(IMAGES.shape, IMAGES.dtype)
    found = in_node(described(FUNCTIONS, like), [(name, inputs) for name in FUNCTIONS])
    for outputs, (name, function) in zip(found, FUNCTIONS.items(), strict=True):
        wanted = jax.tree.leaves(function(IMAGES))
        assert len(outputs) == len(wanted)
        for i, leaf in enumerate(wanted):
            want = np.asarray(leaf, np.float32).ravel()
            np.testing.assert_allclose(
                outputs[str(i)][0], want, rtol=2e-6, atol=2e-6, err_msg=name
            )


# Formulas whose arguments are not all real numbers, or that JAX knows by another name.
ELSEWHERE = {"and", "bfloat16", "not", "or", "select_n", "trunc", "xor"}


@needs_node
def test_formulas_give_the_numbers_of_jax():
    x = np.array([-2.5, -1.0, -0.3, 0.0, 0.5, 1.5, 2.5, 30.0], np.float32)
    y, z = np.float32([3, -1, 0.3, 1, -0.5, 2.5, -2, 1]), np.full(8, 2.5, np.float32)
    own = {
        "clamp": lambda x, y, z: jax.lax.clamp(y, x, z),
        "lgamma": lambda x, y, z: jax.lax.lgamma(x + 5),
        "poles": lambda x, y, z: jax.lax.lgamma(jnp.minimum(jnp.floor(x), 0)),
        "round": lambda x, y, z: jnp.round(x),
    }
    for name in FORMULAS.keys() - ELSEWHERE - own.keys():
        function = getattr(jax.lax, name)
        unary = "y" not in FORMULAS[name]
        own[name] = (
            (lambda x, y, z, f=function: f(x))
            if unary
            else (lambda x, y, z, f=function: f(x, y))
        )
    like = jax.ShapeDtypeStruct(x.shape, x.dtype)
    calls = [(name, {"x": x[None], "y": y[None], "z": z[None]}) for name in own]
    found = in_node(described(own, like, like, like), calls)
    for outputs, (name, function) in zip(found, own.items(), strict=True):
        want = np.asarray(function(x, y, z), np.float32)
        close = {"rtol": 2e-6, "atol": 3e-8}
        np.testing.assert_allclose(outputs["0"][0], want, **close, err_msg=name)


@needs_node
def test_an_input_with_a_default_may_be_left_out():
    like = jax.ShapeDtypeStruct((3,), jnp.float32)
    functions = {"sum": lambda x, y: x + y}
    model = described(functions, like, like, defaults={"y": np.float32([5, 6, 7])})
    ones = np.ones((1, 3), np.float32)
    left_out, given = in_node(
        model, [("sum", {"x": ones}), ("sum", {"x": ones, "y": ones})]
    )
    np.testing.assert_array_equal(left_out["0"], [[6, 7, 8]])
    np.testing.assert_array_equal(given["0"], [[2, 2, 2]])


@needs_node
@pytest.mark.parametrize(
    ("call", "message"),
    [
        (("sum", {"x": np.ones((1, 4))}), "The input x of sum has 4 numbers, not 3."),
        (("sum", {"y": np.ones((1, 3))}), "The input x of sum has no numbers, not 3."),
        (("product", {"x": np.ones((1, 3))}), "The model has no program product."),
    ],
)
def test_the_engine_refuses_calls_in_a_sentence(call, message):
    like = jax.ShapeDtypeStruct((3,), jnp.float32)
    model = described({"sum": lambda x: x}, like)
    with pytest.raises(AssertionError, match=message):
        in_node(model, [call])


def test_a_function_is_refused_by_the_name_of_its_primitive():
    like = jax.ShapeDtypeStruct((3,), jnp.float32)

    def repeated(x):
        return jax.lax.while_loop(lambda x: x.sum() < 9, lambda x: x + 1, x)

    for function, name in (
        (jnp.sort, "sort"),
        (repeated, "while"),
        (lambda x: jnp.abs(jnp.exp(1j * x)), "abs of complex64"),
        (
            lambda x: x.astype(jnp.float8_e4m3fn),
            "convert_element_type of float8_e4m3fn",
        ),
        (lambda x: jax.lax.reduce_or(x.astype(int), (0,)), "reduce_or of integers"),
    ):
        with pytest.raises(MissingError, match=f"it needs {name}, which this page"):
            described({"f": function}, like)


def test_a_primitive_that_no_output_needs_is_left_out():
    like = jax.ShapeDtypeStruct((3,), jnp.float32)
    model = described({"f": lambda x: (jnp.sort(x), x + 1)[1]}, like)
    assert [kind for kind, *_ in model["programs"]["f"]["operations"]] == ["add"]


def test_programs_of_a_model_share_their_weights():
    own = np.random.default_rng(0).normal(size=(64, 64)).astype(np.float32)
    like = jax.ShapeDtypeStruct((64,), jnp.float32)
    model = described({"a": lambda x: x @ own, "b": lambda x: x @ own + 1}, like)
    assert sorted(model["weights"]["sizes"]) == [[1, 4], [64 * 64, 2]]


def test_weights_of_equal_bytes_and_other_sizes_are_two():
    zeros = [np.zeros(count, np.float32) for count in (2048, 1024)]
    weights = Weights()
    assert [weights.place(array) for array in (*zeros, zeros[0])] == [0, 1, 0]
    assert weights.described()["sizes"] == [[2048, 2], [1024, 2]]
    # As many bytes as 1024 halves.
    assert weights.place(np.zeros(512, np.float32)) == 2
    assert weights.place(np.arange(5000)) == 3  # Whole numbers stay exact.
    assert weights.described()["sizes"][2:] == [[512, 4], [5000, 4]]


# --- models ---

NOISE = {"network": "identity", "posterior": "noise", "latent_dim": 16}
# Likelihood and parts; those of the fast tests need every kind of operation.
FAST = {
    "convolutions": (
        "bernoulli",
        {"network": "conv", "widths": (8, 4), "num_classes": 3},
    ),
    "residual": ("gaussian_shared", {"network": "resnet", "widths": (8,)}),
    "splines": (
        "bernoulli",
        {"posterior": "spline_coupling", "prior": "flow", "num_classes": 3},
    ),
    "full covariance": (
        "laplace",
        {"posterior": "full_covariance", "prior": "mixture"},
    ),
    "three layers": ("beta", {"posterior": "ladder", "upper_layers": (2, 2)}),
    "chain": ("discretized_gaussian", NOISE | {"prior": "diffusion", "num_classes": 3}),
}
SLOW = {
    **{
        f"posterior {name}": ("bernoulli", {"posterior": name})
        for name in POSTERIORS
        if name not in ("bottom_up", "ladder", "noise")
    },
    **{
        f"prior {name}": ("bernoulli", {"prior": name})
        for name in ("gaussian", "mixture", "flow", "diffusion")
    },
    **{
        f"activation {name}": ("bernoulli", {"network_options": {"activation": name}})
        for name in ACTIVATIONS
    },
    **{
        f"chain of {name}": (
            "bernoulli",
            NOISE | {"prior": "diffusion", "prior_options": {"denoiser": name}},
        )
        for name in ("mlp", "unet", "transformer")
    },
    "learned schedule": (
        "bernoulli",
        NOISE | {"prior": "diffusion", "prior_options": {"noise_schedule": "learned"}},
    ),
    "gated": ("bernoulli", {"network": "gated"}),
    "bottom-up": ("bernoulli", {"posterior": "bottom_up", "upper_layers": (2, 2)}),
    "rounded": ("bernoulli", {"precision": "bfloat16"}),
    "images as a prior": ("bernoulli", {"prior": "vamp", "prior_components": 5}),
}


def describe(trained):
    return models.describe(trained, title="run")


def mapped(trained, name, **inputs):
    """Returns the outputs of a function for each row of its inputs, by JAX."""
    function = models.functions(trained)[0][name]
    types = {each: like.dtype for each, like in function.inputs.items()}
    rows = {each: jnp.asarray(array, types[each]) for each, array in inputs.items()}

    def one(row):
        return function.compute(*({**function.defaults, **row}[each] for each in types))

    return jax.jit(lambda rows: map_batches(one, rows, batch_size=50))(rows)


def calls_of(trained, images, count, seed=0):
    """Returns a call of each function of a model, for so many rows."""
    rng, model = np.random.default_rng(seed), trained.model
    scales = {
        "image": lambda shape: images[:count] / np.float32(model.likelihood.levels - 1),
        "class": lambda shape: np.arange(count) % model.num_classes,
        "t": lambda shape: rng.uniform(size=shape),
        "gamma": lambda shape: rng.uniform(-4, 4, shape),
        "gamma_before": lambda shape: rng.uniform(-8, -4, shape),
    }
    calls = []
    for name, function in models.functions(trained)[0].items():
        inputs = {}
        for each, like in function.inputs.items():
            if each not in function.defaults:
                make = scales.get(each, lambda shape: rng.normal(size=shape))
                inputs[each] = make((count, *like.shape)).astype(like.dtype)
        calls.append((name, inputs))
    return calls


def require_close(trained, calls, found):
    """Compares outputs with JAX's, within the errors that a reader cannot see."""
    pixels = trained.model.num_pixels
    for outputs, (name, inputs) in zip(found, calls, strict=True):
        for output, want in mapped(trained, name, **inputs).items():
            share, most = {
                "image": (0, 0.01),
                "reconstruction": (0.01, 0.02),  # of one pixel, in nats
                "kl": (0.005, 0.005),
                "elbo": (0.005, 0.005 * pixels),
            }.get(output, (0, 0.02))
            # The larger of a share of the number, and a distance.
            scale = np.maximum(share * np.abs(want), most)
            error = (outputs[output].reshape(want.shape) - want) / scale
            np.testing.assert_array_less(np.abs(error), 1, f"{name}: {output}")


@needs_node
@pytest.mark.parametrize("likelihood", LIKELIHOODS)
def test_every_likelihood_gives_the_numbers_of_jax(images, likelihood):
    trained = build(images, likelihood, {"widths": (8,)})
    calls = calls_of(trained, images, 3)
    assert [name for name, _ in calls] == ["decode", "encode", "bound"]
    require_close(trained, calls, in_node(describe(trained), calls))


@needs_node
@pytest.mark.parametrize(
    "kind", [*FAST, *(pytest.param(kind, marks=pytest.mark.slow) for kind in SLOW)]
)
def test_every_kind_of_model_gives_the_numbers_of_jax(images, kind):
    trained = build(images, *(FAST | SLOW)[kind])
    calls = calls_of(trained, images, 3)
    require_close(trained, calls, in_node(describe(trained), calls))


def test_functions_are_those_of_the_trained_model(images):
    """For images whose view has no draw of its own, they are the same numbers."""
    white = np.where(images > 8, 16, 0).astype(np.uint8)
    for likelihood, own in ("bernoulli", white), ("categorical", images):
        trained, unit = (
            build(images, likelihood, {"num_classes": 3}),
            {"image": own / 16},
        )
        unit["class"] = np.arange(len(own)) % 3
        found = mapped(trained, "encode", **unit)
        want = trained.encode(own, unit["class"])
        np.testing.assert_allclose(found["mean"], want, rtol=1e-5, atol=1e-5)
        latents = {"z": want, "class": unit["class"]}
        image = mapped(trained, "decode", **latents)["image"]
        decoded = trained.decode(*latents.values()).reshape(len(own), -1)
        np.testing.assert_allclose(16 * image, decoded, rtol=1e-5, atol=1e-5)


def test_a_bound_is_the_elbo_of_the_reported_unit(images):
    """Its mean over images is that of many samples, within five standard errors.

    Each image has draws of its own; those of the page are the same for all.
    """
    trained, rng = build(images, "gaussian_pixel", {"network": "gated"}), np.random
    noise = rng.default_rng(0).normal(size=(96, models.BOUND_SAMPLES, 3))
    uniform = rng.default_rng(1).uniform(size=(96, 16))
    found = mapped(trained, "bound", image=images / 16, noise=noise, uniform=uniform)
    np.testing.assert_allclose(
        found["elbo"], found["reconstruction"].sum(1) - found["kl"].sum(1), rtol=1e-4
    )
    per_nat = describe(trained)["unit"]["per_nat"]
    many, levels = trained.elbo(images, 1000), trained.model.likelihood.levels
    wanted = views.scores("continuous", many, 16, levels)
    difference = per_nat * found["elbo"] - wanted
    error = difference.std() / np.sqrt(len(images))
    assert abs(difference.mean()) < 5 * error
    assert error < 0.03 * abs(wanted.mean())


def test_a_function_that_the_page_lacks_has_its_reason(images):
    chain = describe(build(images, *FAST["chain"]))
    assert chain["missing"] == {
        "encode": "its latents are the image itself, with noise",
        "bound": "its prior is a chain of latents, which has no density",
    }
    assert set(chain["programs"]) == {"decode", "schedule", "start", "denoise"}
    pixels = build(images, "bernoulli", {"network": "pixelcnn"})
    with pytest.raises(MissingError, match="draws pixel by pixel"):
        describe(pixels)


# --- in a browser ---


@needs_chromium
@pytest.mark.slow
@pytest.mark.parametrize("likelihood", LIKELIHOODS)
def test_chromium_gives_the_numbers_of_jax(likelihood, tmp_path):
    """1,000 z and 100 images of a trained model, in a page that may load nothing."""
    digits = load_digits().images.astype(np.uint8).reshape(-1, 64)
    model = make_vae(
        make_likelihood(likelihood, 17),
        image_shape=(8, 8, 1),
        latent_dim=8,
        widths=(128,),
    )
    config = TrainingConfig(num_epochs=20, batch_size=100)
    (trained,) = fit(model, digits[:1500], config)
    calls = dict(calls_of(trained, digits[1500:], 100))
    calls["decode"] = dict(calls_of(trained, digits, 1000))["decode"]
    calls = list(calls.items())
    found = in_chromium(describe(trained), calls, tmp_path / "page.html")
    require_close(trained, calls, found)
