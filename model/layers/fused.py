"""Layer normalisation by torch or, where it is installed and asked for, by NVIDIA apex."""

import importlib

from torch import nn

from model.config import NormKernel


def layer_norm(width: int, kernel: NormKernel = "torch") -> nn.Module:
    """LayerNorm with gain and bias over the last axis, of size `width`.

    Both kernels have the same parameter names, so checkpoints move freely between them. Raises
    ImportError with the install command where apex, or its CUDA extension, is missing.
    """
    if kernel == "torch":
        return nn.LayerNorm(width)
    if kernel != "apex":
        raise ValueError(f"unknown layer norm kernel {kernel!r}: choose torch or apex")
    try:
        # PyPI's apex is another program, and a Python-only build of NVIDIA's imports but cannot
        # run on CUDA: the extension tells both from the real one.
        importlib.import_module("fused_layer_norm_cuda")
        module: nn.Module = importlib.import_module("apex.normalization").FusedLayerNorm(width)
    except ImportError as error:
        raise ImportError(
            "NVIDIA apex is not installed (the apex on PyPI is something else): "
            "git clone https://github.com/NVIDIA/apex && cd apex && "
            "APEX_CPP_EXT=1 APEX_CUDA_EXT=1 pip install -v --no-build-isolation ."
        ) from error
    return module
