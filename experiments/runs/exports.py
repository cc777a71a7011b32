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
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from experiments.data.sources import Split
from experiments.files.sealed import to_json
from experiments.files.tables import write_table
from experiments.files.writing import (
    UNFINISHED,
    atomically,
    refusing_to_write,
    write_atomically,
)
from experiments.messages.errors import FolderError, one_line
from experiments.messages.wording import plain_name
from experiments.runs import environment
from experiments.runs.folder import RunFolder
from experiments.settings.fingerprint import machine_settings
from experiments.settings.grid import Run
from vae_jax import views
from vae_jax.trained import TrainedModel

FACTS = "export.json"


def refuse_other_files(folder: Path) -> None:
    """Refuses a folder that is neither new, nor empty, nor an export.

    Raises:
        FolderError: naming a file in it.
    """
    with refusing_to_write(folder):
        if (folder / FACTS).is_file() or not folder.exists():
            return
        names = (path.name for path in folder.iterdir())
        other = next((name for name in names if not name.endswith(UNFINISHED)), None)
    if other is not None:
        raise FolderError(
            f"{folder} holds {other!r} and no {FACTS}: it is no export. Choose an "
            "empty or new folder as --output."
        )


def begin(folder: Path, source: RunFolder, runs: Sequence[Run]) -> None:
    """Writes the file that says what an export is of, and marks its folder.

    Args:
        folder: the folder of the export.
        source: the run folder.
        runs: the runs that were chosen.

    Raises:
        FolderError: the file cannot be written.
    """
    settings = machine_settings(source.config())
    facts = {
        "workdir": str(source.path.absolute()),
        "runs": {run.name: source.owners[run.name] for run in runs},
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
    return plain_name(one_line(label)) if isinstance(label, str) else label


def _save(path: Path, **arrays: Any) -> None:
    with atomically(path) as beside, beside.open("wb") as file:
        np.savez_compressed(file, **arrays)
