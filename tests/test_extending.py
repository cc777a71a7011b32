"""Runs the examples of docs/extending.md in their order on the page."""

import re
import shlex
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from experiments.explorer import models
from experiments.settings import configuration, user_code
from experiments.settings.arguments import Argument, expanded
from experiments.settings.grid import expand
from vae_jax.diffusion import NOISE_SCHEDULES
from vae_jax.distributions import latent_noise
from vae_jax.likelihoods import LIKELIHOODS
from vae_jax.networks import DENOISERS, NETWORKS
from vae_jax.objectives import IWAE, OBJECTIVES, Diffusion, ElboLogWeight
from vae_jax.population import check_padding
from vae_jax.posteriors import POSTERIORS
from vae_jax.priors import PRIORS
from vae_jax.training import TrainingConfig

PAGE = (Path(__file__).parents[1] / "docs" / "extending.md").read_text()
*PARTS, AT_WORK, CONFIGURATION = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)


@pytest.fixture(scope="module")
def examples():
    """Returns what the page's examples define, and restores the registries."""
    registries = [
        LIKELIHOODS,
        NETWORKS,
        POSTERIORS,
        PRIORS,
        OBJECTIVES,
        DENOISERS,
        NOISE_SCHEDULES,
    ]
    before = [dict(registry) for registry in registries]
    names: dict = {}
    # A class needs a module that contains it.
    names["__name__"] = __name__
    for example in (*PARTS, AT_WORK):
        exec(example, names)
    yield names
    for registry, entries in zip(registries, before, strict=True):
        registry.clear()
        registry.update(entries)


OPTIONS = {
    "likelihood": {"logit_bound": 8.0},
    "network": {"skip_every": 2},
    "posterior": {"log_scale_bound": 5.0},
    "prior": {"scale": 2.0},
}


def test_commands_take_them_with_options_of_their_own(examples, tmp_path, monkeypatch):
    """The commands are those of the page that train."""
    del examples  # Their registrations are removed again.
    (tmp_path / "my_parts.py").write_text("\n".join(PARTS))
    (tmp_path / "my_config.py").write_text(CONFIGURATION)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr(user_code, "_parts", [])
    code = PAGE.replace("\\\n", "")
    trained = {}
    for name in ("sweep", "train"):
        (command,) = re.findall(rf"python -m experiments\.{name} (.*)", code)
        own, others = configuration.split(expanded(map(Argument, shlex.split(command))))
        named = dict(other.option() for other in others)
        user_code.import_parts([named["parts"]])
        config = configuration.read(own, "configs/digits.py:tiny").fields
        trained[name] = expand(config | ({} if name == "sweep" else {"sweep": {}}))
    del sys.modules["my_parts"]  # Other tests have others.
    assert len(trained["sweep"]) == 4
    for run in trained["sweep"]:
        model = run.settings.model
        for kind, options in OPTIONS.items():
            assert dict(getattr(model, f"{kind}_options")) == options
        vae = model.build(image_shape=(8, 8, 1), levels=17)
        assert vae.likelihood.logit_bound == 8
        assert vae.network.skip_every == 2
        assert vae.posterior_family.log_scale_bound == 5
        assert vae.prior_family.scale == 2
        assert run.settings.training.config().objective.correction == 0.5
        assert not model.can_be_padded
    (run,) = trained["train"]
    assert run.settings.model.network == "skip"
    assert dict(run.settings.model.network_options) == {"skip_every": 2}


def test_the_likelihood_is_scipys_and_sums_to_one(examples):
    likelihood = examples["make_likelihood"]("binomial", levels=17)
    logits = jnp.array([-3.0, 0.2, 5.0])
    k = jnp.arange(17)
    log_prob = jax.vmap(likelihood.log_prob, (None, 0))(
        logits[:, None, None], jnp.broadcast_to(k[:, None, None], (17, 3, 1))
    )
    bounded = jax.nn.sigmoid(10 * jnp.tanh(logits / 10))
    expected = scipy.stats.binom.logpmf(k[:, None], 16, bounded[None])
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
    prior = examples["IndependentLaplace"](2, scale=3.0)
    expected = scipy.stats.laplace(0, 3.0)
    np.testing.assert_allclose(
        prior.log_prob(z[:, 0]), expected.logpdf(z[:, 0]).sum(-1), rtol=1e-4
    )
    draws = prior.sample(jax.random.key(1), 2000)
    assert scipy.stats.kstest(draws.ravel(), expected.cdf).pvalue > 1e-4


def test_the_objective_is_the_jackknife_of_the_bound(examples, key):
    """With two samples it is 2 L_2 - L_1; checked through IWAE with the same key."""
    model, params = examples["model"], examples["trained"].params
    x = examples["images"].reshape(-1, 16)
    two = IWAE(num_samples=2)(model, params, key, x)
    for correction, expected in ((1.0, 2 * two.bound - two.elbo), (0.0, two.bound)):
        jackknife = examples["Jackknife"](num_samples=2, correction=correction)
        terms = jackknife(model, params, jax.random.clone(key), x)
        np.testing.assert_allclose(terms.bound, expected, rtol=1e-5, atol=1e-4)
    with pytest.raises(ValueError, match="num_samples is 1"):
        examples["Jackknife"]()


def chain(examples, noise_schedule):
    return examples["make_vae"](
        examples["make_likelihood"]("discretized_gaussian", levels=17),
        image_shape=(4, 4, 1),
        latent_dim=16,
        network="identity",
        posterior="noise",
        prior="diffusion",
        denoiser="one_layer",
        denoiser_widths=(8,),
        noise_schedule=noise_schedule,
        predicts="levels",
    )


def test_a_registered_schedule_leaves_the_constants_of_others_alone(examples):
    constants = {}
    for name in ("linear", "cosine", "sigmoid"):
        prior = chain(examples, name).prior_family
        params = prior.init(jax.random.key(0), examples["images"][:1], 17)
        constants[name] = params["constants"].get("schedule", jnp.zeros(0)).tolist()
    assert constants == {"linear": [1, 0], "cosine": [0, 1], "sigmoid": []}


def test_the_denoiser_and_the_schedule_train_in_a_chain(examples):
    model = chain(examples, "sigmoid")
    config = TrainingConfig(objective=Diffusion(), batch_size=8, num_epochs=20)
    (trained,) = examples["fit"](model, examples["images"], config, learning_rate=1e-2)
    gamma = model.prior(trained.params).gamma(jnp.float32([0.0, 0.5, 1.0]))
    np.testing.assert_allclose(gamma, [-8.0, -1.5, 5.0], atol=1e-5)
    x = examples["images"].reshape(-1, 16)
    bounds = [
        Diffusion()(model, params, jax.random.key(0), x).bound.mean()
        for params in (
            model.init(jax.random.key(0), x[0] / 16, x[0] / 16),
            trained.params,
        )
    ]
    assert bounds[1] > bounds[0] + 0.3


def test_padding_is_not_exact_for_the_network(examples):
    """It does not say so, and is refused if it does."""
    sizes = 2, 5

    def models(network):
        return [
            examples["make_vae"](
                examples["make_likelihood"]("bernoulli", levels=2),
                image_shape=(4, 4, 1),
                latent_dim=latent_dim,
                network=network,
            )
            for latent_dim in sizes
        ]

    skip = examples["Skip"]
    with pytest.raises(ValueError, match="Skip does not declare pads_exactly"):
        check_padding(models(skip((8,))))

    class Wrong(skip):
        pads_exactly = True

    with pytest.raises(ValueError, match="pads_exactly is True of Wrong"):
        check_padding(models(Wrong((8,))))


def test_all_five_work_together(examples, key):
    model, trained = examples["model"], examples["trained"]
    assert model.network.skip_every == 2
    assert model.likelihood.logit_bound == 8
    assert np.all(np.isfinite(examples["log_px"]))
    x = examples["images"].reshape(-1, 16)
    elbo = ElboLogWeight(num_samples=50)(model, trained.params, key, x).elbo
    # Tighter than the ELBO of the same model.
    assert examples["log_px"].mean() > elbo.mean()
    page = models.describe(trained, title="run")
    assert page["programs"].keys() == {"decode", "encode", "bound"}
