"""The report is one complete page, honest about its choice of examples and what is missing."""

import json
import re
from collections.abc import Callable
from dataclasses import replace
from html import unescape
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from data_pipeline.annotations import Annotation
from data_pipeline.errors import InputError
from trainer.metrics import evaluate
from trainer.metrics.bootstrap import intervals
from trainer.metrics.storage import write_evaluation
from trainer.pictures.report import write_report

QUERIES = 11


def write_video(path: Path, seconds: int = 6) -> None:
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=5)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for i in range(5 * seconds):
            picture = np.full((48, 64, 3), (i * 8, 90, 160), np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture)))
        container.mux(stream.encode())


def annotation(i: int, saliency: bool = True) -> Annotation:
    scores = {0: (4.0, 3.0, 4.0), 1: (2.0, 2.0, 1.0)} if saliency else None
    return Annotation(i, f"query <{i}> & more", "film", 6.0, ((0.0, 4.0),), scores)


def lines(path: Path, rows: list[dict[str, Any]]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run whose query i has a first window of IoU i / 10, beside a folder with its one video."""
    folder = tmp_path / "runs" / "small"
    folder.mkdir(parents=True)
    (tmp_path / "videos").mkdir()
    write_video(tmp_path / "videos" / "film.mp4")
    metrics = {"R1@0.5": 81.25, "mAP": 50.0, "R1@0.3": 90.0}
    result = {
        "metrics": metrics,
        "baselines": {"whole video": {"R1@0.5": 9.03}, "random": {"R1@0.5": 11.79}},
        "provenance": {
            "data_set": "small",
            "features": {"video": "lite0"},
            "code_revision": "abc123",
        },
    }
    (folder / "metrics.json").write_text(json.dumps(result))
    (folder / "config.yaml").write_text("model:\n  width: 32 # <wide>\n")
    train = [
        {"kind": "train", "step": i, "epoch": i / 50, "loss": 3 - i / 100, "class": 1.0}
        for i in range(200)
    ]
    lines(folder / "metrics.jsonl", [*train, {"kind": "eval", "step": 199, "epoch": 4} | metrics])
    predictions = [
        {
            "qid": i,
            "query": "",
            "vid": "film",
            "pred_relevant_windows": [[0.0, 0.4 * i, 0.9], [1.0, 2.0, 0.1]],
            "pred_saliency_scores": [0.5, -0.25, 0.125],
        }
        for i in range(QUERIES)
    ]
    lines(folder / "predictions.jsonl", predictions)
    return folder


def page(run: Path, *, saliency: bool = True) -> str:
    annotations = [annotation(i, saliency) for i in range(QUERIES)]
    return write_report(run, annotations, run.parents[1] / "videos").read_text()


def test_page_needs_no_other_file_and_no_network(run: Path, chromium: Any) -> None:
    page(run)
    context = chromium.new_context(offline=True)
    opened = context.new_page()
    asked: list[str] = []
    opened.on("request", lambda request: asked.append(request.url))
    opened.goto((run / "report.html").as_uri())
    opened.locator(".chart svg").first.wait_for()
    assert opened.locator(".strip img").count() == 192
    assert opened.evaluate("[...document.images].every(image => image.naturalWidth > 0)")
    assert all(url.startswith("data:image/jpeg") for url in asked[1:])
    context.close()


def test_page_of_a_run_without_anything_to_draw_has_no_script(run: Path) -> None:
    for name in ("metrics.jsonl", "predictions.jsonl"):
        (run / name).unlink()
    html = page(run)
    assert "<script" not in html
    assert "script-src 'none'" in unescape(html)


def test_page_shows_metrics_baselines_provenance_and_configuration(run: Path) -> None:
    html = page(run)
    for text in (
        "81.25",
        "9.03",
        "11.79",
        "whole video",
        "random",
        "abc123",
        "features · video",
        "lite0",
    ):
        assert text in html
    assert "width: 32 # &lt;wide&gt;" in html
    assert "All 3 measured numbers" in html


def test_examples_stand_at_evenly_spaced_ranks_from_best_to_worst(run: Path) -> None:
    shown = re.findall(r"rank (\d+) of 11 · <b>IoU ([\d.]+)</b>", page(run))
    assert [int(rank) for rank, _ in shown[6:]] == [11, 10, 9, 8, 7, 6, 5, 4, 3, 2]  # the worst
    assert shown[:6] == [
        ("1", "1.00"),
        ("3", "0.80"),
        ("5", "0.60"),
        ("7", "0.40"),
        ("9", "0.20"),
        ("11", "0.00"),
    ]


def test_intervals_and_kinds_of_query_are_shown_where_per_query_scores_are_kept(run: Path) -> None:
    assert "95% interval" not in page(run)
    asked = [annotation(i) for i in range(QUERIES)]
    asked = [
        replace(a, vid=f"v{a.qid}", windows=((0.0, 4.0) if a.qid > 3 else (5.0, 6.0),))
        for a in asked
    ]
    predictions = [json.loads(line) for line in (run / "predictions.jsonl").open()]
    rows = [
        row | {"query": a.query, "vid": a.vid} for row, a in zip(predictions, asked, strict=True)
    ]
    rows = [row | {"pred_saliency_scores": [0.5, 0.1, 0.2]} for row in rows]
    evaluation = evaluate(rows, asked)
    write_evaluation(run / "per_query.json", evaluation)
    html = write_report(run, asked, None).read_text()
    low, high = intervals(evaluation)["R1@0.5"]
    assert f"95% interval {low:.1f} to {high:.1f}" in html
    assert "only 11 videos" in html
    first = html[html.index("place of the first moment") :]
    found = re.search(r'<th scope="row">first third</th><td>(\d+)</td><td>([\d.]+)</td>', first)
    assert found is not None
    assert found[1] == "7"
    values = evaluation.per_query["R1@0.5"][[i for i, a in enumerate(asked) if a.qid > 3]]
    assert float(found[2]) == pytest.approx(100 * values.mean(), abs=0.06)


def test_recall_and_precision_are_drawn_over_their_thresholds(run: Path) -> None:
    html = page(run)
    recall = specification(html, "Recall over IoU over IoU, %. first window: from 90.9")["datasets"]
    at = {row["x"]: row["y"] for row in recall["lines"] if row["line"] == 0}
    assert at[50] == pytest.approx(100 * 6 / 11, abs=0.1)
    precision = specification(html, "Precision over recall over recall, %. IoU 0.5: from")[
        "datasets"
    ]
    last = [row for row in precision["lines"] if row["line"] == 0][-1]
    assert last["x"] == pytest.approx(100 * 6 / 11, abs=0.1)


def test_queries_are_searched_by_words(run: Path, chromium: Any) -> None:
    page(run)
    opened = chromium.new_page()
    opened.goto((run / "report.html").as_uri())
    opened.get_by_text("All 11 queries, to search").click()
    rows = opened.locator("#all-queries tbody tr:visible")
    assert rows.count() == 11
    opened.get_by_label("Words of the sentence or the video").fill("<10> QUERY")
    assert rows.count() == 1
    assert "query <10> & more" in rows.first.inner_text()
    assert opened.locator("#all-queries-count").inner_text() == "1 of 11"


def test_axe_finds_no_serious_fault(
    run: Path, chromium: Any, accessibility_faults: Callable[[Any], list[str]]
) -> None:
    page(run)
    opened = chromium.new_page()
    opened.goto((run / "report.html").as_uri())
    opened.locator(".curve svg").last.wait_for(state="attached")
    opened.locator("summary").first.click()
    assert not accessibility_faults(opened)


def test_queries_are_escaped(run: Path) -> None:
    html = page(run)
    assert "query &lt;10&gt; &amp; more" in html
    assert "<10>" not in html


def specification(html: str, words: str) -> dict[str, Any]:
    """What is drawn in the place of words that begin so."""
    found = re.search(f"data-chart='([^']*)'>{re.escape(words)}", html)
    assert found is not None
    drawn: dict[str, Any] = json.loads(found[1])
    return drawn


def test_curves_are_drawn_of_the_loss_its_parts_and_the_metrics(run: Path) -> None:
    html = page(run)
    loss = specification(html, "Loss over step. loss: from 3 to 1.01.")["datasets"]["lines"]
    assert (loss[0]["x"], loss[0]["y"], loss[-1]["x"]) == (0, 3, 199)
    specification(html, "Validation metrics over epoch. R1@0.5: from 81.2 to 81.2;")
    assert "<h3>class</h3>" in html


def with_records(run: Path, **more: Any) -> str:
    """The page of the run after these were recorded too; a list is a value for each record."""
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    for number, row in enumerate(row for row in rows if row["kind"] == "train"):
        row |= {k: v[number % len(v)] if isinstance(v, list) else v for k, v in more.items()}
    lines(run / "metrics.jsonl", rows)
    return page(run)


def test_of_one_process_the_fastest_and_the_slowest_rank_are_left_out(run: Path) -> None:
    seconds = [0.25, 0.5, 0.125]
    ends = {"step_seconds_fastest_rank": seconds, "step_seconds_slowest_rank": seconds}
    html = with_records(run, step_seconds=seconds, **ends)
    specification(html, "step seconds over step. step seconds: from 0.25 to 0.5.")
    assert not re.findall("<h3>.*rank</h3>", html)


def test_of_several_processes_the_fastest_and_the_slowest_rank_stand_beside_the_mean(
    run: Path,
) -> None:
    html = with_records(
        run, step_seconds=0.5, step_seconds_fastest_rank=0.25, step_seconds_slowest_rank=0.75
    )
    words = (
        "step seconds over step. mean: from 0.5 to 0.5; fastest rank: from 0.25 to 0.25; "
        "slowest rank: from 0.75 to 0.75."
    )
    specification(html, words)
    assert html.count("<h3>step seconds") == 1


def test_pairs_replaced_are_drawn_where_there_were_any(run: Path) -> None:
    assert "pairs replaced" not in with_records(run, pairs_replaced=0.0)
    assert "<h3>pairs replaced</h3>" in with_records(run, pairs_replaced=[0.0, 0.0, 2.0])


def test_saliency_is_told_clip_by_clip(run: Path) -> None:
    drawn = specification(page(run), "Predicted saliency, highest at 0 s. Annotated saliency, high")
    assert [row["told"] for row in drawn["datasets"]["told"]] == [
        [["time", "0 s – 2 s"], ["predicted", "0.50"], ["annotated", "3.67"]],
        [["time", "2 s – 4 s"], ["predicted", "-0.25"], ["annotated", "1.67"]],
        [["time", "4 s – 6 s"], ["predicted", "0.12"], ["annotated", "0.00"]],
    ]


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 1e400, 10**400, True, "1", None])
def test_what_is_no_number_is_left_out_of_a_curve(run: Path, value: Any) -> None:
    drawn = specification(with_records(run, part=[1.0, value, 3.0]), "part over step")
    assert {row["y"] for row in drawn["datasets"]["lines"]} == {1.0, 3.0}


def test_saliency_of_a_long_video_is_drawn_by_its_peaks(run: Path) -> None:
    rows = [json.loads(line) for line in (run / "predictions.jsonl").read_text().splitlines()]
    for row in rows:
        row["pred_saliency_scores"] = [0.0] * 6000
        row["pred_saliency_scores"][3333] = 1.0
    lines(run / "predictions.jsonl", rows)
    drawn = specification(page(run), "Predicted saliency, highest at 3.3 s.")["datasets"]
    assert len(drawn["predicted"]) == 601
    assert [row for row in drawn["told"] if row["told"][1] == ["predicted", "1.00"]]


def test_saliency_that_is_no_number_is_left_out(run: Path) -> None:
    rows = [json.loads(line) for line in (run / "predictions.jsonl").read_text().splitlines()]
    for row in rows:
        row["pred_saliency_scores"][1] = float("nan")
    lines(run / "predictions.jsonl", rows)
    assert page(run).count(">Annotated saliency, highest at 0 s.<") == 16


def test_step_repeated_by_a_resumed_run_counts_once(run: Path) -> None:
    before = page(run)
    with open(run / "metrics.jsonl", "a") as file:
        file.write(
            json.dumps({"kind": "train", "step": 199, "epoch": 3.98, "loss": 1.01, "class": 1.0})
        )
    assert before == page(run)


def test_more_windows_than_are_drawn_are_counted(run: Path) -> None:
    rows = [json.loads(line) for line in (run / "predictions.jsonl").read_text().splitlines()]
    for row in rows:
        row["pred_relevant_windows"] += [[0.0, 1.0, 0.05]] * 8
    lines(run / "predictions.jsonl", rows)
    assert page(run).count("4 of 10") == 16


def test_missing_video_is_said_in_its_place(run: Path) -> None:
    (run.parents[1] / "videos" / "film.mp4").unlink()
    html = page(run)
    assert html.count("film.*: no such video file") == 16


def test_data_set_without_saliency_is_said(run: Path) -> None:
    assert "no annotated saliency" in page(run, saliency=False)
    assert "no annotated saliency" not in page(run)


def test_run_with_metrics_only_still_gets_a_page(run: Path) -> None:
    for name in ("metrics.jsonl", "predictions.jsonl", "config.yaml"):
        (run / name).unlink()
    html = page(run)
    for name in ("metrics.jsonl", "predictions.jsonl", "config.yaml"):
        assert name in html


def test_unfinished_run_is_an_input_error(run: Path) -> None:
    (run / "metrics.json").unlink()
    with pytest.raises(InputError, match=r"metrics\.json: no such file"):
        page(run)
