"""Plans a sweep: refuses it before any compute, and says which groups come next."""

import os
from collections.abc import Sequence

import jax

from experiments.data.images import ImageData
from experiments.messages.console import CONSOLE, warn
from experiments.messages.errors import SettingsError
from experiments.messages.wording import counted
from experiments.runner import processes
from experiments.runner.images import training_sample
from experiments.runner.precision import doubt_of_precision, processor_features
from experiments.runner.streaming import import_grain
from experiments.runner.task import build_model, layout, split_epoch
from experiments.runs.folder import RunFolder
from experiments.runs.notes import Note
from experiments.settings.grid import Group, Run, group
from vae_jax.model import num_parameters
from vae_jax.population import param_shapes

_MOST_ON_CPU = 16  # models in a program


def check(runs: Sequence[Run], data: ImageData) -> None:
    """Refuses runs that do not fit the data, before any compute.

    Raises:
        DataError: images are streamed, and a package for it is missing.
        SettingsError: a batch or a VampPrior is larger than the data, a two-sample test
            has too few images, or a likelihood needs a view that the data do not have.
    """
    num_images, num_sampled = len(data.train.images), len(training_sample(data))
    for run in runs:
        if run.settings.data.stream:
            import_grain()
        batch_size = run.settings.training.batch_size
        if batch_size > num_images:
            why = f"{data.name} has {num_images} training images"
            remedy = f"Choose at most {num_images}"
            raise SettingsError.of("training.batch_size", batch_size, why, remedy)
        components = run.settings.model.prior_components
        if run.settings.model.prior == "vamp" and components > num_sampled:
            why = f"a VampPrior starts at so many of {num_sampled} training images"
            remedy = f"Choose at most {num_sampled}"
            raise SettingsError.of("model.prior_components", components, why, remedy)
        permutations = run.settings.diagnostics.permutations
        if permutations and len(data.test.images) < 2:
            why = f"it needs at least 2 test images, and {data.name} has 1"
            field, remedy = "diagnostics.permutations", "Use 0, for no test"
            raise SettingsError.of(field, permutations, why, remedy)
        build_model(run.settings, data)


def check_devices(runs: Sequence[Run], data: ImageData) -> None:
    """Refuses runs that the devices of this process cannot train, before any compute.

    It warns where another setting would be faster.

    Raises:
        SettingsError: there are fewer devices than asked for, or too little memory for
            streaming.
    """
    num_devices = jax.device_count()
    devices = counted(num_devices, "device")
    parallel = runs[0].settings.parallel  # Not an axis: the same in all runs.
    batch = parallel.batch
    if batch > num_devices:
        why, remedy = f"JAX finds {devices}", f"Choose at most {num_devices}"
        raise SettingsError.of("parallel.batch", batch, why, remedy)
    if parallel.lanes > (cores := num_cores()):
        why, remedy = (
            f"this process may use {counted(cores, 'core')}",
            f"Choose at most {cores}",
        )
        raise SettingsError.of("parallel.lanes", parallel.lanes, why, remedy)
    num_columns = num_devices // batch
    if parallel.members > num_columns:
        # Not refused: a run may be continued on a smaller machine.
        warn(
            f"parallel.members is {parallel.members}: JAX finds {devices},"
            f" {batch} for each batch. Members are split over {num_columns}."
        )
    platform = jax.devices()[0].platform
    if doubt := doubt_of_precision(runs, platform, processor_features()):
        warn(doubt)
    for members in group(runs):
        settings = members.widest
        per_column = layout(settings, len(members.runs)).per_column
        split_epoch(settings, data, per_column)


def parts(group: Group) -> list[Group]:
    """Returns the parts of a group that train one by one, of nearly equal size.

    On a CPU a program trains at most 16 models: it keeps one core busy, and the states
    of more models leave the cache. Devices that share the models compute them together.
    """
    return cut(group, _MOST_ON_CPU if _is_one_cpu() else len(group.runs))


def cut(group: Group, most: int) -> list[Group]:
    """Returns as few slices of a group as possible, of nearly equal size.

    Args:
        group: the group.
        most: the most runs of a slice.
    """
    size = -(-len(group.runs) // -(-len(group.runs) // most))
    starts = range(0, len(group.runs), size)
    return [Group(group.runs[i : i + size], group.attempt) for i in starts]


def num_lanes(groups: Sequence[Group]) -> int:
    """Returns how many parts of some groups train at the same time.

    More than one only on a CPU: the programs of small networks keep one core busy. An
    accelerator computes one program after another. If nothing is compiled ahead,
    nothing trains while a program compiles.
    """
    parallel = groups[0].widest.parallel
    if not (_is_one_cpu() and parallel.compile_ahead):
        return 1
    return min(parallel.lanes or num_cores(), sum(len(parts(each)) for each in groups))


def _is_one_cpu() -> bool:
    devices = jax.devices()
    return len(devices) == 1 and devices[0].platform == "cpu"


def num_cores() -> int:
    """Returns the number of processor cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):  # Linux; others have no affinity.
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def longest_first(groups: Sequence[Group], data: ImageData) -> list[Group]:
    """Returns groups in the order of their work, by a rough measure: parameters."""

    def work(group: Group) -> int:
        model = build_model(group.widest, data)
        size = num_parameters(param_shapes(model))
        return size * len(group.runs) * group.widest.training.num_epochs

    return sorted(groups, key=work, reverse=True)


def plan(chosen: Sequence[Run], folder: RunFolder) -> list[Group]:
    """Returns the groups to train: those begun before, then the rest by program.

    Args:
        chosen: the runs to train.
        folder: tells which of them are finished, begun, or were stopped by a value that
            is not finite.

    Raises:
        FolderError: a group was begun by another sweep.
    """
    by_name = {run.name: run for run in chosen}
    finished = folder.members.finished()
    waiting = {name: by_name[name] for name in by_name if name not in finished}
    groups = []
    # The largest first: a whole group stays begun until all its slices are noted.
    notes = folder.groups.begun(finished, warn)
    for note in sorted(notes, key=lambda note: -len(note.runs)):
        unfinished = [name for name in note.runs if name in waiting]
        if not unfinished or not set(note.runs) <= by_name.keys():
            continue
        begun = Group(tuple(by_name[name] for name in note.runs), note.attempt)
        if Note.on(begun) != note or len(group(begun.runs)) > 1:
            reason = "its runs do not train together"
            folder.groups.discard(note.name, reason, warn)
            continue
        groups.append(begun)
        for name in unfinished:
            del waiting[name]
    attempts = {
        name: folder.failures.count(name)
        if run.settings.training.on_non_finite == "reseed"
        else 0
        for name, run in waiting.items()
    }
    return [*groups, *group(waiting.values(), attempts)]


def next_groups(chosen: Sequence[Run], folder: RunFolder | None) -> list[Group]:
    """Returns the groups of the plan that come next, the same in every process.

    Runs that start again with other keys wait until no slice is left in which another
    run may fail: then they train together.

    Args:
        chosen: the runs to train.
        folder: the run folder; None in a process that does not write.
    """
    groups = plan(chosen, folder) if folder else []
    attempt = min((each.attempt for each in groups), default=0)
    names = [
        [run.name for run in each.runs] for each in groups if each.attempt == attempt
    ]
    by_name = {run.name: run for run in chosen}
    names, attempt = processes.from_primary([names, attempt])
    return [Group(tuple(by_name[name] for name in each), attempt) for each in names]


def claim(group: Group, folder: RunFolder | None) -> bool:
    """Takes a group for this command, unless another one has it; in every process."""
    names, taken = [run.name for run in group.runs], False
    if folder and folder.claims.take(names):
        # Another command may have trained it since, or begun it in other slices.
        taken = plan(group.runs, folder) == [group]
        if not taken:
            folder.claims.release(names)
    return processes.from_primary(taken)


def note_slices(slices: Sequence[Group], folder: RunFolder) -> None:
    """Notes how a group was cut: it is continued in the same slices."""
    runs = tuple(run for part in slices for run in part.runs)
    whole = Group(runs, slices[0].attempt)
    for part in (whole, *slices):
        folder.groups.begin(Note.on(part))
    folder.groups.end(whole.name)


def free(chosen: Sequence[Run], folder: RunFolder | None) -> list[Run]:
    """Returns the runs that no other command trains now; in every process.

    Finished ones too: an unfinished member of their group continues beside them.
    """
    names = None
    if folder:
        waiting = unfinished(chosen, folder)
        held = waiting.difference(folder.claims.free(waiting))
        names = [run.name for run in chosen if run.name not in held]
    by_name = {run.name: run for run in chosen}
    return [by_name[name] for name in processes.from_primary(names)]


def unfinished(chosen: Sequence[Run], folder: RunFolder) -> set[str]:
    """Returns the names of those of some runs that are not finished."""
    return {run.name for run in chosen} - folder.members.finished()


def announce(chosen: Sequence[Run], folder: RunFolder, work: str) -> None:
    """Prints how many runs there are to train, and in which programs or jobs."""
    count = len(unfinished(chosen, folder))
    CONSOLE.print(
        f"{counted(len(chosen), 'run')}, {len(chosen) - count} finished before; "
        f"{count} to train in {work} -> {folder.path}"
    )
