"""What happens in one epoch of training: forward, losses, backward, step, and what is measured."""

import math
import time
from collections.abc import Callable, Iterable

import torch
from accelerate import Accelerator
from torch import Tensor
from torch.profiler import record_function

from data_pipeline.stream.batches import PairBatch
from model.interface import Objective, Prediction
from model.objective.ranks import next_sentences
from trainer.config import Config
from trainer.training.checkpoints import State
from trainer.training.divergence import NotFinite, diagnose
from trainer.training.meter import Meter, timed
from trainer.training.optimization import set_rates
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
    on_step: Callable[[], None],
) -> None:
    """Train on the rest of `state`'s epoch; `state` moves with every optimizer step.

    Every step is counted in `meter`, then `on_step` is called, on every rank alike. Raises Stopped
    between two steps, and NotFinite before a step that would spoil the weights, on all ranks.
    """
    learner.network.train()
    limit = config.optim.clip_norm or math.inf
    for batch, waited in stop.watch(timed(batches)):
        begin = time.perf_counter() - waited
        set_rates(
            learner.optimizer,
            state.step,
            state.step / steps_per_epoch,
            config.epochs,
            config.optim,
        )
        numbers = gradient(learner, criterion, batch, accelerator, config, state)
        # Under DeepSpeed the step is done by now, or was left out by DeepSpeed if not finite.
        with record_function("optimizer"):
            norm = accelerator.clip_grad_norm_(learner.network.parameters(), limit)
        # The gradient is reduced, so that it is the same decision on all ranks.
        if math.isfinite(norm):
            with record_function("optimizer"):
                learner.prepared.step()
        else:
            state.skipped += 1
            seed_step(config.seed, state.step, accelerator.process_index)
            fault = diagnose(learner.network, criterion, batch, accelerator, state.step)
            if state.skipped > config.optim.skip_not_finite:
                raise NotFinite(fault)
            accelerator.print(f"{fault}; the step is left out")
        learner.prepared.zero_grad()
        state.step += 1
        state.batch += 1
        seconds = time.perf_counter() - begin
        numbers["gradient_norm"] = torch.as_tensor(norm, device=accelerator.device)
        meter.add(len(batch), seconds, waited, numbers, replaced=len(batch.damaged))
        on_step()
    state.epoch += 1
    state.batch = 0


def gradient(
    learner: Learner,
    criterion: Objective,
    batch: PairBatch,
    accelerator: Accelerator,
    config: Config,
    state: State,
) -> dict[str, Tensor | float]:
    """Leave the gradient of a batch, over all ranks, and return what the meter is told of it.

    A batch in several parts has the mean of the parts' gradients; their contrastive terms and
    counts are those of a part on all ranks.
    """
    rank, world = accelerator.process_index, accelerator.num_processes
    parts = config.optim.accumulate
    seed_step(config.seed, state.step, rank)
    draws = draw_pairs(config.seed, state.step, rank, world, world * len(batch))
    sums: dict[str, Tensor] = {}
    forward, negatives = 0.0, config.model.needs_negatives
    for part, draw in zip(batch.split(parts), draws.chunk(parts), strict=True):
        with record_function("copy to device"):
            part = part.to(accelerator.device)
        with accelerator.accumulate(learner.network):
            begin = time.perf_counter()
            with record_function("forward"), accelerator.autocast():
                text = part.text.float()
                others = next_sentences(text, part.text_mask) if negatives else {}
                prediction: Prediction = learner.network(
                    part.video.float(), part.video_mask, text, part.text_mask, **others
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
        usage = prediction.usage(config.model.columns)
        for name, value in {"loss": loss, **losses, "usage": usage}.items():
            sums[name] = sums.get(name, 0.0) + value.detach() / parts
    return {**sums, "forward_seconds": forward}
