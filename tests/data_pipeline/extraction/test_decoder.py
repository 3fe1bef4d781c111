"""An encoder and its decoders wait for each other: who is slow, and who is stuck?"""

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

pytest.importorskip("ray")

from ray.exceptions import RayActorError

from data_pipeline.extraction import decoder
from data_pipeline.extraction.decoder import GRACE, Decoded, Decoders, Decoding
from data_pipeline.features.writing import Failure

LIMIT = 100.0
PIECE = np.zeros((1, 1, 2, 2, 3), np.uint8)
SECOND = object()
"""What a decoder of these tests says when it lets its encoder wait for a second."""


class Ray:
    """The part of Ray that `Decoders` calls, with a clock that runs only where it is told to.

    Its one decoder says `words` of every video.
    """

    def __init__(self, words: list[Any]) -> None:
        self.now, self.killed, self._words = 0.0, False, words

    def monotonic(self) -> float:
        return self.now

    def remote(self, **_: Any) -> Any:
        method = SimpleNamespace(options=lambda **_: SimpleNamespace(remote=self._decode))
        actor = SimpleNamespace(remote=lambda _: SimpleNamespace(decode=method))
        return lambda _: actor

    def _decode(self, _: str) -> "Words":
        return Words(self._words)

    def wait(self, heads: list["Words"], **_: Any) -> tuple[list["Words"], list["Words"]]:
        (words,) = heads
        if words.left and words.left[0] is SECOND:
            words.left.pop(0)
            self.now += 1
            return [], heads
        return heads, []

    def get(self, word: Any) -> Any:
        if isinstance(word, Exception):
            raise word
        return word

    def kill(self, *_: Any, **__: Any) -> None:
        self.killed = True


class Words:
    """The stream of a decoder's words."""

    def __init__(self, words: list[Any]) -> None:
        self.left = list(words)

    def __next__(self) -> Any:
        if not self.left:
            raise StopIteration
        return self.left.pop(0)


@pytest.fixture
def decode(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Lets a decoder say `words`, and an encoder take `busy` seconds over each."""

    def run(words: list[Any], busy: float = 0.0) -> tuple[list[Any], bool]:
        ray = Ray(words)
        monkeypatch.setattr(decoder, "ray", ray)
        monkeypatch.setattr(decoder, "time", ray)
        decoding = Decoding("videos", 1.0, 1, 2, time_limit=LIMIT, retries=0)
        heard = []
        for _, word in Decoders(decoding, 1, 1.0).decode(["video"]):
            heard.append(word)
            ray.now += busy
        return heard, ray.killed

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
