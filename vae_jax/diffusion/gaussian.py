"""Exact answers for images with a normal distribution, N(mean, covariance).

The best denoiser of such images is linear, so that every term of a chain's bound has a
closed form. In the coordinates d of an image along the eigenvectors of the covariance,
with the eigenvalues lambda > 0 and s = SNR, the squared error of the denoised image is
E(s) = sum (d^2 + s lambda^2) / (1 + s lambda)^2, on average over the noise.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from vae_jax.diffusion.process import Process
from vae_jax.networks import Denoiser, Module, Shape, WithoutParameters


@dataclasses.dataclass(frozen=True, eq=False)
class GaussianImages:
    """Images with a normal distribution; hashable by identity.

    Attributes:
        mean: ``[D]``.
        covariance: ``[D, D]``, of full rank.
        eigenvalues: of the covariance, rising, ``[D]``.
        eigenvectors: their directions, one a column, ``[D, D]``.
    """

    mean: np.ndarray
    covariance: np.ndarray
    eigenvalues: np.ndarray = dataclasses.field(init=False, repr=False)
    eigenvectors: np.ndarray = dataclasses.field(init=False, repr=False)

    def __post_init__(self) -> None:
        values, vectors = np.linalg.eigh(np.asarray(self.covariance, np.float64))
        # Rounding can make an eigenvalue of 0 a little larger.
        if not values[0] > len(values) * np.finfo(np.float64).eps * values[-1]:
            raise ValueError(
                f"covariance has the eigenvalue {values[0]:.3g}: it must be of full "
                "rank. Leave out pixels that never vary, or dequantise the images."
            )
        object.__setattr__(self, "eigenvalues", values)
        object.__setattr__(self, "eigenvectors", vectors)

    @classmethod
    def fitted(cls, images: np.ndarray) -> "GaussianImages":
        """Returns the normal distribution of images ``[N, D]`` by their moments."""
        images = np.asarray(images, np.float64)
        return cls(images.mean(0), np.cov(images, rowvar=False, bias=True))

    def coordinates(self, x: np.ndarray) -> Any:
        """Returns images ``[..., D]`` along the eigenvectors, less the mean."""
        return (x - self.mean) @ self.eigenvectors

    def sample(self, seed: int, num: int) -> Any:
        """Returns images ``[num, D]``."""
        noise = np.random.default_rng(seed).standard_normal((num, len(self.mean)))
        return self.mean + (noise * np.sqrt(self.eigenvalues)) @ self.eigenvectors.T

    def log_prob(self, x: np.ndarray) -> Any:
        """Returns the log-density of images ``[..., D]``, nats, ``[...]``."""
        squares = self.coordinates(x) ** 2 / self.eigenvalues
        return -0.5 * (squares + np.log(2 * np.pi * self.eigenvalues)).sum(-1)

    @property
    def entropy(self) -> float:
        """The mean of -log_prob over the distribution itself, nats."""
        return float(0.5 * (1 + np.log(2 * np.pi * self.eigenvalues)).sum())

    def error(self, x: np.ndarray, snr: np.ndarray) -> Any:
        """Returns E(s), the mean squared error of the denoised image.

        Args:
            x: images, ``[..., 1, D]`` or ``[D]``.
            snr: s, ``[S]``.

        Returns:
            ``[..., S]``.
        """
        values, s = self.eigenvalues, np.asarray(snr)[:, None]
        squares = self.coordinates(x)[..., None, :] ** 2
        return ((squares + s * values**2) / (1 + s * values) ** 2).sum(-1)

    def diffusion_term(self, x: np.ndarray, snr: np.ndarray) -> Any:
        """Returns the KL of the layers between SNRs that fall, nats, ``[...]``.

        It is 1/2 sum_i (s_{i-1} - s_i) E(s_i).

        Args:
            x: images, ``[..., D]``.
            snr: s_0 > ... > s_T, the cleanest first, ``[T + 1]``.
        """
        return 0.5 * (-np.diff(snr) * self.error(x, snr[1:])).sum(-1)

    def diffusion_limit(self, x: np.ndarray, first: float, last: float) -> Any:
        """Returns the limit of ``diffusion_term`` for infinitely many layers, nats.

        Args:
            x: images, ``[..., D]``.
            first: SNR at the image's end.
            last: SNR at the noise's end.
        """
        values = self.eigenvalues
        share = self.coordinates(x) ** 2 / values
        high, low = 1 + first * values, 1 + last * values
        return 0.5 * (np.log(high / low) + (1 - share) * (1 / high - 1 / low)).sum(-1)

    def bound_excess(self, gamma_min: float, kl_to_prior: float) -> float:
        """Returns how far the mean of minus the bound exceeds the entropy, nats.

        For infinitely many layers and the readout N(z_0 / alpha_0, e^gamma_0 I), over
        images of the distribution itself.

        Args:
            gamma_min: -log SNR of z_0.
            kl_to_prior: KL(q(z_1) || p(z_1)) of the *aggregated* last layer, nats.
        """
        noise = np.exp(gamma_min) / self.eigenvalues
        return float(0.5 * np.log1p(noise).sum() + kl_to_prior)

    def kl_of_last_layer(self, gamma_max: float) -> float:
        """Returns KL(q(z_1) || N(0, I)) of the aggregated last layer, nats.

        q(z_1) is N(alpha mean, alpha^2 covariance + sigma^2 I), with a preserved
        variance.
        """
        alpha2 = 1 / (1 + np.exp(gamma_max))
        variances = alpha2 * self.eigenvalues + 1 - alpha2
        squares = alpha2 * (self.mean**2).sum()
        return float(0.5 * (squares + (variances - 1 - np.log(variances)).sum()))


@dataclasses.dataclass(frozen=True)
class ExactDenoiser(Denoiser):
    """E[x|z] of images with a normal distribution; read it as 'data'.

    Attributes:
        images: the distribution.
        gamma_min: -log SNR at time 0.
        gamma_max: -log SNR at time 1.
    """

    images: GaussianImages
    gamma_min: float
    gamma_max: float

    def module(self, shape: Shape, outputs: int) -> Module:
        """See ``Denoiser``."""
        del shape, outputs
        return WithoutParameters(self._expectation)

    def _expectation(self, z: jax.Array, time: jax.Array) -> jax.Array:
        """Returns E[x|z] of latents ``[N, D]`` at times ``[N]``, ``[N, 1, D]``."""
        images = self.images
        gamma = self.gamma_min + (self.gamma_max - self.gamma_min) * time
        process = Process()
        vectors = jnp.asarray(images.eigenvectors)
        mean, values = jnp.asarray(images.mean)[None], jnp.asarray(images.eigenvalues)
        alpha, sigma = process.alpha(gamma)[..., None], process.sigma(gamma)[..., None]
        # alpha lambda / (alpha^2 lambda + sigma^2), for each coordinate.
        gain = alpha * values[None] / (alpha**2 * values[None] + sigma**2)
        rest = z - alpha * mean
        found: jax.Array = mean + ((rest @ vectors) * gain) @ vectors.T
        return found[..., None, :]
