"""Compares one model with its peers, and with XLA's own matrix products."""

import math
from collections.abc import Sequence
from statistics import median
from typing import Any, NamedTuple

from benchmarks import roofline
from benchmarks.chart import Bar
from benchmarks.race import Contender, Record, race
from benchmarks.tables import mebibytes, spread, table
from benchmarks.work import Work

OURS = Contender("vae_jax: one compiled program per epoch", "ours")
PRODUCTS = Contender("(XLA's matrix products of an epoch alone)", "products")
PEERS = (
    Contender("vae_jax in bfloat16", "ours", precision="bfloat16"),
    Contender("torch, tuned: one tensor, fused Adam", "torch_loops", "tuned fused"),
    Contender("torch, tuned: one tensor, foreach Adam", "torch_loops", "tuned foreach"),
    Contender("torch, tuned, torch.compile", "torch_loops", "compiled fused"),
    Contender(
        "torch, tuned, autocast to bfloat16", "torch_loops", "tuned fused", "bfloat16"
    ),
    Contender("torch, DataLoader", "torch_loops", "loader"),
    Contender("plain JAX: the Flax step in one scan per epoch", "plain_scan"),
    Contender("Flax, a jitted step per batch", "flax_steps"),
    Contender("pythae's trainer", "pythae_trainer"),
)


class Workload(NamedTuple):
    """The options of a Work besides its images and the machine."""

    title: str
    share: float  # fraction of the images; a round should take seconds
    fields: dict[str, Any]
    # Largest allowed difference of the last epoch's ELBOs, nats: twice that of seeds.
    tolerance: float = 1.0


WORKLOADS = {
    "mlp": Workload("MLP 784-400-20", 1.0, {}),
    # As in Burda et al. 2016, one stochastic layer, with k = 1.
    "iwae": Workload(
        "the IWAE paper's network",
        1 / 4,
        {
            "widths": (200, 200),
            "activation": "tanh",
            "latent_dim": 50,
            "batch_size": 20,
        },
    ),
    # There are so few steps that the bound still rises by nats per epoch, and PyTorch's
    # padding and order of channels give another start.
    "conv": Workload(
        "convolutions", 1 / 40, {"network": "conv", "widths": (32, 64)}, tolerance=4.0
    ),
}


class Measured(NamedTuple):
    """A section of the report, and its numbers."""

    text: str
    ours: Record
    products: Record | None  # of dense layers only
    peers: list[Record]

    def bars(self, workload: str, series: str) -> list[Bar]:
        """Returns the bars of the peers that ran, for the chart."""
        return [
            Bar(workload, series, peer.contender.title, peer.ratios(self.ours))
            for peer in self.peers
            if not peer.failure
        ]


def section(
    work: Work,
    repeats: int,
    peers: Sequence[Contender] = PEERS,
    peak: roofline.Peak | None = None,
    tolerance: float = 1.0,
) -> Measured:
    """Races a model of ours against peers."""
    is_dense = work.network == "mlp"
    records = race([OURS, *[PRODUCTS] * is_dense, *peers], work, repeats)
    ours, *others = records
    products = others.pop(0) if is_dense else None
    if ours.failure:
        raise RuntimeError(f"vae_jax itself failed: {ours.failure}")
    header = (
        "",
        "s per epoch",
        "times ours",
        "start, s",
        f"ELBO, epoch {repeats + 1}",
        "process, MiB",
        "others",
    )
    flop = work.num_steps * work.step_flop()
    texts = [table(header, [_row(record, ours, tolerance) for record in records])]
    if products:
        texts.append(_share(ours, products, flop))
    seconds = median(ours.timed)
    texts.append(roofline.describe(roofline.count(work), flop, seconds, peak))
    return Measured("\n\n".join(texts), ours, products, others)


def _row(record: Record, ours: Record, tolerance: float) -> list[str]:
    if record.failure:
        return [record.contender.title, f"not run: {record.failure}", *["–"] * 5]
    elbo, own = record.laps[-1].elbo, ours.laps[-1].elbo
    agrees = math.isnan(elbo) or abs(elbo - own) < tolerance
    return [
        record.contender.title,
        spread(record.timed),
        spread(record.ratios(ours)),
        f"{record.start:.1f}",
        "–" if math.isnan(elbo) else f"{elbo:.2f}" + ("" if agrees else " (differs!)"),
        mebibytes(record.peak_bytes),
        f"{100 * median(lap.others for lap in record.laps[1:]):.0f} %",
    ]


def _share(ours: Record, products: Record, flop: float) -> str:
    """Returns the share of an epoch that its products alone would take."""
    if products.failure:
        return f"XLA's products could not be measured: {products.failure}"
    rates = [flop / 1e9 / seconds for seconds in products.timed]
    shares = [100 * ratio for ratio in products.ratios(ours)]
    return (
        f"XLA's matrix products run at {spread(rates, 0)} GFLOP/s; an epoch of ours "
        f"runs at {spread(shares, 0)} % of that."
    )
