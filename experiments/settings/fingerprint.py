"""The fingerprint of a run: a digest of everything that decides its bits.

Every file of a run carries it. So a file is recognised that was copied from another
run, left by an earlier configuration, or made from other images. The fingerprint covers
the settings of the run, not the axes of its sweep: a sweep that grows keeps its
finished runs. It covers neither fields that change no result (paths, devices, how often
checkpoints are written) nor the versions of packages and code, which
``environment.json`` records.
"""

import dataclasses
import hashlib
import json
import reprlib
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from experiments.files.digests import json_digest
from experiments.files.sealed import to_json
from experiments.settings.grid import Run
from experiments.settings.options import REGISTRIES
from experiments.settings.schema import Settings
from experiments.settings.values import Options
from vae_jax.diffusion import NOISE_SCHEDULES
from vae_jax.networks import ACTIVATIONS, DENOISERS

# Sections and fields, and fields of data, on which results depend by rounding at most.
_OF_THE_MACHINE = ("checkpoint", "parallel", "trackers")
_NOT_OF_THE_IMAGES = (
    "cache_dir",
    "data_dir",
    "download",
    "path",
    "stream",
    "stream_megabytes",
)


def fingerprint(settings: Settings, images: str) -> str:
    """Returns the fingerprint of a run, as a hexadecimal SHA-256.

    A field is left out if it has its default. So a later version can add a field, with
    a default for the behaviour before, and fingerprints stay. Never change a default:
    fingerprints would change without a warning.

    Args:
        settings: of the run.
        images: their fingerprint (``ImageData.fingerprint``).
    """
    facts = {
        "settings": comparable(_given(settings)),
        "images": images,
        "own_modules": _own_modules(settings),
    }
    return json_digest(facts)


def fingerprints(runs: Iterable[Run], images: str) -> dict[str, str]:
    """Returns the fingerprint of each run by its name."""
    return {run.name: fingerprint(run.settings, images) for run in runs}


def group_fingerprint(runs: Sequence[str], attempt: int) -> str:
    """Returns the fingerprint of runs that train together.

    Args:
        runs: the fingerprint of each, in their order.
        attempt: how often they were started before, with other keys.
    """
    return json_digest([attempt, *runs])


def comparable(config: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the fields of a configuration, or a run, that results depend on."""
    kept = {name: config[name] for name in config if name not in _OF_THE_MACHINE}
    if isinstance(data := kept.get("data"), Mapping):
        kept["data"] = {n: data[n] for n in data if n not in _NOT_OF_THE_IMAGES}
    return kept


def machine_settings(config: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the fields that decide how results are rounded, and nothing else."""
    stream = config.get("data", {}).get("stream", False)
    found = {**config.get("parallel", {}), "stream": stream}
    for field in ("compile_ahead", "lanes"):  # They decide when programs run.
        found.pop(field, None)
    return found


def differences(
    old: Mapping[str, Any], new: Mapping[str, Any], *, sweep: bool = True
) -> list[str]:
    """Returns the fields in which results of two configurations differ, a line each.

    Args:
        old: a configuration, of this or an earlier version.
        new: another one.
        sweep: whether it matters which runs the sweep has.
    """
    old, new = (
        comparable(json.loads(to_json(with_defaults(config)))) for config in (old, new)
    )
    if not sweep:
        old.pop("sweep", None)
        new.pop("sweep", None)
    return differing(old, new, "config")


def differing(old: Any, new: Any, path: str) -> list[str]:
    """Returns the entries in which two nested mappings differ, a line each."""
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        return [
            line
            for name in sorted({*old, *new})
            for line in differing(
                old.get(name, "(absent)"), new.get(name, "(absent)"), f"{path}.{name}"
            )
        ]
    return [] if old == new else [f"{path} is {old!r} there and {new!r} here"]


def with_defaults(config: Mapping[str, Any], cls: Any = Settings) -> dict[str, Any]:
    """Returns a stored configuration with the fields of later versions.

    They get their defaults, which stand for the behaviour before. A field without a
    default is not added.

    Args:
        config: the configuration, or a section of it.
        cls: the class of its fields.
    """
    filled = dict(config)
    for field in dataclasses.fields(cls):
        kind, default = field.type, field.default
        is_section = dataclasses.is_dataclass(kind)
        # A configuration leaves out options by name that are not given.
        if default is not dataclasses.MISSING and kind is not Options:
            whole = dataclasses.asdict(default) if is_section else default
            filled.setdefault(field.name, whole)
        if is_section and isinstance(inner := filled.get(field.name), Mapping):
            filled[field.name] = with_defaults(inner, kind)
    return filled


def _given(settings: Any) -> Any:
    """Returns the fields of settings that do not have their default."""
    return {
        field.name: _given(value) if dataclasses.is_dataclass(value) else value
        for field in dataclasses.fields(settings)
        if (value := getattr(settings, field.name)) != field.default
    }


# Packages whose versions environment.json holds.
_LIBRARIES = ("vae_jax", "jax", "jaxlib", "flax")


def _own_modules(settings: Settings) -> dict[str, str]:
    """Returns the digest of the source of each part of the user's own, by its kind."""
    chosen = vars(settings.model) | vars(settings.training) | vars(settings.evaluation)
    found = {}
    named: dict[str, Any] = {"activation": ACTIVATIONS}
    if settings.model.prior == "diffusion":
        named |= {"denoiser": DENOISERS, "noise_schedule": NOISE_SCHEDULES}
    for kind, registry in {**REGISTRIES, **named}.items():
        part: Any = registry[chosen[kind]]
        part = getattr(part, "func", part)
        if part.__module__.partition(".")[0] not in _LIBRARIES:
            found[kind] = hashlib.sha256(_source(part)).hexdigest()
    return found


def _source(part: Any) -> bytes:
    """Returns the file of a class or function, also if it was run, not imported."""
    module = sys.modules.get(part.__module__)
    own = (part, *getattr(part, "__dict__", {}).values())
    code = [each.__code__ for each in own if hasattr(each, "__code__")]
    # The file of the code comes first: several modules are called '__main__'.
    files = [*(each.co_filename for each in code), getattr(module, "__file__", None)]
    wrappers = dataclasses.__file__, reprlib.__file__  # of __repr__ of dataclasses
    for file in files:
        if file and file not in wrappers and Path(file).is_file():
            return Path(file).read_bytes()
    return b""  # Typed into an interpreter.
