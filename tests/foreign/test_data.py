"""Tests of images as strangers write them: read as intended, or refused.

Each row of a table is one way to write images. If a row is refused, the test follows
the remedy in the message literally (it sets settings, and runs code and commands), and
then compares the images with those that the owner intended.
"""

import ast
import dataclasses
import re
import shutil
import struct
import subprocess
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from configs import digits
from experiments.data import images as data_images
from experiments.data import names as data_names
from experiments.data.downloads import prepare
from experiments.data.images import load_data
from experiments.data.settings import DataSettings
from experiments.messages.errors import DataError
from experiments.runner import progress
from experiments.settings import grid

GENERATOR = np.random.default_rng(0)
GREY = GENERATOR.integers(256, size=(12, 6, 5, 1), dtype=np.uint8)
GREY[0, 0, 0], GREY[1, 0, 0] = 0, 255
COLOUR = GENERATOR.integers(256, size=(12, 6, 5, 3), dtype=np.uint8)
SIXTEEN = GREY // 16
LABELS = np.arange(12) % 3
GLYPHS = np.where(GREY > 127, 255, 0).astype(np.uint8)  # Opacity of glyphs.


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("VAE_JAX_CACHE", str(tmp_path / "cache"))


# --- writing --------------------------------------------------------------------------


def npz(**arrays):
    """Writes an npz file, and returns its settings."""

    def write(tmp_path):
        np.savez(tmp_path / "mine.npz", **arrays)
        return DataSettings("npz", path=str(tmp_path / "mine.npz"))

    return write


def picture(pixels, mode=None):
    """Returns an image of Pillow."""
    image = Image.fromarray(np.asarray(pixels).squeeze())
    return image if mode is None else image.convert(mode)


def folder(pixels, suffix=".png", mode=None, names=None, **options):
    """Writes one file for each image, and returns its settings."""
    names = names or [f"{i:02}" for i in range(len(pixels))]

    def write(tmp_path):
        for name, each in zip(names, pixels, strict=True):
            path = tmp_path / "mine" / f"{name}{suffix}"
            path.parent.mkdir(parents=True, exist_ok=True)
            picture(each, mode).save(path, **options)
        return DataSettings("folder", path=str(tmp_path / "mine"))

    return write


def with_opacity(colour, opacity):
    """Returns images with opacity in a further channel."""
    colour = np.broadcast_to(np.asarray(colour, np.uint8), (*opacity.shape[:3], 3))
    return np.concatenate([colour, opacity], axis=-1)


def classes(*names):
    """Returns names of files, in the classes in turn."""
    return [f"{names[i % len(names)]}/{i:02}" for i in range(12)]


def turned(suffix):
    """Writes photographs of a camera held in every way, and upright pictures of them.

    The orientation is as in the EXIF standard: the sides of the picture that the file's
    first row and column show.
    """
    turns = {
        1: lambda x: x,
        2: lambda x: x[:, ::-1],
        3: lambda x: x[::-1, ::-1],
        4: lambda x: x[::-1],
        5: lambda x: x.swapaxes(0, 1),
        6: lambda x: np.rot90(x, 1),
        7: lambda x: x[::-1, ::-1].swapaxes(0, 1),
        8: lambda x: np.rot90(x, -1),
    }

    def write(tmp_path):
        (tmp_path / "mine").mkdir()
        for i, each in enumerate(GREY):
            way = 1 + i % 8
            exif = Image.Exif()
            exif[0x0112] = way
            stored = np.ascontiguousarray(turns[way](each[..., 0]))
            picture(stored).save(tmp_path / "mine" / f"{i:02}{suffix}", exif=exif)
        return DataSettings("folder", path=str(tmp_path / "mine"))

    return write


def linked(*moved):
    """Writes three classes, of which some are links to folders elsewhere."""

    def write(tmp_path):
        settings = folder(GREY, names=classes("a", "b", "c"))(tmp_path)
        for name in moved:
            (tmp_path / "mine" / name).rename(tmp_path / f"real_{name}")
            (tmp_path / "mine" / name).symlink_to(tmp_path / f"real_{name}")
        return settings

    return write


def photograph_with_preview(tmp_path):
    """Writes JPEG files that hold a second, smaller picture (MPO)."""
    (tmp_path / "mine").mkdir()
    for i, each in enumerate(GREY):
        image, preview = picture(each), picture(each[::2])
        file = tmp_path / "mine" / f"{i:02}.mpo"
        image.save(file, save_all=True, append_images=[preview], quality=100)
        file.rename(file.with_suffix(".jpg"))
    return DataSettings("folder", path=str(tmp_path / "mine"))


def pages(suffix, of=GREY, per_file=4, **options):
    """Writes several images into each file."""

    def write(tmp_path):
        (tmp_path / "mine").mkdir()
        for start in range(0, len(of), per_file):
            first, *more = map(picture, of[start : start + per_file])
            path = tmp_path / "mine" / f"{start:02}{suffix}"
            first.save(path, save_all=True, append_images=more, **options)
        return DataSettings("folder", path=str(tmp_path / "mine"))

    return write


def deep_png(pixels):
    """Returns a PNG file of 16 bits a channel: of greys with opacity, or colours."""
    height, width, channels = pixels.shape
    rows = (pixels * np.uint16(257)).astype(">u2")
    content = b"".join(b"\0" + row.tobytes() for row in rows)
    kind = {2: 4, 3: 2}[channels]
    header = struct.pack(">IIBBBBB", width, height, 16, kind, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(content)), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data))
        + name
        + data
        + struct.pack(">I", zlib.crc32(name + data))
        for name, data in chunks
    )


def deep_files(pixels):
    """Writes PNG files of 16 bits a channel, and returns their settings."""

    def write(tmp_path):
        (tmp_path / "mine").mkdir()
        for i, each in enumerate(pixels):
            (tmp_path / "mine" / f"{i:02}.png").write_bytes(deep_png(each))
        return DataSettings("folder", path=str(tmp_path / "mine"))

    return write


def in_splits(*names):
    """Writes folders of four images for each split."""
    files = [f"{names[i // 4]}/{i:02}" for i in range(4 * len(names))]
    return folder(GREY[: len(files)], names=files)


def objects(images):
    """Returns an array of Python objects."""
    array = np.empty(len(images), object)
    array[:] = list(images)
    return array


# --- following ------------------------------------------------------------------------


def code_in(message):
    """Returns the first expression of Python on images or labels in a message."""
    for start in re.finditer(
        r"np\.|Image\.|images[.\[ ]|labels[.\[]|image\.|\(images", message
    ):
        for end in range(len(message), start.start() + 5, -1):
            text = message[start.start() : end]
            try:
                tree = ast.parse(text, mode="eval").body
            except SyntaxError:
                continue
            if not isinstance(tree, ast.Name | ast.Attribute | ast.Tuple):
                return text
    raise AssertionError(f"no code in {message!r}")


def follow(message, settings, tmp_path):
    """Follows the remedy of a message, and returns the settings that it names."""
    path = Path(settings.path)
    if command := re.search("`(.*)`", message):
        line = command[1].replace("python", sys.executable, 1)
        subprocess.run(line, shell=True, check=True)
        (tmp_path / "elsewhere").mkdir(exist_ok=True)
        file = Path(re.match(r"(.*?) holds", message)[1])
        shutil.move(file, tmp_path / "elsewhere")
        return settings
    before, _, _ = message.partition("as in")
    if found := re.search(r"[Ss]et (data\.\w+=\S+( data\.\w+=\S+)*)", before):
        if "Leave it out" in message:
            arrays = dict(np.load(path))
            arrays.pop(message.split()[0])
            np.savez(path, **arrays)
        given = dict(each.split("=") for each in found[1].rstrip(",.").split())
        values = {name.removeprefix("data."): given[name] for name in given}
        for name in {"black", "white"} & values.keys():
            values[name] = float(values[name])
        return dataclasses.replace(settings, **values)
    if found := re.search(r"unknown array '(\w+)' \(did you mean '(\w+)'", message):
        arrays = dict(np.load(path))
        arrays[found[2]] = arrays.pop(found[1])
        np.savez(path, **arrays)
        return settings
    code = code_in(message)
    if path.suffix == ".npz":
        arrays = dict(np.load(path, allow_pickle=True))
        name = re.search(r"((?:\w+_)?(images|labels|class_names)) of", message)
        name = name[1] if name[1] in arrays else name[2]
        given = dict.fromkeys(("images", "labels", "class_names"), arrays[name])
        given["np"] = np
        given |= {"mean": 0.4, "std": 0.3}  # These are normalised images, in 0..1.
        arrays[name] = eval(code, given)
        np.savez(path, **arrays)
        return settings
    for file in path.rglob("*.*"):
        with Image.open(file) as image:
            changed = eval(code, {"image": image})
        changed.save(file)
    return settings


def assert_read(settings, images, labels=None, names=(), levels=256):
    """Asserts that the images and splits are those that the owner intended."""
    source = data_images._read(settings)
    expected = images if isinstance(images, dict) else {"train": images}
    assert source.splits.keys() == expected.keys()
    assert source.levels == levels
    for split, pixels in expected.items():
        np.testing.assert_array_equal(source.splits[split].images, pixels)
    if labels is not None:
        np.testing.assert_array_equal(source.splits["train"].labels, labels)
    assert source.class_names == tuple(names)
    assert_equal_after_a_second_start(source, settings)


def assert_equal_after_a_second_start(source, settings):
    again = data_images._read(settings)
    assert dataclasses.replace(again, splits={}) == dataclasses.replace(
        source, splits={}
    )
    for split in source.splits:
        for x, y in zip(again.splits[split], source.splits[split], strict=True):
            np.testing.assert_array_equal(x, y)


# --- read as intended -----------------------------------------------------------------

THIRDS = {"train": GREY[:4], "validation": GREY[4:8], "test": GREY[8:]}
HALVES = {"train": GREY[:4], "test": GREY[4:8]}
IN_CLASSES = np.concatenate([np.arange(i, 12, 3) for i in range(3)])
ABC = {"labels": np.sort(LABELS), "names": ("a", "b", "c")}
# A row: the way of writing, the intended images, and further facts.
READ = {
    "colours that are opaque": (folder(COLOUR, mode="RGBA"), COLOUR, {}),
    "greys that are opaque": (folder(GREY, mode="LA"), GREY, {}),
    "opaque arrays": (
        npz(images=with_opacity(COLOUR, np.full_like(GREY, 255))),
        COLOUR,
        {},
    ),
    "a palette of greys": (folder(GREY, mode="P"), GREY, {}),
    "a palette of colours": (
        folder(COLOUR // 51 * 51, mode="P"),
        COLOUR // 51 * 51,
        {},
    ),
    "still GIF files": (folder(GREY, ".gif"), GREY, {}),
    "suffixes in capitals": (folder(GREY, ".PNG"), GREY, {}),
    "photographs turned, PNG": (turned(".png"), GREY, {}),
    "photographs turned, TIFF": (turned(".tif"), GREY, {}),
    "one page": (pages(".tif", per_file=1), GREY, {}),
    "zeros and ones": (npz(images=GREY // 128), GREY // 128, {"levels": 2}),
    "truth values": (npz(images=GREY > 127), GREY // 128, {"levels": 2}),
    "8 bits held in 16": (npz(images=GREY.astype(np.uint16)), GREY, {}),
    "levels in the file": (npz(images=SIXTEEN, levels=16), SIXTEEN, {"levels": 16}),
    "splits in small letters": (in_splits("train", "val", "test"), THIRDS, {}),
    "splits in capitals": (in_splits("TRAIN", "VALID", "TEST"), THIRDS, {}),
    "splits by other words": (in_splits("Training", "dev", "test_set"), THIRDS, {}),
    "splits in one word": (in_splits("TrainSet", "valset", "testdata"), THIRDS, {}),
    "splits with a year": (in_splits("train2017", "val2017", "test2017"), THIRDS, {}),
    "splits with a name": (in_splits("seg_train", "seg_test"), HALVES, {}),
    "splits of classes": (
        folder(
            GREY[:6],
            names=[
                *("Train/2/0", "Train/10/1", "Train/1/2"),
                *("Test/10/3", "Test/2/4", "Test/2/5"),
            ],
        ),
        {"train": GREY[[2, 1, 0]], "test": GREY[[3, 4, 5]]},
        {"labels": [0, 2, 1], "names": ("1", "2", "10")},
    ),
    "classes by number": (
        folder(GREY, names=classes("1", "2", "10")),
        GREY[np.r_[0:12:3, 2:12:3, 1:12:3]],
        {"labels": [0] * 4 + [2] * 4 + [1] * 4, "names": ("1", "2", "10")},
    ),
    "classes with numbers": (
        folder(GREY, names=classes("no 2", "no 10", "no 1")),
        GREY[np.r_[2:12:3, 1:12:3, 0:12:3]],
        {"labels": [0] * 4 + [2] * 4 + [1] * 4, "names": ("no 1", "no 2", "no 10")},
    ),
    "classes by decimals": (
        folder(GREY, names=classes("1.5", "10", "1.25")),
        GREY[np.r_[2:12:3, 0:12:3, 1:12:3]],
        {"labels": np.sort(LABELS), "names": ("1.25", "1.5", "10")},
    ),
    "labels below zero, in words": (
        npz(images=GREY, labels=np.array(["1", "-1", "0"])[LABELS]),
        GREY,
        {"labels": np.array([2, 0, 1])[LABELS], "names": ("-1", "0", "1")},
    ),
    "labels of many digits": (
        npz(images=GREY, labels=np.array(["x2", "x" + 5000 * "1", "x1"])[LABELS]),
        GREY,
        {
            "labels": np.array([1, 2, 0])[LABELS],
            "names": ("x1", "x2", "x" + 159 * "1" + "..."),
        },
    ),
    "greys of 16 bits that are opaque": (
        deep_files(np.concatenate([GREY, np.full_like(GREY, 255)], axis=-1)),
        GREY,
        {},
    ),
    "some classes linked": (linked("b"), GREY[IN_CLASSES], ABC),
    "all classes linked": (linked("a", "b", "c"), GREY[IN_CLASSES], ABC),
    "a class of trains": (
        folder(GREY, names=classes("bullet train", "car", "ship")),
        GREY[IN_CLASSES],
        {"labels": np.sort(LABELS), "names": ("bullet train", "car", "ship")},
    ),
    "labels in a column": (
        npz(images=GREY, labels=LABELS[:, None]),
        GREY,
        {"labels": LABELS},
    ),
    "labels in a row": (
        npz(images=GREY, labels=LABELS[None]),
        GREY,
        {"labels": LABELS},
    ),
    "one-hot labels": (
        npz(images=GREY, labels=np.eye(3)[LABELS]),
        GREY,
        {"labels": LABELS},
    ),
    "float labels": (npz(images=GREY, labels=LABELS * 1.0), GREY, {"labels": LABELS}),
    "labels in words": (
        npz(images=GREY, labels=np.array(["x2", "x10", "x1"])[LABELS]),
        GREY,
        {"labels": np.array([1, 2, 0])[LABELS], "names": ("x1", "x2", "x10")},
    ),
    "labels of more digits than Python reads": (
        npz(images=GREY, labels=np.array(["10", "9" * 5000, "2"])[LABELS]),
        GREY,
        {
            "labels": np.array([1, 2, 0])[LABELS],
            "names": ("2", "10", "9" * 160 + "..."),
        },
    ),
    "labels in bytes": (
        npz(images=GREY, labels=np.array([b"a", b"b", b"c"])[LABELS]),
        GREY,
        {"labels": LABELS, "names": ("a", "b", "c")},
    ),
    "names of classes": (
        npz(images=GREY, labels=LABELS, class_names=["cat", "dog", "eel"]),
        GREY,
        {"labels": LABELS, "names": ("cat", "dog", "eel")},
    ),
}


@pytest.mark.parametrize("name", READ)
def test_what_has_one_meaning_is_read(name, tmp_path):
    write, images, more = READ[name]
    assert_read(write(tmp_path), images, **more)


def test_a_photograph_with_its_preview_is_the_photograph(tmp_path):
    """JPEG changes pixels a little; those of the preview are completely different."""
    read = data_images._read(photograph_with_preview(tmp_path)).splits["train"].images
    assert np.abs(read.astype(int) - GREY).max() <= 3


# --- refused, with a remedy that works ------------------------------------------------

ON_WHITE = 255 - GLYPHS.repeat(3, axis=-1)  # Black glyphs on white.
ON_BLACK = GLYPHS.repeat(3, axis=-1)  # White glyphs on black.
BLACK_GLYPHS, WHITE_GLYPHS = with_opacity(0, GLYPHS), with_opacity(255, GLYPHS)
FLOATS = (GREY / 255).astype(np.float32)
TALL = GENERATOR.integers(256, size=(40, 6, 5), dtype=np.uint8)


def clear_palette(tmp_path):
    """Writes black glyphs on a colour of the palette that is said to be clear."""
    settings = folder(GLYPHS[:0])(tmp_path)
    (tmp_path / "mine").mkdir()
    for i, opacity in enumerate(GLYPHS):
        image = picture((opacity > 0).astype(np.uint8))
        image.putpalette([0, 0, 0, 0, 0, 0])
        image.save(tmp_path / "mine" / f"{i:02}.png", transparency=0)
    return settings


# A row: the way of writing, words of the message, the intended images, and more.
REFUSED = {
    "16 bits, PNG": (folder(GREY * np.uint16(257)), ["16 bits"], GREY, {}),
    "16 bits of which one value is clear": (
        folder(GREY // 2 * np.uint16(257), transparency=0),
        ["Set data.background=white"],
        np.where(GREY // 2 == 0, 255, GREY // 2).astype(np.uint8),
        {},
    ),
    "16 bits, TIFF": (folder(GREY * np.uint16(257), ".tif"), ["16 bits"], GREY, {}),
    "16 bits in an array": (npz(images=GREY * np.uint16(257)), ["uint16"], GREY, {}),
    "16 bits in 32": (
        npz(images=GREY.astype(np.int32) * 257),
        ["0..65535"],
        GREY,
        {},
    ),
    "16 bits in 32, TIFF": (
        folder(GREY.astype(np.int32) * 257, ".tif"),
        ["int32"],
        GREY,
        {},
    ),
    "levels of 16 bits": (
        npz(images=GREY * np.uint16(257), levels=65536),
        ["levels", "Leave it out"],
        GREY,
        {},
    ),
    "float TIFF to 1": (folder(FLOATS, ".tif"), ["with fractions"], GREY, {}),
    "float TIFF to 255": (
        folder(FLOATS * 255 + np.float32(0.2) * (FLOATS < 0.5), ".tif"),
        ["with fractions"],
        GREY,
        {},
    ),
    "float TIFF from -1": (
        folder((FLOATS * 2 - 1).astype(np.float32), ".tif"),
        ["with fractions"],
        GREY,
        {},
    ),
    "floats to 1": (npz(images=FLOATS), ["float32 with fractions"], GREY, {}),
    "half floats": (npz(images=FLOATS.astype(np.float16)), ["float16"], GREY, {}),
    "floats from -1": (npz(images=FLOATS * 2 - 1), ["-1..1"], GREY, {}),
    "floats from -0.5": (npz(images=FLOATS - 0.5), ["-0.5..0.5"], GREY, {}),
    "floats to 255": (npz(images=GREY + 0.25 * (GREY < 9)), ["fractions"], GREY, {}),
    "floats to 65535": (npz(images=FLOATS * 65535 * 0.9999), ["65535"], GREY, {}),
    "floats of another scale": (
        npz(images=(GREY - 102.0) / 76.5),
        ["Undo"],
        GREY,
        {},
    ),
    "floats beyond 0 and 1": (
        npz(images=FLOATS + 0.02 * np.sign(FLOATS - 0.5) * (FLOATS % 1 == 0)),
        ["-0.02..1.02"],
        GREY,
        {},
    ),
    "bytes with a sign": (
        npz(images=(GREY.astype(int) - 128).astype(np.int8)),
        ["-128..127"],
        GREY,
        {},
    ),
    "spins": (
        npz(images=np.where(GREY > 127, 1, -1)),
        ["-1..1"],
        GREY // 128,
        {"levels": 2},
    ),
    "17 levels": (npz(images=SIXTEEN), ["above 15"], SIXTEEN, {"levels": 16}),
    "17 levels in files": (folder(SIXTEEN), ["above 15"], SIXTEEN, {"levels": 16}),
    "test images to 1": (
        npz(images=GREY, test_images=FLOATS),
        ["0..255", "test_images", "one range"],
        {"train": GREY, "test": GREY},
        {},
    ),
    "bright training images, from -1": (
        npz(
            train_images=(np.maximum(GREY, 90) / 127.5 - 1),
            test_images=GREY / 127.5 - 1,
        ),
        ["fractions in -1..1"],
        {"train": np.maximum(GREY, 90), "test": GREY},
        {},
    ),
    "dark training images, with fractions": (
        npz(train_images=GREY * 0.25, test_images=GREY * 1.0 + 0.25 * (GREY < 9)),
        ["fractions in 0..255"],
        {"train": np.rint(GREY * 0.25).astype(np.uint8), "test": GREY},
        {},
    ),
    "test images of 0 and 1": (
        npz(images=GREY, test_images=GREY // 128),
        ["0..1", "0..255"],
        {"train": GREY, "test": GREY // 128 * 255},
        {},
    ),
    "test images of 0 and 1, with levels": (
        npz(images=GREY, test_images=GREY // 128, levels=256),
        ["0..1", "0..255"],
        {"train": GREY, "test": GREY // 128 * 255},
        {},
    ),
    "training images to 15": (
        npz(train_images=SIXTEEN, test_images=SIXTEEN * 17),
        ["0..15", "0..255"],
        {"train": SIXTEEN * 17, "test": SIXTEEN * 17},
        {},
    ),
    "black on clear": (folder(BLACK_GLYPHS), ["opaque"], ON_WHITE, {}),
    "white on clear": (folder(WHITE_GLYPHS), ["opaque"], ON_BLACK, {}),
    "black on clear, grey": (
        folder(BLACK_GLYPHS, mode="LA"),
        ["opaque"],
        ON_WHITE[..., :1],
        {},
    ),
    "black on clear, TIFF": (folder(BLACK_GLYPHS, ".tif"), ["opaque"], ON_WHITE, {}),
    "black on clear, WebP": (
        folder(BLACK_GLYPHS, ".webp", lossless=True),
        ["opaque"],
        ON_WHITE,
        {},
    ),
    "black on clear, a palette": (
        clear_palette,
        ["opaque"],
        ON_WHITE[..., :1],
        {},
    ),
    "black on clear, arrays": (npz(images=BLACK_GLYPHS), ["opaque"], ON_WHITE, {}),
    "white on clear, grey arrays": (
        npz(images=WHITE_GLYPHS[..., 2:]),
        ["opaque"],
        ON_BLACK[..., :1],
        {},
    ),
    "images last": (
        npz(images=np.moveaxis(TALL, 0, -1)),
        ["40 images of 6x5"],
        TALL[..., None],
        {},
    ),
    "images last, fewer": (
        npz(images=np.moveaxis(TALL[:5, :, :5].repeat(2, axis=2)[..., :6], 0, -1)),
        ["5 images of 6x6"],
        TALL[:5, :, :5].repeat(2, axis=2)[..., :6, None],
        {},
    ),
    "images in the middle": (
        npz(images=np.moveaxis(TALL, 0, 1)),
        ["40 images of 6x5"],
        TALL[..., None],
        {},
    ),
    "opacity first": (
        npz(images=np.moveaxis(BLACK_GLYPHS, -1, 1)),
        ["(12, 4, 6, 5)"],
        ON_WHITE,
        {},
    ),
    "images last, in colour": (
        npz(images=np.moveaxis(COLOUR, 0, -1)),
        ["(6, 5, 3, 12)"],
        COLOUR,
        {},
    ),
    "channels first": (
        npz(images=np.moveaxis(COLOUR, -1, 1)),
        ["(12, 3, 6, 5)"],
        COLOUR,
        {},
    ),
    "one channel first": (
        npz(images=np.moveaxis(GREY, -1, 1)),
        ["(12, 1, 6, 5)"],
        GREY,
        {},
    ),
    "channels, images, rows, columns": (
        npz(images=np.moveaxis(COLOUR, -1, 0)),
        ["(3, 12, 6, 5)"],
        COLOUR,
        {},
    ),
    "channels, rows, columns, images": (
        npz(images=np.moveaxis(COLOUR, [-1, 0], [0, -1])),
        ["(3, 6, 5, 12)"],
        COLOUR,
        {},
    ),
    "flat images": (
        npz(images=COLOUR[:, :5, :, 0].reshape(12, 25)),
        ["(12, 25)"],
        COLOUR[:, :5, :, :1],
        {},
    ),
    "channels, images, rows, columns of large images": (
        npz(images=np.zeros((3, 6, 9, 9), np.uint8)),
        ["(3, 6, 9, 9)"],
        np.zeros((6, 9, 9, 3), np.uint8),
        {"levels": 2},
    ),
    "flat colours": (
        npz(images=COLOUR[:, :5].reshape(12, 75)),
        ["5x5 in colour", "if all of red comes first"],
        COLOUR[:, :5],
        {},
    ),
    "labels of many bits": (
        npz(images=GREY, labels=LABELS + 2**40),
        ["beyond 32 bits"],
        GREY,
        {"labels": LABELS, "names": tuple(str(2**40 + i) for i in range(3))},
    ),
    "objects for names of classes": (
        npz(images=GREY, labels=LABELS, class_names=objects("abc")),
        ["class_names of", "object"],
        GREY,
        {"labels": LABELS, "names": ("a", "b", "c")},
    ),
    "objects for images": (
        npz(images=objects(GREY)),
        ["images of", "object"],
        GREY,
        {},
    ),
    "objects for labels": (
        npz(images=GREY, labels=objects([3, 5, 4] * 4)),
        ["labels of", "object"],
        GREY,
        {"labels": [3, 5, 4] * 4},
    ),
    "val_images": (
        npz(images=GREY[:4], val_images=GREY[4:8], test_images=GREY[8:]),
        ["did you mean 'validation_images'?"],
        THIRDS,
        {},
    ),
    "x_train": (npz(x_train=GREY), ["did you mean 'train_images'?"], GREY, {}),
    "XTrain": (npz(XTrain=GREY), ["did you mean 'train_images'?"], GREY, {}),
    "a split without a part": (
        npz(train=GREY[:4], valid_set=GREY[4:8], test=GREY[8:]),
        ["did you mean 'train_images'?"],
        THIRDS,
        {},
    ),
    "y": (
        npz(images=GREY, y=LABELS),
        ["did you mean 'labels'?"],
        GREY,
        {"labels": LABELS},
    ),
    "no name": (npz(arr_0=GREY), ["did you mean 'images'?"], GREY, {}),
    "complex numbers": (npz(images=GREY.astype(complex)), ["complex128"], GREY, {}),
    "numbers as text": (npz(images=GREY.astype(str)), ["<U3"], GREY, {}),
    "several pages": (pages(".tif"), ["4 pages"], GREY, {}),
    "several pages of 16 bits": (
        pages(".tif", GREY * np.uint16(257)),
        ["4 pages"],
        GREY,
        {},
    ),
    "an animation, GIF": (
        pages(".gif"),
        ["4 pages"],
        GREY.repeat(3, axis=-1),
        {},
    ),
    "an animation, PNG": (pages(".png", COLOUR), ["4 pages"], COLOUR, {}),
    "an animation, WebP": (
        pages(".webp", COLOUR, lossless=True),
        ["4 pages"],
        COLOUR,
        {},
    ),
    "words for labels, in objects": (
        npz(images=GREY, labels=objects(["a", "b", "c"] * 4)),
        ["labels of", "object"],
        GREY,
        {"labels": LABELS, "names": ("a", "b", "c")},
    ),
    "probabilities for labels": (
        npz(images=GREY, labels=(np.eye(3)[LABELS] + 0.1) / 1.3),
        ["(12, 3)", "highest"],
        GREY,
        {"labels": LABELS},
    ),
    "labels of two kinds": (
        npz(images=GREY, labels=np.stack([LABELS, LABELS + 5], axis=1)),
        ["(12, 2)", "column"],
        GREY,
        {"labels": LABELS},
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_could_be_misread_is_refused_with_a_remedy_that_works(name, tmp_path):
    write, words, images, more = REFUSED[name]
    settings = write(tmp_path)
    messages = []
    for _ in range(8):  # A remedy may lead to the next refusal: of another file.
        try:
            load_data(settings)
            break
        except DataError as error:
            messages.append(str(error))
            settings = follow(messages[-1], settings, tmp_path)
    assert messages, "it was not refused"
    assert len(set(messages)) == len(messages), messages
    for word in words:
        assert word in messages[0]
    assert all("\n" not in message for message in messages)
    assert_read(settings, images, **more)


def test_a_range_that_is_stated_is_a_range(tmp_path):
    """White need not be the largest number of a type, nor in the images."""
    twelve_bits = np.round(FLOATS * 4095).astype(np.uint16)
    written = {
        "twelve bits": (npz(images=twelve_bits), 0, 4095, GREY, 256),
        "dark": (npz(images=SIXTEEN), 0, 255, SIXTEEN, 256),
        "white on black": (npz(images=255 - GREY), 255, 0, GREY, 256),
        "ratios": (npz(images=SIXTEEN / 15, levels=16), 0, 1, SIXTEEN, 16),
        "from one on": (npz(images=SIXTEEN + 1), 1, 16, SIXTEEN, 16),
    }
    for name, (write, black, white, images, levels) in written.items():
        (tmp_path / name).mkdir()
        settings = write(tmp_path / name)
        settings = dataclasses.replace(settings, black=black, white=white)
        assert_read(settings, images, levels=levels)
    beyond = dataclasses.replace(npz(images=GREY)(tmp_path), white=100.0)
    with pytest.raises(
        DataError, match=r"0\.\.255: they are beyond data\.black=0\.0 .* np\.clip"
    ):
        load_data(beyond)


# A row: the names of files, words of the message, the owner's renaming that follows it,
# and the splits and classes afterwards.
UNCLEAR = {
    "train and Training": (
        ["train/0", "Training/1"],
        "both of them named like the train split. Put their images into one",
        {"Training/1": "train/1"},
        (["train"], ()),
    ),
    "a class called train": (
        ["car/0", "ship/1", "train/2"],
        "if they are classes, rename them, as in 'trains'",
        {"train/2": "trains/2"},
        (["train"], ("car", "ship", "trains")),
    ),
    "a split beside others": (
        ["seg_pred/0", "seg_train/1", "seg_test/2"],
        "If these are splits, name each 'train', 'validation' or 'test', and move",
        {"seg_pred/0": "../seg_pred/0"},
        (["train", "test"], ()),
    ),
    "no training images": (
        ["fit/0", "val/1", "test/2"],
        "'fit' beside 'test', 'val'",
        {"fit/0": "train/0"},
        (["train", "validation", "test"], ()),
    ),
    "test images alone": (
        ["Val/0", "Test/1"],
        "none named 'train'. Give this name to the subfolder of the training images",
        {"Val/0": "train/0"},
        (["train", "test"], ()),
    ),
    "splits below classes": (
        ["cat/train/0", "cat/test/1", "dog/train/2", "dog/test/3"],
        "Put splits above classes, as in train/cat",
        {
            "cat/train/0": "train/cat/0",
            "cat/test/1": "test/cat/1",
            "dog/train/2": "train/dog/2",
            "dog/test/3": "test/dog/3",
        },
        (["train", "test"], ("cat", "dog")),
    ),
    "folds": (
        ["fold1/cat/0", "fold1/dog/1", "fold2/cat/2", "fold2/dog/3"],
        "Move all images of a class into one folder",
        {
            "fold1/cat/0": "cat/0",
            "fold1/dog/1": "dog/1",
            "fold2/cat/2": "cat/2",
            "fold2/dog/3": "dog/3",
        },
        (["train"], ("cat", "dog")),
    ),
    "a folder around the classes of each split": (
        [f"{s}/{s}/{c}/{c}{s}" for s in ("train", "test") for c in ("cat", "dog")],
        "Move what is in",
        {
            f"{s}/{s}/{c}/{c}{s}": f"{s}/{c}/{c}{s}"
            for s in ("train", "test")
            for c in ("cat", "dog")
        },
        (["train", "test"], ("cat", "dog")),
    ),
    "classes in the names of splits": (
        ["train_cat/0", "train_dog/1", "test_cat/2", "test_dog/3"],
        "in subfolders if these are classes, as in test/test_dog",
        {
            "train_cat/0": "train/cat/0",
            "train_dog/1": "train/dog/1",
            "test_cat/2": "test/cat/2",
            "test_dog/3": "test/dog/3",
        },
        (["train", "test"], ("cat", "dog")),
    ),
    "images beside masks": (
        ["images/0", "masks/1"],
        "else move all but the first out of",
        {"masks/1": "../masks/1"},
        (["train"], ("images",)),
    ),
    "a class called images": (
        ["train/drawings/0", "train/Images/1"],
        "rename the first, as in 'class_Images'",
        {"train/Images/1": "train/class_Images/1"},
        (["train"], ("class_Images", "drawings")),
    ),
    "images beside classes": (
        ["0", "cat/1"],
        "Move all of them into subfolders",
        {"0": "dog/0"},
        (["train"], ("cat", "dog")),
    ),
}


@pytest.mark.parametrize("name", UNCLEAR)
def test_folders_whose_subfolders_are_unclear_are_refused(name, tmp_path):
    names, words, renamed, (splits, class_names) = UNCLEAR[name]
    settings = folder(GREY[: len(names)], names=names)(tmp_path)
    with pytest.raises(DataError, match=re.escape(words)):
        data_images._read(settings)
    for old, new in renamed.items():
        target = Path(settings.path) / f"{new}.png"
        target.parent.mkdir(parents=True, exist_ok=True)
        source = Path(settings.path) / f"{old}.png"
        source.rename(target)
        for path in source.relative_to(settings.path).parents:
            if not any((Path(settings.path) / path).iterdir()):
                (Path(settings.path) / path).rmdir()
    source = data_images._read(settings)
    assert list(source.splits) == splits
    assert source.class_names == class_names


def test_a_split_without_images_is_refused(tmp_path):
    """Otherwise training images would replace its images."""
    settings = with_folder(in_splits("train", "val")(tmp_path), "Test")
    with pytest.raises(DataError, match=r"Test is named like a split.* remove it"):
        load_data(settings)
    (Path(settings.path) / "Test").rmdir()
    assert len(load_data(dataclasses.replace(settings, num_test=1)).test.images) == 1


def test_16_bits_beside_8_are_brought_to_8_as_the_message_says(tmp_path):
    folder(GREY)(tmp_path)
    settings = folder(GREY[:1] * np.uint16(257), names=["12"])(tmp_path)
    with pytest.raises(DataError, match=r"is 5x6 I;16: .* is 5x6 L\.") as refused:
        load_data(settings)
    code = code_in(str(refused.value))
    with Image.open(tmp_path / "mine" / "12.png") as image:
        changed = eval(code, {"image": image, "np": np, "Image": Image})
    changed.save(tmp_path / "mine" / "12.png")
    assert_read(settings, np.concatenate([GREY, GREY[:1]]))


def test_16_bits_in_which_0_is_white_are_turned_over_as_the_message_says(tmp_path):
    grey = GREY[0] * np.uint16(257)
    settings = folder(65535 - grey[None], suffix=".tif")(tmp_path)
    (file,) = Path(settings.path).iterdir()
    black_is_0, white_is_0 = (
        struct.pack("<HHLL", 262, 3, 1, value) for value in (1, 0)
    )
    content = file.read_bytes()
    assert content.count(black_is_0) == 1
    file.write_bytes(content.replace(black_is_0, white_is_0))
    with pytest.raises(DataError, match="in which 0 is white") as refused:
        data_images._read(settings)
    with Image.open(file) as image:
        code = code_in(str(refused.value))
        changed = eval(code, {"image": image, "np": np, "Image": Image})
    changed.save(file)
    stated = dataclasses.replace(settings, black=0.0, white=65535.0)
    assert_read(stated, GREY[:1])


def test_a_folder_around_the_classes_is_told_from_a_class(tmp_path):
    settings = folder(GREY, names=classes("data/a", "data/b", "data/c"))(tmp_path)
    with pytest.raises(DataError, match=r"data/a and in .*data/b") as refused:
        load_data(settings)
    inner = follow(str(refused.value), settings, tmp_path)
    assert_read(inner, GREY[IN_CLASSES], **ABC)


@pytest.mark.parametrize(
    ("name", "right"),
    [
        ("MNIST", "mnist"),
        ("Mnist", "mnist"),
        ("Fashion-MNIST", "fashion_mnist"),
        ("FASHION_MNIST", "fashion_mnist"),
        ("Binarized_MNIST", "binarized_mnist"),
        ("CIFAR10", "cifar10"),
        ("NPZ", "npz"),
        ("Digits", "digits"),
    ],
)
def test_a_data_set_has_one_name(name, right):
    """Its splits and its place in the cache depend on the name."""
    with pytest.raises(DataError, match=f"did you mean '{right}'"):
        DataSettings(name)
    if right in data_names.PREPARABLE:
        with pytest.raises(DataError, match=f"did you mean '{right}'"):
            prepare(name)
    path = "x" if right == "npz" else ""
    assert DataSettings(right, path=path).name == right


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"background": "grey"}, "data.background is 'grey'"),
        ({"black": 3.0, "white": 3.0}, "data.white is the same. Give two values"),
        ({"white": 16.0}, "no meaning for 'digits'"),
    ],
)
def test_meanings_that_make_no_sense_are_refused(changes, words):
    with pytest.raises(DataError, match=re.escape(words)):
        DataSettings("digits", **changes)


def mixed(tmp_path):
    """Writes a grey picture beside one in colour."""
    folder(GREY, names=[f"{i:02}" for i in range(12)])(tmp_path)
    return folder(COLOUR[:1], names=["12"])(tmp_path)


def test_grey_beside_colour_is_brought_to_colour_as_the_message_says(tmp_path):
    settings = mixed(tmp_path)
    with pytest.raises(DataError, match=r"is 5x6 RGB: .* is 5x6 L\.") as refused:
        load_data(settings)
    follow(str(refused.value), settings, tmp_path)
    expected = np.concatenate([GREY.repeat(3, axis=-1), COLOUR[:1]])
    assert_read(settings, expected)


# --- read, with a warning -------------------------------------------------------------


def beside(settings, **files):
    """Puts files beside those of a folder."""
    for name, content in files.items():
        path = Path(settings.path) / name.replace("__", ".")
        if isinstance(content, bytes):
            path.write_bytes(content)
        else:
            picture(content).save(path)
    return settings


def with_folder(settings, name):
    """Puts an empty folder beside the images."""
    (Path(settings.path) / name).mkdir()
    return settings


def test_a_dark_split_is_in_the_range_that_is_stated(tmp_path):
    settings = npz(images=GREY, test_images=GREY[:2] * 0)(tmp_path)
    with pytest.raises(DataError, match=r"set data\.white=255 if it is one range"):
        load_data(settings)
    settings = dataclasses.replace(settings, white=255.0)
    assert_read(settings, {"train": GREY, "test": GREY[:2] * 0})


def with_deep_colours(tmp_path):
    """Writes pictures in colour, of which one has 16 bits a channel."""
    settings = folder(COLOUR)(tmp_path)
    rows = GENERATOR.integers(256, size=(6, 5, 3), dtype=np.uint8)
    (tmp_path / "mine" / "12.png").write_bytes(deep_png(rows))
    read = data_images._read(settings).splits["train"].images
    np.testing.assert_array_equal(read[-1], rows)
    return settings


# A row: the way of writing, and the warning.
NOTED = {
    "test images among those of training": (
        npz(images=GREY, test_images=GREY[3:5]),
        ["2 of 2 test images are training images too"],
    ),
    "the same file in two splits": (
        folder(
            GREY[[0, 1, 2, 1, 0]],
            names=["train/0", "train/1", "train/2", "test/3", "val/4"],
        ),
        [
            "1 of 1 validation images are training images too",
            "1 of 1 test images are training images too",
        ],
    ),
    "one picture in two formats": (
        lambda path: beside(folder(GREY)(path), **{"00__bmp": GREY[0]}),
        ["1 file named like another but for the suffix ('00.bmp' and '00.png')"],
    ),
    "copies that were drawn apart": (
        npz(images=GREY.repeat(4, axis=0)),
        ["images are training images"],
    ),
    "one image many times": (npz(images=GREY[:1].repeat(9, axis=0)), ["the same one"]),
    "files of other kinds": (
        lambda path: beside(folder(GREY)(path), IMG__heic=b"x", notes__txt=b"y"),
        ["are not read", "or WEBP file: 'IMG.heic', 'notes.txt'"],
    ),
    "a folder without images": (
        lambda path: with_folder(folder(GREY, names=classes("a", "b"))(path), "c"),
        ["are not read", "or WEBP file: 'c'"],
    ),
    "classes that may be splits": (
        folder(GREY, names=classes("Trainig", "Tests")),
        ["classes named much like splits (Tests, Trainig). If they are splits, name"],
    ),
    "colours of 16 bits": (
        with_deep_colours,
        ["1 file ('12.png', for one) had 16 bits"],
    ),
    "a class of test images alone": (
        folder(GREY[:3], names=["train/a/0", "train/b/1", "test/c/2"]),
        ["test images of classes that no training image belongs to: c"],
    ),
    "colours of a press": (
        folder(COLOUR, ".tif", mode="CMYK"),
        ["12 files ('00.tif', for one) had other colours than RGB"],
    ),
}


@pytest.mark.parametrize("name", NOTED)
def test_what_a_person_should_know_is_said_at_each_start(name, tmp_path):
    write, words = NOTED[name]
    settings = write(tmp_path)
    if name == "a class of test images alone":
        settings = dataclasses.replace(settings, num_validation=1)
    for _ in range(2):  # The second time from the cache.
        said = " ".join(load_data(settings).notes)
        for word in words:
            assert word in said


def test_copies_are_found_though_each_is_binarized_by_its_own_draw(tmp_path):
    settings = npz(images=GREY, test_images=GREY[3:5])(tmp_path)
    static = load_data(dataclasses.replace(settings, binarization="static"))
    assert static.notes == load_data(settings).notes
    assert "2 of 2 test images are training images too" in static.notes[0]


def test_what_is_said_reaches_the_terminal_as_a_line_each(tmp_path):
    images = load_data(npz(images=GREY, test_images=GREY[3:5])(tmp_path))
    with progress.CONSOLE.capture() as capture:
        progress.announce(images, grid.expand(digits.get_config().to_dict()))
    described, *said = capture.get().splitlines()
    assert described == images.describe()
    assert said == [f"warning: {note}" for note in images.notes]
    assert len(said) == 1


@pytest.mark.parametrize("name", ["digits", "npz", "folder"])
def test_nothing_is_said_where_nothing_is_odd(name, tmp_path):
    written = {"npz": npz(images=GREY), "folder": folder(GREY)}
    settings = written[name](tmp_path) if name in written else DataSettings(name)
    assert load_data(settings).notes == ()
