"""Grids of images: arrays of intensities in, PNG bytes out.

Assembled with NumPy, because a sweep makes hundreds of them. The gaps between images
are transparent: the page that shows a grid gives them a colour for light and dark.
"""

import io

import numpy as np
from PIL import Image, PngImagePlugin

# Pixels. A phone shows a grid of this width as it is.
_WIDTH = 350
_GAP, _PAIR_GAP = 2, 8
_MOST_ENLARGED = 64  # The longer side of an image that is enlarged, at most.
_FEWEST_COLUMNS = 4

# A text field of each PNG: the height in pixels of the rows that a page shows first.
CUT_FIELD = "cut"
# This height over the width, at most.
_CUT = 0.82


def reconstruction_grid(originals: np.ndarray, reconstructions: np.ndarray) -> bytes:
    """Returns a PNG of images, each above its reconstruction.

    Args:
        originals: [n, H, W, C] intensities, clipped to [0, 1]; C is 1 or 3.
        reconstructions: [n, H, W, C] intensities, clipped to [0, 1].

    Raises:
        ValueError: The shapes differ or are not those of images.
    """
    if originals.shape != reconstructions.shape:
        raise ValueError(
            f"originals have shape {originals.shape},"
            f" reconstructions {reconstructions.shape}: they must be equal"
        )
    upper, lower = _pad(_tiles(originals), bottom=_GAP), _tiles(reconstructions)
    return _mosaic(np.concatenate([upper, lower], axis=1), _PAIR_GAP)


def image_grid(images: np.ndarray) -> bytes:
    """Returns a PNG of images in rows.

    Args:
        images: [n, H, W, C] intensities, clipped to [0, 1]; C is 1 or 3.

    Raises:
        ValueError: The shape is not that of images.
    """
    return _mosaic(_tiles(images), _GAP)


def plane_grid(images: np.ndarray, columns: int) -> bytes:
    """Returns a PNG of images at the points of a plane, which is shown whole.

    Args:
        images: [n, H, W, C] intensities, clipped to [0, 1]; C is 1 or 3.
        columns: Number of images in a row.

    Raises:
        ValueError: The shape is not that of images.
    """
    return _mosaic(_tiles(images, _WIDTH // columns - _GAP), _GAP, columns)


def _tiles(images: np.ndarray, side: int = _MOST_ENLARGED) -> np.ndarray:
    """Returns opaque uint8 images [n, s * H, s * W, C + 1], small ones enlarged.

    Args:
        images: [n, H, W, C] intensities, clipped to [0, 1]; NaN becomes 0.
        side: The longer side of an enlarged image, at most; s is a whole number.
    """
    if images.ndim != 4 or images.shape[-1] not in (1, 3) or not images.size:
        raise ValueError(
            f"images have shape {images.shape}: it must be [n, H, W, 1 or 3], n > 0"
        )
    intensities = np.clip(np.nan_to_num(images), 0, 1)
    pixels = np.rint(255 * intensities).astype(np.uint8)
    opaque = np.pad(pixels, [(0, 0)] * 3 + [(0, 1)], constant_values=255)
    scale = max(1, side // max(images.shape[1:3]))
    return opaque.repeat(scale, axis=1).repeat(scale, axis=2)


def _pad(
    tiles: np.ndarray, count: int = 0, bottom: int = 0, right: int = 0
) -> np.ndarray:
    """Appends transparent tiles, rows and columns to tiles [n, h, w, C + 1]."""
    return np.pad(tiles, [(0, count), (0, bottom), (0, right), (0, 0)])


def _mosaic(tiles: np.ndarray, row_gap: int, columns: int | None = None) -> bytes:
    """Returns a PNG of tiles.

    Args:
        tiles: [n, h, w, C + 1] uint8, the last channel opacity.
        row_gap: Height of the gap between rows.
        columns: Number of tiles in a row. None for as many as a phone shows; a page
            then shows the first rows first.
    """
    fitting = max(_FEWEST_COLUMNS, (_WIDTH + _GAP) // (tiles.shape[2] + _GAP))
    count = min(columns or fitting, len(tiles))
    rows = -(-len(tiles) // count)
    tiles = _pad(tiles, rows * count - len(tiles), row_gap, _GAP)
    _, height, width, channels = tiles.shape
    mosaic = (
        tiles.reshape(rows, count, height, width, channels)
        .swapaxes(1, 2)
        .reshape(rows * height, count * width, channels)
    )[:-row_gap, :-_GAP]
    first = rows if columns else max(1, int(_CUT * len(mosaic[0]) + row_gap) // height)
    field = PngImagePlugin.PngInfo()
    field.add_text(CUT_FIELD, str(first * height - row_gap))
    file = io.BytesIO()
    Image.fromarray(mosaic).save(file, format="png", pnginfo=field)
    return file.getvalue()
