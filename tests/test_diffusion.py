"""Tests of chains of latents: schedules, the bound against exact answers, the parts."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests import chains
from tests.chains import CHAIN, chain
from vae_jax.diffusion.gaussian import GaussianImages
from vae_jax.diffusion.process import PREDICTIONS, Process, read_output
from vae_jax.diffusion.schedules import NOISE_SCHEDULES, Ends
from vae_jax.evidence import flow_estimate, importance_estimate
from vae_jax.evidence.unrolled import unrolled
from vae_jax.likelihoods import LIKELIHOODS, make_likelihood
from vae_jax.model import make_vae
from vae_jax.networks import DENOISERS, DenseDenoiser
from vae_jax.objectives import IWAE, Diffusion, Elbo, ElboLogWeight, SemiSupervised
from vae_jax.priors.diffusion import WEIGHTINGS, with_steps

ENDS = Ends(-8.0, 5.0)
exact_chain = functools.partial(chains.exact_chain, ends=ENDS)


@pytest.fixture(scope="module")
def images():
    """Returns a normal distribution of images of six values."""
    return chains.normal_images(6, scale=0.4, variance=0.01)


@functools.partial(jax.jit, static_argnums=(0, 1))
def terms_of(objective, model, params, key, x):
    return objective(model, params, key, x)


# --- schedules and the process --------------------------------------------------------


@pytest.mark.parametrize("name", NOISE_SCHEDULES)
def test_a_schedule_rises_from_exactly_0_to_exactly_1(name):
    schedule = NOISE_SCHEDULES.make(name)
    params = schedule.init(jax.random.key(0))
    params = jax.tree.map(lambda leaf: leaf + 0.3, params)
    rise = schedule.rise(params, jnp.linspace(0, 1, 1001), ENDS)
    assert (rise[0], rise[-1]) == (0, 1)
    assert jnp.all(jnp.diff(rise) > 0)


@pytest.mark.parametrize("name", NOISE_SCHEDULES)
@pytest.mark.parametrize("start", [-30.0, -0.005, 29.99])
def test_a_schedule_rises_between_ends_as_close_as_they_may_be(name, start):
    schedule, ends = NOISE_SCHEDULES.make(name), Ends(start, start + 0.01)
    params = schedule.init(jax.random.key(0))
    rise = np.asarray(schedule.rise(params, jnp.linspace(0, 1, 11), ends))
    assert (rise[0], rise[-1]) == (0, 1)
    np.testing.assert_allclose(rise, np.linspace(0, 1, 11), atol=0.02)


def test_the_cosine_schedule_is_one():
    rise = NOISE_SCHEDULES.make("cosine").rise({}, jnp.linspace(0, 1, 11), ENDS)
    gamma = np.asarray(ENDS.gamma_min + ENDS.width * rise, np.float64)
    angle = np.arccos(np.sqrt(1 / (1 + np.exp(gamma))))  # of alpha = cos(angle)
    np.testing.assert_allclose(np.diff(angle), np.diff(angle).mean(), rtol=1e-3)


@pytest.mark.parametrize("preserves", [True, False])
def test_composed_steps_are_one_layer(preserves):
    process = Process(preserves)
    gamma, before = jnp.float32(1.0), jnp.float32(-2.0)
    ratio = process.alpha(gamma) / process.alpha(before)
    added = process.sigma(gamma) ** 2 - ratio**2 * process.sigma(before) ** 2
    assert added > 0
    # One factor is allowed for the image, and so is one for the variance.
    x, z = jnp.float32([0.7]), jnp.float32([1.3])
    noise = (z - process.alpha(gamma) * x) / process.sigma(gamma)
    backwards = process.step(z, noise, gamma, before)
    forwards = process.layer(x, before)
    # q(z_s|z_t, x) q(z_t|x) = q(z_t|z_s) q(z_s|x), at any z_s.
    for s in (-1.0, 0.2, 2.0):
        zs = jnp.float32([s])
        one = backwards.log_prob(zs[None])[0] + process.layer(x, gamma).log_prob(
            z[None]
        )
        step = -0.5 * (z - ratio * zs) ** 2 / added - 0.5 * jnp.log(2 * jnp.pi * added)
        other = step.sum() + forwards.log_prob(zs[None])[0]
        np.testing.assert_allclose(one, other, atol=1e-4)


@pytest.mark.parametrize("preserves", [True, False])
@pytest.mark.parametrize("predicts", PREDICTIONS)
def test_what_a_denoiser_says_is_one_statement(preserves, predicts):
    process, rng = Process(preserves), np.random.default_rng(0)
    gamma = jnp.float32([-2.0, 0.0, 3.0])
    z = process.size(gamma)[:, None] * rng.standard_normal((3, 5)).astype("f")
    outputs = 4 if predicts == "levels" else 1
    output = rng.standard_normal((3, outputs, 5)).astype("f")
    found = read_output(process, predicts, output, jnp.asarray(z), gamma)
    alpha, sigma = process.alpha(gamma)[:, None], process.sigma(gamma)[:, None]
    np.testing.assert_allclose(alpha * found.x + sigma * found.noise, z, atol=1e-5)
    np.testing.assert_allclose(found.score, -found.noise / sigma, rtol=1e-5)
    if predicts == "levels":
        assert jnp.all(jnp.abs(found.x) <= 1)


# --- the bound against exact answers --------------------------------------------------


@pytest.mark.parametrize("preserves", [True, False])
@pytest.mark.parametrize("steps", [1, 4, 64, 0])
def test_the_exact_denoiser_reaches_the_exact_bound(images, steps, preserves):
    own = exact_chain(images, noise_steps=steps, preserves_variance=preserves)
    x = images.sample(1, 50)
    terms = jax.jit(jax.vmap(lambda key: own.terms(key, jnp.float32(x))))
    found = terms(jax.random.split(jax.random.key(0), 500))
    means = np.asarray(found.diffusion).mean(1)
    ends = np.linspace(ENDS.gamma_min, ENDS.gamma_max, steps + 1)
    expected = images.diffusion_term(x, np.exp(-ends)).mean()
    if not steps:
        first, last = np.exp(-ENDS.gamma_min), np.exp(-ENDS.gamma_max)
        expected = images.diffusion_limit(x, first, last).mean()
    error = means.std() / np.sqrt(len(means))
    assert abs(means.mean() - expected) < 4 * error < 0.03 * expected


def test_many_steps_approach_infinitely_many(images):
    x, limit = images.sample(1, 50), 0.0
    first, last = np.exp(-ENDS.gamma_min), np.exp(-ENDS.gamma_max)
    limit = images.diffusion_limit(x, first, last).mean()
    excess = []
    for steps in (256, 512, 1024):
        snr = np.exp(-np.linspace(ENDS.gamma_min, ENDS.gamma_max, steps + 1))
        excess.append(images.diffusion_term(x, snr).mean() - limit)
    np.testing.assert_allclose(np.divide(excess[:-1], excess[1:]), 2, rtol=0.02)


def test_the_whole_bound_exceeds_the_entropy_by_what_is_known(images):
    gamma_min, gamma_max = ENDS.gamma_min, ENDS.gamma_max
    x = images.sample(2, 200_000)
    limit = images.diffusion_limit(x, np.exp(-gamma_min), np.exp(-gamma_max))
    alpha2 = 1 / (1 + np.exp(gamma_max))
    prior = 0.5 * (alpha2 * (x**2).sum(1) - 6 * (alpha2 + np.log(1 - alpha2)))
    readout = 6 / 2 * (1 + gamma_min + np.log(2 * np.pi))
    bound = readout + (limit + prior).mean()
    excess = images.bound_excess(gamma_min, images.kl_of_last_layer(gamma_max))
    assert abs(bound - images.entropy - excess) < 0.02
    assert excess > 0.01


@pytest.mark.parametrize("steps", [4, 0])
def test_the_simple_loss_is_a_known_multiple(images, steps):
    own, x = exact_chain(images, noise_steps=steps), jnp.float32(images.sample(1, 50))
    found = own.terms(jax.random.key(0), x, "simple")
    count = max(steps, 1)
    rise = np.expm1(ENDS.width / count) if steps else ENDS.width
    factor = 2 / (count * rise)
    np.testing.assert_allclose(found.weighted, factor * found.diffusion, rtol=1e-4)


@pytest.mark.parametrize("weighting", WEIGHTINGS)
def test_a_weighting_shapes_training_alone(weighting):
    model, params = chain()
    x = jnp.ones((5, 16), jnp.int32)
    plain = terms_of(Diffusion(), model, params, jax.random.key(0), x)
    terms = terms_of(
        Diffusion(weighting=weighting), model, params, jax.random.key(0), x
    )
    np.testing.assert_array_equal(terms.elbo, plain.elbo)
    assert jnp.all(terms.bound == plain.bound) == (weighting == "elbo")
    validated = Diffusion(weighting=weighting).for_validation()
    assert validated == Diffusion().for_validation()
    found = terms_of(validated, model, params, jax.random.key(0), x)
    jax.tree.map(np.testing.assert_array_equal, found, plain)


@pytest.mark.parametrize("steps", [1, 3])
def test_an_unrolled_chain_is_the_same_model(steps):
    model, params = chain(noise_steps=steps, gamma_min=-1.0, gamma_max=2.0)
    layers = unrolled(model, steps)
    x = jnp.arange(16) % 3
    own, other = (
        importance_estimate(
            each, params, jax.random.key(1), x, num_samples=20_000, chunk=1000
        )
        for each in (model, layers)
    )
    error = float(jnp.sqrt(own.chain.sampling_variance))
    assert abs(own.elbo - other.elbo) < 8 * error < 2
    assert other.log_px > other.elbo + 0.1
    assert np.isnan(own.effective_sample_size)
    np.testing.assert_allclose(own.log_px, own.elbo, rtol=1e-5)
    np.testing.assert_allclose(
        own.kl, own.chain.prior_kl + own.chain.diffusion_kl, rtol=1e-5
    )
    terms = terms_of(IWAE(num_samples=8), layers, params, jax.random.key(2), x[None])
    assert jnp.isfinite(terms.bound).all()


# --- what has a gradient --------------------------------------------------------------


def test_steps_and_schedule_have_no_gradient():
    model, params = chain(noise_steps=3, noise_schedule="cosine")

    def loss(params):
        terms = terms_of(
            Diffusion(), model, params, jax.random.key(0), jnp.ones((4, 16), int)
        )
        return terms.bound.mean()

    gradient = jax.jit(jax.grad(loss))(params)["prior"]
    assert all(jnp.all(leaf == 0) for leaf in jax.tree.leaves(gradient["constants"]))
    assert all(jnp.any(leaf != 0) for leaf in jax.tree.leaves(gradient["denoiser"]))


def test_the_gradient_of_a_learned_schedule_is_that_of_the_square():
    with jax.enable_x64(True):
        check_the_gradient_of_a_learned_schedule()


def check_the_gradient_of_a_learned_schedule():
    model, params = chain(noise_schedule="learned", gamma_min=-2.0)
    params = jax.tree.map(lambda leaf: leaf.astype(jnp.float64), params)
    x, objective = jnp.arange(64).reshape(4, 16) % 3, Diffusion()

    def moved(size):
        own = params["prior"]["schedule"]
        own = own | {"heights": own["heights"].at[3].add(size)}
        return params | {"prior": params["prior"] | {"schedule": own}}

    def terms(params):
        return terms_of(objective, model, params, jax.random.key(0), x)

    def diffusion(size):  # The other terms depend on the ends of gamma alone.
        found = terms(moved(size))
        return (found.kl - terms(moved(0.0)).kl) + before

    chain_key = jax.random.split(jax.random.key(0))[1]
    before = model.prior(params).terms(chain_key, 2.0 * (x / 2) - 1).diffusion
    squares = [np.mean(np.asarray(diffusion(size)) ** 2) for size in (1e-4, -1e-4)]
    gradient = jax.jit(jax.grad(lambda params: -terms(params).bound.mean()))(params)
    found = gradient["prior"]["schedule"]["heights"][3]
    np.testing.assert_allclose(found, (squares[0] - squares[1]) / 2e-4, rtol=1e-3)


# --- parts ----------------------------------------------------------------------------


@pytest.mark.parametrize("name", DENOISERS)
@pytest.mark.parametrize("num_classes", [0, 3])
def test_every_denoiser_has_the_shape_of_the_image(name, num_classes):
    widths = {"transformer": (8, 8), "unet": (8, 8)}.get(name, (8,))
    shape = (5, 6, 2)
    options = {"denoiser": name, "denoiser_widths": widths, "predicts": "levels"}
    model = make_vae(
        make_likelihood("categorical", 3),
        image_shape=shape,
        latent_dim=int(np.prod(shape)),
        num_classes=num_classes,
        denoiser_options={"fourier": 1},
        **CHAIN | options,
    )
    half = jnp.full(model.num_pixels, 0.5)
    params = model.init(jax.random.key(0), half, half)
    x = jnp.ones((2, model.rows.size), jnp.int32)
    terms = terms_of(Diffusion(num_samples=2), model, params, jax.random.key(1), x)
    assert terms.bound.shape == (2,)
    assert jnp.isfinite(terms.bound).all()
    generate = jax.jit(functools.partial(model.generate, num_samples=3))
    mean, sample = generate(params, jax.random.key(2))
    assert mean.shape == sample.shape == (3, model.num_pixels)


def kl_of_classes(objective, model, params):
    """Returns the KL of images of two classes, with the same noise."""
    x, key = jnp.ones((4, 17), jnp.int32), jax.random.key(0)
    return [
        terms_of(objective, model, params, key, x.at[:, -1].set(label)).kl
        for label in (0, 2)
    ]


def test_classes_reach_the_denoiser():
    assert not np.allclose(*kl_of_classes(Diffusion(), *chain(num_classes=3)))


def test_without_their_class_images_have_none():
    model, params = chain(num_classes=3, label_dropout=1.0)
    np.testing.assert_array_equal(*kl_of_classes(Diffusion(), model, params))
    # Validation and measurements keep the classes.
    assert not np.allclose(*kl_of_classes(Diffusion().for_validation(), model, params))
    found = [
        importance_estimate(
            model, params, jax.random.key(0), row, num_samples=4, chunk=2
        ).kl
        for row in (jnp.ones(17, jnp.int32).at[-1].set(label) for label in (0, 2))
    ]
    assert not np.allclose(*found)


def test_a_chain_can_be_the_prior_of_encoded_latents():
    model = make_vae(
        make_likelihood("bernoulli", 2),
        image_shape=(4, 4, 1),
        latent_dim=3,
        widths=(8,),
        prior="diffusion",
        denoiser_widths=(8,),
        gamma_min=-3.0,
        gamma_max=3.0,
    )
    half = jnp.full(16, 0.5)
    params = model.init(jax.random.key(0), half, half)
    x = jnp.ones((1, 16))
    keys = jax.random.split(jax.random.key(1), 2000)
    found = jax.vmap(lambda key: terms_of(Diffusion(), model, params, key, x).kl)(keys)
    # A denoiser that says x = alpha z is right for a standard normal. The bound then
    # exceeds the KL to one by what the readout costs.
    standard = dataclasses.replace(
        make_vae(
            make_likelihood("bernoulli", 2),
            image_shape=(4, 4, 1),
            latent_dim=3,
            widths=(8,),
        )
    )
    kl = terms_of(Elbo(), standard, params, jax.random.key(1), x).kl[0]
    excess = 1.5 * np.log1p(np.exp(model.prior_family.gamma_min))
    error = float(found.std() / np.sqrt(len(keys)))
    assert abs(found.mean() - kl - excess) < 4 * error < 0.6


@pytest.mark.parametrize(
    "name", [name for name in LIKELIHOODS if make_likelihood(name, 2).has_readout]
)
def test_a_readout_knows_the_level_that_it_sees(name):
    levels = 2 if name == "bernoulli" else 5
    likelihood = make_likelihood(name, levels)
    k = jnp.arange(levels)
    outputs = likelihood.readout(k / (levels - 1), jnp.full(levels, 0.02))
    mean = likelihood.mean(outputs)
    if likelihood.view == "continuous":
        mean = mean * levels - 0.5
    np.testing.assert_allclose(mean, k, atol=1e-2)


def test_the_readout_of_a_density_is_the_normal_of_the_noise():
    likelihood = make_likelihood("gaussian_pixel", 5)
    mean, std, x = jnp.float32([0.2]), jnp.float32([0.1]), jnp.float32([0.4])
    outputs = likelihood.readout(mean, std)
    # x of the continuous view is (4 i + 0.5) / 5 for the intensity i.
    i = (x * 5 - 0.5) / 4
    expected = -0.5 * ((i - mean) / std) ** 2 - jnp.log(std * 0.8 * (2 * jnp.pi) ** 0.5)
    np.testing.assert_allclose(likelihood.log_prob(outputs, x), expected[0], rtol=1e-3)


def test_a_trajectory_ends_where_samples_do():
    model, params = chain(noise_steps=8)
    prior, key = model.prior(params), jax.random.key(3)
    ways = jax.jit(functools.partial(prior.trajectory, num_samples=2, shown=4))(key)
    assert ways.shape == (2, 4, 16)
    z = prior.sample(key, 2)
    end = prior.denoised(z, prior.gamma(jnp.zeros(2))).x
    np.testing.assert_allclose(ways[:, -1], end, atol=1e-4)
    assert not np.allclose(ways[:, 0], ways[:, 1])


# --- refusals -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"network": "mlp"}, r"network is 'mlp': .* Choose 'identity'"),
        ({"posterior": "diagonal"}, "posterior is 'diagonal': .* Choose the posterior"),
        ({"prior": "gaussian"}, "prior is 'gaussian': .* Choose the prior 'diffusion'"),
        ({"latent_dim": 3}, r"latent_dim is 3: .* Set it to 16\."),
        ({"ignore_x": True}, r"ignore_x is True: .* Leave it out\."),
        ({"gamma_min": 6.0}, "gamma_min is 6.0: .* gamma_max is 5.0"),
        ({"gamma_min": 4.995}, "by at least 0.01, .* Give two ends such as -8 and 5"),
        ({"label_dropout": 0.5}, r"label_dropout is 0.5: the model has no classes\. G"),
        ({"noise_steps": -1}, "noise_steps is -1: it must be a whole number"),
        ({"noise_schedule": "line"}, "noise_schedule is 'line': it is unknown"),
        ({"predicts": "x"}, "predicts is 'x': it is unknown"),
        ({"denoiser": "net"}, "denoiser is 'net': it is unknown"),
        ({"denoiser": 3}, "denoiser is 3: it must be of type Denoiser"),
        (
            {"denoiser": "unet", "denoiser_widths": ()},
            r"^denoiser_widths is \(\): a U-Net",
        ),
        (
            {"denoiser": "transformer", "denoiser_widths": (8, 4)},
            r"^denoiser_widths is \(8, 4\): .* have one width",
        ),
        (
            {"denoiser": "transformer", "denoiser_options": {"heads": 3}},
            r"^denoiser_widths is \(256, 256\): each is no multiple of the heads, 3",
        ),
        (
            {"denoiser": "transformer", "denoiser_options": {"heads": 0}},
            r"^denoiser_options\.heads is 0: it must be a whole number of at least 1",
        ),
        (
            {"denoiser_options": {"fourier": -1}},
            r"^denoiser_options\.fourier is -1: it must be a whole number",
        ),
        (
            {"denoiser_options": {"patch": 2}},
            r"^denoiser_options\.patch is 2: .* or choose 'transformer'\.",
        ),
        (
            {"denoiser_options": {"widths": (8,)}},
            r"^denoiser_options\.widths is .* it is the option denoiser_widths\.",
        ),
        ({"denoiser_options": 3}, "^denoiser_options is 3: they are options by name"),
        ({"denoiser_options": {1: 2}}, "denoiser_options is {1: 2}: they are options"),
        (
            {"denoiser": DenseDenoiser((8,)), "denoiser_options": {"fourier": 1}},
            "denoiser_options is .* the denoiser has its options already",
        ),
        (
            {"denoiser": DenseDenoiser((8,)), "denoiser_widths": (4,)},
            r"denoiser_widths is \(4,\): the denoiser has its widths already",
        ),
        ({"num_classes": 1}, "num_classes is 1: .* at least 2 and at most 255, or 0"),
        ({"has_classifier": "yes"}, "has_classifier is 'yes': .* Give True or False"),
        ({"prior_options": {"levels": 3}}, "levels is 3: .* has no such option"),
        ({"latent_shape": (4, 4, 1)}, r"latent_shape is .* have no such option"),
        ({"posterior_options": {"gamma_min": -2.0}}, r"gamma_min is -2.0 of the post"),
    ],
)
def test_parts_that_are_no_chain_are_refused(options, words):
    options = {"latent_dim": 16} | CHAIN | options
    with pytest.raises(ValueError, match=words) as caught:
        make_vae(
            make_likelihood("discretized_gaussian", 3),
            image_shape=(4, 4, 1),
            **options,
        )
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "name", [name for name in LIKELIHOODS if not make_likelihood(name, 2).has_readout]
)
def test_a_likelihood_without_readout_is_refused(name):
    with pytest.raises(ValueError, match=rf"is '{name}': it has no readout of"):
        make_vae(make_likelihood(name, 3), image_shape=(2, 2, 1), latent_dim=4, **CHAIN)


def test_objectives_that_need_a_density_are_refused():
    model, params = chain()
    with pytest.raises(ValueError, match=r"log p\(z\) of a chain .* is not known"):
        model.prior(params).log_prob(jnp.zeros((1, 16)))
    for objective in (IWAE(num_samples=2), ElboLogWeight()):
        with pytest.raises(ValueError, match=r"needs log p\(z\), which the prior 'di"):
            objective.check(model)
        objective.check(unrolled(model, 2))
    # The remedy is one that works: no other objective has a bound of this model.
    with pytest.raises(ValueError, match="Choose the objective 'diffusion'"):
        Elbo().check(model)
    model, _ = chain(num_classes=3)
    for objective in (Diffusion(), SemiSupervised()):
        with pytest.raises(ValueError, match="Give the class of all images"):
            objective.check(dataclasses.replace(model, has_classifier=True))
    plain = make_vae(
        make_likelihood("bernoulli", 2), image_shape=(2, 2, 1), latent_dim=1
    )
    with pytest.raises(ValueError, match="Choose the prior 'diffusion'"):
        Diffusion().check(plain)
    with pytest.raises(ValueError, match="posterior is 'diagonal': only a chain"):
        unrolled(plain, 2)
    layers = unrolled(chain()[0], 2)
    with pytest.raises(ValueError, match="is NoiseLayers: only a chain of latents"):
        unrolled(layers, 2)
    with pytest.raises(ValueError, match="is NoiseLayers: only a chain of images"):
        flow_estimate(layers, params, jax.random.key(0), jnp.zeros(16))


@pytest.mark.parametrize("steps", [-1, 0.5, 100_001])
def test_other_numbers_of_steps_are_whole(steps):
    _, params = chain()
    with pytest.raises(ValueError, match=rf"noise_steps is {steps}: it must be a whol"):
        with_steps(params, steps)


def test_an_unknown_weighting_is_refused(images):
    with pytest.raises(ValueError, match=r"weighting is 'simpel': .* mean 'simple'"):
        exact_chain(images).terms(jax.random.key(0), jnp.zeros((2, 6)), "simpel")


def test_images_without_full_rank_are_refused():
    with pytest.raises(ValueError, match=r"covariance has the eigenvalue .* full rank"):
        GaussianImages(np.zeros(2), np.diag([1.0, 0.0]))
    turn = np.linalg.qr(np.random.default_rng(0).standard_normal((8, 8)))[0]
    with pytest.raises(ValueError, match=r"covariance has the eigenvalue .* full rank"):
        GaussianImages(np.zeros(8), turn @ np.diag([*range(7), 1e-17]) @ turn.T)
