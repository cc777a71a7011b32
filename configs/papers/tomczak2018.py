"""VampPrior (Tomczak, Welling 2018, "VAE with a VampPrior"), one stochastic layer.

-log p(x) of the 10,000 test images of static binarized MNIST in nats, from 5000
importance samples: the standard normal prior against 500 learned pseudo-inputs.

Command: python -m experiments.sweep --config=configs/papers/tomczak2018.py \
             --workdir=runs/papers/tomczak2018/full
         python -m experiments.sweep --config=configs/papers/tomczak2018.py:cpu \
             --workdir=runs/papers/tomczak2018/cpu
Data:    binarized_mnist, prepared: --config.data.data_dir or TFDS_DATA_DIR.
Cost:    the full schedule is sized for a GPU and has not been run. cpu: 17 minutes on
         one busy CPU core for the standard prior, 17 on two for the VampPrior.

Variants:
    full  the paper's schedule (the default)
    cpu   120 epochs with a cosine schedule and 20 of warm-up, without early stopping;
          200 pseudo-inputs; 1000 importance samples

Protocol: gated dense layers 300-300, 40 latents, Adam 5e-4, batches of 100, KL warm-up
over 100 epochs, early stopping after 50 epochs without progress.
Knowingly different: Glorot-uniform weights; output bias at the mean image;
pseudo-inputs start at training images.
"""

from typing import Any

import ml_collections

from configs.papers import _protocol

TABLE: dict[str, Any] = {
    "title": "VampPrior (Tomczak & Welling 2018)",
    "data": "static binarized MNIST",
    "sources": {
        "paper": "as quoted by reimplementations, which leave out the standard prior",
        "pythae": "github.com/clementchadebec/benchmark_VAE",
    },
    "rows": (
        {
            "model": "standard normal prior",
            "runs": (
                ("full", "prior=standard_normal"),
                ("cpu", "prior=standard_normal"),
            ),
            "published": {},
        },
        {
            "model": "VampPrior",
            "runs": (("full", "prior=vamp"), ("cpu", "prior=vamp")),
            "published": {"paper": 85.57, "pythae": 85.79},
        },
    ),
}


def get_config(variant: str = "full") -> ml_collections.ConfigDict:
    config = _protocol.start("binarized_mnist", variant or "full")
    config.model.network = "gated"
    config.model.widths = (300, 300)
    config.model.latent_dim = 40
    config.model.prior_components = 500
    config.training.objective = "elbo_log_weight"
    config.training.batch_size = 100
    config.training.num_epochs = 2000
    config.training.patience = 50
    config.training.kl_warmup_epochs = 100
    config.training.learning_rate = 5e-4
    config.training.schedule = "constant"
    if variant == "cpu":
        config.model.prior_components = 200
        config.training.num_epochs = 120
        config.training.patience = 0
        config.training.kl_warmup_epochs = 20
        config.training.schedule = "cosine"
        config.evaluation.num_samples = 1000
    return _protocol.finish(
        config, {"prior": ("standard_normal", "vamp"), "seed": (0,)}
    )
