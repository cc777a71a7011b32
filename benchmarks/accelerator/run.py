"""One call: measures what is missing until the time is over, and writes the page."""

import dataclasses
import sys
from collections.abc import Sequence
from pathlib import Path

from benchmarks.accelerator import page
from benchmarks.accelerator.page import PARTS
from benchmarks.accelerator.records import Deadline, OutOfTime, Record
from benchmarks.accelerator.setting import Setting, devices, read_images
from benchmarks.roofline import Peak
from benchmarks.work import PRECISIONS
from experiments.messages.errors import SettingsError
from experiments.messages.wording import counted

# Exit statuses: some pieces failed; the time was over before all were measured.
FAILED, UNFINISHED = 1, 3


@dataclasses.dataclass(frozen=True)
class Options:
    """The options of a call; the flags of the command explain each."""

    parts: Sequence[str] = tuple(PARTS)
    platform: str = "auto"
    minutes: float = 8.5
    records: Path = Path("docs/accelerator")
    page: Path = Path("docs/accelerator.md")
    images: str = ""
    small: bool = False
    full: bool = False
    again: bool = False
    repeats: int = 5
    peak_tflops: Sequence[float] = ()
    peak_gbs: float = 0.0


def run(options: Options) -> int:
    """Measures, writes the page, and returns the exit status.

    Raises:
        CommandError: an option cannot be used; nothing was measured.
    """
    peaks = _checked_peaks(options)
    for name in options.parts:
        if name not in PARTS:
            remedy = f"Choose some of {', '.join(PARTS)}"
            raise SettingsError.of("--parts", name, "there is no such part", remedy)
    setting, kept = None, {}
    deadline = Deadline(options.minutes)
    if options.parts:
        setting = _setting(options, peaks)
        folder = options.records / setting.name
        for name in options.parts:
            path = folder / f"{name}.json"
            kept[name] = Record(path, setting.conditions, deadline, options.again)
    left = ""
    for name, record in kept.items():
        try:
            PARTS[name].measure(setting, record)
        except (OutOfTime, KeyboardInterrupt):
            left = name
            break
    page.write(options.records, options.page)
    print(f"{options.page} is written.")
    return _status(kept, left)


def _checked_peaks(options: Options) -> dict[str, Peak]:
    rates = options.peak_tflops
    if not rates and not options.peak_gbs:
        return {}
    if len(rates) != len(PRECISIONS) or not options.peak_gbs or min(rates) <= 0:
        shown = ",".join(map(str, rates))
        why = (
            f"the rates of {', '.join(PRECISIONS)} are needed, and those of the memory"
        )
        remedy = "Give both, as in --peak_tflops=67,495,989 --peak_gbs=3350"
        raise SettingsError.of("--peak_tflops", shown, why, remedy)
    return {
        name: Peak(1e12 * rate, 1e9 * options.peak_gbs)
        for name, rate in zip(PRECISIONS, rates, strict=True)
    }


def _setting(options: Options, peaks: dict[str, Peak]) -> Setting:
    found = devices(options.platform)
    if options.platform == "auto" and found[0].platform == "cpu" and not options.small:
        why = "JAX finds no accelerator here, and on a CPU the whole takes hours"
        remedy = "Give --small for seconds, or --platform=cpu for the whole"
        raise SettingsError.of("--platform", "auto", why, remedy)
    train, test, name = read_images(options.images, options.small)
    repeats = options.repeats
    return Setting(
        found, train, test, name, options.small, options.full, repeats, peaks
    )


def _status(kept: dict[str, Record], left: str) -> int:
    failed = [
        f"{name}: {piece}" for name, record in kept.items() for piece in record.failures
    ]
    if failed:
        number = counted(len(failed), "piece")
        print(
            f"{number} failed: {'; '.join(failed)}. The page says why; --again with "
            "--parts measures a part again.",
            file=sys.stderr,
        )
    if left:
        print(
            f"Not finished: it stopped in the part {left}. The same command, without "
            "--again, goes on there.",
            file=sys.stderr,
        )
        return UNFINISHED
    return FAILED if failed else 0
