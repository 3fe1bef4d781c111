import json

import numpy as np
import pytest

from data_pipeline.annotations import Annotation
from data_pipeline.errors import InputError
from trainer.metrics import evaluate, read_ground_truth

DOMAINS = {"tvsum": ["BK", "BT", "DS", "FM", "GA", "MS", "PK", "PR", "VT", "VU"]}
DOMAINS["youtube"] = ["dog", "gym", "par", "ska", "ski", "sur"]


def slow_precision(labels, scores, top):
    """Area under the precision-recall curve of the first `top` clips, by trapezia from (0, 1)."""
    ranked = [labels[i] for i in sorted(range(len(labels)), key=lambda i: -scores[i])][:top]
    if not any(ranked):
        return 0.0
    area, hits, recall, precision = 0.0, 0, 0.0, 1.0
    for place, label in enumerate(ranked, start=1):
        hits += label
        area += (hits / sum(ranked) - recall) * (precision + hits / place) / 2
        recall, precision = hits / sum(ranked), hits / place
    return area


def write(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def generated(dataset, seed=0):
    generator = np.random.default_rng(seed)
    rows, predictions = [], []
    for domain in DOMAINS[dataset]:
        for number in range(1 + len(rows) % 3):
            clips = int(generator.integers(3, 40))
            qid = f"{domain}{number}"
            row = {"qid": qid, "query": "A title", "vid": qid, "duration": clips, "domain": domain}
            if dataset == "tvsum":
                row["label"] = generator.integers(1, 6, (clips, 20)).tolist()
            else:
                row["match"] = generator.integers(-1, 2, clips).tolist()
            rows.append(row)
            predictions.append(
                {"qid": qid, "pred_saliency_scores": generator.random(clips).tolist()}
            )
    return rows, predictions


@pytest.mark.parametrize(("dataset", "top"), [("tvsum", 5), ("youtube", None)])
def test_the_figure_is_the_mean_of_domain_means_over_annotators(tmp_path, dataset, top):
    rows, predictions = generated(dataset)
    evaluation = evaluate(
        predictions, read_ground_truth(write(tmp_path / "a.jsonl", rows), dataset), dataset
    )
    by_domain = {}
    for row, prediction in zip(rows, predictions, strict=True):
        if dataset == "tvsum":
            label = np.array(row["label"])
            annotators = (label > np.median(label, axis=0)).T.tolist()
        else:
            annotators = [[m > 0 for m in row["match"]]]
        scores = prediction["pred_saliency_scores"]
        values = [slow_precision(labels, scores, top) for labels in annotators]
        by_domain.setdefault(row["domain"], []).append(np.mean(values))
    means = {domain: np.mean(values) for domain, values in by_domain.items()}
    assert evaluation.summary["mAP"] == round(100 * np.mean(list(means.values())), 2)
    for domain, mean in means.items():
        assert evaluation.summary[f"mAP/{domain}"] == round(100 * mean, 2)
    assert not evaluation.warnings


def test_a_perfect_ranking_of_a_video_scores_one_hundred(tmp_path):
    rows, predictions = generated("youtube")
    for row, prediction in zip(rows, predictions, strict=True):
        row["match"][0] = 1
        prediction["pred_saliency_scores"] = row["match"]
    truth = read_ground_truth(write(tmp_path / "a.jsonl", rows), "youtube")
    assert evaluate(predictions, truth, "youtube").summary["mAP"] == 100.0


def test_clips_without_a_score_are_ranked_last_with_a_warning(tmp_path):
    row = {"qid": 1, "query": "t", "vid": "v", "duration": 3, "domain": "dog", "match": [-1, -1, 1]}
    truth = read_ground_truth(write(tmp_path / "a.jsonl", [row]), "youtube")
    evaluation = evaluate([{"qid": 1, "pred_saliency_scores": [-5.0]}], truth, "youtube")
    assert evaluation.summary["mAP"] == round(100 / 6, 2)
    assert any("1 videos have more or fewer scores" in warning for warning in evaluation.warnings)
    assert any("1 domains, not the 6" in warning for warning in evaluation.warnings)


@pytest.mark.parametrize(
    ("change", "named"),
    [({"domain": None}, "'domain'"), ({"label": [1, 2]}, "'label'"), ({"label": None}, "'label'")],
)
def test_a_row_without_its_labels_is_named_by_line(tmp_path, change, named):
    rows, _ = generated("tvsum")
    rows[2] |= change
    with pytest.raises(InputError, match=rf"a\.jsonl:3: .*{named}"):
        read_ground_truth(write(tmp_path / "a.jsonl", rows), "tvsum")


def test_plain_annotations_are_refused_for_domain_measures():
    with pytest.raises(InputError, match="read_ground_truth"):
        evaluate(
            [{"qid": 1, "pred_saliency_scores": [1.0]}], [Annotation(1, "q", "v", 10.0)], "tvsum"
        )
