"""The fused kernels: equal to the reference in Triton's interpreter, and compiled for real GPUs."""

import os
import subprocess
import sys
from pathlib import Path
from random import Random

import pytest
import torch

pytest.importorskip("triton")

pytestmark = pytest.mark.timeout(300)  # 15 s each on an idle machine, minutes on a crowded one

ROOT = Path(__file__).parents[3]

# Shapes (B, L, H, Dh, M, P): a typical one, Dh and M that are no powers of two, single clips and
# points, Dh wider than a block of the value gradient; then any.
SHAPES = [(2, 11, 2, 32, 7, 4), (3, 40, 1, 5, 19, 3), (2, 1, 3, 8, 1, 1), (1, 9, 1, 88, 50, 2)]
DRAW = Random(0)
SHAPES += [tuple(DRAW.randint(1, most) for most in (3, 70, 3, 40, 40, 5)) for _ in range(6)]

COMPARE = f"""
import torch
from model.layers.deformable import deformable_sample, sample_linear

for number, (B, L, H, Dh, M, P) in enumerate({SHAPES}):
    torch.manual_seed(number)
    value = torch.randn(B, L, H, Dh).requires_grad_()
    locations = (torch.rand(B, M, H, P) * 1.6 - 0.3).requires_grad_()
    weights = torch.randn(B, M, H, P).requires_grad_()
    length = torch.randint(1, L + 1, (B,))
    inputs = (value, locations, weights)
    gradient = torch.randn(B, M, H * Dh)
    def run(kernel):
        out = deformable_sample(*inputs, length, kernel)
        return out, *torch.autograd.grad(out, inputs, gradient)
    for got, want in zip(run("triton"), run("torch"), strict=True):
        torch.testing.assert_close(got, want, atol=1e-4, rtol=1e-4)
    assert all(torch.equal(*pair) for pair in zip(run("triton"), run("triton")))
    plain = (value.detach().flatten(2).requires_grad_(), locations[:, :, 0])
    gradient = torch.randn(B, M, P, H * Dh)
    def read(kernel):
        out = sample_linear(*plain, length, kernel)
        return out, *torch.autograd.grad(out, plain, gradient)
    for got, want in zip(read("triton"), read("torch"), strict=True):
        torch.testing.assert_close(got, want, atol=1e-4, rtol=1e-4)

half = [x.detach().bfloat16() for x in inputs]
out = deformable_sample(half[0], *inputs[1:], length, "triton")
assert out.dtype == torch.bfloat16
want = deformable_sample(half[0].float(), *inputs[1:], length)
torch.testing.assert_close(out.float(), want, atol=0.05, rtol=0.02)

def loss(value, locations, weights):
    return deformable_sample(value, locations, weights, length, "triton").square().sum()

compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")
for got, want in zip(
    torch.autograd.grad(compiled(*inputs), inputs), torch.autograd.grad(loss(*inputs), inputs)
):
    torch.testing.assert_close(got, want)
torch.library.opcheck(
    torch.ops.sdst.deformable_sample.default,
    (*(x.detach().requires_grad_() for x in inputs), length.int()),
    test_utils=("test_schema", "test_autograd_registration", "test_faketensor"),
)
"""

COMPILE = """
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from model.layers import deformable_triton as kernels

sizes = dict(H=8, P=4, DH=32, BLOCK_L=32)
sizes["BLOCK_M"], sizes["BLOCK_D"] = kernels.block_sizes(32)

def compile_for(kernel, capability, dtype):
    types = dict.fromkeys(("value", "grad_value", "out", "grad_out"), dtype)
    types |= dict(length="*i32", L="i32", M="i32")
    constants = {name: sizes[name] for name in kernel.arg_names if name in sizes}
    signature = {
        name: "constexpr" if name in sizes else types.get(name, "*fp32")
        for name in kernel.arg_names
    }
    source = ASTSource(kernel, signature, constants)
    compiled = triton.compile(source, target=GPUTarget("cuda", capability, 32))
    assert f".target sm_{capability}" in compiled.asm["ptx"]
    assert compiled.asm["cubin"].startswith(b"\\x7fELF")

for kernel in (
    kernels.forward_kernel, kernels.backward_points_kernel, kernels.backward_value_kernel
):
    for capability, dtype in ((80, "*bf16"), (90, "*bf16"), (100, "*bf16"), (80, "*fp32")):
        compile_for(kernel, capability, dtype)
"""


def python(code: str, **environment: str) -> None:
    """Run code in a fresh interpreter: Triton reads its mode once, when it is imported."""
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", **environment},
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def test_equals_the_reference_forward_and_backward_in_the_interpreter() -> None:
    python(COMPARE, TRITON_INTERPRET="1")


def test_compiles_for_ampere_hopper_and_blackwell_without_a_gpu(tmp_path: Path) -> None:
    python(COMPILE, TRITON_INTERPRET="0", TRITON_CACHE_DIR=str(tmp_path))


@pytest.mark.skipif(os.environ.get("TRITON_INTERPRET") == "1", reason="the interpreter runs on CPU")
def test_tensors_on_cpu_are_refused() -> None:
    from model.layers.deformable import deformable_sample

    points = torch.rand(1, 2, 1, 1)
    with pytest.raises(ValueError, match="needs CUDA tensors"):
        deformable_sample(torch.rand(1, 3, 1, 4), points, points, torch.tensor([3]), "triton")
