import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests import linear_gaussian
from vae_jax import population
from vae_jax.evidence import (
    annealed_estimate,
    bidirectional_estimate,
    linear_schedule,
    sigmoid_schedule,
)
from vae_jax.likelihoods import make_likelihood
from vae_jax.model import make_vae
from vae_jax.per_image import map_images

pytestmark = pytest.mark.usefixtures("keys_are_used_once")

# These programs are small: optimising them takes longer than running them.
jit = functools.partial(
    jax.jit, compiler_options={"xla_backend_optimization_level": "0"}
)


def both_bounds(model, params, key, count, **options):
    """Returns bounds on ``count`` images that the model generates."""
    run = functools.partial(bidirectional_estimate, model, params, **options)
    return jit(jax.vmap(run))(jax.random.split(key, count))


def over_images(function, key, x):
    return jit(lambda key, x: map_images(function, key, x, batch_size=100))(key, x)


def correlated_vae():
    exact = linear_gaussian.correlated_gaussian()
    return exact, *exact.to_vae(linear_gaussian.SHAPE, linear_gaussian.LEVELS)


def standard_error(samples):
    return samples.std() / np.sqrt(samples.size)


@pytest.mark.parametrize("schedule", [linear_schedule, sigmoid_schedule])
@pytest.mark.parametrize("num_steps", [1, 2, 50])
def test_schedules_rise_from_0_to_1(schedule, num_steps):
    temperatures = np.asarray(schedule(num_steps))
    assert temperatures.size == num_steps + 1
    assert temperatures[0] == 0
    assert temperatures[-1] == 1
    assert np.all(np.diff(temperatures) > 0)
    np.testing.assert_allclose(temperatures, 1 - temperatures[::-1], atol=1e-6)


def test_the_sigmoid_schedule_spends_its_steps_at_both_ends():
    steps = np.diff(sigmoid_schedule(100))
    assert steps[0] < 0.2 * steps[50]
    assert steps[-1] < 0.2 * steps[50]


@pytest.mark.parametrize("num_steps", [1, 8])
def test_from_the_true_posterior_every_weight_is_exact(key, num_steps):
    model, params, evidence = linear_gaussian.exact_model()
    result = both_bounds(
        model,
        params,
        key,
        10,
        schedule=linear_schedule(num_steps),
        num_chains=3,
        initial="posterior",
    )
    exact = np.tile(evidence.logpdf(np.asarray(result.x))[:, None], (1, 3))
    np.testing.assert_allclose(result.lower.log_weights, exact, atol=5e-5)
    np.testing.assert_allclose(result.upper.log_weights, exact, atol=5e-5)
    np.testing.assert_allclose(result.lower.effective_sample_size, 3, rtol=1e-4)


@pytest.mark.parametrize(
    ("initial", "schedule"),
    [("prior", linear_schedule), ("posterior", sigmoid_schedule)],
)
def test_the_bounds_enclose_the_exact_answer(key, initial, schedule):
    """Means over 200 images, each side within 4.5 standard errors (7e-6)."""
    exact, model, params = correlated_vae()
    result = both_bounds(
        model,
        params,
        key,
        200,
        schedule=schedule(25),
        num_chains=4,
        initial=initial,
    )
    log_px = exact.log_prob(result.x)
    below = np.asarray(result.lower.log_px) - log_px
    above = np.asarray(result.upper.log_px) - log_px
    assert -1 < below.mean() < 4.5 * standard_error(below)
    assert -4.5 * standard_error(above) < above.mean() < 1


def test_weights_estimate_the_evidence_without_bias_in_both_directions(key):
    """Means of p(x)'s estimate over p(x), and the inverse, over 1,000 images.

    Within 5 standard errors of 1 (6e-7 each, were the means normal; the furthest in 60
    runs was 2.9). The encoder is widened, so that it covers the posterior's
    correlations and the weights have no heavy tail.
    """
    exact, model, params = correlated_vae()
    params["encoder"]["head"]["log_scale"]["bias"] += 0.4
    result = both_bounds(
        model,
        params,
        key,
        1000,
        schedule=linear_schedule(12),
        num_chains=4,
        num_leapfrog=3,
        initial="posterior",
    )
    log_px = exact.log_prob(result.x)
    for log_ratio in (result.lower.log_px - log_px, log_px - result.upper.log_px):
        ratio = np.exp(log_ratio)
        assert standard_error(ratio) < 0.03
        assert abs(ratio.mean() - 1) < 5 * standard_error(ratio)


def test_more_temperatures_tighten_both_bounds(key):
    """Mean gaps over 100 images of 1.78 and 0.19 nats.

    With standard deviations of 0.20 and 0.06 over keys, a false failure is 6 away.
    """
    _, model, params = correlated_vae()
    few, many = (
        both_bounds(
            model,
            params,
            jax.random.fold_in(key, num_steps),
            100,
            schedule=linear_schedule(num_steps),
            num_chains=8,
        ).gap.mean()
        for num_steps in (4, 40)
    )
    assert few > 2 * many


def test_the_acceptance_reaches_its_target_from_a_step_size_far_off(key):
    """From 0.3 for a posterior 0.001 to 0.01 wide; the target is 0.8."""
    exact = linear_gaussian.correlated_gaussian()._replace(variance=1e-6)
    model, params = exact.to_vae(linear_gaussian.SHAPE, linear_gaussian.LEVELS)
    result = both_bounds(
        model,
        params,
        key,
        20,
        schedule=linear_schedule(30),
        num_chains=8,
        initial="posterior",
    )
    assert 0.7 < result.lower.acceptance.mean() < 0.9
    assert 0.7 < result.upper.acceptance.mean() < 0.9


def random_model(name):
    levels = 2 if name == "bernoulli" else 5
    model = make_vae(
        make_likelihood(name, levels),
        image_shape=(3, 3, 1),
        latent_dim=2,
        widths=(8,),
        activation="tanh",
    )
    params = model.init(jax.random.key(3), jnp.full(9, 0.4), jnp.full(9, 0.3))
    params["decoder"]["output"]["kernel"] *= 2
    return model, params


@pytest.mark.parametrize(
    "name",
    ["bernoulli", "discretized_logistic", "continuous_bernoulli", "categorical"],
)
def test_every_kind_of_likelihood_is_bounded(key, name):
    """Means over 40 images around the integral over a grid, within 4.5 standard errors.

    Its 160 x 160 points are 0.1 apart and reach to 8, which is exact but for rounding.
    """
    model, params = random_model(name)
    result = both_bounds(
        model,
        params,
        key,
        40,
        schedule=sigmoid_schedule(30),
        num_chains=8,
        initial="posterior",
    )
    axis = jnp.arange(-8.0, 8.0, 0.1)
    z = jnp.stack(jnp.meshgrid(axis, axis), axis=-1).reshape(-1, 1, 2)
    log_area = 2 * jnp.log(0.1)

    def log_px(x):
        log_joint = model.prior(params).log_prob(z) + model.log_likelihood(
            params, x[None], z
        )
        return jax.nn.logsumexp(log_joint) + log_area

    exact = jit(functools.partial(jax.lax.map, log_px))(result.x)
    below = np.asarray(result.lower.log_px - exact)
    above = np.asarray(result.upper.log_px - exact)
    assert -1 < below.mean() < 4.5 * standard_error(below)
    assert -4.5 * standard_error(above) < above.mean() < 1


@pytest.mark.parametrize("initial", ["prior", "posterior"])
def test_a_population_of_padded_members_has_the_same_estimates(key, untrained, initial):
    """With one leapfrog step: long trajectories are chaotic and amplify rounding."""
    model, params, _ = untrained
    wide = make_vae(model.likelihood, image_shape=(4, 4, 1), latent_dim=5, widths=(9,))
    wide_params = wide.init(jax.random.key(8), jnp.full(16, 0.4), jnp.full(16, 0.3))
    stacked = jax.tree.map(
        lambda *leaves: jnp.stack(leaves),
        population.pad(params, wide_params),
        wide_params,
    )
    masks = jnp.stack([jnp.asarray(population.latent_mask(n, 5)) for n in (3, 5)])
    run = functools.partial(
        bidirectional_estimate,
        schedule=linear_schedule(10),
        num_chains=4,
        num_leapfrog=1,
        initial=initial,
    )
    together = jit(
        jax.vmap(lambda params, mask: run(wide, params, key, latent_mask=mask))
    )(stacked, masks)
    alone = jit(functools.partial(run, model))(params, jax.random.clone(key))
    for one, other in zip(
        jax.tree.leaves(alone), jax.tree.leaves(together), strict=True
    ):
        np.testing.assert_allclose(one, other[0], atol=1e-4)


@pytest.mark.parametrize("initial", ["prior", "posterior"])
def test_estimates_stay_finite_where_densities_are_extreme(key, initial):
    """A density of about e^(+-1e5): trajectories diverge, and are rejected."""
    model = make_vae(
        make_likelihood("gaussian_fixed", 256, fixed_scale=1e-3),
        image_shape=(4, 4, 1),
        latent_dim=2,
        widths=(),
    )
    params = model.init(jax.random.key(0), jnp.full(16, 0.5), jnp.full(16, 0.1))
    estimate = functools.partial(
        annealed_estimate,
        model,
        params,
        schedule=linear_schedule(5),
        num_chains=4,
        initial=initial,
    )
    result = over_images(estimate, key, jnp.ones((3, 16)))
    for figure in result:
        assert np.all(np.isfinite(figure))


@pytest.mark.parametrize(
    "schedule", [[1.0, 0.5, 0.0], [0.0, 0.5], [0.5, 1.0], [0.0, 0.7, 0.3, 1.0], [0.0]]
)
def test_a_schedule_that_bounds_nothing_is_refused(key, untrained, schedule):
    model, params, x = untrained
    options = {"schedule": jnp.array(schedule), "num_chains": 2}
    with pytest.raises(ValueError, match="must rise from 0 to 1"):
        annealed_estimate(model, params, key, x[0], **options)
    with pytest.raises(ValueError, match="must rise from 0 to 1"):
        bidirectional_estimate(model, params, key, **options)


@pytest.mark.parametrize("schedule", [linear_schedule, sigmoid_schedule])
def test_a_schedule_without_steps_is_refused(schedule):
    with pytest.raises(ValueError, match="needs at least 1"):
        schedule(0)


def test_an_unknown_initial_density_is_refused(key, untrained):
    model, params, x = untrained
    with pytest.raises(ValueError, match="unknown initial 'uniform'"):
        annealed_estimate(
            model,
            params,
            key,
            x[0],
            schedule=linear_schedule(3),
            num_chains=2,
            initial="uniform",
        )


def test_a_likelihood_that_samples_another_density_is_not_simulated(key):
    model, params = random_model("beta")
    with pytest.raises(ValueError, match="likelihood is 'beta': it does not sample"):
        bidirectional_estimate(
            model, params, key, schedule=linear_schedule(3), num_chains=2
        )
