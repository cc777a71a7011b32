"""Tests of experiments with diffusion models, which are chains of latents."""

import ast
import dataclasses
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.data.images import load_data
from experiments.evaluation.columns import TABLES
from experiments.evaluation.stored_arrays import (
    GUIDANCE_WEIGHTS,
    SAMPLER_STEPS,
    SAMPLERS_SHOWN,
    STEPS,
)
from experiments.messages.console import CONSOLE
from experiments.messages.errors import SettingsError
from experiments.report import terminal
from experiments.report.differences import compare_sides
from experiments.report.groups import group_members
from experiments.report.members import members_of
from experiments.report.page import _pictures, write_report
from experiments.report.pairs import Side
from experiments.runner.images import Images
from experiments.runner.measuring import sampling_of
from experiments.runner.reevaluation import (
    check_fit,
    check_models,
    evaluate,
    numbers_of_steps,
)
from experiments.runner.task import GroupTask
from experiments.runs.trained import load
from experiments.settings import grid
from tests.chains import chain
from tests.folders import refusal, small_sweep
from tests.sweeps import row
from tests.test_group_training import opened, train
from vae_jax.diagnostics import measure_latent_use
from vae_jax.likelihoods import make_likelihood
from vae_jax.measure import Sampling, _styles
from vae_jax.model import make_vae
from vae_jax.samplers import Heun, PredictorCorrector


def config(*, steps=(4, 0), schedule=("linear",), **evaluation):
    config = small_sweep()
    config["evaluation"] |= evaluation
    config["model"] |= {
        "likelihood": "discretized_gaussian",
        "latent_dim": 64,
        "network": "identity",
        "widths": (256,),
        "posterior": "noise",
        "prior": "diffusion",
        "predicts": "levels",
        "denoiser_widths": (8,),
        "gamma_min": -2.0,
        "gamma_max": 2.0,
    }
    config["training"] |= {
        "objective": "diffusion",
        "kl_warmup_epochs": 0,
        "num_epochs": 2,
        "validate_every": 1,
        "ema": 0.5,
    }
    config["sweep"] = {"noise_steps": steps, "noise_schedule": schedule}
    return config


@pytest.fixture(scope="module")
def data():
    return load_data(grid.expand(config())[0].settings.data)


def trained(path, own, data):
    (group,) = grid.group(grid.expand(own))
    with opened(path, own) as folder:
        train(GroupTask(group, Images(data)).compile(), folder)
    return folder


@pytest.fixture(scope="module")
def folder(data, tmp_path_factory):
    """Yields a run folder with two finished runs of one program."""
    path = tmp_path_factory.mktemp("chains") / "run"
    (group,) = grid.group(grid.expand(config()))
    with opened(path, config()) as folder:
        train(GroupTask(group, Images(data)).compile(), folder)
        yield folder


def results(folder):
    return folder.members.results(sorted(folder.members.finished()), pytest.fail)


def test_results_say_that_their_score_is_a_bound(folder):
    for found in results(folder):
        assert found["estimator"] == "bound"
        assert found["bound"] == pytest.approx(found["score"])
        parts = found["chain_last_kl"] + found["chain_layers_kl"]
        assert found["kl"] == pytest.approx(parts, rel=1e-5)
        assert 0 < found["chain_error"] < 64 * found["bound_se"]
        assert np.isnan(found["effective_sample_size"])
        assert found["latents"] == ""


def test_a_chain_alone_has_the_bits_of_one_beside_other_steps(folder, data, tmp_path):
    own = config(steps=(4,), schedule=("cosine", "linear"))
    run = "noise_schedule=linear,noise_steps=4"
    with_others = trained(tmp_path / "other", own, data).members.params(run)
    beside = folder.members.params(run)
    jax.tree.map(np.testing.assert_array_equal, beside["prior"], with_others["prior"])


def test_the_report_shows_the_way_from_noise(folder):
    for found in results(folder):
        arrays = folder.members.arrays(found["run"])
        assert len(arrays["picture/trajectories"]) % STEPS == 0
        absent = {f"picture/{name}" for name in ("traversals", "interpolations")}
        assert not (absent | {"picture/samples_by_guidance"}) & arrays.keys()


def test_the_report_compares_samplers_by_their_steps(folder):
    for found in results(folder):
        shown = folder.members.arrays(found["run"])["picture/samples_by_steps"]
        shape = len(SAMPLERS_SHOWN), len(SAMPLER_STEPS), STEPS, -1
        _, ddim, heun = shown.reshape(shape)
        # The same noise: with many steps both solvers find the same images.
        few, *_, many = np.abs(ddim - heun).mean(axis=(1, 2))
        assert many < 0.1 * few
    members = members_of(results(folder), pytest.fail)
    drawn = _pictures(folder, group_members(members), 10**7, pytest.fail)
    assert all("samples_by_steps" in each for each in drawn.values())


def labelled(**evaluation):
    """Returns a configuration of one chain that knows classes and can do without."""
    own = config(steps=(4,), **evaluation)
    own["model"] |= {"condition_on": "label", "label_dropout": 0.5}
    return own


def test_a_chain_is_fitted_to_latents_of_all_classes_or_refused():
    own = labelled()
    with pytest.raises(SettingsError, match="are one chain of latents"):
        check_fit("diffusion", grid.expand(own))
    encoder = {"posterior": "diagonal", "network": "mlp", "predicts": "velocity"}
    own["model"] |= encoder | {"latent_dim": 2}
    check_fit("diffusion", grid.expand(own))


def test_latents_of_a_class_are_samples_of_its_chain(key):
    model = make_vae(
        make_likelihood("bernoulli", 2),
        image_shape=(2, 2, 1),
        latent_dim=2,
        prior="diffusion",
        num_classes=3,
        widths=(4,),
        denoiser_widths=(4,),
        noise_steps=3,
    )
    half = jnp.full(4, 0.5)
    params = model.init(jax.random.key(0), half, half)
    # The last layer of a denoiser starts at zero, where all classes are equal.
    denoiser = jax.tree.map(lambda leaf: leaf + 0.5, params["prior"]["denoiser"])
    params = params | {"prior": params["prior"] | {"denoiser": denoiser}}
    seed = jax.random.clone(key)
    found = _styles(model, params, key, jnp.arange(3), 2).reshape(3, 2, 2)
    for label, z in enumerate(found):
        labels = jnp.full(2, label)
        own = model.sample_latents(params, jax.random.clone(seed), 2, labels)
        np.testing.assert_allclose(z, own, rtol=1e-5)
    assert not np.allclose(found[0], found[1])


def test_the_report_compares_weights_of_guidance(data, tmp_path):
    own = labelled(sampler="ddim", sampler_steps=3, guidance=2.0)
    with_guidance = trained(tmp_path / "guided", own, data)
    plain = trained(tmp_path / "plain", labelled(), data)
    (run,) = plain.members.finished()
    one, other = (each.members.arrays(run) for each in (with_guidance, plain))
    changed = {
        name
        for name in one
        if not np.array_equal(one[name], other[name], equal_nan=True)
    }
    names = "prior_means", "samples", "samples_by_guidance"
    assert changed == {f"picture/{name}" for name in names}
    for arrays in (one, other):
        shown = arrays["picture/samples_by_guidance"]
        assert shown.shape == (len(GUIDANCE_WEIGHTS) * 10, 8, 8, 1)
        none, *others = shown.reshape(len(GUIDANCE_WEIGHTS), -1)
        assert all(not np.allclose(none, each, atol=1e-3) for each in others)
    for each in (plain, with_guidance):
        write_report(each, each.members.results([run], pytest.fail), [])
    page = (plain.path / "report.html").read_text()
    assert "a row for each chain. y is the label of a test image." in page
    assert "Means of p(x|z, y), a column for each class" in page
    assert "Each z is drawn from the prior. Each y" in page
    assert "0, 1, 2, 4; all from the same noise." in page
    assert "4, 16, 64, 256; a column starts at the same noise. The columns" in page
    other = (with_guidance.path / "report.html").read_text()
    way = "sampler = ddim, sampler steps = 3, guidance = 2.0 where label_dropout"
    assert f"; of a chain of latents with {way}" in other


def test_beside_a_chain_all_are_ranked_by_the_elbo(folder):
    chain, *_ = results(folder)
    vae = row(2.0, latent_dim=2) | {"bound": 2.5, "bound_se": 0.01}
    vae |= {"unit": chain["unit"], "view": "levels"}
    (group,) = group_members(members_of([chain, vae], pytest.fail))
    assert (group.measure, group.quantity) == ("bound", "-ELBO")
    assert {cell.mean for cell in group.ranking} == {2.5, chain["bound"]}
    (alone,) = group_members(members_of([vae], pytest.fail))
    assert (alone.measure, alone.quantity) == ("score", "-log p(x)")


def test_a_loaded_chain_has_the_numbers_of_its_results(folder, data):
    found = results(folder)[0]
    own = load(folder.path, found["run"])
    arrays = folder.members.arrays(found["run"])
    log_px = own.log_prob(data.test.images)
    np.testing.assert_allclose(log_px, arrays["test/log_px"], rtol=1e-4)
    score = own.score(data.test.images).mean()
    assert score == pytest.approx(found["score"], rel=1e-4)
    first, second = data.test.images[:2]
    for walk in (
        lambda: own.interpolate(first, second, 3),
        lambda: own.traverse(first, 0, [0.0]),
    ):
        with pytest.raises(ValueError, match=r"posterior is 'noise': .* Use sample"):
            walk()
    assert own.sample(2, jax.random.key(0)).shape == (2, 8, 8)


def test_latents_are_measured_as_far_as_a_chain_allows():
    """Without log p(z) the information is known, and no KL to the prior."""
    options = {"likelihood": make_likelihood("bernoulli", 2), "image_shape": (4, 4, 1)}
    latents = make_vae(**options, latent_dim=3, widths=(8,), prior="diffusion")
    half, key = jnp.full(16, 0.5), jax.random.key(0)
    images, _ = chain(shape=(4, 4, 1), likelihood="bernoulli", levels=2)
    for model in (latents, images):
        x = jax.random.bernoulli(key, 0.5, (6, 16)).astype(jnp.float32)
        mask, asked = jnp.ones(model.latent_dim), {"num_permutations": 20}
        params = model.init(key, half, half)
        found = measure_latent_use(model, params, key, x, mask, decompose=True, **asked)
        assert 0 < found.two_samples.p_value <= 1
        if model is images:
            assert found.decomposition is None
        else:
            parts = found.decomposition.parts
            assert 0 <= parts.mutual_information < np.log(6) + 1e-4
            assert np.isnan(parts.marginal_kl)
            assert np.isnan(parts.average_kl)


def test_another_number_of_samples_estimates_the_same_bound(folder, data):
    found = results(folder)[0]
    (run,) = (run for run in grid.expand(config()) if run.name == found["run"])
    settings = dataclasses.replace(
        run.settings,
        evaluation=dataclasses.replace(run.settings.evaluation, num_samples=64),
    )
    more = dataclasses.replace(run, settings=settings)
    ((one,),) = evaluate(folder, {more: found}, Images(data), [])
    error = np.hypot(found["chain_error"], one.row()["chain_error"])
    assert abs(one.row()["elbo"] - found["elbo"]) < 6 * error


@pytest.fixture(scope="module")
def evaluated(folder, data):
    """Returns the run of four steps, evaluated again."""
    found = results(folder)[0]
    (run,) = (run for run in grid.expand(config()) if run.name == found["run"])
    assert run.settings.model.noise_steps in (4, 0)
    ((one,),) = evaluate(folder, {run: found}, Images(data), [])
    return one


def of_console(show, rows):
    """Returns the words that a table on rows of models with classes prints."""
    with CONSOLE.capture() as capture:
        show(rows, {row["run"]: "label" for row in rows})
    return " ".join(capture.get().split())


def test_a_trained_chain_is_reported_with_other_steps(evaluated):
    trained = evaluated.run.settings.model.noise_steps
    rows = [evaluated.steps_row(steps) for steps in (1, trained, 4, 400)]
    assert rows[1]["bound"] == pytest.approx(evaluated.row()["bound"], rel=1e-6)
    assert rows[1]["bound_change"] == pytest.approx(0, abs=1e-6)
    # The bound falls with the steps.
    assert rows[0]["bound"] > rows[2]["bound"] > rows[3]["bound"]
    assert list(rows[0]) == [column.name for column in TABLES["noise_steps.csv"]]
    printed = of_console(terminal.print_noise_steps, [*rows, evaluated.steps_row(0)])
    assert "∞" in printed
    assert f"{rows[0]['bound']:.3f}" in printed
    assert ": -ELBO of p(x|y) in bits/dim, smaller is better" in printed


def test_the_flow_stands_beside_the_bound_of_the_same_images(evaluated):
    row = evaluated.flow_row(5, 1e-3)
    own = evaluated.evaluation.estimate.elbo[:5]
    assert row["bound"] == pytest.approx(float(-own.mean() / 64 / np.log(2)), rel=1e-5)
    assert row["flow_bound"] == pytest.approx(row["bound"], abs=1)
    assert row["flow_change"] == pytest.approx(row["flow_bound"] - row["bound"])
    assert (row["num_images"], row["num_failed"]) == (5, 0)
    assert list(row) == [column.name for column in TABLES["flow.csv"]]
    printed = of_console(terminal.print_flow, [row | {"num_failed": 2}])
    assert "another model than its chain" in printed
    assert "the solver failed for 2" in printed
    assert ": -ELBO of p(x|y) in bits/dim, smaller is better" in printed


def test_what_a_model_does_not_have_is_refused_by_name():
    chains, others = grid.expand(config()), grid.expand(small_sweep())
    with pytest.raises(SettingsError, match=r"sandwich_images is 3: .* by --only\."):
        check_models(chains, sandwich_images=3)
    with pytest.raises(SettingsError, match=r"--noise_steps is '4,0': .* by --only\."):
        check_models(others, noise_steps=[4, 0])
    with pytest.raises(SettingsError, match=r"--flow_images is 3: .* by --only\."):
        check_models(others, flow_images=3)
    check_models(others, sandwich_images=3)
    check_models(chains, noise_steps=[4], flow_images=1)


@pytest.mark.parametrize("given", ["-1", "1.5", "x", "", "²", "100001", "9" * 5000])
def test_a_number_of_steps_is_whole(given):
    with pytest.raises(SettingsError, match=r"as in --noise_steps=4,16,64,0"):
        numbers_of_steps(["4", given])
    assert numbers_of_steps(["4", "0", "4"]) == [4, 0]


def test_scores_of_chains_are_compared_by_the_elbo(folder):
    sides = tuple(
        Side(name, "", folder, (run,))
        for name, run in zip("AB", grid.expand(config()), strict=True)
    )
    with pytest.raises(SettingsError, match=r"whose score is its ELBO\. Add --elbo"):
        compare_sides(sides, "log_px", pytest.fail)


# --- samplers and guidance in a configuration -----------------------------------------


@pytest.mark.parametrize(
    ("evaluation", "line"),
    [
        ({"sampler": "ddim"}, "sampler is 'ddim'"),
        ({"sampler_steps": 4}, "sampler_steps is 4"),
        ({"guidance": 2.0}, "guidance is 2.0"),
    ],
)
def test_samplers_and_guidance_need_a_chain(evaluation, line):
    own = small_sweep()
    own["evaluation"] |= evaluation
    found = refusal(grid.expand, own)
    assert found.startswith(f"config.evaluation.{line}: no model of the sweep is a ch")
    # Both remedies, literally.
    (name,) = evaluation
    default = ast.literal_eval(re.search(r"Leave it at (.*), or", found)[1])
    assert grid.expand(own | {"evaluation": own["evaluation"] | {name: default}})
    assert "set config.model.prior and config.training.objective to 'diff" in found
    own["model"]["prior"] = own["training"]["objective"] = "diffusion"
    if name == "guidance":
        assert "no chain of the sweep learns" in refusal(grid.expand, own)
    else:
        assert grid.expand(own)


@pytest.mark.parametrize("condition_on", ["", "label"])
def test_guidance_needs_a_chain_that_can_do_without_classes(condition_on):
    own = config(guidance=2.0)
    own["model"]["condition_on"] = condition_on
    line = refusal(grid.expand, own)
    assert line == (
        "config.evaluation.guidance is 2.0: no chain of the sweep learns to do without "
        "the class. Leave it at 1.0, or set config.model.condition_on to 'label' and "
        "config.model.label_dropout to a share such as 0.1."
    )
    own["model"] |= {"condition_on": "label", "label_dropout": 0.1}
    assert grid.expand(own)


def test_beside_a_chain_other_models_have_no_sampler():
    own = labelled(sampler="heun", guidance=2.0)
    chain = own["model"] | {"objective": "diffusion"}
    vae = small_sweep()["model"] | {"objective": "elbo"}
    swept = ("likelihood", "latent_dim", "network", "posterior", "prior", "objective")
    own["sweep"] = tuple({n: (each[n],) for n in swept} for each in (vae, chain))
    own["model"] |= {"condition_on": "label"}
    runs = grid.expand(own)
    found = [
        sampling_of(run.settings.model.example, run.settings.evaluation) for run in runs
    ]
    assert found[0] == Sampling()
    assert (type(found[1].sampler), found[1].guidance) == (Heun, 2.0)


@pytest.mark.parametrize(
    ("evaluation", "line"),
    [
        ({"sampler": "huen"}, r"sampler is 'huen': it is unknown .did you mean 'heun'"),
        ({"sampler_steps": -1}, "sampler_steps is -1: it must be a whole number"),
        ({"guidance": -0.5}, r"guidance is -0\.5: it must be at least 0"),
        (
            {"sampler_options": {"eta": 0.5}},
            r"sampler_options\.eta is 0\.5: sampler 'ancestral' has no such option\. "
            "Leave it out, or choose 'ddim'",
        ),
        (
            {"sampler": "ddim", "sampler_options": {"eta": 2.0}},
            r"sampler_options\.eta is 2\.0: it must be at least 0 and at most 1",
        ),
        (
            {"sampler_options": {"steps": 2}},
            r"sampler_options\.steps is 2: it is the field sampler_steps\. Set that",
        ),
    ],
)
def test_options_of_samplers_are_checked_by_name(evaluation, line):
    assert re.match(rf"config\.evaluation\.{line}", refusal(expanded, evaluation))


def expanded(evaluation):
    return grid.expand(config(**evaluation))


def test_options_of_a_sampler_reach_it():
    own = {"sampler": "predictor_corrector", "sampler_steps": 5}
    own["sampler_options"] = {"predictor": "heun", "langevin_steps": 2}
    found = expanded(own)[0].settings.evaluation.build_sampler()
    assert found == PredictorCorrector(5, predictor="heun", langevin_steps=2)
