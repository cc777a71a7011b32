"""Tests of the command lines, end to end.

Every command is a process of its own, forked from a server that has imported JAX but
not used it, so the tests run the real command line as fast as a function call.
"""

import contextlib
import csv
import fcntl
import json
import multiprocessing
import os
import re
import runpy
import shlex
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np
import pytest
import safetensors.numpy

from experiments import load
from experiments.data.images import load_data
from experiments.evaluation.columns import BY_SECTION, TABLES
from experiments.evaluation.status import LOST
from experiments.files.writing import write_atomically
from experiments.messages.errors import FolderError
from experiments.report.members import likelihood_label
from experiments.runner import programs
from experiments.runs.folder import RunFolder
from experiments.settings import grid
from experiments.settings.fingerprint import fingerprints
from tests.commands import COMMANDS
from tests.folders import refusal
from tests.test_training import assert_same

ROOT = Path(__file__).parents[1]
TINY = "--config=configs/digits.py:tiny"
SMALL = """
import runpy

def get_config():
    config = runpy.run_path("configs/digits.py")["get_config"]("tiny")
    config.data.num_train = 100
    config.data.num_validation = 50
    config.model.widths = (8,)
    config.training.batch_size = 50
    config.training.num_epochs = 2
    config.training.kl_warmup_epochs = 1
    config.training.validate_every = 1
    config.evaluation.num_samples = 16
    config.evaluation.chunk = 8
    config.sweep.likelihood = ("bernoulli", "laplace")
    config.sweep.latent_dim = (1, 2)
    return config
"""
RUNS = [
    f"likelihood={likelihood},latent_dim={size},seed={seed}"
    for likelihood in ("bernoulli", "laplace")
    for size in (1, 2)
    for seed in (0, 1)
]

_SERVER = multiprocessing.get_context("forkserver")
_SERVER.set_forkserver_preload(
    [
        "experiments.command_line",
        "experiments.launch.sweeps",
        "experiments.report.page",
        "experiments.report.terminal",
        "experiments.runner.reevaluation",
        "experiments.settings.configuration",
        "scipy.optimize",
        "scipy.stats",
    ]
)


class Outcome(NamedTuple):
    """The result of a command."""

    status: int | None
    stdout: str
    stderr: str


def _child(module, arguments, output, cache):
    import jax

    jax.config.update("jax_compilation_cache_dir", cache)
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    for descriptor, name in ((1, "stdout"), (2, "stderr")):
        file = os.open(output / name, os.O_CREAT | os.O_TRUNC | os.O_WRONLY)
        os.dup2(file, descriptor)
    os.chdir(ROOT)
    sys.argv = [f"{module}.py", *arguments]
    runpy.run_module(module, run_name="__main__", alter_sys=True)


@pytest.fixture(scope="session")
def shared(tmp_path_factory):
    """Returns a folder that all workers of a test session share."""
    folder = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        folder = folder.parent
    folder = folder / "command_lines"
    folder.mkdir(exist_ok=True)
    return folder


@pytest.fixture(scope="session")
def command(tmp_path_factory, shared):
    """Returns a function that runs a command of experiments and says how it ended."""
    output = tmp_path_factory.mktemp("output")
    compiled = str(shared / "compiled")

    def run(name, *arguments, cache=compiled):
        arguments = (f"experiments.{name}", [*map(str, arguments)], output, cache)
        process = _SERVER.Process(target=_child, args=arguments)
        process.start()
        process.join(120)
        assert process.exitcode is not None, "the command hangs"
        texts = ((output / stream).read_text() for stream in ("stdout", "stderr"))
        return Outcome(process.exitcode, *texts)

    return run


@pytest.fixture(scope="session")
def small(shared):
    path = shared / "small.py"
    write_atomically(path, SMALL)
    return f"--config={path}"


@pytest.fixture(scope="session")
def finished(command, small, shared):
    """Returns the folder of a small trained sweep; tests must not write to it."""
    folder = shared / "run"
    with (shared / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # One worker trains, the others wait.
        if not (folder / "report.html").exists():
            outcome = command("sweep", small, f"--workdir={folder}")
            assert outcome.status == 0, outcome.stderr
    return folder


@pytest.fixture
def own(finished, tmp_path):
    """Returns a copy of the finished folder, which a test may change."""
    return shutil.copytree(finished, tmp_path / "own")


def contents(folder):
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def rows_of(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def metrics_of(folder):
    return {
        (row["run"], row["epoch"]): row
        for path in folder.glob("members/*/metrics.jsonl")
        for row in map(json.loads, path.read_text().splitlines())
    }


def bound(folder):
    """Opens the folder as a command that reads results does."""
    own = RunFolder.open(folder)
    own.bind(fingerprints(grid.expand(own.config()), own.images()))
    return own


def save_again(folder, run, arrays=None, **fields):
    """Stores a member with other arrays, or with changed fields of its result."""
    members = folder.members
    parts = arrays or members.arrays(run), members.bits_depend_on(run)
    members.save(run, members.params(run), members.result(run) | fields, *parts)


# Facts of a result that hold for one machine at one time.
def numbers(row):
    return {name: value for name, value in row.items() if name != "seconds"}


def assert_same_members(folder, other, names):
    for name in names:
        for file in ("params.safetensors", "result.json"):
            first, second = (
                (path / "members" / name / file).read_bytes()
                for path in (folder, other)
            )
            if file == "result.json":
                first, second = (numbers(json.loads(text)) for text in (first, second))
            assert first == second, (name, file)


# --- a sweep --------------------------------------------------------------------------


def test_a_sweep_leaves_all_it_promises(finished):
    files = contents(finished)
    for name in ("config.json", "environment.json", "report.html"):
        assert files[name]
    for run in RUNS:
        for name in ("params.safetensors", "arrays.safetensors", "metrics.jsonl"):
            assert files[f"members/{run}/{name}"]
        assert json.loads(files[f"members/{run}/result.json"])["run"] == run
        assert any(name.startswith(f"tensorboard/{run}/events.") for name in files)
        for picture in ("reconstructions", "samples", "traversals", "interpolations"):
            content = files[f"figures/{run}/{picture}.png"]
            assert content.startswith(b"\x89PNG")
        two = "latent_dim=2" in run
        assert (f"figures/{run}/manifold.png" in files) == two
        assert (f"figures/{run}/latents.png" in files) == two
    assert [row["run"] for row in rows_of(finished / "results.csv")] == RUNS
    assert not [name for name in files if name.startswith("checkpoints/")]
    hidden = {name for name in files if Path(name).name.startswith(".")}
    locks = {".lock", ".tables.lock", *(f"members/{run}/.lock" for run in RUNS)}
    assert hidden == locks
    assert all(name in files["report.html"] for name in (b"bernoulli", b"laplace"))


def test_the_example_of_a_stored_model_runs(finished):
    page = (ROOT / "docs" / "sweeps.md").read_text()
    (example,) = re.findall(r"```python\n(.*?)```", page, re.S)
    example = example.replace("runs/sweep", str(finished))
    names: dict = {}
    exec(example.replace("latent_dim=8", "latent_dim=2"), names)
    assert names["images"].shape == (16, 8, 8)
    assert names["walk"].shape == (5, 8, 8)
    assert np.isfinite(names["scores"]).all()


@pytest.mark.parametrize("run", [RUNS[2], RUNS[4]])
def test_a_loaded_model_gives_the_numbers_of_its_row(finished, run):
    """The row's program has models of more latents, so products round differently."""
    own = load(finished, run)
    row = next(row for row in rows_of(finished / "results.csv") if row["run"] == run)
    images = load_digits_of(finished).test.images
    estimate = own.importance_estimate(images)
    found = {
        "score": own.score(images).mean(),
        "elbo": own.elbo(images).mean(dtype=float),
        "log_px": own.log_prob(images).mean(dtype=float),
        "kl": estimate.kl.mean(dtype=float),
        "effective_sample_size": np.median(estimate.effective_sample_size),
        "mean_squared_error": np.mean(((own.reconstruct(images) - images) / 16) ** 2),
    }
    for name, value in found.items():
        assert value == pytest.approx(float(row[name]), rel=2e-6), name
    assert own.unit == row["unit"]
    stored = RunFolder.open(finished)
    stored.bind(dict.fromkeys(RUNS, row["fingerprint"]))
    means = stored.members.arrays(run)["test/posterior_mean"]
    own_means = means[:, : int(row["latent_dim"])]  # The others are padding.
    np.testing.assert_allclose(own.encode(images), own_means, rtol=1e-5, atol=1e-5)


def load_digits_of(folder):
    config = json.loads((folder / "config.json").read_text())
    return load_data(grid.expand(config)[0].settings.data)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (
            {},
            "an empty choice fits 8 of 8 runs. Choose likelihood=bernoulli,latent_dim",
        ),
        ({"likelihood": "laplace"}, "likelihood=laplace fits 4 of 8 runs. Choose like"),
        ({"likelihood": "beta"}, "likelihood=beta fits 0 of 8 runs. Choose likelihood"),
        ({"likelihod": "beta"}, "likelihod is unknown (did you mean 'likelihood'?)."),
        ({"seed": "0"}, "seed is '0': it must be of type int"),
        ({"latent_dim": 9, "seed": 0}, "latent_dim=9, seed=0 fits 0 of 8 runs."),
        ({"run": 0}, "run is 0: it is no name. Give the name of a run, such as 'like"),
        ({"run": "my\nown"}, "the run my own fits 0 of 8 runs. Choose likelihood="),
        ({"run": "mine"}, "the run mine fits 0 of 8 runs. Choose likelihood=bern"),
    ],
)
def test_a_choice_that_is_not_of_one_run_is_refused(finished, given, words):
    line = refusal(load, finished, **given)
    assert line.startswith(words)


def test_one_run_is_chosen_by_its_values(finished):
    own = load(finished, likelihood="laplace", latent_dim=2, seed=1)
    assert_same(own.params, load(finished, RUNS[7]).params)


def test_a_folder_of_models_may_be_below_the_home_folder(finished, monkeypatch):
    monkeypatch.setenv("HOME", str(finished.parent))
    own = load(f"~/{finished.name}", RUNS[7])
    assert_same(own.params, load(finished, RUNS[7]).params)


def test_a_run_that_is_not_finished_is_refused(finished, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(finished, folder)
    (folder / "members" / RUNS[0] / "result.json").unlink()
    line = refusal(load, folder, RUNS[0])
    assert f"{RUNS[0]} is not finished: {folder} holds 7 finished runs of 8." in line
    with pytest.raises(FolderError, match="is not a run folder"):
        load(tmp_path)


def test_metrics_have_a_row_per_run_and_validation(finished):
    metrics = metrics_of(finished)
    assert set(metrics) == {(run, epoch) for run in RUNS for epoch in (1, 2)}
    for row in metrics.values():
        assert {"train/bound", "validation/bound", "validation/kl"} <= row.keys()
        assert all(
            np.isfinite(v) for k, v in row.items() if k not in ("run", "fingerprint")
        )


def test_events_hold_the_metrics(finished):
    from tensorboardX import proto

    run = RUNS[0]
    (path,) = (finished / "tensorboard" / run).glob("events.*")
    content, at, scalars = path.read_bytes(), 0, {}
    while at < len(content):  # length, its checksum, the event, its checksum
        size = int.from_bytes(content[at : at + 8], "little")
        event = proto.event_pb2.Event.FromString(content[at + 12 : at + 12 + size])
        scalars |= {(v.tag, event.step): v.simple_value for v in event.summary.value}
        at += size + 16
    expected = {
        (name, epoch): value
        for (owner, epoch), row in metrics_of(finished).items()
        for name, value in row.items()
        if owner == run and "/" in name
    }
    assert scalars.keys() == expected.keys()
    for name, value in expected.items():
        assert scalars[name] == pytest.approx(value, rel=1e-6)


def test_the_environment_is_told(finished):
    environment = json.loads((finished / "environment.json").read_text())
    assert {"command", "platform", "devices"} <= set(environment)
    assert {"commit", "python", "jax", "backend", "data", "device_kind"} <= set(
        environment["bits_depend_on"]
    )
    python, *arguments = shlex.split(environment["command"])
    assert (python, arguments[:2]) == ("python", ["-m", "experiments.sweep"])
    assert arguments[-1] == f"--workdir={finished}"


def test_the_same_command_again_trains_nothing(command, small, own):
    before = contents(own)
    outcome = command("sweep", small, f"--workdir={own}")
    assert outcome.status == 0, outcome.stderr
    assert "8 finished before; 0 to train" in outcome.stdout
    after = contents(own)
    assert after.keys() == before.keys()
    changed = {name for name in after if after[name] != before[name]}
    assert changed <= {"environment.json", "report.html"} | {
        name for name in after if name.endswith(".svg")
    }


def test_a_sweep_grows_by_a_grid_and_keeps_its_runs(command, small, own, tmp_path):
    kept = contents(own / "members")
    path = tmp_path / "grids.py"
    second = '{"likelihood": "gaussian_fixed", "fixed_scale": 0.2, "seed": 0}'
    grids = f"    config.sweep = (config.sweep, {second})\n    return config\n"
    path.write_text(SMALL.replace("    return config\n", grids))
    outcome = command("sweep", f"--config={path}", f"--workdir={own}")
    assert outcome.status == 0, outcome.stderr
    assert "9 runs, 8 finished before; 1 to train" in outcome.stdout
    assert contents(own / "members").items() >= kept.items()
    added = "likelihood=gaussian_fixed,fixed_scale=0.2,seed=0"
    assert [row["run"] for row in rows_of(own / "results.csv")] == [*RUNS, added]
    # Of the folder alone, which holds the grids.
    few = "--num_samples=16"
    outcome = command("evaluate", f"--workdir={own}", f"--only={added}", few)
    assert outcome.status == 0, outcome.stderr
    # With one grid, a run that is finished would be left out.
    outcome = command("sweep", small, f"--workdir={own}")
    assert_refused(outcome, "another config", "config.sweep is")


@pytest.mark.slow
def test_a_run_is_a_function_of_config_and_seed(command, small, finished, tmp_path):
    """A run compiled again, and trained with other runs, gives the same bytes."""
    folder = tmp_path / "run"
    cache = str(tmp_path / "cache")
    only = "--only=likelihood=laplace"
    outcome = command("sweep", small, f"--workdir={folder}", only, cache=cache)
    assert outcome.status == 0, outcome.stderr
    assert "4 to train in 1 program " in outcome.stdout
    chosen = [run for run in RUNS if "laplace" in run]
    assert sorted(path.name for path in (folder / "members").iterdir()) == chosen
    assert [row["run"] for row in rows_of(folder / "results.csv")] == chosen
    assert_same_members(folder, finished, chosen)
    expected = metrics_of(finished)
    metrics = metrics_of(folder)
    assert metrics == {key: row for key, row in expected.items() if key[0] in chosen}


def test_an_interrupted_sweep_trains_what_is_missing(command, small, finished, own):
    lost = [run for run in RUNS if "bernoulli" in run]
    for run in lost:
        shutil.rmtree(own / "members" / run)
    half = own / "members" / lost[0] / "metrics.jsonl"
    half.parent.mkdir()
    half.write_text('{"run": "likelihood=bern')  # the process died here
    times = {
        path: path.stat().st_mtime_ns
        for run in RUNS
        if run not in lost
        for path in (own / "members" / run).iterdir()
    }
    (own / "report.html").unlink()
    outcome = command("sweep", small, f"--workdir={own}", "--noreport")
    assert outcome.status == 0, outcome.stderr
    assert "4 finished before; 4 to train in 1 program " in outcome.stdout
    assert "report" not in outcome.stdout
    assert not (own / "report.html").exists()
    assert_same_members(own, finished, RUNS)
    assert metrics_of(own) == metrics_of(finished)
    for run in RUNS:
        path = own / "members" / run / "metrics.jsonl"
        assert len(path.read_text().splitlines()) == 2
    assert all(path.stat().st_mtime_ns == time for path, time in times.items())


@pytest.mark.slow
def test_members_split_over_devices_get_the_numbers_of_one(small, finished, tmp_path):
    """Four members of a group run on two simulated devices, in another process."""
    folder = tmp_path / "two"
    subprocess.run(
        [
            *(sys.executable, "-m", "experiments.sweep", small),
            *(f"--workdir={folder}", "--only=likelihood=laplace"),
        ],
        cwd=ROOT,
        env={
            **os.environ,
            "JAX_PLATFORMS": "cpu",
            "XLA_FLAGS": "--xla_force_host_platform_device_count=2",
        },
        check=True,
    )
    environment = json.loads((folder / "environment.json").read_text())
    assert len(environment["devices"]) == 2
    alone = [
        row for row in rows_of(finished / "results.csv") if "laplace" in row["run"]
    ]
    for one, two in zip(alone, rows_of(folder / "results.csv"), strict=True):
        assert one["run"] == two["run"]
        assert float(two["score"]) == pytest.approx(float(one["score"]), rel=1e-3)


def test_list_prints_the_runs_and_creates_nothing(command, small, tmp_path):
    folder = tmp_path / "run"
    outcome = command("sweep", small, f"--workdir={folder}", "--list")
    assert outcome.status == 0
    expected = [f"{i:4d}  {run}" for i, run in enumerate(RUNS)]
    assert outcome.stdout.splitlines() == expected
    chosen = command(
        "sweep", small, f"--workdir={folder}", "--list", "--only=latent_dim=2,seed=1 0"
    )
    assert chosen.stdout.splitlines() == [expected[i] for i in (0, 3, 7)]
    assert not folder.exists()


def test_twenty_thousand_runs_are_listed_at_once(command):
    """Quadratic time, or another check of every run, would take minutes."""
    seeds = f"--config.sweep.seed={tuple(range(385))}"
    started = time.monotonic()
    outcome = command("sweep", "--list", seeds, "--only=0-20018 seed=384")
    assert time.monotonic() - started < 20
    assert outcome.status == 0, outcome.stderr
    lines = outcome.stdout.splitlines()
    assert len(lines) == 385 * 13 * 4
    assert lines[-1].split()[0] == "20019"
    assert lines[-1].endswith(",seed=384")


def test_axes_can_be_added_on_the_command_line(command):
    outcome = command(
        "sweep", TINY, "--list", "--config.sweep.beta=1.0,4.0", "--only=beta=4.0"
    )
    assert outcome.status == 0
    assert len(outcome.stdout.splitlines()) == 8


# --- other commands -------------------------------------------------------------------


def test_train_is_a_sweep_of_one(command, small, finished, tmp_path):
    folder = tmp_path / "run"
    outcome = command(
        "train",
        small,
        f"--workdir={folder}",
        "--config.seed=1",
        "--config.model.latent_dim=1",
        "--config.model.likelihood=laplace",
    )
    assert outcome.status == 0, outcome.stderr
    (row,) = rows_of(folder / "results.csv")
    assert (row["run"], row["latent_dim"], row["seed"]) == ("model", "1", "1")
    assert (folder / "report.html").exists()
    assert json.loads((folder / "config.json").read_text())["sweep"] == {}
    # Another program than its twin's in the sweep, so the same but for rounding.
    twin = finished / "members" / "likelihood=laplace,latent_dim=1,seed=1"
    alone, together = (
        safetensors.numpy.load((path / "params.safetensors").read_bytes())
        for path in (folder / "members" / "model", twin)
    )
    assert alone.keys() == together.keys()
    for name, leaf in alone.items():
        assert leaf.shape == together[name].shape
        np.testing.assert_allclose(leaf, together[name], rtol=1e-4, atol=1e-5)


def test_a_table_of_results_has_the_columns_that_are_declared(finished):
    (row, *_) = rows_of(finished / "results.csv")
    assert list(row) == [column.name for column in TABLES["results.csv"]]


def test_evaluation_of_stored_parameters_agrees(command, finished, own):
    outcome = command("evaluate", f"--workdir={own}", "--num_samples=16")
    assert outcome.status == 0, outcome.stderr
    rows = rows_of(own / "evaluation.csv")
    assert [row["run"] for row in rows] == RUNS
    for row, trained in zip(rows, rows_of(finished / "results.csv"), strict=True):
        for name, value in trained.items():
            try:
                expected = float(value)
            except ValueError:
                assert row[name] == value, name
            else:
                assert float(row[name]) == pytest.approx(expected, rel=1e-5), name


EXPORTED = (RUNS[3], RUNS[7])  # One of each unit.


def test_an_export_holds_the_numbers_of_the_folder(command, finished, tmp_path):
    before, output = contents(finished), tmp_path / "out"
    only = f"--only={' '.join(EXPORTED)}"
    options = (f"--workdir={finished}", f"--output={output}", only)
    outcome = command("export", *options)
    assert outcome.status == 0, outcome.stderr
    files = contents(output)
    names = {"latents.npz", "scores.csv", "reconstructions.npz"}
    names |= {"encoder.jax", "decoder.jax"}
    of_runs = {f"members/{run}/{name}" for run in EXPORTED for name in names}
    figures = {
        f"figures/learning_curves_{unit}.{file_format}"
        for unit in ("binary", "integers")
        for file_format in ("pdf", "svg")
    }
    assert files.keys() == of_runs | figures | {
        *("export.json", "results.md", "results.tex"),
    }
    facts = json.loads(files["export.json"])
    trained = {row["run"]: row for row in rows_of(finished / "results.csv")}
    images = load_digits_of(finished).test
    for run in EXPORTED:
        assert facts["runs"][run] == trained[run]["fingerprint"]
        rows = rows_of(output / "members" / run / "scores.csv")
        for column in ("score", "elbo", "log_px"):
            mean = np.mean([float(row[column]) for row in rows])
            assert mean == pytest.approx(float(trained[run][column]), rel=2e-6)
        assert {row["unit"] for row in rows} == {trained[run]["unit"]}
        assert [int(row["label"]) for row in rows] == images.labels.tolist()
        latents = np.load(output / "members" / run / "latents.npz")
        np.testing.assert_array_equal(latents["labels"], images.labels)
        pictures = np.load(output / "members" / run / "reconstructions.npz")
        np.testing.assert_array_equal(pictures["images"], images.images)
        errors = (pictures["reconstructions"] - pictures["images"]) / 16
        expected = float(trained[run]["mean_squared_error"])
        assert np.mean(errors**2) == pytest.approx(expected, rel=2e-6)
        shown = trained[run]["status"]
        if shown not in LOST:
            decimals = 2 if trained[run]["unit"] == "nats" else 3
            shown = f"{float(trained[run]['score']):.{decimals}f}"
        for table in ("results.md", "results.tex"):
            assert shown.encode() in files[table]
    # The same again: a file takes the place of its like, and others stay.
    outcome = command("export", *options, "--what=tables", f"--only={EXPORTED[0]}")
    assert outcome.status == 0, outcome.stderr
    assert contents(output).keys() >= files.keys()
    assert json.loads((output / "export.json").read_text())["runs"] == facts["runs"]
    moved = tmp_path / "moved"
    shutil.copytree(finished, moved)
    outcome = command("export", f"--workdir={moved}", f"--output={output}")
    assert_refused(outcome, f"holds an export of {finished}", "as --output")
    assert contents(finished) == before


# --- the explorer ---------------------------------------------------------------------


def explored(page):
    """Returns what a page holds of the models that a reader walks through."""
    text = page.read_text()
    return json.loads(re.search(r'id="explorer-data">(.*?)</script>', text)[1])


def test_an_explorer_has_the_best_model_of_each_likelihood(command, finished, tmp_path):
    before, output = contents(finished), tmp_path / "own.html"
    for _ in range(2):  # The second page takes the place of the first.
        outcome = command("explore", f"--workdir={finished}", f"--output={output}")
        assert outcome.status == 0, outcome.stderr
    assert str(output) in outcome.stdout
    assert contents(finished) == before
    page = explored(output)
    rows = rows_of(finished / "results.csv")
    usable = {row["likelihood"] for row in rows if row["status"] not in LOST}
    shown = [own["title"].partition(" with ")[0] for own in page["models"]]
    assert sorted(shown) == sorted(map(likelihood_label, usable))
    assert page["points"]["count"] == 297
    # The report has the same.
    assert explored(finished / "report.html") == page


def test_an_explorer_has_the_runs_that_are_chosen(command, own):
    (own / "members" / RUNS[2] / "params.safetensors").write_bytes(b"damaged")
    only = f"--only={' '.join(RUNS[1:4])}"
    outcome = command("explore", f"--workdir={own}", only)
    assert outcome.status == 3
    lines = " ".join(outcome.stdout.split())
    assert f"{RUNS[2]} is left out: cannot read the arrays in" in lines
    names = [each["title"] for each in explored(own / "explorer.html")["models"]]
    assert names == [RUNS[1], RUNS[3]]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--megabytes=0"], ["has no model to explore", "has room for 0.0 MB"]),
        (["--megabytes=0"], ["experiments.explore makes a larger one by --megabytes"]),
        (["--megabytes=-1"], ["--megabytes", "non-negative"]),
        (["--megabytes=nan"], ["--megabytes is nan: it must be a number. Give one"]),
        (["--megabytes=inf"], ["--megabytes is inf: it must be a number. Give one"]),
        (["--only=beta"], ["--only", "beta"]),
        (["--data_path=x"], ["data_path"]),
        (["--output=/dev/null/x.html"], ["/dev/null"]),
    ],
)
def test_what_cannot_be_explored_is_refused(command, own, options, words):
    before = contents(own)
    assert_refused(command("explore", f"--workdir={own}", *options), *words)
    assert contents(own) == before


@pytest.mark.parametrize("name", ["config.json", "report.html", "members"])
def test_an_explorer_takes_the_place_of_an_explorer_alone(command, own, name):
    before = contents(own)
    options = f"--workdir={own}", f"--output={own / name}"
    words = "it holds something else than such a page. Choose a new file."
    assert_refused(command("explore", *options), "--output is", words)
    assert contents(own) == before


def test_images_of_ones_own_are_scored(command, finished, tmp_path):
    own, digits = tmp_path / "mine.npz", load_digits_of(finished).test.images[:3]
    np.savez(own, images=digits[..., 0].astype(np.int64), labels=["-1", "=b", "+1"])
    run, output = EXPORTED[0], tmp_path / "out"
    options = (f"--workdir={finished}", f"--only={run}", "--what=arrays")
    outcome = command("export", *options, f"--images={own}", f"--output={output}")
    assert outcome.status == 0, outcome.stderr
    rows = rows_of(output / "members" / run / "scores.csv")
    assert [row["label"] for row in rows] == ["-1", "_b", "+1"]
    score = [float(row["score"]) for row in rows]
    np.testing.assert_allclose(score, load(finished, run).score(digits), rtol=1e-6)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--what=table"], ["--what is 'table'", "did you mean 'tables'"]),
        (["--what="], ["--what is ''", "Choose one of tables"]),
        (["--platforms=gpu"], ["--platforms is 'gpu'", "Choose 'cuda' for those of"]),
        (["--platforms=cdua"], ["--platforms is 'cdua'", "did you mean 'cuda'"]),
        (["--what=tables", "--style=x"], ["--style has no effect without figures"]),
        (["--images=x.npy", "--split=test"], ["--split has no effect with --images"]),
        (["--images=x.npy"], ["--images is 'x.npy': there is no such file"]),
        (["--images=SMALL"], ["--images has shape [2, 4, 4]", "[8, 8, 1]"]),
        (["--images=BRIGHT"], ["--images has values from 17 to 17", "0 ... 16"]),
        (["--images=OTHER"], ["it holds ['pictures']", "an npz file of 'images'"]),
        (["--images=TEXT"], ["cannot be read", "Give a .npy file"]),
        (["--style=TEXT"], ["--style is", "Missing colon"]),
        (["--output=USED"], ["holds 'notes.txt' and no export.json"]),
        (["--output=TEXT"], ["TEXT", "Not a directory"]),
        (["--only=0 1"], ["no finished run of the 2 chosen"]),
        (["--only=2", "--what=arrays"], ["cannot read the arrays", "params.safete"]),
    ],
)
def test_what_cannot_be_exported_is_refused(command, own, tmp_path, options, words):
    for run in RUNS[:2]:
        (own / "members" / run / "result.json").unlink()
    (own / "members" / RUNS[2] / "params.safetensors").write_bytes(b"damaged")
    np.save(tmp_path / "SMALL", np.zeros((2, 4, 4), int))
    np.save(tmp_path / "BRIGHT", np.full((2, 8, 8), 17))
    np.savez(tmp_path / "OTHER", pictures=np.zeros((2, 8, 8), int))
    (tmp_path / "TEXT").write_text("words")
    (tmp_path / "USED").mkdir()
    (tmp_path / "USED" / "notes.txt").touch()
    for name, suffix in (("SMALL", ".npy"), ("BRIGHT", ".npy"), ("OTHER", ".npz")):
        (tmp_path / f"{name}{suffix}").rename(tmp_path / name)
    options = [re.sub(r"=([A-Z]+)$", rf"={tmp_path}/\1", option) for option in options]
    before = contents(tmp_path)
    outcome = command("export", f"--workdir={own}", *options)
    assert_refused(outcome, *words)
    assert contents(tmp_path) == before


def test_evaluation_needs_no_more_devices_than_there_are(command, own):
    config = json.loads((own / "config.json").read_text())
    config["parallel"] |= {"members": 8, "batch": 2}
    (own / "config.json").write_text(json.dumps(config))
    outcome = command("evaluate", f"--workdir={own}", "--num_samples=16", "--only=0")
    assert outcome.status == 0, outcome.stderr


def test_evaluation_with_more_samples(command, own):
    only = "--only=likelihood=laplace,latent_dim=2"
    before = contents(own)
    outcome = command("evaluate", f"--workdir={own}", "--num_samples=64", only)
    assert outcome.status == 0, outcome.stderr
    rows = rows_of(own / "evaluation.csv")
    assert [row["run"] for row in rows] == RUNS[6:]
    for row in rows:
        assert row["num_importance_samples"] == "64"
        trained = json.loads(before[f"members/{row['run']}/result.json"])
        # More samples tighten the bound, which means a lower score.
        assert 0 < trained["score"] - float(row["score"]) < 0.5
    after = contents(own)
    del after["evaluation.csv"]
    assert after == before


def test_a_run_begun_again_is_evaluated_with_the_keys_of_its_attempt(command, own):
    folder = bound(own)
    result = folder.members.result(RUNS[0])
    save_again(folder, RUNS[0], attempt=1)
    outcome = command(
        "evaluate", f"--workdir={own}", "--num_samples=16", f"--only={RUNS[0]}"
    )
    assert outcome.status == 0, outcome.stderr
    (row,) = rows_of(own / "evaluation.csv")
    assert row["attempt"] == "1"
    difference = abs(float(row["score"]) - result["score"])
    assert 1e-3 < difference < 1  # The same model, under other noise.


def test_diverged_runs_are_not_evaluated(command, own):
    broken, sound = RUNS[0], RUNS[1]
    save_again(bound(own), broken, status="diverged")
    only = f"--only={broken} {sound}"
    outcome = command("evaluate", f"--workdir={own}", "--num_samples=4", only)
    assert outcome.status == 0, outcome.stderr
    assert [row["run"] for row in rows_of(own / "evaluation.csv")] == [sound]
    assert f"1 of 2 chosen runs left out, as they are diverged: {broken}." in (
        outcome.stdout
    )
    outcome = command(
        "evaluate", f"--workdir={own}", "--num_samples=4", f"--only={broken}"
    )
    assert outcome.status != 0
    assert f"{broken} in {own} diverged, so no model can be used" in outcome.stderr


def test_a_model_that_diverged_is_not_loaded(own):
    save_again(bound(own), RUNS[0], status="diverged")
    (own / "members" / RUNS[0] / "arrays.safetensors").unlink()  # It has none.
    line = refusal(load, own, RUNS[0])
    assert line.startswith(f"the run {RUNS[0]} has diverged: its model cannot be used")


def test_what_two_epochs_leave_worse_than_a_constant_output_failed(finished):
    folder, page = bound(finished), (finished / "report.html").read_text()
    rows = rows_of(finished / "results.csv")
    for row in rows:
        arrays = folder.members.arrays(row["run"])
        excess = -arrays["test/log_px"].astype(float) - arrays["test/floor"]
        error = excess.std(ddof=1) / len(excess) ** 0.5
        failed = excess.mean() > max(2 * error, np.log(2))
        assert row["status"] == ("failed" if failed else "schedule ended")
        assert arrays["test/floor"].mean() == pytest.approx(float(row["floor"]))
    count = [row["status"] for row in rows].count("failed")
    assert f"{count} of {len(rows)} models failed" in page
    assert 0 < count < len(rows)


def test_an_evaluation_says_what_failed(command, own):
    """Both are compared with a constant output; one has no record of it."""
    folder = bound(own)
    worse, before = RUNS[:2]
    arrays = folder.members.arrays(worse)
    floor = np.full_like(arrays["test/log_px"], -1e4)
    save_again(folder, worse, arrays={**arrays, "test/floor": floor})
    del arrays["test/floor"]
    save_again(folder, before, arrays=arrays, status="failed")
    outcome = command(
        "evaluate", f"--workdir={own}", "--num_samples=4", f"--only={worse} {before}"
    )
    assert outcome.status == 0, outcome.stderr
    rows = rows_of(own / "evaluation.csv")
    assert [row["status"] for row in rows] == ["failed", "failed"]
    assert f"2 of 2 models failed ({LOST['failed']}): {worse} {before}" in (
        outcome.stdout.replace("\n", " ")
    )


def test_rows_of_other_evaluations_stay(command, own):
    def evaluate(run, num_samples):
        outcome = command(
            "evaluate",
            f"--workdir={own}",
            f"--num_samples={num_samples}",
            f"--only={run}",
        )
        assert outcome.status == 0, outcome.stderr
        return [
            (row["run"], row["num_importance_samples"], row["score"])
            for row in rows_of(own / "evaluation.csv")
        ]

    first = evaluate(RUNS[0], 8)
    both = evaluate(RUNS[0], 4)
    assert both[0] == first[0]
    assert both[1][:2] == (RUNS[0], "4")
    assert evaluate(RUNS[0], 8) == [both[1], first[0]]


@pytest.mark.slow
def test_log_px_is_put_between_bounds_on_request(command, own):
    outcome = command(
        "evaluate",
        f"--workdir={own}",
        "--num_samples=4",
        "--only=likelihood=bernoulli,latent_dim=2,seed=0",
        "--sandwich_images=3",
        "--temperatures=3",
        "--chains=2",
        "--gap_steps=5",
    )
    assert outcome.status == 0, outcome.stderr
    (row,) = rows_of(own / "sandwich.csv")
    assert row["num_images"] == "3"
    assert list(row) == [column.name for column in TABLES["sandwich.csv"]]
    parts = ("elbo", "amortization_gap", "approximation_gap")
    assert sum(float(row[name]) for name in parts) == pytest.approx(
        float(row["annealed_log_px"]), abs=1e-3
    )
    assert "= log p(x), annealed from below" in outcome.stdout


def test_a_prior_is_fitted_on_request(command, own):
    only = "--only=likelihood=bernoulli,latent_dim=2,seed=0"
    before = contents(own)
    options = ("--num_samples=4", "--fit_prior=gaussian", "--fit_steps=300")
    outcome = command("evaluate", f"--workdir={own}", *options, only)
    assert outcome.status == 0, outcome.stderr
    (row,) = rows_of(own / "evaluation.csv")
    (fitted,) = rows_of(own / "fitted_prior.csv")
    assert list(fitted) == [column.name for column in TABLES["fitted_prior.csv"]]
    assert fitted["run"] == f"{row['run']},fitted_prior=gaussian"
    assert float(fitted["reconstruction"]) == pytest.approx(
        float(row["reconstruction"]), rel=1e-5
    )
    gain = float(fitted["elbo"]) - float(row["elbo"])
    assert float(fitted["elbo_gain"]) == pytest.approx(gain, abs=1e-4)
    assert gain > -3 * float(fitted["elbo_gain_se"])
    lines = [" ".join(line.split()) for line in outcome.stdout.splitlines()]
    assert any(line.startswith("likelihood fitted prior") for line in lines)
    assert sum("Bernoulli gaussian" in line for line in lines) == 1
    # q(z) is compared with the new prior, which is closer to it.
    marginal_kl = float(fitted["marginal_kl"])
    assert marginal_kl < float(row["marginal_kl"])
    assert marginal_kl + float(fitted["mutual_information"]) == pytest.approx(
        float(fitted["rate"]), abs=0.05
    )
    assert float(fitted["gain"]) == pytest.approx(
        float(fitted["elbo"]) + float(fitted["floor"])
    )
    own_parameters = int(fitted["num_parameters"]) - int(row["num_parameters"])
    assert own_parameters == 2 * 2  # Location and scale of each latent.
    after = contents(own)
    del after["evaluation.csv"], after["fitted_prior.csv"]
    assert after == before


def test_the_shell_sees_status_and_one_line(tmp_path):
    folder = tmp_path / "run"
    process = subprocess.run(
        [sys.executable, "-m", "experiments.sweep", f"--workdir={folder}", "--onl=1"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert process.returncode == 2
    assert process.stdout == ""
    assert process.stderr.startswith("error: Unknown command line flag 'onl'")
    assert process.stderr.count("\n") == 1
    assert not folder.exists()


@pytest.mark.parametrize("name", ["sweep", "train"])
def test_help_shows_every_option_and_commands_as_they_are_typed(command, name):
    shown = command(name, "--help").stdout
    for option in ("--config:", "--workdir:", "--[no]distributed:", "--process_id:"):
        assert f"  {option}" in shown
    assert " \\\n        --config." in shown


def test_every_program_of_the_project_is_a_command():
    folder = ROOT / "experiments"
    programs = [path.parent.name for path in folder.glob("*/__main__.py")]
    programs += [
        path.stem
        for path in folder.glob("*.py")
        if '\nif __name__ == "__main__":' in path.read_text()
    ]
    assert sorted(programs) == sorted(COMMANDS)


def test_help_imports_no_jax_and_a_list_no_plotting():
    """The first word of a command waits for no package that it does not need."""
    commands = {
        **{
            (name, "--help"): {"jax", "vae_jax", "numpy", "matplotlib"}
            for name in COMMANDS
        },
        ("sweep", "--list"): {"matplotlib", "sklearn", "tensorboardX", "torch"},
    }
    processes = {
        (name, option): subprocess.Popen(
            [sys.executable, "-X", "importtime", "-m", f"experiments.{name}", option],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for name, option in commands
    }
    for command, process in processes.items():
        shown, times = process.communicate(timeout=60)
        imported = set(re.findall(r"\| +(\w+)(?:\.[.\w]+)?$", times, re.MULTILINE))
        assert process.returncode == 0
        assert shown
        assert "experiments" in imported
        assert not imported & commands[command], command


# --- bad input ------------------------------------------------------------------------


def assert_refused(outcome, *words):
    """Asserts that the command was refused in one line, before it did anything."""
    assert outcome.status == 2, outcome
    assert outcome.stdout == ""
    assert outcome.stderr.startswith("error: ")
    assert outcome.stderr.count("\n") == 1, outcome.stderr
    for word in words:
        assert word in outcome.stderr


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--config.sweep.likelihood=bernouli"], ["'bernouli'", "'bernoulli'", "beta"]),
        (["--config.data.name=mnits"], ["'mnits'", "'mnist'", "digits"]),
        (["--config.data.name=npz"], ["data.path"]),
        (["--config.model.widhts=8"], ["model.widhts", "'widths'", "latent_dim"]),
        (["--config.modle.widths=8"], ["config.modle", "'model'", "training"]),
        (["--config.model.widths.x=8"], ["config.model.widths"]),
        (["--config.sweep.seed[0]=3"], ["seed[0]", "--config.sweep.seed=0,1"]),
        (["--config.sweep.beta.x=1"], ["beta.x", "--config.sweep.beta=1.0,2.0"]),
        (["--config.model=8"], ["--config.model.FIELD=VALUE", "widths"]),
        (["--config.model.components=many"], ["'many'", "an integer"]),
        (["--config.training.num_epochs=2.5"], ["'2.5'", "an integer"]),
        (["--config.training.beta", "high"], ["'high'", "a number"]),
        (["--config.data.download=maybe"], ["'maybe'", "true or false"]),
        (["--config.model.widths=64,a"], ["'a'", "int"]),
        (["--config.training.learning_rate=nan"], ["nan", "finite"]),
        (["--config.sweep.latent_dim=0"], ["latent_dim is 0", "at least 1"]),
        (["--config.sweep.latent_dim=two"], ["'two'", "int"]),
        (["--config.sweep.latent_dim=()"], ["empty"]),
        (["--config.sweep.seed=-1"], ["seed is -1", "at most 4294967295"]),
        (["--config.sweep.betta=1.0"], ["betta", "'beta'", "latent_dim"]),
        (["--config.model.latent_dim=3"], ["no effect", "--config.sweep.latent_dim"]),
        (["--config.seed=3"], ["no effect", "--config.sweep.seed"]),
        (["--config.training.batch_size=1301"], ["1301", "1300"]),
        (["--config.data.num_train=5000"], ["5000", "1300"]),
        (["--config.data.num_validation=1800"], ["1800", "1797"]),
        (["--workdir=~nosuchuser/x"], ["'~nosuchuser/x'", "Write the path in full"]),
        (["--config.data.cache_dir=~nosuchuser/x"], ["'~nosuchuser/x'"]),
        (["--only=seed=9"], ["'seed=9'", "such as 0-7 or likelihood=bernoulli"]),
        (["--nosuch=3"], ["'nosuch'", "--help"]),
        (["--max_jobs=2"], ["--max_jobs", "no effect without --launcher"]),
        (["--slurm=partition=gpu"], ["--slurm", "no effect without --launcher"]),
        (["--launcher=pbs"], ["pbs", "local|slurm|ray"]),
        (["--launcher=local", "--slurm=qos=low"], ["--slurm", "--launcher=slurm"]),
        (["--launcher=local", "--max_jobs=0"], ["max_jobs", "0"]),
        (["--launcher=slurm", "--slurm=gpu"], ["'gpu'", "--slurm=partition=gpu"]),
        (["--launcher=local", "--distributed"], ["--distributed", "one process"]),
        (["--launcher=ray", "--process_id=0"], ["--process_id", "one process"]),
        (["--list=maybe"], ["maybe", "--list"]),
        (["nonsense"], ["'nonsense'", "--name=value"]),
        (["configs"], ["'configs' is not understood. Write --workdir=configs."]),
    ],
)
def test_bad_options_are_refused(command, tmp_path, arguments, words):
    folder = tmp_path / "run"
    outcome = command("sweep", TINY, f"--workdir={folder}", *arguments)
    assert_refused(outcome, *words)
    assert not folder.exists()


def test_fields_before_their_configuration_are_refused(command):
    for option, name in (
        ("--config.seed=1", "--config.seed"),
        ("--noconfig.data.download", "--config.data.download"),
    ):
        outcome = command("sweep", option, TINY, "--list")
        assert_refused(outcome, f"{name} stands before", "--config=FILE first")


def test_options_may_come_from_files(command, tmp_path):
    inner, outer = tmp_path / "inner", tmp_path / "outer"
    inner.write_text(f"// a comment\n{TINY}\n\n# another\n--config.sweep.seed=3\n")
    outer.write_text(f"--flagfile={inner}\n--list\n--only\n0\n")
    for options in ([f"--flagfile={outer}"], ["-flagfile", f"{outer}", "--nolist"]):
        outcome = command("sweep", *options, "--list")
        assert outcome.status == 0, outcome.stderr
        (line,) = outcome.stdout.splitlines()
        assert line.endswith(",seed=3")
    assert_refused(
        command("sweep", f"--flagfile={outer}", "--config.s=1"), "config.s is"
    )


@pytest.mark.parametrize(
    ("write", "words"),
    [
        (lambda path: None, ["No such file"]),
        (lambda path: path.mkdir(), ["directory"]),
        (os.mkfifo, ["no regular file"]),
        (lambda path: path.symlink_to(path), ["symbolic links"]),
        (
            lambda path: path.write_text(f"--list\n--flagfile={path}"),
            ["line 2: ", "itself"],
        ),
        (lambda path: path.write_text(f"--flagfile={path}/../x"), ["--flagfile"]),
        (
            lambda path: path.write_text("--list\n\n--wrkdir=x"),
            ["options, line 3: ", "'wrkdir'", "workdir"],
        ),
        (
            lambda path: path.write_text(f"{TINY}\n--list\n--only"),
            ["options, line 3: ", "Missing value"],
        ),
        (
            lambda path: path.write_text("--list\n--list=maybe"),
            ["options, line 2: ", "maybe"],
        ),
        (
            lambda path: path.write_text("--list\nwords"),
            ["options, line 2: ", "'words'"],
        ),
        (lambda path: path.write_text("--config.model.widhts=8"), ["'widths'"]),
        (lambda path: path.write_text(f"{TINY}\n--config.seeed=8"), ["config.seeed"]),
        (lambda path: path.write_text("--only=seed=9"), ["'seed=9'"]),
        (lambda path: path.write_text("words"), ["'words'", "--name=value"]),
        (lambda path: path.write_bytes(b"\xff\xfe--list"), ["decode"]),
        (lambda path: path.write_bytes(b"--workdir=a\0b"), ["no text"]),
        (lambda path: path.write_text("#" * 1_000_001), ["at most 1,000,000"]),
    ],
)
@pytest.mark.parametrize("name", ["sweep", "papers"])
def test_bad_files_of_options_are_refused(command, tmp_path, name, write, words):
    path = tmp_path / "options"
    write(path)
    outcome = command(name, f"--flagfile={path}")
    if name == "sweep":
        assert_refused(outcome, *words)
    else:  # It has other options.
        assert_refused(outcome)


def test_a_stored_configuration_is_that_of_its_folder(command, own):
    """This also holds for a copy in another folder, except for the machine's fields."""
    change_stored(own, "data", cache_dir=f"{own}/decoded", download=True)
    before = contents(own / "members")
    stored = f"--config={own / 'config.json'}"
    outcome = command("sweep", stored, f"--workdir={own}")
    assert outcome.status == 0, outcome.stderr
    assert "8 finished before; 0 to train" in outcome.stdout
    line, *_ = outcome.stdout.splitlines()
    assert line.startswith(f"the run was made with data.cache_dir='{own}/decoded', ")
    assert contents(own / "members") == before
    assert not (own / "decoded").exists()
    listed = command("sweep", stored, "--list", "--config.sweep.seed=5")
    assert len(listed.stdout.splitlines()) == 4
    trained = ("train", stored, f"--workdir={own.parent / 'one'}")
    outcome = command(*trained, "--config.training.num_epochs=1")
    assert outcome.status == 0, outcome.stderr
    assert line in outcome.stdout.splitlines()
    # The flags that are shown work.
    remedy = shlex.split(line.partition("give ")[2].partition(" to use")[0])
    outcome = command(*trained, "--config.training.num_epochs=1", *remedy)
    assert outcome.status == 0, outcome.stderr
    assert "not used here" not in outcome.stdout


MY_PARTS = """
from vae_jax.likelihoods import LIKELIHOODS

LIKELIHOODS["mine"] = LIKELIHOODS["bernoulli"]
"""


def test_jobs_find_what_their_sweep_found(command, tmp_path):
    """They find a module beside their configuration, and the user's own parts."""
    (tmp_path / "beside_it.py").write_text("SIZES = (1,)\n")
    path = tmp_path / "mine.py"
    code = SMALL.replace("import runpy", "import runpy\n\nimport beside_it")
    path.write_text(code.replace("= (1, 2)", "= beside_it.SIZES"))
    (tmp_path / "my_parts.py").write_text(MY_PARTS)
    outcome = command(
        "sweep",
        f"--config={path}",
        f"--parts={tmp_path / 'my_parts.py'}",
        f"--workdir={tmp_path / 'run'}",
        "--config.sweep.likelihood=mine",
        "--launcher=local",
    )
    assert outcome.status == 0, outcome.stdout + outcome.stderr
    assert "2 to train in 1 job" in outcome.stdout


def test_parts_of_ones_own_are_trained_and_evaluated(command, small, tmp_path):
    """The parts are from docs/extending.md; a folder alone may not name the module."""
    page = (ROOT / "docs" / "extending.md").read_text()
    examples = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    (tmp_path / "my_parts.py").write_text("\n".join(examples[:-2]))
    parts, folder = (
        f"--parts={tmp_path / 'my_parts.py'}",
        f"--workdir={tmp_path / 'run'}",
    )
    own = {
        "model.likelihood": "binomial",
        "model.posterior": "laplace",
        "model.prior": "laplace",
        "training.objective": "jackknife",
        "training.num_samples": 2,
    }
    options = [f"--config.{field}={value}" for field, value in own.items()]
    outcome = command("train", small, parts, folder, *options)
    assert outcome.status == 0, outcome.stderr
    (trained,) = rows_of(tmp_path / "run" / "results.csv")
    for name, *others in (
        ("evaluate", "--num_samples=16"),
        ("replay", "--run=model"),
        ("train", f"--config={tmp_path / 'run' / 'config.json'}"),
    ):
        outcome = command(name, folder, *others)
        assert_refused(
            outcome, "likelihood is 'binomial'", "as in --parts=my_parts.py."
        )
    outcome = command("evaluate", folder, parts, "--num_samples=16")
    assert outcome.status == 0, outcome.stderr
    (evaluated,) = rows_of(tmp_path / "run" / "evaluation.csv")
    assert evaluated["elbo"] == trained["elbo"]


@pytest.mark.parametrize(
    "name", ["sweep", "train", "evaluate", "explore", "export", "replay", "papers"]
)
def test_parts_that_cannot_be_imported_are_refused(command, tmp_path, name):
    (tmp_path / "my_parts.py").write_text("\n1 / 0\n")
    where = () if name == "papers" else (f"--workdir={tmp_path / 'run'}",)
    outcome = command(name, *where, f"--parts={tmp_path / 'my_parts.py'}")
    assert_refused(outcome, "my_parts.py', line 2: ZeroDivisionError: division by zero")
    assert_refused(command(name, *where, "--parts=nowhere"), "no such module")
    assert not (tmp_path / "run").exists()


def test_a_file_of_options_has_a_name(command):
    for options in (["--flagfile="], ["--flagfile"], ["--flagfile=~nosuchuser/x"]):
        assert_refused(command("sweep", "--list", *options), "--flagfile is")


@pytest.mark.skipif(os.geteuid() == 0, reason="everything can be read")
def test_an_unreadable_file_of_options_is_refused(command, tmp_path):
    path = tmp_path / "options"
    path.touch(0o000)
    assert_refused(command("sweep", f"--flagfile={path}"), "Permission denied")


@pytest.mark.parametrize(
    ("argument", "words"),
    [
        ("configs/digits.py:nonsense", ["'nonsense'", "tiny"]),
        ("configs/nothing.py", ["'configs/nothing.py'", "configs/digits.py"]),
        ("configs", ["'configs'", "configs/digits.py"]),
        ("", ["''", "configs/digits.py"]),
        ("Makefile", ["'Makefile'", "get_config", "configs/digits.py"]),
        ("tests/linear_gaussian.py", ["get_config", "configs/digits.py"]),
    ],
)
def test_bad_configurations_are_refused(command, tmp_path, argument, words):
    folder = tmp_path / "run"
    outcome = command("sweep", f"--config={argument}", f"--workdir={folder}")
    assert_refused(outcome, *words)
    assert not folder.exists()


@pytest.mark.parametrize(
    ("code", "words"),
    [
        ("def get_config(): return {}", ["dict", "ConfigDict"]),
        ("def get_config(): return configs", ["line 1: NameError", "'configs'"]),
        ("raise RuntimeError('no\\n\\nluck')", ["line 1: RuntimeError: no luck"]),
        ("raise SystemExit('no configuration')", ["no configuration"]),
        (
            "import ml_collections\n"
            "def get_config(): return ml_collections.ConfigDict({'seed': 0})",
            ["config.sweep is missing"],
        ),
    ],
)
def test_configurations_of_another_kind_are_refused(command, tmp_path, code, words):
    path = tmp_path / "own.py"
    path.write_text(code)
    outcome = command("sweep", f"--config={path}", f"--workdir={tmp_path / 'run'}")
    if "raise SystemExit" in code:  # A way to end of its own.
        assert (outcome.status, outcome.stderr) == (1, "no configuration\n")
    else:
        assert_refused(outcome, *words)
    assert not (tmp_path / "run").exists()


def npz(path, images):
    np.savez(path, train_images=images)


IMAGES = np.random.default_rng(0).integers(0, 256, (150, 4, 4)).astype(np.uint8)


@pytest.mark.parametrize(
    ("write", "words"),
    [
        (lambda path: npz(path, IMAGES % 2), ["laplace", "binary", "'bernoulli'"]),
        (lambda path: npz(path, np.where(IMAGES > 9, IMAGES, np.nan)), ["NaN"]),
        (lambda path: npz(path, IMAGES[:0]), []),
        (lambda path: npz(path, IMAGES[:, 0]), []),
        (lambda path: path.write_bytes(b""), []),
        (lambda path: path.write_bytes(b"PK\3\4 not a zip"), []),
        (lambda path: None, []),
    ],
    ids=["binary", "nan", "none", "flat", "empty", "damaged", "missing"],
)
def test_bad_images_are_refused(command, tmp_path, write, words):
    path = tmp_path / "images.npz"
    write(path)
    folder = tmp_path / "run"
    outcome = command(
        "sweep",
        TINY,
        f"--workdir={folder}",
        "--config.data.name=npz",
        f"--config.data.path={path}",
        "--config.sweep.likelihood=laplace",
    )
    assert_refused(outcome, *words)
    assert not folder.exists()


def test_another_configs_folder_is_refused(command, small, own):
    before = contents(own)
    outcome = command(
        "sweep", small, f"--workdir={own}", "--config.training.learning_rate=0.5"
    )
    assert_refused(outcome, "learning_rate is 0.003 there and 0.5 here", "--workdir")
    assert contents(own) == before


def test_a_job_of_an_earlier_version_is_refused(command, small, own):
    (own / "jobs" / "laplace-0").mkdir(parents=True)
    (own / "jobs" / "laplace-0" / "config.json").write_text("{}")
    before = contents(own)
    outcome = command("sweep", small, f"--workdir={own}")
    assert_refused(outcome, str(own / "jobs" / "laplace-0"), "delete")
    assert contents(own) == before


def test_folders_of_other_things_are_refused(command, tmp_path):
    (tmp_path / "thesis.tex").write_text("precious")
    outcome = command("sweep", TINY, f"--workdir={tmp_path}")
    assert_refused(outcome, str(tmp_path), "--workdir")
    assert contents(tmp_path) == {"thesis.tex": b"precious"}
    below = tmp_path / "thesis.tex" / "run"
    assert_refused(command("sweep", TINY, f"--workdir={below}"), str(below))
    long = tmp_path / ("x" * 300)
    assert_refused(command("sweep", TINY, f"--workdir={long}"), "too long")
    assert_refused(command("evaluate", f"--workdir={tmp_path}"), "config.json")
    assert contents(tmp_path) == {"thesis.tex": b"precious"}


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("x\x1b[2Jy", r"x\x1b[2Jy"),
        ("two  spaces", "two  spaces"),
        ("back\rover", r"back\rover"),
        ("\u202egnp", r"\u202egnp"),
        ("\udcff", r"\udcff"),
    ],
)
def test_a_refusal_never_passes_on_what_a_terminal_obeys(
    command, tmp_path, name, shown
):
    outcome = command("evaluate", f"--workdir={tmp_path / name}")
    assert_refused(outcome, shown)
    assert outcome.stderr.removesuffix("\n").isprintable()


def test_train_refuses_axes(command, tmp_path):
    outcome = command("train", f"--workdir={tmp_path}/x", "--config.sweep.seed=1")
    assert_refused(outcome, "--config.sweep.seed", "experiments.sweep")
    assert not (tmp_path / "x").exists()


def test_evaluate_refuses_what_it_cannot_do(command, own):
    workdir = f"--workdir={own}"
    assert_refused(command("evaluate", workdir, "--num_samples=0"), "num_samples", "0")
    assert_refused(command("evaluate", workdir, "--only=99"), "'99'")
    assert_refused(command("evaluate", workdir, "--fit_prior=mixtur"), "'mixture'")
    params = own / "members" / RUNS[0] / "params.safetensors"
    params.write_bytes(params.read_bytes()[:-10])
    outcome = command("evaluate", workdir, "--num_samples=2", f"--only={RUNS[0]}")
    assert_refused(outcome, str(params))
    with contextlib.suppress(FileNotFoundError):
        shutil.rmtree(own / "members")
    assert_refused(command("evaluate", workdir), "no finished run")
    assert not (own / "evaluation.csv").exists()


def test_other_images_are_neither_evaluated_nor_replayed(command, own):
    path = own / "environment.json"
    environment = json.loads(path.read_text())
    fingerprint = environment["bits_depend_on"]["data"]
    environment["bits_depend_on"]["data"] = "0123"
    folder = bound(own)
    parts = [
        getattr(folder.members, part)(RUNS[0])
        for part in ("params", "result", "arrays", "bits_depend_on")
    ]
    path.write_text(json.dumps(environment))
    folder = bound(own)  # All of it is of these images.
    folder.members.save(RUNS[0], *parts)
    folder.failures.save(RUNS[0], 0, {}, {})
    before = contents(own)
    for name, *options in (
        ("evaluate", "--num_samples=2"),
        ("replay", f"--run={RUNS[0]}"),
    ):
        outcome = command(name, f"--workdir={own}", *options)
        assert_refused(outcome, "other images", "0123", fingerprint, "Restore")
    assert contents(own) == before


def test_two_settings_are_compared(command, finished, tmp_path):
    before = contents(finished)
    workdir, table = f"--workdir={finished}", tmp_path / "differences.csv"
    a, b = (f"likelihood=bernoulli,latent_dim={size}" for size in (1, 2))
    outcome = command("compare", a, b, workdir, f"--output={table}")
    assert outcome.status == 0, outcome.stderr
    first, second, *_, statement, numbers = outcome.stdout.splitlines()
    assert (first, second) == (f"A: {a}", f"B: {b}")
    assert re.match(
        r"log p\(x\) of A is (high|low)er by .* nats per image \(s", statement
    )
    assert "paired over 297 test images and 2 seeds" in statement
    assert numbers == f"numbers: {table}"
    (row,) = rows_of(table)
    names = [column.name for column in BY_SECTION["comparison"]]
    assert list(row) == names
    scores = {r["run"]: float(r["score"]) for r in rows_of(finished / "results.csv")}
    for name, only in (("score_a", a), ("score_b", b)):
        mean = np.mean([scores[f"{only},seed={seed}"] for seed in (0, 1)])
        assert float(row[name]) == pytest.approx(mean)
    outcome = command("compare", a, "latent_dim=2", workdir, "--elbo")
    assert outcome.status == 3
    assert "The ELBO of A is" in outcome.stdout
    assert "4 runs of B left out, without a partner in A" not in outcome.stdout
    assert "2 runs of B left out, without a partner in A" in outcome.stdout
    assert contents(finished) == before


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], ["nothing is to be compared: two selections are needed"]),
        (["0", "1", "2"], ["0 1 2 is to be compared"]),
        (["likelihood=bernoulli", "likelihood=laplace"], ["nats", "bits/dim"]),
        (["seed=0", "seed=9"], ["B is 'seed=9': it fits none of the 8 runs"]),
        (["0", "1", "--workdir=nowhere"], ["nowhere is not a run folder"]),
        (["0", "1", "--other_workdir=nowhere"], ["nowhere is not a run folder"]),
        (
            ["0", "2", "--output=config.json"],
            ["--output is", "something else than suc"],
        ),
        (["0", "2", "--output=members"], ["--output is", "Choose a new file"]),
    ],
)
def test_bad_selections_are_refused(command, finished, arguments, words):
    before = contents(finished)
    arguments = [each.replace("put=", f"put={finished}/") for each in arguments]
    outcome = command("compare", f"--workdir={finished}", *arguments)
    assert_refused(outcome, *words)
    assert contents(finished) == before


@pytest.mark.parametrize(
    ("option", "needed"),
    [
        ("--temperatures=3", "--sandwich_images"),
        ("--chains=2", "--sandwich_images"),
        ("--gap_steps=5", "--sandwich_images"),
        ("--fit_steps=10", "--fit_prior"),
    ],
)
def test_evaluate_refuses_options_without_effect(command, finished, option, needed):
    outcome = command("evaluate", f"--workdir={finished}", option)
    assert_refused(outcome, f"{option.split('=')[0]} has no effect without {needed}")


def test_a_replay_asks_for_its_run(command, own):
    bound(own).failures.save(RUNS[3], 0, {}, {})
    assert_refused(command("replay", f"--workdir={own}"), "--run is missing", RUNS[3])
    save_again(bound(own), RUNS[0], status="failed")
    outcome = command("replay", f"--workdir={own}", f"--run={RUNS[0]}")
    assert_refused(outcome, "no step to replay", "(status: failed)", RUNS[3])


# --- fields of a machine in a stored configuration ------------------------------------


def change_stored(folder, section, **fields):
    path = folder / "config.json"
    config = json.loads(path.read_text())
    config[section] |= fields
    path.write_text(json.dumps(config))


def test_folders_of_a_stored_configuration_are_left_alone(command, own, tmp_path):
    outside = tmp_path / "out side"
    bound(own).failures.save(RUNS[0], 0, {}, {})
    change_stored(own, "data", cache_dir=f"{outside}", data_dir=f"{outside}/tfds")
    change_stored(own, "data", download=True)
    change_stored(own, "parallel", members=8, batch=3, memory_gib=1e-6)
    options = ("--num_samples=2", f"--only={RUNS[0]}")
    outcome = command("evaluate", f"--workdir={own}", *options)
    assert outcome.status == 0, outcome.stderr
    (line,) = (x for x in outcome.stdout.splitlines() if "not used here" in x)
    for field in ("data.download=True", "parallel.members=8", "parallel.batch=3"):
        assert field in line
    assert f"data.cache_dir='{outside}'" in line
    replayed = command("replay", f"--workdir={own}", f"--run={RUNS[0]}")
    assert "cannot be replayed" in replayed.stderr  # Its images were there.
    assert line in replayed.stdout
    assert not outside.exists()
    # The remedy that is shown works.
    remedy = shlex.split(line.partition("give ")[2].partition(" to use")[0])
    outcome = command("evaluate", f"--workdir={own}", *options, *remedy)
    assert outcome.status == 0, outcome.stderr
    assert list(outside.iterdir())
    assert "cache_dir" not in outcome.stdout


@pytest.fixture(scope="module")
def on_own_images(command, small, tmp_path_factory):
    """Returns a folder with a model trained on an npz file, and the file."""
    folder = tmp_path_factory.mktemp("own images")
    path = folder / "my  images.npz"
    npz(path, IMAGES)
    outcome = command(
        "train",
        small,
        f"--workdir={folder / 'run'}",
        "--config.data.name=npz",
        f"--config.data.path={path}",
        "--config.data.num_validation=-1",
    )
    assert outcome.status == 0, outcome.stderr
    return folder / "run", path


def test_a_model_of_ones_own_images_is_loaded_without_them(on_own_images):
    folder, _ = on_own_images
    scores = load(folder).score(IMAGES)
    assert scores.shape == (len(IMAGES),)
    assert np.isfinite(scores).all()


def test_images_of_ones_own_are_named_by_who_evaluates(
    command, on_own_images, tmp_path
):
    folder, path = on_own_images
    assert load(folder).model.image_shape == (4, 4, 1)  # Without the images.
    bound(folder).failures.save("model", 0, {}, {})
    evaluate = ("evaluate", f"--workdir={folder}", "--num_samples=2")
    replay = ("replay", f"--workdir={folder}", "--run=model")
    for name, *options in (evaluate, replay):
        outcome = command(name, *options)
        assert_refused(outcome, f"data.path='{path}'", "not used here")
        (remedy,) = shlex.split(re.search(r"give (.*) to use", outcome.stderr)[1])
        assert remedy == f"--data_path={path}"
    outcome = command(*evaluate, remedy)
    assert outcome.status == 0, outcome.stderr
    assert "not used here" not in outcome.stdout
    moved = tmp_path / "moved.npz"
    shutil.copy(path, moved)
    outcome = command(*evaluate, f"--data_path={moved}")
    assert outcome.status == 0, outcome.stderr
    (row,), (trained,) = (
        rows_of(folder / name) for name in ("evaluation.csv", "results.csv")
    )
    assert row["dataset"] == trained["dataset"] == "my  images"
    npz(moved, IMAGES[::-1])
    for name, *options in (evaluate, replay):
        outcome = command(name, *options, f"--data_path={moved}")
        assert_refused(outcome, "other images")


@pytest.mark.parametrize(
    ("option", "words"),
    [
        ("--data_path=x.npz", ["--data_path is 'x.npz': it has no effect", "'digits'"]),
        ("--cache_dir=~nosuchuser/x", ["'~nosuchuser/x'"]),
    ],
)
def test_places_that_cannot_be_used_are_refused(command, finished, option, words):
    outcome = command("evaluate", f"--workdir={finished}", option)
    assert_refused(outcome, *words)


@pytest.mark.parametrize(
    ("told", "kept", "where"),
    [
        ("", "kept", os.path.join("kept", "programs")),
        ("elsewhere", "kept", "elsewhere"),
        ("", os.devnull, None),  # Otherwise JAX warns of each program.
        ("", os.path.join(os.devnull, "kept"), None),
    ],
)
def test_compiled_programs_are_kept_unless_told_where(told, kept, where, monkeypatch):
    before = jax.config.jax_compilation_cache_dir
    seconds = jax.config.jax_persistent_cache_min_compile_time_secs
    monkeypatch.setenv("VAE_JAX_CACHE", kept)
    try:
        jax.config.update("jax_compilation_cache_dir", told or None)
        programs.keep()
        assert jax.config.jax_compilation_cache_dir == where
    finally:
        jax.config.update("jax_compilation_cache_dir", before)
        jax.config.update("jax_persistent_cache_min_compile_time_secs", seconds)
