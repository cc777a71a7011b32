"""Scripts of the explorer, run without a page in node, and in a headless Chromium."""

import base64
import json
import shutil
import subprocess

import numpy as np
import pytest

from experiments.explorer import programs
from tests.browser import Browser

needs_node = pytest.mark.skipif(shutil.which("node") is None, reason="no node on PATH")

# Runs a program for each row of its inputs; the outputs are float32 as base64.
_ANSWER = """
function answer({model, calls}) {
  const opened = Engine.open(model);
  return JSON.stringify(calls.map(([name, rows]) => {
    const found = {};
    for (const row of rows) {
      for (const [output, numbers] of Object.entries(opened.run(name, row))) {
        (found[output] ??= []).push(...new Uint8Array(numbers.buffer));
      }
    }
    for (const output in found) {
      const letters = Array.from(found[output], (byte) => String.fromCharCode(byte));
      found[output] = btoa(letters.join(""));
    }
    return found;
  }));
}
"""


def in_node(model, calls):
    """Returns the outputs of each call, ``{name: [rows, size]}``, computed in node.

    Args:
        model: as ``models.describe`` returns it.
        calls: pairs of the name of a program and its inputs, ``{name: [rows, ...]}``.
    """
    script = f"{_script(model, calls)}\nprocess.stdout.write(answer(input));"
    run = subprocess.run(["node", "-"], input=script, capture_output=True, text=True)
    assert not run.returncode, run.stderr
    return _outputs(run.stdout, calls)


def in_chromium(model, calls, path):
    """Returns what ``in_node`` does, computed in a page that may load nothing.

    Args:
        model: as in ``in_node``.
        calls: as in ``in_node``.
        path: of the page, which is written.
    """
    policy = "default-src 'none'; script-src 'unsafe-inline'"
    script = f"{_script(model, calls)}\ndocument.body.textContent = answer(input);"
    path.write_text(
        f'<!doctype html><meta charset="utf-8"><meta http-equiv='
        f'"Content-Security-Policy" content="{policy}"><body><script>{script}</script>'
    )
    with Browser(path.parent / "browser") as browser:
        tab = browser.open(path)
        assert not tab.errors
        return _outputs(tab.evaluate("document.body.textContent"), calls)


def _script(model, calls):
    rows = [
        [
            name,
            [
                {each: array[i].ravel().tolist() for each, array in inputs.items()}
                for i in range(len(next(iter(inputs.values()))))
            ],
        ]
        for name, inputs in calls
    ]
    data = json.dumps({"model": model, "calls": rows}).replace("<", "\\u003c")
    return f"{programs.engine()}\n{_ANSWER}\nconst input = {data};"


def _outputs(text, calls):
    return [
        {
            output: np.frombuffer(base64.b64decode(content), np.float32).reshape(
                len(next(iter(inputs.values()))), -1
            )
            for output, content in found.items()
        }
        for found, (_, inputs) in zip(json.loads(text), calls, strict=True)
    ]
