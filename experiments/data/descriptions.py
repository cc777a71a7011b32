"""Checks that a prepared data set asks for nothing but images in its own folder.

The JSON files of a prepared data set describe its features, and tensorflow-datasets
imports the classes and opens the files that they name. The data set may be a
stranger's, so names of other classes, files or places are refused.
"""

import contextlib
import pathlib
import re
from collections.abc import Iterator, Mapping
from typing import Any

from experiments.data.names import PREPARABLE
from experiments.files.paths import File, walk
from experiments.files.reading import (
    MOST_BYTES,
    parse_json,
    read_object,
    refuse_too_large,
    refusing,
)
from experiments.messages.errors import DataError, one_line

# The features of images and labels.
_FEATURES = (
    r"tensorflow_datasets\.core\.features\.("
    r"class_label_feature\.ClassLabel|feature\.Tensor|features_dict\.FeaturesDict|"
    r"image_feature\.Image|scalar\.Scalar|tensor_feature\.Tensor|text_feature\.Text)"
)
# Keys that name something elsewhere: what they name, and the pattern of allowed names.
_OF_FEATURES = {
    **dict.fromkeys(
        ("pythonClassName", "python_class_name", "type"),
        ("the feature class", _FEATURES),
    ),
    "names_file": ("the file of labels", r"(?!)"),  # This pattern allows no name.
}
_OF_SPLITS = dict.fromkeys(
    ("filepathTemplate", "filepath_template"),
    # A width in a field of a template would ask for a text of that size.
    ("the files", r"(\{[A-Z_]+\}|[\w.-])*"),
)
_OF_METADATA = {"default_config_name": ("the config", r"\w[\w.+-]*")}

# The files of a description, and the keys of their parts; '' is the whole file.
_FILES = {
    "features.json": {"": _OF_FEATURES},
    "dataset_info.json": {"features": _OF_FEATURES, "splits": _OF_SPLITS},
    "metadata.json": {"": _OF_METADATA},
}


def check(root: pathlib.Path, command: str) -> None:
    """Refuses a prepared data set whose descriptions ask for more than its own images.

    All configs and versions of the data set are checked, because only
    tensorflow-datasets knows which of them it will open.

    Args:
        root: the folder of all versions of the data set.
        command: the command that prepares the data set.

    Raises:
        DataError: naming the file and the name in it.
    """
    for file in regular_files(root):
        path = root / file.name
        if path.name not in _FILES:
            continue
        found: list[str] = []
        with (
            refusing(
                f"cannot read {path}", f"Delete the damaged files and run {command}"
            ),
            # Another process may have just given it its final name.
            contextlib.suppress(FileNotFoundError),
        ):
            whole = read_object(path)
            for key, allowed in _FILES[path.name].items():
                found += _elsewhere(whole.get(key) if key else whole, allowed)
        if found:
            remedy = "Save its images in an npz file and set data.name to 'npz'"
            if root.name in PREPARABLE:
                remedy = f"Delete {root} and run {command}"
            raise DataError(
                f"{path} names {one_line(found[0])}: it is neither run nor read,"
                f" because it may be a stranger's. {remedy}."
            )


def regular_files(root: pathlib.Path) -> list[File]:
    """Returns the files of a prepared data set.

    Raises:
        DataError: one of them is no regular file, or is larger than it can be.
    """
    files = walk(root, hidden=True)
    for file in files:
        path = root / file.name
        if file.found is None or not file.is_regular:
            raise DataError(
                f"{path} is no regular file, as those of a prepared data set are."
                " Remove it."
            )
        size = file.found.st_size
        if path.suffix in (".json", ".txt") and size > MOST_BYTES:
            raise DataError(
                f"{path} has {size:,} bytes: a description of a data set has at most"
                f" {MOST_BYTES:,}. Remove it."
            )
        refuse_too_large(size, str(path))
    return files


def _elsewhere(part: Any, allowed: Mapping[str, tuple[str, str]]) -> Iterator[str]:
    """Yields the names in a part of a description that are not allowed."""
    waiting = [part]
    while waiting:
        value = waiting.pop()
        if isinstance(value, list):
            waiting += value
        elif isinstance(value, dict):
            for key, item in value.items():
                if isinstance(item, str) and key in allowed:
                    what, pattern = allowed[key]
                    if not re.fullmatch(pattern, item):
                        yield f"{what} {item!r}"
                elif isinstance(item, str) and key in ("json", "content"):
                    item = parse_json(item)
                waiting.append(item)
