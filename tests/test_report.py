"""Tests of experiments.report.page."""

import base64
import html.parser
import io
import itertools
import json
import math
import re

import numpy as np
import pytest
from PIL import Image

from experiments.messages.errors import FolderError
from experiments.report import page as report
from experiments.report.groups import group_members
from experiments.report.members import members_of
from tests.browser import Browser, needs_chromium
from tests.folders import opened, owners_of, reseal, save_member

ROW = {
    "dataset": "digits",
    "beta": 1.0,
    "score_se": 0.01,
    "rate": 10.0,
    "distortion": 80.0,
    "num_importance_samples": 256,
    "effective_sample_size": 40.0,
    "largest_weight": 0.1,
    "importance_bias": 0.1,
    "log_px_se": 0.2,
    "mean_squared_error": 0.02,
    "active_units": 2,
    "best_epoch": 90,
    "epochs": 100,
    "status": "schedule ended",
    "num_parameters": 1000,
    "num_test_images": 297,
    "binarization": "",
    "binarization_seed": "",
    "seconds": 1.5,
}
VIEWS = {"bernoulli": "binary", "laplace": "continuous"}


def member(likelihood, latent_dim, seed, score, **others):
    view = VIEWS.get(likelihood, "levels")
    return ROW | {
        "run": f"{likelihood}-{latent_dim}-{seed}",
        "likelihood": likelihood,
        "latent_dim": latent_dim,
        "seed": seed,
        "view": view,
        "unit": "nats" if view == "binary" else "bits/dim",
        "score": score,
        "binarization": "dynamic" if view == "binary" else "",
        "binarization_seed": 7 if view == "binary" else "",
        **others,
    }


def sweep():
    """Returns rows with clear winners and one member of every kind of trouble."""
    rows = [
        member(likelihood, latent_dim, seed, base - 0.1 * latent_dim + 0.002 * seed)
        for likelihood, base in (("bernoulli", 21), ("categorical", 3), ("laplace", 4))
        for latent_dim in (2, 4)
        for seed in (0, 1)
    ]
    missing = ("score", "score_se", "rate", "distortion", "effective_sample_size")
    rows[-1] |= dict.fromkeys(missing, math.nan) | {"status": "diverged"}
    rows[0] |= {"status": "failed", "score": 999.0}
    rows[1]["active_units"] = 0
    rows[2]["effective_sample_size"] = 3.5
    return rows


def write_run(path, rows, pictures=True, config=None, side=8, **extra):
    """Returns a folder with a sweep's files, and the rows of its members."""
    owners = owners_of(*(row["run"] for row in rows))
    config = config or {"data": {"name": "<script>"}, "sweep": {"latent_dim": [2, 4]}}
    folder = opened(path, config, owners, **extra)
    images = np.random.default_rng(0).random((8, side, side, 1))
    for row in rows:
        folder.metrics.restore([row["run"]], [])
        for epoch in range(1, 6):
            metrics = {"run": row["run"], "epoch": epoch, "train/bound": -90 / epoch}
            if epoch % 2:
                metrics["validation/bound"] = -91 / epoch
            folder.metrics.log([metrics])
        arrays = {}
        if pictures and row["status"] != "diverged":
            arrays = {
                "picture/originals": np.uint8(16 * images),
                "picture/levels": np.int32(17),
                "picture/reconstructions": images,
                "picture/prior_means": images,
                "picture/samples": images,
                "picture/traversals": images,
                "picture/interpolations": images,
            }
            if row["latent_dim"] == 2:
                arrays |= {
                    "picture/manifold": images,
                    "test/posterior_mean": np.zeros((8, 2)),
                }
        save_member(folder, arrays=arrays, **row)
    folder.close()
    return folder


def write_report(folder, expected=()):
    """Returns the page of a folder; asserts that it names the expected omissions."""
    left_out = []
    rows = folder.members.results(list(folder.owners), left_out.append)
    page = Page(report.write_report(folder, rows, left_out))
    assert len(left_out) == len(expected), left_out
    for line, words in zip(left_out, expected, strict=True):
        assert "\n" not in line
        assert all(word in line for word in words), line
        assert " ".join(line.split()) in page.text
    return page


class Page(html.parser.HTMLParser):
    """Collects the contents of a page.

    Attributes:
        path: the file.
        text: texts of all elements, separated by single spaces.
        links: values of src and href.
        ids: values of id.
        alts: alternative texts of the images.
        headings: levels of the headings, in their order.
        tags: all elements with their attributes.
        open_tags: elements that were not closed.
    """

    def __init__(self, path):
        super().__init__()
        self.path, self.text = path, ""
        self.links, self.ids, self.alts, self.headings = [], [], [], []
        self.tags, self.open_tags = [], []
        self.feed(path.read_text())

    def handle_starttag(self, tag, attrs):
        attrs = dict(attrs)
        self.tags.append((tag, attrs))
        self.links += [attrs[name] for name in ("src", "href") if name in attrs]
        self.ids += [attrs["id"]] if "id" in attrs else []
        if tag == "img":
            self.alts.append(attrs["alt"])
        elif tag != "meta":
            self.open_tags.append(tag)
        if tag in ("h1", "h2", "h3", "h4", "h5", "h6"):
            self.headings.append(int(tag[1]))

    def handle_endtag(self, tag):
        assert self.open_tags.pop() == tag

    def handle_data(self, data):
        self.text = " ".join([self.text, *data.split()])


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    return write_report(write_run(folder, sweep()))


def test_page_is_well_formed_and_needs_nothing_else(page):
    assert not page.open_tags
    assert all(link.startswith(("data:", "#")) for link in page.links)
    assert all(page.alts)


def test_a_reader_finds_the_way_by_links_headings_and_landmarks(page):
    links = [link[1:] for link in page.links if link.startswith("#")]
    sections = ["summary", "charts", "pictures", "results", "provenance"]
    assert links[:5] == sections
    assert set(links) <= set(page.ids)
    assert len(set(page.ids)) == len(page.ids)
    labels = [a["aria-labelledby"] for _, a in page.tags if "aria-labelledby" in a]
    assert set(labels) <= set(page.ids)
    assert page.headings.count(1) == 1
    assert page.headings[0] == 1
    for above, below in itertools.pairwise(page.headings):
        assert below <= above + 1, page.headings
    tags = [tag for tag, _ in page.tags]
    assert [tags.count(tag) for tag in ("header", "main", "script")] == [1, 1, 1]
    navs = [attrs for tag, attrs in page.tags if tag == "nav"]
    assert all(attrs["aria-label"] for attrs in navs)


def test_best_and_worst_model_of_each_group_stand_side_by_side(page):
    """Failed or diverged models do not count as worst models."""
    for heading, score in (
        ("Best model: 20.60 nats Bernoulli with 4 latents, seed 0", 20.6),
        ("Worst model: 20.80 nats Bernoulli with 2 latents, seed 1", 20.8),
        ("Best model: 2.600 bits/dim categorical with 4 latents, seed 0", 2.6),
        ("Worst model: 3.802 bits/dim Laplace with 2 latents, seed 1", 3.802),
    ):
        assert heading in page.text, score
        title, _, kind = heading.partition(": ")
        kind = kind.split(maxsplit=2)[2]
        for picture in ("Reconstructions", "Samples"):
            assert f"{picture}: {title}, {kind}" in page.alts
    pairs = [attrs for _, attrs in page.tags if attrs.get("class") == "pair"]
    assert len(pairs) == 2


def test_best_and_worst_model_are_of_the_lowest_and_the_highest_mean():
    """A lower score beside a failed seed is not the best, nor the highest the worst."""
    rows = [
        *(
            member("categorical", 2, seed, score)
            for seed, score in enumerate((2.6, 2.5))
        ),
        *(member("categorical", 4, seed, score) for seed, score in enumerate((2.4, 9))),
        *(
            member("categorical", 8, seed, score)
            for seed, score in enumerate((2.7, 2.9))
        ),
        *(member("laplace", 8, seed, score) for seed, score in enumerate((2.5, 3.0))),
    ]
    rows[3]["status"] = "failed"
    (group,) = group_members(members_of(rows, pytest.fail))
    best, worst = report._extremes(group)
    assert (best.latent_dim, best.seed, best.score) == (2, 1, 2.5)
    assert (worst.likelihood, worst.seed, worst.score) == ("categorical", 1, 2.9)


def test_pictures_are_enlarged_by_whole_factors_and_keep_their_shape(page):
    """The sweep's images have 8 x 8 pixels; the page shows each with 64 x 64."""
    images = [attrs for tag, attrs in page.tags if tag == "img"]
    grids = [image for image in images if image["class"] == "pixels"]
    # Five of each model, one of each plane, and two of each best and worst model.
    assert len(grids) == 11 * 5 + 6 + 4 * 2
    for image in grids:
        file = io.BytesIO(base64.b64decode(image["src"].partition(",")[2]))
        with Image.open(file) as content:
            assert content.size == (int(image["width"]), int(image["height"]))
        assert content.width <= 350
    style = page.path.read_text().partition("</style>")[0]
    assert "image-rendering: pixelated" in style


def test_nothing_is_wider_than_a_phone_but_what_scrolls_by_itself(page):
    """No width in pixels is set beyond 390, except as a limit or in a container."""
    style = page.path.read_text().partition("</style>")[0]
    widths = re.findall(r"[{; ](?:min-)?width: [^;]*?(\d+)px", style)
    inline = [attrs.get("style", "") for _, attrs in page.tags]
    widths += re.findall(r"width: (\d+)px", " ".join(inline))
    assert widths
    assert max(map(int, widths)) <= 390
    wide = [tag for tag, _ in page.tags if tag == "table"]
    boxes = [attrs for _, attrs in page.tags if attrs.get("class") == "table"]
    assert len(boxes) == len(wide) == 2
    assert all(box["tabindex"] == "0" for box in boxes)


@needs_chromium
def test_a_phone_shows_the_page_without_scrolling_sideways(tmp_path):
    """This includes long names, paths and digests, which have no place to break."""
    long = "x" * 300
    rows = [row | {"dataset": long} for row in sweep()]
    config = {"data": {"path": f"/{long}" * 4, "digests": [long]}, long: {long: long}}
    path = write_report(write_run(tmp_path / "run", rows, config=config)).path
    with Browser(tmp_path / "own") as browser:
        tab = browser.open(path, width=390)
        assert tab.evaluate("document.documentElement.scrollWidth") <= 390
        assert not tab.errors


@needs_chromium
def test_a_click_on_a_heading_sorts_the_rows(page, tmp_path):
    with Browser(tmp_path) as browser:
        tab = browser.open(page.path)
        heading = "document.querySelectorAll('table.sortable th')[3]"
        scores = (
            f"[...document.querySelector('table.sortable').tBodies[0].rows].map(row =>"
            f" Number(row.cells[{heading}.cellIndex].dataset.value))"
        )
        for click, reverse in ((0, False), (1, True)):
            tab.evaluate(f"{heading}.firstElementChild.click()")
            found = [value for value in tab.evaluate(scores) if value is not None]
            assert found == sorted(found, reverse=reverse), click
        assert not tab.errors


def test_best_member_of_each_group_comes_first(page):
    assert "20.60 ± 0.00 nats Bernoulli with 4 latents" in page.text
    assert "2.601 ± 0.001 bits/dim categorical with 4 latents" in page.text
    assert (
        "Integer images: lowest mean score of 8 models where no seed is left out 2.601"
        in page.text
    )
    # Laplace with 4 latents has a lower mean, but one of its seeds diverged.
    next_one = "The next likelihood is Laplace with 2 latents, at 3.801 ± 0.001 bits"
    assert f"{next_one}/dim; whether they differ is not known" in page.text
    assert "cannot be compared" in page.text


def test_page_begins_with_what_failed_and_marks_it(page):
    failed = "1 of 12 models failed (worse by more than two standard errors than"
    assert page.text.index(failed) < page.text.index("lowest mean score")
    assert "Bernoulli failed 2 0 999.00 0.01" in page.text  # A row of the table.
    for unit in ("nats", "bits/dim"):
        assert f"seed score, {unit} ± s.e. −ELBO, {unit} rate, nats" in page.text
    assert "2 latents · 20.80 (1 failed)" in page.text  # The gallery.
    assert "score 999.00 nats" in page.text
    assert page.text.count("999.00") == 2


def test_page_tells_a_clear_difference_from_scores_of_test_images(tmp_path):
    rng = np.random.default_rng(0)
    rows = [
        member(likelihood, 4, seed, 3.0)
        for likelihood in ("categorical", "beta_binomial")
        for seed in range(5)
    ]
    folder = write_run(tmp_path, rows)
    for row in rows:
        bits = 3 + (row["likelihood"] == "categorical") + rng.normal(0, 0.1, 297)
        row["score"] = float(bits.mean())
        arrays = folder.members.arrays(row["run"])
        arrays["test/log_px"] = -bits * 64 * np.log(2)
        save_member(folder, arrays=arrays, **row)
    page = write_report(folder)
    assert "next likelihood is categorical, at" in page.text
    assert "paired over 297 test images and 5 seeds): a clear" in page.text
    assert "best, beta binomial; ± standard error, paired over 297 test" in page.text
    assert re.search(
        r"above the best, bits/dim categorical (1\.0|0\.9)\d+ ± 0\.0", page.text
    )
    save_member(folder, arrays={}, **rows[0])
    page = write_report(folder)
    assert "whether they differ is not known" in page.text
    assert "above the best" not in page.text


def test_models_that_know_the_label_are_no_rivals_of_others(tmp_path):
    rows = [
        member("bernoulli", size, 0, 20.0 + size, condition_on=given)
        | {"run": f"{given}{size}"}
        for given in ("", "label")
        for size in (2, 4)
    ]
    text = write_report(write_run(tmp_path, rows)).text
    assert "Binary images, given the label, in nats" in text
    assert text.count("Scores are nats per image") == 2
    assert text.count("They are those of p(x|y), y the label of the image") == 1
    assert "Scores are bits" not in text
    # Each picture says under which class it was drawn.
    for words in (
        "Means of p(x|z, y), with z on a grid of equally likely values. y is the first",
        "between their posterior means. y is the label of the first image of the pair.",
        "the mean of p(x|z, y) at its posterior mean z. y is the label of the image.",
    ):
        assert words in text
    assert "Means of p(x|z), with z on a grid of equally likely values." in text


def test_page_warns_of_what_makes_numbers_doubtful(page):
    assert "1 of 12 models diverged" in page.text
    assert "Laplace †" in page.text
    assert "upper bound on the bits/dim of the integers" in page.text


def test_page_tells_where_numbers_come_from(page):
    assert "importance samples for each image 256" in page.text
    assert "binarization seed 7" in page.text
    assert "data name <script>" in page.text


def test_every_column_has_a_heading_of_its_own():
    members = members_of(sweep(), pytest.fail)
    for group in group_members(members):
        headers = [(column.header, column.unit) for column in report._columns(group)]
        assert len(set(headers)) == len(headers)


def test_meanings_of_columns_are_shown_without_marks_of_markdown(page):
    assert "whose label it finds" in page.text
    assert "ELBO or score is not finite" in page.text
    assert not re.search(r"[`\\]|\]\(", page.text)


def test_every_member_with_pictures_is_shown(page):
    # Best and worst of each group are shown twice.
    assert sum(alt.startswith("Reconstructions") for alt in page.alts) == 11 + 4
    assert "No pictures." in page.text


@pytest.mark.parametrize(
    ("room", "pictured", "notes"),
    [(81, 11, 0), (60, 4 + 4, 3), (0, 2 + 2, 6)],
    ids=["all", "some of each cell", "best and worst"],
)
def test_pictures_are_left_out_where_they_are_many(
    tmp_path, monkeypatch, room, pictured, notes
):
    """Groups of two and of four cells, with two seeds each, one of which diverged.

    They have 28 and 52 pictures, four of each in the summary too; what the first does
    not need is there for the other.
    """
    monkeypatch.setattr(report, "_FRAME_BYTES", 10**9)  # The rest is far smaller.
    monkeypatch.setattr(report, "MOST_BYTES", room * 10**9)
    page = write_report(write_run(tmp_path, sweep()))
    shown = [alt for alt in page.alts if alt.startswith("Reconstructions")]
    assert sum(" model, " not in alt for alt in shown) == pictured
    assert page.text.count("Not shown here: seed") == notes
    assert ("figures/laplace-4-0/" in page.text) == (room < 81)
    assert ("seeds 0, 1. Pictures" in page.text) == (room == 0)
    assert "No pictures." in page.text  # The one that diverged.
    assert len(list(tmp_path.glob("figures/*/samples.png"))) == 11  # All are drawn.


def test_a_page_has_at_most_so_many_bytes(tmp_path, monkeypatch):
    most = 2_500_000
    monkeypatch.setattr(report, "MOST_BYTES", most)
    page = write_report(write_run(tmp_path, sweep(), side=64))
    assert "Not shown here: seed" in page.text
    assert most - 500_000 < (tmp_path / "report.html").stat().st_size <= most


def test_charts_stay_in_the_folder(tmp_path):
    write_report(write_run(tmp_path, sweep()))
    always = ("latent_sizes", "rate_distortion", "learning_curves")
    names = {
        f"{kind}_{group}.svg" for kind in always for group in ("binary", "integers")
    }
    # A table of one likelihood would repeat the line against the latent size.
    names.add("scores_integers.svg")
    assert {path.name for path in (tmp_path / "figures").glob("*.svg")} == names


def test_one_model_alone_is_reported(tmp_path):
    folder = write_run(tmp_path, [member("categorical", 8, 0, 2.5)])
    for metrics in tmp_path.glob("members/*/metrics.jsonl"):
        metrics.unlink()
    page = write_report(folder)
    assert "2.500 ± 0.010 bits/dim categorical with 8 latents" in page.text
    assert "standard error over 297 test images" in page.text
    assert not list((tmp_path / "figures").glob("*.svg"))


def test_sweep_in_which_all_diverged_is_reported(tmp_path):
    rows = [member("laplace", size, 0, math.nan, status="diverged") for size in (2, 4)]
    rows = [row | {"rate": math.nan, "distortion": math.nan} for row in rows]
    page = write_report(write_run(tmp_path, rows))
    assert not list(tmp_path.glob("figures/*/*.png"))
    assert "2 of 2 models diverged (no finite score)" in page.text
    assert "No model is called best: of every kind of model, a seed failed" in page.text


def test_a_sweep_in_which_all_failed_ranks_none_of_them(tmp_path):
    rows = [
        member("categorical", size, 0, 9.0 + size, status="failed") for size in (2, 4)
    ]
    page = write_report(write_run(tmp_path, rows))
    assert "2 of 2 models failed (worse by more than two standard errors" in page.text
    assert "Integer images No model to rank No model is called best: of" in page.text
    assert "lowest" not in page.text.partition("Learning curves")[0]
    assert page.text.count("categorical failed") == 2  # Rows of the table.
    assert "2 latents · failed" in page.text
    assert "failed bits/dim" not in page.text


def test_a_sweep_over_posteriors_shows_each_model_by_itself(tmp_path):
    rows = [
        member("categorical", 4, 0, score, score_se=score_se)
        | {"run": f"latent_dim=4,posterior={posterior},seed=0"}
        for posterior, score, score_se in (
            ("diagonal", 2.6, 0.01),
            ("full_covariance", 2.5, 0.02),
        )
    ]
    page = write_report(write_run(tmp_path, rows))
    best = "categorical with 4 latents, posterior = full covariance"
    assert f"2.500 ± 0.020 bits/dim {best}" in page.text
    for posterior, score in (("diagonal", "2.600"), ("full covariance", "2.500")):
        gallery = f"4 latents, posterior = {posterior} · {score} ±"
        assert gallery in page.text
        assert f"categorical 4 {posterior} 0 {score}" in page.text
        assert f"4 latents, posterior = {posterior}, seed 0" in " ".join(page.alts)
    assert "likelihood latents posterior seed score" in page.text
    assert (tmp_path / "figures" / "scores_integers.svg").exists()


def test_a_folder_without_results_is_refused(tmp_path):
    folder = write_run(tmp_path, [member("categorical", 8, 0, 2.5)])
    with pytest.raises(FolderError, match="no results"):
        report.write_report(folder, [], [])
    with pytest.raises(FolderError, match="'rate' is 'fast'"):
        report.write_report(
            folder, [member("categorical", 8, 0, 2.5) | {"rate": "fast"}], []
        )
    assert not (tmp_path / "report.html").exists()


def test_last_of_repeated_epochs_counts():
    rows = [
        {"run": "a", "epoch": 2, "train/bound": -5.0, "validation/bound": math.nan},
        {"run": "a", "epoch": 1, "train/bound": -9.0, "validation/bound": -8.0},
        {"run": "a", "epoch": 2, "train/bound": -4.0},
    ]
    bounds = report._bounds(rows)
    np.testing.assert_array_equal(bounds["train"], [[1, -9], [2, -4]])
    np.testing.assert_array_equal(bounds["validation"], [[1, -8]])


# --- unreadable parts are left out and named ------------------------------------------


@pytest.fixture
def three(tmp_path):
    """Returns a folder of three runs."""
    return write_run(
        tmp_path, [member("categorical", 4, seed, 2.5 + seed / 10) for seed in range(3)]
    )


RUN = "categorical-4-1"


def shown(page):
    return {
        alt.partition("model, ")[2] or alt.partition(": ")[2]
        for alt in page.alts
        if alt.startswith("Recons")
    }


@pytest.mark.parametrize("how", ["damaged", "of a neighbour", "hostile"])
def test_a_result_that_cannot_be_read_is_left_out(three, how):
    path = three.path / "members" / RUN / "result.json"
    if how == "damaged":
        path.write_text(path.read_text()[:50])
    elif how == "of a neighbour":
        path.write_bytes(
            (three.path / "members" / "categorical-4-0" / path.name).read_bytes()
        )
    else:
        facts = json.loads(path.read_text())
        reseal(path, {**facts, "latents": "<script>alert(1)</script>"})
    page = write_report(three, [(str(path), "delete")])
    assert "2 models" in page.text
    assert len(shown(page)) == 2
    assert "<script>alert" not in (three.path / "report.html").read_text()


def test_a_result_with_a_field_of_another_type_is_left_out(three):
    path = three.path / "members" / RUN / "result.json"
    reseal(path, {**json.loads(path.read_text()), "rate": "high"})
    page = write_report(three, [(RUN, "'rate' is 'high'")])
    assert "2 models" in page.text


def test_metric_rows_that_cannot_be_read_are_left_out(three):
    path = three.metrics.path(RUN)
    rows = path.read_text().splitlines(keepends=True)
    path.write_text(rows[0] + "{\n" + "".join(rows[1:]))
    page = write_report(three, [(str(path), "1 row of", "the other 5 are used")])
    assert "3 models" in page.text
    path.unlink()
    path.mkdir()
    page = write_report(three, [(str(path), "do without its learning curve")])
    assert "3 models" in page.text


def test_pictures_whose_arrays_are_damaged_are_left_out(three):
    path = three.path / "members" / RUN / "arrays.safetensors"
    path.write_bytes(path.read_bytes()[:-1])
    page = write_report(
        three, [("pictures of categorical-4-1 are left out", str(path))]
    )
    assert "3 models" in page.text
    assert len(shown(page)) == 2
    assert not (three.path / "figures" / RUN).exists()


@pytest.mark.parametrize(
    "odd",
    [
        {"picture/samples": None},
        {"picture/samples": np.float32(1)},
        {"picture/originals": np.zeros(3, np.uint8)},
    ],
    ids=["missing", "without axes", "of another shape"],
)
def test_pictures_whose_arrays_cannot_be_drawn_are_left_out(three, odd):
    row = three.members.result(RUN)
    arrays = {**three.members.arrays(RUN), **odd}
    arrays = {name: array for name, array in arrays.items() if array is not None}
    save_member(three, arrays=arrays, **row)
    page = write_report(three, [("pictures of categorical-4-1 are left out", "delete")])
    assert len(shown(page)) == 2


def test_pictures_that_are_there_need_no_arrays(three):
    before = write_report(three)
    for path in three.path.glob("members/*/arrays.safetensors"):
        path.unlink()
    assert write_report(three).links == before.links


def test_a_picture_of_a_neighbour_is_not_shown(three):
    first = write_report(three)
    figures = three.path / "figures"
    other = figures / "categorical-4-0" / "samples.png"
    (figures / RUN / "samples.png").write_bytes(other.read_bytes())
    assert write_report(three).links == first.links  # It is drawn again.
    (figures / RUN / "samples.png").write_bytes(other.read_bytes())
    (three.path / "members" / RUN / "arrays.safetensors").unlink()
    page = write_report(three, [("pictures of categorical-4-1 are left out",)])
    assert len(shown(page)) == 3  # Its others are there.
    assert len(page.alts) == len(first.alts) - 1


def test_arrays_of_other_shapes_are_left_out_of_the_report(tmp_path):
    rows = sweep()
    folder = write_run(tmp_path / "run", rows)
    run = rows[0]["run"]
    arrays = {**folder.members.arrays(run), "test/posterior_mean": np.zeros(3)}
    arrays["picture/manifold"] = arrays["picture/samples"]
    save_member(folder, arrays=arrays, **rows[0])
    lines = []
    report.write_report(folder, rows, lines)
    assert any(f"pictures of {run} are left out" in line for line in lines)
