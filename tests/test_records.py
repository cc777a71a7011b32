"""Tests of experiments.runs.records."""

import json
import math
import sys

import pytest

from configs import digits
from experiments.messages.errors import FolderError
from experiments.runs import environment, records
from experiments.runs.folder import RunFolder
from experiments.settings import grid
from experiments.settings.fingerprint import fingerprints
from tests.folders import save_member

CONFIG = digits.get_config("tiny").to_dict() | {"sweep": {"seed": (0, 1, 2)}}
IMAGES = "0" * 64
A, B, C = (f"seed={seed}" for seed in range(3))


def changed(config, section, **fields):
    return config | {section: config[section] | fields}


def filled(place, config, scores):
    """Returns a folder with results."""
    owners = fingerprints(grid.expand(config), IMAGES)
    folder = RunFolder.create(place, config, owners, IMAGES, print)
    for run, score in scores.items():
        save_member(folder, run, bits=folder.bits_depend_on, score=score)
    folder.close()
    return folder


@pytest.fixture
def keep(tmp_path):
    """Keeps the results of a configuration's own folder; returns the record."""

    def put(config, scores):
        folder = filled(
            tmp_path / f"runs {len(list(tmp_path.iterdir()))}", config, scores
        )
        found = records.finished(RunFolder.open(folder.path), pytest.fail)
        records.keep(*found, tmp_path / "record.json", print)
        return tmp_path / "record.json"

    return put


def scores(path, config=CONFIG):
    found = records.results(path, config)
    return {run: each["result"]["score"] for run, each in found.items()}


def test_a_record_holds_results_and_what_they_depend_on(keep):
    path = keep(CONFIG, {A: 1.5, B: float("nan")})
    assert scores(path)[A] == 1.5
    assert math.isnan(scores(path)[B])
    found = records.results(path, CONFIG)[A]
    assert found["bits_depend_on"]["backend"] == "cpu"
    assert found["bits_depend_on"]["settings"]["stream"] is False
    assert (
        found["result"]["fingerprint"] == (fingerprints(grid.expand(CONFIG), IMAGES)[A])
    )
    assert "NaN" not in path.read_text()  # Any JSON reader takes it.


def test_no_path_of_the_machine_that_ran_it_is_kept(keep):
    """Records are committed; the folder's environment has the whole command line."""
    config = changed(CONFIG, "data", data_dir="/home/me/data", cache_dir="/scratch")
    text = keep(config, {A: 1.5}).read_text()
    assert not [path for path in (sys.argv[0], "/home", "/scratch") if path in text]


def test_results_are_added_and_replaced(keep):
    keep(CONFIG, {A: 1.0, B: 2.0})
    assert scores(keep(CONFIG, {B: 3.0, C: 4.0})) == {A: 1.0, B: 3.0, C: 4.0}


def test_results_of_another_configuration_are_dropped(keep, capsys):
    keep(CONFIG, {A: 1.0})
    other = CONFIG | {"seed": 1}
    path = keep(other, {B: 2.0})
    assert "dropped: config.seed is 0 there and 1 here" in capsys.readouterr().out
    assert scores(path, other) == {B: 2.0}
    with pytest.raises(FolderError, match=r"config\.seed is 1 there and 0 here"):
        scores(path)


def test_other_runs_in_the_sweep_are_no_difference(keep):
    keep(CONFIG, {A: 1.0})
    wider = CONFIG | {"sweep": {"beta": (1.0, 2.0)}}
    path = keep(wider, {"beta=1.0": 2.0})
    assert scores(path) == scores(path, wider) == {A: 1.0, "beta=1.0": 2.0}


def test_settings_of_the_machine_are_no_difference(keep):
    keep(CONFIG, {A: 1.0})
    moved = changed(changed(CONFIG, "parallel", members=2), "data", stream=True)
    path = keep(moved, {B: 2.0})
    assert scores(path) == scores(path, moved) == {A: 1.0, B: 2.0}


def without(config, section, field):
    """Returns the configuration of an earlier version."""
    return config | {section: {n: v for n, v in config[section].items() if n != field}}


def test_a_field_that_came_later_is_no_difference_at_its_default(keep):
    path = keep(CONFIG, {A: 1.0})
    record = json.loads(path.read_text())
    del record["config"]["training"]["mmd_weight"]
    path.write_text(json.dumps(record))
    assert scores(path) == {A: 1.0}
    with pytest.raises(FolderError, match=r"mmd_weight is 0\.0 there and 1\.0 here"):
        scores(path, changed(CONFIG, "training", mmd_weight=1.0))
    assert scores(keep(CONFIG, {B: 2.0})) == {A: 1.0, B: 2.0}
    config = json.loads(path.read_text())["config"]
    assert config["training"]["mmd_weight"] == 0.0


def test_a_folder_of_an_older_version_adds_its_results(keep, tmp_path):
    """Its configuration lacks the later fields."""
    keep(CONFIG, {A: 1.0})
    folder = filled(tmp_path / "old", CONFIG, {B: 2.0})
    config, found = records.finished(RunFolder.open(folder.path), pytest.fail)
    older = without(config, "training", "mmd_weight")
    records.keep(older, found, tmp_path / "record.json", pytest.fail)
    assert scores(tmp_path / "record.json") == {A: 1.0, B: 2.0}


def test_a_stored_configuration_has_its_defaults_in_the_record(tmp_path, keep):
    folder = filled(tmp_path / "old", CONFIG, {A: 1.0})
    older = without(CONFIG, "training", "mmd_weight")
    (folder.path / "config.json").write_text(json.dumps(older))
    config, found = records.finished(RunFolder.open(folder.path), pytest.fail)
    assert config["training"]["mmd_weight"] == 0.0
    assert found[A]["result"]["score"] == 1.0


def test_results_name_where_they_were_trained_not_where_the_folder_was_begun(
    keep, tmp_path, monkeypatch
):
    for commit, run in (("first", A), ("second", B)):
        monkeypatch.setattr(environment, "_commit", lambda commit=commit: commit)
        folder = filled(tmp_path / "own", CONFIG, {run: 1.0})
    found = records.finished(folder, pytest.fail)
    records.keep(*found, tmp_path / "record.json", print)
    found = records.results(tmp_path / "record.json", CONFIG)
    commits = {run: each["bits_depend_on"]["commit"] for run, each in found.items()}
    assert commits == {A: "first", B: "second"}


@pytest.mark.parametrize("name", ["result.json", "environment.json"])
@pytest.mark.parametrize("how", ["damaged", "of a neighbour"])
def test_a_run_that_cannot_be_read_is_left_out_and_named(tmp_path, name, how):
    folder = filled(tmp_path / "own", CONFIG, {A: 1.0, B: 2.0})
    path = folder.path / "members" / A / name
    neighbour = (folder.path / "members" / B / name).read_bytes()
    path.write_bytes(neighbour if how == "of a neighbour" else b"{")
    told = []
    _, found = records.finished(folder, told.append)
    assert found.keys() == {B}
    (line,) = told
    assert str(path) in line


def test_a_field_that_is_gone_is_a_difference(keep):
    path = keep(CONFIG, {A: 1.0})
    gone = {name: CONFIG[name] for name in CONFIG if name != "seed"}
    with pytest.raises(FolderError, match=r"config\.seed is 0 there"):
        scores(path, gone)


@pytest.mark.parametrize(
    "content", ["", '{"config": {}', "[]", "{}", '{"config": {}, "results": []}']
)
def test_a_damaged_record_is_refused(tmp_path, content):
    path = tmp_path / "record.json"
    path.write_text(content)
    with pytest.raises(FolderError, match=r"record\.json is not a record"):
        records.results(path, CONFIG)


def test_a_folder_without_results_leaves_no_record(keep):
    assert not keep(CONFIG, {}).exists()
