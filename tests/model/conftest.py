"""Small models and random batches for the tests of the model."""

from collections.abc import Callable
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor

from model.config import SDSTConfig
from model.interface import Prediction
from model.sdst.sdst import SDST, Projections


class Inputs(NamedTuple):
    """What the model takes; rows may be selected, padding added."""

    video: Tensor  # (B, L, K, Dv)
    video_mask: Tensor  # (B, L)
    text: Tensor  # (B, T, K, Dt)
    text_mask: Tensor  # (B, T)

    def rows(self, index: Any) -> "Inputs":
        return Inputs(*(x[index] for x in self))


def build_config(**changes: Any) -> SDSTConfig:
    small: dict[str, Any] = {
        "video_width": 12,
        "text_width": 10,
        "layers": (-1, -2),
        "width": 32,
        "heads": 4,
        "queries": 6,
        "input_dropout": 0.0,
        "dropout": 0.0,
        "roi_bins": 4,
    }
    return SDSTConfig(**(small | changes))


def build_model(seed: int = 0, **changes: Any) -> SDST:
    """A model whose zero-initialised weights are moved, so that every part has an effect."""
    torch.manual_seed(seed)
    model = SDST(build_config(**changes))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model


def draw_inputs(clips: list[int], tokens: list[int], layers: int = 2, seed: int = 0) -> Inputs:
    """One pair per entry of `clips` and `tokens`; the padding holds noise, not zeros."""
    generator = torch.Generator().manual_seed(seed)

    def draw(lengths: list[int], width: int) -> tuple[Tensor, Tensor]:
        x = torch.randn(len(lengths), max(lengths), layers, width, generator=generator)
        return x, torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]

    return Inputs(*draw(clips, 12), *draw(tokens, 10))


@pytest.fixture
def small_config() -> Callable[..., SDSTConfig]:
    return build_config


@pytest.fixture
def small_model() -> Callable[..., SDST]:
    return build_model


@pytest.fixture
def inputs() -> Callable[..., Inputs]:
    return draw_inputs


@pytest.fixture(scope="session")
def random_prediction() -> Callable[..., Prediction]:
    """Plausible predictions, as from a model, of B 3, L 7, M 5, S 2, U 2; leaves with gradient."""

    def draw(seed: int = 0) -> Prediction:
        generator = torch.Generator().manual_seed(seed)
        return Prediction(
            logits=torch.randn(2, 3, 5, generator=generator).requires_grad_(),
            spans=torch.rand(2, 3, 5, 2, generator=generator).mul(0.8).add(0.1).requires_grad_(),
            actionness=torch.randn(3, 5, generator=generator).requires_grad_(),
            saliency=torch.rand(3, 7, generator=generator).mul(2).sub(1).requires_grad_(),
            queries=torch.arange(5).expand(3, 5),
            own=Projections(
                clips=torch.randn(2, 3, 7, 8, generator=generator).requires_grad_(),
                sentences=torch.randn(2, 3, 8, generator=generator).requires_grad_(),
            ),
        )

    return draw
