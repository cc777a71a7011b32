"""log p(x) = ELBO + KL(q(z|x) || p(z|x)): three integrals, computed separately.

For a VAE with two latents every integral over z can be computed by brute force. The
three share the model's densities, but no nodes and no rule:

- log p(x): the trapezoidal rule on a square of the latent plane;
- ELBO: Gauss-Hermite quadrature of E_q[log p(x|z)], and the KL to the prior in closed
  form by the library;
- KL(q || p(z|x)): the trapezoidal rule along the axes of q, where p(z|x) is divided by
  a normaliser of its own, by Gauss-Legendre quadrature.
"""

import functools
from typing import NamedTuple, cast

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.figure import Figure

from experiments.report.style import COLORS
from experiments.theory.claims import Story, below, equal_mean
from experiments.theory.figures import drawing
from experiments.theory.models import Images, load
from vae_jax.distributions import DiagonalGaussian
from vae_jax.fitting import epochs
from vae_jax.model import VAE, Params
from vae_jax.objectives import Elbo
from vae_jax.training import TrainingConfig

SNAPSHOTS = (0, 1, 2, 4, 8, 16, 32, 64, 128)  # epochs
_NUM_IMAGES = 8
_MONTE_CARLO = 20_000  # samples of the library's own ELBO

# The prior has 1e-14 of its mass outside the square, and posteriors are far inside. The
# rules converge exponentially, since densities through tanh are analytic. Gauss-Hermite
# is the last to: with 48 nodes an axis the identity is off by 3e-8 nats.
_HALF_WIDTH = 8.0
_TRAPEZOID = 161
_LEGENDRE = 200
_HERMITE = 80
_AXES_OF_Q = 73  # from -9 to 9 standard deviations


class Rule(NamedTuple):
    """Nodes and log-weights of an integral over the plane."""

    nodes: jax.Array  # [N, 2]
    log_weights: jax.Array  # [N]


class Terms(NamedTuple):
    """The three terms of the identity, nats, each by a quadrature."""

    log_px: jax.Array | np.ndarray
    elbo: jax.Array | np.ndarray
    kl_to_true_posterior: jax.Array | np.ndarray


def plane(nodes: np.ndarray, weights: np.ndarray) -> Rule:
    """Returns the product of a rule on a line with itself."""
    points = np.stack(np.meshgrid(nodes, nodes, indexing="ij"), axis=-1)
    log_weights = np.log(weights)[:, None] + np.log(weights)[None]
    return Rule(jnp.asarray(points.reshape(-1, 2)), jnp.asarray(log_weights.ravel()))


def trapezoid(half_width: float, count: int) -> Rule:
    """Returns a rule for a square, for integrands that vanish at its edge."""
    nodes = np.linspace(-half_width, half_width, count)
    return plane(nodes, np.full(count, nodes[1] - nodes[0]))


def legendre(half_width: float, count: int) -> Rule:
    """Returns the Gauss-Legendre rule for a square."""
    nodes, weights = np.polynomial.legendre.leggauss(count)
    return plane(half_width * nodes, half_width * weights)


def hermite(count: int) -> Rule:
    """Returns the Gauss-Hermite rule for an average over two standard normals."""
    nodes, weights = np.polynomial.hermite_e.hermegauss(count)
    return plane(nodes, weights / np.sqrt(2 * np.pi))


def terms_by_quadrature(model: VAE, params: Params, x: jax.Array) -> Terms:
    """Returns the terms of each image x ``[images, D]``; call where x64 is enabled."""
    square = trapezoid(_HALF_WIDTH, _TRAPEZOID)
    other_square = legendre(_HALF_WIDTH, _LEGENDRE)
    noise, line = hermite(_HERMITE), trapezoid(9.0, _AXES_OF_Q)

    def log_joint(z, x):  # log p(x, z) at nodes [N, 2] of one image [D]: [N]
        likelihood = model.log_likelihood(params, x[None], z[:, None])[:, 0]
        return likelihood + model.prior(params).log_prob(z)

    def log_integral(rule, x):
        return jax.nn.logsumexp(rule.log_weights + log_joint(rule.nodes, x))

    def one_image(x):
        # First term.
        log_px = log_integral(square, x)

        # Second term: reconstruction and KL to the prior.
        q = cast(DiagonalGaussian, model.encode(params, x[None]))
        z = q.sample(noise.nodes[:, None])  # [N, 1, 2]
        log_likelihood = model.log_likelihood(params, x[None], z)[:, 0]
        reconstruction = jnp.exp(noise.log_weights) @ log_likelihood
        bound = reconstruction - q.kl_to_standard_normal().sum()

        # Third term: q log(q / p(z|x)), along the axes of q, dz = scale * d(noise).
        z = q.sample(line.nodes[:, None])
        log_q = q.log_prob(z)[:, 0]
        log_posterior = log_joint(z[:, 0], x) - log_integral(other_square, x)
        volume = jnp.exp(line.log_weights + q.log_scale.sum())
        kl = (volume * jnp.exp(log_q) * (log_q - log_posterior)).sum()
        return Terms(log_px, bound, kl)

    return jax.lax.map(one_image, x)


def train_snapshots(images: Images) -> tuple[VAE, list[Params]]:
    """Returns a VAE with two latents, and its parameters after each of the epochs."""
    model = images.vae("bernoulli", latent_dim=2, widths=(64,), activation="tanh")
    trained = epochs(
        model,
        images.train,
        TrainingConfig(batch_size=50, num_epochs=SNAPSHOTS[-1]),
        seeds=jax.random.key(0)[None],
        learning_rate=3e-3,
    )
    snapshots = (e.trained() for e in trained if e.snapshot.epoch in SNAPSHOTS)
    return model, [own.params for (own,) in snapshots]


def run() -> Story:
    """Makes three claims; only the last rests on chance, and fails once in 370 runs."""
    images = load("digits")
    model, snapshots = train_snapshots(images)
    x = images.observe("binary", jax.random.key(1), images.test[:_NUM_IMAGES])

    # In float64 from here on: the identity's residual is then that of the quadratures.
    with jax.enable_x64(True):

        def double(tree):
            return jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float64), tree)

        compute = jax.jit(functools.partial(terms_by_quadrature, model))
        found = [compute(double(params), double(x)) for params in snapshots]
        terms = Terms(*(np.array(columns) for columns in zip(*found, strict=True)))
    residual = terms.elbo + terms.kl_to_true_posterior - terms.log_px

    claims = (
        below(
            "largest residual of log p(x) = ELBO + KL(q ‖ true posterior), nats",
            1e-8,
            np.abs(residual),
        ),
        below(
            "largest ELBO − log p(x): the bound is a bound, nats",
            0.0,
            terms.elbo - terms.log_px,
        ),
        # In float32 again.
        equal_mean(
            "mean ELBO after training: quadrature, and the library's samples, nats",
            float(terms.elbo[-1].mean()),
            sampled_elbos(model, snapshots[-1], x),
        ),
    )
    means = Terms(*(np.asarray(term).mean(1) for term in terms))
    numbers = {
        "images": _NUM_IMAGES,
        "residual": np.abs(residual).max(),
        "log_px_before": means.log_px[0],
        "log_px_after": means.log_px[-1],
        "gap_before": means.kl_to_true_posterior[0],
        "gap_after": means.kl_to_true_posterior[-1],
        "epochs": SNAPSHOTS[-1],
        "snapshots": len(SNAPSHOTS),
    }
    return Story(claims, numbers, {"identity": _draw_identity(means)})


def sampled_elbos(model: VAE, params: Params, x: jax.Array) -> jax.Array:
    """Returns the library's ELBO, mean over images x, of each of ``_MONTE_CARLO`` z."""

    def one(key):
        return Elbo()(model, params, key, x).elbo.mean()

    return jax.jit(jax.vmap(one))(jax.random.split(jax.random.key(2), _MONTE_CARLO))


@drawing(6.2, 3.8)
def _draw_identity(figure: Figure, means: Terms) -> None:
    """The terms through training, ``[snapshots]`` each."""
    axes = figure.add_subplot(
        xlabel="epochs of training", ylabel=f"nats per image, mean of {_NUM_IMAGES}"
    )
    log_px, bound, gap = means
    places = np.arange(len(SNAPSHOTS))
    axes.fill_between(places, bound, log_px, color=COLORS[5], alpha=0.25, lw=0)
    axes.plot(places, log_px, color=COLORS[0], lw=4, alpha=0.5, label="log p(x)")
    label = "ELBO + KL(q ‖ p(z|x))"
    axes.plot(places, bound + gap, color=COLORS[2], ls="--", label=label)
    axes.plot(places, bound, color=COLORS[1], marker="o", ms=4, label="ELBO")
    axes.set_xticks(places, [str(epoch) for epoch in SNAPSHOTS])
    axes.legend(loc="lower right")
