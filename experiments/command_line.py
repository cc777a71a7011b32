"""The flags, refusals and exit statuses that all commands share.

``--help`` ends a command within half a second: it needs neither JAX nor the modules
that import it. So this module, and those of the commands, import these within the
functions that use them, after ``--help`` has ended.
"""

import functools
import itertools
import logging
import os
import re
import shlex
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from absl import app, flags
from absl import logging as absl_logging

from experiments import guard
from experiments.files.paths import ROOT, expand_user
from experiments.guard import REFUSED
from experiments.messages.console import CONSOLE, warn
from experiments.messages.errors import CommandError, DataError, SettingsError
from experiments.messages.wording import printable
from experiments.settings import stored
from experiments.settings.arguments import Argument, expanded

if TYPE_CHECKING:
    from experiments.settings.configuration import Configuration

LEFT_OUT = 3  # exit status of a command that left something out, and names it

# Flags that are defined here belong to the command that asks for them: --help shows
# them.
flags.disclaim_key_flags()

_LONGEST_LINE = 4000  # characters


def define_flags(workdir: str, config: str | None = None) -> None:
    """Defines --workdir and, with a default config file, --config."""
    flags.DEFINE_string("workdir", workdir, "Folder of the run.")
    if config:
        # The absolute path: the current folder may belong to another project.
        flags.DEFINE_string(
            "config",
            str(ROOT / config),
            "Configuration file, as in configs/mnist.py:fashion_mnist, or config.json "
            "of a run folder. Its fields are overridden as in "
            "--config.model.latent_dim=8; the last of several values counts.",
        )


def define_parts_flag() -> None:
    """Defines --parts; a run folder never names modules, as it may be a stranger's."""
    flags.DEFINE_multi_string(
        "parts",
        [],
        "Module that registers likelihoods, networks or other parts of your own, as in "
        "--parts=my_parts or --parts=my_parts.py; give it again for another.",
    )


def define_distributed_flags() -> None:
    """Defines --distributed, and flags for clusters that JAX does not recognise."""
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
    """Defines the places of a stored run's images; the stored places are not used."""
    for field, meaning in {
        "data.path": "The npz file or folder of the run's own images.",
        "data.data_dir": "Prepared data sets; default: $TFDS_DATA_DIR.",
        "data.cache_dir": "Decoded images; default: $VAE_JAX_CACHE.",
    }.items():
        flags.DEFINE_string(stored.PLACES[field], "", meaning)


def places() -> dict[str, str]:
    """Returns the places that are given, by the field of the configuration."""
    values = {field: flags.FLAGS[flag].value for field, flag in stored.PLACES.items()}
    return {field: value for field, value in values.items() if value}


def join_processes() -> None:
    """Joins the other processes, if --distributed is given.

    Raises:
        SettingsError: they cannot be found, or a flag for that has no effect.
    """
    import jax

    names = ("coordinator", "num_processes", "process_id")
    refuse_idle(names, "distributed")
    if not flags.FLAGS.distributed:
        return
    if flags.FLAGS.coordinator is not None:
        _check_coordinator(flags.FLAGS.coordinator)
    try:
        jax.distributed.initialize(*(getattr(flags.FLAGS, name) for name in names))
    except (RuntimeError, ValueError) as error:
        raise SettingsError(
            f"--distributed: {error} Give --coordinator=host:port, --num_processes "
            "and --process_id."
        ) from error


def refuse_idle(names: Iterable[str], needed: str) -> None:
    """Refuses options that have no effect without another one.

    Args:
        names: of the options.
        needed: the other one.

    Raises:
        SettingsError: an option is given without the other one.
    """
    for name in names:
        if flags.FLAGS[name].present and not flags.FLAGS[needed].value:
            raise SettingsError(
                f"--{name} has no effect without --{needed}. Add it, or leave out "
                f"--{name}."
            )


def _check_coordinator(address: str) -> None:
    """Refuses an address for which JAX would wait for minutes."""
    host, _, port = address.rpartition(":")
    if not host or not port.isdecimal() or not 1 <= int(port) <= 65535:
        why = "it must be host:port, with a port in 1 to 65535"
        remedy = "Give it as in --coordinator=10.0.0.1:1234"
        raise SettingsError.of("--coordinator", address, why, remedy)


def given_config() -> "Configuration":
    """Returns the configuration, overrides applied."""
    return flags.FLAGS.config


def show_what_is_not_obeyed() -> None:
    """Prints the fields of a stored configuration that are not used, in one process."""
    from experiments.runner import processes

    if given_config().not_obeyed and processes.is_primary():
        CONSOLE.print(given_config().not_obeyed)


def workdir() -> Path:
    """Returns the folder of --workdir.

    Raises:
        SettingsError: it is empty.
        DataError: it is below the home folder of an unknown user.
    """
    if not flags.FLAGS.workdir:
        remedy = "Name one, as in --workdir=runs/one"
        raise SettingsError.of("--workdir", "", "it names no folder", remedy)
    return expand_user(flags.FLAGS.workdir)


def run(main: Callable[..., None], *, positional: bool = False) -> None:
    """Runs a command; bad input ends it with one line and exit status 2.

    ``guard`` handles signals and closed streams.

    Args:
        main: the command.
        positional: whether its argument is the list of arguments that are no options.
    """

    def guarded(argv: list[str]) -> None:
        import jax

        from experiments.runner import programs
        from experiments.runner.interruption import Stopped

        # JAX logs notes on accelerators that the machine does not have.
        if not flags.FLAGS["verbosity"].present:
            absl_logging.set_verbosity(absl_logging.WARNING)
            logging.getLogger("jax").setLevel(logging.WARNING)
        try:
            try:
                guard.listen_and_unwind()
                programs.keep()
                main(*[argv[1:]] * positional)
            finally:
                guard.listen()
        except CommandError as error:
            _refuse(error)
        except Stopped as reason:
            message = f"{reason}: {guard.CONTINUES}"
            if jax.process_count() == 1:
                # It does not wait for programs that are being compiled.
                guard.leave(message, guard.STOPPED)
            print(message, file=sys.stderr)
            sys.exit(guard.STOPPED)
        except guard.Interrupted as interruption:
            guard.end(*interruption.args)
        except (AssertionError, RuntimeError) as error:
            _refuse_missing_devices(error)
            raise
        sys.stdout.flush()
        if guard.unwritten:
            _refuse(
                "the output could not be written completely: "
                f"{guard.unwritten[0].strerror}. Everything else was done. Send the "
                "output elsewhere."
            )

    guard.protect()
    parse = functools.partial(_parse_flags, positional=positional)
    app.run(guarded, flags_parser=parse)


def _refuse_missing_devices(error: Exception) -> None:
    """Ends the command if JAX finds none of the devices that variables ask for."""
    import jax

    try:
        jax.devices()
        # The second time, JAX uses the devices that it found.
        found = "Unable to initialize backend" not in str(error)
    except (AssertionError, RuntimeError):
        found = False
    names = [name for name in os.environ if re.match("JAX_.*(PLATFORM|DEVICE)", name)]
    if names and not found:
        values = " and ".join(f"{name} is {os.environ[name]!r}" for name in names)
        _refuse(
            f"{values}: JAX finds no such device here. Unset {' and '.join(names)} to "
            "use the devices that there are, or install JAX for it, as in pip install "
            "'jax[cuda13]'."
        )


def leave_if_left_out(lines: Sequence[str]) -> None:
    """Prints warnings, and ends the command with ``LEFT_OUT`` if there are any.

    Args:
        lines: a line for each part that was left out.
    """
    for line in lines:
        warn(line)
    if lines:
        sys.exit(LEFT_OUT)


def _refuse(reason: object) -> NoReturn:
    parts = map(str.strip, str(reason).split("\n"))
    line = " ".join(filter(None, parts))
    if len(line) > _LONGEST_LINE:  # The value is in front, the remedy at the end.
        half = _LONGEST_LINE // 2
        line = f"{line[:half]} ... {line[-half:]}"
    print(f"error: {printable(line)}", file=sys.stderr)
    sys.exit(REFUSED)


def _parse_flags(argv: list[str], *, positional: bool) -> list[str]:
    """Reads options, also from files, and the configuration; or ends the command."""
    try:
        given = list(expanded(map(Argument, argv[1:])))
        # Recorded and given to jobs without files of options, which may change.
        sys.argv[1:] = [argument.text for argument in given]
        _show_help(argv[0], given)
        guard.import_jax()
        from experiments.settings import configuration, user_code

        has_config = "config" in flags.FLAGS
        own, others = configuration.split(given) if has_config else ([], given)
        left = _parse(argv[0], others)
        if left[1:] and not positional:
            place = next(each.place for each in others if each.text == left[1])
            is_folder = "workdir" in flags.FLAGS and os.path.isdir(left[1])
            typed = f"--workdir={shlex.quote(left[1])}"
            remedy = typed if is_folder else "options as --name=value"
            raise SettingsError(
                f"{place}{left[1]!r} is not understood. Write {remedy}."
            )
        if "parts" in flags.FLAGS:
            user_code.import_parts(flags.FLAGS.parts)  # A configuration may name them.
        if has_config:
            flag = flags.FLAGS["config"]
            flag.value = configuration.read(own, str(flag.default))
        return left
    except (DataError, SettingsError) as error:
        _refuse(error)


def _show_help(command: str, arguments: Sequence[Argument]) -> None:
    """Ends the command if ``--help`` or the like is among its options."""
    options = itertools.takewhile(lambda argument: argument.text != "--", arguments)
    names = ("help", "helpfull", "helpshort", "helpxml")
    _parse(command, [own for own in options if (own.option() or ("",))[0] in names])


def _parse(command: str, arguments: Sequence[Argument]) -> list[str]:
    """Parses arguments; returns the command, and the arguments that are no options."""
    argv = [command, *(argument.text for argument in arguments)]
    try:
        return flags.FLAGS(argv)
    except SystemExit:  # absl ends --help and the like with a status of failure.
        sys.exit(0)
    except flags.Error as error:
        # The refused argument is the last of the fewest with the same refusal.
        places = (
            argument.place
            for count, argument in enumerate(arguments, 2)
            if _refusal(argv[:count]) == str(error)
        )
        raise SettingsError(
            f"{next(places, '')}{error}. --help shows all options."
        ) from error


def _refusal(argv: list[str]) -> str:
    try:
        flags.FLAGS(argv)
    except flags.Error as error:
        return str(error)
    return ""
