"""Tests of experiments.report.pictures: files that are not there as they should be."""

import io
import json
import os
import types

import numpy as np
import pytest
from PIL import Image

from experiments.data.images import ImageData, Split
from experiments.evaluation import stored_arrays
from experiments.messages.errors import FolderError
from experiments.report import pictures
from vae_jax.evidence import ImportanceEstimate
from vae_jax.measure import Evaluation, Pictures

OWN, OTHER = "0" * 64, "1" * 64
NAMES = ("reconstructions", "prior_means", "samples", "manifold", "latents")


def arrays(seed=0):
    rng = np.random.default_rng(seed)
    return {
        "picture/originals": rng.integers(0, 17, (8, 4, 4, 1), np.uint8),
        "picture/levels": np.int32(17),
        **{
            f"picture/{name}": rng.random((8, 4, 4, 1))
            for name in NAMES
            if name != "latents"
        },
        "test/posterior_mean": rng.normal(size=(20, 2)),
        "test/labels": rng.integers(0, 3, 20),
    }


def not_needed():
    pytest.fail("nothing is missing, and the arrays are loaded")


def pixels(path):
    with Image.open(path) as image:
        return np.asarray(image.convert("RGBA"))


def named(names):
    """Arrays with names of classes, as they are stored."""
    content = np.frombuffer(json.dumps(names).encode(), np.uint8)
    return {**arrays(), "class_names": content}


def test_names_of_classes_are_stored_and_drawn():
    """Folders of before have none, and show the numbers."""
    stored = to_store(("ant", "bee", "cat"))
    assert json.loads(stored["class_names"].tobytes()) == ["ant", "bee", "cat"]
    assert "class_names" not in to_store(())
    before = pictures._drawn(arrays(), ["latents"])
    assert pictures._drawn(named(["0", "1", "2"]), ["latents"]) == before
    assert pictures._drawn({**arrays(), **stored}, ["latents"]) != before


def to_store(names):
    """What is stored of a run on images of such classes."""
    split = Split(np.zeros((2, 4, 4, 1), np.uint8), np.arange(2, dtype=np.int32))
    images = ImageData("x", 17, split, split, split, "dynamic", names)
    numbers = np.zeros(2)
    estimate = ImportanceEstimate(*[numbers] * len(ImportanceEstimate._fields))
    evaluation = Evaluation(estimate, numbers, numbers)
    model = types.SimpleNamespace(latent_dim=3, can_be_padded=True)
    run = types.SimpleNamespace(settings=types.SimpleNamespace(model=model))
    drawn = Pictures(*(np.zeros((2, 16)) for _ in Pictures._fields))
    stored = stored_arrays.to_store(run, images, evaluation, drawn, floor=numbers)
    return {name: stored[name] for name in stored if name == "class_names"}


@pytest.mark.parametrize("names", ["abc", {"a": 1}, [1, 2, 3], [["a"]]])
def test_names_of_another_kind_are_refused(names):
    with pytest.raises(ValueError, match="class_names"):
        pictures._drawn(named(names), ["latents"])


@pytest.fixture
def drawn(tmp_path):
    """All pictures of a run, and their pixels."""
    pictures.ensure(tmp_path / "run", 2, OWN, arrays)
    return tmp_path / "run"


def test_a_run_of_two_latents_has_all_pictures_and_others_the_grids(tmp_path, drawn):
    assert sorted(path.stem for path in drawn.iterdir()) == sorted(NAMES)
    pictures.ensure(tmp_path / "wide", 3, OWN, arrays)
    assert sorted(path.stem for path in (tmp_path / "wide").iterdir()) == (
        sorted(NAMES[:3])
    )


def test_pictures_that_are_good_are_left_alone(drawn):
    before = {path: path.stat().st_mtime_ns for path in drawn.iterdir()}
    pictures.ensure(drawn, 2, OWN, not_needed)
    assert {path: path.stat().st_mtime_ns for path in drawn.iterdir()} == before


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    "harm",
    [
        lambda path: path.unlink(),
        lambda path: path.write_bytes(path.read_bytes()[:-20]),
        lambda path: path.write_bytes(path.read_bytes()[:100]),
        lambda path: path.write_bytes(b""),
        lambda path: path.write_bytes(b"\x89PNG" + path.read_bytes()[4:][::-1]),
        lambda path: path.write_text("<svg/>"),
        lambda path: os.truncate(path, 2**40),
        lambda path: (path.unlink(), os.mkfifo(path)),
        lambda path: pictures.ensure(path.parent, 2, OTHER, lambda: arrays(1)),
        lambda path: Image.new("L", (3, 3)).save(path),
    ],
    ids=[
        "deleted",
        "cut",
        "cut short",
        "empty",
        "bytes",
        "text",
        "too large",
        "pipe",
        "of another run",
        "unsigned",
    ],
)
def test_a_picture_that_is_not_as_it_should_be_is_drawn_again(drawn, name, harm):
    path = drawn / f"{name}.png"
    content, before = path.read_bytes(), pixels(path)
    harm(path)
    assert not pictures.is_good(path, OWN)
    pictures.ensure(drawn, 2, OWN, arrays)
    np.testing.assert_array_equal(pixels(path), before)
    assert path.read_bytes() == content
    assert pictures.is_good(path, OWN)


def test_a_picture_is_good_for_its_own_run_alone(drawn):
    path = drawn / "samples.png"
    assert pictures.is_good(path, OWN)
    assert not pictures.is_good(path, OTHER)
    assert not pictures.is_good(drawn / "missing.png", OWN)


def test_a_flipped_bit_makes_no_good_picture(drawn):
    path = drawn / "samples.png"
    content = path.read_bytes()
    for at in range(8, len(content), 7):
        path.write_bytes(content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :])
        assert not pictures.is_good(path, OWN), at


def test_a_signature_leaves_the_pixels_as_they_are(drawn):
    names = [path.stem for path in drawn.glob("*.png")]
    for name, content in pictures._drawn(arrays(), names).items():
        (drawn / "plain.png").write_bytes(content)
        np.testing.assert_array_equal(
            pixels(drawn / "plain.png"), pixels(drawn / f"{name}.png")
        )


def test_arrays_that_cannot_be_loaded_leave_what_is_there(drawn):
    def damaged():
        raise FolderError("the arrays are damaged")

    (drawn / "samples.png").unlink()
    with pytest.raises(FolderError, match="the arrays are damaged"):
        pictures.ensure(drawn, 2, OWN, damaged)
    assert len(list(drawn.iterdir())) == len(NAMES) - 1


def test_a_picture_that_cannot_be_written_is_told(drawn):
    path = drawn / "samples.png"
    path.unlink()
    path.mkdir()
    with pytest.raises(FolderError, match=r"cannot write .*samples\.png"):
        pictures.ensure(drawn, 2, OWN, arrays)


@pytest.mark.parametrize(
    "arrays",
    [
        {"picture/levels": np.zeros((1, 1, 1, 2_000_000), np.uint8)},
        {"picture/originals": np.zeros((200_000, 1, 1, 1), np.uint8)},
    ],
)
def test_arrays_that_would_fill_the_memory_are_not_drawn(tmp_path, arrays):
    images = np.zeros((2, 4, 4, 1), np.float32)
    own = {f"picture/{n}": images for n in ("originals", *pictures._GRIDS)}
    own = {**own, "picture/levels": np.int32(2), **arrays}
    with pytest.raises(ValueError, match="picture/"):
        pictures.ensure(tmp_path, 3, "0" * 64, lambda: own)


def test_a_picture_that_fills_the_memory_is_not_good(tmp_path):
    file = io.BytesIO()
    Image.new("1", (12_000, 10_000)).save(file, format="png")
    path = tmp_path / "samples.png"
    path.write_bytes(pictures._signed(file.getvalue(), "0" * 64))
    assert not pictures.is_good(path, "0" * 64)
