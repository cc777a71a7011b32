"""The look of charts: colours, markers, ranges of axes, and files.

``style.mplstyle`` holds what matplotlib's own parameters can say; a user's file of this
kind may change them. A value, such as a likelihood, has the same colour and marker in
every chart of a group; values of similar colours differ in their marker.
"""

import collections
import functools
import io
import logging
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from experiments.files.reading import read_bytes
from experiments.messages.errors import SettingsError, one_line

# Parameters of matplotlib, by name.
Look = dict[Any, Any]

MATPLOTLIB: Look = dict(
    matplotlib.rc_params_from_file(
        Path(__file__).with_suffix(".mplstyle"), use_default_template=False
    )
)
COLORS: list[str] = MATPLOTLIB["axes.prop_cycle"].by_key()["color"]
INK, FAINT = MATPLOTLIB["text.color"], MATPLOTLIB["axes.edgecolor"]
GRID = MATPLOTLIB["grid.color"]
# 7 and 13 have no common factor: 91 values differ in marker or colour.
_MARKERS = ("o", "s", "^", "D", "v", "P", "X")


class Style(NamedTuple):
    """The look of a value on an axis.

    Attributes:
        label: its name for a reader.
        color: '#rrggbb'.
        marker: marker of matplotlib.
    """

    label: str
    color: str
    marker: str

    def handle(self, **options: Any) -> Line2D:
        """Returns its handle for a legend."""
        look = {"color": self.color, "marker": self.marker, "label": self.label}
        return Line2D([], [], **look | options)


def styles_of(
    labels: Mapping[Any, str],
    *,
    is_number: bool = False,
    cycle: Sequence[str] = tuple(COLORS),
) -> dict[Any, Style]:
    """Returns the style of each value of an axis.

    Args:
        labels: by value; the order decides the colours.
        is_number: the values are numbers, whose colours go from dark to light.
        cycle: the colours of other values.
    """
    shades = matplotlib.colormaps["viridis"](np.linspace(0, 0.85, len(labels)))
    return {
        value: Style(
            label,
            to_hex(shades[i]) if is_number else cycle[i % len(cycle)],
            _MARKERS[i % len(_MARKERS)],
        )
        for i, (value, label) in enumerate(labels.items())
    }


def robust_range(names: Sequence[Any], values: Sequence[float]) -> tuple[float, float]:
    """Returns the smallest value, and the largest that a chart should show.

    Lines whose smallest value is far above those of the others are left out, and so are
    single values far above the rest. Both are compared with the 75% quantile: unlike
    the median, it cannot be the smallest of three.

    Args:
        names: [N] line that each value belongs to.
        values: [N] values; those that are not finite are ignored.
    """
    by_name = collections.defaultdict(list)
    for name, value in zip(names, values, strict=True):
        if math.isfinite(value):
            by_name[name].append(value)
    if not by_name:
        return 0.0, 1.0
    limit = _far_above([min(line) for line in by_name.values()], reach=2)
    near = np.concatenate([line for line in by_name.values() if min(line) <= limit])
    return near.min(), near[near <= _far_above(near, reach=6)].max()


def _far_above(values: Any, reach: float) -> float:
    """Returns the 75% quantile plus ``reach`` times its distance from the lowest."""
    lowest, quantile = np.quantile(values, [0, 0.75])
    return quantile + reach * (quantile - lowest)


def note_points_above(axes: Axes, values: Sequence[float]) -> None:
    """Notes in the upper right corner how many values lie above the axes, if any."""
    outside = sum(value > axes.get_ylim()[1] for value in values)
    if outside:
        text = f"{outside} of {len(values)} points lie above"
        look: dict[str, Any] = {"ha": "right", "va": "top", "fontsize": 8}
        faint = matplotlib.rcParams["axes.edgecolor"]
        axes.text(0.99, 0.98, text, transform=axes.transAxes, color=faint, **look)


# --- styles of the user, and files ----------------------------------------------------

_Result = TypeVar("_Result")
_DATES = {"svg": "Date", "pdf": "CreationDate"}
FORMATS = tuple(_DATES)


def with_look(draw: Callable[..., _Result]) -> Callable[..., _Result]:
    """Decorates a function that draws: it takes a ``look``, by default ours."""

    @functools.wraps(draw)
    def drawn(*arguments: Any, look: Look = MATPLOTLIB, **options: Any) -> _Result:
        with matplotlib.rc_context(look):
            return draw(*arguments, **options)

    return drawn


@with_look
def rendered(figure: Figure, file_format: str = "svg") -> bytes:
    """Returns a figure as a file, the same bytes for the same figure and look.

    Args:
        figure: the figure.
        file_format: one of ``FORMATS``.
    """
    file = io.BytesIO()
    dates = {_DATES[file_format]: None}
    figure.savefig(file, format=file_format, metadata=dates)
    return file.getvalue()


def colors() -> list[str]:
    """Returns the colours of the look that is set, in their order."""
    cycle = matplotlib.rcParams["axes.prop_cycle"].by_key()
    return cycle.get("color", COLORS)


# They warn of lines that are ignored, and of fonts that are not there. (A filter of a
# logger does not see the records of the loggers below it.)
_LOGGERS = "matplotlib", "matplotlib.font_manager"


def read_look(path: Path) -> Look:
    """Returns our look, changed by a user's style file of matplotlib.

    A figure is drawn with it, as some values fail only then.

    Raises:
        SettingsError: there is no such file, a line of it is not understood, or no
            figure can be drawn with it.
    """

    def refusal(why: object) -> SettingsError:
        remedy = "Give a file of lines as in `font.size: 9`"
        return SettingsError.of("--style", str(path), one_line(why), remedy)

    ignored: list[str] = []

    def keep(record: logging.LogRecord) -> bool:
        """Keeps the warnings in which matplotlib says which lines it ignores."""
        if record.levelno >= logging.WARNING:
            ignored.append(record.getMessage())
        return record.levelno < logging.WARNING

    loggers = [logging.getLogger(name) for name in _LOGGERS]
    for logger in loggers:
        logger.addFilter(keep)
    try:
        read_bytes(path).decode()  # A regular text of moderate size.
        own = matplotlib.rc_params_from_file(
            str(path), fail_on_error=True, use_default_template=False
        )
        # A backend would not be restored afterwards.
        look = MATPLOTLIB | {key: own[key] for key in own if key != "backend"}
        for file_format in FORMATS:
            _draw_a_line(file_format, look=look)
        if ignored:
            raise refusal(ignored[0])
    except SettingsError:
        raise
    except OSError as error:
        raise refusal(error.strerror or error) from error
    except Exception as error:  # Matplotlib raises errors of many classes.
        raise refusal(error) from error
    finally:
        for logger in loggers:
            logger.removeFilter(keep)
    return look


@with_look
def _draw_a_line(file_format: str) -> None:
    figure = Figure(figsize=(2, 2))
    figure.subplots().plot([0, 1], label="a")
    figure.legend(title="b")
    figure.savefig(io.BytesIO(), format=file_format)
