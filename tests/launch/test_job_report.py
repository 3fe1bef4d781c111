"""A job's progress is shown and recorded, and what failed stands out at its end."""

import dataclasses
import json
from pathlib import Path

import pytest

from data_pipeline.config import JobConfig
from data_pipeline.extraction.job import Progress, Summary
from data_pipeline.extraction.pool import Seconds, VideoDone
from data_pipeline.features.writing import Failure
from launch.job_report import Report, rates, run_job
from trainer.config import TrackingConfig

SUMMARY = Summary(
    split="train",
    videos=10,
    stored=3,
    failures={"empty": 6, "missing": 1},
    queries=4,
    left_out=0,
    clips=30,
    bytes=10**6,
    shards=2,
    shards_made=2,
    sentences_cut=0,
    lengths_differ=0,
    lengths_named=(),
    seconds=9.0,
    start_seconds=1.0,
    work_seconds=8.0,
    workers=2,
    videos_per_second=1.0,
    clips_per_second=3.0,
    decode_seconds=2.0,
    encode_seconds=6.0,
    write_seconds=1.0,
    encoder_utilisation=0.4,
    failed=True,
)


def progress() -> Progress:
    """Two videos heard of, one of them twice because its worker died, another failed."""
    state = Progress(videos=10, workers=2, seconds=4.0)
    first = VideoDone("a", clips=8, seconds=Seconds(decode=1, encode=4))
    state.add(first, None)
    state.add(dataclasses.replace(first, seconds=Seconds(encode=2)), first)
    state.add(VideoDone("b", failure=Failure("b", "empty", "b.mp4: is empty")), None)
    return state


def test_rates_tell_speed_shares_utilisation_time_left_and_failures() -> None:
    assert rates(progress()) == (
        "0.5 videos/s, 2 clips/s, decode 14% encode 86% write 0%, encoders busy 75%, 16 s left, "
        "1 failed"
    )
    assert rates(Progress(videos=10)) == "workers are starting"


ROW = {"qid": 1, "query": "a dog", "vid": "beach", "duration": 30, "relevant_windows": [[2, 6]]}


def run(
    folder: Path, summary: Summary, tracking: TrackingConfig | None = None, **changes: object
) -> int:
    (folder / "rows.jsonl").write_text(json.dumps({**ROW, **changes}) + "\n")
    config = JobConfig(annotations=folder / "rows.jsonl", output=folder / "train")

    def work(report: Report) -> Summary:
        report(progress())
        (folder / "train").mkdir(exist_ok=True)
        rows = [{"vid": f"v{n}", "kind": "empty", "cause": f"v{n}.mp4: is [empty]"} for n in (1, 2)]
        (folder / "train/failures.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
        return summary

    return run_job(config, work, tracking)


def test_too_many_failures_give_status_1_and_are_told_with_their_causes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(tmp_path, SUMMARY) == 1
    printed = capsys.readouterr().out
    for part in (
        "7 of 10 VIDEOS FAILED: 6 empty, 1 missing",
        "v1.mp4: is [empty]",
        "… and 2 more",
        "failures.jsonl",
        "--retry-failed true",
        "More than 5%: the job counts as failed (status 1)",
    ):
        assert part in printed
    fine = dataclasses.replace(SUMMARY, failures={}, stored=10, failed=False)
    assert run(tmp_path, fine) == 0
    assert "FAILED" not in capsys.readouterr().out


def test_videos_of_another_length_are_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    summary = dataclasses.replace(
        SUMMARY, lengths_differ=1, lengths_named=("beach (90 s annotated, about 60 s found)",)
    )
    run(tmp_path, summary)
    told = "1 video is longer or shorter than the annotations say: beach (90 s annotated"
    assert told in capsys.readouterr().out


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"relevant_windows": [[6, 2]]}, "1 of 1 rows has a window that ends before it begins"),
        ({"relevant_windows": None, "windows": [[2, 6]]}, "have 'windows' and no 'relevant_window"),
    ],
)
def test_annotations_that_nobody_means_are_told_before_the_work(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], change: dict[str, object], told: str
) -> None:
    run(tmp_path, SUMMARY, **change)
    printed = " ".join(capsys.readouterr().out.split())
    assert told in printed
    assert printed.index(told) < printed.index("3 of 10 videos")


def test_progress_is_recorded_where_that_is_asked_for(tmp_path: Path) -> None:
    run(tmp_path, SUMMARY)
    assert not (tmp_path / "train/metrics.jsonl").exists()
    run(tmp_path, SUMMARY, TrackingConfig(mlflow=False))
    (line,) = (tmp_path / "train/metrics.jsonl").read_text().splitlines()
    record = json.loads(line)
    assert (record["kind"], record["videos"], record["videos_per_second"]) == ("features", 2, 0.5)
