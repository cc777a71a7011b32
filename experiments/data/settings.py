"""Which images a run uses."""

import dataclasses
import re

from experiments.data import sources
from experiments.data.values import BACKGROUNDS, Meaning
from experiments.messages.errors import DataError

_NAME = r"[a-z][a-z0-9_]*(/\w[\w.\-]*)?(:[\d.*]+)?"
_BINARIZATIONS = ("dynamic", "static")


@dataclasses.dataclass(frozen=True)
class DataSettings:
    """Which images to use, and how to cut and binarize them.

    Attributes:
        name: 'digits', 'npz', 'folder', or a data set of tensorflow-datasets as
            'name[/config][:version]', such as 'mnist', 'fashion_mnist',
            'binarized_mnist'.
        path: the npz file or the folder of the user's own images.
        black: the value in the files that is black.
        white: the value in the files that is white; where black and white are both 0,
            files hold levels as they are.
        background: 'black' or 'white' lies behind what is not opaque; '' where all is.
        data_dir: folder of prepared tensorflow-datasets; '' stands for $TFDS_DATA_DIR,
            else ~/tensorflow_datasets.
        download: whether to fetch and prepare MNIST, Fashion-MNIST or binarized MNIST
            if they are not there.
        binarization: 'static' turns grey images into black and white ones once, by one
            Bernoulli draw per pixel with mean k / (levels - 1); 'dynamic' leaves the
            integers, for a fresh draw at each access.
        binarization_seed: selects the draws of static binarization.
        split_seed: selects the images of splits that the data set does not define.
        num_validation: number of validation images; -1 for the standard number.
        num_test: number of test images, for data sets without a test split; -1 for the
            standard number.
        num_train: use only the first so many training images; -1 for all.
        cache_dir: folder for decoded images; '' stands for $VAE_JAX_CACHE, else
            ~/.cache/vae_jax.
        stream: whether training images stay on the host and come to the devices in
            pieces, for more of them than a device holds.
        stream_megabytes: memory of a device that these pieces may take.

    Raises:
        DataError: if a value is not allowed.
    """

    name: str
    path: str = ""
    black: float = 0.0
    white: float = 0.0
    background: str = ""
    data_dir: str = ""
    download: bool = False
    binarization: str = "dynamic"
    binarization_seed: int = 0
    split_seed: int = 0
    num_validation: int = -1
    num_test: int = -1
    num_train: int = -1
    cache_dir: str = ""
    stream: bool = False
    stream_megabytes: float = 256.0

    def __post_init__(self) -> None:
        if not re.fullmatch(_NAME, self.name):
            small = self.name.lower()
            known = [small] if re.fullmatch(_NAME, small) else []
            raise sources.unknown_name(self.name, known)
        if self.binarization not in _BINARIZATIONS:
            raise DataError(
                f"unknown data.binarization {self.binarization!r}: allowed are"
                f" {' and '.join(map(repr, _BINARIZATIONS))}"
            )
        for field in ("binarization_seed", "split_seed"):
            if getattr(self, field) < 0:
                raise DataError(
                    f"data.{field} is {getattr(self, field)}: use 0 or more"
                )
        for field in ("num_validation", "num_test", "num_train"):
            if getattr(self, field) < 1 and getattr(self, field) != -1:
                raise DataError(
                    f"data.{field} is {getattr(self, field)}: use a number of images of"
                    " 1 or more, or -1 for the standard choice"
                )
        if self.background not in BACKGROUNDS:
            raise DataError(
                f"unknown data.background {self.background!r}: allowed are 'black',"
                " 'white' and '', for images that are opaque"
            )
        if self.black == self.white != 0:
            raise DataError(
                f"data.black and data.white are both {self.white}: give two values, or"
                " 0 for both, if files hold levels as they are"
            )
        if self.name == "digits" and self.meaning != Meaning():
            raise DataError(
                "data.black, data.white and data.background have no meaning for"
                " 'digits', whose values are known: leave them out"
            )
        if self.stream_megabytes <= 0:
            raise DataError(
                f"data.stream_megabytes is {self.stream_megabytes}: it must be above 0"
            )
        if self.name in ("npz", "folder") and not self.path:
            raise DataError(
                f"data.name={self.name!r} needs data.path: the {self.name} that holds"
                " your images"
            )
        if self.name not in ("npz", "folder") and self.path:
            raise DataError(
                f"data.path={self.path!r} has no meaning for {self.name!r}: drop it, or"
                " set data.name to 'npz' or 'folder'"
            )

    @property
    def meaning(self) -> Meaning:
        """What is said of the values in the files."""
        return Meaning(self.black, self.white, self.background)
