"""The values of images: which number is black, which is white, and what is opaque.

Files hold intensities in many ranges; models need integers in {0, ..., levels - 1}.
Values with one possible meaning are read. Values that could mean two things are refused
with the setting that says which, because a wrong guess would silently train a model of
other images.
"""

from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import NamedTuple

import numpy as np

from experiments.data.settings import DataSettings
from experiments.messages.errors import DataError

MAX_LEVELS = 256

_CHUNK = 1000  # images that are converted together
# With at least this many levels, a split of zeros and ones is in another range.
_MANY_LEVELS = 8


def to_levels(
    arrays: Mapping[str, np.ndarray],
    names: Mapping[str, str],
    settings: DataSettings,
    levels: int | None = None,
) -> tuple[int, dict[str, np.ndarray]]:
    """Returns the number of levels, and images of integers below it.

    If the settings do not state black and white, integers stay as they are. If they do,
    integers of at most 256 levels are counted from black, and all other values become
    the nearest of 256 levels.

    Args:
        arrays: numbers [N, H, W, C] of each split; the last of 2 or 4 channels is
            opacity.
        names: what messages call the images of each split.
        settings: which values are black and white.
        levels: the number of levels, if the file states it.

    Raises:
        DataError: the values have no meaning, or could mean more than one thing.
    """
    ranges = {split: ValueRange.of(arrays[split], names[split]) for split in arrays}
    together = ValueRange(
        names["train"],
        min(each.low for each in ranges.values()),
        max(each.high for each in ranges.values()),
        all(each.is_whole for each in ranges.values()),
    )
    if settings.states_a_range:
        levels = levels or _stated_levels(arrays.values(), settings, together)
        read = {s: _scaled(arrays[s], settings, levels, names[s]) for s in arrays}
    else:
        if levels is None:
            _refuse_different_ranges(ranges.values())
        for split, found in ranges.items():
            if not found.is_of_levels(levels or MAX_LEVELS):
                dtype = arrays[split].dtype
                fractions = "" if together.is_whole else " with fractions"
                remedy = range_remedy(together, dtype)
                if levels and together.is_of_levels(MAX_LEVELS):
                    remedy = f"Save levels={together.high + 1} or more in the file"
                raise DataError(
                    f"{found.where} is {dtype}{fractions} in {together}: allowed are"
                    f" integers in 0..{(levels or MAX_LEVELS) - 1}."
                    f" {remedy}."
                )
        if levels is None:
            _refuse_few_values(together)
            levels = 2 if together.high <= 1 else MAX_LEVELS
        read = {s: array.astype(np.uint8, copy=False) for s, array in arrays.items()}
    _refuse_ones_beside_more(read, levels, names)
    return levels, {
        split: without_opacity(images, levels - 1, settings.background, names[split])
        for split, images in read.items()
    }


# Remedies for arrays of other kinds than integers and floats.
_NUMBERS_OF = {
    "c": "Use np.real(images) if the imaginary parts are 0",
    **dict.fromkeys("SU", "Use images.astype(float) if these are numbers"),
}


class ValueRange(NamedTuple):
    """The smallest and the largest value, and whether all are whole numbers."""

    where: str  # what messages call the array
    low: float
    high: float
    is_whole: bool

    @classmethod
    def of(cls, array: np.ndarray, where: str) -> "ValueRange":
        """Returns the range of an array, which must hold finite numbers."""
        if array.dtype.kind not in "biuf":
            remedy = _NUMBERS_OF.get(array.dtype.kind, "Save numbers instead")
            raise DataError(
                f"{where} is {array.dtype}: images are integers or floats. {remedy}."
            )
        is_float = array.dtype.kind == "f"
        if is_float and not np.isfinite(array).all():
            raise DataError(f"{where} holds NaN or infinity. Remove those images.")
        is_whole = not (is_float and bool((array != np.floor(array)).any()))
        low, high = array.min().item(), array.max().item()
        if is_whole:
            low, high = int(low), int(high)
        return cls(where, low, high, is_whole)

    def __str__(self) -> str:
        if self.is_whole:
            return f"{self.low}..{self.high}"
        return f"{self.low:.6g}..{self.high:.6g}"

    def is_of_levels(self, levels: int) -> bool:
        """Returns whether all values are in {0, ..., levels - 1}."""
        return self.is_whole and self.low >= 0 and self.high < levels

    def common(self) -> tuple[float, float] | None:
        """Returns black and white of the common range that this fills, or None."""
        for black, white in _COMMON:
            # Values that are beyond by less round to black, or to white.
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


def range_remedy(found: ValueRange, dtype: np.dtype) -> str:
    """Returns a sentence on what to do if black and white are not known."""
    if dtype.kind == "u" and dtype.itemsize == 2:
        return (
            "Set data.white=65535 if that is white, as in files of 16 bits, or to the"
            f" value that is (the largest is {found.high})"
        )
    if common := found.common():
        return f"Set {_stated(*common)} if these are black and white"
    if -0.5 < found.low < 0 and found.high < 1.5:
        return "Use np.clip(images, 0, 1), with data.white=1, if 0 is black and 1 white"
    return (
        "Undo the normalisation, as in images * std + mean, or state which values are"
        " black and white by data.black and data.white"
    )


def _stated(black: float, white: float) -> str:
    """Returns the settings that state a range, as text."""
    return (f"data.black={black} " if black else "") + f"data.white={white}"


def _refuse_few_values(found: ValueRange) -> None:
    """Refuses integers that are much below 255: white may be another value."""
    if 1 < found.high < MAX_LEVELS // 2:
        raise DataError(
            f"{found.where} has no value above {found.high}: white is not known. Set"
            f" data.white={found.high} for {found.high + 1} levels, or data.white=255"
            " if all images are dark."
        )


def _refuse_different_ranges(ranges: Collection[ValueRange]) -> None:
    """Refuses splits in which black and white seem to be other values."""
    other = max(ranges, key=lambda each: each.high - each.low)
    for found in ranges:
        is_darker = 2 * found.high < other.high
        is_other = is_darker or (found.low < 0) != (other.low < 0)
        if is_other and _assumed(found) != _assumed(other):
            stated = f", or set {_stated(*_assumed(other))} if it is one range already"
            raise _different(found, other, stated)


def _assumed(found: ValueRange) -> tuple[float, float]:
    """Returns the likely black and white of values in an unknown range."""
    if found.is_whole and found.low >= 0 and found.high < MAX_LEVELS // 2:
        return 0, max(found.high, 1)
    return found.common() or (found.low, max(found.high, found.low + 1))


def _different(found: ValueRange, other: ValueRange, instead: str = "") -> DataError:
    """Returns the refusal of two splits in different ranges."""
    black, white = _assumed(found)
    other_black, other_white = _assumed(other)
    factor = (other_white - other_black) / (white - black)
    moved = f"(images - {black})" if black else "images"
    code = f"{moved} * {factor}" + (f" + {other_black}" if other_black else "")
    return DataError(
        f"{found.where} has values in {found}: {other.where} has values in {other}."
        " Bring them to one range, as in"
        f" {f'np.round({code})' if other.is_whole else code}{instead}."
    )


def _refuse_ones_beside_more(
    images: Mapping[str, np.ndarray], levels: int, names: Mapping[str, str]
) -> None:
    """Refuses a split of zeros and ones if another split has many levels."""
    if levels < _MANY_LEVELS:
        return
    highest = {split: int(array.max()) for split, array in images.items()}
    top = max(highest, key=highest.__getitem__)
    for split, high in highest.items():
        # Zeros are black in any range.
        if high == 1 and highest[top] >= _MANY_LEVELS - 1:
            found = ValueRange(names[split], 0, 1, True)
            raise _different(found, ValueRange(names[top], 0, levels - 1, True))


def _stated_levels(
    arrays: Iterable[np.ndarray], settings: DataSettings, found: ValueRange
) -> int:
    """Returns the number of levels from black to white, at most 256."""
    ends = (settings.black, settings.white)
    if all(bool(np.isin(array, ends).all()) for array in arrays):
        return 2
    black, span = float(settings.black), abs(float(settings.white - settings.black))
    exact = found.is_whole and black.is_integer() and span.is_integer()
    return int(span) + 1 if exact and span < MAX_LEVELS else MAX_LEVELS


def _scaled(
    array: np.ndarray, settings: DataSettings, levels: int, where: str
) -> np.ndarray:
    """Returns uint8 images: 0 for black, levels - 1 for white, linear between."""
    factor = (levels - 1) / (settings.white - settings.black)
    low, high = sorted((settings.black, settings.white))
    scaled = np.empty(array.shape, np.uint8)
    for part in _parts(len(array)):
        values = np.rint((array[part].astype(np.float64) - settings.black) * factor)
        if values.min() < 0 or values.max() > levels - 1:
            raise DataError(
                f"{where} has values in {array.min()}..{array.max()}: they are beyond"
                f" data.black={settings.black} and data.white={settings.white}. Correct"
                f" these, or use np.clip(images, {low}, {high})."
            )
        scaled[part] = values
    return scaled


def without_opacity(
    images: np.ndarray, full: int, background: str, where: str
) -> np.ndarray:
    """Returns images as they look in front of a background.

    Args:
        images: integers [N, H, W, C]; the last of 2 or 4 channels is opacity.
        full: the value that is white, or opaque.
        background: 'black', 'white' or ''.
        where: what messages call the images.

    Raises:
        DataError: a pixel is not opaque, and the background is ''.
    """
    if images.shape[-1] in (1, 3):
        return images
    colours, opacity = images[..., :-1], images[..., -1:]
    if bool((opacity == full).all()):
        return np.ascontiguousarray(colours)
    if not background:
        # Black drawings are not meant for a black background.
        drawn = colours[opacity[..., 0] > full // 2]
        is_dark = drawn.size > 0 and drawn.mean() < full / 2
        first, second = ("white", "black") if is_dark else ("black", "white")
        raise DataError(
            f"{where} is not opaque everywhere (by the last of {images.shape[-1]}"
            f" channels): the background is not known. Set data.background={first}, or"
            f" data.background={second}."
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
