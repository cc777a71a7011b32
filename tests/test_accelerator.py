"""Tests of the command that measures accelerators, on a CPU and very small."""

import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

from benchmarks.accelerator import burda, one_model, page
from benchmarks.accelerator.records import Deadline, OutOfTime, Record
from benchmarks.accelerator.run import FAILED, UNFINISHED, Options, run
from benchmarks.accelerator.setting import read_images
from benchmarks.work import PIXELS, made_images
from experiments.messages.errors import CommandError, DataError

ROOT = Path(__file__).parents[1]
# Runs the command without packages that a machine with an accelerator may not have. It
# has rich, which Flax imports.
WITHOUT = """
import runpy, sys

class Refusal:
    missing = {
        "ml_collections", "tensorboardX", "tensorflow_datasets", "array_record",
        "grain", "matplotlib", "jinja2", "sklearn", "safetensors", "PIL", "torch",
    }

    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in self.missing:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Refusal())
runpy.run_module("benchmarks.accelerator", run_name="__main__", alter_sys=True)
"""

# 12 members are split over 8 devices; programs that run once are not optimised.
FLAGS = (
    "--xla_force_host_platform_device_count=8 --xla_backend_optimization_level=0 "
    "--xla_llvm_disable_expensive_passes=true"
)


@pytest.fixture
def options(tmp_path):
    return Options(
        platform="cpu",
        records=tmp_path / "records",
        page=tmp_path / "page.md",
        small=True,
        repeats=1,
    )


def command(*flags):
    return subprocess.run(
        [sys.executable, "-c", WITHOUT, *flags],
        cwd=ROOT,
        env={**os.environ, "XLA_FLAGS": FLAGS},
        capture_output=True,
        text=True,
    )


def facts(options, part):
    (path,) = options.records.glob(f"*/{part}.json")
    return json.loads(path.read_text())


@pytest.mark.slow
def test_it_runs_whole_where_optional_packages_are_missing(tmp_path):
    finished = command(
        "--small",
        "--full",
        "--repeats=1",
        "--platform=cpu",
        f"--records={tmp_path}",
        f"--page={tmp_path / 'page.md'}",
    )
    assert finished.returncode == 0, finished.stderr[-2000:]
    text = (tmp_path / "page.md").read_text()
    assert "Not run on an accelerator yet" in text
    for part in page.PARTS.values():
        assert f"### {part.TITLE}\n" in text
    assert "not measured" not in text
    assert "missed" not in text.partition("### Traps")[0]
    records = {path.stem for path in tmp_path.glob("*/*.json")}
    assert records == set(page.PARTS)
    assert not list(tmp_path.glob("*/burda.*.npz"))


def test_without_optional_packages_it_says_how_to_run_it(tmp_path):
    written = tmp_path / "page.md"
    finished = command("--parts=", f"--records={tmp_path}", f"--page={written}")
    assert finished.returncode == 0, finished.stderr[-2000:]
    assert "Not run on an accelerator yet" in written.read_text()


def test_the_page_in_the_docs_is_the_one_that_its_records_give(tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)
    page.write(Options.records, tmp_path / "page.md")
    assert (tmp_path / "page.md").read_text() == Options.page.read_text()


def test_a_call_goes_on_where_the_last_one_ended(options):
    """The schedule is trained in pieces, and gives the bits of one piece."""
    options = dataclasses.replace(options, parts=("burda",), full=True)
    assert run(options) == 0
    at_once = facts(options, "burda")["pieces"]
    broken = dataclasses.replace(
        options, records=options.records / "broken", minutes=0.0
    )
    statuses = [run(broken)]
    while statuses[-1] == UNFINISHED:
        statuses.append(run(broken))
    # The time of a step; one epoch each; the evaluation.
    assert statuses == [UNFINISHED] * 3 + [0]
    in_pieces = facts(broken, "burda")["pieces"]
    assert in_pieces.keys() == at_once.keys()
    for name in ("-log p(x)", "standard error", "best epoch"):
        for table, other in zip(at_once.values(), in_pieces.values(), strict=True):
            assert table.get(name) == other.get(name)
    before = in_pieces
    assert run(broken) == 0
    assert facts(broken, "burda")["pieces"] == before


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"parts": ("speed",)}, "--parts is 'speed': .* exact, traps, one_model"),
        ({"platform": "tpu"}, "--platform is 'tpu': JAX finds no such device here"),
        pytest.param(
            {"small": False, "platform": "auto"},
            "Give --small",
            marks=pytest.mark.skipif(
                jax.default_backend() != "cpu", reason="there is an accelerator"
            ),
        ),
        ({"peak_tflops": (1.0, 2.0)}, "--peak_tflops=67,495,989 --peak_gbs=3350"),
        ({"images": "no/such/folder"}, "cannot read --images=no/such/folder"),
    ],
)
def test_what_cannot_be_used_is_refused_before_any_work(options, changed, said):
    with pytest.raises(CommandError, match=said) as refusal:
        run(dataclasses.replace(options, **changed))
    assert "\n" not in str(refusal.value)
    assert not options.records.exists()


def record(tmp_path, again=False, **conditions):
    conditions = {"device": "one"} | conditions
    return Record(tmp_path / "part.json", conditions, Deadline(60), again)


def test_a_piece_is_measured_once_and_its_failure_is_kept(tmp_path):
    def fail():
        raise ValueError("out of\nmemory")

    first = record(tmp_path)
    first.piece("good", lambda: {"value": 1})
    first.piece("bad", fail)
    second = record(tmp_path)
    second.piece("good", fail)
    second.piece("bad", lambda: {"value": 2})
    assert second.pieces["good"]["value"] == 1
    assert second.pieces["bad"]["failure"] == "ValueError: out of memory"
    assert second.failures == ["bad"]
    again = record(tmp_path, again=True)
    again.piece("bad", lambda: {"value": 2})
    assert again.pieces.keys() == {"bad"}


def test_a_piece_that_ends_the_process_is_left_out_the_third_time(tmp_path):
    class Killed(BaseException):
        pass

    def die():
        raise Killed

    for _ in range(2):
        with pytest.raises(Killed):
            record(tmp_path).piece("deadly", die)
    last = record(tmp_path)
    last.piece("deadly", die)
    assert last.pieces["deadly"]["failure"] == "it ended the process 2 times"


def test_pieces_of_another_machine_are_refused(tmp_path):
    record(tmp_path).piece("good", dict)
    with pytest.raises(CommandError, match=r"it is now 'two'.*Give another folder"):
        record(tmp_path, device="two")
    assert record(tmp_path, device="two", again=True).pieces == {}


def test_arrays_come_back_as_they_were_kept(tmp_path):
    kept = record(tmp_path)
    tree = {"a": np.arange(3), "b": (np.float32(2),)}
    assert kept.arrays("one", tree) is None
    kept.keep_arrays("one", tree)
    found = kept.arrays("one", tree)
    np.testing.assert_array_equal(found["a"], tree["a"])
    assert found["b"] == tree["b"]
    with pytest.raises(ValueError, match="other shapes"):
        kept.arrays("one", {"a": np.arange(4), "b": (np.float32(2),)})


def test_only_the_first_piece_of_a_call_may_take_longer():
    deadline = Deadline(1.0)
    deadline.require(5.0)
    deadline.require(0.5)
    with pytest.raises(OutOfTime):
        deadline.require(5.0)


def test_time_between_kernels_counts_overlapping_ones_once():
    assert one_model.busy([(5.0, 6.0), (0.0, 2.0), (1.0, 3.0), (1.5, 2.5)]) == 4.0


def test_every_cell_of_the_table_has_its_published_values():
    published = burda._published()
    assert {cell.key for cell in burda._CELLS} == set(published)
    assert published["objective=iwae,num_samples=50"]["paper"] == 84.78


def test_images_come_from_an_npz_file_or_from_the_original_files(tmp_path):
    images = made_images(10)
    npz = tmp_path / "own.npz"
    np.savez(npz, train_images=images.reshape(-1, 28, 28), test_images=images[:3])
    train, test, name = read_images(str(npz), small=False)
    np.testing.assert_array_equal(train, images)
    assert (len(test), name) == (3, "own")
    for split, count in (("train", 10), ("t10k", 3)):
        path = tmp_path / f"{split}-images-idx3-ubyte"
        path.write_bytes(bytes(16) + images[:count].tobytes())
    train, test, name = read_images(str(tmp_path), small=False)
    np.testing.assert_array_equal(train, images)
    assert test.shape == (3, PIXELS)
    np.savez(npz, train_images=images / 255, test_images=images)
    with pytest.raises(DataError, match="holds float64: 8-bit images"):
        read_images(str(npz), small=False)


def test_a_failed_piece_is_named_and_so_is_its_part(options, monkeypatch, capsys):
    def fail(*_):
        raise MemoryError("no memory")

    monkeypatch.setattr("benchmarks.accelerator.members._members", fail)
    assert run(dataclasses.replace(options, parts=("members",))) == FAILED
    assert "members: 784-400-20: 1" in capsys.readouterr().err
    assert "not measured: MemoryError: no memory" in options.page.read_text()


def test_no_path_depends_on_the_default_backend():
    """Programs are compiled for the devices that are passed in."""
    for folder in ("vae_jax", "benchmarks/accelerator"):
        for path in (ROOT / folder).rglob("*.py"):
            assert "default_backend" not in path.read_text(), path
