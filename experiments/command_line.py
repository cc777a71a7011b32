"""What the command lines share: flags, settings, and one-line refusals."""

import dataclasses
import itertools
import logging
import os
import re
import runpy
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NoReturn

import jax
import ml_collections
from absl import app, flags
from absl import logging as absl_logging
from ml_collections import config_flags

from experiments import data_cache, guard, stored
from experiments.data import ImageData, load_data
from experiments.data_sources import DataError, expand_user
from experiments.files import FolderError, read_bytes
from experiments.fingerprint import fingerprints
from experiments.grid import Run, expand
from experiments.guard import REFUSED
from experiments.interruption import Stopped
from experiments.launchers import LaunchError
from experiments.progress import CONSOLE, warn
from experiments.run_folder import RunFolder
from experiments.settings import SettingsError
from experiments.stored import Places
from experiments.wording import printable, suggest

LEFT_OUT = 3  # of one that did what it could, and names what it left out

# Flags defined here are those of the command that asks for them: --help shows them.
flags.disclaim_key_flags()

_ROOT = Path(__file__).parents[1]

_REFUSALS = (DataError, FolderError, LaunchError, SettingsError)

_LONGEST_LINE = 4000  # characters
_LARGEST_FLAGFILE = 1_000_000  # bytes

# Programs that compile faster are not worth a file.
_SECONDS_WORTH_KEEPING = 0.1


def define_flags(workdir: str, config: str | None = None) -> None:
    """Defines --workdir and, with a default config file, --config."""
    flags.DEFINE_string("workdir", workdir, "Folder of the run.")
    if not config:
        return
    config = str(_ROOT / config)  # Not one of another project, where the user stands.
    try:
        # In place, as config_flags and the jobs of a sweep read them again.
        sys.argv[1:] = _found(list(_expanded(sys.argv[1:])))
        _check_overrides(sys.argv[1:], config)
    except SettingsError as error:
        _refuse(error)
    config_flags.DEFINE_config_file(
        "config",
        config,
        "Configuration file, as in configs/mnist.py:fashion_mnist. Its fields are "
        "overridden as in --config.model.latent_dim=8.",
        lock_config=False,  # The file locks what it wants locked.
        accept_new_attributes=True,
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
    flags.DEFINE_string(
        Places.flag("path"), "", "The npz file or folder of the run's own images."
    )
    flags.DEFINE_string(
        Places.flag("data_dir"), "", "Prepared data sets; default: $TFDS_DATA_DIR."
    )
    flags.DEFINE_string(
        Places.flag("cache_dir"), "", "Decoded images; default: $VAE_JAX_CACHE."
    )


def _places() -> Places:
    fields = (field.name for field in dataclasses.fields(Places))
    return Places(**{f: str(flags.FLAGS[Places.flag(f)].value) for f in fields})


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
    not_obeyed = stored.not_obeyed(folder.config(), _places())
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
    return flags.FLAGS.config.to_dict()


def overridden() -> set[str]:
    """Names of the configuration's fields that the command line sets."""
    return set(config_flags.get_override_values(flags.FLAGS["config"]))


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
        if argv[1:] and not positional:
            _refuse(f"{argv[1]!r} is not understood: write options as --name=value.")
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
        except (AssertionError, RuntimeError):
            _refuse_missing_platforms()
            raise
        sys.stdout.flush()
        if guard.unwritten:
            _refuse(
                "not all that was printed could be written: "
                f"{guard.unwritten[0].strerror}. All else was done; send the output "
                "elsewhere."
            )

    guard.protect()
    app.run(guarded, flags_parser=_parse_flags)


def _refuse_missing_platforms() -> None:
    """Ends the command if JAX finds none of the devices that it is told to use."""
    try:
        jax.devices()
    except (AssertionError, RuntimeError):
        _refuse(
            f"JAX_PLATFORMS is {jax.config.values['jax_platforms']!r}, of which JAX "
            "finds nothing here: unset JAX_PLATFORMS to use what there is, or install "
            "JAX for it, as in pip install 'jax[cuda13]'."
        )


def keep_compiled_programs() -> None:
    """A second start finds its programs compiled, unless JAX is told of another place.

    JAX_COMPILATION_CACHE_DIR is that place; JAX_ENABLE_COMPILATION_CACHE=false keeps
    nothing. An entry is found by all that compilation depends on, and (compressed by
    zlib) carries a checksum: what is damaged is compiled anew.
    """
    if jax.config.values["jax_compilation_cache_dir"]:
        return
    folder = data_cache.default_folder() / "programs"
    jax.config.update("jax_compilation_cache_dir", str(folder))
    jax.config.update(
        "jax_persistent_cache_min_compile_time_secs", _SECONDS_WORTH_KEEPING
    )


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


def _parse_flags(argv: list[str]) -> list[str]:
    try:
        return flags.FLAGS([argv[0], *_expanded(argv[1:])])
    except SettingsError as error:
        _refuse(error)
    except (flags.Error, KeyError, TypeError, ValueError) as error:
        _refuse(f"{error}; --help shows what there is.")
    except SystemExit:  # After --help and its kin, by absl with a status of failure.
        sys.exit(0)


def _expanded(arguments: Iterable[str], inside: Sequence[str] = ()) -> Iterator[str]:
    """Arguments, with what a file holds in place of ``--flagfile``.

    As absl has it, but that whatever is wrong with a file is refused.

    Args:
        arguments: of a command line, or lines of a file.
        inside: the files that these arguments come from, each included by the one
            before.

    Raises:
        SettingsError: a file that cannot be read, or that includes itself.
    """
    rest = iter(arguments)
    for argument in rest:
        match = re.fullmatch(r"--?flagfile(=?)(.*)", argument, re.DOTALL)
        if argument == "--":  # What follows is no option.
            yield argument
            yield from rest
        elif match and (match[1] or not match[2]):
            name = match[2].strip() if match[1] else next(rest, "")
            yield from _expanded(_lines(name, inside), (*inside, _identity(name)))
        else:
            yield argument


def _lines(name: str, inside: Sequence[str]) -> list[str]:
    """The lines of a file of options, without blank ones and comments."""
    try:
        if _identity(name) in inside:
            raise ValueError("it includes itself")
        text = read_bytes(expand_user(name), _LARGEST_FLAGFILE).decode()
        if "\0" in text:
            raise ValueError("it is no text")
    except (DataError, OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise SettingsError(
            f"--flagfile is {name!r}: {reason}. Name a file of text with one option in "
            "each line."
        ) from error
    lines = map(str.strip, text.splitlines())
    return [line for line in lines if line and not line.startswith(("#", "//"))]


def _identity(name: str) -> str:
    return os.path.realpath(os.path.expanduser(name))


def _found(arguments: Sequence[str]) -> list[str]:
    """Arguments, with configurations that come with this package where they lie.

    ``--config=configs/mnist.py`` so works in any folder that has no such file.
    """
    found = []
    for before, argument in itertools.pairwise(["", *arguments]):
        parts = argument.partition("=") if argument[:1] == "-" else ("", "", argument)
        option, equals, value = parts
        path, colon, variant = value.partition(":")
        if (
            (option if equals else before) in ("--config", "-config")
            and not os.path.exists(path)
            and os.path.isfile(_ROOT / path)
        ):
            argument = f"{option}{equals}{_ROOT / path}{colon}{variant}"
        found.append(argument)
    return found


# --- Overrides, checked before config_flags meets them with a traceback ---------------


def _check_overrides(arguments: Sequence[str], default: str) -> None:
    """Refuses a configuration that cannot be loaded, and overrides it has no field for.

    Raises:
        SettingsError: naming the value, what is allowed, and the nearest name.
    """
    options = list(_options(arguments))
    paths = [value for name, value in options if name == "config"]
    loaded = load_config(paths[-1] if paths else default)
    is_named = not paths
    for name, value in options:
        is_named = is_named or name == "config"
        if not is_named and name.startswith(("config.", "noconfig.")):
            raise SettingsError(
                f"--{name} stands before --config: give --config=FILE first, then "
                "--config.FIELD=VALUE."
            )
        if name.startswith("config."):
            _check_override(loaded, name, value)
        elif name.startswith("noconfig."):
            _check_override(loaded, name.removeprefix("no"), "false")


def _options(arguments: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Names and values of options, given as ``--name=value`` or ``--name value``."""
    for argument, following in itertools.pairwise([*arguments, ""]):
        if argument == "--":
            return
        if match := re.match(r"--?([A-Za-z][^=]*)(=?)(.*)", argument, re.DOTALL):
            name, equals, value = match.groups()
            yield name, value if equals else following


def load_config(argument: str) -> ml_collections.ConfigDict:
    """The configuration that ``path.py`` or ``path.py:variant`` describes.

    Raises:
        SettingsError: no such file, no configuration in it, or no such variant.
    """
    path, colon, variant = argument.partition(":")
    advice = "give a file such as configs/digits.py or configs/digits.py:tiny."
    if not Path(path).is_file():
        raise SettingsError(
            f"--config is {argument!r}: no such configuration file; {advice}"
        )
    try:
        get_config = runpy.run_path(path)["get_config"]
    except (KeyError, SyntaxError, UnicodeDecodeError) as error:
        raise SettingsError(
            f"--config is {argument!r}: this file defines no get_config(); {advice}"
        ) from error
    try:
        loaded = get_config(variant) if colon else get_config()
    except (TypeError, ValueError) as error:
        raise SettingsError(f"--config is {argument!r}: {error}") from error
    if not isinstance(loaded, ml_collections.ConfigDict):
        raise SettingsError(
            f"--config is {argument!r}: its get_config() returns a "
            f"{type(loaded).__name__}; let it return a ml_collections.ConfigDict."
        )
    return loaded


_WORDS = {int: "an integer", float: "a number", bool: "true or false"}
_PARSERS: dict[type, Callable[[str], Any]] = {
    int: flags.IntegerParser().parse,
    float: flags.FloatParser().parse,
    bool: flags.BooleanParser().parse,
}


def _check_override(config: ml_collections.ConfigDict, option: str, text: str) -> None:
    value: Any = config
    path = "config"
    for name in option.split(".")[1:]:
        if not isinstance(value, ml_collections.ConfigDict):
            raise SettingsError(f"--{option}: {path} is one value, without fields.")
        if name not in value and not value.is_locked:
            whole = f"{path}.{name.partition('[')[0]}"
            if option != whole:
                raise SettingsError(
                    f"--{option}: parts of {whole} cannot be set one by one: give all "
                    f"of it, as in --{whole}=1,2."
                )
            return  # A new field, such as another axis of the sweep.
        if name not in value:
            raise SettingsError(
                f"--{option}: {name!r} is unknown{suggest(name, value)}."
            )
        value, path = value[name], f"{path}.{name}"
    if isinstance(value, ml_collections.ConfigDict):
        raise SettingsError(
            f"--{option} is a group: set one of its fields, as in "
            f"--{option}.{next(iter(value), 'name')}=value; the names there are: "
            f"{', '.join(sorted(value))}."
        )
    if type(value) is bool and (not text or text.startswith("-")):
        return  # A bare name sets it.
    try:
        _PARSERS.get(type(value), str)(text)
    except (TypeError, ValueError):
        raise SettingsError(
            f"--{option} is {text!r}: give {_WORDS[type(value)]}, as in "
            f"--{option}={value}."
        ) from None
