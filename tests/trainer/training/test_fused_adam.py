"""The choice of the optimizer's kernel."""

import sys
from types import SimpleNamespace

import pytest
import torch

from model.config import SDSTConfig
from model.sdst.sdst import SDST
from trainer.config import OptimConfig
from trainer.training.optimization import make_optimizer

MODEL = SDSTConfig(video_width=4, text_width=4, width=16, heads=2, layers=(-1,))


def test_missing_apex_is_an_error_that_names_the_install_command(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "apex.optimizers", None)
    with pytest.raises(ImportError, match="pip install --no-build-isolation"):
        make_optimizer(SDST(MODEL), OptimConfig(kernel="apex"))


def test_apex_steps_as_adamw_when_it_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    class FusedAdam(torch.optim.AdamW):
        """Stands for apex's, which decays the weights as AdamW does in this mode."""

        def __init__(self, settings: list[dict[str, object]], lr: float, adam_w_mode: bool) -> None:
            assert adam_w_mode
            super().__init__(settings, lr=lr)

    optimizers = SimpleNamespace(FusedAdam=FusedAdam)
    monkeypatch.setitem(sys.modules, "apex", SimpleNamespace(optimizers=optimizers))
    monkeypatch.setitem(sys.modules, "apex.optimizers", optimizers)
    assert isinstance(make_optimizer(SDST(MODEL), OptimConfig(kernel="apex")), FusedAdam)
