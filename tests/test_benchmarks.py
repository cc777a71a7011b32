"""The benchmark harness, on the smallest work there is and without other frameworks."""

import os

import numpy as np
import pytest

from benchmarks import machine, one_model, tables
from benchmarks.race import Contender
from benchmarks.work import PIXELS, Work, initial_weights, made_images, write_images


def test_contenders_train_alike_and_a_missing_one_is_said_to_be_missing(tmp_path):
    path, described = write_images(tmp_path, 512, data_dir="")
    work = Work(path, batch_size=64, width=8, latent_dim=2)
    peers = (
        Contender("Flax", "flax_steps"),
        Contender("from nowhere", "no_such_contender"),
    )
    section, (ours, products, flax, missing) = one_model.section(work, 1, peers)
    assert described.startswith("512 images")
    assert [len(r.timed) for r in (ours, products, flax, missing)] == [1, 1, 1, 0]
    assert ours.laps[0].elbo == pytest.approx(flax.laps[0].elbo, abs=10.0)
    assert "no_such_contender" in missing.failure
    assert "not run: ModuleNotFoundError" in section
    assert "GFLOP/s" in section


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
    assert weights["encoder"].shape == (PIXELS, 400)


def test_flop_of_a_step_are_those_of_its_products():
    # 784 x 400 x 128 twice forward and three times backward, and the small ones.
    outer, inner = 784 * 400, 400 * 20
    assert Work("").step_flop() == 2 * 128 * (5 * outer + 9 * inner)


def test_a_command_is_timed_and_its_memory_measured():
    finished = machine.run(["-c", "x = bytearray(2**26); print(len(x))"], 1)
    assert finished.output.strip() == str(2**26)
    assert finished.peak_bytes > 2**26
    assert 0 < finished.seconds < 10


def test_a_command_that_fails_says_why():
    with pytest.raises(RuntimeError, match="nonsense"):
        machine.run(["-c", "raise ValueError('nonsense')"], 1)


def test_more_threads_than_cores_are_refused():
    with pytest.raises(ValueError, match="cores"):
        machine.cores(len(os.sched_getaffinity(0)) + 1)


def test_spread_shows_median_and_range():
    assert tables.spread([3.0, 1.0, 2.0], 1) == "2.0 (1.0–3.0)"
