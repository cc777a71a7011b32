"""Tests of tables of scores: experiments.report.tables, and the terminal's."""

import re

import pytest

from experiments.report import tables
from experiments.report.groups import group_members
from experiments.report.members import members_of
from experiments.report.terminal import print_results
from tests.sweeps import row

SEEDS = (0, 1)


@pytest.fixture
def rows():
    """Returns two units; a setting lacks a seed, one failed, one weighs few samples."""
    lost = {"status": "failed"}
    found = [
        *(
            row(2.3 + s / 9, likelihood="categorical", latent_dim=2, seed=s)
            for s in SEEDS
        ),
        *(
            row(2.5 + s / 9, likelihood="categorical", latent_dim=8, seed=s)
            for s in SEEDS
        ),
        row(2.1, likelihood="laplace", latent_dim=2, seed=0, largest_weight=0.9),
        row(9.0, likelihood="laplace", latent_dim=2, seed=1, **lost),
        *(row(9.0, likelihood="laplace", latent_dim=8, seed=s, **lost) for s in SEEDS),
        *(row(90.0 + s, likelihood="bernoulli", latent_dim=2, seed=s) for s in SEEDS),
    ]
    return [{**each, "dataset": "my_50%|&#1"} for each in found]


def groups_of(rows):
    return group_members(members_of(rows, pytest.fail))


BEST, WITH_LOSS = "2.356 ± 0.079", "2.100 (1 failed)"


def test_markdown_has_every_number_and_says_what_the_marks_mean(rows):
    text = tables.markdown(groups_of(rows))
    lines = [line for line in text.splitlines() if line.startswith("|")]
    assert lines == [
        "| likelihood | latent size 2 | latent size 8 |",
        "| :--- | ---: | ---: |",
        f"| categorical | **{BEST}** | 2.556 ± 0.079 |",
        f"| Laplace † | {WITH_LOSS} | 2 failed |",
        "| likelihood | latent size 2 |",
        "| :--- | ---: |",
        "| Bernoulli | 90.50 ± 0.71 |",
    ]
    for words in (
        r"**-log p(x) of 297 test images of my\_50%\|&\#1, bits/dim, smaller is",
        "± standard deviation over up to 2 seeds; bold: lowest score where no seed is",
        "† upper bound, from a density; means leave out runs that failed or diverged\n",
        "\nFailed: worse by more than two standard errors than a constant output",
        "1 of 8 models got a score that rests on few importance weights",
        ", nats, smaller is better",
    ):
        assert words in text, words
    assert "Diverged" not in text


def test_axes_that_follow_from_others_have_no_column():
    grids = [("mlp", 200, 2.1), ("conv", 100, 2.2)]
    rows = [
        row(score, network=network, num_epochs=epochs, seed=0)
        for network, epochs, score in grids
    ]
    (group,) = groups_of(rows)
    table = tables.score_table(group, "*")
    assert [*table.rows, table.columns] == ["likelihood", "network", "latent size"]
    assert [line[1] for line, _ in table.lines] == ["mlp", "conv"]
    assert "other axes follow from these: num epochs" in table.notes


def test_beside_a_chain_the_mark_is_at_the_lowest_bound(rows):
    bounds = [{"bound": row["score"], "bound_se": row["score_se"]} for row in rows]
    chains = [row | bound for row, bound in zip(rows, bounds, strict=True)]
    for each in chains:
        if each["view"] != "binary":
            each["estimator"] = "bound"
    text = tables.markdown(groups_of(chains))
    assert "**-ELBO of 297 test images" in text
    assert "bold: lowest -ELBO where no seed is" in text
    assert "lowest score" not in text


def test_latex_is_well_formed_and_has_the_same_numbers(rows):
    text = tables.latex(groups_of(rows))
    assert text.isascii()
    assert r"\textbf{2.356 $\pm$ 0.079}" in text
    assert r"Laplace $^\dagger$ & 2.100 (1 failed) & 2 failed \\" in text
    assert r"my\_50\%|\&\#1, bits/dim" in text
    assert text.count(r"\begin{table}") == text.count(r"\end{table}") == 2
    assert len(set(re.findall(r"\\label{(.*)}", text))) == 2
    for table in text.split(r"\begin{tabular}")[1:]:
        body, _ = table.split(r"\end{tabular}")
        columns, *lines = body.splitlines()
        for line in lines:
            if line.endswith(r"\\"):
                spans = map(int, re.findall(r"\\multicolumn{(\d+)}", line))
                cells = len(re.findall(r"(?<!\\)&", line)) + 1
                assert cells + sum(span - 1 for span in spans) == len(columns) - 2
    bare = re.sub(r"\\[{}\\]", "", text)
    assert bare.count("{") == bare.count("}")
    assert bare.count("$") % 2 == 0


def test_every_character_with_a_meaning_in_latex_is_escaped():
    text = tables._for_latex("\\ a_b ^ ~ {x} # $ % & < >")
    assert not re.search(r"(?<!\\)[#$%&_^~]", text)
    assert r"\textbackslash{} a\_b" in text


def test_the_terminal_shows_the_same_numbers(rows, capsys):
    print_results(rows)
    shown = capsys.readouterr().out
    assert "*2.356 ±0.079" in shown
    assert WITH_LOSS in shown
    assert "† upper bound, from a density; means leave out runs" in shown
