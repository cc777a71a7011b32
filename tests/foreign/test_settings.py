"""Tests of settings as people write them: the fields read, or the refusal's line.

A row is a command line, in a folder with the files below, and its expected outcome.
"""

import json
import os
import re
import shlex
import sys
from typing import NamedTuple

import pytest

from configs import digits
from experiments.files.sealed import to_json
from experiments.messages.errors import DataError, SettingsError
from experiments.settings import configuration, grid
from experiments.settings.arguments import Argument, expanded
from experiments.settings.fingerprint import fingerprint

TINY = "configs/digits.py:tiny"

# --- files that somebody has ----------------------------------------------------------

OWN = """
import jax.numpy as jnp
import numpy as np
from configs import digits

def get_config():
    config = digits.get_config("tiny")
    {}
    return config
"""


def own(*lines):
    return OWN.format("\n    ".join(lines))


def nested(depth):
    return [nested(depth - 1)] if depth else 0


def a_stored(section=None, **fields):
    """Returns the configuration of a run folder, with some given fields."""
    config = digits.get_config("tiny").to_dict()
    if section:
        config[section] |= fields
    return to_json({**config, **({} if section else fields)})


FILES = {
    # --- files of options ---
    "widths": "--config.model.widths=(64, 64)\n",
    "quoted": "--config.sweep.seed='0'\n--config.sweep.posterior=\"diagonal\"\n",
    "misspelt": "# mine\n\n--config.model.widhts=64\n",
    "unclosed": '--config.model.network="conv\n',
    "brackets": "--config.seed=1\n--config.model.widths=(64, 64\n",
    "two": "--config.seed=1 --config.sweep.beta=1\n",
    "comment": "--config.data.path=images.npz  # mine\n",
    "a comment in quotes": '--config.data.path="run #3"\n',
    "words": "config.seed=1\n",
    "spaced": "--config.seed 1\n",
    "below": "--config.sweep.seed\n1, 2\n",
    "missing": "--config.seed=1\n--flagfile=nowhere\n",
    "folder": "--flagfile=.\n",
    "again": f"--config={TINY}\n",
    # --- configurations ---
    "range.py": own("config.sweep.latent_dim = range(2, 5)"),
    "linspace.py": own("config.sweep.beta = np.linspace(0, 1, 3)"),
    "jax.py": own("config.sweep.seed = jnp.arange(2)"),
    "names.py": own("config.sweep.likelihood = np.array(['beta', 'laplace'])"),
    "number.py": own("config.sweep.learning_rate = np.float64(0.5)"),
    "one.py": own("config.sweep.seed = 7"),
    "set.py": own("config.sweep.seed = {0, 1}"),
    "sorted.py": own("config.sweep.seed = sorted({1, 0})"),
    "generator.py": own("config.sweep.seed = (i for i in range(2))"),
    "list.py": own("config.sweep.seed = list(i for i in range(2))"),
    "field.py": own("config.model.widths = np.array([8, 4])"),
    "tolist.py": own("config.model.widths = np.array([8, 4]).tolist()"),
    "scalar.py": own("config.training.num_epochs = np.int64(4)"),
    "scalar_tolist.py": own("config.training.num_epochs = np.int64(4).tolist()"),
    "misspelt.py": own("config.model.widhts = (8,)"),
    "followed.py": own(
        "config.training.validate_every = config.training.get_ref('num_epochs') // 2"
    ),
    "beside.py": own("import beside_it", "config.model.latent_dim = beside_it.SIZE"),
    "beside_it.py": "SIZE = 5\n",
    "hides.py": own("assert np.linspace(0, 1, 2).sum() == 1"),
    "numpy.py": "raise SystemExit('the wrong one')\n",
    "lacks.py": own("import no_such_module"),
    "frozen.py": own("import ml_collections").replace(
        "return config", "return ml_collections.FrozenConfigDict(config)"
    ),
    "required.py": own(
        "import ml_collections.config_dict as config_dict",
        "config.data.name = config_dict.required_placeholder(str)",
        "config.seed = config_dict.required_placeholder(int)",
    ),
    "undefined.py": own("config.seed = sed"),
    "divides.py": own("config.seed = 1 // 0"),
    "asserts.py": own("assert config.seed"),
    "opens.py": own("config.seed = int(open('nowhere').read())"),
    "two_lines.py": own("raise RuntimeError('no' + chr(10) + 'luck')"),
    "calls.py": own("import called", "config.seed = called.seed()"),
    "called.py": "def seed():\n    return sed\n",
    "quoted.py": own("config.model.latent_dim = '8'"),
    "unquoted.py": own("config.model.latent_dim = 8"),
    "path.py": own("import pathlib", "config.data.path = pathlib.Path('x.npz')"),
    "set of widths.py": own("config.model.widths = {8}"),
    "range of widths.py": own("config.model.widths = range(8, 10)"),
    "list of widths.py": own("config.model.widths = list(range(8, 10))"),
    "plain.py": "import ml_collections\n\ndef get_config():\n"
    "    beta = ml_collections.ConfigDict({'beta': 4})\n"
    "    config = __import__('configs.digits').digits.get_config('tiny').unlock()\n"
    "    with config.ignore_type():\n        config.training.beta = beta.beta\n"
    "    return config\n",
    "grids.py": own(
        "import ml_collections",
        "config.sweep = (",
        "    {'likelihood': 'laplace', 'beta': (1, 2), 'seed': 0},",
        "    ml_collections.ConfigDict(",
        "        {'likelihood': 'gaussian_fixed', 'fixed_scale': 0.2, 'seed': 0}",
        "    ),",
        ")",
    ),
    "a list.py": own("config.sweep = [{'seed': np.arange(2)}, {'latent_dim': 3}]"),
    "a set of grids.py": own("config.sweep = ({}, {'seed': {0, 1}})"),
    "no grid.py": own("config.sweep = ({}, 3)"),
    "no grids.py": own("config.sweep = ()"),
    # --- stored configurations, and other files ---
    "grids.json": a_stored(sweep=[{"seed": [0, 1]}, {"latent_dim": [3]}]),
    "axis of grids.json": a_stored(sweep=[{}, {"keep": [8]}]),
    "mine.json": a_stored(),
    "places.json": a_stored("data", data_dir="/x y", cache_dir="/c", download=True),
    "devices.json": a_stored("parallel", members=8, batch=3, memory_gib=0.5),
    "images.json": a_stored("data", name="npz", path="/their images.npz"),
    "strange.json": a_stored("parallel", members="x", batch=None, memory_gib=[1]),
    "type.json": a_stored("model", flow_steps="8"),
    "field.json": a_stored("model", widhts=[8]),
    "axis.json": a_stored("sweep", keep=[8]),
    "group.json": a_stored(model=3),
    "code.json": a_stored("model", widths="__import__('os').abort()"),
    "nan.json": a_stored().replace('"beta": 1.0', '"beta": NaN'),
    "large.json": '{"seed": ' + "9" * 5000 + "}",
    "many.json": json.dumps({f"x{i}": 0 for i in range(200_000)}),
    "long.json": a_stored("model", widths=[8] * 1_000_001),
    "deep.json": "[" * 100_000 + "]" * 100_000,
    "deeper.json": a_stored(seed=nested(60)),
    "list.json": "[1, 2]",
    "none.json": "null",
    "cut.json": a_stored()[:-20],
    "bytes.json": "\0\1\2",
    "results.csv": "import os; os.abort()\n",
}


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """Returns a folder that holds all of these."""
    folder = tmp_path_factory.mktemp("place")
    for name, text in FILES.items():
        (folder / name).write_text(text)
    os.mkfifo(folder / "pipe.json")
    (folder / "empty.json").mkdir()
    (folder / "run").mkdir()
    (folder / "run" / "config.json").write_text(a_stored())
    return folder


def read(arguments, place):
    """Returns the configuration that a command line gives, with the place's files."""
    before = list(sys.path)
    names = "|".join(map(re.escape, [*FILES, "pipe.json", "empty.json", "run"]))
    given = [
        re.sub(rf"^(--(?:config|flagfile)=)({names})(?=$|:|/)", rf"\1{place}/\2", each)
        for each in arguments
    ]
    try:
        own, others = configuration.split(expanded(map(Argument, given)))
        assert not others
        return configuration.read(own, TINY)
    finally:
        sys.path[:] = before


# --- fields that are read -------------------------------------------------------------


class Read(NamedTuple):
    """A command line, and fields of the configuration that it gives."""

    name: str
    arguments: str  # as a shell splits them
    fields: dict[str, object]


READ = [
    Read(
        "a tuple twice",
        "--config.model.widths=64,64 --config.model.widths=32",
        {"model.widths": (32,)},
    ),
    Read(
        "a tuple twice, written otherwise",
        "--config.model.widths 64,64 -config.model.widths=(8,)",
        {"model.widths": (8,)},
    ),
    Read(
        "a tuple twice, then none",
        "--config.model.upper_layers=4 --config.model.upper_layers=()",
        {"model.upper_layers": ()},
    ),
    Read(
        "a tuple in a file and after it",
        "--flagfile=widths --config.model.widths=16",
        {"model.widths": (16,)},
    ),
    Read(
        "a tuple before a file",
        "--config.model.widths=16 --flagfile=widths",
        {"model.widths": (64, 64)},
    ),
    Read(
        "an axis twice",
        "--config.sweep.seed=1,2 --config.sweep.seed=3",
        {"sweep.seed": 3},
    ),
    Read(
        "a new axis twice",
        "--config.sweep.beta 1.0,4.0 -config.sweep.beta 2.0,",
        {"sweep.beta": (2.0,)},
    ),
    Read(
        "names twice",
        "--config.sweep.likelihood=beta,laplace --config.sweep.likelihood=bernoulli",
        {"sweep.likelihood": ("bernoulli",)},
    ),
    Read("an integer twice", "--config.seed=1 --config.seed 2", {"seed": 2}),
    Read(
        "a number twice",
        "--config.training.beta=2 --config.training.beta=0.5",
        {"training.beta": 0.5},
    ),
    Read(
        "a text twice",
        "--config.model.network=conv --config.model.network=mlp",
        {"model.network": "mlp"},
    ),
    Read(
        "a switch twice",
        "--config.data.stream --noconfig.data.stream",
        {"data.stream": False},
    ),
    Read(
        "a switch twice, then on",
        "--noconfig.data.stream --config.data.stream=false --config.data.stream",
        {"data.stream": True},
    ),
    Read(
        "an axis of switches",
        "--config.sweep.ignore_x=true,false",
        {"sweep.ignore_x": (True, False)},
    ),
    Read("a value in a line below", "--flagfile=below", {"sweep.seed": (1, 2)}),
    Read("a frozen one", "--config=frozen.py --config.seed=2", {"seed": 2}),
    Read("quotes in a file", "--flagfile=quoted", {"sweep.seed": 0}),
    Read(
        "quotes around a comment's sign",
        "--flagfile='a comment in quotes'",
        {"data.path": "run #3"},
    ),
    Read("a range", "--config=range.py", {"sweep.latent_dim": (2, 3, 4)}),
    Read("an array", "--config=linspace.py", {"sweep.beta": (0.0, 0.5, 1.0)}),
    Read("an array of JAX", "--config=jax.py", {"sweep.seed": (0, 1)}),
    Read(
        "an array of names",
        "--config=names.py",
        {"sweep.likelihood": ("beta", "laplace")},
    ),
    Read("a number of NumPy", "--config=number.py", {"sweep.learning_rate": 0.5}),
    Read("one value", "--config=one.py", {"sweep.seed": 7}),
    Read(
        "several for one",
        "--config=one.py --config.sweep.seed=1,2",
        {"sweep.seed": (1, 2)},
    ),
    Read(
        "a field that follows another",
        "--config=followed.py --config.training.num_epochs=6",
        {"training.validate_every": 3},
    ),
    Read(
        "a float where an integer stood",
        "--config=plain.py --config.training.beta=0.5",
        {"training.beta": 0.5},
    ),
    Read("a module beside", "--config=beside.py", {"model.latent_dim": 5}),
    Read("a file that is called numpy", "--config=hides.py", {"seed": 0}),
    Read(
        "fields that are left to the command line",
        "--config=required.py --config.seed=3 --config.data.name=digits",
        {"seed": 3, "data.name": "digits"},
    ),
    Read("a stored one", "--config=mine.json", {"sweep.latent_dim": (2, 4)}),
    Read(
        "a stored one, changed",
        "--config=run/config.json --config.sweep.latent_dim=3 --config.sweep.beta=1,2",
        {"sweep.latent_dim": 3, "sweep.beta": (1, 2), "model.widths": (128, 128)},
    ),
    Read(
        "two epochs",
        "--config.training.num_epochs=2 --config.training.validate_every=10",
        {"training.num_epochs": 2},
    ),
    Read(
        "a last epoch between validations",
        "--config.training.num_epochs=25 --config.training.validate_every=10",
        {"training.num_epochs": 25},
    ),
]


@pytest.mark.parametrize("row", READ, ids=lambda row: row.name)
def test_command_lines_are_read_as_meant(row, place):
    fields = read(shlex.split(row.arguments), place).fields
    for name, value in row.fields.items():
        section, _, field = name.rpartition(".")
        found = (fields[section] if section else fields)[field]
        assert found == value
        assert type(found) is type(value)
    json.dumps(fields)
    if row.name != "quotes around a comment's sign":  # The images are missing.
        assert grid.expand(fields)


GRIDS = [
    (
        "grids.py",
        "",
        "likelihood=laplace,beta=1.0,seed=0 likelihood=laplace,beta=2.0,seed=0 "
        "likelihood=gaussian_fixed,fixed_scale=0.2,seed=0",
    ),
    (
        "grids.py",
        "--config.sweep.seed=3",
        "likelihood=laplace,beta=1.0,seed=3 likelihood=laplace,beta=2.0,seed=3 "
        "likelihood=gaussian_fixed,fixed_scale=0.2,seed=3",
    ),
    (
        "grids.py",
        "--config.sweep.1.seed=3 --config.sweep.beta=4",
        "likelihood=laplace,beta=4.0,seed=0 "
        "likelihood=gaussian_fixed,fixed_scale=0.2,seed=3",
    ),
    (
        "grids.py",
        "--config.sweep[1].latent_dim=4 --config.sweep.0.beta=4",
        "likelihood=laplace,beta=4.0,seed=0 "
        "likelihood=gaussian_fixed,latent_dim=4,fixed_scale=0.2,seed=0",
    ),
    ("a list.py", "", "seed=0 seed=1 latent_dim=3"),
    ("grids.json", "", "seed=0 seed=1 latent_dim=3"),
    ("grids.json", "--config.sweep.0.seed=4,5", "seed=4 seed=5 latent_dim=3"),
    ("grids.json", "--config.sweep.1.seed=4", "seed=0 seed=1 latent_dim=3,seed=4"),
    (
        TINY,  # One grid is the first.
        "--config.sweep.0.seed=4 --config.sweep.likelihood=beta",
        "likelihood=beta,latent_dim=2,seed=4 likelihood=beta,latent_dim=4,seed=4",
    ),
]


def test_options_of_a_part_are_given_by_name(place):
    given = """--config.model.network_options="{'depth': 2, 'h': (3,)}" """
    fields = read(shlex.split(given), place).fields
    assert fields["model"]["network_options"] == {"depth": 2, "h": (3,)}


@pytest.mark.parametrize(("file", "overrides", "names"), GRIDS)
def test_grids_are_united_and_overridden(file, overrides, names, place):
    fields = read([f"--config={file}", *overrides.split()], place).fields
    json.dumps(fields)
    assert [run.name for run in grid.expand(fields)] == names.split()


# --- refusals -------------------------------------------------------------------------


class Refused(NamedTuple):
    """A command line, and words of the line that refuses it."""

    name: str
    arguments: str
    words: tuple[str, ...]


REFUSED = [
    Refused(
        "two configurations",
        f"--config={TINY} --config.seed=1 --config=configs/mnist.py",
        (TINY, "'configs/mnist.py'", "Give one file"),
    ),
    Refused(
        "a second one in a file",
        f"--config={TINY} --flagfile=again",
        ("again, line 1: --config is", "Give one file"),
    ),
    Refused(
        "a misspelt field", "--flagfile=misspelt", ("misspelt, line 3: ", "'widths'")
    ),
    Refused("a quote", "--flagfile=unclosed", ("unclosed, line 1: ", "not closed")),
    Refused("a bracket", "--flagfile=brackets", ("brackets, line 2: ", "(64, 64")),
    Refused("two in a line", "--flagfile=two", ("two, line 1: ", "line of its own")),
    Refused(
        "a comment behind", "--flagfile=comment", ("comment, line 1: ", "'--config.")
    ),
    Refused("no dashes", "--flagfile=words", ("words, line 1: ", "'config.seed=1'")),
    Refused(
        "no equals sign", "--flagfile=spaced", ("spaced, line 1: ", "--name=value")
    ),
    Refused("no file", "--flagfile=missing", ("missing, line 2: ", "'nowhere'")),
    Refused("a folder", "--flagfile=folder", ("folder, line 1: ", "'.'", "directory")),
    Refused("a set", "--config=set.py", ("sweep.seed is {0, 1}", "sorted(...)")),
    Refused("a generator", "--config=generator.py", ("sweep.seed", "list(...)")),
    Refused(
        "an array in a field", "--config=field.py", ("field.py', line 8", ".tolist()")
    ),
    Refused("a scalar in a field", "--config=scalar.py", ("line 8", ".tolist()")),
    Refused(
        "a number in quotes",
        "--config=quoted.py",
        ("line 8", "'str'", "'int'", "Give one of that type"),
    ),
    Refused("a path", "--config=path.py", ("line 9", "Give one of that type")),
    Refused(
        "a set in a field", "--config='set of widths.py'", ("Give one of that type",)
    ),
    Refused("a range in a field", "--config='range of widths.py'", ("list(...)",)),
    Refused("an unknown field", "--config=misspelt.py", ("line 8", "widhts")),
    Refused(
        "a name that is not defined",
        "--config=undefined.py",
        ("undefined.py', line 8: NameError: name 'sed' is not defined",),
    ),
    Refused("a division", "--config=divides.py", ("line 8: ZeroDivisionError",)),
    Refused("an assertion", "--config=asserts.py", ("line 8: AssertionError",)),
    Refused("a file", "--config=opens.py", ("line 8: FileNotFoundError", "nowhere")),
    Refused("two lines", "--config=two_lines.py", ("line 8: RuntimeError: no",)),
    Refused(
        "a mistake beside",
        "--config=calls.py",
        ("calls.py', called.py line 2: NameError",),
    ),
    Refused(
        "a field that is left to the command line",
        "--config=required.py --config.data.name=digits",
        ("config.seed has no value: give --config.seed=VALUE.",),
    ),
    Refused(
        "no number for it",
        "--config=required.py --config.seed=x",
        ("--config.seed=1.",),
    ),
    Refused(
        "part of an axis",
        "--config.sweep.likelihood[0]=beta",
        ("--config.sweep.likelihood=bernoulli,",),
    ),
    Refused(
        "part of no axis",
        "--config.sweep.data.name=digits",
        ("--config.sweep.data is unknown",),
    ),
    Refused("a group", "--config.data=digits", ("--config.data.FIELD=VALUE",)),
    Refused("a comment", "--config.sweep.seed='1#2'", ("'1#2'", "seed=0,1")),
    Refused("a comment on widths", "--config.model.widths='8, # 8'", ("128,128",)),
    Refused("a module that is not there", "--config=lacks.py", ("no_such_module",)),
    Refused(
        "code on a command line",
        "--config.sweep.seed=range(3)",
        ("'range(3)'", "seed=0,1"),
    ),
    Refused(
        "names in brackets",
        "--config.sweep.likelihood=(beta,laplace)",
        ("likelihood=bernoulli,discretized_logistic",),
    ),
    Refused("a set on a command line", "--config.sweep.seed={1,2}", ("seed=0,1",)),
    Refused("a set of widths", "--config.model.widths={8}", ("widths=128,128",)),
    Refused(
        "options without names",
        "--config.model.network_options=2",
        ("it must be options by name", "network_options=\"{'depth': 2}\"."),
    ),
    Refused("blanks", "--config.sweep.latent_dim='2 4'", ("latent_dim=2,4",)),
    Refused(
        "widths of a sweep", "--config.sweep.widths='(64,64'", ("'((64, 64), (128,))'",)
    ),
    Refused(
        "names of a new axis", "--config.sweep.prior='(flow'", ("prior=NAME,NAME",)
    ),
    Refused("an empty axis", "--config.sweep.seed=", ("is ''", "seed=0,1")),
    Refused(
        "an empty name",
        "--config.sweep.condition_on=label,",
        ("condition_on=\"('', 'label')\".",),
    ),
    Refused(
        "a part of widths",
        "--config.sweep.widths.0=8",
        ("config.sweep.widths='((64, 64), (128,))'",),
    ),
    Refused(
        "a part of a field",
        "--config.model.widths[0]=8",
        ("config.model.widths=128,128",),
    ),
    Refused("a part of a number", "--config.seed.x=8", ("as in --config.seed=0",)),
    Refused("a part of a group", "--config.model[0]=8", ("is unknown", "widths")),
    Refused("a negated number", "--noconfig.seed", ("--config.seed=VALUE",)),
    Refused(
        "no value",
        "--config.data.name=digits --config.model.widths",
        ("widths is ''", "128,128"),
    ),
    Refused(
        "their images",
        "--config=images.json",
        (
            "'/their images.npz'",
            "not used here",
            "--config.data.path='/their images.npz'",
        ),
    ),
    Refused(
        "an axis of no grid",
        "--config=grids.py --config.sweep.latent_dim='(2, 4)'",
        ("no grid", "as in --config.sweep.0.latent_dim='(2, 4)'."),
    ),
    Refused(
        "a grid that is not there",
        "--config=grids.py --config.sweep.2.seed=1",
        ("has 2 grids", "as in --config.sweep.0.seed=1."),
    ),
    Refused(
        "a large number of a grid",
        f"--config=grids.py --config.sweep.{'9' * 5000}.seed=1",
        ("has 2 grids", "as in --config.sweep.0.seed=1."),
    ),
    Refused(
        "a second grid of one",
        f"--config={TINY} --config.sweep.1.seed=1",
        ("has 1 grid.", "as in --config.sweep.0.seed=1."),
    ),
    Refused(
        "a grid",
        "--config=grids.py --config.sweep.1=8",
        ("--config.sweep.1.FIELD=VALUE",),
    ),
    Refused(
        "an unknown axis of a grid",
        "--config=grids.py --config.sweep.1.sed=8",
        ("--config.sweep.1.sed is unknown (did you mean 'seed'",),
    ),
    Refused(
        "an unknown axis of all grids",
        "--config=grids.py --config.sweep.sed=8",
        ("--config.sweep.sed is unknown (did you mean 'seed'",),
    ),
    Refused(
        "a part of a grid's axis",
        "--config=grids.py --config.sweep.0.beta.0=8",
        ("--config.sweep.0.beta=1,2.",),
    ),
    Refused(
        "a value of a grid",
        "--config=grids.py --config.sweep.0.beta=range(3)",
        ("--config.sweep.0.beta=1,2.",),
    ),
    Refused(
        "a set in a grid",
        "--config='a set of grids.py'",
        ("config.sweep[1].seed is {0, 1}", "sorted(...)"),
    ),
    Refused(
        "an axis of a number in place of a grid",
        "--config='no grid.py' --config.sweep.1.seed=0",
        ("config.sweep.1 is missing: it must be a group",),
    ),
    Refused(
        "an axis of no grids",
        "--config='no grids.py' --config.sweep.seed=0",
        ("config.sweep is missing: it must be a group",),
    ),
    Refused("a large number", "--config=large.json", ("large.json", "config.json")),
    Refused("many values", "--config=long.json", ("these are too many",)),
    Refused("brackets in brackets", "--config=deep.json", ("nested too deeply",)),
    Refused("values in values", "--config=deeper.json", ("nested too deeply",)),
    Refused("a list", "--config=list.json", ("it holds no object",)),
    Refused("nothing", "--config=none.json", ("it holds no object",)),
    Refused("half a file", "--config=cut.json", ("cut.json", "Give the config.json")),
    Refused("bytes", "--config=bytes.json", ("bytes.json", "Give the config.json")),
    Refused("a pipe", "--config=pipe.json", ("no regular file",)),
    Refused("a folder of that name", "--config=empty.json", ("no such configuration",)),
    Refused("no such file", "--config=nowhere.json", ("no such configuration",)),
    Refused("a variant of a stored one", "--config=mine.json:tiny", ("no variants",)),
    Refused("a run folder", "--config=run", ("run/config.json",)),
    Refused("a table of a run folder", "--config=results.csv", ("get_config()",)),
]


@pytest.mark.parametrize("row", REFUSED, ids=lambda row: row.name)
def test_command_lines_without_meaning_are_refused(row, place):
    line = refusal(shlex.split(row.arguments), place)
    for word in row.words:
        assert word in line


def refusal(arguments, place):
    with pytest.raises((DataError, SettingsError)) as caught:
        read(arguments, place)
    return str(caught.value)


UNFIT = [
    ("type.json", "model.flow_steps is '8': it must be of type int"),
    ("code.json", 'abort()": it must be a tuple'),
    ("group.json", "config.model is 3: it must be a group"),
    ("nan.json", "beta is nan: it must be finite"),
    ("field.json", "config.model.widhts is unknown (did you mean 'widths'?)"),
    ("axis.json", "config.sweep.keep is unknown"),
    ("axis of grids.json", "config.sweep[1].keep is unknown"),
    ("many.json", "config.sweep is missing"),
]


@pytest.mark.parametrize(("file", "words"), UNFIT)
def test_values_of_a_stored_configuration_are_checked(file, words, place):
    fields = read([f"--config={file}"], place).fields
    with pytest.raises(SettingsError, match=re.escape(words)):
        grid.expand(fields)


# --- remedies, followed ---------------------------------------------------------------


@pytest.mark.parametrize(
    ("refused", "remedied"),
    [
        ("--config=set.py", "--config=sorted.py"),
        ("--config=generator.py", "--config=list.py"),
        ("--config=field.py", "--config=tolist.py"),
        ("--config=scalar.py", "--config=scalar_tolist.py"),
        ("--config=quoted.py", "--config=unquoted.py"),
        ("--config='range of widths.py'", "--config='list of widths.py'"),
        ("--config=run", "--config=run/config.json"),
        ("--config=mine.json:tiny", "--config=mine.json"),
        ("--noconfig.seed", "--config.seed=3"),
        ("--flagfile=comment", "--flagfile='a comment in quotes'"),
    ],
)
def test_the_remedy_works(refused, remedied, place):
    assert refusal(shlex.split(refused), place)
    assert read(shlex.split(remedied), place).fields


@pytest.mark.parametrize("override", ["latent_dim='(2, 4)'", "2.latent_dim='(2, 4)'"])
def test_the_remedy_for_an_axis_of_no_grid_works(override, place):
    given = ["--config=grids.py", *shlex.split(f"--config.sweep.{override}")]
    remedy = refusal(given, place).partition("as in ")[2].rstrip(".")
    fields = read(["--config=grids.py", *shlex.split(remedy)], place).fields
    assert fields["sweep"][0]["latent_dim"] == (2, 4)
    assert len(grid.expand(fields)) == 2 * 2 + 1


@pytest.mark.parametrize("given", ["64,64", "64", "(64,64),32", "(64,),(8,8),4"])
def test_widths_of_a_sweep_get_the_example_that_works(given, place):
    fields = read([f"--config.sweep.widths={given}"], place).fields
    with pytest.raises(SettingsError, match="each of its values is a tuple") as caught:
        grid.expand(fields)
    example = str(caught.value).partition("as in ")[2].rstrip(".")
    fields = read([f"--config.sweep.widths={example}"], place).fields
    assert len(grid.expand(fields)) == 2 * len(grid.expand(read([], place).fields))


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        (
            "latent_dim=2-4",
            "latent_dim is '2-4': it must be of type int, not str. Give",
        ),
        ("latent_dim=2,4.0", "latent_dim is 4.0: it must be of type int, not float"),
        ("beta=0.5,inf", "beta is 'inf': it must be of type float, not str"),
        ("seed=1,−2", "seed is '−2': it must be of type int, not str"),
        ("ignore_x=0,1", "ignore_x is 0: it must be of type bool, not int"),
        ("widths=64x64", "is a tuple itself. Give it as in ((64, 64), (128,))."),
        ("widths=None", "is a tuple itself. Give it as in ((64, 64), (128,))."),
        ("widths=((64.0,),)", "widths is 64.0: it must be of type int, not float"),
    ],
)
def test_a_value_of_another_type_is_named_by_its_axis(given, reason, place):
    fields = read([f"--config.sweep.{given}"], place).fields
    with pytest.raises(SettingsError) as caught:
        grid.expand(fields)
    assert f"config.sweep.{given.partition('=')[0]} is " in str(caught.value)
    assert reason in str(caught.value)


def test_an_axis_without_values_gets_an_example_that_works(place):
    for axis in ("widths", "seed"):
        fields = read([f"--config.sweep.{axis}=()"], place).fields
        with pytest.raises(SettingsError, match="is empty") as caught:
            grid.expand(fields)
        example = str(caught.value).partition("as in ")[2].rstrip(".")
        fields = read([f"--config.sweep.{axis}={example}"], place).fields
        assert grid.expand(fields)


@pytest.mark.parametrize(
    ("file", "shown", "remedies"),
    [
        (
            "places.json",
            "data.data_dir='/x y', data.cache_dir='/c', data.download=True",
            {"data.data_dir": "/x y", "data.cache_dir": "/c", "data.download": True},
        ),
        (
            "devices.json",
            "parallel.members=8, parallel.batch=3, parallel.memory_gib=0.5",
            {
                "parallel.members": 8,
                "parallel.batch": 3,
                "parallel.memory_gib": 0.5,
            },
        ),
        (
            "strange.json",
            "parallel.members='x', parallel.batch=None, parallel.memory_gib=[1]",
            {},
        ),
        ("mine.json", "", {}),
    ],
)
def test_stored_fields_that_are_not_used_are_shown_with_their_flags(
    file, shown, remedies, place
):
    found = read([f"--config={file}"], place)
    assert grid.expand(found.fields)
    assert {**found.fields, "sweep": {}} == {
        **read([f"--config={TINY}"], place).fields,
        "sweep": {},
    }
    line = found.not_obeyed
    assert line.startswith(f"the run was made with {shown}: not used here") or not shown
    if not remedies:
        return
    typed = shlex.split(line.partition("give ")[2].partition(" to use")[0])
    obeyed = read([f"--config={file}", *typed], place)
    assert obeyed.not_obeyed == ""
    for name, value in remedies.items():
        section, _, field = name.partition(".")
        assert obeyed.fields[section][field] == value


def test_where_other_images_are_named_theirs_are_no_matter(place):
    """With the advised path, the digits would be refused."""
    found = read(["--config=images.json", "--config.data.name=digits"], place)
    assert grid.expand(found.fields)
    assert found.not_obeyed == ""


def test_their_images_are_named_by_who_trains(place, tmp_path):
    line = refusal(["--config=images.json"], place)
    remedy = re.search("give (.*) to use it", line)
    assert remedy
    (typed,) = shlex.split(remedy[1])
    for path in (typed, f"--config.data.path={tmp_path}/mine.npz"):
        found = read(["--config=images.json", path], place).fields
        assert found["data"]["path"] == path.partition("=")[2]
        assert grid.expand(found)


def test_a_stored_configuration_is_the_one_it_was_stored_from(place):
    """Its fingerprints are equal, too, so its runs are those that were trained."""
    first, second = (
        grid.expand(read([f"--config={file}"], place).fields)
        for file in (TINY, "mine.json")
    )
    assert first == second
    assert [fingerprint(run.settings, "") for run in first] == [
        fingerprint(run.settings, "") for run in second
    ]
