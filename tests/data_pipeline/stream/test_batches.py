import numpy as np
import pytest
import torch

from data_pipeline.annotations import Annotation
from data_pipeline.stream.batches import (
    BatchBuffer,
    merge,
    sentence_numbers,
    target_saliency,
    target_windows,
)


def annotate(*windows, saliency=None):
    return Annotation("q", "a dog", "v", 20.0, windows, saliency)


@pytest.mark.parametrize(
    ("window", "edges"),
    [
        ((2, 6), (2, 6)),
        ((6, 2), (2, 6)),  # inverted: swapped
        ((5, 5), (4, 6)),  # shorter than a clip: widened about its centre
        ((0, 1), (0, 2)),  # ... but not beyond the video
        ((19.5, 20), (18, 20)),
        ((15, 40), (15, 20)),  # cut to the video
    ],
)
def test_windows_are_made_trainable_as_r2_tuning_does(window, edges):
    [[centre, width]] = target_windows(
        np.array([window], dtype=np.float64), np.array([10]), np.array([2.0], dtype=np.float32)
    ).tolist()
    assert (20 * (centre - width / 2), 20 * (centre + width / 2)) == pytest.approx(edges, abs=1e-5)


def test_a_row_without_windows_has_no_targets():
    buffer = BatchBuffer(2, clips=10, tokens=1, video_shape=(1, 1), text_shape=(1, 1))
    for annotation in (annotate(), annotate((2, 6), (8, 10))):
        buffer.row(10, 1)
        buffer.add(10, 1, annotation, 2.0, repeated=False)
    batch = buffer.finish([])
    assert batch.window_mask.tolist() == [[False, False], [True, True]]
    assert batch.windows[1].flatten().tolist() == pytest.approx([0.2, 0.2, 0.45, 0.1])


def test_a_window_behind_the_stored_clips_is_no_target():
    buffer = BatchBuffer(1, clips=6, tokens=1, video_shape=(1, 1), text_shape=(1, 1))
    buffer.row(6, 1)
    windows = ((2.0, 4.0), (14.0, 16.0), (12.0, 18.0), (10.0, 18.0))
    buffer.add(6, 1, Annotation(1, "q", "v", 18.0, windows), 2.0, False)
    batch = buffer.finish([])
    assert batch.window_mask.tolist() == [[True, True]]
    centres = (batch.windows[0, :, 0] * 12).tolist()
    assert centres == pytest.approx([3.0, 11.0])


def batch_of(*rows):
    """A batch of (annotation, all sentences about its video)."""
    buffer = BatchBuffer(len(rows), clips=10, tokens=1, video_shape=(1, 1), text_shape=(1, 1))
    for annotation, sentences in rows:
        buffer.row(10, 1)
        buffer.add(10, 1, annotation, 2.0, False, sentences)
    return buffer.finish([])


def test_an_empty_list_of_windows_says_no_and_none_says_nothing():
    given = [annotate((0, 2)), annotate(), Annotation("q", "a dog", "v", 20.0)]
    given.append(Annotation("q", "a dog", "v", 20.0, saliency={1: (4.0,)}))
    batch = batch_of(*((annotation, ()) for annotation in given))
    assert batch.present.tolist() == [1, 0, -1, 1]


def test_a_row_tells_its_sentence_and_all_sentences_of_its_video():
    batch = batch_of((annotate(), ("a cat", "a dog", "a bird")), (annotate(), ("A  dog.",)))
    assert batch.sentence[0] == batch.sentence[1]  # but for case, spaces and punctuation
    assert (batch.sentence > 0).all()
    assert batch.sentences.shape == (2, 4)
    assert batch.sentences[1].tolist() == [batch.sentence[0]] * 2 + [0, 0]
    assert len(set(batch.sentences[0].tolist())) == 3


def test_numbers_of_sentences_are_the_same_in_every_process():
    assert sentence_numbers(("a dog", "!")) == (9151722581430185315, 2291492992336893264)
    assert len(set(sentence_numbers(("!", "?", "", "a", "\ud800")))) == 5


def test_parts_whose_videos_have_differently_many_sentences_are_put_together():
    parts = [batch_of((annotate(), ("a", "b"))), batch_of((annotate(), ()))]
    whole = merge(parts, [np.array([1]), np.array([0])])
    assert whole.sentences[0].tolist() == [whole.sentence[0], 0, 0]
    assert (whole.sentences[1] > 0).all()


def test_every_part_s_rows_and_sentences_take_their_places_in_the_whole():
    rows = [annotate(window) for window in ((0, 2), (4, 6), (8, 10))]
    parts = [batch_of((rows[2], ()), (rows[0], ())), batch_of((rows[1], ()))]
    whole = merge(parts, [np.array([2, 0]), np.array([1])])
    assert whole.annotations == rows
    assert whole.windows.shape == (3, 1, 2)  # as many as the row of most windows has
    assert whole.windows[:, 0, 0].tolist() == pytest.approx([0.05, 0.25, 0.45])


def test_padding_is_zero_whatever_the_memory_held():
    def dirty(shape, dtype):
        return torch.full(shape, 7, dtype=dtype)

    buffer = BatchBuffer(1, 4, 3, (1, 2), (1, 2), empty=dirty)
    video, text = buffer.row(clips=2, tokens=1)
    video[:], text[:] = 1, 2
    buffer.add(2, 1, annotate((0, 2)), 2.0, repeated=False)
    batch = buffer.finish([])
    assert batch.video[0, :, 0, 0].tolist() == [1, 1, 0, 0]
    assert batch.text[0, :, 0, 0].tolist() == [2, 0, 0]


def test_saliency_is_the_annotators_mean_on_the_grid_of_the_features():
    annotation = annotate((2, 6), saliency={1: (4.0, 4.0, 4.0), 2: (2.0, 1.0, 0.0)})
    two = target_saliency(annotation, clips=10, clip_length=2.0)
    assert two.tolist() == [0, 1, 0.25, 0, 0, 0, 0, 0, 0, 0]
    one = target_saliency(annotation, clips=20, clip_length=1.0)
    assert one.tolist() == np.repeat(two, 2).tolist()


def test_without_annotators_a_clip_counts_if_its_middle_lies_in_a_window():
    scores = target_saliency(annotate((2.5, 7.5)), clips=5, clip_length=2.0)
    assert scores.tolist() == [0, 1, 1, 1, 0]


def test_a_window_begins_with_the_middle_it_starts_at_and_ends_before_the_one_it_ends_at():
    scores = target_saliency(annotate((3.0, 7.0)), clips=5, clip_length=2.0)
    assert scores.tolist() == [0, 1, 1, 0, 0]
