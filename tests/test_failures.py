"""Tests of experiments.runner.failures."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import digits
from experiments.data.images import load_data
from experiments.data.settings import DataSettings
from experiments.runner import failures
from experiments.runner.images import Images
from experiments.runner.leaves import named_leaves
from experiments.runner.task import GroupTask
from experiments.runs.folder import RunFolder
from experiments.settings import grid
from experiments.settings.fingerprint import fingerprints
from vae_jax.population import member
from vae_jax.training import OFFENDERS, Failure, MemberKeys

# The checker counts a key as used if it is sliced from an array of keys, which happens
# to every member's key.
pytestmark = pytest.mark.usefixtures("without_key_checks")

INDEX = 1  # of the run that fails, of two; its latents are padded


@pytest.fixture(scope="module")
def without_key_checks():
    with jax.debug_key_reuse(False):
        yield


def config():
    config = digits.get_config().to_dict()
    config["data"] |= {"num_train": 300}
    config["model"] |= {"widths": (6,)}
    config["sweep"] = {"latent_dim": (3, 2)}
    return config


@pytest.fixture(scope="module")
def data():
    return load_data(DataSettings("digits", num_train=300))


@pytest.fixture(scope="module")
def task(data):
    (group,) = grid.group(grid.expand(config()))
    return GroupTask(group, Images(data))


@pytest.fixture(scope="module")
def sound(task):
    """Returns the state of the member before any step."""
    data = task.images
    init = jax.jit(task.widest.init)
    params = init(jax.random.key(0), data.pixel_mean, data.pixel_std)
    return task.trainer.start(params)


@pytest.fixture(scope="module")
def failed(without_key_checks, task, sound):
    """Returns its state after an epoch with weights so large that a bound overflows."""
    params = jax.tree.map(lambda leaf: jnp.full_like(leaf, 1e30), sound.params)
    epoch = jax.jit(task.trainer.epoch)
    own = member(task.population.members, INDEX)
    state = sound._replace(params=params, epoch=jnp.int32(4))
    state, _ = epoch(state, own, task.images.train)
    return jax.device_get(state)


@pytest.fixture
def recorded(task, failed, tmp_path):
    return failures.record(task, INDEX, failed, tmp_path / "run")


def test_the_failure_is_named(task, failed, recorded, tmp_path):
    facts, _ = recorded
    assert int(failed.failure.offender) != 0
    assert facts["run"] == "latent_dim=2"
    assert facts["attempt"] == 0
    assert facts["offender"] == OFFENDERS[int(failed.failure.offender)]
    # It failed at the first batch of the fifth epoch; an epoch has three.
    assert (facts["epochs_finished"], facts["batch"], facts["step"]) == (4, 0, 12)
    member_key = task.population.members.key[INDEX]
    key = jax.random.fold_in(MemberKeys.of(member_key).step, 12)
    assert facts["key"] == jax.random.key_data(key).tolist()
    batches = task.trainer.batches(member_key, 4)
    assert facts["images"] == batches[0].tolist()
    assert facts["replay"] == (
        f"python -m experiments.replay --workdir={tmp_path / 'run'} --run=latent_dim=2"
    )


def test_its_description_is_one_line_with_the_replay(recorded):
    facts, _ = recorded
    line = failures.describe(facts)
    assert "\n" not in line
    for word in ("latent_dim=2", "step 12", facts["offender"], facts["replay"]):
        assert word in line


def test_its_state_is_whole(failed, recorded, task):
    _, arrays = recorded
    expected = named_leaves({"params": failed.params, "opt_state": failed.opt_state})
    own = {name: array[INDEX] for name, array in task.member_arrays.items()}
    expected |= {f"member/{name}": array for name, array in own.items()}
    assert arrays.keys() == expected.keys()
    for name, array in expected.items():
        np.testing.assert_array_equal(arrays[name], array, err_msg=name)


def test_a_replay_meets_it_again(recorded, task, data, tmp_path):
    """The replay starts from the stored folder."""
    run = task.group.runs[INDEX]
    folder = RunFolder(tmp_path / "run", fingerprints([run], data.fingerprint))
    folder.failures.save("latent_dim=2", 0, *recorded)
    facts, arrays = folder.failures.load("latent_dim=2")
    reproduced, lines = failures.replay(facts, arrays, run, data)
    assert reproduced
    assert lines[0] == (
        f"latent_dim=2, step 12: {facts['offender']} is not finite; recorded was "
        f"{facts['offender']}."
    )
    assert any(line.startswith("training image ") for line in lines)
    assert any("1e+30" in line for line in lines if line.startswith("parameters "))


def test_a_replay_of_a_sound_step_says_so(recorded, sound, task, data):
    facts, arrays = recorded
    sane = named_leaves({"params": jax.device_get(sound.params)})
    run = task.group.runs[INDEX]
    reproduced, lines = failures.replay(facts, arrays | sane, run, data)
    assert not reproduced
    assert "step 12: every value is finite" in lines[0]
    assert all(line.startswith("parameters ") for line in lines[1:])


@pytest.mark.parametrize("sane", ["", "params", "average"])
def test_a_validation_is_replayed(recorded, failed, sound, task, data, sane, tmp_path):
    offender = OFFENDERS.index("validation bound")
    state = failed._replace(
        failure=Failure(np.int32(offender), np.int32(0)), epoch=np.int32(10)
    )
    if sane:
        state = state._replace(**{sane: jax.device_get(sound.params)})
    facts, arrays = failures.record(task, INDEX, state, tmp_path)
    assert facts["offender"] == "validation bound"
    assert facts["step"] == 30
    assert "key" not in facts
    assert "images" not in facts
    run = task.group.runs[INDEX]
    reproduced, (line,) = failures.replay(facts, arrays, run, data)
    assert reproduced == (not sane)
    assert "recorded was validation bound" in line


def test_a_model_of_several_layers_is_replayed(data, tmp_path):
    """Its latents are those of all layers: none of them is padded."""
    layers = config()
    layers["model"] |= {"posterior": "bottom_up", "upper_layers": (2,)}
    layers["training"] |= {"objective": "elbo_log_weight"}
    layers["sweep"] = {"latent_dim": (3,)}
    (group,) = grid.group(grid.expand(layers))
    task = GroupTask(group, Images(data))
    own = task.images
    params = jax.jit(task.widest.init)(jax.random.key(0), own.pixel_mean, own.pixel_std)
    offender = OFFENDERS.index("validation bound")
    state = task.trainer.start(params)._replace(
        failure=Failure(np.int32(offender), np.int32(0))
    )
    recorded = failures.record(task, 0, jax.device_get(state), tmp_path)
    reproduced, (line,) = failures.replay(*recorded, group.runs[0], data)
    assert not reproduced
    assert "every value is finite" in line
