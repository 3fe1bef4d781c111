"""How are weights and optimizer states read and written whole, when every rank may hold a part?

Under DistributedDataParallel each rank holds all of them; ZeRO 1 and 2 cut the optimizer's states
and master weights into one part a rank, ZeRO 3 the weights as well. What is kept of a run is always
whole, in fp32 and under the parameters' names, so that it says nothing about the world size or the
ZeRO stage that made it. Every method here must be called by all ranks together.
"""

from typing import Any

import torch
import torch.distributed as dist
from accelerate import Accelerator
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.parallel import DistributedDataParallel
from torch.optim import Optimizer

from trainer.training.averaging import AVERAGE

Tensors = dict[str, Tensor]


class Learner:
    """A model in training and its optimizer, in whatever pieces the ranks hold them.

    It is made of a model that holds its weights already, and an optimizer of its parameters.

    Attributes:
        network: what a training step calls: the model itself, DDP around it, or DeepSpeed's engine
        optimizer: torch's own optimizer; its parameters are the model's, or flat parts of them
        prepared: the optimizer as Accelerate wraps it, whose `step` leaves to DeepSpeed what is its
    """

    def __init__(self, accelerator: Accelerator, model: nn.Module, optimizer: Optimizer) -> None:
        self.network, self.prepared = accelerator.prepare(model, optimizer)
        self.optimizer = optimizer
        self._frozen = {n: p for n, p in model.named_parameters() if not p.requires_grad}
        # DeepSpeed gives its parameters more attributes.
        self._trained: dict[str, Any] = {
            n: p for n, p in model.named_parameters() if p.requires_grad
        }
        self._zero: Any = getattr(self.network, "optimizer", None)  # DeepSpeed's, around ours
        self._third = hasattr(self._zero, "fp32_partitioned_groups_flat")

    def weights(self) -> Tensors:
        """Copies of the whole weights by name: fp32, on the CPU."""
        return {name: _copy(p) for name, p in self._frozen.items()} | self._whole()

    def states(self) -> Tensors:
        """Copies of the optimizer's states as `<state>/<parameter>`; none before the first step."""
        self._link()
        return {
            f"{key}/{name}": state
            for key in self._keys()
            for name, state in self._whole(key).items()
        }

    def averages(self) -> Tensors:
        """Copies of the averaged weights where they are kept, else of the weights: what is scored
        and exported."""
        weights = self.weights()
        if AVERAGE in self._keys():
            self._link()
            weights |= self._whole(AVERAGE)
        return weights

    def restore(self, weights: Tensors, states: Tensors, updates: int) -> None:
        """Go on from what `weights` and `states` gave after `updates` steps of the optimizer.

        The model was made with the weights already; here they reach the second copy of them that
        DeepSpeed steps.
        """
        keys = list(dict.fromkeys(name.partition("/")[0] for name in states))
        if self._zero is None:
            for name, parameter in self._trained.items():
                own = {key: states[f"{key}/{name}"].to(parameter.device) for key in keys}
                self.optimizer.state[parameter] = own | self._count(parameter, updates)
        else:
            self._make_room(keys, updates)
            for name, parameter in self._trained.items():
                self._write(parameter, weights[name])
                for key in keys:
                    self._write(parameter, states[f"{key}/{name}"], key)
        for group in self.optimizer.param_groups:
            if "step" in group:  # apex counts here
                group["step"] = updates

    def release(self) -> None:
        """Let go of the group of processes before it ends; nothing is trained after this.

        DDP's reducer holds the group, too. Were it the last to let go, it would wait for the
        group's threads without giving up Python's lock, which one of them may be waiting for: now
        and then a rank would never end.
        """
        if isinstance(self.network, DistributedDataParallel):
            del self.network.reducer, self.network.logger

    def _keys(self) -> list[str]:
        states = iter(self.optimizer.state.values())
        return [key for key, value in next(states, {}).items() if key != "step"]

    @torch.no_grad()
    def _whole(self, key: str | None = None) -> Tensors:
        """Copies of the trained weights, or of the state `key` of each, by one collective."""
        if self._zero is None:
            state = self.optimizer.state
            return {
                name: _copy(p if key is None else state[p][key])
                for name, p in self._trained.items()
            }
        assemble = self._assemble_parts if self._third else self._assemble_fragments
        return dict(zip(self._trained, map(_copy, assemble(key)), strict=True))

    def _assemble_parts(self, key: str | None) -> list[Tensor]:
        """ZeRO 3: a weight is cut into one part a rank, of which the last are filled up."""
        from deepspeed import utils

        parts = [
            utils.safe_get_local_fp32_param(p)
            if key is None
            else utils.safe_get_local_optimizer_state(p, key)
            for p in self._trained.values()
        ]
        own = torch.cat([part.flatten() for part in parts])
        everyone = [torch.empty_like(own) for _ in range(dist.get_world_size())]
        dist.all_gather(everyone, own)
        columns = torch.split(torch.stack(everyone), [part.numel() for part in parts], dim=1)
        return [
            column.flatten()[: p.ds_numel].view(p.ds_shape)
            for column, p in zip(columns, self._trained.values(), strict=True)
        ]

    def _assemble_fragments(self, key: str | None) -> list[Tensor]:
        """ZeRO 1 and 2: all weights in a row are cut up; a rank may hold a piece of a weight."""
        sizes = [p.numel() for p in self._trained.values()]
        whole = torch.zeros(sum(sizes), device=next(iter(self._trained.values())).device)
        places = torch.split(whole, sizes)
        for place, parameter in zip(places, self._trained.values(), strict=True):
            held = parameter._hp_mapping
            if held is not None:
                address = held.lp_fragment_address
                place.narrow(0, address.start, address.numel).copy_(held.get_hp_fragment(key))
        dist.all_reduce(whole)
        return [
            place.view_as(parameter)
            for place, parameter in zip(places, self._trained.values(), strict=True)
        ]

    def _write(self, parameter: nn.Parameter, value: Tensor, key: str | None = None) -> None:
        from deepspeed import utils

        value = value.to(parameter.device)
        if self._third:  # the parts are of one length; the last ones are filled up
            part = self._zero.get_local_fp32_param(parameter).numel()
            whole = functional.pad(
                value.flatten(), (0, part * dist.get_world_size() - value.numel())
            )
            value = whole.chunk(dist.get_world_size())[dist.get_rank()]
        if key is None:
            put = utils.safe_set_local_fp32_param if self._third else utils.safe_set_full_fp32_param
            put(parameter, value)
        else:
            put = (
                utils.safe_set_local_optimizer_state
                if self._third
                else utils.safe_set_full_optimizer_state
            )
            put(parameter, value, key)

    def _make_room(self, keys: list[str], updates: int) -> None:
        # torch makes states at the first step, and DeepSpeed can write only to what is there.
        parts = (
            self._zero.fp32_partitioned_groups_flat
            if self._third
            else self._zero.single_partition_of_fp32_groups
        )
        for part in parts:
            own = {key: torch.zeros_like(part) for key in keys}
            self.optimizer.state[part] = own | self._count(part, updates)
        self._link()

    def _link(self) -> None:
        # ZeRO 1 and 2 find a parameter's states by links, which DeepSpeed makes after the step of
        # the first parameter group, when the other groups have no states yet.
        if self._zero is not None and not self._third:
            self._zero._hp_optimizer_states_linked = False
            self._zero._lazy_init_hp_params_optimizer_state()

    def _count(self, parameter: Tensor, updates: int) -> Tensors:
        # A fused optimizer counts on the device, the others on the host.
        fused = self.optimizer.defaults.get("fused")
        return {"step": torch.tensor(float(updates), device=parameter.device if fused else None)}


def _copy(tensor: Tensor) -> Tensor:
    return tensor.detach().to("cpu", torch.float32, copy=True).contiguous()
