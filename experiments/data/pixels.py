"""The pixels of image files, which Pillow decodes.

Files of one folder must have one size and one kind. Their pixels are upright, in the
range that the files hold, and without opacity. Only formats of pixels are opened, not
those that are programs, such as EPS.
"""

import contextlib
import pathlib
import shlex
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from experiments.data.settings import DataSettings
from experiments.data.values import (
    MAX_LEVELS,
    ValueRange,
    range_remedy,
    without_opacity,
)
from experiments.files.paths import expand_user
from experiments.files.reading import refuse_too_large, refusing
from experiments.messages.errors import DataError
from experiments.messages.wording import counted

FORMATS = ("BMP", "GIF", "JPEG", "JPEG2000", "PNG", "PPM", "TGA", "TIFF", "WEBP")

# The kind of pixels of Pillow's modes, without opacity. All other modes are 'RGB'.
_KINDS = {
    **dict.fromkeys(("L", "LA", "La"), "L"),
    **dict.fromkeys(("P", "PA"), "palette"),  # Of greys or of colours.
    **dict.fromkeys(("I;16", "I;16L", "I;16B", "I;16N"), "I;16"),
    **{mode: mode for mode in ("1", "I", "F")},
}
_DTYPES = {"I;16": np.uint16, "I": np.int32, "F": np.float32}
_WITH_OPACITY = ("LA", "La", "PA", "RGBA", "RGBa")
_WITH_A_PROFILE = ("CMYK", "YCbCr", "LAB", "HSV")
_FROM_A_PROFILE = "had other colours than RGB, converted without a colour profile"
_FROM_16_BITS = "had 16 bits a channel, of which the upper 8 were read"

_PHOTOMETRIC = 262  # The tag of a TIFF file that is 0 if white is 0.

_SPLIT_PAGES = (
    'python -c "import sys; from PIL import Image, ImageSequence;'
    " [page.save(f'{{file}}-{{i:04}}{suffix}') for file in sys.argv[1:] for i, page in"
    ' enumerate(ImageSequence.Iterator(Image.open(file)))]" {file}'
)


def read_pixels(
    path: str, names: Sequence[str], settings: DataSettings
) -> tuple[np.ndarray, list[str]]:
    """Returns the images [N, H, W, C] of files of one size and kind, and notes.

    Args:
        path: the folder.
        names: of the files in it, in the order of the images.
        settings: what lies behind pixels that are not opaque, and white.

    Raises:
        DataError: a file is damaged, or differs from the others in size or kind.
    """
    folder = expand_user(path)
    kinds: set[str] = set()
    converted: dict[str, list[str]] = {}
    for name in names:
        with _opened(folder / name) as image:
            kinds.add(_kind(image))
            if image.mode in _WITH_A_PROFILE:
                converted.setdefault(_FROM_A_PROFILE, []).append(name)
            elif _kind(image) not in _DTYPES and ";16" in str(image.tile):
                converted.setdefault(_FROM_16_BITS, []).append(name)
    # Palettes become the kind of the other files.
    kind = min(kinds - {"palette"}, default="RGB")
    images: np.ndarray = np.empty(0)
    first = ""
    for index, name in enumerate(names):
        file = folder / name
        with _opened(file) as image:
            own = _kind(image)
            pixels = _pixels(image, kind, file, settings)
        height, width, channels = pixels.shape
        if own == "palette":
            own = "L" if channels == 1 else "RGB"
        if index == 0:
            first = f"{width}x{height} {own}"
            dtype = np.dtype(_DTYPES.get(kind, np.uint8))
            refuse_too_large(len(names) * pixels.size * dtype.itemsize, path)
            images = np.empty((len(names), *pixels.shape), dtype)
        if f"{width}x{height} {own}" != first:
            raise DataError(
                f"{file} is {width}x{height} {own}: {folder / names[0]} is {first}."
                f" Bring all images to one size and mode{_as_in(first, own)}."
            )
        images[index] = pixels
    if kinds == {"palette"} and bool((images == images[..., :1]).all()):
        images = np.ascontiguousarray(images[..., :1])
    if kind == "I;16" and not settings.states_a_range:
        found = ValueRange.of(images, path)
        raise DataError(
            f"{path} holds images of 16 bits, with values in {found}: they become"
            f" {MAX_LEVELS} levels. {range_remedy(found, images.dtype)}."
        )
    return images, [
        f"{path}: {counted(len(of), 'file')} ({of[0]!r}, for one) {how}."
        for how, of in converted.items()
    ]


def _kind(image: Any) -> str:
    """Returns the kind of pixels of an opened image, without opacity."""
    is_grey = "LA;16" in str(image.tile)  # Pillow reads these greys as colours.
    if is_grey or (image.mode == "1" and "transparency" in image.info):
        return "L"
    return _KINDS.get(image.mode, "RGB")


def _as_in(first: str, own: str) -> str:
    """Returns the end of a sentence that says how to bring images to one kind."""
    size, wanted = first.split(" ")
    if own == wanted:
        width, height = size.split("x")
        return f", as in image.resize(({width}, {height}))"
    if {own, wanted} == {"I;16", "L"}:
        code = "Image.fromarray(np.round(np.asarray(image) / 257).astype(np.uint8))"
        return f", as in {code} if 65535 is white in those of 16 bits"
    if {own, wanted} & _DTYPES.keys():
        return ""  # Pillow would clip their values.
    return f", as in image.convert({'RGB' if 'RGB' in (own, wanted) else 'L'!r})"


@contextlib.contextmanager
def _opened(file: pathlib.Path) -> Iterator[Any]:
    """Yields an opened image file; any error within becomes a refusal of the file."""
    from PIL import Image

    # If Pillow gets a path, it maps the file into memory, and mixes up the rows of grey
    # TIFF files that are not upright.
    with (
        refusing(f"cannot read {file}", "Repair or remove it"),
        open(file, "rb") as content,
        Image.open(content, formats=FORMATS) as image,
    ):
        yield image


def _pixels(
    image: Any, kind: str, file: pathlib.Path, settings: DataSettings
) -> np.ndarray:
    """Returns the pixels [H, W, C] of an opened image, upright and opaque.

    Args:
        image: an image of Pillow.
        kind: the kind of all images, which a palette is brought to if it can be.
        file: the image's file.
        settings: what lies behind pixels that are not opaque, and white.
    """
    from PIL import ImageOps

    # The first image of an MPO file is the photograph; others are preview or depth.
    if image.format != "MPO" and getattr(image, "n_frames", 1) > 1:
        suffix = ".tif" if image.format == "TIFF" else ".png"
        command = _SPLIT_PAGES.format(suffix=suffix, file=shlex.quote(str(file)))
        raise DataError(
            f"{file} holds {image.n_frames} pages or frames: it is not known which of"
            f" them are images. Write each to a file, as by `{command}`, and move this"
            " one out of the folder."
        )
    own = _kind(image)
    if (
        own in _DTYPES
        and image.format == "TIFF"
        and image.tag_v2.get(_PHOTOMETRIC) == 0
    ):
        # Pillow inverts values of up to 8 bits only.
        raise DataError(
            f"{file} is a TIFF file of more than 8 bits in which 0 is white. Write it"
            " with 0 as black, as in `Image.fromarray(65535 - np.asarray(image))` for"
            " 16 bits."
        )
    image.load()
    ImageOps.exif_transpose(image, in_place=True)
    is_palette = own == "palette"
    has_opacity = "transparency" in image.info or image.mode in _WITH_OPACITY
    if own in _DTYPES and has_opacity:
        return _without_clear_value(image, settings, str(file))
    if has_opacity:
        image = image.convert("LA" if own == "L" else "RGBA")
    elif is_palette or (image.mode not in _KINDS and image.mode != "RGB"):
        image = image.convert("RGB")
    pixels = np.asarray(image).reshape(image.height, image.width, -1)
    if has_opacity:
        pixels = without_opacity(pixels[None], 255, settings.background, str(file))[0]
    if is_palette and kind == "L" and bool((pixels == pixels[..., :1]).all()):
        pixels = pixels[..., :1]
    return pixels


def _without_clear_value(image: Any, settings: DataSettings, where: str) -> np.ndarray:
    """Returns pixels [H, W, 1] of over 8 bits, of which one value is transparent."""
    white = int(max(settings.black, settings.white)) or 2**16 - 1
    pixels = np.asarray(image)[..., np.newaxis]
    opacity = np.where(pixels == image.info["transparency"], 0, white)
    pixels = np.concatenate([pixels, opacity.astype(pixels.dtype)], axis=-1)
    return without_opacity(pixels[None], white, settings.background, where)[0]
