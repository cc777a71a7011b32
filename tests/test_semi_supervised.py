"""Tests of models with a classifier, which learn from images without a class."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.data.images import load_data
from experiments.data.settings import DataSettings
from experiments.messages.errors import CommandError
from experiments.runner.images import Images
from experiments.settings import grid
from tests import linear_gaussian
from tests.folders import refusal, small_sweep
from tests.test_labels import NUM_CLASSES, conditional_gaussian
from vae_jax.diagnostics import classify
from vae_jax.likelihoods import make_likelihood
from vae_jax.model import make_vae
from vae_jax.objectives import Elbo, SemiSupervised

pytestmark = pytest.mark.usefixtures("keys_are_used_once")


@pytest.fixture(scope="module")
def exact():
    """Returns a model whose q(z|x, y) and q(y|x) are exact, and p(x|y) by class.

    The classes have the same covariance C, so log p(y|x) is linear in x: its slope is
    C^-1 times the mean of the class.
    """
    model, params, classes = conditional_gaussian()
    means = np.stack([each.offset for each in classes])  # [K, D]
    covariance = linear_gaussian.marginal(classes[0]).cov
    slopes = np.linalg.solve(covariance, means.T)  # [D, K]
    constants = -0.5 * (means * slopes.T).sum(1)
    # x = (255 intensity + 0.5) / 256
    kernel, bias = slopes * 255 / 256, constants + slopes.sum(0) * 0.5 / 256
    head = {"kernel": jnp.float32(kernel), "bias": jnp.float32(bias)}
    params["classifier"] = {"head": {"class": head}}
    return dataclasses.replace(model, has_classifier=True), params, classes


def images_of(classes):
    rng = np.random.default_rng(5)
    drawn = [linear_gaussian.marginal(own).rvs(4, random_state=rng) for own in classes]
    return np.concatenate(drawn), np.repeat(np.arange(NUM_CLASSES), 4)


def test_with_exact_posteriors_the_bound_is_the_evidence(exact):
    model, params, classes = exact
    x, labels = images_of(classes)
    log_px_y = np.stack([own.log_prob(x) for own in classes], axis=1)
    found = classify(log_px_y, labels)
    unknown = model.rows.join(jnp.float32(x), NUM_CLASSES)
    np.testing.assert_allclose(
        np.exp(model.classify(params, unknown)), found.probabilities, atol=1e-3
    )
    # The closed form has noise, of E[log p(x|z)]: many samples.
    objective, key = SemiSupervised(2000, classifier_weight=0.0), jax.random.key(0)
    terms = objective(model, params, key, unknown)
    np.testing.assert_allclose(terms.bound, found.log_px, atol=0.1)
    np.testing.assert_allclose(terms.bound, terms.elbo, rtol=1e-5)
    known = model.rows.join(jnp.float32(x), jnp.asarray(labels))
    terms = objective(model, params, jax.random.key(1), known)
    own = np.take_along_axis(log_px_y, labels[:, None], axis=1)[:, 0]
    np.testing.assert_allclose(terms.bound, own - np.log(NUM_CLASSES), atol=0.1)


def test_the_sum_over_classes_is_that_of_each_class_alone(exact):
    """With another classifier, and with a weight of right answers."""
    model, params, classes = exact
    flat = jax.tree.map(lambda leaf: 0.1 * leaf, params["classifier"])
    params = {**params, "classifier": flat}
    x, labels = images_of(classes)
    labels = np.where(np.arange(len(x)) % 2, labels, NUM_CLASSES)
    rows = model.rows.join(jnp.float32(x), jnp.asarray(labels))
    key = jax.random.key(2)
    terms = SemiSupervised(classifier_weight=3.0)(
        model, params, jax.random.clone(key), rows, beta=0.5
    )
    log_q = np.asarray(model.classify(params, rows), np.float64)
    plain = dataclasses.replace(model, has_classifier=False)
    bounds = np.stack(
        [
            Elbo()(
                plain,
                params,
                jax.random.clone(key),
                plain.rows.join(jnp.float32(x), label),
                beta=0.5,
            ).bound
            for label in range(NUM_CLASSES)
        ],
        axis=1,
    )
    for i, label in enumerate(labels):
        if label < NUM_CLASSES:
            expected = bounds[i, label] + 3 * log_q[i, label]
        else:
            expected = (np.exp(log_q[i]) * (bounds[i] - log_q[i])).sum()
        expected -= np.log(NUM_CLASSES)
        np.testing.assert_allclose(terms.bound[i], expected, rtol=1e-4)


def test_a_model_and_its_objective_agree_on_a_classifier():
    settings = {"image_shape": (2, 2, 1), "latent_dim": 1}
    model = make_vae(make_likelihood("bernoulli", 2), num_classes=2, **settings)
    with pytest.raises(ValueError, match="'semi_supervised': the model has no"):
        SemiSupervised().check(model)
    with pytest.raises(ValueError, match="'elbo': the model has a classifier"):
        Elbo().check(dataclasses.replace(model, has_classifier=True))
    with pytest.raises(ValueError, match="has_classifier is True: the model has no cl"):
        make_vae(make_likelihood("bernoulli", 2), has_classifier=True, **settings)


def test_refusals_of_an_objective_for_few_labels_name_the_settings_to_change():
    config = small_sweep()
    config["training"]["objective"] = "semi_supervised"
    line = refusal(grid.expand, config)
    assert line.startswith("config.training.objective is 'semi_supervised': the model")
    assert (
        "condition_on to 'label' and config.data.labelled_per_class, as in 10" in line
    )
    config["model"]["condition_on"] = "label"
    assert refusal(grid.expand, config) == line
    config["data"]["labelled_per_class"] = 10
    assert all(run.settings.has_classifier for run in grid.expand(config))
    config["training"]["objective_options"] = {"classifier_weight": -1.0}
    line = refusal(grid.expand, config)
    assert line.startswith("config.training.objective_options.classifier_weight is -1")


def test_few_labels_of_each_class_are_known():
    settings = DataSettings("digits", labelled_per_class=3)
    data = load_data(settings)
    known = data.train.labels[data.labelled]
    np.testing.assert_array_equal(np.bincount(known), np.full(10, 3))
    model = make_vae(
        make_likelihood("bernoulli", 17),
        image_shape=(8, 8, 1),
        latent_dim=1,
        num_classes=10,
        has_classifier=True,
    )
    rows = Images(data).of(model)
    assert np.all(rows.train[~data.labelled, -1] == 10)
    np.testing.assert_array_equal(rows.train[data.labelled, -1], known)
    assert np.all(rows.validation[:, -1] == 10)
    np.testing.assert_array_equal(rows.test[:, -1], data.test.labels)
    with pytest.raises(CommandError, match="labelled_per_class is 1000: class 0 has"):
        load_data(dataclasses.replace(settings, labelled_per_class=1000))


def test_an_epoch_has_labelled_images_as_often_as_asked():
    once = load_data(DataSettings("digits", labelled_per_class=3))
    settings = DataSettings("digits", labelled_per_class=3, labelled_repeats=5)
    data = load_data(settings)
    assert len(data.train.images) == len(once.train.images) + 4 * 30
    images, counts = np.unique(
        data.train.images[data.labelled], axis=0, return_counts=True
    )
    assert counts.tolist() == [5] * 30
    shown = once.train.images[once.labelled]
    np.testing.assert_array_equal(images, np.unique(shown, axis=0))
    with pytest.raises(CommandError, match=r"labelled_repeats is 2: all .* Set it to"):
        dataclasses.replace(settings, labelled_per_class=-1, labelled_repeats=2)
