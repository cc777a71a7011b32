"""A value that is not finite: the record of where a run met it, and its replay."""

import dataclasses
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments.data.images import ImageData
from experiments.runner.images import Images
from experiments.runner.leaves import from_named_leaves, named_leaves
from experiments.runner.task import GroupTask, build_model
from experiments.runs.environment import shell_command
from experiments.settings.grid import Run
from experiments.settings.user_code import parts_options
from vae_jax import population, views
from vae_jax.model import Params
from vae_jax.objectives import Terms
from vae_jax.training import OFFENDERS, Member, MemberKeys, Trainer, TrainState


def record(
    task: GroupTask, index: int, state: TrainState, folder: Path
) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Returns the record of a member's failure: facts to read, arrays for a replay.

    Args:
        task: the member's group.
        index: of the member in its group.
        state: the member's state, from before the step that failed.
        folder: the run folder.
    """
    run = task.group.runs[index]
    own = population.member(task.population.members, index)
    epoch, batch = int(state.epoch), int(state.failure.batch)
    step = epoch * task.trainer.steps_per_epoch + batch
    offender = OFFENDERS[int(state.failure.offender)]
    params = state.candidate
    facts = {
        "run": run.name,
        "attempt": task.group.attempt,
        "offender": offender,
        "epochs_finished": epoch,
        "batch": batch,
        "step": step,
    }
    if offender != "validation bound":
        params = state.params
        step_key = jax.random.fold_in(MemberKeys.of(own.key).step, step)
        images = task.trainer.batches(own.key, state.epoch)[batch]
        key = jax.random.key_data(step_key)
        facts |= {"key": key.tolist(), "images": images.tolist()}
    facts["replay"] = replay_command(run.name, folder)
    member = {name: array[index] for name, array in task.member_arrays.items()}
    arrays = {"member": member, "params": params, "opt_state": state.opt_state}
    return facts, jax.tree.map(np.asarray, named_leaves(arrays))


def replay_command(run: str, folder: Path) -> str:
    """Returns the command that replays a run's last failure."""
    where = f"--workdir={folder}", f"--run={run}"
    return shell_command("experiments.replay", *where, *parts_options())


def describe(facts: Mapping[str, Any]) -> str:
    """Returns one line on a failure, with the command that replays it."""
    return (
        f"{facts['run']} met a value that is not finite ({facts['offender']}, step "
        f"{facts['step']}, after {facts['epochs_finished']} epochs) and stopped there; "
        f"{facts['replay']}"
    )


def replay(
    facts: Mapping[str, Any],
    arrays: Mapping[str, np.ndarray],
    run: Run,
    data: ImageData,
) -> tuple[bool, list[str]]:
    """Repeats the step, or the validation, that failed.

    Args:
        facts: as ``record`` returned them.
        arrays: likewise.
        run: the run that failed.
        data: its images.

    Returns:
        Whether the same value is not finite again, and lines that name all values that
        are not.
    """
    chosen = run.settings.model
    if chosen.can_be_padded:  # It was trained with the latents of its group.
        latent_dim = arrays["member/latent_mask"].size
        chosen = dataclasses.replace(chosen, latent_dim=latent_dim)
    model = build_model(dataclasses.replace(run.settings, model=chosen), data)
    config, own = run.settings.training.config(), Images(data).of(model)
    trainer = Trainer(model, config, len(own.train))
    shapes = jax.eval_shape(trainer.start, population.param_shapes(model))
    fields = dict.fromkeys(Member._fields, 0)
    like = {"member": fields, "params": shapes.params, "opt_state": shapes.opt_state}
    stored = jax.tree.map(jnp.asarray, from_named_leaves(arrays, like))
    member, params = Member(**stored["member"]), stored["params"]
    member = member._replace(key=jax.random.wrap_key_data(member.key))
    if facts["offender"] == "validation bound":
        x = own.view(model.likelihood.view, views.VALIDATION)
        terms = trainer.validation_terms(params, member, x)
        found = OFFENDERS[-1] if not np.isfinite(terms.bound) else OFFENDERS[0]
        return found == facts["offender"], [_verdict(facts, found)]

    images = jnp.asarray(own.train[np.array(facts["images"])])
    step = jnp.int32(facts["step"])
    program = jax.jit(trainer.step)
    _, report = program(params, stored["opt_state"], member, images, step)

    @jax.jit
    def in_detail() -> tuple[Params, Terms]:
        keys = trainer.step_keys(member, step)
        x = trainer.observe(keys.view, images)
        warmup = config.warmup(trainer.steps_per_epoch)(step)
        return trainer.gradient(params, member, keys.latent, x, warmup)

    found = OFFENDERS[int(report.offender)]
    gradients, terms = in_detail()
    lines = [
        _verdict(facts, found),
        *_images_not_finite(facts, terms._asdict()),
        *_entries_not_finite(gradients),
        *_largest(params),
    ]
    return found == facts["offender"], lines


def _verdict(facts: Mapping[str, Any], found: str) -> str:
    verdict = (
        "every value is finite" if found == OFFENDERS[0] else f"{found} is not finite"
    )
    recorded = facts["offender"]
    return f"{facts['run']}, step {facts['step']}: {verdict}; recorded was {recorded}."


def _images_not_finite(
    facts: Mapping[str, Any], terms: Mapping[str, jax.Array]
) -> Iterator[str]:
    values = {name: np.asarray(term) for name, term in terms.items()}
    for i, image in enumerate(facts["images"]):
        if not all(np.isfinite(term[i]) for term in values.values()):
            shown = ", ".join(f"{name} {term[i]:.6g}" for name, term in values.items())
            yield f"training image {image}: {shown} nats"


def _entries_not_finite(gradients: Params) -> Iterator[str]:
    for name, leaf in named_leaves(gradients).items():
        count = int(np.sum(~np.isfinite(leaf)))
        if count:
            yield f"gradient of {name}: {count} of {leaf.size} entries are not finite"


def _largest(params: Params) -> Iterator[str]:
    for name, leaf in named_leaves(params).items():
        if leaf.size:
            yield f"parameters {name}: largest magnitude {np.abs(leaf).max():.6g}"
