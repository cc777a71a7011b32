"""Tests of everything in configs/: each variant makes runs that could be trained."""

import contextlib
import importlib
import inspect
import re
from pathlib import Path

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import pytest

from configs import diffusion, digits
from experiments.data.images import ImageData
from experiments.data.sources import Split
from experiments.messages.errors import SettingsError
from experiments.runner.planning import check
from experiments.runner.task import build_model
from experiments.settings import grid
from vae_jax import population

SHAPES = {  # of the data sets that configs name: image shape, levels, training images
    "digits": ((8, 8, 1), 17, 1300),
    "mnist": ((28, 28, 1), 256, 50_000),
    "fashion_mnist": ((28, 28, 1), 256, 50_000),
    "binarized_mnist": ((28, 28, 1), 2, 50_000),
}


def variants():
    """Yields (module, variant) of every config, as announced or used by its table."""
    root = Path(__file__).parents[1]
    for path in sorted((root / "configs").rglob("[!_]*.py")):
        name = path.relative_to(root).with_suffix("").as_posix().replace("/", ".")
        module = importlib.import_module(name)
        announced = re.split(r"^Variants", module.__doc__, flags=re.MULTILINE)[1:]
        names = re.findall(r"^    (\w+)  ", "".join(announced), flags=re.MULTILINE)
        rows = getattr(module, "TABLE", {"rows": ()})["rows"]
        used = [variant for row in rows for variant, _ in row["runs"]]
        for variant in dict.fromkeys(("", *names, *used)):
            yield pytest.param(module, variant, id=f"{path.stem}:{variant}")


VARIANTS = list(variants())


def blank_images(settings):
    """Returns images without content, of the shape that the settings will load.

    Their labels are those of digits and clothes: 0 to 9.
    """
    shape, levels, count = SHAPES[settings.name]
    levels = 2 if settings.binarization == "static" else levels
    count = count if settings.num_train == -1 else settings.num_train
    train = Split(np.broadcast_to(np.uint8(0), (count, *shape)), np.arange(count) % 10)
    few = Split(np.zeros((2, *shape), np.uint8), np.arange(2))
    return ImageData(settings.name, levels, train, few, few, settings.binarization)


def test_variants_are_found():
    assert {"digits:", "digits:tiny"} <= {case.id for case in VARIANTS}


@pytest.mark.parametrize(("module", "variant"), VARIANTS)
def test_every_config_is_locked_but_for_the_axes_of_its_sweep(module, variant):
    config = module.get_config(variant)
    assert isinstance(config, ml_collections.ConfigDict)
    assert config.is_locked
    for name, value in config.items():
        if isinstance(value, ml_collections.ConfigDict):
            assert value.is_locked == (name != "sweep"), name


@pytest.mark.parametrize(("module", "variant"), VARIANTS)
def test_every_config_has_the_fields_of_the_first(module, variant):
    config, first = module.get_config(variant).to_dict(), digits.get_config().to_dict()
    assert config.keys() == first.keys()
    for name in config.keys() - {"seed", "sweep", "trackers"}:
        options = {field for field in config[name] if field.endswith("_options")}
        assert config[name].keys() - options == first[name].keys()


@pytest.mark.parametrize(("module", "variant"), VARIANTS)
def test_every_run_of_every_config_can_be_initialised(module, variant):
    runs = grid.expand(module.get_config(variant).to_dict())
    data = blank_images(runs[0].settings.data)
    check(runs, data)
    for group in grid.group(runs):
        model = build_model(group.widest, data)
        params = population.param_shapes(model)
        z, x = (
            jax.ShapeDtypeStruct((3, size), jnp.float32)
            for size in (model.latent_dim, model.rows.size)
        )
        outputs = jax.eval_shape(model.decode, params, z, x)
        rows = model.likelihood.pixel_outputs + model.likelihood.shared_outputs
        assert outputs.shape == (3, rows, data.num_pixels)


@pytest.mark.parametrize(("module", "variant"), VARIANTS)
def test_every_warm_up_ends_within_the_training(module, variant):
    for run in grid.expand(module.get_config(variant).to_dict()):
        training = run.settings.training
        assert training.kl_warmup_epochs <= training.num_epochs


@pytest.mark.parametrize(
    "module",
    {case.values[0]: case for case in VARIANTS if hasattr(case.values[0], "TABLE")},
    ids=lambda module: module.__name__,
)
def test_every_row_of_a_table_chooses_runs_and_every_run_has_a_row(module):
    runs = {
        variant: grid.expand(module.get_config(variant).to_dict())
        for case, variant in (case.values for case in VARIANTS)
        if case is module
    }
    shown = set()
    for row in module.TABLE["rows"]:
        chosen = []
        for variant, only in row["runs"]:
            # A smaller variant may lack some.
            with contextlib.suppress(SettingsError):
                chosen += [(variant, run) for run in grid.choose(runs[variant], only)]
        assert chosen, row["model"]
        shown.update(chosen)
    # Nothing else is trained.
    names = {variant for variant, _ in shown}
    assert shown == {(name, run) for name in names for run in runs[name]}


def test_a_vamp_prior_of_more_images_than_there_are_is_refused():
    config = digits.get_config("tiny").to_dict()
    config["model"] |= {"prior": "vamp", "prior_components": 101}
    config["training"]["objective"] = "elbo_log_weight"
    config["data"]["num_train"] = 100
    runs = grid.expand(config)
    with pytest.raises(SettingsError, match=r"prior_components is 101: .* 100 train"):
        check(runs, blank_images(runs[0].settings.data))


@pytest.mark.parametrize(
    "module", {case.values[0]: case for case in VARIANTS}, ids=lambda m: m.__name__
)
def test_unknown_variants_are_refused_naming_the_known(module):
    names = [case.values[1] for case in VARIANTS if case.values[0] is module]
    with pytest.raises(ValueError, match="nonsense") as caught:
        module.get_config("nonsense")
    assert "\n" not in str(caught.value)
    for part in filter(None, ",".join(names).split(",")):
        assert part in str(caught.value)


def test_a_sweep_of_chains_has_one_data_set():
    with pytest.raises(ValueError, match=r"variant is 'digits,mnist': .* Choose digi"):
        diffusion.get_config("digits,mnist")


@pytest.mark.parametrize(
    "module", {case.values[0]: case for case in VARIANTS}, ids=lambda m: m.__name__
)
def test_every_config_opens_with_its_command(module):
    assert "python -m experiments." in inspect.getdoc(module)


def test_the_main_job_is_large_enough_to_compare():
    sweep = digits.get_config().sweep
    assert len(set(sweep.likelihood)) >= 8
    assert len(set(sweep.latent_dim)) >= 4
    assert len(set(sweep.seed)) >= 3
    runs = grid.expand(digits.get_config().to_dict())
    assert len(grid.group(runs)) == len(sweep.likelihood)
