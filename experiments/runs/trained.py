"""Loads a trained model of a run folder."""

import os
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import numpy as np

from experiments.evaluation.status import DIVERGED
from experiments.evaluation.stored_arrays import class_names
from experiments.files.paths import expand_user
from experiments.files.tensors import Arrays
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
    return stored_model(folder, chosen, result["attempt"]).trained


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


class StoredModel(NamedTuple):
    """The model of a finished run, and the classes that it knows.

    Attributes:
        run: name of the run.
        trained: its model.
        classes: names of the classes by label, in the order of the labels. The names
            are '' if the labels have none, or if two have the same. Empty for a model
            without classes.
    """

    run: str
    trained: TrainedModel
    classes: Mapping[int, str]

    def class_index(self, labels: np.ndarray | None, images: str) -> np.ndarray | None:
        """Returns the classes of images as the model numbers them.

        Args:
            labels: of the images, ``[N]``, numbers, or names if the classes have names;
                None if the images have none.
            images: name of the images, for messages.

        Returns:
            The classes, 0 ... K - 1, ``[N]``; None if the model has no classes.

        Raises:
            SettingsError: a label is missing, or no training image had it.
        """
        if not self.classes:
            return None
        names = list(self.classes.values()) if all(self.classes.values()) else []
        are_names = labels is not None and labels.dtype.kind == "U" and bool(names)
        known: Iterable[Any] = names if are_names else self.classes
        places = {label: place for place, label in enumerate(known)}
        if labels is None:
            why = (
                f"they have no labels, and the model {self.run} needs the class of each"
            )
        elif not are_names and not np.issubdtype(labels.dtype, np.integer):
            why = f"their labels are no whole numbers, but {labels.dtype}"
        elif unknown := [label for label in labels.tolist() if label not in places]:
            why = f"label {one_line(unknown[0])} is no class of the model {self.run}"
        else:
            return np.array([places[label] for label in labels.tolist()])
        shown = listed([one_line(label) for label in names or self.classes], " ")
        raise SettingsError(
            f"{images}: {why}. Choose images with labels of {shown}, or leave runs "
            "with condition_on out by --only."
        )


def stored_model(folder: RunFolder, run: Run, attempt: int) -> StoredModel:
    """Returns the model of a finished run.

    Args:
        folder: the run folder.
        run: one of its runs.
        attempt: number of restarts of the run, as in its row.

    Raises:
        FolderError: its files are damaged.
    """
    settings, arrays = run.settings, folder.members.arrays(run.name)
    where = f"{run.name} in {folder.path}"
    classes = _classes(arrays, where) if settings.model.condition_on else {}
    image_shape, levels = _image_shape_and_levels(arrays, where)
    model = settings.model.build(
        image_shape, levels, len(classes), settings.has_classifier
    )
    params = folder.members.params(run.name, param_shapes(model))
    (key,) = member_keys(np.array([settings.seed], np.uint32), attempt)
    sizes = settings.evaluation
    trained = TrainedModel(
        model, params, key, num_samples=sizes.num_samples, chunk=sizes.chunk
    )
    return StoredModel(run.name, trained, classes)


def _image_shape_and_levels(
    arrays: Arrays, where: str
) -> tuple[tuple[int, int, int], int]:
    """Returns shape and number of levels of the images that a run was trained on.

    Args:
        arrays: those that the run stored.
        where: name and folder of the run, for messages.
    """
    originals, levels = (
        arrays.get(f"picture/{name}") for name in ("originals", "levels")
    )
    if originals is None or levels is None or originals.ndim != 4 or levels.ndim:
        raise FolderError(
            f"the stored pictures of {where} are not those of a run: the shape of its "
            "images is not known. Train it again in another --workdir."
        )
    height, width, channels = originals.shape[1:]
    return (height, width, channels), int(levels)


def _classes(arrays: Arrays, where: str) -> dict[int, str]:
    """Returns ``StoredModel.classes`` of a model with classes.

    Args:
        arrays: those that its run stored.
        where: name and folder of the run, for messages.
    """
    classes = arrays.get("classes", np.zeros(0))
    try:
        names = class_names(arrays)
    except ValueError:
        classes = np.zeros(0)
    if classes.ndim != 1 or len(classes) < 2:
        raise FolderError(
            f"the stored classes of {where} are not those of a run. Train it again in "
            "another --workdir."
        )
    named = dict(enumerate(names)) if len(set(names)) == len(names) else {}
    return {label: named.get(label, "") for label in classes.tolist()}
