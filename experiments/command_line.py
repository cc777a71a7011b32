"""What the command lines share: flags, settings, and one-line refusals."""

import functools
import logging
import os
import re
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, NoReturn

import jax
from absl import app, flags
from absl import logging as absl_logging

from experiments import guard
from experiments.data import cache
from experiments.data.images import ImageData, load_data
from experiments.files.paths import expand_user
from experiments.guard import REFUSED
from experiments.messages.console import CONSOLE, warn
from experiments.messages.errors import (
    DataError,
    FolderError,
    LaunchError,
    SettingsError,
)
from experiments.messages.wording import printable
from experiments.runner import processes
from experiments.runner.interruption import Stopped
from experiments.runs.folder import RunFolder
from experiments.settings import configuration, stored, user_code
from experiments.settings.arguments import Argument, expanded
from experiments.settings.fingerprint import fingerprints
from experiments.settings.grid import Run, expand

LEFT_OUT = 3  # of one that did what it could, and names what it left out

# Flags defined here are those of the command that asks for them: --help shows them.
flags.disclaim_key_flags()

_REFUSALS = (DataError, FolderError, LaunchError, SettingsError)

_LONGEST_LINE = 4000  # characters

# Programs that compile faster are not worth a file.
_SECONDS_WORTH_KEEPING = 0.1


def define_flags(workdir: str, config: str | None = None) -> None:
    """Defines --workdir and, with a default config file, --config."""
    flags.DEFINE_string("workdir", workdir, "Folder of the run.")
    if config:
        # Not one of another project, where the user stands.
        flags.DEFINE_string(
            "config",
            str(configuration.ROOT / config),
            "Configuration file, as in configs/mnist.py:fashion_mnist, or config.json "
            "of a run folder. Its fields are overridden as in "
            "--config.model.latent_dim=8; the last of the same counts.",
        )


def define_parts_flag() -> None:
    """Defines where the user's own parts are: no folder's word is taken for it."""
    flags.DEFINE_multi_string(
        "parts",
        [],
        "Module that registers likelihoods, networks or other parts of your own, as in "
        "--parts=my_parts or --parts=my_parts.py; give it again for another.",
    )


def define_distributed_flags() -> None:
    """Defines --distributed and what it needs where JAX cannot find that out."""
    flags.DEFINE_bool(
        "distributed",
        False,
        "Train one population together with the other processes of this job, which all "
        "run this command. Slurm, Open MPI, Kubernetes and TPU pods are recognised; "
        "elsewhere give --coordinator, --num_processes and --process_id.",
    )
    flags.DEFINE_string("coordinator", None, "host:port of the first process.")
    flags.DEFINE_integer("num_processes", None, "Number of processes.", lower_bound=1)
    flags.DEFINE_integer(
        "process_id", None, "Number of this process, from 0.", lower_bound=0
    )


def define_data_flags() -> None:
    """Defines where the images of a stored run are: its own word is not obeyed."""
    for field, meaning in {
        "data.path": "The npz file or folder of the run's own images.",
        "data.data_dir": "Prepared data sets; default: $TFDS_DATA_DIR.",
        "data.cache_dir": "Decoded images; default: $VAE_JAX_CACHE.",
    }.items():
        flags.DEFINE_string(stored.PLACES[field], "", meaning)


def _places() -> dict[str, str]:
    """Those that are given, by the field of the configuration."""
    values = {field: flags.FLAGS[flag].value for field, flag in stored.PLACES.items()}
    return {field: value for field, value in values.items() if value}


def stored_runs(folder: RunFolder) -> tuple[Run, ...]:
    """The runs of a folder, with the places that the command line gives.

    The folder's parts have to belong to them from here on.

    Raises:
        SettingsError: a path is missing, or is given for data that have none.
    """
    runs = expand(stored.on_this_machine(folder.config(), _places()))
    folder.bind(fingerprints(runs, folder.images()))
    return runs


def stored_images(folder: RunFolder, run: Run) -> ImageData:
    """The images of one of the ``stored_runs``; says what was not obeyed.

    Raises:
        DataError: they cannot be had.
        FolderError: they are others than those of training.
    """
    not_obeyed = stored.not_obeyed(folder.config(), _places(), stored.PLACES)
    try:
        data = load_data(run.settings.data)
        folder.refuse_other_images(data.fingerprint)
    except (DataError, FolderError) as error:
        reason = f"{error} ({not_obeyed})" if not_obeyed else str(error)
        raise type(error)(reason) from error
    if not_obeyed:
        CONSOLE.print(not_obeyed)
    return data


def join_processes() -> None:
    """Joins the other processes, if --distributed is given.

    Raises:
        SettingsError: they cannot be found, or how to find them has no effect.
    """
    given = flags.FLAGS
    refuse_idle(("coordinator", "num_processes", "process_id"), "distributed")
    if not given.distributed:
        return
    if given.coordinator is not None:
        _check_coordinator(given.coordinator)
    options = (given.coordinator, given.num_processes, given.process_id)
    try:
        jax.distributed.initialize(*options)
    except (RuntimeError, ValueError) as error:
        raise SettingsError(
            f"--distributed: {error} Give --coordinator=host:port, --num_processes "
            "and --process_id."
        ) from error


def refuse_idle(names: Iterable[str], needed: str) -> None:
    """Refuses options that are given without the one which they are part of.

    Raises:
        SettingsError: some are.
    """
    for name in names:
        if flags.FLAGS[name].present and not flags.FLAGS[needed].value:
            raise SettingsError(
                f"--{name} has no effect without --{needed}: add it, or leave out "
                f"--{name}."
            )


def _check_coordinator(address: str) -> None:
    """Refuses an address for which JAX would wait for minutes, in vain."""
    host, _, port = address.rpartition(":")
    if not host or not port.isdecimal() or not 1 <= int(port) <= 65535:
        raise SettingsError(
            f"--coordinator is {address!r}: give host:port with a port in 1 to 65535, "
            "as in --coordinator=10.0.0.1:1234."
        )


def config() -> dict[str, Any]:
    """The configuration as a plain dictionary, overrides applied."""
    return flags.FLAGS.config.fields


def overridden() -> frozenset[str]:
    """Names of the configuration's fields that the command line sets."""
    return flags.FLAGS.config.overridden


def show_what_is_not_obeyed() -> None:
    """Says what of a stored configuration is not, in the first process."""
    if flags.FLAGS.config.not_obeyed and processes.is_primary():
        CONSOLE.print(flags.FLAGS.config.not_obeyed)


def workdir() -> Path:
    """The folder given.

    Raises:
        SettingsError: none is.
        DataError: it is below a home folder that is not known.
    """
    if not flags.FLAGS.workdir:
        raise SettingsError("--workdir is '': name a folder, as in --workdir=runs/one.")
    return expand_user(flags.FLAGS.workdir)


def run(main: Callable[..., None], *, positional: bool = False) -> None:
    """Runs a command; bad input ends it with one line and exit status 2.

    Signals and streams that are closed are seen to by ``guard``.

    Args:
        main: the command.
        positional: whether it is given the arguments that are no options.
    """

    def guarded(argv: list[str]) -> None:
        # absl lets through JAX's notes on accelerators that the machine does not have.
        if not flags.FLAGS["verbosity"].present:
            absl_logging.set_verbosity(absl_logging.WARNING)
            logging.getLogger("jax").setLevel(logging.WARNING)
        try:
            try:
                guard.listen_and_unwind()
                keep_compiled_programs()
                main(*[argv[1:]] * positional)
            finally:
                guard.listen()
        except _REFUSALS as error:
            _refuse(error)
        except Stopped as reason:
            message = f"{reason}: {guard.CONTINUES}"
            if jax.process_count() == 1:
                # Whatever is still being compiled.
                guard.leave(message, guard.STOPPED)
            print(message, file=sys.stderr)
            sys.exit(guard.STOPPED)
        except guard.Interrupted as interruption:
            guard.end(interruption.number)
        except (AssertionError, RuntimeError) as error:
            _refuse_missing_devices(error)
            raise
        sys.stdout.flush()
        if guard.unwritten:
            _refuse(
                "not all that was printed could be written: "
                f"{guard.unwritten[0].strerror}. All else was done; send the output "
                "elsewhere."
            )

    guard.protect()
    parse = functools.partial(_parse_flags, positional=positional)
    app.run(guarded, flags_parser=parse)


def _refuse_missing_devices(error: Exception) -> None:
    """Ends the command if JAX finds none of the devices that it is told to use."""
    try:
        jax.devices()
        # Asked again, it does with those that it found.
        found = "Unable to initialize backend" not in str(error)
    except (AssertionError, RuntimeError):
        found = False
    told = [name for name in os.environ if re.match("JAX_.*(PLATFORM|DEVICE)", name)]
    if told and not found:
        _refuse(
            f"{' and '.join(f'{name} is {os.environ[name]!r}' for name in told)}, of "
            f"which JAX finds nothing here: unset {' and '.join(told)} to use what "
            "there is, or install JAX for it, as in pip install 'jax[cuda13]'."
        )


def keep_compiled_programs() -> None:
    """A second start finds its programs compiled, unless JAX is told of another place.

    JAX_COMPILATION_CACHE_DIR is that place; JAX_ENABLE_COMPILATION_CACHE=false keeps
    nothing, nor does a place that cannot be written. An entry is found by all that
    compilation depends on, and (compressed by zlib) carries a checksum: what is damaged
    is compiled anew.
    """
    if jax.config.values["jax_compilation_cache_dir"]:
        return
    folder = cache.default_folder() / "programs"
    if not _can_be_written(folder):
        return  # It is told of the images; JAX would warn of each program.
    jax.config.update("jax_compilation_cache_dir", str(folder))
    jax.config.update(
        "jax_persistent_cache_min_compile_time_secs", _SECONDS_WORTH_KEEPING
    )


def _can_be_written(folder: Path) -> bool:
    """Whether a folder can be, or, where it is not there yet, can be made."""
    nearest = next(
        place
        for place in (folder, *folder.absolute().parents)
        if os.path.lexists(place)
    )
    return os.path.isdir(nearest) and os.access(nearest, os.W_OK | os.X_OK)


def leave_if_left_out(lines: Sequence[str]) -> None:
    """Ends the command with a status of its own if something was left out.

    Args:
        lines: what was, which is printed.
    """
    for line in lines:
        warn(line)
    if lines:
        sys.exit(LEFT_OUT)


def _refuse(reason: object) -> NoReturn:
    parts = map(str.strip, str(reason).split("\n"))
    line = " ".join(filter(None, parts))
    if len(line) > _LONGEST_LINE:  # The value is in front, what to do at the end.
        half = _LONGEST_LINE // 2
        line = f"{line[:half]} ... {line[-half:]}"
    print(f"error: {printable(line)}", file=sys.stderr)
    sys.exit(REFUSED)


def _parse_flags(argv: list[str], *, positional: bool) -> list[str]:
    """Reads options, from files too, and the configuration; else ends the command."""
    try:
        given = expanded(argv[1:])
        # As it is recorded, and given to jobs: a file may change.
        sys.argv[1:] = [argument.text for argument in given]
        has_config = "config" in flags.FLAGS
        own, others = configuration.split(given) if has_config else ([], given)
        left = _parse(argv[0], others)
        if left[1:] and not positional:
            place = next(each.place for each in others if each.text == left[1])
            raise SettingsError(
                f"{place}{left[1]!r} is not understood: write options as --name=value."
            )
        if "parts" in flags.FLAGS:
            user_code.import_parts(flags.FLAGS.parts)  # A configuration may name them.
        if has_config:
            flag = flags.FLAGS["config"]
            flag.value = configuration.read(own, str(flag.default))
        return left
    except (DataError, SettingsError) as error:
        _refuse(error)


def _parse(command: str, arguments: Sequence[Argument]) -> list[str]:
    """Has absl parse arguments; returns the command, and those that are no options."""
    argv = [command, *(argument.text for argument in arguments)]
    try:
        return flags.FLAGS(argv)
    except SystemExit:  # After --help and its kin, by absl with a status of failure.
        sys.exit(0)
    except flags.Error as error:
        # It is the last of the fewest arguments that are refused in the same way.
        places = (
            argument.place
            for count, argument in enumerate(arguments, 2)
            if _refusal(argv[:count]) == str(error)
        )
        raise SettingsError(
            f"{next(places, '')}{error}; --help shows what there is."
        ) from error


def _refusal(argv: list[str]) -> str:
    try:
        flags.FLAGS(argv)
    except flags.Error as error:
        return str(error)
    return ""
