"""The axes of arrays of images: [N, H, W, C], or refused with the code that gives it.

An array in another order of axes would be read as other images without an error, so
shapes that look like another order are refused.
"""

import numpy as np

from experiments.messages.errors import DataError


def with_channels(array: np.ndarray, where: str) -> np.ndarray:
    """Returns images as [N, H, W, C], with C of 1 to 4.

    Args:
        array: [N, H, W] or [N, H, W, C].
        where: what messages call the array.

    Raises:
        DataError: it has another shape, or its axes seem to be in another order.
    """
    shape = array.shape
    if array.ndim not in (3, 4) or 0 in shape:
        raise DataError(
            f"{where} has shape {shape}: allowed are [N, H, W] and [N, H, W, C] with"
            f" no size of 0. {_reshaped(shape)}."
        )
    if array.ndim == 3:
        _refuse_unlikely_axes(shape, where)
        return array[..., np.newaxis]
    if shape[-1] not in (1, 2, 3, 4):
        raise DataError(
            f"{where} has shape {shape}: allowed are 1 or 3 channels, on the last axis."
            f" {_moved(shape)}."
        )
    return array


def _reshaped(shape: tuple[int, ...]) -> str:
    """Returns a sentence that says how to give flat images their shape."""
    if 0 in shape:
        return "Leave out a split that has no images"
    if len(shape) == 2:
        for channels, size in ((1, "{0}x{0}"), (3, "{0}x{0} in colour")):
            side = round((shape[1] / channels) ** 0.5)
            if channels * side**2 == shape[1]:
                code = f"images.reshape(-1, {side}, {side}"
                use = f"If each image is {size.format(side)}, use {code}"
                if channels == 1:
                    return f"{use})"
                return (
                    f"{use}, 3), or, if all of red comes first, np.moveaxis("
                    f"images.reshape(-1, 3, {side}, {side}), 1, -1)"
                )
    return "Give each image its height and width, as in images.reshape(N, H, W)"


def _refuse_unlikely_axes(shape: tuple[int, ...], where: str) -> None:
    """Refuses [H, W, N] and one [H, W, C], which look like [N, H, W]."""
    count, height, width = shape
    axis = _axis_of_images(shape)
    if axis:
        size = "x".join(str(n) for i, n in enumerate(shape) if i != axis)
        instead = (
            f"If there are {shape[axis]} images of {size}, use"
            f" np.moveaxis(images, {axis}, 0)"
        )
    elif width in (3, 4) and height > 4 * width:
        instead = (
            "If it is one image in colour, use images[np.newaxis] and give more images"
        )
    else:
        return
    raise DataError(
        f"{where} has shape {shape}: these would be {count} images of {height}x{width}."
        f" {instead}; if not, say so by a last axis of one channel,"
        " images[..., np.newaxis]."
    )


def _axis_of_images(shape: tuple[int, ...]) -> int:
    """Returns the axis of [N, H, W] that seems to count the images."""
    if min(shape) <= 4:
        return 0
    for axis in (2, 1):
        others = [size for i, size in enumerate(shape) if i != axis]
        is_square = others[0] == others[1] != shape[axis]
        if is_square or (shape[axis] == max(shape) and shape[axis] >= 2 * others[1]):
            return axis
    return 0


def _moved(shape: tuple[int, ...]) -> str:
    """Returns a sentence that says how to bring the axes of images into order."""
    few = [axis for axis in (1, 0, 2) if shape[axis] <= 4]
    if not few:
        return "Leave others out, as in images[..., :3]"
    if few[0] == 1:
        return "Use np.moveaxis(images, 1, -1)"
    if few[0] == 2:
        return "Use np.moveaxis(images, -1, 0)"
    # [C, H, W, N] or [C, N, H, W]: images are square, or more than pixels on a side.
    last = shape[1] == shape[2] or (shape[2] != shape[3] == max(shape))
    return f"Use images.transpose({'3, 1, 2, 0' if last else '1, 2, 3, 0'})"
