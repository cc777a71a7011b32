"""Rate and distortion along beta (Alemi et al. 2018, "Fixing a broken ELBO").

Models of static binarized MNIST that differ only in the weight of the KL give a curve:
the rate E[KL(q(z|x) || p(z))] against the distortion -E[log p(x|z)], both in nats.
Their sum is -ELBO, smallest at beta = 1. The paper prints a figure and no table: there
are no published numbers to compare with.

Command: python -m experiments.sweep --config=configs/papers/rate_distortion.py \
             --workdir=runs/papers/rate_distortion/full
         python -m experiments.sweep --config=configs/papers/rate_distortion.py:cpu \
             --workdir=runs/papers/rate_distortion/cpu
Data:    binarized_mnist, prepared: --config.data.data_dir or TFDS_DATA_DIR.
Cost:    all models of the curve are one population. full is sized for a GPU and has
         not been run; cpu takes five minutes of a CPU core.

Variants:
    full  ten weights, three seeds, 300 epochs (the default)
    cpu   five weights, one seed, 10 epochs
"""

from typing import Any

import ml_collections

from configs.papers import _protocol

_BETAS = (0.1, 0.2, 0.5, 0.8, 1.0, 1.25, 2.0, 4.0, 6.0, 10.0)
_FEW_BETAS = (0.1, 0.5, 1.0, 2.0, 10.0)

TABLE: dict[str, Any] = {
    "title": "Rate and distortion (after Alemi et al. 2018)",
    "data": "static binarized MNIST",
    "sources": {},
    "rows": tuple(
        {
            "model": f"β = {beta}",
            "runs": (("full", f"beta={beta}"), ("cpu", f"beta={beta}")),
            "published": {},
        }
        for beta in _BETAS
    ),
}


def get_config(variant: str = "full") -> ml_collections.ConfigDict:
    config = _protocol.start("binarized_mnist", variant or "full")
    config.model.widths = (400,)
    config.model.latent_dim = 40
    config.training.batch_size = 100
    config.training.num_epochs = 300
    config.training.schedule = "cosine"
    # Enough for rate and distortion, which need none.
    config.evaluation.num_samples = 1000
    config.evaluation.chunk = 100
    config.evaluation.batch_size = 50
    betas: tuple[float, ...] = _BETAS
    seeds: tuple[int, ...] = (0, 1, 2)
    if variant == "cpu":
        config.training.num_epochs = 10
        config.training.validate_every = 5
        config.evaluation.num_samples = 100
        betas, seeds = _FEW_BETAS, (0,)
    return _protocol.finish(config, {"beta": betas, "seed": seeds})
