"""How many trainable parameters does each part of the model have?"""

from torch import nn


def parameter_table(model: nn.Module, depth: int = 2) -> list[tuple[str, int]]:
    """Trainable parameters of each part, down to `depth` levels of modules: (dotted name, count).

    The counts add up to all of the model.
    """
    counts: dict[str, int] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            part = ".".join(name.split(".")[:-1][:depth])
            counts[part] = counts.get(part, 0) + parameter.numel()
    return list(counts.items())
