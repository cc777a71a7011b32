"""Which images a run uses."""

import dataclasses
import re
from typing import Annotated

from experiments.data.names import unknown_data_set
from experiments.messages.errors import DataError
from vae_jax.checks import Count, Range, require_fields

_NAME = r"[a-z][a-z0-9_]*(/\w[\w.\-]*)?(:[\d.*]+)?"
_Seed = Annotated[int, Range(at_least=0)]
_Count = Annotated[int, Range(at_least=1, other=-1)]


@dataclasses.dataclass(frozen=True)
class DataSettings:
    """Which images to use, and how to cut and binarize them.

    Attributes:
        name: 'digits', 'npz', 'folder', or a data set of tensorflow-datasets as
            'name[/config][:version]', such as 'mnist', 'fashion_mnist',
            'binarized_mnist'.
        path: the npz file or the folder of your own images.
        black: the value in the files that is black.
        white: the value in the files that is white; if black and white are both 0,
            files hold levels as they are.
        background: 'black' or 'white' lies behind pixels that are not opaque; '' if
            all pixels are opaque.
        data_dir: folder of prepared tensorflow-datasets; '' stands for $TFDS_DATA_DIR,
            else ~/tensorflow_datasets.
        download: whether to download and prepare MNIST, Fashion-MNIST or binarized
            MNIST if they are missing.
        binarization: 'static' turns grey images into black and white ones once, by one
            Bernoulli draw per pixel with mean k / (levels - 1); 'dynamic' leaves the
            integers, for a new draw at each access.
        binarization_seed: selects the draws of static binarization.
        split_seed: selects the images of splits that the data set does not define.
        num_validation: number of validation images; -1 for the standard number.
        num_test: number of test images, for data sets without a test split; -1 for the
            standard number.
        num_train: number of training images, the first ones; -1 for all.
        labelled_per_class: number of training images of each class whose label a model
            with ``model.condition_on`` knows; -1: it knows all. ``split_seed`` selects
            them.
        labelled_repeats: how often an epoch has each of these images. With few, more
            repeats give each batch some.
        cache_dir: folder for decoded images; '' stands for $VAE_JAX_CACHE, else
            ~/.cache/vae_jax.
        stream: whether training images stay on the host and are copied to the devices
            in pieces, for more images than a device holds.
        stream_megabytes: memory of a device that these pieces may take.

    Raises:
        DataError: a value is not allowed.
    """

    name: str
    path: str = ""
    black: Annotated[float, Range()] = 0.0
    white: Annotated[float, Range()] = 0.0
    background: Annotated[str, ("black", "white", "")] = ""
    data_dir: str = ""
    download: bool = False
    binarization: Annotated[str, ("dynamic", "static")] = "dynamic"
    binarization_seed: _Seed = 0
    split_seed: _Seed = 0
    num_validation: _Count = -1
    num_test: _Count = -1
    num_train: _Count = -1
    labelled_per_class: _Count = -1
    labelled_repeats: Count = 1
    cache_dir: str = ""
    stream: bool = False
    stream_megabytes: Annotated[float, Range(above=0)] = 256.0

    def __post_init__(self) -> None:
        if not re.fullmatch(_NAME, self.name):
            small = self.name.lower()
            known = [small] if re.fullmatch(_NAME, small) else []
            raise unknown_data_set(self.name, known)
        try:
            require_fields(self)
        except ValueError as error:
            raise DataError(f"data.{error}") from error
        if self.black == self.white != 0:
            remedy = "Give two values, or 0 for both if files hold levels as they are"
            raise self.refusal("black", "data.white is the same", remedy)
        for field in ("black", "white", "background"):
            if self.name == "digits" and getattr(self, field):
                why = "it has no meaning for 'digits', whose values are known"
                raise self.refusal(field, why, "Leave it out")
        if self.labelled_repeats > 1 and self.labelled_per_class == -1:
            why = "all images have their label, as data.labelled_per_class is -1"
            remedy = "Set it to 1, or data.labelled_per_class to fewer, as in 10"
            raise self.refusal("labelled_repeats", why, remedy)
        is_own = self.name in ("npz", "folder")
        if is_own and not self.path:
            remedy = f"Set it to the {self.name} that holds your images"
            raise self.refusal("path", f"{self.name!r} needs data.path", remedy)
        if self.path and not is_own:
            remedy = "Leave it out, or set data.name to 'npz' or 'folder'"
            raise self.refusal("path", f"it has no meaning for {self.name!r}", remedy)

    def refusal(self, field: str, why: str, remedy: str) -> DataError:
        """Returns the refusal of a field's value; see ``CommandError.of``."""
        return DataError.of(f"data.{field}", getattr(self, field), why, remedy)

    @property
    def states_a_range(self) -> bool:
        """Whether black and white are given."""
        return self.black != self.white
