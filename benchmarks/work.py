"""The work that all contenders are given. NumPy only: every process imports this."""

import dataclasses
import itertools
import json
import math
from pathlib import Path
from typing import NamedTuple

import numpy as np

SIDE = 28
PIXELS = SIDE * SIDE
LEVELS = 256

# How an accelerator multiplies: 'bfloat16' is also the type of the networks.
PRECISIONS = ("float32", "tf32", "bfloat16")

# Of every convolution but the last; each halves or doubles an image.
KERNEL = 3


class Layer(NamedTuple):
    """One layer of a network.

    Attributes:
        name: 'encoder_0', ..., 'mean', 'log_scale', 'decoder_0', ..., 'output'.
        kind: 'dense', 'conv' (halves an image; the output keeps its size) or
            'transposed' (doubles it).
        inputs: units, or channels.
        outputs: units, or channels.
        positions: number of places of its products: the pixels of the smaller image.
    """

    name: str
    kind: str
    inputs: int
    outputs: int
    positions: int = 1

    @property
    def shape(self) -> tuple[int, ...]:
        """Returns the shape of its weights, with inputs and outputs last."""
        kernel = () if self.kind == "dense" else (KERNEL, KERNEL)
        return (*kernel, self.inputs, self.outputs)

    @property
    def products(self) -> int:
        """Returns the number of multiplications for one image."""
        return math.prod(self.shape) * self.positions


@dataclasses.dataclass(frozen=True)
class Work:
    """A VAE to train: Bernoulli, dynamic binarization, analytic KL, Adam.

    Attributes:
        images_path: an npy file of images, uint8 ``[N, 784]``.
        num_images: number of images in an epoch: the first ones of the file.
        threads: processor cores that a contender may use.
        platform: 'cpu', or 'gpu' for one accelerator beside these cores.
        network: 'mlp' or 'conv'.
        widths: hidden units or channels, from the image inwards; the decoder mirrors.
        activation: 'relu' or 'tanh'.
        latent_dim: number of latents.
        batch_size: images per step; an incomplete batch at an epoch's end is dropped.
        learning_rate: of Adam.
        precision: of matrix products, in ``PRECISIONS``; a CPU knows no TF32.
    """

    images_path: str
    num_images: int = 60_000
    threads: int = 1
    platform: str = "cpu"
    network: str = "mlp"
    widths: tuple[int, ...] = (400,)
    activation: str = "relu"
    latent_dim: int = 20
    batch_size: int = 128
    learning_rate: float = 1e-3
    precision: str = "float32"

    def to_json(self) -> str:
        return json.dumps(dataclasses.asdict(self))

    @classmethod
    def from_json(cls, text: str) -> "Work":
        fields = json.loads(text)
        return cls(**{**fields, "widths": tuple(fields["widths"])})

    def images(self) -> np.ndarray:
        """Returns the training images, uint8 ``[num_images, 784]``."""
        return np.load(self.images_path, mmap_mode="r")[: self.num_images].copy()

    @property
    def num_steps(self) -> int:
        """Returns the number of steps in an epoch."""
        return self.num_images // self.batch_size

    @property
    def inner_side(self) -> int:
        """Returns height and width of a convolutional encoder's last feature map."""
        return SIDE // 2 ** len(self.widths)

    def describe(self) -> str:
        """Returns one line on the network and its training."""
        sizes = "-".join(map(str, (*self.widths, self.latent_dim)))
        kind = f"MLP 784-{sizes}"
        if self.network == "conv":
            kind = f"3x3 convolutions of stride 2, channels 1-{sizes} latents, mirrored"
        return f"{kind}, {self.activation}, Bernoulli, Adam, batch {self.batch_size}"

    def layers(self) -> list[Layer]:
        """Returns the layers: the encoder's, its two heads, the decoder's, the output.

        Raises:
            ValueError: the network is unknown, or an image cannot be halved so often.
        """
        if self.network == "mlp":
            return _dense_layers(self.widths, self.latent_dim)
        if self.network != "conv":
            raise ValueError(f"unknown network {self.network!r}: 'mlp' or 'conv'.")
        if SIDE % 2 ** len(self.widths):
            raise ValueError(f"{SIDE} cannot be halved {len(self.widths)} times.")
        return _conv_layers(self.widths, self.latent_dim, self.inner_side)

    def step_flop(self) -> float:
        """Returns the operations of the matrix products of one step, counted by hand.

        These are the forward products, and the backward ones with respect to weights
        and activations; the images need no gradient.
        """
        layers = self.layers()
        forward = sum(layer.products for layer in layers)
        return 2.0 * self.batch_size * (3 * forward - layers[0].products)


def _dense_layers(widths: tuple[int, ...], latent_dim: int) -> list[Layer]:
    down, up = (PIXELS, *widths), (latent_dim, *widths[::-1])
    return [
        *_chain("encoder", "dense", down),
        Layer("mean", "dense", widths[-1], latent_dim),
        Layer("log_scale", "dense", widths[-1], latent_dim),
        *_chain("decoder", "dense", up),
        Layer("output", "dense", widths[0], PIXELS),
    ]


def _conv_layers(widths: tuple[int, ...], latent_dim: int, side: int) -> list[Layer]:
    inner = side**2 * widths[-1]
    # The last doubling gives the channels of the image's size.
    up = (*widths[::-1], widths[0])
    return [
        *(
            layer._replace(positions=(SIDE // 2 ** (i + 1)) ** 2)
            for i, layer in enumerate(_chain("encoder", "conv", (1, *widths)))
        ),
        Layer("mean", "dense", inner, latent_dim),
        Layer("log_scale", "dense", inner, latent_dim),
        Layer("decoder_0", "dense", latent_dim, inner),
        *(
            layer._replace(name=f"decoder_{i + 1}", positions=(side * 2**i) ** 2)
            for i, layer in enumerate(_chain("decoder", "transposed", up))
        ),
        Layer("output", "conv", widths[0], 1, PIXELS),
    ]


def _chain(name: str, kind: str, sizes: tuple[int, ...]) -> list[Layer]:
    pairs = itertools.pairwise(sizes)
    return [Layer(f"{name}_{i}", kind, *pair) for i, pair in enumerate(pairs)]


def initial_weights(work: Work, pixel_mean: np.ndarray) -> dict[str, np.ndarray]:
    """Returns the layers' weights by name, and biases ``[outputs]`` by name + '_bias'.

    They are initialised as in this project: Glorot-uniform weights, zero biases, and
    the output's bias, one for each pixel, at the logit of the mean image. All
    contenders start at the same weights, so their ELBOs can be compared.
    """
    generator = np.random.default_rng(0)
    weights = {}
    for layer in work.layers():
        receptive = math.prod(layer.shape[:-2])
        limit = math.sqrt(6 / (receptive * (layer.inputs + layer.outputs)))
        drawn = generator.uniform(-limit, limit, layer.shape)
        weights[layer.name] = drawn.astype(np.float32)
        weights[f"{layer.name}_bias"] = np.zeros(layer.outputs, np.float32)
    mean = np.clip(pixel_mean, 1e-3, 1 - 1e-3)
    weights["output_bias"] = np.log(mean / (1 - mean)).astype(np.float32)
    return weights


def made_images(num_images: int) -> np.ndarray:
    """Returns images of three bright strokes each, uint8 ``[num_images, 784]``.

    They resemble handwriting where speed and ELBO depend on it: they are mostly black,
    grey at the edges of white strokes, and have few degrees of freedom.
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
    """Writes images to an npy file in ``folder``; returns its path and a description.

    They are MNIST, if there is a folder of prepared tensorflow-datasets, or made ones.
    """
    if data_dir:
        from experiments.data.images import load_data
        from experiments.data.settings import DataSettings

        data = load_data(DataSettings("mnist", data_dir=data_dir, num_validation=1))
        images = data.train.images.reshape(-1, PIXELS)
        images = np.concatenate([images, data.validation.images.reshape(-1, PIXELS)])
        images, name = images[:num_images], "MNIST"
    else:
        images, name = made_images(num_images), "made by the benchmark"
    path = folder / "images.npy"
    np.save(path, images)
    return str(path), f"images of 28x28, {name}"
