"""Who asks while a training or an extraction runs is told how it goes, and nobody else is."""

import dataclasses
import json
import socket
import urllib.request
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import CollectorRegistry
from prometheus_client.parser import text_string_to_metric_families

from data_pipeline.config import JobConfig
from data_pipeline.errors import InputError
from data_pipeline.extraction.job import Progress
from data_pipeline.extraction.pool import Seconds
from launch.extract import UNTRACKED, Command
from launch.job_report import run_job
from tests.launch.test_job_report import SUMMARY
from trainer import experiment
from trainer.cli import parse_config
from trainer.config import TrackingConfig
from trainer.main import main
from trainer.tracking.prometheus import ExtractionMetrics, TrainingMetrics, offered

Samples = dict[tuple[str, tuple[tuple[str, str], ...]], float]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def ask(port: int) -> Samples:
    """What Prometheus would read: values by name and labels."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=30) as answer:
        text = answer.read().decode()
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def test_a_training_tells_what_its_records_say(
    command: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    port, said = free_port(), {}

    def finish(*arguments: Any) -> None:
        said.update(ask(port))
        original(*arguments)

    original = experiment.finish
    monkeypatch.setattr(experiment, "finish", finish)
    assert main(command(**{"tracking.prometheus": f"127.0.0.1:{port}"})) == 0
    run = (("run", "tiny"),)
    records = [json.loads(line) for line in (tmp_path / "runs/tiny/metrics.jsonl").open()]
    last = {record["kind"]: record for record in records if record["step"] == 12}
    train = last["train"]
    assert said["sdst_training_step", run] == said["sdst_training_steps", run] == 12
    assert said["sdst_training_loss", run] == train["loss"]
    assert said["sdst_training_pairs_per_second", run] == train["pairs_per_second"]
    assert said["sdst_training_data_wait_ratio", run] == train["data_wait_share"]
    assert (
        said["sdst_training_record", (("name", "classification"), *run)]
        == (train["classification"])
    )
    memory = said["sdst_training_rank_memory_bytes", (("rank", "0"), *run)]
    assert memory == last["system"]["rank_0/memory_gb"] * 1e9
    score = said["sdst_training_score", (("metric", "mAP"), *run, ("split", "selection"))]
    assert score == last["eval"]["mAP"]
    assert said["sdst_training_steps_skipped", run] == 0
    begun = records[0]["time"]
    for clock in ("last_step", "checkpoint"):
        assert said[f"sdst_training_{clock}_timestamp_seconds", run] > begun
    with pytest.raises(OSError, match="refused"):
        ask(port)  # it ended with the run


def test_who_asks_is_told_of_every_step_and_not_only_of_records() -> None:
    metrics = TrainingMetrics("first", 100)
    before = value(metrics.registry, "sdst_training_last_step_timestamp_seconds", run="first")
    metrics.moved(7, 2)
    assert value(metrics.registry, "sdst_training_step", run="first") == 7
    assert value(metrics.registry, "sdst_training_steps_skipped", run="first") == 2
    after = value(metrics.registry, "sdst_training_last_step_timestamp_seconds", run="first")
    assert after > before


def value(registry: CollectorRegistry, name: str, **labels: str) -> float:
    found = registry.get_sample_value(name, labels)
    assert found is not None, name
    return found


def test_replaced_pairs_add_up_over_records() -> None:
    metrics = TrainingMetrics("first", 100)
    for _ in range(2):
        metrics.log("train", {"loss": 1.0, "pairs_replaced": 3.0})
    assert value(metrics.registry, "sdst_training_pairs_replaced_total", run="first") == 6


def test_gpu_memory_of_each_rank_is_told_in_bytes() -> None:
    metrics = TrainingMetrics("first", 100)
    metrics.log("system", {"rank_1/cuda_peak_gb": 2.5, "node_0/cpu_percent": 50.0})
    name = "sdst_training_rank_gpu_memory_bytes"
    assert value(metrics.registry, name, run="first", rank="1") == 2.5e9


def test_an_address_that_is_taken_ends_the_run_in_one_line_before_anything_is_written(
    command: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        assert main(command(**{"tracking.prometheus": address})) == 2
    said = capsys.readouterr().err
    assert f"tracking.prometheus: {address}" in said
    assert "Traceback" not in said
    assert not (tmp_path / "runs/tiny/config.yaml").exists()


@pytest.mark.parametrize("address", ["9400", ":9400", "localhost", "host:70000", "host:-1", "a:9 "])
def test_what_names_no_address_is_refused(address: str) -> None:
    with pytest.raises(ValueError, match="must be host:port"):
        TrackingConfig(prometheus=address)


def test_a_run_may_go_on_at_another_address(command: Any, tmp_path: Path) -> None:
    assert main(command(**{"tracking.prometheus": "127.0.0.1:0"})) == 0
    saved = (tmp_path / "runs/tiny/config.yaml").read_text()
    assert "127.0.0.1:0" in saved
    assert main(command()) == 0  # the same run, finished


def test_nothing_is_offered_unless_it_is_asked_for() -> None:
    assert TrackingConfig().prometheus is None
    assert not TrackingConfig(prometheus="").prometheus  # as an empty variable of a manifest
    assert TrackingConfig().tensorboard is False


def test_an_extraction_tells_how_far_it_is_and_what_failed(tmp_path: Path) -> None:
    port = free_port()
    tracking = TrackingConfig(mlflow=False, prometheus=f"127.0.0.1:{port}")
    state = Progress(videos=9, done=4, failed=1, clips=30, workers=2, seconds=10.0)
    state.busy = Seconds(decode=3.0, encode=5.0, write=1.0)
    said: Samples = {}

    def work(report: Any) -> Any:
        report(state)
        said.update(ask(port))
        return dataclasses.replace(SUMMARY, failed=False, failures={})

    assert run_job(JobConfig(output=tmp_path / "set", split="val"), work, tracking) == 0
    split = (("split", "val"),)
    told = {name: said[f"sdst_extraction_{name}", split] for name in NUMBERS}
    assert told == NUMBERS
    assert said["sdst_extraction_busy_seconds", (("part", "encode"), *split)] == 5.0
    assert (tmp_path / "set/metrics.jsonl").is_file()  # records are kept beside, as ever


NUMBERS = {
    "videos": 9.0,
    "videos_done": 4.0,
    "videos_failed": 1.0,
    "clips_done": 30.0,
    "workers": 2.0,
    "encoder_utilisation_ratio": 0.25,
}


def test_the_clock_of_an_extraction_stands_while_no_video_is_done() -> None:
    metrics = ExtractionMetrics("val")
    state = Progress(videos=9, done=1)
    metrics.show(state)
    name = "sdst_extraction_last_video_timestamp_seconds"
    first = value(metrics.registry, name, split="val")
    metrics.show(state)
    assert value(metrics.registry, name, split="val") == first
    state.done = 2
    metrics.show(state)
    assert value(metrics.registry, name, split="val") > first


def test_a_job_whose_set_lies_in_a_bucket_is_watched_without_records() -> None:
    config = JobConfig(output="s3://bucket/set")
    done = dataclasses.replace(SUMMARY, failed=False, failures={})
    with pytest.raises(InputError, match=r"tracking\.prometheus"):
        run_job(config, lambda _: done, TrackingConfig(prometheus="127.0.0.1:0"))
    tracking = TrackingConfig(mlflow=False, prometheus="127.0.0.1:0")
    assert run_job(config, lambda _: done, tracking) == 0


def test_any_number_of_times_an_address_is_given_back() -> None:
    port = free_port()
    for _ in range(2):
        with offered(ExtractionMetrics("val").registry, f"127.0.0.1:{port}") as got:
            assert got == port
            assert ask(port)


@pytest.mark.parametrize(("words", "tracked"), [((), False), (("--tracking.mlflow=true",), True)])
def test_flags_beside_a_file_say_where_an_extraction_is_watched(
    words: tuple[str, ...], tracked: bool
) -> None:
    file = Path(__file__).parents[3] / "configs/extract/quickstart.yaml"
    given = ["--config", str(file), "--videos=v", "--output=o"]
    assert parse_config(Command, given).tracking == UNTRACKED
    given += ["--tracking.prometheus", "127.0.0.1:9400", *words]
    tracking = parse_config(Command, given).tracking
    assert (tracking.prometheus, tracking.mlflow) == ("127.0.0.1:9400", tracked)
