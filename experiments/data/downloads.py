"""Downloads published data sets, and writes them for tensorflow-datasets.

The published files are downloaded, or taken from a folder if there is no network, and
compared with their published digests. The builder of tensorflow-datasets writes the
records; only its reading of the published files is replaced, because it needs
TensorFlow. So the records and their order are those that tensorflow-datasets writes.
"""

import csv
import gzip
import hashlib
import io
import pathlib
import tempfile
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from experiments.data.names import PREPARABLE, meant_data_set
from experiments.data.tfds import import_tfds, open_builder, prepared_folder, quiet
from experiments.files.paths import expand_user
from experiments.files.reading import read_bytes, refusing
from experiments.messages.errors import DataError

_TIMEOUT = 30  # Seconds without an answer after which a download fails.
_MOST_BYTES = 2**28  # The published files are smaller.


class Published(NamedTuple):
    """A published file: the images of a split, or its labels, which come after them."""

    data_set: str
    split: str
    url: str
    sha256: str

    @property
    def name(self) -> str:
        """The name of the file."""
        return self.url.rpartition("/")[2]


# Addresses and digests are those registered in tensorflow-datasets.
_TABLE = pathlib.Path(__file__).with_name("published.csv").read_text().splitlines()
PUBLISHED = [Published(**row) for row in csv.DictReader(_TABLE)]


def read_idx(content: bytes) -> np.ndarray:
    """Returns the uint8 array in a gzipped idx file.

    The header holds two zeros, a type (8: uint8), the number of axes, and their sizes
    as big-endian 32-bit integers.
    """
    data = gzip.decompress(content)
    num_axes = data[3]
    shape = np.frombuffer(data, ">u4", num_axes, offset=4)
    return np.frombuffer(data, np.uint8, offset=4 + 4 * num_axes).reshape(shape)


def read_amat(content: bytes) -> np.ndarray:
    """Returns uint8 [N, 28, 28] from text with one image of zeros and ones per line."""
    return np.loadtxt(io.BytesIO(content), dtype=np.uint8, ndmin=2).reshape(-1, 28, 28)


def prepare(name: str, data_dir: str = "", source: str = "") -> pathlib.Path:
    """Writes a data set if it is missing, and returns its folder.

    Args:
        name: one of ``PREPARABLE``.
        data_dir: the folder of prepared data sets; '' stands for $TFDS_DATA_DIR, else
            ~/tensorflow_datasets.
        source: folder of the published files; '' to download them.

    Raises:
        DataError: the data set cannot be prepared here, or its files are missing or
            are not the published ones.
    """
    if name not in PREPARABLE:
        raise DataError(
            f"cannot prepare {name!r} without TensorFlow (only {', '.join(PREPARABLE)})"
            f"{meant_data_set(name, PREPARABLE)}. For another data set, run `tfds build"
            f" {name} --file_format=array_record` where TensorFlow is installed."
        )
    tfds = import_tfds()
    folder = prepared_folder(data_dir)
    builder, is_prepared = open_builder(tfds, name, folder)
    with quiet():
        if not is_prepared:
            files = [file for file in PUBLISHED if file.data_set == name]
            splits = _read_published(files, source)
            try:
                _write(tfds, name, folder, splits)
            except OSError as error:
                # Another process may have written the same data set first.
                if not builder.is_prepared():
                    raise DataError(
                        f"cannot write {builder.data_path}: {error}. Choose another"
                        " data_dir."
                    ) from error
    return pathlib.Path(builder.data_path)


def _write(
    tfds: Any,
    dataset: str,
    folder: pathlib.Path,
    splits: Mapping[str, Sequence[np.ndarray]],
) -> None:
    """Writes a data set with the builder of tensorflow-datasets.

    The replaced methods of the builder would need TensorFlow to unpack archives, to
    open files and to encode arrays as PNG.

    Args:
        tfds: the module ``tensorflow_datasets``.
        dataset: name of the data set.
        folder: the folder of prepared data sets.
        splits: images of each split, and labels if there are any.
    """
    from PIL import Image

    base: Any = tfds.builder_cls(dataset)

    class LocalBuilder(base, skip_registration=True):  # type: ignore[call-arg]
        name = dataset
        # tfds downloads nothing here. Its look-up of digests would import
        # importlib_resources, a dependency that it does not declare.
        url_infos = None

        def _split_generators(self, dl_manager: Any) -> dict[str, Iterator[Any]]:
            del dl_manager
            return {
                split: self._generate_examples(*arrays)
                for split, arrays in splits.items()
            }

        def _generate_examples(
            self, images: np.ndarray, labels: np.ndarray | None = None
        ) -> Iterator[tuple[int, dict[str, Any]]]:
            for index, image in enumerate(images):
                example: dict[str, Any] = {"image": Image.fromarray(image)}
                if labels is not None:
                    example["label"] = int(labels[index])
                # tfds orders records by a hash of this key, and takes the index too.
                yield index, example

    builder = LocalBuilder(data_dir=folder, file_format="array_record")
    # The builder makes a folder for downloads, although there are none.
    with tempfile.TemporaryDirectory() as unused:
        builder.download_and_prepare(download_dir=unused)


def _read_published(
    files: Sequence[Published], source: str
) -> dict[str, list[np.ndarray]]:
    """Returns the arrays of each split, from files that were compared with digests."""
    # All files are fetched before one is unpacked, so a missing one shows at once.
    contents = [_fetch(file, files, source) for file in files]
    splits: dict[str, list[np.ndarray]] = {}
    for file, content in zip(files, contents, strict=True):
        read = read_amat if file.name.endswith(".amat") else read_idx
        splits.setdefault(file.split, []).append(read(content))
    return splits


def _fetch(file: Published, files: Sequence[Published], source: str) -> bytes:
    """Returns the content of one of some files, from a folder or from the network."""
    names = ", ".join(each.name for each in files)
    if source:
        where = str(expand_user(source) / file.name)
        with refusing(f"cannot read {where}", f"Set --source to a folder with {names}"):
            content = read_bytes(pathlib.Path(where), _MOST_BYTES)
    else:
        where = file.url
        remedy = f"Get {names} by other means and name their folder by --source=FOLDER"
        with (
            refusing(f"cannot download {where}", remedy),
            urllib.request.urlopen(where, timeout=_TIMEOUT) as response,
        ):
            content = response.read(_MOST_BYTES)
    if hashlib.sha256(content).hexdigest() != file.sha256:
        raise DataError(
            f"{where} is not the published file: its sha256 is not {file.sha256}. Get"
            " it again."
        )
    return content
