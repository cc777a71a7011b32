"""Tests of run folders from strangers: each row has a change and its outcome.

Every row changes a copy of a finished sweep, or of one that was killed, as a stranger,
a careless user or a faulty program would, and runs a command. Files outside the folder
stay as they were, no command waits forever, and none ends in a traceback.
"""

import json
import os
import shutil
import socket
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import safetensors.numpy

from experiments.files.sealed import Owner, read_record, write_record
from experiments.files.tensors import load_arrays, save_arrays
from tests.faults import harness
from tests.faults.test_damage import killed  # noqa: F401  a fixture

RUN = "likelihood=bernoulli,latent_dim=2,seed=0"
NEIGHBOUR = "likelihood=bernoulli,latent_dim=2,seed=1"
OTHER = "likelihood=gaussian_optimal,latent_dim=3,seed=0"
LEFT_OUT, REFUSED = 3, 2
SECRET = "precious"


class Row(NamedTuple):
    """A change, and the outcome that must follow."""

    name: str
    change: Callable[[Path, Path], None]  # of the folder; other files lie beside it
    command: str  # sweep, launched (a sweep by jobs) or evaluate
    status: int
    words: tuple[str, ...]  # of what is printed


def member(folder: Path, name: str, run: str = RUN) -> Path:
    return folder / "members" / run / name


# --- changes --------------------------------------------------------------------------


def copied(name, source, target):
    """Copies a part of one run over another's."""

    def change(folder, outside):
        del outside
        shutil.copy(member(folder, name, source), member(folder, name, target))

    return change


def rewritten(path, edit):
    """Edits a JSON file."""

    def change(folder, outside):
        del outside
        place = folder / path.format(run=RUN)
        content = json.loads(place.read_text())
        edit(content)
        place.write_text(json.dumps(content))

    return change


def resealed(edit, run=RUN):
    """Edits a result and gives it a valid seal."""

    def change(folder, outside):
        del outside
        path = member(folder, "result.json", run)
        facts = read_record(path)
        edit(facts)
        write_record(path, facts)

    return change


def filled(path, content):
    """Fills a file with other content."""

    def change(folder, outside):
        del outside
        (folder / path.format(run=RUN)).write_bytes(content)

    return change


def appended(content):
    """Appends to the metric rows of a run."""

    def change(folder, outside):
        del outside
        with member(folder, "metrics.jsonl").open("ab") as file:
            file.write(content)

    return change


def recoded(encoding, before=b""):
    """Writes the metric rows of a run in another encoding."""

    def change(folder, outside):
        del outside
        path = member(folder, "metrics.jsonl")
        path.write_bytes(before + path.read_text().encode(encoding))

    return change


def special(path, make):
    """Puts something else in the place of a regular file."""

    def change(folder, outside):
        place = folder / path.format(run=RUN)
        if place.is_dir():
            shutil.rmtree(place)
        else:
            place.unlink(missing_ok=True)
        make(place, outside)

    return change


def fifo(path, outside):
    del outside
    os.mkfifo(path)


def device(path, outside):
    del outside
    path.symlink_to("/dev/zero")


def huge(path, outside):
    """Makes a file of ten gigabytes, of which none is on the disk."""
    del outside
    with path.open("wb") as file:
        file.truncate(10 * 2**30)


def directory(path, outside):
    del outside
    path.mkdir()


def a_socket(path, outside):
    del outside
    os.chdir(path.parent)  # Their names are short.
    server = socket.socket(socket.AF_UNIX)
    server.bind(path.name)
    server.close()
    os.chdir(harness.ROOT)


def link_out(path, outside):
    path.symlink_to(outside)


def link_to_file(path, outside):
    path.symlink_to(outside / "file")


def link_nowhere(path, outside):
    path.symlink_to(outside / "nothing")


def link_up(path, outside):
    del outside
    path.symlink_to("..")


def link_loop(path, outside):
    del outside
    path.symlink_to(path.name)


def params(edit, owner=lambda facts: facts):
    """Edits parameters, and seals them again as those of their run."""

    def change(folder, outside):
        del outside
        path = member(folder, "params.safetensors")
        arrays, facts = load_arrays(path, {})
        kept = {name: facts[name] for name in Owner._fields}
        save_arrays(path, edit(arrays), owner(kept))

    return change


def transposed(arrays):
    return {name: array.T for name, array in arrays.items()}


def as_float16(arrays):
    return {name: array.astype(np.float16) for name, array in arrays.items()}


def larger(arrays):
    return {
        name: np.concatenate([array, array], axis=-1) for name, array in arrays.items()
    }


def renamed(arrays):
    return {f"{name}x": array for name, array in arrays.items()}


def without_one(arrays):
    return dict(list(arrays.items())[1:])


def unsealed(folder, outside):
    """Writes parameters as another program does, without a seal."""
    del outside
    path = member(folder, "params.safetensors")
    safetensors.numpy.save_file(load_arrays(path, {})[0], path)


def pickled(path):
    def change(folder, outside):
        place = folder / path.format(run=RUN)
        place.write_bytes(f"cposix\nsystem\n(S'touch {outside}/executed'\ntR.".encode())

    return change


def without_a_field(facts):
    del facts["likelihood"]


def set_in(name, value):
    def edit(facts):
        facts[name] = value

    return edit


def in_config(section, name, value):
    def edit(config):
        config[section][name] = value

    return edit


def picture(make):
    def change(folder, outside):
        make(folder / "figures" / RUN / "samples.png", folder, outside)

    return change


def neighbours(path, folder, outside):
    del outside
    shutil.copy(folder / "figures" / NEIGHBOUR / path.name, path)


def cut(path, folder, outside):
    del folder, outside
    path.write_bytes(path.read_bytes()[:-99])


def gone(path, folder, outside):
    del folder, outside
    path.unlink()


def note_of(edit, *, sealed):
    def change(folder, outside):
        del outside
        (path,) = folder.glob("checkpoints/*.json")
        facts = json.loads(path.read_text())
        edit(facts)
        if sealed:
            write_record(path, {n: facts[n] for n in facts if n != "sha256"})
        else:
            path.write_text(json.dumps(facts))

    return change


def sealed_note(file, **facts):
    """Adds a note on a group to the folder's own notes."""

    def change(folder, outside):
        del outside
        write_record(folder / "checkpoints" / file, facts)

    return change


def job_note(name, runs):
    """Adds a note on a job, and an unfinished run, so that the note is read."""

    def change(folder, outside):
        del outside
        shutil.rmtree(folder / "members" / RUN)
        note = {"runs": runs, "launcher": "local", "handle": "1"}
        (folder / "jobs").mkdir()
        (folder / "jobs" / name).write_text(json.dumps(note))

    return change


def table_of_another(folder, outside):
    del outside
    text = f'run,fingerprint,score\n"{RUN}",{"0" * 64},1.0\n'
    (folder / "evaluation.csv").write_text(text)


def two_likelihoods(note):
    other = next(iter(note["runs"]))
    note["runs"] = {RUN: "0" * 64, other: note["runs"][other]}


def checkpoint_of(facts):
    """Seals the newest checkpoint again, as that of something else."""

    def change(folder, outside):
        del outside
        path = harness.checkpoints(folder)[-1]
        arrays, own = load_arrays(path, {})
        kept = {name: own[name] for name in (*Owner._fields, "epoch")}
        save_arrays(path, arrays, {**kept, **facts})

    return change


# --- rows -----------------------------------------------------------------------------

DEEP = b"[" * 100_000
NESTED = b'{"a":' * 300 + b"1" + b"}" * 300
AN_RUN = f"members/{RUN}"

FINISHED = [
    # Parts of another run.
    Row(
        "a neighbour's result",
        copied("result.json", NEIGHBOUR, RUN),
        "sweep",
        3,
        (f"another run, '{NEIGHBOUR}'", "delete"),
    ),
    Row(
        "another likelihood's result",
        copied("result.json", OTHER, RUN),
        "sweep",
        3,
        (f"another run, '{OTHER}'",),
    ),
    Row(
        "a neighbour's parameters",
        copied("params.safetensors", NEIGHBOUR, RUN),
        "evaluate",
        3,
        (f"another run, '{NEIGHBOUR}'", "Put back its own"),
    ),
    Row(
        "another likelihood's parameters",
        copied("params.safetensors", OTHER, RUN),
        "evaluate",
        3,
        (f"another run, '{OTHER}'",),
    ),
    Row(
        "a neighbour's metric rows",
        copied("metrics.jsonl", NEIGHBOUR, RUN),
        "sweep",
        3,
        ("15 rows of", "the other 0 are used"),
    ),
    Row(
        "a neighbour's environment",
        copied("environment.json", NEIGHBOUR, RUN),
        "sweep",
        0,
        (),
    ),
    Row("a neighbour's picture", picture(neighbours), "sweep", 0, ()),
    Row("a picture cut off", picture(cut), "sweep", 0, ()),
    Row("a picture gone", picture(gone), "sweep", 0, ()),
    # Parameters that were changed.
    Row("parameters transposed", params(transposed), "evaluate", 3, ("another model",)),
    Row("parameters in float16", params(as_float16), "evaluate", 3, ("float16",)),
    Row("parameters too large", params(larger), "evaluate", 3, ("another model",)),
    Row("parameters renamed", params(renamed), "evaluate", 3, ("none",)),
    Row("a parameter missing", params(without_one), "evaluate", 3, ("as none",)),
    Row(
        "parameters of another fingerprint",
        params(dict, lambda facts: {**facts, "fingerprint": "0" * 64}),
        "evaluate",
        3,
        ("a run of the same name with another configuration",),
    ),
    Row("parameters without a seal", unsealed, "evaluate", 3, ("cannot read",)),
    # Results that were changed.
    Row(
        "a score edited",
        rewritten("members/{run}/result.json", set_in("score", 1.0)),
        "sweep",
        3,
        ("it is not what was saved",),
    ),
    Row(
        "a result of another fingerprint",
        resealed(set_in("fingerprint", "0" * 64)),
        "sweep",
        3,
        ("a run of the same name with another configuration",),
    ),
    Row(
        "a result without a field",
        resealed(without_a_field),
        "sweep",
        3,
        ("its 'likelihood' is missing",),
    ),
    Row(
        "a result with a text for a number",
        resealed(set_in("latent_dim", "two")),
        "sweep",
        3,
        ("its 'latent_dim' is missing or of another type",),
    ),
    Row(
        "a result with a list for a number",
        resealed(set_in("rate", [1])),
        "sweep",
        3,
        ("'rate'",),
    ),
    Row(
        "a formula in a result",
        resealed(set_in("dataset", "=1+1")),
        "sweep",
        3,
        ("'=1+1'", "spreadsheet"),
    ),
    Row(
        "an escape sequence in a result",
        resealed(set_in("status", "a\x1b[31m")),
        "sweep",
        3,
        ("\\x1b",),
    ),
    Row(
        "a carriage return in a result",
        resealed(set_in("dataset", "a\rb")),
        "sweep",
        3,
        ("'a\\rb'",),
    ),
    Row(
        "HTML in a result",
        resealed(set_in("dataset", "<script>x</script>")),
        "sweep",
        3,
        ("browser",),
    ),
    *(
        Row(
            f"{what} for a result",
            filled("members/{run}/result.json", content),
            command,
            3,
            ("result.json",),
        )
        for what, content in {
            "nothing": b"",
            "half an object": b'{"run": "l',
            "a list": b"[1]",
            "a deep list": DEEP,
            "a deep object": NESTED,
            "NUL bytes": bytes(999),
            "rubbish": bytes(range(256)),
            "a number": b"3",
            "NaN": b"NaN",
            "UTF-16": "{}".encode("utf-16"),
        }.items()
        for command in ("sweep",)
    ),
    # Metric rows.
    Row(
        "metric rows with a byte-order mark",
        recoded("utf-8", b"\xef\xbb\xbf"),
        "sweep",
        0,
        (),
    ),
    Row("metric rows in UTF-16", recoded("utf-16"), "sweep", 0, ()),
    Row("metric rows in UTF-16 without a mark", recoded("utf-16-le"), "sweep", 0, ()),
    Row("metric rows in UTF-32", recoded("utf-32"), "sweep", 0, ()),
    Row("NUL bytes before metric rows", recoded("utf-8", bytes(64)), "sweep", 0, ()),
    Row(
        "NUL bytes behind metric rows",
        appended(bytes(64)),
        "sweep",
        3,
        ("1 row of", "the other 15 are used"),
    ),
    Row("half a metric row", appended(b'{"run": "li'), "sweep", 3, ("1 row of",)),
    Row(
        "a metric row of another run",
        appended(b'{"run": "x", "epoch": 1}\n'),
        "sweep",
        3,
        ("1 row of",),
    ),
    Row("a deep metric row", appended(DEEP + b"\n"), "sweep", 3, ("1 row of",)),
    Row(
        "lines that are no rows", appended(b"3\n[]\nnull\n"), "sweep", 3, ("3 rows of",)
    ),
    Row("empty lines among metric rows", appended(b"\n\n\n"), "sweep", 0, ()),
    # A configuration that was changed.
    *(
        Row(
            f"config.json with {section}.{name} {value}",
            rewritten("config.json", in_config(section, name, value)),
            "evaluate",
            2,
            words,
        )
        for section, name, value, words in (
            ("model", "activation", "tanh", ("another configuration",)),
            ("model", "widths", [13], ("another configuration",)),
            ("training", "num_epochs", 32, ("another configuration",)),
            ("training", "learning_rate", 0.1, ("another configuration",)),
            ("data", "split_seed", 1, ("another configuration",)),
            ("data", "num_train", 399, ("another configuration",)),
            ("sweep", "seed", [7], ("no finished run",)),
            ("model", "widths", "wide", ("model.widths",)),
            ("model", "network", "../../etc", ("model.network",)),
            ("data", "name", "../../etc", ("data.name",)),
        )
    ),
    *(
        Row(
            f"{what} for config.json, {command}",
            filled("config.json", content),
            command,
            2,
            ("config.json",),
        )
        for what, content in {
            "a deep list": DEEP,
            "a deep object": NESTED,
            "a list": b"[]",
            "NUL bytes": bytes(99),
        }.items()
        for command in ("sweep", "evaluate")
    ),
    *(
        Row(
            f"{what} for environment.json",
            filled("environment.json", content),
            "evaluate",
            2,
            words,
        )
        for what, content, words in (
            ("a deep list", DEEP, ("environment.json",)),
            (
                "that of the format before",
                b'{"command": "x", "bits_depend_on": {"commit": "abc", "data": "0"}}',
                ("format 1", "abc"),
            ),
            (
                "that of a later format",
                b'{"format": 99, "command": "x", "bits_depend_on": {}}',
                ("format 99",),
            ),
            (
                "that of other images",
                b'{"format": 2, "command": "x", "bits_depend_on": {"data": "0"}}',
                ("another configuration or other images",),
            ),
        )
    ),
    # Something else than a file.
    *(
        Row(
            f"{make.__name__.replace('_', ' ')} for {path.rpartition('/')[2]}",
            special(path, make),
            command,
            status,
            words,
        )
        for path, command, statuses in (
            ("members/{run}/result.json", "sweep", (3, 3, 0)),
            ("members/{run}/params.safetensors", "evaluate", (3, 3, 3)),
            ("members/{run}/metrics.jsonl", "sweep", (3, 3, 3)),
            ("config.json", "evaluate", (2, 2, 2)),
            ("environment.json", "evaluate", (2, 2, 2)),
        )
        for make, status, words in (
            (fifo, statuses[0], ()),
            (a_socket, statuses[0], ()),
            (huge, statuses[1], ()),
            (device, REFUSED, ("a link that leads out of the run folder",)),
        )
        if not (path == "config.json" and make is not huge)
    ),
    # Links that lead out of the folder.
    *(
        Row(
            f"{path}: {make.__name__.replace('_', ' ')}, {command}",
            special(path, make),
            command,
            REFUSED,
            ("is a link that leads out of the run folder", "Remove the link"),
        )
        for path, make, command in (
            ("members", link_out, "sweep"),
            ("members", link_out, "evaluate"),
            ("checkpoints", link_out, "sweep"),
            ("figures", link_out, "sweep"),
            ("tensorboard", link_out, "sweep"),
            ("failures", link_out, "sweep"),
            ("jobs", link_out, "sweep"),
            ("members/{run}", link_out, "sweep"),
            ("figures/{run}", link_out, "sweep"),
            ("tensorboard/{run}", link_out, "sweep"),
            ("results.csv", link_to_file, "sweep"),
            ("report.html", link_to_file, "sweep"),
            ("evaluation.csv", link_to_file, "evaluate"),
            ("members/{run}/metrics.jsonl", link_to_file, "sweep"),
            ("members/{run}/result.json", link_to_file, "sweep"),
            ("figures/{run}/samples.png", link_to_file, "sweep"),
            (".lock", link_to_file, "sweep"),
            (".tables.lock", link_to_file, "evaluate"),
            ("members/{run}/.lock", link_to_file, "sweep"),
            ("results.csv", link_nowhere, "sweep"),
            ("members/{run}/extra", link_up, "sweep"),
            ("members/{run}/extra", link_loop, "sweep"),
        )
        if make is not link_up
    ),
    # Files that would run code if they were unpickled.
    Row(
        "a pickle for parameters",
        pickled("members/{run}/params.safetensors"),
        "evaluate",
        3,
        ("params.safetensors",),
    ),
    Row("a pickle for a result", pickled("members/{run}/result.json"), "sweep", 3, ()),
    # Strangers.
    Row(
        "a run of no sweep",
        lambda folder, _: shutil.copytree(folder / AN_RUN, folder / "members" / "x"),
        "sweep",
        3,
        ("it is of no run of this configuration",),
    ),
    Row(
        "members gone",
        special("members", directory),
        "evaluate",
        2,
        ("no finished run",),
    ),
    Row(
        "a folder for a result",
        special("members/{run}/result.json", directory),
        "sweep",
        3,
        ("result.json",),
    ),
]

FINISHED += [
    # Numbers that are too large for their use.
    Row(
        "a score of 1e308",
        resealed(set_in("score", 1e308)),
        "sweep",
        3,
        ("'score'",),
    ),
    Row(
        "a latent size of 300 digits",
        resealed(set_in("latent_dim", 10**299)),
        "sweep",
        3,
        ("'latent_dim'",),
    ),
    Row(
        "an attempt beyond 32 bits",
        resealed(set_in("attempt", 2**40)),
        "evaluate",
        3,
        ("'attempt'",),
    ),
    # Notes that lead to other folders.
    *(
        Row(
            f"a note on the group {name!r}",
            sealed_note(f"{name}.json", name=name, runs={}, attempt=0),
            "sweep",
            0,
            ("is damaged",),
        )
        for name in ("..", ".")
    ),
    Row(
        "a job named '..'",
        job_note("...json", []),
        "launched",
        0,
        ("8 runs, 7 finished before",),
    ),
    Row(
        "a job with runs elsewhere",
        job_note("bernoulli-0123456789ab.json", [RUN, "../../outside"]),
        "launched",
        0,
        ("8 runs, 7 finished before",),
    ),
    Row(
        "a table with a row of another run",
        table_of_another,
        "evaluate",
        2,
        ("Move the file out of the folder",),
    ),
]

KILLED = [
    Row(
        "a note with another attempt",
        note_of(set_in("attempt", 3), sealed=False),
        "sweep",
        0,
        ("is damaged", "grouped again"),
    ),
    Row(
        "a note with another attempt, sealed",
        note_of(set_in("attempt", 3), sealed=True),
        "sweep",
        0,
        ("is damaged", "grouped again"),
    ),
    Row(
        "a note of another group",
        note_of(set_in("name", "x"), sealed=True),
        "sweep",
        0,
        ("is damaged", "grouped again"),
    ),
    Row(
        "a note on two likelihoods",
        note_of(two_likelihoods, sealed=True),
        "sweep",
        2,
        ("belongs to another sweep",),
    ),
    Row("a note on nothing", note_of(set_in("runs", {}), sealed=True), "sweep", 0, ()),
    Row(
        "a note with a deep list",
        note_of(set_in("runs", [[[]]]), sealed=True),
        "sweep",
        0,
        ("is damaged",),
    ),
    Row(
        "a checkpoint of another group",
        checkpoint_of({"name": "x"}),
        "sweep",
        2,
        ("belongs to another run, 'x'", "delete"),
    ),
    Row(
        "a checkpoint of another configuration",
        checkpoint_of({"fingerprint": "0" * 64}),
        "sweep",
        2,
        ("another configuration", "delete"),
    ),
    Row(
        "a checkpoint of another epoch",
        checkpoint_of({"epoch": "99"}),
        "sweep",
        0,
        ("is damaged", "the one before is used"),
    ),
]


# --- what must happen -----------------------------------------------------------------


def contents(folder):
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


def assert_as_stated(row, folder, outside, cache):
    (outside / "incomplete_thesis").mkdir(parents=True)
    for name in ("file", "incomplete_thesis/file", "result.json", "events.1"):
        (outside / name).write_text(SECRET)
    before = contents(outside)
    row.change(folder, outside)
    module, options = {
        "sweep": ("sweep", harness.SWEEP),
        "launched": ("sweep", (*harness.SWEEP, "--launcher=local")),
        "evaluate": ("evaluate", ("--num_samples=2",)),
    }[row.command]
    command = harness.command(module, *options, f"--workdir={folder}")
    outcome = harness.Outcome(harness.start(command, cache), timeout=120)
    printed = outcome.stdout + outcome.stderr
    assert "Traceback" not in printed
    assert outcome.status == row.status, printed
    assert outcome.stderr.count("\n") == (row.status == REFUSED)
    for word in row.words:
        assert word in printed
    assert not {"\x1b", "\r"} & {*outcome.stderr}
    assert contents(outside) == before
    return outcome


@pytest.mark.parametrize("row", FINISHED, ids=lambda row: row.name)
def test_a_finished_folder(row, undisturbed, tmp_path, cache, faults):
    folder = shutil.copytree(undisturbed, tmp_path / "run")
    with faults.injected(f"hostile: {_kind(row)}"):
        assert_as_stated(row, folder, tmp_path / "outside", cache)
        if row.command == "sweep" and row.status in (0, LEFT_OUT):
            # All readable runs are there.
            table = (folder / "results.csv").read_text()
            for path in undisturbed.glob("members/*/result.json"):
                if path.parent.name != RUN:
                    assert f'"{path.parent.name}"' in table
            pictures = f"figures/{RUN}/samples.png"
            if "result" not in row.name:
                expected = (undisturbed / pictures).read_bytes()
                assert (folder / pictures).read_bytes() == expected
        if row.command == "evaluate" and row.status == LEFT_OUT:
            table = (folder / "evaluation.csv").read_text()
            assert NEIGHBOUR in table
            assert f'"{RUN}"' not in table


@pytest.mark.parametrize("row", KILLED, ids=lambda row: row.name)
def test_a_killed_folder(row, killed, undisturbed, tmp_path, cache, faults):  # noqa: F811
    folder = shutil.copytree(killed, tmp_path / "run")
    with faults.injected(f"hostile: {_kind(row)}"):
        assert_as_stated(row, folder, tmp_path / "outside", cache)
        if row.status == 0:
            assert harness.outcome_of(folder) == harness.outcome_of(undisturbed)


def _kind(row):
    outcome = {0: "rebuilt or read", LEFT_OUT: "left out and named", REFUSED: "refused"}
    return f"run folder, {outcome[row.status]}"


def test_the_folder_itself_may_be_a_link(undisturbed, tmp_path, cache, faults):
    folder = shutil.copytree(undisturbed, tmp_path / "elsewhere")
    link = tmp_path / "run"
    link.symlink_to(folder)
    with faults.injected("hostile: control"):
        sweep = harness.command("sweep", *harness.SWEEP, f"--workdir={link}")
        outcome = harness.run(sweep, cache)
        assert (outcome.status, outcome.stderr) == (0, "")


def test_there_are_enough_rows():
    names = [row.name for row in (*FINISHED, *KILLED)]
    assert len({*names}) == len(names) >= 100
