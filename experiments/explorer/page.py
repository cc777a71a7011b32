"""The explorer as HTML: chosen models of a run folder, in one page that needs no other.

    found = explore(folder, {run: "Laplace with 2 latents"}, images)
    write_atomically(path, page(found, "Digits"))

The page holds the models' programs and parameters, and test images. Its scripts run
them; they load nothing, and a content security policy forbids it. A report embeds the
same section.
"""

import base64
import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jinja2
import numpy as np
from markupsafe import Markup

from experiments.data.sources import Split
from experiments.evaluation.stored_arrays import class_names
from experiments.explorer import models, programs
from experiments.explorer.programs import encoded
from experiments.files.templates import templates
from experiments.files.tensors import Arrays
from experiments.messages.errors import CommandError, one_line
from experiments.messages.wording import plain_label
from experiments.runs.folder import RunFolder
from experiments.runs.trained import StoredModel, stored_model
from experiments.settings.grid import Run
from vae_jax import views
from vae_jax.model import num_parameters

MOST_BYTES = 6_000_000  # of a page: it can be sent by mail
# Stands near the start of a page that holds an explorer alone.
MARK = '<meta name="generator" content="vae_jax.explore">'
_MOST_POINTS = 500
_MOST_POINT_BYTES = 1_000_000
_PARAMETER_BYTES = 2 * 4 / 3  # half precision, in base64
_FRAME_BYTES = 100_000  # of the scripts and styles, at most

# Scripts, each of which uses those before it.
_FILES = ("latents", "elements", "model", "map", "panel", "easel", "explorer")

FOLDER = Path(__file__).parent


class Explorer(NamedTuple):
    """What a page shows.

    Attributes:
        data: models and test images as JSON without ``<``; '' if there is no model.
        left_out: a line for each model that the page leaves out.
    """

    data: str
    left_out: list[str]

    @property
    def scripts(self) -> list[Markup]:
        """The scripts that show the data."""
        if not self.data:
            return []
        own = "\n".join((FOLDER / f"{name}.js").read_text("utf-8") for name in _FILES)
        whole = f"(() => {{\n'use strict';\n{own}}})();"
        return [Markup(programs.engine()), Markup(whole)]


def explore(
    folder: RunFolder,
    chosen: Mapping[Run, str],
    images: Split | None = None,
    most_bytes: int = MOST_BYTES,
) -> Explorer:
    """Returns the explorer of some finished runs.

    Args:
        folder: their folder.
        chosen: the runs, those that matter most first, and a title for each.
        images: the test images in their order; None: those that the runs stored.
        most_bytes: of the page with models, images, scripts and styles. A model that
            does not fit is left out.
    """
    left_out, found = list[str](), list[str]()
    shown: dict[str, Any] = {}
    is_binary = False
    for run, title in chosen.items():
        try:
            attempt = folder.members.result(run.name)["attempt"]
            own = stored_model(folder, run, attempt)
            arrays = folder.members.arrays(run.name)
            if not shown:
                points = _Points.of(own, arrays, images)
                shown = points.facts()
                room = most_bytes - len(_json(shown)) - _FRAME_BYTES
            facts = _described_in(room, own, title, arrays, points)
        except Exception as error:  # A part of one's own may be of any kind.
            left_out.append(f"{title} is left out: {_reason(error)}.")
            continue
        found.append(facts)
        is_binary |= own.trained.model.likelihood.view == "binary"
        room -= len(facts)
    if not found:
        return Explorer("", left_out)
    if not is_binary:
        del shown["binary"]
    data = f'{{"points":{_json(shown)},"models":[{",".join(found)}]}}'
    return Explorer(data, left_out)


def _reason(error: Exception) -> str:
    """Returns why a model is left out, without a full stop."""
    if isinstance(error, CommandError | programs.MissingError):
        return str(error).removesuffix(".")
    return f"it cannot run in a page ({error!r})"


def _json(value: Any) -> str:
    """Returns JSON that neither ends a script element nor starts another."""
    return json.dumps(value, separators=(",", ":")).replace("<", "\\u003c")


class _Points(NamedTuple):
    """Test images that the models of a page share.

    Attributes:
        images: the first of the test images, integers, ``[n, D]``.
        levels: number of intensities.
        labels: their places among ``kinds``, ``[n]``; None without labels.
        kinds: the labels that there are, by name.
    """

    images: np.ndarray
    levels: int
    labels: np.ndarray | None
    kinds: dict[int, str]

    @classmethod
    def of(cls, own: StoredModel, arrays: Arrays, images: Split | None) -> "_Points":
        """Returns points for the models of a sweep.

        Args:
            own: one of these models.
            arrays: those that its run stored.
            images: the test images; None: those that are stored.
        """
        stored = arrays["picture/originals"]
        shown = stored if images is None else images.images
        fitting = max(1, _MOST_POINT_BYTES // stored[0].size)
        count = min(len(shown), _MOST_POINTS, fitting)
        model = own.trained.model
        rows = views.as_rows(shown[:count], model.image_shape, model.likelihood.levels)
        labels = arrays.get("test/labels")
        if labels is None:
            return cls(rows, model.likelihood.levels, None, {})
        kinds = np.unique(labels)
        places = np.searchsorted(kinds, labels[:count])
        return cls(rows, model.likelihood.levels, places, _named(kinds, arrays))

    def facts(self) -> dict[str, Any]:
        """Returns them for the page, with the draw that models of binary images see."""
        x = views.shared_draw("binary", views.TEST, self.images, self.levels)
        return {
            "count": len(self.images),
            "image": encoded(self.images, np.uint8),
            "label": None if self.labels is None else self.labels.tolist(),
            "names": list(self.kinds.values()),
            "binary": encoded(np.packbits(np.asarray(x, bool)), np.uint8),
        }


def _named(labels: Iterable[int], arrays: Arrays) -> dict[int, str]:
    """Returns the name of each label, or its number if it has none.

    Args:
        labels: the labels.
        arrays: those that a run stored, with the names.
    """
    names = dict(enumerate(class_names(arrays)))
    return {k: plain_label(one_line(names.get(k, str(k)))) for k in map(int, labels)}


def _described_in(
    room: int, own: StoredModel, title: str, arrays: Arrays, points: _Points
) -> str:
    """Returns a model for the page as JSON of at most ``room`` bytes.

    Args:
        room: the most bytes.
        own: the model.
        title: what it is, in words.
        arrays: those that its run stored.
        points: test images.

    Raises:
        MissingError: the model does not fit, or as in ``models.describe``.
    """
    needed, facts = int(num_parameters(own.trained.params) * _PARAMETER_BYTES), ""
    if needed <= room:  # Else it is not described, which takes time.
        facts = _json(_described(own, title, arrays, points))
        needed = len(facts)
    if needed > room:
        raise programs.MissingError(
            f"it has {needed / 1e6:.1f} MB, and the page has room for "
            f"{max(room, 0) / 1e6:.1f} MB more: experiments.explore makes a larger one "
            "by --megabytes"
        )
    return facts


def _described(
    own: StoredModel, title: str, arrays: Arrays, points: _Points
) -> dict[str, Any]:
    """Returns a model for the page; arguments as for ``_described_in``."""
    model = own.trained.model
    classes = list(_named(own.classes, arrays).values()) if own.classes else None
    facts = models.describe(own.trained, title=title, classes=classes)
    if own.classes:  # Test images may lack some, and another model has none.
        places = {label: place for place, label in enumerate(own.classes)}
        facts["class_of"] = [places.get(label) for label in points.kinds]
    means = arrays["test/posterior_mean"][:, : model.latent_dim]
    count = len(points.images)
    has_directions = means.shape[-1] > 2 and len(means) > 1  # as one mean has none
    if has_directions and "encode" in facts["programs"]:
        facts["directions"] = _directions(means)
    if "encode" not in facts["programs"]:
        facts["mean"] = encoded(means[:count])
    if "bound" not in facts["programs"]:
        scores = views.scores(
            model.likelihood.view,
            arrays["test/elbo"][:count],
            model.num_pixels,
            model.likelihood.levels,
        )
        facts["bound"] = encoded(scores)
    return facts


def _directions(means: np.ndarray) -> dict[str, str]:
    """Returns the center of posterior means, and their first two principal axes."""
    center = means.mean(axis=0)
    _, _, axes = np.linalg.svd(means - center, full_matrices=False)
    return {"center": encoded(center), "axes": encoded(axes[:2])}


# --- HTML -----------------------------------------------------------------------------


def content_policy(scripts: Sequence[str]) -> str:
    """Returns a content security policy: the page loads nothing and runs these scripts.

    Args:
        scripts: the texts of its script elements.
    """
    digests = (hashlib.sha256(script.encode()).digest() for script in scripts)
    hashes = [f"'sha256-{base64.b64encode(digest).decode()}'" for digest in digests]
    allowed = " ".join(hashes) or "'none'"
    return "; ".join(
        (
            "default-src 'none'",
            "img-src data:",
            "style-src 'unsafe-inline'",
            f"script-src {allowed}",
            "base-uri 'none'",
            "form-action 'none'",
        )
    )


def pages(*folders: Path) -> jinja2.Environment:
    """Returns the templates of pages that may embed an explorer, with its own ones."""
    found = templates(*folders, FOLDER, autoescape=True)
    found.globals["content_policy"] = content_policy
    return found


def page(explorer: Explorer, title: str) -> str:
    """Returns a page that holds an explorer alone."""
    template = pages().get_template("page.html.jinja")
    return template.render(explorer=explorer, title=title, mark=Markup(MARK))
