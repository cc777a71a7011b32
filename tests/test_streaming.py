"""Tests of experiments.runner.streaming: training on images that stay on the host."""

import os
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import jax
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec, SingleDeviceSharding

from experiments.data import cache
from experiments.data.images import load_data
from experiments.data.settings import DataSettings
from experiments.data.sources import Source, Split
from experiments.messages.errors import DataError, SettingsError
from experiments.runner import streaming
from experiments.runner.images import Images, training_sample
from experiments.runner.interruption import Stopped
from experiments.runner.streaming import MOST_PIECES, Stream, split_epoch
from experiments.runner.task import GroupTask
from experiments.settings import grid
from tests.test_group_training import opened, outcome, small_config, train
from vae_jax import views
from vae_jax.likelihoods import make_likelihood
from vae_jax.model import make_vae
from vae_jax.training import Trainer, TrainingConfig

pytest.importorskip("grain")

ROOT = Path(__file__).parents[1]

IMAGES = np.random.default_rng(0).integers(0, 17, (73, 6), np.uint8)
BATCH, PIECES = 10, (3, 3, 1)
# Two of three members share a key, and so an order.
KEY_DATA = np.array([[0, 3], [0, 5], [0, 3]], np.uint32)


def trainer(num_epochs):
    model = make_vae(
        make_likelihood("bernoulli", 17), image_shape=(2, 3, 1), latent_dim=1
    )
    config = TrainingConfig(batch_size=BATCH, num_epochs=num_epochs)
    return Trainer(model, config, len(IMAGES))


def stream(
    sharding=None, epochs=range(4), pieces=PIECES, key_data=KEY_DATA, labels=None
):
    sharding = sharding or SingleDeviceSharding(jax.devices()[0])
    keys = jax.random.wrap_key_data(key_data)
    of_epochs = trainer(epochs.stop)
    return Stream(IMAGES, keys, pieces, of_epochs, epochs.start, sharding, labels)


def in_order(epoch):
    """Returns an epoch's images in the order of training on the device."""
    orders = [
        trainer(1).batches(jax.random.wrap_key_data(key), epoch) for key in KEY_DATA
    ]
    return IMAGES[np.stack(orders)]


def live_pieces():
    return sum(array.ndim == 4 for array in jax.live_arrays() if array.dtype == "uint8")


# --- pieces ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("num_steps", "most", "pieces"),
    [
        (7, 3, (3, 3, 1)),
        (7, 100, (7,)),
        (12, 5, (4, 4, 4)),  # an even split within reach needs one program
        (13, 12, (12, 1)),
        (3, 1, (1, 1, 1)),
    ],
)
def test_an_epoch_is_split_into_at_most_two_lengths(num_steps, most, pieces):
    megabytes = (most + 0.5) * MOST_PIECES * 5120 / 1e6
    assert split_epoch(num_steps, 5120, megabytes) == pieces


def test_memory_for_less_than_a_step_is_refused():
    words = r"is 0\.02: 4 batches.* take 0\.0205 MB\. Give at least 0\.0205"
    with pytest.raises(SettingsError, match=words):
        split_epoch(7, 5120, 0.02)
    assert split_epoch(7, 5120, 0.0205) == (1,) * 7


def test_pieces_are_those_of_training_on_the_device():
    pieces = list(stream(epochs=range(1, 4)))
    assert [piece.shape for piece in pieces[:3]] == [(3, n, BATCH, 6) for n in PIECES]
    for i, epoch in enumerate((1, 2, 3)):
        got = np.concatenate(pieces[3 * i : 3 * i + 3], axis=1)
        np.testing.assert_array_equal(got, in_order(epoch))


def test_the_class_of_an_image_comes_with_it():
    labels = np.arange(len(IMAGES))
    piece = next(stream(epochs=range(1), pieces=(7,), labels=labels))
    np.testing.assert_array_equal(IMAGES[piece[..., -1]], piece[..., :-1])
    np.testing.assert_array_equal(piece[..., :-1], in_order(0))


def test_a_mesh_gets_each_part_where_it_belongs():
    devices = np.array(jax.devices()[:1]).reshape(1, 1)
    spec = PartitionSpec("members", None, "batch")
    sharding = NamedSharding(Mesh(devices, ("members", "batch")), spec)
    pieces = stream(sharding, range(1), (7,))
    piece = next(pieces)
    pieces.close()
    assert piece.sharding == sharding
    np.testing.assert_array_equal(piece, in_order(0))


# --- reading ahead --------------------------------------------------------------------


def wait_until(condition):
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_so_many_pieces_are_read_ahead_and_no_more():
    before = live_pieces()
    pieces = stream()
    held = next(pieces)
    wait_until(lambda: live_pieces() - before == 1 + streaming._AHEAD)
    time.sleep(0.2)
    assert live_pieces() - before == 1 + streaming._AHEAD
    assert held.shape[1] == PIECES[0]
    del held
    pieces.close()
    wait_until(lambda: live_pieces() == before)


def test_training_waits_rather_than_let_pieces_pile_up():
    """A program's piece is in use until its result is there."""

    class Result:
        def __init__(self, images):
            self.images = images

        def block_until_ready(self):
            self.images = None

    before, most = live_pieces(), 0

    def program(state, sums, members, images, first_step):
        nonlocal most
        wait_until(lambda: not reading())
        most = max(most, live_pieces() - before)
        return [*state, (first_step, images.shape[1])], Result(images)

    pieces = stream(epochs=range(2))

    def reading():
        return not all(future.done() for future in pieces._read._buffer)

    train_epoch = streaming.training(
        pieces, dict.fromkeys(PIECES, program), (0, 3, 6), np.zeros(3), None
    )
    state, _ = train_epoch([])
    state, _ = train_epoch(state)
    pieces.close()
    assert state == [(0, 3), (3, 3), (6, 1)] * 2
    assert most == MOST_PIECES


def test_what_a_reader_meets_ends_training_in_one_line(monkeypatch):
    take = np.take

    def broken(images, rows, axis):
        if threading.current_thread() is not threading.main_thread():
            raise OSError(5, "Input/output\nerror")
        return take(images, rows, axis)

    pieces = stream()
    next(pieces)
    monkeypatch.setattr(np, "take", broken)
    with pytest.raises(
        DataError, match=r"read training images ahead.*OSError"
    ) as found:
        list(pieces)
    pieces.close()
    assert "\n" not in str(found.value)


def test_closing_ends_the_threads():
    before = set(threading.enumerate())
    pieces = stream()
    next(pieces)
    readers = set(threading.enumerate()) - before
    assert readers
    pieces.close()
    wait_until(lambda: not any(reader.is_alive() for reader in readers))


def test_without_grain_it_is_said_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "grain", None)
    with pytest.raises(
        DataError, match=r'needs grain\. .* pip install "vae_jax\[stream\]"'
    ):
        streaming.import_grain()


# --- whole groups ---------------------------------------------------------------------


def compiled(execution, *, stream):
    """Returns a compiled group of two models; an epoch has pieces of 3, 3 and 1."""
    config = small_config(batch_size=40, num_epochs=4, validate_every=3)
    config["data"] |= {"stream": stream, "stream_megabytes": 0.07}
    config["diagnostics"] |= {"latents": False, "probes": False}
    config["parallel"] |= {"member_execution": execution}
    (group,) = grid.group(grid.expand(config))
    data = load_data(group.widest.data)
    task = GroupTask(group, Images(data))
    assert task.pieces == (PIECES if stream else (7,))
    return task.compile()


@pytest.fixture(scope="module")
def streamed():
    return compiled("loop", stream=True)


def run(path, programs):
    with opened(path) as folder:
        train(programs, folder)
    return outcome(path)


@pytest.mark.slow  # Bits need programs compiled as for users: see the Makefile.
def test_one_after_another_members_keep_every_bit(streamed, tmp_path):
    on_device = run(tmp_path / "device", compiled("loop", stream=False))
    assert run(tmp_path / "streamed", streamed) == on_device


@pytest.mark.slow
def test_mapped_members_agree_within_rounding(tmp_path):
    results, rows = run(tmp_path / "d", compiled("map", stream=False))
    streamed_results, streamed_rows = run(tmp_path / "s", compiled("map", stream=True))
    assert results.keys() == streamed_results.keys()
    assert rows.keys() == streamed_rows.keys() == results.keys()
    for name, (facts, *_) in results.items():
        assert rows[name].count("\n") == streamed_rows[name].count("\n") == 2
        for column in ("elbo", "log_px", "floor"):
            other = streamed_results[name][0][column]
            assert other == pytest.approx(facts[column], rel=1e-5)


@pytest.mark.parametrize("epochs", [1, 2])
def test_a_streamed_group_continues_to_the_same_bits(streamed, tmp_path, epochs):
    with opened(tmp_path / "run") as folder, pytest.raises(Stopped):
        train(streamed, folder, epochs)
    assert run(tmp_path / "run", streamed) == run(tmp_path / "whole", streamed)


# --- images on the host ---------------------------------------------------------------


def source():
    images = np.random.default_rng(0).integers(0, 17, (30, 2, 2, 1), np.uint8)
    return Source(17, {split: Split(images, None) for split in ("train", "test")})


def test_decoded_images_stay_in_the_files_of_the_cache(tmp_path):
    for _ in range(2):  # written, then found
        found = cache.cached(source, ["it"], str(tmp_path), memory_mapped=True)
        images = found.splits["train"].images
        assert isinstance(images, np.memmap)
        np.testing.assert_array_equal(images, source().splits["train"].images)


def test_images_that_lie_in_a_row_are_not_copied(monkeypatch):
    whole = Source(17, {**source().splits, "validation": source().splits["test"]})
    monkeypatch.setattr("experiments.data.images._read", lambda settings: whole)
    data = load_data(DataSettings("digits", num_train=20))
    assert data.train.images.shape == (20, 2, 2, 1)
    assert np.shares_memory(data.train.images, whole.splits["train"].images)


def test_of_very_many_images_a_sample_stays_on_the_device(monkeypatch):
    data = load_data(DataSettings("digits"))
    flat = data.train.images.reshape(1300, 64)
    np.testing.assert_array_equal(training_sample(data), flat)
    monkeypatch.setattr("experiments.runner.images._MOST_SAMPLED", 64 * 500)
    np.testing.assert_array_equal(training_sample(data), flat[::3])
    assert Images(data).view("levels", views.TRAIN).shape == (434, 64)


# --- two processes --------------------------------------------------------------------

HELD = "all has held"


def check_in_two(port, process_id):
    """Runs the checks in each of the two processes; prints a line if all hold."""
    jax.distributed.initialize(f"127.0.0.1:{port}", 2, process_id)
    gathered, take = [], np.take

    def counting(images, rows, axis):
        gathered.append(rows)
        return take(images, rows, axis)

    np.take = counting
    sharding = NamedSharding(
        Mesh(jax.devices(), ("members",)), PartitionSpec("members")
    )
    pieces = stream(sharding, range(1), (7,), KEY_DATA[:2])
    (piece,) = pieces
    pieces.close()
    assert piece.shape == (2, 7, BATCH, 6)
    (own,) = piece.addressable_shards
    np.testing.assert_array_equal(own.data[0], in_order(0)[process_id])
    assert [rows.shape for rows in gathered] == [(1, 7, BATCH)]
    print(HELD)


def test_each_process_gathers_the_images_of_its_own_members():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    environment = {**os.environ, "JAX_PLATFORMS": "cpu"}
    environment.pop("XLA_FLAGS", None)
    started = [
        subprocess.Popen(
            [sys.executable, "-m", "tests.test_streaming", str(port), str(process_id)],
            cwd=ROOT,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for process_id in (0, 1)
    ]
    try:
        for process in started:
            stdout, stderr = process.communicate(timeout=120)
            assert process.returncode == 0, stderr
            assert stdout.splitlines()[-1] == HELD
    finally:
        for process in started:
            process.kill()
            process.communicate()


if __name__ == "__main__":
    check_in_two(*map(int, sys.argv[1:]))
