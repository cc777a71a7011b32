"""Table 1 of Burda, Grosse, Salakhutdinov 2016, "Importance weighted autoencoders".

-log p(x) in nats of the 10,000 test images of dynamically binarized MNIST; each test
image is binarized once. The estimate has 5000 importance samples. VAE and IWAE train
with k = 1, 5 and 50 samples. "VAE, k" averages k log-weights, without the closed form
of the KL; with k = 1 it equals the IWAE.

Command: python -m experiments.sweep --config=configs/papers/burda2016.py:one_layer \
             --workdir=runs/papers/burda2016/one_layer
         for each variant below. The same command resumes;
         python -m experiments.papers puts the results into the table.
Data:    mnist and binarized_mnist, prepared: --config.data.data_dir or TFDS_DATA_DIR.
Cost:    the full schedule is sized for a GPU and has not been run. On one core of a
         CPU with AVX-512, with other work beside, static,cpu took 42 minutes,
         one_layer,cpu 93 and two_layers,cpu 130.

Variants:
    one_layer   784-200-200-50 and its mirror image, tanh
    two_layers  latents 100 and 50; 200-200 hidden units below and 100-100 between
    static      one_layer on the fixed binarization of Larochelle and Murray
    ...,cpu     each of them with k = 1 and 5, fewer epochs and larger batches

Protocol, from the authors' code: output bias at the logit of the mean image; batches of
20; Adam, in eight stages of 3^i epochs at 1e-3 10^(-i/7), 3280 in all; 59,600 images to
train on and 400 to validate; a fresh Bernoulli draw at each access.
Knowingly different: images are shuffled; Adam's constants are those of the paper (0.9,
0.999, 1e-4), and not the code's first-moment decay of 0.99; the best of all validated
parameters are evaluated. cpu: batches of 50, a cosine schedule, far fewer epochs, and
for the same bounds the less noisy gradients of STL (VAE) and DReG (IWAE).
"""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import ml_collections

_VARIANTS = ("one_layer", "two_layers", "static")

# The importance samples of the columns, and the fields of one_layer. Benchmarks of
# accelerators read them, too, where ml_collections may be missing.
NUM_SAMPLES = (1, 5, 50)
ONE_LAYER: dict[str, dict[str, Any]] = {
    "data": {"num_validation": 400},
    "model": {"widths": (200, 200), "activation": "tanh", "latent_dim": 50},
    "training": {
        "batch_size": 20,
        "num_epochs": 3280,
        "validate_every": 40,
        "learning_rate": 1e-3,
        "schedule": "tripling_stages",
        "adam_eps": 1e-4,
    },
}

# The gradient estimator of the cpu variant, for the same bound.
_CPU_OBJECTIVE = {"elbo_log_weight": "stl", "iwae": "dreg"}


# The data of a variant's rows, where they differ from the table's.
_DATA = {"static": {"data": "static binarized MNIST"}}


def _rows() -> Iterator[dict[str, Any]]:
    published: dict[tuple[str, str, str], dict[str, tuple[float | None, ...]]] = {
        ("VAE, 1 layer", "one_layer", "elbo_log_weight"): {
            "paper": (86.76, 86.47, 86.35),
            "nbip/IWAE": (86.35, 86.10, 86.06),
        },
        ("IWAE, 1 layer", "one_layer", "iwae"): {
            "paper": (86.76, 85.54, 84.78),
            "nbip/IWAE": (86.35, 85.18, 84.59),
        },
        ("VAE, 2 layers", "two_layers", "elbo_log_weight"): {
            "paper": (85.33, 85.01, 84.78),
            "nbip/IWAE": (84.83, 84.08, 83.89),
        },
        ("IWAE, 2 layers", "two_layers", "iwae"): {
            "paper": (85.33, 83.89, 82.90),
            "nbip/IWAE": (84.83, 83.48, 82.82),
        },
        ("IWAE, 1 layer, fixed binarization", "static", "iwae"): {
            "paper": (88.71, 87.63, 87.10),
            "nbip/IWAE": (89.93, 87.65, 86.71),
            "pythae": (None, 87.85, 86.82),
        },
    }
    for (model, variant, objective), figures in published.items():
        for i, k in enumerate(NUM_SAMPLES):
            # With one sample both are equal, so one run serves both rows.
            own = objective if k > 1 else "elbo_log_weight"
            yield {
                "model": f"{model}, k = {k}",
                **_DATA.get(variant, {}),
                "runs": (
                    (variant, f"objective={own},num_samples={k}"),
                    (
                        f"{variant},cpu",
                        f"objective={_CPU_OBJECTIVE[own]},num_samples={k}",
                    ),
                ),
                "published": {
                    source: values[i]
                    for source, values in figures.items()
                    if values[i] is not None
                },
            }


TABLE: dict[str, Any] = {
    "title": "Importance weighted autoencoders (Burda et al. 2016, Table 1)",
    "data": "MNIST, binarized dynamically; test images once",
    "sources": {
        "paper": "as printed in the paper",
        "nbip/IWAE": "a reimplementation, github.com/nbip/IWAE",
        "pythae": "another, of this network, github.com/clementchadebec/benchmark_VAE",
    },
    "rows": tuple(_rows()),
}


def get_config(variant: str = "one_layer") -> "ml_collections.ConfigDict":
    from configs.papers import _protocol

    name, comma, rest = (variant or _VARIANTS[0]).partition(",")
    if name not in _VARIANTS or (comma and rest != "cpu"):
        raise ValueError(
            f"variant is {variant!r}: it is unknown. Choose one of "
            f"{', '.join(_VARIANTS)}, or one of them followed by ',cpu'."
        )
    config = _protocol.start("mnist", rest or "full")
    config.update(ONE_LAYER)
    num_samples: tuple[int, ...] = NUM_SAMPLES
    objectives: tuple[str, ...] = ("elbo_log_weight", "iwae")
    if name == "two_layers":
        config.model.posterior = "bottom_up"
        config.model.latent_dim = 100
        config.model.upper_layers = (50,)
        config.model.layer_widths = (100, 100)
    if name == "static":
        config.data.name = "binarized_mnist"
        config.data.num_validation = -1
    if rest:
        num_samples = (1, 5)
        objectives = tuple(_CPU_OBJECTIVE[objective] for objective in objectives)
        config.training.batch_size = 50
        config.training.num_epochs = 240
        config.training.validate_every = 10
        config.training.learning_rate = 1.5e-3
        config.training.schedule = "cosine"
        config.training.adam_eps = 1e-6
    vae, iwae = objectives
    # With one sample both bounds are equal, and static has only rows of IWAE.
    vae_samples = num_samples[:1] if name == "static" else num_samples
    return _protocol.finish(
        config,
        {"objective": (vae,), "num_samples": vae_samples, "seed": (0,)},
        {"objective": (iwae,), "num_samples": num_samples[1:], "seed": (0,)},
    )
