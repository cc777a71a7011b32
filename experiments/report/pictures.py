"""Pictures of one model: what it reconstructs, generates and lays out in latents.

Training stores them as arrays, with what is known of each test image; they are drawn
from there, and drawn again where a file is missing, damaged or of another run.
"""

import io
import warnings
import zlib
from collections.abc import Callable, Collection, Mapping
from pathlib import Path

import numpy as np
from PIL import Image

from experiments.evaluation.stored_arrays import CLASS_NAMES, MANIFOLD_SIDE, SHOWN
from experiments.files.reading import parse_json, read_bytes
from experiments.files.writing import write_atomically
from experiments.report.charts import latent_scatter
from experiments.report.grids import image_grid, reconstruction_grid

_COLUMNS = 8
_MOST_IN_A_GRID = max(SHOWN, MANIFOLD_SIDE**2)
# Pictures of every run, and those of a run with two latents.
_GRIDS = ("reconstructions", "prior_means", "samples")
_OF_A_PLANE = ("manifold", "latents")


def ensure(
    folder: Path,
    latent_dim: int,
    fingerprint: str,
    load: Callable[[], Mapping[str, np.ndarray]],
) -> None:
    """Writes those of a run's pictures that are not there as they should be.

    Args:
        folder: where to, one folder per run.
        latent_dim: of the run, which says what pictures it has.
        fingerprint: of the run, which its pictures carry.
        load: returns the arrays that ``to_store`` made; called if one is needed.

    Raises:
        FolderError: the arrays cannot be loaded, or a picture not be written.
    """
    wanted = _GRIDS + (_OF_A_PLANE if latent_dim == 2 else ())
    missing = [
        name for name in wanted if not is_good(folder / f"{name}.png", fingerprint)
    ]
    if missing:
        for name, content in _drawn(load(), missing).items():
            write_atomically(folder / f"{name}.png", _signed(content, fingerprint))


def _drawn(
    arrays: Mapping[str, np.ndarray], names: Collection[str]
) -> dict[str, bytes]:
    """The pictures of these names that a run has, as PNG files.

    Raises:
        KeyError, ValueError: the arrays are not as ``to_store`` makes them.
    """
    for name, array in arrays.items():
        # What is drawn is larger, many times; so are arrays that are broadcast.
        if name.startswith("picture/") and len(np.atleast_1d(array)) > _MOST_IN_A_GRID:
            raise ValueError(f"{name} holds {len(array)} images")
    if arrays["picture/levels"].ndim:
        raise ValueError("picture/levels is no number")

    def grid(name: str, columns: int) -> bytes:
        return image_grid(arrays[f"picture/{name}"], columns)

    def reconstructions() -> bytes:
        originals = arrays["picture/originals"] / (arrays["picture/levels"] - 1)
        return reconstruction_grid(originals, arrays["picture/reconstructions"])

    def latents() -> bytes:
        labels = arrays.get("test/labels")
        names = _class_names(arrays)
        return latent_scatter(arrays["test/posterior_mean"], labels, names)

    drawings: dict[str, Callable[[], bytes]] = {
        "reconstructions": reconstructions,
        "prior_means": lambda: grid("prior_means", _COLUMNS),
        "samples": lambda: grid("samples", _COLUMNS),
    }
    if "picture/manifold" in arrays:
        drawings |= {
            "manifold": lambda: grid("manifold", MANIFOLD_SIDE),
            "latents": latents,
        }
    return {name: draw() for name, draw in drawings.items() if name in names}


def _class_names(arrays: Mapping[str, np.ndarray]) -> list[str]:
    """The names of the labels 0, 1, ...; none in folders of before."""
    if CLASS_NAMES not in arrays:
        return []
    names = parse_json(arrays[CLASS_NAMES].tobytes().decode())
    if not isinstance(names, list) or not all(isinstance(x, str) for x in names):
        raise ValueError(f"{CLASS_NAMES} holds no list of names")
    return names


# A field of the PNG format for text, and the length of what stands before all fields.
_FIELD, _HEADER_SIZE = "fingerprint", 33


def _signed(png: bytes, fingerprint: str) -> bytes:
    """A PNG file with a fingerprint in it; its pixels stay as they are."""
    content = b"tEXt" + f"{_FIELD}\0{fingerprint}".encode()
    size, checksum = len(content) - 4, zlib.crc32(content)
    field = size.to_bytes(4, "big") + content + checksum.to_bytes(4, "big")
    return png[:_HEADER_SIZE] + field + png[_HEADER_SIZE:]


def is_good(path: Path, fingerprint: str) -> bool:
    """Returns whether a picture is whole and of the run with a fingerprint."""
    try:
        with (
            warnings.catch_warnings(action="error"),  # Of images that fill the memory.
            Image.open(io.BytesIO(read_bytes(path)), formats=("PNG",)) as image,
        ):
            image.verify()
            return image.info.get(_FIELD) == fingerprint
    except Exception:  # Damage comes as any exception.
        return False
