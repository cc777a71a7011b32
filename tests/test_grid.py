"""Tests of experiments.settings.grid."""

import collections
import dataclasses

import pytest

from configs import digits
from experiments.data.settings import DataSettings
from experiments.messages.errors import SettingsError
from experiments.settings import grid
from experiments.settings.options import KINDS
from experiments.settings.schema import ModelSettings, TrainingSettings
from vae_jax.diffusion.schedules import NOISE_SCHEDULES, Linear


def config(**sweep):
    return digits.get_config().to_dict() | {"sweep": sweep}


def names(runs):
    return [run.name for run in runs]


def test_runs_are_the_product_in_reading_order():
    runs = grid.expand(
        config(seed=(0, 1), beta=(1, 4.0), latent_dim=(8, 2), likelihood=("laplace",))
    )
    assert names(runs) == [
        f"likelihood=laplace,latent_dim={size},beta={beta},seed={seed}"
        for size in (8, 2)
        for beta in (1.0, 4.0)
        for seed in (0, 1)
    ]
    assert runs[3].settings.model.latent_dim == 8
    assert runs[3].settings.training.beta == 4.0
    assert runs[3].settings.seed == 1
    assert runs[3].settings.model.likelihood == "laplace"


def test_names_tell_runs_apart():
    runs = grid.expand(digits.get_config().to_dict())
    assert len(set(names(runs))) == len(runs) == 13 * 4 * 3


def test_an_empty_sweep_is_one_run():
    (run,) = grid.expand(config())
    assert run.name == "model"
    assert run.settings.model.latent_dim == digits.get_config().model.latent_dim


def test_fields_of_several_values_are_swept_as_tuples():
    runs = grid.expand(config(widths=((8,), (8, 4))))
    assert names(runs) == ["widths=8", "widths=8x4"]
    assert runs[1].settings.model.widths == (8, 4)


@pytest.mark.parametrize(
    "value",
    [
        "laplace,beta",
        "laplace, beta",
        ("laplace", "beta"),
        ["laplace", "beta"],
        ("laplace,beta",),
    ],
)
def test_names_may_come_as_one_string(value):
    runs = grid.expand(config(likelihood=value))
    assert names(runs) == ["likelihood=laplace", "likelihood=beta"]


def test_a_single_value_is_an_axis():
    assert names(grid.expand(config(latent_dim=3))) == ["latent_dim=3"]


@pytest.mark.parametrize(
    ("sweep", "message"),
    [
        ({"latent_dims": (2,)}, "latent_dims is unknown .did you mean 'latent_dim'"),
        ({"keep": (2,)}, "keep is unknown"),
        ({"network_options": ({"a": 1},)}, "network_options is no axis: .*partial"),
        ({"latent_dim": ()}, "latent_dim is empty"),
        ({"seed": []}, "seed is empty"),
        ({"seed": (1, 1)}, r"seed is \(1, 1\): a value occurs twice"),
        ({"beta": (1, 1.0)}, "beta is .*: a value occurs twice"),
        ({"likelihood": "beta,beta"}, "likelihood is .*: a value occurs twice"),
        ({"likelihood": ("bernouli",)}, "did you mean 'bernoulli'"),
        ({"likelihood": "beta,"}, "likelihood is '': it is unknown"),
        (
            {"latent_dim": (2, 0)},
            "latent_dim is 0: it must be a whole number of at least 1",
        ),
        (
            {"latent_dim": (2.0,)},
            "latent_dim is 2.0: it must be of type int, not float",
        ),
        ({"seed": (True,)}, "seed is True: it must be of type int, not bool"),
        ({"widths": (8, 8)}, r"widths is \(8, 8\): .* Give it as in \(\(64, 64\), "),
    ],
)
def test_sweeps_that_make_no_sense_are_refused(sweep, message):
    with pytest.raises(SettingsError, match=message) as caught:
        grid.expand(config(**sweep))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("group", ["sweep", "model", "training"])
@pytest.mark.parametrize("value", [None, 3])
def test_a_config_without_its_groups_is_refused(group, value):
    with pytest.raises(SettingsError, match=f"config.{group} is "):
        grid.expand(config() | {group: value})


# --- several grids --------------------------------------------------------------------


def united(*grids):
    return config() | {"sweep": grids}


def test_the_runs_of_several_grids_are_united_in_their_order():
    runs = grid.expand(
        united(
            {"likelihood": "laplace,beta", "latent_dim": (2, 4)},
            {"likelihood": "gaussian_fixed", "fixed_scale": (0.05, 0.2)},
        )
    )
    assert names(runs) == [
        "likelihood=laplace,latent_dim=2",
        "likelihood=laplace,latent_dim=4",
        "likelihood=beta,latent_dim=2",
        "likelihood=beta,latent_dim=4",
        "likelihood=gaussian_fixed,fixed_scale=0.05",
        "likelihood=gaussian_fixed,fixed_scale=0.2",
    ]
    assert runs[-1].settings.model.fixed_scale == 0.2


def test_one_grid_is_the_same_alone_and_in_a_sequence():
    axes = {"latent_dim": (2, 4), "seed": (0, 1)}
    assert grid.expand(united(axes)) == grid.expand(config(**axes))
    assert grid.expand(config() | {"sweep": [axes]}) == grid.expand(united(axes))
    assert grid.expand(united({}, {})) == grid.expand(config())


def test_a_run_of_two_grids_counts_once():
    runs = grid.expand(united({"seed": (0, 1)}, {"seed": (1, 2)}))
    assert names(runs) == ["seed=0", "seed=1", "seed=2"]


def test_a_run_of_two_names_is_refused_and_the_remedies_work():
    """One grid holds the value, and the configuration holds it for the other grid."""
    seeds, scales = {"seed": (0,)}, {"latent_dim": (8, 16), "seed": (0,)}
    with pytest.raises(SettingsError) as caught:
        grid.expand(united(seeds, scales))
    for word in ("config.sweep[1]", "latent_dim=8,seed=0", "the model of seed=0"):
        assert word in str(caught.value)
    left_out = united(seeds, scales | {"latent_dim": (16,)})
    same_axes = united(seeds | {"latent_dim": (8,)}, scales)
    for remedied in (left_out, same_axes):
        assert len(grid.expand(remedied)) == 2


@pytest.mark.parametrize(
    ("sweep", "message"),
    [
        ((), "config.sweep is empty: give at least one grid"),
        (3, "config.sweep is 3: it must be a group, or several"),
        (None, "config.sweep is missing: it must be a group, or several"),
        (iter([{}]), "config.sweep is .* Write list"),
        (({}, 3), r"config.sweep\[1\] is 3: it must be a grid"),
        (({}, None), r"config.sweep\[1\] is None: it must be a grid"),
        (({}, ({},)), r"config.sweep\[1\] is \({},\): it must be a grid"),
        (({}, ("seed", 1)), r"config.sweep\[1\] is \('seed', 1\): it must be"),
        (("seed",), r"config.sweep\[0\] is 'seed': it must be a grid"),
        (({}, {"sed": 1}), r"config.sweep\[1\].sed is unknown .did you mean 'seed'"),
        (({}, {3: 1}), r"config.sweep\[1\].3 is unknown"),
        (({}, {"seed": ()}), r"config.sweep\[1\].seed is empty: give"),
        (({}, {"seed": {0}}), r"config.sweep\[1\].seed is \{0\}: a set has no order"),
        (
            ({}, {"seed": (1, 1)}),
            r"config.sweep\[1\].seed is \(1, 1\): a value occurs twice",
        ),
        (({}, {"widths": (8,)}), r"config.sweep\[1\].widths is \(8,\): each"),
        (({}, {"seed": "x"}), r"config.sweep\[1\].seed is 'x': it must be of type int"),
        (
            ({}, {"latent_dim": 0}),
            "latent_dim is 0: it must be a whole number of at least 1",
        ),
        (
            ({"seed": range(60_000)}, {"beta": 2.0, "seed": range(60_000)}),
            "config.sweep has 120,000 runs",
        ),
    ],
)
def test_grids_that_make_no_sense_are_refused_by_their_place(sweep, message):
    with pytest.raises(SettingsError, match=message) as caught:
        grid.expand(united() | {"sweep": sweep})
    assert "\n" not in str(caught.value)


@pytest.fixture
def checks(monkeypatch):
    """Counts how often groups of fields are checked, by their class."""
    counts = collections.Counter()

    def counting(cls):
        check = cls.__post_init__

        def counted(self):
            counts[cls] += 1
            check(self)

        monkeypatch.setattr(cls, "__post_init__", counted)

    for cls in (DataSettings, ModelSettings, TrainingSettings):
        counting(cls)
    return counts


def test_sections_that_runs_share_are_checked_once(checks):
    seeds = tuple(range(50))
    runs = grid.expand(config(seed=seeds, beta=(1.0, 2.0), latent_dim=(2, 3, 4)))
    assert len(runs) == 300
    assert checks == {DataSettings: 1, ModelSettings: 3, TrainingSettings: 2}
    grid.group(runs)
    assert checks[ModelSettings] <= 3 + 3
    assert checks[TrainingSettings] <= 2 + 2
    whole = grid.expand(config(seed=(49,), beta=(2.0,), latent_dim=(4,)))
    assert whole == runs[-1:]


# --- groups ---------------------------------------------------------------------------

SHARED = ("seed", "latent_dim", "beta", "learning_rate")
OTHER_VALUES = {
    "likelihood": "laplace",
    "precision": "bfloat16",
    "rematerialize": True,
    "microbatches": 2,
    "network": "conv",
    "widths": (7,),
    "activation": "tanh",
    "objective": "iwae",
    "num_samples": 2,
    "kl_warmup_epochs": 1,
    "batch_size": 7,
    "num_epochs": 10,
    "validate_every": 5,
    "patience": 7,
    "schedule": "constant",
    "clip_norm": 7.0,
    "adam_b1": 0.7,
    "adam_b2": 0.85,
    "adam_eps": 0.7,
    "ema": 0.5,
    "on_non_finite": "skip",
    "free_bits": 0.5,
    "ignore_x": True,
    "posterior": "full_covariance",
    "prior": "gaussian",
    "condition_on": "label",
}
# Options that one part takes, with other values.
OPTIONS = {
    "fixed_scale": ({"likelihood": "gaussian_fixed"}, 0.25),
    "components": ({"likelihood": "logistic_mixture"}, 3),
    "layer_widths": ({"posterior": "ladder", "upper_layers": (3,)}, (7,)),
    "prior_components": ({"prior": "mixture"}, 7),
    "flow_steps": ({"prior": "flow"}, 7),
    "flow_widths": ({"prior": "flow"}, (7,)),
    "capacity": ({"objective": "elbo"}, 7.0),
    "num_groups": ({"objective": "miwae"}, 2),
    "mixing": ({"objective": "ciwae"}, 0.5),
    "alpha": ({"objective": "renyi"}, 0.5),
    "partitions": ({"objective": "thermodynamic"}, 7),
    "mmd_weight": ({"objective": "mmd"}, 7.0),
}
# Options of a chain of latents, with other values: those of one program, and others.
SHARED_BY_CHAINS = {"noise_steps": 4, "noise_schedule": "cosine"}
OPTIONS_OF_CHAINS = {
    "denoiser": "unet",
    "denoiser_widths": (7,),
    "predicts": "levels",
    "gamma_min": -7.0,
    "gamma_max": 7.0,
    "preserves_variance": False,
    "label_dropout": 0.5,
    "weighting": "simple",
}
# Options by name have no values that suit all parts.
BY_NAME = {f"{kind}_options" for kind in KINDS if kind in grid.AXES}
# Another value is allowed only together with another posterior and objective.
TOGETHER = ("upper_layers",)


def test_runs_that_differ_in_arrays_share_a_group():
    runs = grid.expand(
        config(
            seed=(0, 1), latent_dim=(2, 8), beta=(1.0, 4.0), learning_rate=(1e-3, 1e-2)
        )
    )
    (group,) = grid.group(runs)
    assert group.runs == runs
    assert group.widest.model.latent_dim == 8


@pytest.mark.parametrize("field", OTHER_VALUES)
def test_runs_that_differ_in_anything_else_do_not(field):
    section = "model" if field in digits.get_config().model else "training"
    now = digits.get_config().to_dict()[section][field]
    runs = grid.expand(config(**{field: (now, OTHER_VALUES[field]), "seed": (0, 1)}))
    groups = grid.group(runs)
    assert [group.runs for group in groups] == [runs[:2], runs[2:]]


@pytest.mark.parametrize("field", OPTIONS)
def test_runs_that_differ_in_an_option_of_a_part_do_not(field):
    parts, other = OPTIONS[field]
    section = "training" if "objective" in parts else "model"
    base = config(**{field: (digits.get_config()[section][field], other)})
    base["training"] |= {"objective": "elbo_log_weight", "num_samples": 2}
    base[section] |= parts
    runs = grid.expand(base)
    assert [group.runs for group in grid.group(runs)] == [runs[:1], runs[1:]]


def chains(**axes):
    """Returns runs of chains of latents over these axes."""
    base = config(**axes)
    base["model"] |= {
        "network": "identity",
        "posterior": "noise",
        "prior": "diffusion",
        "likelihood": "discretized_gaussian",
        "widths": (256,),
        "latent_dim": 64,
    }
    base["training"] |= {"objective": "diffusion"}
    return grid.expand(base)


@pytest.mark.parametrize("field", SHARED_BY_CHAINS)
def test_steps_and_shared_schedules_of_chains_share_a_group(field):
    now = digits.get_config().model[field]
    runs = chains(**{field: (now, SHARED_BY_CHAINS[field]), "seed": (0, 1)})
    (group,) = grid.group(runs)
    assert group.runs == runs


@pytest.mark.parametrize("own", ["learned", "late"])
def test_another_schedule_has_a_group_of_its_own(monkeypatch, own):
    late = type("Late", (Linear,), {})
    monkeypatch.setitem(NOISE_SCHEDULES, "late", late)
    runs = chains(noise_schedule=(own, "linear"), noise_steps=(4, 0))
    assert [group.runs for group in grid.group(runs)] == [runs[:2], runs[2:]]


@pytest.mark.parametrize("field", OPTIONS_OF_CHAINS)
def test_chains_that_differ_in_another_option_do_not(field):
    section = "training" if field == "weighting" else "model"
    now = digits.get_config()[section][field]
    more = {"condition_on": "label"} if field == "label_dropout" else {}
    runs = chains(**{field: (now, OPTIONS_OF_CHAINS[field])}, **more)
    assert [group.runs for group in grid.group(runs)] == [runs[:1], runs[1:]]


def test_hierarchies_of_other_layers_do_not():
    base = config(upper_layers=((3,), (4,)))
    base["model"] |= {"posterior": "ladder"}
    base["training"] |= {"objective": "stl"}
    runs = grid.expand(base)
    assert [group.runs for group in grid.group(runs)] == [runs[:1], runs[1:]]


@pytest.mark.parametrize(
    "part", [{"posterior": "full_covariance"}, {"prior": "gaussian"}]
)
def test_models_that_cannot_be_padded_are_grouped_by_latent_size(part):
    base = config(latent_dim=(2, 8), seed=(0, 1))
    base["model"] |= part
    runs = grid.expand(base)
    assert [group.runs for group in grid.group(runs)] == [runs[:2], runs[2:]]


def test_every_field_is_either_shared_or_not():
    fields = {
        field.name
        for cls in (ModelSettings, TrainingSettings)
        for field in dataclasses.fields(cls)
    } | {"seed"}
    assert fields == {
        *SHARED,
        *OTHER_VALUES,
        *OPTIONS,
        *SHARED_BY_CHAINS,
        *OPTIONS_OF_CHAINS,
        *TOGETHER,
        *BY_NAME,
    }


def test_the_name_of_a_group_tells_its_runs_and_attempt():
    runs = grid.expand(config(likelihood="laplace", seed=(0, 1, 2)))
    groups = [grid.Group(runs), grid.Group(runs[:2]), grid.Group(runs, attempt=1)]
    assert len({group.name for group in groups}) == 3
    assert groups[0].name == grid.Group(runs).name
    assert all(group.name.startswith("laplace-") for group in groups)


def test_runs_that_start_again_have_groups_of_their_own():
    runs = grid.expand(config(likelihood="laplace", seed=(0, 1, 2)))
    groups = grid.group(runs, {runs[0].name: 2, runs[1].name: 0})
    assert groups == (grid.Group(runs[:1], attempt=2), grid.Group(runs[1:]))


def test_groups_keep_the_order_of_runs():
    runs = grid.expand(config(likelihood="laplace,beta", seed=(0, 1)))
    mixed = [runs[2], runs[0], runs[3], runs[1]]
    groups = grid.group(mixed)
    assert [names(group.runs) for group in groups] == [
        ["likelihood=beta,seed=0", "likelihood=beta,seed=1"],
        ["likelihood=laplace,seed=0", "likelihood=laplace,seed=1"],
    ]
    assert grid.group([]) == ()


# --- choosing -------------------------------------------------------------------------


@pytest.fixture
def runs():
    return grid.expand(config(likelihood="laplace,beta", latent_dim=(1, 11)))


@pytest.mark.parametrize(
    ("only", "indices"),
    [
        ("", [0, 1, 2, 3]),
        ("  ", [0, 1, 2, 3]),
        ("2", [2]),
        ("3 0", [0, 3]),
        ("1-2", [1, 2]),
        ("2-99", [2, 3]),
        ("latent_dim=1", [0, 2]),
        ("latent_dim=11", [1, 3]),
        ("likelihood=beta", [2, 3]),
        ("likelihood=beta,latent_dim=1", [2]),
        ("latent_dim=1,likelihood=beta", [2]),
        ("0 likelihood=beta 0-1", [0, 1, 2, 3]),
        ("3-" + "9" * 5000, [3]),
        ("0" * 5000 + "1", [1]),
    ],
)
def test_selections(runs, only, indices):
    assert grid.choose(runs, only) == tuple(runs[i] for i in indices)


@pytest.mark.parametrize(
    "only",
    [
        *("4", "2-1", "-1", "1-", "beta", "latent_dim=2", "0 seed=7", "²", "a-b"),
        *("9" * 5000, "9" * 5000 + "-0"),
    ],
)
def test_selections_that_hit_nothing_are_refused(runs, only):
    with pytest.raises(SettingsError, match="fits none of the 4 runs") as caught:
        grid.choose(runs, only)
    assert repr(only.split()[-1]) in str(caught.value)


def test_the_setting_of_a_run_is_read_from_its_name():
    runs = grid.expand(
        config(
            likelihood=("laplace",),
            seed=(0,),
            widths=((8,), (8, 4)),
            posterior=("full_covariance",),
        )
    )
    settings = [grid.setting(run.name) for run in runs]
    assert settings == [
        {"posterior": "full_covariance", "widths": "8"},
        {"posterior": "full_covariance", "widths": "8x4"},
    ]
    assert grid.setting("model") == {}


def test_more_runs_than_memory_holds_are_refused_at_once():
    config = digits.get_config().to_dict()
    config["sweep"] = {
        "seed": list(range(10_000)),
        "latent_dim": list(range(1, 10_001)),
    }
    with pytest.raises(SettingsError, match="has 100,000,000 runs"):
        grid.expand(config)
