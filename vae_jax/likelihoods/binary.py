"""The likelihood of the binary view: x is 0 or 1 at each pixel."""

import dataclasses
from typing import ClassVar

import jax

from vae_jax.likelihoods.interface import Likelihood, View, inner_mean
from vae_jax.likelihoods.numerics import align, softplus, sum_pixels


@dataclasses.dataclass(frozen=True)
class Bernoulli(Likelihood):
    """Bernoulli: p(x) = sigmoid(l)^x sigmoid(-l)^(1 - x), a mass over {0, 1}.

    There is one output per pixel, the logit l. Grey pixels are outside its domain and
    give NaN; they must be binarized first.
    Source: Kingma and Welling 2014, appendix C.1, in logits.
    """

    view: ClassVar[View] = "binary"

    @property
    def pixel_outputs(self) -> int:
        return 1

    def log_prob(self, outputs: jax.Array, x: jax.Array) -> jax.Array:
        """Returns the log-mass ``[...]`` of binary images ``[..., D]``, in nats."""
        logits, x = align(*self._channels(outputs), x)
        # One softplus of the signed logit. The form x * l - softplus(l) subtracts two
        # nearly equal numbers when a confident logit is right.
        log_mass = -softplus((1.0 - 2.0 * x) * logits)
        return sum_pixels(log_mass, (x == 0) | (x == 1))

    def mean(self, outputs: jax.Array) -> jax.Array:
        (logits,) = self._channels(outputs)
        return jax.nn.sigmoid(logits)

    def sample(self, key: jax.Array, outputs: jax.Array) -> jax.Array:
        probability = self.mean(outputs)
        return jax.random.bernoulli(key, probability).astype(probability.dtype)

    def readout(self, mean: jax.Array, std: jax.Array) -> jax.Array:
        """See ``Likelihood``: the odds of white and black under the noise."""
        return ((mean - 0.5) / std**2)[..., None, :]

    def initial_outputs(self, pixel_mean: jax.Array, pixel_std: jax.Array) -> jax.Array:
        return jax.scipy.special.logit(inner_mean(pixel_mean))[None]
