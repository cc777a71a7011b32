"""Rows of made-up sweeps, for tests of tables, charts and sentences."""

import itertools

import pytest

from experiments.report.groups import group_members
from experiments.report.members import members_of

VIEWS = {"bernoulli": "binary", "laplace": "continuous"}


def row(score=3.0, **point):
    """Returns a row of results.

    Args:
        score: its score.
        **point: value by axis, in the order of the run's name; and other columns.
    """
    columns = {
        "dataset": "digits",
        "likelihood": "categorical",
        "latent_dim": 2,
        "beta": 1.0,
        "seed": 0,
        "score_se": 0.01,
        "effective_sample_size": 40.0,
        "largest_weight": 0.1,
        "rate": 10.0,
        "distortion": 80.0,
        "active_units": 2.0,
        "status": "schedule ended",
        "num_test_images": 297,
        "epochs": 100,
    }
    axes = {name: value for name, value in point.items() if name not in COLUMNS}
    own = {name: value for name, value in point.items() if name not in axes}
    found = columns | own | {n: v for n, v in axes.items() if n in columns}
    view = VIEWS.get(found["likelihood"], "levels")
    return {
        "run": ",".join(f"{axis}={value}" for axis, value in axes.items()) or "model",
        "view": view,
        "unit": "nats" if view == "binary" else "bits/dim",
        "score": score,
        **found,
    }


# Columns that ``row`` takes and that are not axes.
COLUMNS = {
    *("score_se", "effective_sample_size", "largest_weight", "rate", "distortion"),
    *("active_units", "status", "num_test_images", "epochs", "view", "latents", "run"),
    *("importance_bias", "log_px_se", "density_error", "dataset"),
}


def product(score, **axes):
    """Returns the rows of a grid; ``score`` is called with the value on each axis."""
    points = (
        dict(zip(axes, v, strict=True)) for v in itertools.product(*axes.values())
    )
    return [row(score(**point), **point) for point in points]


def group_of(*rows, config=None):
    """Returns the only group of rows."""
    (group,) = group_members(members_of(rows, pytest.fail, config))
    return group
