"""Whether two checkouts give the same results, to the last bit.

    python tests/compare_checkouts.py OLD NEW
    python tests/compare_checkouts.py OLD NEW --keep DIR  # OLD's results stay in DIR

It is for work that should change no result. It uses only the command line of a
checkout, so everything behind it may move; both must know the fields that are set here.
The runs are a cover of likelihood x posterior x prior x objective x network: those that
pair the most values in ``NUM_RUNS`` runs of 200 training images and two epochs; and a
few that take other paths: streamed, in microbatches, of several latent sizes, stopped
and resumed, evaluated again with a fitted prior.

It compares the bits of all parameters and arrays on disk, and every number of tables
and metrics but seconds. Hashes are never stored with the code: other machines and other
versions of JAX give others. The exit status is 1 if anything differs.
"""

import argparse
import concurrent.futures
import csv
import hashlib
import importlib.metadata
import itertools
import json
import os
import platform
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import safetensors.numpy

# Small programs that run once: compiling them takes far longer than running them.
XLA_FLAGS = (
    "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true "
    "--xla_cpu_parallel_codegen_split_count=1"
)
NUM_RUNS = 90  # A full cover of pairs has at least 13 likelihoods x 12 objectives.

Options = tuple[str, ...]
_FLOW: Options = ("model.flow_steps=2", "model.flow_widths=(8,)")
_LAYERS: Options = ("model.upper_layers=(2,)", "model.layer_widths=(8,)")
_SAMPLES: Options = ("training.num_samples=4",)

# The values of each axis, and the fields that they need.
AXES: Mapping[str, Mapping[str, Options]] = {
    "likelihood": {
        "bernoulli": (),
        "gaussian_fixed": (),
        "gaussian_shared": (),
        "gaussian_optimal": (),
        "gaussian_pixel": (),
        "laplace": (),
        "beta": (),
        "continuous_bernoulli": (),
        "discretized_logistic": (),
        "discretized_gaussian": (),
        "logistic_mixture": (),
        "categorical": (),
        "beta_binomial": (),
    },
    "posterior": {
        "diagonal": (),
        "full_covariance": (),
        "inverse_autoregressive_flow": _FLOW,
        "affine_coupling": _FLOW,
        "spline_coupling": _FLOW,
        "bottom_up": _LAYERS,
        "ladder": _LAYERS,
    },
    "prior": {
        "standard_normal": (),
        "gaussian": (),
        "mixture": ("model.prior_components=4",),
        "vamp": ("model.prior_components=4",),
        "flow": _FLOW,
    },
    "objective": {
        "elbo": (),
        "elbo_log_weight": (),
        "stl": (),
        "iwae": _SAMPLES,
        "dreg": _SAMPLES,
        "miwae": (*_SAMPLES, "training.num_groups=2"),
        "ciwae": (*_SAMPLES, "training.mixing=0.5"),
        "piwae": (*_SAMPLES, "training.num_groups=2"),
        "renyi": (*_SAMPLES, "training.alpha=0.5"),
        "thermodynamic": (*_SAMPLES, "training.partitions=3"),
        "beta_tc": (),
        "mmd": ("training.mmd_weight=2.0",),
    },
    "network": {"mlp": (), "conv": (), "gated": (), "resnet": (), "pixelcnn": ()},
}

COMMON = (
    "data.num_train=200",
    "data.num_validation=60",
    "data.num_test=60",
    "model.widths=(8,)",
    "training.batch_size=50",
    "training.num_epochs=2",
    "training.validate_every=1",
    "training.kl_warmup_epochs=2",
    "evaluation.num_samples=4",
    "evaluation.chunk=2",
    # These cost more than training; one command of the other paths has them all.
    "diagnostics.probes=False",
    "diagnostics.latents=False",
    "diagnostics.floor=False",
    "sweep.latent_dim=2",
    "sweep.seed=0",
)

Run = tuple[str, ...]  # a value of each axis
Facts = dict[str, str]  # compared values, by their place


def allowed(run: Run) -> bool:
    """Returns whether the program accepts a combination."""
    likelihood, posterior, prior, objective, _ = run
    closed_form_kl = posterior in ("diagonal", "full_covariance") and prior in (
        "standard_normal",
        "gaussian",
    )
    return (
        (objective not in ("elbo", "beta_tc") or closed_form_kl)
        and (objective != "beta_tc" or posterior == "diagonal")
        and (posterior not in ("bottom_up", "ladder") or prior == "standard_normal")
        and (
            likelihood != "gaussian_optimal"
            or not {*AXES["objective"][objective]} & {*_SAMPLES}
        )
    )


def pairs(run: Run) -> set[tuple[tuple[int, str], ...]]:
    return set(itertools.combinations(enumerate(run), 2))


def cover(num_runs: int) -> tuple[list[Run], float]:
    """Chooses runs that pair as many values as they can; always the same ones.

    Returns:
        The runs, and the part of all possible pairs that is in them.
    """
    rng = random.Random(0)
    runs = [run for run in itertools.product(*AXES.values()) if allowed(run)]
    missing = set().union(*map(pairs, runs))
    total = len(missing)
    chosen = []
    for _ in range(num_runs):
        best = max(rng.sample(runs, 400), key=lambda run: len(missing & pairs(run)))
        missing -= pairs(best)
        chosen.append(best)
    return chosen, 1 - len(missing) / total


def commands_of(runs: Sequence[Run]) -> dict[str, Options]:
    """Returns few commands, as each draws a report: sweeps whose runs ``--only`` picks.

    All combinations of a sweep must be allowed, and need the same fields.
    """
    kinds: dict[tuple[Any, ...], list[Run]] = {}
    for run in runs:
        _, posterior, _, objective, _ = run
        closed_form = objective if objective in ("elbo", "beta_tc") else ""
        own = AXES["objective"][objective]
        is_layered = AXES["posterior"][posterior] == _LAYERS
        kinds.setdefault((closed_form, own, is_layered), []).append(run)
    commands = {}
    for (_, _, is_layered), chosen in kinds.items():
        used = [list(dict.fromkeys(values)) for values in zip(*chosen, strict=True)]
        axes = [
            f"sweep.{axis}={','.join(values)}"
            for axis, values in zip(AXES, used, strict=True)
        ]
        needed = {
            field
            for values, axis in zip(used, AXES.values(), strict=True)
            for value in values
            for field in axis[value]
        }
        only = " ".join(
            ",".join(f"{axis}={value}" for axis, value in zip(AXES, run, strict=True))
            for run in chosen
        )
        name = f"{', '.join(used[3])}{' in layers' if is_layered else ''}"
        commands[name] = (*axes, *sorted(needed), f"--only={only}")
    return commands


STOPPED, FITTED = "stopped and resumed", "evaluated with a fitted prior"
_PLAIN = ("sweep.likelihood=bernoulli",)
# Other paths through the program, by name: the fields of each.
SPECIAL: dict[str, Options] = {
    "streamed": ("sweep.likelihood=logistic_mixture", "data.stream=True"),
    "in microbatches": (
        *_PLAIN,
        "training.microbatches=2",
        "training.num_samples=2",
        "training.free_bits=0.1",
        "training.beta=0.5",
    ),
    "several latent sizes": (
        "sweep.likelihood=gaussian_optimal",
        "sweep.latent_dim=(2, 3, 5)",
        "sweep.seed=(0, 1)",
        "sweep.learning_rate=(0.001, 0.003)",
    ),
    STOPPED: (
        *_PLAIN,
        "sweep.seed=(0, 1)",
        "training.num_epochs=600",
        "training.validate_every=20",
        "checkpoint.every_epochs=5",
        "checkpoint.every_seconds=0",
    ),
    FITTED: (
        "sweep.likelihood=bernoulli,laplace,logistic_mixture",
        "diagnostics.permutations=20",
        "diagnostics.probes=True",
        "diagnostics.latents=True",
        "diagnostics.floor=True",
    ),
}


# Imports the modules of all commands once, and forks for each command.
_SERVER = """
import json, os, runpy, sys
common = ("flax.linen", "optax", "sklearn.linear_model", "experiments.launch.sweeps")
for name in common:
    try:
        __import__(name)
    except ImportError:
        pass
for line in sys.stdin:
    errors, module, *sys.argv[1:] = json.loads(line)
    pid = os.fork()
    if not pid:
        os.dup2(os.open(os.devnull, os.O_RDWR), 0)
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        os.dup2(os.open(errors, os.O_CREAT | os.O_WRONLY), 2)
        runpy.run_module(module, run_name="__main__", alter_sys=True)
        sys.exit()
    print(pid, flush=True)
    print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)
"""


class Checkout:
    """A checkout's commands, which are performed one after another.

    Args:
        path: the checkout.
        programs: the folder of compiled programs; two checkouts with the same program
            share it.
    """

    def __init__(self, path: Path, programs: Path):
        self.path = path.resolve()
        self._scratch = tempfile.TemporaryDirectory()
        environment = {
            **os.environ,
            "JAX_PLATFORMS": "cpu",
            "PYTHONPATH": str(self.path),
            "VAE_JAX_CACHE": f"{self._scratch.name}/cache",
            "XLA_FLAGS": XLA_FLAGS,
            "JAX_COMPILATION_CACHE_DIR": str(programs.resolve()),
            "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
            "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
        }
        self._server = subprocess.Popen(
            [sys.executable, "-c", _SERVER],
            cwd=self.path,
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )

    def perform(self, name: str, options: Options) -> Facts:
        """Returns the results of a command, or its refusal."""
        # The last value of a field is the one that counts.
        given = dict(option.split("=", 1) for option in (*COMMON, *options))
        sweep = [
            f"{field if field.startswith('--') else f'--config.{field}'}={value}"
            for field, value in given.items()
        ]
        commands = [["sweep", "--config=configs/digits.py", *sweep]]
        if name == STOPPED:
            commands *= 2
        if name == FITTED:
            commands += [["evaluate", "--fit_prior=mixture", "--fit_steps=20"]]
        with tempfile.TemporaryDirectory() as scratch:
            folder = Path(scratch) / "run"
            for i, (module, *arguments) in enumerate(commands):
                stops = name == STOPPED and i == 0
                where = f"--workdir={folder}", *arguments
                status, why = self._run(f"experiments.{module}", where, stops, folder)
                if status and not stops:
                    return {"refused": f"exit status {status}: {why}"}
            return dict(facts(folder))

    def _run(
        self, module: str, arguments: Sequence[str], stops: bool, folder: Path
    ) -> tuple[int, str]:
        """Returns a command's exit status and last line of errors; may interrupt it."""
        errors = Path(self._scratch.name) / "errors"
        errors.write_text("")
        server = self._server
        assert server.stdin
        assert server.stdout
        server.stdin.write(json.dumps([str(errors), module, *arguments]) + "\n")
        server.stdin.flush()
        pid = int(server.stdout.readline())
        if stops:
            while not any(folder.glob("checkpoints/*/[0-9]*.safetensors")):
                time.sleep(0.05)
            os.kill(pid, signal.SIGINT)
        status = int(server.stdout.readline())
        if stops and (folder / "results.csv").exists():
            raise RuntimeError("the run ended before it was stopped")
        return status, (errors.read_text().strip().splitlines() or [""])[-1]

    def close(self) -> None:
        assert self._server.stdin
        self._server.stdin.close()
        self._server.wait()
        self._scratch.cleanup()


def facts(folder: Path) -> Iterator[tuple[str, str]]:
    """Returns a folder's content, as text that is equal only if the bits are."""
    for path in sorted(folder.glob("members/*/*.safetensors")):
        for name, array in safetensors.numpy.load_file(path).items():
            content = f"{array.dtype}{array.shape}".encode() + array.tobytes()
            digest = hashlib.sha256(content).hexdigest()[:16]
            yield f"{path.parent.name} {path.stem} {name}", digest
    rows = []
    for path in sorted(folder.glob("*.csv")):
        with path.open(newline="") as file:
            rows += [(path.stem, i, row) for i, row in enumerate(csv.DictReader(file))]
    for path in sorted(folder.glob("members/*/metrics.jsonl")):
        for line in path.read_text().splitlines():
            row = json.loads(line)
            rows.append(("metrics", row["epoch"], row))
    for table, number, row in rows:
        for column, value in row.items():
            if column not in ("run", "seconds", "fingerprint"):
                yield f"{row['run']} {table} {number} {column}", str(value)


def environment_of(checkout: Path) -> dict[str, str]:
    """Returns the environment of results; it must be equal to keep results."""
    describe = ["git", "-C", str(checkout), "describe", "--always", "--dirty"]
    return {
        "checkout": subprocess.check_output(describe, text=True).strip(),
        "python": sys.version,
        "machine": platform.node(),
        "jax": importlib.metadata.version("jax"),
        "jaxlib": importlib.metadata.version("jaxlib"),
    }


def open_kept(folder: Path, checkout: Path) -> None:
    """Opens or begins a folder of kept results; exits if its environment is another."""
    note, mine = folder / "environment.json", environment_of(checkout)
    if mine["checkout"].endswith("-dirty"):
        sys.exit(f"{checkout} is changed: commit its changes, or leave out --keep.")
    folder.mkdir(parents=True, exist_ok=True)
    if not note.exists():
        note.write_text(json.dumps(mine, indent=2))
    for key, value in json.loads(note.read_text()).items():
        if mine[key] != value:
            sys.exit(
                f"--keep is {folder}: it holds results of {key} {value}, not "
                f"{mine[key]}. Name another folder."
            )


def all_facts(
    checkout: Checkout, commands: Mapping[str, Options], kept: Path | None
) -> dict[str, Facts]:
    """Returns the results of all commands; kept results are not computed again."""
    found = {}
    for name, options in commands.items():
        key = hashlib.sha256(json.dumps([COMMON, name, options]).encode()).hexdigest()
        path = kept and kept / f"{key[:16]}.json"
        if path and path.exists():
            found[name] = json.loads(path.read_text())
            continue
        found[name] = checkout.perform(name, options)
        if path:
            whole = path.with_suffix(".part")
            whole.write_text(json.dumps(found[name], indent=1))
            whole.rename(path)
    return found


def differences(old: Facts, new: Facts) -> Iterator[str]:
    for where in old.keys() & new.keys():
        if old[where] != new[where]:
            yield f"{where}: {old[where]} -> {new[where]}"
    for name, mine, other in (("OLD", old, new), ("NEW", new, old)):
        # A new column is one line, not one for each row.
        absent = mine.keys() - other.keys()
        columns = Counter(where.rsplit(" ", 1)[-1] for where in absent)
        for column, count in columns.items():
            yield f"{column}: {count} values are in {name} alone"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("old", type=Path, metavar="OLD", help="a checkout")
    parser.add_argument(
        "new",
        type=Path,
        metavar="NEW",
        nargs="?",
        help="another; without it, OLD's results are computed and kept",
    )
    parser.add_argument(
        "--keep",
        type=Path,
        metavar="DIR",
        help="where OLD's results are kept, and found the next time",
    )
    parser.add_argument(
        "--only", default="", metavar="TEXT", help="the commands that contain TEXT"
    )
    parser.add_argument("--list", action="store_true", help="print the runs, and end")
    arguments = parser.parse_args()
    if not (arguments.new or arguments.keep or arguments.list):
        parser.error("there is nothing to compare OLD with: give NEW, or --keep.")
    runs, part = cover(NUM_RUNS)
    commands = commands_of(runs) | SPECIAL
    print(
        f"{len(runs)} runs have {part:.0%} of all pairs; with other paths, there are "
        f"{len(commands)} commands",
        flush=True,
    )
    commands = {name: each for name, each in commands.items() if arguments.only in name}
    if not commands:
        parser.error(f"--only is {arguments.only!r}: --list prints what there is.")
    if arguments.list:
        for name, options in commands.items():
            print(name, *options, sep="\n    ")
        return
    if arguments.keep:
        open_kept(arguments.keep, arguments.old)
    began = time.monotonic()
    num_runs = num_facts = num_differences = 0
    with (
        tempfile.TemporaryDirectory() as scratch,
        concurrent.futures.ThreadPoolExecutor(2) as pool,
    ):
        programs = (arguments.keep or Path(scratch)) / "programs"
        paths = [path for path in (arguments.old, arguments.new) if path]
        checkouts = [Checkout(path, programs) for path in paths]
        work = [
            pool.submit(all_facts, checkout, commands, kept)
            for checkout, kept in zip(checkouts, (arguments.keep, None), strict=False)
        ]
        sides = [each.result() for each in work]
        for checkout in checkouts:
            checkout.close()
        for name in commands:
            old, new = sides[0][name], sides[-1][name]
            found = sorted(differences(old, new))
            if "refused" in old:
                found.append(f"OLD: {old['refused']}")
            for difference in found:
                print(f"{name}: {difference}", flush=True)
            num_runs += len({where.split(" ")[0] for where in old})
            num_facts += len(old.keys() & new.keys())
            num_differences += len(found)
    print(
        f"{num_runs} runs, {num_facts} numbers compared, {num_differences} "
        f"differences; {(time.monotonic() - began) / 60:.1f} minutes"
    )
    sys.exit(num_differences > 0)


if __name__ == "__main__":
    main()
