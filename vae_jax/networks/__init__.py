"""Encoders and decoders: pure functions from array to array, in pairs by name.

They never sample, compute a loss or hold state. This is the only room that imports
flax.linen, so a change of framework touches no other.

Parameters are float32. Networks compute in their ``precision`` and return float32
again, so that nothing outside this room depends on it: densities, log-weights and the
optimizer have the same types either way. With ``rematerialize`` an encoder or decoder
keeps less for the backward pass, which computes it once more; on a CPU nothing comes
of it, since XLA merges there what is computed twice.
"""

from vae_jax.networks.common import ACTIVATIONS, PRECISIONS, OutputBias
from vae_jax.networks.convolutional import Conv, ResNet
from vae_jax.networks.dense import MLP, Gated, MLPEncoder, hidden_layers
from vae_jax.networks.interface import Heads, Module, Network, Params, Shape
from vae_jax.networks.masked import MaskedMLP, PixelCNN
from vae_jax.registry import Registry

__all__ = [
    "ACTIVATIONS",
    "MLP",
    "NETWORKS",
    "PRECISIONS",
    "Conv",
    "Gated",
    "Heads",
    "MLPEncoder",
    "MaskedMLP",
    "Module",
    "Network",
    "OutputBias",
    "Params",
    "PixelCNN",
    "ResNet",
    "Shape",
    "hidden_layers",
]

NETWORKS: Registry[Network] = Registry("network")
NETWORKS |= {
    "mlp": MLP,
    "conv": Conv,
    "gated": Gated,
    "resnet": ResNet,
    "pixelcnn": PixelCNN,
}
