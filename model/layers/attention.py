"""One attention function for every attention in the project, over interchangeable backends.

| backend    | runs on    | what it calls                                                       |
|------------|------------|---------------------------------------------------------------------|
| `sdpa`     | anything   | torch's scaled_dot_product_attention                                |
| `xformers` | CUDA       | memory_efficient_attention                                          |
| `flash`    | CUDA, half | FlashAttention 4 or 3 through torch's dispatcher, or flash-attn (2) |

All of them accumulate and take the softmax in float32 whatever the dtype of the inputs. A backend
that is not installed, or that cannot run the given tensors, raises: none falls back to another.
"""

import ctypes
import importlib
import sys
from collections.abc import Callable
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from model.config import Backend
from model.layers.dropout import drop

# On CPU the fused kernel of SDPA has a slow backward for short sequences: at B 32, H 8, Dh 32 and
# two threads, forward and backward of 75 clips to 17 tokens take 9 ms fused and 4 ms as plain
# matrix products, 75 to 75 take 16 and 12 ms. From about 150 to 150 on the fused kernel wins.
SHORT = 128 * 128


def attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor | None = None,
    backend: Backend = "sdpa",
    dropout: float = 0.0,
) -> Tensor:
    """softmax(query key^T / sqrt(Dh)) value over the real keys.

    query (B, H, Q, Dh), key and value (B, H, Kk, Dh), mask (B, Kk) True where a key is real or
    None if all are -> (B, H, Q, Dh). A batch element without any real key gives zeros and takes
    no gradient. `dropout` is the probability of dropping an attention weight; pass 0 in evaluation.

    Raises ImportError if the backend's package is missing, ValueError if the backend cannot run
    these tensors.
    """
    empty = None
    if mask is not None:
        # An all-masked row is a softmax over nothing. Such a row attends to everything instead
        # and its result is discarded, so no backend ever meets it.
        empty = ~mask.any(dim=1)  # (B,)
        mask = mask | empty[:, None]
    if backend == "sdpa":
        out = _sdpa(query, key, value, mask, dropout)
    elif backend == "xformers":
        out = _xformers(query, key, value, mask, dropout)
    elif backend == "flash":
        out = _flash(query, key, value, mask, dropout)
    else:
        raise _unknown(backend)
    return out if empty is None else out.masked_fill(empty[:, None, None, None], 0.0)


def check_backend(name: str) -> None:
    """Raise ImportError with the install command if the backend's package is missing."""
    if name == "xformers":
        _xformers_kernel()
    elif name == "flash":
        _flash_kernel()
    elif name != "sdpa":
        raise _unknown(name)


def _unknown(name: str) -> ValueError:
    return ValueError(f"unknown attention backend {name!r}: choose sdpa, xformers or flash")


def _sdpa(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, dropout: float) -> Tensor:
    mask = None if mask is None else mask[:, None, None, :]  # (B, 1, 1, Kk)
    # With dropout torch has no fused kernel on CPU, and would draw it slowly.
    plain = query.shape[2] * key.shape[2] <= SHORT or dropout > 0
    training = torch.is_grad_enabled() and query.requires_grad
    if query.is_cpu and plain and training:
        # Half precision in float32, which its scores never leave: the fused kernel's backward took
        # two fifths of a step in bfloat16.
        exact = torch.promote_types(query.dtype, torch.float32)
        with torch.autocast("cpu", enabled=False):
            q, k, v = (x.to(exact) for x in (query, key, value))
            scores = (q * q.shape[-1] ** -0.5) @ k.transpose(-1, -2)  # (B, H, Q, Kk)
            if mask is not None:
                # Adding a small broadcast bias keeps nothing for backward; masked_fill keeps the
                # mask.
                scores = scores + q.new_zeros(mask.shape).masked_fill(~mask, -torch.inf)
            return (drop(scores.softmax(-1), dropout) @ v).to(query.dtype)
    return F.scaled_dot_product_attention(query, key, value, attn_mask=mask, dropout_p=dropout)


def _xformers(
    query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, dropout: float
) -> Tensor:
    kernel = _xformers_kernel()
    if not query.is_cuda:
        raise ValueError(
            f"attention backend xformers needs CUDA tensors, got {query.device}: use sdpa"
        )
    return _attend_biased(query, key, value, mask, dropout, kernel)


def _attend_biased(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor | None,
    dropout: float,
    kernel: Callable[..., Tensor],
) -> Tensor:
    """Attention through a kernel with the layout (B, *, H, Dh) and an additive bias."""
    bias = None if mask is None else _additive_bias(mask, query)
    inputs = (x.transpose(1, 2) for x in (query, key, value))  # (B, *, H, Dh)
    return kernel(*inputs, attn_bias=bias, p=dropout).transpose(1, 2)


def _additive_bias(mask: Tensor, query: Tensor) -> Tensor:
    """Mask (B, Kk) -> (B, H, Q, Kk) of 0 and -inf, a view whose rows start at multiples of 8.

    xformers refuses a bias with any other alignment; expanded axes have stride 0 and cost nothing.
    """
    B, keys = mask.shape
    bias = query.new_full((B, -(-keys // 8) * 8), -torch.inf)  # (B, Kk rounded up)
    bias[:, :keys].masked_fill_(mask, 0.0)
    return bias[:, None, None, :keys].expand(-1, query.shape[1], query.shape[2], -1)


@cache
def _xformers_kernel() -> Callable[..., Tensor]:
    _load_cuda_12_runtime()
    try:
        ops = importlib.import_module("xformers.ops")
    except ImportError as error:
        raise ImportError(
            "attention backend xformers is not installed: pip install xformers"
        ) from error
    if not getattr(sys.modules.get("xformers"), "_has_cpp_library", True):
        raise ImportError(
            f"attention backend xformers is installed, but its kernels do not load beside torch "
            f"{torch.__version__} (python -m xformers.info says why): pip install "
            f"nvidia-cuda-runtime-cu12, or the xformers of that torch's own index"
        )
    kernel: Callable[..., Tensor] = ops.memory_efficient_attention
    return kernel


def _load_cuda_12_runtime() -> None:
    """PyPI's xformers is linked with CUDA 12's runtime library, PyPI's torch has CUDA 13's.

    Both may be in one process, but nothing else loads the older one.
    """
    nvidia = find_spec("nvidia")
    for folder in (nvidia and nvidia.submodule_search_locations) or ():
        library = Path(folder, "cuda_runtime", "lib", "libcudart.so.12")
        if library.is_file():
            ctypes.CDLL(str(library), ctypes.RTLD_GLOBAL)


def _flash(
    query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, dropout: float
) -> Tensor:
    kernel = _flash_kernel()
    if not query.is_cuda or query.dtype not in (torch.float16, torch.bfloat16):
        raise ValueError(
            "attention backend flash needs float16 or bfloat16 tensors on CUDA, got "
            f"{query.dtype} on {query.device}: use sdpa, or train in bf16"
        )
    if dropout:
        raise ValueError(
            "attention backend flash has no dropout of attention weights: set it to 0 or use sdpa"
        )
    return _attend_packed(query, key, value, mask, kernel)


def _attend_packed(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor | None,
    kernel: Callable[..., Tensor],
) -> Tensor:
    """Attention through a kernel for packed sequences of different lengths.

    The real keys of all sequences are gathered to the front of a buffer of fixed size, so that no
    length has to travel to the host: shapes stay static under torch.compile.
    """
    B, H, Q, Dh = query.shape
    keys = key.shape[2]
    ends_q = _boundaries(torch.full((B,), Q, device=query.device))
    packed_q, packed_k, packed_v = (x.transpose(1, 2).flatten(0, 1) for x in (query, key, value))
    if mask is None:
        ends_k = _boundaries(torch.full((B,), keys, device=query.device))
    else:
        ends_k = _boundaries(mask.sum(1))
        order = mask.flatten().logical_not().to(torch.uint8).argsort(stable=True)  # (B * Kk,)
        # The kernel never writes the gradient of rows past the last sequence; filling them here
        # stops that uninitialised memory from flowing back.
        unused = (torch.arange(B * keys, device=mask.device) >= ends_k[-1])[:, None, None]
        packed_k, packed_v = (x[order].masked_fill(unused, 0.0) for x in (packed_k, packed_v))
    out = kernel(packed_q, packed_k, packed_v, ends_q, ends_k, Q, keys)  # (B * Q, H, Dh)
    return out.view(B, Q, H, Dh).transpose(1, 2)


def _boundaries(lengths: Tensor) -> Tensor:
    """Lengths (B,) -> where each sequence starts and the last one ends, (B + 1,) int32."""
    return F.pad(lengths.cumsum(0), (1, 0)).int()


@cache
def _flash_kernel() -> Callable[..., Tensor]:
    """The varlen entry point of the newest FlashAttention installed and made for this GPU.

    FA4 and FA3 replace the flash kernel inside torch's dispatcher, for the whole process, and
    are reached by torch's own function. flash-attn is called directly.
    """
    major = torch.cuda.get_device_capability()[0] if torch.cuda.is_available() else 0
    for name, module, generations in (
        ("FA4", "flash_attn.cute.interface", (9, 10)),
        ("FA3", "flash_attn_interface", (9,)),
    ):
        if major in generations and _installed(module):
            from torch.nn.attention import activate_flash_attention_impl
            from torch.nn.attention.varlen import varlen_attn

            activate_flash_attention_impl(name)
            entry: Callable[..., Any] = varlen_attn  # a Tensor unless auxiliary results are asked
            return entry
    try:
        kernel: Callable[..., Tensor] = importlib.import_module("flash_attn").flash_attn_varlen_func
    except (ImportError, AttributeError) as error:  # FA4 alone leaves an empty flash_attn package
        raise ImportError(
            "attention backend flash is not installed: pip install flash-attn --no-build-isolation"
            " (Ampere, Ada, Hopper) or pip install flash-attn-4 (Hopper, Blackwell)"
        ) from error
    return kernel


def _installed(module: str) -> bool:
    try:
        return find_spec(module) is not None
    except ModuleNotFoundError:  # a parent package is missing
        return False
