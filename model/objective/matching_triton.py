# The arguments of Triton kernels are pointers and compile-time constants, which Python's type
# system has no names for.
# mypy: disable-error-code="no-untyped-def,untyped-decorator"
"""Minimum-cost matching as one Triton kernel, so that no cost travels to the host.

Same problem as `model.objective.matching.assign`, solved by shortest augmenting paths (Jonker and
Volgenant 1987) in float64, as SciPy does: the windows enter one after the other, each by the
cheapest way of moving those before it. A program owns one problem and keeps all of it in registers.

With TRITON_INTERPRET=1 in the environment before import the kernel runs on CPU tensors.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

INTERPRETED = bool(triton.knobs.runtime.interpret)
PROBLEMS = 1
"""Problems that a program owns: one on a GPU, where none waits for another; the interpreter is
faster with many."""


@triton.jit
def assign_kernel(costs, assigned, count, M, N, PROBLEMS: tl.constexpr, BLOCK: tl.constexpr):
    """assigned[p, m] is the window that query m gets, or -1: costs (count, M, N) float32, infinite
    in the columns of missing windows; grid (blocks of problems,), BLOCK a power of two not below M
    and N.

    Where windows outnumber queries, places that cost nothing are added for the rest of them.
    """
    problem = tl.program_id(0).to(tl.int64) * PROBLEMS + tl.arange(0, PROBLEMS)
    inside = problem < count
    costs += problem[:, None] * M * N  # (PROBLEMS, 1)
    place = tl.arange(0, BLOCK)[None, :]  # of queries, then those that cost nothing
    infinity = float("inf")
    first = tl.load(costs + place, mask=inside[:, None] & (place < N), other=infinity)
    windows = tl.sum((first < infinity).to(tl.int32), axis=1)
    there = place < tl.maximum(windows, M)[:, None]
    holder = tl.full((PROBLEMS, BLOCK), -1, dtype=tl.int32)  # the window that has each place
    price = tl.zeros((PROBLEMS, BLOCK), dtype=tl.float64)  # dual of a place
    worth = tl.zeros((PROBLEMS, BLOCK), dtype=tl.float64)  # dual of the window that has it
    for entering in range(N):
        # Dijkstra's algorithm from the window that enters, if it is one, to the nearest free place.
        cost = tl.min(tl.where(place == entering, first, infinity), axis=1)
        window = tl.where(cost < infinity, entering, -1)  # (PROBLEMS,)
        nearest = tl.full((PROBLEMS,), -1, dtype=tl.int32)
        least = tl.zeros((PROBLEMS,), dtype=tl.float64)
        own = tl.zeros((PROBLEMS,), dtype=tl.float64)
        distance = tl.full((PROBLEMS, BLOCK), infinity, dtype=tl.float64)
        before = tl.full((PROBLEMS, BLOCK), -1, dtype=tl.int32)  # place on the way to each, or -1
        seen = tl.zeros((PROBLEMS, BLOCK), dtype=tl.int1)
        while tl.max(window) >= 0:
            searching = window >= 0
            ahead = searching[:, None] & there & ~seen
            row = tl.load(costs + place * N + window[:, None], mask=ahead & (place < M), other=0.0)
            reach = (least - own)[:, None] + row.to(tl.float64) - price
            nearer = ahead & (reach < distance)
            distance = tl.where(nearer, reach, distance)
            before = tl.where(nearer, nearest[:, None], before)
            shortest = tl.min(tl.where(ahead, distance, infinity), axis=1)
            least = tl.where(searching, shortest, least)
            nearby = tl.where(ahead & (distance == least[:, None]), place, BLOCK)
            nearest = tl.where(searching, tl.min(nearby, axis=1), nearest)
            here = searching[:, None] & (place == nearest[:, None])
            seen = seen | here
            own = tl.sum(tl.where(here, worth, 0.0), axis=1)
            window = tl.where(searching, tl.sum(tl.where(here, holder, 0), axis=1), -1)
        rise = tl.where(seen, least[:, None] - distance, 0.0)
        price -= rise
        worth += rise
        # Back along the way: each place goes to the window that had the one before it.
        while tl.max(nearest) >= 0:
            here = place == nearest[:, None]
            previous = tl.sum(tl.where(here, before, 0), axis=1)
            previous = tl.where(nearest < 0, -1, previous)
            there_before = place == previous[:, None]
            moved = tl.sum(tl.where(there_before, holder, 0), axis=1)
            its_worth = tl.sum(tl.where(there_before, worth, 0.0), axis=1)
            moved = tl.where(previous < 0, entering, moved)
            its_worth = tl.where(previous < 0, least, its_worth)
            holder = tl.where(here, moved[:, None], holder)
            worth = tl.where(here, its_worth[:, None], worth)
            nearest = previous
    tl.store(
        assigned + problem[:, None] * M + place,
        holder.to(tl.int64),
        mask=inside[:, None] & (place < M),
    )


def assign_on_device(costs: Tensor) -> Tensor:
    """The cheapest assignment of costs (S, B, M, N), infinite where no window is -> (S, B, M).

    Raises ValueError for tensors that are not on CUDA.
    """
    if not (costs.is_cuda or INTERPRETED):
        raise ValueError(
            f"matching kernel triton needs CUDA tensors, got {costs.device}: use kernel scipy"
        )
    assigned: Tensor = _assign_on_device(costs.float().contiguous())
    return assigned


@torch.library.custom_op("sdst::assign_on_device", mutates_args=())
def _assign_on_device(costs: Tensor) -> Tensor:
    M, N = costs.shape[2:]
    assigned = costs.new_empty(costs.shape[:3], dtype=torch.int64)
    count, block = assigned.numel() // M, triton.next_power_of_2(max(M, N))
    assign_kernel[(triton.cdiv(count, PROBLEMS),)](
        costs, assigned, count, M, N, PROBLEMS, block, num_warps=1
    )
    return assigned


@_assign_on_device.register_fake
def _(costs: Tensor) -> Tensor:
    return costs.new_empty(costs.shape[:3], dtype=torch.int64)
