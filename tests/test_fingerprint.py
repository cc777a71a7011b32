"""Tests of experiments.settings.fingerprint."""

import dataclasses
import functools
import importlib
import json
import sys
import types

import pytest

from configs import digits
from experiments.settings.fingerprint import (
    comparable,
    differences,
    fingerprint,
    fingerprints,
    group_fingerprint,
    machine_settings,
    with_defaults,
)
from experiments.settings.grid import expand
from experiments.settings.schema import CheckpointSettings, Settings
from experiments.settings.values import Options
from vae_jax.likelihoods import LIKELIHOODS
from vae_jax.networks import NETWORKS
from vae_jax.objectives import OBJECTIVES
from vae_jax.posteriors import POSTERIORS
from vae_jax.priors import PRIORS

IMAGES = "0"


def config(**sections):
    """Returns the default run's configuration, with some fields changed."""
    found = digits.get_config().to_dict() | {"sweep": {}}
    for name, fields in sections.items():
        found[name] = found[name] | fields if isinstance(fields, dict) else fields
    return found


def of(found, images=IMAGES):
    (run,) = expand(found)
    return fingerprint(run.settings, images)


DEFAULT = of(config())


def test_the_fingerprint_of_the_default_run_stays_what_it_is():
    """Every run folder and record holds fingerprints: those of runs whose settings
    stayed must stay. If this fails, a default was changed, a field without one was
    added, or a fingerprint covers other fields: a new field gets a default that stands
    for the behaviour before. Only a new format of run folders (``runs.folder.FORMAT``)
    is a reason to write another value here.
    """
    assert DEFAULT == "6081e44fcbac15fd8f43c8abf04fdf2a9b92ba4a74b4f016ed4b9bbc022f0643"


@pytest.mark.parametrize(
    "changes",
    [
        {"seed": 1},
        {"model": {"latent_dim": 9}},
        {"model": {"activation": "tanh"}},
        {"model": {"likelihood": "laplace"}},
        {"model": {"widths": (128, 127)}},
        {"model": {"widths": (128,)}},
        {"training": {"beta": 1.5}},
        {"training": {"objective": "iwae"}},
        {"training": {"num_epochs": 160}},
        {"training": {"validate_every": 5}},
        {"training": {"on_non_finite": "reseed"}},
        {"evaluation": {"num_samples": 501}},
        {"diagnostics": {"probes": False}},
        {"data": {"binarization": "static"}},
        {"data": {"split_seed": 1}},
        {"data": {"num_train": 500}},
    ],
    ids=str,
)
def test_a_fingerprint_covers_the_fields_that_decide_bits(changes):
    assert of(config(**changes)) != DEFAULT


def test_other_images_are_another_run():
    assert of(config(), "1") != DEFAULT


@pytest.mark.parametrize(
    "changes",
    [
        {"data": {"data_dir": "/elsewhere"}},
        {"data": {"cache_dir": "/elsewhere"}},
        {"data": {"download": True}},
        {"data": {"stream": True, "stream_megabytes": 5.0}},
        {"parallel": {"members": 4, "batch": 2, "memory_gib": 3.0}},
        {"parallel": {"member_execution": "loop"}},
        {"checkpoint": {"every_epochs": 2, "every_seconds": 5.0, "keep": 9}},
    ],
    ids=str,
)
def test_it_leaves_out_fields_that_change_no_result(changes):
    assert of(config(**changes)) == DEFAULT


def test_the_path_of_images_is_not_in_it():
    first, second = (
        of(config(data={"name": "npz", "path": path})) for path in ("a.npz", "b.npz")
    )
    assert first == second != DEFAULT


def test_an_int_for_a_float_and_a_list_for_a_tuple_are_the_same():
    """JSON and command lines give them so."""
    assert of(config(training={"beta": 1}, model={"widths": [128, 128]})) == DEFAULT


def test_a_run_has_one_fingerprint_whatever_its_sweep_is():
    alone = expand(config())[0]
    for sweep in (
        {"seed": (0, 1)},
        {"latent_dim": (8,), "seed": (3, 0)},
        {"likelihood": ("laplace", "bernoulli"), "beta": (1.0, 2.0)},
    ):
        runs = expand(config(sweep={}) | {"sweep": sweep})
        (same,) = [run for run in runs if run.settings == alone.settings]
        found = fingerprints(runs, IMAGES)
        assert found[same.name] == DEFAULT
        assert len(set(found.values())) == len(runs)


# --- fields that came later -----------------------------------------------------------


def defaulted():
    """Returns the fields of a configuration with a default, and their sections."""
    return [
        (section.name, field.name)
        for section in dataclasses.fields(Settings)
        if dataclasses.is_dataclass(section.type)
        for field in dataclasses.fields(section.type)
        if field.default is not dataclasses.MISSING
    ]


def test_some_fields_have_defaults():
    """Otherwise no field would be tested."""
    assert {("data", "stream"), ("training", "beta")} <= set(defaulted())


@pytest.mark.parametrize(("section", "field"), defaulted())
def test_a_field_at_its_default_leaves_a_fingerprint_as_it_was(section, field):
    """So a field that a later version adds does not invalidate a run."""
    cls = {each.name: each.type for each in dataclasses.fields(Settings)}[section]
    default = {each.name: each.default for each in dataclasses.fields(cls)}[field]
    stored = config(**{section: {field: default}})
    del stored[section][field]
    before = json.dumps(stored)
    filled = with_defaults(stored)
    # Options by name may be left out.
    assert filled[section].get(field, Options()) == default
    assert json.dumps(stored) == before
    if (section, field) != ("data", "path"):  # The digits do not have this option.
        assert of(filled) == of(config(**{section: {field: default}}))


def test_a_section_that_a_later_version_adds_is_filled():
    default = CheckpointSettings(every_epochs=0, every_seconds=1.5, keep=2)
    fields = [("later", CheckpointSettings, default)]
    later = dataclasses.make_dataclass("Later", fields, bases=(Settings,), frozen=True)
    whole = {**config(), "later": dataclasses.asdict(default)}
    assert with_defaults(config(), later) == whole
    assert with_defaults(whole, later) == whole


def test_defaults_are_values_which_can_be_left_out():
    """A default from a factory would put its field in every fingerprint."""
    sections = [each.type for each in dataclasses.fields(Settings)]
    for cls in (Settings, *filter(dataclasses.is_dataclass, sections)):
        for field in dataclasses.fields(cls):
            assert field.default_factory is dataclasses.MISSING


def test_a_stored_value_comes_before_its_default():
    stored = config(training={"beta": 3.0})
    assert with_defaults(stored) == stored


def test_fields_without_a_default_and_strange_ones_are_left_to_be_refused():
    stored = config()
    del stored["model"]["latent_dim"], stored["seed"], stored["parallel"]
    stored["data"] = 3
    stored["more"] = {"x": 1}
    assert with_defaults(stored) == stored


# --- comparisons ----------------------------------------------------------------------


def test_configurations_differ_in_fields_that_results_depend_on():
    old = config()
    assert differences(old, config()) == []
    moved = config(
        data={"data_dir": "x", "stream": True},
        parallel={"batch": 2},
        checkpoint={"keep": 9},
    )
    assert differences(old, moved) == []
    assert differences(old, config(seed=1, model={"widths": (1,)})) == [
        "config.model.widths is [128, 128] there and [1] here",
        "config.seed is 0 there and 1 here",
    ]
    del moved["seed"]
    assert differences(moved, old) == ["config.seed is '(absent)' there and 0 here"]


def test_comparable_fields_name_no_places_and_no_machine():
    found = comparable(config())
    assert not found.keys() & {"parallel", "checkpoint", "trackers"}
    assert not found["data"].keys() & {"path", "data_dir", "cache_dir", "download"}
    assert found["data"]["name"] == "digits"
    assert comparable({"data": 3}) == {"data": 3}


def test_settings_of_the_machine_are_those_that_round():
    found = machine_settings(config(data={"stream": True}, parallel={"batch": 2}))
    others = config()["parallel"]
    for field in ("compile_ahead", "lanes"):  # They decide when programs run.
        del others[field]
    assert found == {**others, "batch": 2, "stream": True}
    assert machine_settings({}) == {"stream": False}


# --- groups ---------------------------------------------------------------------------


def test_a_group_is_its_runs_in_their_order_and_the_attempt():
    groups = [
        (["a", "b"], 0),
        (["b", "a"], 0),
        (["a", "b"], 1),
        (["a"], 0),
        (["a", "b", "b"], 0),
        (["ab"], 0),
    ]
    found = [group_fingerprint(*group) for group in groups]
    assert len(set(found)) == len(groups)
    assert found == [group_fingerprint(*group) for group in groups]
    assert all(len(each) == 64 and int(each, 16) >= 0 for each in found)


# --- parts of the user's own ----------------------------------------------------------

SOURCE = """
from vae_jax.likelihoods import LIKELIHOODS

class Own(LIKELIHOODS["bernoulli"]):
    pass

entry = Own
"""


@pytest.fixture
def own(tmp_path, monkeypatch):
    """Registers a likelihood from a source; returns the fingerprint of its run."""
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)

    def register(source):
        (tmp_path / "my_own_parts.py").write_text(source)
        sys.modules.pop("my_own_parts", None)
        importlib.invalidate_caches()
        module = importlib.import_module("my_own_parts")
        monkeypatch.setitem(LIKELIHOODS, "own", module.entry)
        return of(config(model={"likelihood": "own"}))

    yield register
    sys.modules.pop("my_own_parts", None)


@pytest.mark.parametrize("decorator", ["", "@dataclasses.dataclass(frozen=True)"])
def test_the_source_of_a_likelihood_of_ones_own_is_in_it(own, decorator):
    """This also holds if all its methods are inherited or made by a decorator."""
    decorated = SOURCE.replace("class", f"{decorator}\nclass")
    source = f"import dataclasses\n{decorated}"
    first = own(source)
    assert own(source) == first
    assert own(source + "\n# Another formula.\n") != first
    assert own(source) == first
    assert of(config()) == DEFAULT  # Runs that do not use it are as before.


@pytest.mark.parametrize(
    ("registry", "name"),
    [
        (POSTERIORS, "diagonal"),
        (PRIORS, "standard_normal"),
        (NETWORKS, "mlp"),
        (OBJECTIVES, "elbo"),
    ],
)
def test_other_parts_may_be_ones_own_too(own, registry, name, monkeypatch):
    def part(*arguments, **options):
        raise AssertionError("it is not called for a fingerprint")

    own(SOURCE)
    part.__module__ = "my_own_parts"
    settings = expand(config())[0].settings
    monkeypatch.setitem(registry, name, part)
    assert fingerprint(settings, IMAGES) != DEFAULT
    monkeypatch.setitem(registry, name, functools.partial(part))
    assert fingerprint(settings, IMAGES) != DEFAULT


def test_a_part_of_a_module_without_a_file_or_name_has_a_fingerprint(own, monkeypatch):
    """Such a part is typed at a prompt, or loaded without an import."""
    del own
    entry = LIKELIHOODS["bernoulli"]
    for name in ("typed", "vanished"):
        cls = type("Own", (entry,), {"__module__": name})
        if name == "typed":
            monkeypatch.setitem(sys.modules, name, types.ModuleType(name))
        monkeypatch.setitem(LIKELIHOODS, "own", cls)
        assert len(of(config(model={"likelihood": "own"}))) == 64
