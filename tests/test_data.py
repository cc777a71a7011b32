"""Tests of images: reading, splitting, and refusals."""

import dataclasses
import gzip
import hashlib
import os
import pathlib
import struct
import subprocess
import sys
import threading
import zipfile

import hypothesis.extra.numpy as hnp
import hypothesis.strategies as st
import numpy as np
import pytest
from absl import logging
from hypothesis import given, settings
from PIL import Image

from experiments.data import cache, digits, downloads, folders, npz, tfds
from experiments.data.images import ImageData, load_data
from experiments.data.settings import DataSettings
from experiments.data.sources import Split
from experiments.files import locks
from experiments.messages.errors import DataError
from tests.folders import refusal
from vae_jax import views

SPLITS = ("train", "validation", "test")
NPZ = DataSettings("npz", path="a.npz")


@pytest.fixture(autouse=True)
def cache_dir(tmp_path, monkeypatch):
    """Gives each test its own cache."""
    monkeypatch.setenv("VAE_JAX_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def assert_same(a: ImageData, b: ImageData):
    assert a.levels == b.levels
    for split in SPLITS:
        for x, y in zip(getattr(a, split), getattr(b, split), strict=True):
            np.testing.assert_array_equal(x, y)
    assert a.fingerprint == b.fingerprint


def write_npz(path, **arrays):
    np.savez_compressed(path, **arrays)
    return DataSettings("npz", path=str(path))


def numbered(count, levels=256):
    """Returns distinct images [count, 4, 4, 1]: seven pixels spell out the number."""
    generator = np.random.default_rng(0)
    images = generator.integers(levels, size=(count, 16), dtype=np.uint8)
    for digit in range(7):
        images[:, digit] = np.arange(count) // levels**digit % levels
    return images.reshape(count, 4, 4, 1)


# --- the embedded digits, splits and statistics ---------------------------------------


def test_digits_facts():
    data = load_data(DataSettings("digits"))
    assert data.image_shape == (8, 8, 1)
    assert data.num_pixels == 64
    assert data.levels == 17
    for split, count in zip(SPLITS, (1300, 200, 297), strict=True):
        images, labels = getattr(data, split)
        assert images.shape == (count, 8, 8, 1)
        assert images.dtype == np.uint8
        assert labels.shape == (count,)
        assert labels.dtype == np.int32
        assert set(labels) == set(range(10))
    assert data.describe() == (
        "digits: 1,300 train, 200 validation, 297 test images of 8x8x1 with 17 levels"
    )


def test_digits_do_not_change_between_versions():
    """NumPy may change its random streams; the docs' numbers would then be wrong."""
    data = load_data(DataSettings("digits"))
    static = load_data(DataSettings("digits", binarization="static"))
    assert static.binarization == "static"
    assert data.fingerprint.startswith("0d8659ec3560")
    assert static.fingerprint.startswith("12678c94181d")


def test_every_image_is_in_one_split(tmp_path):
    images = numbered(1000)
    source = write_npz(tmp_path / "a.npz", images=images, labels=np.arange(1000))
    data = load_data(dataclasses.replace(source, num_validation=150, num_test=250))
    found = np.concatenate([getattr(data, split).labels for split in SPLITS])
    np.testing.assert_array_equal(np.sort(found), np.arange(1000))
    for split in SPLITS:
        part = getattr(data, split)
        np.testing.assert_array_equal(part.images, images[part.labels])
    assert [len(getattr(data, s).images) for s in SPLITS] == [600, 150, 250]


def test_splits_are_a_function_of_the_seed():
    digits = DataSettings("digits")
    assert_same(load_data(digits), load_data(digits))
    other = load_data(dataclasses.replace(digits, split_seed=1))
    assert other.fingerprint != load_data(digits).fingerprint


def test_test_images_do_not_depend_on_the_number_of_validation_images():
    a = load_data(DataSettings("digits"))
    b = load_data(DataSettings("digits", num_validation=300))
    np.testing.assert_array_equal(a.test.images, b.test.images)
    np.testing.assert_array_equal(a.validation.images, b.validation.images[:200])


def test_num_train_takes_the_first_images():
    data = load_data(DataSettings("digits"))
    small = load_data(DataSettings("digits", num_train=100))
    np.testing.assert_array_equal(small.train.images, data.train.images[:100])
    np.testing.assert_array_equal(small.train.labels, data.train.labels[:100])
    np.testing.assert_array_equal(small.validation.images, data.validation.images)


def test_own_splits_are_kept_in_order(tmp_path):
    images = numbered(60)
    source = write_npz(
        tmp_path / "a.npz",
        train_images=images[:30],
        validation_images=images[30:40],
        test_images=images[40:],
    )
    data = load_data(source)
    joined = np.concatenate([getattr(data, split).images for split in SPLITS])
    np.testing.assert_array_equal(joined, images)
    assert data.train.labels is None
    assert data.name == "a"


def test_fingerprint_sees_every_part(tmp_path):
    images = numbered(40)
    parts = {"train": slice(0, 20), "validation": slice(20, 30), "test": slice(30, 40)}

    splits = {split: Split(images[part], None) for split, part in parts.items()}
    data = ImageData("x", 256, **splits, binarization="dynamic")
    labelled = Split(images[:20], np.zeros(20, np.int32))
    others = [
        dataclasses.replace(data, levels=255),
        dataclasses.replace(data, train=labelled),
        dataclasses.replace(data, validation=data.test, test=data.validation),
    ]
    assert len({x.fingerprint for x in [data, *others]}) == 4
    assert data.fingerprint == dataclasses.replace(data, name="y").fingerprint


# --- static binarization --------------------------------------------------------------


def test_static_binarization_has_the_right_mean_for_every_intensity(tmp_path):
    count = 4000
    images = np.broadcast_to(np.arange(17, dtype=np.uint8), (count, 1, 17))
    source = write_npz(
        tmp_path / "a.npz",
        train_images=images,
        validation_images=images,
        test_images=images,
        levels=17,
    )
    data = load_data(dataclasses.replace(source, binarization="static"))
    assert data.levels == 2
    p = np.arange(17) / 16
    draws = np.stack([getattr(data, s).images.reshape(count, 17) for s in SPLITS])
    assert set(np.unique(draws)) == {0, 1}
    assert (draws[..., 0] == 0).all()
    assert (draws[..., 16] == 1).all()
    # 45 means, each within 5 standard errors: fails by chance once in 40,000 seeds.
    error = np.abs(draws.mean(axis=1) - p)
    assert (error <= 5 * np.sqrt(p * (1 - p) / count)).all()
    for a, b in ((0, 1), (0, 2), (1, 2)):
        assert (draws[a] != draws[b]).any()


def test_static_binarization_is_a_function_of_its_seed_alone():
    static = DataSettings("digits", binarization="static")
    assert_same(load_data(static), load_data(static))
    other = load_data(dataclasses.replace(static, binarization_seed=1))
    assert other.fingerprint != load_data(static).fingerprint
    # Other splits cut the same binarized images.
    cut = load_data(dataclasses.replace(static, split_seed=5, num_validation=100))

    def rows(data):
        images = np.concatenate([getattr(data, s).images for s in SPLITS])
        return np.unique(images.reshape(len(images), -1), axis=0, return_counts=True)

    for a, b in zip(rows(load_data(static)), rows(cut), strict=True):
        np.testing.assert_array_equal(a, b)


def test_static_binarization_leaves_binary_images_alone(tmp_path):
    source = write_npz(tmp_path / "a.npz", images=numbered(50, levels=2))
    static = dataclasses.replace(source, binarization="static")
    data = load_data(static)
    assert_same(load_data(source), data)
    assert data.binarization == "published"


# --- settings -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"name": "Digits 2"}, ["'Digits 2'", "mnist", "npz", "folder"]),
        ({"name": "../digits"}, ["'../digits'", "did you mean 'digits'?"]),
        # Both would be searched in another folder than the one that is checked.
        ({"name": "Mnist"}, ["'Mnist'", "did you mean 'mnist'?"]),
        ({"name": "mnist/..:3.0.1"}, ["'mnist/..:3.0.1'"]),
        (
            {"binarization": "statik"},
            ["binarization is 'statik'", "Choose one of dynamic, static"],
        ),
        ({"binarization_seed": -1}, ["data.binarization_seed is -1", "at least 0"]),
        ({"split_seed": -3}, ["data.split_seed is -3", "at least 0"]),
        ({"num_validation": 0}, ["data.num_validation is 0", "at least 1, or -1"]),
        ({"num_test": -2}, ["data.num_test is -2", "at least 1, or -1"]),
        ({"num_train": 0}, ["data.num_train is 0", "at least 1, or -1"]),
        ({"name": "npz"}, ["'npz'", "needs data.path"]),
        ({"name": "folder"}, ["'folder'", "needs data.path"]),
        ({"path": "x.npz"}, ["'x.npz'", "'digits'", "'npz' or 'folder'"]),
    ],
)
def test_settings_are_refused(changes, words):
    message = refusal(DataSettings, **{"name": "digits", **changes})
    for word in words:
        assert word in message


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"num_train": 1301}, ["num_train is 1301", "1300 training images"]),
        ({"num_test": 1797}, ["1797 images", "too few for 1797 test", "num_test"]),
        ({"num_validation": 1500}, ["too few for 1500 validation", "num_validation"]),
    ],
)
def test_too_few_images_are_refused(changes, words):
    message = refusal(load_data, DataSettings("digits", **changes))
    for word in words:
        assert word in message


def test_two_images_are_too_few_for_three_splits(tmp_path):
    source = write_npz(tmp_path / "a.npz", images=numbered(2))
    message = refusal(load_data, source)
    assert "2 images to split, too few for 1 validation image (" in message
    assert message.endswith("(data.num_validation). Give more images.")
    assert len(load_data(write_npz(tmp_path / "b.npz", images=numbered(3))).test.images)


def test_sizes_of_own_splits_cannot_be_asked_for(tmp_path):
    images = numbered(40)
    source = write_npz(tmp_path / "a.npz", train_images=images, test_images=images[:5])
    message = refusal(load_data, dataclasses.replace(source, num_test=3))
    assert "num_test is 3" in message
    assert "5 test images of its own" in message


# --- npz ------------------------------------------------------------------------------


@st.composite
def valid_arrays(draw):
    """Returns arrays of an npz file that must be accepted, and their levels."""
    levels = draw(st.integers(2, 256))
    shape = (draw(st.integers(1, 4)), draw(st.integers(1, 4)))
    if draw(st.booleans()):
        shape += (draw(st.sampled_from([1, 3])),)
    kinds = [np.uint8, np.int16, np.uint16, np.int32, np.int64, np.float32, np.float64]
    arrays = {}
    for split in draw(st.sampled_from([SPLITS, ("train", "test"), ("train",)])):
        count = draw(st.integers(3, 12))
        dtype = draw(st.sampled_from(kinds))
        values = st.integers(0, levels - 1)
        images = draw(hnp.arrays(np.int64, (count, *shape), elements=values))
        images.flat[0] = levels - 1  # Zeros and ones alone may be another range.
        arrays[f"{split}_images"] = images.astype(dtype)
        if draw(st.booleans()):
            arrays[f"{split}_labels"] = np.arange(count)
    arrays["levels"] = np.array(levels)
    return arrays


@settings(max_examples=100, deadline=None)
@given(valid_arrays())
def test_valid_arrays_are_read_exactly(arrays):
    source = npz.parse(arrays, NPZ)
    assert source.levels == arrays["levels"]
    for split, (images, labels) in source.splits.items():
        given_images = arrays[f"{split}_images"]
        assert images.dtype == np.uint8
        assert images.ndim == 4
        np.testing.assert_array_equal(images.reshape(given_images.shape), given_images)
        if f"{split}_labels" in arrays:
            assert labels.dtype == np.int32
            np.testing.assert_array_equal(labels, arrays[f"{split}_labels"])
        else:
            assert labels is None


@settings(max_examples=200, deadline=None)
@given(
    hnp.arrays(
        st.one_of(hnp.scalar_dtypes(), hnp.array_dtypes()),
        hnp.array_shapes(min_dims=0, max_dims=5, min_side=0, max_side=3),
    ),
    st.none() | st.integers(-300, 300),
)
def test_any_array_is_read_exactly_or_refused_in_one_line(array, levels):
    arrays = {"images": array}
    if levels is not None:
        arrays["levels"] = np.array(levels)
    try:
        source = npz.parse(arrays, NPZ)
    except DataError as error:
        message = str(error)
    else:
        message = ""
        images = source.splits["train"].images
        if array.ndim == 4 and array.shape[-1] == 2:
            array = array[..., :1]  # Without the channel that says that all is opaque.
        np.testing.assert_array_equal(images.reshape(array.shape), array)
        assert images.max() < source.levels <= 256
    assert "\n" not in message


def test_levels_are_two_for_zeros_and_ones(tmp_path):
    images = numbered(20, levels=2)
    assert load_data(write_npz(tmp_path / "a.npz", images=images)).levels == 2
    assert load_data(write_npz(tmp_path / "b.npz", images=images > 0)).levels == 2
    assert load_data(write_npz(tmp_path / "c.npz", images=images * 255)).levels == 256
    black = write_npz(tmp_path / "d.npz", images=np.zeros_like(images))
    assert load_data(black).levels == 2


GOOD = numbered(20)
BAD_ARRAYS = {
    "nan": ({"images": np.full((5, 4, 4), np.nan)}, ["NaN", "Remove"]),
    "infinity": ({"images": np.full((5, 4, 4), np.inf)}, ["infinity", "Remove"]),
    "negative": ({"images": GOOD.astype(int) - 1}, ["-1..", "integers in 0..255"]),
    "high": (
        {"images": GOOD.astype(int) * 2},
        ["integers in 0..255", "data.white=1023"],
    ),
    "above levels": (
        {"images": GOOD, "levels": 17},
        ["in 0..16", "Save levels=256"],
    ),
    "one level": ({"images": GOOD, "levels": 1}, ["levels", "is 1", "2 to 256"]),
    "many levels": ({"images": GOOD, "levels": 257}, ["is 257", "2 to 256"]),
    "list of levels": ({"images": GOOD, "levels": [2, 3]}, ["must be one integer"]),
    "no images": ({"images": GOOD[:0]}, ["(0, 4, 4, 1)", "no size of 0"]),
    "no height": ({"images": GOOD[:, :0]}, ["(20, 0, 4, 1)", "no size of 0"]),
    "one number": ({"images": np.uint8(3)}, ["shape ()", "[N, H, W]"]),
    "five axes": ({"images": GOOD[None]}, ["(1, 20, 4, 4, 1)", "[N, H, W]"]),
    "times": ({"images": GOOD.astype("datetime64[s]")}, ["datetime64[s]"]),
    "records": ({"images": GOOD.view([("red", "u1")])}, ["red"]),
    "no arrays": ({}, ["must hold images for training"]),
    "five channels": ({"images": np.zeros((5, 4, 4, 5))}, ["(5, 4, 4, 5)", "1 or 3"]),
    "text": ({"images": np.full((5, 4, 4), "x")}, ["<U1", "integers or floats"]),
    "labels": (
        {"images": GOOD, "labels": np.arange(19)},
        ["19 labels for 20 images", "one label for each"],
    ),
    "float labels": (
        {"images": GOOD, "labels": np.full(20, 0.5)},
        ["float64", "integers"],
    ),
    "wide labels": (
        {"images": GOOD, "labels": np.full(20, 2**40)},
        ["beyond 32 bits", "labels.astype(str)"],
    ),
    "labels only": (
        {"images": GOOD, "test_labels": np.arange(3)},
        ["test_labels but no test_images"],
    ),
    "typo": (
        {"images": GOOD, "test_image": GOOD},
        ["unknown array 'test_image'", "'test_images'"],
    ),
    "twice": ({"images": GOOD, "train_images": GOOD}, ["images for training once"]),
    "no training": ({"test_images": GOOD}, ["must hold images for training"]),
    "shapes": (
        {"images": GOOD, "test_images": GOOD[:, :3]},
        ["different image shapes", "(3, 4, 1)"],
    ),
    "few": ({"images": GOOD[:1]}, ["too few", "Give more images"]),
}


@pytest.mark.parametrize("case", BAD_ARRAYS)
def test_bad_arrays_are_refused(case, tmp_path):
    arrays, words = BAD_ARRAYS[case]
    message = refusal(load_data, write_npz(tmp_path / "a.npz", **arrays))
    for word in words:
        assert word in message


def test_records_that_cannot_be_drawn_are_refused():
    records = [{"image": np.zeros((4, 4, 5), np.uint8)}]
    message = refusal(tfds._decode_records, records, "icons", False)
    assert "icons has shape (1, 4, 4, 5)" in message


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (None, ["no such file", "data.path is"]),
        (b"", ["not an npz file", "np.savez_compressed"]),
        (b"not a zip file", ["not an npz file", "np.savez_compressed"]),
        ("other zip", ["unknown array 'notes.txt'"]),
        ("truncated", ["np.savez_compressed"]),
        ("truncated in front", ["damaged", "np.savez_compressed"]),
        ("flipped", ["damaged", "np.savez_compressed"]),
    ],
)
def test_bad_npz_files_are_refused(content, words, tmp_path):
    path = tmp_path / "a.npz"
    source = write_npz(path, images=GOOD)
    good = path.read_bytes()
    damaged = bytearray(good)
    damaged[200] ^= 255
    if content is None:
        path.unlink()
    else:
        with zipfile.ZipFile(tmp_path / "other.zip", "w") as archive:
            archive.writestr("notes.txt", "no arrays")
        special = {
            "truncated": good[:-200],
            "truncated in front": good[200:],
            "flipped": bytes(damaged),
            "other zip": (tmp_path / "other.zip").read_bytes(),
        }
        path.write_bytes(special.get(content, content))
    message = refusal(load_data, source)
    for word in [*words, str(path)]:
        assert word in message


# --- folders --------------------------------------------------------------------------


def write_images(folder, images, names):
    folder.mkdir(parents=True, exist_ok=True)
    for image, name in zip(images, names, strict=True):
        Image.fromarray(image.squeeze()).save(folder / name)


def test_flat_folder(tmp_path):
    images = numbered(20)
    write_images(tmp_path / "mine", images, [f"{i:03}.png" for i in range(20)])
    (tmp_path / "mine" / "notes.txt").write_text("not an image")
    source = folders.read(DataSettings("folder", path=str(tmp_path / "mine")))
    np.testing.assert_array_equal(source.splits["train"].images, images)
    assert source.splits["train"].labels is None
    data = load_data(DataSettings("folder", path=str(tmp_path / "mine")))
    assert data.describe() == (
        "mine: 16 train, 2 validation, 2 test images of 4x4x1 with 256 levels"
    )


def test_folder_of_classes_in_colour(tmp_path):
    images = np.random.default_rng(0).integers(256, size=(6, 5, 4, 3), dtype=np.uint8)
    names = ["0.png", "1.png"]
    write_images(tmp_path / "mine" / "cat", images[:2], names)
    write_images(tmp_path / "mine" / "ant", images[2:4], names)
    write_images(tmp_path / "mine" / "dog", images[4:], names)
    source = folders.read(DataSettings("folder", path=str(tmp_path / "mine")))
    images = images[[2, 3, 0, 1, 4, 5]]
    np.testing.assert_array_equal(source.splits["train"].images, images)
    np.testing.assert_array_equal(source.splits["train"].labels, [0, 0, 1, 1, 2, 2])


def test_folder_of_one_bit_images_is_binary(tmp_path):
    images = numbered(20, levels=2)
    write_images(tmp_path / "mine", images > 0, [f"{i:03}.png" for i in range(20)])
    source = folders.read(DataSettings("folder", path=str(tmp_path / "mine")))
    assert source.levels == 2
    np.testing.assert_array_equal(source.splits["train"].images, images)


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("b.png", GOOD[0, :3], ["4x4 L", "4x3 L", "a.png", "b.png"]),
        ("b.png", np.zeros((4, 4, 3), np.uint8), ["4x4 L", "4x4 RGB", "one size"]),
        (
            "b.png",
            np.zeros((4, 4, 4), np.uint8),
            ["opaque", "b.png", "data.background"],
        ),
        ("b.png", b"junk", ["b.png", "Repair or remove"]),
        ("b.png", b"", ["b.png", "Repair or remove"]),
        ("b.png", lambda png: png[:-40], ["b.png", "Repair or remove"]),
        ("b.png", lambda png: png.replace(b"IDAT", b"IDAU"), ["b.png", "Repair or"]),
        ("b.pgm", b"P5 4 4 2?5 " + bytes(16), ["b.pgm", "2?5", "Repair or remove"]),
        ("sub/b.png", GOOD[0], ["beside subfolders", "a.png"]),
    ],
)
def test_bad_folders_are_refused(name, content, words, tmp_path):
    folder = tmp_path / "mine"
    write_images(folder, GOOD[:1], ["a.png"])
    (folder / name).parent.mkdir(exist_ok=True)
    if callable(content):
        content = content((folder / "a.png").read_bytes())
    if isinstance(content, bytes):
        (folder / name).write_bytes(content)
    else:
        write_images((folder / name).parent, [content], [pathlib.Path(name).name])
    message = refusal(load_data, DataSettings("folder", path=str(folder)))
    for word in words:
        assert word in message


@pytest.mark.parametrize(
    ("name", "field"),
    [
        ("npz", "path"),
        ("folder", "path"),
        ("mnist", "data_dir"),
        ("digits", "cache_dir"),
    ],
)
def test_homes_that_are_not_known_are_refused(name, field):
    settings_ = DataSettings(name, **{field: "~nosuchuser/x"})
    assert "'~nosuchuser/x'" in refusal(load_data, settings_)


def test_missing_and_empty_folders_are_refused(tmp_path):
    settings_ = DataSettings("folder", path=str(tmp_path / "mine"))
    assert "no such folder" in refusal(load_data, settings_)
    (tmp_path / "mine").mkdir()
    assert "holds no images" in refusal(load_data, settings_)


def test_split_folders_are_not_taken_for_classes(tmp_path):
    for split in ("cat", "test"):
        write_images(tmp_path / "mine" / split, GOOD[:2], ["0.png", "1.png"])
    message = refusal(load_data, DataSettings("folder", path=str(tmp_path / "mine")))
    assert "subfolder 'cat' beside 'test'" in message
    assert "rename" in message


# --- cache ----------------------------------------------------------------------------


def entries(cache_dir):
    return sorted(cache_dir.glob("[!.]*"))


def forbid_reading(*arguments):
    raise AssertionError("read again")


def test_second_start_reads_the_cache(cache_dir, monkeypatch):
    first = load_data(DataSettings("digits"))
    assert [entry.name.split("-")[0] for entry in entries(cache_dir)] == ["digits"]
    assert [entry.suffix for entry in entries(cache_dir)] == [".safetensors"]
    monkeypatch.setattr(digits, "read", forbid_reading)
    assert_same(first, load_data(DataSettings("digits")))


@pytest.mark.parametrize("where", [4, 200, 0.5, -1])
@pytest.mark.parametrize("damage", ["truncate", "flip"])
def test_damaged_entries_are_rebuilt(where, damage, cache_dir, monkeypatch):
    """The damage is in the length, the description, the labels or the images."""
    first = load_data(DataSettings("digits"))
    (path,) = entries(cache_dir)
    content = bytearray(path.read_bytes())
    index = where if isinstance(where, int) else int(where * len(content))
    if damage == "truncate":
        del content[index:]
    else:
        content[index] ^= 1
    path.write_bytes(content)
    assert_same(first, load_data(DataSettings("digits")))
    assert len(entries(cache_dir)) == 1
    monkeypatch.setattr(digits, "read", forbid_reading)
    assert_same(first, load_data(DataSettings("digits")))


def test_changed_files_are_read_again(tmp_path, cache_dir):
    folder = tmp_path / "mine"
    write_images(folder, GOOD, [f"{i:03}.png" for i in range(20)])
    settings_ = DataSettings("folder", path=str(folder))
    first = load_data(settings_)
    write_images(folder, 255 - GOOD[:1], ["000.png"])
    os.utime(folder / "000.png", ns=(1, 1))
    assert load_data(settings_).fingerprint != first.fingerprint
    assert len(entries(cache_dir)) == 2


def test_without_a_writable_cache_images_are_read_each_time(tmp_path, monkeypatch):
    lines = []
    monkeypatch.setattr(
        logging, "warning", lambda text, *args: lines.append(text % args)
    )
    blocked = tmp_path / "file"
    blocked.write_text("a file where a folder should be")
    with_cache = load_data(DataSettings("digits"))
    without = load_data(DataSettings("digits", cache_dir=str(blocked)))
    assert_same(with_cache, without)
    assert len(lines) == 1
    assert "not cached" in lines[0]
    assert str(blocked) in lines[0]
    assert "\n" not in lines[0]


def test_a_failed_write_leaves_nothing_behind(cache_dir, monkeypatch):
    def full_disk(*args, **kwargs):
        raise OSError("no space left on device")

    monkeypatch.setattr(os, "replace", full_disk)
    load_data(DataSettings("digits"))
    assert [path.name for path in cache_dir.iterdir()] == [".lock"]


def test_an_entry_written_by_another_process_meanwhile_is_kept(cache_dir):
    source, written = digits.read(DataSettings("digits")), []

    def overtaken():
        cache.cached(lambda: source, ["digits", "x"])
        written.extend(path.stat().st_ino for path in entries(cache_dir))
        return source

    assert cache.cached(overtaken, ["digits", "x"]) is source
    assert [path.stat().st_ino for path in entries(cache_dir)] == written
    assert len(written) == 1


def test_what_killed_processes_left_is_removed_but_not_what_is_being_written(cache_dir):
    load_data(DataSettings("digits"))
    (entry,) = entries(cache_dir)
    left = cache_dir / f".{entry.name}.7.unfinished"
    entry.rename(left)
    start = threading.Thread(target=load_data, args=[DataSettings("digits")])
    with open(locks.take(cache_dir / ".lock")):  # Another process writes.
        start.start()
        start.join(0.5)
        assert start.is_alive()
        assert left.exists()
    start.join()
    assert entries(cache_dir) == [entry]
    assert not left.exists()


# --- tensorflow-datasets, on a small data set prepared here ---------------------------


def idx(array):
    header = struct.pack(f">HBB{array.ndim}I", 0, 8, array.ndim, *array.shape)
    return gzip.compress(header + array.tobytes(), mtime=0)


def publish(folder):
    """Writes files as MNIST publishes them, with 300 and 50 images."""
    generator = np.random.default_rng(0)
    published = []
    for file in downloads.PUBLISHED:
        if file.data_set == "mnist":
            count = 300 if file.split == "train" else 50
            is_labels = "labels" in file.name
            high, shape = (10, ()) if is_labels else (256, (28, 28))
            drawn = generator.integers(high, size=(count, *shape), dtype=np.uint8)
            path = folder / file.name
            path.write_bytes(idx(drawn))
            digest = hashlib.sha256(path.read_bytes()).hexdigest()
            published.append(file._replace(url=path.as_uri(), sha256=digest))
    return published


@pytest.fixture(scope="module")
def small_mnist(tmp_path_factory):
    """Returns MNIST's published files, with 300 and 50 images, and their place."""
    pytest.importorskip("tensorflow_datasets")
    pytest.importorskip("array_record")
    folder = tmp_path_factory.mktemp("published")
    return folder, publish(folder)


@pytest.fixture
def prepared(small_mnist, tmp_path, monkeypatch, capfd):
    """Returns settings of a small prepared MNIST; preparing it prints nothing."""
    folder, published = small_mnist
    monkeypatch.setattr(downloads, "PUBLISHED", published)
    downloads.prepare("mnist", str(tmp_path / "tfds"), str(folder))
    assert capfd.readouterr() == ("", "")
    return DataSettings("mnist", data_dir=str(tmp_path / "tfds"), num_validation=100)


def test_a_name_with_a_version_is_plain(prepared):
    data = load_data(dataclasses.replace(prepared, name="mnist:3.*.*"))
    assert data.name == "mnist:3._._"
    assert data.fingerprint == load_data(prepared).fingerprint


def test_prepared_images_are_the_published_ones(prepared, small_mnist):
    folder, published = small_mnist
    data = load_data(prepared)
    assert [len(getattr(data, split).images) for split in SPLITS] == [200, 100, 50]

    def pairs(*parts):
        return sorted(
            (image.tobytes(), int(label))
            for images, labels in parts
            for image, label in zip(images, labels, strict=True)
        )

    for split, parts in (
        ("train", (data.train, data.validation)),
        ("test", (data.test,)),
    ):
        own = [file.name for file in published if file.split == split]
        contents = [(folder / name).read_bytes() for name in own]
        assert pairs(*parts) == pairs([downloads.read_idx(x) for x in contents])


def test_second_start_does_not_import_tfds(prepared, monkeypatch):
    first = load_data(prepared)
    monkeypatch.setattr(tfds, "import_tfds", forbid_reading)
    assert_same(first, load_data(prepared))
    assert_same(first, load_data(dataclasses.replace(prepared, download=True)))


def test_download_prepares_what_is_missing(small_mnist, tmp_path, monkeypatch):
    monkeypatch.setattr(downloads, "PUBLISHED", small_mnist[1])
    settings_ = DataSettings(
        "mnist", data_dir=str(tmp_path / "tfds"), download=True, num_validation=100
    )
    assert len(load_data(settings_).train.images) == 200
    offline = dataclasses.replace(settings_, download=False)
    assert_same(load_data(settings_), load_data(offline))


def test_data_dir_defaults_to_the_environment(prepared, monkeypatch):
    monkeypatch.setenv("TFDS_DATA_DIR", prepared.data_dir)
    assert_same(
        load_data(prepared), load_data(dataclasses.replace(prepared, data_dir=""))
    )


def test_what_is_not_prepared_is_refused(tmp_path):
    pytest.importorskip("tensorflow_datasets")
    pytest.importorskip("array_record")
    folder = str(tmp_path / "my data")
    message = refusal(load_data, DataSettings("mnist", data_dir=folder))
    assert f"mnist is not prepared in {folder}" in message
    assert f"python -m experiments.prepare mnist --data_dir='{folder}'" in message
    assert "data.download=True" in message
    message = refusal(load_data, DataSettings("cifar10", data_dir=folder))
    assert "tfds build cifar10 --file_format=array_record" in message
    message = refusal(
        load_data, DataSettings("cifar10", data_dir=folder, download=True)
    )
    assert "cannot prepare 'cifar10' without TensorFlow" in message
    assert not pathlib.Path(folder).exists()


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("mnits", ["'mnits'", "did you mean 'mnist'?"]),
        ("svhn_croped", ["'svhn_croped'", "did you mean 'svhn_cropped'?"]),
        ("mnist:9.9.9", ["'mnist:9.9.9'", "3.0.1"]),
        ("emnist/lettrs", ["'emnist/lettrs'", "lettrs not found"]),
    ],
)
def test_unknown_data_sets_are_refused(name, words, tmp_path):
    pytest.importorskip("tensorflow_datasets")
    pytest.importorskip("array_record")
    message = refusal(load_data, DataSettings(name, data_dir=str(tmp_path)))
    for word in words:
        assert word in message


@pytest.mark.parametrize("damage", ["truncate", "flip", "delete", "clear"])
def test_damaged_records_are_refused(damage, prepared):
    path = next(pathlib.Path(prepared.data_dir).rglob("mnist-test.array_record*"))
    content = bytearray(path.read_bytes())
    if damage == "truncate":
        path.write_bytes(content[:-70_000])
    elif damage == "flip":
        content[1000:1100] = bytes(100)
        path.write_bytes(content)
    elif damage == "clear":
        path.write_bytes(b"")
    else:
        path.unlink()
    message = refusal(load_data, prepared)
    assert str(path.parent) in message
    assert "python -m experiments.prepare mnist" in message


def test_a_damaged_description_is_refused(prepared):
    """Both reading and preparing the data set refuse it."""
    (path,) = pathlib.Path(prepared.data_dir).rglob("dataset_info.json")
    path.write_text("{")
    message = refusal(load_data, prepared)
    assert "Delete the damaged files and run `python -m experiments.prepare" in message
    assert message == refusal(downloads.prepare, "mnist", prepared.data_dir)


def test_missing_packages_are_named(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "tensorflow_datasets", None)
    message = refusal(load_data, DataSettings("mnist", data_dir=str(tmp_path)))
    assert 'pip install "vae_jax[tfds]"' in message


def test_published_files_are_checked(small_mnist, tmp_path, monkeypatch):
    folder, published = small_mnist
    target = tmp_path / "tfds"
    monkeypatch.setattr(downloads, "PUBLISHED", published)
    message = refusal(downloads.prepare, "mnist", str(target), str(tmp_path))
    assert "cannot read" in message
    assert "t10k-labels-idx1-ubyte.gz" in message

    others = [file._replace(sha256="0" * 64) for file in published]
    monkeypatch.setattr(downloads, "PUBLISHED", others)
    message = refusal(downloads.prepare, "mnist", str(target), str(folder))
    assert "is not the published file" in message

    nowhere = [file._replace(url="http://127.0.0.1:9/x") for file in published]
    monkeypatch.setattr(downloads, "PUBLISHED", nowhere)
    message = refusal(downloads.prepare, "mnist", str(target))
    assert "cannot download http://127.0.0.1:9/" in message
    assert "--source=FOLDER" in message
    assert not target.exists()


def test_what_cannot_be_written_is_refused(small_mnist, tmp_path, monkeypatch):
    folder, published = small_mnist
    monkeypatch.setattr(downloads, "PUBLISHED", published)
    (tmp_path / "file").write_text("a file where a folder should be")
    message = refusal(downloads.prepare, "mnist", str(tmp_path / "file"), str(folder))
    assert "Choose another data_dir" in message


def test_what_another_process_prepares_meanwhile_is_taken(
    small_mnist, tmp_path, monkeypatch
):
    folder, published = small_mnist
    monkeypatch.setattr(downloads, "PUBLISHED", published)
    arguments = ("mnist", str(tmp_path / "tfds"), str(folder))
    from_array, others = Image.fromarray, []

    def overtaken(image):
        if not others:
            others.append(None)
            others[0] = downloads.prepare(*arguments)
        return from_array(image)

    monkeypatch.setattr(Image, "fromarray", overtaken)
    assert downloads.prepare(*arguments) == others[0]
    settings_ = DataSettings("mnist", data_dir=arguments[1], num_validation=100)
    assert len(load_data(settings_).test.images) == 50


def test_amat_files_are_read():
    images = numbered(3, levels=2).repeat(49, axis=0)[:9].reshape(3, -1)
    images = np.resize(images, (3, 784))
    text = "\n".join(" ".join(map(str, row)) for row in images) + "\n"
    read = downloads.read_amat(text.encode())
    assert read.dtype == np.uint8
    np.testing.assert_array_equal(read, images.reshape(3, 28, 28))


@pytest.mark.parametrize(
    ("names", "words"),
    [
        (["cifar10"], "cannot prepare 'cifar10'"),
        ([], "no data set is named. Name one of mnist, fashion_mnist, binarized_mnist"),
        (["mnist", "digits"], "mnist digits is named. Name one of mnist"),
    ],
)
def test_the_preparing_command_refuses_in_one_line(names, words):
    command = [sys.executable, "-m", "experiments.prepare", *names]
    root = pathlib.Path(__file__).parents[1]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.count("\n") == 1
    assert done.stderr.startswith(f"error: {words}")


# --- the real data sets, where they are prepared --------------------------------------


@pytest.fixture(scope="module")
def real(tmp_path_factory):
    """Maps the name of a data set to its settings, if it is in $TFDS_DATA_DIR."""
    cache = str(tmp_path_factory.mktemp("cache"))

    def find(name):
        folder = os.environ.get("TFDS_DATA_DIR", "")
        if not folder or not tfds.is_on_disk(name, folder):
            pytest.skip(f"{name} is not in TFDS_DATA_DIR ({folder or 'not set'})")
        return DataSettings(name, data_dir=folder, cache_dir=cache)

    return find


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "mean", "std", "test_mean"),
    [("mnist", 0.1307, 0.3081, 0.1325), ("fashion_mnist", 0.2860, 0.3530, 0.2868)],
)
def test_mnist_facts(name, mean, std, test_mean, real):
    data = load_data(real(name))
    assert data.image_shape == (28, 28, 1)
    assert data.levels == 256
    assert [len(getattr(data, s).images) for s in SPLITS] == [50_000, 10_000, 10_000]
    published_train = np.concatenate([data.train.images, data.validation.images]) / 255
    assert published_train.mean() == pytest.approx(mean, abs=5e-5)
    assert published_train.std() == pytest.approx(std, abs=5e-5)
    assert data.test.images.mean() / 255 == pytest.approx(test_mean, abs=5e-5)
    labels = np.concatenate([data.train.labels, data.validation.labels])
    if name == "mnist":
        assert np.bincount(labels)[:3].tolist() == [5923, 6742, 5958]
    else:
        assert np.bincount(labels).tolist() == [6000] * 10
    rows = data.train.images.reshape(-1, data.num_pixels)
    mean, std = views.pixel_statistics(rows, data.levels)
    assert mean.mean() == pytest.approx(data.train.images.mean() / 255, abs=1e-6)
    assert (std[mean == 0] == 0).all()


def test_static_mnist_keeps_the_mean(real):
    data = load_data(dataclasses.replace(real("mnist"), binarization="static"))
    assert data.levels == 2
    images = np.concatenate([data.train.images, data.validation.images])
    # Of 47 million draws the mean has a standard error below 5e-5.
    assert images.mean() == pytest.approx(0.1307, abs=3e-4)


@pytest.mark.slow
def test_binarized_mnist_facts(real):
    data = load_data(real("binarized_mnist"))
    assert data.levels == 2
    for split, count, mean in (
        ("train", 50_000, 0.1306),
        ("validation", 10_000, 0.1311),
        ("test", 10_000, 0.1325),
    ):
        images, labels = getattr(data, split)
        assert images.shape == (count, 28, 28, 1)
        assert labels is None
        assert images.mean() == pytest.approx(mean, abs=5e-5)
