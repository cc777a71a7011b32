"""Encoders and decoders as ``jax.export`` artifacts, which run without this project.

An artifact holds the parameters and one program for several platforms, as StableHLO,
for any number of images. ``jax.export.deserialize`` loads it; with the same inputs it
gives the numbers of ``TrainedModel``, up to the rounding of float32.

Artifacts of a model with classes have a second input, the class of each image, 0 ...
``num_classes`` - 1, int32 ``[b]``.
"""

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
from jax import export

from vae_jax import views
from vae_jax.checks import require_known
from vae_jax.measure import expected_intensity, latent_mean
from vae_jax.model import VAE
from vae_jax.trained import TrainedModel
from vae_jax.training import MemberKeys

PLATFORMS = ("cpu", "cuda", "tpu")


def require_platforms(platforms: Sequence[str]) -> None:
    """Refuses platforms that a program cannot be made for.

    Raises:
        ValueError: JAX knows no such platform; the message names those that it knows.
    """
    for platform in platforms:
        if platform == "gpu":
            raise ValueError(
                "platforms is 'gpu': a program is for GPUs of one maker. Choose "
                "'cuda' for those of NVIDIA, or 'rocm' for those of AMD."
            )
        require_known("platforms", platform, (*PLATFORMS, "rocm"))


def export_encoder(
    trained: TrainedModel, platforms: Sequence[str] = PLATFORMS
) -> bytes:
    """Returns the artifact of the map from images to posterior means.

    Its input is images as integers 0 ... levels - 1, uint8 ``[b, H, W, C]``, which it
    does not check. Its output is ``TrainedModel.encode`` of them, ``[b, latent]``.

    Args:
        trained: the model.
        platforms: names of those that it shall run on.

    Raises:
        ValueError: JAX knows no such platform, or cannot export a part of the model.
    """
    model, params = trained.model, trained.params
    key, num_samples = MemberKeys.of(trained.key).evaluate, trained.num_samples
    likelihood = model.likelihood

    def encode(images: jax.Array, labels: jax.Array | None = None) -> jax.Array:
        rows = images.reshape(images.shape[0], model.num_pixels)
        drawn = views.shared_draw(likelihood.view, views.TEST, rows, likelihood.levels)
        x = model.rows.join(drawn, labels)

        def one_image(index: jax.Array, x: jax.Array) -> jax.Array:
            own = jax.random.fold_in(key, index)
            return latent_mean(model, params, own, x, num_samples=num_samples)

        return jax.vmap(one_image)(jnp.arange(x.shape[0]), x)

    parts = (model.network, model.posterior_family, model.prior_family)
    images = model.image_shape, jnp.uint8
    return _artifact("encoder", encode, _inputs(model, *images), platforms, parts)


def export_decoder(
    trained: TrainedModel, platforms: Sequence[str] = PLATFORMS
) -> bytes:
    """Returns the artifact of the map from latents to mean images.

    Its input is z, float32 ``[b, latent]``. Its output is ``TrainedModel.decode`` of z
    on the scale 0 ... levels - 1, float32 ``[b, H, W, C]``.

    Args:
        trained: the model.
        platforms: names of those that it shall run on.

    Raises:
        ValueError: JAX knows no such platform, or cannot export a part of the model.
    """
    model, params = trained.model, trained.params
    key, white = MemberKeys.of(trained.key).pictures, model.likelihood.levels - 1

    def decode(z: jax.Array, *labels: jax.Array) -> jax.Array:
        def one_image(index: jax.Array, z: jax.Array, *label: jax.Array) -> jax.Array:
            own = jax.random.fold_in(key, index)
            y = [each[None] for each in label]
            intensity = expected_intensity(model, params, own, z[None], *y)[0]
            scaled: jax.Array = intensity * jnp.float32(white)
            return scaled.reshape(model.image_shape)

        return jax.vmap(one_image)(jnp.arange(z.shape[0]), z, *labels)

    parts = (model.network, model.likelihood)
    z = (model.latent_dim,), jnp.float32
    return _artifact("decoder", decode, _inputs(model, *z), platforms, parts)


def _inputs(
    model: VAE, shape: tuple[int, ...], dtype: jax.typing.DTypeLike
) -> list[jax.ShapeDtypeStruct]:
    """Returns the inputs ``[b, *shape]`` and, if there are classes, labels ``[b]``."""
    (size,) = export.symbolic_shape("b")
    inputs = [jax.ShapeDtypeStruct((size, *shape), dtype)]
    if model.num_classes:
        inputs.append(jax.ShapeDtypeStruct((size,), jnp.int32))
    return inputs


def _artifact(
    name: str,
    function: Callable[..., jax.Array],
    inputs: Sequence[jax.ShapeDtypeStruct],
    platforms: Sequence[str],
    parts: Sequence[object],
) -> bytes:
    """Returns the artifact of a function of such inputs."""
    require_platforms(platforms)
    try:
        exported = export.export(jax.jit(function), platforms=platforms)(*inputs)
        return bytes(exported.serialize())
    except Exception as error:  # A part may use anything.
        names = ", ".join(type(part).__name__ for part in parts)
        reason = " ".join(str(error).split())
        raise ValueError(
            f"jax.export cannot export the {name} ({names}): {reason[:300]}."
        ) from error
