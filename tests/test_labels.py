"""Tests of models with classes: p(x|z, y) and q(z|x, y)."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests import linear_gaussian
from tests.parts import ORDINARY_NETWORKS, ORDINARY_POSTERIORS, ORDINARY_PRIORS
from vae_jax import fit
from vae_jax.evidence import (
    LinearGaussian,
    bidirectional_estimate,
    importance_estimate,
    sigmoid_schedule,
)
from vae_jax.likelihoods import make_likelihood
from vae_jax.measure import draw, evaluate
from vae_jax.model import make_vae
from vae_jax.networks import MLP
from vae_jax.population import check_padding
from vae_jax.posteriors import is_hierarchical
from vae_jax.training import TrainingConfig

pytestmark = pytest.mark.usefixtures("keys_are_used_once")

# Each program runs once or twice: not worth optimising.
jit = functools.partial(
    jax.jit, compiler_options={"xla_backend_optimization_level": "0"}
)
SHAPE, NUM_PIXELS, NUM_CLASSES = (3, 4, 2), 24, 3
LABELS = jnp.array([0, 2, 1, 2])


def model_of(**options):
    settings = {"latent_dim": 2, "widths": (12,), "num_classes": NUM_CLASSES} | options
    return make_vae(make_likelihood("bernoulli", 4), image_shape=SHAPE, **settings)


def build(**options):
    model, mean = model_of(**options), jnp.linspace(0.1, 0.9, NUM_PIXELS)
    images = jnp.zeros((120, model.rows.size), jnp.uint8)
    return model, model.init(jax.random.key(1), mean, 0.2 * mean, images)


def rows_of(model, labels=LABELS):
    x = jax.random.bernoulli(jax.random.key(2), 0.5, (len(LABELS), NUM_PIXELS))
    return model.rows.join(x.astype(jnp.float32), labels)


def moved(params):
    """Returns parameters of which none is 0, so that every input has an effect."""
    leaves, structure = jax.tree.flatten(params)
    rng = np.random.default_rng(0)
    noise = [0.3 * rng.standard_normal(leaf.shape, np.float32) for leaf in leaves]
    return jax.tree.unflatten(structure, map(jnp.add, leaves, noise))


@pytest.mark.parametrize("network", ORDINARY_NETWORKS)
def test_encoder_and_decoder_of_every_network_see_the_class(network):
    model, params = build(network=network)
    params, z = moved(params), jnp.ones((len(LABELS), 2))
    x, other = rows_of(model), rows_of(model, jnp.array([1, 2, 1, 0]))

    @jit
    def run(x):
        log_px_z = model.log_likelihood(params, x, jnp.stack([z, -z]))
        return model.encode(params, x).mean, model.decode(params, z, x), log_px_z.T

    for one, two in zip(run(x), run(other), strict=True):
        assert one.shape[0] == len(LABELS)
        differs = np.any(one != two, axis=tuple(range(1, one.ndim)))
        np.testing.assert_array_equal(differs, [True, False, False, True])


@pytest.mark.parametrize("network", ["mlp", "pixelcnn"])
def test_images_of_a_class_are_drawn(network):
    model, params = build(network=network)
    key, z = jax.random.key(3), jnp.zeros((len(LABELS), 2))
    means, drawn = jit(model.sample_images)(moved(params), key, z, LABELS)
    assert means.shape == drawn.shape == (len(LABELS), NUM_PIXELS)
    if network == "mlp":  # Else the mean depends on the draw.
        np.testing.assert_array_equal(means[1], means[3])
        assert np.all(means[0] != means[1])
        generate = jit(model.generate, static_argnums=2)
        means, _ = generate(params, jax.random.key(4), 5)
        assert means.shape == (5, NUM_PIXELS)


@pytest.mark.parametrize(
    ("posterior", "prior"),
    [(posterior, "standard_normal") for posterior in ORDINARY_POSTERIORS]
    + [("diagonal", prior) for prior in ORDINARY_PRIORS],
)
def test_every_posterior_and_prior_can_have_classes(posterior, prior):
    upper = {"upper_layers": (2,)} if is_hierarchical(posterior) else {}
    model, params = build(posterior=posterior, prior=prior, **upper)
    params, noise = moved(params), jnp.ones((2, len(LABELS), model.latent_dim))

    @jit
    def run(x):
        z, log_q = model.encode(params, x).sample_and_log_prob(noise)
        return z, log_q - model.prior(params).log_prob(z)

    z, log_ratio = run(rows_of(model))
    assert np.all(np.isfinite(log_ratio))
    others, _ = run(rows_of(model, (LABELS + 1) % NUM_CLASSES))
    assert np.all(others[..., 0] != z[..., 0])


def test_latents_of_a_model_with_classes_can_be_padded():
    with jax.debug_key_reuse(False):  # It uses a key twice, for the same noise.
        check_padding([model_of(latent_dim=size) for size in (2, 5)])


# --- a model whose p(x|y) is known ----------------------------------------------------


@pytest.fixture(scope="module")
def exact():
    return conditional_gaussian()


def conditional_gaussian():
    """Returns a linear model with classes, and a LinearGaussian for each class.

    Each class shifts the mean image, and the encoder knows by how much.
    """
    unconditional, params, marginal = linear_gaussian.exact_model()
    kernel = np.asarray(params["decoder"]["output"]["kernel"])  # [L, D]
    rng = np.random.default_rng(3)
    shifts = rng.normal(0, 0.08, (NUM_CLASSES, linear_gaussian.NUM_PIXELS))
    shifts = shifts.astype(np.float32)
    known = LinearGaussian(
        kernel.T.astype(float), marginal.mean, linear_gaussian.SCALE**2
    )
    _, covariance = known.posterior(known.offset[None])
    projection = known.weights @ covariance / known.variance  # [D, L]
    head = params["encoder"]["head"]
    head["mean"]["kernel"] = jnp.concatenate(
        [head["mean"]["kernel"], -(shifts @ projection).astype(np.float32)]
    )
    head["log_scale"]["kernel"] = jnp.zeros_like(head["mean"]["kernel"])
    params["decoder"]["output"]["kernel"] = jnp.concatenate([shifts, kernel])
    model = dataclasses.replace(unconditional, num_classes=NUM_CLASSES)
    return model, params, [known._replace(offset=known.offset + s) for s in shifts]


def test_log_px_given_the_class_is_exact(exact):
    model, params, classes = exact
    x = linear_gaussian.marginal(classes[1]).rvs(5, random_state=4)

    def estimate(x, label):
        row = model.rows.join(x, label)
        key = jax.random.key(5)
        given = importance_estimate(model, params, key, row, num_samples=2, chunk=2)
        return given.log_px

    of_all = jax.vmap(jax.vmap(estimate, (None, 0)), (0, None))
    found = of_all(jnp.asarray(x, jnp.float32), jnp.arange(NUM_CLASSES))
    expected = np.stack([each.log_prob(x) for each in classes], axis=1)
    np.testing.assert_allclose(found, expected, rtol=1e-4)


@pytest.mark.slow
def test_a_simulated_image_has_a_class_and_two_bounds(exact):
    model, params, classes = exact
    found = bidirectional_estimate(
        model,
        params,
        jax.random.key(6),
        schedule=sigmoid_schedule(3),
        num_chains=2,
        initial="posterior",
    )
    pixels, label = model.rows.split(found.x)
    expected = classes[int(label)].log_prob(np.asarray(pixels)[None])[0]
    for bound in (found.lower, found.upper):
        np.testing.assert_allclose(bound.log_px, expected, rtol=1e-4)


def test_evaluation_and_pictures_use_the_class_of_each_image(exact):
    model, params, classes = exact
    x = np.stack([each.offset for each in classes]).astype(np.float32)
    rows = model.rows.join(jnp.asarray(x), jnp.arange(NUM_CLASSES))
    images = np.column_stack([np.floor(x * 256), np.arange(NUM_CLASSES)])
    images = images.astype(np.uint8)
    sizes = {"num_samples": 2, "chunk": 2, "batch_size": 3, "class_samples": 2}
    key = jax.random.key(7)
    function = jit(functools.partial(evaluate, model, **sizes))
    found = function(params, key, rows, images, jnp.ones(3))
    expected = np.stack([each.log_prob(x) for each in classes], axis=1)
    np.testing.assert_allclose(found.estimate.log_px, np.diag(expected), rtol=1e-4)
    np.testing.assert_allclose(found.log_px_y, expected, rtol=1e-4)
    assert np.all(found.squared_error < 1e-4)
    sizes = {"num_images": 3, "manifold_side": 2, "num_walks": 1, "num_steps": 3}
    sizes["num_classes"] = 2
    function = jit(functools.partial(draw, model, **sizes))
    shown = function(params, jax.random.key(8), rows[::-1], jnp.ones(3))
    first = x[-1]
    np.testing.assert_allclose(shown.reconstructions, x[::-1], atol=0.01)
    np.testing.assert_allclose(shown.interpolations, [first] * 3, atol=0.01)
    # The grid is symmetric, and the model linear.
    np.testing.assert_allclose(shown.manifold.mean(axis=0), x[0], atol=0.01)
    assert np.linalg.matrix_rank(shown.traversals - first[None], tol=0.03) == 1
    # The first two classes at the same three z: the model is linear in z and class.
    one, other = np.asarray(shown.classes).reshape(2, 3, -1)
    np.testing.assert_allclose(one - other, [x[0] - x[1]] * 3, atol=0.01)
    assert np.all(np.ptp(one, axis=0) > 0)


# --- training -------------------------------------------------------------------------


def test_a_model_learns_what_the_classes_say():
    """All that differs between the images is their class: z has nothing to tell."""
    rng = np.random.default_rng(0)
    shapes = rng.integers(0, 2, (NUM_CLASSES, NUM_PIXELS))
    labels = np.arange(96) % NUM_CLASSES
    model = model_of(latent_dim=1)
    images = (3 * shapes[labels]).astype(np.uint8)
    config = TrainingConfig(num_epochs=60, batch_size=32)
    with jax.debug_key_reuse(False):
        (own,) = fit(
            model,
            images,
            config,
            labels=labels,
            learning_rate=0.03,
        )
    x = jnp.asarray(shapes, jnp.float32)

    def log_px(shift):
        rows = model.rows.join(x, (jnp.arange(NUM_CLASSES) + shift) % NUM_CLASSES)
        z = jnp.zeros((1, NUM_CLASSES, 1))
        return np.asarray(model.log_likelihood(own.params, rows, z))

    assert np.all(log_px(0) > -1)
    assert np.all(log_px(1) < -5)


class NoClass(MLP):
    takes_class = False


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_classes": -1}, "num_classes is -1: it must be a whole number of at le"),
        ({"num_classes": 256}, "num_classes is 256: it must .* and at most 255"),
        (
            {"network": NoClass((3,))},
            "the encoder of NoClass takes no class. Let it",
        ),
    ],
)
def test_classes_that_a_model_cannot_have_are_refused(options, message):
    settings = {"image_shape": SHAPE, "latent_dim": 2, "num_classes": 3} | options
    with pytest.raises(ValueError, match=message):
        make_vae(make_likelihood("bernoulli", 4), **settings)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (
            {"labels": None},
            "labels is None: the model has 3 classes. Give the clas",
        ),
        (
            {"labels": [0, 1]},
            r"labels has shape \[2\]: there are 6 images. Give o",
        ),
        (
            {"labels": [0.0] * 6},
            "labels has dtype float64: classes are whole num",
        ),
        ({"labels": list("aabbcc")}, "labels has dtype <U1: .* np.unique.training_l"),
        ({"labels": [[0], [1, 2]]}, "labels is a list of parts of different lengths"),
        (
            {"model": model_of(has_classifier=True), "labels": [0, 1, 2, -2, 0, 1]},
            "labels has values from -2 to 2: .* or -1 if unknown",
        ),
        (
            {"labels": [0, 1, 2, 3, 0, 1]},
            "labels has values from 0 to 3: the model h",
        ),
        ({"labels": [0, 1, 2, -1, 0, 1]}, "labels has values from -1 to 2: the model"),
        (
            {"validation_images": np.zeros((1, 24), int)},
            "validation_labels is None: ",
        ),
        (
            {"validation_labels": [0]},
            "validation_labels is given: there are no validation_images. Give both",
        ),
        ({"model": model_of(num_classes=0)}, "labels is given: the model has no cl"),
    ],
)
def test_labels_that_are_no_classes_are_refused(given, message):
    arguments = {
        "model": model_of(),
        "images": np.zeros((6, NUM_PIXELS), np.uint8),
        "labels": [0, 1, 2, 0, 1, 2],
    }
    with pytest.raises(ValueError, match=message) as caught:
        fit(**arguments | given)
    assert "\n" not in str(caught.value)


def test_a_row_without_its_class_is_refused():
    model, params = build()
    with pytest.raises(ValueError, match=r"rows have 24 values: .* Give 25, of which"):
        model.encode(params, jnp.zeros((2, NUM_PIXELS)))
    with pytest.raises(ValueError, match="x is None, but the model has 3 classes"):
        model.decode(params, jnp.zeros((2, 2)))
    with pytest.raises(ValueError, match="labels is None: the model has 3 classes"):
        model.sample_images(params, jax.random.key(0), jnp.zeros((2, 2)))
