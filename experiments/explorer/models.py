"""A trained model as the page reads it, and the functions that the page computes.

Each function is of one image, in JAX; the page runs the program that it is traced to.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments.explorer.programs import MissingError, Weights, encoded, program
from vae_jax import views
from vae_jax.distributions import DiagonalGaussian
from vae_jax.measure import expected_intensity
from vae_jax.model import VAE
from vae_jax.priors.gaussian import StandardNormal
from vae_jax.samplers import DDIM
from vae_jax.trained import TrainedModel
from vae_jax.training import MemberKeys

# Samples of q(z|x): for a bound, and for mean and standard deviation without a formula.
BOUND_SAMPLES, MOMENT_SAMPLES = 8, 64
# Samples of p(z) that the page holds.
PRIOR_SAMPLES = 256


@dataclasses.dataclass(frozen=True, eq=False)
class Function:
    """A function of one image, or of one z.

    Attributes:
        compute: of arrays in the order of ``inputs``; returns arrays by name.
        inputs: shape and type of each input.
        defaults: arrays for inputs that need not be given.
    """

    compute: Callable[..., dict[str, jax.Array]]
    inputs: dict[str, jax.ShapeDtypeStruct]
    defaults: dict[str, np.ndarray] = dataclasses.field(default_factory=dict)


def describe(
    trained: TrainedModel, *, title: str, classes: Sequence[str] | None = None
) -> dict[str, Any]:
    """Returns the model as the page reads it.

    Args:
        trained: the model.
        title: a few words for a reader.
        classes: names of its classes, in their order; None without classes.

    Raises:
        MissingError: the page cannot decode its latents.
    """
    model, weights = trained.model, Weights()
    found, missing = functions(trained)
    programs = {}
    for each, function in found.items():
        try:
            programs[each] = program(
                function.compute, function.inputs, function.defaults, weights
            )
        except MissingError as error:
            missing[each] = str(error)
    if "decode" in missing:
        raise MissingError(missing["decode"])
    description = {
        "title": title,
        "image": list(model.image_shape),
        "levels": model.likelihood.levels,
        "view": model.likelihood.view,
        "unit": {"name": trained.unit, "per_nat": _per_nat(model)},
        "latents": _layers(model),
        "classes": None if classes is None else list(classes),
        "is_chain": model.is_chain,
        "has_standard_prior": _has_standard_prior(model),
        "programs": programs,
        "weights": weights.described(),
        "missing": missing,
    }
    if model.has_density:
        description["prior_samples"] = encoded(_prior_samples(trained))
    return description


def functions(trained: TrainedModel) -> tuple[dict[str, Function], dict[str, str]]:
    """Returns the functions of a model by name, and why it has no others.

    - 'decode': ``z`` [K] -> ``image`` [D], the mean image, 0 (black) to 1 (white); the
      mean of a likelihood on all reals may lie outside.
    - 'encode': ``image`` -> ``mean`` and ``sd`` [K] of q(z|x).
    - 'bound': ``image`` -> ``reconstruction`` [D], the mean of log p(x_i|z) over
      samples of q; ``kl`` [K] or [1]; and the ``elbo`` []. In nats of the likelihood's
      view; for the continuous view, of the integers that it bounds.
    - 'below i', of several layers: ``z`` -> ``z``, with the layers below layer i, of
      0 ..., at their means.
    - of a chain of latents: 'schedule', ``t`` [] -> ``gamma`` []; 'start', ``noise``
      [K] -> ``z`` of the last layer; 'denoise', ``z``, ``gamma``, ``gamma_before`` ->
      ``z`` one step of DDIM later, and ``seen``, what the denoiser sees, as a z_0.

    Functions of models with classes also have the input ``class``, the place of it.
    Images come as intensities, 0 to 1.
    """
    found: dict[str, Function] = {}
    missing: dict[str, str] = {}
    model = trained.model
    for name, make in _MAKERS.items():
        try:
            found[name] = make(trained)
        except MissingError as error:
            missing[name] = str(error)
    for layer in range(1, len(model.layer_dims)):
        found[f"below {layer}"] = _below(trained, layer)
    if not model.has_density:
        found |= _chain(trained)
    return found, missing


def _prior_samples(trained: TrainedModel) -> np.ndarray:
    """Returns z ~ p(z), ``[PRIOR_SAMPLES, K]``."""
    model = trained.model
    if _has_standard_prior(model):
        return _normal(PRIOR_SAMPLES, model.latent_dim)
    key = MemberKeys.of(trained.key).pictures
    return np.asarray(model.prior(trained.params).sample(key, PRIOR_SAMPLES))


def _has_standard_prior(model: VAE) -> bool:
    return isinstance(model.prior_family, StandardNormal)


def _normal(*shape: int) -> np.ndarray:
    """Returns standard normal noise, always the same; JAX would compile for it."""
    return np.random.default_rng(0).standard_normal(shape, np.float32)


def _layers(model: VAE) -> list[dict[str, Any]]:
    """Returns name and size of each layer of latents; the one next to images first."""
    if len(model.layer_dims) == 1:
        return [{"name": "z", "size": model.latent_dim}]
    return [
        {"name": f"layer {place}", "size": size}
        for place, size in enumerate(model.layer_dims, 1)
    ]


def _per_nat(model: VAE) -> float:
    """Returns the value of one nat of an image's ELBO in the unit of the results."""
    if model.likelihood.view == "binary":
        return -1.0
    return float(views.bits_per_dim(np.ones(()), model.num_pixels))


# --- the functions ---


def _array(*shape: int) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(shape, jnp.float32)


def _labelled(
    model: VAE, inputs: Mapping[str, jax.ShapeDtypeStruct]
) -> dict[str, jax.ShapeDtypeStruct]:
    """Returns inputs, and the class of a model with classes as the last."""
    label = {"class": jax.ShapeDtypeStruct((), jnp.int32)} if model.num_classes else {}
    return {**inputs, **label}


def _row(model: VAE, x: jax.Array, label: Sequence[jax.Array]) -> jax.Array:
    """Returns one image ``[D]``, and its class, as the rows of a batch."""
    return model.rows.join(x[None], label[0][None] if label else None)


def _decode(trained: TrainedModel) -> Function:
    model, params = trained.model, trained.params
    if model.is_autoregressive:
        raise MissingError(
            "its decoder draws pixel by pixel, each given those before it"
        )

    def decode(z: jax.Array, *label: jax.Array) -> dict[str, jax.Array]:
        y = [each[None] for each in label]
        # Only an autoregressive decoder draws with a key.
        found = expected_intensity(model, params, trained.key, z[None], *y)
        return {"image": found[0]}

    return Function(decode, _labelled(model, {"z": _array(model.latent_dim)}))


def _encode(trained: TrainedModel) -> Function:
    model, params = trained.model, trained.params
    if model.is_chain:
        raise MissingError("its latents are the image itself, with noise")

    def encode(
        image: jax.Array, uniform: jax.Array, noise: jax.Array, *label: jax.Array
    ) -> dict[str, jax.Array]:
        x = _row(model, _view(model, image, uniform), label)
        posterior = model.encode(params, x)
        if isinstance(posterior, DiagonalGaussian):
            return {"mean": posterior.mean[0], "sd": jnp.exp(posterior.log_scale)[0]}
        both = jnp.concatenate([noise, -noise])
        mean, z = posterior.expectation(noise[:, None]), posterior.sample(both[:, None])
        return {"mean": mean[0], "sd": z.std(0)[0]}

    return _of_images(model, encode, MOMENT_SAMPLES)


def _bound(trained: TrainedModel) -> Function:
    model, params, likelihood = trained.model, trained.params, trained.model.likelihood
    if not model.has_density:
        raise MissingError("its prior is a chain of latents, which has no density")

    def bound(
        image: jax.Array, uniform: jax.Array, noise: jax.Array, *label: jax.Array
    ) -> dict[str, jax.Array]:
        x = _row(model, _view(model, image, uniform), label)
        posterior, (pixels, _) = model.encode(params, x), model.rows.split(x)
        z, log_q = posterior.sample_and_log_prob(noise[:, None])
        outputs = model.decode(params, z, x[None])

        def of_pixel(outputs: jax.Array, pixel: jax.Array) -> jax.Array:
            return likelihood.log_prob(outputs[..., None], pixel[..., None])

        # Pixels are independent given z: each is an image of one pixel.
        each: Any = jax.vmap(of_pixel, -1, -1)(outputs, pixels[None]).mean((0, 1))
        each = views.log_mass_bound(likelihood.view, each, 1, likelihood.levels)  # [D]
        if model.has_closed_form_kl:
            kl = model.closed_form_kl(params, posterior)[0]
        else:
            kl = (log_q - model.prior(params).log_prob(z)).mean(0)
        return {"reconstruction": each, "kl": kl, "elbo": each.sum() - kl.sum()}

    return _of_images(model, bound, BOUND_SAMPLES)


def _of_images(
    model: VAE, compute: Callable[..., dict[str, jax.Array]], num_samples: int
) -> Function:
    """Returns a function of an image, its draw, and noise of q's samples."""
    uniform = np.random.default_rng(1).random(model.num_pixels, np.float32)
    noise = _normal(num_samples, model.latent_dim)
    defaults = {"uniform": uniform, "noise": noise}
    inputs = {"image": _array(model.num_pixels)}
    inputs |= {each: _array(*array.shape) for each, array in defaults.items()}
    return Function(compute, _labelled(model, inputs), defaults)


def _view(model: VAE, image: jax.Array, uniform: jax.Array) -> jax.Array:
    """Returns intensities ``[D]`` in the view of the model's likelihood.

    It is ``views.observe`` with a draw that is given: the uniform numbers binarize or
    dequantise the image.
    """
    view, levels = model.likelihood.view, model.likelihood.levels
    if view == "binary":
        return (uniform < image).astype(jnp.float32)
    k = jnp.round(image * (levels - 1))
    return k.astype(jnp.int32) if view == "levels" else (k + uniform) / levels


def _below(trained: TrainedModel, layer: int) -> Function:
    model = trained.model
    prior: Any = model.prior(trained.params)

    def below(z: jax.Array) -> dict[str, jax.Array]:
        return {"z": prior.with_means_below(z[None], layer)[0]}

    return Function(below, {"z": _array(model.latent_dim)})


def _chain(trained: TrainedModel) -> dict[str, Function]:
    """Returns the functions of a chain of latents."""
    model, params = trained.model, trained.params
    size, number = _array(model.latent_dim), _array()
    prior: Any = model.prior(params)
    process, ends = prior.family.process, prior.family.ends

    def schedule(t: jax.Array) -> dict[str, jax.Array]:
        return {"gamma": prior.gamma(t)}

    def start(noise: jax.Array) -> dict[str, jax.Array]:
        return {"z": noise * process.size(prior.gamma(jnp.ones(())))}

    def denoise(
        z: jax.Array, gamma: jax.Array, before: jax.Array, *label: jax.Array
    ) -> dict[str, jax.Array]:
        row = _row(model, jnp.zeros(model.num_pixels), label)
        chain: Any = model.prior(params, row)
        inputs = z[None], gamma[None], before[None]
        # Without new noise, DDIM draws nothing that counts.
        moved = DDIM().step(chain, jax.random.key(0), *inputs)
        alpha = process.alpha(jnp.float32(ends.gamma_min))
        seen = alpha * chain.denoised(*inputs[:2]).x
        return {"z": moved[0], "seen": seen[0]}

    steps = {"z": size, "gamma": number, "gamma_before": number}
    return {
        "schedule": Function(schedule, {"t": number}),
        "start": Function(start, {"noise": size}),
        "denoise": Function(denoise, _labelled(model, steps)),
    }


_MAKERS = {"decode": _decode, "encode": _encode, "bound": _bound}
