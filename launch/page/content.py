"""The demo page in Gradio: what is on it, and what happens when somebody asks."""

import base64
import json
import logging
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import gradio as gr

from data_pipeline.errors import InputError, told
from data_pipeline.video.names import SUFFIXES
from launch.answers.batch import to_json
from launch.answers.film_page import file_of, pictured
from launch.page.videos import Example, Video, Videos, sentence
from trainer.archive.archive import Archive
from trainer.inference.grounding import Grounding
from trainer.inference.predict import VideoGrounder
from trainer.pictures.examples import draw_timeline
from trainer.pictures.pages import fill

LOG = logging.getLogger(__name__)

MOMENTS = 12  # of the archive
SHOWN = 5  # windows of a sentence, and sentences to try
MOST_SENTENCES = 20  # at once
LONGEST = 500  # letters of a sentence
WAITING = 50  # requests, before further ones are refused


class Page:
    """What the page's events do.

    grounder: answers. videos: those at hand. examples: those on offer. Windows with a score below
    `threshold` are folded away. tries: sentences of which those are offered that fit a video.
    archive: what is searched as a whole, if there is one. `stopping` ends what runs.
    """

    def __init__(
        self,
        grounder: VideoGrounder,
        videos: Videos,
        examples: Sequence[Example],
        threshold: float = 0.0,
        tries: Sequence[str] = (),
        archive: Archive | None = None,
    ) -> None:
        self.grounder = grounder
        self.videos = videos
        self.examples = examples
        self.threshold = threshold
        self.tries = list(tries)
        self.archive = archive
        self.stopping = threading.Event()

    def choose(self, event: gr.EventData) -> tuple[str, str, str, str]:
        """An example was chosen: player, key, sentences, no answer yet."""
        number = _given(event, "example")
        if type(number) is not int or not 0 <= number < len(self.examples):
            player, key = self._shown(self._no_example)
            return player, key, "", ""
        example = self.examples[number]
        player, key = self._shown(lambda: self.videos.open(example.path))
        return player, key, "\n".join(example.sentences), ""

    def _no_example(self) -> Video:
        raise InputError("There is no such example; reload the page")

    def uploaded(self, event: gr.EventData) -> tuple[str, str, str]:
        """A video has arrived: player, key, no answer yet."""
        key = _given(event, "key")
        return *self._shown(lambda: self.videos.get(key if isinstance(key, str) else "")), ""

    def _shown(
        self, find: Callable[[], Video], moment: tuple[float, float] | None = None
    ) -> tuple[str, str]:
        try:
            video = find()
        except Exception as error:
            return fill("demo_player.html", video=None, fault=_fault(error)), ""
        return fill("demo_player.html", video=video, moment=moment), video.key

    def search(self, text: str) -> str:
        """Moments of the whole archive for the sentence in `text`."""
        assert self.archive is not None
        try:
            sentences = _sentences(text)
            if len(sentences) > 1:
                raise InputError("Ask the archive one sentence at a time")
            begin = time.perf_counter()
            (answer,) = self.archive.search(sentences, MOMENTS)
            took = time.perf_counter() - begin
            moments = [pictured(moment) for moment in answer.listed or answer.moments]
        except Exception as error:
            return fill("demo_archive.html", fault=_fault(error))
        index = self.archive.index
        summary = f"{len(index.videos):,} videos, {len(index):,} clips; answered in {took:.2f} s."
        if answer.not_found:
            said = f"{answer.not_found[0].upper()}{answer.not_found[1:]}."
            summary = f"{said} {summary}"
        if answer.damaged:
            summary = f"{summary} Damaged, and not looked at: {len(answer.damaged)}."
        guesses = bool(answer.not_found)
        return fill(
            "demo_archive.html", fault=None, summary=summary, moments=moments, guesses=guesses
        )

    def play(self, event: gr.EventData, text: str) -> tuple[str, str, str, str]:
        """A moment of the archive was chosen: player, key, the sentence, no answer yet."""
        name, start, end = (_given(event, each) for each in ("video", "start", "end"))
        fits = isinstance(name, str) and all(type(each) in (int, float) for each in (start, end))
        moment = (start, end) if fits and 0 <= start < end < 1e9 else None
        return *self._shown(lambda: self._of_archive(name if fits else ""), moment), text, ""

    def _of_archive(self, name: str) -> Video:
        """The video of this id; InputError for what is none of the archive."""
        videos = [] if self.archive is None else self.archive.folders(name)
        if not videos:
            raise InputError("There is no such video; search again")
        return self.videos.open(file_of(name, videos[0]))

    def ask(self, key: str, text: str, progress: Any) -> str:
        """The answer to the sentences in `text`, one a line; without any, sentences to try."""
        try:
            if not text.strip() and key and self.tries:
                return self._offer(self.videos.get(key), progress)
            sentences = _sentences(text)
            if not key:
                raise InputError("There is no video yet; choose one or upload your own")
            video = self.videos.get(key)
            begin = time.perf_counter()
            known = video.encoded
            features = video.features(self.grounder, self._watch(progress))
            encoded = time.perf_counter()
            found = self.grounder.predict(features, sentences)
            answered = time.perf_counter()
        except Exception as error:
            return fill("demo_answer.html", fault=_fault(error))
        looked = "encoded before" if known else f"encoded in {encoded - begin:.1f} s"
        summary = (
            f"Clips of {features.clip_length:g} s: {len(features.features)}, {looked}; "
            f"answered in {answered - encoded:.2f} s."
        )
        return _answer(video, found, summary, features.warnings, self.threshold)

    def _offer(self, video: Video, progress: Any) -> str:
        """Sentences of which the model is surest that something in the video fits them."""
        if video.fitting is None:
            features = video.features(self.grounder, self._watch(progress))
            found = self.grounder.predict(features, self.tries)
            sure = [replace(each, threshold=self.threshold) for each in found]
            best = {each.query: each.listed[0][2] for each in sure if each.listed}
            video.fitting = sorted(best, key=lambda query: -best[query])[:SHOWN]
        return fill("demo_tries.html", tries=video.fitting)

    def _watch(self, progress: Any) -> Callable[[float], None]:
        def watch(share: float) -> None:
            if self.stopping.is_set():
                raise InputError("The server is being stopped")
            progress(share, desc="Looking through the video")

        return watch


def _given(event: gr.EventData, name: str) -> Any:
    """What a browser says of an event, None where it does not."""
    return event._data.get(name) if isinstance(event._data, dict) else None


def _fault(error: Exception) -> str:
    """What is wrong, as it is shown; what nobody expected is told to the operator too."""
    if not isinstance(error, InputError):
        LOG.warning("not answered: %s", told(error))
        return "Something went wrong with this video. Its cause is in the server's log."
    return sentence(error)


def _sentences(text: str) -> list[str]:
    sentences = [line.strip() for line in text.split("\n") if line.strip()]
    if not sentences:
        raise InputError("Write what to look for, one sentence a line")
    if len(sentences) > MOST_SENTENCES:
        raise InputError(f"These are {len(sentences)} sentences; ask at most {MOST_SENTENCES}")
    longest = max(map(len, sentences))
    if longest > LONGEST:
        raise InputError(f"A sentence has {longest} letters; use at most {LONGEST}")
    return sentences


def _answer(
    video: Video,
    found: Sequence[Grounding],
    summary: str,
    warnings: Sequence[str],
    threshold: float,
) -> str:
    """What was found, as HTML."""
    warnings = [video.named(line) for line in warnings]
    drawn = []
    for number, grounding in enumerate(found, start=1):
        # What is less sure is folded away, and so is the guess where nothing is found.
        sure = replace(grounding, threshold=threshold)
        shown = sure if sure.guess else grounding
        line = shown.timeline(guess=bool(sure.guess))
        lines = draw_timeline(line, SHOWN) | {"strip": video.strip}
        lines["warning"], lines["not_found"] = grounding.warning, sure.not_found
        lines["sure"] = len(sure.listed[:SHOWN])
        for rank, window in enumerate(lines["found"], start=1):
            seconds = f"{window['start']:.3f}-{window['end']:.3f}"
            window["clip"] = f"videos/{video.key}/{seconds}.mp4"
            window["file"] = f"{video.path.stem}-{number}-{rank}.mp4"
        drawn.append(lines)
    text = json.dumps(
        to_json(Path(video.path.name), list(found), warnings, True), ensure_ascii=False, indent=1
    )
    data = base64.b64encode(text.encode()).decode()
    return fill(
        "demo_answer.html",
        fault=None,
        threshold=threshold,
        summary=summary,
        warnings=warnings,
        found=drawn,
        json=f"data:application/json;base64,{data}",
        json_file=f"{video.path.stem}.json",
    )


def theme() -> gr.themes.Base:
    """Gradio in the colours and fonts of our reports; nothing is loaded from elsewhere."""
    colours = {
        "body_background_fill": "--page",
        "body_text_color": "--ink",
        "body_text_color_subdued": "--muted",
        "background_fill_primary": "--card",
        "background_fill_secondary": "--track",
        "block_background_fill": "--card",
        "block_border_color": "--line",
        "block_label_background_fill": "--card",
        "block_label_border_color": "--line",
        "block_label_text_color": "--muted",
        "block_title_text_color": "--ink",
        "block_info_text_color": "--muted",
        "border_color_primary": "--line",
        "border_color_accent": "--found",
        "input_background_fill": "--card",
        "input_border_color": "--line",
        "input_border_color_focus": "--found",
        "input_placeholder_color": "--muted",
        "link_text_color": "--found",
        "loader_color": "--found",
        "button_primary_background_fill": "--found",
        "button_primary_background_fill_hover": "--found",
        "button_primary_border_color": "--found",
        "button_primary_text_color": "--on-found",
    }
    themed = gr.themes.Base(font=["var(--sans)"], font_mono=["var(--mono)"])
    return themed.set(
        **{
            name + mode: f"var({colour})"
            for name, colour in colours.items()
            for mode in ("", "_dark")
        }
    )


def build(page: Page, name: str, most: int) -> gr.Blocks:
    """The page for a model called `name`, and for uploads of at most `most` bytes."""
    private: dict[str, Any] = {"api_visibility": "private"}
    blocks = gr.Blocks(title=f"{name} · SDST", analytics_enabled=False)
    with blocks:
        key = gr.State("")
        _html("demo_head.html", name=name)
        if page.archive is not None:
            with gr.Row():
                asked = gr.Textbox(
                    label="What to look for in the whole archive",
                    placeholder="a dog jumps into the water",
                    elem_id="archive",
                    scale=5,
                    min_width=320,
                )
                search = gr.Button(
                    "Search", variant="primary", scale=1, min_width=120, elem_id="search"
                )
            moments = _html("demo_archive.html", "demo_archive.js", fault=None, moments=None)
        with gr.Row():
            with gr.Column(scale=3, min_width=320):
                player = _html("demo_player.html", video=None, fault=None)
            with gr.Column(scale=2, min_width=300):
                examples = _html("demo_examples.html", "demo_examples.js", examples=page.examples)
                upload = _html(
                    "demo_upload.html",
                    "demo_upload.js",
                    most=most,
                    limit=f"{most / 1e6:g} MB",
                    suffixes=SUFFIXES,
                )
        with gr.Row():
            sentences = gr.Textbox(
                label="What to look for, one sentence a line",
                placeholder="a dog jumps into the water",
                info="Find, without a sentence, offers some that fit." if page.tries else None,
                elem_id="sentences",
                lines=2,
                max_lines=8,
                scale=5,
                min_width=320,
            )
            find = gr.Button("Find", variant="primary", scale=1, min_width=120, elem_id="find")
        found = gr.HTML(apply_default_css=False)

        # Gradio knows the parameter that it is to fill by this default.
        def ask(key: str, text: str, progress: gr.Progress = gr.Progress()) -> str:  # noqa: B008
            return page.ask(key, text, progress)

        if page.archive is not None:
            gr.on(
                [search.click, asked.submit],
                page.search,
                asked,
                moments,
                concurrency_limit=1,
                **private,
            )
            moments.click(page.play, asked, [player, key, sentences, found], **private)
        examples.click(page.choose, None, [player, key, sentences, found], **private)
        upload.upload(page.uploaded, None, [player, key, found], **private)
        gr.on(
            [find.click, sentences.submit],
            ask,
            [key, sentences],
            found,
            concurrency_limit=1,  # the model serves one after the other
            **private,
        )
    blocks.queue(max_size=WAITING)
    return blocks


def _html(template: str, script: str | None = None, **values: Any) -> gr.HTML:
    js = fill(script) if script else None
    return gr.HTML(fill(template, **values), js_on_load=js, apply_default_css=False)
