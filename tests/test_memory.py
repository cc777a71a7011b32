"""Tests of experiments.memory: a population larger than memory is cut into slices."""

import json

import pytest

from configs import digits
from experiments import grid, memory, runner
from experiments.data import load_data
from experiments.group_task import DeviceData
from experiments.settings import SettingsError

SEEDS = tuple(range(5))


def small_config(memory_gib=0.0):
    config = digits.get_config("tiny").to_dict()
    config["data"]["num_train"] = 100
    config["model"] |= {"likelihood": "bernoulli", "widths": (64,)}
    config["training"] |= {"num_epochs": 2, "validate_every": 1}
    config["evaluation"] = {"num_samples": 2, "chunk": 2, "batch_size": 10}
    config["diagnostics"] = {
        "latents": False,
        "permutations": 0,
        "floor": False,
        "probes": False,
    }
    # Bits do not depend on the company a member has only where it is trained alone.
    config["parallel"] |= {"member_execution": "loop", "memory_gib": memory_gib}
    config["sweep"] = {"seed": SEEDS}
    return config


@pytest.fixture(scope="module")
def whole():
    """A group that fits, with its data."""
    runs = grid.expand(small_config())
    data = load_data(runs[0].settings.data)
    device_data = DeviceData.put(data)
    (group,) = grid.group(runs)
    return (
        group,
        data,
        device_data,
        memory.compile_fitting(group, data, device_data, 1e15),
    )


@pytest.mark.parametrize(
    ("most", "sizes"),
    [(1, [1] * 5), (2, [2, 2, 1]), (3, [3, 2]), (4, [3, 2]), (5, [5]), (9, [5])],
)
def test_slices_are_few_and_even(whole, most, sizes):
    group, *_ = whole
    slices = memory.cut(group, most)
    assert [len(part.runs) for part in slices] == sizes
    assert tuple(run for part in slices for run in part.runs) == group.runs


def test_what_fits_is_left_whole(whole):
    group, *_, found = whole
    assert found.task.group == group
    assert not found.rest


def test_what_a_program_takes_grows_with_its_members(whole):
    group, data, device_data, found = whole
    (alone, *_) = memory.cut(group, 1)
    one = memory.compile_fitting(alone, data, device_data, 1e15)
    gained = found.programs.peak_bytes - one.programs.peak_bytes
    params = 4 * found.task.widest.num_parameters(found.task.shapes)
    # Parameters, the best of them, and two moments of each, at least.
    assert gained >= 4 * params * (len(SEEDS) - 1)


def test_what_does_not_fit_is_cut(whole):
    group, data, device_data, found = whole
    limit = 0.7 * found.programs.peak_bytes
    first = memory.compile_fitting(group, data, device_data, limit)
    assert first.programs.peak_bytes <= limit
    parts = [first.task.group, *first.rest]
    assert tuple(run for part in parts for run in part.runs) == group.runs
    assert 1 < len(parts) < len(SEEDS)


def test_a_member_that_cannot_fit_is_refused(whole):
    group, data, device_data, _ = whole
    with pytest.raises(SettingsError, match=r"seed=0 needs .* GiB .*batch_size"):
        memory.compile_fitting(group, data, device_data, 1.0)


def test_slices_end_with_the_bits_of_the_whole(whole, tmp_path):
    *_, found = whole
    kept = {}
    for name, limit in (("whole", 0.0), ("cut", 0.7 * found.programs.peak_bytes)):
        config = small_config(limit / 2**30)
        runs = grid.expand(config)
        runner.train_and_report(config, runs, runs, tmp_path / name)
        kept[name] = {
            path.parent.name: path.read_bytes()
            for path in (tmp_path / name).glob("members/*/params.safetensors")
        }
        epochs = [
            json.loads(row)["epoch"]
            for row in (tmp_path / name / "metrics.jsonl").read_text().splitlines()
        ]
        assert sorted(epochs) == sorted([1, 2] * len(SEEDS))
    assert len(kept["whole"]) == len(SEEDS)
    assert kept["whole"] == kept["cut"]
