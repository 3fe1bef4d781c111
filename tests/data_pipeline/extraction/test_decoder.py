"""An encoder and its decoders wait for each other: who is slow, who is stuck, and who is dead?"""

from collections import deque
from collections.abc import Mapping, Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

pytest.importorskip("ray")

from ray.exceptions import ActorUnavailableError, OutOfMemoryError, RayActorError

from data_pipeline.extraction import decoder
from data_pipeline.extraction.decoder import GRACE, Decoded, Decoders, Decoding
from data_pipeline.extraction.pool import MAX_STARTS
from data_pipeline.features.writing import Failure

LIMIT = 100.0
PIECE = np.zeros((1, 1, 2, 2, 3), np.uint8)
GONE = ActorUnavailableError("gone", b"0" * 16)
SECOND = object()
"""What a decoder of these tests says when it lets its encoder wait for a second."""


class Ray:
    """The part of Ray that `Decoders` calls, with a clock that runs only where it is told to.

    A decoder says `words[vid]` of a video, and at first the next of `starts` or that it is there.
    If those end with an error it dies, and whatever else it was given or is given then fails.
    """

    def __init__(self, words: Mapping[str, Sequence[Any]], starts: Sequence[Any] = ()) -> None:
        self.now, self.started, self.killed = 0.0, 0, 0
        self.given: list[tuple[int, str]] = []
        """The decoders, by number, and the videos that they were given."""
        self._words, self._starts = words, starts

    def monotonic(self) -> float:
        return self.now

    def remote(self, **_: Any) -> Any:
        return lambda _: SimpleNamespace(remote=self._start)

    def _start(self, _: Decoding) -> Any:
        number = self.started
        dead: list[bool] = []
        self.started += 1
        start = self._starts[number] if number < len(self._starts) else [True]

        def decode(vid: str, _: None) -> Words:
            self.given.append((number, vid))
            return Words(self._words[vid], dead)

        return SimpleNamespace(
            __ray_ready__=SimpleNamespace(remote=lambda: Words(start, dead)),
            decode=SimpleNamespace(options=lambda **_: SimpleNamespace(remote=decode)),
        )

    def wait(self, heads: list["Words"], **_: Any) -> tuple[list["Words"], list["Words"]]:
        for words in heads:
            if not words.waits():
                return [words], [other for other in heads if other is not words]
        for words in heads:
            words.left.popleft()
        self.now += 1
        return [], heads

    def get(self, word: Any) -> Any:
        if isinstance(word, Words):
            word = next(word)
        if isinstance(word, Exception):
            raise word
        return word

    def kill(self, *_: Any) -> None:
        self.killed += 1


class Words:
    """The stream of a decoder's words on a video, or its answer; `dead` is filled at its death."""

    def __init__(self, words: Sequence[Any], dead: list[bool]) -> None:
        self.left, self._dead = deque(words), dead

    def waits(self) -> bool:
        return bool(self.left) and self.left[0] is SECOND and not self._dead

    def __next__(self) -> Any:
        if self._dead:
            return GONE
        if not self.left:
            raise StopIteration
        word = self.left.popleft()
        if isinstance(word, Exception):
            self._dead.append(True)
        return word


@pytest.fixture
def ray(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Puts a Ray in place whose decoders say `words` of a video and answer `starts`."""

    def replace(words: Mapping[str, Sequence[Any]], starts: Sequence[Any] = ()) -> Ray:
        ray = Ray(words, starts)
        monkeypatch.setattr(decoder, "ray", ray)
        monkeypatch.setattr(decoder, "time", ray)
        return ray

    return replace


DECODING = Decoding("videos", 1.0, 1, 2, time_limit=LIMIT, retries=0)
GOOD = [PIECE, Decoded(3.0, 1.0)]
DEADLY = [RayActorError()]


@pytest.fixture
def decode(ray: Any) -> Any:
    """Lets a decoder say `words`, and an encoder take `busy` seconds over each."""

    def run(words: list[Any], busy: float = 0.0) -> tuple[list[Any], bool]:
        replaced = ray({"video": words})
        heard = []
        for _, word in Decoders(DECODING, 1, 1.0).decode([("video", None)]):
            heard.append(word)
            replaced.now += busy
        return heard, bool(replaced.killed)

    return run


def test_a_decoder_that_waits_for_its_encoder_is_not_taken_for_stuck(decode: Any) -> None:
    words = [PIECE, SECOND, PIECE, SECOND, PIECE, SECOND, Decoded(3.0, 1.0)]
    heard, killed = decode(words, busy=10 * (LIMIT + GRACE))
    assert [type(word) for word in heard] == [np.ndarray, np.ndarray, np.ndarray, Decoded]
    assert not killed


def test_a_decoder_that_keeps_its_encoder_waiting_is_ended(decode: Any) -> None:
    slow = [SECOND] * int(LIMIT + GRACE)
    heard, killed = decode([*slow, PIECE, *slow, PIECE, *slow, SECOND])
    assert [type(word) for word in heard] == [np.ndarray, np.ndarray, Failure]
    assert heard[-1].kind == "too slow"
    assert killed


@pytest.mark.parametrize("end", [[RayActorError()], [SECOND] * int(LIMIT + GRACE + 1)])
def test_a_video_is_over_with_its_last_word_whatever_its_decoder_does_then(
    decode: Any, end: list[Any]
) -> None:
    heard, _ = decode([PIECE, Decoded(3.0, 1.0), *end])
    assert [type(word) for word in heard] == [np.ndarray, Decoded]


def kinds(vids: list[str], count: int = 1) -> dict[str, str]:
    """What became of videos, "stored" or the class of their failure, and each only once."""
    ends: dict[str, str] = {}
    for vid, word in Decoders(DECODING, count, 1.0).decode((vid, None) for vid in vids):
        if not isinstance(word, np.ndarray):
            assert vid not in ends
            ends[vid] = word.kind if isinstance(word, Failure) else "stored"
    return ends


@pytest.mark.parametrize("count", [1, 2, 3])
def test_only_the_video_that_killed_its_decoder_is_set_aside(ray: Any, count: int) -> None:
    words = {f"{number}": DEADLY if number % 3 == 0 else GOOD for number in range(12)}
    ray(words)
    expected = {vid: "crash" if word is DEADLY else "stored" for vid, word in words.items()}
    assert kinds(list(words), count) == expected


def test_no_video_is_set_aside_for_a_decoder_that_dies_before_it_has_started(ray: Any) -> None:
    deaths = [[RayActorError()], [OutOfMemoryError("crowded")], [GONE]]
    replaced = ray({"deadly": DEADLY, "good": GOOD}, starts=[*deaths, [True], *deaths])
    assert kinds(["deadly", "good"]) == {"deadly": "crash", "good": "stored"}
    assert replaced.started == len(deaths) + 1 + len(deaths) + 1


def test_a_decoder_that_is_long_in_starting_is_not_taken_for_stuck(ray: Any) -> None:
    start = [SECOND] * int(10 * (LIMIT + GRACE)) + [True]
    ray({"deadly": DEADLY, "good": GOOD}, starts=[start, start])
    assert kinds(["deadly", "good"]) == {"deadly": "crash", "good": "stored"}


def test_decoders_that_cannot_start_end_the_work_with_their_cause(ray: Any) -> None:
    replaced = ray({"good": GOOD}, starts=[[OutOfMemoryError("crowded")]] * MAX_STARTS)
    with pytest.raises(RuntimeError, match=r"decoders die while they start: .*crowded"):
        kinds(["good"])
    assert replaced.started == MAX_STARTS


def test_a_decoder_that_starts_later_finds_a_video_left(ray: Any) -> None:
    slow = [SECOND, SECOND, *GOOD]
    replaced = ray({"first": slow, "second": GOOD}, starts=[[True], [SECOND, True]])
    assert kinds(["first", "second"], count=2) == {"first": "stored", "second": "stored"}
    assert replaced.given == [(0, "first"), (1, "second")]
