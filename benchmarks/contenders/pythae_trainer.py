"""pythae's own trainer, model and loss, with this network."""

import tempfile
from collections.abc import Callable

import torch
from pythae.data.datasets import BaseDataset
from pythae.models import VAE, VAEConfig
from pythae.models.base.base_utils import ModelOutput
from pythae.models.nn import BaseDecoder, BaseEncoder
from pythae.trainers import BaseTrainer, BaseTrainerConfig
from torch import nn

from benchmarks.contenders import torch_loops
from benchmarks.work import PIXELS, Work


class Encoder(BaseEncoder):
    def __init__(self, network: torch_loops.Network):
        BaseEncoder.__init__(self)
        self.hidden, self.mean = network.encoder, network.mean
        self.log_scale = network.log_scale

    def forward(self, x: torch.Tensor) -> ModelOutput:
        h = self.hidden(x)
        return ModelOutput(embedding=self.mean(h), log_covariance=2 * self.log_scale(h))


class Decoder(BaseDecoder):
    def __init__(self, network: torch_loops.Network):
        BaseDecoder.__init__(self)
        self.layers = nn.Sequential(network.decoder, nn.Sigmoid())

    def forward(self, z: torch.Tensor) -> ModelOutput:
        return ModelOutput(reconstruction=self.layers(z))


class BinarizingVAE(VAE):
    """pythae's model on a fresh draw of each batch, drawn at once: the fastest way."""

    def forward(self, inputs, **options):
        drawn = {**inputs, "data": torch.bernoulli(inputs["data"])}
        return super().forward(drawn, **options)


def make(work: Work, variant: str) -> Callable[[], float]:
    del variant
    torch.set_num_threads(work.threads)
    images = torch.from_numpy(work.images()).float() / 255
    network = torch_loops.Network(work, images.mean(0))
    config = VAEConfig(
        input_dim=(PIXELS,), latent_dim=work.latent_dim, reconstruction_loss="bce"
    )
    with tempfile.TemporaryDirectory() as folder:  # pythae makes an empty one.
        trainer = BaseTrainer(
            model=BinarizingVAE(config, Encoder(network), Decoder(network)),
            train_dataset=BaseDataset(images, torch.zeros(len(images))),
            training_config=BaseTrainerConfig(
                output_dir=folder,
                per_device_train_batch_size=work.batch_size,
                learning_rate=work.learning_rate,
                no_cuda=work.platform != "gpu",
            ),
        )
        trainer.prepare_training()
    return lambda: -float(trainer.train_step(epoch=1))
