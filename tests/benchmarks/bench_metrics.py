"""How long does evaluation take, and does its cost grow linearly with the queries?

Times `evaluate` on data of QVHighlights val's size (1550 queries, 10 windows and 75 scores each):
from rows already in memory to all figures, judging of the rows included, reading files excluded.
Then the bootstrap of every headline figure, the paired comparison, and ten times the queries.
"""

import time
from collections.abc import Callable
from typing import Any

import numpy as np

from data_pipeline.annotations import Annotation
from trainer.inference.postprocess import PRESETS, postprocess
from trainer.metrics import evaluate
from trainer.metrics.bootstrap import differences, intervals


def generated(queries: int, seed: int = 0) -> tuple[list[dict[str, Any]], list[Annotation]]:
    generator = np.random.default_rng(seed)
    rows, annotations = [], []
    for qid in range(queries):
        edges = np.sort(generator.integers(0, 76, (generator.integers(1, 5), 2)), axis=1) * 2.0
        clips = np.sort(generator.choice(75, generator.integers(1, 30), replace=False))
        ratings = generator.integers(0, 5, (len(clips), 3)).tolist()
        saliency = {int(clip): tuple(r) for clip, r in zip(clips, ratings, strict=True)}
        windows = tuple((float(start), float(end) + 2) for start, end in edges)
        annotations.append(Annotation(qid, "query", f"v{qid}", 150.0, windows, saliency))
        predicted = np.sort(generator.uniform(0, 150, (10, 2)), axis=1)
        scores = -np.sort(-generator.random((10, 1)), axis=0)
        rows.append(
            {
                "qid": qid,
                "pred_relevant_windows": np.hstack([predicted, scores]).tolist(),
                "pred_saliency_scores": generator.normal(size=75).tolist(),
            }
        )
    return rows, annotations


def best_of(runs: int, work: Callable[[], object]) -> tuple[float, float]:
    """Smallest wall and processor seconds."""
    times = []
    for _ in range(runs):
        wall, processor = time.perf_counter(), time.process_time()
        work()
        times.append((time.perf_counter() - wall, time.process_time() - processor))
    return min(wall for wall, _ in times), min(processor for _, processor in times)


def main() -> None:
    rows, annotations = generated(1550)
    many_rows, many_annotations = generated(15_500)
    first = evaluate(rows, annotations)
    second = evaluate(generated(1550, seed=1)[0], annotations)
    windows = np.random.default_rng(0).random((1550, 30, 3))
    windows[..., :2] = np.sort(windows[..., :2] * 150, axis=2)
    preset = PRESETS["qvhighlights"]
    cases: dict[str, Callable[[], object]] = {
        "evaluate, 1550 queries": lambda: evaluate(rows, annotations),
        "evaluate, 15500 queries": lambda: evaluate(many_rows, many_annotations),
        "bootstrap intervals, 1550 queries": lambda: intervals(first),
        "paired comparison, 1550 queries": lambda: differences(first, second),
        "post-processing, 1550 x 30 windows": lambda: postprocess(windows, [150.0] * 1550, preset),
    }
    for name, work in cases.items():
        wall, processor = best_of(5, work)
        print(f"{name:36} {wall:7.3f} s wall {processor:7.3f} s processor (best of 5)")


if __name__ == "__main__":
    main()
