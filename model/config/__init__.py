"""What can be chosen about the models and their objectives. Nothing here waits for PyTorch."""

from model.config.base import Backend, Kernel, ModelConfig, NormKernel, ObjectiveConfig
from model.config.encoders import InternVideo2Config, InternVideo2TextConfig
from model.config.sdst import (
    LossConfig,
    LossWeights,
    MatchingCost,
    SDSTConfig,
    SparseAttention,
)

__all__ = [
    "Backend",
    "InternVideo2Config",
    "InternVideo2TextConfig",
    "Kernel",
    "LossConfig",
    "LossWeights",
    "MatchingCost",
    "ModelConfig",
    "NormKernel",
    "ObjectiveConfig",
    "SDSTConfig",
    "SparseAttention",
]
