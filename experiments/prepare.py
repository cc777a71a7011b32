r"""Writes MNIST data sets in the format of tensorflow-datasets, without TensorFlow.

    python -m experiments.prepare mnist
    python -m experiments.prepare fashion_mnist --data_dir=DIR --source=FOLDER

They are mnist, fashion_mnist and binarized_mnist; --data_dir is $TFDS_DATA_DIR unless
given, else ~/tensorflow_datasets.

The published files are downloaded, or taken from --source where there is no network,
and compared with their published digests. They are written by the builder of
tensorflow-datasets itself; only its reading of the published files, which would need
TensorFlow, is replaced. So the records, and their order, are those that
tensorflow-datasets writes, and results do not depend on who prepared the data.
"""

from experiments import guard  # noqa: F401  It listens while the rest is imported.

# isort: split

from absl import flags

from experiments import command_line
from experiments.messages.errors import DataError

_DATA_DIR = flags.DEFINE_string(
    "data_dir", "", "Where to write; default: $TFDS_DATA_DIR."
)
_SOURCE = flags.DEFINE_string(
    "source", "", "Folder with the published files; no download."
)


def main(names: list[str]) -> None:
    """Prepares the data set that the command line names."""
    from experiments.data.downloads import prepare
    from experiments.data.names import PREPARABLE

    if len(names) != 1:
        raise DataError(
            f"{' '.join(names) or 'no data set'} is named. Name one of"
            f" {', '.join(PREPARABLE)}, as in `python -m experiments.prepare mnist`."
        )
    folder = prepare(names[0], _DATA_DIR.value, _SOURCE.value)
    print(f"{names[0]} is in {folder}")


if __name__ == "__main__":
    command_line.run(main, positional=True)
