"""Grids of images: arrays of intensities in, pictures out.

Assembled with NumPy, because a sweep makes hundreds of them. The gaps between images
are transparent: the page that shows a grid gives them a colour for light and dark.
"""

import numpy as np
from PIL import Image

# Pixels. A phone shows a grid of this width as it is.
_WIDTH = 350
_GAP, _PAIR_GAP = 2, 8
_MOST_ENLARGED = 64  # The longer side of an image that is enlarged, at most.
_FEWEST_COLUMNS = 4

# In the ``info`` of each grid: height in pixels of the rows that a page shows first.
CUT_FIELD = "cut"
# This height over the width, at most.
_CUT = 0.82


def reconstruction_grid(
    originals: np.ndarray, reconstructions: np.ndarray
) -> Image.Image:
    """Returns images, each above its reconstruction.

    Args:
        originals: [n, H, W, C] intensities, clipped to [0, 1]; C is 1 or 3.
        reconstructions: [n, H, W, C] intensities, clipped to [0, 1].

    Raises:
        ValueError: the shapes differ or are not those of images.
    """
    if originals.shape != reconstructions.shape:
        raise ValueError(
            f"originals have shape {originals.shape},"
            f" reconstructions {reconstructions.shape}: they must be equal"
        )
    upper = np.pad(_tiles(originals), [(0, 0), (0, _GAP), (0, 0), (0, 0)])
    both = np.concatenate([upper, _tiles(reconstructions)], axis=1)
    return _mosaic(both, _PAIR_GAP)


def image_grid(images: np.ndarray) -> Image.Image:
    """Returns images in rows.

    Args:
        images: [n, H, W, C] intensities, clipped to [0, 1]; C is 1 or 3.

    Raises:
        ValueError: the shape is not that of images.
    """
    return _mosaic(_tiles(images), _GAP)


def plane_grid(images: np.ndarray, columns: int, rows: int = 1) -> Image.Image:
    """Returns images at the points of a plane, which is shown whole.

    Args:
        images: [n, H, W, C] intensities, clipped to [0, 1]; C is 1 or 3.
        columns: number of images in a row.
        rows: number of rows that belong together; a larger gap follows them.

    Raises:
        ValueError: the shape is not that of images, or the last rows are not whole.
    """
    tiles = _tiles(images, _WIDTH // columns - _GAP)
    if rows == 1:
        return _mosaic(tiles, _GAP, columns)
    tiles = np.pad(tiles, [(0, 0), (0, _GAP), (0, 0), (0, 0)])
    _, height, width, channels = tiles.shape
    pillars = tiles.reshape(-1, rows, columns, height, width, channels)
    pillars = pillars.swapaxes(1, 2).reshape(-1, rows * height, width, channels)
    return _mosaic(pillars[:, :-_GAP], _PAIR_GAP, columns)


def _tiles(images: np.ndarray, side: int = _MOST_ENLARGED) -> np.ndarray:
    """Returns opaque uint8 images [n, s * H, s * W, C + 1], small ones enlarged.

    Args:
        images: [n, H, W, C] intensities, clipped to [0, 1]; NaN becomes 0.
        side: the longer side of an enlarged image, at most; s is a whole number.
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


def _mosaic(tiles: np.ndarray, row_gap: int, columns: int | None = None) -> Image.Image:
    """Returns tiles side by side and in rows, with transparent gaps.

    Args:
        tiles: [n, h, w, C + 1] uint8, the last channel opacity.
        row_gap: height of the gap between rows.
        columns: number of tiles in a row. None for as many as a phone shows; a page
            then shows the first rows first.
    """
    fitting = max(_FEWEST_COLUMNS, (_WIDTH + _GAP) // (tiles.shape[2] + _GAP))
    count = min(columns or fitting, len(tiles))
    rows = -(-len(tiles) // count)
    missing = rows * count - len(tiles)
    tiles = np.pad(tiles, [(0, missing), (0, row_gap), (0, _GAP), (0, 0)])
    _, height, width, channels = tiles.shape
    mosaic = (
        tiles.reshape(rows, count, height, width, channels)
        .swapaxes(1, 2)
        .reshape(rows * height, count * width, channels)
    )[:-row_gap, :-_GAP]
    first = rows if columns else max(1, int(_CUT * len(mosaic[0]) + row_gap) // height)
    picture = Image.fromarray(mosaic)
    picture.info[CUT_FIELD] = first * height - row_gap
    return picture
