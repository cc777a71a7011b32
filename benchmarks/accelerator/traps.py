"""Places where an accelerator may be slow, or wrong, without a message."""

import threading
import time

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.accelerator.programs import (
    bytes_in_use,
    epoch_of,
    epoch_seconds,
    timed_epochs,
    vae,
)
from benchmarks.accelerator.records import Facts, Record
from benchmarks.accelerator.setting import Setting
from benchmarks.accelerator.text import not_measured, verdict
from benchmarks.tables import mebibytes, spread, table
from experiments.messages.wording import counted
from vae_jax import views
from vae_jax.fitting import fit
from vae_jax.measure import evaluate
from vae_jax.networks.convolutions import FORMS
from vae_jax.objectives import OBJECTIVES
from vae_jax.population import Layout, Population, member_keys
from vae_jax.training import TrainingConfig

TITLE = "Traps"
ABOUT = "the first state, convolutions, TF32, compiling ahead, uneven members."

MOST_NATS = 0.01
_UNEVEN, _COLUMNS = 12, 8  # members and devices


def measure(setting: Setting, record: Record) -> None:
    """Measures all pieces."""
    record.piece("first state", _first_state, setting)
    for form in setting.size(FORMS, FORMS[-1:]):
        record.piece(f"convolutions, {form}", _convolutions, setting, form, minutes=2)
    record.piece("TF32", _tf32, setting, minutes=2)
    record.piece("compiling ahead", _compiling_ahead, setting, minutes=2)
    if len(setting.devices) >= _COLUMNS:
        for columns in (6, 8):
            record.piece(
                f"{_UNEVEN} members, {columns} devices", _uneven, setting, columns
            )


def _first_state(setting: Setting) -> Facts:
    """Places the first state of a population, and compares its bytes with the plan."""
    members = setting.size(64, 3)
    images = setting.train
    population = Population(
        [vae(widths=setting.size((400,), (8,)))] * members,
        TrainingConfig(batch_size=setting.size(128, 16), num_epochs=1),
        len(images),
        keys=member_keys(np.arange(members, dtype=np.uint32)),
        beta=[1.0] * members,
        learning_rate=[1e-3] * members,
        layout=Layout.of(members, setting.devices),
        execution="map",
    )
    statistics = views.pixel_statistics(images, 256)
    before = [bytes_in_use(device) for device in setting.devices]
    init = population.compile_init(*statistics)
    state = population.init(init, *statistics)
    on_device = jax.block_until_ready(population.placement.place_shared(images))
    after = [bytes_in_use(device) for device in setting.devices]
    epoch = population.compile_epoch(on_device)
    planned, data = population.bytes_needed(init, [epoch], (on_device,))
    leaf = jax.tree.leaves(state.params)[0]
    on_each: dict[str, int] = {}
    for array in (*jax.tree.leaves(state), on_device):
        for shard in array.addressable_shards:
            name = str(shard.device)
            on_each[name] = on_each.get(name, 0) + shard.data.nbytes
    return {
        "members": members,
        "devices": len(leaf.sharding.device_set),
        "planned": planned,
        "data": data,
        "arrays": list(on_each.values()),
        "measured": [
            new - old if old is not None and new is not None else None
            for old, new in zip(before, after, strict=True)
        ],
    }


def _convolutions(setting: Setting, form: str) -> Facts:
    """Times mapped members with convolutions in one form, beside one member alone."""
    batch = setting.size(128, 8)
    images = setting.train[: setting.size(50, 1) * batch]
    model = vae(
        network="conv",
        widths=setting.size((32, 64), (2,)),
        latent_dim=setting.size(20, 2),
        convolutions=form,
    )
    facts: Facts = {}
    for members in setting.size((1, 16), (1, 2)):
        program = epoch_of(
            [model] * members, images, [setting.device], batch_size=batch
        )
        seconds = epoch_seconds(program, setting.repeats)
        steps = len(images) // batch
        facts[str(members)] = [1e3 * each / steps for each in seconds]
    return facts


def _tf32(setting: Setting) -> Facts:
    """Evaluates and scores a trained model with products of float32 and of TF32.

    The evaluation must ignore the precision that the program is compiled with; the
    training objective does not, which shows how far TF32 is off.
    """
    train = setting.train[: setting.size(20_000, 120)]
    test = setting.test[: setting.size(1000, 20)]
    config = TrainingConfig(batch_size=setting.size(128, 20), num_epochs=3)
    (trained,) = fit(
        vae(widths=setting.size((400,), (8,))), train, config, devices=[setting.device]
    )
    model, key = trained.model, jax.random.key(1)
    x = views.shared_draw("binary", views.TEST, test, 256)
    objective = OBJECTIVES.make("elbo")
    mask = jnp.ones(model.latent_dim)

    def evaluated(params, x, images):
        return evaluate(
            model,
            params,
            key,
            x,
            images,
            mask,
            num_samples=setting.size(500, 10),
            chunk=10,
            batch_size=100,
        ).estimate.log_px

    def scored(params, x):
        return objective(model, params, key, x).bound

    def both(device, precision):
        arguments = jax.device_put((trained.params, x, test), device)
        with jax.default_matmul_precision(precision):
            return (
                np.asarray(jax.jit(evaluated)(*arguments)),
                np.asarray(jax.jit(scored)(*arguments[:2])),
            )

    exact = both(setting.device, "float32")
    rounded = both(setting.device, "tensorfloat32")
    cpu = both(setting.both[0], "float32")
    return {
        "evaluation": float(np.abs(exact[0] - rounded[0]).max()),
        "evaluation, CPU": float(np.abs(exact[0] - cpu[0]).max()),
        "objective": float(np.abs(exact[1] - rounded[1]).max()),
        "objective, mean": float((rounded[1] - exact[1]).mean()),
    }


def _compiling_ahead(setting: Setting) -> Facts:
    """Compiles a program while another one trains, and each of both alone."""
    batch, widths = setting.size(128, 16), setting.size((400,), (8,))
    images = setting.train[: setting.size(100, 2) * batch]
    programs = setting.size(3, 1)

    def compile_programs(first_latent: int) -> float:
        started = time.perf_counter()
        for i in range(programs):
            model = vae(widths=widths, latent_dim=first_latent + i)
            epoch_of([model] * 2, images, [setting.device], batch_size=batch)
        return time.perf_counter() - started

    program = epoch_of(
        [vae(widths=widths)] * 2, images, [setting.device], batch_size=batch
    )
    state, alone = timed_epochs(program, 1 + setting.repeats)
    program = program._replace(state=state)
    compiling_alone = compile_programs(first_latent=2)
    beside: list[float] = []
    thread = threading.Thread(
        target=lambda: beside.append(compile_programs(first_latent=2 + programs))
    )
    thread.start()
    during: list[float] = []
    while thread.is_alive() or not during:
        state, seconds = timed_epochs(program, 1)
        program = program._replace(state=state)
        during += seconds
    thread.join()
    return {
        "programs": programs,
        "epoch alone": alone[1:],
        "epoch during": during,
        "compiling alone": compiling_alone,
        "compiling during": beside[0],
    }


def _uneven(setting: Setting, columns: int) -> Facts:
    """Times an epoch of 12 members on all of so many devices."""
    batch = setting.size(128, 16)
    images = setting.train[: setting.size(100, 2) * batch]
    # On 8 devices, 4 more members are computed and have no use.
    members = -(-_UNEVEN // columns) * columns
    model = vae(widths=setting.size((400,), (8,)))
    program = epoch_of(
        [model] * members, images, setting.devices[:columns], batch_size=batch
    )
    return {"epoch": epoch_seconds(program, setting.repeats)}


def section(pieces: dict[str, Facts]) -> str:
    """Returns the section of the page."""
    texts = []
    for name, describe in (
        ("first state", _first_state_text),
        ("TF32", _tf32_text),
        ("compiling ahead", _compiling_ahead_text),
    ):
        if facts := pieces.get(name):
            failure = not_measured(facts)
            texts.append(f"{name}: {failure}." if failure else describe(facts))
    forms = [form for form in FORMS if f"convolutions, {form}" in pieces]
    if forms:
        texts += [
            "Convolutions 32-64 of members that are mapped together, by form (in "
            "`auto`, a CPU multiplies matrices, and others group features):",
            _convolutions_table(forms, pieces),
        ]
    texts.append(_uneven_text(pieces))
    return "\n\n".join(texts)


def _first_state_text(facts: Facts) -> str:
    measured = [each for each in facts["measured"] if each is not None]
    devices, arrays = counted(facts["devices"], "device"), max(facts["arrays"])
    text = (
        f"The first state of {facts['members']} members and the images are on "
        f"{devices}: at most {mebibytes(arrays)} MiB of arrays on one"
    )
    if measured:
        text += f", where the device says {mebibytes(max(measured))} MiB more in use"
    return (
        f"{text}. The plan for training has {mebibytes(facts['planned'])} MiB, "
        f"{mebibytes(facts['data'])} of them images. "
        + verdict(
            "the plan covers them",
            max([arrays, *measured]) <= facts["planned"],
        )
    )


def _tf32_text(facts: Facts) -> str:
    kept = max(facts["evaluation"], facts["evaluation, CPU"])
    return (
        f"With products of TF32 in place of float32, the training objective of an "
        f"image is off by up to {facts['objective']:.1e} nats (mean "
        f"{facts['objective, mean']:+.1e}). The evaluation differs by "
        f"{facts['evaluation']:.1e} nats between both, and by "
        f"{facts['evaluation, CPU']:.1e} from the CPU's. "
        + verdict(f"at most {MOST_NATS:g} nats", kept <= MOST_NATS)
    )


def _compiling_ahead_text(facts: Facts) -> str:
    alone, during = (
        spread([1e3 * each for each in facts[name]], 1)
        for name in ("epoch alone", "epoch during")
    )
    return (
        f"Compiling {counted(facts['programs'], 'program')} takes "
        f"{facts['compiling alone']:.1f} s alone and {facts['compiling during']:.1f} s "
        f"while another one trains; an epoch of that one takes {alone} ms alone and "
        f"{during} ms meanwhile."
    )


def _convolutions_table(forms: list[str], pieces: dict[str, Facts]) -> str:
    rows = []
    for form in forms:
        facts = pieces[f"convolutions, {form}"]
        if failure := not_measured(facts):
            rows.append([form, failure, "–", "–"])
            continue
        times = {int(n): ms for n, ms in facts.items() if n.isdecimal()}
        most = max(times)
        ratio = np.median(times[most]) / np.median(times[1])
        rows.append(
            [form, spread(times[1]), f"{spread(times[most])} ({most})", f"{ratio:.1f}"]
        )
    header = ("form", "ms per step, one member", "mapped (members)", "times one")
    return table(header, rows)


def _uneven_text(pieces: dict[str, Facts]) -> str:
    rows = []
    for columns in (6, 8):
        if facts := pieces.get(f"{_UNEVEN} members, {columns} devices"):
            shown = not_measured(facts) or spread(facts["epoch"], 3)
            rows.append([str(columns), shown])
    if not rows:
        return f"{_UNEVEN} members on {_COLUMNS} devices: there are fewer devices."
    return f"{_UNEVEN} members:\n\n" + table(("devices", "s per epoch"), rows)
