"""From the VAE to diffusion on one scale: minus ELBO of the digits, in bits/dim.

A VAE, a hierarchy of two layers, a PixelCNN decoder, and chains of latents: a dense
denoiser with 1 to infinitely many steps, which are one compiled program, and a U-Net
with infinitely many.

Command: python -m experiments.sweep --config=configs/diffusion.py \
             --workdir=runs/diffusion
Data:    the digits of scikit-learn; with mnist a prepared tensorflow-datasets folder,
         --config.data.data_dir or TFDS_DATA_DIR.

Variants, joined by commas:
    digits  8x8 digits of 17 levels, three seeds (the default)
    mnist   28x28 digits of 256 levels: the VAE and the U-Net
    cpu     one seed and a fifth of the epochs
"""

from typing import Any

import ml_collections

from configs import digits, mnist

STEPS = (1, 4, 16, 64, 256, 0)  # 0: infinitely many


def get_config(variant: str = "") -> ml_collections.ConfigDict:
    names = (variant or "digits").split(",")
    for name in names:
        if name not in ("digits", "mnist", "cpu"):
            raise ValueError(
                f"variant is {name!r}: it is unknown. Choose digits, mnist or cpu, or "
                "two of them as in mnist,cpu."
            )
    is_mnist, share = "mnist" in names, 5 if "cpu" in names else 1
    config = (mnist if is_mnist else digits).get_config().unlock()
    config.training.kl_warmup_epochs = 0
    config.training.schedule = "cosine"
    config.evaluation.num_samples = 100
    config.diagnostics.latents = False
    config.diagnostics.probes = False
    one: dict[str, Any] = {"seed": (0,) if share > 1 else (0, 1, 2)}
    vae = one | {
        "likelihood": ("discretized_logistic",),
        "latent_dim": (20 if is_mnist else 16,),
        "num_epochs": (100 // share,),
    }
    ladder = {
        "posterior": ("ladder",),
        "upper_layers": ((8,),),
        "objective": ("elbo_log_weight",),
    }
    chain = one | {
        "likelihood": ("discretized_gaussian",),
        "latent_dim": (784 if is_mnist else 64,),
        "network": ("identity",),
        "widths": ((256,),),  # Its default: the network has no layers.
        "posterior": ("noise",),
        "prior": ("diffusion",),
        "objective": ("diffusion",),
        "ema": (0.998,),
        "gamma_min": (-12.0 if is_mnist else -8.0,),
    }
    dense = {
        "predicts": ("levels",),
        "denoiser_widths": ((512, 512),),
        "learning_rate": (2e-3,),
        "num_epochs": (200 // share,),
        "noise_steps": STEPS,
    }
    unet = {
        "predicts": ("velocity",) if is_mnist else ("levels",),
        "denoiser": ("unet",),
        "denoiser_widths": ((16, 32),),
        "activation": ("silu",),
        "learning_rate": (2e-3,),
        "num_epochs": (100 // share,),
        "noise_steps": (0,),
    }
    grids = [vae, vae | ladder, vae | {"network": ("pixelcnn",)}, chain | dense]
    if is_mnist:
        grids = [vae]
        if share > 1:
            unet["num_epochs"] = (10,)
    config.sweep = (*grids, chain | unet)
    config.lock()
    return config
