"""What happens in one epoch of training: forward, losses, backward, step, and what is measured."""

import time
from collections.abc import Callable, Iterable

import torch
from accelerate import Accelerator
from torch import nn
from torch.profiler import record_function

from data_pipeline.batches import PairBatch
from model.losses import Criterion
from trainer.checkpoints import State
from trainer.config import Config
from trainer.meter import Meter, timed
from trainer.optimization import rate, set_rate


class NotFinite(RuntimeError):
    """The gradient is not finite. Every rank raises it at the same step."""


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
        with record_function("copy to device"):
            batch = batch.to(accelerator.device)
        set_rate(
            optimizer,
            rate(state.step, state.step / steps_per_epoch, config.epochs, config.optim),
        )
        begin_forward = time.perf_counter()
        with record_function("forward"), accelerator.autocast():
            prediction = model(
                batch.video.float(), batch.video_mask, batch.text.float(), batch.text_mask
            )
        forward = time.perf_counter() - begin_forward
        with record_function("losses"):
            loss, parts = criterion(
                prediction, batch.windows, batch.window_mask, batch.saliency, batch.video_mask
            )
        with record_function("backward"):
            accelerator.backward(loss)
        # The reduced gradient is the same on all ranks, so that all of them leave together.
        with record_function("optimizer"):
            limit = config.optim.clip_norm or float("inf")
            norm = torch.nn.utils.clip_grad_norm_(model.parameters(), limit)
        if not torch.isfinite(norm):
            qids = [annotation.qid for annotation in batch.annotations]
            raise NotFinite(
                f"step {state.step}: the gradient is not finite (loss {float(loss):.4g} on this "
                f"rank, {accelerator.process_index}); its pairs have the qids {qids}"
            )
        with record_function("optimizer"):
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        state.step += 1
        state.batch += 1
        seconds = time.perf_counter() - begin
        numbers = {
            "loss": loss,
            "gradient_norm": norm,
            **parts,
            "forward_seconds": forward,
            "usage": prediction.usage(config.model.queries),
        }
        meter.add(len(batch), seconds, waited, numbers)
        on_step()
    state.epoch += 1
    state.batch = 0
