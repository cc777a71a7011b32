"""Command lines and all input and output of vae_jax.

A trained model is loaded by one line::

    from experiments import load
    trained = load("runs/sweep", likelihood="laplace", latent_dim=8, seed=0)
"""

from typing import Any


def __getattr__(name: str) -> Any:
    # Commands import this package too, and start faster without models.
    if name == "load":
        from experiments.runs.trained import load

        return load
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
