"""Tests of trained models: latents, walks, scores, and every kind of model."""

import functools

import jax
import numpy as np
import pytest

from tests.chains import chain
from vae_jax import trained, views
from vae_jax.likelihoods import make_likelihood
from vae_jax.model import VAE, make_vae
from vae_jax.samplers import SAMPLERS
from vae_jax.trained import TrainedModel

KINDS = {
    "binary": ("bernoulli", {"posterior": "full_covariance", "prior": "mixture"}),
    "continuous": ("gaussian_shared", {"network": "gated"}),
    "flows": ("beta", {"posterior": "spline_coupling", "prior": "flow"}),
    "images as a prior": ("categorical", {"prior": "vamp", "prior_components": 5}),
    "autoregressive": ("discretized_logistic", {"network": "pixelcnn"}),
    "two layers": ("bernoulli", {"posterior": "ladder", "upper_layers": (2,)}),
}


def build(images, likelihood, parts):
    named = {"latent_dim": 3} | parts
    components = named.pop("prior_components", 0)
    if components:
        named["prior_options"] = {"components": components}
    model = make_vae(
        make_likelihood(likelihood, 17),
        image_shape=(4, 4, 1),
        **named,
    )
    mean, std = views.pixel_statistics(images, 17)
    labels = np.arange(len(images)) % 3 if model.num_classes else None
    rows = model.rows.of(images, labels)
    params = model.init(jax.random.key(1), mean, std, rows)
    # Not the first parameters, for which some layers give constants.
    leaves, tree = jax.tree.flatten(params)
    keys = jax.random.split(jax.random.key(2), len(leaves))
    moved = [
        leaf + 0.1 * jax.random.normal(key, leaf.shape)
        for leaf, key in zip(leaves, keys, strict=True)
    ]
    return TrainedModel(
        model, jax.tree.unflatten(tree, moved), jax.random.key(3), num_samples=8
    )


@pytest.fixture(scope="module", params=KINDS)
def own(request, images):
    return build(images, *KINDS[request.param])


def test_every_kind_of_model_can_be_used(own, images):
    test = images[:5].reshape(5, 4, 4)
    z = own.encode(test)
    assert z.shape == (5, own.model.latent_dim)
    estimate = own.importance_estimate(test)
    found = [own.reconstruct(test), own.decode(z), own.score(test)]
    found += jax.tree.leaves(estimate)
    assert all(len(each) == 5 and np.isfinite(each).all() for each in found)
    assert (estimate.effective_sample_size >= 0.999).all()
    assert (estimate.effective_sample_size <= 8.001).all()
    between = own.interpolate(test[0], test[1], 4)
    assert between.shape == (4, 4, 4)
    for latent in range(own.model.latent_dim):
        assert own.traverse(test[0], latent, (-1.0, 2.0)).shape == (2, 4, 4)
    drawn = own.sample(6, jax.random.key(4))
    assert (drawn.shape, drawn.dtype) == ((6, 4, 4), np.uint8)
    assert drawn.max() <= 16


def test_a_model_prints_as_one_line(images):
    own = build(images, *KINDS["two layers"])
    assert repr(own) == (
        "TrainedModel(likelihood=Bernoulli(levels=17), network=MLP, "
        "posterior_family=LadderFamily, prior_family=TopDown, image_shape=(4, 4, 1), "
        "layer_dims=(3, 2), num_classes=0)"
    )


def test_scores_are_in_the_unit_of_results(own, images):
    log_px, score = own.log_prob(images[:3]), own.score(images[:3])
    view = own.model.likelihood.view
    if view == "binary":
        assert own.unit == "nats"
        expected = -log_px
    else:
        assert own.unit == "bits/dim"
        expected = -log_px / 16 / np.log(2) + (view == "continuous") * np.log2(17)
    np.testing.assert_allclose(score, expected, rtol=1e-6)


def test_a_walk_begins_and_ends_at_reconstructions(own, images):
    if own.model.is_autoregressive:
        pytest.skip("the mean of a pixel depends on a draw of those before it")
    first, last = images[0], images[1]
    walk = own.interpolate(first, last, 3)
    # A mean over samples of q depends on the image's place in its array.
    ends = [own.decode(own.encode(image[None]))[0] for image in (first, last)]
    np.testing.assert_allclose(walk[[0, 2]], ends, rtol=1e-5, atol=1e-5)


def test_a_traversal_moves_one_latent(own, images):
    if own.model.is_autoregressive or len(own.model.layer_dims) > 1:
        pytest.skip("its pixels are draws, or its layers depend on each other")
    z = own.encode(images[:1])
    values = (z[0, 1], 3.0)
    walk = own.traverse(images[0], 1, values)
    moved = np.repeat(z, 2, axis=0)
    moved[:, 1] = values
    np.testing.assert_allclose(walk, own.decode(moved), rtol=1e-5, atol=1e-5)
    assert np.abs(walk[1] - walk[0]).max() > 1e-3


def test_below_a_moved_latent_the_layers_are_at_their_means(images):
    own = build(images, *KINDS["two layers"])
    walk = own.traverse(images[0], 4, (-3.0, 3.0))
    assert np.abs(walk[1] - walk[0]).max() > 1e-3
    prior = own.model.prior(own.params)
    upper = np.repeat(own.encode(images[:1])[:, 3:], 2, axis=0)
    upper[:, 1] = (-3, 3)
    lower = prior.family.conditional(0).at(prior.params["0"], upper).mean
    expected = own.decode(np.concatenate([lower, upper], axis=1))
    np.testing.assert_allclose(walk, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("count", [7, 8, 9, 20])
def test_blocks_change_nothing(images, monkeypatch, count):
    own = build(images, *KINDS["flows"])
    whole = own.encode(images[:count]), own.importance_estimate(images[:count])
    monkeypatch.setattr(trained, "_BLOCK", 8)
    parts = own.encode(images[:count]), own.importance_estimate(images[:count])
    for one, other in zip(*map(jax.tree.leaves, (whole, parts)), strict=True):
        assert one.shape == other.shape
        np.testing.assert_allclose(one, other, rtol=1e-3, atol=1e-4)


def test_samples_come_in_blocks_that_differ(images, monkeypatch):
    own = build(images, *KINDS["continuous"])
    monkeypatch.setattr(trained, "_BLOCK", 4)
    drawn = own.sample(10, jax.random.key(0))
    assert drawn.shape == (10, 4, 4)
    assert not np.array_equal(drawn[:4], drawn[4:8])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda m, x: m.traverse(x[0], 3, (0,)), "latent is 3: the model has 3 lat"),
        (lambda m, x: m.traverse(x[0], -1, (0,)), "Give an integer from 0 to 2"),
        (lambda m, x: m.traverse(x[0], 1.0, (0,)), "latent is 1.0"),
        (lambda m, x: m.traverse(x[0], True, (0,)), "latent is True"),
        (lambda m, x: m.traverse(x[0], 0, ()), "values has shape .0.: it is one row"),
        (lambda m, x: m.traverse(x[0], 0, 1.0), "values has shape ..: it is one row"),
        (lambda m, x: m.traverse(x[0], 0, "ab"), "values is no array of real"),
        (lambda m, x: m.traverse(x[0], 0, [np.nan]), "values has a value that is not"),
        (lambda m, x: m.traverse(x, 0, (0,)), "image has shape .96, 16.: the model"),
        (lambda m, x: m.traverse(x[0] + 20, 0, (0,)), "image has values from"),
        (lambda m, x: m.interpolate(x[0], x[:2], 5), "b has shape .2, 16.: the model"),
        (lambda m, x: m.interpolate(x[0], x[1], 1), "num_images is 1: it must be a"),
        (lambda m, x: m.interpolate(x[0], x[1], 10**13), "at most 1000000"),
        (lambda m, x: m.sample(10**13, jax.random.key(0)), "num_images is 10000000"),
        (lambda m, x: m.elbo(x, 10**13), "num_samples is 10000000000000"),
        (lambda m, x: m.decode([[0, 1, np.inf]]), "z has a value that is not finite"),
        (lambda m, x: m.decode([[0, 1, 1e300]]), "that is not finite in float32"),
        (lambda m, x: m.decode([[0, 1, 2j]]), "z is no array of real numbers"),
    ],
)
def test_walks_refuse_values_that_make_no_sense(images, call, message):
    own = build(images, "bernoulli", {"widths": (4,)})
    with pytest.raises(ValueError, match=message) as caught:
        call(own, images)
    assert "\n" not in str(caught.value)
    assert str(caught.value).endswith(".")


# --- chains of latents ---


@pytest.fixture(scope="module")
def of_chain():
    """Returns a chain of images with three classes."""
    model, params = chain(num_classes=3, label_dropout=0.1, noise_steps=8)
    return TrainedModel(model, params, jax.random.key(3))


def test_a_chain_has_samplers_with_steps_and_guidance(of_chain):
    key, labels = jax.random.key(4), np.arange(40) % 3
    for call in (of_chain.sample, functools.partial(of_chain.sample, sampler="ddim")):
        found = [
            call(40, key, labels, **options)
            for options in (
                {},
                {"steps": 8},
                {"steps": 3},
                {"guidance": 4.0},
                {"guidance": 0.0},
            )
        ]
        assert found[0].shape == (40, 4, 4)
        same, *others = ((found[0] == each).mean() for each in found[1:])
        assert same > 0.99  # Up to rounding.
        assert all(share < 0.9 for share in others)
    of_no_class = of_chain.sample(40, key, labels[::-1], sampler="ddim", guidance=0.0)
    assert (of_no_class == found[-1]).mean() > 0.99


def test_a_sampler_keeps_its_options_and_its_steps(of_chain):
    key, labels = jax.random.key(4), np.arange(40) % 3
    ddim = SAMPLERS.make("ddim", eta=1.0, steps=4)
    first, same, other = (
        of_chain.sample(40, key, labels, sampler=sampler, steps=steps)
        for sampler, steps in ((ddim, 0), ("ancestral", 4), (ddim, 5))
    )
    assert (first == same).mean() > 0.99
    assert (first == other).mean() < 0.9


def test_steps_and_weights_share_a_program(of_chain, monkeypatch):
    # JAX runs the method's Python only where it traces a program.
    traced, generate = [], VAE.generate

    def counted(model, *args):
        traced.append(args)
        return generate(model, *args)

    monkeypatch.setattr(VAE, "generate", counted)
    for steps, weight in ((2, 3.0), (3, 0.5), (4, 7)):
        # No other test draws so many images, so that JAX has no program of them yet.
        of_chain.sample(
            11, jax.random.key(0), sampler="heun", steps=steps, guidance=weight
        )
    assert len(traced) == 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"sampler": "dim"}, r"sampler is 'dim': it is unknown \(did you mean 'ddim'"),
        ({"sampler": 3}, r"sampler is 3: it must be of type Sampler\. Give a name"),
        ({"steps": -1}, "steps is -1: it must be a whole number of at least 0"),
        ({"guidance": -1}, "guidance is -1: it must be at least 0"),
        ({"guidance": np.nan}, "guidance is nan: it must be finite"),
    ],
)
def test_ways_of_sampling_that_make_no_sense_are_refused(of_chain, options, message):
    with pytest.raises(ValueError, match=message):
        of_chain.sample(2, jax.random.key(0), **options)


def test_models_without_chain_or_classes_have_no_samplers_or_guidance(images):
    own = build(images, "bernoulli", {"widths": (4,)})
    assert own.sample(2, jax.random.key(0), sampler="ancestral").shape == (2, 4, 4)
    for options in ({"sampler": "heun"}, {"steps": 4}, {"guidance": 2.0}):
        with pytest.raises(ValueError, match=r"prior is '.*': it is no chain"):
            own.sample(2, jax.random.key(0), **options)
    for parts in ({}, {"num_classes": 3}):
        plain = TrainedModel(*chain(**parts), jax.random.key(3))
        with pytest.raises(ValueError, match=r"num_classes is 0|label_dropout is 0\.0"):
            plain.sample(2, jax.random.key(0), guidance=2.0)


# --- models with classes ---


@pytest.fixture(scope="module")
def labelled(images):
    """Returns a model of three classes that also learned from unknown ones."""
    return build(images, "bernoulli", {"num_classes": 3, "has_classifier": True})


def test_every_method_uses_the_class(labelled, images):
    test, first, other = images[:4].reshape(4, 4, 4), [0, 1, 2, 0], [1, 1, 2, 0]
    for call in (
        lambda labels: labelled.encode(test, labels),
        lambda labels: labelled.decode(np.zeros((4, 3)), labels),
        lambda labels: labelled.reconstruct(test, labels),
        lambda labels: labelled.elbo(test, labels=labels),
        lambda labels: labelled.score(test, 5, labels),
    ):
        one, two = call(first), call(other)
        assert len(one) == 4
        np.testing.assert_array_equal(one[1:], two[1:])
        assert not np.array_equal(one[0], two[0])
    drawn = [labelled.sample(99, jax.random.key(4), y) for y in ([0] * 99, [1] * 99)]
    assert not np.array_equal(*drawn)
    assert labelled.sample(4, jax.random.key(4)).shape == (4, 4, 4)
    means = labelled.reconstruct(test[:1], [2])
    walk = labelled.interpolate(test[0], test[1], 3, 2)
    np.testing.assert_allclose(walk[0], means[0], rtol=1e-5)
    z = labelled.encode(test[:1], [2])
    (same,) = labelled.traverse(test[0], 1, z[:, 1], 2)
    np.testing.assert_allclose(same, means[0], rtol=1e-5)


def test_classes_are_found_by_bayes_rule(labelled, images):
    found = labelled.classify(images[:4], 2000)
    log_px_y = [labelled.log_prob(images[:4], 2000, [y] * 4) for y in range(3)]
    expected = jax.nn.softmax(np.array(log_px_y), axis=0).T
    np.testing.assert_allclose(found, expected, atol=0.1)
    np.testing.assert_allclose(found.sum(axis=1), 1, rtol=1e-5)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda m, x: m.encode(x), "labels is None: the model has 3 classes. Give"),
        (lambda m, x: m.log_prob(x, 5), "labels is None: the model has 3 classes"),
        (lambda m, x: m.decode(np.zeros((2, 3))), "labels is None: the model has 3"),
        (lambda m, x: m.encode(x, [0]), "labels has shape .1.: there are 96 images"),
        (lambda m, x: m.encode(x[:1], [-1]), "labels has values from -1 to -1"),
        (lambda m, x: m.sample(1, jax.random.key(0), [3]), "labels has values from 3"),
        (lambda m, x: m.traverse(x[0], 0, [1]), "label is None: the model has 3"),
        (lambda m, x: m.interpolate(x[0], x[1], 2, 0.5), "label has dtype float64"),
    ],
)
def test_labels_that_make_no_sense_are_refused(labelled, images, call, message):
    with pytest.raises(ValueError, match=message):
        call(labelled, images)


def test_a_model_without_classes_takes_no_labels(images):
    own = build(images, "bernoulli", {"widths": (4,)})
    for call in (
        lambda: own.encode(images[:1], [0]),
        lambda: own.sample(1, jax.random.key(0), [0]),
        lambda: own.traverse(images[0], 0, [1], 0),
    ):
        with pytest.raises(ValueError, match=r"label.* is given: the model has no cl"):
            call()
    with pytest.raises(ValueError, match="the model has no classes: it cannot class"):
        own.classify(images)
