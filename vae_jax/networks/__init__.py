"""Encoders and decoders: pure functions from array to array, in pairs by name.

They never sample, compute a loss or hold state. Only this package imports
``flax.linen``, so a change of framework touches no other.

Parameters are float32. Networks compute in their ``precision`` and return float32, so
nothing outside this package depends on it: densities, log-weights and the optimizer
always have the same types. With ``rematerialize`` an encoder or decoder keeps fewer
arrays for the backward pass, which computes them a second time. On a CPU this has no
effect, because XLA merges equal computations there.
"""

from vae_jax.networks.common import (
    ACTIVATIONS,
    PRECISIONS,
    OutputBias,
    side_by_side,
)
from vae_jax.networks.convolutional import Conv, ResNet
from vae_jax.networks.denoisers import (
    DENOISERS,
    Denoiser,
    DenseDenoiser,
    Transformer,
    UNet,
)
from vae_jax.networks.dense import MLP, Gated, MLPEncoder, hidden_layers
from vae_jax.networks.identity import Identity
from vae_jax.networks.interface import (
    Heads,
    Module,
    Network,
    Params,
    Shape,
    WithoutParameters,
)
from vae_jax.networks.masked import MaskedMLP, PixelCNN
from vae_jax.registry import Registry

__all__ = [
    "ACTIVATIONS",
    "DENOISERS",
    "MLP",
    "NETWORKS",
    "PRECISIONS",
    "Conv",
    "Denoiser",
    "DenseDenoiser",
    "Gated",
    "Heads",
    "Identity",
    "MLPEncoder",
    "MaskedMLP",
    "Module",
    "Network",
    "OutputBias",
    "Params",
    "PixelCNN",
    "ResNet",
    "Shape",
    "Transformer",
    "UNet",
    "WithoutParameters",
    "hidden_layers",
    "side_by_side",
]

NETWORKS: Registry[Network] = Registry("network")
NETWORKS |= {
    "mlp": MLP,
    "conv": Conv,
    "gated": Gated,
    "resnet": ResNet,
    "pixelcnn": PixelCNN,
    "identity": Identity,
}
