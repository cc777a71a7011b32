"""Families of p(x | z), by name, each on one view of the data.

``make_likelihood('discretized_logistic', levels=256)`` returns a frozen description
whose methods are pure functions of arrays: ``log_prob``, ``mean``, ``sample``,
``initial_outputs``. See ``interface.Likelihood`` for the contract.

``log_prob`` is a mass for the views 'binary' and 'levels' and a density for
'continuous'. The binary view is not the same random variable as the integers, so its
numbers are not comparable with the others. The other two views can be compared by bits
per dimension of the integers (see ``continuous``).
"""

import functools
from typing import Any

from vae_jax.likelihoods.binary import Bernoulli
from vae_jax.likelihoods.continuous import (
    Beta,
    ContinuousBernoulli,
    FixedGaussian,
    Gaussian,
    Laplace,
)
from vae_jax.likelihoods.interface import Likelihood, View
from vae_jax.likelihoods.levels import (
    BetaBinomial,
    Categorical,
    DiscretizedGaussian,
    DiscretizedLogistic,
    LogisticMixture,
)
from vae_jax.registry import Registry

__all__ = [
    "LIKELIHOODS",
    "Bernoulli",
    "Beta",
    "BetaBinomial",
    "Categorical",
    "ContinuousBernoulli",
    "DiscretizedGaussian",
    "DiscretizedLogistic",
    "FixedGaussian",
    "Gaussian",
    "Laplace",
    "Likelihood",
    "LogisticMixture",
    "View",
    "make_likelihood",
]


LIKELIHOODS: Registry[Likelihood] = Registry("likelihood", num_bound=1)
LIKELIHOODS |= {
    "bernoulli": Bernoulli,
    "continuous_bernoulli": ContinuousBernoulli,
    "gaussian_fixed": FixedGaussian,
    "gaussian_shared": functools.partial(Gaussian, scale="shared"),
    "gaussian_pixel": functools.partial(Gaussian, scale="pixel"),
    "gaussian_optimal": functools.partial(Gaussian, scale="optimal"),
    "laplace": Laplace,
    "beta": Beta,
    "discretized_logistic": DiscretizedLogistic,
    "discretized_gaussian": DiscretizedGaussian,
    "logistic_mixture": LogisticMixture,
    "categorical": Categorical,
    "beta_binomial": BetaBinomial,
}


def make_likelihood(name: str, /, levels: int, **options: Any) -> Likelihood:
    """Returns the likelihood of the given name.

    Args:
        name: a key of ``LIKELIHOODS``.
        levels: number of values a pixel takes, at least 2.
        **options: options of this likelihood, such as ``components`` of
            'logistic_mixture' or ``fixed_scale`` of 'gaussian_fixed'.

    Raises:
        ValueError: the name or an option is unknown, or a value is not allowed.
    """
    return LIKELIHOODS.make(name, levels, **options)
