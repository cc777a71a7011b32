"""Images that cannot be used: refused in one line, before anything is computed.

Every case is a file or folder that is really damaged, and a process that is given it.
"""

import hashlib
import shutil
import struct
import zipfile
import zlib

import filelock
import numpy as np
import pytest
from PIL import Image

from experiments.data import published as preparing
from tests.faults import harness
from tests.test_data import idx

TRAIN = (
    "--config.data.num_train=100",
    "--config.model.widths=(6,)",
    "--config.training.num_epochs=2",
    "--config.training.validate_every=1",
    "--config.evaluation.num_samples=20",
)
IMAGES = np.random.default_rng(0).integers(0, 256, (150, 4, 4)).astype(np.uint8)


def train(workdir, name, path, *more):
    """The command that trains on the user's own images."""
    own = (f"--config.data.name={name}", f"--config.data.path={path}")
    return harness.command("train", *TRAIN, *own, f"--workdir={workdir}", *more)


def assert_refused(outcome, words, tmp_path):
    """The command was refused in one line, before it compiled or wrote anything."""
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
    """Creates a file wherever its pickle is read."""

    def __init__(self, victim):
        self._victim = victim

    def __reduce__(self):
        return open, (str(self._victim), "w")


def payload(path):
    """An array that creates the file ``victim`` beside a path when unpickled."""
    return np.array([Payload(path.parent / "victim"), None], dtype=object)


def arrays(**named):
    """Writes arrays, given as they are, to an npz file."""
    return lambda path: np.savez(path, **named)


def content(data):
    return lambda path: path.write_bytes(data)


def changed(change):
    """Writes a good file, and then what ``change`` makes of its bytes."""

    def write(path):
        np.savez(path, images=IMAGES)
        good = path.read_bytes()
        path.write_bytes(change(good))
        assert path.read_bytes() != good

    return write


def member(name, data):
    """Writes a zip file with one member."""

    def write(path):
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr(name, data)

    return write


def array_with_header(header):
    """An npy file of 1000 zeros, whatever its header says."""
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header + bytes(1000)


def described(shape):
    return f"{{'descr': '|u1', 'fortran_order': False, 'shape': {shape}}}\n".encode()


def save_bare(path):
    with path.open("wb") as file:
        np.save(file, payload(path), allow_pickle=True)


REMEDY = "np.savez_compressed"
NPZ = {
    # values
    "NaN": (arrays(images=np.where(IMAGES > 9, IMAGES, np.nan)), ("NaN", "remove")),
    "infinity": (arrays(images=np.where(IMAGES > 9, IMAGES, np.inf)), ("infinity",)),
    "negative": (arrays(images=IMAGES.astype(int) - 1), ("-1..", "0..255")),
    "above 255": (arrays(images=IMAGES.astype(int) * 2), ("integers in 0..255",)),
    "floats in [0, 1]": (
        arrays(images=(IMAGES / 255).astype(np.float32)),
        ("float32 with fractions", "data.white=1"),
    ),
    "floats in [-1, 1]": (arrays(images=IMAGES / 127.5 - 1), ("data.black=-1",)),
    "floats up to 65535": (arrays(images=IMAGES * 257.0), ("data.white=65535",)),
    "above the levels": (arrays(images=IMAGES, levels=17), ("integers in 0..16",)),
    # types
    "complex": (
        arrays(images=IMAGES.astype(complex)),
        ("complex128", "np.real(images)"),
    ),
    "text": (arrays(images=IMAGES.astype(str)), ("<U", "images.astype(float)")),
    "times": (arrays(images=IMAGES.astype("datetime64[s]")), ("datetime64[s]",)),
    "records": (arrays(images=IMAGES.view([("red", "u1")])), ("red",)),
    "float labels": (
        arrays(images=IMAGES, labels=np.full(150, 0.5)),
        ("float64", "labels are classes"),
    ),
    # shapes
    "flat images": (arrays(images=IMAGES[:, 0]), ("(150, 4)", "[N, H, W]")),
    "one number": (arrays(images=np.uint8(3)), ("shape ()", "[N, H, W]")),
    "five dimensions": (arrays(images=IMAGES[None, None]), ("(1, 1, 150, 4, 4)",)),
    "channels first": (
        arrays(images=np.zeros((150, 3, 8, 8), np.uint8)),
        ("1 or 3 channels", "np.moveaxis"),
    ),
    "no images": (arrays(images=IMAGES[:0]), ("(0, 4, 4)", "no size of 0")),
    "no height": (arrays(images=IMAGES[:, :0]), ("(150, 0, 4)", "no size of 0")),
    "too few labels": (
        arrays(images=IMAGES, labels=np.arange(149)),
        ("149 labels for 150 images",),
    ),
    "two shapes": (
        arrays(images=IMAGES, test_images=IMAGES[:, :3]),
        ("different image shapes", "(3, 4, 1)"),
    ),
    "two images": (arrays(images=IMAGES[:2]), ("2 images", "too few")),
    "one level": (arrays(images=IMAGES, levels=1), ("levels", "is 1", "2 to 256")),
    "list of levels": (arrays(images=IMAGES, levels=[2, 3]), ("one integer",)),
    # names
    "no arrays": (arrays(), ("must hold images for training",)),
    "test images only": (arrays(test_images=IMAGES), ("images for training",)),
    "misspelt name": (
        arrays(images=IMAGES, test_image=IMAGES),
        ("unknown array 'test_image'", "'test_images'"),
    ),
    "labels only": (
        arrays(images=IMAGES, test_labels=np.arange(3)),
        ("test_labels but no test_images",),
    ),
    # files
    "missing": (lambda path: None, ("no file", "data.path")),
    "a folder": (lambda path: path.mkdir(), ("no file", "data.path")),
    "empty": (content(b""), ("is empty", REMEDY)),
    "not a zip file": (content(b"PK\3\4 this is no zip file"), ("not an npz", REMEDY)),
    "truncated": (changed(lambda good: good[:-300]), ("not an npz file", REMEDY)),
    "truncated in front": (changed(lambda good: good[300:]), ("damaged", REMEDY)),
    "a flipped bit": (
        changed(lambda good: good[:500] + bytes([good[500] ^ 4]) + good[501:]),
        ("damaged", REMEDY),
    ),
    "another zip file": (member("notes.txt", "no arrays"), ("array 'notes.txt'",)),
    "more than fits": (
        member("images.npy", array_with_header(described((10**5, 10**4, 10**4)))),
        ("damaged", "holds 1000", REMEDY),
    ),
    "less than is said": (
        member("images.npy", array_with_header(described((20, 10, 10)))),
        ("damaged", "2000 bytes", REMEDY),
    ),
    "a broken header": (
        member("images.npy", array_with_header(b"{'descr': ((((")),
        ("damaged", REMEDY),
    ),
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
    """A PNG file of 100 bytes that unfolds to an image of ten thousand megapixels."""
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


def empty(folder):
    for path in folder.iterdir():
        path.unlink()


def into_splits(folder):
    for split in ("train", "Training"):
        (folder / split).mkdir()
    for i, path in enumerate(sorted(folder.glob("*.*"))):
        path.rename(folder / ("train", "Training")[i % 2] / path.name)


READ = ("cannot read", "repair or remove it")
FOLDERS = {
    "truncated png": (damage("00.png", lambda good: good[:-40]), ("00.png", *READ)),
    "flipped bit in a png": (
        damage("00.png", lambda good: good[:45] + bytes([good[45] ^ 4]) + good[46:]),
        ("00.png", *READ),
    ),
    "empty png": (damage("00.png", lambda good: b""), ("00.png", *READ)),
    "truncated jpeg": (damage("01.jpg", lambda good: good[:-60]), ("01.jpg", *READ)),
    "text called png": (add("02.png", b"not an image"), ("02.png", *READ)),
    "program called png": (
        add("02.png", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 4 4\nshowpage\n"),
        ("02.png", *READ),
    ),
    "decompression bomb": (add("02.png", bomb()), ("02.png", "decompression bomb")),
    "other size": (
        add("02.png", Image.new("L", (4, 3))),
        ("4x4 L", "02.png is 4x3 L", "one size"),
    ),
    "other mode": (
        add("02.png", Image.new("RGB", (4, 4))),
        ("4x4 L", "02.png is 4x4 RGB", "one size and mode"),
    ),
    "transparency": (add("00.png", Image.new("RGBA", (4, 4))), ("opaque",)),
    "palette of colours": (
        add("00.png", Image.new("RGB", (4, 4), "red").convert("P")),
        ("4x4 RGB", "4x4 L"),
    ),
    "16 bits": (add("00.png", Image.new("I;16", (4, 4))), ("4x4 I;16", "4x4 L")),
    "image beside classes": (
        add("cat/02.png", Image.new("L", (4, 4))),
        ("beside subfolders", "'00.png'"),
    ),
    "splits by one name": (into_splits, ("both of them", "put their images")),
    "no images": (empty, ("holds no images", "png, jpg")),
    "missing": (shutil.rmtree, ("no folder", "data.path")),
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
    """A folder with a small MNIST, prepared as the real one is; not to be changed."""
    pytest.importorskip("tensorflow_datasets")
    pytest.importorskip("array_record")
    folder = common / "prepared"
    with filelock.FileLock(common / "prepared.lock"), pytest.MonkeyPatch.context() as m:
        if not folder.exists():
            published = common / "published"
            published.mkdir()
            m.setitem(preparing.PUBLISHED, "mnist", _publish(published))
            unfinished = common / "prepared.unfinished"
            preparing.prepare("mnist", str(unfinished), str(published))
            unfinished.rename(folder)
    return folder


def _publish(folder):
    """Writes the files that MNIST is published as, with 300 and 50 images."""
    digests = {}
    real = preparing.PUBLISHED["mnist"]
    generator = np.random.default_rng(0)
    for files, count in zip(real.splits.values(), (300, 50), strict=True):
        drawn = generator.integers(256, size=(count, 28, 28), dtype=np.uint8)
        labels = generator.integers(10, size=count, dtype=np.uint8)
        for file, array in zip(files, (drawn, labels), strict=True):
            (folder / file).write_bytes(idx(array))
            digests[file] = hashlib.sha256((folder / file).read_bytes()).hexdigest()
    return real._replace(url=folder.as_uri() + "/", digests=digests)


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


def truncate(path):
    path.write_bytes(path.read_bytes()[:-10_000])


def flip(path):
    data = bytearray(path.read_bytes())
    middle = len(data) // 2
    data[middle : middle + 64] = bytes(255 - byte for byte in data[middle:][:64])
    path.write_bytes(data)


def clear(path):
    path.write_bytes(b"")


def delete(path):
    path.unlink()


IMAGE = "tensorflow_datasets.core.features.image_feature.Image"
PREPARE = "python -m experiments.prepare mnist"
TFDS = {
    "truncated records": ("mnist-train.array_record*", truncate),
    "flipped records": ("mnist-train.array_record*", flip),
    "empty records": ("mnist-test.array_record*", clear),
    "deleted records": ("mnist-test.array_record*", delete),
    "empty description": ("dataset_info.json", clear),
    "damaged description": ("dataset_info.json", flip),
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


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ([], (PREPARE, "data.download=True")),
        (["--config.data.name=mnist:9.9.9"], ("'mnist:9.9.9'", "3.0.1")),
        (["--config.data.name=cifar10"], ("tfds build cifar10",)),
        (
            ["--config.data.name=cifar10", "--config.data.download=True"],
            ("cannot prepare 'cifar10'",),
        ),
    ],
)
def test_missing_tensorflow_datasets_are_refused(options, words, faults, tmp_path):
    pytest.importorskip("tensorflow_datasets")
    with faults.injected("data: missing tensorflow-datasets"):
        outcome = harness.run(train_mnist(tmp_path, *options), tmp_path / "cache")
        assert_refused(outcome, words, tmp_path)
        assert not (tmp_path / "tfds").exists()


# --- the cache of decoded images ------------------------------------------------------


def change_levels(path):
    data = path.read_bytes()
    changed = data.replace(b'\\"levels\\": \\"17\\"', b'\\"levels\\": \\"18\\"')
    path.write_bytes(changed)


def pickled(path):
    with path.open("wb") as file:
        np.save(file, payload(path), allow_pickle=True)


CACHE = {
    "truncated": truncate,
    "flipped bytes": flip,
    "empty": clear,
    "a pickle": pickled,
    "changed levels": change_levels,
    "a link to a device": lambda path: (delete(path), path.symlink_to("/dev/zero")),
}


def train_digits(workdir):
    return harness.command("train", *TRAIN, f"--workdir={workdir}")


@pytest.fixture(scope="session")
def trained(common, cache):
    """A run on the digits, and the cache entry that it left; not to be changed."""
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
    """With a warning, and without any other effect on the run."""
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
