"""Attention against its definition, and the backends that this machine cannot run against sdpa."""

import ctypes
import sys
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor

from model.layers import attention as module
from model.layers.attention import attention, check_backend

MISSING = {"xformers": "pip install xformers", "flash": "pip install flash-attn"}


def case(B: int, H: int, Q: int, keys: int, Dh: int, masked: bool = True) -> tuple[Tensor, ...]:
    """query, key, value in float64 and a mask with holes; `masked`: the last has no real key."""
    generator = torch.Generator().manual_seed(B * H * Q * keys)
    query, key, value = (
        torch.randn(B, H, n, Dh, generator=generator, dtype=torch.float64) for n in (Q, keys, keys)
    )
    mask = torch.rand(B, keys, generator=generator) < 0.7
    mask[:, 0] = True
    if masked:
        mask[-1] = False
    return query, key, value, mask


def by_definition(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None) -> Tensor:
    """One query at a time over the list of its real keys."""
    out = torch.zeros_like(query)
    for b in range(len(query)):
        real = mask[b] if mask is not None else torch.ones(key.shape[2], dtype=torch.bool)
        for h in range(query.shape[1]):
            for q in range(query.shape[2]):
                if real.any():
                    scores = key[b, h, real] @ query[b, h, q] / query.shape[-1] ** 0.5
                    out[b, h, q] = scores.softmax(0) @ value[b, h, real]
    return out


@pytest.mark.parametrize("trains", [False, True])
@pytest.mark.parametrize("shape", [(3, 2, 5, 7, 4), (2, 1, 1, 1, 8)])
def test_equals_its_definition(shape: tuple[int, ...], trains: bool) -> None:
    query, key, value, mask = case(*shape)
    query.requires_grad_(trains)
    for given in (mask, None):
        torch.testing.assert_close(
            attention(query, key, value, given), by_definition(query, key, value, given)
        )


@pytest.mark.parametrize("length", [9, 200])  # as matrix products and in the fused kernel
def test_gradients_do_not_depend_on_the_length_of_the_padding(length: int) -> None:
    query, key, value, _ = case(2, 2, length, length, 4)
    mask = torch.ones(2, length, dtype=torch.bool)
    padded = [torch.nn.functional.pad(x, (0, 0, 0, 13), value=1e3) for x in (key, value)]
    long_mask = torch.nn.functional.pad(mask, (0, 13))
    results = []
    for inputs, given in (([query, key, value], mask), ([query, *padded], long_mask)):
        leaves = [x.clone().requires_grad_() for x in inputs]
        out = attention(*leaves, given)
        results.append((out, *torch.autograd.grad(out.square().sum(), leaves)))
    for short, long in zip(*results, strict=True):
        torch.testing.assert_close(long[:, :, : short.shape[2]], short)
        assert not long[:, :, short.shape[2] :].any()


@pytest.mark.parametrize("length", [6, 200])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_without_any_real_key_the_result_and_its_gradients_are_zero(
    length: int, dtype: torch.dtype
) -> None:
    query, key, value, mask = case(2, 2, length, length, 8)
    leaves = [x.to(dtype).requires_grad_() for x in (query, key, value)]
    out = attention(*leaves, mask)
    assert out[0].isfinite().all()
    assert not out[-1].any()
    for gradient in torch.autograd.grad(out.sum(), leaves):
        assert gradient.isfinite().all()
        assert not gradient[-1].any()


def test_softmax_of_bfloat16_inputs_is_taken_in_float32() -> None:
    query, key, value, mask = (x[:1] for x in case(2, 2, 30, 120, 16))
    half = [x.bfloat16() for x in (query, key, value)]
    want = attention(*(x.double() for x in half), mask)
    error = (attention(*half, mask).double() - want).abs().max() / want.abs().max()
    assert error < 2**-7  # the rounding of the result; scores in bfloat16 are several times worse


def test_dropout_keeps_the_expected_value() -> None:
    query, key, _, mask = case(2, 4, 60, 60, 4, masked=False)
    ones = torch.ones_like(key)
    torch.manual_seed(0)
    out = attention(query.requires_grad_(), key, ones, mask, dropout=0.5).detach()
    assert abs(float(out.mean()) - 1) < 0.05
    assert float(out.std()) > 0.05


def test_compiles_without_graph_breaks() -> None:
    query, key, value, mask = case(2, 2, 5, 7, 4)
    query.requires_grad_()
    compiled = torch.compile(attention, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(
        compiled(query, key, value, mask), attention(query, key, value, mask)
    )


def test_packing_for_flash_kernels_equals_sdpa() -> None:
    def varlen(
        query: Tensor, key: Tensor, value: Tensor, ends_q: Tensor, ends_k: Tensor, *longest: int
    ) -> Tensor:
        """What flash_attn_varlen_func computes, one sequence at a time; (tokens, H, Dh)."""
        assert ends_q.dtype == ends_k.dtype == torch.int32
        out = torch.zeros_like(query)
        for i in range(len(ends_q) - 1):
            own_q, own_k = slice(ends_q[i], ends_q[i + 1]), slice(ends_k[i], ends_k[i + 1])
            assert own_q.stop - own_q.start <= longest[0]
            assert own_k.stop - own_k.start <= longest[1]
            sequence = (x.transpose(0, 1)[None] for x in (query[own_q], key[own_k], value[own_k]))
            out[own_q] = torch.nn.functional.scaled_dot_product_attention(*sequence)[0].transpose(
                0, 1
            )
        return out

    query, key, value, mask = case(3, 2, 5, 7, 4, masked=False)
    leaves = [x.requires_grad_() for x in (query, key, value)]
    for given in (mask, None):
        packed = module._attend_packed(*leaves, given, varlen)
        want = attention(*leaves, given)
        torch.testing.assert_close(packed, want)
        gradients = (torch.autograd.grad(x.square().sum(), leaves) for x in (packed, want))
        for got, expected in zip(*gradients, strict=True):
            torch.testing.assert_close(got, expected)


def test_bias_and_layout_for_xformers_equal_sdpa() -> None:
    def memory_efficient(
        query: Tensor, key: Tensor, value: Tensor, attn_bias: Tensor | None, p: float
    ) -> Tensor:
        """What xformers documents; (B, *, H, Dh), rows of the bias at multiples of 8."""
        assert p == 0
        scores = torch.einsum("bqhd,bkhd->bhqk", query, key) / query.shape[-1] ** 0.5
        if attn_bias is not None:
            assert attn_bias.shape == scores.shape
            assert attn_bias.dtype == query.dtype
            assert all(stride % 8 == 0 for stride in attn_bias.stride()[:-1])
            scores = scores + attn_bias
        return torch.einsum("bhqk,bkhd->bqhd", scores.softmax(-1), value)

    query, key, value, mask = case(3, 2, 5, 7, 4, masked=False)
    for given in (mask, None):
        torch.testing.assert_close(
            module._attend_biased(query, key, value, given, 0.0, memory_efficient),
            attention(query, key, value, given),
        )


@pytest.mark.parametrize("name", MISSING)
def test_a_missing_backend_is_an_error_that_names_the_install_command(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for package in ("xformers", "xformers.ops", "flash_attn", "flash_attn_interface"):
        monkeypatch.setitem(sys.modules, package, None)
    module._xformers_kernel.cache_clear()
    module._flash_kernel.cache_clear()
    with pytest.raises(ImportError, match=MISSING[name]):
        check_backend(name)
    query, key, value, mask = case(1, 1, 2, 2, 4)
    with pytest.raises(ImportError, match=MISSING[name]):
        attention(query, key, value, mask, backend=name)


def test_xformers_whose_kernels_do_not_load_is_an_error_at_the_start(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As PyPI's wheel for one CUDA beside a torch for another."""
    monkeypatch.setitem(sys.modules, "xformers", SimpleNamespace(_has_cpp_library=False))
    monkeypatch.setitem(
        sys.modules, "xformers.ops", SimpleNamespace(memory_efficient_attention=print)
    )
    module._xformers_kernel.cache_clear()
    with pytest.raises(ImportError, match=r"kernels do not load beside torch .* pip install"):
        check_backend("xformers")


def test_the_cuda_runtime_of_pypis_xformers_is_loaded_first(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    library = tmp_path / "nvidia" / "cuda_runtime" / "lib" / "libcudart.so.12"
    library.parent.mkdir(parents=True)
    library.touch()
    loaded: list[str] = []
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "nvidia", raising=False)
    monkeypatch.setattr(ctypes, "CDLL", lambda name, mode: loaded.append(name))

    class Xformers(SimpleNamespace):
        """Asked for its kernel when the library is there."""

        @property
        def memory_efficient_attention(self) -> object:
            assert str(library) in loaded
            return print

    monkeypatch.setitem(sys.modules, "xformers.ops", Xformers())
    module._xformers_kernel.cache_clear()
    check_backend("xformers")
    module._xformers_kernel.cache_clear()
    assert str(library) in loaded


def test_backends_refuse_tensors_they_cannot_run(monkeypatch: pytest.MonkeyPatch) -> None:
    packages = {
        "xformers.ops": SimpleNamespace(memory_efficient_attention=print),
        "flash_attn": SimpleNamespace(flash_attn_varlen_func=print),
    }
    for name, package in packages.items():
        monkeypatch.setitem(sys.modules, name, package)
    query, key, value, mask = case(1, 1, 2, 2, 4)
    for kernel in (module._xformers_kernel, module._flash_kernel):
        kernel.cache_clear()
    try:
        with pytest.raises(ValueError, match="needs CUDA tensors"):
            attention(query, key, value, mask, backend="xformers")
        with pytest.raises(ValueError, match="needs float16 or bfloat16 tensors on CUDA"):
            attention(query, key, value, mask, backend="flash")
    finally:
        for kernel in (module._xformers_kernel, module._flash_kernel):
            kernel.cache_clear()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_training_in_half_precision_keeps_scores_and_gradients_exact_under_autocast(dtype) -> None:
    query, key, value, mask = case(3, 8, 75, 17, 32)
    half = [x.to(dtype).requires_grad_() for x in (4 * query, key, value)]
    exact = [x.detach().double().requires_grad_() for x in half]
    with torch.autocast("cpu", torch.bfloat16):
        out = attention(*half, mask)
    want = attention(*exact, mask)
    assert out.dtype == dtype
    results = (out, *torch.autograd.grad(out.sum(), half))
    for got, ideal in zip(results, (want, *torch.autograd.grad(want.sum(), exact)), strict=True):
        error = (got.double() - ideal).abs().max() / ideal.abs().max()
        assert error < 2**-8  # the rounding of the result; scores in bfloat16 are far worse


def test_an_unknown_backend_is_named() -> None:
    with pytest.raises(ValueError, match="flsh"):
        check_backend("flsh")
    with pytest.raises(ValueError, match="flsh"):
        attention(*case(1, 1, 2, 2, 4), backend="flsh")


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize(("name", "package"), [("xformers", "xformers"), ("flash", "flash_attn")])
def test_installed_backends_equal_sdpa_on_the_gpu(name: str, package: str) -> None:
    if find_spec(package) is None:
        pytest.skip(f"{package} is not installed")
    query, key, value, mask = (x.cuda() for x in case(3, 8, 75, 17, 32))
    leaves = [x.bfloat16().requires_grad_() for x in (query, key, value)]
    for given in (mask, None):
        results = []
        for backend in (name, "sdpa"):
            out = attention(*leaves, given, backend=backend)
            results.append((out, *torch.autograd.grad(out.sum(), leaves)))
        for got, want in zip(*results, strict=True):
            torch.testing.assert_close(got, want, atol=0.05, rtol=0.02)
