"""Convolutions as matrix products are XLA's own, gradients included."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vae_jax import networks
from vae_jax.networks.convolutions import FORMS, convolve

NUMBERS = ("NHWC", "HWIO", "NHWC")

# Sizes, channels in and out, strides, padding, dilation; padding of (2, 1) and a
# dilation of 2 give a transposed convolution of stride 2.
CASES = {
    "same": ((5, 7), 3, 4, (1, 1), "SAME", (1, 1)),
    "fewer outputs": ((5, 7), 4, 2, (1, 1), "SAME", (1, 1)),
    "halved": ((8, 6), 3, 4, (2, 2), "SAME", (1, 1)),
    "odd sizes halved": ((7, 5), 4, 2, (2, 2), "SAME", (1, 1)),
    "stride across only": ((6, 6), 2, 3, (1, 2), ((0, 1), (1, 1)), (1, 1)),
    "doubled": ((4, 3), 3, 2, (1, 1), ((2, 1), (2, 1)), (2, 2)),
}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_outputs_and_gradients_are_those_of_xla(case):
    sizes, inputs, outputs, strides, padding, dilation = case
    generator = np.random.default_rng(0)
    images = generator.normal(size=(2, *sizes, inputs)).astype(np.float32)
    kernel = generator.normal(size=(3, 3, inputs, outputs)).astype(np.float32)

    def own(images, kernel):
        return convolve(images, kernel, strides, padding, lhs_dilation=dilation)

    def reference(images, kernel):
        return jax.lax.conv_general_dilated(
            images,
            kernel,
            strides,
            padding,
            lhs_dilation=dilation,
            dimension_numbers=NUMBERS,
        )

    shape = jax.eval_shape(reference, images, kernel).shape
    cotangent = generator.normal(size=shape).astype(np.float32)

    @jax.jit
    def value_and_gradients(images, kernel, cotangent):
        pulled_back = (jax.vjp(f, images, kernel) for f in (own, reference))
        return [(value, *pull_back(cotangent)) for value, pull_back in pulled_back]

    mine, theirs = value_and_gradients(images, kernel, cotangent)
    for one, other in zip(mine, theirs, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-5)


def test_narrow_types_are_summed_in_float32():
    key = jax.random.key(1)
    images = jax.random.normal(key, (1, 4, 4, 64)).astype(jnp.bfloat16)
    kernel = jnp.ones((3, 3, 64, 1), jnp.bfloat16)
    outputs = convolve(images, kernel, (1, 1), "SAME")
    assert outputs.dtype == jnp.bfloat16
    exact = convolve(
        images.astype(jnp.float32), kernel.astype(jnp.float32), (1, 1), "SAME"
    )
    # One rounding, of the sum: half a unit in the last of 8 bits.
    np.testing.assert_allclose(outputs.astype(jnp.float32), exact, rtol=2**-8)


@pytest.mark.parametrize(
    ("option", "value"), [("rhs_dilation", (2, 2)), ("feature_group_count", 2)]
)
def test_convolutions_that_would_be_others_are_refused(option, value):
    images, kernel = np.zeros((1, 6, 6, 2)), np.zeros((3, 3, 2, 4))
    with pytest.raises(ValueError, match=f"{option} is"):
        convolve(images, kernel, (1, 1), "SAME", **{option: value})


@pytest.mark.parametrize("platform", ["cpu", "cuda", "tpu"])
@pytest.mark.parametrize("mapped", [False, True])
def test_a_program_has_the_form_of_the_platform_it_is_for(platform, mapped):
    """This includes gradients, several members, and programs within loops."""

    def loss(kernel, images):
        return jnp.sum(convolve(images, kernel, (1, 1), "SAME") ** 2)

    def step(kernel, images):
        return kernel - jax.grad(loss)(kernel, images), None

    def train(kernel, images):
        return jax.lax.scan(step, kernel, images)[0]

    kernel, images = jnp.zeros((3, 3, 2, 2)), jnp.zeros((2, 1, 6, 6, 2))
    if mapped:
        train = jax.vmap(train, (0, None))
        kernel = kernel[None]
    traced = jax.jit(train).trace(kernel, images)
    text = traced.lower(lowering_platforms=(platform,)).as_text()
    assert ("stablehlo.convolution" in text) == (platform != "cpu")
    assert ("stablehlo.dot_general" in text) == (platform == "cpu")


@pytest.mark.parametrize(
    "network",
    [networks.Conv, networks.ResNet, networks.PixelCNN],
    ids=lambda n: n.__name__,
)
def test_members_are_the_same_however_their_convolutions_are_computed(network):
    """Outputs and gradients of two members agree, although the forms differ."""
    z, x = np.ones((3, 2), np.float32), np.linspace(0, 1, 3 * 20, dtype=np.float32)
    inputs = (z, x.reshape(3, 20)) if network.is_autoregressive else (z,)

    def run(form):
        decoder = network((4, 4), convolutions=form).decoder((5, 4, 1), 1)
        member = jax.vmap(lambda key: decoder.init(key, *inputs))
        params = member(jax.random.split(jax.random.key(0)))

        @jax.jit
        @jax.vmap
        @jax.value_and_grad
        def loss(params):
            return jnp.sum(jnp.sin(decoder.apply(params, *inputs)))

        text = loss.lower(params).as_text()
        groups = text.count("feature_group_count = 2")
        return loss(params), (text.count("stablehlo.convolution"), groups)

    results, programs = zip(*(run(form) for form in FORMS), strict=True)
    assert programs[0] == (0, 0)
    assert programs[1][1] > 0
    assert programs[2][0] > programs[1][0]
    assert programs[2][1] == 0
    for other in results[1:]:
        jax.tree.map(
            lambda one, two: np.testing.assert_allclose(one, two, rtol=1e-4, atol=1e-4),
            other,
            results[0],
        )
