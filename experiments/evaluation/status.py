"""The column ``status``: how the training of a run ended, in a word."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from vae_jax.diagnostics import ONE_BIT

DIVERGED, FAILED = "diverged", "failed"
# Runs whose score says nothing about their likelihood: no mean contains them, and they
# are never called best.
LOST = {
    FAILED: "worse by more than two standard errors than a constant output, or than a "
    "guess that calls all images equally probable, or at twice the bits of that guess",
    DIVERGED: "no finite score",
}

_MOST_BITS = 8  # that a guess needs for a value of an image

# Words of earlier versions, which claim more than was known.
_BEFORE = {"settled": "training ended", "epoch limit": "schedule ended"}


def status(
    *,
    score: float,
    elbo: float,
    over_guess: np.ndarray,
    over_constant: np.ndarray,
    epochs: int,
    num_epochs: int,
) -> str:
    """Returns the status of a run.

    ``diverged``: score or ELBO is not finite. ``failed``: the model is worse than one
    that has learned nothing, by more than two standard errors, which are paired over
    test images. A model within a bit per image of the best constant output has
    collapsed and did not fail, even if that output is no better than a guess. A model
    that needs twice as many bits as a guess failed, even if a few images make both its
    mean and its standard error.
    Otherwise the reason why training ended: ``patience ended``, or ``schedule ended``
    after all epochs. The run cannot tell whether more epochs would help: with a
    learning rate that decays, every curve ends flat.

    Args:
        score: mean over test images.
        elbo: mean over test images.
        over_guess: score of each test image minus the score of a guess that calls all
            images equally probable, divided by the latter, ``[M]``.
        over_constant: the same minus the score of the best constant output, nats,
            ``[M]``; NaN where that is not known.
        epochs: number of epochs that were trained.
        num_epochs: number of epochs that were allowed.
    """
    if not np.isfinite([score, elbo]).all():
        return DIVERGED
    has_collapsed = abs(over_constant.mean()) <= ONE_BIT
    is_hopeless = over_guess.size > 1 and over_guess.mean() > 1
    is_worse = _exceeds(over_constant) or _exceeds(over_guess) or is_hopeless
    if is_worse and not has_collapsed:
        return FAILED
    return "patience ended" if epochs < num_epochs else "schedule ended"


def _exceeds(excess: np.ndarray) -> bool:
    """Returns whether a mean exceeds 0 by more than two standard errors."""
    if excess.size < 2:
        return False
    return bool(excess.mean() > 2 * excess.std(ddof=1) / np.sqrt(excess.size))


def in_present_words(row: Mapping[str, Any]) -> str:
    """Returns the status of a row, also of an earlier version, in the present words.

    Earlier versions did not detect models that failed. Their rows are compared with the
    constant output only, and with an error that is not paired, because its score of
    each image was not kept.
    """
    word: str = row["status"]
    if word not in _BEFORE:
        return word
    over_constant = -row.get("log_px", math.nan) - row.get("floor", math.nan)
    error = row.get("log_px_se", math.nan)
    if over_constant > ONE_BIT and over_constant > 2 * error:
        return FAILED
    if row.get("bits_per_dim", math.nan) > 2 * _MOST_BITS:
        return FAILED
    return _BEFORE[word]


def by_status(rows: Sequence[Mapping[str, Any]]) -> dict[str, list[str]]:
    """Returns the names of the runs that failed or diverged, by which of these."""
    by_status = {
        status: [row["run"] for row in rows if row["status"] == status]
        for status in LOST
    }
    return {status: runs for status, runs in by_status.items() if runs}
