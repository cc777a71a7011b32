"""The examples of docs/extending.md, run in the order they stand there."""

import re
import shlex
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from experiments import configuration, user_code
from experiments.arguments import expanded
from experiments.grid import expand
from experiments.settings import ModelSettings
from vae_jax.distributions import latent_noise
from vae_jax.likelihoods import LIKELIHOODS
from vae_jax.objectives import OBJECTIVES, iwae
from vae_jax.posteriors import (
    POSTERIORS,
)
from vae_jax.priors import PRIORS

PAGE = Path(__file__).parents[1] / "docs" / "extending.md"


@pytest.fixture(scope="module")
def examples():
    """What the page's examples define; the registries are as before afterwards."""
    registries = [LIKELIHOODS, POSTERIORS, PRIORS, OBJECTIVES]
    before = [dict(registry) for registry in registries]
    names: dict = {}
    # A class needs a module to be found in.
    names["__name__"] = __name__
    for example in re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL):
        exec(example, names)
    yield names
    for registry, entries in zip(registries, before, strict=True):
        registry.clear()
        registry.update(entries)


def test_a_sweep_takes_them_from_a_module(examples, tmp_path, monkeypatch):
    del examples  # What they register is removed again.
    parts = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
    (tmp_path / "my_parts.py").write_text("\n".join(parts[:-1]))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr(user_code, "_parts", [])
    (command,) = re.findall(r"experiments\.sweep (.*?)\n[^ ]", PAGE.read_text(), re.S)
    arguments = shlex.split(command.replace("\\\n", ""))
    own, others = configuration.split(expanded(arguments))
    option, name = others[0].option()
    assert option == "parts"
    user_code.import_parts([name])
    del sys.modules["my_parts"]  # Other tests have others.
    config = configuration.read(own, "configs/digits.py:tiny").fields
    names = {run.settings.model.posterior for run in expand(config)}
    assert names == {"diagonal", "laplace"}


def test_the_likelihood_is_scipys_and_sums_to_one(examples):
    likelihood = examples["make_likelihood"]("binomial", levels=17)
    logits = jnp.array([-3.0, 0.2, 5.0])
    k = jnp.arange(17)
    log_prob = jax.vmap(likelihood.log_prob, (None, 0))(
        logits[:, None, None], jnp.broadcast_to(k[:, None, None], (17, 3, 1))
    )
    expected = scipy.stats.binom.logpmf(k[:, None], 16, jax.nn.sigmoid(logits)[None])
    np.testing.assert_allclose(log_prob, expected, rtol=2e-5, atol=2e-5)
    np.testing.assert_allclose(np.exp(log_prob).sum(0), 1, rtol=1e-5)


def test_the_posterior_and_the_prior_are_scipys(examples, key):
    """The samples' distribution by Kolmogorov and Smirnov: failure rate 1e-4."""
    posterior = examples["LaplacePosterior"](
        jnp.array([[0.5, -1.0]]), jnp.log(jnp.array([[2.0, 0.1]]))
    )
    z, log_q = posterior.sample_and_log_prob(latent_noise(key, 2000, 1, 2))
    expected = scipy.stats.laplace([0.5, -1.0], [2.0, 0.1])
    np.testing.assert_allclose(
        log_q[:, 0], expected.logpdf(z[:, 0]).sum(-1), rtol=1e-4, atol=1e-4
    )
    for i, (mean, scale) in enumerate([(0.5, 2.0), (-1.0, 0.1)]):
        reference = scipy.stats.laplace(mean, scale)
        assert scipy.stats.kstest(z[:, 0, i], reference.cdf).pvalue > 1e-4
    prior = examples["StandardLaplace"](2)
    np.testing.assert_allclose(
        prior.log_prob(z[:, 0]), scipy.stats.laplace.logpdf(z[:, 0]).sum(-1), rtol=1e-4
    )


def test_the_objective_is_the_jackknife_of_the_bound(examples, key):
    """With two samples it is 2 L_2 - L_1; checked through iwae with the same key."""
    model, params, x = (examples[name] for name in ("model", "params", "x"))
    jackknife = examples["jackknife"]
    terms = jackknife(model, params, jax.random.clone(key), x, num_samples=2)
    two = iwae(model, params, key, x, num_samples=2)
    np.testing.assert_allclose(
        terms.bound, 2 * two.bound - two.elbo, rtol=1e-5, atol=1e-4
    )


def test_all_four_work_together(examples):
    terms, estimate = examples["terms"], examples["estimate"]
    assert terms.bound.shape == (8,)
    assert np.all(np.isfinite(terms.bound))
    # Better than the bound of four samples, on the same image.
    assert float(estimate.log_px) > float(terms.elbo[0])


def test_settings_take_them_by_name(examples):
    settings = ModelSettings(
        likelihood="binomial",
        latent_dim=2,
        network="mlp",
        widths=(8,),
        activation="tanh",
        fixed_scale=0.1,
        components=1,
        ignore_x=False,
        posterior="laplace",
        upper_layers=(),
        layer_widths=(8,),
        prior="laplace",
        prior_components=1,
        flow_steps=1,
        flow_widths=(8,),
        precision="float32",
        rematerialize=False,
    )
    assert not settings.can_be_padded
