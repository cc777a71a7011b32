"""Counts the faults that were injected and survived, and prints them as a table.

    python -m pytest -m faults
    python -m pytest tests/faults -m faults --fault-table=docs/reliability.md

The second command puts the table into a page, between its two ``<!-- fault table -->``
lines.
"""

import collections
import contextlib
import itertools
from collections.abc import Iterator
from pathlib import Path

import filelock
import pytest

from tests.faults import harness

_MARK = "<!-- fault table -->"


class Faults:
    """Counts the faults of one test."""

    def __init__(self) -> None:
        self.counts: dict[str, list[int]] = collections.defaultdict(lambda: [0, 0])

    @contextlib.contextmanager
    def injected(self, case: str) -> Iterator[None]:
        """Counts one fault of a case; it is survived if the body does not raise."""
        self.counts[case][0] += 1
        yield
        self.counts[case][1] += 1


@pytest.fixture
def faults(record_property):
    """Returns the counter in which a test records its faults."""
    counted = Faults()
    yield counted
    record_property("faults", dict(counted.counts))


@pytest.fixture(scope="session")
def common(tmp_path_factory, worker_id):
    """Returns a folder that all workers of this session share."""
    own = tmp_path_factory.getbasetemp()
    return own if worker_id == "master" else own.parent


@pytest.fixture(scope="session")
def cache(common):
    """Returns the cache of programs and decoded images, which all commands share."""
    return common / "cache"


@pytest.fixture(scope="session")
def undisturbed(common, cache):
    """Returns the folder of a sweep that ran from start to end."""
    folder = common / "undisturbed"
    with filelock.FileLock(common / "undisturbed.lock"):
        if not (folder / "report.html").exists():
            outcome = harness.run(
                harness.command("sweep", *harness.SWEEP, f"--workdir={folder}"), cache
            )
            assert outcome.status == 0, outcome.stderr
    return folder


def pytest_collection_modifyitems(config, items):
    own = [item for item in items if Path(__file__).parent in item.path.parents]
    for item in own:
        item.add_marker(pytest.mark.faults)
    chosen = set(own[:: config.getoption("--every-fault", 1)])
    # A table of examples; each is a kind of its own.
    chosen |= {item for item in own if item.path.stem == "test_hostile"}
    left_out = [item for item in own if item not in chosen]
    if left_out:
        config.hook.pytest_deselected(items=left_out)
        items[:] = [item for item in items if item not in left_out]


def pytest_addoption(parser):
    parser.addoption(
        "--every-fault", type=int, default=1, help="2: every second test of faults"
    )
    parser.addoption("--fault-table", help="page to put the table of faults into")


def pytest_terminal_summary(terminalreporter, config):
    counts: dict[str, list[int]] = collections.defaultdict(lambda: [0, 0])
    for report in itertools.chain(*terminalreporter.stats.values()):
        if getattr(report, "when", None) != "teardown":
            continue
        for name, value in report.user_properties:
            for case, (injected, survived) in value.items() if name == "faults" else ():
                counts[case][0] += injected
                counts[case][1] += survived
    if not counts:
        return
    table = _table(counts)
    terminalreporter.write_line("")
    terminalreporter.write_line(table)
    if page := config.getoption("--fault-table", None):
        before, _, after = Path(page).read_text().split(_MARK)
        Path(page).write_text(f"{before}{_MARK}\n{table}\n{_MARK}{after}")


def _table(counts) -> str:
    lines = ["| fault | injected | survived |", "|---|---:|---:|"]
    lines += [f"| {case} | {n} | {ok} |" for case, (n, ok) in sorted(counts.items())]
    totals = [sum(pair[i] for pair in counts.values()) for i in (0, 1)]
    return "\n".join([*lines, f"| **all** | **{totals[0]}** | **{totals[1]}** |"])
