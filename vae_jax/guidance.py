"""Guidance: a chain of latents whose denoiser is pulled towards a class.

A guided chain has the samplers of the other, and its trajectories, but no bound. Its
latents are those of p(z_t) at weight 0, and of p(z_t|y) at weight 1. At other weights
they are no distribution with noise added, and the density of the samples is not known;
a large weight gives images that are more typical of their class, and differ less.
"""

import dataclasses
from collections.abc import Callable
from typing import Annotated, Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.tree_util import Partial

from vae_jax.checks import Range, require_count, require_declared, require_type
from vae_jax.diffusion import Denoised, read_output
from vae_jax.networks import Denoiser, DenseDenoiser, Module, Params
from vae_jax.priors.diffusion import Chain, DiffusionFamily
from vae_jax.trees import tree_dataclass

# log p(y|z_t), nats, ``[N]``: of latents ``[N, D]`` and their gamma ``[N]``.
LogClass = Callable[[jax.Array, jax.Array], jax.Array]

# Of classifier-free guidance; 1 is none.
Weight = Annotated[float, Range(at_least=0)]


@dataclasses.dataclass(frozen=True)
class _Guided(Chain):
    weight: jax.Array | float


@tree_dataclass
@dataclasses.dataclass(frozen=True)
class _ClassifierFree(_Guided):
    def denoised(
        self, z: jax.Array, gamma: jax.Array, y: jax.Array | None = None
    ) -> Denoised:
        given = super().denoised(z, gamma, y)
        absent = jnp.zeros((len(z), self.family.num_classes))
        none = super().denoised(z, gamma, absent)

        def blend(none: jax.Array, given: jax.Array) -> jax.Array:
            return none + self.weight * (given - none)

        # All parts are linear in the noise, so the blend is one statement, too.
        found: Denoised = jax.tree.map(blend, none, given)
        return found


def classifier_free(chain: Chain, weight: jax.Array | float) -> Chain:
    """Returns the chain with classifier-free guidance towards its classes.

    noise = noise_none + weight (noise_y - noise_none), with two evaluations of the
    denoiser (Ho and Salimans 2022, "Classifier-free diffusion guidance", eq. 6, whose w
    is weight - 1).

    Args:
        chain: of latents with classes.
        weight: 0 is the chain of no class, and 1 that of the classes.

    Raises:
        ValueError: the denoiser sees no class, or has not learned to do without, or
            the latents have none; or the chain is guided already.
    """
    _require_unguided(chain)
    family = chain.family
    if not family.num_classes:
        raise ValueError(
            "num_classes is 0: the denoiser sees no class to guide it. Train a model "
            "with classes, or guide with a classifier."
        )
    if not family.label_dropout:
        raise ValueError(
            f"label_dropout is {family.label_dropout}: the denoiser has not learned "
            "latents of no class. Train with one such as 0.1, or guide with a "
            "classifier."
        )
    if chain.y is None:
        raise ValueError(
            "y is None: the chain is of no class. Give it the class of each sample, as "
            "chain.given(jax.nn.one_hot(labels, num_classes)) does."
        )
    return _ClassifierFree(chain.params, chain.y, family, weight)


@tree_dataclass
@dataclasses.dataclass(frozen=True)
class _Classified(_Guided):
    log_class: Callable[..., jax.Array]

    def denoised(
        self, z: jax.Array, gamma: jax.Array, y: jax.Array | None = None
    ) -> Denoised:
        process = self.family.process

        def total(z: jax.Array) -> jax.Array:
            return self.log_class(z, gamma).sum()

        pull = self.weight * jax.grad(total)(z)
        # The score is -noise / sigma.
        noise = super().denoised(z, gamma, y).noise
        noise = noise - process.sigma(gamma)[..., None] * pull
        return read_output(process, "noise", noise[..., None, :], z, gamma)


def classifier_guided(
    chain: Chain, log_class: LogClass, weight: jax.Array | float
) -> Chain:
    """Returns the chain with the guidance of a classifier of noisy latents.

    score = score + weight grad log p(y|z_t) (Dhariwal and Nichol 2021, "Diffusion
    models beat GANs on image synthesis", section 4).

    Args:
        chain: of latents of no class, or of classes beside those of the classifier.
        log_class: log p(y|z_t) of the class that each sample is to have, as a function
            of z_t and gamma; ``NoiseClassifier.log_class`` is one. Arrays that a
            ``jax.tree_util.Partial`` holds are data of a compiled program.
        weight: 0 is the chain itself; 1 is p(z_t|y), if the classifier is exact.

    Raises:
        ValueError: the chain is guided already.
    """
    _require_unguided(chain)
    if not isinstance(log_class, Partial):
        log_class = Partial(log_class)
    return _Classified(chain.params, chain.y, chain.family, weight, log_class)


def _require_unguided(chain: Chain) -> None:
    """Refuses a chain that is guided.

    Raises:
        ValueError: it is.
    """
    if isinstance(chain, _Guided):
        raise ValueError(
            "chain is guided already: two guidances at once are not defined. Give the "
            "chain of the model, as model.prior(params) is."
        )


@tree_dataclass
@dataclasses.dataclass(frozen=True)
class NoiseClassifier:
    """p(y|z_t) of latents at every noise level.

    It is the network of a denoiser with K outputs for each value, which are averaged
    over the values of the latents.

    Attributes:
        params: of the network.
        family: of the chain whose latents it classifies.
        network: the network's description.
        num_classes: K.
    """

    params: Params
    family: DiffusionFamily = dataclasses.field(metadata={"static": True})
    network: Denoiser = dataclasses.field(metadata={"static": True})
    num_classes: int = dataclasses.field(metadata={"static": True})

    @property
    def module(self) -> Module:
        """The network for latents of the family's shape."""
        return self.network.module(self.family.shape, self.num_classes)

    def __call__(self, z: jax.Array, gamma: jax.Array) -> jax.Array:
        """Returns log p(y|z_t) of every class, nats, ``[N, K]``.

        Args:
            z: latents, ``[N, D]``.
            gamma: -log SNR of each, ``[N]``.
        """
        inputs = self.family.inputs(z, gamma)
        outputs = self.module.apply({"params": self.params}, *inputs)
        log_p: jax.Array = jax.nn.log_softmax(outputs.mean(-1))
        return log_p

    def log_class(self, labels: jax.Array) -> LogClass:
        """Returns log p(y|z_t) of given classes ``[N]``, for ``classifier_guided``."""
        return Partial(_log_class, self, labels)


def _log_class(
    classifier: NoiseClassifier, labels: jax.Array, z: jax.Array, gamma: jax.Array
) -> jax.Array:
    log_p = classifier(z, gamma)
    return jnp.take_along_axis(log_p, labels[:, None], axis=1)[:, 0]


def fit_noise_classifier(
    chain: Chain,
    key: jax.Array,
    x: jax.Array,
    labels: jax.Array,
    num_classes: int,
    *,
    num_steps: int,
    batch_size: int,
    learning_rate: float,
    network: Denoiser | None = None,
) -> NoiseClassifier:
    """Returns a classifier of the latents of a chain, fitted to noised examples.

    Their times are uniform, as in training a denoiser (Dhariwal and Nichol 2021).

    Args:
        chain: whose noise it is; the parameters do not change.
        key: a typed key.
        x: what is noised, ``[N, D]``: of a chain of images, the images from -1 (black)
            to 1 (white); else their latents.
        labels: the class of each, whole numbers below ``num_classes``, ``[N]``.
        num_classes: K.
        num_steps: number of steps of Adam.
        batch_size: examples of a step, drawn with replacement.
        learning_rate: of the first step; it falls to 0 along a cosine.
        network: the denoiser whose network it is; None for dense layers.

    Raises:
        ValueError: a number is not allowed, x is not of the size of the latents, or
            labels are not a class for each row of x.
    """
    network = DenseDenoiser() if network is None else network
    require_type("network", network, Denoiser, "one as DenseDenoiser() is")
    require_count("num_classes", num_classes, smallest=2)
    require_count("num_steps", num_steps)
    require_count("batch_size", batch_size)
    require_declared("learning_rate", learning_rate, Annotated[float, Range(above=0)])
    size = chain.family.latent_dim
    if x.ndim != 2 or x.shape[-1] != size:
        raise ValueError(
            f"x has shape {list(x.shape)}: a latent of the chain has {size} values. "
            f"Give an array [N, {size}]."
        )
    if labels.shape != x.shape[:1]:
        raise ValueError(
            f"labels has shape {list(labels.shape)}: x has {len(x)} rows. Give the "
            f"class of each, [{len(x)}]."
        )
    # In a compiled program the labels are traced, and have no values.
    known = () if isinstance(labels, jax.core.Tracer) else np.unique(labels)
    for label in known:
        if label not in range(num_classes):
            raise ValueError(
                f"labels has the value {label}: there are {num_classes} classes. Give "
                f"whole numbers from 0 to {num_classes - 1}."
            )
    init_key, step_key = (jax.random.fold_in(key, i) for i in range(2))
    empty = NoiseClassifier({}, chain.family, network, num_classes)
    optimizer = optax.adam(optax.cosine_decay_schedule(learning_rate, num_steps))

    def loss_of(params: Params, key: jax.Array) -> jax.Array:
        row_key, time_key, noise_key = jax.random.split(key, 3)
        rows = jax.random.randint(row_key, (batch_size,), 0, len(x))
        gamma = chain.gamma(jax.random.uniform(time_key, (batch_size,)))
        noise = jax.random.normal(noise_key, (batch_size, x.shape[-1]))
        z = chain.family.process.noised(x[rows], gamma, noise)
        classifier = dataclasses.replace(empty, params=params)
        return -_log_class(classifier, labels[rows], z, gamma).mean()

    def step(carry: Any, index: jax.Array) -> tuple[Any, None]:
        params, state = carry
        gradient = jax.grad(loss_of)(params, jax.random.fold_in(step_key, index))
        updates, state = optimizer.update(gradient, state)
        return (optax.apply_updates(params, updates), state), None

    inputs = chain.family.inputs(jnp.zeros((1, x.shape[-1])), jnp.zeros(1))
    params = empty.module.init(init_key, *inputs)["params"]
    start = params, optimizer.init(params)
    (params, _), _ = jax.lax.scan(step, start, jnp.arange(num_steps))
    return dataclasses.replace(empty, params=params)
