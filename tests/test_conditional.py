"""Tests of experiments with models that know the class of an image."""

import dataclasses

import numpy as np
import pytest

from experiments.data.images import ImageData, load_data
from experiments.data.sources import Split
from experiments.evaluation.results import mean_with_error
from experiments.evaluation.stored_arrays import STEPS
from experiments.report.groups import group_members
from experiments.report.members import members_of
from experiments.report.pictures import _draw
from experiments.runner.images import Images, training_sample
from experiments.runner.reevaluation import evaluate
from experiments.runner.task import GroupTask, build_model
from experiments.runs.trained import load, stored_model
from experiments.settings import grid
from tests.folders import refusal, small_sweep
from tests.test_group_training import opened, train
from vae_jax import views
from vae_jax.diagnostics import classify


def config(**model):
    config = small_sweep()
    config["model"] |= {"widths": (8,), "condition_on": "label", **model}
    config["training"] |= {"num_epochs": 2, "validate_every": 1}
    config["evaluation"] |= {"class_samples": 3}
    config["sweep"] = {"latent_dim": (2, 3)}
    return config


@pytest.fixture(scope="module")
def data():
    return load_data(grid.expand(config())[0].settings.data)


@pytest.fixture(scope="module")
def folder(data, tmp_path_factory):
    """Yields a run folder with two finished runs of one program."""
    (group,) = grid.group(grid.expand(config()))
    path = tmp_path_factory.mktemp("conditional") / "run"
    with opened(path, config()) as folder:
        train(GroupTask(group, Images(data)).compile(), folder)
        yield folder


def results(folder):
    return folder.members.results(sorted(folder.members.finished()), pytest.fail)


def test_results_say_what_the_class_is_for(folder, data):
    labels = data.class_index(data.test.labels)
    for row in results(folder):
        arrays = folder.members.arrays(row["run"])
        assert row["condition_on"] == "label"
        assert np.isnan(row["floor"])
        assert row["latents"] == ""
        assert row["num_class_samples"] == 3
        found = classify(arrays["test/log_px_y"], labels)
        for name, values in (
            ("marginal_log_px", found.log_px),
            ("label_accuracy", found.correct),
        ):
            assert mean_with_error(name, values).items() <= row.items()
        assert row["calibration_error"] == found.calibration_error
        np.testing.assert_array_equal(arrays["classes"], range(10))


def test_the_report_shows_every_class(folder):
    for row in results(folder):
        arrays = folder.members.arrays(row["run"])
        assert arrays["picture/classes"].shape == (10 * STEPS, 8, 8, 1)
        assert _draw("classes", arrays).height > _draw("samples", arrays).height


def test_scores_given_the_label_are_not_ranked_with_others(folder):
    rows = results(folder)
    members = members_of([*rows, {**rows[0], "condition_on": ""}], pytest.fail)
    titles = {group.title: len(group.members) for group in group_members(members)}
    assert titles == {"Binary images": 1, "Binary images, given the label": 2}


def test_a_loaded_model_has_the_numbers_of_its_results(folder, data):
    row = results(folder)[0]
    own = load(folder.path, row["run"])
    (run,) = (run for run in grid.expand(config()) if run.name == row["run"])
    stored = stored_model(folder, run, 0)
    labels = stored.class_index(data.test.labels, "the test images")
    arrays = folder.members.arrays(row["run"])
    means = own.encode(data.test.images, labels)
    expected = arrays["test/posterior_mean"][:, : means.shape[1]]  # Without padding.
    np.testing.assert_allclose(means, expected, atol=1e-4)
    log_px = own.log_prob(data.test.images, labels=labels)
    np.testing.assert_allclose(log_px, arrays["test/log_px"], rtol=1e-4)
    accuracy = np.argmax(own.classify(data.test.images, 3), axis=1) == labels
    assert accuracy.mean() == pytest.approx(row["label_accuracy"], abs=0.02)


@pytest.mark.parametrize(
    ("labels", "words"),
    [
        (None, "they have no labels, and the model"),
        (np.array([3, 12]), "label 12 is no class of the model"),
        (np.array(["a", "b"]), "their labels are no whole numbers, but <U1"),
    ],
)
def test_images_without_a_class_are_refused(folder, labels, words):
    run = grid.expand(config())[0]
    own = stored_model(folder, run, 0)
    line = refusal(own.class_index, labels, "--images is 'own.npz'")
    assert line.startswith(f"--images is 'own.npz': {words}")
    assert "Choose images with labels of 0 1 2 3" in line


def test_labels_of_images_may_be_the_names_of_classes(data, tmp_path):
    names = list("abcdefghij")
    named = dataclasses.replace(data, class_names=tuple(names))
    (group,) = grid.group(grid.expand(config() | {"sweep": {"latent_dim": (2,)}}))
    with opened(tmp_path / "run", config()) as folder:
        train(GroupTask(group, Images(named)).compile(), folder)
        own = stored_model(folder, group.runs[0], 0)
        labels = data.test.labels
        for given in (labels, np.array(names)[labels]):
            found = own.class_index(given, "--images is 'own.npz'")
            np.testing.assert_array_equal(found, labels)
        line = refusal(own.class_index, np.array(["k"]), "--images is 'x'")
    assert "label k is no class of the model latent_dim=2" in line
    assert "Choose images with labels of a b c d e and 5 more" in line


@pytest.mark.slow
def test_a_finished_run_is_evaluated_again_with_its_classes(folder, data):
    runs = grid.expand(config())
    trained = {
        run: row for run in runs for row in results(folder) if row["run"] == run.name
    }
    left_out = []
    for group in evaluate(folder, trained, Images(data), left_out):
        for own in group:
            row, before = own.row(), own.trained
            assert row["label_accuracy"] == before["label_accuracy"]
            assert row["log_px"] == pytest.approx(before["log_px"], rel=1e-5)
    assert left_out == []
    bounds = own.sandwich_row(2, 5, num_temperatures=2, num_chains=2)
    assert np.isfinite(bounds["simulated_gap"])


# --- data -----------------------------------------------------------------------------


def own_data(labels, class_names=(), **splits):
    """Returns images whose labels are the same in every split."""
    images = np.random.default_rng(0).integers(0, 17, (len(labels), 2, 2, 1), np.uint8)
    split = Split(images, np.array(labels, np.int32))
    parts = {"train": split, "validation": split, "test": split} | splits
    return ImageData(
        "own", 17, **parts, binarization="dynamic", class_names=class_names
    )


def test_rows_are_images_with_the_index_of_their_label():
    data = own_data([30, 7, 7, 11])
    (run, _) = grid.expand(config())
    model = build_model(run.settings, data)
    assert model.num_classes == 3
    plain = Images(data)
    rows = plain.of(model)
    assert plain.of(dataclasses.replace(model, num_classes=0)) is plain
    classes = [2, 0, 0, 1]
    for name in ("train", "validation", "test", "sample"):
        pixels, row = getattr(plain, name), getattr(rows, name)
        np.testing.assert_array_equal(row, np.column_stack([pixels, classes]))
    for which in (views.VALIDATION, views.TEST, views.TRAIN):
        x = rows.view("binary", which)
        np.testing.assert_array_equal(x[:, :-1], plain.view("binary", which))
        np.testing.assert_array_equal(x[:, -1], classes)


def test_a_sample_of_many_images_keeps_their_labels(monkeypatch):
    monkeypatch.setattr("experiments.runner.images._MOST_SAMPLED", 4 * 2)
    data = own_data([30, 7, 7, 11])
    model = build_model(grid.expand(config())[0].settings, data)
    expected = np.column_stack([training_sample(data), [2, 0]])
    np.testing.assert_array_equal(Images(data).of(model).sample, expected)


SPLIT = own_data([0, 1]).test


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (own_data([0, 1], test=Split(SPLIT.images, None)), "no labels of its test im"),
        (own_data([-1, 1]), "train images of own have the label -1. Number classes f"),
        (own_data([0, 0]), "the training images of own are all of one class. Choose"),
        (own_data(range(256)), "the training images of own are of 256 classes"),
        (
            own_data([0, 0], ("cat", "dog"), validation=SPLIT),
            "class dog of own has 1 validation image and no training image. Give tr",
        ),
    ],
)
def test_labels_that_cannot_be_classes_are_refused(data, words):
    line = refusal(build_model, grid.expand(config())[0].settings, data)
    assert line.startswith("model.condition_on is 'label': ")
    assert words in line
    assert line.endswith(", or leave it at ''.")


def test_names_of_classes_are_no_part_of_the_fingerprint():
    assert own_data([0, 1]).fingerprint == own_data([0, 1], ("a", "b")).fingerprint
