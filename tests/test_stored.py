"""Tests of experiments.settings.stored."""

import re
import shlex

import pytest

from configs import digits
from experiments.messages.errors import SettingsError
from experiments.settings import grid, stored
from experiments.settings.stored import PLACES


def config(**changes):
    """Returns a configuration with changed fields, as in ``data__path="x"``."""
    whole = digits.get_config().to_dict()
    for name, value in changes.items():
        section, _, field = name.partition("__")
        whole[section][field] = value
    return whole


def not_obeyed(whole, places=None):
    return stored.not_obeyed(whole, places or {}, PLACES)


def own(places=None, **changes):
    run, *_ = grid.expand(stored.on_this_machine(config(**changes), places or {}))
    return run.settings


def test_all_else_is_kept():
    for changes in ({}, {"data__stream": True, "data__num_train": 7}):
        (run, *_) = grid.expand(config(**changes))
        assert own(**changes) == run.settings
        assert not_obeyed(config(**changes)) == ""


HOSTILE = [
    ("data__cache_dir", "/etc/x"),
    ("data__cache_dir", 5),
    ("data__data_dir", "~root"),
    ("data__data_dir", ["a"]),
    ("data__download", True),
    ("data__download", "yes"),
    ("data__path", "/dev/zero"),
    ("data__path", None),
    ("parallel__members", 10**6),
    ("parallel__members", -1),
    ("parallel__batch", 7),
    ("parallel__batch", 0),
    ("parallel__memory_gib", 1e-9),
    ("parallel__member_execution", "loop"),
    ("parallel__member_execution", "none"),
]


@pytest.mark.parametrize(("name", "value"), HOSTILE)
def test_stored_fields_of_a_machine_are_shown_and_not_used(name, value):
    assert own(**{name: value}) == own()
    line = not_obeyed(config(**{name: value}))
    shown = f"{name.replace('__', '.')}={value!r}"
    assert line.startswith(f"the run was made with {shown}: not used here")


def test_trackers_of_another_are_shown_and_get_nothing():
    """A stranger's configuration would send what is trained to a server."""
    for value in (["wandb"], ("wandb", "mlflow"), 5, [], [3]):
        whole = config() | {"trackers": value}
        (run, *_) = grid.expand(stored.on_this_machine(whole, {}))
        assert run.settings.trackers == ("tensorboard",)
        line = stored.not_obeyed(whole, {}, stored.OVERRIDES)
        assert line.startswith("the run was made with trackers=")
        assert not_obeyed(whole) == ""  # Such a command trains nothing.
    assert not_obeyed(config() | {"trackers": ["tensorboard"]}) == ""
    for value, typed in ((["wandb", "mlflow"], "wandb,mlflow"), ([], "'()'")):
        whole = config() | {"trackers": value}
        line = stored.not_obeyed(whole, {}, stored.OVERRIDES)
        assert line.endswith(f"give --config.trackers={typed} to use it")


def test_an_unknown_field_is_refused_still():
    with pytest.raises(SettingsError, match=r"config\.parallel\.x is unknown"):
        own(parallel__x=1)


@pytest.mark.parametrize("section", ["data", "parallel"])
@pytest.mark.parametrize("value", [None, 3, [], "text"])
def test_a_configuration_without_its_groups_is_refused(section, value):
    whole = config() | {section: value}
    assert not_obeyed(whole) == ""
    with pytest.raises(SettingsError, match=f"{section} is .*: it must be a group"):
        grid.expand(stored.on_this_machine(whole, {}))


def test_given_places_are_used():
    places = {"data.data_dir": "/there", "data.cache_dir": "/cache"}
    data = own(places, data__data_dir="/x").data
    assert (data.data_dir, data.cache_dir) == ("/there", "/cache")
    other = config(data__data_dir="/x")
    assert not_obeyed(other, places) == (
        "the run was made with data.data_dir='/x': not used here"
    )
    assert not_obeyed(config(data__data_dir="/there"), places) == ""


@pytest.mark.parametrize("value", ["/a b/c'd", "$(touch x)", "-x;y", "two  spaces"])
def test_a_remedy_is_what_a_shell_takes(value):
    line = not_obeyed(config(data__data_dir=value, data__download=True))
    remedy = re.search("give (.*) to use it$", line)
    assert remedy is not None
    assert shlex.split(remedy[1]) == [f"--data_dir={value}"]


@pytest.mark.parametrize("value", ["\x1b[2J", "a\nb", "\udcff", 5, None])
def test_a_value_that_cannot_be_typed_is_left_to_the_reader(value):
    with pytest.raises(SettingsError, match="give --data_path=PLACE to use it"):
        own(data__name="npz", data__path=value)


def test_a_long_value_is_not_shown_whole():
    line = not_obeyed(config(parallel__memory_gib="x" * 10**6))
    assert len(line) < 1000


@pytest.mark.parametrize("name", ["npz", "folder"])
def test_images_of_ones_own_are_asked_for(name):
    with pytest.raises(SettingsError) as caught:
        own(data__name=name, data__path="/x y")
    assert "data.path='/x y': not used here; give --data_path='/x y' to" in str(
        caught.value
    )
    data = own({"data.path": "/here"}, data__name=name, data__path="/x").data
    assert (data.name, data.path) == (name, "/here")


@pytest.mark.parametrize("name", ["digits", "mnist", "", None, 7])
def test_a_path_without_effect_is_refused(name):
    with pytest.raises(SettingsError, match="--data_path is '/here': it has no effect"):
        own({"data.path": "/here"}, data__name=name)
