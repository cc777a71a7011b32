"""Tests of experiments.report.pictures: files that are missing or wrong."""

import io
import json
import os
import types

import numpy as np
import pytest
from PIL import Image

from experiments.data.images import ImageData
from experiments.data.sources import Split
from experiments.evaluation import stored_arrays
from experiments.messages.errors import FolderError
from experiments.report import grids, pictures
from vae_jax.evidence import ImportanceEstimate
from vae_jax.measure import Evaluation, Pictures

OWN, OTHER = "0" * 64, "1" * 64
GRIDS = ("reconstructions", "prior_means", "samples", "traversals", "interpolations")
OF_CHAIN = ("trajectories", "samples_by_steps", "samples_by_guidance")
NAMES = (*GRIDS, "manifold", "latents")


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


def ensure(
    place,
    latent_dim=2,
    fingerprint=OWN,
    load=arrays,
    has_classes=False,
    has_chain=False,
):
    kind = latent_dim, has_classes, has_chain, fingerprint
    return pictures.ensure(place, *kind, load, pytest.fail)


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
    """Folders of earlier versions have no names, and show the numbers."""
    stored = to_store(("ant", "bee", "cat"))
    assert json.loads(stored["class_names"].tobytes()) == ["ant", "bee", "cat"]
    assert "class_names" not in to_store(())
    before = pictures._draw("latents", arrays())
    assert pictures._draw("latents", named(["0", "1", "2"])) == before
    assert pictures._draw("latents", {**arrays(), **stored}) != before


def to_store(names):
    """Returns the stored arrays of a run on images of such classes."""
    split = Split(np.zeros((2, 4, 4, 1), np.uint8), np.arange(2, dtype=np.int32))
    images = ImageData("x", 17, split, split, split, "dynamic", names)
    numbers = np.zeros(2)
    estimate = ImportanceEstimate(*[numbers] * len(ImportanceEstimate._fields))
    evaluation = Evaluation(estimate, numbers, numbers)
    model = types.SimpleNamespace(latent_dim=3, can_be_padded=True, condition_on="")
    run = types.SimpleNamespace(settings=types.SimpleNamespace(model=model))
    drawn = Pictures(*(np.zeros((2, 16)) for _ in Pictures._fields))
    stored = stored_arrays.to_store(run, images, evaluation, drawn, floor=numbers)
    return {name: stored[name] for name in stored if name == "class_names"}


@pytest.mark.parametrize("names", ["abc", {"a": 1}, [1, 2, 3], [["a"]]])
def test_names_of_another_kind_are_refused(names):
    with pytest.raises(ValueError, match="class_names"):
        pictures._draw("latents", named(names))


@pytest.fixture
def drawn(tmp_path):
    """Returns all pictures of a run, and their pixels."""
    ensure(tmp_path / "run")
    return tmp_path / "run"


def test_a_run_of_two_latents_has_all_pictures_and_others_the_grids(tmp_path, drawn):
    assert sorted(path.stem for path in drawn.iterdir()) == sorted(NAMES)
    assert tuple(ensure(tmp_path / "wide", 3)) == GRIDS
    own = {**arrays(), "picture/classes": arrays()["picture/samples"]}
    found = ensure(tmp_path / "classes", 3, load=lambda: own, has_classes=True)
    assert tuple(found) == (*GRIDS, "classes")
    of_chain = {
        name: array
        for name, array in arrays().items()
        if name not in ("picture/traversals", "picture/interpolations")
    } | {f"picture/{name}": np.ones((28, 4, 4, 1)) for name in OF_CHAIN}
    found = ensure(tmp_path / "chain", 3, load=lambda: of_chain, has_chain=True)
    assert tuple(found) == (*GRIDS[:3], *OF_CHAIN[:2])
    chain = {"load": lambda: of_chain, "has_chain": True, "has_classes": True}
    assert tuple(ensure(tmp_path / "guided", 3, **chain)) == (*GRIDS[:3], *OF_CHAIN)
    assert {path.stem for path in (tmp_path / "wide").iterdir()} == set(GRIDS)


def test_pictures_that_are_good_are_left_alone(drawn):
    before = {path: path.stat().st_mtime_ns for path in drawn.iterdir()}
    found = ensure(drawn, load=not_needed)
    assert {path: path.stat().st_mtime_ns for path in drawn.iterdir()} == before
    assert tuple(found) == NAMES
    for name, picture in found.items():
        assert picture.png == (drawn / f"{name}.png").read_bytes()
        assert 0 < picture.cut <= picture.height


def test_a_page_shows_the_same_pixels(drawn):
    for picture in ensure(drawn, load=not_needed).values():
        image = Image.open(io.BytesIO(picture.png)).convert("RGBA")
        content, media_type = picture.embedded
        assert media_type == "image/webp"
        shown = Image.open(io.BytesIO(content)).convert("RGBA")
        # What is transparent has no colour.
        for opacity in (0, 255):
            ground = Image.new("RGBA", image.size, (opacity, opacity, opacity, 255))
            composed = [Image.alpha_composite(ground, each) for each in (image, shown)]
            np.testing.assert_array_equal(*map(np.asarray, composed))


def test_a_page_holds_the_file_where_webp_has_no_such_size(tmp_path):
    tall = arrays() | {"picture/samples": np.ones((4, 2**14, 1, 1))}
    found = ensure(tmp_path, load=lambda: tall)
    assert found["samples"].embedded == (found["samples"].png, "image/png")


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
        lambda path: ensure(path.parent, 2, OTHER, lambda: arrays(1)),
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
    assert pictures.read(path, OWN) is None
    ensure(drawn)
    np.testing.assert_array_equal(pixels(path), before)
    assert path.read_bytes() == content
    assert pictures.read(path, OWN).png == content


def test_a_picture_is_good_for_its_own_run_alone(drawn):
    path = drawn / "samples.png"
    assert pictures.read(path, OWN)
    assert pictures.read(path, OTHER) is None
    assert pictures.read(drawn / "missing.png", OWN) is None


def test_a_flipped_bit_makes_no_good_picture(drawn):
    path = drawn / "samples.png"
    content = path.read_bytes()
    for at in {*range(8, len(content), 7), *range(len(content) - 12, len(content))}:
        path.write_bytes(content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :])
        assert pictures.read(path, OWN) is None, at


def test_a_signature_leaves_the_pixels_as_they_are(drawn):
    for name in NAMES:
        plain = pictures._draw(name, arrays()).convert("RGBA")
        np.testing.assert_array_equal(plain, pixels(drawn / f"{name}.png"))


def test_arrays_that_cannot_be_loaded_leave_what_is_there(drawn):
    def damaged():
        raise FolderError("the arrays are damaged")

    (drawn / "samples.png").unlink()
    lines = []
    found = pictures.ensure(drawn, 2, False, False, OWN, damaged, lines.append)
    assert lines == ["pictures of run are left out: the arrays are damaged"]
    assert set(NAMES) - set(found) == {"samples"}
    assert len(list(drawn.iterdir())) == len(NAMES) - 1


def test_a_picture_that_cannot_be_written_is_named(drawn):
    path = drawn / "samples.png"
    path.unlink()
    path.mkdir()
    lines = []
    pictures.ensure(drawn, 2, False, False, OWN, arrays, lines.append)
    assert len(lines) == 1
    assert "cannot write" in lines[0]
    assert "samples.png" in lines[0]


@pytest.mark.parametrize(
    ("field", "cut"), [("-3", 1), ("9" * 9, 8), ("1e999", None), ("9" * 5000, None)]
)
def test_a_height_that_another_program_wrote_stays_within_the_picture(field, cut):
    image = Image.new("L", (8, 8))
    image.info[grids.CUT_FIELD] = field
    png = pictures._png(image, OWN)
    if cut is None:
        with pytest.raises(ValueError, match="int"):
            pictures._parse(png, OWN)
    else:
        assert pictures._parse(png, OWN).cut == cut


def test_a_picture_of_one_pixel_is_shown():
    png = pictures._png(Image.new("L", (1, 1)), OWN)
    assert pictures._parse(png, OWN).width == 1


@pytest.mark.parametrize(
    "arrays",
    [
        {"picture/levels": np.zeros((1, 1, 1, 2_000_000), np.uint8)},
        {"picture/originals": np.zeros((200_000, 1, 1, 1), np.uint8)},
    ],
)
def test_arrays_that_would_fill_the_memory_are_not_drawn(tmp_path, arrays):
    images = np.zeros((2, 4, 4, 1), np.float32)
    names = "originals", *pictures._ALWAYS, *pictures._WALKS
    own = {f"picture/{name}": images for name in names}
    own = {**own, "picture/levels": np.int32(2), **arrays}
    lines = []
    assert not pictures.ensure(
        tmp_path, 3, False, False, OWN, lambda: own, lines.append
    )
    assert "picture/" in lines[0]


def test_a_picture_that_fills_the_memory_is_not_good(tmp_path):
    path = tmp_path / "samples.png"
    path.write_bytes(pictures._png(Image.new("1", (12_000, 10_000)), OWN))
    assert pictures.read(path, OWN) is None
