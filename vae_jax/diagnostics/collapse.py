"""Are the latents in use? One word from four measurements."""

import math
from typing import Literal

Verdict = Literal["collapsed", "partly collapsed", "in use"]

# Below one bit, a code answers not even one yes-or-no question about an image, and a
# model gains less from it than from one binary pixel.
ONE_BIT = math.log(2)


def judge_collapse(
    *,
    rate: float,
    mutual_information: float,
    active_units: int,
    latent_dim: int,
    gain: float,
) -> Verdict:
    """Returns whether a model's latents have collapsed (posterior collapse).

    Four signs of life, each at least one bit (0.69 nats) per image, or one latent:

    - rate: the KL paid. It bounds the information from above, and unlike its estimate
      does not saturate at log N.
    - mutual_information: a rate without it is spent on an aggregated posterior that
      differs from the prior.
    - active_units: at least one.
    - gain: without it, the decoder does not profit from the latents.

    Returns:
        'collapsed' without any of these signs; 'in use' with all of them and at least
        half the latents active (a convention: most of what the model was given);
        'partly collapsed' in between, which includes a model that has latents but,
        untrained or diverging, is no better than a constant.

    Args:
        rate: average KL(q(z|x) || p(z)), nats per image.
        mutual_information: I(n; z), nats.
        active_units: number of active latents.
        latent_dim: number of latents, padding not counted.
        gain: the ELBO (beta = 1) minus that of the best constant output, on the same
            images, nats per image; positive where the model is better.

    Raises:
        ValueError: a value that is not finite.
    """
    measured = {"rate": rate, "mutual_information": mutual_information, "gain": gain}
    for name, value in measured.items():
        if not math.isfinite(value):
            raise ValueError(
                f"{name} is {value}: a model that diverged has no verdict."
            )
    signs = [active_units > 0, *(value >= ONE_BIT for value in measured.values())]
    if not any(signs):
        return "collapsed"
    return (
        "in use"
        if all(signs) and 2 * active_units >= latent_dim
        else ("partly collapsed")
    )
