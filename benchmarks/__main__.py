"""Measures speed side by side and writes a report.

    python -m benchmarks                                # all of it: tens of minutes
    python -m benchmarks --only=one_model --threads=1 --repeats=3
    python -m benchmarks --only=main_job --output=

Needs the extra ``bench`` for the peers; a contender that is not installed is said to
be missing, and the others are measured.
"""

import os
import tempfile
from pathlib import Path

from absl import app, flags

from benchmarks import machine, member_execution, one_model, sweeps
from benchmarks.work import Work, write_images

SECTIONS = ("one_model", "sweep", "members", "main_job")

_ONLY = flags.DEFINE_list("only", list(SECTIONS), f"Parts: {', '.join(SECTIONS)}.")
_THREADS = flags.DEFINE_list(
    "threads",
    ["1", "2"],
    "Numbers of cores to measure one model on; the rest is measured on the most.",
)
_REPEATS = flags.DEFINE_integer("repeats", 5, "Timed rounds.", lower_bound=1)
_EPOCHS = flags.DEFINE_integer("epochs", 4, "Epochs of the sweep.", lower_bound=1)
_IMAGES = flags.DEFINE_integer(
    "num_images", 60_000, "Images of an epoch; a tenth for the sweep.", lower_bound=2000
)
_DATA_DIR = flags.DEFINE_string(
    "data_dir",
    os.environ.get("TFDS_DATA_DIR", ""),
    "Folder of prepared tensorflow-datasets with MNIST; '' makes images up.",
)
_OUTPUT = flags.DEFINE_string(
    "output", "docs/benchmarks.md", "File to write; '' only prints."
)


def main(argv: list[str]) -> None:
    if argv[1:]:
        raise app.UsageError(f"{argv[1]!r} is not understood.")
    unknown = set(_ONLY.value) - set(SECTIONS)
    if unknown:
        raise app.UsageError(f"--only: {unknown.pop()!r} is none of {SECTIONS}.")
    report = "\n\n".join([_heading(), *_parts()]) + "\n"
    if _OUTPUT.value:
        Path(_OUTPUT.value).parent.mkdir(parents=True, exist_ok=True)
        Path(_OUTPUT.value).write_text(report)


def _heading() -> str:
    return f"""# Benchmarks

Printed by `python -m benchmarks`. {machine.describe()}.

Times are medians, with the least and the most in brackets. Contenders take turns on
the same cores, each in a process of its own, so what else the machine does hits all
alike; ratios are taken within a round. *Others* is the share of these cores' time
that went to other processes during an epoch: from a few per cent on, trust the ratios
more than the times."""


def _parts():
    with tempfile.TemporaryDirectory() as folder:
        for name in SECTIONS:
            if name not in _ONLY.value:
                continue
            counts = sorted(map(int, _THREADS.value))
            for threads in counts if name == "one_model" else counts[-1:]:
                part = f"## {_TITLES[name]}, {threads} thread{'s'[: threads - 1]}\n\n"
                part += _measure(name, threads, Path(folder))
                print(part, end="\n\n", flush=True)
                yield part


_TITLES = {
    "one_model": "One model",
    "sweep": "A sweep of eight members",
    "members": "Members mapped or looped",
    "main_job": "The main job",
}


def _measure(name: str, threads: int, folder: Path) -> str:
    if name == "main_job":
        return sweeps.main_job(threads)
    count = _IMAGES.value if name == "one_model" else _IMAGES.value // 10
    path, described = write_images(folder, count, _DATA_DIR.value)
    work = Work(path, threads)
    network = f"MLP 784-{work.width}-{work.latent_dim}, Bernoulli, Adam, batch 128"
    if name == "one_model":
        section, _ = one_model.section(work, _REPEATS.value)
        return f"{network}; {described}, binarized at each access.\n\n{section}"
    if name == "sweep":
        section = sweeps.section(work, _EPOCHS.value, _REPEATS.value)
        return f"{network}; {_EPOCHS.value} epochs of {described}.\n\n{section}"
    return f"The digits, batch 100.\n\n{member_execution.section(work, _REPEATS.value)}"


if __name__ == "__main__":
    app.run(main)
