"""docs/accelerator.md, written from the records."""

from pathlib import Path
from types import ModuleType

from benchmarks.accelerator import (
    burda,
    evidence,
    exact,
    members,
    one_model,
    traps,
)
from experiments.files.reading import read_facts
from experiments.files.writing import write_atomically

PARTS: dict[str, ModuleType] = {
    "exact": exact,
    "traps": traps,
    "one_model": one_model,
    "members": members,
    "burda": burda,
    "evidence": evidence,
}

_HEAD = """# On an accelerator

Printed by `python -m benchmarks.accelerator` from the records in `{records}`, a
folder for each machine. The command measures on the accelerator that it finds and needs
no network. It stops after 8.5 minutes; the same command goes on there.

```
python -m benchmarks.accelerator --images=mnist --peak_tflops=67,495,989 --peak_gbs=3350
```

`--images` names an npz file, or a folder with MNIST's original files; without it,
images are made up. The last two flags are the peak rates of the device: TFLOP/s in
float32, TF32 and bfloat16, and GB/s of its memory. `--full` also trains the whole table
of Burda et al. 2016. `--parts` names some of these parts:

{parts}

Times are medians, with the least and the most in brackets. Where no precision is named,
models train with JAX's default products, which are of TF32 on a GPU; log p(x) is always
estimated with products of float32."""

_NOT_RUN = "**Not run on an accelerator yet**: there is no number of a GPU or TPU."


def _machine(conditions: dict[str, str]) -> str:
    facts = [conditions[name] for name in ("versions", "images")]
    text = f"## {conditions['device']}\n\n{facts[0]}. Images: {facts[1]} to test."
    if conditions["size"] == "small":
        text += " **Everything is small here: its numbers only show that it runs.**"
    return text


def write(records: Path, page: Path) -> None:
    """Writes the page from all records of a folder."""
    machines = sorted(path for path in records.glob("*") if path.is_dir())
    texts, accelerators = [], 0
    for folder in machines:
        found = {
            name: read_facts(folder / f"{name}.json")
            for name in PARTS
            if (folder / f"{name}.json").exists()
        }
        if not found:
            continue
        conditions = next(iter(found.values()))["conditions"]
        accelerators += conditions["platform"] != "cpu"
        texts.append(_machine(conditions))
        for name, facts in found.items():
            part = PARTS[name]
            texts.append(f"### {part.TITLE}")
            texts.append(part.section(facts["pieces"]))
    parts = "\n".join(f"- `{name}`: {part.ABOUT}" for name, part in PARTS.items())
    head = _HEAD.format(records=records, parts=parts)
    if not accelerators:
        texts.insert(0, _NOT_RUN)
    write_atomically(page, "\n\n".join([head, *texts]) + "\n")
