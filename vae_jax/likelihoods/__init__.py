"""Families of p(x | z), by name, each on one view of the data.

`make_likelihood('discretized_logistic', levels=256)` returns a frozen description
whose methods are pure functions of arrays: `log_prob`, `mean`, `sample`,
`initial_outputs`. See `interface.Likelihood` for the contract.

log_prob is a mass for the views 'binary' and 'levels' and a density for 'continuous'.
The binary view is another random variable than the integers: its numbers are not
comparable with the rest. Those of the other two views are, through bits per dimension
of the integers (see `continuous`).
"""

import dataclasses
import difflib
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

from vae_jax.likelihoods.binary import Bernoulli
from vae_jax.likelihoods.continuous import (
    Beta,
    ContinuousBernoulli,
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

__all__ = [
    "LIKELIHOODS",
    "Bernoulli",
    "Beta",
    "BetaBinomial",
    "Categorical",
    "ContinuousBernoulli",
    "DiscretizedGaussian",
    "DiscretizedLogistic",
    "Family",
    "Gaussian",
    "Laplace",
    "Likelihood",
    "LogisticMixture",
    "View",
    "make_likelihood",
]


class Family(NamedTuple):
    """A class of likelihoods, with the fields that a name in the registry fixes."""

    cls: type[Likelihood]
    fixed: Mapping[str, Any] = MappingProxyType({})


LIKELIHOODS = {
    "bernoulli": Family(Bernoulli),
    "continuous_bernoulli": Family(ContinuousBernoulli),
    "gaussian_fixed": Family(Gaussian, {"scale": "fixed"}),
    "gaussian_shared": Family(Gaussian, {"scale": "shared"}),
    "gaussian_pixel": Family(Gaussian, {"scale": "pixel"}),
    "gaussian_optimal": Family(Gaussian, {"scale": "optimal"}),
    "laplace": Family(Laplace),
    "beta": Family(Beta),
    "discretized_logistic": Family(DiscretizedLogistic),
    "discretized_gaussian": Family(DiscretizedGaussian),
    "logistic_mixture": Family(LogisticMixture),
    "categorical": Family(Categorical),
    "beta_binomial": Family(BetaBinomial),
}


def make_likelihood(name: str, levels: int, **options: Any) -> Likelihood:
    """Returns the likelihood of the given name.

    Args:
        name: a key of `LIKELIHOODS`.
        levels: number of values a pixel takes, at least 2.
        **options: further fields of the class, such as `components` of
            'logistic_mixture' or `fixed_scale` of 'gaussian_fixed'.

    Raises:
        ValueError: the name or an option is unknown, or a value is not allowed.
    """
    if name not in LIKELIHOODS:
        nearest = difflib.get_close_matches(name, LIKELIHOODS, n=1, cutoff=0.0)[0]
        raise ValueError(
            f"unknown likelihood {name!r}; did you mean {nearest!r}? "
            f"known: {', '.join(LIKELIHOODS)}"
        )
    family = LIKELIHOODS[name]
    fields = {field.name for field in dataclasses.fields(family.cls)}
    known = sorted(fields - {"levels"} - family.fixed.keys())
    unknown = sorted(options.keys() - set(known))
    if unknown:
        raise ValueError(
            f"likelihood {name!r} has no option {', '.join(unknown)}; "
            f"its options: {', '.join(known) or 'none'}"
        )
    return family.cls(levels, **family.fixed, **options)
