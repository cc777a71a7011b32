"""Tests of the training of groups, and of the plan that says which come next."""

import contextlib
import dataclasses
import json
import threading
from concurrent.futures import ThreadPoolExecutor

import jax
import numpy as np
import pytest
import safetensors.numpy

from configs import digits
from experiments.data.images import load_data
from experiments.data.settings import DataSettings
from experiments.messages.errors import FolderError
from experiments.runner import planning
from experiments.runner.images import Images
from experiments.runner.interruption import Stopped
from experiments.runner.leaves import named_leaves
from experiments.runner.progress import GroupProgress, Progress
from experiments.runner.task import GroupTask
from experiments.runner.training import train_group
from experiments.runs.checkpoints import Checkpoints
from experiments.runs.folder import RunFolder
from experiments.runs.notes import Note
from experiments.settings import grid
from experiments.settings.fingerprint import fingerprints
from tests.folders import save_member
from vae_jax.objectives import Terms
from vae_jax.training import Member, Trainer


class StopAfter:
    """An interruption that asks to stop after so many epochs; 0: never."""

    def __init__(self, epochs=0):
        self._left = epochs

    def deferred(self):
        return contextlib.nullcontext()

    def requested(self):
        self._left -= 1
        return self._left == 0


def small_config(**training):
    config = digits.get_config().to_dict()
    config["data"] |= {"num_train": 300}
    config["model"] |= {"widths": (8,)}
    config["training"] |= {"num_epochs": 12, "validate_every": 3, "ema": 0.9}
    config["training"] |= training
    config["evaluation"] |= {"num_samples": 5}
    config["checkpoint"] |= {"every_epochs": 2}
    config["sweep"] = {"latent_dim": (2, 3)}
    return config


CONFIG = small_config()
BACKGROUND = ThreadPoolExecutor(1)


@pytest.fixture(scope="module")
def data():
    return load_data(DataSettings("digits", num_train=300))


@pytest.fixture(scope="module")
def compiled(data):
    """Returns the only group of CONFIG."""
    (group,) = grid.group(grid.expand(CONFIG))
    return GroupTask(group, Images(data)).compile()


IMAGES = "0123"


@contextlib.contextmanager
def opened(path, config=CONFIG):
    owners = fingerprints(grid.expand(config), IMAGES)
    folder = RunFolder.create(path, config, owners, IMAGES, print)
    try:
        yield folder
    finally:
        folder.close()


def begun(folder):
    return folder.groups.begun(folder.members.finished(), pytest.fail)


def train(compiled, folder, epochs=0):
    run(compiled, folder, StopAfter(epochs), BACKGROUND)


def run(compiled, folder, interruption, background):
    group = compiled.task.group
    with Progress([group]) as whole:
        progress = GroupProgress(whole, group)
        train_group(compiled, folder, progress, interruption, background)


def outcome(path):
    members = {}
    for result in sorted(path.glob("members/*/result.json")):
        facts = json.loads(result.read_text())
        del facts["seconds"]
        parts = [
            (result.parent / name).read_bytes()
            for name in ("params.safetensors", "arrays.safetensors")
        ]
        members[result.parent.name] = (facts, *parts)
    metrics = {
        rows.parent.name: rows.read_text() for rows in path.glob("members/*/*.jsonl")
    }
    return members, metrics


@pytest.fixture(scope="module")
def undisturbed(compiled, tmp_path_factory):
    path = tmp_path_factory.mktemp("undisturbed") / "run"
    with opened(path) as folder:
        train(compiled, folder)
    return outcome(path)


@pytest.mark.parametrize("epochs", [1, 3, 4, 12])
def test_a_stopped_group_continues_to_the_same_bits(
    compiled, undisturbed, tmp_path, epochs
):
    path = tmp_path / "run"
    with opened(path) as folder:
        with pytest.raises(Stopped, match=f"after epoch {epochs} of bernoulli-"):
            train(compiled, folder, epochs)
        assert folder.members.finished() == set()
        assert begun(folder) == [Note.on(compiled.task.group)]
    with opened(path) as folder:
        train(compiled, folder)
        assert begun(folder) == []
    assert outcome(path) == undisturbed


def validating(compiled, every):
    """Returns the group and programs, validated after so many epochs and the last."""
    config = small_config(validate_every=every)
    (group,) = grid.group(grid.expand(config))
    task = GroupTask(group, compiled.task.images)
    return config, dataclasses.replace(compiled, task=task)


@pytest.mark.parametrize(
    ("every", "validated"), [(5, [5, 10, 12]), (11, [11, 12]), (20, [12])]
)
def test_the_last_epoch_is_validated_wherever_a_group_was_stopped(
    compiled, undisturbed, tmp_path, every, validated
):
    config, group = validating(compiled, every)
    with opened(tmp_path / "whole", config) as folder:
        train(group, folder)
    whole, stopped = outcome(tmp_path / "whole"), tmp_path / "stopped"
    for name, text in whole[1].items():
        rows = [json.loads(line) for line in text.splitlines()]
        assert [row["epoch"] for row in rows] == validated, name
        often = [json.loads(line) for line in undisturbed[1][name].splitlines()]
        for row in (rows[-1], often[-1]):
            del row["fingerprint"]
        assert rows[-1] == often[-1]  # Validations do not change the training.
    for epoch in range(1, 13):
        with (
            opened(stopped, config) as folder,
            pytest.raises(Stopped, match=f"after epoch {epoch} of"),
        ):
            train(group, folder, 1)
        assert folder.members.finished() == set()
    # A kill in the last epoch leaves this; its validation then comes later.
    max(stopped.glob("checkpoints/*/*.safetensors")).unlink()
    with opened(stopped, config) as folder:
        train(group, folder)
    assert outcome(stopped) == whole


def test_rows_that_are_lost_or_too_many_are_mended(compiled, undisturbed, tmp_path):
    """A kill after the last checkpoint, or a damaged file, leaves such rows."""
    path = tmp_path / "run"
    with opened(path) as folder, pytest.raises(Stopped):
        train(compiled, folder, 7)
    for metrics in path.glob("members/*/metrics.jsonl"):
        rows = metrics.read_text().splitlines(keepends=True)
        assert len(rows) == 2
        later = rows[0].replace('"epoch": 3', '"epoch": 9')
        metrics.write_text(later + rows[1] + '{"run": "late')
    with opened(path) as folder:
        train(compiled, folder)
    assert outcome(path) == undisturbed


def test_a_member_finished_before_keeps_its_files(compiled, undisturbed, tmp_path):
    """A command that ended amid the results of a group goes on with the others."""
    path = tmp_path / "run"
    with opened(path) as folder, pytest.raises(Stopped):
        train(compiled, folder, 12)
    with opened(path) as folder:
        save_member(folder, "latent_dim=2", {"mine": np.ones(1)}, seconds=1.0)
        train(compiled, folder)
        kept = folder.members.params("latent_dim=2")
        assert kept.keys() == {"mine", "posterior", "prior"}
    members, _ = outcome(path)
    assert members["latent_dim=3"] == undisturbed[0]["latent_dim=3"]


def test_checkpoints_of_another_version_are_refused(compiled, tmp_path):
    with opened(tmp_path / "run") as folder:
        note = Note.on(compiled.task.group)
        path = folder.groups.begin(note)
        checkpoints = Checkpoints(path, 3, folder.groups.owner(note))
        checkpoints.save(2, {"epoch": np.int32(2), "state/other": np.ones(3)})
        checkpoints.wait()
        checkpoints.close()
        with pytest.raises(FolderError, match="not of this version"):
            train(compiled, folder)


def test_a_checkpoint_holds_what_earlier_versions_continue_from(compiled, tmp_path):
    """Names and types are a contract: a run that an update interrupts goes on."""
    path = tmp_path / "run"
    with opened(path) as folder, pytest.raises(Stopped):
        train(compiled, folder, 6)
    (file,) = path.glob("checkpoints/bernoulli-*/6.safetensors")
    arrays = safetensors.numpy.load_file(file)
    state = named_leaves({"state": compiled.task.population.state_shapes})
    members = {f"members/{name}" for name in Member._fields}
    history = {"epoch", "logged", "best_bound", "train/gradient_norm"} | {
        f"{split}/{term}" for split in ("train", "validation") for term in Terms._fields
    }
    assert arrays.keys() == {"epoch", "seconds", *state, *members} | {
        f"history/{name}" for name in history
    }
    assert (arrays["epoch"], arrays["epoch"].dtype) == (6, np.int32)
    assert arrays["seconds"].dtype == np.float64
    assert arrays["history/epoch"].tolist() == [3, 6]
    assert arrays["history/validation/bound"].shape == (2, 2)


def test_no_more_checkpoints_are_kept_than_asked_for(compiled, tmp_path):
    path = tmp_path / "run"
    with opened(path) as folder, pytest.raises(Stopped):
        train(compiled, folder, 11)
    kept = sorted(int(p.stem) for p in path.glob("checkpoints/bernoulli-*/*"))
    assert kept == [8, 10, 11]


def test_no_epoch_waits_for_the_baseline(compiled, undisturbed, tmp_path):
    trained = threading.Event()

    class Told(StopAfter):
        """Sets ``trained`` when an epoch has ended."""

        def requested(self):
            trained.set()
            return super().requested()

    path = tmp_path / "run"
    with opened(path) as folder, ThreadPoolExecutor(1) as background:
        waited = background.submit(trained.wait, 60)
        run(compiled, folder, Told(), background)
    assert waited.result()
    assert outcome(path) == undisturbed


def test_members_alone_and_in_company_agree(compiled, undisturbed, data, tmp_path):
    """Mapped together they agree up to rounding; see docs/reliability.md."""
    runs = grid.expand(CONFIG)
    task = GroupTask(grid.Group(runs[:1]), Images(data))
    path = tmp_path / "run"
    with opened(path) as folder:
        train(task.compile(), folder)
    alone = outcome(path)[0][runs[0].name][0]
    company = undisturbed[0][runs[0].name][0]
    for name in ("elbo", "log_px", "kl"):
        assert alone[name] == pytest.approx(company[name], rel=1e-3)


# --- the plan -------------------------------------------------------------------------


SWEEP = {**CONFIG, "sweep": {"likelihood": "beta,laplace", "seed": (0, 1, 2)}}


@pytest.fixture
def folder(tmp_path):
    with opened(tmp_path / "run", SWEEP) as folder:
        yield folder


@pytest.fixture
def runs():
    return grid.expand(SWEEP)


def names(groups):
    return [[run.name for run in group.runs] for group in groups]


def test_one_line_says_that_members_have_too_few_devices(data, capsys):
    parallel = SWEEP["parallel"] | {"members": 3}
    runs = grid.expand(SWEEP | {"parallel": parallel})
    assert len(grid.group(runs)) == 2
    planning.check_devices(runs, data)
    printed = capsys.readouterr().out
    assert printed.count("parallel.members is 3: JAX finds 1 device") == 1


def test_runs_are_grouped_by_program(runs, folder):
    plan = planning.plan(runs, folder)
    assert names(plan) == [[r.name for r in runs[:3]], [r.name for r in runs[3:]]]
    assert {group.attempt for group in plan} == {0}


def test_finished_runs_are_left_out(runs, folder):
    for run in (*runs[:3], runs[4]):
        save_member(folder, run.name)
    assert names(planning.plan(runs, folder)) == [[runs[3].name, runs[5].name]]


def test_groups_are_continued_as_they_were_begun(runs, folder):
    """This also holds if a member has finished; otherwise the bits would change."""
    group = grid.Group((runs[3], runs[5]))
    folder.groups.begin(Note.on(group))
    save_member(folder, runs[3].name)
    plan = planning.plan(runs, folder)
    assert plan[0] == group
    assert sorted(names(plan)[1:]) == [[r.name for r in runs[:3]], [runs[4].name]]


def test_groups_begun_with_runs_not_chosen_wait(runs, folder):
    folder.groups.begin(Note.on(grid.Group(runs[:3])))
    assert names(planning.plan(runs[:2], folder)) == [[r.name for r in runs[:2]]]
    assert len(begun(folder)) == 1


@pytest.mark.parametrize("how", ["attempt", "order", "name", "program"])
def test_a_sealed_note_that_says_what_no_group_is_is_dropped(runs, folder, how, capsys):
    """Its seal is valid, as a user may make it."""
    group = grid.Group(runs[:3] if how != "program" else runs[2:4])
    note = Note.on(group)
    if how == "attempt":
        note = note._replace(attempt=3)
    elif how == "order":
        note = note._replace(runs=note.runs[::-1])
    elif how == "name":
        note = note._replace(name="beta-1")
    folder.groups.begin(note)
    plan = planning.plan(runs, folder)
    assert names(plan) == [[r.name for r in runs[:3]], [r.name for r in runs[3:]]]
    assert {group.attempt for group in plan} == {0}
    assert begun(folder) == []
    told = capsys.readouterr().out.replace("\n", "")
    assert "its runs do not train together" in told
    assert "grouped again" in told


def test_runs_that_failed_are_begun_again_if_asked_for(runs, folder):
    folder.failures.save(runs[1].name, 0, {}, {})
    assert [group.attempt for group in planning.plan(runs[:3], folder)] == [0]
    training = dataclasses.replace(runs[0].settings.training, on_non_finite="reseed")
    again = [
        dataclasses.replace(
            run, settings=dataclasses.replace(run.settings, training=training)
        )
        for run in runs[:3]
    ]
    plan = planning.plan(again, folder)
    assert [(group.attempt, len(group.runs)) for group in plan] == [(0, 2), (1, 1)]


def test_each_attempt_has_keys_of_its_own(data):
    runs, images = grid.expand(CONFIG), Images(data)
    tasks = [GroupTask(grid.Group(runs, n), images) for n in range(3)]
    keys = [jax.random.key_data(task.population.keys) for task in tasks]
    assert len({key.tobytes() for key in map(np.asarray, keys)}) == 3


@pytest.mark.parametrize(
    ("attempt", "stored"), [(grid.MOST_ATTEMPTS - 2, []), (grid.MOST_ATTEMPTS - 1, [3])]
)
def test_a_failed_run_has_a_result_after_its_last_attempt(
    data, tmp_path, monkeypatch, attempt, stored
):
    config = small_config(num_epochs=2, on_non_finite="reseed")
    config["sweep"] = {"latent_dim": (2,)}
    group = grid.Group(grid.expand(config), attempt)
    whole = Trainer.gradient

    def broken(*args):
        gradients, terms = whole(*args)
        return jax.tree.map(lambda leaf: leaf * np.nan, gradients), terms

    monkeypatch.setattr(Trainer, "gradient", broken)
    with opened(tmp_path, config) as folder:
        train(GroupTask(group, Images(data)).compile(), folder)
        rows = folder.members.results([run.name for run in group.runs], pytest.fail)
    assert [row["attempt"] for row in rows] == stored
    assert {row["status"] for row in rows} <= {"diverged"}


@pytest.mark.parametrize("likelihood", ["bernoulli", "laplace"])
def test_every_seed_is_scored_on_the_same_draw_of_the_test_images(data, likelihood):
    """So their scores are paired over images, binarized or dequantised."""
    config = small_config()
    config["sweep"] = {"likelihood": likelihood, "seed": (0, 1)}
    views = []
    for run in grid.expand(config):
        task = GroupTask(grid.Group((run,)), Images(data))
        views.append(np.asarray(task.test_x))
    np.testing.assert_array_equal(*views)
    assert not np.array_equal(views[0], task.images.test)
