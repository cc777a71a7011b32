"""Reads data sets that tensorflow-datasets has prepared, without TensorFlow.

tensorflow-datasets is an optional dependency, which is imported only here and only if
images are read from its files: a second start reads the cache. ``descriptions`` checks
first that a prepared folder asks for nothing but its own images.
"""

import contextlib
import hashlib
import importlib.metadata
import io
import math
import os
import pathlib
import shlex
from collections.abc import Iterator
from typing import Any

import numpy as np
from absl import logging

from experiments.data import descriptions
from experiments.data.axes import with_channels
from experiments.data.names import PREPARABLE, SPLITS, unknown_data_set
from experiments.data.settings import DataSettings
from experiments.data.sources import Source, Split, make_source
from experiments.files.digests import json_digest
from experiments.files.paths import expand_user, walk
from experiments.files.reading import refuse_too_large, refusing
from experiments.messages.errors import DataError, one_line
from experiments.messages.wording import listed

_CHUNK = 1000  # Records that are read together.

# The first bytes of BMP, GIF, JPEG and PNG files. For some other formats, such as EPS,
# Pillow may start another program.
_PIXELS = (b"BM", b"GIF8", b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n")


def read(settings: DataSettings) -> Source:
    """Returns the images of a prepared data set.

    Raises:
        DataError: the data set is unknown, not prepared or damaged, or its images are
            not of 8 bits and one shape.
    """
    name = settings.name
    tfds = import_tfds()
    folder = prepared_folder(settings.data_dir)
    command = preparation_command(name, folder)
    builder, is_prepared = open_builder(tfds, name, folder)
    if not is_prepared:
        raise DataError(f"{name} is not prepared in {folder}. Run {command}.")

    features, found = builder.info.features, builder.info.splits
    is_dict = isinstance(features, tfds.features.FeaturesDict)
    kinds: Any = dict(features) if is_dict else {}
    image, label = kinds.get("image"), kinds.get("label")
    if not isinstance(image, tfds.features.Image) or image.np_dtype != np.uint8:
        raise DataError(
            f"{name} has no 8-bit feature 'image' (its features: {one_line(features)})."
            " Choose an image data set."
        )
    if "train" not in found:
        raise DataError(
            f"{name} has no split 'train', but {', '.join(found)}. Choose a data set"
            " with one."
        )
    has_labels = isinstance(label, tfds.features.ClassLabel)
    root = _root(name, folder)
    files = {root / file.name for file in descriptions.regular_files(root)}
    splits = {}
    damaged, remedy = f"cannot read {builder.data_path}", f"Delete it and run {command}"
    for split in filter(found.__contains__, SPLITS):
        with refusing(damaged, remedy), quiet():
            for shard in found[split].filepaths:
                # A description can name any path, such as that of a device.
                if pathlib.Path(shard) not in files:
                    raise ValueError(f"there is no file {shard.name} in it")
            records = builder.as_data_source(
                split,
                decoders={"image": _decoder(tfds, name)},
                # The library's readers of other formats could run code.
                file_format="array_record",
            )
            splits[split] = _decode_records(records, name, has_labels)
    names = {split: f"the {split} split of {name}" for split in splits}
    notes = []
    if others := [repr(split) for split in found if split not in SPLITS]:
        notes.append(f"{name} has splits that are not used: {listed(others, ', ')}.")
    class_names = label.names if has_labels else ()
    return make_source(splits, names, settings, class_names, notes=notes)


def identity(settings: DataSettings) -> list[Any]:
    """Returns what the content of ``read`` depends on.

    It covers all versions of the data set: only tensorflow-datasets knows which of them
    the name stands for, and importing it takes longer than reading the cache.
    """
    name, folder = settings.name, prepared_folder(settings.data_dir)
    root = _root(name, folder)
    try:
        version = importlib.metadata.version("tensorflow-datasets")
    except importlib.metadata.PackageNotFoundError:
        version = ""
    again = preparation_command(name, folder)
    remedy = f"Permit reading it, or prepare it again: {again}"
    contents = []
    for file in descriptions.regular_files(root):
        path = root / file.name
        with (
            refusing(f"cannot read {path}", remedy),
            # Another process may have just given it its final name.
            contextlib.suppress(FileNotFoundError),
            open(path, "rb") as content,
        ):
            digest = hashlib.file_digest(content, "sha256").hexdigest()
            contents.append([file.name, digest])
    return ["tfds", name, str(root), version, json_digest(contents)]


def is_on_disk(name: str, data_dir: str) -> bool:
    """Returns whether some version of a data set is prepared."""
    files = walk(_root(name, prepared_folder(data_dir)), hidden=True)
    return any(file.name.endswith("/dataset_info.json") for file in files)


def import_tfds() -> Any:
    """Returns the module ``tensorflow_datasets``, without its progress bars.

    Raises:
        DataError: it, or the reader of its files, is not installed.
    """
    try:
        with quiet():
            # Imported to find out whether it is installed: tfds would print a banner.
            import array_record  # noqa: F401
            import tensorflow_datasets
    except ImportError as error:
        raise DataError(
            f'this data set needs {error.name}. Run pip install "vae_jax[tfds]".'
        ) from error
    tensorflow_datasets.disable_progress_bar()
    return tensorflow_datasets


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Hides logs that are no errors, and announcements, of tensorflow-datasets."""
    verbosity = logging.get_verbosity()
    logging.set_verbosity(logging.ERROR)
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        logging.set_verbosity(verbosity)


def prepared_folder(data_dir: str) -> pathlib.Path:
    """Returns the folder of prepared data sets.

    Args:
        data_dir: a folder; '' stands for $TFDS_DATA_DIR, else ~/tensorflow_datasets.
    """
    default = os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets"
    return expand_user(data_dir or default).absolute()


def preparation_command(name: str, folder: pathlib.Path) -> str:
    """Returns the shell command that writes a data set into a folder."""
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


def open_builder(tfds: Any, name: str, folder: pathlib.Path) -> tuple[Any, bool]:
    """Returns the builder of a data set, and whether the data set is prepared.

    Args:
        tfds: the package.
        name: 'name[/config][:version]'.
        folder: the folder of prepared data sets.

    Raises:
        DataError: the data set is unknown, or its prepared files are damaged or would
            run code.
    """
    command = preparation_command(name, folder)
    descriptions.check(_root(name, folder), command)
    try:
        with quiet():
            builder = tfds.builder(name, data_dir=folder)
            return builder, builder.is_prepared()
    except tfds.core.DatasetNotFoundError:
        known = tfds.list_builders(with_community_datasets=False)
        raise unknown_data_set(name, known) from None  # Its message has 300 lines.
    except Exception as error:
        # An unknown version or config, or damage, which raises errors of any class. The
        # reason comes after a list of arguments.
        reason = one_line(str(error).split('}": ')[-1]).rstrip(".")
        raise DataError(
            f"cannot open {name!r} in {folder}: {reason}. Correct the name, or delete"
            f" the damaged files and run {command}."
        ) from error


def _root(name: str, folder: pathlib.Path) -> pathlib.Path:
    """Returns the folder of all versions of a data set, or of all its configs."""
    return folder / name.split(":")[0]


def _decoder(tfds: Any, where: str) -> Any:
    """Returns the decoder of tensorflow-datasets, for images of known formats only."""

    @tfds.decode.make_decoder()
    def decode(content: bytes, feature: Any) -> np.ndarray:
        if not content.startswith(_PIXELS):
            raise DataError(
                f"{where} has an image that is no PNG, JPEG, GIF or BMP file. Choose"
                " another data set."
            )
        return feature.decode_example_np(content)

    return decode()


def _decode_records(records: Any, where: str, has_labels: bool) -> Split:
    """Returns the images of one split of a tensorflow-datasets data source."""
    if not len(records):
        raise DataError(f"{where} is empty. Choose another data set.")
    first = records[0]["image"].shape
    with_channels(np.empty((1, *first), np.uint8), where)
    refuse_too_large(len(records) * math.prod(first), where)
    images = np.empty((len(records), *first), np.uint8)
    labels = np.empty(len(records), np.int32) if has_labels else None
    for start in range(0, len(records), _CHUNK):
        indices = list(range(start, min(start + _CHUNK, len(records))))
        for index, record in zip(indices, records.__getitems__(indices), strict=True):
            if record["image"].shape != first:
                raise DataError(
                    f"{where} has images of {first} and {record['image'].shape}. Choose"
                    " a data set with images of one shape."
                )
            images[index] = record["image"]
            if labels is not None:
                labels[index] = record["label"]
    return Split(images, labels)
