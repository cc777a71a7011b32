"""Probabilistic PCA: a VAE for which every quantity has a closed form.

p(z) = N(0, I), p(x|z) = N(W z + b, s^2 I), so p(x) = N(b, W W^T + s^2 I) and
p(z|x) = N(M^-1 W^T (x - b), s^2 M^-1) with M = W^T W + s^2 I (Tipping & Bishop 1999,
"Probabilistic principal component analysis", eqs. 4, 6-8). This module computes in
float64 NumPy, as a reference for the float32 estimates of the other modules.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import ArrayLike

from vae_jax.likelihoods import make_likelihood
from vae_jax.model import VAE, Params, make_vae

_LOG_2PI = np.log(2 * np.pi)


class PrincipalComponents(NamedTuple):
    """The spectrum of the data's covariance, with denominator N."""

    mean: np.ndarray  # [D]
    eigenvalues: np.ndarray  # descending, [D]
    eigenvectors: np.ndarray  # one per column, [D, D]


def principal_components(x: ArrayLike) -> PrincipalComponents:
    """Returns the mean of data ``[N, D]`` and the spectrum of its covariance."""
    x = np.asarray(x, np.float64)
    mean = x.mean(0)
    centred = x - mean
    eigenvalues, eigenvectors = np.linalg.eigh(centred.T @ centred / len(x))
    return PrincipalComponents(mean, eigenvalues[::-1], eigenvectors[:, ::-1])


def num_surviving(eigenvalues: ArrayLike, variance: float) -> int:
    """Returns the number of latents that a linear model uses, given var(x|z).

    At the maximum of the likelihood, a column of W has the squared length eigenvalue -
    variance, or 0 if that is negative. Such a latent has collapsed, and the ELBO is not
    the reason (Lucas et al. 2019, "Don't blame the ELBO!").

    Args:
        eigenvalues: of the data's covariance, ``[D]``.
        variance: s^2, the fixed variance of p(x|z), in the same units.
    """
    return int(np.sum(np.asarray(eigenvalues) > variance))


class LinearGaussian(NamedTuple):
    """p(x|z) = N(weights z + offset, variance I) with z ~ N(0, I)."""

    weights: np.ndarray  # W, [D, L]; L may be 0
    offset: np.ndarray  # b, [D]
    variance: float  # s^2, in units of x squared

    @classmethod
    def fit(cls, x: ArrayLike, latent_dim: int) -> "LinearGaussian":
        """Returns the maximum-likelihood model of data.

        Tipping & Bishop 1999, eqs. 7 and 8, with rotation R = I, for which the columns
        of W are orthogonal.

        Args:
            x: data, ``[N, D]``.
            latent_dim: L, the number of latents.

        Raises:
            ValueError: latent_dim is not in {0, ..., D-1}; or so many latents explain
                the data without noise, so the likelihood is unbounded.
        """
        mean, eigenvalues, eigenvectors = principal_components(x)
        if not 0 <= latent_dim < mean.size:
            raise ValueError(
                f"latent_dim is {latent_dim}: data of {mean.size} dimensions need "
                f"one in 0, ..., {mean.size - 1}."
            )
        variance = float(eigenvalues[latent_dim:].mean())
        if variance <= np.finfo(np.float64).eps * eigenvalues[0]:
            raise ValueError(
                f"{latent_dim} latents leave no variance for the noise: use fewer."
            )
        # Rounding may put the mean of equal eigenvalues above them.
        lengths = np.sqrt(np.maximum(eigenvalues[:latent_dim] - variance, 0))
        return cls(eigenvectors[:, :latent_dim] * lengths, mean, variance)

    @property
    def latent_dim(self) -> int:
        """L, the number of latents."""
        return int(self.weights.shape[1])

    @property
    def posterior_precision(self) -> np.ndarray:
        """The inverse covariance of p(z|x), the same for every x, ``[L, L]``."""
        explained: np.ndarray = self.weights.T @ self.weights / self.variance
        return explained + np.eye(self.latent_dim)

    def log_prob(self, x: ArrayLike) -> np.ndarray:
        """Returns log p(x) in nats, a log-density: ``[N, D] -> [N]``.

        It uses the L x L precision (Woodbury's identity), because D may be large.
        """
        residual = np.asarray(x, np.float64) - self.offset
        projected = residual @ self.weights / self.variance  # [N, L]
        precision = self.posterior_precision
        explained = projected * np.linalg.solve(precision, projected.T).T
        quadratic = (residual**2).sum(-1) / self.variance - explained.sum(-1)
        log_determinant = (
            self.offset.size * np.log(self.variance) + np.linalg.slogdet(precision)[1]
        )
        log_px: np.ndarray = -0.5 * (
            quadratic + log_determinant + self.offset.size * _LOG_2PI
        )
        return log_px

    def posterior(self, x: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
        """Returns mean ``[N, L]`` and covariance ``[L, L]`` of p(z|x), x ``[N, D]``."""
        covariance = np.linalg.inv(self.posterior_precision)
        residual = np.asarray(x, np.float64) - self.offset
        return residual @ self.weights @ covariance / self.variance, covariance

    def mean_field(self, x: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
        """Returns mean and log-scale of the diagonal Gaussian q with the highest ELBO.

        It minimises KL(q || p(z|x)). Its mean is that of the posterior. Its variance
        per latent is the inverse of the diagonal of the posterior precision (Bishop
        2006, section 10.1.2).

        Args:
            x: data, ``[N, D]``.

        Returns:
            Mean ``[N, L]`` and log-scale ``[L]``.
        """
        mean, _ = self.posterior(x)
        return mean, -0.5 * np.log(np.diag(self.posterior_precision))

    def mean_field_gap(self) -> float:
        """Returns log p(x) minus the ELBO of ``mean_field``, nats, equal for every x.

        It is KL(q || p(z|x)): half of the log-determinant of the diagonal of the
        posterior precision, minus half of the log-determinant of the precision. So it
        is 0 if the columns of W are orthogonal.
        """
        precision = self.posterior_precision
        diagonal = np.log(np.diag(precision)).sum()
        return float(0.5 * (diagonal - np.linalg.slogdet(precision)[1]))

    def elbo(
        self, x: ArrayLike, q_mean: ArrayLike, q_log_scale: ArrayLike
    ) -> np.ndarray:
        """Returns E_q[log p(x|z)] - KL(q || p(z)) in nats for a diagonal Gaussian q.

        Args:
            x: data, ``[N, D]``.
            q_mean: mean of q, ``[N, L]``.
            q_log_scale: log of its standard deviations, ``[N, L]`` or ``[L]``.

        Returns:
            ``[N]``, at most ``log_prob(x)``.
        """
        mean = np.asarray(q_mean, np.float64)
        log_scale = np.asarray(q_log_scale, np.float64)
        q_variance = np.exp(2 * log_scale)
        residual = np.asarray(x, np.float64) - mean @ self.weights.T - self.offset
        spread = (q_variance * (self.weights**2).sum(0)).sum(-1)
        squares = ((residual**2).sum(-1) + spread) / self.variance
        log_normaliser = self.offset.size * (_LOG_2PI + np.log(self.variance))
        kl = 0.5 * (mean**2 + q_variance - 1 - 2 * log_scale).sum(-1)
        elbo: np.ndarray = -0.5 * (squares + log_normaliser) - kl
        return elbo

    def to_vae(
        self, image_shape: tuple[int, int, int], levels: int
    ) -> tuple[VAE, Params]:
        """Returns the same model as a VAE with linear networks, and its parameters.

        The encoder gives ``mean_field``, its optimum. Its mean is that of the exact
        posterior; if the columns of W are orthogonal, it is the exact posterior.

        Args:
            image_shape: (height, width, channels), whose product is D.
            levels: number of intensity levels of the likelihood; the encoder's input,
                intensity, depends on it.

        Raises:
            ValueError: the model has no latents; a VAE needs at least one.
        """
        model = make_vae(
            make_likelihood(
                "gaussian_fixed", levels, fixed_scale=float(np.sqrt(self.variance))
            ),
            image_shape=image_shape,
            latent_dim=self.latent_dim,
            widths=(),
        )
        # mean = (x - offset) @ projection; x = slope intensity + shift.
        slope, shift = (levels - 1) / levels, 0.5 / levels
        _, covariance = self.posterior(self.offset[None])
        projection = self.weights @ covariance / self.variance  # [D, L]
        _, log_scale = self.mean_field(self.offset[None])

        def float32(array: np.ndarray) -> jax.Array:
            return jnp.asarray(array, jnp.float32)

        params = {
            "encoder": {
                "head": {
                    "mean": {
                        "kernel": float32(slope * projection),
                        "bias": float32((shift - self.offset) @ projection),
                    },
                    "log_scale": {
                        "kernel": jnp.zeros(projection.shape),
                        # The inverse of DiagonalGaussian.from_outputs' bound.
                        "bias": float32(20 * np.arctanh(log_scale / 20)),
                    },
                }
            },
            "decoder": {
                "output": {"kernel": float32(self.weights.T)},
                "bias": {"pixels": float32(self.offset[None])},
            },
            "shared": jnp.zeros(0),
            "posterior": {},
            "prior": {},
        }
        return model, params
