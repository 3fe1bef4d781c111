"""The demo page: what it answers, what it keeps and for how long, what it refuses."""

import asyncio
import base64
import contextlib
import json
import re
import socket
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import av
import numpy as np
import pytest
from PIL import Image

from data_pipeline.errors import InputError
from data_pipeline.extraction.encoding import VideoFeatures
from launch import demo
from launch.page.videos import TRIES, Videos, find_examples, find_tries
from trainer.inference.grounding import Grounding


def film(path: Path, seconds: int = 4, codec: str = "libx264") -> Path:
    """A video of `seconds` seconds."""
    with av.open(str(path), "w") as container:
        stream: Any = container.add_stream(codec, rate=5)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for i in range(5 * seconds):
            picture = np.full((48, 64, 3), (8 * i) % 256, np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture)))
        container.mux(stream.encode())
    return path


def sound(path: Path) -> Path:
    with av.open(str(path), "w") as container:
        track: Any = container.add_stream("aac", rate=8000)
        track.layout = "mono"
        silence = av.AudioFrame.from_ndarray(
            np.zeros((1, 8000), np.float32), format="fltp", layout="mono"
        )
        silence.sample_rate = 8000
        container.mux([*track.encode(silence), *track.encode()])
    return path


def picture(path: Path) -> Path:
    Image.new("RGB", (64, 48)).save(path, "PNG")
    return path


def junk(path: Path) -> Path:
    path.write_bytes(b"no video" * 100)
    return path


@pytest.fixture
def videos(tmp_path: Path) -> Videos:
    (tmp_path / "kept").mkdir()
    return Videos(tmp_path / "kept", most=2, keep=60)


def upload(videos: Videos, source: Path) -> Any:
    with videos.room(source.name) as path:
        path.write_bytes(source.read_bytes())
        return videos.take(path)


# What is kept


def test_the_longest_unused_video_makes_room_for_a_new_one_with_all_its_files(
    videos: Videos, tmp_path: Path
) -> None:
    source = film(tmp_path / "film.mp4")
    first, second = upload(videos, source), upload(videos, source)
    clip = second.clip(1.0, 2.0)
    videos.get(first.key)
    upload(videos, source)
    assert videos.get(first.key).path.is_file()
    assert not second.folder.exists()
    assert not clip.exists()
    with pytest.raises(InputError, match="no longer kept here"):
        videos.get(second.key)


def test_an_unused_video_is_deleted_after_a_while_and_an_example_stays_where_it_is(
    videos: Videos, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    example = film(tmp_path / "example.mp4")
    opened, uploaded = videos.open(example), upload(videos, example)
    videos.forget_unused()
    assert videos.get(opened.key)
    assert uploaded.path.is_file()
    monkeypatch.setattr(videos, "_keep", -1.0)
    videos.forget_unused()
    assert not list((tmp_path / "kept").iterdir())
    assert example.is_file()


def test_an_example_is_held_once_for_all_who_choose_it(videos: Videos, tmp_path: Path) -> None:
    example = film(tmp_path / "example.mp4")
    assert videos.open(example) is videos.open(example)


@pytest.mark.parametrize(
    ("make", "fault"),
    [
        (junk, "cannot be decoded as a video"),
        (sound, "holds no video stream"),
        (picture, "is a picture, not a video"),
        (lambda path: path.touch() or path, "is empty"),
    ],
)
def test_an_upload_that_is_no_video_is_named_without_its_folder_and_leaves_nothing(
    videos: Videos, tmp_path: Path, make: Any, fault: str
) -> None:
    source = make(tmp_path / "holiday.mp4")
    with pytest.raises(InputError, match=f"^holiday.mp4: {fault}"):
        upload(videos, source)
    assert not list((tmp_path / "kept").iterdir())


@pytest.mark.parametrize(
    "name",
    [
        "../../outside.mp4",
        "/etc/passwd",
        "..",
        ".",
        "",
        "a\\..\\b.mp4",
        ".hidden",
        "界" * 400,
        "\0",
    ],
)
def test_an_upload_stays_in_its_folder_whatever_it_is_called(
    videos: Videos, tmp_path: Path, name: str
) -> None:
    with videos.room(name) as path:
        path.touch()
        assert path.resolve().parent.parent == (tmp_path / "kept").resolve()
        assert not path.name.startswith(".")


def test_clips_of_a_video_are_cut_without_listing_its_frames_again(
    videos: Videos, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    video = upload(videos, film(tmp_path / "film.mp4"))
    monkeypatch.setattr("data_pipeline.video.video.list_video", None)
    for start in (0.0, 1.3):
        assert video.clip(start, 2.0).is_file()


def test_a_clip_is_cut_once_and_coded_so_that_browsers_play_it(
    videos: Videos, tmp_path: Path
) -> None:
    video = upload(videos, film(tmp_path / "old.avi", codec="mpeg4"))
    clip = video.clip(0.0, 2.0)
    with av.open(str(clip)) as container:
        assert container.streams.video[0].codec_context.name == "h264"
    made = clip.stat().st_mtime_ns
    assert video.clip(0.0, 2.0).stat().st_mtime_ns == made


@pytest.mark.parametrize("seconds", [(2.0, 1.0), (-1.0, 1.0), (0.0, 99.0), (float("nan"), 1.0)])
def test_seconds_that_a_video_does_not_have_are_not_cut(
    videos: Videos, tmp_path: Path, seconds: tuple[float, float]
) -> None:
    with pytest.raises(InputError, match="has no seconds"):
        upload(videos, film(tmp_path / "film.mp4")).clip(*seconds)


def test_a_full_disk_is_said_of_the_video_and_shows_no_folder(
    small_disk: Path, fill: Any, tmp_path: Path
) -> None:
    kept = Videos(small_disk, most=2, keep=60)
    video = upload(kept, film(tmp_path / "film.mp4"))
    with contextlib.suppress(OSError), open(fill(), "ab") as filler:
        filler.write(bytes(9000))
    with pytest.raises(InputError) as caught:
        video.clip(0.0, 2.0)
    assert str(caught.value) == "film.mp4: there is no room for it on the server"


def test_a_video_keeps_a_bounded_number_of_clips(
    videos: Videos, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("launch.page.videos.CLIPS_KEPT", 2)
    video = upload(videos, film(tmp_path / "film.mp4"))
    clips = [video.clip(start, 4.0) for start in (0.0, 1.0, 2.0)]
    assert [clip.is_file() for clip in clips] == [False, True, True]


def test_examples_are_the_videos_that_the_run_was_judged_on_with_their_sentences(
    tmp_path: Path,
) -> None:
    film(tmp_path / "there.mp4")
    junk(tmp_path / "broken.mp4")
    (tmp_path / "config.yaml").write_text(f"name: run\nvideos: {tmp_path}\n")
    rows = [("there", "a"), ("gone", "b"), ("there", "c"), ("there", "d"), ("broken", "e")]
    (tmp_path / "predictions.jsonl").write_text(
        "".join(json.dumps({"vid": vid, "query": query}) + "\n" for vid, query in rows)
    )
    (example,) = find_examples(tmp_path)
    assert example.path == tmp_path / "there.mp4"
    assert example.sentences == ("a", "c")
    assert find_examples(tmp_path / "elsewhere") == []


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("config.yaml", "nosuchkey: 1\n"),
        ("config.yaml", "["),
        ("predictions.jsonl", "[]\n"),
        ("predictions.jsonl", '{"vid": "there"}\n'),
        ("predictions.jsonl", "[" * 100_000),
    ],
)
def test_examples_that_cannot_be_read_cost_themselves_and_are_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, name: str, text: str
) -> None:
    (tmp_path / "config.yaml").write_text(f"name: run\nvideos: {tmp_path}\n")
    (tmp_path / "predictions.jsonl").write_text('{"vid": "there", "query": "a"}\n')
    (tmp_path / name).write_text(text)
    assert find_examples(tmp_path) == []
    assert f"no examples: {tmp_path / name}" in caplog.text


def test_an_example_lies_in_the_folder_of_videos(tmp_path: Path) -> None:
    (tmp_path / "videos").mkdir()
    film(tmp_path / "mine.mp4")
    (tmp_path / "config.yaml").write_text(f"name: run\nvideos: {tmp_path / 'videos'}\n")
    rows = [{"vid": vid, "query": "a"} for vid in ("../mine", str(tmp_path / "mine"), "x" * 300)]
    (tmp_path / "predictions.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    assert find_examples(tmp_path) == []


# What is answered


class FakeGrounder:
    """Finds everything in seconds 1 to 3."""

    def __init__(self) -> None:
        self.encoded = 0
        self.judged: dict[str, float] = {}

    def encode(self, path: Path, progress: Any) -> VideoFeatures:
        self.encoded += 1
        for share in (0.0, 0.5, 1.0):
            progress(share)
        return VideoFeatures(np.zeros((2, 1, 1), np.float16), 4.0, 2.0)

    def predict(self, features: VideoFeatures, sentences: list[str]) -> list[Grounding]:
        saliency = np.array([0.0, 1.0], np.float32)
        windows = ((1.0, 3.0, 0.9), (0.0, 4.0, 0.2))
        return [
            Grounding(
                sentence,
                4.0,
                2.0,
                windows,
                saliency,
                max(0, len(sentence.split()) - 50),
                **self.judged,
            )
            for sentence in sentences
        ]


@pytest.fixture
def page(videos: Videos) -> Any:
    pytest.importorskip("gradio", reason="needs the group `demo`")
    from launch.page.content import Page

    return Page(FakeGrounder(), videos, [])  # type: ignore[arg-type]


def silent(share: float, desc: str) -> None:
    """A progress bar that nobody sees."""


def test_the_next_sentence_does_not_encode_the_video_again(
    page: Any, videos: Videos, tmp_path: Path
) -> None:
    key = upload(videos, film(tmp_path / "film.mp4")).key
    shares: list[float] = []
    first = page.ask(key, "a dog\n\n  a cat ", lambda share, desc: shares.append(share))
    assert "“a dog”" in first
    assert "“a cat”" in first
    assert first.count("<article") == 2
    assert "encoded in" in first
    assert "encoded before" in page.ask(key, "two birds", silent)
    assert page.grounder.encoded == 1
    assert shares == [0.0, 0.5, 1.0]


def test_a_window_is_a_button_with_its_words_and_its_clip(
    page: Any, videos: Videos, tmp_path: Path
) -> None:
    video = upload(videos, film(tmp_path / "film.mp4"))
    html = page.ask(video.key, "a dog", silent)
    clip = f"videos/{video.key}/1.000-3.000.mp4"
    assert f'<button type="button" class="track" data-start="1.000" data-clip="{clip}">' in html
    assert "Play window 1:" in html
    assert f'<a href="{clip}" download="film-1-1.mp4">' in html


def test_windows_below_the_threshold_are_folded_away(
    page: Any, videos: Videos, tmp_path: Path
) -> None:
    key = upload(videos, film(tmp_path / "film.mp4")).key
    assert "less sure" not in page.ask(key, "a dog", silent)
    page.threshold = 0.5
    html = page.ask(key, "a dog", silent)
    above, _, folded = html.partition("<details")
    assert "1 less sure" in folded
    assert "Play window 1:" in above
    assert "Play window 2:" in folded.partition("</details>")[0]
    page.threshold = 0.95
    html = page.ask(key, "a dog", silent)
    assert "Not found: no window with a score of 0.95 or more." in html
    assert "The best guess all the same" in html.partition("<details")[2]


def test_what_the_video_does_not_show_is_not_found_and_its_guess_is_folded_away(
    page: Any, videos: Videos, tmp_path: Path
) -> None:
    page.grounder.judged = {"existence": 0.125}
    html = page.ask(upload(videos, film(tmp_path / "film.mp4")).key, "a dog", silent)
    above, _, folded = html.partition("<details")
    assert "Not found: 12.5% sure that the video shows it." in above
    assert "Play window" not in above
    assert "The best guess all the same" in folded
    assert "Play window 1:" in folded


def test_without_a_sentence_those_are_offered_that_fit_the_video_best(
    page: Any, videos: Videos, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def predict(features: VideoFeatures, sentences: list[str]) -> list[Grounding]:
        saliency = np.zeros(2, np.float32)
        return [
            Grounding(each, 4.0, 2.0, ((0.0, 1.0, len(each) / 10),), saliency) for each in sentences
        ]

    key = upload(videos, film(tmp_path / "film.mp4")).key
    assert "Write what to look for" in page.ask(key, " ", silent)  # there are none to try
    monkeypatch.setattr(page.grounder, "predict", predict)
    page.tries = ["<b>", "six   ", "eight   ", "two", "fourth", "fifth  ", "o"]
    page.threshold = 0.2
    html = page.ask(key, " \n", silent)
    offered = re.findall(r'data-try="([^"]*)"', html)
    assert offered == ["eight   ", "fifth  ", "six   ", "fourth", "&lt;b&gt;"]
    page.threshold, page.tries = 2.0, ["one", "two"]
    assert page.ask(key, "", silent) == html  # known by now
    other = upload(videos, film(tmp_path / "other.mp4")).key
    assert "seems to fit; write your own" in page.ask(other, "", silent)
    assert "There is no video yet" in page.ask("", "a dog", silent)


def test_sentences_to_try_come_from_all_over_the_runs_predictions(tmp_path: Path) -> None:
    rows = [{"vid": "v", "query": f"sentence {n // 2}"} for n in range(400)]
    (tmp_path / "predictions.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    tries = find_tries(tmp_path)
    assert 40 < len(tries) <= TRIES
    assert len(set(tries)) == len(tries)
    assert int(tries[-1].split()[1]) > 190
    (tmp_path / "predictions.jsonl").write_text("[]\n")
    assert find_tries(tmp_path) == find_tries(tmp_path / "nowhere") == []


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        (" \n", "Write what to look for"),
        ("word\n" * 21, "These are 21 sentences; ask at most 20."),
        ("x" * 501, "A sentence has 501 letters; use at most 500."),
    ],
)
def test_what_cannot_be_asked_is_said_in_a_sentence(
    page: Any, videos: Videos, tmp_path: Path, text: str, fault: str
) -> None:
    key = upload(videos, film(tmp_path / "film.mp4")).key
    html = page.ask(key, text, silent)
    assert 'role="alert"' in html
    assert fault in html
    assert page.grounder.encoded == 0


def test_asking_without_a_video_or_about_one_that_was_deleted_is_said(page: Any) -> None:
    assert "There is no video yet" in page.ask("", "a dog", silent)
    assert "no longer kept here" in page.ask("some key", "a dog", silent)


def test_a_video_that_breaks_while_it_is_encoded_is_named_without_its_folder(
    page: Any, videos: Videos, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def encode(path: Path, progress: Any) -> VideoFeatures:
        raise InputError(f"{path}: damaged: the frame at 2.00 s cannot be decoded")

    monkeypatch.setattr(page.grounder, "encode", encode)
    html = page.ask(upload(videos, film(tmp_path / "film.mp4")).key, "a dog", silent)
    assert ">film.mp4: damaged: the frame at 2.00 s cannot be decoded.<" in html


def test_the_damaged_seconds_of_a_video_are_told_with_the_answer(
    page: Any, videos: Videos, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def encode(path: Path, progress: Any) -> VideoFeatures:
        told = (f"{path}: damaged at 2.0 to 2.7 s; what is shown there may be wrong",)
        return VideoFeatures(np.zeros((2, 1, 1), np.float16), 4.0, 2.0, warnings=told)

    monkeypatch.setattr(page.grounder, "encode", encode)
    html = page.ask(upload(videos, film(tmp_path / "film.mp4")).key, "a dog", silent)
    told = "film.mp4: damaged at 2.0 to 2.7 s; what is shown there may be wrong"
    assert f">{told}.<" in html
    assert html.count("<article") == 1
    saved = html.partition("data:application/json;base64,")[2].partition('"')[0]
    assert json.loads(base64.b64decode(saved))["warnings"] == [told]


def test_a_video_that_is_cut_short_is_taken(videos: Videos, tmp_path: Path) -> None:
    path = film(tmp_path / "film.mkv")
    path.write_bytes(path.read_bytes()[:-200])
    assert upload(videos, path).duration > 0


def test_what_is_typed_stays_text(page: Any, videos: Videos, tmp_path: Path) -> None:
    key = upload(videos, film(tmp_path / "film.mp4")).key
    html = page.ask(key, "<img src=x onerror=alert(1)>", silent)
    assert "<img src=x" not in html
    assert "&lt;img src=x onerror=alert(1)&gt;" in html


def test_a_server_that_ends_does_not_wait_for_a_long_video(
    page: Any, videos: Videos, tmp_path: Path
) -> None:
    key = upload(videos, film(tmp_path / "film.mp4")).key
    page.stopping.set()
    assert "being stopped" in page.ask(key, "a dog", silent)


def test_no_web_address_is_fetched_for_a_request(videos: Videos) -> None:
    pytest.importorskip("gradio", reason="needs the group `demo`")
    from gradio import processing_utils

    from launch.page.server import app_options

    app_options("127.0.0.1", videos, 1000)
    with pytest.raises(InputError, match="No addresses"):
        asyncio.run(processing_utils.async_ssrf_protected_download("https://example.org/a.mp4"))


# The command


@pytest.mark.parametrize(
    ("flags", "fault"),
    [
        (["--model", "nowhere"], "nowhere: no such folder"),
        (["--max-upload", "0"], "must be positive"),
        (["--keep", "-1"], "must be positive"),
        (["--videos", "0"], "must be positive"),
        (["--port", "many"], "port"),
    ],
)
def test_a_bad_flag_is_one_line(
    flags: list[str], fault: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert demo.main(flags) == 2
    printed = capsys.readouterr().err
    assert fault in printed
    assert printed.count("\n") == 1


def test_a_port_that_is_taken_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("gradio", reason="needs the group `demo`")
    for name in ("GRADIO_TEMP_DIR", "GRADIO_ANALYTICS_ENABLED"):
        monkeypatch.setenv(name, "")  # put back afterwards
    options = SimpleNamespace(
        videos=2, keep=1, max_upload=1, host="127.0.0.1", port=0, root_path="", threshold=0.1
    )
    with socket.create_server(("127.0.0.1", 0)) as taken:
        options.port = taken.getsockname()[1]
        with pytest.raises(InputError, match="cannot be listened on; name another --port"):
            demo.serve(FakeGrounder(), tmp_path, tmp_path, options)  # type: ignore[arg-type]


def test_a_sentence_that_is_not_read_to_its_end_is_told_and_another_is_not(
    page: Any, videos: Videos, tmp_path: Path
) -> None:
    video = videos.open(film(tmp_path / "film.mp4"))
    answer = page.ask(video.key, f"a dog\n{'word ' * 60}", silent)
    assert answer.count("This sentence is longer than the encoder reads") == 1
    assert "its last 10 tokens make no difference" in answer
