"""Writes a page in which a reader walks through the latents of trained models.

    python -m experiments.explore --workdir=runs/sweep
    python -m experiments.explore --workdir=runs/sweep --output=latents.html \
        --only='likelihood=laplace,latent_dim=2 likelihood=beta,latent_dim=2'

Without --only the page has the best model of each likelihood, as the report has.
docs/explorer.md says what it shows. The test images are found as in
experiments.evaluate, by --data_path, --data_dir and --cache_dir; without them, the page
has the few that the run folder holds.
"""

from experiments import guard  # noqa: F401  It listens while the rest is imported.

# isort: split

import math
from typing import TYPE_CHECKING

from absl import flags

from experiments import command_line
from experiments.files.paths import expand_user
from experiments.files.reading import refuse_other_file
from experiments.files.writing import write_atomically
from experiments.messages.console import CONSOLE, warn
from experiments.messages.errors import CommandError, FolderError, SettingsError

if TYPE_CHECKING:
    from experiments.data.sources import Split
    from experiments.runs.folder import RunFolder
    from experiments.settings.grid import Run

_ONLY = flags.DEFINE_string(
    "only", "", "Show these runs, as in experiments.sweep; default: the best."
)
_MEGABYTES = flags.DEFINE_float(
    "megabytes",
    6.0,
    "The most megabytes of the page. Models that do not fit are left out by name.",
    lower_bound=0.0,
)
_OUTPUT = flags.DEFINE_string(
    "output", None, "File to write; default: explorer.html, in the run folder."
)


def main() -> None:
    from experiments.explorer.page import MARK, explore, page
    from experiments.report.groups import best_of_each_likelihood, group_members
    from experiments.report.members import members_of
    from experiments.runs import loading
    from experiments.runs.folder import RunFolder
    from experiments.settings import grid

    if not math.isfinite(_MEGABYTES.value):
        why, remedy = "it must be a number", "Give one, as in --megabytes=20"
        raise SettingsError.of("--megabytes", _MEGABYTES.value, why, remedy)
    folder, left_out = RunFolder.open(command_line.workdir()), list[str]()
    path = (
        expand_user(_OUTPUT.value) if _OUTPUT.value else folder.path / "explorer.html"
    )
    refuse_other_file(path, "page", lambda start: MARK.encode() in start, "--output")
    runs = loading.runs_without_images(folder)
    usable = loading.trained_runs(folder, grid.choose(runs, _ONLY.value), left_out)
    members = members_of(usable.values(), left_out.append, folder.config())
    chosen = {run: run.name for run in usable}
    if not _ONLY.value:
        chosen = best_of_each_likelihood(group_members(members), runs)
        if not chosen:
            raise FolderError(
                f"{folder.path} has no best model: all failed. Choose some by --only."
            )
    images = _images(folder, next(iter(chosen)))
    found = explore(folder, chosen, images, int(_MEGABYTES.value * 1e6))
    left_out += found.left_out
    if not found.data:
        raise FolderError(f"{folder.path} has no model to explore. {found.left_out[0]}")
    names = dict.fromkeys(member.dataset for member in members)
    title = f"Variational autoencoders on {', '.join(names)}"
    write_atomically(path, page(found, title))
    CONSOLE.print(f"explorer: {path}")
    command_line.leave_if_left_out(left_out)


def _images(folder: "RunFolder", run: "Run") -> "Split | None":
    """Returns the test images; None, with a warning, if they cannot be read."""
    from experiments.runs import loading

    places = command_line.places()
    try:
        runs = {each.name: each for each in loading.stored_runs(folder, places)}
        return loading.stored_images(folder, runs[run.name], places).test
    except CommandError as error:
        if places:
            raise
        warn(f"the page has the test images that the run folder holds: {error}")
        return None


if __name__ == "__main__":
    command_line.define_flags("runs/sweep")
    command_line.define_data_flags()
    command_line.define_parts_flag()
    command_line.run(main)
