"""What happens in one epoch of training: forward, losses, backward, step, and what is measured."""

import math
import time
from collections.abc import Callable, Iterable
from typing import NamedTuple

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedType
from torch import Tensor
from torch.profiler import record_function

from data_pipeline.stream.batches import PairBatch
from model.interface import Objective, Prediction
from model.objective.ranks import next_sentences
from trainer.config import Config
from trainer.training.checkpoints import State
from trainer.training.divergence import Faults, Noted, pair_sums
from trainer.training.meter import Meter, timed
from trainer.training.optimization import set_rates, step_if_finite
from trainer.training.preemption import StopSignals
from trainer.training.randomness import draw_pairs, seed_step
from trainer.training.sharding import Learner
from trainer.training.targets import targets


def train_epoch(
    learner: Learner,
    criterion: Objective,
    batches: Iterable[PairBatch],
    accelerator: Accelerator,
    stop: StopSignals,
    config: Config,
    state: State,
    steps_per_epoch: int,
    meter: Meter,
    faults: Faults,
    on_step: Callable[[], None],
) -> None:
    """Train on the rest of `state`'s epoch; `state` moves with every optimizer step.

    Every step is counted in `meter` and noted in `faults`, then `on_step` is called, on every rank
    alike. A step whose gradient is not finite leaves the weights as they are. No number is read
    from the device, but by SciPy's matching, and by DeepSpeed and apex, which look at the
    gradient's norm. Raises Stopped between two steps, on all ranks.
    """
    learner.network.train()
    limit = config.optim.clip_norm or math.inf
    deepspeed = accelerator.distributed_type == DistributedType.DEEPSPEED
    for batch, waited in stop.watch(timed(batches)):
        begin = time.perf_counter() - waited
        set_rates(
            learner.optimizer,
            state.step,
            state.step / steps_per_epoch,
            config.epochs,
            config.optim,
        )
        measured = gradient(learner, criterion, batch, accelerator, config, state)
        with record_function("optimizer"):
            norm = accelerator.clip_grad_norm_(learner.network.parameters(), limit)
            norm = torch.as_tensor(norm, dtype=torch.float32, device=accelerator.device)
            if not deepspeed:  # it has done the step by now, or has left it out
                step_if_finite(learner.optimizer, learner.prepared, norm)
        names, losses = zip(*measured.losses.items(), strict=True)
        qids = [annotation.qid for annotation in batch.annotations]
        faults.note(Noted(state.step, norm, names, torch.stack(losses), measured.pair_sums, qids))
        if deepspeed:
            faults.settle()
        learner.prepared.zero_grad()
        state.step += 1
        state.batch += 1
        seconds = time.perf_counter() - begin
        numbers: dict[str, Tensor | float] = {
            **measured.losses,
            **measured.others,
            "gradient_norm": norm,
            "forward_seconds": measured.forward_seconds,
        }
        meter.add(len(batch), seconds, waited, numbers, replaced=len(batch.damaged))
        on_step()
    state.epoch += 1
    state.batch = 0


class Measured(NamedTuple):
    """What is known of a batch besides its gradient."""

    losses: dict[str, Tensor]  # "loss" and its unweighted terms, (), means over the parts
    others: dict[str, Tensor]  # by the names that the meter has for them, the same
    pair_sums: Tensor  # (B,), see `divergence.pair_sums`
    forward_seconds: float


def gradient(
    learner: Learner,
    criterion: Objective,
    batch: PairBatch,
    accelerator: Accelerator,
    config: Config,
    state: State,
) -> Measured:
    """Leave the gradient of a batch, over all ranks, and return what was seen of it.

    A batch in several parts has the mean of the parts' gradients; their contrastive terms and
    counts are those of a part on all ranks.
    """
    rank, world = accelerator.process_index, accelerator.num_processes
    parts = config.optim.accumulate
    seed_step(config.seed, state.step, rank)
    draws = draw_pairs(config.seed, state.step, rank, world, world * len(batch))
    terms: dict[str, Tensor] = {}
    others: dict[str, Tensor] = {}
    sums = []
    forward, negatives = 0.0, config.model.needs_negatives
    for part, draw in zip(batch.split(parts), draws.chunk(parts), strict=True):
        with record_function("copy to device"):
            part = part.to(accelerator.device)
        with accelerator.accumulate(learner.network):
            begin = time.perf_counter()
            with record_function("forward"), accelerator.autocast():
                text = part.text.float()
                negative = next_sentences(text, part.text_mask) if negatives else {}
                prediction: Prediction = learner.network(
                    part.video.float(), part.video_mask, text, part.text_mask, **negative
                )
            forward += time.perf_counter() - begin
            with record_function("losses"):
                loss, losses = criterion(
                    prediction,
                    **targets(part, criterion),
                    draw=draw.to(accelerator.device),
                )
            with record_function("backward"):
                accelerator.backward(loss)
        seen = {
            "usage": prediction.usage(config.model.columns),
            "padded_clips": padding(part.video_mask),
            "padded_tokens": padding(part.text_mask),
        }
        for known, found in ((terms, {"loss": loss, **losses}), (others, seen)):
            for name, value in found.items():
                known[name] = known.get(name, 0.0) + value.detach() / parts
        sums.append(pair_sums(prediction))
    return Measured(terms, others, torch.cat(sums), forward)


def padding(mask: Tensor) -> Tensor:
    """The share of a batch that only fills it up: mask (B, X) True where real -> ()."""
    return 1 - mask.float().mean()
