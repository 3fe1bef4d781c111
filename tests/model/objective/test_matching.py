"""Matching against every possible assignment."""

import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from model.config import MatchingCost
from model.objective.matching import match, matching_cost


def draw(seed, S, B, M, N):
    generator = torch.Generator().manual_seed(seed)
    return (
        torch.randn(S, B, M, generator=generator),
        torch.rand(S, B, M, 2, generator=generator),
        torch.rand(B, N, 2, generator=generator),
        torch.rand(B, N, generator=generator) < 0.7,
    )


def slow_cost(logit, span, window, cost):
    """Cost of one query and one window, written out."""
    p = 1 / (1 + math.exp(-logit))
    positive = -cost.alpha * (1 - p) ** cost.gamma * math.log(p)
    negative = -(1 - cost.alpha) * p**cost.gamma * math.log(1 - p)
    (a, b), (c, d) = ((x[0] - x[1] / 2, x[0] + x[1] / 2) for x in (span, window))
    shared = max(0.0, min(b, d) - max(a, c))
    overlap = shared / ((b - a) + (d - c) - shared)
    distance = abs(span[0] - window[0]) + abs(span[1] - window[1])
    return cost.classification * (positive - negative) + cost.l1 * distance - cost.iou * overlap


@settings(deadline=None, max_examples=25)
@given(seed=st.integers(0, 2**31))
def test_costs_are_the_weighted_terms_of_each_query_and_window(seed):
    logits, spans, windows, _ = draw(seed, 2, 2, 3, 2)
    cost = MatchingCost(classification=3, l1=2, iou=1)
    table = matching_cost(logits, spans, windows, cost)
    for s, b, m, n in itertools.product(range(2), range(2), range(3), range(2)):
        expected = slow_cost(
            logits[s, b, m].item(), spans[s, b, m].tolist(), windows[b, n].tolist(), cost
        )
        assert table[s, b, m, n].item() == pytest.approx(expected, abs=1e-4)


def cheapest(table):
    """Least total cost over all ways to pair min(M, N) queries and windows; table M x N."""
    M, N = len(table), len(table[0]) if len(table) else 0
    if N == 0:
        return 0.0
    pairs = (
        [zip(queries, range(N), strict=True) for queries in itertools.permutations(range(M), N)]
        if N <= M
        else [zip(range(M), chosen, strict=True) for chosen in itertools.permutations(range(N), M)]
    )
    return min(sum(table[m][n] for m, n in way) for way in pairs)


@settings(deadline=None, max_examples=50)
@given(seed=st.integers(0, 2**31), M=st.integers(1, 4), N=st.integers(1, 5))
def test_the_assignment_is_the_cheapest_of_all(seed, M, N):
    logits, spans, windows, mask = draw(seed, 2, 3, M, N)
    cost = MatchingCost()
    table = matching_cost(logits, spans, windows, cost)
    assigned = match(logits, spans, windows, mask, cost)
    for s, b in itertools.product(range(2), range(3)):
        chosen = [(m, n) for m, n in enumerate(assigned[s, b].tolist()) if n >= 0]
        used = [n for _, n in chosen]
        assert all(mask[b, n] for n in used)
        assert len(set(used)) == len(used) == min(M, int(mask[b].sum()))
        real = table[s, b][:, mask[b]].tolist()
        paid = sum(table[s, b, m, n].item() for m, n in chosen)
        assert paid == pytest.approx(cheapest(real), abs=1e-4)


def test_without_windows_nothing_is_matched():
    logits, spans, windows, mask = draw(0, 2, 3, 4, 2)
    assert (match(logits, spans, windows, mask & False, MatchingCost()) == -1).all()


def test_a_diverged_prediction_is_matched_without_failing():
    logits, spans, windows, mask = draw(0, 2, 3, 4, 2)
    assigned = match(logits * torch.nan, spans, windows, mask | True, MatchingCost())
    assert ((assigned >= 0).sum(-1) == 2).all()


def test_all_steps_and_pairs_cross_to_the_host_in_one_copy(monkeypatch):
    copies = []
    to_host = torch.Tensor.cpu
    monkeypatch.setattr(torch.Tensor, "cpu", lambda x: copies.append(x.shape) or to_host(x))
    for forbidden in ("item", "tolist", "numpy"):
        plain = getattr(torch.Tensor, forbidden)

        def on_host(x, *args, plain=plain):
            assert copies, "read a device tensor before the copy"
            return plain(x, *args)

        monkeypatch.setattr(torch.Tensor, forbidden, on_host)
    match(*draw(0, 4, 3, 5, 2), MatchingCost())
    assert copies == [(4, 3, 5, 2)]
