"""``make`` without a target prints help and starts nothing."""

import re
import shutil
import subprocess
from pathlib import Path

MAKEFILE = Path(__file__).parents[1] / "Makefile"


def test_plain_make_names_every_target_and_starts_nothing(tmp_path):
    shutil.copy(MAKEFILE, tmp_path)
    printed = subprocess.run(
        ["make"], cwd=tmp_path, capture_output=True, text=True, check=True
    ).stdout
    targets = re.search(r"^\.PHONY: (.+)", MAKEFILE.read_text(), re.M)[1].split()
    variables = re.findall(r"^(\w+) \?=", MAKEFILE.read_text(), re.M)
    assert {"sweep", "test"} <= set(targets)
    assert "ARGS" in variables
    explained = re.findall(r"^  (\S+) +\S", printed, re.M)
    assert {*targets, *variables} <= set(explained)
    assert list(tmp_path.iterdir()) == [tmp_path / "Makefile"]
