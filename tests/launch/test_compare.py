"""Runs are compared as their files say, with a loud line where they cannot be."""

import csv
import json
import re

import numpy as np
import pytest
import yaml

from data_pipeline.annotations import Annotation, write_annotations
from launch.compare import main
from trainer.metrics import evaluate
from trainer.metrics.storage import write_evaluation

QUERIES = 40
ANNOTATIONS = [
    Annotation(i, f"query <{i}>", f"v{i}", 20.0, ((2.0, 8.0),), {1: (4, 4, 4), 2: (3, 4, 2)})
    for i in range(QUERIES)
]


def make_run(folder, found, *, seed=0, split="val", annotations=ANNOTATIONS, **settings):
    """A finished run that finds the queries whose number `found` accepts."""
    folder.mkdir(parents=True)
    rows = [
        {
            "qid": a.qid,
            "query": a.query,
            "vid": a.vid,
            "pred_relevant_windows": [[2.0, 8.0, 0.9] if found(a.qid) else [12.0, 18.0, 0.9]],
            "pred_saliency_scores": [0, 9, 1, 0, 0, 0, 0, 0, 0, 0],
        }
        for a in annotations
    ]
    evaluation = evaluate(rows, annotations)
    write_evaluation(folder / "per_query.json", evaluation)
    write_annotations(folder / "annotations.jsonl", annotations)
    (folder / "predictions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    config = {"name": folder.name, "seed": seed, "model": {"width": 8} | settings}
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    result = {
        "metrics": evaluation.summary,
        "trainable_parameters": 1_234_567,
        "provenance": {
            "dataset": "qvhighlights",
            "report": split,
            "selection": "last epoch",
            "seed": str(seed),
            "features.video": "lite0",
        },
    }
    (folder / "metrics.json").write_text(json.dumps(result))
    records = [
        {"kind": "train", "step": s, "epoch": s / 10, "time": 2.0 * s, "loss": 3.0 / s}
        | {"pairs_per_second": 50.0}
        for s in range(1, 31)
    ]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(r) + "\n" for r in records))
    return folder


def every_fourth(qid):
    return qid % 4 == 0


def all_but_eighth(qid):
    return qid % 8 != 0


@pytest.fixture
def compare(store, tmp_path, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")

    def call(*args):
        return main([*map(str, args), "--output", str(tmp_path / "out")])

    return call


def table(tmp_path):
    return list(csv.DictReader((tmp_path / "out" / "comparison.csv").open()))


def test_what_the_encoders_find_alone_stands_beside_the_runs_and_who_does_not_beat_it_is_said(
    compare, tmp_path, capsys
):
    weak = make_run(tmp_path / "weak", every_fourth)
    strong = make_run(tmp_path / "strong", all_but_eighth, width=16)
    for folder in (weak, strong):
        result = json.loads((folder / "metrics.json").read_text())
        alone = dict.fromkeys(result["metrics"], 41.5)
        result["baselines"] = {"zero-shot": alone, "random": dict.fromkeys(alone, 1.0)}
        (folder / "metrics.json").write_text(json.dumps(result))
    assert compare(weak, strong) == 0
    said = capsys.readouterr().out
    pages = [(tmp_path / "out" / f"comparison.{suffix}").read_text() for suffix in ("html", "md")]
    for text in (said, *pages):
        assert "zero-shot" in text
        assert "41.50" in text
    for text in (said, pages[0]):
        flat = " ".join(re.sub(r"<[^>]*>", "", text).split())
        assert "weak does not beat zero-shot in" in flat
        assert "strong does not beat zero-shot in R1@0.5" not in flat


def test_names_and_settings_come_out_as_they_were_typed(tmp_path, capsys):
    runs = [
        make_run(tmp_path / name, lambda q, n=number: q % (3 + n) > 0, kind=setting)
        for number, (name, setting) in enumerate((("a[bold]", "[/x]"), ("b :dog:", "[red]s[/]")))
    ]
    assert main([*map(str, runs), "--output", str(tmp_path / "out [1]")]) == 0
    shown = capsys.readouterr().out
    for text in ("a[bold]", "b :dog:", "[/x]", "[red]s[/]", "out [1]"):
        assert text in shown, text


def test_a_clear_difference_is_shown_with_its_interval_and_what_was_changed(
    compare, tmp_path, capsys
):
    weak = make_run(tmp_path / "weak", every_fourth)
    strong = make_run(tmp_path / "strong", all_but_eighth, width=16)
    assert compare(weak, strong) == 0
    shown = capsys.readouterr().out
    assert "NOT COMPARABLE" not in shown
    assert "model.width" in shown
    assert "+62.50" in shown
    row = table(tmp_path)[1]
    assert (row["run"], row["model.width"], row["R1@0.5"]) == ("strong", "16", "87.5")
    low, high = float(row["R1@0.5 difference low"]), float(row["R1@0.5 difference high"])
    assert 0 < low < 62.5 < high
    assert row["trainable parameters"] == "1234567"
    assert row["wall time, s"] == "58.0"
    assert row["pairs per second"] == "50.0"


@pytest.mark.parametrize(
    ("videos", "seeds", "told"),
    [(40, 1, ["one seed each"]), (12, 2, ["only 12 videos"]), (40, 2, [])],
)
def test_few_videos_or_one_seed_are_told_beside_what_is_clear_of_zero(
    compare, tmp_path, capsys, videos, seeds, told
):
    asked = ANNOTATIONS[:videos]
    for name, found in (("weak", every_fourth), ("strong", all_but_eighth)):
        for seed in range(seeds):
            folder = tmp_path / f"{name}-s{seed}"
            make_run(folder, found, seed=seed, annotations=asked, kind=name)
    assert compare(*sorted(tmp_path.glob("weak-*")), *sorted(tmp_path.glob("strong-*"))) == 0
    pages = [(tmp_path / "out" / f"comparison.{suffix}").read_text() for suffix in ("html", "md")]
    for text in (" ".join(capsys.readouterr().out.split()), *pages):
        assert "zero" in text
        found = [caveat for caveat in ("one seed", "only 12 videos") if caveat in text]
        assert found == [caveat for caveat in ("one seed", "only 12 videos") if caveat in str(told)]


def test_the_paired_interval_agrees_with_the_bootstrap_of_the_evaluation_command(compare, tmp_path):
    from trainer.metrics.bootstrap import differences
    from trainer.metrics.storage import read_evaluation

    weak = make_run(tmp_path / "weak", every_fourth)
    strong = make_run(tmp_path / "strong", all_but_eighth, width=16)
    assert compare(weak, strong) == 0
    kept = [read_evaluation(run / "per_query.json") for run in (strong, weak)]
    gap = differences(*kept)["mAP"]
    row = table(tmp_path)[1]
    assert float(row["mAP difference"]) == gap.value
    assert float(row["mAP difference low"]) == gap.interval.low
    assert float(row["mAP difference high"]) == gap.interval.high


def test_runs_of_several_seeds_are_one_row_with_mean_and_deviation(compare, tmp_path, capsys):
    runs = [
        make_run(tmp_path / f"wide-s{seed}", lambda q, s=seed: q % 4 <= s, seed=seed, width=16)
        for seed in range(3)
    ]
    assert compare(make_run(tmp_path / "base", every_fourth), *runs) == 0
    assert "wide × 3" in capsys.readouterr().out
    rows = table(tmp_path)
    assert [row["group"] for row in rows] == ["base", "wide", "wide", "wide"]
    text = (tmp_path / "out" / "comparison.md").read_text()
    assert "wide (n = 3)" in text
    deviation = np.std([25.0, 50.0, 75.0], ddof=1)
    assert f"50.00 ± {deviation:.2f}" in text


@pytest.mark.parametrize(
    ("named", "groups"),
    [
        ("kind={}-s{}", ["pure", "pure_init"]),  # a sweep's
        ("width=8,kind={}-s{}", ["width=8,kind=pure", "width=8,kind=pure_init"]),
        ("{}-{}", ["pure", "pure_init"]),
        ("pure-{}-{}", ["pure-pure", "pure-pure_init"]),
    ],
)
def test_rows_of_several_seeds_have_names_that_tell_them_apart(compare, tmp_path, named, groups):
    runs = [
        make_run(tmp_path / named.format(kind, seed), every_fourth, seed=seed, width=width)
        for kind, width in (("pure", 16), ("pure_init", 32))
        for seed in range(2)
    ]
    assert compare(*runs) == 0
    assert [row["group"] for row in table(tmp_path)] == [g for g in groups for _ in range(2)]


def test_a_row_alone_keeps_its_whole_name(compare, tmp_path):
    assert compare(make_run(tmp_path / "lr=0.1", every_fourth)) == 0
    assert [row["group"] for row in table(tmp_path)] == ["lr=0.1"]


@pytest.mark.parametrize(
    ("split", "reason"),
    [("test", "split test, not val"), ("val", "measured on other queries")],
)
def test_runs_on_other_queries_get_a_loud_line_and_no_difference(
    compare, tmp_path, capsys, split, reason
):
    make_run(tmp_path / "a", every_fourth)
    make_run(tmp_path / "b", all_but_eighth, split=split, annotations=ANNOTATIONS[:-1])
    assert compare(tmp_path / "a", tmp_path / "b") == 0
    assert f"NOT COMPARABLE with a: b ({reason}" in capsys.readouterr().out
    assert "NOT COMPARABLE" in (tmp_path / "out" / "comparison.html").read_text()
    assert table(tmp_path)[1].get("R1@0.5 difference", "") == ""


def test_the_same_queries_under_another_path_are_comparable_but_other_features_are_not(
    compare, tmp_path, capsys
):
    make_run(tmp_path / "a", every_fourth)
    make_run(tmp_path / "b", all_but_eighth, split="copy/val")
    assert compare(tmp_path / "a", tmp_path / "b") == 0
    assert "NOT COMPARABLE" not in capsys.readouterr().out
    result = json.loads((tmp_path / "b" / "metrics.json").read_text())
    result["provenance"]["features.video"] = "internvideo2"
    (tmp_path / "b" / "metrics.json").write_text(json.dumps(result))
    assert compare(tmp_path / "a", tmp_path / "b") == 0
    assert "features: video internvideo2, not lite0" in capsys.readouterr().out


def test_the_page_shows_curves_kinds_and_who_found_what(compare, tmp_path):
    weak = make_run(tmp_path / "weak", every_fourth)
    strong = make_run(tmp_path / "strong", all_but_eighth, width=16)
    assert compare(weak, strong) == 0
    page = (tmp_path / "out" / "comparison.html").read_text()
    assert "Training loss over step" in page
    assert "By kind of query" not in page  # all queries here are of one kind
    counts = re.findall(r"<b>(\d+)</b><span>(.*?)</span>", page)
    assert counts == [
        ("5", "found by both"),
        ("5", "only by weak"),
        ("30", "only by strong"),
        ("0", "by neither"),
    ]
    assert "“query &lt;0&gt;”" in page


@pytest.fixture
def open_page(chromium, tmp_path):
    """Opens the comparison without a network; `page.said`: what it asked for or complained of."""
    contexts = []

    def open_it(**options):
        contexts.append(chromium.new_context(offline=True, **options))
        page = contexts[-1].new_page()
        page.said = []
        page.on("console", lambda message: page.said.append(message.text))
        page.on("pageerror", lambda error: page.said.append(str(error)))
        page.on("request", lambda request: page.said.append(request.url))
        page.goto((tmp_path / "out" / "comparison.html").as_uri())
        page.locator("[data-chart]").first.wait_for(state="detached")
        page.locator(".chart svg").last.wait_for(state="attached")
        return page

    yield open_it
    for context in contexts:
        context.close()


@pytest.mark.parametrize(
    ("width", "scheme"), [(1280, "light"), (1280, "dark"), (390, "light"), (390, "dark")]
)
def test_axe_finds_no_serious_fault_on_the_page(
    compare, tmp_path, open_page, accessibility_faults, width, scheme
):
    runs = [make_run(tmp_path / "a", every_fourth), make_run(tmp_path / "b", all_but_eighth)]
    runs.append(make_run(tmp_path / "c", every_fourth, annotations=ANNOTATIONS[:-1]))
    assert compare(*runs) == 0
    page = open_page(viewport={"width": width, "height": 800}, color_scheme=scheme)
    assert "NOT COMPARABLE" in page.get_by_role("alert").inner_text()
    assert not accessibility_faults(page)
    assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")


HOSTILE = "<img src=x onerror=alert()>$a$ datum[0]{{b}}"


def told(page, words, key):
    """What stands beside a chart, which is described by such words, after a key was pressed."""
    chart = page.get_by_role("application", name=re.compile(words)).first
    chart.scroll_into_view_if_needed()
    chart.focus()
    page.keyboard.press(key)
    page.locator("#told.visible").wait_for()
    return " ".join(page.locator("#told").inner_text().split())


def test_charts_tell_figures_intervals_and_costs_of_runs_with_any_names(
    compare, tmp_path, open_page
):
    runs = [
        make_run(tmp_path / "weak", every_fourth),
        make_run(tmp_path / HOSTILE, all_but_eighth, width=16),
    ]
    result = json.loads((runs[1] / "metrics.json").read_text())
    result["trainable_parameters"] = 98_765_432
    (runs[1] / "metrics.json").write_text(json.dumps(result))
    assert compare(*runs) == 0
    page = open_page()
    row = table(tmp_path)[1]
    figure = f"run {HOSTILE} R1@0.5 87.50 95% interval {float(row['R1@0.5 low']):.2f} to"
    assert told(page, "^R1@0.5. weak", "End").startswith(figure)
    assert told(page, "^R1@0.5 and trainable", "End").endswith("trainable parameters 98,765,432")
    assert told(page, "^Training loss", "Home") == f"step 1 weak 3 {HOSTILE} 3"
    assert page.locator("img").count() == 0
    assert page.said == [page.url]  # neither a complaint nor a request


def test_the_pointer_tells_a_runs_interval_and_zoom_keeps_the_rows(compare, tmp_path, open_page):
    make_run(tmp_path / "weak", every_fourth)
    make_run(tmp_path / "b", all_but_eighth, width=16)
    assert compare(tmp_path / "weak", tmp_path / "b") == 0
    page = open_page()
    chart = page.get_by_role("application", name=re.compile("^R1@0.5. weak")).first
    chart.scroll_into_view_if_needed()
    box = chart.bounding_box()
    labels = chart.locator(".role-axis-label text")
    before = labels.all_text_contents()
    page.mouse.move(box["x"] + 0.6 * box["width"], box["y"] + 10)
    page.locator("#told.visible").wait_for()
    assert page.locator("#told").inner_text().split()[:3] == ["run", "weak", "R1@0.5"]
    page.keyboard.down("Control")
    page.mouse.wheel(0, -400)
    page.keyboard.up("Control")
    page.wait_for_timeout(400)
    after = labels.all_text_contents()
    assert after != before
    assert {"weak", "b"} <= set(after)


def test_kinds_of_queries_are_told_apart_where_there_are_several(compare, tmp_path):
    long = [Annotation(f"l{i}", "a b c d e f g", f"w{i}", 90.0, ((2.0, 42.0),)) for i in range(4)]
    mixed = [*(Annotation(str(a.qid), a.query, a.vid, 20.0, a.windows) for a in ANNOTATIONS), *long]
    make_run(tmp_path / "a", lambda q: not q.startswith("l"), annotations=mixed)
    assert compare(tmp_path / "a") == 0
    page = (tmp_path / "out" / "comparison.html").read_text()
    assert "long, more" in page
    assert "up to 2 min" in page


def test_tables_for_papers_escape_what_latex_would_read(compare, tmp_path):
    a, b = (make_run(tmp_path / name, every_fourth) for name in ("a_1%", "b"))
    (b / "config.yaml").write_text("model: {width: 9}\n")
    assert compare(a, b) == 0
    tex = (tmp_path / "out" / "comparison.tex").read_text()
    assert r"a\_1\%" in tex
    assert r"\toprule" in tex
    assert tex.count(r"\begin{tabular}{llrrrrrr}") == 1


@pytest.fixture
def experiment(store, tmp_path):
    """An MLflow experiment with two finished runs and one that failed."""
    owner = store.create_experiment("lab", artifact_location=(tmp_path / "kept").as_uri())
    ids = []
    for name, found, width in (("weak", every_fourth, 8), ("strong", all_but_eighth, 16)):
        folder = make_run(tmp_path / name, found, width=width)
        run = store.create_run(owner, run_name=name).info.run_id
        store.log_param(run, "model.width", width)
        store.log_artifacts(run, str(folder))
        store.set_terminated(run)
        ids.append(run)
    store.set_terminated(store.create_run(owner, run_name="broken").info.run_id, "FAILED")
    return ids


@pytest.mark.parametrize("files_too", [True, False])
def test_a_store_that_was_moved_is_noticed(
    compare, store, tmp_path, monkeypatch, capsys, caplog, files_too
):
    (tmp_path / "old").mkdir()
    owner = store.create_experiment("lab", (tmp_path / "old" / "mlruns" / "1").as_uri())
    run = store.create_run(owner, run_name="weak").info.run_id
    store.log_artifacts(run, str(make_run(tmp_path / "made" / "weak", every_fourth)))
    (tmp_path / "old").rename(tmp_path / "new")
    if files_too:
        (tmp_path / "mlflow.db").rename(tmp_path / "new" / "mlflow.db")
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/new/mlflow.db")
    assert compare("weak") == (0 if files_too else 2)
    said = caplog.text if files_too else capsys.readouterr().err
    assert (
        "was moved; MLflow's files are taken from" if files_too else "which is not there"
    ) in said


def test_an_experiment_is_compared_without_its_unfinished_runs(
    compare, experiment, tmp_path, capsys
):
    assert compare("--experiment", "lab", "--baseline", "strong") == 0
    assert "without results: broken (failed)" in capsys.readouterr().out
    assert [row["run"] for row in table(tmp_path)] == ["strong", "weak"]
    assert compare("--experiment", "lab", "--filter", "params.`model.width` = '16'") == 0
    assert [row["run"] for row in table(tmp_path)] == ["strong"]


def test_a_run_is_named_by_folder_id_or_name_and_the_result_kept_with_a_run(
    compare, experiment, store, tmp_path
):
    assert compare(tmp_path / "weak", "strong", "--log-to", experiment[0]) == 0
    assert [row["run"] for row in table(tmp_path)] == ["weak", "strong"]
    assert compare(*experiment) == 0
    kept = {item.path for item in store.list_artifacts(experiment[0], "comparison")}
    assert {f"comparison/comparison.{suffix}" for suffix in ("html", "csv", "md", "tex")} == kept


def test_faults_of_the_users_are_one_line_and_status_2(compare, experiment, tmp_path, capsys):
    for args, message in (
        ([], "name runs to compare"),
        (["nobody"], "nobody: neither a run's folder nor a run of sqlite"),
        (["--experiment", "labs"], "no experiment 'labs'"),
        (["--experiment", "lab", "--filter", "nonsense"], "MLflow at sqlite"),
        ([tmp_path], "config.yaml: no such file"),
    ):
        assert compare(*args) == 2
        error = capsys.readouterr().err
        assert message in error
        assert len(error.strip().splitlines()) == 1


def test_a_run_without_per_query_results_is_compared_without_intervals(compare, tmp_path, capsys):
    run = make_run(tmp_path / "old", every_fourth)
    (run / "per_query.json").unlink()
    assert compare(run, make_run(tmp_path / "new", all_but_eighth)) == 0
    assert "no intervals for old" in capsys.readouterr().out
    row = table(tmp_path)[0]
    assert row["R1@0.5"] == "25.0"
    assert row.get("R1@0.5 low", "") == ""
