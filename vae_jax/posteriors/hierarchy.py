"""Posteriors over several stochastic layers.

z holds the latents of one layer after another. The first is z_1, the layer next to the
images. The generative model is p(z_L) p(z_{L-1}|z_L) ... p(z_1|z_2) p(x|z_1); see
``priors.hierarchy``.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any, ClassVar, Protocol

import jax
import jax.numpy as jnp

from vae_jax.distributions import DiagonalGaussian
from vae_jax.distributions.conditional import (
    GaussianLayers,
    log_prob_each,
    sample_and_log_prob_each,
    split_layers,
)
from vae_jax.networks import Heads, MLPEncoder, Params
from vae_jax.trees import tree_dataclass


@tree_dataclass
@dataclasses.dataclass(frozen=True)
class ChainPosterior:
    """q(z|x) whose layers are drawn one after another, each given the one before.

    Attributes:
        values: a tree of arrays, from which the family makes each layer's Gaussian.
        family: gives the order of the layers, and the Gaussian of each.
    """

    values: Any
    family: "ChainFamily" = dataclasses.field(metadata={"static": True})

    def sample(self, noise: jax.Array) -> jax.Array:
        """See ``Posterior``."""
        return self._walk(noise)[0]

    def sample_and_log_prob(self, noise: jax.Array) -> tuple[jax.Array, jax.Array]:
        """See ``Posterior``."""
        z, log_q, _ = self._walk(noise)
        return z, log_q

    def expectation(self, noise: jax.Array) -> jax.Array:
        """Returns the average over samples of each layer's conditional mean.

        The condition is a sample of the layer before, drawn from the noise and from its
        negative. A layer adds no noise to its own mean, so the mean of a layer that
        does not depend on the layer before is exact.
        """
        _, _, means = self._walk(jnp.concatenate([noise, -noise]))
        return means.mean(0)

    def log_prob(self, z: jax.Array) -> jax.Array:
        """See ``Posterior``."""
        latents = split_layers(z, self.family.layer_dims)
        total = jnp.zeros(z.shape[:-1])
        before = None
        for i in self.family.order:
            total = total + log_prob_each(self._gaussian(i, before, z), latents[i])
            before = latents[i]
        return total

    def _walk(self, noise: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
        """Returns z, log q(z|x), and the mean of each layer given the one before it.

        The shapes are ``[samples, batch, latent]``, ``[samples, batch]`` (nats) and
        ``[samples, batch, latent]``.
        """
        noises = split_layers(noise, self.family.layer_dims)
        latents, means = list(noises), list(noises)
        total = jnp.zeros(noise.shape[:-1])
        before = None
        for i in self.family.order:
            gaussian = self._gaussian(i, before, noise)
            before, own = sample_and_log_prob_each(gaussian, noises[i])
            latents[i], means[i] = before, gaussian.mean
            total = total + own
        return jnp.concatenate(latents, -1), total, jnp.concatenate(means, -1)

    def _gaussian(
        self, i: int, before: jax.Array | None, like: jax.Array
    ) -> DiagonalGaussian:
        gaussian = self.family.layer(self.values, i, before)
        shape = (*like.shape[:-1], self.family.layer_dims[i])
        return DiagonalGaussian(*(jnp.broadcast_to(leaf, shape) for leaf in gaussian))


class ChainFamily(Protocol):
    """The properties of a family that ``ChainPosterior`` uses."""

    @property
    def layer_dims(self) -> tuple[int, ...]:
        """Number of latents of each layer; the first is the one next to the images."""

    @property
    def order(self) -> Sequence[int]:
        """Indices of the layers, in the order in which they are drawn."""

    def layer(self, values: Any, i: int, before: jax.Array | None) -> DiagonalGaussian:
        """Returns a layer's Gaussian.

        Args:
            values: as in ``ChainPosterior``.
            i: index of the layer.
            before: latents ``[samples, batch, dims]`` of the layer drawn before it;
                None for the first, whose Gaussian may have no axis of samples.
        """


@dataclasses.dataclass(frozen=True)
class BottomUpFamily(GaussianLayers):
    """q(z_1|x) q(z_2|z_1) ... q(z_L|z_{L-1}) (Burda et al. 2016, section 2)."""

    is_hierarchical: ClassVar[bool] = True

    @property
    def heads(self) -> Heads:
        """See ``PosteriorFamily``."""
        return (("mean", self.layer_dims[0]), ("log_scale", self.layer_dims[0]))

    def init(self, key: jax.Array) -> Params:
        """Returns parameters of q(z_i|z_{i-1}) for each upper layer, by its index."""
        return {
            str(i): self.conditional(i).init(
                jax.random.fold_in(key, i), self.layer_dims[i - 1]
            )
            for i in range(1, len(self.layer_dims))
        }

    def at(self, params: Params, outputs: dict[str, jax.Array]) -> ChainPosterior:
        """See ``PosteriorFamily``."""
        first = DiagonalGaussian.from_outputs(outputs["mean"], outputs["log_scale"])
        return ChainPosterior((first, params["posterior"]), self)

    @property
    def order(self) -> Sequence[int]:
        """See ``ChainFamily``."""
        return range(len(self.layer_dims))

    def layer(self, values: Any, i: int, before: jax.Array | None) -> DiagonalGaussian:
        """See ``ChainFamily``."""
        first: DiagonalGaussian
        first, conditionals = values
        if before is None:
            return first
        return self.conditional(i).at(conditionals[str(i)], before)


@dataclasses.dataclass(frozen=True)
class LadderFamily(GaussianLayers):
    """Top-down inference that shares the generative path (Sonderby et al. 2016).

    A deterministic pass upwards gives each layer a Gaussian that depends on x. For the
    top layer this is the posterior. For a lower layer, the posterior is the product of
    this Gaussian and the generative p(z_i|z_{i+1}); their precisions add up.
    """

    is_hierarchical: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.layer_widths:
            raise ValueError(
                "layer_widths is (): the way up a ladder needs at least one, as in "
                "(64,)."
            )

    @property
    def heads(self) -> Heads:
        """See ``PosteriorFamily``."""
        return self._heads(0)

    def _heads(self, i: int) -> Heads:
        dims = self.layer_dims[i]
        gaussian = (("mean", dims), ("log_scale", dims))
        if i == len(self.layer_dims) - 1:
            return gaussian
        return (*gaussian, ("features", self.layer_widths[-1]))

    def _upwards(self, i: int) -> MLPEncoder:
        return MLPEncoder(self.network, self._heads(i))

    def init(self, key: jax.Array) -> Params:
        """Returns parameters of the pass upwards for each upper layer, by its index."""
        features = jnp.zeros((1, self.layer_widths[-1]))
        return {
            str(i): self._upwards(i).init(jax.random.fold_in(key, i), features)[
                "params"
            ]
            for i in range(1, len(self.layer_dims))
        }

    def at(self, params: Params, outputs: dict[str, jax.Array]) -> ChainPosterior:
        """See ``PosteriorFamily``."""
        own: list[Any] = [outputs]
        for i in range(1, len(self.layer_dims)):
            variables = {"params": params["posterior"][str(i)]}
            own.append(self._upwards(i).apply(variables, own[-1]["features"]))
        gaussians = [
            DiagonalGaussian.from_outputs(each["mean"], each["log_scale"])
            for each in own
        ]
        return ChainPosterior((gaussians, params["prior"]), self)

    @property
    def order(self) -> Sequence[int]:
        """See ``ChainFamily``."""
        return range(len(self.layer_dims))[::-1]

    def layer(self, values: Any, i: int, before: jax.Array | None) -> DiagonalGaussian:
        """See ``ChainFamily``."""
        gaussians: list[DiagonalGaussian]
        gaussians, generative = values
        if before is None:
            return gaussians[i]
        prior = self.conditional(i).at(generative[str(i)], before)
        return _product(gaussians[i], prior)


def _product(one: DiagonalGaussian, other: DiagonalGaussian) -> DiagonalGaussian:
    """Returns the normalised product of two Gaussian densities."""
    one = jax.tree.map(lambda leaf: jnp.broadcast_to(leaf, other.mean.shape), one)
    # The log-ratio of the two precisions, with opposite sign; this does not overflow.
    log_ratio = 2 * (one.log_scale - other.log_scale)
    weight = jax.nn.sigmoid(-log_ratio)
    return DiagonalGaussian(
        weight * one.mean + (1 - weight) * other.mean,
        other.log_scale - 0.5 * jax.nn.softplus(-log_ratio),
    )
