"""Tests of environments that people report in public: a row has one outcome.

A command either gives the same results as without them, to the last bit, or is refused
in one line that names the remedy; the test then follows the remedy.
"""

import os
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest

from experiments.data import cache as data_cache
from experiments.files.paths import expand_user
from experiments.messages.errors import DataError

ROOT = Path(__file__).parents[2]
REFUSED = 2

# The smallest training there is: its parameters are compared.
TRAIN = (
    *("train", "--config=configs/digits.py:tiny"),
    "--config.data.num_train=300",
    "--config.model.widths=(4,)",
    "--config.training.num_epochs=1",
    "--config.training.validate_every=1",
    "--config.training.kl_warmup_epochs=1",
    "--config.evaluation.num_samples=2",
    "--config.diagnostics.latents=false",
    "--config.diagnostics.permutations=0",
    "--config.diagnostics.floor=false",
    "--config.diagnostics.probes=false",
)
LIST = ("sweep", "--list")
UNSET = None  # A missing variable.


class Row(NamedTuple):
    """An environment, and the outcome of a command in it."""

    name: str
    variables: dict[str, str | None]
    command: tuple[str, ...] = LIST
    status: int = 0
    words: tuple[str, ...] = ()  # words of the warnings; none: no warnings


def jax_option(name: str, value: str, command: tuple[str, ...] = LIST) -> Row:
    """Returns a row for an option of JAX that configurations do not set."""
    words = (f"warning: {name}={value!r} has no effect",)
    return Row(f"{name}={value}", {name: value}, command, words=words)


ROWS = [
    # --- options of JAX: the bits are those of the configuration ---
    jax_option("JAX_ENABLE_X64", "1", TRAIN),
    jax_option("JAX_RANDOM_SEED_OFFSET", "3", TRAIN),
    jax_option("JAX_DISABLE_JIT", "1", TRAIN),
    jax_option("JAX_ENABLE_X64", "maybe"),
    jax_option("JAX_DEBUG_INFS", "1"),
    jax_option("JAX_DEBUG_NANS", "1"),
    jax_option("JAX_NUMPY_RANK_PROMOTION", "raise"),
    jax_option("JAX_NUMPY_DTYPE_PROMOTION", "strict"),
    jax_option("JAX_DEFAULT_PRNG_IMPL", "rbg"),
    jax_option("JAX_THREEFRY_PARTITIONABLE", "0"),
    jax_option("JAX_TRANSFER_GUARD", "disallow"),
    Row("tracebacks", {"JAX_TRACEBACK_FILTERING": "off"}),
    Row("precision", {"JAX_DEFAULT_MATMUL_PRECISION": "highest"}),
    Row(
        "a precision there is not",
        {"JAX_DEFAULT_MATMUL_PRECISION": "best"},
        status=REFUSED,
        words=("jax_default_matmul_precision", "Unset that variable"),
    ),
    # --- devices ---
    *(
        Row(
            f"JAX_PLATFORMS={platform}",
            {"JAX_PLATFORMS": platform},
            TRAIN,
            REFUSED,
            (f"JAX_PLATFORMS is {platform!r}", "Unset JAX_PLATFORMS"),
        )
        for platform in ("tpu", "nonsense", "cpu,")
    ),
    *(
        Row(
            f"{name}={value}",
            {"JAX_PLATFORMS": UNSET, name: value},
            TRAIN,
            REFUSED,
            (f"{name} is {value!r}", f"Unset {name} to use"),
        )
        for name, value in (("JAX_PLATFORM_NAME", "gpu"), ("JAX_NUM_CPU_DEVICES", "0"))
    ),
    Row("a platform that is not used", {"JAX_PLATFORMS": "tpu"}),
    Row(
        "an option that XLA does not have",
        {"XLA_FLAGS": "--nonsense"},
        TRAIN,
        1,
        ("Unknown flag in XLA_FLAGS: --nonsense",),
    ),
    # --- notebooks, terminals, servers ---
    Row(
        "a notebook's figures",
        {"MPLBACKEND": "module://matplotlib_inline.backend_inline"},
        TRAIN,
    ),
    # tensorboardX imports torch if it finds it; this one cannot be imported.
    Row(
        "an installed torch",
        {"PYTHONPATH": f"{ROOT}:{ROOT / 'tests/foreign/packages'}"},
        TRAIN,
    ),
    Row("no home", {"HOME": UNSET, "VAE_JAX_CACHE": UNSET}),
    Row("no folder for temporary files", {"TMPDIR": "/nonexistent"}),
    Row("the C locale", {"LANG": "C", "LC_ALL": "C", "PYTHONUTF8": "0"}),
    Row("no columns", {"COLUMNS": "0", "LINES": "0"}, TRAIN),
    Row("a dumb terminal", {"TERM": "dumb", "NO_COLOR": "1"}),
    Row("no assertions, no docstrings", {"PYTHONOPTIMIZE": "2"}),
]


def run(command, cache, variables):
    environment = {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "JAX_PLATFORMS": "cpu",
        "VAE_JAX_CACHE": str(cache),
        **variables,
    }
    module, *arguments = command
    return subprocess.run(
        [sys.executable, "-m", f"experiments.{module}", *arguments],
        cwd=ROOT,
        env={name: value for name, value in environment.items() if value is not None},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def undisturbed(cache, tmp_path_factory):
    """Returns the result of each command in a plain environment."""
    folder = tmp_path_factory.mktemp("undisturbed") / "run"
    trained = run((*TRAIN, f"--workdir={folder}"), cache, {})
    assert (trained.returncode, trained.stderr) == (0, "")
    return {TRAIN: params_of(folder), LIST: run(LIST, cache, {}).stdout}


def params_of(folder):
    return (folder / "members" / "model" / "params.safetensors").read_bytes()


# These do not disturb training, so one process tests them together.
HARMLESS = [row for row in ROWS if row.command is TRAIN and not row.status]
TOGETHER = Row(
    "all that hinders no training",
    {name: value for row in HARMLESS for name, value in row.variables.items()},
    TRAIN,
    words=tuple(word for row in HARMLESS for word in row.words),
)
# Further examples of the same kinds; a process takes seconds.
ALIKE = {
    *(row.name for row in HARMLESS),
    *(
        "JAX_DEBUG_NANS=1",
        "JAX_NUMPY_RANK_PROMOTION=raise",
        "JAX_DEFAULT_PRNG_IMPL=rbg",
    ),
    *("JAX_PLATFORMS=tpu", "JAX_PLATFORM_NAME=gpu"),
    *("JAX_THREEFRY_PARTITIONABLE=0", "JAX_TRANSFER_GUARD=disallow", "tracebacks"),
    *("precision", "no folder for temporary files", "the C locale", "a dumb terminal"),
}


def slow_if(alike, value):
    return pytest.param(value, marks=[pytest.mark.slow] * alike)


@pytest.mark.parametrize(
    "row",
    [slow_if(row.name in ALIKE, row) for row in [TOGETHER, *ROWS]],
    ids=lambda row: row.name,
)
def test_every_environment_is_worked_in_or_refused(row, cache, undisturbed, tmp_path):
    folder = tmp_path / "run"
    arguments = [f"--workdir={folder}"] if row.command is TRAIN else []
    outcome = run((*row.command, *arguments), cache, row.variables)
    assert outcome.returncode == row.status, outcome.stderr
    assert all(word in outcome.stderr for word in row.words), outcome.stderr
    # A refusal is one line; otherwise each text has its own line.
    assert outcome.stderr.count("\n") == (1 if row.status else len(row.words))
    if row.status:
        assert not folder.exists()
    elif row.command is TRAIN:
        assert params_of(folder) == undisturbed[TRAIN]
        assert "report:" in outcome.stdout
    else:
        assert outcome.stdout == undisturbed[LIST]


def test_without_a_home_the_remedy_is_the_variable(monkeypatch, tmp_path):
    """A container that runs as a user number knows no home folder."""

    def unknown(path):
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("VAE_JAX_CACHE", raising=False)
    monkeypatch.setattr(Path, "expanduser", unknown)
    with pytest.raises(DataError, match="VAE_JAX_CACHE=/tmp/vae_jax"):
        data_cache.default_folder()
    monkeypatch.undo()
    monkeypatch.setenv("VAE_JAX_CACHE", str(tmp_path))
    assert data_cache.default_folder() == tmp_path


def test_a_warning_of_a_package_ends_no_command(cache, undisturbed):
    outcome = run(LIST, cache, {"PYTHONWARNINGS": "error"})
    assert outcome.returncode == 0, outcome.stderr
    assert outcome.stdout == undisturbed[LIST]


# --- addresses in place of paths ------------------------------------------------------

ADDRESSES = [
    "gs://bucket/run",
    "s3://bucket/run",
    "https://x.org/a",
    "hdfs:/a",
    "file://host/a",
]
FLAGS = [
    ("sweep", "--workdir={}"),
    ("evaluate", "--workdir={}"),
    ("sweep", "--workdir={}", "--launcher=local"),
    ("train", "--config.data.name=npz", "--config.data.path={}"),
    ("train", "--config.data.name=mnist", "--config.data.data_dir={}"),
    ("train", "--config.data.cache_dir={}"),
    ("prepare", "mnist", "--data_dir={}"),
    ("papers", "--page={}"),
    ("compare", "0", "1", "--workdir={}"),
]


@pytest.mark.parametrize("address", ADDRESSES)
def test_an_address_is_no_path(address):
    with pytest.raises(DataError, match="is an address") as caught:
        expand_user(address)
    assert repr(address) in str(caught.value)


@pytest.mark.parametrize(
    "address", ["file://{}", "file:{}", "file://localhost{}", "FILE://{}"]
)
def test_the_address_of_a_file_here_is_its_path(address, tmp_path):
    path = tmp_path / "my runs"
    assert expand_user(address.format(path)) == path
    assert expand_user(address.format(str(path).replace(" ", "%20"))) == path


@pytest.mark.parametrize("path", ["runs/a:b", "a:b/c", "C:/runs", "./gs:/run", "~/x"])
def test_a_colon_makes_no_address(path):
    assert expand_user(path) == Path(path).expanduser()


@pytest.mark.parametrize(
    "command",
    [slow_if(index > 0, command) for index, command in enumerate(FLAGS)],
    ids=map(" ".join, FLAGS),
)
def test_every_path_of_a_command_is_one_of_this_machine(command, cache):
    before = sorted(ROOT.iterdir())
    given = [argument.format("gs://bucket/run") for argument in command]
    outcome = run(given, cache, {})
    assert outcome.returncode == REFUSED, outcome.stderr
    assert outcome.stderr.startswith("error: ")
    assert "'gs://bucket/run' is an address" in outcome.stderr
    assert outcome.stderr.count("\n") == 1
    assert sorted(ROOT.iterdir()) == before
