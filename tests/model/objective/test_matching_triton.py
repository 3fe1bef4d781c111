"""The matching's kernel: SciPy's optimum in Triton's interpreter, and compiled for real GPUs."""

import os
import sys
from pathlib import Path

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from model.config import LossConfig
from model.config.detr import DETRLossConfig
from model.objective.detr import DETRCriterion
from model.objective.losses import Criterion
from model.objective.matching import assign, check_matching
from tests.model.layers.test_deformable_triton import python

pytest.importorskip("triton")

pytestmark = pytest.mark.timeout(300)

COMPARE = """
import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from model.objective import matching_triton
from model.objective.matching import assign

DRAWS = {
    "any": lambda r, shape: r.normal(size=shape),
    "ties": lambda r, shape: r.integers(0, 3, shape),
    "all equal": lambda r, shape: np.full(shape, 0.3),
    "far apart": lambda r, shape: 10.0 ** r.integers(-3, 7, shape) * r.choice([-1, 1], shape),
    "diverged": lambda r, shape: r.choice([np.nan, np.inf, -np.inf, 0.5], shape),
}
# Queries, windows, problems, problems of a program: fewer and more windows than queries, one of
# either, no power of two, blocks of one, a last block that is not full.
SHAPES = [
    (30, 5, 540, 512), (10, 12, 540, 512), (7, 3, 540, 512), (1, 1, 300, 256), (1, 6, 300, 256),
    (33, 1, 20, 1), (5, 4, 20, 1),
]
found = 0
for number, (M, N, count, problems) in enumerate(SHAPES):
    if DEVICE == "cpu":
        matching_triton.PROBLEMS = problems
    for name, draw in DRAWS.items():
        random = np.random.default_rng([number, len(name)])
        costs = torch.from_numpy(draw(random, (1, count, M, N))).float()
        real = torch.from_numpy(random.random((count, N)) < random.random((count, 1)))
        ours = assign(costs.to(DEVICE), real.to(DEVICE), "triton")[0].cpu().numpy()
        theirs = assign(costs, real)[0].numpy()
        table = costs[0].nan_to_num(1e6, 1e6, -1e6).double().numpy()

        def paid(assigned, problem):
            queries = np.flatnonzero(assigned[problem] >= 0)
            return table[problem, queries, assigned[problem, queries]].sum()

        for problem in range(count):
            windows = ours[problem][ours[problem] >= 0]
            assert len(set(windows)) == len(windows) == min(M, int(real[problem].sum()))
            assert real[problem][windows].all()
            ideal = paid(theirs, problem)
            assert abs(paid(ours, problem) - ideal) <= 1e-9 * max(1, abs(ideal)), (name, M, N)
            found += 1
        if name == "any":  # without ties there is one optimum
            assert (ours == theirs).all()
assert found > 10_000, found
"""

COMPILE = """
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from model.objective.matching_triton import assign_kernel, PROBLEMS

types = dict(costs="*fp32", assigned="*i64", count="i32", M="i32", N="i32")
signature = types | dict.fromkeys(("PROBLEMS", "BLOCK"), "constexpr")
for capability, block in ((80, 32), (90, 1), (90, 64), (100, 32)):
    source = ASTSource(assign_kernel, signature, dict(PROBLEMS=PROBLEMS, BLOCK=block))
    target = GPUTarget("cuda", capability, 32)
    compiled = triton.compile(source, target=target, options=dict(num_warps=1))
    assert f".target sm_{capability}" in compiled.asm["ptx"]
    assert compiled.asm["cubin"].startswith(b"\\x7fELF")
"""


def test_finds_scipys_optimum_of_ten_thousand_problems_in_the_interpreter() -> None:
    python(f"DEVICE = 'cpu'{COMPARE}", TRITON_INTERPRET="1")


def test_compiles_for_ampere_hopper_and_blackwell_without_a_gpu(tmp_path: Path) -> None:
    python(COMPILE, TRITON_INTERPRET="0", TRITON_CACHE_DIR=str(tmp_path))


def test_the_kernel_is_asked_without_reading_a_cost(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fake tensors have no numbers: what stands around the kernel runs, its launch is seen."""
    from model.objective import matching_triton

    launches: list[tuple[object, ...]] = []

    class Kernel:
        def __getitem__(self, grid: tuple[int]) -> object:
            return lambda *given, **_: launches.append((grid, *given[2:]))

    monkeypatch.setattr(matching_triton, "assign_kernel", Kernel())
    with FakeTensorMode():
        assigned = matching_triton._assign_on_device._init_fn(torch.rand(4, 8, 30, 5))
    assert assigned.shape == (4, 8, 30)
    assert launches == [((32,), 32, 30, 5, 1, 32)]


@pytest.mark.skipif(os.environ.get("TRITON_INTERPRET") == "1", reason="the interpreter runs on CPU")
def test_tensors_on_cpu_are_refused() -> None:
    with pytest.raises(ValueError, match="matching kernel triton needs CUDA tensors, got cpu"):
        assign(torch.rand(1, 2, 3, 4), torch.ones(2, 4, dtype=torch.bool), "triton")


@pytest.mark.parametrize("criterion", [Criterion, DETRCriterion])
def test_a_kernel_that_is_not_installed_is_refused_when_the_objective_is_made(
    monkeypatch: pytest.MonkeyPatch, criterion: type
) -> None:
    config = {Criterion: LossConfig, DETRCriterion: DETRLossConfig}[criterion]
    criterion(config(matching_kernel="triton"))
    monkeypatch.setitem(sys.modules, "triton", None)
    with pytest.raises(ImportError, match=r"loss\.matching_kernel triton is not installed: pip"):
        criterion(config(matching_kernel="triton"))
    criterion(config())


def test_an_unknown_kernel_is_refused() -> None:
    with pytest.raises(ValueError, match="unknown matching kernel 'cupy'"):
        check_matching("cupy")
