"""What the numbers of images mean: which is black, which is white, what is opaque.

Files hold intensities in many ranges, and models integers in {0, ..., levels - 1}. What
has one meaning is read; what could mean two things is refused with the setting that
says which, for a guess would train a model of other images without a word.
"""

import dataclasses
from collections.abc import Iterable, Iterator, Mapping
from typing import NamedTuple

import numpy as np

from experiments.messages.errors import DataError

MAX_LEVELS = 256
BACKGROUNDS = ("", "black", "white")

_CHUNK = 1000  # images that are converted together
# From so many levels on, a split of zeros and ones beside others is another range.
_MANY_LEVELS = 8


@dataclasses.dataclass(frozen=True)
class Meaning:
    """What the user says of the values in files.

    Attributes:
        black: the value that is black.
        white: the value that is white; if both are 0, black is 0 and white is 1 in
            images of zeros and ones, else 255.
        background: what lies behind what is not opaque: 'black', 'white', or '' for
            images that are opaque everywhere.
    """

    black: float = 0.0
    white: float = 0.0
    background: str = ""

    @property
    def states_a_range(self) -> bool:
        """Whether black and white are given."""
        return self.black != self.white


UNSTATED = Meaning()


def with_channels(array: np.ndarray, where: str) -> np.ndarray:
    """Returns images as [N, H, W, C], with C of 1 to 4.

    Args:
        array: [N, H, W] or [N, H, W, C].
        where: what messages call it.

    Raises:
        DataError: it has another shape, or its axes seem to be in another order.
    """
    shape = array.shape
    if array.ndim not in (3, 4) or 0 in shape:
        raise DataError(
            f"{where} has shape {shape}: allowed are [N, H, W] and [N, H, W, C] with"
            f" no size of 0{_reshaped(shape)}"
        )
    if array.ndim == 3:
        _refuse_unlikely_axes(shape, where)
        return array[..., np.newaxis]
    if shape[-1] not in (1, 2, 3, 4):
        raise DataError(
            f"{where} has shape {shape}: allowed are 1 or 3 channels, on the last axis:"
            f" {_moved(shape)}"
        )
    return array


def _reshaped(shape: tuple[int, ...]) -> str:
    """Returns the end of a message that says how to give flat images their shape."""
    if 0 in shape:
        return "; leave out a split that has no images"
    if len(shape) != 2:
        return ""
    side = round(shape[1] ** 0.5)
    if side**2 != shape[1]:
        side = round((shape[1] / 3) ** 0.5)
        if 3 * side**2 == shape[1]:
            return (
                f": if each image is {side}x{side} in colour, use"
                f" images.reshape(-1, {side}, {side}, 3), or, if all of red comes"
                f" first, np.moveaxis(images.reshape(-1, 3, {side}, {side}), 1, -1)"
            )
        return (
            "; give flat images their height and width, as in images.reshape(N, H, W)"
        )
    return f": if each image is {side}x{side}, use images.reshape(-1, {side}, {side})"


def _refuse_unlikely_axes(shape: tuple[int, ...], where: str) -> None:
    """Refuses [H, W, N] and one [H, W, C], which look like [N, H, W]."""
    would_be = f"{where} has shape {shape}, which would be {shape[0]} images of"
    would_be += f" {shape[1]}x{shape[2]}"
    otherwise = "if not, say so by a last axis of one channel, images[..., np.newaxis]"
    axis = _axis_of_images(shape)
    if axis:
        size = "x".join(str(n) for i, n in enumerate(shape) if i != axis)
        raise DataError(
            f"{would_be}: if there are {shape[axis]} images of {size}, use"
            f" np.moveaxis(images, {axis}, 0); {otherwise}"
        )
    if shape[2] in (3, 4) and shape[1] > 4 * shape[2]:
        raise DataError(
            f"{would_be}: if it is one image in colour, use images[np.newaxis] and give"
            f" more images; {otherwise}"
        )


def _axis_of_images(shape: tuple[int, ...]) -> int:
    """Returns the axis of [N, H, W] which seems to count the images."""
    if min(shape) <= 4:
        return 0
    for axis in (2, 1):
        others = [size for i, size in enumerate(shape) if i != axis]
        is_square = others[0] == others[1] != shape[axis]
        if is_square or (shape[axis] == max(shape) and shape[axis] >= 2 * others[1]):
            return axis
    return 0


def _moved(shape: tuple[int, ...]) -> str:
    """Returns how to bring the axes of images into order."""
    few = [axis for axis in (1, 0, 2) if shape[axis] <= 4]
    if not few:
        return "leave others out, as in images[..., :3]"
    if few[0] == 1:
        return "use np.moveaxis(images, 1, -1)"
    if few[0] == 2:
        return "use np.moveaxis(images, -1, 0)"
    # [C, H, W, N] or [C, N, H, W]: images are square, or more than pixels on a side.
    last = shape[1] == shape[2] or (shape[2] != shape[3] == max(shape))
    return f"use images.transpose({'3, 1, 2, 0' if last else '1, 2, 3, 0'})"


def to_levels(
    arrays: Mapping[str, np.ndarray],
    names: Mapping[str, str],
    meaning: Meaning,
    levels: int | None = None,
) -> tuple[int, dict[str, np.ndarray]]:
    """Returns the number of levels, and images of integers below it.

    Without black and white, integers stay as they are. With them, they are counted from
    black; what has fractions, or more than 256 levels, is brought to 256.

    Args:
        arrays: numbers [N, H, W, C] of each split, of which 2 or 4 channels hold
            opacity in the last.
        names: what messages call the images of each split.
        meaning: what the user says of them.
        levels: the number of levels, where the file says it.

    Raises:
        DataError: they have no meaning here, or more than one.
    """
    ranges = {split: ValueRange.of(arrays[split], names[split]) for split in arrays}
    together = ValueRange(
        min(each.low for each in ranges.values()),
        max(each.high for each in ranges.values()),
        all(each.is_whole for each in ranges.values()),
    )
    if meaning.states_a_range:
        levels = levels or _stated_levels(arrays.values(), meaning, together)
        read = {s: _scaled(arrays[s], meaning, levels, names[s]) for s in arrays}
    else:
        if levels is None:
            _refuse_different_ranges(ranges, names)
        for split, array in arrays.items():
            if not ranges[split].is_of_levels(levels or MAX_LEVELS):
                raise _no_levels(array.dtype, together, names[split], levels)
        if levels is None:
            _refuse_few_values(together, names["train"])
            levels = 2 if together.high <= 1 else MAX_LEVELS
        read = {s: array.astype(np.uint8, copy=False) for s, array in arrays.items()}
    _refuse_ones_beside_more(read, levels, names)
    return levels, {
        split: without_opacity(images, levels - 1, meaning.background, names[split])
        for split, images in read.items()
    }


# By kind of arrays that hold no integers and no floats.
_NUMBERS_OF = {
    "c": "use np.real(images) if their imaginary parts are 0",
    **dict.fromkeys("SU", "use images.astype(float) if these are numbers"),
}


class ValueRange(NamedTuple):
    """The smallest and the largest value, and whether all are whole numbers."""

    low: float
    high: float
    is_whole: bool

    @classmethod
    def of(cls, array: np.ndarray, where: str) -> "ValueRange":
        """Returns the range of an array of finite numbers; refuses another one."""
        if array.dtype.kind not in "biuf":
            remedy = _NUMBERS_OF.get(array.dtype.kind, "give numbers in its place")
            raise DataError(
                f"{where} is {array.dtype}, no integers or floats: {remedy}"
            )
        is_float = array.dtype.kind == "f"
        if is_float and not np.isfinite(array).all():
            raise DataError(f"{where} holds NaN or infinity: remove those images")
        is_whole = not (is_float and bool((array != np.floor(array)).any()))
        low, high = array.min().item(), array.max().item()
        if is_whole:
            return cls(int(low), int(high), is_whole)
        return cls(low, high, is_whole)

    def __str__(self) -> str:
        if self.is_whole:
            return f"{self.low}..{self.high}"
        return f"{self.low:.6g}..{self.high:.6g}"

    def is_of_levels(self, levels: int) -> bool:
        """Whether all values are in {0, ..., levels - 1}."""
        return self.is_whole and self.low >= 0 and self.high < levels

    def common(self) -> tuple[float, float] | None:
        """Returns black and white of the common range that this fills, if one is."""
        for black, white in _COMMON:
            # What is beyond by less rounds to black, or to white.
            below, above = (self.high - black) / 512, (white - black) / 512
            is_within = black - below <= self.low and self.high <= white + above
            if is_within and (black == 0 or self.low <= black / 2):
                return black, white
        return None


# Pairs of black and white.
_COMMON = (
    (0, 1),
    (-0.5, 0.5),
    (-1, 1),
    (-128, 127),
    *((0, 2**bits - 1) for bits in (8, 10, 12, 14, 16)),
)


def _no_levels(
    dtype: np.dtype, found: ValueRange, where: str, levels: int | None
) -> DataError:
    """Returns the error of values that are no levels as they are."""
    fractions = "" if found.is_whole else " with fractions"
    return DataError(
        f"{where} is {dtype}{fractions} in {found}: allowed are integers in"
        f" 0..{(levels or MAX_LEVELS) - 1}; {range_remedy(found, dtype)}"
    )


def range_remedy(found: ValueRange, dtype: np.dtype) -> str:
    """Returns what to do about values whose black and white are not known."""
    if dtype.kind == "u" and dtype.itemsize == 2:
        return (
            "set data.white=65535 if that is white, as in files of 16 bits, or to the"
            f" value that is (the largest is {found.high})"
        )
    if common := found.common():
        return f"set {_settings(*common)} if these are black and white"
    if -0.5 < found.low < 0 and found.high < 1.5:
        return "use np.clip(images, 0, 1), with data.white=1, if 0 is black and 1 white"
    return (
        "undo what brought them there, as in images * std + mean, or state the values"
        " that are black and white by data.black and data.white"
    )


def _settings(black: float, white: float) -> str:
    """Returns the settings that state a range."""
    return (f"data.black={black} " if black else "") + f"data.white={white}"


def _refuse_few_values(found: ValueRange, where: str) -> None:
    """Refuses integers that are much below 255, which may not be white in them."""
    if 1 < found.high < MAX_LEVELS // 2:
        raise DataError(
            f"{where} has no value above {found.high}, and it is not said which is"
            f" white: set data.white={found.high} for {found.high + 1} levels, or"
            " data.white=255 if all images are dark"
        )


def _refuse_different_ranges(
    ranges: Mapping[str, ValueRange], names: Mapping[str, str]
) -> None:
    """Refuses splits in which black and white seem to be other values."""
    widest = max(ranges, key=lambda split: ranges[split].high - ranges[split].low)
    other = ranges[widest]
    for split, found in ranges.items():
        is_darker = 2 * found.high < other.high
        is_other = is_darker or (found.low < 0) != (other.low < 0)
        if is_other and _assumed(found) != _assumed(other):
            error = _different(names[split], found, names[widest], other)
            stated = _settings(*_assumed(other))
            raise DataError(f"{error}; set {stated} if it is one range already")


def _assumed(found: ValueRange) -> tuple[float, float]:
    """Returns what black and white seem to be, of values that may be in any range."""
    if found.is_whole and found.low >= 0 and found.high < MAX_LEVELS // 2:
        return 0, max(found.high, 1)
    return found.common() or (found.low, max(found.high, found.low + 1))


def _different(
    where: str, found: ValueRange, whose: str, other: ValueRange
) -> DataError:
    """Returns the error of a split in another range than another split."""
    black, white = _assumed(found)
    other_black, other_white = _assumed(other)
    factor = (other_white - other_black) / (white - black)
    moved = f"(images - {black})" if black else "images"
    code = f"{moved} * {factor}" + (f" + {other_black}" if other_black else "")
    return DataError(
        f"{where} has values in {found}, but {whose} in {other}: bring them to one"
        f" range, as in {f'np.round({code})' if other.is_whole else code}"
    )


def _refuse_ones_beside_more(
    images: Mapping[str, np.ndarray], levels: int, names: Mapping[str, str]
) -> None:
    """Refuses a split of zeros and ones where others have many levels."""
    if levels < _MANY_LEVELS:
        return
    highest = {split: int(array.max()) for split, array in images.items()}
    top = max(highest, key=lambda split: highest[split])
    for split, high in highest.items():
        # Zeros alone are black in any range.
        if high == 1 and highest[top] >= _MANY_LEVELS - 1:
            found, other = ValueRange(0, 1, True), ValueRange(0, levels - 1, True)
            raise _different(names[split], found, names[top], other)


def _stated_levels(
    arrays: Iterable[np.ndarray], meaning: Meaning, found: ValueRange
) -> int:
    """Returns the number of levels from black to white, as far as it is at most 256."""
    ends = (meaning.black, meaning.white)
    if all(bool(np.isin(array, ends).all()) for array in arrays):
        return 2
    black, span = float(meaning.black), abs(float(meaning.white - meaning.black))
    exact = found.is_whole and black.is_integer() and span.is_integer()
    return int(span) + 1 if exact and span < MAX_LEVELS else MAX_LEVELS


def _scaled(array: np.ndarray, meaning: Meaning, levels: int, where: str) -> np.ndarray:
    """Returns uint8 images: 0 where a value is black, levels - 1 where it is white."""
    factor = (levels - 1) / (meaning.white - meaning.black)
    low, high = sorted((meaning.black, meaning.white))
    scaled = np.empty(array.shape, np.uint8)
    for part in _parts(len(array)):
        values = np.rint((array[part].astype(np.float64) - meaning.black) * factor)
        if values.min() < 0 or values.max() > levels - 1:
            raise DataError(
                f"{where} has values in {array.min()}..{array.max()}, beyond data.black"
                f" {meaning.black} and data.white {meaning.white}: correct these, or"
                f" use np.clip(images, {low}, {high})"
            )
        scaled[part] = values
    return scaled


def without_opacity(
    images: np.ndarray, full: int, background: str, where: str
) -> np.ndarray:
    """Returns images as they look before a background.

    Args:
        images: integers [N, H, W, C]; the last of 2 or 4 channels is opacity, of 1 or 3
            none is.
        full: the value that is white, or opaque.
        background: 'black', 'white' or ''.
        where: what messages call them.

    Raises:
        DataError: they are not opaque everywhere, and the background is ''.
    """
    if images.shape[-1] in (1, 3):
        return images
    colours, opacity = images[..., :-1], images[..., -1:]
    if bool((opacity == full).all()):
        return np.ascontiguousarray(colours)
    if not background:
        # What is drawn in black is not drawn on black.
        drawn = colours[opacity[..., 0] > full // 2]
        is_dark = drawn.size > 0 and drawn.mean() < full / 2
        first, second = ("white", "black") if is_dark else ("black", "white")
        raise DataError(
            f"{where} is not opaque everywhere (by the last of {images.shape[-1]}"
            " channels), and it is not said what is behind: set"
            f" data.background={first}, or data.background={second}"
        )
    behind = full if background == "white" else 0
    seen = np.empty(colours.shape, colours.dtype)
    for part in _parts(len(images)):
        weight = opacity[part].astype(np.float32) / full
        seen[part] = np.rint(colours[part] * weight + behind * (1 - weight))
    return seen


def _parts(count: int) -> Iterator[slice]:
    """Yields slices of images that are converted together."""
    for start in range(0, count, _CHUNK):
        yield slice(start, start + _CHUNK)
