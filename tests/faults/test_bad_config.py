"""Tests of invalid configurations and command lines: one line, and no other effect.

Every case is a process of its own, as a shell starts it.
"""

import itertools
import shutil
import signal
from typing import NamedTuple

import filelock
import numpy as np
import pytest

from configs import digits
from tests.faults import harness

MISSPELT = "config: misspelt"
TYPE = "config: another type"
RANGE = "config: out of range"
NOT_FINITE = "config: not finite"
SWEEP = "config: sweep that makes no sense"
FILE = "config: file or variant that is not there"
OPTION = "command line: options that make no sense"
PROCESSES = "command line: other processes that cannot be"
REPLAY = "command line: replay of a run that is not there"


class Case(NamedTuple):
    """A command that must be refused, and words of the line that refuses it."""

    kind: str
    arguments: str  # separated by spaces; {npz} and {empty} are files
    words: tuple[str, ...]
    module: str = "train"


REFUSED = [
    # --- names ---
    Case(MISSPELT, "--config.sede=1", ("config.sede", "'seed'")),
    Case(MISSPELT, "--config.modle.widths=8", ("config.modle", "'model'", "training")),
    Case(
        MISSPELT, "--config.model.widhts=8", ("model.widhts", "'widths'", "latent_dim")
    ),
    Case(
        MISSPELT,
        "--config.checkpoint.every=3",
        ("checkpoint.every", "every_epochs", "keep"),
    ),
    Case(MISSPELT, "--config.training.on_nonfinite=skip", ("'on_non_finite'",)),
    Case(MISSPELT, "--config.model.widths.x=8", ("config.model.widths", "one by one")),
    Case(MISSPELT, "--config.model.likelihood=bernouli", ("bernouli", "'bernoulli'")),
    Case(MISSPELT, "--config.model.network=cnv", ("'cnv'", "'conv'", "mlp")),
    Case(MISSPELT, "--config.model.activation=rellu", ("'rellu'", "'relu'")),
    Case(MISSPELT, "--config.model.precision=bfloat", ("'bfloat'", "'bfloat16'")),
    Case(MISSPELT, "--config.training.objective=elb", ("'elb'", "'elbo'", "iwae")),
    Case(MISSPELT, "--config.training.schedule=cosin", ("'cosin'", "'cosine'")),
    Case(
        MISSPELT,
        "--config.training.on_non_finite=ignore",
        ("training.on_non_finite is 'ignore'", "stop, skip, reseed"),
    ),
    Case(
        MISSPELT, "--config.parallel.member_execution=maps", ("'maps'", "auto", "loop")
    ),
    Case(MISSPELT, "--config.data.name=mnits", ("'mnits'", "'mnist'", "digits")),
    Case(MISSPELT, "--config.data.binarization=statik", ("'statik'", "'static'")),
    # --- types ---
    Case(TYPE, "--config.seed=one", ("'one'", "an integer", "--config.seed=0")),
    Case(TYPE, "--config.model.latent_dim=8.5", ("'8.5'", "an integer")),
    Case(TYPE, "--config.model.components=many", ("'many'", "an integer")),
    Case(TYPE, "--config.model.widths=64,a", ("widths is 'a'",)),
    Case(TYPE, "--config.model.widths=(64,'a')", ("model.widths", "'a'", "int")),
    Case(TYPE, "--config.model.widths=(64,", ("(64,", "tuple")),
    Case(TYPE, "--config.training.beta=high", ("'high'", "a number")),
    Case(TYPE, "--config.training.num_epochs=1e2", ("'1e2'", "an integer")),
    Case(TYPE, "--config.data.download=maybe", ("'maybe'", "true or false")),
    Case(TYPE, "--config.checkpoint.keep=few", ("'few'", "an integer")),
    Case(TYPE, "--config.checkpoint.every_seconds=soon", ("'soon'", "a number")),
    Case(TYPE, "--config.model=8", ("a group", "--config.model.", "widths")),
    # --- ranges ---
    Case(RANGE, "--config.seed=-1", ("seed is -1", "at most 4294967295")),
    Case(RANGE, "--config.seed=4294967296", ("4294967296", "at most 4294967295")),
    Case(RANGE, "--config.model.latent_dim=0", ("latent_dim is 0", "at least 1")),
    Case(RANGE, "--config.model.latent_dim=1000000000000", ("at most 1000000",)),
    Case(RANGE, "--config.model.widths=(64,0)", ("widths is 0", "at least 1")),
    Case(
        RANGE,
        "--config.model.network=conv --config.model.widths=()",
        ("widths is ()", "one or more"),
    ),
    Case(
        RANGE,
        "--config.model.likelihood=gaussian_fixed --config.model.fixed_scale=0",
        ("fixed_scale is 0", "above 0"),
    ),
    Case(RANGE, "--config.training.batch_size=0", ("batch_size is 0", "at least 1")),
    Case(RANGE, "--config.training.batch_size=1301", ("1301", "1300")),
    Case(
        RANGE,
        "--config.training.microbatches=3",
        ("batch_size is 100", "microbatches, 3", "Change one of them"),
    ),
    Case(RANGE, "--config.training.validate_every=0", ("validate_every is 0",)),
    Case(RANGE, "--config.training.patience=-1", ("patience is -1", "at least 0")),
    Case(
        RANGE,
        "--config.training.kl_warmup_epochs=1000000000000000000000",
        ("kl_warmup_epochs is 1000000000000000000000", "at most 1000000"),
    ),
    Case(RANGE, "--config.training.learning_rate=0", ("learning_rate is 0", "above 0")),
    Case(
        RANGE,
        "--config.training.learning_rate=1001",
        ("learning_rate is 1001", "at most 1000"),
    ),
    Case(
        RANGE,
        "--config.training.adam_b1=1",
        ("adam_b1 is 1.0", "at least 0 and below 1"),
    ),
    Case(RANGE, "--config.training.ema=1", ("ema is 1.0", "at least 0 and below 1")),
    Case(
        RANGE,
        "--config.training.adam_b1=0.99 --config.training.adam_b2=0.9",
        ("adam_b1 is 0.99", "adam_b2 is 0.9", "adam_b1 ** 2 <= adam_b2"),
    ),
    Case(RANGE, "--config.evaluation.num_samples=0", ("evaluation.num_samples is 0",)),
    Case(RANGE, "--config.evaluation.chunk=-1", ("evaluation.chunk is -1",)),
    Case(RANGE, "--config.parallel.members=-1", ("members is -1",)),
    Case(RANGE, "--config.parallel.batch=0", ("parallel.batch is 0", "at least 1")),
    Case(RANGE, "--config.parallel.batch=4", ("batch is 4", "1 device.", "at most 1")),
    Case(
        RANGE, "--config.parallel.batch=3", ("batch_size is 100", "parallel.batch, 3")
    ),
    Case(RANGE, "--config.checkpoint.every_epochs=-1", ("every_epochs is -1",)),
    Case(RANGE, "--config.checkpoint.every_seconds=-0.5", ("every_seconds is -0.5",)),
    Case(RANGE, "--config.checkpoint.keep=0", ("checkpoint.keep is 0", "at least 1")),
    Case(RANGE, "--config.data.num_train=0", ("num_train is 0", "-1")),
    Case(RANGE, "--config.data.num_train=5000", ("5000", "1300")),
    Case(RANGE, "--config.data.num_validation=1800", ("1800", "1797")),
    Case(
        RANGE, "--config.data.stream_megabytes=0", ("stream_megabytes is 0", "above 0")
    ),
    Case(
        RANGE,
        "--config.data.stream=True --config.data.stream_megabytes=0.02",
        ("stream_megabytes is 0.02", "Give at least"),
    ),
    Case(RANGE, "--config.data.split_seed=-1", ("split_seed is -1", "at least 0")),
    Case(RANGE, "--config.data.path={npz}", ("no meaning for 'digits'", "'npz'")),
    Case(RANGE, "--config.data.name=npz", ("needs data.path",)),
    # --- values that are not numbers ---
    Case(NOT_FINITE, "--config.training.learning_rate=nan", ("is nan", "finite")),
    Case(NOT_FINITE, "--config.training.beta=inf", ("beta is inf", "finite")),
    Case(NOT_FINITE, "--config.training.clip_norm=1e400", ("is inf", "finite")),
    Case(NOT_FINITE, "--config.model.fixed_scale=1e-50", ("1e-50", "float32")),
    Case(NOT_FINITE, "--config.checkpoint.every_seconds=inf", ("is inf", "finite")),
    # --- sweeps ---
    Case(SWEEP, "--config.sweep.latent_dim=()", ("latent_dim is empty",), "sweep"),
    Case(
        SWEEP, "--config.sweep.seed=(1,1)", ("twice", "sweep.seed is (1, 1)"), "sweep"
    ),
    Case(SWEEP, "--config.sweep.likelihood=beta,beta", ("twice",), "sweep"),
    Case(SWEEP, "--config.sweep.betta=1.0", ("betta", "'beta'"), "sweep"),
    Case(SWEEP, "--config.sweep.keep=1", ("sweep.keep is unknown",), "sweep"),
    Case(SWEEP, "--config.sweep.likelihood=beta,lapalce", ("'laplace'",), "sweep"),
    Case(SWEEP, "--config.sweep.latent_dim=(2,0)", ("latent_dim is 0",), "sweep"),
    Case(SWEEP, "--config.model.latent_dim=3", ("no effect", "sweep."), "sweep"),
    Case(SWEEP, f"--config.sweep.widths=(({'1,' * 130}),)", ("at most 250",), "sweep"),
    Case(SWEEP, "--config.sweep.seed=1", ("no effect on one model",)),
    Case(SWEEP, "--only=seed=9", ("'seed=9'", "0-155"), "sweep"),
    # --- files ---
    Case(FILE, "--config=configs/digits.py:big", ("'big'", "tiny")),
    Case(FILE, "--config=configs/mnist.py:cpu,big", ("'big'", "fashion_mnist")),
    Case(FILE, "--config=configs/none.py", ("'configs/none.py'", "configs/digits.py")),
    Case(FILE, "--config=configs", ("'configs'", "configs/digits.py")),
    Case(FILE, "--config=setup.cfg", ("'setup.cfg'", "get_config")),
    Case(FILE, "--config={empty}", ("empty.py", "get_config")),
    Case(FILE, "--config.data.name=npz --config.data.path=none.npz", ("'none.npz'",)),
    # --- the command line ---
    Case(OPTION, "--config", ("--config is ''", "configs/digits.py")),
    Case(OPTION, "--config.seed", ("--config.seed is ''", "an integer")),
    Case(OPTION, "--workdir=", ("--workdir is ''",)),
    Case(OPTION, "runs/one", ("'runs/one'", "--name=value")),
    Case(OPTION, "-- --config.seed=1", ("'--config.seed=1'", "--name=value")),
    Case(OPTION, "--wrokdir=runs", ("'wrokdir'", "--help")),
    Case(OPTION, "--list", ("'list'", "--help")),
    Case(OPTION, "--list=maybe", ("maybe", "--help"), "sweep"),
    Case(OPTION, "--num_samples=0", ("num_samples=0", "--help"), "evaluate"),
    # --- several processes ---
    Case(PROCESSES, "--distributed", ("--distributed:", "--coordinator=host:port")),
    Case(PROCESSES, "--distributed=maybe", ("distributed=maybe", "--help")),
    Case(PROCESSES, "--coordinator=127.0.0.1:4321", ("without --distributed",)),
    Case(
        PROCESSES,
        "--distributed --coordinator=nonsense --num_processes=2 --process_id=0",
        ("'nonsense'", "host:port"),
    ),
    Case(
        PROCESSES,
        "--distributed --coordinator=host:port --num_processes=2 --process_id=1",
        ("'host:port'", "1 to 65535"),
    ),
    Case(
        PROCESSES,
        "--distributed --coordinator=127.0.0.1:99999 --num_processes=2 --process_id=0",
        ("'127.0.0.1:99999'", "1 to 65535"),
    ),
    Case(
        PROCESSES,
        "--distributed --coordinator=127.0.0.1:4321 --num_processes=2 --process_id=2",
        ("process_id=2", "num_processes=2"),
    ),
    Case(
        PROCESSES,
        "--distributed --coordinator=127.0.0.1:4321 --num_processes=0 --process_id=0",
        ("num_processes=0", "positive"),
    ),
    Case(
        PROCESSES,
        "--distributed --coordinator=127.0.0.1:4321 --num_processes=two",
        ("two", "--help"),
    ),
    # --- replays; the folder given is none ---
    Case(REPLAY, "--run=model", ("not a run folder", "config.json"), "replay"),
    Case(REPLAY, "--config.seed=1 --run=model", ("'config.seed'",), "replay"),
]


def contents(folder):
    """Returns every file below a folder, with its content."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        if path.is_file()
        else b""
        for path in sorted(folder.rglob("*"))
    }


def assert_refused(outcome, words, own_cache):
    """Asserts that the command was refused in one line, before it compiled anything."""
    assert outcome.status == 2, outcome.stderr
    assert outcome.stdout == ""
    assert outcome.stderr.startswith("error: ")
    assert outcome.stderr.count("\n") == 1
    assert outcome.stderr.endswith("\n")
    for word in words:
        assert word in outcome.stderr
    assert not [path for path in own_cache.glob("programs/**/*") if path.is_file()]


@pytest.mark.parametrize(
    "case", REFUSED, ids=[f"{case.module} {case.arguments}"[:60] for case in REFUSED]
)
def test_input_that_cannot_be_used_is_refused(case, faults, tmp_path):
    place, own_cache = tmp_path / "place", tmp_path / "cache"
    place.mkdir()
    (place / "empty.py").touch()
    np.savez(place / "a.npz", images=np.zeros((30, 4, 4), np.uint8))
    before = contents(place)
    arguments = [
        argument.format(npz=place / "a.npz", empty=place / "empty.py")
        for argument in case.arguments.split(" ")
    ]
    command = harness.command(case.module, f"--workdir={place / 'run'}", *arguments)
    with faults.injected(case.kind):
        outcome = harness.run(command, own_cache)
        assert_refused(outcome, case.words, own_cache)
        assert contents(place) == before


@pytest.mark.parametrize(
    "arguments",
    [
        "--config=configs/digits.py:tiny --config.sweep.beta=1.0,4.0",
        "--config.checkpoint.every_epochs=7 --config.checkpoint.every_seconds=0",
        "--config.training.on_non_finite=reseed --config.sweep.learning_rate=1000",
        "--config.training.adam_b1=0.5 --config.training.adam_b2=0.25 --only=0",
    ],
)
def test_control_input_that_can_be_used_is_accepted(arguments, cache, tmp_path):
    command = harness.command(
        "sweep", f"--workdir={tmp_path / 'run'}", *arguments.split(), "--list"
    )
    outcome = harness.run(command, cache)
    assert (outcome.status, outcome.stderr) == (0, "")
    assert "likelihood=bernoulli" in outcome.stdout


# --- folders that are continued -------------------------------------------------------

ANOTHER_CONFIG = "resume: another configuration"
OTHER_IMAGES = "resume: other images under the same name"

STATES = ("finished", "half-finished")
CONTINUED = (
    "--config.model.widths=(6,)",
    "--config.training.num_epochs=100",
    "--config.training.validate_every=2",
    "--config.evaluation.num_samples=20",
    "--config.sweep.likelihood=bernoulli",
    "--config.sweep.latent_dim=2",
    "--config.sweep.seed=(0,1)",
)
RUN = "likelihood=bernoulli,latent_dim=2,seed=0"


def sweep(place, *more):
    """Returns the command that trains two runs in a place, on the images there."""
    own = ("--config.data.name=npz", f"--config.data.path={place / 'images.npz'}")
    return harness.command(
        "sweep", *own, *CONTINUED, *more, f"--workdir={place / 'run'}"
    )


def images(**changed):
    drawn = np.random.default_rng(0).integers(0, 17, (400, 8, 8), np.uint8)
    labels = np.arange(400) % 10
    return {"images": drawn, "labels": labels, "levels": np.array(17), **changed}


@pytest.fixture(scope="session")
def states(common, cache):
    """Returns two places, which stay unchanged: one run is finished, one was killed."""
    around = common / "continued"
    with filelock.FileLock(common / "continued.lock"):
        if not around.exists():
            unfinished = common / "continued.unfinished"
            for state in STATES:
                (unfinished / state).mkdir(parents=True)
                np.savez(unfinished / state / "images.npz", **images())
            outcome = harness.run(sweep(unfinished / "finished"), cache)
            assert outcome.status == 0, outcome.stderr
            _begin_and_kill(unfinished / "half-finished", cache)
            unfinished.rename(around)
    return around


def _begin_and_kill(place, cache):
    command = sweep(place, "--config.checkpoint.every_epochs=2")
    process = harness.start(command, cache)
    assert harness.wait_for(lambda: harness.checkpoints(place / "run"), process)
    process.kill()
    assert harness.Outcome(process).status == -signal.SIGKILL
    assert not list((place / "run" / "members").glob("*/result.json"))


@pytest.fixture
def copy(states, tmp_path):
    """Copies a place."""

    def copy(state):
        place = shutil.copytree(states / state, tmp_path / "place")
        return place

    return copy


# A chain of latents as the prior.
CHAIN = {"model.prior": "diffusion", "training.objective": "diffusion"}
# Up to four fields at a time, since a refusal names five differences.
OTHER_VALUES = (
    {"data.name": "digits", "data.path": ""},
    {"data.binarization": "static", "data.binarization_seed": 1, "data.split_seed": 1},
    {"data.num_validation": 41, "data.num_test": 42, "data.num_train": 100},
    {
        "model.network": "conv",
        "model.widths": (7,),
        "model.activation": "tanh",
    },
    {"data.black": 16.0},
    {"data.white": 16.0, "data.background": "black"},
    {"sweep.likelihood": "gaussian_fixed", "model.fixed_scale": 0.2},
    {"sweep.likelihood": "logistic_mixture", "model.components": 3},
    {"model.ignore_x": True, "training.free_bits": 0.1},
    {
        "training.objective": "iwae",
        "training.num_samples": 2,
        "training.beta": 2.0,
        "training.kl_warmup_epochs": 3,
    },
    {
        "training.batch_size": 50,
        "training.num_epochs": 98,
        "training.validate_every": 1,
        "training.patience": 5,
    },
    {
        "training.learning_rate": 0.01,
        "training.schedule": "constant",
        "training.clip_norm": 1.5,
        "training.on_non_finite": "skip",
    },
    {
        "training.adam_b1": 0.8,
        "training.adam_b2": 0.99,
        "training.adam_eps": 1e-6,
        "training.ema": 0.9,
    },
    {
        "evaluation.num_samples": 10,
        "evaluation.chunk": 10,
        "evaluation.batch_size": 7,
        "evaluation.class_samples": 7,
    },
    {
        "diagnostics.latents": False,
        "diagnostics.permutations": 9,
        "diagnostics.floor": False,
        "diagnostics.probes": False,
    },
    {"sweep.likelihood": "laplace", "sweep.latent_dim": 3, "sweep.seed": (0, 1, 2)},
    {"sweep.beta": (1.0, 2.0)},
    {"sweep.seed": (1, 2)},
    {
        "model.posterior": "bottom_up",
        "model.upper_layers": (2,),
        "model.layer_widths": (5,),
        "training.objective": "elbo_log_weight",
    },
    {
        "model.posterior": "affine_coupling",
        "model.flow_steps": 2,
        "model.flow_widths": (3,),
        "training.objective": "stl",
    },
    {
        "model.prior": "mixture",
        "model.prior_components": 3,
        "training.objective": "dreg",
    },
    {
        "training.objective": "miwae",
        "training.num_samples": 2,
        "training.num_groups": 2,
    },
    {
        "training.objective": "thermodynamic",
        "training.num_samples": 2,
        "training.partitions": 2,
    },
    {"training.objective": "ciwae", "training.mixing": 0.5},
    {"training.objective": "renyi", "training.alpha": 0.5},
    {"training.objective": "mmd", "training.mmd_weight": 1.0},
    {"training.capacity": 2.0, "training.microbatches": 2},
    {"model.precision": "bfloat16", "model.rematerialize": True},
    {**CHAIN, "model.denoiser": "unet", "model.denoiser_widths": (7,)},
    {**CHAIN, "model.predicts": "data", "training.weighting": "simple"},
    {**CHAIN, "model.noise_schedule": "cosine", "model.noise_steps": 4},
    {**CHAIN, "model.gamma_min": -7.0, "model.gamma_max": 4.0},
    {**CHAIN, "model.preserves_variance": False},
    {**CHAIN, "evaluation.sampler": "ddim", "evaluation.sampler_steps": 4},
    {
        **CHAIN,
        "model.label_dropout": 0.5,
        "model.condition_on": "label",
        "evaluation.guidance": 2.0,
    },
    {
        "model.condition_on": "label",
        "data.labelled_per_class": 1,
        "data.labelled_repeats": 2,
        "training.objective": "semi_supervised",
    },
)
NO_NUMBER_DEPENDS_ON = {
    "checkpoint.every_epochs": 5,
    "checkpoint.every_seconds": 0.0,
    "checkpoint.keep": 1,
    "data.data_dir": "elsewhere",
    "data.cache_dir": "{place}/decoded",
    "data.download": True,
    "data.path": "{place}/images.npz",
    "data.stream_megabytes": 1.5,
    "parallel.memory_gib": 3.5,
    "parallel.compile_ahead": False,
    "parallel.lanes": 1,
}
# Results are equal up to rounding, and a change of these fields is printed.
ROUNDING_DEPENDS_ON = {
    "data.stream",
    *(f"parallel.{name}" for name in ("batch", "member_execution", "members")),
}


def test_every_field_is_either_bound_to_the_folder_or_not():
    config = digits.get_config().to_dict()
    fields = {
        f"{section}.{name}"
        for section, values in config.items()
        if isinstance(values, dict)
        for name in values
    }
    swept = {"model.likelihood", "model.latent_dim"}  # by the sweep of these tests
    bound = {name for group in OTHER_VALUES for name in group}
    others = {*NO_NUMBER_DEPENDS_ON} | ROUNDING_DEPENDS_ON
    assert fields - swept == (bound - {"sweep.beta"}) | others


@pytest.mark.parametrize(
    ("others", "state"),  # each in one state, in turn
    [*zip(OTHER_VALUES, itertools.cycle(STATES), strict=False)],
    ids=lambda value: value if isinstance(value, str) else next(iter(value)),
)
def test_another_configuration_is_refused(others, state, copy, faults, tmp_path):
    place = copy(state)
    before = contents(place)
    more = [f"--config.{name}={value}" for name, value in others.items()]
    flags = "--xla_force_host_platform_device_count=2"
    with faults.injected(ANOTHER_CONFIG):
        outcome = harness.run(sweep(place, *more), tmp_path / "cache", XLA_FLAGS=flags)
        words = [
            f"config.{name} is " for name in others if name not in NO_NUMBER_DEPENDS_ON
        ]
        words += ["there and", "here", "another --workdir", "the same config"]
        assert_refused(outcome, words, tmp_path / "cache")
        assert contents(place) == before


@pytest.mark.parametrize("fields", ["checkpoint", "data"])
def test_control_fields_that_change_no_number_may_differ(
    fields, states, copy, cache, faults
):
    """A killed run continues with other values, to the same bits."""
    place = copy("half-finished")
    more = [
        f"--config.{name}={value}".format(place=place)
        for name, value in NO_NUMBER_DEPENDS_ON.items()
        if name.startswith(fields)
    ]
    outcome = harness.run(sweep(place, *more), cache)
    assert (outcome.status, outcome.stderr) == (0, "")
    expected = harness.outcome_of(states / "finished" / "run")
    assert harness.outcome_of(place / "run") == expected


def test_control_nothing_is_trained_where_all_is_finished(states, copy, cache):
    place = copy("finished")
    more = [
        f"--config.{name}={value}".format(place=place)
        for name, value in NO_NUMBER_DEPENDS_ON.items()
    ]
    outcome = harness.run(sweep(place, *more), cache)
    assert (outcome.status, outcome.stderr) == (0, "")
    assert "2 finished before; 0 to train" in outcome.stdout
    expected = harness.outcome_of(states / "finished" / "run")
    assert harness.outcome_of(place / "run") == expected


ORIGINAL = images()
ONE_PIXEL = (np.arange(ORIGINAL["images"].size) == 99).reshape(400, 8, 8)
CHANGED_IMAGES = {
    "one pixel": images(images=ORIGINAL["images"] ^ ONE_PIXEL),
    "one label": images(labels=ORIGINAL["labels"] ^ (np.arange(400) == 399)),
    "another order": images(images=ORIGINAL["images"][::-1]),
    "one image less": images(
        images=ORIGINAL["images"][1:], labels=ORIGINAL["labels"][1:]
    ),
    "more levels": images(levels=np.array(18)),
    "a test split": images(test_images=ORIGINAL["images"][:40]),
}


@pytest.mark.parametrize(
    ("change", "state"), list(zip(CHANGED_IMAGES, STATES * 3, strict=True))
)
def test_other_images_under_the_same_name_are_refused(
    change, state, copy, faults, tmp_path
):
    place = copy(state)
    with faults.injected(OTHER_IMAGES):
        np.savez(place / "images.npz", **CHANGED_IMAGES[change])
        before = contents(place)
        outcome = harness.run(sweep(place), tmp_path / "cache")
        words = (str(place / "run"), "other images", "Restore them", "--workdir")
        assert_refused(outcome, words, tmp_path / "cache")
        assert contents(place) == before


def test_control_the_same_images_written_again_are_accepted(copy, cache):
    place = copy("finished")
    np.savez_compressed(place / "images.npz", **ORIGINAL)
    outcome = harness.run(sweep(place), cache)
    assert (outcome.status, outcome.stderr) == (0, "")


@pytest.mark.parametrize(
    ("run", "words"),
    [
        (RUN, (RUN, "training ended")),
        ("seed=7", ("'seed=7'", "none")),
        ("", ("--run", "No run")),
    ],
)
def test_replays_without_a_failure_are_refused(run, words, copy, faults, tmp_path):
    place = copy("finished")
    before = contents(place)
    images = f"--data_path={place / 'images.npz'}"
    own = (f"--workdir={place / 'run'}", f"--run={run}", images)
    command = harness.command("replay", *own)
    with faults.injected(REPLAY):
        outcome = harness.run(command, tmp_path / "cache")
        assert_refused(outcome, (str(place / "run"), *words), tmp_path / "cache")
        assert contents(place) == before
