"""Contenders take turns: one epoch each, round after round, on the same cores."""

import contextlib
import dataclasses
import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from statistics import median
from typing import Any

from benchmarks.machine import Lap, environment, pinned
from benchmarks.work import Work


@dataclasses.dataclass(frozen=True)
class Contender:
    """A row of a table: a contender and its variant."""

    title: str
    module: str  # in benchmarks.contenders
    variant: str = ""
    precision: str = ""  # of its products; "": the work's


@dataclasses.dataclass
class Record:
    """The record of a contender: its set-up and its laps, the first one apart.

    In the first epoch a contender compiles its programs.
    """

    contender: Contender
    setup: float = float("nan")  # seconds, imports included
    laps: list[Lap] = dataclasses.field(default_factory=list)
    failure: str = ""

    @property
    def timed(self) -> list[float]:
        """Returns the seconds of each epoch but the first."""
        return [lap.seconds for lap in self.laps[1:]]

    @property
    def start(self) -> float:
        """Returns the seconds from process start until epochs reach full speed."""
        return self.setup + max(0.0, self.laps[0].seconds - median(self.timed))

    @property
    def peak_bytes(self) -> int:
        """Returns the largest resident set of its process."""
        return self.laps[-1].peak_bytes

    def ratios(self, reference: "Record") -> list[float]:
        """Returns the times of this contender over the reference's, round by round."""
        return [a / b for a, b in zip(self.timed, reference.timed, strict=True)]


class ContenderError(RuntimeError):
    """A contender that cannot run here; the message says why."""


class _Process:
    """A worker process; ``setup`` waits until its contender is ready."""

    def __init__(self, contender: Contender, work: Work):
        if contender.precision:
            work = dataclasses.replace(work, precision=contender.precision)
        self._work = work
        self._errors = tempfile.TemporaryFile("w+")  # noqa: SIM115
        command = ["-m", "benchmarks.worker", contender.module, contender.variant]
        with pinned(work.threads):
            self._process = subprocess.Popen(
                [sys.executable, *command],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._errors,
                text=True,
                env=environment(work.threads, work.platform),
            )

    def setup(self) -> float:
        return self._ask(self._work.to_json())["setup"]

    def epoch(self) -> Lap:
        return Lap(**self._ask("epoch"))

    def _ask(self, line: str) -> dict[str, Any]:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.write(line + "\n")
            self._process.stdin.flush()
        answer = self._process.stdout.readline()
        if not answer:
            self._process.wait()
            self._errors.seek(0)
            last = self._errors.read().strip().splitlines()[-1:] or ["ended"]
            raise ContenderError(last[0][:120])
        return json.loads(answer)

    def close(self) -> None:
        for pipe in (self._process.stdin, self._process.stdout, self._errors):
            assert pipe is not None
            with contextlib.suppress(BrokenPipeError):
                pipe.close()
        self._process.wait()


def race(contenders: Sequence[Contender], work: Work, repeats: int) -> list[Record]:
    """Lets the contenders take turns.

    So other load on the machine slows all contenders alike, and the ratio within a
    round varies less than the times. Each round starts with another contender.

    Args:
        contenders: the participants; one that fails is recorded as failed.
        work: the work that they do.
        repeats: rounds, after a first one that is not timed.
    """
    records = [Record(contender) for contender in contenders]
    with contextlib.ExitStack() as stack:
        running: list[tuple[Record, _Process]] = []
        for record in records:
            process = _Process(record.contender, work)
            stack.callback(process.close)
            try:
                record.setup = process.setup()
                running.append((record, process))
            except ContenderError as error:
                record.failure = str(error)
        for turn in range(1 + repeats):
            first = turn % max(len(running), 1)
            for record, process in running[first:] + running[:first]:
                if record.failure:
                    continue
                try:
                    record.laps.append(process.epoch())
                except ContenderError as error:
                    record.failure = str(error)
    return records
