"""Measures speed side by side and writes a report.

    python -m benchmarks                # all but large_sweep: half an hour or more
    python -m benchmarks --only=one_model --workloads=mlp --threads=1 --repeats=3
    python -m benchmarks --only=main_job
    python -m benchmarks --only=large_sweep --sweep_members=100,1000
    python -m benchmarks --peak_tflops=67 --peak_gbs=3350      # of this accelerator

The peers need the extra ``bench``. The report says which contenders are not installed,
and measures the others. On a machine with an accelerator everything runs there;
--platform=cpu does not use it.
"""

import dataclasses
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

from absl import app, flags

from benchmarks import (
    chain,
    chart,
    evaluation,
    explorer,
    large_sweep,
    machine,
    member_execution,
    one_model,
    scaling,
    start_up,
    sweeps,
)
from benchmarks.one_model import Workload
from benchmarks.roofline import Peak
from benchmarks.work import Work, write_images
from experiments.messages.wording import counted

TITLES = {
    "one_model": "One model",
    "sweep": "A sweep of eight members",
    "members": "Members mapped or looped",
    "scaling": "One to many members in one program",
    "chain": "A chain of latents",
    "evaluation": "Evaluation",
    "explorer": "The explorer",
    "start_up": "From start to first epoch",
    "main_job": "The main job",
    "large_sweep": "A sweep of many members",
}

_ONLY = flags.DEFINE_list(
    "only",
    [part for part in TITLES if part != "large_sweep"],
    f"Parts: {', '.join(TITLES)}.",
)
_WORKLOADS = flags.DEFINE_list(
    "workloads",
    list(one_model.WORKLOADS),
    f"Of one model: {', '.join(one_model.WORKLOADS)}.",
)
_PLATFORM = flags.DEFINE_enum(
    "platform", "auto", ["auto", "cpu", "gpu"], "Where; auto: a GPU if there is one."
)
_THREADS = flags.DEFINE_list(
    "threads",
    ["1", "2"],
    "Numbers of cores to measure the first workload on; the rest is measured on the "
    "most.",
)
_REPEATS = flags.DEFINE_integer("repeats", 5, "Timed rounds.", lower_bound=1)
_STARTS = flags.DEFINE_integer(
    "starts", 2, "Repetitions of the parts that start processes.", lower_bound=1
)
_EPOCHS = flags.DEFINE_integer("epochs", 4, "Epochs of the sweep.", lower_bound=1)
_IMAGES = flags.DEFINE_integer(
    "num_images",
    60_000,
    "Images of an epoch of the first workload; less where said.",
    lower_bound=2000,
    upper_bound=60_000,
)
_SAMPLES = flags.DEFINE_list(
    "samples", ["50", "500", "5000"], "Importance samples of an evaluation."
)
_MEMBERS = flags.DEFINE_list(
    "members", ["1", "4", "16", "64", "256"], "Members in one program."
)
_SWEEP_MEMBERS = flags.DEFINE_list(
    "sweep_members", ["100"], "Members of a whole sweep, in multiples of four."
)
_PEAK_TFLOPS = flags.DEFINE_float(
    "peak_tflops", 0.0, "What the machine computes at most in float32; 0: unknown."
)
_PEAK_GBS = flags.DEFINE_float(
    "peak_gbs", 0.0, "What it reads and writes at most, in GB/s; 0: unknown."
)
_DATA_DIR = flags.DEFINE_string(
    "data_dir",
    os.environ.get("TFDS_DATA_DIR", ""),
    "Folder of prepared tensorflow-datasets with MNIST; '' makes images up.",
)
_OUTPUT = flags.DEFINE_string(
    "output",
    None,
    "File to write, its chart beside; '' only prints. By default docs/benchmarks.md, "
    "but '' with --only, which leaves out sections of it.",
)
_LOG = flags.DEFINE_string(
    "log", "benchmarks/log.md", "File whose text, kept by hand, ends the report."
)


def main(argv: list[str]) -> None:
    if argv[1:]:
        raise app.UsageError(f"{argv[1]!r} is not understood.")
    for flag, known in ((_ONLY, TITLES), (_WORKLOADS, one_model.WORKLOADS)):
        for name in set(flag.value) - set(known):
            raise app.UsageError(
                f"--{flag.name}: {name!r} is none of {', '.join(known)}."
            )
    for flag in (_THREADS, _SAMPLES, _MEMBERS, _SWEEP_MEMBERS):
        for text in flag.value:
            if not (text.isdecimal() and int(text)):
                raise app.UsageError(
                    f"--{flag.name}: {text!r} is no number of 1 or more."
                )
    cores = len(os.sched_getaffinity(0))
    if (most := max(map(int, _THREADS.value))) > cores:
        raise app.UsageError(
            f"--threads: {most} are asked for, but there are {cores} cores."
        )
    if bool(_PEAK_TFLOPS.value) != bool(_PEAK_GBS.value):
        raise app.UsageError("give both of --peak_tflops and --peak_gbs, or neither.")
    output = _OUTPUT.value
    if output is None:
        is_part = _ONLY.present or _WORKLOADS.present
        output = "" if is_part else "docs/benchmarks.md"
    if output and not Path(_LOG.value).is_file():
        raise app.UsageError(f"--log: there is no file {_LOG.value!r}.")
    platform = _PLATFORM.value
    if platform == "auto":
        platform = machine.default_platform()
    bars: list[chart.Bar] = []
    parts = [_heading(platform), *_parts(platform, bars)]
    if not output:
        return
    page = Path(output)
    if bars:
        chart.write(page.parent / "images" / "benchmarks.svg", bars)
        parts.insert(1, "![Time of each peer over ours](images/benchmarks.svg)")
    parts.append(Path(_LOG.value).read_text().rstrip())
    page.parent.mkdir(parents=True, exist_ok=True)
    page.write_text("\n\n".join(parts) + "\n")


def _heading(platform: str) -> str:
    return f"""# Benchmarks

Printed by `python -m benchmarks`. {machine.describe(platform)}.

Times are medians, with the least and the most in brackets. Contenders take turns on
the same cores, each in a process of its own, so other work of the machine hits all
alike; ratios are taken within a round. Equal ELBOs show that all do the same work.

- *Others*: the share of these cores' time that went to other processes during an epoch.
  From a few per cent on, trust the ratios more than the times.
- *Start*: from the start of the process to the first epoch at full speed, with
  compilation.
- *Process*: the largest resident set."""


def _parts(platform: str, bars: list[chart.Bar]) -> Iterator[str]:
    """Yields and prints the sections; adds the bars of the chart to ``bars``."""
    counts = sorted(map(int, _THREADS.value))
    with tempfile.TemporaryDirectory() as folder:
        path, images = write_images(Path(folder), _IMAGES.value, _DATA_DIR.value)
        for name in TITLES:
            if name not in _ONLY.value:
                continue
            threads = 1 if name == "explorer" else counts[-1]  # As a page has.
            most = Work(path, _IMAGES.value, threads, platform)
            works: list[tuple[Work, Workload | None]] = [(most, None)]
            if name == "one_model":
                works = list(_one_model_works(most, counts))
            for work, workload in works:
                title = TITLES[name] + (f": {workload.title}" if workload else "")
                part = f"## {title}, {_cores(work)}\n\n"
                part += _measure(name, work, images, workload, bars)
                print(part, end="\n\n", flush=True)
                yield part


def _one_model_works(most: Work, counts: list[int]) -> Iterator[tuple[Work, Workload]]:
    """Returns the chosen workloads; the first one on every number of cores."""
    chosen = [one_model.WORKLOADS[name] for name in _WORKLOADS.value]
    for workload in chosen:
        for threads in counts if workload is chosen[0] else counts[-1:]:
            work = dataclasses.replace(most, threads=threads, **workload.fields)
            num_images = int(workload.share * most.num_images)
            if workload.share < 1:
                # pythae's trainer does not drop an incomplete batch: none is left.
                num_images = max(num_images // work.batch_size, 1) * work.batch_size
            yield dataclasses.replace(work, num_images=num_images), workload


def _measure(
    name: str,
    work: Work,
    images: str,
    workload: Workload | None,
    bars: list[chart.Bar],
) -> str:
    """Returns a section's text; a workload is a part of 'one_model'."""
    repeats = _REPEATS.value
    if workload:
        peak = None
        if _PEAK_TFLOPS.value and _PEAK_GBS.value:
            peak = Peak(1e12 * _PEAK_TFLOPS.value, 1e9 * _PEAK_GBS.value)
        tolerance = workload.tolerance
        measured = one_model.section(work, repeats, peak=peak, tolerance=tolerance)
        bars += measured.bars(workload.title, _cores(work))
        return f"{_of(work, images)}, binarized at each access.\n\n{measured.text}"
    if name == "sweep":
        work = dataclasses.replace(work, num_images=work.num_images // 10)
        text, ratios = sweeps.section(work, _EPOCHS.value, _STARTS.value)
        bars += [
            chart.Bar(TITLES[name], _cores(work), way, way_ratios)
            for way, way_ratios in ratios.items()
        ]
        return f"{_of(work, images)}, {_EPOCHS.value} epochs.\n\n{text}"
    if name == "members":
        return f"The digits, batch 100.\n\n{member_execution.section(work, repeats)}"
    if name == "scaling":
        work = scaling.work(work)
        text = scaling.section(work, [int(count) for count in _MEMBERS.value], repeats)
        return f"{_of(work, images)}; members mapped.\n\n{text}"
    if name == "chain":
        work = dataclasses.replace(work, num_images=work.num_images // 20)
        what = f"U-Net of 16 and 32 channels, batch {work.batch_size}; "
        what += f"{work.num_images:,} {images}"
        return f"{what}.\n\n{chain.section(work, repeats)}"
    if name == "evaluation":
        samples = [int(count) for count in _SAMPLES.value]
        text = evaluation.section(work, samples, repeats)
        return f"{work.describe()}. {text}"
    if name == "explorer":
        with machine.pinned(work.threads):
            return explorer.section()
    if name == "start_up":
        return start_up.section(work.threads, work.platform, _STARTS.value)
    if name == "main_job":
        return sweeps.main_job(work.threads, work.platform)
    counts = [int(count) for count in _SWEEP_MEMBERS.value]
    return large_sweep.section(counts, work.threads, work.platform)


def _cores(work: Work) -> str:
    return counted(work.threads, "thread")


def _of(work: Work, images: str) -> str:
    return f"{work.describe()}; {work.num_images:,} {images}"


if __name__ == "__main__":
    app.run(main)
