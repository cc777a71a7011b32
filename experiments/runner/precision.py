"""A warning about networks in bfloat16 on a processor without products of it."""

import re
from collections.abc import Sequence
from pathlib import Path

from experiments.settings.grid import Run

# Features of x86 processors, each with products of bfloat16, as Linux names them.
_PRODUCTS = {"avx512_bf16", "amx_bf16"}


def processor_features() -> set[str]:
    """Returns the features of an x86 processor; none where Linux does not list them."""
    try:
        text = Path("/proc/cpuinfo").read_text()
    except OSError:
        return set()
    found = re.search(r"^flags\s*:(.*)$", text, re.MULTILINE)
    return set(found[1].split()) if found else set()


def doubt_of_precision(runs: Sequence[Run], platform: str, features: set[str]) -> str:
    """Returns a warning if networks would be faster in float32; else ''.

    Args:
        runs: the runs of a sweep.
        platform: that they train on, as JAX names it.
        features: those of the processor; none if they are not known.
    """
    slow = platform == "cpu" and features and not features & _PRODUCTS
    if not slow or all(run.settings.model.precision == "float32" for run in runs):
        return ""
    return (
        "model.precision is 'bfloat16': this processor multiplies float32 faster, "
        f"because it has none of {', '.join(sorted(_PRODUCTS))}. Set it to 'float32'."
    )
