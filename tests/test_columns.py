"""Tests of the table of columns, and of the page that explains them."""

import math
from pathlib import Path

import pytest

from experiments.evaluation import columns
from experiments.report.columns import page

ROOT = Path(__file__).parents[1]
BY_NAME = {column.name: column for column in columns.RESULTS}


def test_the_committed_page_is_what_its_command_prints():
    remedy = "run: python -m experiments.report.columns > docs/columns.md"
    assert (ROOT / "docs" / "columns.md").read_text() == page(), remedy


def test_every_table_names_a_column_once_and_has_the_run_as_a_key():
    for table, declared in columns.TABLES.items():
        names = [column.name for column in declared]
        assert len(set(names)) == len(names)
        assert columns.keys(table)[0] == "run"


def test_a_standard_error_follows_its_mean_and_shares_its_format():
    names = list(BY_NAME)
    assert names[names.index("score") + 1] == "score_se"
    shown = {column.name: column for column in columns.SHOWN}
    assert shown["score"].format == shown["score_se"].format == "score"
    assert (shown["score"].unit, shown["score_se"].unit) == ("score", "")
    assert "log_px_se" not in shown


def test_a_row_of_another_version_is_put_in_order():
    row = {"seed": 1, "of a later version": 2, "run": "a"}
    assert list(columns.in_order(row)) == ["run", "seed", "of a later version"]
    assert columns.in_order(row) == row


@pytest.mark.parametrize(
    ("name", "row", "value"),
    [
        ("rate", {}, math.nan),
        ("rate", {"rate": 2}, 2.0),
        ("epochs", {"epochs": math.nan}, math.nan),
        ("status", {}, ""),
        ("latent_dim", {"latent_dim": 4}, 4),
        ("latent_dim", {}, ValueError),
        ("latent_dim", {"latent_dim": math.inf}, OverflowError),
        ("rate", {"rate": None}, math.nan),
        ("epochs", {"epochs": None}, TypeError),
    ],
)
def test_a_value_is_read_as_its_column_says(name, row, value):
    if isinstance(value, type):
        with pytest.raises(value):
            BY_NAME[name].read(row)
    else:
        read = BY_NAME[name].read(row)
        assert type(read) is type(value)
        assert read == pytest.approx(value, nan_ok=True)


def test_only_numbers_that_are_measured_may_be_missing_in_a_record():
    assert type(None) in BY_NAME["score"].types
    assert all(type(None) not in BY_NAME[name].types for name in ("seed", "run"))
