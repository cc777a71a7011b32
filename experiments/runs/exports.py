"""The folder of an export: files for papers and other programs, from a run folder.

::

    export.json                  the command, the runs, and what their numbers depend on
    results.tex, results.md      tables of scores
    figures/                     charts, as PDF and SVG
    members/<run>/latents.npz    E_q[z|x] of images
                  scores.csv     -log p(x) and the ELBO of each image (given its class,
                                 if the model has classes)
                  reconstructions.npz
                  encoder.jax, decoder.jax

Each file is written whole, in place of an earlier one.
"""

import itertools
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from experiments.data.sources import Split
from experiments.files.reading import cannot_read, parse_json, read_bytes
from experiments.files.sealed import to_json
from experiments.files.tables import write_table
from experiments.files.writing import (
    UNFINISHED,
    atomically,
    refusing_to_write,
    write_atomically,
)
from experiments.messages.errors import FolderError, one_line
from experiments.messages.wording import plain_label
from experiments.runs import environment
from experiments.runs.folder import RunFolder
from experiments.settings.fingerprint import machine_settings
from vae_jax import views
from vae_jax.trained import TrainedModel

FACTS = "export.json"


def earlier_runs(folder: Path, source: RunFolder) -> dict[str, str]:
    """Returns the runs that a folder has exports of, and their fingerprints.

    Args:
        folder: the folder of the export, new or used before.
        source: the run folder.

    Raises:
        FolderError: it is neither new, nor empty, nor an export of this run folder.
    """
    facts = folder / FACTS
    with refusing_to_write(folder):
        if facts.is_file():
            return _runs(facts, source)
        if not folder.exists():
            return {}
        names = (path.name for path in folder.iterdir())
        other = next((name for name in names if not name.endswith(UNFINISHED)), None)
    if other is not None:
        raise FolderError(
            f"{folder} holds {other!r} and no {FACTS}: it is no export. Choose an "
            "empty or new folder as --output."
        )
    return {}


def _runs(path: Path, source: RunFolder) -> dict[str, str]:
    """Returns the runs that the file of an export names.

    Raises:
        FolderError: the file is damaged, or the export is of another run folder.
    """
    remedy = "choose an empty or new folder as --output"
    try:
        facts = parse_json(read_bytes(path).decode())
        workdir, runs = str(facts["workdir"]), dict(facts["runs"])
    except Exception as error:  # Damage raises errors of any class.
        raise cannot_read(path, one_line(error), remedy) from error
    if workdir != _workdir(source):
        raise FolderError(
            f"{path.parent} holds an export of {one_line(workdir)}. Remove it, or "
            f"{remedy}."
        )
    return runs


def _workdir(source: RunFolder) -> str:
    return str(source.path.resolve())


def begin(
    folder: Path, source: RunFolder, names: Iterable[str], earlier: Mapping[str, str]
) -> None:
    """Writes the file that says what an export is of, and marks its folder.

    Args:
        folder: the folder of the export.
        source: the run folder.
        names: of the runs that are exported.
        earlier: see ``earlier_runs``.

    Raises:
        FolderError: the file cannot be written.
    """
    settings = machine_settings(source.config())
    facts = {
        "workdir": _workdir(source),
        "runs": {**earlier, **{name: source.owners[name] for name in names}},
        **environment.environment(source.images(), settings),
    }
    write_atomically(folder / FACTS, to_json(facts))


def write_arrays(
    folder: Path,
    trained: TrainedModel,
    split: Split,
    class_names: Sequence[str] = (),
    y: np.ndarray | None = None,
) -> None:
    """Writes latents, scores and reconstructions of images by one model.

    Args:
        folder: the folder of the run.
        trained: its model.
        split: images that the model accepts, and labels.
        class_names: of the labels 0, 1, ..., if they have names.
        y: the classes of the images as the model numbers them; None without classes.

    Raises:
        FolderError: a file cannot be written.
    """
    likelihood, num_pixels = trained.model.likelihood, trained.model.num_pixels
    images, labels = split
    images = views.as_rows(images, trained.model.image_shape, likelihood.levels)
    images = images.reshape(-1, *trained.model.image_shape)
    classes = {} if labels is None else {"labels": labels}
    if class_names:
        classes["class_names"] = np.array(class_names)
    _save(folder / "latents.npz", posterior_mean=trained.encode(images, y), **classes)
    _save(
        folder / "reconstructions.npz",
        images=images,
        reconstructions=trained.reconstruct(images, y).reshape(images.shape),
    )
    estimate = trained.importance_estimate(images, labels=y)
    numbers = {
        "score": views.scores(
            likelihood.view, estimate.log_px, num_pixels, likelihood.levels
        ),
        "unit": itertools.repeat(trained.unit, len(images)),
        "log_px": estimate.log_px,
        "elbo": estimate.elbo,
        "effective_sample_size": estimate.effective_sample_size,
    }
    if labels is not None:
        numbers["label"] = [_text(label) for label in labels]
        if class_names:
            numbers["class"] = [class_names[label] for label in labels]
    rows = zip(*numbers.values(), strict=True)
    write_table(
        folder / "scores.csv",
        [
            {"index": index, **dict(zip(numbers, row, strict=True))}
            for index, row in enumerate(rows)
        ],
    )


def _text(label: Any) -> Any:
    """Returns a label that no spreadsheet takes for a formula."""
    return plain_label(one_line(label)) if isinstance(label, str) else label


def _save(path: Path, **arrays: Any) -> None:
    with atomically(path) as beside, beside.open("wb") as file:
        np.savez_compressed(file, **arrays)
