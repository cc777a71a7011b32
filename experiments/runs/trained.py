"""Loads a trained model of a run folder."""

import os
from typing import Any

import numpy as np

from experiments.evaluation.status import DIVERGED
from experiments.files.paths import expand_user
from experiments.messages.errors import FolderError, SettingsError
from experiments.messages.wording import counted, listed
from experiments.runs import loading
from experiments.runs.folder import RunFolder
from experiments.settings import grid
from experiments.settings.grid import Run
from vae_jax.population import member_keys, param_shapes
from vae_jax.trained import TrainedModel


def load(workdir: str | os.PathLike[str], run: str = "", **axes: Any) -> TrainedModel:
    """Returns a trained model of a run folder.

        from experiments import load
        trained = load("runs/sweep", likelihood="laplace", latent_dim=8, seed=0)

    The data set is not read. With the images of the test split, all of them and in
    order, the model gives the numbers of ``results.csv`` up to the rounding of float32.

    A model with parts of your own needs the module that registers them to be imported
    first.

    Args:
        workdir: the folder of a sweep or of one model.
        run: name of the run; not needed if the values of ``axes`` fit one run alone, or
            if there is one run.
        **axes: values of ``seed`` and of fields of ``model`` and ``training``.

    Raises:
        DataError: the folder is an address, or below an unknown home folder.
        FolderError: there is no such folder, or the run is not finished, has diverged,
            or its files are damaged.
        SettingsError: no run fits, or several do; the message lists them.
    """
    folder = RunFolder.open(expand_user(os.fspath(workdir)))
    runs = loading.runs_without_images(folder)
    chosen = grid.one_of(runs, run, axes)
    _refuse_unfinished(folder, chosen, runs)
    result = folder.members.result(chosen.name)
    if result["status"] == DIVERGED:
        raise FolderError(
            f"the run {chosen.name} has diverged: its model cannot be used. Train it "
            "with a smaller learning_rate, or load another run."
        )
    return trained_model(folder, chosen, result["attempt"])


def trained_model(folder: RunFolder, run: Run, attempt: int) -> TrainedModel:
    """Returns the model of a finished run.

    Args:
        folder: the run folder.
        run: one of its runs.
        attempt: number of restarts of the run, as in its row.

    Raises:
        FolderError: its files are damaged.
    """
    settings = run.settings
    model = settings.model.build(
        *image_shape_and_levels(folder, run),
        len(_classes(folder, run)),
        settings.has_classifier,
    )
    params = folder.members.params(run.name, param_shapes(model))
    (key,) = member_keys(np.array([settings.seed], np.uint32), attempt)
    sizes = settings.evaluation
    return TrainedModel(
        model, params, key, num_samples=sizes.num_samples, chunk=sizes.chunk
    )


def _refuse_unfinished(folder: RunFolder, chosen: Run, runs: tuple[Run, ...]) -> None:
    finished = folder.members.finished()
    if chosen.name in finished:
        return
    there = [run.name for run in runs if run.name in finished]
    remedy = f"or load {listed(there, ' or ')}" if there else "which trains it"
    raise FolderError(
        f"the run {chosen.name} is not finished: {folder.path} holds "
        f"{counted(len(there), 'finished run')} of {len(runs)}. Repeat the command in "
        f"its environment.json, {remedy}."
    )


def image_shape_and_levels(
    folder: RunFolder, run: Run
) -> tuple[tuple[int, int, int], int]:
    """Returns shape and number of levels of the images that a run was trained on."""
    arrays = folder.members.arrays(run.name)
    originals, levels = (
        arrays.get(f"picture/{name}") for name in ("originals", "levels")
    )
    if originals is None or levels is None or originals.ndim != 4 or levels.ndim:
        raise FolderError(
            f"the stored pictures of {run.name} in {folder.path} are not those of a "
            "run: the shape of its images is not known. Train it again in another "
            "--workdir."
        )
    height, width, channels = originals.shape[1:]
    return (height, width, channels), int(levels)


def class_index(
    folder: RunFolder, run: Run, labels: np.ndarray | None, images: str
) -> np.ndarray | None:
    """Returns the classes of images as the model of a run numbers them.

    Args:
        folder: the run folder.
        run: one of its runs.
        labels: of the images, ``[N]``; None if they have none.
        images: name of the images, for messages.

    Returns:
        The classes, 0 ... K - 1, ``[N]``; None if the model has no classes.

    Raises:
        FolderError: the stored classes of the run are damaged.
        SettingsError: a label is missing, or no training image had it.
    """
    classes = _classes(folder, run)
    if not len(classes):
        return None
    if labels is None:
        why = f"they have no labels, and the model {run.name} needs the class of each"
    elif not np.issubdtype(labels.dtype, np.integer):
        why = f"their labels are no whole numbers, but {labels.dtype}"
    elif not (known := np.isin(labels, classes)).all():
        why = f"label {labels[~known][0]} is no class of the model {run.name}"
    else:
        return np.searchsorted(classes, labels)
    names = listed([*map(str, classes)], " ")
    raise SettingsError(
        f"{images}: {why}. Choose images with labels of {names}, or leave runs with "
        "condition_on out by --only."
    )


def _classes(folder: RunFolder, run: Run) -> np.ndarray:
    """Returns the labels of the classes of a run's model; none without classes."""
    if not run.settings.model.condition_on:
        return np.zeros(0, np.int32)
    classes = folder.members.arrays(run.name).get("classes")
    if classes is None or classes.ndim != 1 or len(classes) < 2:
        raise FolderError(
            f"the stored classes of {run.name} in {folder.path} are not those of a "
            "run. Train it again in another --workdir."
        )
    return classes
