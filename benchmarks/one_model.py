"""One model against its peers, and against XLA's own matrix products."""

import math
from collections.abc import Sequence
from statistics import median

from benchmarks.race import Contender, Record, race
from benchmarks.tables import spread, table
from benchmarks.work import Work

OURS = Contender("vae_jax: one compiled program per epoch", "ours")
PRODUCTS = Contender("(XLA's matrix products of an epoch alone)", "products")
PEERS = (
    Contender("torch, tuned: one tensor, fused Adam", "torch_loops", "tuned fused"),
    Contender("torch, tuned: one tensor, foreach Adam", "torch_loops", "tuned foreach"),
    Contender("torch, tuned, torch.compile", "torch_loops", "compiled fused"),
    Contender("torch, DataLoader", "torch_loops", "loader"),
    Contender("Flax, a jitted step per batch", "flax_steps"),
    Contender("pythae's trainer", "pythae_trainer"),
)

# Nats between the training ELBOs of the last epoch: seeds differ by half of it.
TOLERANCE = 1.0


def section(
    work: Work, repeats: int, peers: Sequence[Contender] = PEERS
) -> tuple[str, list[Record]]:
    """The section of the report, and what was measured."""
    records = race([OURS, PRODUCTS, *peers], work, repeats)
    ours, products = records[:2]
    if ours.failure:
        raise RuntimeError(f"vae_jax itself failed: {ours.failure}")
    rows = [_row(record, ours) for record in records]
    header = (
        "",
        "s per epoch",
        "times ours",
        "start, s",
        f"ELBO, epoch {repeats + 1}",
        "others",
    )
    return "\n\n".join([table(header, rows), _share(ours, products, work)]), records


def _row(record: Record, ours: Record) -> list[str]:
    if record.failure:
        return [record.contender.title, f"not run: {record.failure}", *["–"] * 4]
    elbo, own = record.laps[-1].elbo, ours.laps[-1].elbo
    agrees = math.isnan(elbo) or abs(elbo - own) < TOLERANCE
    return [
        record.contender.title,
        spread(record.timed),
        spread(record.ratios(ours)),
        f"{record.start:.1f}",
        "–" if math.isnan(elbo) else f"{elbo:.2f}" + ("" if agrees else " (differs!)"),
        f"{100 * median(lap.others for lap in record.laps[1:]):.0f} %",
    ]


def _share(ours: Record, products: Record, work: Work) -> str:
    """Share of an epoch that its products would take by themselves."""
    if products.failure:
        return f"XLA's products could not be measured: {products.failure}"
    steps = len(work.images()) // work.batch_size
    rates = [steps * work.step_flop() / 1e9 / seconds for seconds in products.timed]
    shares = [100 * ratio for ratio in products.ratios(ours)]
    return (
        f"XLA's matrix products run at {spread(rates, 0)} GFLOP/s; an epoch of ours "
        f"runs at {spread(shares, 0)} % of that."
    )
