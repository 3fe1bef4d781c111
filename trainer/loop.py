"""What happens in one epoch of training: forward, losses, backward, step, and what is measured."""

import math
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field

import torch
from accelerate import Accelerator
from torch import Tensor

from data_pipeline.batches import PairBatch
from model.losses import Criterion
from model.sdst import Prediction
from trainer.checkpoints import State
from trainer.config import Config
from trainer.divergence import NotFinite, diagnose
from trainer.optimization import set_rates
from trainer.preemption import StopSignals
from trainer.randomness import draw_pairs, seed_step
from trainer.sharding import Learner


@dataclass
class Meter:
    """Means of what was measured since the last `flush`, without a device copy in between."""

    sums: dict[str, Tensor] = field(default_factory=dict)
    steps: int = 0
    pairs: int = 0
    seconds: float = 0.0
    waited: float = 0.0

    def add(self, pairs: int, seconds: float, waited: float, numbers: dict[str, Tensor]) -> None:
        """Count one step of `pairs` pairs that took `seconds`, `waited` of them for its batch."""
        for name, value in numbers.items():
            self.sums[name] = self.sums.get(name, 0.0) + value.detach()
        self.steps += 1
        self.pairs += pairs
        self.seconds += seconds
        self.waited += waited

    def flush(self, accelerator: Accelerator) -> dict[str, float]:
        """The means over steps and ranks, and the rate over all ranks; starts anew.

        Every rank calls it.
        """
        means = torch.stack([total.float() / self.steps for total in self.sums.values()])
        means = accelerator.reduce(means, "mean")
        numbers = dict(zip(self.sums, means.tolist(), strict=True))
        numbers["pairs_per_second"] = self.pairs * accelerator.num_processes / self.seconds
        numbers["data_wait_share"] = self.waited / self.seconds
        self.sums, self.steps, self.pairs, self.seconds, self.waited = {}, 0, 0, 0.0, 0.0
        return numbers


def timed(batches: Iterable[PairBatch]) -> Iterator[tuple[PairBatch, float]]:
    """Each batch with the seconds that were spent waiting for it."""
    source = iter(batches)
    while True:
        begin = time.perf_counter()
        try:
            batch = next(source)
        except StopIteration:
            return
        yield batch, time.perf_counter() - begin


def train_epoch(
    learner: Learner,
    criterion: Criterion,
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
        norm = accelerator.clip_grad_norm_(learner.network.parameters(), limit)
        # The gradient is reduced, so that it is the same decision on all ranks.
        if math.isfinite(norm):
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
        meter.add(len(batch), seconds, waited, numbers)
        on_step()
    state.epoch += 1
    state.batch = 0


def gradient(
    learner: Learner,
    criterion: Criterion,
    batch: PairBatch,
    accelerator: Accelerator,
    config: Config,
    state: State,
) -> dict[str, Tensor]:
    """Leave the gradient of a batch, over all ranks, and return the losses of this rank's rows.

    A batch in several parts has the mean of the parts' gradients; their contrastive terms and
    counts are those of a part on all ranks.
    """
    rank, world = accelerator.process_index, accelerator.num_processes
    parts = config.optim.accumulate
    seed_step(config.seed, state.step, rank)
    draws = draw_pairs(config.seed, state.step, rank, world, world * len(batch))
    sums: dict[str, Tensor] = {}
    for part, draw in zip(batch.split(parts), draws.chunk(parts), strict=True):
        part = part.to(accelerator.device)
        with accelerator.accumulate(learner.network):
            with accelerator.autocast():
                prediction: Prediction = learner.network(
                    part.video.float(), part.video_mask, part.text.float(), part.text_mask
                )
            loss, losses = criterion(
                prediction,
                part.windows,
                part.window_mask,
                part.saliency,
                part.video_mask,
                draw.to(accelerator.device),
            )
            accelerator.backward(loss)
        for name, value in {"loss": loss, **losses}.items():
            sums[name] = sums.get(name, 0.0) + value.detach() / parts
    return sums
