"""Records the animated picture of docs/explorer.md, in the browser of the tests.

    python -m experiments.sweep --config.sweep.likelihood=discretized_logistic \
        --config.sweep.latent_dim=2 --config.sweep.seed=0 --workdir=runs/plane
    python -m experiments.explore --workdir=runs/plane --output=plane.html
    python -m tests.record_explorer plane.html docs/images/explorer.webp

The pointer goes over the plane of latents, and then draws an image.
"""

import io
import itertools
import math
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from PIL import Image

from tests.browser import Browser, Page

_WINDOW, _WIDTH = 1180, 760  # pixels: of the browser, and of the picture
_ROUND, _TURNS, _STEPS = 1.4, 36, 18  # radius in latents; frames of a part
_MILLISECONDS = 110  # of a frame

# Points of a stroke, from 0 to 1 of the image: the digit 2.
_STROKE = [(0.3, 0.25), (0.5, 0.1), (0.7, 0.3), (0.5, 0.6), (0.3, 0.9), (0.75, 0.9)]


def record(page: Path, folder: Path) -> list[Image.Image]:
    """Returns the frames."""
    with Browser(folder) as browser:
        tab = browser.open(page, width=_WINDOW)
        tab.wait("/ELBO .* nats of KL/.test(document.body.textContent)")
        x, y, width, height = _box(tab, ".stage")
        part = x - width / 2 - 12, y - height / 2, width + 24, height
        clip = dict(zip(("x", "y", "width", "height"), part, strict=True))
        parts = itertools.chain(_over_the_plane(tab), _drawing(tab))
        return [_frame(tab, clip) for _ in parts]


def _over_the_plane(tab: Page) -> Iterator[None]:
    x, y, width, _ = _box(tab, "canvas.map")
    for i in range(_TURNS):
        angle = 2 * math.pi * i / _TURNS
        radius = _ROUND * width / 7.5 * (1 + 0.35 * math.sin(3 * angle))
        place = x + radius * math.cos(angle), y - radius * math.sin(angle)
        tab.pointer("Moved", *place)
        yield


def _drawing(tab: Page) -> Iterator[None]:
    clear = "[...document.querySelectorAll('button')].find(b => b.textContent === "
    tab.evaluate(f"{clear}'Clear').click()")
    yield
    x, y, width, height = _box(tab, ".easel canvas")

    def place(along: float) -> tuple[float, float]:
        i = min(int(along), len(_STROKE) - 2)
        (u, v), (next_u, next_v) = _STROKE[i : i + 2]
        part = along - i
        return (
            x + width * (u + part * (next_u - u) - 0.5),
            y + height * (v + part * (next_v - v) - 0.5),
        )

    tab.pointer("Pressed", *place(0), pressed=True)
    for i in range(1, _STEPS + 1):
        tab.pointer("Moved", *place(i * (len(_STROKE) - 1) / _STEPS), pressed=True)
        yield
    tab.pointer("Released", *place(len(_STROKE) - 1))
    tab.evaluate("new Promise(done => setTimeout(done, 400))")
    yield from [None] * 8


def _box(tab: Page, selector: str) -> list[float]:
    """Returns the middle of an element, its width and its height, in the window."""
    box = f"document.querySelector('{selector}').getBoundingClientRect()"
    found: list[float] = tab.evaluate(
        f"(b => [b.x + b.width / 2, b.y + b.height / 2, b.width, b.height])({box})"
    )
    return found


def _frame(tab: Page, clip: dict[str, float]) -> Image.Image:
    tab.evaluate("new Promise(done => requestAnimationFrame(() => setTimeout(done)))")
    image = Image.open(io.BytesIO(tab.screenshot(clip=clip)))
    size = _WIDTH, round(_WIDTH * image.height / image.width)
    return image.convert("RGB").resize(size, Image.Resampling.LANCZOS)


def main() -> None:
    page, picture = (Path(name).absolute() for name in sys.argv[1:])
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        first, *others = record(page, Path(folder))
    options = {"duration": _MILLISECONDS, "loop": 0, "quality": 70, "method": 6}
    first.save(picture, save_all=True, append_images=others, **options)
    print(f"{picture}: {picture.stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    main()
