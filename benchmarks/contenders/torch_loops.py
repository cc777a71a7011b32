"""PyTorch by hand: a tuned loop, the same compiled, and the loop of the tutorials.

Variants: ``tuned`` with Adam ``fused`` or ``foreach`` (``tuned fused``), ``compiled``
(with ``torch.compile``), ``loader`` (a DataLoader, Adam as it comes).
"""

from collections.abc import Callable

import torch
from torch import nn
from torch.nn import functional
from torch.utils.data import DataLoader, TensorDataset

from benchmarks.work import PIXELS, Work, initial_weights


class Network(nn.Module):
    """Images ``[batch, 784]`` of zeros and ones to their mean ELBO."""

    def __init__(self, work: Work, pixel_mean: torch.Tensor):
        super().__init__()
        self.encoder = nn.Linear(PIXELS, work.width)
        self.mean = nn.Linear(work.width, work.latent_dim)
        self.log_scale = nn.Linear(work.width, work.latent_dim)
        self.decoder = nn.Linear(work.latent_dim, work.width)
        self.output = nn.Linear(work.width, PIXELS)
        weights = initial_weights(work, pixel_mean.numpy())
        with torch.no_grad():
            for name, layer in self.named_children():
                layer.weight.copy_(torch.from_numpy(weights[name].T))
                layer.bias.copy_(torch.from_numpy(weights[f"{name}_bias"]))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = functional.relu(self.encoder(x))
        mean, log_scale = self.mean(h), self.log_scale(h)
        z = mean + torch.exp(log_scale) * torch.randn_like(mean)
        logits = self.output(functional.relu(self.decoder(z)))
        reconstruction = -functional.binary_cross_entropy_with_logits(
            logits, x, reduction="sum"
        )
        kl = (0.5 * (mean**2 + torch.expm1(2 * log_scale)) - log_scale).sum()
        return (reconstruction - kl) / len(x)


def make(work: Work, variant: str) -> Callable[[], float]:
    torch.manual_seed(0)
    torch.set_num_threads(work.threads)
    images = torch.from_numpy(work.images()).float() / 255
    network = Network(work, images.mean(0))
    name, _, adam = variant.partition(" ")
    options = {adam: True} if adam else {}
    optimizer = torch.optim.Adam(network.parameters(), lr=work.learning_rate, **options)
    forward = torch.compile(network) if name == "compiled" else network

    def step(x: torch.Tensor) -> torch.Tensor:
        optimizer.zero_grad(set_to_none=True)
        elbo = forward(torch.bernoulli(x))
        (-elbo).backward()
        optimizer.step()
        return elbo.detach()

    if name == "loader":
        return lambda: _loader_epoch(step, images, work.batch_size)
    return lambda: _tensor_epoch(step, images, work.batch_size)


def _tensor_epoch(step, images: torch.Tensor, batch_size: int) -> float:
    num_steps = len(images) // batch_size
    order = torch.randperm(len(images))[: num_steps * batch_size]
    total = torch.zeros(())
    for batch in order.view(num_steps, batch_size):
        total += step(images[batch])
    return total.item() / num_steps


def _loader_epoch(step, images: torch.Tensor, batch_size: int) -> float:
    loader = DataLoader(
        TensorDataset(images), batch_size=batch_size, shuffle=True, drop_last=True
    )
    total = 0.0
    for (x,) in loader:
        total += step(x).item()
    return total / len(loader)
