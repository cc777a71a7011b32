"""Measures this project on an accelerator and writes docs/accelerator.md.

    python -m benchmarks.accelerator                    # again, until nothing is left
    python -m benchmarks.accelerator --images=mnist --full
    python -m benchmarks.accelerator --parts=members --again
    python -m benchmarks.accelerator --small            # on any machine, in seconds

A call ends after --minutes; the same command goes on where it ended (exit status 3
says that something is left). What is measured is kept in --records, piece by piece.
"""

import os
import sys

from absl import app, flags, logging

from benchmarks.accelerator.page import PARTS
from benchmarks.accelerator.run import Options, run
from experiments.files.paths import expand_user
from experiments.messages.errors import CommandError, SettingsError

REFUSED = 2  # exit status

_PARTS = flags.DEFINE_list(
    "parts", list(PARTS), f"Parts: {', '.join(PARTS)}; '' only writes the page."
)
_PLATFORM = flags.DEFINE_enum(
    "platform",
    "auto",
    ["auto", "cpu", "gpu", "tpu"],
    "Where; auto: the accelerator that JAX finds.",
)
_MINUTES = flags.DEFINE_float(
    "minutes",
    8.5,
    "Minutes of a call; a piece begins if it ends in time.",
    lower_bound=0.0,
)
_RECORDS = flags.DEFINE_string(
    "records", None, "Folder of the records; default: docs/accelerator, runs/ if small."
)
_PAGE = flags.DEFINE_string(
    "page", None, "Page to write; default: docs/accelerator.md, runs/ if small."
)
_IMAGES = flags.DEFINE_string(
    "images",
    "",
    "An npz file with train_images and test_images of 28x28, or a folder of MNIST's "
    "original files; '' for made images.",
)
_SMALL = flags.DEFINE_bool("small", False, "Everything as small as it can be.")
_FULL = flags.DEFINE_bool(
    "full", False, "Train the full schedule of Burda et al. 2016, in pieces."
)
_AGAIN = flags.DEFINE_bool("again", False, "Measure the parts again from the start.")
_REPEATS = flags.DEFINE_integer("repeats", 5, "Timed repetitions.", lower_bound=1)
_PEAK_TFLOPS = flags.DEFINE_list(
    "peak_tflops",
    [],
    "The most TFLOP/s of the device in float32, TF32 and bfloat16; '': unknown.",
)
_PEAK_GBS = flags.DEFINE_float(
    "peak_gbs", 0.0, "The most GB/s that it reads and writes; 0: unknown."
)


def main(argv: list[str]) -> None:
    logging.set_verbosity(logging.WARNING)  # JAX notes accelerators that are not there.
    # Contenders run in processes of their own, beside this one, on the same device.
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    root = "runs" if _SMALL.value else "docs"
    try:
        if argv[1:]:
            why = "options begin with --"
            raise SettingsError.of("an argument", argv[1], why, "Leave it out")
        status = run(
            Options(
                parts=[name for name in PARTS if name in _PARTS.value]
                + [name for name in _PARTS.value if name not in PARTS],
                platform=_PLATFORM.value,
                minutes=_MINUTES.value,
                records=expand_user(_RECORDS.value or f"{root}/accelerator"),
                page=expand_user(_PAGE.value or f"{root}/accelerator.md"),
                images=_IMAGES.value,
                small=_SMALL.value,
                full=_FULL.value,
                again=_AGAIN.value,
                repeats=_REPEATS.value,
                peak_tflops=_numbers("peak_tflops", _PEAK_TFLOPS.value),
                peak_gbs=_PEAK_GBS.value,
            )
        )
    except CommandError as error:
        print(error, file=sys.stderr)
        status = REFUSED
    sys.exit(status)


def _numbers(flag: str, texts: list[str]) -> list[float]:
    try:
        return [float(text) for text in texts]
    except ValueError:
        why, remedy = "these are no numbers", "Give some as in 67,495,989"
        raise SettingsError.of(f"--{flag}", ",".join(texts), why, remedy) from None


if __name__ == "__main__":
    app.run(main)
