"""Tests of experiments.findings."""

import math

import pytest

from experiments import findings

VIEWS = {"bernoulli": "binary", "categorical": "levels", "laplace": "continuous"}


def member(likelihood, latent_dim, seed, score, **others):
    values = dict.fromkeys(findings.Member.__dataclass_fields__, math.nan)
    return findings.Member(
        **values
        | {
            "run": f"{likelihood}-{latent_dim}-{seed}",
            "likelihood": likelihood,
            "latent_dim": latent_dim,
            "seed": seed,
            "view": VIEWS[likelihood],
            "score": score,
            "score_se": 0.01,
            "beta": 1.0,
            "effective_sample_size": 40.0,
            "largest_weight": 0.1,
            "active_units": 2,
            "status": "settled",
            "num_test_images": 297,
            "epochs": 100,
            **others,
        }
    )


def integers(*members):
    (group,) = findings.group_members(members)
    return group


ROW = {"run": "a", "likelihood": "laplace", "latent_dim": 4, "seed": 1}


def test_rows_are_read_and_missing_numbers_are_nan():
    (read,) = findings.members_of([{**ROW, "rate": math.nan}], pytest.fail)
    assert (read.run, read.latent_dim) == ("a", 4)
    assert math.isnan(read.rate)
    assert math.isnan(read.score)
    assert read.status == ""


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("score", "high"),
        ("rate", [1.0]),
        ("active_units", None),
        ("score", 10**400),
        ("latent_dim", "four"),
        ("latent_dim", math.nan),
        ("latent_dim", math.inf),
        ("seed", {}),
    ],
)
def test_a_row_with_a_field_of_another_type_is_left_out_and_named(field, value):
    told = []
    rows = [ROW, {**ROW, "run": "b", field: value}, {**ROW, "run": "c"}]
    members = findings.members_of(rows, told.append)
    assert [member.run for member in members] == ["a", "c"]
    (line,) = told
    assert line.startswith("'b' is left out of the report")
    assert repr(field) in line
    assert "repeat the command that trained it" in line


@pytest.mark.parametrize("field", ["latent_dim", "seed"])
def test_a_row_without_a_count_is_left_out(field):
    told = []
    row = {name: value for name, value in ROW.items() if name != field}
    assert findings.members_of([row], told.append) == []
    assert len(told) == 1


def test_binary_images_are_a_group_of_their_own():
    members = [member(likelihood, 2, 0, 3.0) for likelihood in VIEWS]
    groups = findings.group_members(members)
    assert [(group.key, group.likelihoods) for group in groups] == [
        ("integers", ["categorical", "laplace"]),
        ("binary", ["bernoulli"]),
    ]
    assert groups[0].upper_bounds == {"laplace"}


def test_spread_is_over_seeds_and_counts_those_with_a_score():
    group = integers(
        member("categorical", 2, 1, 2.802),
        member("categorical", 2, 0, 2.8),
        member("laplace", 2, 0, 3.6),
        member("laplace", 2, 1, math.nan),
    )
    full, partial = group.ranking()
    assert full.mean == pytest.approx(2.801)
    assert full.spread == pytest.approx(0.002 / math.sqrt(2))
    assert [member.seed for member in full.members] == [0, 1]
    assert (partial.mean, partial.num_seeds) == (3.6, 1)
    assert math.isnan(partial.spread)
    assert group.lacks_scores
    assert group.number(partial) == "3.600"


def test_spread_of_one_seed_is_that_over_images():
    group = integers(
        member("categorical", 2, 0, 2.8), member("laplace", 2, 0, math.nan)
    )
    first, last = group.ranking()
    assert group.number(first) == "2.800 ± 0.010"
    assert group.number(last) == "–"
    assert group.spread == "standard error over 297 test images, one seed"


def test_models_of_other_axes_are_not_averaged():
    """A sweep has one seed and three objectives: no cell is a mean over these."""
    group = integers(
        *(
            member("categorical", 2, 0, score, score_se=score_se, run=run)
            for run, score, score_se in (
                ("objective=elbo,beta=0.5,seed=0", 2.9, 0.03),
                ("objective=iwae,beta=0.5,seed=0", 2.7, 0.02),
                ("objective=elbo_log_weight,beta=0.5,seed=0", 2.8, 0.01),
            )
        )
    )
    ranking = group.ranking()
    assert group.number(ranking[0]) == "2.700 ± 0.020"
    assert [cell.members[0].kind for cell in ranking] == [
        "categorical with 2 latents, objective = iwae, β = 0.5",
        "categorical with 2 latents, objective = elbo log weight, β = 0.5",
        "categorical with 2 latents, objective = elbo, β = 0.5",
    ]
    assert group.settings == [
        "objective = elbo, β = 0.5",
        "objective = iwae, β = 0.5",
        "objective = elbo log weight, β = 0.5",
    ]
    assert findings.overview(group.members)[0] == (
        "3 models: 1 likelihood × 1 latent size (2)"
        " × 3 objective values (elbo, iwae, elbo log weight)"
        " × 1 β value (0.5) × 1 seed (0)."
    )


def test_close_likelihoods_are_not_told_apart():
    far = [member("categorical", 2, 0, 2.80), member("laplace", 2, 0, 2.82)]
    near = [member("categorical", 2, 0, 2.80), member("laplace", 2, 0, 2.81)]
    assert not any(
        "no clear difference" in text for text in findings.find(integers(*far))
    )
    assert any("no clear difference" in text for text in findings.find(integers(*near)))


def test_no_lead_is_clear_where_a_spread_is_unknown():
    """Of two seeds of the leader, one has diverged."""
    nan = float("nan")
    members = [
        member("categorical", 2, 0, 2.80),
        member("categorical", 2, 1, nan, status="diverged"),
        member("laplace", 2, 0, 2.90),
        member("laplace", 2, 1, 2.91),
    ]
    (first, *_) = findings.find(integers(*members))
    assert first.endswith("whether they differ is not known.")


def test_best_latent_size_is_found():
    (text,) = findings.find(
        integers(member("categorical", 2, 0, 3.0), member("categorical", 8, 0, 2.5))
    )
    assert text == (
        "The score falls by 0.500 bits/dim from the worst latent size (2) to the best"
        " (8)."
    )


def test_a_leader_with_few_weights_is_marked():
    weak = member("categorical", 2, 0, 2.5, largest_weight=0.9)
    texts = findings.find(integers(weak, member("laplace", 2, 0, 3.0)))
    assert texts[0] == "Its estimate rests on few importance weights."
    assert weak.doubts == ["few importance weights"]


def test_overview_counts_what_was_varied_and_what_settled():
    members = [member("laplace", size, 0, 3.0) for size in (2, 4)]
    first, second = findings.overview(members)
    assert first == "2 models: 1 likelihood × 2 latent sizes (2, 4) × 1 seed (0)."
    assert second.startswith("Settled (in the last fifth of its epochs")
    assert second.endswith("): 2 of 2.")
    members.append(member("laplace", 8, 0, 3.0, status="epoch limit"))
    assert findings.overview(members)[1].endswith("): 2 of 3.")


@pytest.mark.parametrize(
    ("trouble", "text"),
    [
        ({"status": "diverged"}, "diverged"),
        ({"status": "epoch limit"}, "stopped at the epoch limit"),
        ({"latents": "collapsed"}, "collapsed"),
        ({"effective_sample_size": 3.5}, "few importance weights"),
        ({"importance_bias": 0.3, "log_px_se": 0.2}, "few importance weights"),
    ],
)
def test_trouble_is_told(trouble, text):
    good, bad = (
        member("categorical", 2, 0, 2.8),
        member("laplace", 4, 1, 3.0, **trouble),
    )
    assert findings.warn([good]) == []
    (warning,) = findings.warn([good, bad])
    assert warning.startswith("1 of 2 models ")
    assert text in warning
    assert warning.endswith(": Laplace with 4 latents.")
    (warning,) = findings.warn([bad])
    assert warning.startswith("The model ")


def test_many_members_in_trouble_are_counted_by_latent_size():
    members = [
        member(likelihood, size, seed, 3.0, latents="collapsed")
        for likelihood in ("categorical", "laplace")
        for size in (2, 4)
        for seed in (0, 1, 2)
    ]
    (warning,) = findings.warn(members)
    assert warning.endswith(": 6 with 2 latents, 6 with 4 latents.")
