"""Tests of experiments.settings.schema."""

import copy
import dataclasses
import math

import pytest

from configs import digits
from experiments.data.settings import DataSettings
from experiments.messages.errors import DataError, SettingsError
from experiments.settings import grid
from experiments.settings.options import REGISTRIES, part_options
from experiments.settings.schema import (
    EvaluationSettings,
    ModelSettings,
    ParallelSettings,
    Settings,
    TrainingSettings,
    build,
)
from experiments.settings.values import Options, bare
from vae_jax.likelihoods import Bernoulli
from vae_jax.networks import MLP
from vae_jax.objectives import MIWAE, Elbo
from vae_jax.posteriors.gaussian import DiagonalGaussianFamily
from vae_jax.priors.gaussian import StandardNormal
from vae_jax.training import TrainingConfig

SECTIONS = {
    "data": DataSettings,
    "model": ModelSettings,
    "training": TrainingSettings,
    "evaluation": EvaluationSettings,
    "parallel": ParallelSettings,
}
FIELDS = [("", "seed", int)] + [
    (section, field.name, bare(field.type))
    for section, cls in SECTIONS.items()
    for field in dataclasses.fields(cls)
    if field.type is not Options
]
FLOATS = [(section, name) for section, name, hint in FIELDS if hint is float]


# Objectives that take a field which the configuration's objective does not take.
OWNERS = {
    "num_groups": {"objective": "miwae", "num_samples": 4},
    "partitions": {"objective": "thermodynamic", "num_samples": 4},
    "mmd_weight": {"objective": "mmd"},
    "mixing": {"objective": "ciwae"},
    "fixed_scale": {"likelihood": "gaussian_fixed"},
}


@pytest.fixture
def mapping():
    values = copy.deepcopy(digits.get_config().to_dict())
    del values["sweep"]
    return values


def place(mapping, section):
    return mapping[section] if section else mapping


def refusal(mapping, section, name, value):
    """Returns the one line with which a value of a field is refused."""
    place(mapping, section)[name] = value
    with pytest.raises((SettingsError, DataError)) as caught:
        grid.expand(mapping | {"sweep": {}})
    line = str(caught.value)
    assert "\n" not in line
    assert name in line
    return line


def test_values_are_kept(mapping):
    settings = build(mapping, Settings, "config")
    for section, name, _ in FIELDS:
        target = getattr(settings, section) if section else settings
        assert getattr(target, name) == place(mapping, section)[name]
    hash(settings)


@pytest.mark.parametrize(("section", "name", "hint"), FIELDS)
def test_another_type_is_refused(mapping, section, name, hint):
    wrong = 3 if hint is str else "three"
    line = refusal(mapping, section, name, wrong)
    assert repr(wrong) in line
    assert hint.__name__ in line


@pytest.mark.parametrize(("section", "name", "hint"), FIELDS)
def test_none_is_refused(mapping, section, name, hint):
    assert "None" in refusal(mapping, section, name, None)


@pytest.mark.parametrize(("section", "name", "hint"), FIELDS)
def test_missing_fields_are_refused(mapping, section, name, hint):
    del place(mapping, section)[name]
    with pytest.raises(SettingsError, match=rf"\b{name} is missing: give it a value"):
        build(mapping, Settings, "config")


@pytest.mark.parametrize(("section", "name", "hint"), FIELDS)
def test_misspelt_fields_suggest_the_nearest(mapping, section, name, hint):
    values = place(mapping, section)
    values[f"{name}x"] = values.pop(name)
    with pytest.raises(SettingsError, match=f"did you mean '{name}'") as caught:
        build(mapping, Settings, "config")
    assert f"{name}x is unknown" in str(caught.value)


@pytest.mark.parametrize("section", SECTIONS)
def test_a_value_in_place_of_a_group_is_refused(mapping, section):
    assert "must be a group" in refusal(mapping, "", section, 3)


@pytest.mark.parametrize(("section", "name"), FLOATS)
@pytest.mark.parametrize(
    "value", [math.nan, math.inf, -math.inf, 1e300, 1e-300, -1.0, 10**400]
)
def test_floats_outside_float32_or_below_zero_are_refused(
    mapping, section, name, value
):
    refusal(mapping, section, name, value)


def test_every_float_field_is_found():
    assert ("training", "learning_rate") in FLOATS
    assert ("model", "fixed_scale") in FLOATS
    assert len(FLOATS) == 21


@pytest.mark.parametrize(("section", "name"), FLOATS)
def test_a_bool_is_not_a_float(mapping, section, name):
    assert "not bool" in refusal(mapping, section, name, True)


def test_an_int_passes_for_a_float_and_nothing_passes_for_an_int(mapping):
    mapping["training"]["beta"] = 2
    beta = build(mapping, Settings, "config").training.beta
    assert type(beta) is float
    assert beta == 2
    assert "True" in refusal(mapping, "model", "latent_dim", True)
    assert "8.0" in refusal(mapping, "model", "latent_dim", 8.0)


def test_a_list_passes_for_a_tuple(mapping):
    mapping["model"]["widths"] = [3, 4]
    assert build(mapping, Settings, "config").model.widths == (3, 4)


@pytest.mark.parametrize(
    ("section", "name", "value", "allowed"),
    [
        ("", "seed", -1, "at least 0 and at most 4294967295"),
        ("", "seed", 2**32, "at least 0 and at most 4294967295"),
        ("model", "latent_dim", 0, "at least 1"),
        ("model", "latent_dim", -3, "at least 1"),
        ("model", "components", 0, "at least 1"),
        ("model", "fixed_scale", 0.0, "above 0"),
        ("model", "widths", (64, 0), "at least 1"),
        ("model", "widths", 64, r"Give one, as in \(64, 64\)"),
        ("training", "num_samples", 0, "at least 1"),
        ("training", "batch_size", 0, "at least 1"),
        ("training", "num_epochs", 0, "at least 1"),
        ("training", "validate_every", 0, "at least 1"),
        ("training", "patience", -1, "at least 0"),
        ("training", "kl_warmup_epochs", -1, "at least 0"),
        ("training", "clip_norm", -0.5, "at least 0"),
        ("training", "beta", -0.5, "at least 0"),
        ("training", "learning_rate", 0.0, "above 0"),
        ("training", "num_groups", 0, "at least 1"),
        ("training", "partitions", 0, "at least 1"),
        ("training", "microbatches", 0, "at least 1"),
        ("training", "microbatches", 3, "not a multiple"),
        ("training", "capacity", -0.5, "at least 0"),
        ("training", "mmd_weight", -0.5, "at least 0"),
        ("training", "mixing", 1.5, "at least 0 and at most 1"),
        ("training", "mixing", -0.5, "at least 0 and at most 1"),
        ("training", "adam_eps", 0.0, "above 0"),
        ("training", "adam_b1", 1.0, "at least 0 and below 1"),
        ("training", "adam_b2", 1.5, "at least 0 and below 1"),
        ("training", "ema", 1.0, "at least 0 and below 1"),
        ("evaluation", "num_samples", 0, "at least 1"),
        ("evaluation", "chunk", 0, "at least 1"),
        ("evaluation", "batch_size", 0, "at least 1"),
        ("parallel", "members", -1, "at least 0"),
        ("parallel", "batch", 0, "at least 1"),
        ("data", "num_train", 0, "at least 1, or -1"),
        ("data", "split_seed", -1, "at least 0"),
    ],
)
def test_values_out_of_range_are_refused(mapping, section, name, value, allowed):
    if section in ("model", "training"):
        mapping[section] |= OWNERS.get(name, {})
    line = refusal(mapping, section, name, value)
    if not isinstance(value, tuple):
        assert str(value) in line
    with pytest.raises((SettingsError, DataError), match=allowed):
        build(mapping, Settings, "config")


@pytest.mark.parametrize(
    ("section", "name", "value", "meant"),
    [
        ("model", "likelihood", "bernouli", "bernoulli"),
        ("model", "network", "cnv", "conv"),
        ("model", "activation", "rellu", "relu"),
        ("model", "precision", "bfloat", "bfloat16"),
        ("training", "objective", "elb", "elbo"),
        ("training", "schedule", "cosin", "cosine"),
        ("parallel", "member_execution", "maps", "map"),
        ("data", "binarization", "statik", "static"),
    ],
)
def test_unknown_names_list_the_known_ones(mapping, section, name, value, meant):
    place(mapping, section)[name] = value
    with pytest.raises((SettingsError, DataError)) as caught:
        build(mapping, Settings, "config")
    line = str(caught.value)
    assert "\n" not in line
    assert repr(value) in line
    assert repr(meant) in line or f" {meant}" in line


def test_a_renyi_divergence_may_be_of_a_negative_order(mapping):
    mapping["training"] |= {"objective": "renyi", "alpha": -1}
    assert build(mapping, Settings, "config").training.alpha == -1.0


def test_total_correlation_needs_independent_latents(mapping):
    mapping["training"]["objective"] = "beta_tc"
    build(mapping, Settings, "config")
    line = refusal(mapping, "model", "posterior", "full_covariance")
    assert "'beta_tc'" in line
    assert "Choose the posterior 'diagonal', or the objective 'mmd'" in line


def test_a_conv_network_needs_widths(mapping):
    mapping["model"]["network"] = "conv"
    assert "one or more" in refusal(mapping, "model", "widths", ())


def test_the_configuration_leaves_out_what_members_differ_in(mapping):
    mapping["training"] |= {"objective": "miwae", "num_samples": 4, "num_groups": 2}
    training = build(mapping, Settings, "config").training
    config = training.config()
    assert type(config) is TrainingConfig
    plan = dataclasses.asdict(config)
    objective = plan.pop("objective")
    assert plan.items() <= dataclasses.asdict(training).items()
    assert not {"beta", "learning_rate"} & plan.keys()
    assert type(config.objective) is MIWAE
    assert objective == {"num_samples": 4, "num_groups": 2}


@pytest.mark.parametrize(
    ("likelihood", "options"),
    [
        ("gaussian_fixed", {"fixed_scale": 0.25}),
        ("logistic_mixture", {"components": 3}),
        ("bernoulli", {}),
        ("gaussian_shared", {}),
    ],
)
def test_likelihoods_get_their_own_options(mapping, likelihood, options):
    mapping["model"] |= {"likelihood": likelihood, "fixed_scale": 0.25, "components": 3}
    model = build(mapping, Settings, "config").model
    assert part_options(model, "likelihood") == options


# --- options of parts -----------------------------------------------------------------


def expanded(mapping, *grids):
    return grid.expand(mapping | {"sweep": grids or {}})


@pytest.mark.parametrize(
    ("section", "field", "value", "remedy"),
    [
        ("model", "fixed_scale", 0.2, {"likelihood": "gaussian_fixed"}),
        ("model", "prior_components", 7, {"prior": "vamp"}),
        ("model", "flow_steps", 7, {"prior": "flow"}),
        ("training", "mixing", 0.5, {"objective": "ciwae"}),
        ("training", "mmd_weight", 2.0, {"objective": "mmd"}),
    ],
)
def test_an_option_that_no_run_takes_is_refused_and_the_remedies_work(
    mapping, section, field, value, remedy
):
    if section == "model":  # Some priors have no KL in closed form.
        mapping["training"]["objective"] = "elbo_log_weight"
    neutral = mapping[section][field]
    mapping[section][field] = value
    ((kind, part),) = remedy.items()
    with pytest.raises(SettingsError) as caught:
        expanded(mapping)
    line = str(caught.value)
    assert "\n" not in line
    assert line.startswith(f"config.{section}.{field} is {value!r}: ")
    assert f"{kind} {mapping[section][kind]!r}" in line
    assert f"Leave it at {neutral!r}, or choose " in line
    assert repr(part) in line
    # One run that takes it is enough.
    other = expanded(mapping, {kind: (mapping[section][kind], part)})
    assert len(other) == 2
    for remedied in ({field: neutral}, remedy):
        assert len(expanded(mapping | {section: mapping[section] | remedied})) == 1


def test_an_axis_that_leaves_two_runs_the_same_is_refused_and_the_remedy_works(mapping):
    axes = {"likelihood": ("laplace", "gaussian_fixed"), "fixed_scale": (0.1, 0.2)}
    with pytest.raises(SettingsError) as caught:
        expanded(mapping, axes)
    line = str(caught.value)
    assert (
        "likelihood=laplace,fixed_scale=0.2 is the model of likelihood=laplace" in line
    )
    assert "a grid of its own, config.sweep=[{...}, {...}]" in line
    runs = expanded(
        mapping,
        {"likelihood": "laplace"},
        {"likelihood": "gaussian_fixed", "fixed_scale": (0.1, 0.2)},
    )
    assert len(runs) == 3


@dataclasses.dataclass(frozen=True)
class OwnObjective(Elbo):
    strength: float = 1.0


@dataclasses.dataclass(frozen=True)
class OwnNetwork(MLP):
    strength: float = 1.0


@dataclasses.dataclass(frozen=True)
class OwnLikelihood(Bernoulli):
    strength: float = 1.0


@dataclasses.dataclass(frozen=True)
class OwnPosterior(DiagonalGaussianFamily):
    strength: float = 1.0


@dataclasses.dataclass(frozen=True)
class OwnPrior(StandardNormal):
    strength: float = 1.0


OWN = {
    "objective": OwnObjective,
    "network": OwnNetwork,
    "likelihood": OwnLikelihood,
    "posterior": OwnPosterior,
    "prior": OwnPrior,
}


@pytest.mark.parametrize("kind", OWN)
def test_options_by_name_reach_a_part_of_ones_own(mapping, monkeypatch, kind):
    monkeypatch.setitem(REGISTRIES[kind], "own", OWN[kind])
    section = "training" if kind == "objective" else "model"
    mapping[section] |= {kind: "own", f"{kind}_options": {"strength": 2.5}}
    (run,) = expanded(mapping)
    if kind == "objective":
        part = run.settings.training.config().objective
    else:
        model = run.settings.model.build(image_shape=(8, 8, 1), levels=2)
        part = getattr(model, f"{kind}_family", None) or getattr(model, kind)
    assert (type(part), part.strength) == (OWN[kind], 2.5)
    mapping[section][f"{kind}_options"] = {"strength": "much"}
    line = refusal(mapping, section, kind, "own")
    path = f"config.{section}.{kind}_options.strength"
    assert f"{path} is 'much': it must be of type float" in line
    mapping[section][f"{kind}_options"] = {"strenght": 2.5}
    line = refusal(mapping, section, kind, "own")
    assert f"strenght is 2.5: {kind} 'own' has no such option. Leave it out." in line


def test_options_of_a_denoiser_are_given_by_name_in_those_of_the_prior(mapping):
    denoiser = {"denoiser": "transformer", "denoiser_widths": (8,)}
    mapping["model"] |= {"prior": "diffusion", **denoiser}
    mapping["training"] |= {"objective": "diffusion"}
    mapping["model"]["prior_options"] = {"denoiser_options": {"patch": 4, "heads": 2}}
    (run,) = expanded(mapping)
    model = run.settings.model.build(image_shape=(8, 8, 1), levels=2)
    network = model.prior_family.module.network
    assert (network.patch, network.heads, network.widths) == (4, 2, (8,))
    for options, words in (
        ({"patch": 0}, "config.model.prior_options.denoiser_options.patch is 0: it m"),
        ({"blocks": 1}, "prior_options.denoiser_options.blocks is 1: denoiser 'trans"),
        (3, "config.model.prior_options.denoiser_options is 3: they are options by"),
    ):
        mapping["model"]["prior_options"] = {"denoiser_options": options}
        assert words in refusal(mapping, "model", "denoiser", "transformer")
