"""PyTorch by hand: a tuned loop, the same loop compiled, and the tutorials' loop.

Variants: ``tuned`` with Adam ``fused`` or ``foreach`` (``tuned fused``), ``compiled``
(with ``torch.compile``), ``loader`` (a DataLoader, Adam as it comes).
"""

from collections.abc import Callable

import numpy as np
import torch
from torch import nn
from torch.nn import functional
from torch.utils.data import DataLoader, TensorDataset

from benchmarks.work import KERNEL, SIDE, Layer, Work, initial_weights

_ACTIVATIONS = {"relu": nn.ReLU, "tanh": nn.Tanh}


class Network(nn.Module):
    """Maps images ``[batch, 784]`` of zeros and ones to their mean ELBO."""

    def __init__(self, work: Work, pixel_mean: torch.Tensor):
        super().__init__()
        weights = initial_weights(work, pixel_mean.numpy())
        modules = {layer.name: _module(layer, weights) for layer in work.layers()}

        def activated(prefix):
            chosen = [modules[name] for name in modules if name.startswith(prefix)]
            activation = _ACTIVATIONS[work.activation]
            return [part for module in chosen for part in (module, activation())]

        encoder, decoder = activated("encoder"), activated("decoder")
        output = [modules["output"]]
        if work.network == "conv":
            encoder = [nn.Unflatten(1, (1, SIDE, SIDE)), *encoder, nn.Flatten()]
            inner = (work.widths[-1], work.inner_side, work.inner_side)
            decoder[2:2] = [nn.Unflatten(1, inner)]
            output += [nn.Flatten(), _PixelBias(weights["output_bias"])]
        self.encoder = nn.Sequential(*encoder)
        self.mean, self.log_scale = modules["mean"], modules["log_scale"]
        self.decoder = nn.Sequential(*decoder, *output)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = self.encoder(x)
        mean, log_scale = self.mean(h), self.log_scale(h)
        z = mean + torch.exp(log_scale) * torch.randn_like(mean)
        reconstruction = -functional.binary_cross_entropy_with_logits(
            self.decoder(z), x, reduction="sum"
        )
        kl = (0.5 * (mean**2 + torch.expm1(2 * log_scale)) - log_scale).sum()
        return (reconstruction - kl) / len(x)


class _PixelBias(nn.Module):
    """A bias for each pixel; a convolution does not have one."""

    def __init__(self, bias: np.ndarray):
        super().__init__()
        self.bias = nn.Parameter(torch.from_numpy(bias))

    def forward(self, h: torch.Tensor) -> torch.Tensor:
        return h + self.bias


def _module(layer: Layer, weights: dict[str, np.ndarray]) -> nn.Module:
    """Returns a layer with its initial weights, their axes in PyTorch's order."""
    shared = (layer.inputs, layer.outputs)
    module: nn.Linear | nn.Conv2d | nn.ConvTranspose2d
    axes: tuple[int, ...]
    if layer.kind == "dense":
        module, axes = nn.Linear(*shared), (1, 0)
    elif layer.kind == "transposed":
        options = {"stride": 2, "padding": 1, "output_padding": 1}
        module, axes = nn.ConvTranspose2d(*shared, KERNEL, **options), (2, 3, 0, 1)
    else:
        last = layer.name == "output"
        options = {"stride": 1 if last else 2, "padding": 1, "bias": not last}
        module, axes = nn.Conv2d(*shared, KERNEL, **options), (3, 2, 0, 1)
    with torch.no_grad():
        module.weight.copy_(torch.from_numpy(weights[layer.name].transpose(axes)))
        if module.bias is not None:
            module.bias.copy_(torch.from_numpy(weights[f"{layer.name}_bias"]))
    return module


def device(work: Work) -> torch.device:
    """Returns the device that a contender computes on."""
    return torch.device("cuda" if work.platform == "gpu" else "cpu")


def make(work: Work, variant: str) -> Callable[[], float]:
    torch.manual_seed(0)
    torch.set_num_threads(work.threads)
    images = torch.from_numpy(work.images()).float() / 255
    network = Network(work, images.mean(0)).to(device(work))
    name, _, adam = variant.partition(" ")
    options = {adam: True} if adam else {}
    optimizer = torch.optim.Adam(network.parameters(), lr=work.learning_rate, **options)
    forward = torch.compile(network) if name == "compiled" else network
    torch.set_float32_matmul_precision(
        "high" if work.precision == "tf32" else "highest"
    )
    bfloat16 = torch.autocast(
        device(work).type, torch.bfloat16, enabled=work.precision == "bfloat16"
    )

    def step(x: torch.Tensor) -> torch.Tensor:
        optimizer.zero_grad(set_to_none=True)
        with bfloat16:
            elbo = forward(torch.bernoulli(x))
        (-elbo).backward()
        optimizer.step()
        return elbo.detach()

    if name == "loader":
        return lambda: _loader_epoch(step, images, work)
    images = images.to(device(work))
    return lambda: _tensor_epoch(step, images, work)


def _tensor_epoch(step, images: torch.Tensor, work: Work) -> float:
    order = torch.randperm(len(images), device=images.device)
    batches = order[: work.num_steps * work.batch_size].view(work.num_steps, -1)
    total = torch.zeros((), device=images.device)
    for batch in batches:
        total += step(images[batch])
    return total.item() / work.num_steps


def _loader_epoch(step, images: torch.Tensor, work: Work) -> float:
    loader = DataLoader(
        TensorDataset(images), batch_size=work.batch_size, shuffle=True, drop_last=True
    )
    total = 0.0
    for (x,) in loader:
        total += step(x.to(device(work))).item()
    return total / len(loader)
