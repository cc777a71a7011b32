"""Tests of experiments.report.charts and experiments.report.style."""

import io
import math
import types
import xml.etree.ElementTree as ElementTree

import matplotlib
import numpy as np
import pytest
from PIL import Image

from experiments.report import charts
from experiments.report.findings import Cell
from experiments.report.style import robust_range, styles_of

STYLES = styles_of({"categorical": "categorical", "laplace": "Laplace †"})


def cell(likelihood, latent_dim, mean, spread=0.1, num_seeds=3):
    return Cell(likelihood, latent_dim, "", [], mean, spread, num_seeds, 3)


def drawn(monkeypatch, draw, *arguments):
    """The figure that a chart is made of."""
    figures = []
    monkeypatch.setattr(charts, "svg", figures.append)
    draw(*arguments)
    return figures[0]


@pytest.mark.parametrize(
    "labels", [None, np.arange(50) % 10, np.arange(50), np.array(["a", "b"] * 25)]
)
def test_latent_scatter_is_a_picture(labels):
    means = np.random.default_rng(0).normal(size=(50, 2))
    means[3] = math.nan
    pixels = np.asarray(Image.open(io.BytesIO(charts.latent_scatter(means, labels))))
    assert pixels.std() > 0


def test_classes_are_named_in_the_legend_as_far_as_they_can_be():
    means = np.random.default_rng(0).normal(size=(50, 2))
    labels = np.arange(50) % 2

    def drawn(*names):
        with Image.open(io.BytesIO(charts.latent_scatter(means, labels, names))) as png:
            return np.asarray(png.convert("RGB"))

    numbers = drawn()
    named = drawn("ankle boot", "bag")
    assert named.shape[1] > numbers.shape[1]  # More room, for the same axes.
    left = numbers.shape[1] * 85 // 100
    difference = np.abs(named[:, :left].astype(int) - numbers[:, :left])
    assert (difference > 64).mean() < 0.01
    # No name of a class 1; not in the font; a name that would hide the entry.
    np.testing.assert_array_equal(drawn("0"), numbers)
    np.testing.assert_array_equal(drawn("猫", "1"), drawn("class 0", "1"))
    np.testing.assert_array_equal(drawn("_a", "1"), drawn(" _a", "1"))
    # Neither a formula nor what a terminal obeys; a long name is cut.
    drawn("$x^$", "\x1b[2J")
    assert drawn("x" * 1000, "y").shape == drawn("x" * 16, "y").shape


def test_likelihoods_differ_in_colour_or_marker():
    styles = styles_of({f"family_{i}": "" for i in range(91)})
    assert len({(style.color, style.marker) for style in styles.values()}) == 91


def drawings():
    """Returns each chart of a small sweep in which one member has no score."""
    panels = [
        charts.Panel(
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
        types.SimpleNamespace(
            likelihood="categorical",
            latent_dim=size,
            beta=beta,
            axes={"β": str(beta), "posterior": posterior},
            rate=size * 1.5,
            distortion=60.0,
        )
        for size in (2, 8)
        for posterior in ("diagonal", "full covariance")
        for beta in (1.0, 4.0)
    ]
    epochs = np.arange(1.0, 30)
    train = np.stack([epochs, -90 - 100 / epochs], axis=1)
    curves = [
        charts.Curve("categorical", 2, "β = 1", train, train[::5]),
        charts.Curve("categorical", 2, "β = 4", train, train[::5]),
        charts.Curve("laplace", 8, "", train * [1, math.nan], np.zeros((0, 2))),
    ]
    return {
        "scores": lambda: charts.score_heat_map(panels, STYLES, 3),
        "latents": lambda: charts.latent_size_chart(panels, panels, STYLES, "nats"),
        "plane": lambda: charts.rate_distortion(points, STYLES),
        "curves": lambda: charts.learning_curves(curves, STYLES),
    }


@pytest.mark.parametrize(
    ("name", "titles"),
    [
        ("scores", ["β = 1", "β = 4"]),
        ("latents", ["β = 1", "β = 4"] * 2),
        ("plane", ["posterior = diagonal", "posterior = full covariance"]),
        ("curves", ["categorical\nβ = 1", "categorical\nβ = 4", "Laplace †"]),
    ],
)
def test_settings_have_panels_of_their_own(monkeypatch, name, titles):
    figure = drawn(monkeypatch, drawings()[name])
    assert sorted(axes.get_title("left") for axes in figure.axes) == sorted(titles)


def test_no_mean_of_survivors_is_outlined_and_failures_are_named(monkeypatch):
    def seeds(*statuses):
        return [
            types.SimpleNamespace(status=status, is_lost=status == "failed")
            for status in statuses
        ]

    cells = [
        cell("categorical", 2, 2.3, num_seeds=2)._replace(
            members=seeds("", ""), all_seeds=2
        ),
        cell("laplace", 2, 2.1, num_seeds=1)._replace(members=seeds("", "failed")),
        cell("laplace", 8, math.nan, math.nan, 0)._replace(
            members=seeds("failed", "failed")
        ),
    ]
    panel = charts.Panel("", cells)
    (axes,) = drawn(monkeypatch, charts.score_heat_map, [panel], STYLES, 3).axes
    texts = {text.get_text(): text.get_fontweight() for text in axes.texts}
    assert (texts["2.300"], texts["2.100"]) == ("bold", "normal")
    assert {"(1 failed)", "2 failed"} <= texts.keys()


def test_error_bars_of_active_units_end_at_zero(monkeypatch):
    scores = charts.Panel("", [cell("laplace", 2, -0.1, 0.5)])
    units = charts.Panel("", [cell("laplace", 2, 0.5, 0.7), cell("laplace", 4, 3, 1)])
    figure = drawn(
        monkeypatch, charts.latent_size_chart, [scores], [units], STYLES, "nats"
    )
    (bars,) = (axes.containers[0].lines[2][0] for axes in figure.axes[1:])
    ends = [segment[:, 1] for segment in bars.get_segments()]
    np.testing.assert_allclose(ends, [[0, 1.2], [2, 4]])


def test_a_model_at_rate_zero_is_not_cut_off(monkeypatch):
    (axes, _) = drawn(monkeypatch, drawings()["plane"]).axes
    assert axes.get_xlim()[0] < 0


@pytest.mark.parametrize("length", [1, 29])
def test_a_learning_curve_of_one_point_is_seen(monkeypatch, length):
    bounds = np.stack([np.arange(length), np.arange(length)], axis=1)
    curve = charts.Curve("laplace", 8, "", bounds, bounds)
    (axes,) = drawn(monkeypatch, charts.learning_curves, [curve], STYLES).axes
    assert all((line.get_marker() == "o") == (length == 1) for line in axes.lines)


@pytest.mark.parametrize("name", drawings())
def test_charts_are_reproducible_and_leave_matplotlib_alone(name):
    before = dict(matplotlib.rcParams)
    draw = drawings()[name]
    svg = draw()
    assert ElementTree.fromstring(svg).tag.endswith("svg")
    assert draw() == svg
    assert dict(matplotlib.rcParams) == before


def test_charts_survive_a_sweep_without_scores():
    panel = charts.Panel("", [cell("laplace", 2, math.nan, math.nan, 0)])
    assert charts.score_heat_map([panel], STYLES, 3)
    assert charts.latent_size_chart([panel], [panel], STYLES, "nats")


def test_range_leaves_out_a_likelihood_far_above_the_others():
    names = [name for name in "abcdefgh" for _ in range(2)]
    values = [2.0 + 0.1 * i for i in range(16)]
    assert robust_range(names, values) == pytest.approx((2.0, 3.5))
    values[14:] = [50.0, 60.0]
    assert robust_range(names, values) == pytest.approx((2.0, 3.3))
    assert robust_range(["a", "b"], [2.0, 50.0]) == (2.0, 50.0)
    assert robust_range(["a"], [math.nan]) == (0.0, 1.0)
