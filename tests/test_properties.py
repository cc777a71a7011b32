"""Properties of every configuration and of every array, drawn at random.

The draws are the same in each session. A configuration is either used exactly as it is
written, or refused in one line that names the field; so are images.
"""

import copy
import io
import json
import math
import string
import tempfile
from pathlib import Path

import hypothesis.extra.numpy as hnp
import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings

from configs import digits
from experiments.data import npz as reader
from experiments.data.images import load_data
from experiments.data.settings import DataSettings
from experiments.messages.errors import DataError, SettingsError
from experiments.settings import grid
from experiments.settings.schema import Settings, build
from experiments.settings.values import Options

settings.register_profile(
    "repeatable",
    derandomize=True,
    deadline=None,
    database=None,
    suppress_health_check=[HealthCheck.too_slow],
)
repeatable = settings.get_profile("repeatable")

# --- configurations -------------------------------------------------------------------

CONFIG = digits.get_config("tiny").to_dict()


def paths_of(mapping, above=()):
    """Returns the path of every section and field, from the outside in."""
    for name, value in mapping.items():
        yield (*above, name)
        if isinstance(value, dict):
            yield from paths_of(value, (*above, name))


PATHS = list(paths_of(CONFIG))
NAMES = sorted({name for path in PATHS for name in path})
WORDS = [
    *("bernoulli", "laplace", "beta,laplace", "mlp", "conv", "relu", "tanh", "elbo"),
    *("iwae", "constant", "cosine", "stop", "skip", "reseed", "map", "loop", "auto"),
    *("dynamic", "static", "digits", "npz", "mnist", "", "a.npz"),
]
NUMBERS = st.integers() | st.integers(-2, 12) | st.floats() | st.floats(0, 1)
VALUES = st.recursive(
    st.none() | st.booleans() | NUMBERS | st.text(max_size=4) | st.sampled_from(WORDS),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.lists(inner, max_size=3).map(tuple)
        | st.dictionaries(st.sampled_from(NAMES) | st.text(max_size=3), inner)
    ),
    max_leaves=4,
)
KEYS = st.sampled_from(NAMES) | st.text(string.printable, max_size=5)


@st.composite
def mutated(draw):
    """Returns a configuration with some values replaced, keys removed and added."""
    config = copy.deepcopy(CONFIG)
    for _ in range(draw(st.integers(1, 3))):
        *above, name = draw(st.sampled_from(PATHS))
        target = config
        for section in above:
            target = target.get(section) if isinstance(target, dict) else None
        if not isinstance(target, dict):
            continue  # It was replaced or removed before.
        action = draw(st.sampled_from(["replace", "replace", "replace", "drop", "add"]))
        if action == "replace":
            target[name] = draw(VALUES)
        elif action == "drop":
            target.pop(name, None)
        else:
            target[draw(KEYS)] = draw(VALUES)
    return config


def changed_fields(config):
    """Returns the names of a configuration's changed fields, at any depth."""

    def differing(old, new):
        for name in {*old, *new}:
            before, after = old.get(name), new.get(name)
            if name not in old or name not in new:
                yield str(name)
            elif isinstance(before, dict) and isinstance(after, dict):
                yield from differing(before, after)
            elif type(before) is not type(after) or before != after:
                yield str(name)

    return set(differing(CONFIG, config))


def without_sweep(config):
    return {name: value for name, value in config.items() if name != "sweep"}


def plain(value):
    """Returns a value with tuples for lists, as settings hold it."""
    return tuple(map(plain, value)) if isinstance(value, (list, tuple)) else value


def assert_equal_to(section, mapping):
    """Asserts that settings hold the values of the mapping, no more and no less.

    Only options by name may be left out.
    """
    left_out = {name for name in vars(section) if getattr(section, name) == Options()}
    assert set(vars(section)) - left_out == set(mapping) - left_out
    for name, value in mapping.items():
        held = getattr(section, name)
        if isinstance(value, dict):
            assert_equal_to(held, value)
        else:
            assert held == plain(value)
            assert isinstance(held, bool) == isinstance(value, bool)
            assert not isinstance(held, float) or math.isfinite(held)


def refusal(function, *arguments):
    """Returns the line of a refusal, or None; other exceptions are errors."""
    try:
        function(*arguments)
    except (SettingsError, DataError) as error:
        line = str(error)
        assert line
        assert line.isprintable()
        return line
    return None


@settings(repeatable, max_examples=300)
@given(mutated())
def test_settings_are_what_was_given_or_refused_by_name(config):
    mapping = without_sweep(config)
    line = refusal(build, mapping, Settings, "config")
    if line is None:
        assert_equal_to(build(mapping, Settings, "config"), mapping)
    else:
        assert any(repr(name)[1:-1] in line for name in changed_fields(config)), line


@settings(repeatable, max_examples=250)
@given(mutated())
def test_runs_are_the_same_after_json_or_refused_alike(config):
    again = json.loads(json.dumps(config))
    line = refusal(grid.expand, config)
    if line is not None:
        assert refusal(grid.expand, again)
        assert any(repr(name)[1:-1] in line for name in changed_fields(config)), line
        return
    runs = grid.expand(config)
    assert grid.expand(again) == runs
    names = [run.name for run in runs]
    assert len(set(names)) == len({run.settings for run in runs}) == len(runs) > 0
    for name in names:  # A folder's name on any file system.
        assert "/" not in name
        assert name.isprintable()
        assert 0 < len(name.encode()) < 256
    groups = grid.group(runs)
    trained = [run for group in groups for run in group.runs]
    assert sorted(trained, key=names_of(runs)) == list(runs)
    assert len({group.name for group in groups}) == len(groups)
    # A group is one program: its runs share all that is not an array in it.
    for group in groups:
        assert len({run.settings.training.config() for run in group.runs}) == 1
        assert len({run.settings.model.likelihood for run in group.runs}) == 1


def names_of(runs):
    order = {run.name: i for i, run in enumerate(runs)}
    return lambda run: order[run.name]


AXES = st.dictionaries(
    st.sampled_from(["seed", "latent_dim", "beta", "widths", "likelihood", "schedule"]),
    st.none(),
    max_size=4,
)
AXIS_VALUES = {
    "seed": st.integers(0, 2**32 - 1),
    "latent_dim": st.integers(1, 50),
    "beta": st.floats(0, 100, width=32, allow_subnormal=False),
    "widths": st.lists(st.integers(1, 99), max_size=3).map(tuple),
    "likelihood": st.sampled_from(["bernoulli", "laplace", "beta", "categorical"]),
    "schedule": st.sampled_from(["constant", "cosine"]),
}


@settings(repeatable, max_examples=60)
@given(AXES, st.data())
def test_runs_are_the_product_of_the_axes(axes, data):
    sweep = {
        axis: data.draw(
            st.lists(AXIS_VALUES[axis], min_size=1, max_size=3, unique=True)
        )
        for axis in axes
    }
    runs = grid.expand({**CONFIG, "sweep": sweep})
    assert len(runs) == math.prod(map(len, sweep.values()))
    assert len({run.name for run in runs}) == len(runs)
    assert sum(len(group.runs) for group in grid.group(runs)) == len(runs)
    assert all({run} == set(grid.choose(runs, str(i))) for i, run in enumerate(runs))


# --- images ---------------------------------------------------------------------------

DTYPES = (
    st.sampled_from(["u1", "i1", "u2", "i2", "i4", "i8", "f2", "f4", "f8", "?"])
    | hnp.scalar_dtypes()
    | st.just(np.dtype([("red", "u1"), ("blue", "f4")]))
)
SHAPES = st.one_of(
    hnp.array_shapes(min_dims=0, max_dims=5, min_side=0, max_side=4),
    st.tuples(st.integers(3, 12), st.integers(1, 3), st.integers(1, 3)),
)


@st.composite
def any_array(draw):
    dtype, shape = draw(DTYPES), draw(SHAPES)
    if np.dtype(dtype).kind in "iuf" and draw(st.booleans()):
        values = st.integers(100, 255)  # Often valid, unlike random values.
        return draw(hnp.arrays(np.uint8, shape, elements=values)).astype(dtype)
    return draw(hnp.arrays(dtype, shape))


@pytest.fixture(scope="module")
def npz():
    """Returns a function that stores arrays as an npz file and loads it."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "a.npz"

        def load(**arrays):
            np.savez(path, **arrays)
            return load_data(DataSettings("npz", path=str(path)))

        yield load


@settings(repeatable, max_examples=150)
@given(
    images=any_array(), labels=st.none() | any_array(), levels=st.none() | any_array()
)
def test_any_arrays_are_images_or_refused(images, labels, levels, npz):
    arrays = {"images": images, "labels": labels, "levels": levels}
    arrays = {name: array for name, array in arrays.items() if array is not None}
    line = refusal(lambda: npz(**arrays))
    if line is not None:
        assert "a.npz" in line
        return
    data = npz(**arrays)
    if images.ndim == 4 and images.shape[-1] in (2, 4):
        images = images[..., :-1]  # Without the channel that says that all is opaque.
    height, width, *channels = images.shape[1:]
    assert data.image_shape == (height, width, *(channels or [1]))
    assert 2 <= data.levels <= 256
    splits = [data.train, data.validation, data.test]
    assert sum(len(split.images) for split in splits) == len(images)
    for split in splits:
        assert split.images.dtype == np.uint8
        assert split.images.shape[1:] == data.image_shape
        assert split.images.max() < data.levels
        assert (split.labels is None) == (labels is None)
    together = np.concatenate([split.images for split in splits])
    assert together.sum(dtype=np.int64) == images.sum(dtype=np.float64)


@settings(repeatable, max_examples=150)
@given(st.data())
def test_damaged_files_are_never_taken_for_others(data):
    """One changed byte of an npz file is refused, or changes no pixel."""
    file = io.BytesIO()
    images = np.arange(20 * 4 * 4, dtype=np.uint8).reshape(20, 4, 4)
    np.savez(file, images=images, labels=np.arange(20))
    content = bytearray(file.getvalue())
    place = data.draw(st.integers(0, len(content) - 1))
    content[place] ^= data.draw(st.integers(1, 255))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "a.npz"
        path.write_bytes(content)
        own = DataSettings("npz", path=str(path))
        if refusal(reader.read, own) is None:
            source = reader.read(own)
            read, labels = source.splits["train"]
            np.testing.assert_array_equal(read[..., 0], images)
            assert labels is None or (labels == np.arange(20)).all()


@settings(repeatable, max_examples=150)
@given(
    split=st.sampled_from(["train", "validation", "test"]),
    what=st.sampled_from(["pixel", "label", "order", "move", "no labels", "levels"]),
    place=st.integers(0, 4),
    seed=st.integers(0, 99),
)
def test_fingerprints_tell_any_change(split, what, place, seed, npz):
    generator = np.random.default_rng(seed)
    arrays = {"levels": np.array(20)}
    for name in ("train", "validation", "test"):
        arrays[f"{name}_images"] = generator.integers(0, 18, (5, 3, 3), np.uint8)
        arrays[f"{name}_labels"] = np.arange(5)
    images, labels = arrays[f"{split}_images"], arrays[f"{split}_labels"]
    other = {**arrays}
    if what == "pixel":
        other[f"{split}_images"] = images.copy()
        other[f"{split}_images"][place, 1, 2] += 1
    elif what == "label":
        other[f"{split}_labels"] = labels + (labels == place)
    elif what == "order":
        other[f"{split}_images"] = np.roll(images, 1 + place % 4, axis=0)
        other[f"{split}_labels"] = np.roll(labels, 1 + place % 4)
    elif what == "move":  # One image, from another split to this one.
        source = "test" if split == "train" else "train"
        for part in ("images", "labels"):
            here, there = f"{split}_{part}", f"{source}_{part}"
            other[here] = np.concatenate([arrays[here], arrays[there][place:][:1]])
            other[there] = np.delete(arrays[there], place, axis=0)
    elif what == "no labels":
        del other[f"{split}_labels"]
    else:
        other["levels"] = np.array(21 + place)
    assert npz(**other).fingerprint != npz(**arrays).fingerprint
    assert npz(**arrays).fingerprint == npz(**copy.deepcopy(arrays)).fingerprint
