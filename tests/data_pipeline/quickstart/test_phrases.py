"""Sentences: enough of them, none shared between kinds or between training and the other splits."""

import pytest

from data_pipeline.quickstart.kinds import DRAWN_KINDS, FILMED_KINDS, Kind
from data_pipeline.quickstart.phrases import phrasings

KINDS: tuple[Kind, ...] = DRAWN_KINDS + FILMED_KINDS


@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_a_kind_has_three_phrasings_for_training_and_others_for_validation_only(kind: Kind) -> None:
    phrases = phrasings(kind)
    assert len(set(phrases.seen)) >= 3
    assert len(set(phrases.unseen)) >= 2
    assert not set(phrases.seen) & set(phrases.unseen)


def test_a_sentence_describes_a_single_kind() -> None:
    kind_of: dict[str, Kind] = {}
    for kind in KINDS:
        phrases = phrasings(kind)
        for sentence in phrases.seen + phrases.unseen:
            other = kind_of.setdefault(sentence, kind)
            assert other.subject == kind.subject, sentence


def test_sentences_are_finished_english() -> None:
    for kind in KINDS:
        phrases = phrasings(kind)
        for sentence in phrases.seen + phrases.unseen:
            assert "{" not in sentence
            assert "  " not in sentence
            assert sentence == sentence.strip()
            assert " a emerald" not in f" {sentence}"
            assert " a azure" not in f" {sentence}"
