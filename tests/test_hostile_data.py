"""Tests of strangers' data: it runs no code, and the user loses nothing.

Every refusal is one line that names the refused data. Nothing waits, fills the memory,
or writes anywhere else.
"""

import hashlib
import io
import json
import os
import pathlib
import shutil
import signal
import socket
import struct
import sys
import zipfile

import numpy as np
import pytest
from absl import logging
from PIL import EpsImagePlugin, Image

from experiments.data import cache, downloads, names
from experiments.data import tfds as reader
from experiments.data.images import load_data
from experiments.data.settings import DataSettings
from experiments.data.sources import Source, Split
from experiments.files import paths
from experiments.files.tensors import load_arrays, save_arrays
from experiments.messages.errors import DataError
from tests.folders import refusal
from tests.test_data import (
    GOOD,
    assert_same,
    cache_dir,
    entries,
    forbid_reading,
    prepared,
    small_mnist,
    write_images,
    write_npz,
)

__all__ = ["cache_dir", "prepared", "small_mnist"]  # Fixtures.


@pytest.fixture(autouse=True)
def alarm():
    """Ends a test that waits for a pipe, or reads forever."""

    def ring(*arguments):
        pytest.fail("it hangs")  # No Exception, which would become a refusal.

    old = signal.signal(signal.SIGALRM, ring)
    signal.alarm(30)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, old)


def small_memory(monkeypatch, num_bytes):
    """Pretends that this machine has little memory."""
    real = os.sysconf
    pages = num_bytes // real("SC_PAGE_SIZE")
    monkeypatch.setattr(
        os, "sysconf", lambda name: pages if name == "SC_PHYS_PAGES" else real(name)
    )


# --- names ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("stem", "name"),
    [
        ("my-faces_v2 (small)", "my-faces_v2 (small)"),
        ("<img src=x onerror=alert(1)>", "_img src=x onerror=alert(1)_"),
        ("=HYPERLINK(1)", "_HYPERLINK(1)"),
        ("[a](javascript:b)", "_a_(javascript:b)"),
    ],
)
@pytest.mark.parametrize("kind", ["npz", "folder"])
def test_a_name_is_plain_where_it_enters(stem, name, kind, tmp_path):
    if kind == "npz":
        settings_ = write_npz(tmp_path / f"{stem}.npz", images=GOOD)
    else:
        write_images(tmp_path / stem, GOOD, [f"{i:02}.png" for i in range(20)])
        settings_ = DataSettings("folder", path=str(tmp_path / stem))
    data = load_data(settings_)
    assert data.name == name
    assert data.describe().startswith(f"{name}: ")


def test_messages_obey_nobody():
    error = DataError("no file \x1b[2J\r\n\udcff'é ü'")
    assert str(error) == r"no file \x1b[2J\r\n\udcff'é ü'"


def test_a_strangers_name_in_a_message_is_written_out(tmp_path):
    write_images(tmp_path / "mine", GOOD[:1], ["a.png"])
    (tmp_path / "mine" / "\x1b]0;title\x07.png").write_bytes(b"junk")
    message = refusal(load_data, DataSettings("folder", path=str(tmp_path / "mine")))
    assert r"\x1b]0;title\x07.png" in message
    assert message.isprintable()


# --- tensorflow-datasets --------------------------------------------------------------

CORE = "tensorflow_datasets.core.features"


@pytest.fixture
def stranger(prepared):
    """Returns settings and folder of a prepared data set that tfds has no code for.

    So tfds knows only the descriptions in the folder.
    """
    root = pathlib.Path(prepared.data_dir)
    folder = root / "stranger" / "3.0.1"
    shutil.copytree(root / "mnist" / "3.0.1", folder)
    for path in folder.glob("mnist-*"):
        path.rename(folder / path.name.replace("mnist", "stranger"))
    edit(folder / "dataset_info.json", lambda info: info.update(name="stranger"))
    return DataSettings("stranger", data_dir=str(root), num_validation=100), folder


def edit(path, change):
    """Changes a JSON file."""
    value = json.loads(path.read_text())
    change(value)
    path.write_text(json.dumps(value))


@pytest.fixture
def victim(tmp_path, monkeypatch):
    """Returns a file that is written when the module ``evil`` is imported."""
    path = tmp_path / "victim"
    folder = tmp_path / "code"
    folder.mkdir()
    (folder / "evil.py").write_text(f"open({str(path)!r}, 'w').close()\n")
    monkeypatch.syspath_prepend(folder)
    yield path
    sys.modules.pop("evil", None)


def test_control_a_data_set_without_code_is_read(stranger, prepared):
    settings_, _ = stranger
    assert_same(load_data(settings_), load_data(prepared))


def test_control_tfds_would_run_code(stranger, victim):
    import tensorflow_datasets as tfds

    settings_, folder = stranger
    edit(folder / "features.json", nested_proto)
    with pytest.raises(ValueError, match=r"evil\.Feature"):
        tfds.builder("stranger", data_dir=settings_.data_dir)
    assert victim.exists()


def top(features):
    features["pythonClassName"] = "evil.Feature"


def nested_proto(features):
    features["featuresDict"]["features"]["label"]["pythonClassName"] = "evil.Feature"


def snake_case(features):
    label = features["featuresDict"]["features"]["label"]
    label.clear()
    label.update(python_class_name="evil.Feature", json_feature={"json": "{}"})


def deeply_nested(features):
    inner = {"pythonClassName": "evil.Feature", "tensor": {}}
    for _ in range(5):
        inner = {
            "pythonClassName": f"{CORE}.features_dict.FeaturesDict",
            "featuresDict": {"features": {"inner": inner}},
        }
    features["featuresDict"]["features"]["more"] = inner


def legacy(features):
    features.clear()
    features.update(
        type=f"{CORE}.features_dict.FeaturesDict",
        content={"image": {"type": "evil.Feature", "content": {}}},
    )


def inside_a_text(features):
    inner = {"image": {"type": "evil.Feature", "content": {}}}
    features.clear()
    features.update(
        pythonClassName=f"{CORE}.features_dict.FeaturesDict",
        jsonFeature={"json": json.dumps(inner)},
    )


def in_a_sequence(features):
    features["featuresDict"]["features"]["more"] = {
        "pythonClassName": f"{CORE}.sequence_feature.Sequence",
        "sequence": {"feature": {"pythonClassName": "evil.Feature"}},
    }


CODE = {
    "the class of all": top,
    "a nested class": nested_proto,
    "in snake case": snake_case,
    "deeply nested": deeply_nested,
    "in the legacy format": legacy,
    "inside a text": inside_a_text,
    "in a sequence": in_a_sequence,
}


@pytest.mark.parametrize("case", CODE)
@pytest.mark.parametrize("file", ["features.json", "dataset_info.json"])
def test_feature_classes_of_a_stranger_are_refused(
    case, file, stranger, victim, monkeypatch
):
    """This happens before tfds is called, also in the data set's description."""
    settings_, folder = stranger
    if file == "features.json":
        edit(folder / file, CODE[case])
    else:
        features = json.loads((folder / "features.json").read_text())
        CODE[case](features)
        edit(folder / file, lambda info: info.update(features=features))
    tfds = reader.import_tfds()
    monkeypatch.setattr(tfds, "builder", forbid_reading)
    message = refusal(load_data, settings_)
    assert str(folder / file) in message
    assert "feature class" in message
    assert "npz" in message
    assert not victim.exists()


@pytest.mark.parametrize(
    "name", ["os.system", "evil", "", "sys.path", f"{CORE}.video_feature.Video"]
)
def test_only_features_of_images_are_built(name, stranger):
    settings_, folder = stranger
    edit(folder / "features.json", lambda value: value.update(pythonClassName=name))
    assert f"the feature class {name!r}" in refusal(load_data, settings_)


def test_every_config_and_version_is_checked(stranger, victim):
    """The descriptions decide which of them tfds opens."""
    settings_, folder = stranger
    for place in ("../3.1.0", "../other/1.0.0", "../.hidden/1.0.0"):
        target = folder / place
        target.mkdir(parents=True)
        features = json.loads((folder / "features.json").read_text())
        nested_proto(features)
        (target / "features.json").write_text(json.dumps(features))
        assert "'evil.Feature'" in refusal(load_data, settings_)
        shutil.rmtree(target)
    assert not victim.exists()


def test_a_default_config_elsewhere_is_refused(stranger, victim, tmp_path):
    settings_, folder = stranger
    outside = tmp_path / "outside"
    shutil.copytree(folder, outside / "3.0.1")
    edit(outside / "3.0.1" / "features.json", nested_proto)
    shutil.rmtree(folder)
    (folder.parent / ".config").mkdir()
    metadata = folder.parent / ".config" / "metadata.json"
    for config in (str(outside), "../../outside", ".."):
        metadata.write_text(json.dumps({"default_config_name": config}))
        message = refusal(load_data, settings_)
        assert str(metadata) in message
        assert repr(config) in message
    assert not victim.exists()


def test_the_remedy_works_for_what_can_be_prepared(prepared, small_mnist, victim):
    folder, _ = small_mnist
    (path,) = pathlib.Path(prepared.data_dir).rglob("features.json")
    good = load_data(prepared)
    edit(path, nested_proto)
    message = refusal(load_data, prepared)
    root = path.parents[1]
    assert f"Delete {root} and run `python -m experiments.prepare mnist" in message
    assert message == refusal(
        downloads.prepare, "mnist", prepared.data_dir, str(folder)
    )
    shutil.rmtree(root)
    downloads.prepare("mnist", prepared.data_dir, str(folder))
    assert_same(load_data(prepared), good)
    assert not victim.exists()


def test_code_in_the_folder_is_not_imported(stranger, victim):
    settings_, folder = stranger
    code = f"open({str(victim)!r}, 'w').close()\n"
    for place in (folder, folder.parent, folder.parents[1]):
        names = ("__init__", "stranger", "stranger_dataset_builder", "dataset_builder")
        for name in (*names, "conftest", "sitecustomize", "features"):
            (place / f"{name}.py").write_text(code)
    edit(
        folder / "dataset_info.json",
        lambda info: info.update(moduleName="evil", location={"urls": ["evil"]}),
    )
    load_data(settings_)
    assert not victim.exists()


@pytest.mark.parametrize(
    "template",
    ["/dev/zero", "../../{SPLIT}", "gs://bucket/{SPLIT}", "{SPLIT:>99999999999}"],
)
def test_records_elsewhere_are_refused(template, stranger):
    settings_, folder = stranger

    def change(info):
        info["splits"][0]["filepathTemplate"] = template

    edit(folder / "dataset_info.json", change)
    assert repr(template) in refusal(load_data, settings_)


@pytest.mark.parametrize("place", ["", "../../../"])
def test_a_name_that_leads_to_other_files_is_refused(place, stranger):
    """The data set names its records: those of another must not be read for it."""
    settings_, folder = stranger
    outside = folder / place / "name"
    for path in folder.glob("stranger-*"):
        path.rename(f"{outside}{path.name.removeprefix('stranger')}")
    edit(folder / "dataset_info.json", lambda info: info.update(name=place + "name"))
    if place:
        message = refusal(load_data, settings_)
        assert f"cannot read {folder}: there is no file name-train" in message
    else:
        load_data(settings_)


@pytest.mark.parametrize("format_", ["parquet", "tfrecord", "riegeli", "evil"])
def test_records_of_other_formats_are_not_read(format_, stranger, monkeypatch):
    from tensorflow_datasets.core.data_sources import parquet

    settings_, folder = stranger
    started = []
    monkeypatch.setattr(parquet, "ParquetDataSource", lambda *a, **b: started.append(a))
    edit(folder / "dataset_info.json", lambda info: info.update(fileFormat=format_))
    for path in folder.glob("stranger-*"):
        path.rename(str(path).replace("array_record", format_))
    assert settings_.data_dir in refusal(load_data, settings_)
    assert not started


def test_labels_of_other_files_are_refused(stranger):
    settings_, folder = stranger

    def change(features):
        features.clear()
        label = {
            "type": f"{CORE}.class_label_feature.ClassLabel",
            "content": {"names_file": "/dev/zero"},
        }
        features.update(
            type=f"{CORE}.features_dict.FeaturesDict", content={"label": label}
        )

    edit(folder / "features.json", change)
    assert "the file of labels '/dev/zero'" in refusal(load_data, settings_)


def replace_by_pipe(path):
    path.unlink()
    os.mkfifo(path)


def replace_by_device(path):
    path.unlink()
    path.symlink_to("/dev/zero")


def replace_by_huge_file(path):
    os.truncate(path, 2**40)


def replace_by_deep_json(path):
    path.write_text("[" * 10**6 + "]" * 10**6)


def replace_by_nothing(path):
    path.unlink()
    path.symlink_to("nowhere")


JSON_FILES = ("features.json", "dataset_info.json")
ODD_FILES = (
    replace_by_pipe,
    replace_by_device,
    replace_by_huge_file,
    replace_by_nothing,
)


@pytest.mark.parametrize(
    ("name", "replace"),
    [
        *((name, replace_by_deep_json) for name in JSON_FILES),
        *(
            (name, replace)
            for name in (*JSON_FILES, "label.labels.txt", "records")
            for replace in ODD_FILES
        ),
    ],
)
def test_odd_files_of_prepared_data_are_refused(name, replace, stranger):
    settings_, folder = stranger
    if name == "records":
        (path,) = folder.glob("stranger-train*")
    else:
        path = folder / name
        path.touch()
    replace(path)
    assert str(path) in refusal(load_data, settings_)


class ManyRecords:
    """A list of records whose description claims a million million of them."""

    def __len__(self):
        return 10**12

    def __getitem__(self, index):
        return {"image": GOOD[0]}


def test_more_records_than_the_memory_holds_are_refused():
    message = refusal(reader._decode_records, ManyRecords(), "stranger", False)
    assert "stranger takes 16,000,000,000,000 bytes of memory" in message


def test_records_that_cannot_be_read_are_refused(stranger, monkeypatch):
    settings_, folder = stranger

    def broken_disk(*arguments):
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(hashlib, "file_digest", broken_disk)
    message = refusal(load_data, settings_)
    assert f"cannot read {folder}" in message
    assert "Input/output error" in message


@pytest.mark.parametrize("replace", [replace_by_pipe, replace_by_device])
def test_odd_files_to_prepare_from_are_refused(replace, small_mnist, tmp_path):
    source_ = shutil.copytree(small_mnist[0], tmp_path / "source")
    path = source_ / "train-images-idx3-ubyte.gz"
    replace(path)
    message = refusal(downloads.prepare, "mnist", str(tmp_path / "tfds"), str(source_))
    assert f"cannot read {path}: it is no regular file. " in message
    assert not (tmp_path / "tfds").exists()


def test_linked_prepared_data_are_read(stranger):
    settings_, folder = stranger
    good = load_data(settings_)
    folder.rename(folder.parent.with_name("elsewhere"))
    folder.symlink_to(folder.parent.with_name("elsewhere"))
    assert reader.is_on_disk("stranger", settings_.data_dir)
    assert_same(load_data(settings_), good)


def eps():
    content = io.BytesIO()
    Image.fromarray(GOOD[0].squeeze()).save(content, "EPS")
    return content.getvalue()


def test_images_that_are_programs_are_not_opened(monkeypatch):
    """Pillow gives EPS to Ghostscript; images in records reach it through tfds."""
    tfds = pytest.importorskip("tensorflow_datasets")
    monkeypatch.setattr(EpsImagePlugin, "Ghostscript", forbid_reading)
    decoder = reader._decoder(tfds, "stranger")
    decoder.setup(feature=tfds.features.Image(shape=(4, 4, 1)))
    png = io.BytesIO()
    Image.fromarray(GOOD[0].squeeze()).save(png, "PNG")
    np.testing.assert_array_equal(decoder.decode_example_np(png.getvalue()), GOOD[0])
    message = refusal(decoder.decode_example_np, eps())
    assert "stranger has an image that is no PNG" in message


# --- npz files ------------------------------------------------------------------------


def npy(array=GOOD, header=None):
    """Returns an npy file, with the given header if there is one."""
    content = io.BytesIO()
    np.save(content, array)
    if header is None:
        return content.getvalue()
    line = repr(header).encode() + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(line)) + line + array.tobytes()


def described(shape, descr="|u1"):
    return {"descr": descr, "fortran_order": False, "shape": shape}


def write_zip(path, *members, compression=zipfile.ZIP_DEFLATED):
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, content in members:
            archive.writestr(name, content)


def test_a_bomb_is_refused_before_it_is_unpacked(tmp_path, monkeypatch):
    path = tmp_path / "a.npz"
    array = np.zeros((2000, 32, 32), np.uint8)
    write_zip(path, ("images.npy", npy(array)))
    assert path.stat().st_size < array.nbytes / 500
    settings_ = DataSettings("npz", path=str(path))
    small_memory(monkeypatch, 2 * array.nbytes + 2**14)
    assert load_data(settings_).levels == 2
    small_memory(monkeypatch, 2 * array.nbytes - 2**14)
    monkeypatch.setattr(zipfile.ZipFile, "open", forbid_reading)
    message = refusal(load_data, settings_)
    assert f"{path} takes 2,048,128 bytes of memory" in message
    assert "half of this machine's" in message


def test_a_bomb_in_parts_is_refused(tmp_path, monkeypatch):
    path = tmp_path / "a.npz"
    part = npy(np.zeros((1000, 32, 32), np.uint8))
    write_zip(path, *((f"{split}_images.npy", part) for split in names.SPLITS))
    small_memory(monkeypatch, 4 * len(part))
    assert str(path) in refusal(load_data, DataSettings("npz", path=str(path)))


def write_twice(path):
    with pytest.warns(UserWarning, match="Duplicate name"):
        write_zip(path, ("images.npy", npy()), ("images.npy", npy()))


def write_encrypted(path):
    write_zip(path, ("images.npy", npy()))
    content = bytearray(path.read_bytes())
    content[6] |= 1
    content[content.rindex(b"PK\x01\x02") + 8] |= 1
    path.write_bytes(content)


def write_polyglot(path):
    write_zip(path, ("images.npy", npy()))
    path.write_bytes(npy(header=described((10**5, 10**5, 10**5))) + path.read_bytes())


def write_forged(path):
    """Writes a file whose directory claims less content."""
    write_zip(path, ("images.npy", npy()))
    content = bytearray(path.read_bytes())
    at = content.rindex(b"PK\x01\x02")
    content[at + 24 : at + 28] = struct.pack("<I", 200)
    path.write_bytes(content)


def claims(*shape, descr="|u1"):
    content = npy(header=described(shape, descr))
    return lambda path: write_zip(path, ("images.npy", content))


ODD_NPZ = {
    "absurd shape": (claims(10**6, 10**6, 10**6), ["damaged", "holds 320"]),
    "absurd type": (claims(20, 4, 4, descr="|V1000000000"), ["damaged"]),
    "shape beyond 64 bits": (claims(2**70, 4, 4), ["damaged"]),
    "two negative sizes": (claims(-(10**6), -(10**6), 4), ["damaged"]),
    "more than the directory says": (write_forged, ["damaged"]),
    "nested zip": (
        lambda path: write_zip(path, ("images.npz", b"PK\3\4")),
        ["unknown array 'images.npz'"],
    ),
    "absolute name": (
        lambda path: write_zip(path, ("/etc/images.npy", npy())),
        ["unknown array '/etc/images'"],
    ),
    "name that leads up": (
        lambda path: write_zip(path, ("../images.npy", npy())),
        ["unknown array '../images'"],
    ),
    "name with an escape sequence": (
        lambda path: write_zip(path, ("\x1b[2J\n.npy", npy())),
        ["unknown array '"],
    ),
    "very long name": (
        lambda path: write_zip(path, ("x" * 60_000, npy())),
        ["unknown array 'xxx"],
    ),
    "twice": (write_twice, ["['images', 'images']", "once"]),
    "with and without a suffix": (
        lambda path: write_zip(path, ("images", npy()), ("images.npy", npy())),
        ["['images', 'images']", "once"],
    ),
    "encrypted": (write_encrypted, ["damaged", "encrypted"]),
    "other compression": (
        lambda path: write_zip(
            path, ("images.npy", npy()), compression=zipfile.ZIP_LZMA
        ),
        ["damaged", "compressed"],
    ),
    "no array": (lambda path: write_zip(path, ("images.npy", b"text")), ["damaged"]),
    "a broken header": (
        lambda path: write_zip(path, ("images.npy", npy()[:10] + b"{'descr': ((((")),
        ["damaged"],
    ),
    "an empty member": (lambda path: write_zip(path, ("images.npy", b"")), ["damaged"]),
    "a folder in it": (lambda path: write_zip(path, ("images/", b"")), ["'images/'"]),
    "a pipe": (os.mkfifo, ["no such file"]),
    "a folder": (os.mkdir, ["no such file"]),
    "a device": (lambda path: path.symlink_to("/dev/zero"), ["no such file"]),
    "a link to itself": (lambda path: path.symlink_to(path.name), ["no such file"]),
}


@pytest.mark.parametrize("case", ODD_NPZ)
def test_odd_npz_files_are_refused(case, tmp_path):
    write, words = ODD_NPZ[case]
    path = tmp_path / "a.npz"
    write(path)
    message = refusal(load_data, DataSettings("npz", path=str(path)))
    for word in (str(path), *words):
        assert word in message
    assert message.isprintable()
    assert len(message) < 1000


def test_a_file_before_an_archive_is_not_read_for_it(tmp_path):
    """NumPy looks at the start of a file, but zip looks at its end."""
    path = tmp_path / "a.npz"
    write_polyglot(path)
    data = load_data(DataSettings("npz", path=str(path)))
    assert data.num_pixels == 16


@pytest.mark.parametrize("name", ["npz", "folder"])
@pytest.mark.parametrize("path", ["x" * 5000, "a\0b"])
def test_paths_that_cannot_be_are_refused(name, path):
    assert f"no such {'file' if name == 'npz' else 'folder'}" in refusal(
        load_data, DataSettings(name, path=path)
    )


# --- folders --------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path):
    """Returns a folder of two classes."""
    names = [f"{i:02}.png" for i in range(10)]
    write_images(tmp_path / "mine" / "ant", GOOD[:10], names)
    write_images(tmp_path / "mine" / "cat", GOOD[10:], names)
    return tmp_path / "mine"


def read(folder):
    return load_data(DataSettings("folder", path=str(folder)))


def test_files_are_read_in_the_order_of_their_paths(tmp_path):
    names = ["a.png", "a b/1.png", "a/2.png", "a/b/0.png", "a/b.png", "B/1.png"]
    names += ["é/1.png", ".hidden/1.png", "a/.1.png"]
    for name in names:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    expected = [
        path.relative_to(tmp_path).as_posix()
        for path in sorted(tmp_path.rglob("*"))
        if path.is_file() and "/." not in path.as_posix()[len(str(tmp_path)) :]
    ]
    assert [file.name for file in paths.walk(tmp_path)] == expected
    assert len(expected) == 7


def test_links_are_followed(folder, tmp_path):
    good = read(folder)
    (folder / "cat").rename(tmp_path / "elsewhere")
    (folder / "cat").symlink_to(tmp_path / "elsewhere")
    (folder / "ant" / "03.png").rename(tmp_path / "picture")
    (folder / "ant" / "03.png").symlink_to(tmp_path / "picture")
    assert_same(read(folder), good)


def link(name, target):
    return lambda folder: (folder / name).symlink_to(target)


def tower(folder):
    """Makes links that give 2**40 paths."""
    for i in range(40):
        (folder / f"d{i}").mkdir()
        for name in ("left", "right"):
            (folder / f"d{i}" / name).symlink_to(f"../d{i + 1}")


def listen(path):
    here = os.getcwd()
    with socket.socket(socket.AF_UNIX) as server:
        os.chdir(path.parent)  # The names of sockets must be short.
        server.bind(path.name)
        os.chdir(here)


ODD_FOLDERS = {
    "a link to its folder": (link("cat/loop", ".."), "cat/loop"),
    "a link to the folder above": (link("up", "../mine"), "up"),
    "a link to itself": (link("cat/self", "self"), "cat/self"),
    "a picture that is a link to itself": (link("cat/x.png", "x.png"), "cat/x.png"),
    "one folder twice": (link("dog", "cat"), "dog"),
    "very many paths": (tower, "d"),
    "a pipe": (lambda folder: os.mkfifo(folder / "cat" / "x.png"), "cat/x.png"),
    "a socket": (lambda folder: listen(folder / "cat" / "x.png"), "cat/x.png"),
    "a device": (link("cat/x.png", "/dev/zero"), "cat/x.png"),
    "another device": (link("cat/x.JPEG", "/dev/tty"), "cat/x.JPEG"),
    "a link to nothing": (link("cat/x.png", "nowhere"), "cat/x.png"),
}


@pytest.mark.parametrize("case", ODD_FOLDERS)
def test_odd_folders_are_refused(case, folder):
    change, name = ODD_FOLDERS[case]
    change(folder)
    message = refusal(read, folder)
    assert str(folder / name) in message
    assert "emove it." in message


@pytest.mark.parametrize("name", ["notes", ".hidden.png", ".hidden/x.png"])
def test_what_is_no_picture_is_not_opened(name, folder):
    good = read(folder)
    (folder / name).parent.mkdir(exist_ok=True)
    os.mkfifo(folder / name)
    assert_same(read(folder), good)


def test_a_path_that_is_no_folder_is_refused(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    assert "no such folder" in refusal(read, tmp_path / "pipe")


def test_a_folder_deeper_than_paths_can_be_is_refused(tmp_path):
    here = os.getcwd()
    (tmp_path / "mine").mkdir()
    os.chdir(tmp_path / "mine")
    try:
        for _ in range(25):
            os.mkdir("d" * 200)
            os.chdir("d" * 200)
    finally:
        os.chdir(here)
    assert "name too long" in refusal(read, tmp_path / "mine")


def test_pictures_that_would_fill_the_memory_are_refused(folder, monkeypatch):
    small_memory(monkeypatch, 2 * 2**20)
    assert len(read(folder).train.images) == 16
    for path in folder.rglob("*.png"):
        Image.new("L", (512, 512)).save(path)
    message = refusal(read, folder)
    assert f"{folder} takes 5,242,880 bytes of memory" in message


# --- the cache of decoded images ------------------------------------------------------


@pytest.fixture
def warnings_(monkeypatch):
    lines = []
    monkeypatch.setattr(logging, "warning", lambda text, *a: lines.append(text % a))
    return lines


def restored(path, change):
    """Changes a file, and sets its times back."""
    before = path.stat()
    change(path)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    after = path.stat()
    assert (before.st_size, before.st_mtime_ns) == (after.st_size, after.st_mtime_ns)


def uncompressed(path, image):
    Image.fromarray(image.squeeze()).save(path, "BMP")


def write_over(path):
    uncompressed(path, 255 - GOOD[0])


def put_in_place(path):
    """Puts another file in the place of one."""
    other = path.with_name(".other")
    uncompressed(other, 255 - GOOD[0])
    os.utime(other, ns=(path.stat().st_atime_ns, path.stat().st_mtime_ns))
    other.rename(path)


@pytest.mark.parametrize("change", [write_over, put_in_place])
def test_a_picture_that_changed_at_the_same_size_and_time_is_read(change, folder):
    path = folder / "ant" / "00.png"
    uncompressed(path, GOOD[0])
    first = read(folder)
    assert read(folder).fingerprint == first.fingerprint
    restored(path, change)
    assert read(folder).fingerprint != first.fingerprint


def test_a_linked_picture_that_changed_is_read(folder, tmp_path):
    uncompressed(tmp_path / "x", GOOD[0])
    (folder / "ant" / "00.png").unlink()
    (folder / "ant" / "00.png").symlink_to(tmp_path / "x")
    first = read(folder)
    restored(tmp_path / "x", write_over)
    assert read(folder).fingerprint != first.fingerprint


def test_records_that_changed_at_the_same_size_and_time_are_read(prepared, tmp_path):
    """This holds even if all facts about the file stay: only its content counts."""
    first = reader.identity(prepared)
    assert first == reader.identity(prepared)
    (path,) = pathlib.Path(prepared.data_dir).rglob("mnist-test.array_record*")

    def flip(path):
        content = bytearray(path.read_bytes())
        content[1000] ^= 1
        path.write_bytes(content)

    restored(path, flip)
    assert reader.identity(prepared) != first
    restored(path, flip)
    assert reader.identity(prepared) == first


def test_nothing_else_in_the_cache_folder_is_removed(cache_dir, warnings_):
    load_data(DataSettings("digits"))
    (entry,) = entries(cache_dir)
    keep = ["incomplete_thesis/chapter", "incomplete/a", "x.unfinished"]
    keep += [f".{entry.name}x.7.unfinished", f"{entry.name}.7.unfinished"]
    keep += [entry.stem + "/train_images.npy", ".other.safetensors.7.unfinished"]
    for name in keep:
        (cache_dir / name).parent.mkdir(exist_ok=True)
        (cache_dir / name).write_text("mine")
    entry.unlink()
    load_data(DataSettings("digits"))
    assert entry.exists()
    assert [(cache_dir / name).read_text() for name in keep] == ["mine"] * len(keep)
    assert not warnings_


def source(value=0):
    images = np.full((30, 2, 2, 1), value, np.uint8)
    return Source(17, {"train": Split(images, None)})


def test_an_entry_of_other_images_is_rebuilt(cache_dir, warnings_):
    cache.cached(lambda: source(1), ["it", "a"])
    (first,) = entries(cache_dir)
    cache.cached(lambda: source(2), ["it", "b"])
    (second,) = set(entries(cache_dir)) - {first}
    shutil.copy(first, second)
    assert not warnings_
    found = cache.cached(lambda: source(2), ["it", "b"])
    assert found.splits["train"].images.max() == 2
    assert len(warnings_) == 1
    assert f"rebuilding the damaged cache entry {second}" in warnings_[0]
    found = cache.cached(forbid_reading, ["it", "b"])
    assert found.splits["train"].images.max() == 2


@pytest.mark.parametrize("kind", ["link", "broken link", "pipe", "device"])
@pytest.mark.parametrize("memory_mapped", [False, True])
def test_an_entry_that_is_no_file_is_replaced(
    kind, memory_mapped, cache_dir, warnings_, tmp_path
):
    cache.cached(source, ["it"])
    (entry,) = entries(cache_dir)
    good = entry.read_bytes()
    entry.unlink()
    (tmp_path / "thesis").write_text("mine")
    if kind == "pipe":
        os.mkfifo(entry)
    else:
        targets = {"link": "thesis", "broken link": "new", "device": "/dev/zero"}
        entry.symlink_to(tmp_path / targets[kind])
    found = cache.cached(source, ["it"], memory_mapped=memory_mapped)
    np.testing.assert_array_equal(
        found.splits["train"].images, source().splits["train"].images
    )
    assert len(warnings_) == 1
    assert not entry.is_symlink()
    assert entry.read_bytes() == good
    assert (tmp_path / "thesis").read_text() == "mine"
    assert not (tmp_path / "new").exists()


def test_an_entry_that_is_a_folder_is_left(cache_dir, warnings_):
    cache.cached(source, ["it"])
    (entry,) = entries(cache_dir)
    entry.unlink()
    entry.mkdir()
    (entry / "thesis").write_text("mine")
    cache.cached(source, ["it"])
    assert (entry / "thesis").read_text() == "mine"
    assert "images are not cached" in warnings_[-1]


def test_nothing_is_written_through_links_of_a_strangers_cache(
    cache_dir, warnings_, tmp_path
):
    cache.cached(source, ["it"])
    (entry,) = entries(cache_dir)
    entry.unlink()
    victim = tmp_path / "thesis"
    victim.write_text("mine")
    for name in (f".{entry.name}.{os.getpid()}.unfinished", ".lock"):
        link_ = cache_dir / name
        link_.unlink(missing_ok=True)
        link_.symlink_to(victim)
        cache.cached(source, ["it"])
        assert victim.read_text() == "mine"
        assert link_.is_symlink()
        link_.unlink()
        assert "images are not cached" in warnings_.pop()
    assert not warnings_


@pytest.mark.parametrize("memory_mapped", [False, True])
@pytest.mark.parametrize("dtype", [np.uint8, np.float64])
def test_a_forged_entry_of_other_arrays_is_rebuilt(
    dtype, memory_mapped, cache_dir, warnings_
):
    cache.cached(source, ["it"])
    (entry,) = entries(cache_dir)
    good = entry.read_bytes()
    _, facts = load_arrays(entry, {})
    facts = {name: facts[name] for name in ("identity", "levels", "splits")}
    save_arrays(entry, {"train_images": np.ones((3, 2), dtype)}, facts)
    cache.cached(source, ["it"], memory_mapped=memory_mapped)
    assert len(warnings_) == 1
    assert entry.read_bytes() == good
