"""The common part of the configurations of published tables."""

from typing import Any

import ml_collections

from configs import mnist


def start(data: str, variant: str) -> ml_collections.ConfigDict:
    """Returns a configuration to change, with only the scores of published tables.

    Args:
        data: a variant of ``configs/mnist.py`` that names the images.
        variant: 'full' or 'cpu'.

    Raises:
        ValueError: another variant.
    """
    if variant not in ("full", "cpu"):
        raise ValueError(f"variant is {variant!r}: it is unknown. Choose full or cpu.")
    config = mnist.get_config(data).unlock()
    config.training.kl_warmup_epochs = 0
    config.training.validate_every = 10
    config.evaluation.num_samples = 5000
    config.evaluation.chunk = 250
    config.evaluation.batch_size = 20
    config.diagnostics.latents = False
    config.diagnostics.probes = False
    return config


def finish(
    config: ml_collections.ConfigDict, *grids: dict[str, tuple[Any, ...]]
) -> ml_collections.ConfigDict:
    """Returns the configuration with a sweep of these grids, locked."""
    config.sweep = grids
    config.lock()
    return config
