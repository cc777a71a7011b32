"""Tests that exported models run in an environment that has JAX alone."""

import re
import subprocess
import sys
import sysconfig
from importlib import metadata
from pathlib import Path

import numpy as np
import pytest

from experiments.data.sources import Split
from experiments.runs.exports import write_arrays
from tests.test_trained import KINDS, build
from vae_jax.exported import export_decoder, export_encoder

pytestmark = pytest.mark.slow

PAGE = (Path(__file__).parents[2] / "docs" / "export.md").read_text()
(EXAMPLE,) = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
(NEEDED,) = re.findall(r"`pip install (.*)`", PAGE)


def with_requirements(*names):
    """Returns the installed distributions of these names, and all that they need."""
    found, waiting = {}, list(names)
    while waiting:
        name = waiting.pop()
        if name not in found:
            found[name] = metadata.distribution(name)
            needed = (each for each in found[name].requires or () if ";" not in each)
            waiting += [re.match(r"[\w.-]+", each)[0] for each in needed]
    return found.values()


@pytest.fixture(scope="module")
def python(tmp_path_factory):
    """Returns the Python of an environment with what the page says, and no more."""
    folder = tmp_path_factory.mktemp("bare")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder], check=True)
    paths = {"base": str(folder), "platbase": str(folder)}
    own = Path(sysconfig.get_path("purelib", "venv", paths))
    for each in with_requirements(*NEEDED.split()):
        for top in {file.parts[0] for file in each.files} - {"..", "__pycache__"}:
            (own / top).symlink_to(each.locate_file(top))
    return folder / "bin" / "python"


@pytest.mark.parametrize("kind", ["autoregressive", "flows"])
def test_the_example_of_the_page_runs_without_this_project(
    python, images, tmp_path, kind
):
    own = build(images, *KINDS[kind])
    write_arrays(tmp_path, own, Split(images[:10].reshape(-1, 4, 4), None))
    (tmp_path / "encoder.jax").write_bytes(export_encoder(own))
    (tmp_path / "decoder.jax").write_bytes(export_decoder(own))
    check = """
import importlib.util
assert not any(map(importlib.util.find_spec, ("vae_jax", "experiments", "flax")))
np.savez("found.npz", z=z, means=means)
"""
    subprocess.run([python, "-I", "-c", EXAMPLE + check], cwd=tmp_path, check=True)
    found, latents, pictures = (
        np.load(tmp_path / f"{name}.npz")
        for name in ("found", "latents", "reconstructions")
    )
    z = latents["posterior_mean"]
    np.testing.assert_allclose(found["z"], z, rtol=1e-4, atol=1e-5)
    means = own.decode(z).reshape(-1, 4, 4, 1)
    np.testing.assert_allclose(found["means"], means, rtol=1e-4, atol=1e-4)
    assert pictures["reconstructions"].shape == pictures["images"].shape == means.shape
