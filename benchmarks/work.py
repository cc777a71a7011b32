"""The work that all contenders are given. NumPy only: every process imports this."""

import dataclasses
import json
from pathlib import Path

import numpy as np

SIDE = 28
PIXELS = SIDE * SIDE
LEVELS = 256


@dataclasses.dataclass(frozen=True)
class Work:
    """A VAE to train: MLP 784-width-latent_dim, Bernoulli, dynamic binarization, Adam.

    Attributes:
        images_path: an npy file of images, uint8 ``[num_images, 784]``.
        threads: processor cores that a contender may use.
        batch_size: images per step; what is left over at an epoch's end is dropped.
        width: hidden units of encoder and decoder.
        latent_dim: number of latents.
        learning_rate: of Adam.
    """

    images_path: str
    threads: int = 1
    batch_size: int = 128
    width: int = 400
    latent_dim: int = 20
    learning_rate: float = 1e-3

    def to_json(self) -> str:
        return json.dumps(dataclasses.asdict(self))

    @classmethod
    def from_json(cls, text: str) -> "Work":
        return cls(**json.loads(text))

    def images(self) -> np.ndarray:
        """The training images, uint8 ``[N, 784]``."""
        return np.load(self.images_path)

    def step_flop(self) -> float:
        """Floating-point operations of the matrix products of one step.

        Forward, and backward with respect to weights and activations; the images
        need no gradient.
        """
        outer, inner = PIXELS * self.width, self.width * self.latent_dim
        forward = outer + 2 * inner + inner + outer
        return 2.0 * self.batch_size * (3 * forward - outer)


def initial_weights(work: Work, pixel_mean: np.ndarray) -> dict[str, np.ndarray]:
    """Weights ``[inputs, outputs]`` and biases, as this project initialises them.

    Glorot-uniform weights, zero biases, and the output bias at the logit of the mean
    image: every contender starts where the others do, so their ELBOs can be compared.
    """
    generator = np.random.default_rng(0)
    width, latent = work.width, work.latent_dim
    shapes = {
        "encoder": (PIXELS, width),
        "mean": (width, latent),
        "log_scale": (width, latent),
        "decoder": (latent, width),
        "output": (width, PIXELS),
    }
    weights = {}
    for name, shape in shapes.items():
        limit = np.sqrt(6 / sum(shape))
        weights[name] = generator.uniform(-limit, limit, shape).astype(np.float32)
        weights[f"{name}_bias"] = np.zeros(shape[1], np.float32)
    mean = np.clip(pixel_mean, 1e-3, 1 - 1e-3)
    weights["output_bias"] = np.log(mean / (1 - mean)).astype(np.float32)
    return weights


def made_images(num_images: int) -> np.ndarray:
    """Images of three bright strokes each, uint8 ``[num_images, 784]``.

    Like handwriting in what matters for speed and ELBO: mostly black, grey at the
    edges of white strokes, and of few degrees of freedom.
    """
    generator = np.random.default_rng(0)
    position = np.arange(SIDE, dtype=np.float32)
    total = np.zeros((num_images, SIDE, SIDE), np.float32)
    for _ in range(3):
        centre = generator.normal(13.5, 4, (num_images, 2, 1)).astype(np.float32)
        extent = generator.choice([1.2, 4.0], (num_images, 2, 1)).astype(np.float32)
        profile = np.exp(-0.5 * ((position - centre) / extent) ** 2)  # [N, 2, 28]
        total += profile[:, 0, :, None] * profile[:, 1, None, :]
    return (
        np.clip(255 * 1.2 * (total - 0.15), 0, 255).astype(np.uint8).reshape(-1, PIXELS)
    )


def write_images(folder: Path, num_images: int, data_dir: str) -> tuple[str, str]:
    """Writes the images to an npy file in ``folder``: (its path, what they are).

    MNIST from a folder of prepared tensorflow-datasets, or made ones without.
    """
    if data_dir:
        from experiments.data import DataSettings, load_data

        data = load_data(DataSettings("mnist", data_dir=data_dir, num_validation=1))
        images = data.train.images.reshape(-1, PIXELS)
        images = np.concatenate([images, data.validation.images.reshape(-1, PIXELS)])
        images, name = images[:num_images], "MNIST"
    else:
        images, name = made_images(num_images), "made by the benchmark"
    path = folder / f"images_{num_images}.npy"
    np.save(path, images)
    return str(path), f"{len(images):,} images of 28x28, {name}"
