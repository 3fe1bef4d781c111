"""Span arithmetic against counting on a fine grid of instants."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from model.spans import generalised_iou, iou, pairwise_iou, to_edges

EDGE = st.integers(0, 50)


@settings(deadline=None)
@given(EDGE, EDGE, EDGE, EDGE)
def test_iou_is_shared_over_covered_instants(a, b, c, d):
    first, second = (set(range(min(x), max(x))) for x in ((a, b), (c, d)))
    covered = first | second
    expected = len(first & second) / len(covered) if covered else 0.0
    spans = [torch.tensor([min(x), max(x)], dtype=torch.float32) for x in ((a, b), (c, d))]
    assert abs(iou(*spans).item() - expected) < 1e-6


@settings(deadline=None, max_examples=25)
@given(seed=st.integers(0, 2**31))
def test_pairwise_iou_is_iou_of_every_pair(seed):
    generator = torch.Generator().manual_seed(seed)
    a, b = (torch.rand(n, 2, generator=generator).sort(-1).values for n in (4, 3))
    table = pairwise_iou(a, b)
    for i in range(4):
        for j in range(3):
            assert torch.equal(table[i, j], iou(a[i], b[j]))


@settings(deadline=None)
@given(st.floats(0, 1), st.floats(0, 1))
def test_centre_and_width_give_start_and_end(a, b):
    start, end = sorted((a, b))
    span = torch.tensor([(start + end) / 2, end - start], dtype=torch.float64)
    assert to_edges(span).tolist() == pytest.approx([start, end])


def test_an_inverted_span_is_an_empty_one():
    inverted, empty = torch.tensor([0.6, 0.4]), torch.tensor([0.5, 0.5])
    other = torch.tensor([0.0, 0.2])
    assert iou(inverted, torch.tensor([0.3, 0.7])) == 0
    # Of the hull from 0 to 0.4 the other covers half.
    torch.testing.assert_close(generalised_iou(inverted, other), torch.tensor(-0.5))
    torch.testing.assert_close(generalised_iou(empty, other), torch.tensor(-0.6))


@pytest.mark.parametrize(
    ("given", "found"),
    [
        (torch.float16, torch.float32),
        (torch.bfloat16, torch.float32),
        (torch.float64, torch.float64),
    ],
)
def test_a_hull_is_measured_in_full_precision(given, found):
    a, b = (torch.tensor(span, dtype=given) for span in ([0.0, 1.0], [2.0, 2048.0]))
    iou = generalised_iou(a, b)
    assert iou.dtype == found
    assert float(iou) == pytest.approx(-1 / 2048, rel=1e-6)  # half precision would round the union
