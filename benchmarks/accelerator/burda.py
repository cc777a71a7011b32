"""Table 1 of Burda et al. 2016, one layer: the time of a step, and the whole table.

The published numbers and the protocol are those of configs/papers/burda2016.py.
"""

import functools
import math
import time
from statistics import median
from typing import Any, NamedTuple

import jax
import numpy as np

from benchmarks.accelerator.programs import vae
from benchmarks.accelerator.records import Facts, OutOfTime, Record
from benchmarks.accelerator.setting import Setting
from benchmarks.accelerator.text import not_measured, verdict
from benchmarks.tables import table
from configs.papers.burda2016 import NUM_SAMPLES, ONE_LAYER, TABLE
from vae_jax import views
from vae_jax.objectives import OBJECTIVES
from vae_jax.population import Layout, Population, member, member_keys
from vae_jax.trained import TrainedModel
from vae_jax.training import TrainingConfig

TITLE = "Burda et al. 2016, Table 1, one layer"
ABOUT = "the time of a step of Table 1 of Burda et al. 2016, one layer, or the table."

MOST_MINUTES = 30.0  # of all cells, full schedule

_SOURCES = ("paper", "nbip/IWAE")  # of published values

# Seconds of training between two checkpoints.
_KEEP_EVERY = 60.0
# Minutes that must be left for the evaluation after the last epoch.
_EVALUATION_MINUTES = 2.0


class _Cell(NamedTuple):
    """A training of the table. With one sample, VAE and IWAE are the same."""

    objective: str
    num_samples: int

    @property
    def key(self) -> str:
        return f"objective={self.objective},num_samples={self.num_samples}"

    @property
    def title(self) -> str:
        name = "IWAE" if self.objective == "iwae" else "VAE"
        if self.num_samples == 1:
            name = "VAE and IWAE"
        return f"{name}, k = {self.num_samples}"


_CELLS = tuple(
    _Cell(objective, k)
    for objective in ("elbo_log_weight", "iwae")
    for k in NUM_SAMPLES
    if objective != "iwae" or k > 1
)


def _published() -> dict[str, dict[str, float]]:
    """Returns the published values of each cell, by source, nats."""
    return {
        runs: row["published"]
        for row in TABLE["rows"]
        for variant, runs in row["runs"]
        if variant == "one_layer"
    }


def measure(setting: Setting, record: Record) -> None:
    """Measures all pieces: the time of a step of each cell; then perhaps the table."""
    cells = setting.size(_CELLS, _CELLS[1:2])
    for cell in cells:
        record.piece(f"time, {cell.title}", _time, setting, cell)
    for cell in cells if setting.full else ():
        record.piece(f"table, {cell.title}", _train, setting, cell, record, minutes=1)


@functools.lru_cache(maxsize=1)
class _Training:
    """The population of one member that a cell trains, with its programs.

    The last one is kept, for the piece that follows.
    """

    def __init__(self, setting: Setting, cell: _Cell):
        fields = ONE_LAYER["training"]
        self.num_epochs = setting.size(fields["num_epochs"], 2)
        plan = {name: fields[name] for name in fields if name != "learning_rate"}
        plan |= {"num_epochs": self.num_epochs}
        held_out = setting.size(ONE_LAYER["data"]["num_validation"], 40)
        images = setting.train[:-held_out]
        objective = OBJECTIVES.make(cell.objective, num_samples=cell.num_samples)
        self.population = Population(
            [vae(**ONE_LAYER["model"])],
            TrainingConfig(**plan, objective=objective),
            len(images),
            keys=member_keys(np.zeros(1, np.uint32)),
            beta=[1.0],
            learning_rate=[fields["learning_rate"]],
            layout=Layout.of(1, [setting.device]),
        )
        place = self.population.placement
        self._statistics = views.pixel_statistics(images, 256)
        self._images = place.place_shared(images)
        x = views.shared_draw(
            "binary", views.VALIDATION, setting.train[-held_out:], 256
        )
        self._x = place.place_shared(x)
        self._epoch = self.population.compile_epoch(self._images)
        self._validation = self.population.compile_validation(self._x)

    def start(self) -> Any:
        program = self.population.compile_init(*self._statistics)
        return self.population.init(program, *self._statistics)

    def train_epoch(self, state: Any) -> Any:
        return self._epoch(state, self.population.placed_members, self._images)

    def validate(self, state: Any) -> Any:
        return self._validation(state, self.population.placed_members, self._x)


def _time(setting: Setting, cell: _Cell) -> Facts:
    """Times some epochs."""
    training = _Training(setting, cell)
    state, _ = jax.block_until_ready(training.train_epoch(training.start()))
    seconds = []
    for _ in range(setting.size(10, 1)):
        started = time.perf_counter()
        state, _ = jax.block_until_ready(training.train_epoch(state))
        seconds.append(time.perf_counter() - started)
    steps = training.population.trainer.steps_per_epoch
    return {"steps": steps, "epochs": training.num_epochs, "seconds": seconds}


def _train(setting: Setting, cell: _Cell, record: Record) -> Facts:
    """Trains the whole schedule, in as many calls as it takes, and evaluates it.

    Raises:
        OutOfTime: the state is kept, and the next call goes on there.
    """
    training = _Training(setting, cell)
    population = training.population
    place = population.placement
    like = (population.state_shapes, np.float64(0))
    state, spent = record.arrays(cell.key, like) or (None, 0.0)
    state = training.start() if state is None else place.place(place.pad(state))
    finished, active = (int(state.epoch[0]), np.asarray(state.active))
    advanced, started = False, time.monotonic()
    kept = started

    def keep(state: Any) -> None:
        spent_now = np.float64(spent + time.monotonic() - started)
        record.keep_arrays(cell.key, (place.fetch(state), spent_now))

    for snapshot in population.epochs(
        training.train_epoch, training.validate, state, finished=finished, active=active
    ):
        state, advanced = snapshot.state, True
        if record.deadline.is_over:
            keep(state)
            raise OutOfTime
        if time.monotonic() - kept > _KEEP_EVERY:
            keep(state)
            kept = time.monotonic()
    minutes = float(spent + time.monotonic() - started) / 60
    if advanced:
        keep(state)
        record.deadline.require(_EVALUATION_MINUTES)
    best = member(place.fetch(state.best_params), 0)
    trained = TrainedModel(population.models[0], best, population.keys[0])
    num_samples = setting.size(5000, 10)
    log_px = trained.log_prob(setting.test, num_samples)
    record.drop_arrays(cell.key)
    return {
        "epochs": training.num_epochs,
        "minutes": minutes,
        "best epoch": int(state.best_epoch[0]),
        "-log p(x)": float(-log_px.mean()),
        "standard error": float(log_px.std(ddof=1) / math.sqrt(len(log_px))),
        "samples": num_samples,
    }


def section(pieces: dict[str, Facts]) -> str:
    """Returns the section of the page."""
    texts = []
    times = {
        c: pieces[f"time, {c.title}"] for c in _CELLS if f"time, {c.title}" in pieces
    }
    if times:
        texts.append(_times_text(times))
    results = {
        cell: pieces.get(f"table, {cell.title}", {"failure": "not yet trained"})
        for cell in _CELLS
    }
    texts.append(_table_text(results))
    return "\n\n".join(texts)


def _times_text(times: dict[_Cell, Facts]) -> str:
    rows, all_us, all_minutes = [], [], []
    for cell, facts in times.items():
        if failure := not_measured(facts):
            rows.append([cell.title, failure, "–"])
            continue
        seconds = median(facts["seconds"])
        all_us.append(1e6 * seconds / facts["steps"])
        all_minutes.append(seconds * facts["epochs"] / 60)
        rows.append([cell.title, f"{all_us[-1]:.0f}", f"{all_minutes[-1]:.0f}"])
    header = ("batch 20", "µs per step", "minutes of the full schedule")
    complete = len(all_us) == len(_CELLS)
    if complete:
        rows.append(["all", f"{sum(all_us):.0f}", f"{sum(all_minutes):.0f}"])
    text = table(header, rows)
    if complete:
        asked = f"all cells in at most {MOST_MINUTES:g} minutes"
        text += f"\n\n{verdict(asked, sum(all_minutes) <= MOST_MINUTES)}"
    return text


def _table_text(results: dict[_Cell, Facts]) -> str:
    rows, published = [], _published()
    for cell, facts in results.items():
        found = published[cell.key]
        shown = [facts.get("failure", ""), "–"]
        if not shown[0]:
            shown = [
                f"{facts['-log p(x)']:.2f} ± {facts['standard error']:.2f}",
                f"{facts['minutes']:.0f}",
            ]
        rows.append([cell.title, *shown, *(f"{found[s]:.2f}" for s in _SOURCES)])
    return (
        "-log p(x) in nats, 5000 importance samples, of the test images, each "
        "binarized once. The published values are of MNIST.\n\n"
        + table(("", "here", "minutes", *_SOURCES), rows)
    )
