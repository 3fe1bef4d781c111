"""The demo page's box over a whole archive: searched, looked at and played in Chromium."""

import json
import os
import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from data_pipeline.extraction.encoding import FeatureEncoder
from data_pipeline.features.samples import Sample
from data_pipeline.features.shards import FeatureSet, write_index
from data_pipeline.features.writing import ShardWriter, write_manifest
from model.kinds import build
from tests.launch.test_demo_in_browser import (
    ENCODER,
    LAPTOP,
    MODEL,
    PHONE,
    SECONDS,
    SETTLED,
    Server,
    film,
)
from trainer.archive.archive import Archive
from trainer.archive.building import Source, add_sets
from trainer.archive.writing import writer
from trainer.cli import dump_config
from trainer.inference.calibration import Calibration
from trainer.inference.pretrained import Export, encoder_of
from trainer.training.checkpoints import export

pytestmark = pytest.mark.timeout(300)
SENTENCES = ["a yellow square wanders to the right", "a dog jumps into the water"]
VIDEOS = 3
SCREENS = [LAPTOP, PHONE, LAPTOP | {"color_scheme": "dark"}, PHONE | {"color_scheme": "light"}]


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with an index and its run, and in asked.json a sentence that is found and one that
    is not: the model is not trained, and the threshold lies between how sure it is of the two.
    """
    folder = tmp_path_factory.mktemp("archive")
    encoder = FeatureEncoder(ENCODER)
    for name in ("videos", "set"):
        (folder / name).mkdir()
    with ShardWriter(folder / "set", "00000") as shard:
        for number in range(VIDEOS):
            path = film(folder / "videos" / f"film{number}.mp4")
            seen = encoder.encode_video(path)
            text = np.zeros((0, *encoder.encode_text(["a"])[0].shape[1:]), np.float16)
            shard.add(Sample(path.stem, seen.duration, seen.clip_length, seen.features, text, ()))
        made: dict[str, Any] = {"name": "films", "sha256": "", "videos": VIDEOS, "queries": 0}
        write_manifest(folder / "set", "films", encoder.provenance, made, [shard.commit()])
    write_index(folder / "set")
    config = replace(MODEL, existence=True)
    torch.manual_seed(0)
    model = build(config)

    def write(threshold: float) -> None:
        calibration = Calibration(
            window_offset=40.0, threshold_of_search=threshold
        )  # windows are sure
        described = Export(
            config,
            encoder_of(encoder.provenance),
            encoder.provenance,
            max_clips=6,
            calibration=calibration,
        )
        export(folder / "run" / "model", model, dump_config(described))

    write(0.0)
    source, features = Source(folder / "run", "projected", None), FeatureSet(folder / "set")
    with writer(folder / "index", str(folder / "run"), source.made_with(features)) as target:
        add_sets(target, [(features, str(folder / "videos"))], source.blocks)
    answers = Archive.open(folder / "index").search(SENTENCES)
    absent, found = sorted(answers, key=lambda answer: answer.existence or 0.0)
    write(((absent.existence or 0.0) + (found.existence or 0.0)) / 2)
    asked = {"found": found.query, "absent": absent.query}
    (folder / "asked.json").write_text(json.dumps(asked))
    return folder


@pytest.fixture(scope="module")
def asked(archive: Path) -> dict[str, str]:
    found: dict[str, str] = json.loads((archive / "asked.json").read_text())
    return found


@pytest.fixture(scope="module")
def server(archive: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    index = "--index", str(archive / "index")
    started = Server(archive / "run", tmp_path_factory.mktemp("temporary"), None, *index)
    yield started
    started.process.kill()
    started.process.wait()


def search(page: Any, sentence: str) -> None:
    page.get_by_label("What to look for in the whole archive").fill(sentence)
    page.get_by_role("button", name="Search", exact=True).click()


def test_a_moment_of_the_archive_plays_from_its_start_and_its_sentence_is_taken_over(
    open_page: Callable[..., Any], asked: dict[str, str]
) -> None:
    page = open_page()
    search(page, asked["found"])
    moments = page.locator(".moments button")
    moments.first.wait_for()
    page.get_by_text(f"{VIDEOS} videos, {VIDEOS * 2 * SECONDS} clips; answered in").wait_for()
    shown = [each.get_attribute("data-video") for each in moments.all()]
    assert set(shown) == {f"film{number}" for number in range(VIDEOS)}
    drawn = "all => all.every(image => image.complete && image.naturalWidth > 0)"
    assert page.locator(".moments img").count() == len(shown)
    page.wait_for_function(f"({drawn})([...document.querySelectorAll('.moments img')])")
    # Of another video than the one that the player shows already, too.
    for film_shown in ("film0", "film1"):
        own = page.locator(f".moments button[data-video={film_shown}]")
        starts = [float(each.get_attribute("data-start")) for each in own.all()]
        latest = max(starts)
        assert latest > 1
        own.nth(starts.index(latest)).focus()
        page.keyboard.press("Enter")
        page.get_by_text(f"{film_shown}.mp4 · {SECONDS} s").wait_for()
        page.wait_for_function(
            "latest => { const v = document.querySelector('video');"
            " return v.currentTime > latest && (v.ended || !v.paused); }",
            arg=latest,
        )
        page.wait_for_function(
            "() => { const seen = document.querySelector('video').getBoundingClientRect();"
            " return seen.top > -2 && seen.bottom < window.innerHeight + 2; }"
        )
    assert page.locator("#sentences textarea").input_value() == asked["found"]
    page.get_by_role("button", name="Find", exact=True).click()
    page.get_by_role("heading", name=f"“{asked['found']}”").wait_for()


def test_what_is_not_found_is_said_and_guessed_on_request(
    open_page: Callable[..., Any], asked: dict[str, str]
) -> None:
    page = open_page()
    search(page, asked["absent"])
    page.get_by_text("Not found: ").wait_for()
    guesses = page.locator(".moments button")
    assert guesses.count() >= VIDEOS
    assert not guesses.first.is_visible()
    page.get_by_text("The best guesses all the same").click()
    guesses.first.wait_for(state="visible")
    assert all("a guess" in text for text in guesses.all_inner_texts())
    guesses.first.click()
    page.locator("video").wait_for()


@pytest.mark.parametrize("screen", SCREENS, ids=["light", "phone, dark", "dark", "phone, light"])
def test_axe_finds_no_serious_fault_and_nothing_is_wider_than_the_screen(
    open_page: Callable[..., Any],
    accessibility_faults: Callable[[Any], list[str]],
    asked: dict[str, str],
    screen: dict[str, Any],
    request: pytest.FixtureRequest,
) -> None:
    page = open_page(**screen)
    for each in ("found", "absent"):
        search(page, asked[each])
        page.get_by_text("Not found: " if each == "absent" else "answered in").first.wait_for()
        page.locator("details").evaluate_all("all => all.forEach(each => { each.open = true; })")
        page.locator(".moments button").first.wait_for()
        page.wait_for_function(SETTLED.replace("article", ".moments"))
        assert not accessibility_faults(page)
        assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
        if folder := os.environ.get("SDST_SCREENSHOTS"):
            page.screenshot(path=f"{folder}/{each}-{request.node.callspec.id}.png", full_page=True)


def test_what_cannot_be_searched_for_is_said_in_a_sentence(open_page: Callable[..., Any]) -> None:
    page = open_page()
    search(page, " ")
    page.get_by_text("Write what to look for").wait_for()
    search(page, "x" * 501)
    page.get_by_text("A sentence has 501 letters").wait_for()


def test_a_moment_that_no_page_shows_is_answered_without_a_trace(server: Server) -> None:
    printed = server.printed.read_bytes()
    _, text = server.send("GET", "/")
    config = json.loads(re.search(r"window\.gradio_config = (\{.*?\});</script>", text)[1])
    play = next(d["id"] for d in config["dependencies"] if d["api_name"] == "play")
    moment = {"video": "film0", "start": 1.0, "end": 2.0}
    changes = [{"video": "../film0"}, {"video": 3}, {"start": "x"}, {"video": None}]
    for number, event in enumerate([*(moment | change for change in changes), None]):
        call = {
            "fn_index": play,
            "data": ["a dog"],
            "event_data": event,
            "session_hash": f"s{number}",
        }
        headers = {"Content-Type": "application/json"}
        status, _ = server.send("POST", "/gradio_api/queue/join", json.dumps(call), headers)
        assert status == 200
        _, events = server.send("GET", f"/gradio_api/queue/data?session_hash=s{number}")
        assert '"success":true' in events
        assert "There is no such video" in events
    assert server.printed.read_bytes() == printed
