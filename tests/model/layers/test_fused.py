"""The choice of the layer normalisation kernel."""

import sys
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from model.layers.fused import layer_norm


def test_torch_is_the_default() -> None:
    x = torch.randn(3, 8)
    torch.testing.assert_close(layer_norm(8)(x), nn.functional.layer_norm(x, (8,)))


def test_missing_apex_is_an_error_that_names_the_install_command(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "fused_layer_norm_cuda", None)
    with pytest.raises(ImportError, match="pip install -v --no-build-isolation"):
        layer_norm(8, "apex")


def test_apex_is_used_when_it_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    class FusedLayerNorm(nn.LayerNorm):
        """Stands for apex's, which has the same signature."""

    normalization = SimpleNamespace(FusedLayerNorm=FusedLayerNorm)
    monkeypatch.setitem(sys.modules, "fused_layer_norm_cuda", SimpleNamespace())
    monkeypatch.setitem(sys.modules, "apex", SimpleNamespace(normalization=normalization))
    monkeypatch.setitem(sys.modules, "apex.normalization", normalization)
    assert isinstance(layer_norm(8, "apex"), FusedLayerNorm)


def test_an_unknown_kernel_is_named() -> None:
    with pytest.raises(ValueError, match="cuda"):
        layer_norm(8, "cuda")
