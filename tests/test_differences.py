"""Tests of experiments.report.pairs and differences: two selections, compared."""

import math

import numpy as np
import pytest
import scipy.stats

from configs import digits
from experiments.report.differences import MEAN, compare_sides
from experiments.report.pairs import Side
from experiments.settings.fingerprint import fingerprints
from experiments.settings.grid import expand
from tests.folders import IMAGES, opened, refusal, save_member

VIEWS = {"bernoulli": "binary", "laplace": "continuous"}
LIKELIHOODS = ("bernoulli", "categorical", "laplace")
N, D, LEVELS = 40, 4, 17


def write_run(path, sweep, images=IMAGES, without=(), **fields):
    """Makes a folder of finished runs, and returns their arrays by name.

    Args:
        path: of the folder.
        sweep: its grid.
        images: fingerprint of its images.
        without: names of runs that are not finished.
        **fields: of the configuration's training.
    """
    config = digits.get_config("tiny").to_dict()
    config["sweep"] = sweep
    config["training"] |= fields
    runs = expand(config)
    folder = opened(path, config, fingerprints(runs, images), images)
    rng = np.random.default_rng(0)
    stored = {}
    for run in runs:
        model = run.settings.model
        stored[run.name] = {
            "test/log_px": rng.normal(-90 - model.latent_dim, 3, N),
            "test/elbo": rng.normal(-95, 3, N),
            "picture/originals": np.zeros((1, 2, 2, 1), np.uint8),
            "picture/levels": np.int32(LEVELS),
        }
        if run.name not in without:
            save_run(folder, run, stored[run.name])
    folder.close()
    return stored


def save_run(folder, run, arrays, **fields):
    model = run.settings.model
    view = VIEWS.get(model.likelihood, "levels")
    own = {
        "likelihood": model.likelihood,
        "latent_dim": model.latent_dim,
        "seed": run.settings.seed,
        "view": view,
        "unit": "nats" if view == "binary" else "bits/dim",
        "num_test_images": N,
        "num_importance_samples": 50,
    }
    save_member(folder, run.name, arrays=arrays, **{**own, **fields})


def sides(path, a, b, other=None):
    return Side.open("A", a, path), Side.open("B", b, other or path)


def compared(path, a, b, *, measure="log_px", other=None):
    """Returns the only result, and the lines on what is left out."""
    left_out = []
    (result,) = compare_sides(sides(path, a, b, other), measure, left_out.append)
    return result, left_out


SWEEP = {"likelihood": LIKELIHOODS, "latent_dim": (2, 8), "seed": (0, 1, 2)}
UNFINISHED = "likelihood=laplace,latent_dim=8,seed=2"


@pytest.fixture(scope="module")
def stored(tmp_path_factory):
    """Returns a finished sweep, but for one run: its folder, and arrays by run."""
    path = tmp_path_factory.mktemp("pairs")
    return path, write_run(path, SWEEP, without=[UNFINISHED])


def bits(arrays, measure="log_px", *, is_density):
    """Returns −log2 p(x) of each image per pixel, from its definition."""
    log_px = arrays[f"test/{measure}"] - is_density * D * math.log(LEVELS)
    return -log_px / D / math.log(2)


def reference(first, second):
    """Returns difference, standard error and t; ``[seeds, images]`` each."""
    ahead = np.array(second) - np.array(first)
    seeds, images = ahead.shape
    variance = np.var([ahead[:, i].mean() for i in range(images)], ddof=1) / images
    if seeds > 1:
        variance += np.var([ahead[s].mean() for s in range(seeds)], ddof=1) / seeds
    return ahead.mean(), variance**0.5, abs(ahead.mean()) / variance**0.5


def test_numbers_are_those_of_the_definition(stored):
    path, arrays = stored
    result, left_out = compared(path, "likelihood=categorical", "likelihood=laplace")
    assert left_out == [
        f"1 run of B left out with the partner, not finished: {UNFINISHED}."
    ]
    assert (result.unit, len(result.lines)) == ("bits/dim", 3)
    scores = {}
    for line, row, size, seeds in zip(
        result.lines, result.rows(), (2, 8), ((0, 1, 2), (0, 1)), strict=False
    ):
        a, b = scores[size] = [
            [
                bits(
                    arrays[f"likelihood={name},latent_dim={size},seed={seed}"],
                    is_density=name == "laplace",
                )
                for seed in seeds
            ]
            for name in ("categorical", "laplace")
        ]
        difference, error, t = reference(a, b)
        assert line.setting == row["setting"] == f"latent_dim={size}"
        assert row["difference"] == pytest.approx(difference, rel=1e-12)
        assert row["difference_se"] == pytest.approx(error, rel=1e-12)
        assert row["score_a"] == pytest.approx(np.mean(a), rel=1e-12)
        assert row["score_b"] == pytest.approx(np.mean(b), rel=1e-12)
        # Two settings are tested.
        chance = 2 * scipy.stats.t.sf(t, len(seeds) - 1)
        assert row["is_clear"] == (chance < 0.05 / 2)
        assert (row["num_seeds"], row["num_images"]) == (len(seeds), N)
    mean = result.rows()[-1]
    a, b = ((np.array(scores[2][i])[:2] + np.array(scores[8][i])) / 2 for i in range(2))
    difference, error, t = reference(a, b)
    assert (mean["setting"], mean["num_seeds"]) == (MEAN, 2)
    assert mean["difference"] == pytest.approx(difference, rel=1e-12)
    assert mean["difference_se"] == pytest.approx(error, rel=1e-12)
    assert mean["is_clear"] == (2 * scipy.stats.t.sf(t, 1) < 0.05)


def test_each_unit_has_a_result_and_b_with_a_gives_the_opposite(stored):
    path, _ = stored
    names = "latent_dim=2", "latent_dim=8"
    results, opposite = (
        compare_sides(sides(path, *order), "log_px", str)
        for order in (names, names[::-1])
    )
    assert [result.unit for result in results] == ["nats", "bits/dim"]
    for one, other in zip(results, opposite, strict=True):
        for row, mirrored in zip(one.rows(), other.rows(), strict=True):
            assert row["difference"] == -mirrored["difference"]
            assert row["is_clear"] == mirrored["is_clear"]
    mean = [" on average" * (len(result.lines) > 1) for result in results]
    assert mean == ["", " on average"]
    for one, other, over in zip(results, opposite, mean, strict=True):
        assert f"log p(x) of A is higher{over} by" in one.statement(3)
        assert f"log p(x) of A is lower{over} by" in other.statement(3)


def test_one_seed_speaks_of_two_trained_models_alone(stored):
    path, arrays = stored
    names = [f"likelihood=bernoulli,latent_dim={size},seed=1" for size in (2, 8)]
    for measure, what in (("log_px", "log p(x)"), ("elbo", "The ELBO")):
        result, left_out = compared(path, *names, measure=measure)
        a, b = ([-arrays[name][f"test/{measure}"]] for name in names)
        difference, error, t = reference(a, b)
        (row,) = result.rows()
        assert not left_out
        assert (row["setting"], row["unit"], row["num_seeds"]) == ("", "nats", 1)
        assert row["difference"] == pytest.approx(difference, rel=1e-12)
        assert row["difference_se"] == pytest.approx(error, rel=1e-12)
        assert row["is_clear"] == (2 * scipy.stats.t.sf(t, N - 1) < 0.05)
        text = result.statement(3)
        higher = "higher" if difference > 0 else "lower"
        assert text.startswith(
            f"{what} of A is {higher} by {abs(difference):.3f} ± {error:.3f} nats per"
            f" image (standard error, paired over {N} test images and 1 seed)"
        )
        assert "these trained models alone: with one seed" in text
    # Two seeds of one setting are two trained models, too.
    seeds = [f"likelihood=bernoulli,latent_dim=2,seed={seed}" for seed in (0, 1)]
    assert "trained models alone" in compared(path, *seeds)[0].statement(3)


def test_a_worse_score_that_may_be_too_large_says_so(tmp_path):
    arrays = write_run(tmp_path, SWEEP | {"latent_dim": (2,)})
    folder = Side.open("A", "", tmp_path).folder
    for run in Side.open("A", "likelihood=laplace", tmp_path).runs:
        worse = arrays[run.name] | {"test/log_px": np.full(N, -900.0)}
        few = {"effective_sample_size": 2.0, "num_importance_samples": 5}
        save_run(folder, run, worse, **few)
    result, _ = compared(tmp_path, "likelihood=laplace", "likelihood=categorical")
    assert (
        "a clear difference (at most 5% of comparisons call one clear that is due to"
        " chance), but the score of A is an upper bound and rests on few importance"
        " weights and is estimated with fewer importance samples."
        in result.statement(3)
    )
    swapped, _ = compared(tmp_path, "likelihood=categorical", "likelihood=laplace")
    assert ", but the score of B is an upper bound and" in swapped.statement(3)


def test_runs_without_a_partner_or_a_score_are_named(stored, tmp_path):
    path, _ = stored
    result, left_out = compared(
        path, "likelihood=categorical,latent_dim=2", "likelihood=laplace"
    )
    assert [line.setting for line in result.lines] == [""]
    names = [f"likelihood=laplace,latent_dim=8,seed={seed}" for seed in range(3)]
    assert left_out == [
        f"3 runs of B left out, without a partner in A: {' '.join(names)}."
    ]
    sweep = {"likelihood": LIKELIHOODS[1:], "seed": (0, 1)}
    arrays = write_run(tmp_path, sweep)
    side = Side.open("A", "likelihood=laplace", tmp_path)
    for run in side.runs:
        save_run(side.folder, run, arrays[run.name], status="failed")
    why = refusal(compared, tmp_path, "likelihood=laplace", "likelihood=categorical")
    assert "no pair of runs with scores: 2 runs of A left out with the" in why
    assert (
        f"failed: {side.runs[0].name} {side.runs[1].name}. Choose runs that are" in why
    )


@pytest.mark.parametrize(
    ("a", "b", "words"),
    [
        ("likelihood=beta", "latent_dim=2", ["A is 'likelihood=beta': it fits none"]),
        ("latent_dim=2", "6", ["B is '6': its run likelihood=", "is in A too"]),
        (
            "likelihood=bernoulli",
            "likelihood=laplace",
            ["bits/dim of the integers and those of A in nats per binary image"],
        ),
        (
            "likelihood=categorical,seed=0",
            "likelihood=laplace,seed=1 likelihood=laplace,seed=2",
            ["no run of it has a partner in A", "Compare single runs, as in "],
        ),
    ],
)
def test_what_cannot_be_compared_is_refused(stored, a, b, words):
    path, _ = stored
    line = refusal(compared, path, a, b)
    assert all(word in line for word in words), line
    if "as in " in line:  # The remedy works.
        single = line.partition("as in ")[2].removesuffix(".").split()
        assert compared(path, *single)[0].lines


def test_folders_are_compared_if_their_images_are_the_same(stored, tmp_path):
    path, _ = stored
    sweep = SWEEP | {"likelihood": ("bernoulli",), "latent_dim": (2,)}
    write_run(tmp_path / "longer", sweep, num_epochs=77)
    a = "likelihood=bernoulli,latent_dim=2"
    result, left_out = compared(path, a, "", other=tmp_path / "longer")
    assert not left_out
    assert result.rows()[0]["num_seeds"] == 3
    write_run(tmp_path / "given", sweep | {"condition_on": ("label",)})
    line = refusal(compared, path, a, "", other=tmp_path / "given")
    assert "binary image, given the label and those of A in nats per binary image" in (
        line
    )
    write_run(tmp_path / "other", sweep, images="another")
    line = refusal(compared, path, a, "", other=tmp_path / "other")
    assert line.startswith("B is '': its test images are not those of A")


def test_equal_scores_and_damaged_ones(tmp_path):
    write_run(tmp_path, {"likelihood": ("bernoulli",), "seed": (0, 1)})
    side = Side.open("A", "", tmp_path)
    arrays = side.folder.members.arrays(side.runs[0].name)
    save_run(side.folder, side.runs[1], arrays)
    result, _ = compared(tmp_path, "0", "1")
    assert result.statement(3) == (
        "log p(x) of every test image is the same in A and B."
    )
    short = arrays | {"test/log_px": np.zeros(N - 1)}
    save_run(side.folder, side.runs[1], short)
    line = refusal(compared, tmp_path, "0", "1")
    assert "arrays.safetensors: " in line
    assert "delete" in line
