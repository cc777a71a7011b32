"""The stored scores of each test image, and those of two kinds of models as pairs."""

from collections.abc import Callable, Iterable

import numpy as np

from experiments.files.reading import cannot_read
from experiments.messages.errors import FolderError
from experiments.report.members import Member
from experiments.runs.folder import RunFolder
from vae_jax import views

# Scores of test images by member, smaller is better; None where they cannot be read.
Scores = Callable[[Member], np.ndarray | None]


def read_scores(
    folder: RunFolder, member: Member, measure: str = "log_px"
) -> np.ndarray:
    """Returns the scores of a member's test images in their order, ``[M]``.

    They are in the unit of the member: nats or bits/dim, smaller is better.

    Args:
        folder: the run folder.
        member: the member.
        measure: the array of ``arrays.safetensors`` that is scored: ``log_px``, or
            ``elbo``, the bound in its place.

    Raises:
        FolderError: they are damaged, missing or of another run.
    """
    arrays = folder.members.arrays(member.run)
    try:
        scores = views.scores(
            member.view,
            arrays[f"test/{measure}"],
            arrays["picture/originals"][0].size,
            int(arrays["picture/levels"]),
        )
        if scores.shape != (member.num_test_images,):
            raise ValueError(
                f"it has scores {list(scores.shape)} of {member.num_test_images} images"
            )
    except Exception as error:  # Damaged arrays may be of any kind.
        own = folder.path / "members" / member.run
        remedy = f"delete {own} and repeat the command that trained it"
        raise cannot_read(own / "arrays.safetensors", repr(error), remedy) from error
    return scores


def if_readable(folder: RunFolder, measure: str) -> Scores:
    """Returns a function that reads the scores of a member once, or gives None.

    Args:
        folder: the run folder.
        measure: of the scores' group: 'score', or 'bound' for the −ELBO.
    """
    stored = {"score": "log_px", "bound": "elbo"}[measure]
    known: dict[str, np.ndarray | None] = {}

    def scores(member: Member) -> np.ndarray | None:
        if member.run not in known:
            try:
                known[member.run] = read_scores(folder, member, stored)
            except FolderError:
                known[member.run] = None
        return known[member.run]

    return scores


def paired(
    first: Iterable[Member], second: Iterable[Member], scores: Scores
) -> np.ndarray | None:
    """Returns the scores of two kinds of models, ``[2, seeds, images]``.

    Args:
        first: members that differ in their seed only.
        second: those of the other kind; seeds that are not common are left out.
        scores: gives those of a member.

    Returns:
        The scores; None if some cannot be read, or are of other images.
    """
    by_seed = [{m.seed: m for m in members} for members in (first, second)]
    seeds = sorted(set.intersection(*map(set, by_seed)))
    found = [[scores(members[seed]) for seed in seeds] for members in by_seed]
    sizes = {None if row is None else len(row) for rows in found for row in rows}
    return None if None in sizes or len(sizes) != 1 else np.array(found)
