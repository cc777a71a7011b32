"""The two reasons why the ELBO is below log p(x): the encoder and the family of q."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from vae_jax.distributions import latent_noise, sample_without_score
from vae_jax.model import VAE, Params
from vae_jax.per_image import map_batches
from vae_jax.products import float32_products


class InferenceGap(NamedTuple):
    """log p(x) - ELBO of one image (or of each of several), in two parts, in nats.

    Standard errors are of the mean over the samples of the final measurement.
    """

    elbo: jax.Array  # of the encoder's q
    best_elbo: jax.Array  # of q*, the best q that was found for this image
    best_elbo_error: jax.Array  # its standard error
    amortization: jax.Array  # best_elbo - elbo: the loss by the encoder
    amortization_error: jax.Array  # its standard error
    approximation: jax.Array  # log p(x) - best_elbo: the loss by the family
    last_rise: jax.Array  # rise of the ELBO in the last fifth of the steps
    last_rise_error: jax.Array  # its standard error
    num_steps: jax.Array  # int32


@float32_products
def inference_gap(
    model: VAE,
    params: Params,
    key: jax.Array,
    x: jax.Array,
    log_px: jax.Array,
    *,
    num_steps: int,
    learning_rate: float,
    num_samples: int,
    num_eval_samples: int,
    chunk: int,
    latent_mask: jax.Array | None = None,
) -> InferenceGap:
    """Splits log p(x) - ELBO into amortization gap and approximation gap.

    Cremer et al. 2018, "Inference suboptimality in variational autoencoders", eqs. 3
    and 4. q* starts at the encoder's q. Adam moves the posterior's own parameters, with
    fresh samples in each step. The learning rate is constant, and falls linearly to 0
    in the last fifth of the steps. Then three ELBOs (of q, of q* before the last fifth,
    and of q*) are measured on the same fresh samples.

    q* is at most as good as the true optimum. So with the exact log p(x), the
    approximation gap is too large. ``last_rise`` indicates by how much, because the
    learning rates of the last fifth sum to a ninth of all. An estimate that bounds
    log p(x) from below makes the gap smaller.

    Adam moves all parameters of the posterior. If the posterior has networks of its
    own, such as a flow, each image has its own copy of their parameters.

    The posterior needs only samples, their density, and to be a pytree of arrays. The
    gradient holds q fixed in its log-density and flows through z alone (Roeder et al.
    2017, "Sticking the landing"). It is unbiased too, has no variance where q is the
    true posterior, and is exactly 0 for padded latents.

    Args:
        model: the VAE.
        params: its parameters.
        key: the image's key.
        x: one image in the likelihood's view, ``[D]``.
        log_px: an estimate of its log p(x), nats, ``[]``.
        num_steps: number of steps of Adam, at least 5.
        learning_rate: of Adam, in units of the posterior's parameters.
        num_samples: number of samples per step.
        num_eval_samples: number of samples of the final measurement.
        chunk: number of samples of the final measurement that are decoded together.
        latent_mask: as in ``objectives.Batch``, ``[latent]``.

    Returns:
        Scalars. Use ``vmap`` over keys and images for more.

    Raises:
        ValueError: there are fewer than 5 steps.
    """
    if num_steps < 5:
        raise ValueError(f"num_steps is {num_steps}: the last fifth needs at least 5.")
    step_key, measure_key = (jax.random.fold_in(key, i) for i in range(2))
    prior = model.prior(params)
    last_fifth = num_steps // 5
    adam = optax.adam(
        optax.linear_schedule(
            learning_rate, 0.0, last_fifth, transition_begin=num_steps - last_fifth
        )
    )

    def draw_noise(key: jax.Array, num_samples: int) -> jax.Array:  # [S, 1, L]
        noise = latent_noise(key, num_samples, 1, model.latent_dim)
        return noise if latent_mask is None else noise * latent_mask[None, None]

    def elbo_samples(z: jax.Array, log_q: jax.Array) -> jax.Array:  # [S]
        log_px_z = model.log_likelihood(params, x[None], z)
        return (log_px_z + prior.log_prob(z) - log_q)[:, 0]

    def loss(posterior: Any, noise: jax.Array) -> jax.Array:
        return -elbo_samples(*sample_without_score(posterior, noise)).mean()

    def step(index: jax.Array, state: tuple[Any, Any]) -> tuple[Any, Any]:
        posterior, adam_state = state
        noise = draw_noise(jax.random.fold_in(step_key, index), num_samples)
        gradient = jax.grad(loss)(posterior, noise)
        updates, adam_state = adam.update(gradient, adam_state)
        return optax.apply_updates(posterior, updates), adam_state

    def measure(posterior: Any) -> Any:
        def one_sample(index: jax.Array) -> jax.Array:
            noise = draw_noise(jax.random.fold_in(measure_key, index), 1)
            return elbo_samples(*posterior.sample_and_log_prob(noise))[0]

        return map_batches(one_sample, jnp.arange(num_eval_samples), batch_size=chunk)

    first: Any = model.encode(params, x[None])
    state = (first, adam.init(first))
    state = jax.lax.fori_loop(0, num_steps - last_fifth, step, state)
    penultimate = state[0]
    best, _ = jax.lax.fori_loop(num_steps - last_fifth, num_steps, step, state)

    elbo, late, final = measure(first), measure(penultimate), measure(best)
    best_elbo, best_elbo_error = _mean_and_error(final)
    amortization, amortization_error = _mean_and_error(final - elbo)
    last_rise, last_rise_error = _mean_and_error(final - late)
    return InferenceGap(
        elbo=elbo.mean(),
        best_elbo=best_elbo,
        best_elbo_error=best_elbo_error,
        amortization=amortization,
        amortization_error=amortization_error,
        approximation=log_px - best_elbo,
        last_rise=last_rise,
        last_rise_error=last_rise_error,
        num_steps=jnp.int32(num_steps),
    )


def _mean_and_error(samples: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Returns the mean of samples ``[S]`` and the standard error of that mean."""
    return samples.mean(), samples.std(ddof=1) / jnp.sqrt(samples.size)
