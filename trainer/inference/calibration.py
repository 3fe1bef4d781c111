"""How sure is a model, in numbers that mean the same for every video and every sentence?

    existence := sigmoid(scale * logit + best * log-odds of the best window + offset)
    score     := existence * sigmoid(scale' * log-odds of the window + offset')

Log-odds are those of windows' confidences: that nothing in the video fits well says something, too.
Scales and offsets are fitted on a split that the model was not trained on (Platt 1999; temperature
scaling, Guo et al. 2017, with an offset). So a score is the probability that the video shows it and
that this window overlaps it by half or more: windows of different videos can be ranked together.
Of a model that does not judge existence it is the latter alone, where the video shows it.

Who looks often finds something alike by chance, so that many looks have thresholds of their own. A
long video shows what its surest stretch shows. Several videos of an archive may show it, so that
the odds of a search are the mean of its candidates'.
"""

from collections.abc import Callable
from dataclasses import asdict, dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize
from scipy.special import expit, log_expit

from trainer.inference.decode import Decoded, Floats

Booleans = NDArray[np.bool_]

LEAST, SURE = 1e-30, 1 - 1e-6
"""Confidences are kept between these: the log-odds of 0 and 1 are not finite. A product of two
scores may be tiny and still rank well: actionness sinks to 1e-8 where its loss has settled at 0."""

CERTAIN = 1 - 1e-9
"""Of more than that the odds would not be finite."""

LOOKS, TIMES = 20, 4000
"""By how many looks the thresholds over many are chosen, and how often they are drawn."""


@dataclass(frozen=True)
class Calibration:
    """What makes probabilities of a model's outputs; the default takes them as they are.

    Attributes:
        existence_scale: factor on the logit of existence; 1 / temperature
        existence_best: factor on the log-odds of the best window's confidence, added to that
        existence_offset: what is added to both
        window_scale: factor on the log-odds of a window's confidence
        window_offset: what is added to that
        threshold: of existence, below which something is not found in a video
        threshold_of_stretches: of the surest of many stretches of a video
        threshold_of_search: of the mean odds of the candidates of a search
        fitted: on what, in words
    """

    existence_scale: float = 1.0
    existence_best: float = 0.0
    existence_offset: float = 0.0
    window_scale: float = 1.0
    window_offset: float = 0.0
    threshold: float = 0.5
    threshold_of_stretches: float = 0.5
    threshold_of_search: float = 0.5
    fitted: str = "not at all"

    def __post_init__(self) -> None:
        numbers = [value for value in asdict(self).values() if isinstance(value, float)]
        if not np.isfinite(numbers).all():
            raise ValueError("calibration must hold finite numbers")
        if not (self.existence_scale > 0 and self.window_scale > 0 and self.existence_best >= 0):
            raise ValueError("calibration: scales must be positive, existence_best not negative")
        for threshold in (self.threshold, self.threshold_of_stretches, self.threshold_of_search):
            if not 0 <= threshold <= 1:
                raise ValueError(f"calibration: threshold {threshold} must be from 0 to 1")

    def comparable(self, decoded: Decoded) -> tuple[Floats, Floats | None]:
        """Windows (B, M, 3) with scores that can be compared, and existence (B,), None of a model
        that does not judge it. Without both, windows are as they are."""
        if decoded.existence is None and self == AS_IT_IS:
            return decoded.windows, None
        confidences = decoded.windows[..., 2]  # best first
        existence = None
        if decoded.existence is not None:
            existence = self.existence(decoded.existence, confidences[:, 0])
        scores = self.scores(confidences, np.ones(1) if existence is None else existence)
        return np.concatenate((decoded.windows[..., :2], scores[..., None]), -1), existence

    def existence(self, logits: Floats, best: Floats) -> Floats:
        """Probabilities that videos show what is said, of logits and confidences of their best
        windows, of one shape."""
        sure = self.existence_scale * logits + self.existence_best * _log_odds(best)
        return np.asarray(expit(sure + self.existence_offset))

    def scores(self, confidences: Floats, existence: Floats) -> Floats:
        """Scores of windows with `confidences` (..., M) in videos with `existence` (...).

        No confidence at all stays none: such windows are listed last, and never shown.
        """
        sure = expit(self.window_scale * _log_odds(confidences) + self.window_offset)
        return np.asarray(np.where(confidences > 0, existence[..., None] * sure, 0.0))


AS_IT_IS = Calibration()


def fit(
    logits: Floats,
    best: Floats,
    present: Booleans,
    confidences: Floats,
    right: Booleans,
    fitted: str,
) -> Calibration:
    """Logits of pairs, confidences of their best windows and whether the video shows it; then
    confidences of windows and whether they are right. `fitted` says what these are. What is all of
    one kind stays as it is.
    """
    both = np.stack((logits, _log_odds(best)), 1)
    (scale, share), offset = _platt(both, present, balanced=True)
    (window_scale,), window_offset = _platt(_log_odds(confidences)[:, None], right)
    found = Calibration(scale, share, offset, window_scale, window_offset, fitted=fitted)
    existence = found.existence(logits, best)
    return replace(
        found,
        threshold=best_threshold(existence, present),
        threshold_of_stretches=threshold_over_many(existence, present, surest),
        threshold_of_search=threshold_over_many(existence, present, mean_odds),
    )


def surest(looks: Floats) -> Floats:
    """Probabilities (..., n) of n looks -> (...)."""
    return np.asarray(looks.max(-1))


def mean_odds(looks: Floats) -> Floats:
    """Probabilities (..., n) of n looks -> (...), of the mean of their odds."""
    kept = np.minimum(looks, CERTAIN)
    odds = (kept / (1 - kept)).mean(-1)
    return np.asarray(odds / (1 + odds))


def threshold_over_many(
    probabilities: Floats, present: Booleans, of_looks: Callable[[Floats], Floats]
) -> float:
    """From where on to say present by `of_looks` over `LOOKS` looks, so that most is right.

    Looks are drawn: at what does not show it, and as often at one video that does and at others.
    0.5 where all is of one kind.
    """
    if present.all() or not present.any():
        return 0.5
    random = np.random.default_rng(0)
    looks = random.choice(np.sort(probabilities[~present]), (2 * TIMES, LOOKS))
    looks[:TIMES, 0] = random.choice(np.sort(probabilities[present]), TIMES)
    return best_threshold(of_looks(looks), np.arange(2 * TIMES) < TIMES)


def best_threshold(probabilities: Floats, present: Booleans) -> float:
    """From where on to say present, so that most is right, both kinds counted equally.

    Of several the one nearest 0.5; 0.5 where all is of one kind.
    """
    count = int(present.sum())
    if not 0 < count < len(present):
        return 0.5
    values = np.unique(probabilities)
    between = np.concatenate(([0.0], (values[1:] + values[:-1]) / 2, [1.0]))
    ascending = np.sort(probabilities[present]), np.sort(probabilities[~present])
    missed = np.searchsorted(ascending[0], between, side="left") / count
    rejected = np.searchsorted(ascending[1], between, side="left") / (len(present) - count)
    right = rejected - missed
    best = between[right >= right.max() - 1e-12]
    return float(best[np.abs(best - 0.5).argmin()])


def _log_odds(confidences: Floats) -> Floats:
    kept = np.clip(confidences, LEAST, SURE)
    return np.asarray(np.log(kept) - np.log1p(-kept))


def _platt(x: Floats, is_so: Booleans, balanced: bool = False) -> tuple[list[float], float]:
    """Scales of the columns of x (n, d) and offset of the most likely sigmoid. The first scale is
    positive, none negative; where all is of one kind it is 1, and all else 0.

    Targets are drawn in a little, as Platt did: what is told apart without an error would have no
    finite scale. `balanced` lets both kinds count equally, however many there are of each.
    """
    count = int(is_so.sum())
    others = len(is_so) - count
    if not count or not others:
        return [1.0] + [0.0] * (x.shape[1] - 1), 0.0
    target = np.where(is_so, (count + 1) / (count + 2), 1 / (others + 2))
    weight = np.ones(len(x))
    if balanced:
        weight = np.where(is_so, 0.5 / count, 0.5 / others) * len(x)

    def loss(parameters: Floats) -> tuple[float, Floats]:
        z = x @ parameters[:-1] + parameters[-1]
        value = -(weight * (target * log_expit(z) + (1 - target) * log_expit(-z))).mean()
        change = weight * (expit(z) - target) / len(x)
        return float(value), np.append(change @ x, change.sum())

    # Within reason, and so that more of anything never makes less of a score.
    bounds = [(0.01, 100.0)] + [(0.0, 100.0)] * (x.shape[1] - 1) + [(-100.0, 100.0)]
    begin = np.array([1.0] + [0.0] * x.shape[1])
    found = minimize(loss, begin, jac=True, method="L-BFGS-B", bounds=bounds)
    *scales, offset = found.x.tolist()
    return scales, offset
