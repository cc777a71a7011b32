"""Tests of experiments.runs.members: finished runs, and failures."""

import json
import os
import shutil

import jax
import numpy as np
import pytest

from experiments.evaluation.columns import RESULTS
from experiments.messages.errors import FolderError
from tests.folders import (
    OWNERS,
    RESULT,
    create,
    listing,
    owners_of,
    refusal,
    reseal,
    save_member,
)


@pytest.fixture
def folder(tmp_path):
    return create(tmp_path / "run")


def part(folder, run, name):
    return folder.path / "members" / run / name


def other_owners(folder):
    """Makes a folder treat its runs as those of another configuration."""
    folder.bind(dict.fromkeys(folder.owners, "0" * 64))
    return folder


# --- finished runs --------------------------------------------------------------------


def test_a_run_is_finished_once_its_result_is_written(folder, monkeypatch):
    assert folder.members.finished() == set()
    save_member(folder, "a", {"bias": np.zeros(2)})
    written = []
    replace = os.replace

    def all_but_the_result(source, path):
        if path.name == "result.json":
            raise OSError("disk full")
        written.append(path.name)
        replace(source, path)

    monkeypatch.setattr(os, "replace", all_but_the_result)
    with pytest.raises(FolderError, match="disk full"):
        save_member(folder, "b", {"bias": np.zeros(2)})
    # The result comes last.
    assert written == ["params.safetensors", "arrays.safetensors", "environment.json"]
    assert folder.members.finished() == {"a"}


def test_a_finished_run_is_four_files(folder):
    save_member(folder, "a")
    assert sorted(path.name for path in part(folder, "a", ".").iterdir()) == [
        "arrays.safetensors",
        "environment.json",
        "params.safetensors",
        "result.json",
    ]


def test_results_are_in_the_order_asked_for(folder):
    for run in ("b", "a", "c"):
        save_member(folder, run)
    found = folder.members.results(["c", "missing", "a"], pytest.fail)
    assert [result["run"] for result in found] == ["c", "a"]


def test_what_bits_depend_on_comes_back_without_its_owner(folder):
    save_member(folder, "a", bits={"jax": "1.2", "settings": {"members": 0}})
    found = folder.members.bits_depend_on("a")
    assert found["jax"] == "1.2"
    assert found["settings"] == {"members": 0}
    assert found.keys() & {"run", "fingerprint"} == set()


def test_arrays_come_back_bit_by_bit(folder):
    arrays = {"test/log_px": AWKWARD, "picture/levels": np.int32(17)}
    save_member(folder, "a", arrays=arrays)
    loaded = folder.members.arrays("a")
    assert loaded.keys() == arrays.keys()
    assert loaded["test/log_px"].tobytes() == AWKWARD.tobytes()
    assert loaded["picture/levels"] == 17


def test_a_result_that_was_changed_is_left_out_and_named(folder):
    save_member(folder, "a", score=1.25, seconds=2.0)
    save_member(folder, "b")
    expected = {**RESULT, "run": "a", "fingerprint": OWNERS["a"], "seconds": 2.0}
    assert folder.members.results(["a"], pytest.fail) == [expected]
    path = part(folder, "a", "result.json")
    path.write_text(path.read_text().replace("1.25", "1.24"))
    assert "is not what was saved" in refusal(folder.members.result, "a")
    told = []
    rows = folder.members.results(["a", "b"], told.append)
    assert [row["run"] for row in rows] == ["b"]
    (line,) = told
    assert str(path) in line
    assert "delete" in line


def test_the_wall_time_of_a_result_may_be_changed(folder):
    """It differs between runs of the same bits."""
    save_member(folder, "a", seconds=2.0)
    path = part(folder, "a", "result.json")
    path.write_text(path.read_text().replace('"seconds": 2.0', '"seconds": 3.0'))
    assert folder.members.result("a")["seconds"] == 3.0


@pytest.mark.parametrize(
    "text",
    ["", "{", "[]", "3", "null", '"text"', "{}", "\0\0", "[" * 100_000],
    ids=["empty", "half", "list", "number", "null", "text", "nothing", "NUL", "deep"],
)
def test_a_result_that_is_none_is_refused(folder, text):
    save_member(folder, "a")
    path = part(folder, "a", "result.json")
    path.write_text(text)
    line = refusal(folder.members.result, "a")
    assert str(path) in line
    assert f"delete {path.parent} and repeat the command" in line


@pytest.mark.parametrize("name", sorted(RESULT))
@pytest.mark.parametrize("how", ["lacking", "of another type"])
def test_a_result_without_what_every_row_has_is_refused(folder, name, how):
    save_member(folder, "a")
    path = part(folder, "a", "result.json")
    facts = json.loads(path.read_text())
    if how == "lacking":
        del facts[name]
    else:
        facts[name] = [facts[name]]
    reseal(path, facts)
    line = refusal(folder.members.result, "a")
    assert f"its {name!r} is missing or of another type" in line
    assert f"delete {path.parent} and repeat the command" in line


@pytest.mark.parametrize("name", ["latent_dim", "seed", "epochs"])
@pytest.mark.parametrize("value", [True, 2.0, "2", None])
def test_a_count_of_a_result_is_a_whole_number(folder, name, value):
    save_member(folder, "a", **{name: value})
    assert repr(name) in refusal(folder.members.result, "a")


@pytest.mark.parametrize("name", ["score", "beta", "last_gain"])
def test_a_number_of_a_result_that_was_not_finite_is_nan(folder, name):
    save_member(folder, "a", **{name: float("inf")})
    value = folder.members.result("a")[name]
    assert value != value


@pytest.mark.parametrize(
    "text",
    [
        "=1+1",
        "+1",
        "-1",
        "@SUM(1)",
        " =1",
        "\x1b[31m",
        "<script>",
        "a\nb",
        "a\rb",
        "a\tb",
        "a\0b",
        "\u202egnp",
        "'",
        '"',
    ],
)
def test_a_text_of_a_result_that_may_act_is_refused(folder, text):
    for name in ("dataset", "latents"):  # One of all rows, and one of some.
        save_member(folder, "a", **{name: text})
        line = refusal(folder.members.result, "a")
        assert f"its {name!r} is {text!r}" in line
        assert line.isprintable()
        assert "repeat the command that trained it" in line


def test_a_name_of_a_column_that_may_act_is_refused(folder):
    save_member(folder, "a", **{"=1+1": 2.0})
    assert "its '=1+1' is 2.0" in refusal(folder.members.result, "a")


def test_texts_that_results_have_are_no_commands(folder):
    texts = {
        "unit": "bits/dim",
        "status": "schedule ended",
        "dataset": "Größen (8x8), v1.0",
        "setting": "a=1,b=2e-05",
        "binarization": "",
    }
    save_member(folder, "a", **texts)
    row = folder.members.result("a")
    assert {name: row[name] for name in texts} == texts


@pytest.mark.parametrize(
    ("before", "now"),
    [
        ("settled", "training ended"),
        ("epoch limit", "schedule ended"),
        ("diverged", "diverged"),
        ("patience ended", "patience ended"),
    ],
)
def test_what_an_earlier_version_claimed_is_read_as_what_was_known(folder, before, now):
    save_member(folder, "a", status=before)
    assert folder.members.result("a")["status"] == now


@pytest.mark.parametrize(
    ("before", "excess", "now"),
    [
        ("settled", 30.0, "failed"),
        ("epoch limit", 30.0, "failed"),
        ("settled", 1.5, "training ended"),  # Less than two standard errors.
        ("settled", -30.0, "training ended"),
        ("settled", None, "training ended"),
        ("schedule ended", 30.0, "schedule ended"),  # This version compares images.
        ("diverged", None, "diverged"),
    ],
)
def test_what_an_earlier_version_did_not_know_to_fail_failed(
    folder, before, excess, now
):
    log_px = None if excess is None else -100.0 - excess
    fields = {"log_px": log_px, "log_px_se": 1.0, "floor": 100.0}
    save_member(folder, "a", status=before, **fields)
    assert folder.members.result("a")["status"] == now
    save_member(folder, "b", status="settled", bits_per_dim=1e9)
    assert folder.members.result("b")["status"] == "failed"


# --- whose a part is ------------------------------------------------------------------

READERS = {
    "params.safetensors": "params",
    "arrays.safetensors": "arrays",
    "result.json": "result",
    "environment.json": "bits_depend_on",
}


@pytest.mark.parametrize("name", READERS)
def test_a_part_of_a_neighbour_is_refused_by_its_name(folder, name):
    for run in ("a", "b"):
        save_member(folder, run, {"bias": np.zeros(2)}, {"x": np.zeros(3)})
    shutil.copy(part(folder, "b", name), part(folder, "a", name))
    line = refusal(getattr(folder.members, READERS[name]), "a")
    assert str(part(folder, "a", name)) in line
    assert "belongs to another run, 'b'" in line
    assert "Put back its own, or delete" in line
    assert "repeat the command that trained it" in line
    getattr(folder.members, READERS[name])("b")


@pytest.mark.parametrize("name", READERS)
def test_a_part_of_another_configuration_is_refused(folder, name):
    """It belongs to a run of the same name with other settings or images."""
    save_member(folder, "a", {"bias": np.zeros(2)}, {"x": np.zeros(3)})
    line = refusal(getattr(other_owners(folder).members, READERS[name]), "a")
    assert str(part(folder, "a", name)) in line
    assert "same name with another configuration or other images" in line
    assert "delete" in line


def test_a_run_of_no_configuration_is_refused(folder):
    save_member(folder, "a")
    shutil.copytree(part(folder, "a", "."), part(folder, "z", "."))
    assert folder.members.finished() == {"a", "z"}
    for read in READERS.values():
        line = refusal(getattr(folder.members, read), "z")
        assert str(part(folder, "z", "")).rstrip("/") in line
        assert "no run of config.json" in line


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
    run = "likelihood=beta,seed=0"
    folder.bind(owners_of(run))
    save_member(folder, run, params)
    loaded = folder.members.params(run)
    assert jax.tree.structure(loaded) == jax.tree.structure(params)
    for new, old in zip(jax.tree.leaves(loaded), jax.tree.leaves(params), strict=True):
        old = np.asarray(old)
        assert new.dtype == old.dtype
        assert new.shape == old.shape
        assert new.tobytes() == old.tobytes(order="C")


@pytest.mark.parametrize("name", ["params.safetensors", "arrays.safetensors"])
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
def test_damaged_parameters_are_refused(folder, damage, name):
    tree = {"kernel": np.ones((4, 4), np.float32)}
    save_member(folder, "a", tree, tree)
    path = part(folder, "a", name)
    path.write_bytes(damage(path.read_bytes()))
    line = refusal(getattr(folder.members, READERS[name]), "a")
    assert str(path) in line
    assert "delete" in line


def test_a_run_that_is_not_there_is_refused(folder):
    run = "likelihood=laplace,seed=0"
    folder.bind(owners_of(run))
    save_member(folder, run)
    line = refusal(folder.members.params, "likelihood=laplac,seed=0")
    assert "no finished run 'likelihood=laplac,seed=0'" in line
    assert f"did you mean {run!r}?" in line
    assert str(folder.path / "members") in refusal(folder.members.params, "x" * 300)


@pytest.mark.parametrize("name", ["params.safetensors", "arrays.safetensors"])
def test_missing_parameters_are_refused(folder, name):
    save_member(folder, "a")
    part(folder, "a", name).unlink()
    line = refusal(getattr(folder.members, READERS[name]), "a")
    assert str(part(folder, "a", name)) in line


@pytest.mark.parametrize("at", [0, 20, 90, 200, -1])
def test_a_flipped_bit_is_never_loaded(folder, at):
    save_member(folder, "a", {"kernel": np.ones((4, 4), np.float32)})
    path = part(folder, "a", "params.safetensors")
    content = bytearray(path.read_bytes())
    content[at] ^= 1
    path.write_bytes(content)
    assert str(path) in refusal(folder.members.params, "a")


SHAPES = {
    "decoder": {"kernel": jax.ShapeDtypeStruct((2, 3), np.float32)},
    "encoder": {"bias": jax.ShapeDtypeStruct((4,), np.float32)},
}


def params_like(shapes):
    return jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), shapes)


def test_parameters_of_the_shapes_expected_are_loaded(folder):
    save_member(folder, "a", params_like(SHAPES))
    loaded = folder.members.params("a", SHAPES)
    assert loaded["decoder"]["kernel"].shape == (2, 3)


@pytest.mark.parametrize(
    ("held", "told"),
    [
        ({"kernel": np.zeros((3, 2), np.float32)}, "as float32 (3, 2)"),
        ({"kernel": np.zeros((200, 3), np.float32)}, "as float32 (200, 3)"),
        ({"kernel": np.zeros((2, 3), np.float64)}, "as float64 (2, 3)"),
        ({"kernel": np.zeros((2, 3), np.int32)}, "as int32 (2, 3)"),
        ({"kernel": np.zeros((2, 3, 1), np.float32)}, "as float32 (2, 3, 1)"),
        ({"other": np.zeros((2, 3), np.float32)}, "kernel as none"),
    ],
    ids=["transposed", "too large", "float64", "int32", "rank", "renamed"],
)
def test_parameters_of_another_model_are_refused(folder, held, told):
    save_member(folder, "a", {**params_like(SHAPES), "decoder": held})
    line = refusal(folder.members.params, "a", SHAPES)
    assert str(part(folder, "a", "params.safetensors")) in line
    assert "decoder/kernel" in line
    assert told in line
    assert "this run has float32 (2, 3)" in line
    assert "Put back its own, or train the run again" in line


def test_parameters_that_no_model_asked_for_are_refused(folder):
    save_member(folder, "a", {**params_like(SHAPES), "more": np.zeros(1)})
    line = refusal(folder.members.params, "a", SHAPES)
    assert "more as float64 (1,): this run has none" in line


# --- failures -------------------------------------------------------------------------

STATE = {"params/bias": AWKWARD, "count": np.int32(3)}


def test_failures_come_back_as_they_were_saved(folder):
    folder.failures.save("a", 0, {"step": 7}, STATE)
    facts, loaded = folder.failures.load("a")
    assert facts == {"step": 7, "run": "a", "fingerprint": OWNERS["a"]}
    assert loaded.keys() == STATE.keys()
    assert loaded["params/bias"].tobytes() == AWKWARD.tobytes()
    assert folder.failures.count("a") == 1
    assert folder.failures.count("b") == 0
    assert folder.failures.runs() == ["a"]
    for run in ("b", "z"):
        assert "those that met a value that is not finite: a" in refusal(
            folder.failures.load, run
        )


def test_the_last_failure_is_loaded_unless_another_is_asked_for(folder):
    for attempt in range(3):
        folder.failures.save("a", attempt, {"step": attempt}, STATE)
    assert folder.failures.count("a") == 3
    assert folder.failures.load("a")[0]["step"] == 2


@pytest.mark.parametrize("suffix", [".json", ".safetensors"])
def test_a_failure_of_another_run_is_refused(folder, suffix):
    for run in ("a", "b"):
        folder.failures.save(run, 0, {"step": 7}, STATE)
    own, other = (folder.path / "failures" / run / f"0{suffix}" for run in ("a", "b"))
    shutil.copy(other, own)
    line = refusal(folder.failures.load, "a")
    assert str(own) in line
    assert "another run, 'b'" in line
    assert f"delete {own.parent}" in line
    if suffix == ".json":  # It would begin the run again with other keys.
        assert str(own) in refusal(folder.failures.count, "a")


def test_a_failure_of_another_configuration_is_refused(folder):
    folder.failures.save("a", 0, {"step": 7}, STATE)
    line = refusal(other_owners(folder).failures.count, "a")
    assert "same name with another configuration or other images" in line


@pytest.mark.parametrize("suffix", [".json", ".safetensors"])
def test_a_damaged_failure_is_refused(folder, suffix):
    folder.failures.save("a", 0, {"step": 7}, STATE)
    path = folder.path / "failures" / "a" / f"0{suffix}"
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    assert str(path) in refusal(folder.failures.load, "a")


def test_nothing_is_left_beside_what_is_stored(folder):
    before = listing(folder.path)
    save_member(folder, "a")
    folder.failures.save("a", 0, {}, {})
    new = set(listing(folder.path)) - set(before)
    assert len(new) == 4 + 2
    assert not [name for name in new if "unfinished" in name]


def test_the_fields_of_a_result_here_are_those_there():
    """So every required field of a row has a test above."""
    assert {column.name for column in RESULTS if column.certain} == {
        *RESULT,
        "run",
        "fingerprint",
    }


@pytest.mark.parametrize("value", [1e300, -1e300, 10**300, 2**60])
def test_a_result_larger_than_any_is_refused(tmp_path, value):
    folder = create(tmp_path / "run")
    field = "latent_dim" if isinstance(value, int) else "score"
    save_member(folder, "a", **{field: value})
    assert "larger than any" in refusal(folder.members.result, "a")
