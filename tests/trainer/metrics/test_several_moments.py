"""Queries with several true windows: QV-M2's figures, beside QVHighlights' own."""

import numpy as np
import pytest

from data_pipeline.annotations import Annotation
from trainer.metrics import evaluate

THRESHOLDS = [round(0.3 + 0.05 * step, 2) for step in range(14)]


def iou(a, b):
    shared = max(0.0, min(a[1], b[1]) - max(a[0], b[0]))
    return shared / ((a[1] - a[0]) + (b[1] - b[0]) - shared)


def slow_recall(listed, true, count):
    """One listed window after the other takes the free true window that it meets best."""
    found = []
    for threshold in THRESHOLDS:
        free, hits = list(true), 0
        for window in listed[:count]:
            best = max(free, key=lambda each: iou(window, each), default=None)
            if best is not None and iou(window, best) >= threshold:
                free.remove(best)
                hits += 1
        found.append(hits / count)
    return np.mean(found)


def generated(seed, queries=60):
    random = np.random.default_rng(seed)
    rows, annotations = [], []
    for qid in range(queries):
        edges = np.sort(random.choice(76, 2 * random.integers(1, 5), replace=False)) * 2.0
        windows = tuple((float(a), float(b)) for a, b in edges.reshape(-1, 2))
        annotations.append(Annotation(qid, "q", f"v{qid}", 150.0, windows))
        near = np.array(windows)[random.permutation(len(windows))]
        near = np.clip(near + random.normal(0, 3, near.shape), 0, 150)
        near = np.sort(near, axis=1) + np.array([0, 0.5])
        scores = np.sort(random.random(len(near)))[::-1]
        listed = np.column_stack([near, scores]).tolist()
        rows.append({"qid": qid, "pred_relevant_windows": listed})
    return rows, annotations


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_mean_recall_is_that_of_matching_one_by_one(seed):
    rows, annotations = generated(seed)
    summary = evaluate(rows, annotations).summary
    for count in (1, 2, 3):
        values = [
            slow_recall([w[:2] for w in row["pred_relevant_windows"]], a.windows, count)
            for row, a in zip(rows, annotations, strict=True)
            if len(a.windows) >= count
        ]
        assert summary[f"mR@{count}"] == pytest.approx(100 * np.mean(values), abs=0.006)


def test_precision_is_told_by_the_number_of_true_windows():
    rows, annotations = generated(0)
    whole = evaluate(rows, annotations)
    assert whole.summary["G-mAP"] == whole.summary["mAP"]
    for name, wanted in (("1", {1}), ("2", {2}), ("3+", {3, 4})):
        part = [place for place, a in enumerate(annotations) if len(a.windows) in wanted]
        alone = evaluate([rows[place] for place in part], [annotations[place] for place in part])
        assert whole.summary[f"mAP@{name}_tgt"] == alone.summary["mAP"]


def test_all_true_windows_listed_are_found_and_one_listed_twice_is_not():
    truth = [Annotation(1, "q", "v", 150.0, ((0.0, 10.0), (20.0, 30.0), (50.0, 90.0)))]
    listed = [[0, 10, 0.9], [20, 30, 0.8], [50, 90, 0.7]]
    full = evaluate([{"qid": 1, "pred_relevant_windows": listed}], truth).summary
    assert [full[f"mR@{count}"] for count in (1, 2, 3)] == [100.0, 100.0, 100.0]
    twice = [[0, 10, 0.9], [0, 10, 0.8]]
    half = evaluate([{"qid": 1, "pred_relevant_windows": twice}], truth).summary
    assert (half["mR@2"], half["mR@3"]) == (50.0, 33.33)


def test_a_set_of_single_windows_has_none_of_these_figures():
    truth = [Annotation(1, "q", "v", 150.0, ((0.0, 10.0),))]
    rows = [{"qid": 1, "pred_relevant_windows": [[0, 10, 1.0]]}]
    assert not {"G-mAP", "mR@1"} & evaluate(rows, truth).summary.keys()
