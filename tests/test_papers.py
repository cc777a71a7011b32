"""Tests of the page of published tables: what it reads from folders and writes."""

import shutil
from pathlib import Path

import jax.numpy as jnp
import pytest

from configs.papers import static_mnist
from experiments.report import papers
from experiments.runs.folder import RunFolder
from experiments.settings.fingerprint import fingerprints
from experiments.settings.grid import expand
from tests.folders import save_member

RESULT = {
    "run": "model",
    "latent_dim": 40,
    "seed": 0,
    "score": 89.5,
    "score_se": 0.25,
    "elbo": -95.125,
    "rate": 25.0,
    "active_by_layer": "17",
    "num_importance_samples": 1000,
    "epochs": 60,
    "seconds": 90.0,
    "status": "schedule ended",
    "effective_sample_size": 30.5,
    "largest_weight": 0.25,
    "importance_bias": 0.125,
    "log_px_se": 0.25,
    "last_gain": 0.125,
}

ROOT = Path(__file__).parents[1]


def page_on(kept):
    """Returns the page, and the numbers of finished and of all rows."""
    tables = papers.gather(kept)
    rows = [row for table in tables for row in table["rows"]]
    page = papers.render(tables)
    return page, sum(bool(row["obtained"]) for row in rows), len(rows)


@pytest.fixture
def run(tmp_path):
    """Puts results into a configuration's folder; returns its line of the page."""

    def put(config, scores):
        path = tmp_path / "runs" / "static_mnist" / "cpu"
        runs = expand(config)
        owners = fingerprints(runs, "0" * 64)
        folder = RunFolder.create(path, config, owners, "0" * 64, print)
        for own, score in zip(runs, scores, strict=False):
            save_member(
                folder,
                params={"w": jnp.zeros(1)},
                bits=folder.bits_depend_on,
                **RESULT | {"run": own.name, "score": score},
            )
        folder.close()
        papers.keep(tmp_path / "runs", tmp_path / "kept")
        shutil.rmtree(tmp_path / "runs")
        page, found, count = page_on(tmp_path / "kept")
        (line,) = [
            line for line in page.splitlines() if line.startswith("| VAE | 89.78")
        ]
        return line, found, count

    return put


def test_what_was_run_stands_beside_what_was_published(run):
    line, found, count = run(static_mnist.get_config("cpu").to_dict(), [89.5])
    assert found == 1 < count
    for cell in (
        "**89.50 ± 0.25**",
        "cpu",
        "95.12",
        "25.00",
        "17",
        "1000",
        "30.5",
        "60",
        "0.12",
        "1.5",
    ):
        assert f"| {cell} |" in line


def test_results_of_another_configuration_are_left_out(run, capsys):
    config = static_mnist.get_config("cpu")
    epochs = config.training.num_epochs
    with config.unlocked():
        config.training.num_epochs = 70
    line, found, _ = run(config.to_dict(), [89.5])
    assert "not yet run" in line
    assert found == 0
    difference = f"config.training.num_epochs is 70 there and {epochs} here"
    assert difference in capsys.readouterr().out


def test_what_was_recorded_stays_when_another_configuration_is_run(run):
    config = static_mnist.get_config("cpu")
    run(config.to_dict(), [89.5])
    with config.unlocked():
        config.training.num_epochs = 70
    line, found, _ = run(config.to_dict(), [80.0])
    assert "**89.50 ± 0.25**" in line
    assert found == 1


def test_seeds_are_averaged_with_their_spread():
    cpu = {"backend": "cpu", "num_cpus": 2}
    gpu = {"backend": "gpu", "num_devices": 1, "device_kind": "H100"}
    row = papers.summary(
        [
            {"result": RESULT, "bits_depend_on": cpu},
            {"result": RESULT | {"score": 90.5}, "bits_depend_on": gpu},
        ]
    )
    assert row["obtained"] == "90.00 ± 0.25 (2 seeds, sd 0.71)"
    assert row["active_units"] == "17, 17"
    assert row["device"] == "2 CPU cores, 1 x H100"


@pytest.mark.parametrize(
    "sign",
    [{"effective_sample_size": 9.5}, {"largest_weight": 0.6}, {"importance_bias": 0.3}],
)
def test_a_number_that_rests_on_few_weights_is_marked(sign):
    few = RESULT | sign
    recorded = {"result": few, "bits_depend_on": {"backend": "cpu", "num_cpus": 2}}
    assert papers.summary([recorded])["obtained"] == "89.50 ± 0.25 ‡"


def test_a_row_of_an_accuracy_shows_the_percent_that_is_wrong():
    cpu = {"backend": "cpu", "num_cpus": 2}
    accuracies = [
        RESULT | {"label_accuracy": value, "label_accuracy_se": 0.0025}
        for value in (0.98, 0.96)
    ]
    recorded = [{"result": each, "bits_depend_on": cpu} for each in accuracies]
    row = papers.summary(recorded, "label_accuracy")
    assert row["obtained"] == "3.00 ± 0.25 (2 seeds, sd 1.41)"


@pytest.mark.parametrize(
    ("status", "score"), [("diverged", float("nan")), ("failed", 999.0)]
)
def test_a_run_that_came_to_nothing_has_no_number(status, score):
    result = RESULT | {"status": status, "score": score}
    recorded = {"result": result, "bits_depend_on": {"backend": "cpu", "num_cpus": 2}}
    row = papers.summary([recorded])
    assert (row["obtained"], row["rate"], row["active_units"]) == (status, "–", "–")


def test_seeds_that_came_to_nothing_are_counted():
    lost = RESULT | {"status": "diverged", "score": float("nan")}
    failed = RESULT | {"status": "failed", "score": 999.0}
    facts = {"backend": "cpu", "num_cpus": 2}
    recorded = [
        {"result": result, "bits_depend_on": facts}
        for result in (RESULT, lost, RESULT, failed)
    ]
    row = papers.summary(recorded)
    assert row["obtained"] == "failed (1 of 4 seeds), diverged (1 of 4 seeds)"
    assert (row["negative_elbo"], row["active_units"]) == ("95.12", "17, 17")


def test_a_damaged_run_folder_is_left_out(tmp_path, capsys):
    path = tmp_path / "static_mnist" / "cpu"
    config = static_mnist.get_config("cpu").to_dict()
    owners = fingerprints(expand(config), "0" * 64)
    RunFolder.create(path, config, owners, "0" * 64, print).close()
    (path / "config.json").write_text("{")
    papers.keep(tmp_path, tmp_path / "kept")
    assert f"{path} is left out: cannot read {path}" in (
        capsys.readouterr().out.replace("\n", "")
    )
    assert not (tmp_path / "kept").exists()


def test_the_committed_page_says_what_the_committed_records_say():
    tables = papers.gather(ROOT / "docs" / "results")
    page = (ROOT / "docs" / "results.md").read_text()
    remedy = "run: python -m experiments.papers"
    assert page == papers.render(tables), remedy


def test_rows_that_were_not_run_say_so(tmp_path):
    page, found, count = page_on(tmp_path)
    assert found == 0
    assert page.count("not yet run") == count >= 25
