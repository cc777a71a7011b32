"""Reading images: from scikit-learn, tensorflow-datasets, npz files and folders.

A reader returns a `Source`: every image it found, as integers, in the splits it was
published in. Cutting a source into train, validation and test is the business of
`experiments.data`. Whatever is wrong with the images is refused here, in one line,
because a wrong pixel found later looks like a bad model.

The files may be a stranger's: nothing in them is run, only regular files are read, and
none that would fill the memory. Links are followed, for reading.
"""

import contextlib
import dataclasses
import difflib
import errno
import hashlib
import importlib.metadata
import io
import json
import math
import os
import pathlib
import re
import shlex
import stat
import types
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from absl import logging

from experiments.files import MOST_BYTES, parse_json, read_json
from experiments.wording import printable

SPLITS = ("train", "validation", "test")
MAX_LEVELS = 256

# The tensorflow-datasets which `experiments.prepare` can write without TensorFlow.
PREPARABLE = ("mnist", "fashion_mnist", "binarized_mnist")
KNOWN_NAMES = ("digits", *PREPARABLE, "npz", "folder")


class DataError(ValueError):
    """Images that cannot be used; the message says in one line what to do about it."""

    def __init__(self, message: str) -> None:
        super().__init__(printable(message))  # It quotes names of a stranger's files.


def expand_user(path: str) -> pathlib.Path:
    """Returns a path in which `~` is written out.

    Raises:
        DataError: if nobody's home is known by that name.
    """
    try:
        return pathlib.Path(path).expanduser()
    except RuntimeError as error:
        raise DataError(
            f"{path!r} begins with a home folder that is not known here: write it out,"
            " as in /home/name/folder"
        ) from error


class Split(NamedTuple):
    """Images and, where they are known, their classes.

    Attributes:
        images: uint8 [N, H, W, C], intensities in {0, ..., levels - 1}.
        labels: int32 [N], or None.
    """

    images: np.ndarray
    labels: np.ndarray | None


@dataclasses.dataclass(frozen=True)
class Source:
    """All images of a data set in its own splits; 'train' is always one of them."""

    levels: int
    splits: Mapping[str, Split]


def read_digits() -> Source:
    """Returns the 1797 handwritten digits of scikit-learn: 8x8 pixels, 17 levels."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    images = digits.images.astype(np.uint8)[..., np.newaxis]
    return Source(17, {"train": Split(images, digits.target.astype(np.int32))})


def digits_identity() -> list[str]:
    """Returns what the content of `read_digits` depends on."""
    return ["digits", importlib.metadata.version("scikit-learn")]


# --- tensorflow-datasets --------------------------------------------------------------


def import_tfds() -> types.ModuleType:
    """Returns the module `tensorflow_datasets`, an optional dependency.

    Raises:
        DataError: if it, or the reader of its files, is not installed.
    """
    try:
        with _quiet_absl():
            # Imported for its absence to show here: tfds would print a banner later.
            import array_record  # noqa: F401
            import tensorflow_datasets
    except ImportError as error:
        raise DataError(
            f'this data set needs {error.name}: pip install "vae_jax[tfds]"'
        ) from error
    return tensorflow_datasets


@contextlib.contextmanager
def quiet_tfds(tfds: Any) -> Iterator[None]:
    """Hides logs, progress bars and announcements of tensorflow-datasets."""
    tfds.disable_progress_bar()
    try:
        with _quiet_absl(), contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        tfds.enable_progress_bar()


@contextlib.contextmanager
def _quiet_absl() -> Iterator[None]:
    """Hides absl's logs below errors, which tell of tfds working as intended."""
    verbosity = logging.get_verbosity()
    logging.set_verbosity(logging.ERROR)
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)


def tfds_folder(data_dir: str) -> pathlib.Path:
    """Returns the folder of prepared data sets that the setting `data_dir` stands for.

    Args:
        data_dir: a folder; '' stands for $TFDS_DATA_DIR, else ~/tensorflow_datasets.
    """
    default = os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets"
    return expand_user(data_dir or default).absolute()


def preparation_command(name: str, folder: pathlib.Path) -> str:
    """Returns the shell command that writes the data set `name` into `folder`."""
    base, data_dir = name.split(":")[0], shlex.quote(str(folder))
    if base in PREPARABLE:
        return (
            f"`python -m experiments.prepare {base} --data_dir={data_dir}` or set"
            " data.download=True"
        )
    return (
        f"`tfds build {base} --file_format=array_record --data_dir={data_dir}` where"
        " TensorFlow is installed"
    )


def read_tfds(name: str, data_dir: str) -> Source:
    """Returns a data set prepared by tensorflow-datasets, without using TensorFlow.

    Args:
        name: 'name[/config][:version]'.
        data_dir: see `tfds_folder`.

    Raises:
        DataError: if the data set is unknown, not prepared, damaged, or not one of
            8-bit images of one shape.
    """
    tfds = import_tfds()
    folder = tfds_folder(data_dir)
    command = preparation_command(name, folder)
    builder, is_prepared = open_builder(tfds, name, folder)
    if not is_prepared:
        raise DataError(f"{name} is not prepared in {folder}: run {command}")

    features = builder.info.features
    kinds = dict(features) if isinstance(features, tfds.features.FeaturesDict) else {}
    image, label = kinds.get("image"), kinds.get("label")
    if not isinstance(image, tfds.features.Image) or image.np_dtype != np.uint8:
        raise DataError(
            f"{name} has no 8-bit feature 'image' (its features: {_line(features)}):"
            " choose an image data set"
        )
    if "train" not in builder.info.splits:
        raise DataError(
            f"{name} has no split 'train' but {', '.join(builder.info.splits)}: choose"
            " a data set with one"
        )
    has_labels = isinstance(label, tfds.features.ClassLabel)
    root = _tfds_root(name, data_dir)
    files = {root / file.name for file in _regular_files(root)}
    splits = {}
    for split in SPLITS:
        if split in builder.info.splits:
            try:
                for shard in builder.info.splits[split].filepaths:
                    # A description can name any path, such as that of a device.
                    if pathlib.Path(shard) not in files:
                        raise ValueError(f"there is no file {shard.name} in it")
                with quiet_tfds(tfds):
                    records = builder.as_data_source(
                        split,
                        decoders={"image": _decoder(tfds, name)},
                        # Readers of other formats have been known to run code.
                        file_format="array_record",
                    )
                    splits[split] = _decode_records(records, name, has_labels)
            except DataError:
                raise
            except Exception as error:
                # Damaged files and those of another format, in the words of tfds.
                raise DataError(
                    f"cannot read {builder.data_path} ({_line(error)}): delete it and"
                    f" run {command}"
                ) from error
    return Source(_default_levels(splits), splits)


def open_builder(tfds: Any, name: str, folder: pathlib.Path) -> tuple[Any, bool]:
    """Returns the builder of a data set, and whether the data set is prepared.

    Args:
        tfds: the package.
        name: 'name[/config][:version]'.
        folder: where prepared data sets lie.

    Raises:
        DataError: if the data set is unknown, or what is prepared is damaged or would
            run code.
    """
    _check_descriptions(name, folder)
    try:
        with quiet_tfds(tfds):
            builder = tfds.builder(name, data_dir=folder)
            return builder, builder.is_prepared()
    except tfds.core.DatasetNotFoundError:
        known = tfds.list_builders(with_community_datasets=False)
        raise unknown_name(name, known) from None  # Its own text takes 300 lines.
    except Exception as error:
        # An unknown version or config, or damage, which comes as any exception; what is
        # wrong follows a list of arguments.
        reason = _line(str(error).split('}": ')[-1]).rstrip(".")
        raise DataError(
            f"cannot open {name!r} in {folder} ({reason}): correct the name, or delete"
            f" what is damaged and run {preparation_command(name, folder)}"
        ) from error


def is_on_disk(name: str, data_dir: str) -> bool:
    """Returns whether some version of a tensorflow-datasets data set is prepared."""
    files = _walk(_tfds_root(name, data_dir), hidden=True)
    return any(file.name.endswith("/dataset_info.json") for file in files)


def tfds_identity(name: str, data_dir: str) -> list[Any]:
    """Returns what the content of `read_tfds` depends on.

    All versions of the data set are listed, since which of them `name` stands for is
    for tensorflow-datasets to say, and importing it takes longer than reading a cache.
    """
    folder = _tfds_root(name, data_dir)
    try:
        version = importlib.metadata.version("tensorflow-datasets")
    except importlib.metadata.PackageNotFoundError:
        version = ""
    contents = []
    for file in _regular_files(folder):
        path = folder / file.name
        try:
            with open(path, "rb") as content:
                digest = hashlib.file_digest(content, "sha256").hexdigest()
        except FileNotFoundError:  # Another process has given it its final name.
            continue
        except OSError as error:
            raise DataError(
                f"cannot read {path} ({error.strerror}): permit reading it, or prepare"
                f" it again: {preparation_command(name, tfds_folder(data_dir))}"
            ) from error
        contents.append([file.name, digest])
    return ["tfds", name, str(folder), version, _digest(contents)]


def _tfds_root(name: str, data_dir: str) -> pathlib.Path:
    """Returns the folder of all versions of a data set, or of all its configs."""
    return tfds_folder(data_dir) / name.split(":")[0]


def _regular_files(root: pathlib.Path) -> list["_File"]:
    """Returns the files of a prepared data set; all that lies there must be one."""
    files = _walk(root, hidden=True)
    for file in files:
        path = root / file.name
        if file.found is None or not file.is_regular:
            raise DataError(
                f"{path} is no regular file, as those of a prepared data set are:"
                " remove it"
            )
        size = file.found.st_size
        if path.suffix in (".json", ".txt") and size > MOST_BYTES:
            raise DataError(
                f"{path} has {size:,} bytes, of at most {MOST_BYTES:,} in a description"
                " of a data set: remove it"
            )
        _refuse_too_large(size, str(path))
    return files


# The features that images and their labels are made of, as tensorflow-datasets spells
# them; a feature of another class would be imported, from wherever it is said to be.
_FEATURES = {
    f"tensorflow_datasets.core.features.{name}"
    for name in (
        "class_label_feature.ClassLabel",
        "feature.Tensor",
        "features_dict.FeaturesDict",
        "image_feature.Image",
        "scalar.Scalar",
        "tensor_feature.Tensor",
        "text_feature.Text",
    )
}


def _check_descriptions(name: str, folder: pathlib.Path) -> None:
    """Refuses a prepared data set whose descriptions ask for more than reading images.

    All its configs and versions are checked, since which of them `name` stands for is
    for tensorflow-datasets to say, by what it finds in them.

    Args:
        name: 'name[/config][:version]'.
        folder: where prepared data sets lie.

    Raises:
        DataError: naming the file and what it asks for.
    """
    root = _tfds_root(name, str(folder))
    command = preparation_command(name, folder)
    for file in _regular_files(root):
        asked_for = _ASKED_FOR.get(file.name.rpartition("/")[2])
        if asked_for is None:
            continue
        path = root / file.name
        try:
            found = next(asked_for(read_json(path)), None)
        except FileNotFoundError:  # Another process has given it its final name.
            continue
        except (OSError, ValueError, AttributeError, TypeError) as error:
            raise DataError(
                f"cannot read {path} ({_line(error)}): delete what is damaged and run"
                f" {command}"
            ) from error
        if found is not None:
            remedy = "save its images in an npz file and set data.name to 'npz'"
            if name.split(":")[0] in PREPARABLE:
                remedy = f"delete {root} and run {command}"
            raise DataError(
                f"{path} names {_line(found)}, which is neither run nor read, for it"
                f" may be a stranger's: {remedy}"
            )


def _asked_by_features(features: Any) -> Iterator[str]:
    """Yields what a description of features names beyond features of images."""
    waiting = [features]
    while waiting:
        value = waiting.pop()
        if isinstance(value, list):
            waiting.extend(value)
        elif isinstance(value, dict):
            for key, item in value.items():
                if key in ("pythonClassName", "python_class_name", "type"):
                    if isinstance(item, str) and item not in _FEATURES:
                        yield f"the feature class {item!r}"
                elif key == "names_file":
                    yield f"the file of labels {item!r}"
                elif key in ("json", "content") and isinstance(item, str):
                    waiting.append(parse_json(item))
                    continue
                waiting.append(item)


def _asked_by_info(info: Any) -> Iterator[str]:
    """Yields what a description of a data set names beyond files beside it."""
    yield from _asked_by_features(info.get("features"))
    for split in info.get("splits", []):
        for key in ("filepathTemplate", "filepath_template"):
            template = split.get(key, "")
            # A width in a field would ask for a text of that size.
            if not re.fullmatch(r"(\{[A-Z_]+\}|[\w.-])*", template):
                yield f"the files {template!r}"


def _asked_by_metadata(metadata: Any) -> Iterator[str]:
    """Yields the default config that a description names, if it is elsewhere."""
    config = metadata.get("default_config_name")
    if config is not None and not re.fullmatch(r"\w[\w.+-]*", config):
        yield f"the config {config!r}"


_ASKED_FOR: Mapping[str, Callable[[Any], Iterator[str]]] = {
    "features.json": _asked_by_features,
    "dataset_info.json": _asked_by_info,
    "metadata.json": _asked_by_metadata,
}

# Beginnings of BMP, GIF, JPEG and PNG. By others, such as that of EPS, Pillow may start
# another program.
_PIXELS = (b"BM", b"GIF8", b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n")


def _decoder(tfds: types.ModuleType, where: str) -> Any:
    """Returns the decoder of tensorflow-datasets, for images of known formats only."""

    @tfds.decode.make_decoder()
    def decode(content: bytes, feature: Any) -> np.ndarray:
        if not content.startswith(_PIXELS):
            raise DataError(
                f"{where} has an image that is no PNG, JPEG, GIF or BMP file: choose"
                " another data set"
            )
        return feature.decode_example_np(content)

    return decode()


def _decode_records(records: Any, where: str, has_labels: bool) -> Split:
    """Returns the images of one split of a tensorflow-datasets data source."""
    if not len(records):
        raise DataError(f"{where} is empty: choose another data set")
    first = records[0]["image"].shape
    _refuse_channels(first, where)
    _refuse_too_large(len(records) * math.prod(first), where)
    images = np.empty((len(records), *first), np.uint8)
    labels = np.empty(len(records), np.int32) if has_labels else None
    chunk = 1000
    for start in range(0, len(records), chunk):
        indices = range(start, min(start + chunk, len(records)))
        for index, record in zip(
            indices, records.__getitems__(list(indices)), strict=True
        ):
            if record["image"].shape != first:
                raise DataError(
                    f"{where} has images of {first} and {record['image'].shape}:"
                    " choose a data set with images of one shape"
                )
            images[index] = record["image"]
            if labels is not None:
                labels[index] = record["label"]
    return Split(images, labels)


# --- npz files ------------------------------------------------------------------------

_NPZ_FORMAT = (
    "'train_images' (or 'images'), and optionally 'train_labels' (or 'labels'),"
    " 'validation_images', 'validation_labels', 'test_images', 'test_labels', 'levels'"
)


def read_npz(path: str) -> Source:
    """Returns the user's own images from an npz file.

    The file holds `train_images`, or `images`, of shape [N, H, W] or [N, H, W, C] with
    integers in {0, ..., levels - 1}, and if wanted `validation_images`, `test_images`,
    labels by the same names, and the scalar `levels`. Without it images have 256
    levels, or 2 where every pixel is 0 or 1.

    Raises:
        DataError: if the file is not like that.
    """
    file = expand_user(path)
    if not os.path.isfile(file):
        raise DataError(f"no file {path!r}: data.path must name an npz file")
    if file.stat().st_size == 0:
        raise DataError(f"{path} is empty: write it with np.savez_compressed")
    if not zipfile.is_zipfile(file):
        raise DataError(f"{path} is not an npz file: write it with np.savez_compressed")
    try:
        with zipfile.ZipFile(file) as archive:
            arrays = _read_members(archive, path)
    except DataError:
        raise
    except Exception as error:  # Damage comes as any exception.
        if "Object arrays" in str(error):
            raise DataError(
                f"{path} holds object arrays, which can run code when read: save arrays"
                " of integers (all images of one shape)"
            ) from error
        raise DataError(
            f"{path} is damaged ({_line(error)}): write it again with"
            " np.savez_compressed"
        ) from error
    return parse_arrays(arrays, path)


def _read_members(archive: zipfile.ZipFile, where: str) -> dict[str, np.ndarray]:
    """Returns the arrays of an npz file, by name.

    Names and sizes are checked before anything is unpacked: a small file may unfold to
    more than the memory holds.
    """
    members = archive.infolist()
    names = [member.filename.removesuffix(".npy") for member in members]
    _refuse_names(names, where)
    _refuse_too_large(sum(member.file_size for member in members), where)
    return {
        name: _read_member(archive, member)
        for name, member in zip(names, members, strict=True)
    }


def _read_member(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> np.ndarray:
    """Returns one array of an npz file, whose header must be true."""
    if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        # Those that NumPy writes; others may ask for any amount of memory.
        raise ValueError(f"{member.filename} is compressed as NumPy never does")
    with archive.open(member) as content:
        shape, _, dtype = _NPY_HEADERS[np.lib.format.read_magic(content)](content)
        said = math.prod(shape) * dtype.itemsize
        held = member.file_size - content.tell()
    if said > held and not dtype.hasobject:
        raise ValueError(f"{member.filename} must hold {said} bytes, but holds {held}")
    with archive.open(member) as content:
        return np.lib.format.read_array(content, allow_pickle=False)


# The third version is for names of fields, which images have none of.
_NPY_HEADERS = {
    (1, 0): np.lib.format.read_array_header_1_0,
    (2, 0): np.lib.format.read_array_header_2_0,
}


def parse_arrays(arrays: Mapping[str, np.ndarray], where: str) -> Source:
    """Returns the source that the named arrays of an npz file describe.

    Args:
        arrays: arrays named as `read_npz` says.
        where: what error messages call the file.

    Raises:
        DataError: if names, types, shapes or values are not as `read_npz` says.
    """
    _refuse_names(list(arrays), where)
    renamed = {_full_name(key): array for key, array in arrays.items()}
    levels = _parse_levels(renamed["levels"], where) if "levels" in renamed else None
    splits = {}
    for split in SPLITS:
        images_key, labels_key = f"{split}_images", f"{split}_labels"
        if images_key in renamed:
            images = _parse_images(
                renamed[images_key], levels or MAX_LEVELS, f"{images_key} of {where}"
            )
            labels = None
            if labels_key in renamed:
                labels = _parse_labels(
                    renamed[labels_key], len(images), f"{labels_key} of {where}"
                )
            splits[split] = Split(images, labels)
        elif labels_key in renamed:
            raise DataError(
                f"{where} holds {labels_key} but no {images_key}: add the images or"
                " drop the labels"
            )
    shapes = {split: images.shape[1:] for split, (images, _) in splits.items()}
    if len(set(shapes.values())) > 1:
        raise DataError(f"{where} has splits of different image shapes: {shapes}")
    return Source(levels or _default_levels(splits), splits)


def _refuse_names(names: Sequence[str], where: str) -> None:
    """Refuses names of arrays that are not as `read_npz` says."""
    allowed = {"images", "labels", "levels"}
    allowed |= {f"{split}_{part}" for split in SPLITS for part in ("images", "labels")}
    for name in names:
        if name not in allowed:
            # Ignored, a misspelt 'test_images' would silently change the test set.
            raise DataError(
                f"{where} holds an unknown array {_line(name)!r}: allowed are"
                f" {_NPZ_FORMAT}"
            )
    renamed = {_full_name(name) for name in names}
    if "train_images" not in renamed or len(renamed) != len(names):
        raise DataError(
            f"{where} holds {_line(sorted(names))}: it must hold images for training"
            f" once, named {_NPZ_FORMAT}"
        )


def _full_name(name: str) -> str:
    """Returns the name of an array with its split."""
    return f"train_{name}" if name in ("images", "labels") else name


def _parse_levels(array: np.ndarray, where: str) -> int:
    if array.shape != () or array.dtype.kind not in "iu":
        raise DataError(
            f"levels of {where} is {array.dtype} {array.shape}: it must be one integer"
        )
    if not 2 <= int(array) <= MAX_LEVELS:
        raise DataError(
            f"levels of {where} is {int(array)}: allowed are 2 to {MAX_LEVELS};"
            " requantise the images"
        )
    return int(array)


def _parse_images(array: np.ndarray, levels: int, where: str) -> np.ndarray:
    """Returns uint8 [N, H, W, C] with the values of `array`, or refuses it."""
    if array.ndim not in (3, 4) or 0 in array.shape:
        raise DataError(
            f"{where} has shape {array.shape}: allowed are [N, H, W] and [N, H, W, C]"
            " with no size of 0"
        )
    images = array[..., np.newaxis] if array.ndim == 3 else array
    _refuse_channels(images.shape, where)
    if array.dtype.kind not in "biuf":
        raise DataError(f"{where} is {array.dtype}: convert it with .astype(np.uint8)")
    if array.dtype.kind == "f":
        if not np.isfinite(array).all():
            raise DataError(f"{where} holds NaN or infinity: remove those images")
        if (array != np.floor(array)).any():
            raise DataError(
                f"{where} is {array.dtype} with fractions, but pixels are integers in"
                f" 0..{levels - 1}: if 1.0 is white, convert it with"
                f" np.round({levels - 1} * images).astype(np.uint8)"
            )
    low, high = array.min(), array.max()
    if low < 0 or high > levels - 1:
        raise DataError(
            f"{where} has values in {low}..{high}: allowed are 0..{levels - 1};"
            " shift or requantise the images, or state levels"
        )
    return images.astype(np.uint8)


def _parse_labels(array: np.ndarray, count: int, where: str) -> np.ndarray:
    """Returns int32 [count] with the values of `array`, or refuses it."""
    if array.dtype.kind not in "iu" or array.ndim != 1:
        raise DataError(
            f"{where} is {array.dtype} of shape {array.shape}: labels are integers [N]"
        )
    if len(array) != count:
        raise DataError(
            f"{where} has {len(array)} labels for {count} images: give one label for"
            " each image, or none"
        )
    limits = np.iinfo(np.int32)
    if array.min() < limits.min or array.max() > limits.max:
        raise DataError(f"{where} has labels beyond 32 bits: number the classes from 0")
    return array.astype(np.int32)


# --- folders --------------------------------------------------------------------------

# Formats of pixels; not those that are programs, such as EPS.
_IMAGE_FORMATS = ("BMP", "GIF", "JPEG", "JPEG2000", "PNG", "PPM", "TGA", "TIFF", "WEBP")


def read_folder(path: str) -> Source:
    """Returns the user's own images from a folder of image files.

    The images lie in the folder itself, or in subfolders of it, one for each class;
    classes are numbered in the order of their names. They are all of one size and one
    mode: grey ('L'), colour ('RGB'), or black and white ('1', of 2 levels).

    Raises:
        DataError: if they are not like that.
    """
    from PIL import Image

    folder = expand_user(path)
    files = [folder / name for name in _image_names(path)]
    classes = [file.relative_to(folder).parts[0] for file in files]
    in_subfolder = [file.parent != folder for file in files]
    if any(in_subfolder) and not all(in_subfolder):
        loose = files[in_subfolder.index(False)].name
        raise DataError(
            f"{path} holds images beside subfolders of images ({loose!r}): move all of"
            " them into subfolders, one for each class"
        )
    # Taken for classes, these would mix the test images into the training images.
    clashes = (
        sorted(set(classes) & {*SPLITS, "valid", "val"}) if in_subfolder[0] else []
    )
    if clashes:
        raise DataError(
            f"{path} has a subfolder {clashes[0]!r}, but subfolders are classes, not"
            " splits: name one folder of classes, or write the splits to an npz file"
        )

    images = np.empty(0, np.uint8)
    kinds = []
    for index, file in enumerate(files):
        try:
            with Image.open(file, formats=_IMAGE_FORMATS) as image:
                kinds.append((image.size, image.mode))
                if image.mode not in ("L", "RGB", "1"):
                    raise DataError(
                        f"{file} has mode {image.mode!r}: convert it to grey or RGB"
                        " (Pillow's image.convert('L') or 'RGB')"
                    )
                if kinds[-1] != kinds[0]:
                    raise DataError(
                        f"{files[0]} is {_kind(kinds[0])} but {file} is"
                        f" {_kind(kinds[-1])}: bring all images to one size and mode"
                    )
                if index == 0:
                    shape = (len(files), *image.size[::-1], len(image.getbands()))
                    _refuse_too_large(math.prod(shape), path)
                    images = np.empty(shape, np.uint8)
                images[index] = np.asarray(image, np.uint8).reshape(images.shape[1:])
        except (DataError, MemoryError):
            raise
        except Exception as error:  # Damage comes as any exception.
            raise DataError(
                f"cannot read {file} ({_line(error)}): repair or remove it"
            ) from error
    labels = None
    if in_subfolder[0]:
        labels = np.unique(classes, return_inverse=True)[1].astype(np.int32)
    splits = {"train": Split(images, labels)}
    return Source(_default_levels(splits), splits)


def folder_identity(path: str) -> list[Any]:
    """Returns what the content of `read_folder` depends on.

    Reading photographs would take longer than reading a cache. But the time of the last
    change of a file cannot be set, unlike that of its content.
    """
    folder = expand_user(path).absolute()
    changes = []
    for name, found in _walk(folder):
        row: list[Any] = [name]
        if found is not None:
            row += [found.st_mode, found.st_ino, found.st_size]
            row += [found.st_mtime_ns, found.st_ctime_ns]
        changes.append(row)
    return ["folder", str(folder), _digest(changes)]


def _image_names(path: str) -> list[str]:
    """Returns the sorted names of the image files in a folder, relative to it."""
    from PIL import Image

    folder = expand_user(path)
    if not os.path.isdir(folder):
        raise DataError(f"no folder {path!r}: data.path must name a folder of images")
    known = Image.registered_extensions().items()
    suffixes = {suffix for suffix, kind in known if kind in _IMAGE_FORMATS}
    images = [
        file
        for file in _walk(folder)
        if pathlib.PurePath(file.name).suffix.lower() in suffixes
    ]
    if not images:
        raise DataError(f"{path} holds no images: add png, jpg or similar files")
    for file in images:
        if not file.is_regular:
            raise DataError(
                f"{folder / file.name} is named as an image, but is no regular file"
                " that is there: remove it"
            )
    return [file.name for file in images]


def _kind(kind: tuple[tuple[int, int], str]) -> str:
    (width, height), mode = kind
    return f"{width}x{height} {mode}"


# --- common ---------------------------------------------------------------------------


def unknown_name(name: str, known: list[str]) -> DataError:
    """Returns the error that says which data set `name` may have been meant."""
    # The data sets this project names come first, for a tie goes to the first.
    close = difflib.get_close_matches(
        name, KNOWN_NAMES, 1
    ) or difflib.get_close_matches(name, known, 1)
    hint = f"did you mean {close[0]!r}? " if close else ""
    return DataError(
        f"data.name {name!r} is an unknown data set: {hint}known are"
        f" {', '.join(KNOWN_NAMES)} and the image data sets of tensorflow-datasets"
    )


def _refuse_channels(shape: tuple[int, ...], where: str) -> None:
    """Refuses images that are neither grey nor in colour: they could not be drawn."""
    if shape[-1] not in (1, 3):
        raise DataError(
            f"{where} has shape {shape}: allowed are 1 or 3 channels, on the last axis"
            " (see np.moveaxis); leave opacity out, as in images[..., :3]"
        )


def _default_levels(splits: Mapping[str, Split]) -> int:
    """Returns 2 for images of zeros and ones, else 256."""
    highest = max(int(images.max()) for images, _ in splits.values())
    return 2 if highest <= 1 else MAX_LEVELS


def _refuse_too_large(num_bytes: int, where: str) -> None:
    """Refuses images that would fill the memory; cutting them takes as much again."""
    limit = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2
    if num_bytes > limit:
        raise DataError(
            f"{where} takes {num_bytes:,} bytes of memory, of at most {limit:,} (half"
            " of this machine's): use fewer or smaller images"
        )


class _File(NamedTuple):
    """What lies in a folder of data and is no folder.

    Attributes:
        name: relative to the folder.
        found: facts about it, or about what a link leads to; None if that is nothing.
    """

    name: str
    found: os.stat_result | None

    @property
    def is_regular(self) -> bool:
        """Whether it can be read without waiting, and to an end."""
        return self.found is not None and stat.S_ISREG(self.found.st_mode)


def _walk(folder: pathlib.Path, *, hidden: bool = False) -> list[_File]:
    """Returns all files below a folder, in the order of their names.

    Links are followed.

    Args:
        folder: the folder; one that is missing holds nothing.
        hidden: whether to list what is hidden, too.

    Raises:
        DataError: if links lead in a circle or to one folder twice, which could make
            endless or very many paths, or a folder cannot be read.
    """
    files = []
    seen: dict[tuple[int, int], pathlib.Path] = {}
    waiting = [""] if os.path.isdir(folder) else []
    while waiting:
        name = waiting.pop()
        path = folder / name
        try:
            found = os.stat(path)
            first = seen.setdefault((found.st_dev, found.st_ino), path)
            if first != path:
                link, other = (path, first) if path.is_symlink() else (first, path)
                raise DataError(
                    f"{link} is a link to {other}, which is read already: remove it"
                )
            with os.scandir(path) as entries:
                for entry in entries:
                    if entry.name.startswith(".") and not hidden:
                        continue
                    inner = f"{name}/{entry.name}" if name else entry.name
                    facts = _facts(entry)
                    if facts is not None and stat.S_ISDIR(facts.st_mode):
                        waiting.append(inner)
                    else:
                        files.append(_File(inner, facts))
        except FileNotFoundError:  # Another process has removed or renamed it.
            continue
        except OSError as error:
            raise DataError(
                f"cannot read {path} ({error.strerror}): permit reading it, or remove"
                " it"
            ) from error
    return sorted(files, key=lambda file: file.name.split("/"))


def _facts(entry: os.DirEntry[str]) -> os.stat_result | None:
    """Returns facts about an entry of a folder, or about what a link leads to."""
    try:
        return entry.stat()
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        if error.errno != errno.ELOOP:
            raise
        raise DataError(
            f"{entry.path} is a link that leads in a circle: remove it"
        ) from error


def _digest(value: Any) -> str:
    """Returns the SHA-256 of a JSON value."""
    return hashlib.sha256(json.dumps(value).encode()).hexdigest()


def _line(value: object) -> str:
    """Returns the text of a value on one short line."""
    text = " ".join(str(value).split())
    return text if len(text) <= 160 else text[:160] + "..."
