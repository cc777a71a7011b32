import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vae_jax.likelihoods import LIKELIHOODS, make_likelihood
from vae_jax.model import make_vae
from vae_jax.networks import ACTIVATIONS

pytestmark = pytest.mark.usefixtures("keys_are_used_once")

SHAPE = (5, 7, 2)  # odd sides and two channels: nothing fits by accident
NUM_PIXELS = 70


def build(name="bernoulli", levels=17, **options):
    settings = {"image_shape": SHAPE, "latent_dim": 3, "widths": (8, 6), **options}
    model = make_vae(make_likelihood(name, levels), **settings)
    mean = jnp.linspace(0, 1, NUM_PIXELS)
    return model, model.init(jax.random.key(1), mean, 0.2 * jnp.ones(NUM_PIXELS))


@pytest.mark.parametrize("network", ["mlp", "conv"])
@pytest.mark.parametrize("name", LIKELIHOODS)
def test_shapes_of_every_likelihood_and_network(key, network, name):
    model, params = build(name, network=network)
    x_key, key = jax.random.split(key)
    x = jax.random.randint(x_key, (4, NUM_PIXELS), 0, 2)
    if model.likelihood.view != "levels":
        x = x.astype(jnp.float32)
    posterior = model.encode(params, x)
    assert posterior.mean.shape == posterior.log_scale.shape == (4, 3)
    channels = model.likelihood.pixel_outputs + model.likelihood.shared_outputs
    z = jnp.ones((5, 4, 3))
    assert model.decode(params, z).shape == (5, 4, channels, NUM_PIXELS)
    log_px_z = model.log_likelihood(params, x, z)
    assert log_px_z.shape == (5, 4)
    assert np.all(np.isfinite(log_px_z))
    means, samples = model.generate(params, key, 6)
    assert means.shape == samples.shape == (6, NUM_PIXELS)


@pytest.mark.parametrize("network", ["mlp", "conv"])
def test_decoder_starts_at_the_mean_image(network):
    model, params = build("bernoulli", network=network)
    outputs = model.decode(params, jnp.zeros((1, 3)))
    expected = np.clip(np.linspace(0, 1, NUM_PIXELS), 0.001, 0.999)
    np.testing.assert_allclose(
        model.likelihood.mean(outputs)[0], expected, rtol=1e-4, atol=1e-5
    )


def test_convolution_keeps_pixels_in_their_order():
    """A pixel's gradient reaches the decoder's bias at that pixel and nowhere else."""
    model, params = build("bernoulli", network="conv")

    def one_pixel(params):
        return model.decode(params, jnp.ones((1, 3)))[0, 0, 37]

    gradient = jax.grad(one_pixel)(params)["decoder"]["bias"]["pixels"]
    np.testing.assert_array_equal(np.flatnonzero(gradient), [37])


def test_shared_parameters_are_repeated_behind_those_of_the_decoder():
    model, params = build("gaussian_shared")
    params["shared"] = jnp.array([-1.5])
    outputs = model.decode(params, jnp.ones((2, 3)))
    np.testing.assert_array_equal(outputs[:, 1], -1.5)


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_activations_are_told_apart(activation):
    model, params = build(activation=activation)
    other, _ = build(activation="tanh" if activation != "tanh" else "relu")
    z = jnp.linspace(-2, 2, 6).reshape(2, 3)
    assert np.any(model.decode(params, z) != other.decode(params, z))


def test_generated_samples_have_the_generated_means(key):
    """Bernoulli draws at one z: within 4.5 standard errors at each of 70 pixels."""
    model, params = build()
    params["decoder"]["output"]["kernel"] *= 0  # every z gives the same image
    means, samples = model.generate(params, key, 20_000)
    mean = np.asarray(means[0])
    error = np.abs(np.asarray(samples).mean(0) - mean)
    assert np.all(error <= 4.5 * np.sqrt(mean * (1 - mean) / 20_000))


def test_num_parameters_counts_every_scalar():
    model, params = build()
    encoder = 70 * 8 + 8 + 8 * 6 + 6 + 2 * (6 * 3 + 3)
    decoder = 3 * 6 + 6 + 6 * 8 + 8 + 8 * 70 + 70
    assert model.num_parameters(params) == encoder + decoder


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"latent_dim": 0}, "latent_dim is 0: .* at least 1"),
        (
            {"network": "transformer"},
            "'transformer' is unknown; choose one of mlp",
        ),
        ({"activation": "sine"}, "'sine' is unknown.*; choose one of tanh, relu"),
        ({"network": "conv", "widths": ()}, r"widths is \(\): .* one or more"),
        ({"ignore_x": True, "prior": "vamp"}, "choose another prior"),
    ],
)
def test_what_cannot_be_built_is_refused_by_name(options, message):
    with pytest.raises(ValueError, match=message):
        build(**options)


def test_a_posterior_may_ignore_x(untrained):
    """One q(z) for all images, and no gradient towards telling them apart."""
    model, params, x = untrained
    blind = dataclasses.replace(model, ignore_x=True)
    posterior = blind.encode(params, x)
    assert np.ptp(posterior.mean, axis=0).max() == 0
    assert np.ptp(model.encode(params, x).mean, axis=0).max() > 0
    gradient = jax.grad(lambda p: blind.encode(p, x).mean.sum())(params)
    assert np.all(gradient["encoder"]["head"]["mean"]["bias"] == len(x))
