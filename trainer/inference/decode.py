"""How does a model's output become windows in seconds and one score per clip?"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from data_pipeline.annotations import Annotation, rated_clips
from data_pipeline.errors import InputError
from model.interface import Prediction
from model.spans import to_edges

Floats = NDArray[np.float64]

NOT_FINITE = "the answer is not finite: the model's weights, or these features, are damaged"


@dataclass(frozen=True)
class Decoded:
    """Predictions of B pairs on the host.

    windows (B, M, 3) start, end in seconds within the video, and score; best first. Ties keep the
    order of the queries, so that the result does not depend on the sort.
    real (B, M): False where a row of windows is padding; those come last.
    saliency: B arrays of one score per stored clip.
    existence (B,): logit that the video shows what is said; None of a model that does not judge it.
    """

    windows: Floats
    real: NDArray[np.bool_]
    saliency: list[Floats]
    existence: Floats | None = None


def decode(
    prediction: Prediction, video_mask: Tensor, span: Tensor, durations: list[float]
) -> Decoded:
    """Predictions in seconds.

    `span` (B,) is the number of seconds by which the targets were normalised; `durations` cuts what
    lies beyond the video's end. Raises InputError where a value is not finite.
    """
    edges = to_edges(prediction.spans[-1].detach().float()) * span.view(-1, 1, 1)
    scores = prediction.scores().detach().float()
    host = edges.cpu().double().numpy()
    ranked = scores.cpu().double().numpy()
    end = np.asarray(durations, dtype=np.float64).reshape(-1, 1, 1)
    windows = np.concatenate((np.clip(host, 0, end), ranked[..., None]), axis=-1)
    real = np.ones(ranked.shape, bool)
    if prediction.valid is not None:
        real = prediction.valid.cpu().numpy()
    best_first = np.argsort(np.where(real, -ranked, np.inf), axis=1, kind="stable")
    windows = np.take_along_axis(windows, best_first[..., None], axis=1)
    real = np.take_along_axis(real, best_first, axis=1)
    saliency = prediction.saliency.detach().float().cpu().double().numpy()
    lengths = video_mask.sum(1).cpu().numpy()
    kept = [row[:n] for row, n in zip(saliency, lengths, strict=True)]
    existence = np.zeros(len(windows))
    if prediction.existence is not None:
        existence = prediction.existence.detach().float().cpu().double().numpy()
    if not all(np.isfinite(values).all() for values in (host, ranked, existence, *kept)):
        raise InputError(NOT_FINITE)
    return Decoded(windows, real, kept, existence if prediction.existence is not None else None)


def highlight_scores(saliency: Floats, clip_length: float, annotation: Annotation) -> list[float]:
    """Saliency on the grid that a video is judged by, in QVHighlights int(duration / 2) clips.

    Scores of stored clips of another length are looked up at the middle of each rated clip. A video
    shorter than one keeps one score.
    """
    middles = (np.arange(max(1, rated_clips(annotation))) + 0.5) * annotation.clip_length
    place = np.minimum((middles / clip_length).astype(int), len(saliency) - 1)
    return [round(float(score), 4) for score in saliency[place]]


def prediction_row(
    annotation: Annotation,
    windows: Floats,
    saliency: list[float],
    existence: float | None = None,
    least: float = 0.5,
) -> dict[str, object]:
    """A row of predictions.jsonl, keys as in QVHighlights' submissions.

    `existence` is the probability that the video shows it, where a model judges that; from `least`
    on it counts as found.
    """
    return {
        "qid": annotation.qid,
        "query": annotation.query,
        "vid": annotation.vid,
        "pred_relevant_windows": [
            [
                round(float(start), 3),
                min(round(float(end), 3), annotation.duration),  # may have been rounded up
                round(float(score), 4),
            ]
            for start, end, score in windows
        ],
        "pred_saliency_scores": saliency,
        **(
            {}
            if existence is None
            else {"pred_existence": round(existence, 6), "pred_found": existence >= least}
        ),
    }
