"""Which videos does the demo page hold, and when are they forgotten?"""

import logging
import re
import secrets
import shutil
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from data_pipeline.errors import InputError, told
from data_pipeline.output import NotWritten
from data_pipeline.untrusted import iter_rows, readable, reading
from data_pipeline.video.video import VideoFile
from trainer.cli import load_config
from trainer.config import Config
from trainer.inference.cutting import PLAYABLE, cut
from trainer.pictures.examples import video_of
from trainer.pictures.thumbnails import data_uri, film_strip

if TYPE_CHECKING:
    from data_pipeline.extraction.encoding import VideoFeatures
    from trainer.inference.predict import VideoGrounder

LOG = logging.getLogger(__name__)

EXAMPLES = 6  # videos offered
SENTENCES = 2  # offered with each
TRIES = 64  # sentences among which are those that fit a video
CLIPS_KEPT = 32  # of one video, cut
UNFIT = re.compile(r"^.*[/\\]|[^\w.()+ -]")  # folders, and what a file's name should not have
LONGEST_NAME = 60  # letters, of four bytes at most; the end tells the kind of file


@dataclass(frozen=True)
class Example:
    """A video that the model was judged on, sentences asked about it, a picture's address."""

    path: Path
    sentences: tuple[str, ...]
    picture: str


def find_examples(run: Path) -> list[Example]:
    """Examples from a run's folder; none where its predictions or usable videos are not there."""
    path = run / "predictions.jsonl"
    if not path.is_file() or not (run / "config.yaml").is_file():
        return []
    asked: dict[str, list[str]] = {}
    try:
        folder = load_config(Config, run / "config.yaml").videos
        with reading(path, "evaluate the run again"):
            for _, row in iter_rows(path, nan=True):
                sentences = asked.setdefault(str(row["vid"]), [])
                if len(sentences) < SENTENCES:
                    sentences.append(str(row["query"]))
    except InputError as error:  # the model is what is asked for
        LOG.warning("no examples: %s", error)
        return []
    examples: list[Example] = []
    for vid, sentences in asked.items():
        try:
            path = video_of(folder, vid)
            (picture,) = film_strip(path, 1.0, count=1, height=120)
        except Exception as error:  # not there, or odd: others are offered
            LOG.debug("no example: %s", told(error))
            continue
        examples.append(Example(path, tuple(sentences), data_uri(picture)))
        if len(examples) == EXAMPLES:
            break
    return examples


def find_tries(run: Path) -> list[str]:
    """Sentences that a run's model was judged on, at most `TRIES`, from all over the file."""
    path = run / "predictions.jsonl"
    if not path.is_file():
        return []
    try:
        with reading(path, "evaluate the run again"):
            asked = dict.fromkeys(str(row["query"]) for _, row in iter_rows(path, nan=True))
    except InputError as error:
        LOG.warning("no sentences to try: %s", error)
        return []
    fit = [query for query in asked if query.strip() and "\n" not in query]
    step = max(1, -(-len(fit) // TRIES))
    return fit[::step]


@dataclass(eq=False)
class Video:
    """A video that is asked about, under a `key` that nobody guesses.

    `file` is the video with its frames listed; `duration` in seconds; `strip` are pictures at even
    times, as addresses; `fitting` are sentences that were found to fit, once that was asked for.
    What lies in `folder` goes with it: an upload itself and the clips cut from it.
    """

    key: str
    path: Path
    folder: Path
    file: VideoFile
    duration: float
    strip: list[str]
    used: float = 0.0
    fitting: list[str] | None = None
    _features: "VideoFeatures | None" = None
    _cutting: threading.Lock = field(default_factory=threading.Lock)

    @property
    def encoded(self) -> bool:
        """Whether `features` has nothing left to do."""
        return self._features is not None

    def features(
        self, grounder: "VideoGrounder", progress: Callable[[float], None] | None = None
    ) -> "VideoFeatures":
        """The features, made once; `progress` and errors as `Grounder.encode`."""
        if self._features is None:
            with _named(self.path):
                self._features = grounder.encode(self.path, progress=progress)
        return self._features

    def named(self, line: str) -> str:
        """A line that calls the file by its name."""
        return line.replace(readable(str(self.path)), readable(self.path.name))

    def clip(self, start: float, end: float) -> Path:
        """The file of the seconds [start, end), cut when first asked for, as browsers play it."""
        if not 0 <= start < end <= self.duration + 0.001:  # its place is rounded to milliseconds
            raise InputError(f"{self.path.name}: has no seconds {start:g} to {end:g}")
        clip = self.folder / ".clips" / f"{start:.3f}-{end:.3f}.mp4"
        with self._cutting:
            if not clip.is_file():
                with _named(self.path):
                    cut(self.file, start, end, clip, codecs=PLAYABLE)
                by_age = sorted(clip.parent.iterdir(), key=lambda path: path.stat().st_mtime)
                for old in by_age[:-CLIPS_KEPT]:
                    old.unlink()
        return clip


class Videos:
    """The `most` videos that were used last, each until `keep` seconds after its last use.

    Uploads and clips lie in `folder`. Any thread may call.
    """

    def __init__(self, folder: Path, most: int, keep: float) -> None:
        self._folder = folder
        self._most = most
        self._keep = keep
        self._held: dict[str, Video] = {}  # the one used last comes last
        self._lock = threading.Lock()

    def open(self, path: Path) -> Video:
        """A file that stays where it is, shared by all who choose it; InputError if unusable."""
        with self._lock:
            held = next((video for video in self._held.values() if video.path == path), None)
            if held is not None:
                return self._use(held)
        return self._hold(path, self._new_folder())

    @contextmanager
    def room(self, name: str) -> Iterator[Path]:
        """Where to write an upload called `name`; gone again if anything goes wrong with it."""
        folder = self._new_folder()
        try:
            yield folder / (UNFIT.sub("_", name).lstrip(".")[-LONGEST_NAME:] or "video")
        except BaseException:
            shutil.rmtree(folder)
            raise

    def take(self, upload: Path) -> Video:
        """The video that was written to a `room`; InputError if it is none."""
        return self._hold(upload, upload.parent)

    def get(self, key: str) -> Video:
        """The video under `key`; InputError once it is forgotten."""
        with self._lock:
            if key not in self._held:
                raise InputError("This video is no longer kept here; choose or upload it again")
            return self._use(self._held[key])

    def forget_unused(self) -> None:
        """Delete what nobody used for `keep` seconds."""
        oldest = time.monotonic() - self._keep
        with self._lock:
            for video in [video for video in self._held.values() if video.used < oldest]:
                self._forget(video)

    def _new_folder(self) -> Path:
        return Path(tempfile.mkdtemp(dir=self._folder))

    def _hold(self, path: Path, folder: Path) -> Video:
        with _named(path):
            file = VideoFile(path, damage="bear")
            duration = file.info.duration
            strip = [data_uri(picture) for picture in film_strip(file, duration)]
        video = Video(secrets.token_urlsafe(16), path, folder, file, duration, strip)
        with self._lock:
            self._use(video)
            while len(self._held) > self._most:
                self._forget(next(iter(self._held.values())))
        return video

    def _use(self, video: Video) -> Video:
        self._held.pop(video.key, None)
        self._held[video.key] = video
        video.used = time.monotonic()
        return video

    def _forget(self, video: Video) -> None:
        del self._held[video.key]
        shutil.rmtree(video.folder, ignore_errors=True)


@contextmanager
def _named(path: Path) -> Iterator[None]:
    """Errors that call a file by its name: where it lies is nobody's business."""
    try:
        yield
    except NotWritten as error:
        raise InputError(f"{path.name}: there is no room for it on the server") from error
    except InputError as error:
        raise InputError(str(error).replace(readable(str(path)), readable(path.name))) from error
    except Exception as error:  # whatever an odd video trips
        raise InputError(f"{path.name}: cannot be used ({told(error)})") from error


def sentence(error: InputError) -> str:
    """An error as it is shown on the page."""
    text = str(error)
    return text if text.endswith((".", "?")) else f"{text}."
