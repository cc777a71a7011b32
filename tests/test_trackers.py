"""Tests of experiments.trackers: what Weights & Biases and MLflow get, and when."""

import configparser
import contextlib
import itertools
import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from experiments.launch import sweeps
from experiments.runner import loop
from experiments.runner.interruption import Interruption, Stopped
from experiments.runs.folder import RunFolder
from experiments.settings import grid
from experiments.settings.fingerprint import differences, fingerprint, fingerprints
from experiments.trackers import interface
from experiments.trackers.tracking import Tracking
from tests.faults import harness
from tests.folders import OWNERS, refusal, small_sweep

pytestmark = pytest.mark.filterwarnings("ignore")  # Those of the packages.

CONFIG = small_sweep()
CONFIG["model"] |= {"widths": (8,)}
CONFIG["training"] |= {"num_epochs": 6, "validate_every": 1, "on_non_finite": "reseed"}
CONFIG["checkpoint"] |= {"every_epochs": 3, "every_seconds": 0.0}
CONFIG["sweep"] = {"latent_dim": (2, 3)}
CONFIG["trackers"] = ("mlflow",)
RUNS = ("latent_dim=2", "latent_dim=3")


# --- what is asked for ----------------------------------------------------------------


def settings(trackers):
    (run, *_) = grid.expand({**CONFIG, "trackers": trackers})
    return run.settings


def test_trackers_change_no_fingerprint_and_no_folder():
    default, other = settings(["tensorboard"]), settings(["wandb", "mlflow"])
    assert other.trackers == ("wandb", "mlflow")
    assert fingerprint(other, "0") == fingerprint(default, "0")
    assert not differences(CONFIG, {**CONFIG, "trackers": ()})


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (("tensorbord",), "'tensorbord': it is unknown (did you mean 'tensorboard'?)"),
        (("wandb", "MLFlow"), "Choose one of tensorboard, wandb, mlflow."),
        ("wandb", "Give one, as in ('tensorboard', 'wandb')."),
    ],
)
def test_other_trackers_are_refused_by_name(given, words):
    line = refusal(settings, given)
    assert line.startswith("config.trackers is ")
    assert words in line


@pytest.mark.parametrize("name", ["wandb", "mlflow"])
def test_a_tracker_that_is_not_installed_is_refused_with_the_remedy(name, monkeypatch):
    monkeypatch.delitem(sys.modules, f"experiments.trackers.{name}", raising=False)
    for module in [each for each in sys.modules if each.split(".")[0] == name]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.setitem(sys.modules, name, None)  # Python's own way to hide a module.
    line = refusal(interface.services, ["tensorboard", name])
    assert line.startswith(f"config.trackers is '{name}': {name} cannot be imported")
    assert f"pip install 'vae_jax[{name}]'" in line
    setup = configparser.ConfigParser()
    setup.read(Path(__file__).parents[1] / "setup.cfg")
    assert name in setup["options.extras_require"]


# --- what is sent, by the interface alone ---------------------------------------------


class Service:
    """A tracker that keeps in memory what it is sent."""

    def __init__(self):
        self.runs, self.fails, self.before_row = {}, False, lambda row: None

    def check(self):
        pass

    def begin(self, run):
        kept = self.runs.setdefault(
            run.id, SimpleNamespace(run=run, rows=[], state="", result={}, files=[])
        )
        kept.state = "open"
        return Kept(self, kept)

    def epochs(self):
        """Returns the epochs of each run by name and attempt, and how it ended."""
        return {
            (kept.run.name, kept.run.config["attempt"]): (
                [row["epoch"] for row in kept.rows],
                kept.state,
            )
            for kept in self.runs.values()
            if kept.run.config
        }


class Kept:
    def __init__(self, service, kept):
        self.service, self.kept = service, kept

    def log(self, rows):
        last = max((row["epoch"] for row in self.kept.rows), default=0)
        for row in rows:
            self.service.before_row(row)
            if self.service.fails:
                raise ConnectionError("no\nroute")
            if row["epoch"] > last:
                self.kept.rows.append(row)

    def finish(self, result):
        self.kept.result, self.kept.state = result, "complete"

    def attach(self, files):
        self.kept.files, self.kept.state = list(files), "complete"

    def end(self, *, failed):
        self.kept.state = "failed" if failed else "stopped"


@pytest.fixture
def service(monkeypatch):
    """Returns a tracker that takes the place of one, installed or not."""
    found = Service()
    monkeypatch.setitem(sys.modules, "experiments.trackers.mlflow", found)
    return found


@contextlib.contextmanager
def opened(path, config=CONFIG):
    runs = grid.expand(config)
    data = sweeps.load_data(runs[0].settings.data)
    owners = fingerprints(runs, data.fingerprint)
    folder = RunFolder.create(
        path,
        config,
        owners,
        data.fingerprint,
        pytest.fail,
        trackers=runs[0].settings.trackers,
    )
    try:
        yield folder, data, runs
    finally:
        folder.close()


class At(Interruption):
    """An interruption that calls a function after each epoch, by its number."""

    def __init__(self, call):
        super().__init__()
        self._call, self._epoch = call, 0

    def requested(self):
        self._epoch += 1
        self._call(self, self._epoch)
        return super().requested()


def train(path, call=lambda *_: None, config=CONFIG):
    with opened(path, config) as (folder, data, runs):
        loop.train(data, runs, folder, At(call))


WHOLE = {(run, 0): ([1, 2, 3, 4, 5, 6], "complete") for run in RUNS}


def test_every_epoch_is_sent_once_and_not_before_a_checkpoint_holds_it(
    service, tmp_path
):
    early = []

    def before_row(row):
        held = [int(p.stem) for p in tmp_path.glob("*/checkpoints/*/*.safetensors")]
        if row["epoch"] > max(held, default=0):
            early.append(row["epoch"])

    service.before_row = before_row
    path = tmp_path / "run"

    def stop(interruption, epoch):
        if epoch == 2:
            interruption.ask()

    with pytest.raises(Stopped):
        train(path, stop)
    stopped = {(run, 0): ([1, 2], "stopped") for run in RUNS}
    assert service.epochs() == stopped

    def crash(interruption, epoch):
        if epoch == 3:  # The fifth; the checkpoint before it is of the second.
            raise KeyError("a crash")

    with pytest.raises(KeyError):
        train(path, crash)
    assert service.epochs() == stopped
    train(path)
    assert service.epochs() == WHOLE
    assert not early
    for kept in service.runs.values():
        assert kept.run.sweep == "run"
        assert kept.run.config["fingerprint"]
        assert kept.run.config["model"]["latent_dim"] == kept.result["latent_dim"]


def test_a_tracker_that_fails_ends_nothing_and_gets_the_rest_later(
    service, tmp_path, capsys
):
    service.fails, path = True, tmp_path / "run"
    train(path)
    printed = " ".join(capsys.readouterr().out.split())
    assert printed.count("mlflow accepts nothing more (ConnectionError: no route)") == 1
    assert not any(epochs for epochs, _ in service.epochs().values())
    service.fails = False
    with opened(path) as (folder, _, runs):
        assert folder.members.finished() == set(RUNS)
        sweeps.send_the_rest(folder, runs)
    assert service.epochs() == WHOLE
    begun = len(service.runs)
    with opened(path) as (folder, data, runs):
        sweeps.send_the_rest(folder, runs)
        sweeps.report(folder, runs, data.test)
    assert service.epochs() == WHOLE
    (report,) = list(service.runs.values())[begun:]
    assert [file.name for file in report.files] == ["results.csv", "report.html"]
    with opened(path) as (folder, data, runs):
        sweeps.report(folder, runs, data.test)  # The same run again.
    assert len(service.runs) == begun + 1


def test_an_attempt_with_other_keys_is_a_run_of_its_own(service, tmp_path):
    for attempt in (0, 1):
        tracking = Tracking(tmp_path, OWNERS, ["mlflow"])
        tracking.begin("a", settings(("mlflow",)), attempt)
        tracking.log([{"run": "a", "epoch": 1 + attempt}])
        if attempt:
            tracking.finish({"run": "a", "attempt": attempt})
        else:
            tracking.fail("a")
        tracking.close()
    assert service.epochs() == {
        ("a", 0): ([1], "failed"),
        ("a", 1): ([2], "complete"),
    }


@pytest.mark.parametrize("text", ["", "{}", '{"id": "../../a"}', "\0"])
def test_a_damaged_identity_is_named_and_begins_a_new_run(
    service, tmp_path, text, capsys
):
    for _ in range(2):
        tracking = Tracking(tmp_path, OWNERS, ["mlflow"])
        tracking.begin("a", settings(("mlflow",)), 0)
        tracking.close()
        (note,) = tmp_path.glob("trackers/*.json")
        note.write_text(text)
    assert len(service.runs) == 2
    assert capsys.readouterr().out.count("is damaged") == 1


# --- the packages themselves, offline -------------------------------------------------


def installed(name):
    """Returns a package that is large, so the extra ``test`` does not install it."""
    remedy = f"pip install 'vae_jax[{name}]'"
    return pytest.importorskip(name, reason=f"{name} is not installed: {remedy}")


@pytest.fixture
def wandb(monkeypatch, tmp_path):
    found = installed("wandb")
    for name in [each for each in os.environ if each.startswith("WANDB_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))  # No login of this user.
    yield found
    found.teardown()  # It keeps the environment that it has read.


@pytest.fixture
def mlflow(monkeypatch, tmp_path):
    found = installed("mlflow")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path / 'mlflow.db'}")
    monkeypatch.delenv("MLFLOW_EXPERIMENT_NAME", raising=False)
    monkeypatch.chdir(tmp_path)
    return found


def in_wandb(folder):
    """Returns the epochs in each offline folder of each run, by its name."""
    names, epochs = {}, {}
    for path in sorted(folder.glob("wandb/offline-run-*/run-*.wandb")):
        command = sys.executable, "-m", "wandb", "leet", "inspect", "--json", str(path)
        text = subprocess.run(command, capture_output=True, check=True).stdout
        records = [json.loads(line) for line in text.splitlines()]
        for record in records:
            if "artifact" in record:
                manifest = record["artifact"]["manifest"]["contents"]
                files = {each["path"] for each in manifest}
                assert files >= {"results.csv", "results.table.json"}
            if "run" in record:  # A kill may leave a file without it.
                names[path.stem] = record["run"]["display_name"]
        found = [r["history"]["step"]["num"] for r in records if "history" in r]
        epochs.setdefault(path.stem, []).append(found)
    assert len(set(names.values())) == len(epochs)  # One identity each.
    return {names[identity]: found for identity, found in epochs.items()}


def in_mlflow(client, run):
    """Returns the epochs of each metric of a run."""
    return {
        name: sorted(each.step for each in client.get_metric_history(run, name))
        for name in client.get_run(run).data.metrics
    }


def rows(run, *epochs):
    return [
        {"run": run, "epoch": epoch, "validation/bound": -1.5 * epoch, "train/kl": 2.0}
        for epoch in epochs
    ]


RESULT = {"run": "a", "attempt": 0, "epochs": 5, "score": 1.25, "status": "ended"}


def send_twice(path, name):
    """Sends epochs 1 to 3 of two runs, then stops; then all, of which three are new."""
    for sent in ((1, 2, 3), (1, 2, 3, 4, 5)):
        tracking = Tracking(path, OWNERS, [name])
        for run in ("a", "b"):  # Both are open at once.
            tracking.begin(run, settings((name,)), 0)
        for epoch in sent:
            tracking.log([*rows("a", epoch), *rows("b", epoch)])
        if 5 in sent:
            tracking.finish(RESULT)
            table = path / "results.csv"
            table.write_text("run,score\na,1.25\n")
            tracking.report([table])
        tracking.close()
        assert tracking  # Nothing failed.


@pytest.mark.slow
def test_wandb_offline_has_each_epoch_in_one_folder_of_a_run(
    wandb, tmp_path, monkeypatch
):
    monkeypatch.setenv("WANDB_MODE", "offline")
    path = tmp_path / "run"
    send_twice(path, "wandb")
    each = [[1, 2, 3], [4, 5]]
    assert in_wandb(tmp_path) == {"a": each, "b": each, "report": [[]]}
    links = [each for each in path.rglob("*") if each.is_symlink()]
    assert not links  # A run folder with links that lead out of it is refused.


def test_wandb_without_a_login_is_refused_with_a_remedy_that_works(wandb, monkeypatch):
    line = refusal(interface.services, ["wandb"])
    assert line.startswith("config.trackers is 'wandb': nobody is logged in")
    (remedy,) = re.findall(r"set (\w+=\w+)", line)
    monkeypatch.setenv(*remedy.split("="))
    wandb.teardown()  # The next command is another process.
    assert interface.services(["wandb"])


@pytest.mark.slow
def test_mlflow_has_each_epoch_once(mlflow, tmp_path):
    send_twice(tmp_path / "run", "mlflow")
    client = mlflow.MlflowClient()
    experiment = client.get_experiment_by_name("vae_jax")
    runs = client.search_runs([experiment.experiment_id])
    found = {run.info.run_name: run for run in runs}
    assert len(runs) == 3
    assert found.keys() == {"a", "b", "report"}
    for run in (found["a"], found["b"]):
        epochs = in_mlflow(client, run.info.run_id)
        assert epochs["validation/bound"] == epochs["train/kl"] == [1, 2, 3, 4, 5]
        assert run.data.params["model.latent_dim"] == "2"
        assert run.data.tags["sweep"] == "run"
    assert found["a"].data.metrics["score"] == 1.25
    assert found["a"].data.tags["status"] == "ended"
    assert (found["a"].info.status, found["b"].info.status) == ("FINISHED", "KILLED")
    (artifact,) = client.list_artifacts(found["report"].info.run_id)
    assert artifact.path == "results.csv"


@pytest.mark.slow
def test_an_mlflow_store_that_does_not_exist_is_refused(mlflow, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "nowhere://here")
    line = refusal(interface.services, ["mlflow"])
    assert line.startswith("config.trackers is 'mlflow': the store of MLflow cannot")
    (remedy,) = re.findall(r"as in (\S+)\.$", line)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", remedy)
    assert interface.services(["mlflow"])


@pytest.mark.slow
def test_a_sweep_that_is_killed_sends_each_epoch_once(wandb, mlflow, tmp_path):
    path, cache = tmp_path / "run", tmp_path / "cache"
    # The commands run in the project's folder, which MLflow would put the reports in.
    client = mlflow.MlflowClient()
    client.create_experiment("vae_jax", artifact_location=str(tmp_path / "artifacts"))
    sweep = harness.command(
        "sweep",
        "--config=configs/digits.py",
        "--config.data.num_train=400",
        "--config.model.widths=(12,)",
        "--config.sweep.likelihood=bernoulli,laplace",
        "--config.sweep.latent_dim=2",
        "--config.sweep.seed=(0, 1)",
        "--config.training.num_epochs=60",
        "--config.training.validate_every=2",
        "--config.evaluation.num_samples=20",
        "--config.checkpoint.every_epochs=3",
        *harness.NO_DIAGNOSTICS,
        "--config.trackers=wandb,mlflow",
        f"--workdir={path}",
    )
    kill, term = signal.SIGKILL, signal.SIGTERM
    for number, moment, status in (
        (kill, harness.checkpointed(path, 3), -kill),
        (term, harness.checkpointed(path, 12), 75),
        (kill, harness.checkpointed(path, 20), -kill),
        (kill, lambda: len(harness.results(path)) > 1, -kill),
        (None, None, 0),
    ):
        process = harness.start(sweep, cache, WANDB_MODE="offline")
        if number:
            harness.send_while(moment, process, number)
        outcome = harness.Outcome(process)
        assert outcome.status == status, outcome.stderr
        assert "accepts nothing more" not in outcome.stdout
    epochs = list(range(2, 61, 2))
    runs = {row["run"] for row in harness.rows(path)}
    found = in_wandb(tmp_path)
    assert found.keys() == {*runs, "report"}
    experiment = client.get_experiment_by_name("vae_jax")
    kept = client.search_runs([experiment.experiment_id])
    assert sorted(run.info.run_name for run in kept) == sorted([*runs, "report"])
    for name in runs:
        assert list(itertools.chain(*found[name])) == epochs
    assert any(len(list(filter(None, found[name]))) > 1 for name in runs)
    for run in kept:
        if run.info.run_name != "report":
            by_metric = in_mlflow(client, run.info.run_id)
            assert by_metric["validation/bound"] == by_metric["train/kl"] == epochs
            assert len(by_metric["score"]) == 1
