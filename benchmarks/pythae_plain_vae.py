"""Runs pythae's own code with the protocol of its published plain VAE.

    python -m benchmarks.pythae_plain_vae --data_dir=DIR

It checks a published number, and not speed. Model, loss, trainer and schedule are
pythae's, as in its examples/scripts/reproducibility/vae.py and with the network given
there, on the data that configs/papers/static_mnist.py reads. Its get_nll is written out
for several images at once. It takes 45 minutes of a CPU core and needs the extra
``bench``.
"""

import tempfile

import numpy as np
import torch
from absl import app, flags
from pythae.data.datasets import BaseDataset
from pythae.models import VAE, VAEConfig
from pythae.models.base.base_utils import ModelOutput
from pythae.models.nn import BaseDecoder, BaseEncoder
from pythae.trainers import BaseTrainer, BaseTrainerConfig
from torch import nn
from torch.nn import functional

from experiments.data.images import load_data
from experiments.data.settings import DataSettings
from experiments.data.sources import Split
from experiments.evaluation.results import mean_with_error

_DATA_DIR = flags.DEFINE_string("data_dir", "", "Of tensorflow-datasets.")
_EPOCHS = flags.DEFINE_integer("epochs", 500, "Epochs.", lower_bound=1)
_SAMPLES = flags.DEFINE_integer("samples", 200, "Importance samples.", lower_bound=1)

_PIXELS, _HIDDEN, _LATENTS = 784, 400, 40
_SEED = 123
# At epochs 200 and 350 the learning rate falls.
_SCHEDULE = {"milestones": [200, 350, 500, 750, 1000], "gamma": 10 ** (-1 / 5)}
_IMAGES_AT_ONCE = 50


class Encoder(BaseEncoder):
    def __init__(self) -> None:
        BaseEncoder.__init__(self)
        self.hidden = nn.Sequential(nn.Linear(_PIXELS, _HIDDEN), nn.ReLU())
        self.mean = nn.Linear(_HIDDEN, _LATENTS)
        self.log_variance = nn.Linear(_HIDDEN, _LATENTS)

    def forward(self, x: torch.Tensor) -> ModelOutput:
        h = self.hidden(x)
        return ModelOutput(embedding=self.mean(h), log_covariance=self.log_variance(h))


class Decoder(BaseDecoder):
    def __init__(self) -> None:
        BaseDecoder.__init__(self)
        self.layers = nn.Sequential(
            nn.Linear(_LATENTS, _HIDDEN),
            nn.ReLU(),
            nn.Linear(_HIDDEN, _PIXELS),
            nn.Sigmoid(),
        )

    def forward(self, z: torch.Tensor) -> ModelOutput:
        return ModelOutput(reconstruction=self.layers(z))


def _rows(split: Split) -> torch.Tensor:
    return torch.from_numpy(split.images.reshape(-1, _PIXELS).astype(np.float32))


def _dataset(split: Split) -> BaseDataset:
    return BaseDataset(_rows(split), torch.zeros(len(split.images)))


@torch.no_grad()
def negative_log_likelihood(model: VAE, x: torch.Tensor, samples: int) -> torch.Tensor:
    """Returns the importance-weighted estimate of -log p(x), nats, ``[batch]``."""
    encoded = model.encoder(x)
    mean, log_variance = encoded.embedding, encoded.log_covariance
    noise = torch.randn(samples, *mean.shape)
    z = mean + torch.exp(log_variance / 2) * noise
    pixels = model.decoder(z).reconstruction
    reconstruction = -functional.binary_cross_entropy(
        pixels, x.expand_as(pixels), reduction="none"
    ).sum(-1)
    log_ratio = ((z**2 - noise**2 - log_variance) / 2).sum(-1)
    log_weight = reconstruction - log_ratio
    return np.log(samples) - torch.logsumexp(log_weight, 0)


def main(_: list[str]) -> None:
    torch.manual_seed(_SEED)
    data = load_data(DataSettings("binarized_mnist", data_dir=_DATA_DIR.value))
    config = VAEConfig(
        input_dim=(_PIXELS,), latent_dim=_LATENTS, reconstruction_loss="bce"
    )
    with tempfile.TemporaryDirectory() as folder:
        trainer = BaseTrainer(
            VAE(config, encoder=Encoder(), decoder=Decoder()),
            _dataset(data.train),
            _dataset(data.validation),
            training_config=BaseTrainerConfig(
                output_dir=folder,
                num_epochs=_EPOCHS.value,
                learning_rate=1e-4,
                per_device_train_batch_size=100,
                per_device_eval_batch_size=100,
                optimizer_cls="Adam",
                scheduler_cls="MultiStepLR",
                scheduler_params=_SCHEDULE,
                seed=_SEED,
                no_cuda=True,
            ),
        )
        trainer.train()
    # The model that pythae would save: at the epoch of the lowest validation loss.
    model = trainer._best_model.eval()
    nats = torch.cat(
        [
            negative_log_likelihood(model, x, _SAMPLES.value)
            for x in _rows(data.test).split(_IMAGES_AT_ONCE)
        ]
    )
    found = mean_with_error("nll", nats.numpy())
    print(
        f"-log p(x) of {len(nats)} test images, {_SAMPLES.value} importance samples: "
        f"{found['nll']:.2f} ± {found['nll_se']:.2f} nats"
    )


if __name__ == "__main__":
    app.run(main)
