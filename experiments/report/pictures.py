"""Pictures of one run: reconstructions, samples, walks through its latents.

Training stores them as arrays. They are drawn from these arrays into PNG files, and
drawn again where a file is missing, damaged or of another run.
"""

import dataclasses
import functools
import io
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
from PIL import Image, PngImagePlugin

from experiments.evaluation.stored_arrays import (
    GUIDANCE_WEIGHTS,
    MANIFOLD_SIDE,
    SAMPLER_STEPS,
    SHOWN,
    STEPS,
    class_names,
)
from experiments.files.reading import read_bytes
from experiments.files.writing import write_atomically
from experiments.messages.errors import FolderError
from experiments.report.grids import (
    CUT_FIELD,
    image_grid,
    plane_grid,
    reconstruction_grid,
)
from experiments.report.scatter import SCATTER_SCALE, latent_scatter

_MOST_IN_A_GRID = max(SHOWN, MANIFOLD_SIDE**2)
# Pictures of every run; earlier versions stored no walks. And those of a model with
# classes, and of two latents, if its prior is a standard normal.
_ALWAYS = ("reconstructions", "prior_means", "samples")
_WALKS, _CLASSES = ("traversals", "interpolations"), ("classes",)
_OF_A_PLANE = "manifold", "latents"
# And those of a chain of latents: of images, in the place of walks; and if it knows
# classes and can do without.
_CHAIN, _GUIDED = ("trajectories", "samples_by_steps"), ("samples_by_guidance",)
_MOST_WEBP = 16_383  # pixels of a side of a WebP file


@dataclasses.dataclass(frozen=True)
class Picture:
    """A picture of a run, as a PNG file.

    Attributes:
        png: the file.
        width: width at which it should be shown, in CSS pixels.
        height: height at which it should be shown, in CSS pixels.
        cut: height of the rows that are shown first, in CSS pixels.
    """

    png: bytes
    width: int
    height: int
    cut: int

    @functools.cached_property
    def embedded(self) -> tuple[bytes, str]:
        """The file that a page holds, and its media type.

        It is a WebP file of the same pixels, which has about half the bytes, but the
        PNG file where the picture is larger than WebP allows.
        """
        file = io.BytesIO()
        with Image.open(io.BytesIO(self.png)) as image:
            if max(image.size) > _MOST_WEBP:
                return self.png, "image/png"
            # Method 2 takes a few milliseconds; the next ones gain little.
            image.save(file, format="webp", lossless=True, quality=20, method=2)
        return file.getvalue(), "image/webp"


def ensure(
    folder: Path,
    latent_dim: int,
    has_classes: bool,
    has_chain: bool,
    fingerprint: str,
    load: Callable[[], Mapping[str, np.ndarray]],
    report: Callable[[str], object],
) -> dict[str, Picture]:
    """Returns the pictures of a run by name; draws and writes those that are missing.

    Args:
        folder: the folder of the run's pictures; its name is that of the run.
        latent_dim: of the run; runs of two latents have pictures of their plane.
        has_classes: whether its model has classes, which are then shown.
        has_chain: whether it has a chain of latents, whose samples are then compared.
        fingerprint: of the run; its pictures carry it.
        load: returns the arrays that ``to_store`` made; called if one is needed.
        report: receives a line if pictures are missing and cannot be drawn or written.
    """
    wanted = _ALWAYS + _WALKS + _CLASSES * has_classes
    wanted += _OF_A_PLANE * (latent_dim == 2)
    wanted += _CHAIN * has_chain + _GUIDED * (has_chain and has_classes)
    found = {
        name: picture
        for name in wanted
        if (picture := read(folder / f"{name}.png", fingerprint))
    }
    missing = [name for name in wanted if name not in found]
    try:
        if missing:
            arrays = load()
            _check(arrays)
            missing = [name for name in missing if _is_stored(name, arrays)]
            drawn = {name: _png(_draw(name, arrays), fingerprint) for name in missing}
            for name, png in drawn.items():
                found[name] = _parse(png, fingerprint)
                write_atomically(folder / f"{name}.png", png)
    except FolderError as error:
        report(f"pictures of {folder.name} are left out: {error}")
    except Exception as error:  # A stranger's arrays may be of any kind.
        report(
            f"pictures of {folder.name} are left out: its arrays cannot be drawn "
            f"({error!r}); delete its folder in members/ and repeat the command that "
            "trained it."
        )
    return {name: found[name] for name in wanted if name in found}


def _is_stored(name: str, arrays: Mapping[str, np.ndarray]) -> bool:
    """Returns whether a run has this picture, which not every run has."""
    stored = "manifold" if name in _OF_A_PLANE else name
    return name in _ALWAYS or f"picture/{stored}" in arrays


def _check(arrays: Mapping[str, np.ndarray]) -> None:
    """Checks that drawing stored arrays does not fill the memory.

    Raises:
        KeyError, ValueError: the arrays are not as ``to_store`` makes them.
    """
    for name, array in arrays.items():
        # A drawing is many times larger than its array, and so is a broadcast array.
        if name.startswith("picture/") and len(np.atleast_1d(array)) > _MOST_IN_A_GRID:
            raise ValueError(f"{name} holds {len(array)} images")
    if arrays["picture/levels"].ndim:
        raise ValueError("picture/levels is not a number")


def _draw(name: str, arrays: Mapping[str, np.ndarray]) -> Image.Image:
    """Returns the picture of this name.

    Raises:
        KeyError, ValueError: the arrays are not as ``to_store`` makes them.
    """
    match name:
        case "reconstructions":
            originals = arrays["picture/originals"] / (arrays["picture/levels"] - 1)
            return reconstruction_grid(originals, arrays["picture/reconstructions"])
        case "manifold":
            return plane_grid(arrays["picture/manifold"], MANIFOLD_SIDE)
        case "classes" | "traversals" | "interpolations" | "trajectories":
            return plane_grid(arrays[f"picture/{name}"], STEPS)
        case "samples_by_steps":
            return plane_grid(arrays[f"picture/{name}"], STEPS, len(SAMPLER_STEPS))
        case "samples_by_guidance":
            images = arrays[f"picture/{name}"]
            return plane_grid(images, len(images) // len(GUIDANCE_WEIGHTS))
        case "latents":
            labels, names = arrays.get("test/labels"), class_names(arrays)
            return latent_scatter(arrays["test/posterior_mean"], labels, names)
    return image_grid(arrays[f"picture/{name}"])


# A text field of each file. Its name changes with the way pictures are drawn: those
# that an earlier version drew are drawn again.
_FIELD = "fingerprint-2"
_END = b"\0\0\0\0IEND\xaeB`\x82"


def _png(image: Image.Image, fingerprint: str) -> bytes:
    """Returns a picture as a PNG file that carries a run's fingerprint."""
    fields, file = PngImagePlugin.PngInfo(), io.BytesIO()
    for name, value in {_FIELD: fingerprint, **image.info}.items():
        fields.add_text(str(name), str(value))
    image.save(file, format="png", pnginfo=fields)
    return file.getvalue()


def read(path: Path, fingerprint: str) -> Picture | None:
    """Returns a picture that is whole and of the run with a fingerprint, else None."""
    try:
        return _parse(read_bytes(path), fingerprint)
    except Exception:  # Damage comes as any exception.
        return None


def _parse(png: bytes, fingerprint: str) -> Picture:
    """Returns the picture that a PNG file holds.

    Raises:
        Exception: the file is damaged or of another run.
    """
    with (
        warnings.catch_warnings(action="error"),  # Of images that fill the memory.
        Image.open(io.BytesIO(png), formats=("PNG",)) as image,
    ):
        image.verify()  # Every field but the last.
        if not png.endswith(_END):
            raise ValueError("its end is damaged")
        if image.info.get(_FIELD) != fingerprint:
            raise ValueError("it is of another run")
        scale = 1 if CUT_FIELD in image.info else SCATTER_SCALE
        width, height = (max(1, side // scale) for side in image.size)
        cut = min(max(1, int(image.info.get(CUT_FIELD, height))), height)
    return Picture(png, width, height, cut)
