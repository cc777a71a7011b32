"""From the VAE to diffusion on one scale: minus ELBO of the digits, in bits/dim.

A VAE, a hierarchy of two layers, a PixelCNN decoder, and chains of latents: a dense
denoiser with 1 to infinitely many steps, which are one compiled program, and a U-Net
with infinitely many.

Command: python -m experiments.sweep --config=configs/diffusion.py \
             --workdir=runs/diffusion
Data:    the digits of scikit-learn; with mnist a prepared tensorflow-datasets folder,
         --config.data.data_dir or TFDS_DATA_DIR.
Cost:    11 minutes on two CPU cores. docs/models.md has the numbers that it prints.

Variants, joined by commas:
    digits  8x8 digits of 17 levels, three seeds (the default)
    mnist   28x28 digits of 256 levels: the VAE and the U-Net
    cpu     one seed and a fifth of the epochs; with mnist, six of the U-Net

A trained chain is reported with other numbers of steps by

    python -m experiments.evaluate --workdir=runs/diffusion --only=prior=diffusion \
        --num_samples=2 --noise_steps=16,64,256,1024,0
"""

from typing import Any

import ml_collections

from configs import digits, mnist

STEPS = (1, 4, 16, 64, 256, 0)  # 0: infinitely many


def get_config(variant: str = "") -> ml_collections.ConfigDict:
    names = (variant or "digits").split(",")
    if {*names} - {"digits", "mnist", "cpu"} or {"digits", "mnist"} <= {*names}:
        raise ValueError(
            f"variant is {variant!r}: it is unknown. Choose digits, mnist or cpu, or "
            "one of the first two with cpu, as in mnist,cpu."
        )
    is_mnist, share = "mnist" in names, 5 if "cpu" in names else 1
    config = (mnist if is_mnist else digits).get_config().unlock()
    config.model.predicts = "velocity" if is_mnist else "levels"
    config.model.denoiser_widths = (512, 512)
    config.model.gamma_min = -12.0 if is_mnist else -8.0
    config.training.kl_warmup_epochs = 0
    config.training.num_epochs = 200 // share
    config.training.learning_rate = 2e-3
    config.training.schedule = "cosine"
    config.training.ema = 0.998
    config.evaluation.num_samples = 10 if is_mnist else 100
    config.diagnostics.latents = False
    config.diagnostics.probes = False
    seeds = {"seed": (0,) if share > 1 else (0, 1, 2)}
    vae: dict[str, Any] = seeds | {
        "likelihood": ("discretized_logistic",),
        "latent_dim": (20 if is_mnist else 16,),
    }
    ladder = {
        "posterior": ("ladder",),
        "upper_layers": ((8,),),
        "objective": ("elbo_log_weight",),
    }
    chain = seeds | {
        "likelihood": ("discretized_gaussian",),
        "latent_dim": (784 if is_mnist else 64,),
        "network": ("identity",),
        "posterior": ("noise",),
        "prior": ("diffusion",),
        "objective": ("diffusion",),
        # A dense denoiser is best after half of the VAEs' epochs.
        "num_epochs": (100 // share,),
    }
    unet = {
        "denoiser": ("unet",),
        "denoiser_widths": ((16, 32),),
        "noise_steps": (0,),
    }
    if is_mnist:
        unet |= {"num_epochs": (6 if share > 1 else 100,)}
    else:  # An epoch has far fewer steps.
        unet |= {"num_epochs": (250 // share,), "activation": ("silu",)}
    grids: tuple[dict[str, Any], ...] = (vae, chain | unet)
    if not is_mnist:
        pixelcnn = {"network": ("pixelcnn",)}
        grids += (vae | ladder, vae | pixelcnn, chain | {"noise_steps": STEPS})
    config.sweep = grids
    config.lock()
    return config
