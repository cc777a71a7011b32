"""A trained model: a VAE with its parameters, for arrays of images."""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from numpy.typing import ArrayLike

from vae_jax import views
from vae_jax.checks import (
    require_count,
    require_declared,
    require_key,
    require_type,
)
from vae_jax.evidence import ImportanceEstimate, importance_estimate
from vae_jax.guidance import Weight
from vae_jax.measure import (
    expected_intensity,
    latent_mean,
    log_px_of_classes,
    reconstruct,
)
from vae_jax.model import VAE, Params
from vae_jax.per_image import map_images
from vae_jax.products import float32_products
from vae_jax.rows import Rows
from vae_jax.samplers import SAMPLERS, Ancestral, Sampler
from vae_jax.training import MemberKeys

# Most images on the device at once, and most of them computed together.
_BLOCK, _BATCH = 1000, 100


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class _OnArrays:
    """The fields of a ``TrainedModel``, and functions of one row mapped over arrays."""

    model: VAE
    params: Params
    key: jax.Array
    failure: str = ""
    num_samples: int = 500
    chunk: int = 50

    def __repr__(self) -> str:
        """Returns one line: the kinds of the parts, and the sizes of the model."""
        model, kinds = self.model, ("network", "posterior_family", "prior_family")
        sizes = ("image_shape", "layer_dims", "num_classes")
        facts = [f"likelihood={model.likelihood}"]
        facts += [f"{name}={type(getattr(model, name)).__name__}" for name in kinds]
        facts += [f"{name}={getattr(model, name)}" for name in sizes]
        if self.failure:
            facts.append(f"failure={self.failure!r}")
        return f"{type(self).__name__}({', '.join(facts)})"

    def _of_images(
        self,
        function: Callable[..., Any],
        images: np.ndarray,
        labels: ArrayLike | None,
        *sizes: int,
    ) -> Any:
        """Maps a function of one row over images as evaluation sees them."""
        key, model = self._keys().evaluate, self.model
        pixels = views.as_rows(images, model.image_shape, model.likelihood.levels)
        rows = self._known_rows.of(pixels, labels)
        x = np.asarray(model.shared_draw(views.TEST, rows))
        return self._map(function, key, x, *sizes)

    def _map(
        self,
        function: Callable[..., Any],
        key: jax.Array,
        rows: np.ndarray,
        *sizes: int,
    ) -> Any:
        """Maps a function of one row, block by block, to arrays on the host."""
        size, parts = min(len(rows), _BLOCK), []
        for first in range(0, len(rows), size):
            # The last block is filled up, so that nothing is compiled again.
            places = np.minimum(np.arange(first, first + size), len(rows) - 1)
            block = rows[places]
            found = _mapped(function, self.model, sizes, self.params, key, block, first)
            parts.append(jax.tree.map(np.asarray, found))
        return jax.tree.map(lambda *leaves: np.concatenate(leaves)[: len(rows)], *parts)

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

    def _one(self, name: str, image: np.ndarray) -> np.ndarray:
        """Returns one image as an array of one."""
        shape, levels = self.model.image_shape, self.model.likelihood.levels
        return views.as_row(image, shape, levels, name)

    def _sizes(self, num_samples: int | None) -> tuple[int, int]:
        """Returns the number of samples, and how many are decoded together."""
        num_samples = self.num_samples if num_samples is None else num_samples
        require_count("num_samples", num_samples)
        return num_samples, min(self.chunk, num_samples)

    @property
    def _known_rows(self) -> Rows:
        """The format of rows whose class is known."""
        return self.model.rows._replace(may_be_unknown=False)

    def _labels(self, label: int | None, num_images: int) -> np.ndarray | None:
        """Returns one label for each of several images; None without classes.

        Raises:
            ValueError: it is missing, or is not allowed.
        """
        one = label if label is None else [label]
        self._known_rows.of(np.zeros((1, 0)), one, "label")
        return one if one is None else np.repeat(one, num_images)

    def _mean_images(self, intensities: np.ndarray) -> np.ndarray:
        white = np.float32(self.model.likelihood.levels - 1)
        return self._shaped(intensities * white)

    def _shaped(self, rows: np.ndarray) -> np.ndarray:
        *size, channels = self.model.image_shape
        return rows.reshape(len(rows), *size, *[channels] * (channels > 1))


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class TrainedModel(_OnArrays):
    """A VAE with its parameters.

    Methods take images as integers 0 ... levels - 1, ``[N, H, W, C]``, ``[N, D]`` or,
    with one channel, ``[N, H, W]``. They return images as ``[N, H, W, C]``, or as
    ``[N, H, W]`` with one channel: mean images as floats on the same scale (the mean of
    a likelihood on all reals may lie outside it), and samples as integers.

    A model with classes needs the class of each image, ``labels``, whole numbers 0 ...
    ``num_classes`` - 1, ``[N]``. Its methods are about p(x|z, y), q(z|x, y) and
    log p(x|y), y the class. A model without classes takes no labels.

    Log-probabilities are nats per image in the likelihood's view: log-masses, or
    log-densities of dequantised images; ``score`` makes them comparable. A key that all
    models share draws the view of an image, and the model's own key draws latents. So
    the same images in the same order give the same numbers.

    A method compiles once for each number of images below 1,000, and once for all other
    numbers. Beside the images and their view, its memory does not depend on the number.

    Attributes:
        model: the VAE.
        params: its parameters, without padding.
        key: the key that it was trained with.
        failure: the place of the first value in training that was not finite; '' if all
            were finite. The methods of a model that failed raise an error.
        num_samples: importance samples of an image, if a method is not given a number.
        chunk: samples decoded together.
    """

    # --- latents and images ---

    def encode(self, images: np.ndarray, labels: ArrayLike | None = None) -> np.ndarray:
        """Returns the posterior means E_q[z|x], ``[N, latent]``."""
        means: np.ndarray = self._of_images(_encode, images, labels, self.num_samples)
        return means

    def decode(self, z: ArrayLike, labels: ArrayLike | None = None) -> np.ndarray:
        """Returns the mean image E[x|z] of each z ``[N, latent]``.

        For an autoregressive decoder, the mean of a pixel is conditioned on one draw of
        the pixels before it. In a hierarchy, only the layer next to the images counts.

        Raises:
            ValueError: z has another number of latents, or is not an array of numbers,
                or labels are missing or not allowed.
        """
        latent_dim = self.model.latent_dim
        why = f"the model has {latent_dim} latents"
        remedy = f"Give an array [N, {latent_dim}], with N at least 1."
        rows = _numbers("z", z, (latent_dim,), why, remedy)
        rows = _latent_rows(self.model).of(rows, labels)
        return self._mean_images(self._map(_decode, self._keys().pictures, rows))

    def reconstruct(
        self, images: np.ndarray, labels: ArrayLike | None = None
    ) -> np.ndarray:
        """Returns the mean image at the posterior mean of each image, in its shape."""
        means = self._of_images(_reconstruct, images, labels, self.num_samples)
        return self._mean_images(means).reshape(np.shape(images))

    def interpolate(
        self,
        a: np.ndarray,
        b: np.ndarray,
        num_images: int,
        label: int | None = None,
    ) -> np.ndarray:
        """Returns the mean images on the line between the posterior means of two.

        Args:
            a: the image that the first one reconstructs, ``[H, W, C]``, ``[H, W]`` or
                ``[D]``.
            b: the image that the last one reconstructs.
            num_images: number of images, with both ends.
            label: the class of all; None without classes.

        Raises:
            ValueError: ``num_images`` is less than 2, or an image or the label is not
                allowed.
        """
        _require_encoder(self.model)
        require_count("num_images", num_images, smallest=2)
        y = self._labels(label, 1)
        ends = [
            self.encode(self._one(name, x), y)[0] for name, x in (("a", a), ("b", b))
        ]
        z = np.linspace(ends[0], ends[1], num_images)
        return self.decode(z, self._labels(label, num_images))

    def traverse(
        self,
        image: np.ndarray,
        latent: int,
        values: Sequence[float] | np.ndarray,
        label: int | None = None,
    ) -> np.ndarray:
        """Returns the mean images at the posterior mean of an image, one latent moved.

        In a hierarchy, the layers below that of the latent are at their means, given
        the layer above them.

        Args:
            image: the image, ``[H, W, C]``, ``[H, W]`` or ``[D]``.
            latent: index of the latent.
            values: its values, ``[N]``.
            label: the class of the image; None without classes.

        Raises:
            ValueError: there is no such latent, or the values, the image or the label
                are not allowed.
        """
        _require_encoder(self.model)
        _require_latent(self.model, latent)
        why, remedy = "it is one row of numbers", "Give a list, as in (-1, 0, 1)."
        row = _numbers("values", values, (), why, remedy)
        mean = self.encode(self._one("image", image), self._labels(label, 1))
        z, labels = np.repeat(mean, len(row), axis=0), self._labels(label, len(row))
        z[:, latent] = row
        prior: Any = self.model.prior(self.params)
        layer = int(np.searchsorted(np.cumsum(self.model.layer_dims), latent, "right"))
        return self.decode(prior.with_means_below(z, layer) if layer else z, labels)

    def sample(
        self,
        num_images: int,
        key: jax.Array,
        labels: ArrayLike | None = None,
        *,
        sampler: str | Sampler = "ancestral",
        steps: int = 0,
        guidance: float = 1.0,
    ) -> np.ndarray:
        """Returns images x ~ p(x|z) with z ~ p(z), as integers.

        A chain of latents has other samplers, and guidance: with them z is not from
        p(z). All numbers of steps and weights but 1 share a compiled program.

        Args:
            num_images: number of images.
            key: a typed key.
            labels: the class of each; if None, a model with classes draws all classes
                with equal probabilities.
            sampler: of a chain, a name in ``samplers.SAMPLERS``, or one with options.
            steps: of the sampler; 0 for its own: those of the chain, if it is a name.
            guidance: of a chain with classes and ``label_dropout``, the weight of
                classifier-free guidance; 1 for none, 0 for images of no class.

        Raises:
            ValueError: ``num_images`` is less than 1, ``key`` is not one typed key,
                labels are not allowed, or the model does not allow the sampler, the
                steps or the guidance.
        """
        require_count("num_images", num_images)
        require_key("key", key)
        require_declared("guidance", guidance, Weight)
        way, weight = _way(sampler, steps), None if guidance == 1 else float(guidance)
        self._keys()
        y: np.ndarray | None = None
        if labels is not None:
            y = self._known_rows.of(np.zeros((num_images, 0)), labels)[:, 0]
        size = min(num_images, _BLOCK)
        blocks = [
            _sample(
                self.model,
                self.params,
                jax.random.fold_in(key, first) if first else key,
                size,
                None if y is None else np.resize(y[first:], size).astype(np.int32),
                way,
                weight,
            )
            for first in range(0, num_images, size)
        ]
        x = np.concatenate(blocks)[:num_images]
        likelihood = self.model.likelihood
        return self._shaped(views.to_integers(likelihood.view, x, likelihood.levels))

    # --- probabilities ---

    def elbo(
        self,
        images: np.ndarray,
        num_samples: int | None = None,
        labels: ArrayLike | None = None,
    ) -> np.ndarray:
        """Returns the ELBO of each image, a mean over samples of q, ``[N]``, nats."""
        return np.asarray(self.importance_estimate(images, num_samples, labels).elbo)

    def log_prob(
        self,
        images: np.ndarray,
        num_samples: int | None = None,
        labels: ArrayLike | None = None,
    ) -> np.ndarray:
        """Returns the importance-weighted log p(x) of each image, ``[N]``, in nats.

        It is a lower bound on average; more samples of q make it tighter.
        ``importance_estimate`` also says how many samples count. A chain of latents has
        no importance weights: its ELBO is returned.
        """
        return np.asarray(self.importance_estimate(images, num_samples, labels).log_px)

    def score(
        self,
        images: np.ndarray,
        num_samples: int | None = None,
        labels: ArrayLike | None = None,
    ) -> np.ndarray:
        """Returns -log p(x) of each image in ``unit``, ``[N]``; lower is more normal.

        It is the ``score`` of results, from ``log_prob``.
        """
        view, levels = self.model.likelihood.view, self.model.likelihood.levels
        log_px = self.log_prob(images, num_samples, labels)
        return views.scores(view, log_px, self.model.num_pixels, levels)

    @property
    def unit(self) -> str:
        """The unit of ``score``: 'nats' of binary images, or 'bits/dim'."""
        return views.unit(self.model.likelihood.view)

    def importance_estimate(
        self,
        images: np.ndarray,
        num_samples: int | None = None,
        labels: ArrayLike | None = None,
    ) -> ImportanceEstimate:
        """Returns log p(x), ELBO and effective sample size of each image.

        Args:
            images: the images.
            num_samples: samples of q for each image; None: as many as in evaluation.
            labels: the classes of the images; None without classes.

        Returns:
            Arrays ``[N]``; ``effective_sample_size`` is between 1 and the number of
            samples, and the estimate is poor where it is small. It is NaN for a chain
            of latents, which has no weights.
        """
        found: ImportanceEstimate = self._of_images(
            _estimate, images, labels, *self._sizes(num_samples)
        )
        return found

    def classify(
        self, images: np.ndarray, num_samples: int | None = None
    ) -> np.ndarray:
        """Returns p(y|x) of every class y, by Bayes' rule with equal p(y), ``[N, K]``.

        Args:
            images: the images.
            num_samples: samples of q for each image and class, for log p(x|y); None: as
                many as in evaluation for one class.

        Raises:
            ValueError: the model has no classes, or an argument is not allowed.
        """
        if not self.model.num_classes:
            raise ValueError(
                "the model has no classes: it cannot classify images. Make it with "
                "num_classes, and train it with labels."
            )
        sizes = self.num_samples, *self._sizes(num_samples)
        any_class = np.zeros(np.shape(images)[:1], np.int32)
        found: np.ndarray = self._of_images(_classify, images, any_class, *sizes)
        return found


def _require_encoder(model: VAE) -> None:
    """Refuses a model whose latents cannot be walked through.

    Raises:
        ValueError: z is the image with noise.
    """
    if model.is_chain:
        raise ValueError(
            "posterior is 'noise': z is the image with noise, so a walk through it "
            "only blends pixels. Use sample, or a model with an encoder."
        )


def _require_latent(model: VAE, latent: int) -> None:
    """Refuses the index of a latent that the model does not have."""
    known = isinstance(latent, int | np.integer) and not isinstance(latent, bool)
    if not known or not 0 <= latent < model.latent_dim:
        raise ValueError(
            f"latent is {latent!r}: the model has {model.latent_dim} latents. Give an "
            f"integer from 0 to {model.latent_dim - 1}."
        )


def _way(sampler: str | Sampler, steps: int) -> Sampler | None:
    """Returns a sampler with its steps; None for that of every model, p(z) itself."""
    if isinstance(sampler, str):
        sampler = SAMPLERS.make(sampler)
    example = "a name such as 'ddim', or one as SAMPLERS.make('ddim', eta=0.5) is"
    require_type("sampler", sampler, Sampler, example)
    sampler = dataclasses.replace(sampler, steps=steps or sampler.steps)
    return None if sampler == Ancestral() else sampler


def _numbers(
    name: str, values: ArrayLike, shape: tuple[int, ...], why: str, remedy: str
) -> np.ndarray:
    """Returns finite numbers as float32 ``[N, *shape]``, with N at least 1."""
    try:
        if np.iscomplexobj(values):
            raise TypeError("its imaginary part would be lost")
        with np.errstate(over="ignore"):  # An infinite number is refused below.
            array = np.asarray(values, np.float32)
    except (ValueError, TypeError, OverflowError):
        raise ValueError(f"{name} is no array of real numbers. {remedy}") from None
    if not array.ndim or array.shape[1:] != shape or not len(array):
        raise ValueError(f"{name} has shape {list(array.shape)}: {why}. {remedy}")
    if not np.isfinite(array).all():
        raise ValueError(f"{name} has a value that is not finite in float32. {remedy}")
    return array


# --- functions of one row, for ``_mapped`` ---


def _encode(
    model: VAE, params: Params, key: jax.Array, x: jax.Array, num_samples: int
) -> jax.Array:
    return latent_mean(model, params, key, x, num_samples=num_samples)


def _reconstruct(
    model: VAE, params: Params, key: jax.Array, x: jax.Array, num_samples: int
) -> jax.Array:
    return reconstruct(model, params, key, x, num_samples=num_samples)[1]


def _decode(model: VAE, params: Params, key: jax.Array, row: jax.Array) -> jax.Array:
    z, labels = _latent_rows(model).split(row[None])
    return expected_intensity(model, params, key, z, labels)[0]


def _latent_rows(model: VAE) -> Rows:
    """Returns the format of latents with a class, if the model has classes."""
    return Rows(model.latent_dim, model.num_classes)


def _classify(
    model: VAE,
    params: Params,
    key: jax.Array,
    x: jax.Array,
    num_samples: int,
    class_samples: int,
    chunk: int,
) -> jax.Array:
    log_px_y = log_px_of_classes(
        model,
        params,
        key,
        x,
        num_samples=num_samples,
        class_samples=class_samples,
        chunk=chunk,
    )
    return jax.nn.softmax(log_px_y)


def _estimate(
    model: VAE,
    params: Params,
    key: jax.Array,
    x: jax.Array,
    num_samples: int,
    chunk: int,
) -> ImportanceEstimate:
    return importance_estimate(
        model, params, key, x, num_samples=num_samples, chunk=chunk
    )


# --- compiled functions ---


@functools.partial(jax.jit, static_argnums=(0, 1, 2))
def _mapped(
    function: Callable[..., Any],
    model: VAE,
    sizes: tuple[int, ...],
    params: Params,
    key: jax.Array,
    rows: jax.Array,
    first: jax.Array,
) -> Any:
    """Maps a function over a block of rows; ``first`` is the index of its first row."""

    def one_row(key: jax.Array, row: jax.Array) -> Any:
        return function(model, params, key, row, *sizes)

    return map_images(one_row, key, rows, batch_size=_BATCH, first=first)


@functools.partial(jax.jit, static_argnames=("model", "num_images"))
@float32_products
def _sample(
    model: VAE,
    params: Params,
    key: jax.Array,
    num_images: int,
    labels: jax.Array | None,
    sampler: Sampler | None,
    guidance: jax.Array | None,
) -> jax.Array:
    return model.generate(params, key, num_images, labels, sampler, guidance)[1]
