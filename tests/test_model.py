import dataclasses
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.parts import ORDINARY_NETWORKS, ORDINARY_POSTERIORS, ORDINARY_PRIORS
from vae_jax.likelihoods import LIKELIHOODS, make_likelihood
from vae_jax.model import make_vae, num_parameters
from vae_jax.networks import ACTIVATIONS, MLP, NETWORKS, Gated, Network
from vae_jax.posteriors import is_hierarchical

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
    """Bernoulli draws at one z are within 4.5 standard errors at each of 70 pixels."""
    model, params = build()
    params["decoder"]["output"]["kernel"] *= 0  # every z gives the same image
    means, samples = model.generate(params, key, 20_000)
    mean = np.asarray(means[0])
    error = np.abs(np.asarray(samples).mean(0) - mean)
    assert np.all(error <= 4.5 * np.sqrt(mean * (1 - mean) / 20_000))


def test_num_parameters_counts_every_scalar():
    _, params = build()
    encoder = 70 * 8 + 8 + 8 * 6 + 6 + 2 * (6 * 3 + 3)
    decoder = 3 * 6 + 6 + 6 * 8 + 8 + 8 * 70 + 70
    assert num_parameters(params) == encoder + decoder


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"latent_dim": 0}, "latent_dim is 0: .* at least 1"),
        ({"latent_dim": 2.0}, "latent_dim is 2.0: it must be a whole number"),
        ({"upper_layers": 2}, r"upper_layers is 2: it must be a tuple"),
        ({"upper_layers": (2, 0)}, "upper_layers is 0: .* at least 1"),
        ({"image_shape": (10, 7)}, r"image_shape is \(10, 7\): it must be a tuple"),
        ({"image_shape": (10, 7, 0)}, "image_shape is 0: .* at least 1"),
        ({"widths": 16}, r"widths is 16: .* as in \(32, 64\)"),
        ({"network_options": "depth=2"}, "network_options is 'depth=2': .* by name"),
        (
            {"network": "transformer"},
            "'transformer': it is unknown. Choose one of mlp",
        ),
        ({"activation": "sine"}, "'sine': it is unknown.*. Choose one of tanh, relu"),
        ({"network": "conv", "widths": ()}, r"widths is \(\): .* one or more"),
        ({"ignore_x": True, "prior": "vamp"}, "Choose another prior"),
    ],
)
def test_what_cannot_be_built_is_refused_by_name(options, message):
    with pytest.raises(ValueError, match=message):
        build(**options)


def test_a_likelihood_is_no_name():
    with pytest.raises(ValueError, match=r"likelihood is 'bernoulli'.*make_likelihood"):
        make_vae("bernoulli", image_shape=SHAPE, latent_dim=3)


def test_lists_are_taken_as_tuples():
    """A model is hashable, as static arguments of compiled functions must be."""
    model, _ = build(image_shape=list(SHAPE), widths=[8, 6])
    assert hash(model) == hash(build()[0])
    assert model == build()[0]


def test_an_option_goes_to_every_part_that_has_it():
    model, _ = build(
        posterior="affine_coupling",
        prior="flow",
        precision="bfloat16",
        activation="tanh",
        flow_steps=2,
        prior_options={"flow_steps": 1, "activation": "elu"},
    )
    parts = (model.network, model.posterior_family, model.prior_family)
    assert [part.precision for part in parts] == ["bfloat16"] * 3
    assert [part.activation for part in parts] == ["tanh", "tanh", "elu"]
    assert [part.flow_steps for part in parts[1:]] == [2, 1]
    layered, _ = build(posterior="ladder", upper_layers=(2,), layer_widths=(5,))
    assert layered.posterior_family.layer_widths == (5,)
    assert layered.prior_family.layer_widths == (5,)


@pytest.mark.parametrize(
    ("given", "refused", "followed"),
    [
        (
            {"network": "gated", "activation": "tanh"},
            "activation is 'tanh': network 'gated', posterior 'diagonal', prior "
            "'standard_normal' have no such option. Leave it out, or choose network "
            "'mlp' or",
            {"network": "mlp", "activation": "tanh"},
        ),
        (
            {"flow_steps": 2},
            "choose posterior 'inverse_autoregressive_flow' or",
            {"flow_steps": 2, "posterior": "inverse_autoregressive_flow"},
        ),
        ({"flow_step": 2}, "have no such option. Leave it out.", {}),
        (
            {"prior_options": {"components": 3}},
            "prior 'standard_normal' has no such option. Leave it out, or choose "
            "'mixture' or 'vamp'",
            {"prior_options": {"components": 3}, "prior": "mixture"},
        ),
        (
            {"posterior_options": {"widths": (3,)}},
            "posterior 'diagonal' has no such option. Leave it out.",
            {},
        ),
    ],
)
def test_an_option_that_no_part_has_is_refused_with_a_remedy(given, refused, followed):
    with pytest.raises(ValueError, match=re.escape(refused)):
        build(**given)
    build(**followed)


def test_a_network_may_be_given_as_it_is():
    network = Gated((5,))
    options = {"image_shape": SHAPE, "latent_dim": 3, "network": network}
    model = make_vae(make_likelihood("bernoulli", 2), **options)
    assert model.network is network
    with pytest.raises(ValueError, match=r"network_options is .* has its options"):
        make_vae(
            make_likelihood("bernoulli", 2), **options, network_options={"widths": (4,)}
        )


@dataclasses.dataclass(frozen=True)
class Undeclared(Network):
    """A network of the user's own, which does not declare anything about padding."""

    widths: tuple[int, ...] = (4,)

    def encoder(self, image_shape, heads):
        return MLP(self.widths).encoder(image_shape, heads)

    def decoder(self, image_shape, pixel_outputs):
        return MLP(self.widths).decoder(image_shape, pixel_outputs)


def test_a_model_can_be_padded_if_all_its_parts_declare_it(monkeypatch):
    monkeypatch.setitem(NETWORKS, "undeclared", Undeclared)
    single = [name for name in ORDINARY_POSTERIORS if not is_hierarchical(name)]
    kinds = {
        "network": [*ORDINARY_NETWORKS, "undeclared"],
        "posterior": single,
        "prior": ORDINARY_PRIORS,
    }

    def can_be_padded(**options):
        return make_vae(
            make_likelihood("bernoulli", 2),
            image_shape=SHAPE,
            latent_dim=2,
            **options,
        ).can_be_padded

    declared = {
        kind: [name for name in names if can_be_padded(**{kind: name})]
        for kind, names in kinds.items()
    }
    assert declared == {
        "network": ["mlp", "conv", "gated", "resnet", "pixelcnn"],
        "posterior": ["diagonal"],
        "prior": ["standard_normal"],
    }
    assert not can_be_padded(posterior="ladder", upper_layers=(2,))


def test_a_posterior_may_ignore_x(untrained):
    """There is one q(z) for all images, and no gradient that could separate them."""
    model, params, x = untrained
    blind = dataclasses.replace(model, ignore_x=True)
    posterior = blind.encode(params, x)
    assert np.ptp(posterior.mean, axis=0).max() == 0
    assert np.ptp(model.encode(params, x).mean, axis=0).max() > 0
    gradient = jax.grad(lambda p: blind.encode(p, x).mean.sum())(params)
    assert np.all(gradient["encoder"]["head"]["mean"]["bias"] == len(x))


@pytest.mark.parametrize(
    ("field", "options"),
    [
        ("widths", {}),
        ("flow_widths", {"posterior": "affine_coupling"}),
        ("flow_widths", {"prior": "flow"}),
        ("layer_widths", {"posterior": "bottom_up", "upper_layers": (2,)}),
        ("layer_widths", {"posterior": "ladder", "upper_layers": (2,)}),
    ],
)
def test_widths_are_refused_by_the_name_of_their_field(field, options):
    with pytest.raises(ValueError, match=rf"^{field} is \(4, 0\): a layer needs"):
        make_vae(
            make_likelihood("bernoulli", 2),
            image_shape=(4, 4, 1),
            latent_dim=3,
            **options,
            **{field: (4, 0)},
        )
