"""Tests of experiments.records."""

import json
import math
import sys

import pytest

from experiments import environment, records
from experiments.files import FolderError
from experiments.run_folder import RunFolder

CONFIG = {"seed": 0, "model": {"latent_dim": 2, "widths": (8, 4)}, "sweep": {}}


@pytest.fixture
def keep(tmp_path):
    """Keeps results of a configuration, those of a folder of their own; the record."""

    def put(config, **scores):
        place = tmp_path / f"runs {len(list(tmp_path.iterdir()))}"
        folder = RunFolder.create(place, config, "0" * 64, print)
        for run, score in scores.items():
            folder.save_member(run, {}, {"run": run, "score": score})
        folder.close()
        records.keep(*records.finished(folder), tmp_path / "record.json", print)
        return tmp_path / "record.json"

    return put


def scores(path, config=CONFIG):
    found = records.results(path, config)
    return {run: each["result"]["score"] for run, each in found.items()}


def test_a_record_holds_results_and_what_they_depend_on(keep):
    path = keep(CONFIG, a=1.5, b=float("nan"))
    assert scores(path)["a"] == 1.5
    assert math.isnan(scores(path)["b"])
    assert records.results(path, CONFIG)["a"]["bits_depend_on"]["backend"] == "cpu"
    assert "NaN" not in path.read_text()  # Any JSON reader takes it.


def test_no_path_of_the_machine_that_ran_it_is_kept(keep):
    """Records are committed; the folder's environment has the whole command line."""
    config = CONFIG | {"data": {"data_dir": "/home/me/data", "cache_dir": "/scratch"}}
    text = keep(config, a=1.5).read_text()
    assert not [path for path in (sys.argv[0], "/home", "/scratch") if path in text]


def test_results_are_added_and_replaced(keep):
    keep(CONFIG, a=1.0, b=2.0)
    assert scores(keep(CONFIG, b=3.0, c=4.0)) == {"a": 1.0, "b": 3.0, "c": 4.0}


def test_results_of_another_configuration_are_dropped(keep, capsys):
    keep(CONFIG, a=1.0)
    other = CONFIG | {"seed": 1}
    path = keep(other, b=2.0)
    assert "dropped: config.seed is 0 there and 1 here" in capsys.readouterr().out
    assert scores(path, other) == {"b": 2.0}
    with pytest.raises(FolderError, match=r"config\.seed is 1 there and 0 here"):
        scores(path)


def test_other_runs_in_the_sweep_are_no_difference(keep):
    keep(CONFIG, a=1.0)
    wider = CONFIG | {"sweep": {"beta": (1.0, 2.0)}}
    path = keep(wider, b=2.0)
    assert scores(path) == scores(path, wider) == {"a": 1.0, "b": 2.0}


def test_a_field_that_came_later_is_no_difference(keep):
    path = keep(CONFIG, a=1.0)
    later = CONFIG | {"model": CONFIG["model"] | {"new": 3}, "more": {"x": 1}}
    assert scores(path, later) == {"a": 1.0}
    assert scores(keep(later, b=2.0), later) == {"a": 1.0, "b": 2.0}
    assert json.loads(path.read_text())["config"]["model"]["new"] == 3


def test_a_folder_of_an_older_version_adds_what_is_lacking(keep):
    later = CONFIG | {"more": {"x": 1}}
    keep(later, a=1.0)
    path = keep(CONFIG, a=5.0, b=2.0)
    assert scores(path, later) == {"a": 1.0, "b": 2.0}


def test_results_name_where_they_were_trained_not_where_the_folder_was_begun(
    keep, tmp_path, monkeypatch
):
    monkeypatch.setattr(environment, "_commit", lambda: "first")
    folder = RunFolder.create(tmp_path / "own", CONFIG, "0" * 64, print)
    folder.save_member("a", {}, {"run": "a", "score": 1.0})
    folder.close()
    monkeypatch.setattr(environment, "_commit", lambda: "second")
    folder = RunFolder.create(tmp_path / "own", CONFIG, "0" * 64, print)
    folder.save_member("b", {}, {"run": "b", "score": 2.0})
    folder.close()
    records.keep(*records.finished(folder), tmp_path / "record.json", print)
    found = records.results(tmp_path / "record.json", CONFIG)
    commits = {run: each["bits_depend_on"]["commit"] for run, each in found.items()}
    assert commits == {"a": "first", "b": "second"}


def test_a_field_that_is_gone_is_a_difference(keep):
    path = keep(CONFIG, a=1.0)
    with pytest.raises(FolderError, match=r"config\.seed is 0 there"):
        scores(path, {"model": CONFIG["model"], "sweep": {}})


@pytest.mark.parametrize(
    "content", ["", '{"config": {}', "[]", "{}", '{"config": {}, "results": []}']
)
def test_a_damaged_record_is_refused(tmp_path, content):
    path = tmp_path / "record.json"
    path.write_text(content)
    with pytest.raises(FolderError, match=r"record\.json is no record"):
        records.results(path, CONFIG)


def test_a_folder_without_results_leaves_no_record(keep):
    assert not keep(CONFIG).exists()
