"""The interface of every likelihood p(x | z) to the rest of the library."""

import abc
import dataclasses
from typing import Annotated, ClassVar, Literal

import jax
import jax.numpy as jnp

from vae_jax.checks import Range, require_fields

View = Literal["binary", "levels", "continuous"]

# The mean of a distribution is at least this far from 0 and 1 when training starts.
_MEAN_MARGIN = 1e-3


@dataclasses.dataclass(frozen=True)
class Likelihood(abc.ABC):
    """A family of distributions over the D pixels of an image, independent given z.

    The data are integers k in {0, ..., levels - 1}; a likelihood is defined on one
    view x of them: 'binary' (x in {0, 1}), 'levels' (x = k, an integer array) or
    'continuous' (x = (k + u) / levels in [0, 1], u uniform).

    ``outputs`` is ``[..., C, D]`` with C = pixel_outputs + shared_outputs channels.
    First come the channels that the decoder supplies for each pixel. Then come those
    with one number for all pixels, broadcast over D. The formulas do not distinguish
    the two.

    Leading axes of ``outputs`` and x broadcast against each other as in NumPy, for
    instance outputs ``[S, B, C, D]`` with x ``[B, D]``.

    Attributes:
        levels: number of values k takes, at least 2.
        view: the view x that the likelihood is defined on.
        samples_its_density: whether ``sample`` draws from the density of ``log_prob``;
            False if samples outside the range of images are clipped to it.
    """

    levels: Annotated[int, Range(at_least=2)]
    view: ClassVar[View]
    samples_its_density: ClassVar[bool] = True

    def __post_init__(self) -> None:
        require_fields(self)

    @property
    @abc.abstractmethod
    def pixel_outputs(self) -> int:
        """The number of parameters that the decoder supplies for each pixel."""

    @property
    def shared_outputs(self) -> int:
        """The number of further parameters that all pixels share."""
        return 0

    @property
    def fits_shared(self) -> bool:
        """Whether the shared parameters are set by ``optimal_shared``, not learned."""
        return False

    @abc.abstractmethod
    def log_prob(self, outputs: jax.Array, x: jax.Array) -> jax.Array:
        """Returns log p(x | z) in nats, summed over pixels, constants included.

        Args:
            outputs: parameters, ``[..., C, D]``.
            x: data in the view of this likelihood, ``[..., D]``.

        Returns:
            ``[...]``, the broadcast leading axes of outputs and x: a log-mass for the
            views 'binary' and 'levels', and a log-density with respect to x for
            'continuous'.
        """

    @abc.abstractmethod
    def mean(self, outputs: jax.Array) -> jax.Array:
        """Returns E[x | z] ``[..., D]``, in units of x, of outputs ``[..., C, D]``."""

    @abc.abstractmethod
    def sample(self, key: jax.Array, outputs: jax.Array) -> jax.Array:
        """Returns one draw of x ``[..., D]``, given outputs ``[..., C, D]``."""

    @abc.abstractmethod
    def initial_outputs(self, pixel_mean: jax.Array, pixel_std: jax.Array) -> jax.Array:
        """Returns outputs ``[C, D]`` at which each pixel resembles the data.

        The mean of the distribution is the mean of the data; it is kept away from 0 and
        1 if the distribution cannot reach them. Its spread is roughly that of the data.

        Args:
            pixel_mean: mean of the intensity k / (levels - 1) over the data, ``[D]``.
            pixel_std: its standard deviation, ``[D]``.
        """

    @property
    def has_readout(self) -> bool:
        """Whether ``readout`` is defined."""
        return type(self).readout is not Likelihood.readout

    def readout(self, mean: jax.Array, std: jax.Array) -> jax.Array:
        """Returns outputs ``[..., C, D]`` for pixels that were seen with noise.

        Only for likelihoods with ``has_readout``. Up to its edges, p(x|z) is then the
        normal distribution with this mean and standard deviation.

        Args:
            mean: of the intensity k / (levels - 1), ``[..., D]``.
            std: its standard deviation, ``[..., D]``.

        Raises:
            NotImplementedError: there is none for this likelihood.
        """
        raise NotImplementedError(f"{self} has no readout")

    def _continuous_units(
        self, mean: jax.Array, std: jax.Array
    ) -> tuple[jax.Array, jax.Array]:
        """Returns an intensity's moments in the units of the continuous view."""
        ratio = (self.levels - 1) / self.levels
        return ratio * mean + 0.5 / self.levels, ratio * std

    def optimal_shared(self, outputs: jax.Array, x: jax.Array) -> jax.Array:
        """Returns the shared parameters that maximise the mean of ``log_prob``.

        Only for likelihoods with ``fits_shared``.

        Args:
            outputs: ``[..., C, D]``; the shared channels are not read.
            x: data, ``[..., D]``; the mean is over all axes.

        Returns:
            ``[shared_outputs]``.

        Raises:
            NotImplementedError: ``fits_shared`` is False.
        """
        raise NotImplementedError(f"{self} has no shared parameters to fit")

    def _channels(self, outputs: jax.Array) -> list[jax.Array]:
        """Returns the channels of outputs ``[..., C, D]`` as C arrays ``[..., D]``."""
        self._check(outputs)
        return [outputs[..., channel, :] for channel in range(outputs.shape[-2])]

    def _check(self, outputs: jax.Array) -> None:
        """Raises ValueError unless outputs is ``[..., C, D]``."""
        expected = self.pixel_outputs + self.shared_outputs
        if outputs.ndim < 2 or outputs.shape[-2] != expected:
            raise ValueError(
                f"{self} needs outputs of shape [..., {expected}, D], "
                f"got {list(outputs.shape)}"
            )

    def _continuous_moments(
        self, pixel_mean: jax.Array, pixel_std: jax.Array
    ) -> tuple[jax.Array, jax.Array]:
        """Returns mean and standard deviation ``[D]`` of the continuous view."""
        ratio = (self.levels - 1) / self.levels
        mean = ratio * pixel_mean + 0.5 / self.levels
        std = jnp.sqrt((ratio * pixel_std) ** 2 + 1.0 / (12 * self.levels**2))
        return mean, std


def inner_mean(mean: jax.Array) -> jax.Array:
    """Returns a mean in [0, 1], clipped to the interior, where logits are moderate."""
    return jnp.clip(mean, _MEAN_MARGIN, 1.0 - _MEAN_MARGIN)
