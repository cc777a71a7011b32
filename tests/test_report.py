"""Tests of experiments.report."""

import csv
import html.parser
import json
import math

import numpy as np
import pytest

from experiments import findings, report
from experiments.image_grids import reconstruction_grid

ROW = {
    "dataset": "digits",
    "beta": 1.0,
    "score_se": 0.01,
    "rate": 10.0,
    "distortion": 80.0,
    "num_importance_samples": 256,
    "effective_sample_size": 40.0,
    "largest_weight": 0.1,
    "mean_squared_error": 0.02,
    "active_units": 2,
    "best_epoch": 90,
    "epochs": 100,
    "status": "settled",
    "num_parameters": 1000,
    "num_test_images": 297,
    "binarization": "",
    "binarization_seed": "",
    "seconds": 1.5,
}
VIEWS = {"bernoulli": "binary", "categorical": "levels", "laplace": "continuous"}


def member(likelihood, latent_dim, seed, score, **others):
    view = VIEWS[likelihood]
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
    rows[-1] |= dict.fromkeys(missing, "nan") | {"status": "diverged"}
    rows[0]["status"] = "epoch limit"
    rows[1]["active_units"] = 0
    rows[2]["effective_sample_size"] = 3.5
    return rows


def write_run(folder, rows, pictures=True):
    with (folder / "results.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    with (folder / "metrics.jsonl").open("w") as file:
        for row in rows:
            for epoch in range(1, 6):
                metrics = {
                    "run": row["run"],
                    "epoch": epoch,
                    "train/bound": -90 / epoch,
                }
                if epoch % 2:
                    metrics["validation/bound"] = -91 / epoch
                file.write(json.dumps(metrics) + "\n")
    config = {"data": {"name": "<script>"}, "sweep": {"latent_dim": [2, 4]}}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "environment.json").write_text(json.dumps({"jax": "0.7"}))
    images = np.random.default_rng(0).random((8, 8, 8, 1))
    for row in rows if pictures else []:
        if row["status"] != "diverged":
            own = folder / "figures" / row["run"]
            own.mkdir(parents=True)
            png = reconstruction_grid(images, images)
            (own / "reconstructions.png").write_bytes(png)


class Page(html.parser.HTMLParser):
    """Collects the text, the addresses and the images of a page.

    Attributes:
        text: texts of all elements, separated by single spaces.
        links: values of src and href.
        alts: alternative texts of the images.
        open_tags: elements that were not closed.
    """

    def __init__(self, path):
        super().__init__()
        self.text, self.links, self.alts, self.open_tags = "", [], [], []
        self.feed(path.read_text())

    def handle_starttag(self, tag, attrs):
        attrs = dict(attrs)
        self.links += [attrs[name] for name in ("src", "href") if name in attrs]
        if tag == "img":
            self.alts.append(attrs["alt"])
        elif tag != "meta":
            self.open_tags.append(tag)

    def handle_endtag(self, tag):
        assert self.open_tags.pop() == tag

    def handle_data(self, data):
        self.text = " ".join([self.text, *data.split()])


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    write_run(folder, sweep())
    return Page(report.write_report(folder))


def test_page_is_well_formed_and_needs_nothing_else(page):
    assert not page.open_tags
    assert all(link.startswith(("data:", "#")) for link in page.links)
    assert all(page.alts)


def test_best_member_of_each_group_comes_first(page):
    assert "20.60 ± 0.00 nats Bernoulli with 4 latents" in page.text
    assert "2.601 ± 0.001 bits/dim categorical with 4 latents" in page.text
    runner_up = "The next likelihood is Laplace with 4 latents, at 3.600 bits/dim; with"
    assert runner_up in page.text
    assert "Latent size 4 is the best for 2 of 2 likelihoods" in page.text
    assert "cannot be compared" in page.text


def test_page_warns_of_what_makes_numbers_doubtful(page):
    assert "1 of 12 models diverged" in page.text
    assert "Laplace †" in page.text
    assert "upper bound on the bits/dim of the integers" in page.text


def test_page_tells_where_numbers_come_from(page):
    assert "importance samples for each image 256" in page.text
    assert "binarization seed 7" in page.text
    assert "data.name <script>" in page.text


def test_every_column_has_a_heading_of_its_own(tmp_path):
    write_run(tmp_path, sweep(), pictures=False)
    members = findings.read_members(tmp_path / "results.csv")
    for group in findings.group_members(members):
        headers = [column.header for column in report._columns(group)]
        assert len(set(headers)) == len(headers)


def test_every_member_with_pictures_is_shown(page):
    shown = [alt for alt in page.alts if alt.startswith("Inputs")]
    assert len(shown) == 11
    assert "No pictures." in page.text


@pytest.mark.parametrize(
    ("most", "pictured", "notes"),
    [(8, 11, 0), (4, 4 + 4, 4), (2, 2 + 2, 6)],
    ids=["all", "some of each cell", "of the best cells"],
)
def test_pictures_are_left_out_where_members_are_many(
    tmp_path, monkeypatch, most, pictured, notes
):
    """Tables of two and of four cells, with two seeds each, one of which diverged."""
    monkeypatch.setattr(report, "_MOST_PICTURED", most)
    write_run(tmp_path, sweep())
    page = Page(report.write_report(tmp_path))
    assert sum(alt.startswith("Inputs") for alt in page.alts) == pictured
    assert page.text.count("Not shown here: seed") == notes
    assert ("figures/categorical-2-1/" in page.text) == (most < 8)


def test_charts_stay_in_the_folder(tmp_path):
    write_run(tmp_path, sweep(), pictures=False)
    report.write_report(tmp_path)
    always = ("latent_sizes", "rate_distortion", "learning_curves")
    names = {
        f"{kind}_{group}.svg" for kind in always for group in ("binary", "integers")
    }
    # A table of one likelihood would repeat the line against the latent size.
    names.add("scores_integers.svg")
    assert {path.name for path in (tmp_path / "figures").glob("*.svg")} == names


def test_one_model_alone_is_reported(tmp_path):
    write_run(tmp_path, [member("categorical", 8, 0, 2.5)])
    for name in ("config.json", "environment.json", "metrics.jsonl"):
        (tmp_path / name).unlink()
    page = Page(report.write_report(tmp_path))
    assert "2.500 ± 0.010 bits/dim categorical with 8 latents" in page.text
    assert "standard error over 297 test images" in page.text
    assert not list((tmp_path / "figures").glob("*.svg"))


def test_sweep_in_which_all_diverged_is_reported(tmp_path):
    rows = [member("laplace", size, 0, math.nan, status="diverged") for size in (2, 4)]
    write_run(tmp_path, [row | {"rate": "", "distortion": ""} for row in rows])
    page = Page(report.write_report(tmp_path))
    assert "No model has a score." in page.text


def test_a_sweep_over_posteriors_shows_each_model_by_itself(tmp_path):
    rows = [
        member("categorical", 4, 0, score, score_se=score_se)
        | {"run": f"latent_dim=4,posterior={posterior},seed=0"}
        for posterior, score, score_se in (
            ("diagonal", 2.6, 0.01),
            ("full_covariance", 2.5, 0.02),
        )
    ]
    write_run(tmp_path, rows)
    page = Page(report.write_report(tmp_path))
    best = "categorical with 4 latents, posterior = full covariance"
    assert f"2.500 ± 0.020 bits/dim {best}" in page.text
    for posterior, score in (("diagonal", "2.600"), ("full covariance", "2.500")):
        gallery = f"4 latents, posterior = {posterior} · {score} ±"
        assert gallery in page.text
        assert f"categorical 4 {posterior} 0 {score}" in page.text
        assert f"4 latents, posterior = {posterior}, seed 0" in " ".join(page.alts)
    assert "likelihood latents posterior seed score" in page.text
    assert (tmp_path / "figures" / "scores_integers.svg").exists()


def test_an_empty_table_is_refused(tmp_path):
    (tmp_path / "results.csv").write_text("run,likelihood\n")
    with pytest.raises(ValueError, match="no rows"):
        report.write_report(tmp_path)


def test_last_of_repeated_epochs_counts(tmp_path):
    path = tmp_path / "metrics.jsonl"
    rows = [
        {"run": "a", "epoch": 2, "train/bound": -5.0, "validation/bound": None},
        {"run": "a", "epoch": 1, "train/bound": -9.0, "validation/bound": -8.0},
        {"run": "a", "epoch": 2, "train/bound": -4.0},
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    bounds = report._read_bounds(path)["a"]
    np.testing.assert_array_equal(bounds["train"], [[1, -9], [2, -4]])
    np.testing.assert_array_equal(bounds["validation"], [[1, -8]])
