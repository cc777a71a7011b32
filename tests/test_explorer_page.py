"""Tests of experiments.explorer.page, and of the page in a browser."""

import contextlib
import json
import re

import jax
import numpy as np
import pytest

from experiments.data.images import load_data
from experiments.explorer.page import content_policy, explore, page
from experiments.runner.task import build_model
from experiments.settings import grid
from experiments.settings.fingerprint import fingerprints
from tests.browser import Browser, needs_chromium
from tests.folders import opened, save_member, small_sweep
from tests.test_report import Page
from vae_jax import views

HOSTILE = "</script><img src=x onerror=alert(1)>"


def config():
    own = small_sweep()
    own["model"] |= {"widths": (16,)}
    own["sweep"] = {
        "likelihood": ("bernoulli", "discretized_logistic"),
        "latent_dim": (2, 4),
    }
    return own


@pytest.fixture(scope="module")
def runs():
    return grid.expand(config())


@pytest.fixture(scope="module")
def data(runs):
    return load_data(runs[0].settings.data)


@pytest.fixture(scope="module")
def folder(tmp_path_factory, runs, data):
    """Returns the folder of a sweep of models; tests restore what they change."""
    return untrained(opened_for(tmp_path_factory, config(), runs, data), runs, data)


def untrained(folder, runs, data):
    """Returns a folder, closed, with models that are not trained."""
    pixels = data.train.images.reshape(len(data.train.images), -1)
    statistics = views.pixel_statistics(pixels, data.levels)
    means = np.random.default_rng(0).normal(size=(len(data.test.images), 64))
    with contextlib.closing(folder):
        for run in runs:
            model = build_model(run.settings, data)
            arrays = {
                "picture/originals": data.test.images[:32],
                "picture/levels": np.int32(data.levels),
                "test/posterior_mean": means.astype(np.float32),
                "test/elbo": np.full(len(means), -100.0, np.float32),
            }
            if data.test.labels is not None:
                arrays["test/labels"] = data.test.labels
                arrays["classes"] = np.unique(data.train.labels)
            params = model.init(jax.random.key(run.settings.seed), *statistics)
            save_member(folder, run.name, jax.device_get(params), arrays)
    return folder


def opened_for(tmp_path_factory, config, runs, data):
    path = tmp_path_factory.mktemp("explorer") / "run"
    owners = fingerprints(runs, data.fingerprint)
    return opened(path, config, owners, data.fingerprint)


@pytest.fixture(scope="module")
def explorer(folder, runs, data):
    return explore(folder, {run: run.name for run in runs}, data.test)


def read(text, tmp_path):
    """Returns the elements of a page, and the JSON that it holds."""
    path = tmp_path / "page.html"
    path.write_text(text)
    found = re.search(r'id="explorer-data">(.*?)</script>', text, re.S)
    return Page(path), json.loads(found[1])


def write(folder, explorer, title="Digits"):
    path = folder / "page.html"
    path.write_text(page(explorer, title))
    return path


# --- the file -------------------------------------------------------------------------


def test_page_is_well_formed_and_needs_nothing_else(explorer, tmp_path):
    own, facts = read(page(explorer, "Digits"), tmp_path)
    assert not own.open_tags
    assert not own.links
    assert not explorer.left_out
    assert len(facts["models"]) == 4
    assert own.headings == [1, 2]
    assert len(page(explorer, "Digits")) - len(explorer.data) <= 100_000


def test_policy_allows_the_scripts_of_the_page_alone(explorer, tmp_path):
    text = page(explorer, "Digits")
    own, _ = read(text, tmp_path)
    (policy,) = (a["content"] for _, a in own.tags if "http-equiv" in a)
    scripts = re.findall(r"<script>(.*?)</script>", text, re.S)
    assert policy == content_policy(scripts)
    parts = dict(part.split(" ", 1) for part in policy.split("; "))
    assert parts["default-src"] == parts["base-uri"] == "'none'"
    assert parts["script-src"].count("'sha256-") == len(scripts) == 2
    assert "unsafe" not in parts["script-src"]
    assert "eval(" not in text
    assert "new Function" not in text


def test_page_has_the_test_images_and_their_labels(explorer, data, tmp_path):
    _, facts = read(page(explorer, "Digits"), tmp_path)
    points = facts["points"]
    assert points["count"] == 297
    assert points["names"] == [str(digit) for digit in range(10)]
    assert points["label"] == data.test.labels.tolist()


def test_without_images_page_has_those_that_a_run_stored(folder, runs, tmp_path):
    found = explore(folder, {runs[0]: "model"})
    _, facts = read(page(found, "Digits"), tmp_path)
    assert facts["points"]["count"] == 32


def test_one_image_of_any_size_is_shown(folder, runs, data, monkeypatch):
    monkeypatch.setattr("experiments.explorer.page._MOST_POINT_BYTES", 10)
    found = explore(folder, {runs[0]: "model"}, data.test)
    assert not found.left_out
    assert json.loads(found.data)["points"]["count"] == 1


def test_models_that_do_not_fit_are_left_out_by_name_and_size(folder, runs, data):
    chosen = {run: f"model {i}" for i, run in enumerate(runs)}
    whole = explore(folder, chosen, data.test)
    most = 100_000 + len(whole.data) * 3 // 4
    some = explore(folder, chosen, data.test, most)
    assert 0 < len(page(some, "Digits")) <= most
    assert some.left_out
    for line in some.left_out:
        words = r"model \d is left out: it has 0\.\d MB, and the page has room for 0\."
        assert re.match(words, line)
        assert line.split(" is left out")[0] not in some.data
    none = explore(folder, chosen, data.test, 0)
    assert (none.data, len(none.left_out)) == ("", 4)
    assert "No model can be explored." in page(none, "Digits")


def test_a_model_without_parameters_is_left_out_and_named(folder, runs, data):
    path = folder.path / "members" / runs[0].name / "params.safetensors"
    content = path.read_bytes()
    path.write_bytes(b"damaged")
    try:
        found = explore(folder, {runs[0]: "first", runs[1]: "second"}, data.test)
    finally:
        path.write_bytes(content)
    (line,) = found.left_out
    assert line.startswith("first is left out: cannot read the arrays in")
    assert "..." not in line
    assert line.endswith("and repeat the command that trained it.")  # The remedy.
    assert [own["title"] for own in json.loads(found.data)["models"]] == ["second"]


def test_a_model_that_surprises_is_left_out_and_named(folder, runs, data, monkeypatch):
    def describe(trained, **words):
        raise ZeroDivisionError("of one's own part")

    monkeypatch.setattr("experiments.explorer.models.describe", describe)
    found = explore(folder, {runs[0]: "first"}, data.test)
    assert found.left_out == [
        "first is left out: it cannot run in a page (ZeroDivisionError(\"of one's own "
        'part")).'
    ]


def hostile(folder, run, data):
    """Returns an explorer whose names are markup, and 300 characters long."""
    members, name = folder.members, run.name
    arrays = members.arrays(name)
    classes = json.dumps([HOSTILE] * 9 + [300 * "x"]).encode()
    changed = arrays | {"class_names": np.frombuffer(classes, np.uint8)}
    own = members.params(name), members.result(name)
    bits = members.bits_depend_on(name)
    members.save(name, *own, changed, bits)
    try:
        found = explore(folder, {run: HOSTILE + 300 * "x"}, data.test)
    finally:
        members.save(name, *own, arrays, bits)
    return found._replace(left_out=[HOSTILE])


def explored(tmp_path_factory, own):
    """Returns the data and the explorer of models that are not trained."""
    runs = grid.expand(own)
    data = load_data(runs[0].settings.data)
    folder = untrained(opened_for(tmp_path_factory, own, runs, data), runs, data)
    return data, explore(folder, {run: run.name for run in runs}, data.test)


def test_labels_are_the_classes_that_each_model_knows(tmp_path_factory):
    """The first model has no classes, and the test images lack most of them."""
    own = config() | {"sweep": {"condition_on": ("", "label")}}
    own["data"]["num_test"] = 2
    data, found = explored(tmp_path_factory, own)
    assert not found.left_out
    facts = json.loads(found.data)
    kinds = sorted(set(data.test.labels.tolist()))
    assert facts["points"]["names"] == [str(kind) for kind in kinds]
    without, with_classes = facts["models"]
    assert without["classes"] is None
    assert with_classes["classes"] == [str(digit) for digit in range(10)]
    assert with_classes["class_of"] == kinds


def test_names_never_become_markup(folder, runs, data, tmp_path):
    own, facts = read(page(hostile(folder, runs[0], data), HOSTILE), tmp_path)
    assert facts["models"][0]["title"].startswith(HOSTILE)
    assert not own.open_tags
    assert "img" not in [tag for tag, _ in own.tags]


# --- in a browser ---------------------------------------------------------------------


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    with Browser(tmp_path_factory.mktemp("browser")) as browser:
        yield browser


@pytest.fixture(scope="module")
def file(tmp_path_factory, explorer):
    return write(tmp_path_factory.mktemp("page"), explorer)


def text_of(tab, selector):
    return tab.evaluate(f"document.querySelector({selector!r}).textContent")


def place(tab, selector):
    """Returns the middle of an element in the window, after scrolling to it."""
    return tab.evaluate(
        f"(e => (e.scrollIntoView({{block: 'center'}}), e = e.getBoundingClientRect(),"
        f" [e.x + e.width / 2, e.y + e.height / 2]))(document.querySelector("
        f"{selector!r}))"
    )


def choose(tab, select, value):
    """Chooses an option of a control, by their numbers."""
    tab.evaluate(
        f"(s => (s.value = {value}, s.dispatchEvent(new Event('change'))))"
        f"(document.querySelectorAll('#explorer-root select')[{select}])"
    )


BOUND = "/ELBO .* nats of KL/.test(document.querySelector('.explorer').textContent)"
PIXELS = (
    "[...document.querySelector('.decoded canvas').getContext('2d')"
    ".getImageData(0, 0, 8, 8).data].join()"
)
CAPTION = "document.querySelector('.image figcaption').textContent"


@needs_chromium
@pytest.mark.parametrize("dark", [False, True])
def test_page_opens_without_an_error_and_loads_nothing(browser, file, dark):
    tab = browser.open(file, dark=dark)
    tab.wait(BOUND)
    assert tab.evaluate("performance.getEntriesByType('resource').length") == 0
    injected = (
        "(s => (s.textContent = 'window.ran = 1', document.body.append(s),"
        " window.ran ?? 0))(document.createElement('script'))"
    )
    assert not tab.errors
    assert tab.evaluate(injected) == 0
    assert tab.evaluate("fetch('data:,x').then(() => 1, () => 0)") == 0


@needs_chromium
def test_pointer_moves_z_and_a_click_chooses_a_test_image(browser, file):
    tab = browser.open(file)
    tab.wait(BOUND)
    x, y = place(tab, "canvas.map")
    before = tab.evaluate(PIXELS), text_of(tab, ".decoded output")
    tab.pointer("Moved", x + 60, y + 60)
    tab.wait(f"{PIXELS} !== {before[0]!r}")
    assert text_of(tab, ".decoded output") != before[1]
    # Without a click, z returns when the pointer leaves.
    tab.pointer("Moved", 5, 5)
    tab.wait(f"{PIXELS} === {before[0]!r}")
    chosen = tab.evaluate(CAPTION)
    for i in range(-40, 40, 4):  # Among 297 images, some lie near.
        tab.pointer("Pressed", x + i, y, pressed=True)
        tab.pointer("Released", x + i, y)
    tab.wait(f"{CAPTION} !== {chosen!r}")
    assert not tab.errors


@needs_chromium
def test_everything_is_reached_and_used_by_the_keyboard_alone(browser, file):
    tab = browser.open(file)
    tab.wait(BOUND)
    names = []
    for _ in range(60):
        tab.key("Tab")
        name = tab.evaluate(
            "(e => e.getAttribute('aria-label') ?? e.labels?.[0]?.textContent ?? "
            "e.textContent)(document.activeElement)"
        )
        if tab.evaluate("document.activeElement === document.body"):
            break
        assert name
        names.append(name)
        kind = name.split(" ")[0]
        if kind == "Plane" and "Arrow" in name:
            before = text_of(tab, ".decoded output")
            tab.key("ArrowRight", shift=True)
            tab.wait(f"document.querySelector('output').textContent !== {before!r}")
            tab.key("Enter")
            tab.wait("document.activeElement.matches('.map')")
        elif kind == "All":
            tab.key("Enter")
            assert tab.evaluate("document.querySelector('details').open")
        elif name.startswith("z1") and not name.startswith("z1z2"):
            before = tab.evaluate(PIXELS)
            for _ in range(20):
                tab.key("ArrowRight")
            tab.wait(f"{PIXELS} !== {before!r}")
        elif "draws" in name:
            for key in (" ", "ArrowRight", " "):
                tab.key(key)
            tab.wait(
                "document.querySelector('.easel canvas').getAttribute('aria-label')"
                ".startsWith('Your drawing')"
            )
    text = " ".join(names)
    for word in (
        "Model",
        "Beside it",
        "Plane",
        "test images",
        "q(z) and p(z)",
        "Draw z",
        "All latents",
        "z2",
        "Arrow keys move the pen",
        "Clear",
        "Ink",
        "Pen",
        "A file",
    ):
        assert word in text, word
    assert not tab.errors


@needs_chromium
@pytest.mark.parametrize(
    ("shape", "latents", "count"),
    [((1, 1), 1, 1), ((3, 5, 3), 3, 1), ((400, 400), 1, 2)],
)
def test_images_and_latents_of_any_size_are_shown(
    browser, tmp_path_factory, tmp_path, shape, latents, count
):
    """Without labels, and with so few test images that they have no directions."""
    images = np.random.default_rng(0).integers(0, 256, (8, *shape), np.uint8)
    np.savez(tmp_path / "own.npz", train_images=images, test_images=images[:count])
    own = config()
    own["data"] |= {"name": "npz", "path": str(tmp_path / "own.npz")}
    own["data"] |= {"num_train": -1, "num_validation": 2, "white": 255.0}
    own["model"] |= {"widths": (1,), "latent_dim": latents}
    own["training"]["batch_size"] = 2
    own["sweep"] = {}
    tab = browser.open(write(tmp_path, explored(tmp_path_factory, own)[1]))
    tab.wait(BOUND)
    assert not text_of(tab, ".doubt")
    meaning = text_of(tab, ".stage p.note")
    assert ("area" in meaning, "regions" in meaning) == (latents == 1, latents > 1)
    assert not tab.errors


@needs_chromium
def test_a_chain_walks_from_noise_to_an_image_of_a_class(
    browser, tmp_path_factory, tmp_path
):
    own = config() | {"sweep": {"label_dropout": (0.0, 0.1)}}
    own["model"] |= {"network": "identity", "posterior": "noise", "prior": "diffusion"}
    own["model"] |= {"latent_dim": 64, "widths": (256,), "denoiser_widths": (8,)}
    own["model"] |= {"likelihood": "discretized_gaussian", "condition_on": "label"}
    own["training"]["objective"] = "diffusion"
    _, found = explored(tmp_path_factory, own)
    tab = browser.open(write(tmp_path, found))
    done = "document.querySelector('.chain').textContent.includes('Step 16 of 16')"
    tab.wait(done)
    assert "has no plane" in text_of(tab, ".chain")
    assert tab.evaluate("document.querySelector('canvas.map')") is None
    before = tab.evaluate(PIXELS)
    # A change of class, and of the model while its chain runs.
    for select, value in ((2, 3), (2, 4), (0, 1), (2, 5)):
        choose(tab, select, value)
    tab.evaluate("document.querySelector('.chain button').click()")  # New noise.
    tab.wait(f"{done} && {PIXELS} !== {before!r}")
    assert not text_of(tab, ".doubt")
    assert not tab.errors
    tab = browser.open(
        write(tmp_path, found._replace(data=found.data.replace('"start":', '"lost":')))
    )
    tab.wait(
        "document.querySelector('.doubt').textContent.includes('no program start')"
    )
    tab.evaluate("document.querySelector('.chain button').click()")
    assert not tab.errors


@needs_chromium
def test_a_legend_says_how_many_labels_it_leaves_out(browser, explorer, tmp_path):
    path = write(tmp_path, explorer)
    many = json.dumps([str(i) for i in range(25)])
    path.write_text(re.sub(r'"names":\[.*?\]', f'"names":{many}', path.read_text()))
    tab = browser.open(path)
    tab.wait(BOUND)
    assert text_of(tab, ".legend li:last-child") == "and 5 more"


@needs_chromium
def test_two_models_are_compared_on_one_image(browser, file):
    tab = browser.open(file)
    tab.wait(BOUND)
    choose(tab, 1, 4)
    tab.wait("document.querySelectorAll('canvas.map').length === 2")
    tab.wait("(document.body.textContent.match(/ELBO/g) ?? []).length >= 2")
    assert not tab.errors


@needs_chromium
def test_a_file_of_another_size_is_refused_in_place_and_can_be_resized(browser, file):
    tab = browser.open(file)
    tab.wait(BOUND)
    drop = """(async (name, type, width, height, place = '.image') => {
        const canvas = Object.assign(document.createElement('canvas'), {width, height});
        canvas.getContext('2d').fillStyle = 'white';
        canvas.getContext('2d').fillRect(0, 0, width, height);
        const blob = await new Promise(done => canvas.toBlob(done));
        const data = new DataTransfer();
        data.items.add(new File([type ? blob : 'words'], name));
        const event = new DragEvent('drop', {bubbles: true, dataTransfer: data});
        document.querySelector(place).dispatchEvent(event);
    })"""
    notice = "document.querySelector('.image .note').textContent"
    tab.evaluate(f"{drop}('<b>.png', true, 20, 10)")
    words = "<b>.png has 20 × 10 pixels, and the models are of 8 × 8."
    tab.wait(f"{notice}.includes({words!r})")
    tab.evaluate("document.querySelector('.image .note button').click()")
    tab.wait(f"{CAPTION} === '<b>.png' && {notice} === ''")
    tab.evaluate(f"{drop}('right.png', true, 8, 8)")
    tab.wait(f"{CAPTION} === 'right.png'")
    # A file that misses the image does not replace the page.
    tab.evaluate(f"{drop}('beside.png', true, 8, 8, '.map')")
    tab.wait(f"{CAPTION} === 'beside.png'")
    tab.evaluate(f"{drop}('words\\u202e.png', false, 8, 8)")
    words = "words.png is no image of pixels that this browser reads, or is too large"
    tab.wait(f"{notice}.startsWith({words!r})")
    tab.evaluate(f"window.createImageBitmap = undefined, {drop}('old.png', true, 8, 8)")
    tab.wait(f"{notice}.startsWith('old.png is no image')")
    # A file that was chosen can be chosen again.
    control = "document.querySelector('input[type=file]')"
    tab.evaluate(
        "(files => { files.items.add(new File([''], 'x.png')); "
        f"{control}.files = files.files; }})(new DataTransfer())"
    )
    assert tab.evaluate(f"{control}.value.endsWith('x.png')")
    tab.evaluate(f"{control}.click()")
    assert tab.evaluate(f"{control}.value") == ""
    assert not tab.errors


@needs_chromium
def test_a_phone_shows_it_without_scrolling_sideways(
    browser, folder, runs, data, tmp_path
):
    """This includes long names, which have no place to break, and names of markup."""
    tab = browser.open(write(tmp_path, hostile(folder, runs[0], data)), width=390)
    tab.wait(BOUND)
    tab.evaluate("document.querySelector('details').open = true")
    assert tab.evaluate("document.documentElement.scrollWidth") <= 390
    assert tab.evaluate("document.images.length") == 0
    assert not tab.errors


@needs_chromium
@pytest.mark.parametrize("part", ["latents", "programs", "image"])
def test_one_damaged_model_leaves_the_others_to_use(browser, explorer, tmp_path, part):
    facts = json.loads(explorer.data)
    facts["models"][1][part] = facts["models"][1]["prior_samples"] = None
    damaged = explorer._replace(data=json.dumps(facts).replace("<", "\\u003c"))
    tab = browser.open(write(tmp_path, damaged))
    tab.wait(BOUND)
    for model, words in ((1, "does not run here"), (2, "ELBO")):
        choose(tab, 0, model)
        tab.wait(f"document.querySelector('.stage').textContent.includes({words!r})")
        assert ("write it again" in text_of(tab, ".stage")) == (model == 1)
    assert not tab.errors


@needs_chromium
def test_damage_is_said_in_place(browser, explorer, tmp_path):
    path = write(tmp_path, explorer)
    text = path.read_text()
    for old, new, words in (
        ('{"points":', '{"points', "The explorer cannot start: the page is damaged"),
        ('"programs":{', '"programs":{},"lost":{', "No images: the page does not"),
        ('"weights":', '"lost":', "does not run here:"),
    ):
        path.write_text(text.replace(old, new))
        tab = browser.open(path)
        tab.wait(f"document.body.textContent.includes({words!r})")
        assert not tab.errors


@needs_chromium
@pytest.mark.parametrize(
    ("lost", "words"),
    [
        ("window.matchMedia = undefined", "this browser is too old (matchMedia is not"),
        ("", "needs JavaScript, a browser of 2022 or later, and the whole of this"),
    ],
)
def test_a_browser_without_features_says_so_in_place(browser, file, lost, words):
    tab = browser.open(file)
    if lost:
        tab.call("Page.addScriptToEvaluateOnNewDocument", source=lost)
    else:
        tab.call("Emulation.setScriptExecutionDisabled", value=True)
    tab.call("Page.reload")
    tab.wait(f"document.body?.textContent.includes({words!r})")
    assert not tab.errors


@needs_chromium
def test_a_page_that_was_cut_says_so_in_place(browser, file, tmp_path):
    path = tmp_path / "cut.html"
    path.write_text(file.read_text().partition('"programs"')[0])
    tab = browser.open(path)
    assert "the whole of this file" in text_of(tab, ".explorer")
    assert not tab.errors


@needs_chromium
def test_another_class_decodes_the_same_z(browser, tmp_path_factory, tmp_path):
    own = config() | {"sweep": {}}
    own["model"] |= {"condition_on": "label", "latent_dim": 2}
    tab = browser.open(write(tmp_path, explored(tmp_path_factory, own)[1]))
    tab.wait(BOUND)
    tab.evaluate("document.querySelector('.map').focus()")
    before = text_of(tab, ".decoded output")
    tab.key("ArrowRight", shift=True)
    tab.wait(f"document.querySelector('output').textContent !== {before!r}")
    place, image = text_of(tab, ".decoded output"), tab.evaluate(PIXELS)
    choose(tab, 4, 5)  # After the model, the plane and its two axes.
    tab.wait(f"{PIXELS} !== {image!r}")
    assert text_of(tab, ".decoded output") == place
    assert not tab.errors


@needs_chromium
def test_images_over_the_plane_are_those_of_the_other_latents(browser, file):
    tab = browser.open(file)
    choose(tab, 0, 1)  # It has four latents.
    tab.wait(BOUND)
    choose(tab, 2, 1)  # A plane of two of them.
    tab.evaluate("document.querySelectorAll('.map ~ .row input')[2].click()")
    tiles, before = "document.querySelector('.map').toDataURL()", ""
    later = f"new Promise(done => setTimeout(() => done({tiles}), 300))"
    while (now := tab.evaluate(later)) != before:  # Until all are drawn.
        before = now
    tab.evaluate(
        "(s => (s.value = 5, s.dispatchEvent(new Event('input'))))"
        "(document.querySelectorAll('details input')[3])"
    )
    tab.wait(f"{tiles} !== {before!r}")
    assert not tab.errors
