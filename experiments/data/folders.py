"""Reading a folder of image files: what its subfolders are, and what its pixels.

    source = read_folder('photographs')

The files may be a stranger's: see `experiments.data.sources`.
"""

import contextlib
import os
import pathlib
import shlex
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from experiments.data.names import (
    SPLITS,
    in_natural_order,
    is_for_images,
    resembled_split,
    split_of,
)
from experiments.data.sources import Source, Split, digest_of, make_source
from experiments.data.values import (
    MAX_LEVELS,
    UNSTATED,
    Meaning,
    ValueRange,
    range_remedy,
    without_opacity,
)
from experiments.files.paths import File, expand_user, walk
from experiments.files.reading import refuse_too_large
from experiments.messages.errors import DataError, one_line
from experiments.messages.wording import counted, listed

# Formats of pixels; not those that are programs, such as EPS.
_IMAGE_FORMATS = ("BMP", "GIF", "JPEG", "JPEG2000", "PNG", "PPM", "TGA", "TIFF", "WEBP")
# What the pixels of Pillow's modes are, apart from opacity; of all others 'RGB'.
_KINDS = {
    **dict.fromkeys(("L", "LA", "La"), "L"),
    **dict.fromkeys(("P", "PA"), "palette"),  # Of greys or of colours.
    **dict.fromkeys(("I;16", "I;16L", "I;16B", "I;16N"), "I;16"),
    **{mode: mode for mode in ("1", "I", "F")},
}
_DTYPES = {"I;16": np.uint16, "I": np.int32, "F": np.float32}
_WITH_OPACITY = ("LA", "La", "PA", "RGBA", "RGBa")
_WITH_A_PROFILE = ("CMYK", "YCbCr", "LAB", "HSV")
_FROM_A_PROFILE = "had other colours than RGB, converted without a colour profile"
_FROM_16_BITS = "had 16 bits a channel, of which the upper 8 were read"

_MEANING = 262  # of values in a TIFF file, its PhotometricInterpretation

_SPLIT_PAGES = (
    'python -c "import sys; from PIL import Image, ImageSequence;'
    " [page.save(f'{{file}}-{{i:04}}{suffix}') for file in sys.argv[1:] for i, page in"
    ' enumerate(ImageSequence.Iterator(Image.open(file)))]" {file}'
)


def read_folder(path: str, meaning: Meaning = UNSTATED) -> Source:
    """Returns the user's own images from a folder of image files.

    The images lie in the folder itself, or in subfolders of it, one for each class;
    classes are numbered in the natural order of their names. Or the subfolders are
    splits, such as `train`, `val` and `Test_Set`, and hold images or classes.

    Images are all of one size and one kind: grey, in colour, black and white (of 2
    levels), or numbers of which black and white are stated. They are turned upright as
    their EXIF data say. Palettes are read as the greys or colours in them. Hidden files
    are no images; that other files are none is noted.

    Args:
        path: the folder.
        meaning: what the user says of the values.

    Raises:
        DataError: if they are not like that.
    """
    names, notes = _image_names(path)
    layout = _folder_layout(path, names)
    classes = in_natural_order(
        {name for of in layout.values() for name in of.values() if name is not None}
    )
    number = {name: i for i, name in enumerate(classes)}
    if len(layout) == 1 and len(set(map(resembled_split, classes)) - {None}) > 1:
        notes.append(
            f"{path} has classes named much like splits ({listed(classes, ', ')}): if"
            " they are splits, name them 'train', 'validation' or 'test'"
        )
    images, more = _read_images(
        path, [n for of in layout.values() for n in of], meaning
    )
    notes += more

    splits: dict[str, Split] = {}
    start = 0
    for split, class_of in layout.items():
        known = [number[name] for name in class_of.values() if name is not None]
        labels = np.array(known, np.int32) if known else None
        splits[split] = Split(images[start : start + len(class_of)], labels)
        start += len(class_of)
        trained = splits["train"].labels
        if labels is not None and trained is not None:
            new = [classes[i] for i in np.setdiff1d(labels, trained)]
            if new:
                notes.append(
                    f"{path} has {split} images of classes that no training image is"
                    f" of: {listed(new, ', ')}"
                )
    shown = {s: path if len(splits) == 1 else f"{path} ({s} images)" for s in splits}
    return make_source(splits, shown, meaning, classes, notes=notes)


def _folder_layout(path: str, names: Sequence[str]) -> dict[str, dict[str, str | None]]:
    """Returns the class of each image, or None, by its name, for each split.

    Raises:
        DataError: it is not clear which subfolders are splits or classes.
    """
    tops = dict.fromkeys(name.split("/")[0] for name in names if "/" in name)
    meant = {top: split_of(top, within=True) for top in tops}
    found = {split for split in meant.values() if split}
    # 'train' among others may be a class, and one word of many is no split, but not
    # where there are a train and a test.
    if not any(map(split_of, tops)) and not {"train"} < found:
        return {"train": _classes(path, "", names)}
    _refuse_unclear_splits(path, meant)
    layout = {}
    for split in SPLITS:
        for top in (top for top in tops if meant[top] == split):
            own = [name for name in names if name.startswith(top + "/")]
            layout[split] = _classes(path, top + "/", own)
    loose = [name for name in names if "/" not in name]
    if loose:
        raise _beside_subfolders(path, loose[0])
    return layout


def _refuse_unclear_splits(path: str, meant: Mapping[str, str | None]) -> None:
    """Refuses subfolders of which some are splits, and not each another one.

    Taken for classes, these would mix the test images into the training images.
    """
    by_split: dict[str | None, list[str]] = {}
    for top, split in meant.items():
        by_split.setdefault(split, []).append(top)
    named = [top for top, split in meant.items() if split]
    splits = listed([repr(top) for top in named], ", ")
    if None in by_split:
        raise DataError(
            f"{path} has a subfolder {by_split[None][0]!r} beside {splits}, named like"
            " splits: if these are splits, name each 'train', 'validation' or 'test',"
            f" and move others out of {path}; if they are classes, rename them, as in"
            f" {named[0] + 's'!r}"
        )
    for split, same in by_split.items():
        if len(same) > 1:
            raise DataError(
                f"{path} has the subfolders {same[0]!r} and {same[1]!r}, both of them"
                f" named like the {split} split: put their images into one, in"
                f" subfolders if these are classes, as in {split}/{same[1]}"
            )
    if "train" not in by_split:
        raise DataError(
            f"{path} has a subfolder {splits}, but none named 'train': name the"
            " subfolder of the training images so"
        )


def _classes(path: str, prefix: str, names: Sequence[str]) -> dict[str, str | None]:
    """Returns the class of each image below a prefix, or None, by its name."""
    parts = {name: name.removeprefix(prefix).split("/") for name in names}
    loose = [name for name in names if len(parts[name]) == 1]
    if loose and len(loose) < len(names):
        raise _beside_subfolders(path, loose[0])
    inner: dict[str, set[str]] = {}
    for own in parts.values():
        inner.setdefault(own[0], set()).update(own[1:-1][:1])
    for top, below in inner.items():
        if len(below) > 1:
            first, second = sorted(below)[:2]
            remedy = "move all images of a class into one folder"
            if any(map(split_of, below)):
                remedy = "put splits above classes, as in train/cat"
            if len(inner) == 1:
                inside = shlex.quote(f"{path}/{prefix}{top}")
                # Of a path within a split, the other splits would be lost.
                instead = (
                    f"move what is in {inside} to {shlex.quote(f'{path}/{prefix}')}"
                    if prefix
                    else f"set data.path={inside}"
                )
                remedy = f"{instead} if these are, else {remedy}"
            raise DataError(
                f"{path} has images in {prefix}{top}/{first} and in"
                f" {prefix}{top}/{second}, and it is not clear which subfolders are the"
                f" classes: {remedy}"
            )
    if len(inner) > 1 and (named := [top for top in inner if is_for_images(top)]):
        other = next(top for top in inner if top != named[0])
        raise DataError(
            f"{path} has images in {prefix}{named[0]} and in {prefix}{other}: if these"
            f" are classes, rename the first, as in 'class_{named[0]}', else move all"
            f" but the first out of {path}"
        )
    return {name: own[0] if own[1:] else None for name, own in parts.items()}


def _beside_subfolders(path: str, loose: str) -> DataError:
    return DataError(
        f"{path} holds images beside subfolders of images ({loose!r}): move all of them"
        " into subfolders, one for each class"
    )


def _read_images(
    path: str, names: Sequence[str], meaning: Meaning
) -> tuple[np.ndarray, list[str]]:
    """Returns the images [N, H, W, C] of files of one size and kind, and notes."""
    folder = expand_user(path)
    kinds: set[str] = set()
    converted: dict[str, list[str]] = {}
    for name in names:
        with _opened(folder / name) as image:
            kinds.add(_kind(image))
            if image.mode in _WITH_A_PROFILE:
                converted.setdefault(_FROM_A_PROFILE, []).append(name)
            elif _kind(image) not in _DTYPES and ";16" in str(image.tile):
                converted.setdefault(_FROM_16_BITS, []).append(name)
    # Palettes are brought to the kind of the others.
    kind = min(kinds - {"palette"}, default="RGB")
    images: np.ndarray = np.empty(0)
    first = ""
    for index, name in enumerate(names):
        file = folder / name
        with _opened(file) as image:
            own = _kind(image)
            pixels = _pixels(image, kind, file, meaning)
        height, width, channels = pixels.shape
        if own == "palette":
            own = "L" if channels == 1 else "RGB"
        if index == 0:
            first = f"{width}x{height} {own}"
            dtype = np.dtype(_DTYPES.get(kind, np.uint8))
            refuse_too_large(len(names) * pixels.size * dtype.itemsize, path)
            images = np.empty((len(names), *pixels.shape), dtype)
        if f"{width}x{height} {own}" != first:
            raise DataError(
                f"{folder / names[0]} is {first} but {file} is {width}x{height} {own}:"
                f" bring all images to one size and mode{_as_in(first, own)}"
            )
        images[index] = pixels
    if kinds == {"palette"} and bool((images == images[..., :1]).all()):
        images = np.ascontiguousarray(images[..., :1])
    if kind == "I;16" and not meaning.states_a_range:
        found = ValueRange.of(images, path)
        raise DataError(
            f"{path} holds images of 16 bits, with values in {found}, which become"
            f" {MAX_LEVELS} levels: {range_remedy(found, images.dtype)}"
        )
    return images, [
        f"{path}: {counted(len(of), 'file')} ({of[0]!r}, for one) {how}"
        for how, of in converted.items()
    ]


def _kind(image: Any) -> str:
    """Returns what the pixels of an opened image are, apart from opacity."""
    if image.mode == "1" and "transparency" in image.info:
        return "L"
    if "LA;16" in str(image.tile):  # Of 16 bits, Pillow makes colours.
        return "L"
    return _KINDS.get(image.mode, "RGB")


def _as_in(first: str, own: str) -> str:
    """Returns the end of a message that says how to bring images to one kind."""
    size, wanted = first.split(" ")
    if own == wanted:
        width, height = size.split("x")
        return f", as in image.resize(({width}, {height}))"
    if {own, wanted} == {"I;16", "L"}:
        code = "Image.fromarray(np.round(np.asarray(image) / 257).astype(np.uint8))"
        return f", as in {code} if 65535 is white in those of 16 bits"
    if {own, wanted} & _DTYPES.keys():
        return ""  # Pillow would cut their values off.
    return f", as in image.convert({'RGB' if 'RGB' in (own, wanted) else 'L'!r})"


@contextlib.contextmanager
def _opened(file: pathlib.Path) -> Iterator[Any]:
    """Opens an image file; what cannot be read within is refused."""
    from PIL import Image

    try:
        # Of a path, Pillow maps the file into memory, and mixes up the rows of grey
        # TIFF files that are to be turned.
        with (
            open(file, "rb") as content,
            Image.open(content, formats=_IMAGE_FORMATS) as image,
        ):
            yield image
    except (DataError, MemoryError):
        raise
    except Exception as error:  # Damage comes as any exception.
        raise DataError(
            f"cannot read {file} ({one_line(error)}): repair or remove it"
        ) from error


def _pixels(image: Any, kind: str, file: pathlib.Path, meaning: Meaning) -> np.ndarray:
    """Returns the pixels [H, W, C] of an opened image, upright and opaque.

    Args:
        image: of Pillow.
        kind: of all images, to which a palette is brought where it can be.
        file: where it is read from.
        meaning: what the user says of it.
    """
    from PIL import ImageOps

    # But of a photograph with its preview or depth (MPO), the first is what it shows.
    if image.format != "MPO" and getattr(image, "n_frames", 1) > 1:
        suffix = ".tif" if image.format == "TIFF" else ".png"
        command = _SPLIT_PAGES.format(suffix=suffix, file=shlex.quote(str(file)))
        raise DataError(
            f"{file} holds {image.n_frames} pages or frames, and it is not said which"
            f" of them are images: write each to a file, as by `{command}`, and move"
            " this one out of the folder"
        )
    own = _kind(image)
    if own in _DTYPES and image.format == "TIFF" and image.tag_v2.get(_MEANING) == 0:
        # Pillow turns over values of up to 8 bits only.
        raise DataError(
            f"{file} is a TIFF file of more than 8 bits in which 0 is white: write it"
            " with 0 as black, as in `Image.fromarray(65535 - np.asarray(image))` of"
            " 16 bits"
        )
    image.load()
    ImageOps.exif_transpose(image, in_place=True)
    is_palette = own == "palette"
    has_opacity = "transparency" in image.info or image.mode in _WITH_OPACITY
    if own in _DTYPES and has_opacity:
        return _without_clear_value(image, meaning, str(file))
    if has_opacity:
        image = image.convert("LA" if own == "L" else "RGBA")
    elif is_palette or (image.mode not in _KINDS and image.mode != "RGB"):
        image = image.convert("RGB")
    pixels = np.asarray(image).reshape(image.height, image.width, -1)
    if has_opacity:
        pixels = without_opacity(pixels[None], 255, meaning.background, str(file))[0]
    if is_palette and kind == "L" and bool((pixels == pixels[..., :1]).all()):
        pixels = pixels[..., :1]
    return pixels


def _without_clear_value(image: Any, meaning: Meaning, where: str) -> np.ndarray:
    """Returns the pixels [H, W, 1] of more than 8 bits, of which one value is clear."""
    white = int(max(meaning.black, meaning.white)) or 2**16 - 1
    pixels = np.asarray(image)[..., np.newaxis]
    opacity = np.where(pixels == image.info["transparency"], 0, white)
    pixels = np.concatenate([pixels, opacity.astype(pixels.dtype)], axis=-1)
    return without_opacity(pixels[None], white, meaning.background, where)[0]


def folder_identity(path: str) -> list[Any]:
    """Returns what the content of `read_folder` depends on.

    Reading photographs would take longer than reading a cache. But the time of the last
    change of a file cannot be set, unlike that of its content.
    """
    folder = expand_user(path).absolute()
    changes = []
    for name, found in walk(folder):
        row: list[Any] = [name]
        if found is not None:
            row += [found.st_mode, found.st_ino, found.st_size]
            row += [found.st_mtime_ns, found.st_ctime_ns]
        changes.append(row)
    return ["folder", str(folder), digest_of(changes)]


def _image_names(path: str) -> tuple[list[str], list[str]]:
    """Returns the sorted names of the image files in a folder, and notes on others."""
    from PIL import Image

    folder = expand_user(path)
    if not os.path.isdir(folder):
        hint = ", or set data.name='npz'" if path.endswith(".npz") else ""
        raise DataError(
            f"no folder {path!r}: data.path must name a folder of images{hint}"
        )
    known = Image.registered_extensions().items()
    suffixes = {suffix for suffix, kind in known if kind in _IMAGE_FORMATS}
    images: list[File] = []
    others: list[File] = []
    for file in walk(folder):
        suffix = pathlib.PurePath(file.name).suffix.lower()
        (images if suffix in suffixes else others).append(file)
    if not images:
        but = f", but {others[0].name!r}, which is not read" if others else ""
        raise DataError(f"{path} holds no images{but}: add png, jpg or similar files")
    tops = {file.name.split("/")[0] for file in images}
    with os.scandir(folder) as entries:
        bare = {e.name for e in entries if e.is_dir() and not e.name.startswith(".")}
    for top in sorted(bare - tops):
        if split_of(top):
            raise DataError(
                f"{folder / top} is named like a split and holds no images: add them,"
                " or remove it"
            )
    for file in images:
        if not file.is_regular:
            raise DataError(
                f"{folder / file.name} is named as an image, but is no regular file"
                " that is there: remove it"
            )
    names = [file.name for file in images]
    notes = []
    left_out = [file.name for file in others]
    left_out += sorted(bare - tops - {name.split("/")[0] for name in left_out})
    if left_out:
        shown = listed([repr(name) for name in left_out], ", ")
        *formats, last = _IMAGE_FORMATS
        notes.append(
            f"{path} holds what is not read, as by its name it is no"
            f" {', '.join(formats)} or {last} file: {shown}"
        )
    if same := _same_but_for_suffix(names):
        first, second = same[0]
        notes.append(
            f"{path} holds {counted(len(same), 'file')} named like another but for the"
            f" suffix ({first!r} and {second!r}): if they are the same pictures, remove"
            " one of each, or test images may be training images too"
        )
    return names, notes


def _same_but_for_suffix(names: Sequence[str]) -> list[tuple[str, str]]:
    """Returns pairs of names that differ in their suffix alone, the earlier first."""
    earlier: dict[str, str] = {}
    pairs = []
    for name in names:
        stem = str(pathlib.PurePath(name).with_suffix(""))
        if earlier.setdefault(stem, name) != name:
            pairs.append((earlier[stem], name))
    return pairs
