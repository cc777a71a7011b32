"""Tests of the rows of results, and of the tables in the terminal."""

import dataclasses
import json
import re

import jax
import numpy as np
import pytest

from configs import digits
from experiments.data.images import ImageData
from experiments.data.sources import Split
from experiments.evaluation.results import result_row
from experiments.files.sealed import to_json, without_nan
from experiments.report.terminal import print_results
from experiments.runner import progress
from experiments.runner.task import build_model
from experiments.settings import grid
from tests.sweeps import product
from vae_jax.evidence import ImportanceEstimate
from vae_jax.measure import Evaluation

COLUMNS = [
    "run",
    "dataset",
    "likelihood",
    "latent_dim",
    "beta",
    "learning_rate",
    "ema",
    "seed",
    "condition_on",
    "view",
    "unit",
    "score",
    "score_se",
    "estimator",
    "bound",
    "bound_se",
    "elbo",
    "elbo_se",
    "log_px",
    "log_px_se",
    "reconstruction",
    "kl",
    "rate",
    "distortion",
    "chain_last_kl",
    "chain_layers_kl",
    "chain_error",
    "bits_per_dim",
    "bits_per_dim_se",
    "num_importance_samples",
    "effective_sample_size",
    "largest_weight",
    "importance_bias",
    "importance_bias_se",
    "marginal_log_px",
    "marginal_log_px_se",
    "label_accuracy",
    "label_accuracy_se",
    "calibration_error",
    "num_class_samples",
    "classifier_accuracy",
    "classifier_accuracy_se",
    "mean_squared_error",
    "active_units",
    "active_by_layer",
    "num_test_images",
    "binarization",
    "binarization_seed",
    "last_gain",
    "epochs",
    "status",
]
LEVELS, NUM_PIXELS, NUM_IMAGES = 17, 16, 40
VIEWS = {"bernoulli": "binary", "categorical": "levels", "laplace": "continuous"}


@pytest.fixture
def data():
    images = np.random.default_rng(0).integers(0, LEVELS, (NUM_IMAGES, 4, 4, 1))
    split = Split(images.astype(np.uint8), None)
    return ImageData("squares", LEVELS, split, split, split, "dynamic")


@pytest.fixture
def evaluation():
    rng = np.random.default_rng(1)

    def draw(*shape):
        return rng.normal(-30, 3, shape).astype(np.float32)

    latents = rng.normal(0, 1, (NUM_IMAGES, 3)).astype(np.float32)
    latents[:, 2] = 0.001  # A latent that carries nothing.
    weight = rng.uniform(0, 1, NUM_IMAGES).astype(np.float32)
    estimate = ImportanceEstimate(
        draw(NUM_IMAGES),
        draw(NUM_IMAGES) + 5,
        -draw(NUM_IMAGES) / 10,
        9 * weight,
        weight,
        last_doubling=weight / 8,
        doubling_before=weight / 5,
    )
    return Evaluation(estimate, weight / 10, latents)


UNKNOWN = np.full(NUM_IMAGES, np.nan, np.float32)


def row_of(likelihood, data, evaluation, epochs=None, floor=UNKNOWN, **facts):
    config = digits.get_config().to_dict()
    config["data"] |= {"binarization_seed": 7}
    config["evaluation"] |= {"num_samples": 9}
    config["sweep"] = {"likelihood": likelihood, "latent_dim": 3, "seed": 5}
    (run,) = grid.expand(config)
    model = build_model(run.settings, data)
    trained = {"last_gain": 0.5, "epochs": epochs, "floor": floor}
    if epochs is None:
        trained["epochs"] = run.settings.training.num_epochs
    return result_row(run, model, data, evaluation, **trained, **facts)


@pytest.mark.parametrize("likelihood", VIEWS)
def test_columns_are_a_contract(likelihood, data, evaluation):
    row = row_of(likelihood, data, evaluation, best_epoch=3, seconds=1.5)
    assert list(row) == [*COLUMNS, "best_epoch", "seconds"]
    assert json.loads(to_json(row)) == without_nan(row)
    assert row["run"] == f"likelihood={likelihood},latent_dim=3,seed=5"
    assert (row["dataset"], row["likelihood"]) == ("squares", likelihood)
    assert (row["latent_dim"], row["seed"], row["active_units"]) == (3, 5, 2)
    assert row["active_by_layer"] == "2"
    assert (row["num_test_images"], row["num_importance_samples"]) == (40, 9)


@pytest.mark.parametrize(("likelihood", "view"), VIEWS.items())
def test_scores_are_on_the_scale_of_their_view(likelihood, view, data, evaluation):
    row = row_of(likelihood, data, evaluation)
    log_px = evaluation.estimate.log_px.astype(np.float64).mean()
    # A density over [0, 1)^D needs D log(levels) nats more to describe the integers.
    constant = NUM_PIXELS * np.log(LEVELS) if view == "continuous" else 0.0
    bits = (constant - log_px) / np.log(2) / NUM_PIXELS
    assert row["view"] == view
    assert row["log_px"] == pytest.approx(log_px)
    if view == "binary":
        assert row["unit"] == "nats"
        assert row["score"] == pytest.approx(-log_px)
        assert row["bits_per_dim"] is None
        assert row["bits_per_dim_se"] is None
        assert (row["binarization"], row["binarization_seed"]) == ("dynamic", "")
        fixed = dataclasses.replace(data, binarization="static")
        row = row_of(likelihood, fixed, evaluation)
        assert (row["binarization"], row["binarization_seed"]) == ("static", 7)
    else:
        assert row["unit"] == "bits/dim"
        assert row["score"] == row["bits_per_dim"] == pytest.approx(bits)
        assert row["score_se"] == row["bits_per_dim_se"]
        assert (row["binarization"], row["binarization_seed"]) == ("", "")
    reconstruction = evaluation.estimate.reconstruction.astype(np.float64).mean()
    assert row["distortion"] == pytest.approx(constant - reconstruction)
    assert row["rate"] == row["kl"]


@pytest.mark.parametrize("likelihood", VIEWS)
def test_standard_errors_are_those_of_a_mean_over_images(likelihood, data, evaluation):
    row = row_of(likelihood, data, evaluation)
    estimate = evaluation.estimate
    log_px = estimate.log_px.astype(np.float64)
    error = np.sqrt(
        ((log_px - log_px.mean()) ** 2).sum() / (NUM_IMAGES - 1) / NUM_IMAGES
    )
    nats_per_unit = 1 if likelihood == "bernoulli" else NUM_PIXELS * np.log(2)
    assert row["log_px_se"] == pytest.approx(error)
    assert row["score_se"] == pytest.approx(error / nats_per_unit)
    elbo = (estimate.reconstruction - estimate.kl).astype(np.float64)
    assert row["elbo"] == pytest.approx(elbo.mean())
    assert row["elbo_se"] == pytest.approx(elbo.std(ddof=1) / np.sqrt(NUM_IMAGES))


def test_one_test_image_has_no_standard_error(data, evaluation):
    one = Evaluation(
        jax.tree.map(lambda field: field[:1], evaluation.estimate),
        evaluation.squared_error[:1],
        evaluation.posterior_mean[:1],
    )
    row = row_of("laplace", data, one)
    assert np.isnan(row["score_se"])
    assert np.isfinite(row["score"])


def test_a_status_says_what_ended_the_training_and_no_more(data, evaluation):
    assert row_of("categorical", data, evaluation)["status"] == "schedule ended"
    # Before the last epoch, only patience ends a run that is finite.
    stopped = row_of("categorical", data, evaluation, epochs=7)
    assert (stopped["status"], stopped["epochs"]) == ("patience ended", 7)


def described(evaluation, log_px):
    """Returns the evaluation of a model with these log p(x) of test images, nats."""
    log_px = np.asarray(log_px, np.float32)
    return evaluation._replace(estimate=evaluation.estimate._replace(log_px=log_px))


# Of NUM_IMAGES: mean 0, and a standard error of 1.
NOISE = np.random.default_rng(2).normal(size=NUM_IMAGES)
NOISE = (NOISE - NOISE.mean()) / NOISE.std(ddof=1) * np.sqrt(NUM_IMAGES)


@pytest.mark.parametrize(
    ("excess", "status"),
    [
        (-5.0, "schedule ended"),
        (0.0, "schedule ended"),
        (1.9, "schedule ended"),
        (2.1, "failed"),
        (500.0, "failed"),
    ],
)
@pytest.mark.parametrize("likelihood", VIEWS)
@pytest.mark.parametrize("guess", ["constant output", "uniform"])
def test_a_model_worse_than_one_that_learned_nothing_failed(
    likelihood, guess, excess, status, data, evaluation
):
    """It is worse by more than two standard errors, which are paired over images."""
    if guess == "uniform":
        values = {"binary": 2, "levels": LEVELS, "continuous": 1}[VIEWS[likelihood]]
        reached, floor = np.full(NUM_IMAGES, NUM_PIXELS * np.log(values)), UNKNOWN
    else:  # Images differ far more than the two models do on them.
        floor = reached = np.linspace(-20, 10, NUM_IMAGES).astype(np.float32)
    found = described(evaluation, -(reached + NOISE + excess))
    row = row_of(likelihood, data, found, floor=floor, epochs=None)
    assert row["status"] == status
    # A model worse than one that learned nothing says so, for any end of its training.
    stopped = row_of(likelihood, data, found, floor=floor, epochs=7)
    assert (stopped["status"] == "failed") == (status == "failed")


@pytest.mark.parametrize(
    ("excess", "status"),
    [
        (-0.6, "schedule ended"),
        (0.003, "schedule ended"),
        (0.6, "schedule ended"),
        (0.8, "failed"),
    ],
)
@pytest.mark.parametrize("floor", [30.0, 90.0], ids=["useful", "worse than a guess"])
def test_a_model_that_equals_its_constant_output_collapsed_and_did_not_fail(
    floor, excess, status, data, evaluation
):
    """It is equal within one bit, the resolution of the verdict, at any error."""
    floor = np.linspace(floor, floor + 10, NUM_IMAGES).astype(np.float32)
    found = described(evaluation, -(floor + NOISE / 1000 + excess))
    assert row_of("categorical", data, found, floor=floor)["status"] == status


@pytest.mark.parametrize("likelihood", VIEWS)
@pytest.mark.parametrize(
    ("times", "status"), [(1.5, "schedule ended"), (3.0, "failed")]
)
def test_one_image_that_makes_the_standard_error_hides_no_failure(
    likelihood, times, status, data, evaluation
):
    """Its excess is the mean, and nearly the whole error."""
    values = {"binary": 2, "levels": LEVELS, "continuous": 1}[VIEWS[likelihood]]
    guess = NUM_PIXELS * np.log(LEVELS if VIEWS[likelihood] != "binary" else 2)
    reached = np.full(NUM_IMAGES, NUM_PIXELS * np.log(values))
    reached[0] += (times - 1) * guess * NUM_IMAGES
    found = described(evaluation, -reached)
    assert row_of(likelihood, data, found, floor=UNKNOWN)["status"] == status


def test_a_failure_is_not_told_from_one_test_image(data, evaluation):
    one = Evaluation(
        jax.tree.map(lambda field: field[:1], evaluation.estimate),
        evaluation.squared_error[:1],
        evaluation.posterior_mean[:1],
    )
    row = row_of("categorical", data, described(one, [-1e4]), floor=np.zeros(1))
    assert row["status"] == "schedule ended"


def test_a_run_without_parameters_has_no_active_units(data, evaluation):
    """They are None and not 0, which a mean over seeds would count as collapsed."""
    lost = evaluation._replace(
        posterior_mean=np.full_like(evaluation.posterior_mean, np.nan)
    )
    row = row_of("laplace", data, lost)
    assert np.isnan(row["active_units"])
    assert row["active_by_layer"] == ""


@pytest.mark.parametrize("value", [np.nan, -np.inf])
@pytest.mark.parametrize("part", ["reconstruction", "log_px"])
def test_a_diverged_run_is_called_so(data, evaluation, part, value):
    broken = evaluation.estimate._replace(
        **{part: np.full(NUM_IMAGES, value, np.float32)}
    )
    with np.errstate(invalid="ignore"):
        row = row_of("laplace", data, evaluation._replace(estimate=broken))
    assert row["status"] == "diverged"


# --- printed tables -------------------------------------------------------------------


def printed(rows, config=None):
    with progress.CONSOLE.capture() as capture:
        print_results(rows, config)
    return capture.get()


def lines_with(text, *words):
    return [line for line in text.splitlines() if all(word in line for word in words)]


def table_rows(**axes):
    """Returns rows of three likelihoods, two latent sizes and two seeds."""
    best = {"bernoulli": 20.0, "laplace": 3.0, "beta": 2.0}
    axes = {"likelihood": tuple(best), "latent_dim": (2, 10), **axes, "seed": (0, 1)}

    def score(likelihood, latent_dim, seed, **others):
        return best[likelihood] + 1 / latent_dim + seed / 10

    return product(score, **axes)


def test_means_leave_out_what_diverged():
    rows = [row for row in table_rows() if row["likelihood"] != "bernoulli"]
    for row in rows:
        if (row["likelihood"], row["latent_dim"]) == ("beta", 2):
            row |= {"score": float("nan"), "status": "diverged"}
        if row["run"] == "likelihood=beta,latent_dim=10,seed=0":
            row |= {"score": 80.0, "status": "failed"}
    first, second, *lines = printed(rows).splitlines()
    meaning = "(worse by more than two standard errors than a constant output, or than"
    assert first.startswith(f"warning: 1 of 8 models failed {meaning}")
    assert first.endswith(": likelihood=beta,latent_dim=10,seed=0")
    assert second.startswith("warning: 2 of 8 models diverged (no finite score): ")
    beta, laplace = (
        next(i for i, line in enumerate(lines) if name in line)
        for name in ("beta", "Laplace")
    )
    assert lines[beta].split() == ["beta", "2", "diverged", "2.200", "(1", "failed)"]
    assert laplace < beta  # No mean that lacks a seed is first, as 2.2 is one.
    assert lines[laplace].rstrip().endswith("*3.150 ±0.071")
    assert "means leave out runs that failed or diverged" in lines[-1]
    assert "* lowest score where no seed is missing" in lines[-1]


@pytest.mark.parametrize("likelihood", VIEWS)
def test_a_row_is_printed_as_it_was_measured(likelihood, data, evaluation):
    text = printed([row_of(likelihood, data, evaluation)])
    assert "left out of the report" not in text
    assert any(line.split()[:1] == [likelihood] for line in text.lower().splitlines())


def test_units_are_never_in_one_table():
    text = printed(table_rows())
    tables = text.split("-log p(x)")[1:]
    assert len(tables) == 2
    bits, nats = tables
    assert "bits/dim" in bits
    assert "Bernoulli" not in bits
    assert "nats" in nats
    assert "Laplace" not in nats


def test_cells_are_means_and_spreads_over_seeds_best_first():
    text = printed(table_rows())
    (line,) = lines_with(text, "Laplace")
    # Seeds give 3.5 and 3.6, then 3.1 and 3.2: the deviation is 0.1 / sqrt(2).
    assert line.split() == ["Laplace", "†", "3.550", "±0.071", "3.150", "±0.071"]
    assert text.count("*") == 2 * 2  # A mark and its meaning for each table.
    assert lines_with(text, "beta", "*2.150 ±0.071")
    assert "± standard deviation over 2 seeds" in text
    assert "standard error over 297 test images" in printed(table_rows()[::2])
    assert text.index("beta") < text.index("Laplace")
    assert re.search(r"latent size *\n *likelihood +2 +10 *\n", text)


def test_sweeps_of_another_field_have_rows_of_their_own():
    text = printed(table_rows(beta=(1.0, 4.0)))
    assert len(lines_with(text, "Laplace")) == 2
    assert lines_with(text, "Laplace † ", " 4.0 ", " 3.550 ±0.071 ")


def test_other_axes_make_rows_and_columns():
    rows = product(
        lambda posterior, prior: 3 - 0.5 * (posterior == "iaf") + (prior == "vamp"),
        posterior=("diagonal", "iaf"),
        prior=("standard_normal", "vamp"),
    )
    _, _, above, header, _, *lines = printed(rows).splitlines()
    assert above.split() == ["prior"]
    assert header.split() == ["likelihood", "posterior", "standard", "normal", "vamp"]
    assert [line.split()[:3] for line in lines[:2]] == [
        ["categorical", "iaf", "*2.500"],
        ["categorical", "diagonal", "3.000"],
    ]


def test_what_was_not_trained_or_diverged_is_shown_as_such():
    rows = table_rows()[4:8] + table_rows()[10:]
    rows += [
        {**row, "likelihood": "gauss", "run": "model", "score": np.nan}
        | {"status": "diverged"}
        for row in rows[-1:]
    ]
    text = printed(rows)
    (missing,) = lines_with(text, "beta")
    assert missing.split() == ["beta", "*2.150", "±0.071"]
    (diverged,) = lines_with(text, "gauss ")
    assert "diverged" in diverged
    assert text.index("beta") < text.index("gauss")


def told(rows):
    """Returns the output about a group with these rows."""
    run = grid.expand(digits.get_config("tiny").to_dict())[0]
    groups = grid.group([run])
    with progress.CONSOLE.capture() as capture, progress.Progress(groups) as whole:
        shown = progress.GroupProgress(whole, groups[0])
        shown.advance(5, np.array([-3.0, -np.inf]))
        shown.finish(rows, 1.25)
    return capture.get()


def test_a_finished_group_is_told_in_one_line():
    rows = [{**row, "epochs": 10} for row in table_rows()[8:10]]
    assert lines_with(told(rows), "[1/1]", "2 models, 10 epochs", "lowest score 2.500")
    rows[0]["epochs"] = 5
    assert lines_with(told(rows), "2 models, 5-10 epochs")
    assert lines_with(told(rows[1:]), "1 model, 10 epochs")


@pytest.mark.parametrize(("status", "score"), [("diverged", np.nan), ("failed", 1.0)])
def test_a_model_that_came_to_nothing_is_named_and_not_the_lowest(status, score):
    rows = [{**row, "epochs": 10} for row in table_rows()[8:10]]
    rows[0] |= {"score": score, "status": status}
    assert f"; 1 {status}, lowest score 2.600" in told(rows)
    rows[1] |= {"score": score, "status": status}
    (line,) = lines_with(told(rows), "[1/1]")
    assert line.endswith(f"; 2 {status}")


def test_a_group_of_which_every_run_failed_is_told():
    assert lines_with(told([]), "[1/1] bernoulli: no model finished", "start again")


@pytest.mark.parametrize(
    ("changes", "warning"),
    [
        ({}, None),
        ({"num_epochs": (40, 150)}, None),
        ({"num_epochs": (150, 10, 20)}, "10: β ends at 0.25 of its value"),
        ({"num_epochs": 10, "capacity": 5.0}, "10: the capacity ends at 0.25 of its"),
    ],
)
def test_a_warm_up_longer_than_the_training_is_told_in_one_line(data, changes, warning):
    config = digits.get_config().to_dict()
    config["sweep"] = changes
    with progress.CONSOLE.capture() as capture:
        progress.announce(data, grid.expand(config))
    first, *others = capture.get().splitlines()
    assert first == data.describe()
    if warning is None:
        assert others == []
        return
    (line,) = others
    assert f"training.kl_warmup_epochs is 40 of num_epochs {warning}" in line
    assert line.endswith(". Set it to at most 10.")


def test_an_average_over_more_steps_than_there_are_is_told_in_one_line(data):
    config = digits.get_config().to_dict()
    config["training"] |= {"kl_warmup_epochs": 0, "batch_size": 8, "num_epochs": 20}
    lines = []
    for ema in (0.0, 0.99, (0.99, 0.999)):  # Training has 100 steps.
        config["sweep"] = {"ema": ema}
        with progress.CONSOLE.capture() as capture:
            progress.announce(data, grid.expand(config))
        lines.append(capture.get().splitlines()[1:])
    assert lines[:2] == [[], []]
    ((line,),) = lines[2:]
    assert "training.ema is 0.999: its average is over about the last 1,000" in line
    assert "the training has 100: it is close to the mean" in line


def photographs(side):
    """Returns noise with the mean intensity of a photograph."""
    images = np.random.default_rng(0).integers(0, 256, (8, side, side, 3), np.uint8)
    split = Split(images, None)
    return ImageData("noise", 256, split, split, split, "dynamic")


def told_of_learning_rate(images, **training):
    config = digits.get_config().to_dict()
    config["sweep"] = {"likelihood": ("discretized_logistic",)}
    config["training"] |= training
    with progress.CONSOLE.capture() as capture:
        progress.announce(images, grid.expand(config))
    return capture.get().splitlines()[1:]


def test_a_learning_rate_too_large_for_so_many_pixels_is_told_with_one_that_is_not(
    data,
):
    (line,) = told_of_learning_rate(photographs(64))
    assert "training.learning_rate is 0.003" in line
    remedy = re.search(r"Set it to at most ([\d.]+)\.$", line)
    assert told_of_learning_rate(photographs(64), learning_rate=float(remedy[1])) == []
    assert told_of_learning_rate(photographs(32)) == told_of_learning_rate(data) == []
