"""Likelihoods x latent sizes on MNIST, Fashion-MNIST or static binarized MNIST.

Command: python -m experiments.sweep --config=configs/mnist.py --workdir=runs/mnist
Data:    a prepared tensorflow-datasets folder, --config.data.data_dir=DIR or
         TFDS_DATA_DIR; python -m experiments.prepare mnist makes one.

Variants, joined by commas (``--config=configs/mnist.py:fashion_mnist,cpu``):
    mnist            28x28 grey digits (the default)
    fashion_mnist    28x28 grey clothes
    binarized_mnist  the fixed binarization of Larochelle and Murray: Bernoulli only
    cpu              fewer runs and epochs, for two CPU cores
"""

import ml_collections

from configs import digits


def get_config(variant: str = "") -> ml_collections.ConfigDict:
    config = digits.get_config().unlock()
    config.data.name = "mnist"
    config.model.widths = (400,)
    config.training.learning_rate = 1e-3
    config.training.batch_size = 128
    config.training.num_epochs = 100
    config.training.kl_warmup_epochs = 20
    config.training.validate_every = 2
    config.evaluation.num_samples = 1000
    config.evaluation.chunk = 100
    config.evaluation.batch_size = 50
    config.sweep.latent_dim = (2, 10, 20, 50)
    # A softmax over 256 levels costs more than all other likelihoods together.
    config.sweep.likelihood = tuple(
        name for name in config.sweep.likelihood if name != "categorical"
    )
    for name in filter(None, variant.split(",")):
        if name in ("mnist", "fashion_mnist", "binarized_mnist"):
            config.data.name = name
        elif name == "cpu":
            config.training.num_epochs = 20
            config.training.kl_warmup_epochs = 4
            config.evaluation.num_samples = 100
            config.sweep.likelihood = (
                "bernoulli",
                "continuous_bernoulli",
                "gaussian_shared",
                "discretized_logistic",
            )
            config.sweep.latent_dim = (2, 20)
            config.sweep.seed = (0,)
        else:
            raise ValueError(
                f"variant is {name!r}: it is unknown. Choose one of mnist, "
                "fashion_mnist, binarized_mnist, cpu."
            )
    if config.data.name == "binarized_mnist":
        config.sweep.likelihood = ("bernoulli",)
    config.lock()
    config.sweep.unlock()  # A command line may add axes.
    return config
