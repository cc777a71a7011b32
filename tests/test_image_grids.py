"""Tests of experiments.report.grids."""

import numpy as np
import pytest

from experiments.report.grids import (
    CUT_FIELD,
    image_grid,
    plane_grid,
    reconstruction_grid,
)


def enlarged(images, scale):
    pixels = np.rint(255 * images).astype(np.uint8)
    return pixels.repeat(scale, axis=1).repeat(scale, axis=2)


@pytest.mark.parametrize("channels", [1, 3])
def test_image_grid_places_images_row_by_row(channels):
    """Images have 28 pixels, each shown as 2 x 2, in rows of 6 with gaps of 2."""
    images = np.random.default_rng(0).random((8, 28, 28, channels))
    pixels = np.asarray(image_grid(images))
    assert pixels.shape == (2 * 58 - 2, 6 * 58 - 2, channels + 1)
    for i, image in enumerate(enlarged(images, 2)):
        row, column = divmod(i, 6)
        tile = pixels[row * 58 :, column * 58 :][:56, :56]
        np.testing.assert_array_equal(tile[..., :-1], image)
        assert (tile[..., -1] == 255).all()
    assert not pixels[56:58].any()  # the gap between the rows
    assert not pixels[58:, 2 * 58 :].any()  # there is no ninth image


@pytest.mark.parametrize(
    ("height", "width", "scale"),
    [(1, 1, 64), (8, 8, 8), (28, 20, 2), (32, 32, 2), (40, 300, 1), (64, 64, 1)],
)
def test_images_are_enlarged_by_whole_factors_until_a_person_sees_them(
    height, width, scale
):
    images = np.random.default_rng(0).random((32, height, width, 1))
    pixels = np.asarray(image_grid(images))
    np.testing.assert_array_equal(
        pixels[: height * scale, : width * scale, 0], enlarged(images, scale)[0, ..., 0]
    )
    # A phone shows a row as it is, unless four images are wider.
    assert pixels.shape[1] <= max(350, 4 * (width * scale + 2))


def test_images_are_clipped():
    image = np.array([[-1.0, 0.0], [1.0, 7.0]]).reshape(1, 2, 2, 1)
    pixels = np.asarray(image_grid(image))
    assert len(pixels) == 64
    np.testing.assert_array_equal(
        pixels[..., 0], np.kron([[0, 0], [255, 255]], np.ones((32, 32)))
    )


def test_a_plane_keeps_its_columns_and_is_shown_whole():
    grid = plane_grid(np.ones((100, 8, 8, 1)), 10)
    assert np.asarray(grid).shape[:2] == (10 * 34 - 2, 10 * 34 - 2)
    assert grid.info[CUT_FIELD] == grid.height


def test_rows_of_a_plane_that_belong_together_have_a_larger_gap_below():
    images = np.random.default_rng(0).random((12, 8, 8, 1))
    pixels = np.asarray(plane_grid(images, 2, 3))
    scale = 21  # Of 173 pixels for each column.
    step, parts = 8 * scale + 2, enlarged(images, scale)
    assert pixels.shape[:2] == (6 * step - 2 + 6, 2 * step - 2)
    for i, image in enumerate(parts):
        row, column = divmod(i, 2)
        tile = pixels[row * step + 6 * (row // 3) :, column * step :]
        np.testing.assert_array_equal(tile[: step - 2, : step - 2, :-1], image)
    gap = pixels[3 * step - 2 : 3 * step + 6]
    assert not gap.any()
    with pytest.raises(ValueError, match="reshape"):
        plane_grid(images, 2, 4)


def test_reconstruction_grid_puts_each_reconstruction_below_its_original():
    originals = np.zeros((8, 28, 28, 1))
    pixels = np.asarray(reconstruction_grid(originals, originals + 1))
    rows = pixels[:, 0]
    assert (rows[:56] == [0, 255]).all()
    assert (rows[56:58] == 0).all()
    assert (rows[58:114] == [255, 255]).all()


@pytest.mark.parametrize("side", [8, 28, 64, 100])
def test_rows_that_are_shown_first_are_whole(side):
    """The cut lies where a row ends, and the next row begins after a gap."""
    images = np.ones((32, side, side, 3))
    for grid in (image_grid(images), reconstruction_grid(images, images)):
        cut = grid.info[CUT_FIELD]
        opacity = np.asarray(grid)[:, 0, -1]
        assert 2 * side < cut < len(opacity)
        assert opacity[cut - 1]
        assert not opacity[cut]


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
