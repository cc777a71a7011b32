r"""Exports finished runs: tables, figures, arrays and models, for papers and programs.

    python -m experiments.export --workdir=runs/sweep --what=tables,figures
    python -m experiments.export --workdir=runs/sweep --only=3 --what=arrays \
        --images=mine.npy
    python -m experiments.export --workdir=runs/sweep --only=likelihood=bernoulli

Writes into WORKDIR/export, or into --output. --what names any of

    tables    results.tex and results.md
    figures   the charts of the report as PDF and SVG, in the look of --style
    arrays    of each run: latents.npz, scores.csv, reconstructions.npz; of the images
              of --split, or of your own in --images
    models    of each run: encoder.jax and decoder.jax, which run without this project

docs/export.md explains the files. For the images of a split, --data_path, --data_dir
and --cache_dir are as in experiments.evaluate.
"""

from experiments import guard  # noqa: F401  It listens while the rest is imported.

# isort: split

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from absl import flags

from experiments import command_line
from experiments.files.paths import expand_user
from experiments.files.writing import write_atomically
from experiments.messages.console import CONSOLE, warn
from experiments.messages.errors import FolderError, SettingsError

if TYPE_CHECKING:
    from experiments.data.sources import Split
    from experiments.report.groups import Group
    from experiments.report.style import Look
    from experiments.runs.folder import RunFolder
    from experiments.settings.grid import Run
    from vae_jax.trained import TrainedModel

_PARTS = ("tables", "figures", "arrays", "models")

_WHAT = flags.DEFINE_list("what", list(_PARTS), "Parts to export.")
_ONLY = flags.DEFINE_string(
    "only", "", "Export only these runs, as in experiments.sweep."
)
_SPLIT = flags.DEFINE_enum(
    "split", "test", ["train", "validation", "test"], "Images of the arrays."
)
_IMAGES = flags.DEFINE_string(
    "images",
    None,
    "Your own images for the arrays, integers like those of training: a .npy file, or "
    "an npz file of 'images' and, optionally, 'labels'.",
)
_STYLE = flags.DEFINE_string(
    "style", None, "Style file of matplotlib, which changes the look of the figures."
)
_PLATFORMS = flags.DEFINE_list(
    "platforms", ["cpu", "cuda", "tpu"], "Platforms that the models shall run on."
)
_OUTPUT = flags.DEFINE_string(
    "output", None, "Folder to write to; default: export, in the run folder."
)

_PLACES = ("data_path", "data_dir", "cache_dir")
# The part that a flag is about.
_ABOUT = {
    **dict.fromkeys(("split", "images", *_PLACES), "arrays"),
    "style": "figures",
    "platforms": "models",
}


def main() -> None:
    from experiments.report import tables
    from experiments.report.groups import group_members
    from experiments.report.members import members_of
    from experiments.runs import exports, loading
    from experiments.runs.folder import RunFolder
    from experiments.runs.trained import stored_model
    from experiments.settings import grid

    parts = _parts()
    folder, left_out = RunFolder.open(command_line.workdir()), list[str]()
    output = expand_user(_OUTPUT.value) if _OUTPUT.value else folder.path / "export"
    earlier = exports.earlier_runs(output, folder)
    look = _look() if "figures" in parts else {}
    places = command_line.places()
    if "arrays" in parts and _IMAGES.value is None:
        runs = loading.stored_runs(folder, places)
    else:
        runs = loading.runs_without_images(folder)
    chosen = grid.choose(runs, _ONLY.value)
    rows, groups, notes = [], [], list[str]()
    images, class_names = None, list[str]()
    attempts: dict[Run, int] = {}
    artifacts: dict[Run, dict[str, bytes]] = {}
    if "tables" in parts or "figures" in parts:
        rows = folder.members.results([run.name for run in chosen], left_out.append)
        members = members_of(rows, left_out.append, folder.config())
        groups = group_members(members)
    if "arrays" in parts or "models" in parts:
        usable = loading.trained_runs(folder, chosen, left_out, notes.append)
        if "arrays" in parts:
            images, class_names = _images(folder, next(iter(usable)), places)
        attempts, artifacts = _checked(folder, usable, parts, images, left_out)
    if not groups and not attempts:
        raise FolderError(
            next(iter(left_out), "")
            or f"{folder.path} holds no finished run of the {len(chosen)} chosen: "
            "train first, with the command in its environment.json."
        )

    # All has been read, and nothing is refused from here on.
    for line in notes:
        warn(line)
    names = dict.fromkeys([row["run"] for row in rows] + [run.name for run in attempts])
    exports.begin(output, folder, names, earlier)
    if "tables" in parts:
        write_atomically(output / "results.md", tables.markdown(groups))
        write_atomically(output / "results.tex", tables.latex(groups))
    if "figures" in parts:
        _write_figures(output / "figures", folder, groups, look, left_out)
    for number, (run, attempt) in enumerate(attempts.items(), 1):
        own = stored_model(folder, run, attempt)
        where = output / "members" / run.name
        if images is not None:
            y = own.class_index(images.labels, _source())
            exports.write_arrays(where, own.trained, images, class_names, y)
        if "models" in parts:
            found = artifacts.pop(run, None) or _artifacts(run, own.trained)
            for name, content in found.items():
                write_atomically(where / f"{name}.jax", content)
        CONSOLE.print(f"[{number}/{len(attempts)}] {run.name}")
    CONSOLE.print(f"exported: {output}")
    command_line.leave_if_left_out(list(dict.fromkeys(left_out)))


def _parts() -> list[str]:
    """Returns the parts to export.

    Raises:
        SettingsError: one is unknown, or a flag is about another part.
    """
    from experiments.settings.values import prefixed
    from vae_jax.checks import require_known
    from vae_jax.exported import require_platforms

    parts, platforms = (
        [word.strip() for word in flag.value] or [""] for flag in (_WHAT, _PLATFORMS)
    )
    with prefixed("--"):
        for part in parts:
            require_known("what", part, _PARTS)
        require_platforms(platforms)
    for name, part in _ABOUT.items():
        if flags.FLAGS[name].present and part not in parts:
            raise SettingsError(
                f"--{name} has no effect without {part} in --what. Add it, or leave "
                f"out --{name}."
            )
    for name in ("split", *_PLACES):
        if flags.FLAGS[name].present and _IMAGES.value is not None:
            raise SettingsError(
                f"--{name} has no effect with --images. Leave out one of them."
            )
    return parts


def _look() -> "Look":
    """Returns the look of the figures."""
    from experiments.report.style import MATPLOTLIB, read_look

    if _STYLE.value is None:
        return MATPLOTLIB
    return read_look(expand_user(_STYLE.value))


def _images(
    folder: "RunFolder", run: "Run", places: Mapping[str, str]
) -> tuple["Split", list[str]]:
    """Returns the images of the arrays and the names of their classes.

    Raises:
        DataError: they cannot be read.
    """
    from experiments.data import npz
    from experiments.runs import loading

    if _IMAGES.value is not None:
        return npz.read_as_they_are(_IMAGES.value, "--images"), []
    data = loading.stored_images(folder, run, places)
    return getattr(data, _SPLIT.value), list(data.class_names)


def _source() -> str:
    """Returns the images of the arrays as the user named them."""
    if _IMAGES.value is None:
        return f"--split is {_SPLIT.value}"
    return f"--images is {_IMAGES.value!r}"


def _checked(
    folder: "RunFolder",
    rows: Mapping["Run", Mapping[str, Any]],
    parts: Sequence[str],
    images: "Split | None",
    left_out: list[str],
) -> tuple[dict["Run", int], dict["Run", dict[str, bytes]]]:
    """Returns the runs that can be exported, and artifacts of one model of each kind.

    Args:
        folder: the run folder.
        rows: of its runs.
        parts: those to export.
        images: those of the arrays.
        left_out: gets a line for each run whose files are damaged.

    Returns:
        The number of the attempt of each run, and the artifacts of the first run of
        each kind of model: if these can be exported, the others can.

    Raises:
        SettingsError: the images are not like those of training, or lack labels that a
            run needs, or ``jax.export`` cannot export a model.
    """
    from experiments.runs.trained import stored_model
    from experiments.settings.values import prefixed
    from vae_jax import views

    attempts, artifacts, kinds = {}, {}, set()
    for run, row in rows.items():
        try:
            own = stored_model(folder, run, row["attempt"])
        except FolderError as error:
            left_out.append(str(error))
            continue
        attempts[run], model = row["attempt"], own.trained.model
        if images is not None:
            with prefixed("--"):
                views.as_rows(images.images, model.image_shape, model.likelihood.levels)
            own.class_index(images.labels, _source())
        if "models" in parts and model not in kinds:
            kinds.add(model)
            artifacts[run] = _artifacts(run, own.trained)
    return attempts, artifacts


def _artifacts(run: "Run", trained: "TrainedModel") -> dict[str, bytes]:
    """Returns the artifacts of a model by name."""
    from vae_jax.exported import export_decoder, export_encoder

    platforms = [platform.strip() for platform in _PLATFORMS.value]
    try:
        return {
            "encoder": export_encoder(trained, platforms),
            "decoder": export_decoder(trained, platforms),
        }
    except ValueError as error:
        raise SettingsError(
            f"{run.name}: {error} Leave models out of --what, or the run out by --only."
        ) from error


def _write_figures(
    path: Path,
    folder: "RunFolder",
    groups: Sequence["Group"],
    look: "Look",
    left_out: list[str],
) -> None:
    """Writes the charts of each group as PDF and SVG."""
    from experiments.report import charts
    from experiments.report.page import bounds_of
    from experiments.report.style import FORMATS, rendered

    for group in groups:
        bounds = bounds_of(folder, group.members, left_out.append)
        for chart in charts.draw(group, bounds, look):
            for file_format in FORMATS:
                content = rendered(chart.figure, file_format, look=look)
                name = f"{chart.name}_{group.key}.{file_format}"
                write_atomically(path / name, content)


if __name__ == "__main__":
    command_line.define_flags("runs/sweep")
    command_line.define_data_flags()
    command_line.define_parts_flag()
    command_line.run(main)
