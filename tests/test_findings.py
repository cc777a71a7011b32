"""Tests of members, groups and sentences: experiments.report."""

import math
import zlib

import numpy as np
import pytest

from experiments.report import findings
from experiments.report.groups import group_members
from experiments.report.members import members_of
from tests.sweeps import group_of, product, row


def member(likelihood, latent_dim, seed, score, **others):
    return row(score, likelihood=likelihood, latent_dim=latent_dim, seed=seed, **others)


def read_members(rows):
    return members_of(rows, pytest.fail)


ROW = {"run": "a", "likelihood": "laplace", "latent_dim": 4, "seed": 1}


def test_rows_are_read_and_missing_numbers_are_nan():
    (read,) = read_members([{**ROW, "rate": math.nan}])
    assert (read.run, read.latent_dim) == ("a", 4)
    assert math.isnan(read.rate)
    assert math.isnan(read.score)
    assert read.status == ""
    with pytest.raises(AttributeError):
        _ = read.no_column


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("score", "high"),
        ("rate", [1.0]),
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
    members = members_of(rows, told.append)
    assert [member.run for member in members] == ["a", "c"]
    (line,) = told
    assert line.startswith("'b' is left out of the report")
    assert repr(field) in line
    assert "repeat the command that trained it" in line


@pytest.mark.parametrize("field", ["latent_dim", "seed"])
def test_a_row_without_a_count_is_left_out(field):
    told = []
    row = {name: value for name, value in ROW.items() if name != field}
    assert members_of([row], told.append) == []
    assert len(told) == 1


def test_binary_images_are_a_group_of_their_own():
    rows = [row(likelihood=name) for name in ("bernoulli", "categorical", "laplace")]
    groups = group_members(read_members(rows))
    assert [(group.key, group.axes["likelihood"].values) for group in groups] == [
        ("integers", ("categorical", "laplace")),
        ("binary", ("bernoulli",)),
    ]
    assert groups[0].upper_bounds == {"laplace"}


def test_spread_is_over_seeds_and_counts_those_with_a_score():
    group = group_of(
        member("categorical", 2, 1, 2.802),
        member("categorical", 2, 0, 2.8),
        member("laplace", 2, 0, 3.6),
        member("laplace", 2, 1, math.nan, status="diverged"),
    )
    full, partial = group.ranking
    assert full.mean == pytest.approx(2.801)
    assert full.spread == pytest.approx(0.002 / math.sqrt(2))
    assert [member.seed for member in full.members] == [0, 1]
    assert (partial.mean, partial.num_seeds) == (3.6, 1)
    assert math.isnan(partial.spread)
    assert group.has_losses
    assert group.number(partial) == "3.600 (1 diverged)"


def test_spread_of_one_seed_is_that_over_images():
    group = group_of(
        member("categorical", 2, 0, 2.8),
        member("laplace", 2, 0, math.nan, status="diverged"),
    )
    first, last = group.ranking
    assert group.number(first) == "2.800 ± 0.010"
    assert group.number(last) == "diverged"
    assert group.spread == "standard error over 297 test images, one seed"


def test_models_of_other_axes_are_not_averaged():
    """A sweep has one seed and three objectives: no cell is a mean over objectives."""
    group = group_of(
        *(
            row(score, objective=objective, beta=0.5, seed=0, score_se=score_se)
            for objective, score, score_se in (
                ("elbo", 2.9, 0.03),
                ("iwae", 2.7, 0.02),
                ("elbo_log_weight", 2.8, 0.01),
            )
        )
    )
    ranking = group.ranking
    assert group.number(ranking[0]) == "2.700 ± 0.020"
    assert [cell.members[0].kind for cell in ranking] == [
        "categorical with 2 latents, objective = iwae, β = 0.5",
        "categorical with 2 latents, objective = elbo log weight, β = 0.5",
        "categorical with 2 latents, objective = elbo, β = 0.5",
    ]
    assert [group.name(cell) for cell in ranking] == [
        "objective = iwae",
        "objective = elbo log weight",
        "objective = elbo",
    ]
    assert findings.overview(group.members)[:2] == [
        "3 models: 3 values of objective (elbo, iwae, elbo log weight) × 1 seed (0).",
        "All are categorical with 2 latents, β = 0.5.",
    ]


# --- axes -----------------------------------------------------------------------------

SEEDS = (0, 1)
SWEEPS = {
    "posterior, prior": product(
        lambda posterior, prior, seed: 3 - 0.1 * (posterior == "iaf") + seed / 99,
        posterior=("diagonal", "iaf", "full_covariance"),
        prior=("standard_normal", "vamp"),
        seed=SEEDS,
    ),
    "β": product(lambda beta, seed: 3 + beta, beta=(4.0, 0.5, 1.0), seed=SEEDS),
    "objective, num samples": product(
        lambda objective, num_samples, seed: 3 + 1 / num_samples,
        num_samples=(1, 50, 5),
        objective=("iwae", "dreg"),
        seed=SEEDS,
    ),
    "likelihood, latent size, β": product(
        lambda likelihood, latent_dim, beta, seed: 3 - latent_dim / 10 + beta,
        likelihood=("categorical", "beta"),
        latent_dim=(8, 2),
        beta=(0.5, 1.0, 4.0),
        seed=SEEDS,
    ),
    "union": [
        *product(
            lambda posterior, seed: 3 + seed / 9,
            posterior=("diagonal", "iaf"),
            seed=SEEDS,
        ),
        *product(lambda beta, seed: 2 + beta, beta=(0.5, 4.0), seed=SEEDS),
    ],
    "one": [row()],
}


@pytest.mark.parametrize(
    ("sweep", "rows", "columns", "others"),
    [
        ("posterior, prior", "posterior", "prior", []),
        ("β", "likelihood", "β", []),
        ("objective, num samples", "objective", "num samples", []),
        ("likelihood, latent size, β", "likelihood", "latent size", ["β"]),
        ("union", "posterior", "β", []),
        ("one", "likelihood", "latent size", []),
    ],
)
def test_a_table_is_laid_out_by_the_axes_that_vary(sweep, rows, columns, others):
    group = group_of(*SWEEPS[sweep], config={"model": {"posterior": "diagonal"}})
    layout = group.layout
    assert (layout.rows.name, layout.columns.name) == (rows, columns)
    assert [axis.name for axis in layout.others] == others
    panels = group.panels(group.ranking, layout.rows, layout.columns)
    places = [
        (title, cell.point[rows], cell.point[columns])
        for title, cells in panels.items()
        for cell in cells
    ]
    assert len(set(places)) == len(places) == len(group.ranking)
    assert sum(cell is group.best for cell in group.ranking) == 1


def test_numbers_are_in_order_and_texts_in_that_of_their_best():
    axes = group_of(*SWEEPS["posterior, prior"]).axes
    assert axes["posterior"].values[0] == "iaf"
    assert group_of(*SWEEPS["β"]).axes["β"].values == (0.5, 1.0, 4.0)
    assert group_of(*SWEEPS["objective, num samples"]).axes["num samples"].values == (
        *(1, 5, 50),
    )


def test_runs_of_another_grid_have_the_value_that_is_configured():
    """The axis is not in their grid; an unknown value is None."""
    rows = SWEEPS["union"]
    group = group_of(*rows, config={"model": {"posterior": "diagonal"}})
    points = {(c.point["posterior"], c.point["β"]) for c in group.ranking}
    assert points == {
        ("diagonal", 1.0),
        ("iaf", 1.0),
        ("diagonal", 0.5),
        ("diagonal", 4.0),
    }
    unknown = group_of(*rows)
    (cell, *_) = (c for c in unknown.ranking if c.point["posterior"] is None)
    assert unknown.label(unknown.axes["posterior"], None) == "–"
    assert unknown.name(cell).startswith("β = ")
    (widths,) = {
        cell.point["widths"]
        for cell in group_of(
            row(widths="64x64"), row(beta=4.0), config={"model": {"widths": [64, 64]}}
        ).ranking
    }
    assert widths == "64x64"


def test_a_value_that_no_part_of_a_model_takes_is_no_value():
    model = {"prior": "standard_normal", "noise_steps": 0, "posterior": "diagonal"}
    group = group_of(
        row(), row(prior="diffusion", noise_steps=0), config={"model": model}
    )
    axis = group.axes["noise steps"]
    labels = {group.label(axis, cell.point[axis.name]) for cell in group.ranking}
    assert labels == {"–", "∞"}
    (chain,) = (c for c in group.ranking if c.point["prior"] == "diffusion")
    kind = chain.members[0].kind
    assert kind.endswith("prior = diffusion, noise steps = ∞")
    assert group.name(chain) == "prior = diffusion"  # What tells it from the other.
    # A part that is not known may take it.
    unknown = group_of(row(noise_steps=4), row(noise_steps=0, prior="of a user"))
    assert {c.point["noise steps"] for c in unknown.ranking} == {0, 4}


def test_axes_that_follow_from_others_are_not_named():
    """A sweep of several grids changes axes together; a product changes none so."""
    grids = [
        {"network": "mlp", "num_epochs": 200, "upper_layers": ""},
        {"network": "mlp", "num_epochs": 200, "upper_layers": "8"},
        {"network": "conv", "num_epochs": 100, "upper_layers": ""},
        {"network": "conv", "num_epochs": 100, "upper_layers": "8"},
    ]
    group = group_of(*(row(**point) for point in grids))
    assert [axis.name for axis in group.telling] == ["network", "upper layers"]
    assert [axis.name for axis in group.implied] == ["num epochs"]
    assert {group.name(cell) for cell in group.ranking} == {
        f"network = {network}, upper layers = {layers}"
        for network in ("mlp", "conv")
        for layers in ("none", "8")
    }
    assert list(group.panels(group.ranking, group.axes["network"])) == [
        "upper layers = none",
        "upper layers = 8",
    ]
    sentences = findings.find(group, unread)
    assert "Other axes change with these: num epochs." in sentences
    product = [row(beta=b, latent_dim=n) for b in (1.0, 4.0) for n in (2, 8)]
    assert not group_of(*product).implied


def test_an_axis_that_was_compared_is_not_said_to_be_untested():
    group = group_of(
        *(
            row(score + seed / 99, network=network, num_epochs=epochs, seed=seed)
            for network, epochs, score in (("mlp", 200, 3.0), ("conv", 100, 3.1))
            for seed in (0, 1)
        )
    )
    assert findings.contest(group).noun == "network"
    compared, others = findings.find(group, unread)
    assert compared.startswith("The next network is conv, at ")
    assert others == "Other axes change with these: num epochs."


def test_a_model_that_lacks_an_axis_has_a_name():
    group = group_of(
        row(3.0, prior="diffusion", noise_steps=4),
        row(3.1, prior="standard_normal", noise_steps=0),
        row(3.2, prior="diffusion", noise_steps=0),
    )
    assert [axis.name for axis in group.telling] == ["prior", "noise steps"]
    assert group.name(group.ranking[1]) == "prior = standard normal"
    told = findings.find(group, unread)[-1]
    assert "the lowest means of 2 values of noise steps differ by" in told
    assert told.endswith("from 4 to ∞.")


# --- sentences ------------------------------------------------------------------------


def integers(*rows):
    """Returns the group of rows, or of the rows of members."""
    return group_of(*(getattr(row, "row", row) for row in rows))


def unread(member):
    """Returns None: no scores of test images can be read."""


def read(member):
    """Returns scores of 297 test images around a member's, alike for all members."""
    images = np.random.default_rng(0).normal(0, 5, 297)
    own = np.random.default_rng(zlib.crc32(member.run.encode())).normal(0, 0.1, 297)
    return member.score + (images - images.mean()) + (own - own.mean())


def rivals(gap, *seeds, spread=0.002):
    """Returns rows of two likelihoods, so far apart."""
    return integers(
        *(
            member(likelihood, 2, seed, mean + spread * seed)
            for likelihood, mean in (("categorical", 2.8), ("laplace", 2.8 + gap))
            for seed in seeds
        )
    )


def test_a_clear_difference_is_told_with_its_error_and_its_power():
    (text,) = findings.find(rivals(0.1, 0, 1, 2), read)
    assert text.startswith("The next likelihood is Laplace, at 2.902 ±")
    assert "bits/dim, which is larger by 0.10" in text
    assert "(standard error, paired over 297 test images and 3 seeds): a clear" in text
    assert "at most 5% of reports call one clear that is due to chance" in text
    power = text.partition("A true difference of ")[2]
    assert 0 < float(power.split()[0]) < 0.1
    assert power.endswith(" bits/dim would be called clear in 80% of such sweeps.")


def test_a_difference_to_a_score_that_may_be_too_large_says_so():
    def told(**others):
        members = [
            member(likelihood, 2, seed, score, **(others if score > 3 else {}))
            for likelihood, score in (("categorical", 2.8), ("laplace", 3.8))
            for seed in range(5)
        ]
        return findings.find(integers(*members), read)[0]

    doubt = "due to chance), but the score of the next one"
    assert f"{doubt} is an upper bound. A true" in told()
    assert f"{doubt} rests on few importance weights. A true" in (
        told(view="levels", largest_weight=0.9)
    )
    assert ", but" not in told(view="levels")


def test_distances_of_the_next_means_are_paired_with_the_best():
    lower = [member("laplace", 2, seed, 2.7) for seed in (0, 1)]  # A seed is missing.
    sizes = [member("beta", n, s, 4 + n / 9) for n in range(2, 14) for s in (0, 1, 2)]
    group = integers(*rivals(0.1, 0, 1, 2).members[:3], *lower, *sizes)
    found = findings.distances(group, read)
    names = [group.name(cell) for cell, _ in found]
    assert names == [f"beta with {size} latents" for size in range(2, 12)]
    best, other = (
        np.array([read(m) for m in cell.members]) for cell in (group.best, found[0][0])
    )
    ahead = other - best
    variance = ahead.mean(0).var(ddof=1) / 297 + ahead.mean(1).var(ddof=1) / 3
    assert found[0][1].difference == pytest.approx(ahead.mean())
    assert found[0][1].error == pytest.approx(variance**0.5)
    assert found[0][1].number(1).startswith("1.4")
    assert findings.distances(group, unread) == []
    assert findings.distances(integers(*lower, *sizes[:1]), read) == []


def test_likelihoods_that_are_close_are_not_told_apart():
    for group in (rivals(0.001, 0, 1, 2), rivals(0.05, 0, 1)):
        (text,) = findings.find(group, read)
        assert "no clear difference. A true difference of" in text


def test_a_difference_among_many_is_harder_to_call_clear():
    def power(group, tests=1):
        text = findings.find(group, read, tests)[0]
        return float(text.partition("A true difference of ")[2].split()[0])

    few = rivals(0.1, 0, 1, 2)
    more = [member("laplace", size, s, 9 + s / 9) for size in (4, 8) for s in range(3)]
    assert power(integers(*few.members, *more)) > power(few)
    assert power(few, tests=2) > power(few)


@pytest.mark.parametrize(("num_likelihoods", "num_seeds"), [(2, 3), (2, 10), (6, 3)])
def test_few_reports_on_equal_likelihoods_call_a_difference_clear(
    num_likelihoods, num_seeds
):
    """This goes from rows to sentences; the comparison alone has other tests."""
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
        false += "a clear difference (" in texts[0]
    assert false <= 0.05 * count


def test_with_one_seed_two_models_differ_and_likelihoods_are_not_told_apart():
    (text,) = findings.find(rivals(0.3, 0), read)
    assert "these two trained models differ by 0.3000 ± 0.0" in text
    assert "another seed may change their order" in text
    assert "clear" not in text


def test_of_one_likelihood_settings_or_latent_sizes_are_compared():
    group = integers(
        *product(
            lambda num_epochs, seed: 2.9 - (num_epochs == 200) / 10 + seed / 1000,
            num_epochs=(50, 200),
            seed=(0, 1, 2),
        )
    )
    (text, described) = findings.find(group, read)
    assert "The next num epochs is 50, at" in text
    assert "the mean falls by 0.100 bits/dim from num epochs 50 to 200" in described
    assert len(findings.overview(group.members)) == 3  # There is no such advice.
    assert "a clear difference (" in text
    sizes = [member("laplace", n, s, n + s / 99) for n in (2, 8) for s in range(3)]
    (text, described) = findings.find(integers(*sizes), read)
    assert "The next latent size is 8, at" in text
    assert described.startswith(
        "Not tested, and partly due to chance: the mean falls by"
    )


@pytest.mark.parametrize(
    "scores",
    [
        unread,
        lambda member: None if member.likelihood == "laplace" else np.zeros(297),
        lambda member: np.zeros(297 + member.seed),
    ],
    ids=["none", "of one alone", "of other images"],
)
def test_no_difference_is_known_where_scores_of_the_same_images_cannot_be_read(scores):
    (text,) = findings.find(rivals(0.5, 0, 1), scores)
    assert "whether they differ is not known" in text


def test_one_image_and_equal_scores_are_said_to_be_so():
    one = rivals(0.5, 0, 1)
    (text,) = findings.find(one, lambda member: np.full(1, member.score))
    assert text.endswith("one test image cannot tell whether they differ on others.")
    (text,) = findings.find(rivals(0, 0, 1), lambda member: np.full(297, 2.5))
    assert text.endswith("bits/dim: the scores of every test image are equal.")
    sizes = [member("laplace", n, 0, 2.5) for n in (2, 8)]
    assert len(findings.find(integers(*sizes), unread)) == 1  # No mean falls.
    alone = {**one.members[0].row, "num_test_images": 1, "score_se": math.nan}
    group = integers(alone)
    assert group.spread == group.spread_of(group.ranking[0]) == ""


def test_seeds_that_are_not_common_are_not_compared():
    members = rivals(0.1, 0, 1, 2, 3).members
    (text,) = findings.find(integers(*members), read)
    assert "paired over 297 test images and 4 seeds" in text
    # In an unfinished sweep, means over different seeds are not compared.
    best = integers(*members).ranking[0]
    group = integers(*(m for m in members if m.run != best.members[-1].run))
    whole, untrained = group.ranking
    assert untrained.mean < whole.mean
    (text,) = findings.find(group, read)
    assert text.startswith(
        "Lower means are not called best where a seed failed, diverged"
    )
    assert group.number(untrained).endswith("(1 not trained)")
    assert group.spread == "standard deviation over up to 4 seeds"
    assert group.spread_of(untrained) == "standard deviation over 3 seeds"
    assert group.spread_of(whole) == "standard deviation over 4 seeds"
    odd = [m for m in members if (m.likelihood == "laplace") == bool(m.seed % 2)]
    assert findings.find(integers(*odd), read)[0].startswith("No model is called best")


@pytest.mark.parametrize(("status", "score"), [("diverged", math.nan), ("failed", 1.0)])
def test_a_mean_that_lacks_a_seed_is_not_called_best(status, score):
    """The lowest mean has two seeds, and one of them failed."""
    group = integers(
        member("categorical", 2, 0, 2.80),
        member("categorical", 2, 1, score, status=status),
        member("laplace", 2, 0, 2.90),
        member("laplace", 2, 1, 2.91),
    )
    first, second = group.ranking
    assert (first.point["likelihood"], first.is_whole) == ("laplace", True)
    assert (second.mean, second.num_seeds, second.losses) == (2.8, 1, f"1 {status}")
    assert findings.find(group, read) == [
        "Lower means are not called best where a seed failed, diverged or was not"
        f" trained: categorical (2.800 (1 {status}))."
    ]


def test_models_that_failed_are_no_findings():
    lost = [member("laplace", 2, 0, 9.0, status="failed")]
    half = [*lost, member("laplace", 2, 1, 3.0)]
    for members in (lost, half):
        (text,) = findings.find(integers(*members), read)
        assert text == (
            "No model is called best: of every kind of model, a seed failed, diverged"
            " or was not trained."
        )


def test_latent_sizes_are_described():
    members = [
        member(likelihood, size, 0, mean - size / 10)
        for likelihood, mean in (("categorical", 3), ("laplace", 4))
        for size in (2, 8)
    ]
    *_, text = findings.find(integers(*members), unread)
    assert text == (
        "Not tested, and partly due to chance: latent size 8 has the lowest mean for 2"
        " of 2 likelihoods, 0.600 bits/dim below the highest mean (median)."
    )


def test_a_best_score_from_few_weights_is_marked():
    weak = member("categorical", 2, 0, 2.5, largest_weight=0.9)
    texts = findings.find(integers(weak, member("laplace", 2, 0, 3.0)), unread)
    assert texts[0] == "The best score rests on few importance weights."
    assert read_members([weak])[0].doubts == ["few importance weights"]


def test_overview_counts_what_was_varied_and_how_it_ended():
    members = [member("laplace", size, 0, 3.0) for size in (2, 4)]

    def told():
        return findings.overview(read_members(members))

    first, second, third, fourth = told()
    assert first == "2 models: 2 latent sizes (2, 4) × 1 seed (0)."
    assert second == "All are Laplace."
    assert third == "How training ended: schedule ended (2)."
    assert "sweep num_epochs" in fourth
    members.append(member("laplace", 8, 0, 3.0, status="failed"))
    assert told()[2].endswith(": schedule ended (2), failed (1).")
    members.append(member("laplace", 2, 1, 3.0))  # The sweep has not ended.
    assert told()[0].startswith("4 of 6 models: 3 latent sizes (2, 4, 8) × 2 seeds")


def test_grids_of_other_axes_are_no_product():
    members = read_members([row(beta=2.0, seed=0), row(num_epochs=9, seed=0)])
    first, *_, last = findings.overview(members)
    assert first == (
        "2 models: 2 values of β (1.0, 2.0); 1 value of num epochs (9); 1 seed (0)."
    )
    assert "sweep" not in last  # No advice to sweep num_epochs.
    assert [m.setting for m in members] == ["β = 2.0", "β = 1.0, num epochs = 9"]


def test_of_many_models_that_failed_some_are_named_or_counted_by_size():
    failed = [
        member(f"family_{i}", size, 0, 9.0, status="failed")
        for i in range(7)
        for size in (2, 4)
    ]
    (text,) = findings.lost(read_members(failed))
    assert text.endswith(": 7 with 2 latents, 7 with 4 latents.")
    (text,) = findings.lost(read_members(failed[::2]))
    assert text.endswith("; family 3; family 4 and 2 more.")


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
        (findings.warn, {"density_error": 0.2}, "rounding changes its density"),
    ],
)
def test_trouble_is_told(tell, trouble, text):
    good, bad = (
        member("categorical", 2, 0, 2.8),
        member("laplace", 4, 1, 3.0, **trouble),
    )
    assert tell(read_members([good])) == []
    (warning,) = tell(read_members([good, bad]))
    assert warning.startswith("1 of 2 models ")
    assert text in warning
    assert warning.endswith(": Laplace with 4 latents.")
    (warning,) = tell(read_members([bad]))
    assert warning.startswith("The model ")


def test_many_members_in_trouble_are_counted_by_latent_size():
    members = [
        member(likelihood, size, seed, 3.0, latents="collapsed")
        for likelihood in ("categorical", "laplace")
        for size in (2, 4)
        for seed in (0, 1, 2)
    ]
    (warning,) = findings.warn(read_members(members))
    assert warning.endswith(": 6 with 2 latents, 6 with 4 latents.")
