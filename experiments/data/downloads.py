"""Downloads published data sets, and writes them for tensorflow-datasets.

The published files are downloaded, or taken from a folder if there is no network, and
compared with their published digests. The builder of tensorflow-datasets writes the
records; only its reading of the published files is replaced, because it needs
TensorFlow. So the records and their order are those that tensorflow-datasets writes.
"""

import gzip
import hashlib
import io
import pathlib
import tempfile
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
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
    """The published form of a data set.

    Attributes:
        url: folder of the files.
        read: turns the content of a file into an array.
        splits: the files of each split: images, and labels if there are any.
        digests: sha256 of each file, in the order of the splits.
    """

    url: str
    read: Callable[[bytes], np.ndarray]
    splits: Mapping[str, tuple[str, ...]]
    digests: Sequence[str]

    @property
    def files(self) -> list[str]:
        """The names of all files, in the order of the splits."""
        return [file for files in self.splits.values() for file in files]


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


_IDX_SPLITS = {
    "train": ("train-images-idx3-ubyte.gz", "train-labels-idx1-ubyte.gz"),
    "test": ("t10k-images-idx3-ubyte.gz", "t10k-labels-idx1-ubyte.gz"),
}
_AMAT_SPLITS = {
    "train": ("binarized_mnist_train.amat",),
    "validation": ("binarized_mnist_valid.amat",),
    "test": ("binarized_mnist_test.amat",),
}


# Addresses and digests are those registered in tensorflow-datasets.
PUBLISHED = {
    "mnist": Published(
        "https://storage.googleapis.com/cvdf-datasets/mnist/",
        read_idx,
        _IDX_SPLITS,
        (
            "440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609",
            "3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c",
            "8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6",
            "f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6",
        ),
    ),
    "fashion_mnist": Published(
        "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",
        read_idx,
        _IDX_SPLITS,
        (
            "3aede38d61863908ad78613f6a32ed271626dd12800ba2636569512369268a84",
            "a04f17134ac03560a47e3764e11b92fc97de4d1bfaf8ba1a3aa29af54cc90845",
            "346e55b948d973a97e58d2351dde16a484bd415d4595297633bb08f03db6a073",
            "67da17c76eaffca5446c3361aaab5c3cd6d1c2608764d35dfb1850b086bf8dd5",
        ),
    ),
    "binarized_mnist": Published(
        "http://www.cs.toronto.edu/~larocheh/public/datasets/binarized_mnist/",
        read_amat,
        _AMAT_SPLITS,
        (
            "ad693b29f94c14277b095f5238ddefbbdaaae0939789dd2f4f0205278cee3e4d",
            "1de3d397c40fe8eeb33dafd4099a1f665ec01e96d9be234aaeeac8a34930e2e2",
            "e6687bfea3f820c174f33b7865140b2a2dd2930ef786f35d45795fc193b5ab2c",
        ),
    ),
}


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
    if name not in PUBLISHED:
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
            splits = _read_published(PUBLISHED[name], source)
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
    splits: Mapping[str, tuple[np.ndarray, ...]],
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
    published: Published, source: str
) -> dict[str, tuple[np.ndarray, ...]]:
    """Returns the arrays of each split, from files that were compared with digests."""
    # All files are fetched before one is unpacked, so a missing one shows at once.
    contents = {
        file: _fetch(file, digest, published, source)
        for file, digest in zip(published.files, published.digests, strict=True)
    }
    return {
        split: tuple(published.read(contents[file]) for file in files)
        for split, files in published.splits.items()
    }


def _fetch(file: str, digest: str, published: Published, source: str) -> bytes:
    """Returns the content of a published file, from a folder or from the network."""
    files = ", ".join(published.files)
    if source:
        where = str(expand_user(source) / file)
        with refusing(f"cannot read {where}", f"Set --source to a folder with {files}"):
            content = read_bytes(pathlib.Path(where), _MOST_BYTES)
    else:
        where = published.url + file
        remedy = f"Get {files} by other means and name their folder by --source=FOLDER"
        with (
            refusing(f"cannot download {where}", remedy),
            urllib.request.urlopen(where, timeout=_TIMEOUT) as response,
        ):
            content = response.read(_MOST_BYTES)
    if hashlib.sha256(content).hexdigest() != digest:
        raise DataError(
            f"{where} is not the published file: its sha256 is not {digest}. Get it"
            " again."
        )
    return content
