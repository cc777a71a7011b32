"""What the command lines share: flags, settings, and one-line refusals."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ml_collections
from absl import app, flags
from ml_collections import config_flags

from experiments.data import DataError
from experiments.run_folder import FolderError
from experiments.settings import SettingsError

REFUSED = 2  # exit status of a command that was refused before it did anything

_REFUSALS = (DataError, FolderError, SettingsError)


def define_flags(workdir: str, config: str | None = None) -> None:
    """Defines --workdir and, with a default config file, --config."""
    flags.DEFINE_string("workdir", workdir, "Folder of the run.")
    if config:
        config_flags.DEFINE_config_file(
            "config",
            config,
            "Configuration file, as in configs/mnist.py:fashion_mnist.",
        )


def config() -> dict[str, Any]:
    """The configuration as a plain dictionary, overrides applied."""
    value = flags.FLAGS.config
    if not isinstance(value, ml_collections.ConfigDict):
        path = flags.FLAGS["config"].default
        raise SettingsError(
            f"--config: no such configuration file; give a file such as {path}."
        )
    return value.to_dict()


def workdir() -> Path:
    """The folder given."""
    return Path(flags.FLAGS.workdir).expanduser()


def run(main: Callable[[], None]) -> None:
    """Runs a command; bad input ends it with one line and exit status 2."""

    def guarded(argv: list[str]) -> None:
        if argv[1:]:
            raise app.UsageError(
                f"{argv[1]!r} is not understood: options are written --name=value."
            )
        try:
            main()
        except _REFUSALS as error:
            print(f"error: {error}", file=sys.stderr)
            sys.exit(REFUSED)

    app.run(guarded, flags_parser=_parse_flags)


def _parse_flags(argv: list[str]) -> list[str]:
    try:
        return app.parse_flags_with_usage(argv)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        # ml_collections reports a misspelt field over two lines.
        line = " ".join(str(part) for part in error.args)
        line = " ".join(line.replace("\\n", " ").replace("'\"", "").split())
        print(f"error: --config: {line}", file=sys.stderr)
        sys.exit(REFUSED)
