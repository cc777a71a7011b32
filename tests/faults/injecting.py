"""Runs a command of ``experiments`` with injected values that are not finite.

    python tests/faults/injecting.py sweep '[{"seed": 0, ...}]' --config=...

Each injection is a dictionary: ``seed`` of the member (and ``attempt``, if not the
first), ``step``, ``place`` (a name in ``PLACES``) and ``value`` (``nan``, ``inf`` or
``-inf``). The key of a traced call identifies its member and step, so a replay, which
has the same key, meets the same injection.

Checkpoints are kept beside the run folder, so that a test can read all of them.
"""

import json
import runpy
import shutil
import sys

import jax
import jax.numpy as jnp
import numpy as np

from experiments.runs.notes import GroupNotes
from vae_jax import views
from vae_jax.objectives import Elbo
from vae_jax.training import MemberKeys, StepKeys, Trainer

PLACES = ("reconstruction", "kl", "bound", "batch", "gradient", "shared", "validation")
VALIDATION_IMAGE = 3


def member_key(seed, attempt=0):
    """Returns the key of a member, as experiments.runner.task makes it."""
    key = jax.random.fold_in(jax.random.key(0), np.uint32(seed))
    if attempt:
        key = jax.random.fold_in(key, len(MemberKeys._fields) + attempt)
    return key


def step_key(injection):
    """Returns the key of the step of an injection."""
    keys = MemberKeys.of(member_key(injection["seed"], injection.get("attempt", 0)))
    return jax.random.fold_in(keys.step, injection["step"])


def _key_at(injection):
    """Returns the key in the call at the place of an injection."""
    if injection["place"] == "validation":
        keys = MemberKeys.of(member_key(injection["seed"]))
        return jax.random.fold_in(keys.evaluate, VALIDATION_IMAGE)
    keys = StepKeys.of(step_key(injection))
    name = {"batch": "view", "shared": "shared"}.get(injection["place"], "latent")
    return getattr(keys, name)


class Injections:
    """The injections, as functions of the traced key and value at a place."""

    def __init__(self, injections):
        self._at = {place: [] for place in PLACES}
        for injection in injections:
            data = np.asarray(jax.random.key_data(_key_at(injection)))
            self._at[injection["place"]].append((data, float(injection["value"])))

    def at(self, place, key, value):
        """Returns the value; replaces its first entry if the key is an injection's."""
        for data, wrong in self._at[place]:
            hit = (jax.random.key_data(key) == data).all()
            flat = value.ravel()
            flat = flat.at[0].set(jnp.where(hit, wrong, flat[0]))
            value = flat.reshape(value.shape)
        return value


def install(injections):
    """Puts the injections into ``vae_jax``."""
    inject = Injections(injections).at
    observe, elbo_terms = views.observe, Elbo.terms
    gradient, fit_shared = Trainer.gradient, Trainer._fit_shared

    def observe_injected(view, key, k, levels):
        return inject("batch", key, observe(view, key, k, levels))

    def terms_injected(self, batch):
        terms, key = elbo_terms(self, batch), batch.key
        bound = inject("validation", key, inject("bound", key, terms.bound))
        return terms._replace(
            reconstruction=inject("reconstruction", key, terms.reconstruction),
            kl=inject("kl", key, terms.kl),
            bound=bound,
        )

    def gradient_injected(self, params, member, key, *rest):
        gradients, terms = gradient(self, params, member, key, *rest)
        leaves, structure = jax.tree.flatten(gradients)
        leaves[0] = inject("gradient", key, leaves[0])
        return jax.tree.unflatten(structure, leaves), terms

    def fit_shared_injected(self, params, key, x, latent_mask):
        return inject("shared", key, fit_shared(self, params, key, x, latent_mask))

    views.observe = observe_injected
    Elbo.terms = terms_injected
    Trainer.gradient = gradient_injected
    Trainer._fit_shared = fit_shared_injected


def _keep_checkpoints():
    end = GroupNotes.end

    def end_and_keep(notes, group):
        folder = notes.path.parent
        kept = folder.with_name(f"{folder.name}.kept") / group
        shutil.copytree(notes.path / group, kept)
        shutil.copy(notes.path / f"{group}.json", kept)
        end(notes, group)

    GroupNotes.end = end_and_keep


if __name__ == "__main__":
    _, command, injected, *arguments = sys.argv
    install(json.loads(injected))
    _keep_checkpoints()
    sys.argv = [f"experiments/{command}.py", *arguments]
    runpy.run_module(f"experiments.{command}", run_name="__main__", alter_sys=True)
