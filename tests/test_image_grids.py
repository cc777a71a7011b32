"""Tests of experiments.report.grids."""

import io

import numpy as np
import pytest
from PIL import Image

from experiments.report.grids import image_grid, reconstruction_grid


def decode(png):
    return np.asarray(Image.open(io.BytesIO(png)))


@pytest.mark.parametrize("channels", [1, 3])
def test_image_grid_places_images_row_by_row(channels):
    side, columns = 28, 3
    images = np.random.default_rng(0).random((5, side, side, channels))
    pixels = decode(image_grid(images, columns))
    assert pixels.shape == (2 * side + 1, 3 * side + 2, channels + 1)
    expected = np.rint(255 * images).astype(np.uint8)
    for i, image in enumerate(expected):
        row, column = divmod(i, columns)
        tile = pixels[row * (side + 1) :, column * (side + 1) :][:side, :side]
        np.testing.assert_array_equal(tile[..., :-1], image)
        assert (tile[..., -1] == 255).all()
    assert not pixels[side].any()  # separator
    assert not pixels[side + 1 :, 2 * (side + 1) :].any()  # place of a sixth image


def test_image_grid_enlarges_small_images_and_clips():
    image = np.array([[-1.0, 0.0], [1.0, 7.0]]).reshape(1, 2, 2, 1)
    pixels = decode(image_grid(image, 4))
    scale = len(pixels) // 2
    assert scale > 1
    np.testing.assert_array_equal(
        pixels[..., 0], np.kron([[0, 0], [255, 255]], np.ones((scale, scale)))
    )


def test_reconstruction_grid_puts_each_reconstruction_below_its_original():
    originals = np.zeros((8, 28, 28, 1))
    pixels = decode(reconstruction_grid(originals, originals + 1))
    rows = pixels[:, 0]
    assert (rows[:28] == [0, 255]).all()
    assert (rows[28] == 0).all()
    assert (rows[29:57] == [255, 255]).all()


@pytest.mark.parametrize(
    ("shape", "other"),
    [
        ((2, 8, 8, 1), (3, 8, 8, 1)),
        ((2, 8, 8, 2), (2, 8, 8, 2)),
        ((2, 8, 8), (2, 8, 8)),
        ((0, 8, 8, 1), (0, 8, 8, 1)),
    ],
)
def test_reconstruction_grid_rejects_other_shapes(shape, other):
    with pytest.raises(ValueError, match="shape"):
        reconstruction_grid(np.zeros(shape), np.zeros(other))
