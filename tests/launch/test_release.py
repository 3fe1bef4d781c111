"""Stages are started when what they need is there, each once, and only by an account that may."""

import re
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from data_pipeline.features.shards import FeatureSet
from launch import release
from tests.kubernetes.api import Api, serving

TRAINING = "trainer.kubeflow.org/v1alpha1/trainjobs/sdst"
EVALUATION = "batch/v1/jobs/sdst-evaluation"
QUEUE = "kueue.x-k8s.io/queue-name"


@pytest.fixture
def cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Api]:
    with serving(tmp_path / "account") as api:
        monkeypatch.setattr(release, "ACCOUNT", tmp_path / "account")
        monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "127.0.0.1")
        monkeypatch.setenv("KUBERNETES_SERVICE_PORT", str(api.port))
        yield api


class Said:
    """What the program prints, from whichever thread."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def __call__(self, line: str, **_: Any) -> None:
        self.lines.append(line)

    def wait_for(self, what: str) -> None:
        while not any(what in line for line in list(self.lines)):
            time.sleep(0.02)


@pytest.fixture
def said(monkeypatch: pytest.MonkeyPatch) -> Said:
    said = Said()
    monkeypatch.setattr(release, "print", said, raising=False)
    return said


@pytest.mark.timeout(60)
def test_training_starts_with_the_last_set_and_evaluation_with_the_run(
    cluster: Api,
    tmp_path: Path,
    make_features: Callable[..., FeatureSet],
    said: Said,
) -> None:
    training, evaluation = cluster.add(TRAINING), cluster.add(EVALUATION)
    make_features(tmp_path / "train", videos=2)
    run = tmp_path / "run"
    words = [str(tmp_path / "train"), str(tmp_path / "val"), "--training", TRAINING, "--every=0.05"]
    words += ["--run", str(run), "--then", EVALUATION]
    done = threading.Thread(target=release.main, args=(words,), daemon=True)
    done.start()
    said.wait_for(f"waiting: {tmp_path / 'val'}")
    assert f"{tmp_path / 'train'} is whole" in said.lines
    assert not cluster.asked.is_set()
    make_features(tmp_path / "val", videos=2)
    said.wait_for(f"waiting: {run}")
    assert cluster.patched == [training]
    assert cluster.objects[training]["spec"] == {"suspend": False}
    assert cluster.objects[evaluation]["spec"] == {"suspend": True}
    run.mkdir()
    (run / "metrics.json").write_text("{}")
    done.join()
    assert cluster.patched == [training, evaluation]


def test_what_runs_already_is_left_alone(cluster: Api) -> None:
    path = cluster.add(TRAINING)
    cluster.objects[path]["spec"]["suspend"] = False
    assert release.main(["--training", TRAINING]) == 0
    assert cluster.patched == []


def test_with_a_queue_the_object_stays_suspended_and_is_handed_to_it(cluster: Api) -> None:
    path = cluster.add(TRAINING)
    for _ in range(2):
        assert release.main(["--training", TRAINING, "--queue", "ours"]) == 0
    assert cluster.patched == [path]
    assert cluster.objects[path] == {
        "metadata": {"labels": {QUEUE: "ours"}},
        "spec": {"suspend": True},
    }


@pytest.mark.timeout(60)
def test_an_object_that_is_applied_later_and_an_api_in_trouble_are_waited_for(
    cluster: Api, said: Said
) -> None:
    words = ["--training", TRAINING, "--queue", "", "--every", "0.05"]
    done = threading.Thread(target=release.main, args=(words,), daemon=True)
    done.start()
    said.wait_for("not there yet")
    cluster.troubles = [500, 503, 429]
    path = cluster.add(TRAINING)
    done.join()
    assert cluster.patched == [path]


@pytest.mark.parametrize("status", [401, 403])
def test_an_account_that_may_not_ends_in_one_line(
    cluster: Api, status: int, capsys: pytest.CaptureFixture[str]
) -> None:
    cluster.add(TRAINING)
    cluster.troubles = [status]
    assert release.main(["--training", TRAINING]) == 2
    assert re.search(rf"^error: .*trainjobs/sdst: .*{status}", capsys.readouterr().err)


def test_without_an_account_nothing_is_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    assert release.main([str(tmp_path / "never"), "--training", TRAINING]) == 2
    assert "no access to a Kubernetes API" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["sdst", "../v1/jobs/x", "batch/v1/jobs/../secrets", "a/v1/b/C d"])
def test_what_names_no_object_is_refused(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert release.main(["--training", name]) == 2
    assert "names no object" in capsys.readouterr().err


def test_features_alone_are_only_waited_for(
    tmp_path: Path, make_features: Callable[..., FeatureSet]
) -> None:
    make_features(tmp_path / "train", videos=2)
    assert release.main([str(tmp_path / "train")]) == 0
