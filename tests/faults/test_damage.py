"""Tests of damaged files: they are never loaded, and earlier ones are used."""

import contextlib
import shutil
import signal
import zlib

import filelock
import numpy as np
import pytest

from experiments.files.sealed import Owner, read_record
from experiments.messages.errors import FolderError
from experiments.runs.checkpoints import Checkpoints
from experiments.runs.members import Failures, Members
from tests.faults import harness

KEEP = 3
LEFT_OUT = 3
UNFINISHED = "likelihood=gaussian_optimal,latent_dim=2,seed=0"  # where one is killed
EPOCHS = (20, 30, 40)  # those kept of four
RNG = np.random.default_rng(20260101)
OWNER = Owner("group", "0123456789abcdef")


def arrays_of(epoch):
    """Returns arrays of all kinds that a checkpoint may hold, different by epoch."""
    rng = np.random.default_rng(epoch)
    return {
        "epoch": np.int32(epoch),
        "seconds": np.float64(rng.uniform()),
        "state/params/kernel": rng.normal(size=(4, 64, 12)).astype(np.float32),
        "state/params/shared": np.zeros((4, 0), np.float32),
        "state/active": rng.uniform(size=4) < 0.5,
        "state/best_bound": np.array([-np.inf, np.nan, -0.0, 1e-45], np.float32),
        "members/key": rng.integers(0, 2**32, (4, 2), np.uint32),
        "history/epoch": np.arange(epoch, dtype=np.int32),
        "history/validation/bound": rng.normal(size=(epoch, 4)).astype(np.float32),
    }


@pytest.fixture(scope="module")
def kept(tmp_path_factory):
    """Returns a folder of four checkpoints, of which the first is not kept."""
    folder = tmp_path_factory.mktemp("kept") / "group"
    checkpoints = Checkpoints(folder, KEEP, OWNER)
    for epoch in (10, *EPOCHS):
        checkpoints.save(epoch, arrays_of(epoch))
    checkpoints.close()
    return folder


@pytest.fixture
def copy_of(tmp_path):
    """Returns a function that copies a folder, so that a test can damage the copy."""

    def copy(folder):
        shutil.rmtree(tmp_path / "copy", ignore_errors=True)
        return shutil.copytree(folder, tmp_path / "copy" / folder.name)

    return copy


def assert_same(arrays, expected):
    """Asserts that the arrays are equal, bit for bit."""
    assert arrays.keys() == expected.keys()
    for name, array in expected.items():
        assert arrays[name].dtype == array.dtype, name
        assert arrays[name].shape == array.shape, name
        assert arrays[name].tobytes() == array.tobytes(), name


def latest(folder):
    """Returns the latest good checkpoint, and the warnings before it was found."""
    reports = []
    with contextlib.closing(Checkpoints(folder, KEEP, OWNER)) as checkpoints:
        return checkpoints.latest(reports.append), reports


def assert_survives(folder):
    """Asserts that the loaded epoch is right after any damage, and training goes on.

    Returns:
        The loaded epoch.
    """
    (epoch, arrays), reports = latest(folder)
    assert_same(arrays, arrays_of(epoch))
    if epoch != 40 and (folder / "40.safetensors").exists():
        raise AssertionError("epoch 40 is neither used nor moved aside")
    for report in reports:
        assert str(folder / "40.safetensors") in report
        assert "\n" not in report
        assert (folder / "40.damaged").exists()
    assert (epoch, len(reports)) in ((40, 0), (30, 1))
    # Training goes on, from there to the same epoch as before.
    following = epoch + 10
    arrays = arrays_of(following)
    with contextlib.closing(Checkpoints(folder, KEEP, OWNER)) as checkpoints:
        checkpoints.latest(str)
        checkpoints.save(following, arrays)
    again, reports = latest(folder)
    assert again is not None
    assert again[0] == following
    assert_same(again[1], arrays)
    assert not reports
    return epoch


# --- a file of the newest checkpoint --------------------------------------------------


def flip(position):
    """Returns a damage: one flipped bit at a fraction of a file's length."""
    bit = 1 << int(RNG.integers(8))

    def damage(path):
        content = bytearray(path.read_bytes())
        content[int(position * (len(content) - 1))] ^= bit
        path.write_bytes(content)

    return damage


def truncate(fraction):
    def damage(path):
        content = path.read_bytes()
        path.write_bytes(content[: int(fraction * (len(content) - 1))])

    return damage


def zero(path):
    path.write_bytes(bytes(path.stat().st_size))


def delete(path):
    path.unlink()


DAMAGES = {
    "bit flipped, first byte": flip(0),
    "bit flipped, middle byte": flip(0.5),
    "bit flipped, last byte": flip(1),
    **{f"bit flipped, random byte {i}": flip(RNG.uniform()) for i in range(4)},
    "truncated, last byte": truncate(1),
    "truncated, half": truncate(0.5),
    "truncated, all": truncate(0),
    "zeroed": zero,
    "deleted": delete,
}


def test_checkpoints_without_damage_come_back(kept, copy_of):
    """This is the control: there is no warning, and the newest one is loaded."""
    folder = copy_of(kept)
    assert sorted(int(path.stem) for path in folder.iterdir()) == list(EPOCHS)
    assert assert_survives(folder) == 40


@pytest.mark.parametrize("kind", [kind for kind in DAMAGES if kind != "deleted"])
def test_a_damaged_checkpoint(kept, copy_of, faults, kind):
    path = kept / "40.safetensors"
    for _ in range(8 if "random" in kind else 1):
        folder = copy_of(kept)
        damaged = folder / path.name
        damage = flip(RNG.uniform()) if "random" in kind else DAMAGES[kind]
        damage(damaged)
        assert damaged.read_bytes() != path.read_bytes()
        with faults.injected(f"checkpoint file {kind.partition(',')[0]}"):
            assert assert_survives(folder) == 30


def test_every_part_of_a_checkpoint_is_covered(kept, copy_of, faults):
    """A flipped bit is detected anywhere, in the header and in the arrays."""
    size = (kept / "40.safetensors").stat().st_size
    for position in np.linspace(0, 1, 60):
        folder = copy_of(kept)
        flip(position)(folder / "40.safetensors")
        with faults.injected("checkpoint file bit flipped"):
            (epoch, arrays), reports = latest(folder)
            assert (epoch, len(reports)) == (30, 1), int(position * size)
            assert_same(arrays, arrays_of(30))


def test_a_whole_checkpoint_deleted(kept, copy_of, faults):
    folder = copy_of(kept)
    (folder / "40.safetensors").unlink()
    with faults.injected("whole checkpoint deleted"):
        (epoch, arrays), reports = latest(folder)
        assert (epoch, reports) == (30, [])
        assert_same(arrays, arrays_of(30))
    shutil.rmtree(folder)
    with faults.injected("whole checkpoint deleted"):
        assert latest(folder) == (None, [])


def test_another_epochs_file(kept, copy_of, faults):
    """The file is whole and readable, but was not saved for this epoch."""
    for other in (20, 30):
        folder = copy_of(kept)
        shutil.copy(folder / f"{other}.safetensors", folder / "40.safetensors")
        with faults.injected("another epoch's file in a checkpoint's place"):
            assert assert_survives(folder) == 30


def test_another_groups_file(kept, copy_of, faults):
    """It is refused, and stays where it is."""
    folder = copy_of(kept)
    for owner in (Owner("other", OWNER.fingerprint), Owner(OWNER.name, "other")):
        with faults.injected("another group's checkpoint"):
            with (
                contextlib.closing(Checkpoints(folder, KEEP, owner)) as checkpoints,
                pytest.raises(FolderError, match="belongs to") as caught,
            ):
                checkpoints.latest(pytest.fail)
            assert "\n" not in str(caught.value)
    assert assert_survives(folder) == 40


@pytest.mark.parametrize("kind", ["bit flipped, middle byte", "truncated, all"])
def test_two_checkpoints_damaged(kept, copy_of, faults, kind):
    folder = copy_of(kept)
    for epoch in (30, 40):
        DAMAGES[kind](folder / f"{epoch}.safetensors")
    with faults.injected("several checkpoints damaged"):
        (epoch, arrays), reports = latest(folder)
        assert (epoch, len(reports)) == (20, 2)
        assert_same(arrays, arrays_of(20))


@pytest.mark.parametrize("kind", ["bit flipped, middle byte", "zeroed"])
def test_all_checkpoints_damaged(kept, copy_of, faults, kind):
    folder = copy_of(kept)
    for epoch in EPOCHS:
        DAMAGES[kind](folder / f"{epoch}.safetensors")
    with faults.injected("several checkpoints damaged"):
        found, reports = latest(folder)
        assert (found, len(reports)) == (None, 3)
        # From the beginning, past the same epochs.
        with contextlib.closing(Checkpoints(folder, KEEP, OWNER)) as checkpoints:
            for epoch in EPOCHS:
                checkpoints.save(epoch, arrays_of(epoch))
        (epoch, arrays), reports = latest(folder)
        assert (epoch, reports) == (40, [])
        assert_same(arrays, arrays_of(40))


def test_things_that_are_no_checkpoints(kept, copy_of, faults):
    folder = copy_of(kept)
    (folder / "notes.txt").write_text("precious")
    (folder / "figures").mkdir()
    (folder / "figures" / "50").write_text("precious")
    (folder / ".50.safetensors.1.unfinished").write_text("half a checkpoint")
    with faults.injected("other things among checkpoints"):
        assert assert_survives(folder) == 40
    assert (folder / "notes.txt").read_text() == "precious"


def test_a_folder_in_the_place_of_a_checkpoint(kept, copy_of, faults):
    folder = copy_of(kept)
    (folder / "40.safetensors").unlink()
    (folder / "40.safetensors").mkdir()
    with faults.injected("other things among checkpoints"):
        assert assert_survives(folder) == 30


# --- files of finished or failed runs -------------------------------------------------


def owners_of(folder):
    """Returns the fingerprints in the results of a folder, by run."""
    results = map(read_record, folder.glob("members/*/result.json"))
    return {result["run"]: result["fingerprint"] for result in results}


def assert_not_loaded(load, *arguments, path):
    """Asserts a refusal in one line that names the file."""
    with pytest.raises(FolderError) as caught:
        load(*arguments)
    assert "\n" not in str(caught.value)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("kind", DAMAGES)
def test_damaged_arrays_of_members_and_failures(undisturbed, tmp_path, faults, kind):
    folder = tmp_path / "run"
    shutil.copytree(undisturbed / "members", folder / "members")
    owners = owners_of(folder)
    members, failures = Members(folder, owners), Failures(folder, owners)
    arrays, failed = arrays_of(40), next(iter(owners))
    failures.save(failed, 0, {"offender": "KL"}, arrays)
    for run in owners:
        for load, name in ((members.params, "params"), (members.arrays, "arrays")):
            load(run)
            path = folder / "members" / run / f"{name}.safetensors"
            DAMAGES[kind](path)
            with faults.injected(f"{name} of a finished run damaged"):
                assert_not_loaded(load, run, path=path)
    path = folder / "failures" / failed / "0.safetensors"
    assert_same(failures.load(failed)[1], arrays)
    DAMAGES[kind](path)
    with faults.injected("state of a failed run damaged"):
        assert_not_loaded(failures.load, failed, path=path)


def assert_refused(outcome, *words):
    """Asserts a refusal: one line, status 2."""
    assert outcome.status == 2, outcome.stderr
    assert outcome.stderr.startswith("error: ")
    assert outcome.stderr.count("\n") == 1, outcome.stderr
    for word in words:
        assert word in outcome.stderr


@pytest.mark.parametrize(
    "kind", ["bit flipped, middle byte", "truncated, half", "deleted"]
)
def test_damaged_parameters_are_refused(undisturbed, copy_of, cache, faults, kind):
    folder = copy_of(undisturbed)
    run = "likelihood=bernoulli,latent_dim=2,seed=1"
    path = folder / "members" / run / "params.safetensors"
    DAMAGES[kind](path)
    evaluate = harness.command(
        "evaluate", f"--workdir={folder}", "--num_samples=2", f"--only={run}"
    )
    with faults.injected("parameters of a finished run damaged"):
        assert_refused(harness.run(evaluate, cache), str(path))
        assert not (folder / "evaluation.csv").exists()


@pytest.mark.parametrize("kind", ["bit flipped, middle byte", "facts"])
def test_damaged_failures_are_refused(undisturbed, copy_of, cache, faults, kind):
    folder = copy_of(undisturbed)
    run = "likelihood=bernoulli,latent_dim=2,seed=1"
    facts = {"offender": "KL"}  # Some fields of a failure are missing.
    Failures(folder, owners_of(folder)).save(run, 0, facts, arrays_of(40))
    path = folder / "failures" / run / "0.safetensors"
    if kind != "facts":
        DAMAGES[kind](path)
    replay = harness.command("replay", f"--workdir={folder}", f"--run={run}")
    with faults.injected("state of a failed run damaged"):
        assert_refused(harness.run(replay, cache), str(path.parent))


# --- the whole sweep, continued on damaged files --------------------------------------


def sweep(folder, cache):
    return harness.run(
        harness.command("sweep", *harness.SWEEP, f"--workdir={folder}"), cache
    )


@pytest.fixture(scope="session")
def killed(common, cache):
    """Returns a sweep that was killed in the second of its two groups."""
    folder = common / "killed"
    with filelock.FileLock(common / "killed.lock"):
        if not (common / "killed.done").exists():
            one_by_one = "--config.parallel.lanes=1"
            command = harness.command(
                "sweep", *harness.SWEEP, one_by_one, f"--workdir={folder}"
            )
            process = harness.start(command, cache)
            assert harness.wait_for(
                lambda: len([*folder.glob("checkpoints/gaussian*/[0-9]*")]) >= KEEP,
                process,
            )
            process.send_signal(signal.SIGKILL)
            assert harness.Outcome(process).status == -signal.SIGKILL
            assert len([*folder.glob("members/*/result.json")]) == 4
            assert len(harness.checkpoints(folder)) >= 2
            (common / "killed.done").touch()
    return folder


def assert_continues(folder, undisturbed, cache):
    """Asserts that the same command ends as undisturbed; returns its output."""
    outcome = sweep(folder, cache)
    assert outcome.status == 0, outcome.stderr
    assert outcome.stderr == ""
    assert harness.outcome_of(folder) == harness.outcome_of(undisturbed)
    return outcome.stdout


def test_a_killed_sweep_continues(killed, undisturbed, copy_of, cache):
    """The control."""
    assert "damaged" not in assert_continues(copy_of(killed), undisturbed, cache)


@pytest.mark.parametrize("kind", ["bit flipped, middle byte", "truncated, half"])
def test_a_sweep_with_a_damaged_checkpoint(
    killed, undisturbed, copy_of, cache, faults, kind
):
    folder = copy_of(killed)
    *_, before, newest = harness.checkpoints(folder)
    DAMAGES[kind](newest)
    with faults.injected("sweep continued, newest checkpoint damaged"):
        printed = assert_continues(folder, undisturbed, cache)
        assert f"warning: checkpoint {newest} is damaged" in printed
        assert f"checkpoint {before} is damaged" not in printed


def test_a_sweep_with_all_checkpoints_damaged(
    killed, undisturbed, copy_of, cache, faults
):
    folder = copy_of(killed)
    found = harness.checkpoints(folder)
    for checkpoint in found:
        zero(checkpoint)
    with faults.injected("sweep continued, all checkpoints damaged"):
        printed = assert_continues(folder, undisturbed, cache)
        assert printed.count("is damaged") == len(found) >= 2


@pytest.mark.parametrize("content", ["", '{"runs": ["likel', "[1]", '{"runs": 3}'])
def test_a_sweep_with_a_damaged_note_of_its_group(
    killed, undisturbed, copy_of, cache, faults, content
):
    folder = copy_of(killed)
    (note,) = folder.glob("checkpoints/*.json")
    note.write_text(content)
    with faults.injected("note of a group damaged"):
        assert_continues(folder, undisturbed, cache)


@pytest.mark.parametrize(
    "rubbish", [b"", b"\0" * 99, b'{"run": "likeli', b"\xff\xfe\n3\n{}\n"]
)
def test_a_sweep_with_damaged_metrics(
    killed, undisturbed, copy_of, cache, faults, rubbish
):
    """The checkpoint also holds the rows of unfinished runs."""
    folder = copy_of(killed)
    path = folder / "members" / UNFINISHED / "metrics.jsonl"
    rows = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(rows[:3]) + rubbish)
    with faults.injected("metric rows damaged"):
        assert_continues(folder, undisturbed, cache)


@pytest.mark.parametrize("rubbish", [b"\0\0", b'{"run": "likeli', b"\xff\n3\n{}\n"])
def test_a_finished_sweep_with_damaged_metrics(
    undisturbed, copy_of, cache, faults, rubbish
):
    folder = copy_of(undisturbed)
    path = folder / "members" / UNFINISHED / "metrics.jsonl"
    with path.open("ab") as file:
        file.write(rubbish)
    before = path.read_bytes()
    with faults.injected("metric rows damaged"):
        outcome = sweep(folder, cache)
        assert (outcome.status, outcome.stderr) == (LEFT_OUT, "")
        assert f" of {path} cannot be read" in outcome.stdout
        assert path.read_bytes() == before


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("environment.json", ""),
        ("environment.json", '{"bits_depend_on": {'),
        ("environment.json", "[1, 2]"),
        ("config.json", '{"seed": '),
        ("config.json", "3"),
    ],
)
def test_a_sweep_with_a_damaged_description(
    killed, copy_of, cache, faults, name, content
):
    folder = copy_of(killed)
    path = sorted(folder.glob(name))[0]
    path.write_text(content)
    with faults.injected(f"{path.name} damaged"):
        assert_refused(sweep(folder, cache), str(path))
        assert path.read_text() == content


@pytest.mark.parametrize("content", ["", '{"run": "likelihood', "[" * 9999, "{}"])
def test_a_sweep_with_a_damaged_result(killed, copy_of, cache, faults, content):
    """The others are trained and reported; this one is named and not changed."""
    folder = copy_of(killed)
    path = sorted(folder.glob("members/*/result.json"))[0]
    path.write_text(content)
    with faults.injected("result.json damaged"):
        outcome = sweep(folder, cache)
        assert (outcome.status, outcome.stderr) == (LEFT_OUT, "")
        assert f"cannot read {path}" in outcome.stdout
        assert path.read_text() == content
        table = (folder / "results.csv").read_text()
        assert table.count("\n") == harness.NUM_RUNS
        assert path.parent.name not in table
        # The remedy that it names.
        shutil.rmtree(path.parent)
        outcome = sweep(folder, cache)
        assert (outcome.status, outcome.stderr) == (0, "")
        assert len(harness.results(folder)) == harness.NUM_RUNS


# --- compiled programs ----------------------------------------------------------------


def test_damaged_programs_are_compiled_again(faults, tmp_path):
    """A second start finds programs that all have a flipped bit."""
    arguments = (
        *("--config.data.num_train=200", "--config.model.widths=(6,)"),
        *("--config.training.num_epochs=4", "--config.training.validate_every=2"),
        *("--config.evaluation.num_samples=5", "--config.diagnostics.floor=false"),
        *("--config.diagnostics.latents=false", "--config.diagnostics.probes=false"),
    )

    def train(name):
        command = harness.command("train", *arguments, f"--workdir={tmp_path / name}")
        outcome = harness.run(command, tmp_path / "cache")
        assert (outcome.status, outcome.stderr) == (0, "")
        return outcome.stdout

    with faults.injected("compiled programs: flipped"):
        assert "is damaged" not in train("first")
        programs = list((tmp_path / "cache" / "programs").glob("*-cache"))
        assert len(programs) > 5
        for path in programs:
            flip(RNG.uniform())(path)
        assert "is damaged" in train("second")
        for path in programs:
            assert zlib.decompress(path.read_bytes()), "it is compiled at every start"
        harness.assert_undisturbed(tmp_path / "second", tmp_path / "first")
