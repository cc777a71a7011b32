"""Tests of experiments.report.findings."""

import dataclasses
import math
import zlib

import numpy as np
import pytest

from experiments.report import findings, page

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
            "view": VIEWS.get(likelihood, "levels"),
            "score": score,
            "score_se": 0.01,
            "beta": 1.0,
            "effective_sample_size": 40.0,
            "largest_weight": 0.1,
            "active_units": 2,
            "status": "schedule ended",
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
        member("laplace", 2, 1, math.nan, status="diverged"),
    )
    full, partial = group.ranking()
    assert full.mean == pytest.approx(2.801)
    assert full.spread == pytest.approx(0.002 / math.sqrt(2))
    assert [member.seed for member in full.members] == [0, 1]
    assert (partial.mean, partial.num_seeds) == (3.6, 1)
    assert math.isnan(partial.spread)
    assert group.has_losses
    assert group.number(partial) == "3.600 (1 diverged)"


def test_spread_of_one_seed_is_that_over_images():
    group = integers(
        member("categorical", 2, 0, 2.8),
        member("laplace", 2, 0, math.nan, status="diverged"),
    )
    first, last = group.ranking()
    assert group.number(first) == "2.800 ± 0.010"
    assert group.number(last) == "diverged"
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


def unread(member):
    """Scores of test images, of which none can be read."""


def read(member):
    """Scores of 297 test images around that of a member, alike for all members."""
    images = np.random.default_rng(0).normal(0, 5, 297)
    own = np.random.default_rng(zlib.crc32(member.run.encode())).normal(0, 0.1, 297)
    return member.score + (images - images.mean()) + (own - own.mean())


def rivals(gap, *seeds, spread=0.002):
    """Two likelihoods so far apart."""
    return integers(
        *(
            member(likelihood, 2, seed, mean + spread * seed)
            for likelihood, mean in (("categorical", 2.8), ("laplace", 2.8 + gap))
            for seed in seeds
        )
    )


def test_a_lead_is_called_with_its_error_and_its_power():
    (text,) = findings.find(rivals(0.1, 0, 1, 2), read)
    assert text.startswith("The next likelihood is Laplace with 2 latents, at 2.902 ±")
    assert "bits/dim, behind by 0.10" in text
    assert "(standard error, paired over 297 test images and 3 seeds): a lead (" in text
    assert "at most 5% of reports call a false one" in text
    power = text.partition("A true difference of ")[2]
    assert 0 < float(power.split()[0]) < 0.1
    assert power.endswith(" bits/dim would be called in 80% of such sweeps.")


def test_a_lead_over_a_score_that_may_be_too_large_says_so():
    def told(**others):
        members = [
            member(likelihood, 2, seed, score, **(others if score > 3 else {}))
            for likelihood, score in (("categorical", 2.8), ("laplace", 3.8))
            for seed in range(5)
        ]
        return findings.find(integers(*members), read)[0]

    doubt = "a false one), though the score of the next one"
    assert f"{doubt} is an upper bound. A true" in told()
    assert f"{doubt} rests on few importance weights. A true" in (
        told(view="levels", largest_weight=0.9)
    )
    assert "though" not in told(view="levels")


def test_likelihoods_that_are_close_are_not_told_apart():
    for group in (rivals(0.001, 0, 1, 2), rivals(0.05, 0, 1)):
        (text,) = findings.find(group, read)
        assert "no clear lead. A true difference of" in text


def test_a_lead_among_many_is_harder_to_call():
    def power(group, tests=1):
        text = findings.find(group, read, tests)[0]
        return float(text.partition("A true difference of ")[2].split()[0])

    few = rivals(0.1, 0, 1, 2)
    more = [member("laplace", size, s, 9 + s / 9) for size in (4, 8) for s in range(3)]
    assert power(integers(*few.members, *more)) > power(few)
    assert power(few, tests=2) > power(few)


@pytest.mark.parametrize(("num_likelihoods", "num_seeds"), [(2, 3), (2, 10), (6, 3)])
def test_few_reports_on_equal_likelihoods_call_a_lead(num_likelihoods, num_seeds):
    """The whole way from rows to sentences; the test alone has tests of its own."""
    rng = np.random.default_rng(0)
    count, false = 400, 0
    for _ in range(count):
        scores = {
            (f"family_{family}", size, seed): rng.normal(3, 0.3, 1)
            + rng.normal(0, 0.1, 9)
            for family in range(num_likelihoods)
            for size in (2, 8)
            for seed in range(num_seeds)
        }
        group = integers(
            *(
                member(*kind, float(images.mean()), view="levels")
                for kind, images in scores.items()
            )
        )
        texts = findings.find(
            group, lambda m, own=scores: own[m.likelihood, m.latent_dim, m.seed]
        )
        false += "a lead (" in texts[0]
    assert false <= 0.05 * count


def test_with_one_seed_two_models_differ_and_likelihoods_are_not_told_apart():
    (text,) = findings.find(rivals(0.3, 0), read)
    assert "these two trained models differ by 0.3000 ± 0.0" in text
    assert "another seed may change their order" in text
    assert "lead" not in text


def test_of_one_likelihood_settings_or_latent_sizes_are_compared():
    runs = [
        (f"num_epochs={epochs},seed={seed}", seed, score + seed / 1000)
        for epochs, score in ((50, 2.9), (200, 2.8))
        for seed in range(3)
    ]
    group = integers(
        *(member("categorical", 2, seed, score, run=run) for run, seed, score in runs)
    )
    (text,) = findings.find(group, read)
    assert "next setting is categorical with 2 latents, num epochs = 50, at" in text
    assert len(findings.overview(group.members)) == 2  # No advice to do so.
    assert "a lead (" in text
    sizes = [member("laplace", n, s, n + s / 99) for n in (2, 8) for s in range(3)]
    (text, described) = findings.find(integers(*sizes), read)
    assert "The next latent size is Laplace with 8 latents" in text
    assert described.startswith("Not tested, and part of it chance: the mean falls by")


@pytest.mark.parametrize(
    "scores",
    [
        unread,
        lambda member: None if member.likelihood == "laplace" else np.zeros(297),
        lambda member: np.zeros(297 + member.seed),
    ],
    ids=["none", "of one alone", "of other images"],
)
def test_no_lead_is_known_where_scores_of_the_same_images_cannot_be_read(scores):
    (text,) = findings.find(rivals(0.5, 0, 1), scores)
    assert "whether they differ is not known" in text


def test_one_image_and_equal_scores_are_said_to_be_so():
    one = rivals(0.5, 0, 1)
    (text,) = findings.find(one, lambda member: np.full(1, member.score))
    assert text.endswith("one test image does not tell whether they differ on others.")
    (text,) = findings.find(rivals(0, 0, 1), lambda member: np.full(297, 2.5))
    assert text.endswith("bits/dim: the scores of every test image are equal.")
    sizes = [member("laplace", n, 0, 2.5) for n in (2, 8)]
    assert len(findings.find(integers(*sizes), unread)) == 1  # No mean falls.
    alone = dataclasses.replace(one.members[0], num_test_images=1, score_se=math.nan)
    group = integers(alone)
    assert group.spread == group.spread_of(group.ranking()[0]) == ""


def test_seeds_that_are_not_common_are_not_compared():
    members = rivals(0.1, 0, 1, 2, 3).members
    (text,) = findings.find(integers(*members), read)
    assert "paired over 297 test images and 4 seeds" in text
    # Of a sweep that has not ended, means over other seeds are not compared.
    leader = integers(*members).ranking()[0]
    group = integers(*(m for m in members if m is not leader.members[-1]))
    whole, untrained = group.ranking()
    assert untrained.mean < whole.mean
    (text,) = findings.find(group, read)
    assert text.startswith("Lower means do not lead where a seed failed, diverged or")
    assert group.number(untrained).endswith("(1 not trained)")
    assert group.spread == "standard deviation over up to 4 seeds"
    assert group.spread_of(untrained) == "standard deviation over 3 seeds"
    assert group.spread_of(whole) == "standard deviation over 4 seeds"
    odd = [m for m in members if (m.likelihood == "laplace") == bool(m.seed % 2)]
    assert findings.find(integers(*odd), read)[0].startswith("No lead")


@pytest.mark.parametrize(("status", "score"), [("diverged", math.nan), ("failed", 1.0)])
def test_a_mean_of_survivors_does_not_lead(status, score):
    """Of two seeds of the lowest mean, one came to nothing."""
    group = integers(
        member("categorical", 2, 0, 2.80),
        member("categorical", 2, 1, score, status=status),
        member("laplace", 2, 0, 2.90),
        member("laplace", 2, 1, 2.91),
    )
    first, second = group.ranking()
    assert (first.likelihood, first.is_whole) == ("laplace", True)
    assert (second.mean, second.num_seeds, second.losses) == (2.8, 1, f"1 {status}")
    assert findings.find(group, read) == [
        "Lower means do not lead where a seed failed, diverged or was not trained:"
        f" categorical with 2 latents (2.800 (1 {status}))."
    ]


def test_models_that_failed_are_no_findings():
    lost = [member("laplace", 2, 0, 9.0, status="failed")]
    half = [*lost, member("laplace", 2, 1, 3.0)]
    for members in (lost, half):
        (text,) = findings.find(integers(*members), read)
        assert text == (
            "No lead: of every kind of model, a seed failed, diverged or was not"
            " trained."
        )


def test_latent_sizes_are_described():
    members = [
        member(likelihood, size, 0, mean - size / 10)
        for likelihood, mean in (("categorical", 3), ("laplace", 4))
        for size in (2, 8)
    ]
    *_, text = findings.find(integers(*members), unread)
    assert text == (
        "Not tested, and part of it chance: latent size 8 has the lowest mean for 2 of"
        " 2 likelihoods, 0.600 bits/dim below the highest (median)."
    )


def test_a_leader_with_few_weights_is_marked():
    weak = member("categorical", 2, 0, 2.5, largest_weight=0.9)
    texts = findings.find(integers(weak, member("laplace", 2, 0, 3.0)), unread)
    assert texts[0] == "Its estimate rests on few importance weights."
    assert weak.doubts == ["few importance weights"]


def test_overview_counts_what_was_varied_and_how_it_ended():
    members = [member("laplace", size, 0, 3.0) for size in (2, 4)]
    first, second, third = findings.overview(members)
    assert first == "2 models: 1 likelihood × 2 latent sizes (2, 4) × 1 seed (0)."
    assert second == "How training ended: schedule ended (2)."
    assert "sweep num_epochs" in third
    members.append(member("laplace", 8, 0, 3.0, status="failed"))
    assert findings.overview(members)[1].endswith(": schedule ended (2), failed (1).")
    members.append(member("laplace", 2, 1, 3.0))  # Of a sweep that has not ended.
    assert findings.overview(members)[0].startswith("4 of 6 models: 1 likelihood × 3")


def test_grids_of_other_axes_are_no_product():
    group = integers(
        member("laplace", 2, 0, 3.0, run="likelihood=laplace,beta=2.0,seed=0"),
        member("laplace", 2, 0, 3.1, run="likelihood=laplace,num_epochs=9,seed=0"),
    )
    sentences = findings.overview(group.members)
    assert sentences[0] == (
        "2 models: 1 likelihood; 1 latent size (2); 1 β value (2.0);"
        " 1 num epochs value (9); 1 seed (0)."
    )
    assert len(sentences) == 2  # No advice to sweep num_epochs.
    beta, num_epochs = (
        column for column in page._columns(group) if column.field in ("β", "num epochs")
    )
    shown = [(beta.content(m), num_epochs.content(m)) for m in group.members]
    assert shown == [("2.0", ""), ("", "9")]


def test_of_many_models_that_failed_some_are_named_or_counted_by_size():
    failed = [
        member(f"family_{i}", size, 0, 9.0, status="failed")
        for i in range(7)
        for size in (2, 4)
    ]
    (text,) = findings.lost(failed)
    assert text.endswith(": 7 with 2 latents, 7 with 4 latents.")
    (text,) = findings.lost(failed[::2])
    assert text.endswith("; family 4 with 2 latents and 2 more.")


@pytest.mark.parametrize(
    ("tell", "trouble", "text"),
    [
        (findings.lost, {"status": "diverged"}, "diverged (no finite score)"),
        (findings.lost, {"status": "failed"}, "failed (worse by more than two"),
        (findings.warn, {"latents": "collapsed"}, "collapsed"),
        (findings.warn, {"effective_sample_size": 3.5}, "few importance weights"),
        (
            findings.warn,
            {"importance_bias": 0.3, "log_px_se": 0.2},
            "few importance weights",
        ),
        (findings.warn, {"density_error": 0.2}, "rounding loses its density"),
    ],
)
def test_trouble_is_told(tell, trouble, text):
    good, bad = (
        member("categorical", 2, 0, 2.8),
        member("laplace", 4, 1, 3.0, **trouble),
    )
    assert tell([good]) == []
    (warning,) = tell([good, bad])
    assert warning.startswith("1 of 2 models ")
    assert text in warning
    assert warning.endswith(": Laplace with 4 latents.")
    (warning,) = tell([bad])
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
