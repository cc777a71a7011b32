"""Grids of images: arrays of intensities in, PNG bytes out.

Assembled with NumPy, because a sweep makes hundreds of them. Lines between images are
transparent: whoever shows a grid chooses their colour.
"""

import io
import math

import numpy as np
from PIL import Image

_TILE_WIDTH = 28
_PAIR_GAP = 5


def reconstruction_grid(originals: np.ndarray, reconstructions: np.ndarray) -> bytes:
    """Returns a PNG of images, each above its reconstruction, in a near-square grid.

    Args:
        originals: [n, H, W, C] intensities, clipped to [0, 1]; C is 1 or 3.
        reconstructions: [n, H, W, C] intensities, clipped to [0, 1].

    Raises:
        ValueError: if the shapes differ or are not those of images.
    """
    if originals.shape != reconstructions.shape:
        raise ValueError(
            f"originals have shape {originals.shape},"
            f" reconstructions {reconstructions.shape}: they must be equal"
        )
    upper, lower = _tiles(originals), _tiles(reconstructions)
    pairs = np.concatenate([_pad(upper, bottom=1), lower], axis=1)
    columns = math.ceil(math.sqrt(2 * len(pairs)))
    return _mosaic(pairs, columns, row_gap=_PAIR_GAP)


def image_grid(images: np.ndarray, columns: int) -> bytes:
    """Returns a PNG of images in rows of `columns`, separated by thin lines.

    Args:
        images: [n, H, W, C] intensities, clipped to [0, 1]; C is 1 or 3.
        columns: number of images in a row.

    Raises:
        ValueError: if the shape is not that of images.
    """
    return _mosaic(_tiles(images), columns, row_gap=1)


def _tiles(images: np.ndarray) -> np.ndarray:
    """Returns opaque uint8 images [n, s * H, s * W, C + 1], small ones enlarged.

    Args:
        images: [n, H, W, C] intensities, clipped to [0, 1]; NaN becomes 0.
    """
    if images.ndim != 4 or images.shape[-1] not in (1, 3) or not images.size:
        raise ValueError(
            f"images have shape {images.shape}: it must be [n, H, W, 1 or 3], n > 0"
        )
    intensities = np.clip(np.nan_to_num(images), 0, 1)
    pixels = np.rint(255 * intensities).astype(np.uint8)
    opaque = np.pad(pixels, [(0, 0)] * 3 + [(0, 1)], constant_values=255)
    scale = max(1, _TILE_WIDTH // images.shape[2])
    return opaque.repeat(scale, axis=1).repeat(scale, axis=2)


def _pad(
    tiles: np.ndarray, count: int = 0, bottom: int = 0, right: int = 0
) -> np.ndarray:
    """Appends transparent tiles, rows and columns to tiles [n, h, w, C + 1]."""
    return np.pad(tiles, [(0, count), (0, bottom), (0, right), (0, 0)])


def _mosaic(tiles: np.ndarray, columns: int, row_gap: int) -> bytes:
    """Returns a PNG of tiles, a pixel apart within a row.

    Args:
        tiles: [n, h, w, C + 1] uint8, the last channel opacity.
        columns: number of tiles in a row.
        row_gap: height of the gap between rows.
    """
    columns = min(columns, len(tiles))
    rows = math.ceil(len(tiles) / columns)
    tiles = _pad(tiles, rows * columns - len(tiles), row_gap, 1)
    _, height, width, channels = tiles.shape
    mosaic = (
        tiles.reshape(rows, columns, height, width, channels)
        .swapaxes(1, 2)
        .reshape(rows * height, columns * width, channels)
    )
    file = io.BytesIO()
    Image.fromarray(mosaic[:-row_gap, :-1]).save(file, format="png")
    return file.getvalue()
