"""What happens in one epoch of training: forward, losses, backward, step, and what is measured."""

import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from data_pipeline.batches import PairBatch
from model.losses import Criterion
from trainer.checkpoints import State
from trainer.config import Config
from trainer.optimization import rate, set_rate


class NotFinite(RuntimeError):
    """The gradient is not finite. Every rank raises it at the same step."""


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

    def flush(self, world: int) -> dict[str, float]:
        """The means, and the rate over all ranks; starts anew."""
        numbers = {name: float(total) / self.steps for name, total in self.sums.items()}
        numbers["pairs_per_second"] = self.pairs * world / self.seconds
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
    model: nn.Module,
    criterion: Criterion,
    optimizer: torch.optim.Optimizer,
    batches: Iterable[PairBatch],
    accelerator: Accelerator,
    config: Config,
    state: State,
    steps_per_epoch: int,
    meter: Meter,
    on_step: Callable[[], None],
) -> None:
    """Train on the rest of `state`'s epoch; `state` moves with every optimizer step.

    Every step is counted in `meter`, then `on_step` is called, on every rank alike. Raises
    NotFinite, naming the step and its pairs, before a step that would spoil the weights.
    """
    model.train()
    for batch, waited in timed(batches):
        begin = time.perf_counter() - waited
        batch = batch.to(accelerator.device)
        set_rate(
            optimizer,
            rate(state.step, state.step / steps_per_epoch, config.epochs, config.optim),
        )
        with accelerator.autocast():
            prediction = model(
                batch.video.float(), batch.video_mask, batch.text.float(), batch.text_mask
            )
        loss, parts = criterion(
            prediction, batch.windows, batch.window_mask, batch.saliency, batch.video_mask
        )
        accelerator.backward(loss)
        # The reduced gradient is the same on all ranks, so that all of them leave together.
        limit = config.optim.clip_norm or float("inf")
        norm = torch.nn.utils.clip_grad_norm_(model.parameters(), limit)
        if not torch.isfinite(norm):
            qids = [annotation.qid for annotation in batch.annotations]
            raise NotFinite(
                f"step {state.step}: the gradient is not finite (loss {float(loss):.4g} on this "
                f"rank, {accelerator.process_index}); its pairs have the qids {qids}"
            )
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        state.step += 1
        state.batch += 1
        seconds = time.perf_counter() - begin
        meter.add(len(batch), seconds, waited, {"loss": loss, "gradient_norm": norm, **parts})
        on_step()
    state.epoch += 1
    state.batch = 0
