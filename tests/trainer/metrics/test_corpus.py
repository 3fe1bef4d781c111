"""The figures of an archive's answers: by hand, and as a slow restatement has them."""

import json
import math
from pathlib import Path

import numpy as np
import pytest

from data_pipeline.errors import InputError
from trainer.metrics.corpus import (
    Asked,
    Given,
    RightMoment,
    evaluate_corpus,
    read_answers,
    read_questions,
)


def figures(given: Given, *right: RightMoment) -> dict[str, float]:
    return evaluate_corpus({1: given}, [Asked(1, right)]).summary


def test_a_moment_counts_in_its_own_video_and_by_its_overlap() -> None:
    right = RightMoment("a", 10, 20)
    found = (("b", 10, 20, 0.9), ("a", 10, 16, 0.8), ("a", 10, 18, 0.7))
    got = figures(Given(found), right)
    assert got["R@1 IoU=0.5"] == 0
    assert got["R@10 IoU=0.5"] == 100
    assert got["R@10 IoU=0.7"] == 100
    assert figures(Given(found[:2]), right)["R@10 IoU=0.7"] == 0
    assert figures(Given(found[1:]), right)["R@1 IoU=0.5"] == 100


def test_gain_is_shared_by_no_two_answers_and_discounted_by_rank() -> None:
    right = RightMoment("a", 0, 10, 2), RightMoment("b", 0, 10, 1)
    found = (("a", 0, 10, 0.9), ("a", 0, 9, 0.8), ("b", 0, 8, 0.7))
    got = figures(Given(found), *right)
    best = 3 + 1 / math.log2(3)
    assert got["NDCG@10 IoU=0.5"] == round(100 * (3 + 1 / math.log2(4)) / best, 2)
    assert got["NDCG@10 IoU=0.7"] == got["NDCG@10 IoU=0.5"]
    assert figures(Given(found[:2]), *right)["NDCG@10 IoU=0.5"] == round(100 * 3 / best, 2)


def test_right_videos_among_those_proposed_are_counted_once() -> None:
    proposed = ("x", "x", "a", *"0123456789", "b")
    got = figures(Given((), proposed), RightMoment("a", 0, 1), RightMoment("b", 0, 1))
    assert (got["VR@1"], got["VR@10"], got["VA@10"], got["VA@20"]) == (0, 100, 50, 100)
    assert got["R@100 IoU=0.5"] == 0


def test_without_proposals_the_search_is_not_measured() -> None:
    assert not [name for name in figures(Given(()), RightMoment("a", 0, 1)) if name[0] == "V"]


def slowly(given: Given, right: tuple[RightMoment, ...]) -> dict[str, float]:
    """The same in plain words, moment by moment."""

    def meets(answer: tuple[str, float, float, float], moment: RightMoment) -> float:
        if answer[0] != moment.video:
            return 0.0
        grid = np.arange(0, 60, 0.01) + 0.005
        one = (grid > answer[1]) & (grid < answer[2])
        two = (grid > moment.start) & (grid < moment.end)
        return float((one & two).sum() / max(1, (one | two).sum()))

    result = {}
    for iou in (0.5, 0.7):
        for k in (1, 10, 100):
            hit = False
            for answer in given.moments[:k]:
                for moment in right:
                    hit |= meets(answer, moment) >= iou
            result[f"R@{k} IoU={iou}"] = float(hit)
        for k in (10, 20, 40):
            left, total = list(right), 0.0
            for place, answer in enumerate(given.moments[:k]):
                met = [m for m in left if meets(answer, m) >= iou]
                if met:
                    met.sort(key=lambda m: (m.relevance, meets(answer, m)))
                    left.remove(met[-1])
                    total += (2 ** met[-1].relevance - 1) / math.log2(place + 2)
            grades = sorted((m.relevance for m in right), reverse=True)[:k]
            ideal = sum((2**g - 1) / math.log2(place + 2) for place, g in enumerate(grades))
            result[f"NDCG@{k} IoU={iou}"] = total / ideal
    return result


def test_figures_are_those_of_a_slow_restatement() -> None:
    random = np.random.default_rng(0)

    def window() -> tuple[float, float]:
        start = float(random.integers(0, 20))
        return start, start + float(random.integers(1, 20))

    answers, questions, expected = {}, [], []
    for qid in range(25):
        right = tuple(
            RightMoment(f"v{random.integers(3)}", *window(), float(random.integers(1, 5)))
            for _ in range(random.integers(1, 8))
        )
        found = tuple(
            (f"v{random.integers(3)}", *window(), 1.0) for _ in range(random.integers(0, 60))
        )
        answers[qid] = Given(found)
        questions.append(Asked(qid, right))
        expected.append(slowly(answers[qid], right))
    got = evaluate_corpus(answers, questions)
    assert set(got.per_query) == set(expected[0])
    for name, values in got.per_query.items():
        assert values == pytest.approx([row[name] for row in expected])
    assert 0 < got.summary["R@1 IoU=0.7"] < got.summary["R@10 IoU=0.5"] < 100


def write(path: Path, *rows: object) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_questions_ask_for_their_own_windows_or_for_those_that_are_listed(tmp_path: Path) -> None:
    own = {"qid": 1, "vid": "a", "relevant_windows": [[1, 2], [3, 4]]}
    path = write(
        tmp_path / "q.jsonl",
        own,
        own | {"qid": "x", "relevant_moments": [["b", 1, 2], ["c", 3, 4, 2]]},
        own | {"qid": 3, "relevant_windows": []},
    )
    first, second, third = read_questions(path)
    assert first.moments == (RightMoment("a", 1, 2), RightMoment("a", 3, 4))
    assert second.moments == (RightMoment("b", 1, 2), RightMoment("c", 3, 4, 2))
    answers = {qid: Given(()) for qid in (1, "x", 3)}
    assert evaluate_corpus(answers, [first, second, third]).left_out == 1
    with pytest.raises(InputError, match="no question has"):
        evaluate_corpus(answers, [third])


ROW = {"qid": 1, "query": "x", "pred_moments": [["a", 1, 2, 0.5]], "candidates": [["a", 0, 9, 1]]}


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ([], "no answer to qid 1"),
        ([ROW, ROW], "twice"),
        ([ROW, ROW | {"qid": 2}], "nobody asked"),
        ([ROW | {"pred_moments": [["a", 1, 2]]}], "1: malformed"),
        ([ROW | {"pred_moments": [["a", 1, "2", 1]]}], "no number"),
        ([ROW | {"pred_moments": [[3, 1, 2, 1]]}], "names no video"),
        ([ROW | {"candidates": [[]]}], "1: malformed"),
        ([{"qid": None}], "qid"),
        ([[1]], "qid"),
    ],
)
def test_an_answer_that_is_none_is_one_line(tmp_path: Path, rows: list[object], said: str) -> None:
    with pytest.raises(InputError, match=said) as caught:
        read_answers(write(tmp_path / "p.jsonl", *rows), [Asked(1, ())])
    assert "\n" not in str(caught.value)
