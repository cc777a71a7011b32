"""Tests of experiments.run_folder."""

import concurrent.futures
import json
import resource

import jax
import numpy as np
import pytest

from experiments import files, run_folder
from experiments.files import FolderError
from experiments.run_folder import RunFolder

CONFIG = {"seed": 0, "model": {"latent_dim": 2, "widths": (8, 4)}, "sweep": {}}


IMAGES = "0123456789ab"


def create(path, config=CONFIG, images=IMAGES, report=lambda line: None):
    """Opens a folder and closes it again, so that another test may."""
    folder = RunFolder.create(path, config, images, report)
    folder.close()
    return folder


def listing(folder):
    return sorted(
        path.relative_to(folder).as_posix()
        for path in folder.rglob("*")
        if path.is_file() and path.name != ".lock"
    )


def refusal(function, *arguments):
    """Returns the one line with which a call is refused."""
    with pytest.raises(FolderError) as caught:
        function(*arguments)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.fixture
def folder(tmp_path):
    folder = create(tmp_path / "run")
    folder.restore_metrics([], [])
    return folder


# --- whose folder it is ---------------------------------------------------------------


def test_a_new_folder_holds_config_and_environment(folder):
    assert listing(folder.path) == ["config.json", "environment.json", "metrics.jsonl"]
    assert folder.config() == json.loads(json.dumps(CONFIG))
    environment = json.loads((folder.path / "environment.json").read_text())
    assert environment["bits_depend_on"]["jax"] == jax.__version__
    assert environment["bits_depend_on"]["backend"] == jax.default_backend()


def test_an_empty_folder_is_taken(tmp_path):
    create(tmp_path)
    assert "config.json" in listing(tmp_path)


def test_the_same_config_continues(folder):
    again = create(folder.path)
    assert again.config() == folder.config()
    assert RunFolder.open(folder.path).config() == folder.config()


def test_another_config_is_refused_naming_what_differs(folder):
    before = (folder.path / "config.json").read_bytes()
    environment = (folder.path / "environment.json").stat().st_mtime_ns
    other = {"seed": 1, "model": {"latent_dim": 2, "widths": (8, 5)}, "data": 3}
    line = refusal(create, folder.path, other)
    assert "config.seed is 0 there and 1 here" in line
    assert "config.model.widths is [8, 4] there and [8, 5] here" in line
    assert "config.data is '(absent)' there and 3 here" in line
    assert "latent_dim" not in line
    assert "--workdir" in line
    assert (folder.path / "config.json").read_bytes() == before
    assert (folder.path / "environment.json").stat().st_mtime_ns == environment


def test_settings_that_no_number_depends_on_may_change(tmp_path):
    config = {"data": {"data_dir": "a", "name": "x"}, "checkpoint": {"keep": 2}}
    create(tmp_path / "run", config)
    moved = {"data": {"data_dir": "b", "name": "x"}, "checkpoint": {"keep": 3}}
    assert create(tmp_path / "run", moved).config() == config
    other = {**config, "data": {"data_dir": "a", "name": "y"}}
    line = refusal(create, tmp_path / "run", other)
    assert "config.data.name is 'x' there and 'y' here" in line


def test_other_images_are_refused(folder):
    line = refusal(create, folder.path, CONFIG, "ba9876543210")
    assert "other images" in line
    assert IMAGES in line
    create(folder.path)  # The folder is not left locked.
    assert refusal(folder.refuse_other_images, "ba9876543210") == line
    folder.refuse_other_images(IMAGES)


def test_another_environment_is_told_and_recorded(folder):
    path = folder.path / "environment.json"
    before = json.loads(path.read_text())
    before["bits_depend_on"]["jax"] = "0.0.1"
    path.write_text(json.dumps(before))
    told = []
    create(folder.path, report=told.append)
    assert len(told) == 1
    assert f"jax is '0.0.1' there and {jax.__version__!r} here" in told[0]
    after = json.loads(path.read_text())
    assert after["bits_depend_on"]["jax"] == "0.0.1"
    assert after["continued"][0]["bits_depend_on"]["jax"] == jax.__version__


def test_as_many_files_may_be_open_as_are_permitted(tmp_path):
    """Each member of a group has one: more than the 1,024 that are usual."""
    before, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (256, most))
    try:
        create(tmp_path / "run")
        assert resource.getrlimit(resource.RLIMIT_NOFILE) == (most, most)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (before, most))


def test_a_folder_has_one_writer_at_a_time(tmp_path):
    first = RunFolder.create(tmp_path / "run", CONFIG, IMAGES, print)
    assert "another process" in refusal(create, tmp_path / "run")
    RunFolder.open(tmp_path / "run")  # Reading is free.
    first.close()
    create(tmp_path / "run")


def test_files_left_half_written_are_cleared_away(folder):
    (folder.path / "members" / "a").mkdir(parents=True)
    (folder.path / "members" / "a" / ".result.json.12.unfinished").write_text("{")
    create(folder.path)
    assert "unfinished" not in " ".join(listing(folder.path))


def test_a_folder_of_other_things_is_refused_and_left_alone(tmp_path):
    (tmp_path / "notes.txt").write_text("precious")
    line = refusal(create, tmp_path, CONFIG)
    assert str(tmp_path) in line
    assert listing(tmp_path) == ["notes.txt"]
    assert refusal(create, tmp_path / "notes.txt", CONFIG)
    assert (tmp_path / "notes.txt").read_text() == "precious"
    assert "config.json" in refusal(RunFolder.open, tmp_path)
    assert "config.json" in refusal(RunFolder.open, tmp_path / "nowhere")
    assert "config.json" in refusal(RunFolder.open, tmp_path / ("x" * 300))


@pytest.mark.parametrize("name", ["file/run", "x" * 300], ids=["below a file", "long"])
def test_a_folder_that_cannot_be_made_is_refused(tmp_path, name):
    (tmp_path / "file").write_text("a file")
    line = refusal(create, tmp_path / name, CONFIG)
    assert "cannot write" in line
    assert "choose another place" in line
    assert listing(tmp_path) == ["file"]


@pytest.mark.parametrize("text", ["", '{"seed": ', "[1, 2]", "[[1, 2]]", "3", "\0"])
def test_a_damaged_config_is_refused(folder, text):
    (folder.path / "config.json").write_text(text)
    line = refusal(create, folder.path, CONFIG)
    assert "config.json" in line
    assert (folder.path / "config.json").read_text() == text


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("[[1, 2]]", "no object"),
        ('{"command": "x"}', "'bits_depend_on'"),
        ('{"command": "x", "bits_depend_on": []}', "'bits_depend_on'"),
        ('{"bits_depend_on": {"data": "0123456789ab"}}', "'command'"),
    ],
)
def test_a_damaged_environment_is_refused(folder, text, word):
    path = folder.path / "environment.json"
    path.write_text(text)
    line = refusal(create, folder.path)
    assert str(path) in line
    assert word in line
    assert path.read_text() == text


# --- finished and unfinished runs -----------------------------------------------------


def row(run, epoch):
    return {"run": run, "epoch": epoch, "validation/bound": -1.5 * epoch}


def test_a_run_is_finished_once_its_result_is_written(folder, monkeypatch):
    assert folder.finished() == set()
    folder.save_member("a", {"bias": np.zeros(2)}, {"run": "a"})
    written = []

    def only_params(path, content):
        if path.name == "result.json":
            raise FolderError("disk full")
        written.append(path.name)

    for module in (files, run_folder):
        monkeypatch.setattr(module, "write_atomically", only_params)
    with pytest.raises(FolderError):
        folder.save_member("b", {"bias": np.zeros(2)}, {"run": "b"})
    # The result comes last.
    assert written == ["params.safetensors", "environment.json"]
    assert folder.finished() == {"a"}


def test_results_are_in_the_order_asked_for(folder):
    for run in ("b", "a", "c"):
        folder.save_member(run, {}, {"run": run, "score": 1.0})
    names = [result["run"] for result in folder.results(["c", "missing", "a"])]
    assert names == ["c", "a"]


def test_a_result_that_was_changed_is_refused(folder):
    folder.save_member("a", {}, {"run": "a", "score": 1.25, "seconds": 2.0})
    (row,) = folder.results(["a"])
    assert row == {"run": "a", "score": 1.25, "seconds": 2.0}
    path = folder.path / "members" / "a" / "result.json"
    path.write_text(path.read_text().replace("1.25", "1.24"))
    assert str(path) in refusal(folder.results, ["a"])


def test_metrics_of_runs_trained_anew_are_dropped_and_no_others(folder):
    folder.log([row("a", 1), row("b", 1)])
    folder.log([row("a", 2)])
    folder.close_events()
    path = folder.path / "metrics.jsonl"
    kept = [line for line in path.read_text().splitlines() if '"a"' in line]
    with path.open("a") as file:
        file.write('{"run": "a", "epoch": 3}')  # No end of line: half a row.
    create(folder.path).restore_metrics(["b"], [])
    assert path.read_text().splitlines() == kept
    assert len(kept) == 2


@pytest.mark.parametrize(
    "half", ["", '{"run": "a", "ep', "\0\0", "3\n", "{}\n", '{"run": {}}\n']
)
def test_half_a_row_is_dropped(folder, half):
    folder.log([row("a", 1)])
    folder.close_events()
    path = folder.path / "metrics.jsonl"
    whole = path.read_text()
    path.write_text(whole + half)
    create(folder.path).restore_metrics([], [])
    assert path.read_text() == whole


def test_a_run_trained_anew_replaces_its_events(folder):
    for _ in range(2):
        fresh = create(folder.path)
        fresh.restore_metrics(["a"], [])
        fresh.log([row("a", 1)])
        fresh.close_events()
    assert len(list((folder.path / "tensorboard" / "a").iterdir())) == 1
    assert len((folder.path / "metrics.jsonl").read_text().splitlines()) == 1


def test_metrics_that_cannot_be_written_are_refused(folder):
    (folder.path / "metrics.jsonl").unlink()
    (folder.path / "metrics.jsonl").mkdir()
    assert "metrics.jsonl" in refusal(folder.log, [row("a", 1)])
    assert "metrics.jsonl" in refusal(folder.metrics, ["a"])
    assert "metrics.jsonl" in refusal(create, folder.path)


# --- parameters -----------------------------------------------------------------------

AWKWARD = np.array(
    [0.0, -0.0, 1e-45, np.finfo(np.float32).max, np.inf, -np.inf, np.nan, 1 / 3],
    np.float32,
)


def test_parameters_come_back_bit_by_bit(folder, key):
    params = {
        "encoder": {"layers_0": {"kernel": jax.random.normal(key, (3, 4))}},
        "decoder": {"bias": AWKWARD, "transposed": np.asfortranarray(np.eye(2, 3))},
        "shared": np.zeros((0,), np.float32),
        "count": np.int32(7),
        "posterior": {},
        "prior": {"means": np.ones(2, np.float32)},
    }
    folder.save_member("likelihood=beta,seed=0", params, {"run": "x"})
    loaded = folder.load_params("likelihood=beta,seed=0")
    assert jax.tree.structure(loaded) == jax.tree.structure(params)
    for new, old in zip(jax.tree.leaves(loaded), jax.tree.leaves(params), strict=True):
        old = np.asarray(old)
        assert new.dtype == old.dtype
        assert new.shape == old.shape
        assert new.tobytes() == old.tobytes(order="C")


@pytest.mark.parametrize(
    "damage",
    [
        lambda content: content[:-4],
        lambda content: content[:5],
        lambda content: b"",
        lambda content: b"\xff" * len(content),
        lambda content: content[:8] + b"x" * (len(content) - 8),
    ],
    ids=["cut", "header", "empty", "length", "text"],
)
def test_damaged_parameters_are_refused(folder, damage):
    folder.save_member("a", {"kernel": np.ones((4, 4), np.float32)}, {"run": "a"})
    path = folder.path / "members" / "a" / "params.safetensors"
    path.write_bytes(damage(path.read_bytes()))
    line = refusal(folder.load_params, "a")
    assert str(path) in line
    assert "delete" in line


def test_a_run_that_is_not_there_is_refused(folder):
    folder.save_member("likelihood=laplace,seed=0", {}, {})
    line = refusal(folder.load_params, "likelihood=laplac,seed=0")
    assert "no finished run 'likelihood=laplac,seed=0'" in line
    assert "did you mean 'likelihood=laplace,seed=0'?" in line
    assert str(folder.path / "members") in refusal(folder.load_params, "x" * 300)


def test_missing_parameters_are_refused(folder):
    folder.save_member("a", {}, {})
    path = folder.path / "members" / "a" / "params.safetensors"
    path.unlink()
    assert str(path) in refusal(folder.load_params, "a")


@pytest.mark.parametrize("at", [0, 20, 90, -1])
def test_a_flipped_bit_is_never_loaded(folder, at):
    folder.save_member("a", {"kernel": np.ones((4, 4), np.float32)}, {"run": "a"})
    path = folder.path / "members" / "a" / "params.safetensors"
    content = bytearray(path.read_bytes())
    content[at] ^= 1
    path.write_bytes(content)
    assert str(path) in refusal(folder.load_params, "a")


# --- groups that are not finished, and failures ---------------------------------------


def test_a_group_is_noted_until_it_ends(folder):
    path = folder.begin("beta-12", ["a", "b"], 1)
    (path / "10").mkdir(parents=True)
    assert folder.begun() == [(("a", "b"), 1)]
    folder.end("beta-12")
    assert folder.begun() == []
    assert list((folder.path / "checkpoints").iterdir()) == []


@pytest.mark.parametrize(
    "text",
    [
        '{"runs": ',
        '{"runs": ["a"]}',
        '{"runs": 3, "attempt": 0}',
        '{"runs": [{}], "attempt": 0}',
        '{"runs": ["a"], "attempt": "0"}',
    ],
)
def test_a_damaged_note_on_a_group_is_dropped(folder, text):
    folder.begin("beta-12", ["a"], 0)
    note = folder.path / "checkpoints" / "beta-12.json"
    note.write_text(text)
    assert folder.begun() == []
    assert not note.exists()


def test_a_folder_is_no_note_on_a_group(folder):
    path = folder.path / "checkpoints" / "beta-12.json"
    path.mkdir(parents=True)
    assert folder.begun() == []
    assert str(path) in refusal(folder.begin, "beta-12", ["a"], 0)


def test_failures_come_back_as_they_were_saved(folder):
    state = {"params/bias": AWKWARD, "count": np.int32(3)}
    folder.save_failure("a", 0, {"step": 7}, state)
    facts, loaded = folder.load_failure("a")
    assert facts == {"step": 7}
    assert loaded.keys() == state.keys()
    assert loaded["params/bias"].tobytes() == AWKWARD.tobytes()
    assert folder.num_failures("a") == 1
    assert folder.num_failures("b") == 0
    assert "those that met a value that is not finite: a" in refusal(
        folder.load_failure, "b"
    )


# --- tables ---------------------------------------------------------------------------


def test_tables_have_the_fields_of_all_rows(folder):
    """A folder that an older version has begun holds results with fewer."""
    rows = [{"run": "a", "score": 1.5}, {"run": "b", "added": 2, "score": 3}]
    path = folder.write_table("results.csv", rows)
    assert path.read_text() == "run,score,added\na,1.5,\nb,3,2\n"


def test_tables_quote_what_they_must(folder):
    rows = [
        {"run": "likelihood=beta,seed=0", "score": 1.5, "note": None},
        {"run": 'a "b"', "score": float("nan"), "note": ""},
    ]
    path = folder.write_table("results.csv", rows)
    assert path.read_text() == (
        'run,score,note\n"likelihood=beta,seed=0",1.5,\n"a ""b""",,\n'
    )


def test_rows_replace_those_that_measured_the_same(folder):
    identity = ("run", "steps")
    first = {"run": "a", "steps": 5, "score": 1.0}
    folder.add_to_table("table.csv", [first, {**first, "run": "b"}], identity)
    folder.add_to_table(
        "table.csv",
        [{**first, "steps": 50}, {**first, "run": "b", "score": 2.0}],
        identity,
    )
    assert (folder.path / "table.csv").read_text() == (
        "run,steps,score\na,5,1.0\na,50,1.0\nb,5,2.0\n"
    )


def test_a_folder_of_locks_alone_is_taken(tmp_path):
    """All but what is hidden was removed of one that was evaluated."""
    folder = create(tmp_path)
    folder.add_to_table("table.csv", [{"run": "a"}], ["run"])
    for path in tmp_path.glob("[!.]*"):
        path.unlink()
    create(tmp_path)


def test_rows_that_several_add_at_once_are_all_kept(folder):
    """Each through a folder of its own, as processes that evaluate are."""

    def add(number):
        own = RunFolder.open(folder.path)
        own.add_to_table("table.csv", [{"run": str(number)}], ["run"])

    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        list(pool.map(add, range(100)))
    rows = (folder.path / "table.csv").read_text().split()
    assert sorted(rows) == sorted(["run", *map(str, range(100))])
