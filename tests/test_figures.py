"""Tests of experiments.figures."""

import io
import math
import xml.etree.ElementTree as ElementTree

import matplotlib
import numpy as np
import pytest
from PIL import Image

from experiments import figures

STYLES = figures.likelihood_styles(["categorical", "laplace"], marked={"laplace"})


def decode(png):
    return np.asarray(Image.open(io.BytesIO(png)))


def cell(likelihood, latent_dim, mean, spread=0.1, num_seeds=3):
    return figures.Cell(likelihood, latent_dim, mean, spread, num_seeds)


@pytest.mark.parametrize("channels", [1, 3])
def test_image_grid_places_images_row_by_row(channels):
    side, columns = 28, 3
    images = np.random.default_rng(0).random((5, side, side, channels))
    pixels = decode(figures.image_grid(images, columns))
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
    pixels = decode(figures.image_grid(image, 4))
    scale = len(pixels) // 2
    assert scale > 1
    np.testing.assert_array_equal(
        pixels[..., 0], np.kron([[0, 0], [255, 255]], np.ones((scale, scale)))
    )


def test_reconstruction_grid_puts_each_reconstruction_below_its_original():
    originals = np.zeros((8, 28, 28, 1))
    pixels = decode(figures.reconstruction_grid(originals, originals + 1))
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
        figures.reconstruction_grid(np.zeros(shape), np.zeros(other))


@pytest.mark.parametrize(
    "labels", [None, np.arange(50) % 10, np.arange(50), np.array(["a", "b"] * 25)]
)
def test_latent_scatter_is_a_picture(labels):
    means = np.random.default_rng(0).normal(size=(50, 2))
    means[3] = math.nan
    pixels = decode(figures.latent_scatter(means, labels))
    assert pixels.std() > 0


def test_likelihoods_differ_in_colour_or_marker():
    styles = figures.likelihood_styles([f"family_{i}" for i in range(70)], marked=())
    assert len({(style.color, style.marker) for style in styles.values()}) == 70
    assert STYLES["laplace"].label == "laplace †"
    assert STYLES["categorical"].label == "categorical"


def charts():
    """Returns each chart of a small sweep in which one member has no score."""
    panels = [
        figures.Panel(
            title,
            [
                cell("categorical", 2, 2.3),
                cell("categorical", 8, 2.1, num_seeds=2),
                cell("laplace", 2, 2.5, math.nan),
                cell("laplace", 8, math.nan, math.nan, 0),
            ],
        )
        for title in ("β = 1", "β = 4")
    ]
    points = [
        figures.Point("categorical", size, beta, 1e-3, rate=size * 1.5, distortion=60.0)
        for size in (2, 8)
        for beta in (1.0, 4.0)
    ]
    epochs = np.arange(1.0, 30)
    train = np.stack([epochs, -90 - 100 / epochs], axis=1)
    curves = [
        figures.Curve("categorical", 2, train, train[::5]),
        figures.Curve("laplace", 8, train * [1, math.nan], np.zeros((0, 2))),
    ]
    return {
        "scores": lambda: figures.score_heat_map(panels, STYLES, 3),
        "latents": lambda: figures.latent_size_chart(panels, panels, STYLES, "nats"),
        "plane": lambda: figures.rate_distortion(points, STYLES),
        "curves": lambda: figures.learning_curves(curves, STYLES),
    }


@pytest.mark.parametrize("name", charts())
def test_charts_are_reproducible_and_leave_matplotlib_alone(name):
    before = dict(matplotlib.rcParams)
    draw = charts()[name]
    svg = draw()
    assert ElementTree.fromstring(svg).tag.endswith("svg")
    assert draw() == svg
    assert dict(matplotlib.rcParams) == before


def test_charts_survive_a_sweep_without_scores():
    panel = figures.Panel("", [cell("laplace", 2, math.nan, math.nan, 0)])
    assert figures.score_heat_map([panel], STYLES, 3)
    assert figures.latent_size_chart([panel], [panel], STYLES, "nats")


def test_range_leaves_out_a_likelihood_far_above_the_others():
    names = [name for name in "abcdefgh" for _ in range(2)]
    values = [2.0 + 0.1 * i for i in range(16)]
    assert figures._robust_range(names, values) == pytest.approx((2.0, 3.5))
    values[14:] = [50.0, 60.0]
    assert figures._robust_range(names, values) == pytest.approx((2.0, 3.3))
    assert figures._robust_range(["a", "b"], [2.0, 50.0]) == (2.0, 50.0)
    assert figures._robust_range(["a"], [math.nan]) == (0.0, 1.0)
