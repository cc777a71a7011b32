"""Tests of the benchmarks, on the smallest work and without other frameworks."""

import dataclasses
import importlib
import itertools
import os
import re
import shutil

import numpy as np
import pytest

from benchmarks import (
    chart,
    evaluation,
    explorer,
    large_sweep,
    machine,
    one_model,
    roofline,
    scaling,
    stages_process,
    start_up,
    sweeps,
    tables,
)
from benchmarks.race import Contender
from benchmarks.work import PIXELS, Work, initial_weights, made_images, write_images
from configs import digits
from experiments.data.images import load_data
from experiments.runner.images import Images
from experiments.settings import grid

SMALL = {
    "mlp": {"widths": (8,), "latent_dim": 2},
    "iwae": {
        "widths": (8, 8),
        "latent_dim": 2,
        "activation": "tanh",
        "precision": "bfloat16",
    },
    "conv": {"widths": (2, 3), "latent_dim": 2, "network": "conv"},
}


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    path, described = write_images(tmp_path_factory.mktemp("images"), 512, data_dir="")
    assert described == "images of 28x28, made by the benchmark"
    return Work(path, num_images=512, batch_size=64, **SMALL["mlp"])


def test_contenders_train_alike_and_a_missing_one_is_said_to_be_missing(work):
    peers = (
        Contender("Flax", "flax_steps"),
        Contender("from nowhere", "no_such_contender"),
    )
    measured = one_model.section(work, 1, peers, roofline.Peak(1e15, 1e15))
    ours, products, (flax, missing) = measured.ours, measured.products, measured.peers
    assert [len(r.timed) for r in (ours, products, flax, missing)] == [1, 1, 1, 0]
    assert ours.laps[0].elbo == pytest.approx(flax.laps[0].elbo, abs=10.0)
    assert "no_such_contender" in missing.failure
    assert "not run: ModuleNotFoundError" in measured.text
    assert "GFLOP/s" in measured.text
    assert "of that bound" in measured.text
    assert [bar.peer for bar in measured.bars("MLP", "1 thread")] == ["Flax"]


@pytest.mark.parametrize(
    ("name", "contender"),
    [
        *itertools.product(
            SMALL, ["ours", "flax_steps", "torch_loops tuned", "pythae_trainer"]
        ),
        ("mlp", "plain_scan"),
    ],
)
def test_contenders_start_at_the_same_bound(work, name, contender):
    """With a learning rate of 0, every network stays as it starts."""
    module, _, variant = contender.partition(" ")
    if module in ("torch_loops", "pythae_trainer"):
        pytest.importorskip("torch")
    if module == "pythae_trainer":
        pytest.importorskip("pythae")
    still = dataclasses.replace(work, **SMALL[name], learning_rate=0.0)
    epoch = importlib.import_module(f"benchmarks.contenders.{module}").make(
        still, variant
    )
    # The entropy of the mean image, as weights are small; and the KL at the start.
    assert epoch() == pytest.approx(_bound_of_the_mean_image(still), abs=5.0)


def _bound_of_the_mean_image(work):
    intensity = work.images() / 255
    mean = np.clip(intensity.mean(0), 1e-3, 1 - 1e-3)
    return np.sum(mean * np.log(mean) + (1 - mean) * np.log1p(-mean))


def test_layers_are_those_of_this_projects_networks(work):
    import jax

    from benchmarks.contenders.ours import vae
    from vae_jax.population import param_shapes

    for fields in SMALL.values():
        own = dataclasses.replace(work, **fields)
        params = param_shapes(vae(own, own.latent_dim))
        kernels = [leaf.shape for leaf in jax.tree.leaves(params) if leaf.ndim > 1]
        expected = [layer.shape for layer in own.layers()] + [(1, PIXELS)]
        assert sorted(kernels) == sorted(expected)


@pytest.mark.slow
def test_evaluation_keeps_a_few_numbers_of_a_sample_and_not_its_image(work):
    few, many = (evaluation.measure(work, count, 1) for count in (200, 2000))
    float_bytes, more = 4, 1800 * evaluation.BATCH_SIZE
    assert many.program_bytes - few.program_bytes < 4 * float_bytes * more
    assert many.peak_bytes > many.program_bytes
    assert many.seconds[0] > few.seconds[0]
    assert many.log_px == pytest.approx(few.log_px, abs=1.0)


def test_members_are_scaled_against_one_alone(work):
    small = dataclasses.replace(work, threads=1)
    assert scaling.work(work).widths == (64,)
    assert scaling.work(dataclasses.replace(work, platform="gpu")).widths == (8,)
    lines = scaling.section(small, [3], 1).splitlines()
    assert [line.split()[1] for line in lines[2:]] == ["1", "3"]
    assert "1.00 (1.00–1.00)" in lines[2]


@pytest.mark.slow
def test_the_second_start_reads_what_the_first_compiled():
    text = start_up.section(1, "cpu", 1)
    first, second = text.splitlines()[-2:]
    assert first.startswith("| first start")
    compiling = [float(row.split("|")[4].split()[0]) for row in (first, second)]
    assert 0 < compiling[1] < compiling[0]


def test_a_roofline_is_the_larger_of_two_times():
    peak = roofline.Peak(flop_per_second=100.0, bytes_per_second=10.0)
    dense = roofline.Counted(flop=1000.0, bytes_accessed=20.0)
    sparse = roofline.Counted(flop=10.0, bytes_accessed=20.0)
    assert (dense.intensity, sparse.intensity) == (50.0, 0.5)
    assert (peak.least_seconds(dense), peak.least_seconds(sparse)) == (10.0, 2.0)
    assert (peak.bound_by(dense), peak.bound_by(sparse)) == ("arithmetic", "memory")
    assert "bound by memory; it runs at 50 %" in roofline.describe(
        sparse, 10.0, 4.0, peak
    )
    assert "bound" not in roofline.describe(sparse, 10.0, 4.0, None)


def test_xla_counts_at_least_the_products(work):
    # Wide enough for products to be most of it.
    work = dataclasses.replace(work, widths=(64,))
    counted = roofline.count(work)
    by_hand = work.num_steps * work.step_flop()
    assert by_hand < counted.flop < 2 * by_hand
    assert counted.bytes_accessed > work.num_steps * work.batch_size * PIXELS


def test_the_chart_has_a_panel_for_each_workload_and_a_bar_for_each_ratio():
    bars = [
        chart.Bar("MLP", "1 thread", "torch", [2.0, 1.5, 3.0]),
        chart.Bar("MLP", "2 threads", "torch", [1.0]),
        chart.Bar("MLP", "2 threads", "Flax", [4.0]),
        chart.Bar("sweep", "2 threads", "one by one", [5.0]),
    ]
    panels = chart.draw(bars).axes
    assert [axes.get_title(loc="left") for axes in panels] == ["MLP", "sweep"]
    widths = [sorted(p.get_width() for p in axes.patches) for axes in panels]
    assert widths == [[1.0, 2.0, 4.0], [5.0]]
    labels = [[t.get_text() for t in axes.get_yticklabels()] for axes in panels]
    assert labels == [["torch", "Flax"], ["one by one"]]


def test_images_are_mostly_black_with_white_and_grey():
    images = made_images(200)
    assert images.shape == (200, PIXELS)
    assert images.dtype == np.uint8
    assert np.median(images) == 0
    assert images.max() == 255
    assert 0.05 < images.mean() / 255 < 0.25


def test_initial_weights_start_at_the_mean_image():
    weights = initial_weights(Work(""), np.full(PIXELS, 0.25, np.float32))
    probability = 1 / (1 + np.exp(-weights["output_bias"]))
    np.testing.assert_allclose(probability, 0.25, rtol=1e-6)
    assert weights["encoder_0"].shape == (PIXELS, 400)


def test_flop_of_a_step_are_those_of_its_products():
    # 784 x 400 x 128 twice forward and three times backward, and the small ones.
    outer, inner = 784 * 400, 400 * 20
    assert Work("").step_flop() == 2 * 128 * (5 * outer + 9 * inner)


def test_flop_of_convolutions_are_those_of_their_products():
    conv = Work("", network="conv", widths=(32, 64), batch_size=1)
    down = [14 * 14 * 9 * 32, 7 * 7 * 9 * 32 * 64]
    up = [7 * 7 * 9 * 64 * 32, 14 * 14 * 9 * 32 * 32, 28 * 28 * 9 * 32]
    dense = 3 * 7 * 7 * 64 * 20
    assert conv.step_flop() == 2 * (3 * (sum(down) + sum(up) + dense) - down[0])


def test_a_work_survives_its_way_to_another_process():
    work = Work("images.npy", network="conv", widths=(32, 64), platform="gpu")
    assert Work.from_json(work.to_json()) == work


def test_a_network_that_is_not_known_is_refused():
    with pytest.raises(ValueError, match="'transformer'"):
        Work("", network="transformer").layers()
    with pytest.raises(ValueError, match="halved 3 times"):
        Work("", network="conv", widths=(2, 2, 2)).layers()


def test_a_command_is_timed_and_its_memory_measured():
    program = """
import json
from benchmarks.machine import peak_bytes
x = bytearray(2**26)
print("something else")
print(json.dumps({"peak": peak_bytes()}))
"""
    finished = machine.run(["-c", program], 1)
    assert 2**26 < finished.answer()["peak"] <= finished.peak_bytes
    assert 0 < finished.seconds < 10


def test_variables_reach_the_command():
    program = "import json, os; print(json.dumps([os.environ['X'], os.environ['Y']]))"
    variables = {"X": "1", "Y": "2"}
    assert machine.run(["-c", program], 1, "cpu", variables).answer() == ["1", "2"]


def test_an_accelerator_is_hidden_from_what_is_measured_on_a_cpu():
    assert machine.environment(1, "cpu")["JAX_PLATFORMS"] == "cpu"
    assert machine.environment(1, "gpu").get("JAX_PLATFORMS") == os.environ.get(
        "JAX_PLATFORMS"
    )


def test_a_command_that_fails_says_why():
    with pytest.raises(RuntimeError, match="nonsense"):
        machine.run(["-c", "raise ValueError('nonsense')"], 1)


def test_more_threads_than_cores_are_refused():
    with pytest.raises(ValueError, match="cores"):
        machine.cores(len(os.sched_getaffinity(0)) + 1)


def test_spread_shows_median_and_range():
    assert tables.spread([3.0, 1.0, 2.0], 1) == "2.0 (1.0–3.0)"


@pytest.mark.slow
def test_a_sweep_of_many_members_is_taken_apart():
    text = large_sweep.section([3], threads=1, platform="cpu")
    row = text.splitlines()[-1].strip("| ").replace(",", "").split(" | ")
    members, total, *phases = [float(number) for number in row[:5]]
    assert members == 4  # the next multiple
    assert sum(phases) == pytest.approx(total, abs=2)
    assert int(row[7]) > 6 * members  # Some files of each, and those of the sweep.


@pytest.mark.slow
def test_the_stages_of_a_group_take_time():
    runs = grid.expand(digits.get_config("tiny").to_dict())
    images = Images(load_data(runs[0].settings.data))
    taken = stages_process.stages(grid.group(runs)[-1], images)
    assert all(seconds > 0 for seconds in taken.values())
    rows = sweeps._stages({"laplace": taken, "beta": taken}).splitlines()
    assert rows[-1].count("**") == 2 * (1 + len(taken))


def test_the_explorer_is_timed_in_node(monkeypatch):
    """Without node, sizes are printed still."""
    name = "784-400-20, Bernoulli"
    monkeypatch.setattr(explorer, "MODELS", {name: ("bernoulli", {"widths": (8,)})})
    number = r" \| [0-9.]+ \([0-9.]+\)" * 3 if shutil.which("node") else r" \| –" * 3
    assert re.search(rf"\| {name}{number} \| – \| [0-9]+ \|", explorer.section(0.05))
    monkeypatch.setattr(shutil, "which", lambda name: None)
    assert "there is no `node` on PATH" in explorer.section()
