"""The main job: likelihoods x latent sizes x seeds on the 8x8 digits.

Command: python -m experiments.sweep
Data:    the handwritten digits that scikit-learn carries; no network needed.

docs/configuration.md explains every field. The axes of ``sweep`` are the seed and the
fields of model and training. A tuple of grids is their union: ``config.sweep =
({"likelihood": ("laplace", "beta")}, {"likelihood": "gaussian_fixed", "fixed_scale":
(0.05, 0.1)})``.

Variants (``--config=configs/digits.py:tiny``):
    tiny  a few epochs of two likelihoods; every part works, in under a minute
"""

import ml_collections


def get_config(variant: str = "") -> ml_collections.ConfigDict:
    # The groups below have types; ``sweep`` may become a tuple of grids.
    config = ml_collections.ConfigDict(type_safe=False)
    config.seed = 0
    config.trackers = ("tensorboard",)

    config.data = ml_collections.ConfigDict(
        {
            "name": "digits",
            "path": "",
            "black": 0.0,
            "white": 0.0,
            "background": "",
            "data_dir": "",
            "download": False,
            "binarization": "dynamic",
            "binarization_seed": 0,
            "split_seed": 0,
            "num_validation": -1,
            "num_test": -1,
            "num_train": -1,
            "labelled_per_class": -1,
            "labelled_repeats": 1,
            "cache_dir": "",
            "stream": False,
            "stream_megabytes": 256.0,
        }
    )
    config.model = ml_collections.ConfigDict(
        {
            "likelihood": "bernoulli",
            "latent_dim": 8,
            "network": "mlp",
            "widths": (128, 128),
            "activation": "relu",
            "fixed_scale": 0.1,
            "components": 5,
            "ignore_x": False,
            "posterior": "diagonal",
            "upper_layers": (),
            "layer_widths": (64,),
            "prior": "standard_normal",
            "prior_components": 100,
            "flow_steps": 4,
            "flow_widths": (64,),
            "precision": "float32",
            "rematerialize": False,
            "denoiser": "mlp",
            "denoiser_widths": (256, 256),
            "predicts": "velocity",
            "noise_schedule": "linear",
            "noise_steps": 0,
            "gamma_min": -8.0,
            "gamma_max": 5.0,
            "preserves_variance": True,
            "label_dropout": 0.0,
            "condition_on": "",
        }
    )
    config.training = ml_collections.ConfigDict(
        {
            "objective": "elbo",
            "num_samples": 1,
            "beta": 1.0,
            "kl_warmup_epochs": 40,
            "free_bits": 0.0,
            "capacity": 0.0,
            "num_groups": 1,
            "mixing": 0.0,
            "alpha": 0.0,
            "partitions": 1,
            "mmd_weight": 0.0,
            "weighting": "elbo",
            "batch_size": 100,
            "microbatches": 1,
            "num_epochs": 150,
            "validate_every": 10,
            "patience": 0,
            "learning_rate": 3e-3,
            "schedule": "cosine",
            "clip_norm": 0.0,
            "adam_b1": 0.9,
            "adam_b2": 0.999,
            "adam_eps": 1e-8,
            "ema": 0.0,
            "on_non_finite": "stop",
        }
    )
    config.evaluation = ml_collections.ConfigDict(
        {
            "num_samples": 500,
            "chunk": 50,
            "batch_size": 100,
            "class_samples": 50,
            "sampler": "ancestral",
            "sampler_steps": 0,
            "guidance": 1.0,
        }
    )
    config.parallel = ml_collections.ConfigDict(
        {
            "member_execution": "auto",
            "members": 0,
            "batch": 1,
            "memory_gib": 0.0,
            "compile_ahead": True,
            "lanes": 0,
        }
    )
    config.diagnostics = ml_collections.ConfigDict(
        {"latents": True, "permutations": 0, "floor": True, "probes": True}
    )
    config.checkpoint = ml_collections.ConfigDict(
        {"every_epochs": 0, "every_seconds": 30.0, "keep": 3}
    )
    config.sweep = ml_collections.ConfigDict(
        {
            "likelihood": (
                "bernoulli",
                "gaussian_fixed",
                "gaussian_shared",
                "gaussian_optimal",
                "gaussian_pixel",
                "laplace",
                "beta",
                "continuous_bernoulli",
                "discretized_logistic",
                "discretized_gaussian",
                "logistic_mixture",
                "categorical",
                "beta_binomial",
            ),
            "latent_dim": (2, 4, 8, 16),
            "seed": (0, 1, 2),
        },
        type_safe=False,  # One value or several, a tuple, a range or an array.
    )
    if variant == "tiny":
        config.training.num_epochs = 10
        config.training.kl_warmup_epochs = 2
        config.sweep.likelihood = ("bernoulli", "discretized_logistic")
        config.sweep.latent_dim = (2, 4)
        config.sweep.seed = (0, 1)
    elif variant:
        raise ValueError(f"variant is {variant!r}: it is unknown. Choose 'tiny'.")
    config.lock()
    config.sweep.unlock()  # A command line may add axes.
    return config
