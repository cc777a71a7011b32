"""A trained model: a VAE with its parameters, for arrays of images."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np

from vae_jax import views
from vae_jax.checks import require_count, require_key
from vae_jax.evidence import ImportanceEstimate, importance_estimate
from vae_jax.measure import expected_intensity, posterior_mean
from vae_jax.model import VAE, Params
from vae_jax.per_image import map_images
from vae_jax.products import float32_products
from vae_jax.training import MemberKeys

# Numbers of images and of importance samples computed together; they bound the memory.
_BATCH, _CHUNK = 100, 50


@dataclasses.dataclass(frozen=True, eq=False)
class TrainedModel:
    """A VAE with its parameters.

    Methods take images as integers 0 ... levels - 1, ``[N, H, W, C]``, ``[N, D]`` or,
    with one channel, ``[N, H, W]``. They return images as ``[N, H, W, C]``, or as
    ``[N, H, W]`` with one channel: mean images as floats in the same units, and samples
    as integers.

    Log-probabilities are nats per image in the likelihood's view: log-masses, or
    log-densities of dequantised images (``views.log_mass_bound`` makes them
    comparable). The view of an image is drawn with a key that all models share, and
    latents with the model's own key. So the same images in the same order give the same
    numbers.

    Attributes:
        model: the VAE.
        params: its parameters, without padding.
        key: the key that it was trained with.
        failure: the place of the first value in training that was not finite; '' if all
            were finite. The methods of a model that failed raise an error.
    """

    model: VAE
    params: Params
    key: jax.Array
    failure: str = ""

    def encode(self, images: np.ndarray) -> np.ndarray:
        """Returns the posterior means E_q[z|x], ``[N, latent]``."""
        key = self._keys().evaluate
        return np.asarray(_encode(self.model, self.params, key, self._x(images)))

    def decode(self, z: np.ndarray) -> np.ndarray:
        """Returns the mean image E[x|z] of each z ``[N, latent]``.

        For an autoregressive decoder, the mean of a pixel is conditioned on one draw of
        the pixels before it.

        Raises:
            ValueError: z has another number of latents, or is not an array of numbers.
        """
        latent_dim = self.model.latent_dim
        remedy = f"Give an array [N, {latent_dim}], with N at least 1."
        try:
            z = np.asarray(z, np.float32)
        except (ValueError, TypeError, OverflowError):
            raise ValueError(f"z is no array of numbers. {remedy}") from None
        if z.ndim != 2 or z.shape[1] != latent_dim or not len(z):
            raise ValueError(
                f"z has shape {list(z.shape)}: the model has {latent_dim} latents. "
                f"{remedy}"
            )
        mean = _decode(self.model, self.params, self._keys().pictures, jnp.asarray(z))
        white = self.model.likelihood.levels - 1
        return self._shaped(np.asarray(mean) * np.float32(white))

    def reconstruct(self, images: np.ndarray) -> np.ndarray:
        """Returns the mean image at the posterior mean of each image, in its shape."""
        return self.decode(self.encode(images)).reshape(np.shape(images))

    def sample(self, num_images: int, key: jax.Array) -> np.ndarray:
        """Returns images x ~ p(x|z) with z ~ p(z), as integers.

        Raises:
            ValueError: ``num_images`` is less than 1, or ``key`` is not one typed key.
        """
        require_count("num_images", num_images)
        require_key("key", key)
        self._keys()
        levels, view = self.model.likelihood.levels, self.model.likelihood.view
        x = np.asarray(_sample(self.model, self.params, key, num_images))
        if view == "continuous":
            x = np.clip(np.floor(x * levels), 0, levels - 1)
        elif view == "binary":
            x = x * (levels - 1)
        return self._shaped(x.astype(np.uint8))

    def elbo(self, images: np.ndarray, num_samples: int = 500) -> np.ndarray:
        """Returns the ELBO of each image, a mean over samples of q, ``[N]``, nats."""
        return np.asarray(self._estimate(images, num_samples).elbo)

    def log_prob(self, images: np.ndarray, num_samples: int = 500) -> np.ndarray:
        """Returns the importance-weighted log p(x) of each image, ``[N]``, in nats.

        It is a lower bound on average; more samples of q make it tighter.
        """
        return np.asarray(self._estimate(images, num_samples).log_px)

    def _estimate(self, images: np.ndarray, num_samples: int) -> ImportanceEstimate:
        require_count("num_samples", num_samples)
        key, x = self._keys().evaluate, self._x(images)
        found: ImportanceEstimate = _estimate(
            self.model, self.params, key, x, num_samples
        )
        return found

    def _keys(self) -> MemberKeys:
        """Returns the children of the model's key.

        Raises:
            FloatingPointError: training of the model failed.
        """
        if self.failure:
            raise FloatingPointError(
                f"this model failed: training met a value that is not finite in "
                f"{self.failure}. Train it with a smaller learning rate, or with "
                "clip_norm."
            )
        return MemberKeys.of(self.key)

    def _x(self, images: np.ndarray) -> jax.Array:
        """Returns the view of images that the likelihood is defined on, ``[N, D]``."""
        likelihood = self.model.likelihood
        rows = views.as_rows(images, self.model.image_shape, likelihood.levels)
        return views.shared_draw(likelihood.view, views.TEST, rows, likelihood.levels)

    def _shaped(self, rows: np.ndarray) -> np.ndarray:
        *size, channels = self.model.image_shape
        return rows.reshape(len(rows), *size, *[channels] * (channels > 1))


@functools.partial(jax.jit, static_argnums=0)
def _encode(model: VAE, params: Params, key: jax.Array, x: jax.Array) -> jax.Array:
    def one_image(key: jax.Array, x: jax.Array) -> jax.Array:
        return posterior_mean(model, params, key, x[None])[0]

    return map_images(one_image, key, x, batch_size=_BATCH)


@functools.partial(jax.jit, static_argnums=0)
def _decode(model: VAE, params: Params, key: jax.Array, z: jax.Array) -> jax.Array:
    def one_image(key: jax.Array, z: jax.Array) -> jax.Array:
        return expected_intensity(model, params, key, z[None])[0]

    return map_images(one_image, key, z, batch_size=_BATCH)


@functools.partial(jax.jit, static_argnames=("model", "num_images"))
@float32_products
def _sample(model: VAE, params: Params, key: jax.Array, num_images: int) -> jax.Array:
    return model.generate(params, key, num_images)[1]


@functools.partial(jax.jit, static_argnums=(0, 4))
def _estimate(
    model: VAE, params: Params, key: jax.Array, x: jax.Array, num_samples: int
) -> ImportanceEstimate:
    def one_image(key: jax.Array, x: jax.Array) -> ImportanceEstimate:
        return importance_estimate(
            model, params, key, x, num_samples=num_samples, chunk=_CHUNK
        )

    return map_images(one_image, key, x, batch_size=_BATCH)
