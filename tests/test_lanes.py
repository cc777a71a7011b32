"""Tests of groups that train at the same time, each in a lane."""

import copy
import threading
import time

import pytest

from experiments.data.images import load_data
from experiments.messages.errors import FolderError, SettingsError
from experiments.runner import loop, planning
from experiments.runner.interruption import Interruption, Stopped
from experiments.runner.memory import Room
from experiments.runs.folder import RunFolder
from experiments.settings import grid
from experiments.settings.fingerprint import fingerprints
from tests.folders import small_sweep

CONFIG = small_sweep()
CONFIG["model"] |= {"widths": (8,)}
CONFIG["training"] |= {"num_epochs": 3, "validate_every": 1}
CONFIG["sweep"] = {
    "likelihood": ("bernoulli", "laplace", "beta"),
    "latent_dim": (2, 3),
}


@pytest.fixture
def cores(monkeypatch):
    monkeypatch.setattr(planning, "num_cores", lambda: 4)


def config_of(lanes):
    config = copy.deepcopy(CONFIG)
    config["parallel"]["lanes"] = lanes
    return config


def train(path, config, interruption=None):
    """Trains without a report."""
    runs = grid.expand(config)
    data = load_data(runs[0].settings.data)
    owners = fingerprints(runs, data.fingerprint)
    folder = RunFolder.create(path, config, owners, data.fingerprint, pytest.fail)
    try:
        loop.train(data, runs, folder, interruption or Interruption())
    finally:
        folder.close()
    return folder


def kept(path):
    """Returns the bits of all members, and their metric rows."""
    return {
        (file.parent.name, file.name): file.read_bytes()
        for pattern in ("*.safetensors", "metrics.jsonl")
        for file in path.glob(f"members/*/{pattern}")
    }


def test_no_bit_depends_on_the_number_of_lanes(cores, tmp_path):
    for lanes in (1, 2, 4):
        train(tmp_path / str(lanes), config_of(lanes))
    one, two, four = (kept(tmp_path / str(lanes)) for lanes in (1, 2, 4))
    assert len(one) == 6 * 3
    assert one == two == four


class AskedByTwo(Interruption):
    """An interruption that comes once two groups have trained for an epoch."""

    def __init__(self):
        super().__init__()
        self._both = threading.Barrier(2, timeout=60)

    def requested(self):
        self._both.wait()
        self.ask()
        return super().requested()


def checkpoints(path):
    """Returns the epochs of the checkpoints of each group that is not finished."""
    return sorted(file.stem for file in path.glob("checkpoints/*/*.safetensors"))


def test_a_request_stops_every_lane_after_a_checkpoint(cores, tmp_path):
    path = tmp_path / "run"
    with pytest.raises(Stopped, match="stopped after epoch 1 of"):
        train(path, config_of(2), AskedByTwo())
    assert checkpoints(path) == ["1", "1"]
    train(path, config_of(2))
    train(tmp_path / "whole", config_of(1))
    assert kept(path) == kept(tmp_path / "whole")


def test_lanes_save_their_work_if_one_fails(cores, monkeypatch, tmp_path):
    train_group, began = loop.train_group, threading.Event()

    def failing(compiled, folder, progress, interruption, background):
        if compiled.task.settings.model.likelihood == "laplace":
            assert began.wait(60)
            raise FolderError("the folder is full.")
        began.set()
        while not interruption.is_asked():
            time.sleep(0.01)
        train_group(compiled, folder, progress, interruption, background)

    monkeypatch.setattr(loop, "train_group", failing)
    with pytest.raises(FolderError, match="full"):
        train(tmp_path, config_of(3))
    assert set(checkpoints(tmp_path)) == {"1"}


def test_long_groups_come_first():
    runs = grid.expand(
        CONFIG | {"sweep": {"likelihood": ("bernoulli", "categorical", "laplace")}}
    )
    data = load_data(runs[0].settings.data)
    groups = planning.longest_first(grid.group(runs), data)
    names = [group.widest.model.likelihood for group in groups]
    assert names == ["categorical", "laplace", "bernoulli"]


def large_config():
    config = config_of(2)
    config["sweep"] = {"seed": tuple(range(17))}
    return config


def test_large_groups_train_in_parts_on_a_cpu(cores):
    (group,) = grid.group(grid.expand(large_config()))
    parts = planning.parts(group)
    assert [len(part.runs) for part in parts] == [9, 8]
    assert tuple(run for part in parts for run in part.runs) == group.runs
    assert planning.num_lanes([group]) == 2


@pytest.mark.slow
def test_parts_of_a_large_group_are_continued(cores, tmp_path):
    whole, path = tmp_path / "whole", tmp_path / "stopped"
    train(whole, large_config())
    with pytest.raises(Stopped):
        train(path, large_config(), AskedByTwo())
    assert checkpoints(path) == ["1", "1"]
    train(path, large_config())
    assert kept(path) == kept(whole)
    assert len(kept(path)) == 17 * 3


def test_a_group_waits_until_its_memory_is_free():
    room, events = Room(10), []
    may_end, second = threading.Event(), threading.Event()

    def first():
        with room.taken(6):
            second.set()
            may_end.wait(60)
            events.append("first")

    def later():
        with room.taken(5):
            events.append("second")

    threads = [threading.Thread(target=first), threading.Thread(target=later)]
    threads[0].start()
    assert second.wait(60)
    threads[1].start()
    with room.taken(4):  # It fits beside the first.
        may_end.set()
        threads[0].join()
    threads[1].join()
    assert events == ["first", "second"]
    with room.taken(11):  # What never fits beside others may train alone.
        pass


def test_more_lanes_than_cores_are_refused(cores):
    runs = grid.expand(config_of(5))
    data = load_data(runs[0].settings.data)
    with pytest.raises(
        SettingsError, match=r"lanes is 5: .* 4 cores. Choose at most 4"
    ):
        planning.check_devices(runs, data)
    planning.check_devices(grid.expand(config_of(4)), data)
