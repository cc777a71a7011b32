"""Tests that a population larger than memory is cut into slices."""

import dataclasses
import json

import pytest

from experiments.data.images import load_data
from experiments.launch import sweeps
from experiments.messages.errors import SettingsError
from experiments.runner import loop, memory, planning
from experiments.runner.images import Images
from experiments.runner.interruption import Interruption
from experiments.runner.progress import Progress
from experiments.runner.task import GroupTask
from experiments.runs.folder import RunFolder
from experiments.settings import grid
from experiments.settings.fingerprint import fingerprints
from tests.folders import save_member, small_sweep
from vae_jax.model import num_parameters

SEEDS = tuple(range(5))


def small_config(memory_gib=0.0):
    config = small_sweep()
    config["model"] |= {"likelihood": "bernoulli", "widths": (64,)}
    config["training"] |= {"num_epochs": 2, "validate_every": 1}
    # A member's bits are independent of the others only if members run one by one.
    config["parallel"] |= {"member_execution": "loop", "memory_gib": memory_gib}
    config["sweep"] = {"seed": SEEDS}
    return config


@pytest.fixture(scope="module")
def whole():
    """Returns a group that fits, with its data."""
    runs = grid.expand(small_config())
    images = Images(load_data(runs[0].settings.data))
    (group,) = grid.group(runs)
    return group, images, memory.compile_fitting(group, images, 1e15)


def needed(fitting):
    """Returns the planned bytes of the compiled programs."""
    return fitting.compiled.bytes_needed()[0]


@pytest.mark.parametrize(
    ("most", "sizes"),
    [(1, [1] * 5), (2, [2, 2, 1]), (3, [3, 2]), (4, [3, 2]), (5, [5]), (9, [5])],
)
def test_slices_are_few_and_even(whole, most, sizes):
    group, *_ = whole
    slices = planning.cut(group, most)
    assert [len(part.runs) for part in slices] == sizes
    assert tuple(run for part in slices for run in part.runs) == group.runs


def test_what_fits_is_left_whole(whole):
    group, *_, found = whole
    assert found.compiled.task.group == group
    assert not found.rest


def test_what_a_program_takes_grows_with_its_members(whole):
    group, images, found = whole
    (alone, *_) = planning.cut(group, 1)
    one = memory.compile_fitting(alone, images, 1e15)
    gained = needed(found) - needed(one)
    task = found.compiled.task
    params = 4 * num_parameters(task.population.shapes)
    # Parameters, the best of them, and two moments of each, at least.
    assert gained >= 4 * params * (len(SEEDS) - 1)


def test_what_does_not_fit_is_cut(whole):
    group, images, found = whole
    limit = 0.7 * needed(found)
    first = memory.compile_fitting(group, images, limit)
    assert needed(first) <= limit
    parts = [first.compiled.task.group, *first.rest]
    assert tuple(run for part in parts for run in part.runs) == group.runs
    assert 1 < len(parts) < len(SEEDS)


def test_a_member_that_cannot_fit_is_refused(whole):
    group, images, _ = whole
    with pytest.raises(SettingsError, match=r"seed=0 needs .* GiB .*batch_size"):
        memory.compile_fitting(group, images, 1.0)


@pytest.mark.slow
def test_slices_end_with_the_bits_of_the_whole(whole, tmp_path):
    *_, found = whole
    kept = {}
    cut = 0.7 * needed(found)
    ways = {"whole": (0.0, True), "cut": (cut, True), "in turn": (cut, False)}
    for name, (limit, compile_ahead) in ways.items():
        config = small_config(limit / 2**30)
        config["parallel"]["compile_ahead"] = compile_ahead
        runs = grid.expand(config)
        sweeps.train_and_report(config, runs, runs, tmp_path / name)
        kept[name] = {
            path.parent.name: path.read_bytes()
            for path in (tmp_path / name).glob("members/*/params.safetensors")
        }
        for run in runs:
            path = tmp_path / name / "members" / run.name / "metrics.jsonl"
            rows = map(json.loads, path.read_text().splitlines())
            assert [row["epoch"] for row in rows] == [1, 2]
    assert len(kept["whole"]) == len(SEEDS)
    assert kept["whole"] == kept["cut"] == kept["in turn"]


def test_compiling_can_wait_until_training_has_ended(tmp_path, monkeypatch):
    """Two groups are each compiled while none trains."""
    compile_fitting, train_group = memory.compile_fitting, loop.train_group
    events = []

    def compiled(*arguments):
        events.append("compiled")
        return compile_fitting(*arguments)

    def trained(*arguments):
        train_group(*arguments)
        events.append("trained")

    monkeypatch.setattr(memory, "compile_fitting", compiled)
    monkeypatch.setattr(loop, "train_group", trained)
    config = small_config()
    config["parallel"]["compile_ahead"] = False
    config["sweep"] = {"likelihood": ("bernoulli", "laplace"), "seed": (0,)}
    runs = grid.expand(config)
    sweeps.train_and_report(config, runs, runs, tmp_path)
    assert events == ["compiled", "trained"] * 2


def opened(path, config, data):
    owners = fingerprints(grid.expand(config), data.fingerprint)
    return RunFolder.create(path, config, owners, data.fingerprint, print)


def killed(*_):
    raise KeyboardInterrupt


def planned(group, folder):
    return {part.runs for part in planning.plan(group.runs, folder)}


def test_all_slices_are_noted_before_the_first_trains(whole, tmp_path, monkeypatch):
    group, images, found = whole
    slices = planning.cut(group, 2)
    first = dataclasses.replace(found.compiled, task=GroupTask(slices[0], images))
    fitting = memory.Fitting(first, 0, slices[1:])
    monkeypatch.setattr(memory, "compile_fitting", lambda *_: fitting)
    monkeypatch.setattr(loop, "train_group", killed)
    folder = opened(tmp_path, small_config(), images.data)
    with Progress([group], shown=False) as progress, pytest.raises(KeyboardInterrupt):
        loop.run_groups([group], images, folder, progress, Interruption())
    folder.close()
    assert planned(group, folder) == {part.runs for part in slices}


@pytest.mark.parametrize("noted", [1, 2, 3, 4])
def test_a_kill_amid_the_notes_leaves_the_whole(whole, tmp_path, monkeypatch, noted):
    """Otherwise the slices without a note would be cut again, among themselves."""
    group, images, _ = whole
    folder = opened(tmp_path, small_config(), images.data)
    slices = planning.cut(group, 2)
    parts = iter([folder.groups.begin] * noted + [killed])
    with monkeypatch.context() as patch:
        patch.setattr(folder.groups, "begin", lambda *note: next(parts)(*note))
        patch.setattr(folder.groups, "end", killed)
        with pytest.raises(KeyboardInterrupt):
            planning.note_slices(slices, folder)
    assert planned(group, folder) == {group.runs}
    planning.note_slices(slices, folder)
    folder.close()
    assert planned(group, folder) == {part.runs for part in slices}


def test_runs_are_started_again_after_the_last_slice(whole, tmp_path):
    """There they are the same runs, whether or not the command was interrupted."""
    _, images, _ = whole
    config = small_config()
    config["training"]["on_non_finite"] = "reseed"
    runs = grid.expand(config)
    folder = opened(tmp_path, config, images.data)
    first, *rest = planning.cut(grid.Group(runs), 2)
    planning.note_slices([first, *rest], folder)
    folder.failures.save(runs[0].name, 0, {}, {})
    save_member(folder, runs[1].name)
    folder.groups.end(first.name)
    assert {part.runs for part in planning.next_groups(runs, folder)} == {
        part.runs for part in rest
    }
    for part in rest:
        for run in part.runs:
            save_member(folder, run.name)
    folder.close()
    assert planning.next_groups(runs, folder) == [grid.Group(runs[:1], attempt=1)]
