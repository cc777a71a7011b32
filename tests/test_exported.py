"""Tests of artifacts of ``jax.export``: they give the numbers of the model."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import export

from tests.test_trained import KINDS, build
from vae_jax.exported import PLATFORMS, export_decoder, export_encoder
from vae_jax.model import VAE

ALL = KINDS | {
    "convolutions": ("beta", {"network": "conv"}),
    "residual": ("discretized_logistic", {"network": "resnet"}),
    "coupling": ("gaussian_pixel", {"posterior": "affine_coupling"}),
    "splines": ("logistic_mixture", {"posterior": "spline_coupling"}),
    "full covariance": ("beta_binomial", {"posterior": "full_covariance"}),
}


def loaded(artifact):
    exported = export.deserialize(bytearray(artifact))
    assert exported.platforms == PLATFORMS
    return exported.call


@pytest.mark.parametrize(
    "kind",
    [pytest.param(k, marks=[pytest.mark.slow] * (k != "binary")) for k in ALL],
)
def test_artifacts_give_the_numbers_of_the_model(images, kind):
    own = build(images, *ALL[kind])
    encode, decode = loaded(export_encoder(own)), loaded(export_decoder(own))
    test = images[:5].reshape(5, 4, 4, 1)
    z, means = own.encode(test), own.decode(own.encode(test)).reshape(test.shape)
    for count in (5, 1):  # The number of images is open.
        close = {"rtol": 1e-4, "atol": 1e-4}
        np.testing.assert_allclose(encode(test[:count]), z[:count], **close)
        np.testing.assert_allclose(decode(z[:count]), means[:count], **close)


def test_artifacts_of_a_model_with_classes_take_labels(images):
    own = build(images, "bernoulli", {"num_classes": 3})
    encode, decode = loaded(export_encoder(own)), loaded(export_decoder(own))
    test, labels = images[:4].reshape(4, 4, 4, 1), np.array([0, 1, 2, 0], np.int32)
    z, close = own.encode(test, labels), {"rtol": 1e-4, "atol": 1e-4}
    means = own.decode(z, labels).reshape(test.shape)
    np.testing.assert_allclose(encode(test, labels), z, **close)
    np.testing.assert_allclose(decode(z, labels), means, **close)


def test_a_part_that_cannot_be_exported_is_named(images, monkeypatch):
    """A callback into Python belongs to this process alone."""

    def decode(model, params, z, x=None):
        shape = jax.ShapeDtypeStruct((len(z), 1, 16), jnp.float32)
        return jax.pure_callback(lambda z: np.zeros(shape.shape, np.float32), shape, z)

    own = build(images, *KINDS["binary"])
    monkeypatch.setattr(VAE, "decode", decode)
    with pytest.raises(ValueError, match="cannot export the decoder") as e:
        export_decoder(own)
    assert "(MLP, Bernoulli): " in str(e.value)
    assert "\n" not in str(e.value)
