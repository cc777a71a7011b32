"""How the training of a run ended, in a word: the column ``status``."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from vae_jax.diagnostics import ONE_BIT

DIVERGED, FAILED = "diverged", "failed"
# Of runs whose score says nothing of their likelihood: they enter no mean, and lead
# nothing.
LOST = {
    FAILED: "worse by more than two standard errors than a constant output, or than a "
    "guess that calls all images equally probable, or at twice the bits of that guess",
    DIVERGED: "no finite score",
}

_MOST_BITS = 8  # of a guess, for a value of an image

# What runs of earlier versions say claims more than they knew.
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
    """Returns what is known of a run.

    ``diverged``: score or ELBO is not finite. ``failed``: the model is worse than one
    that has learned nothing, by more than two standard errors, which are paired over
    test images. One that equals the best constant output, within a bit an image, has
    collapsed, and did not fail: not even where that output is no better than a guess.
    One that takes twice as many bits as a guess failed, even where a few images make
    both its mean and the standard error.
    Else why training ended: ``patience ended``, or ``schedule ended`` after all epochs.
    Whether more epochs would gain anything cannot be told from the run: with a learning
    rate that decays, every curve ends flat.

    Args:
        score: mean over test images.
        elbo: the same of the ELBO.
        over_guess: by how much the score of each test image exceeds that of a guess
            that calls all images equally probable, in scores of that guess.
        over_constant: the same of the best constant output, nats; NaN where it is not
            known.
        epochs: that were trained.
        num_epochs: that were allowed.
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
    """Whether a mean exceeds 0 by more than two standard errors."""
    if excess.size < 2:
        return False
    return bool(excess.mean() > 2 * excess.std(ddof=1) / np.sqrt(excess.size))


def in_present_words(row: Mapping[str, Any]) -> str:
    """Returns the status of a row of this or an earlier version as this one says it.

    Earlier versions did not know models that failed. Theirs are told by the constant
    output alone, and by an error that is not paired, as its scores of the images were
    not kept.
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
