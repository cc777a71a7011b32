"""Tests of the charts: experiments.report.charts, scatter and style."""

import math
import re
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import matplotlib
import numpy as np
import pytest

from experiments.files.templates import templates
from experiments.report import charts
from experiments.report.scatter import latent_scatter
from experiments.report.style import read_look, rendered, robust_range, styles_of
from tests.folders import refusal
from tests.sweeps import group_of, product, row


@pytest.mark.parametrize(
    "labels", [None, np.arange(50) % 10, np.arange(50), np.array(["a", "b"] * 25)]
)
def test_latent_scatter_is_a_picture(labels):
    means = np.random.default_rng(0).normal(size=(50, 2))
    means[3] = math.nan
    assert np.asarray(latent_scatter(means, labels)).std() > 0


def test_classes_are_named_in_the_legend_as_far_as_they_can_be():
    means = np.random.default_rng(0).normal(size=(50, 2))
    labels = np.arange(50) % 2

    def drawn(*names):
        return np.asarray(latent_scatter(means, labels, names).convert("RGB"))

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
    # No formula and no terminal codes; a long name is cut.
    drawn("$x^$", "\x1b[2J")
    assert drawn("x" * 1000, "y").shape == drawn("x" * 16, "y").shape


def test_likelihoods_differ_in_colour_or_marker():
    styles = styles_of({f"family_{i}": "" for i in range(91)})
    assert len({(style.color, style.marker) for style in styles.values()}) == 91


SEEDS = (0, 1)


def sweep():
    """Returns two panels for each of two values of β; one model has no score."""
    rows = product(
        lambda likelihood, latent_dim, beta, seed: (
            3 - latent_dim / 10 + beta + seed / 9
        ),
        likelihood=("categorical", "laplace"),
        latent_dim=(2, 8),
        beta=(1.0, 4.0),
        seed=SEEDS,
    )
    for i, own in enumerate(rows):
        own |= {"rate": i / 2, "distortion": 60.0 - i}
    nothing = dict.fromkeys(("score", "rate", "active_units"), math.nan)
    rows[0] |= nothing | {"status": "diverged"}
    return group_of(*rows)


EPOCHS = np.arange(1.0, 30)
CURVE = np.stack([EPOCHS, -90 - 100 / EPOCHS], axis=1)


def curves_of(group, train=CURVE, validation=CURVE[::5]):
    own = {"train": train, "validation": validation}
    return {member.run: own for member in group.members}


def drawings(group):
    """Returns functions that draw the charts of a group."""
    latent_size, beta = group.axes["latent size"], group.axes["β"]
    return {
        "scores": lambda: charts.score_table(group),
        "latent size": lambda: charts.score_lines(group, latent_size),
        "beta": lambda: charts.score_lines(group, beta),
        "plane": lambda: charts.rate_distortion(group),
        "curves": lambda: charts.learning_curves(group, curves_of(group)),
    }


NAMES = tuple(drawings(sweep()))


@pytest.mark.parametrize(
    ("name", "titles"),
    [
        ("scores", ["β = 1.0", "β = 4.0"]),
        # Score and active units share a title.
        ("latent size", ["β = 1.0", "β = 4.0", "", ""]),
        ("beta", ["latent size = 2", "latent size = 8", "", ""]),
        ("plane", [""]),
        (
            "curves",
            [f"{n}\nβ = {b}" for n in ("categorical", "Laplace †") for b in (1.0, 4.0)],
        ),
    ],
)
def test_axes_that_have_no_place_in_a_panel_have_panels(name, titles):
    figure = drawings(sweep())[name]().figure
    assert [axes.get_title("left") for axes in figure.axes] == titles


def outlined(figure):
    """Returns the boxes that mark a best score."""
    return [
        box
        for axes in figure.axes
        for box in axes.patches
        if box.get_linewidth() == 2.2
    ]


def test_the_best_of_a_table_is_outlined_once():
    assert len(outlined(charts.score_table(sweep()).figure)) == 1
    posteriors = product(
        lambda posterior, prior, seed: 3 + seed / 9 + (prior == "vamp"),
        posterior=("diagonal", "iaf", "spline_coupling"),
        prior=("standard_normal", "vamp"),
        seed=SEEDS,
    )
    figure = charts.score_table(group_of(*posteriors)).figure
    (axes,) = figure.axes
    assert len(outlined(figure)) == 1
    texts = [text.get_text() for text in axes.get_xticklabels()]
    assert texts == ["standard\nnormal", "vamp"]  # The best first, in short lines.
    texts = [text.get_text() for text in axes.get_yticklabels()]
    assert texts == ["diagonal", "iaf", "spline coupling"]


def test_no_mean_that_lacks_a_seed_is_outlined_and_failures_are_named():
    lost = {"status": "failed"}
    group = group_of(
        *(row(2.3, likelihood="categorical", latent_dim=2, seed=s) for s in SEEDS),
        row(2.1, likelihood="laplace", latent_dim=2, seed=0),
        row(9.0, likelihood="laplace", latent_dim=2, seed=1, **lost),
        *(row(9.0, likelihood="laplace", latent_dim=8, seed=s, **lost) for s in SEEDS),
    )
    (axes,) = charts.score_table(group).figure.axes
    texts = {text.get_text(): text.get_fontweight() for text in axes.texts}
    assert (texts["2.300"], texts["2.100"]) == ("bold", "normal")
    assert {"(1 failed)", "2 failed"} <= texts.keys()


def test_error_bars_of_active_units_end_at_zero():
    rows = [
        row(3.0, likelihood="laplace", latent_dim=size, seed=seed, active_units=units)
        for size, both in ((2, (0.0, 1.0)), (4, (2.0, 4.0)))
        for seed, units in enumerate(both)
    ]
    group = group_of(*rows)
    figure = charts.score_lines(group, group.axes["latent size"]).figure
    (bars,) = (axes.containers[0].lines[2][0] for axes in figure.axes[1:])
    ends = [segment[:, 1] for segment in bars.get_segments()]
    np.testing.assert_allclose(
        ends, [[0, 0.5 + 0.5**0.5], [3 - 2**0.5, 3 + 2**0.5]], atol=1e-12
    )


@pytest.mark.parametrize(
    ("values", "scale"),
    [
        ((0.5, 1.0, 2.0), "linear"),
        ((0.1, 1.0, 10.0), "log"),
        ((0.0, 0.1, 10.0), "symlog"),
        ((-1.0, 1.0), "linear"),
    ],
)
def test_numbers_that_span_a_wide_range_have_a_logarithmic_scale(values, scale):
    group = group_of(*product(lambda mixing: 3 + mixing, mixing=values))
    figure = charts.score_lines(group, group.axes["mixing"]).figure
    for axes in figure.axes:
        assert axes.get_xscale() == scale
        assert [float(t.get_text()) for t in axes.get_xticklabels()] == list(values)


def test_a_line_of_rate_and_distortion_says_where_it_goes():
    rows = product(lambda beta, seed: 3.0, beta=(0.5, 4.0), seed=SEEDS)
    for own in rows:
        own["distortion"] += own["beta"] * 9
    (axes,) = charts.rate_distortion(group_of(*rows)).figure.axes
    assert {"β 0.5", "β 4"} <= {text.get_text() for text in axes.texts}


def test_a_model_at_rate_zero_is_not_cut_off():
    (axes,) = drawings(sweep())["plane"]().figure.axes
    assert axes.get_xlim()[0] < 0


@pytest.mark.parametrize("length", [1, 29])
def test_a_learning_curve_of_one_point_is_seen(length):
    bounds = np.stack([np.arange(length), np.arange(length)], axis=1)
    group = group_of(row())
    curves = curves_of(group, bounds, bounds)
    (axes,) = charts.learning_curves(group, curves).figure.axes
    assert all((line.get_marker() == "o") == (length == 1) for line in axes.lines)


def test_curves_of_two_bounds_share_no_panel():
    rows = product(
        lambda posterior, objective: 3.0,
        posterior=("diagonal", "iaf"),
        objective=("elbo", "iwae"),
    )
    group = group_of(*rows)
    figure = charts.learning_curves(group, curves_of(group)).figure
    titles = [axes.get_title("left") for axes in figure.axes]
    assert titles == ["objective = elbo", "objective = iwae"]


@pytest.mark.parametrize("axis", [{"network": ("mlp", "conv")}, {"latent_dim": (2, 4)}])
def test_curves_of_bounds_that_follow_from_another_axis_share_no_panel(axis):
    ((name, values),) = axis.items()
    rows = [
        row(**{name: v, "beta": b}) for v, b in zip(values, (1.0, 4.0), strict=True)
    ]
    group = group_of(*rows)
    assert [each.name for each in group.implied] == ["β"]
    figure = charts.learning_curves(group, curves_of(group)).figure
    assert len(figure.axes) == 2


PAGES = templates(Path(charts.__file__).parent, autoescape=True)
PAGES.filters["uri"] = lambda content, media_type: ""
WORDS = PAGES.get_template("charts.html.jinja").module


def words_of(chart, group):
    return " ".join(WORDS.figure(chart, b"", group).split())


def test_charts_have_words_that_name_their_axes():
    group = sweep()
    drawn = charts.draw(group, curves_of(group))
    words = " ".join(words_of(chart, group) for chart in drawn)
    for text in (
        "Score by likelihood and latent size, for each β.",
        "Score and active units by β.",
        "On the dotted line, all latents are active.",
        "along β, whose values stand beside the first line. Runs that failed or",
        "Bars: ± standard deviation over up to 2 seeds. </figcaption>",
        "a model with a single validation is a point. The range",
    ):
        assert text in words, text


@pytest.mark.parametrize(
    ("rows", "names"),
    [
        ([row()], []),
        (
            product(lambda beta: 3 + beta, beta=(1.0, 4.0)),
            ["along_beta", "rate_distortion"],
        ),
        (
            product(
                lambda posterior, seed: 3.0, posterior=("iaf", "diagonal"), seed=SEEDS
            ),
            ["scores", "rate_distortion"],
        ),
        (
            product(
                lambda objective, num_samples: 3.0 + num_samples,
                objective=("iwae", "dreg"),
                num_samples=(1, 50),
            ),
            ["scores", "along_num_samples", "rate_distortion"],
        ),
        (
            product(
                lambda latent_dim, learning_rate: 3.0,
                latent_dim=(2, 8),
                learning_rate=(1e-4, 1e-3),
            ),
            ["scores", "latent_sizes", "along_learning_rate", "rate_distortion"],
        ),
    ],
    ids=["one", "beta", "posterior", "objective", "numbers"],
)
def test_a_group_has_the_charts_that_its_axes_ask_for(rows, names):
    group = group_of(*rows)
    drawn = charts.draw(group, curves_of(group))
    assert [chart.name for chart in drawn] == [*names, "learning_curves"]
    nothing = curves_of(group, CURVE[:0], CURVE[:0])
    assert [chart.name for chart in charts.draw(group, nothing)] == names
    for chart in drawn:
        assert re.search(r"[^ .]\. ?</figcaption>", words_of(chart, group))
        assert ElementTree.fromstring(rendered(chart.figure)).tag.endswith("svg")


@pytest.mark.parametrize("name", NAMES)
def test_charts_are_reproducible_and_leave_matplotlib_alone(name):
    before = dict(matplotlib.rcParams)
    draw = drawings(sweep())[name]
    first, second = (
        [rendered(draw().figure, file_format) for file_format in ("svg", "pdf")]
        for _ in range(2)
    )
    assert ElementTree.fromstring(first[0]).tag.endswith("svg")
    assert first[1].startswith(b"%PDF")
    assert b"/FontFile2" in first[1]  # TrueType: many journals refuse type 3.
    assert first == second
    assert dict(matplotlib.rcParams) == before


def test_a_style_of_the_user_changes_the_look_of_a_chart(tmp_path):
    path = tmp_path / "own.mplstyle"
    lines = ("axes.prop_cycle: cycler('color', ['red'])", "text.color: blue")
    path.write_text("\n".join([*lines, "savefig.facecolor: yellow", "backend: pdf"]))
    before = dict(matplotlib.rcParams)
    look = read_look(path)
    group = sweep()
    figure = charts.score_lines(group, group.axes["latent size"], look=look).figure
    assert {line.get_color() for line in figure.axes[0].lines} == {"red"}
    assert {text.get_color() for text in figure.legends[0].get_texts()} == {"blue"}
    assert b"#ffff00" in rendered(figure, look=look)
    assert b"#ffff00" not in rendered(figure)
    assert dict(matplotlib.rcParams) == before


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (None, "No such file"),
        (b"\xff\xfe", "codec can't decode"),
        (b"font.size 9", "Missing colon in file"),
        (b"font.sise: 9", "Bad key font.sise"),
        (b"font.size: large", "font.size"),
        (b"font.family: NoSuchFont", "'NoSuchFont' not found"),
        (b"font.size: 9\nfont.size: 8", "Duplicate key"),
        (b"text.usetex: True\ntext.latex.preamble: \\nonsense", ""),
    ],
)
def test_a_broken_style_is_refused(tmp_path, content, words):
    path = tmp_path / "own.mplstyle"
    if content is not None:
        path.write_bytes(content)
    line = refusal(read_look, path)
    assert line.startswith(f"--style is {str(path)!r}: ")
    assert words in line


LOST = dict.fromkeys(("score", "rate", "active_units"), math.nan)


@pytest.mark.parametrize(
    ("scores", "names"),
    [
        ({}, []),
        ({("beta", 2): 3.0}, []),
        ({("beta", 2): 3.0, ("laplace", 2): 4.0}, ["scores", "rate_distortion"]),
        (
            {("beta", 2): 3.0, ("laplace", 8): 4.0},  # No line joins them.
            ["scores", "rate_distortion"],
        ),
        (
            {("beta", 2): 3.0, ("beta", 8): 4.0},
            ["scores", "latent_sizes", "rate_distortion"],
        ),
    ],
)
def test_no_chart_shows_fewer_than_two_scores(scores, names):
    points = [(name, size) for name in ("beta", "laplace") for size in (2, 8)]
    group = group_of(
        *(
            row(
                likelihood=name,
                latent_dim=size,
                **({"score": scores[name, size]} if (name, size) in scores else LOST),
            )
            for name, size in points
        )
    )
    drawn = charts.draw(group, curves_of(group, CURVE[:0], CURVE[:0]))
    assert [chart.name for chart in drawn] == names


def test_range_leaves_out_a_likelihood_far_above_the_others():
    names = [name for name in "abcdefgh" for _ in range(2)]
    values = [2.0 + 0.1 * i for i in range(16)]
    assert robust_range(names, values) == pytest.approx((2.0, 3.5))
    values[14:] = [50.0, 60.0]
    assert robust_range(names, values) == pytest.approx((2.0, 3.3))
    assert robust_range(["a", "b"], [2.0, 50.0]) == (2.0, 50.0)
    assert robust_range(["a"], [math.nan]) == (0.0, 1.0)


def test_error_bars_of_scores_lie_in_the_panel():
    rows = product(lambda beta: 3 + beta / 1000, beta=(1.0, 4.0))
    for own in rows:
        own["score_se"] = 0.5
    group = group_of(*rows)
    figure = charts.score_lines(group, group.axes["β"]).figure
    low, high = figure.axes[0].get_ylim()
    assert low < 2.5 < 3.5 < high
