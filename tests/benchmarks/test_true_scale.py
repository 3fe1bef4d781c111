"""The true-scale benchmark as a program, at the smallest scale."""

import pytest

from data_pipeline.annotations import Annotation, write_annotations
from tests.benchmarks import linear_probe, true_scale
from tests.benchmarks.generated_features import FeatureConfig, generate

SUBJECTS = ("dog", "woman", "car", "boat", "child", "horse", "band", "chef")
VERBS = ("jumps", "sings", "turns", "burns", "sleeps")


def rows(videos: int, first: int = 0) -> list[Annotation]:
    return [
        Annotation(
            qid=vid,
            query=f"{SUBJECTS[vid % 8]} {VERBS[vid % 5]}",
            vid=f"video {vid}",
            duration=60.0,
            windows=((2.0 * (vid % 20), 2.0 * (vid % 20) + 14),),
            saliency=dict.fromkeys(range(vid % 20, vid % 20 + 7), (4.0, 4.0, 3.0)),
        )
        for vid in range(first, first + videos)
    ]


def test_the_probe_finds_windows_in_clear_features_and_fewer_in_noise(tmp_path):
    def probe(name: str, **hardness: float) -> dict[str, float]:
        config = FeatureConfig(video_width=16, text_width=16, layers=2, **hardness)
        train = generate(rows(240), tmp_path / name / "train", "train", config)
        report = generate(rows(60, first=240), tmp_path / name / "val", "val", config)
        return linear_probe.measure(train, report)

    clear = probe("clear", noise=0.05, drift=0.0, text_noise=0.0, blur=0)
    noisy = probe("noisy", noise=1.0, drift=1.0)
    assert clear["mAP"] > 50
    assert clear["HD-mAP"] > 60
    assert noisy["mAP"] < clear["mAP"] - 20


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_one_command_prints_the_table_and_keeps_what_is_finished(tmp_path, capsys):
    for split, first in (("train", 0), ("val", 16)):
        write_annotations(tmp_path / f"highlight_{split}_release.jsonl", rows(16, first))
    flags = ["--annotations", str(tmp_path), "--work", str(tmp_path / "work"), "--steps", "[1]"]
    flags += ["--train_videos", "16", "--seeds", "[0,1]", "--attention", "[cross,rdsa]"]
    flags += ["--epochs", "1", "--batch_size", "8", "--width", "16", "--queries", "4"]
    assert true_scale.main(flags) == 0
    printed = capsys.readouterr().out
    assert "Generated features" in printed
    assert printed.count("±") >= 6
    before = {p: p.stat().st_mtime_ns for p in (tmp_path / "work").rglob("metrics.json")}
    assert len(before) == 4
    assert true_scale.main(flags) == 0
    assert before == {p: p.stat().st_mtime_ns for p in before}
    flags += ["--kind", "[moment_detr,qd_detr,pyramid]", "--seeds", "[0]"]
    assert true_scale.main(flags) == 0
    assert "| moment_detr | 1 |" in (printed := capsys.readouterr().out)
    assert "| pyramid | 1 |" in printed
    assert true_scale.main([*flags, "--features.noise", "0.5"]) == 2
    assert "holds other features (options" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_absent_sentences_are_planted_on_request_and_what_is_judged_of_them_is_printed(
    tmp_path, capsys
):
    for split, first in (("train", 0), ("val", 16)):
        write_annotations(tmp_path / f"highlight_{split}_release.jsonl", rows(16, first))
    flags = ["--annotations", str(tmp_path), "--work", str(tmp_path / "work"), "--steps", "[1]"]
    flags += ["--seeds", "[0]", "--attention", "[cross]", "--epochs", "1", "--batch_size", "8"]
    flags += ["--width", "16", "--queries", "4"]
    assert true_scale.main([*flags, "--absent", "true"]) == 0
    head, line = [
        [cell.strip() for cell in row.split("|")]
        for row in capsys.readouterr().out.splitlines()
        if row.startswith(("| reads", "| cross"))
    ]
    found = dict(zip(head, line, strict=True))
    assert 0 <= float(found["AUROC"]) <= 100
    kept, rejected = float(found["accepted-present"]), float(found["rejected-absent"])
    assert {kept, rejected} <= {100 * n / 16 for n in range(17)}
    assert true_scale.main(flags) == 2
    assert "with absent sentences or without" in capsys.readouterr().err
