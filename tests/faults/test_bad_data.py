"""Tests of invalid images: they are refused in one line, before any computation.

Every case is a file or folder with real damage, and a process that reads it.
"""

import shutil
import struct
import zlib

import filelock
import numpy as np
import pytest
from PIL import Image

from experiments.data import downloads
from tests.faults import harness
from tests.test_data import BAD_ARRAYS, publish
from tests.test_hostile_data import ODD_NPZ

TRAIN = (
    "--config.data.num_train=100",
    "--config.model.widths=(6,)",
    "--config.training.num_epochs=2",
    "--config.training.validate_every=1",
    "--config.evaluation.num_samples=20",
)
IMAGES = np.random.default_rng(0).integers(0, 256, (150, 4, 4)).astype(np.uint8)


def train(workdir, name, path, *more):
    """Returns the command that trains on the user's own images."""
    own = (f"--config.data.name={name}", f"--config.data.path={path}")
    return harness.command("train", *TRAIN, *own, f"--workdir={workdir}", *more)


def assert_refused(outcome, words, tmp_path):
    """Asserts a refusal in one line, before the command compiled or wrote anything."""
    assert outcome.status == 2, outcome.stderr
    assert outcome.stdout == ""
    assert outcome.stderr.startswith("error: ")
    assert outcome.stderr.count("\n") == 1
    for word in words:
        assert word in outcome.stderr
    assert not (tmp_path / "run").exists()
    cache = tmp_path / "cache"
    assert not [path for path in cache.rglob("*") if path.is_file()]


# --- npz files ------------------------------------------------------------------------


class Payload:
    """Creates a file when its pickle is read."""

    def __init__(self, victim):
        self._victim = victim

    def __reduce__(self):
        return open, (str(self._victim), "w")


def payload(path):
    """Returns an array that creates the file ``victim`` when it is unpickled."""
    return np.array([Payload(path.parent / "victim"), None], dtype=object)


def save_bare(path):
    with path.open("wb") as file:
        np.save(file, payload(path), allow_pickle=True)


def flipped(path):
    np.savez(path, images=IMAGES)
    content = bytearray(path.read_bytes())
    content[500] ^= 4
    path.write_bytes(content)


# Examples of the tables of tests/test_data.py and tests/test_hostile_data.py.
NPZ = {
    **{
        case: (lambda path, case=case: np.savez(path, **BAD_ARRAYS[case][0]), words)
        for case, (_, words) in BAD_ARRAYS.items()
        if case in ("nan", "shapes", "typo")
    },
    **{case: ODD_NPZ[case] for case in ("absurd shape", "an empty member")},
    "missing": (lambda path: None, ("no such file", "data.path")),
    "a flipped bit": (flipped, ("damaged", "np.savez_compressed")),
}
PICKLES = {
    "as images": lambda path: np.savez(path, images=payload(path)),
    "as labels": lambda path: np.savez(path, images=IMAGES, labels=payload(path)),
    "in a bare npy file": save_bare,
    "as it is": lambda path: path.write_bytes(payload(path).dumps()),
}


@pytest.mark.parametrize("case", NPZ)
def test_bad_npz_files_are_refused(case, faults, tmp_path):
    write, words = NPZ[case]
    path = tmp_path / "a.npz"
    write(path)
    with faults.injected("data: bad npz file"):
        outcome = harness.run(train(tmp_path / "run", "npz", path), tmp_path / "cache")
        assert_refused(outcome, (str(path), *words), tmp_path)


@pytest.mark.parametrize("case", PICKLES)
def test_pickles_are_not_executed(case, faults, tmp_path):
    path = tmp_path / "a.npz"
    PICKLES[case](path)
    with faults.injected("data: pickle that would run code"):
        outcome = harness.run(train(tmp_path / "run", "npz", path), tmp_path / "cache")
        assert_refused(outcome, (str(path),), tmp_path)
        assert not (tmp_path / "victim").exists()


def test_control_the_pickle_would_run_code(tmp_path):
    path = tmp_path / "a.npz"
    PICKLES["as images"](path)
    with np.load(path, allow_pickle=True) as archive:
        archive["images"][0].close()
    assert (tmp_path / "victim").exists()


def test_images_that_the_likelihood_is_not_defined_on_are_refused(faults, tmp_path):
    path = tmp_path / "a.npz"
    np.savez(path, images=IMAGES % 2)
    command = train(tmp_path / "run", "npz", path, "--config.model.likelihood=laplace")
    with faults.injected("data: bad npz file"):
        outcome = harness.run(command, tmp_path / "cache")
        assert_refused(outcome, ("'laplace'", "binary", "'bernoulli'"), tmp_path)


# --- folders --------------------------------------------------------------------------


def png_chunk(kind, data):
    checksum = struct.pack(">I", zlib.crc32(kind + data))
    return struct.pack(">I", len(data)) + kind + data + checksum


def bomb():
    """Returns a PNG file of 100 bytes that decodes to ten thousand megapixels."""
    header = struct.pack(">IIBBBBB", 100_000, 100_000, 8, 0, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + png_chunk(b"IHDR", header)
        + png_chunk(b"IDAT", zlib.compress(bytes(1000)))
        + png_chunk(b"IEND", b"")
    )


def damage(name, change):
    """Changes the bytes of one image file of a folder."""

    def damaged(folder):
        good = (folder / name).read_bytes()
        (folder / name).write_bytes(change(good))
        assert (folder / name).read_bytes() != good

    return damaged


def add(name, image):
    """Adds an image, or any bytes, to a folder."""

    def added(folder):
        (folder / name).parent.mkdir(exist_ok=True)
        if isinstance(image, bytes):
            (folder / name).write_bytes(image)
        else:
            image.save(folder / name)

    return added


def into_splits(folder):
    for split in ("train", "Training"):
        (folder / split).mkdir()
    for i, path in enumerate(sorted(folder.glob("*.*"))):
        path.rename(folder / ("train", "Training")[i % 2] / path.name)


READ = ("cannot read", "Repair or remove it")
FOLDERS = {
    "truncated png": (damage("00.png", lambda good: good[:-40]), ("00.png", *READ)),
    "program called png": (
        add("02.png", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 4 4\nshowpage\n"),
        ("02.png", *READ),
    ),
    "decompression bomb": (add("02.png", bomb()), ("02.png", "decompression bomb")),
    "other size": (
        add("02.png", Image.new("L", (4, 3))),
        ("is 4x4 L", "02.png is 4x3 L", "one size"),
    ),
    "splits by one name": (into_splits, ("both of them", "Put their images")),
}


def write_folder(folder):
    folder.mkdir()
    drawn = IMAGES if folder.name == "good" else IMAGES[:2]
    for i, image in enumerate(drawn):
        suffix = ("png", "jpg")[i % 2]
        Image.fromarray(image).save(folder / f"{i:02}.{suffix}")


@pytest.mark.parametrize("case", FOLDERS)
def test_bad_folders_are_refused(case, faults, tmp_path):
    change, words = FOLDERS[case]
    folder = tmp_path / "images"
    write_folder(folder)
    change(folder)
    with faults.injected("data: bad folder of images"):
        command = train(tmp_path / "run", "folder", folder)
        outcome = harness.run(command, tmp_path / "cache")
        assert_refused(outcome, (str(folder), *words), tmp_path)


@pytest.mark.parametrize("name", ["npz", "folder"])
def test_control_good_images_are_accepted(name, cache, tmp_path):
    path = tmp_path / "good"
    if name == "npz":
        with path.open("wb") as file:
            np.savez(file, images=IMAGES)
    else:
        write_folder(path)
    outcome = harness.run(train(tmp_path / "run", name, path), cache)
    assert (outcome.status, outcome.stderr) == (0, "")
    assert "4x4x1 with 256 levels" in outcome.stdout


# --- prepared tensorflow-datasets -----------------------------------------------------


@pytest.fixture(scope="session")
def prepared(common):
    """Returns a folder with a small prepared MNIST, which stays unchanged."""
    pytest.importorskip("tensorflow_datasets")
    pytest.importorskip("array_record")
    folder = common / "prepared"
    with filelock.FileLock(common / "prepared.lock"), pytest.MonkeyPatch.context() as m:
        if not folder.exists():
            published = common / "published"
            published.mkdir()
            m.setattr(downloads, "PUBLISHED", publish(published))
            unfinished = common / "prepared.unfinished"
            downloads.prepare("mnist", str(unfinished), str(published))
            unfinished.rename(folder)
    return folder


def train_mnist(tmp_path, *more):
    return harness.command(
        "train",
        *TRAIN,
        "--config.data.name=mnist",
        "--config.data.num_validation=100",
        f"--config.data.data_dir={tmp_path / 'tfds'}",
        f"--workdir={tmp_path / 'run'}",
        *more,
    )


def files_of(folder, pattern):
    paths = sorted(folder.rglob(pattern))
    assert paths
    return paths


def flip(path):
    data = bytearray(path.read_bytes())
    middle = len(data) // 2
    data[middle : middle + 64] = bytes(255 - byte for byte in data[middle:][:64])
    path.write_bytes(data)


def delete(path):
    path.unlink()


IMAGE = "tensorflow_datasets.core.features.image_feature.Image"
PREPARE = "python -m experiments.prepare mnist"
TFDS = {
    "flipped records": ("mnist-train.array_record*", flip),
    "deleted description": ("dataset_info.json", delete),
}


@pytest.mark.parametrize("case", TFDS)
def test_damaged_tensorflow_datasets_are_refused(case, prepared, faults, tmp_path):
    pattern, change = TFDS[case]
    shutil.copytree(prepared, tmp_path / "tfds")
    for path in files_of(tmp_path / "tfds", pattern):
        change(path)
    with faults.injected("data: damaged tensorflow-datasets"):
        outcome = harness.run(train_mnist(tmp_path), tmp_path / "cache")
        assert_refused(outcome, (str(tmp_path / "tfds"), PREPARE), tmp_path)


def test_code_that_a_prepared_data_set_names_is_not_run(prepared, faults, tmp_path):
    shutil.copytree(prepared, tmp_path / "tfds")
    (path,) = files_of(tmp_path / "tfds", "features.json")
    path.write_text(path.read_text().replace(IMAGE, "evil.Feature"))
    code = tmp_path / "code"
    code.mkdir()
    (code / "evil.py").write_text(f"open({str(tmp_path / 'victim')!r}, 'w').close()")
    with faults.injected("data: feature class that would run code"):
        outcome = harness.run(
            train_mnist(tmp_path, "--config.data.name=mnist:3.0.1"),
            tmp_path / "cache",
            PYTHONPATH=str(code),
        )
        assert_refused(outcome, (str(path), "'evil.Feature'", PREPARE), tmp_path)
        assert not (tmp_path / "victim").exists()


def test_a_missing_tensorflow_dataset_is_refused(faults, tmp_path):
    pytest.importorskip("tensorflow_datasets")
    with faults.injected("data: missing tensorflow-datasets"):
        outcome = harness.run(train_mnist(tmp_path), tmp_path / "cache")
        assert_refused(outcome, (PREPARE, "data.download=True"), tmp_path)
        assert not (tmp_path / "tfds").exists()


# --- the cache of decoded images ------------------------------------------------------


def pickled(path):
    with path.open("wb") as file:
        np.save(file, payload(path), allow_pickle=True)


CACHE = {
    "flipped bytes": flip,
    "a pickle": pickled,
    "a link to a device": lambda path: (delete(path), path.symlink_to("/dev/zero")),
}


def train_digits(workdir):
    return harness.command("train", *TRAIN, f"--workdir={workdir}")


@pytest.fixture(scope="session")
def trained(common, cache):
    """Returns a run on the digits, and its cache entry; both stay unchanged."""
    folder = common / "trained"
    with filelock.FileLock(common / "trained.lock"):
        if not (folder / "report.html").exists():
            decoded = common / "decoded"
            outcome = harness.run(
                train_digits(folder), cache, VAE_JAX_CACHE=str(decoded)
            )
            assert (outcome.status, outcome.stderr) == (0, "")
    return folder, common / "decoded"


@pytest.mark.parametrize("case", CACHE)
def test_damaged_cache_entries_are_rebuilt(case, trained, cache, faults, tmp_path):
    """This gives a warning, and has no other effect on the run."""
    folder, decoded = trained
    mine = shutil.copytree(decoded, tmp_path / "decoded")
    (entry,) = mine.glob("digits-*")
    good = entry.read_bytes()
    CACHE[case](entry)
    assert entry.is_symlink() or entry.read_bytes() != good
    with faults.injected("data: damaged cache entry"):
        command = train_digits(tmp_path / "run")
        outcome = harness.run(command, cache, VAE_JAX_CACHE=str(mine))
        assert outcome.status == 0, outcome.stderr
        assert f"rebuilding the damaged cache entry {entry}" in outcome.stderr
        assert outcome.stderr.count("\n") == 1
        assert entry.read_bytes() == good
        assert harness.outcome_of(tmp_path / "run") == harness.outcome_of(folder)
        assert not (tmp_path / "decoded" / "victim").exists()
