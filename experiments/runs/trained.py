"""Loads a trained model of a run folder."""

import os
from typing import Any

import numpy as np

from experiments.evaluation.status import DIVERGED
from experiments.evaluation.stored_arrays import class_names
from experiments.files.paths import expand_user
from experiments.messages.errors import FolderError, SettingsError, one_line
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
        labels: of the images, ``[N]``, numbers, or names if the classes of the model
            have names; None if the images have none.
        images: name of the images, for messages.

    Returns:
        The classes, 0 ... K - 1, ``[N]``; None if the model has no classes.

    Raises:
        FolderError: the stored classes of the run are damaged.
        SettingsError: a label is missing, or no training image had it.
    """
    classes = _classes(folder, run)
    if not classes:
        return None
    names = list(classes.values()) if all(classes.values()) else []
    are_names = labels is not None and labels.dtype.kind == "U" and bool(names)
    places: dict[Any, int] = {
        label: place for place, label in enumerate(names if are_names else classes)
    }
    if labels is None:
        why = f"they have no labels, and the model {run.name} needs the class of each"
    elif not are_names and not np.issubdtype(labels.dtype, np.integer):
        why = f"their labels are no whole numbers, but {labels.dtype}"
    elif unknown := [label for label in labels.tolist() if label not in places]:
        why = f"label {one_line(unknown[0])} is no class of the model {run.name}"
    else:
        return np.array([places[label] for label in labels.tolist()])
    shown = listed([one_line(label) for label in names or classes], " ")
    raise SettingsError(
        f"{images}: {why}. Choose images with labels of {shown}, or leave runs with "
        "condition_on out by --only."
    )


def _classes(folder: RunFolder, run: Run) -> dict[int, str]:
    """Returns the names of the classes of a run's model, by label, in order.

    The names are '' if the labels have none, or if two have the same. A model without
    classes has none.
    """
    if not run.settings.model.condition_on:
        return {}
    arrays = folder.members.arrays(run.name)
    classes = arrays.get("classes", np.zeros(0))
    try:
        names = class_names(arrays)
    except ValueError:
        classes = np.zeros(0)
    if classes.ndim != 1 or len(classes) < 2:
        raise FolderError(
            f"the stored classes of {run.name} in {folder.path} are not those of a "
            "run. Train it again in another --workdir."
        )
    named = dict(enumerate(names)) if len(set(names)) == len(names) else {}
    return {label: named.get(label, "") for label in classes.tolist()}
