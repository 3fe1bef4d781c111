"""Which processes take part, and are they what the launcher was asked for?

Accelerate and DeepSpeed start with fewer processes, or without sharding, rather than fail; what was
asked for is left in the environment by the launcher and compared here with what was got.
"""

import os
import sys
import warnings
from collections.abc import Callable
from datetime import timedelta
from typing import Any, NoReturn, TypeVar

import torch
import torch.distributed as dist
from accelerate import Accelerator
from accelerate.utils import DistributedType, InitProcessGroupKwargs, broadcast_object_list

from data_pipeline.errors import EXIT_BAD_INPUT, EXIT_LOST, InputError
from trainer.config import Config

UNSUPPORTED = {"ACCELERATE_USE_FSDP": "FSDP", "ACCELERATE_USE_MEGATRON_LM": "Megatron-LM"}


def join(config: Config) -> Accelerator:
    """Meet the other processes; raises InputError where they are not those that were asked for."""
    check_request(config)
    on_cpu = _asked("ACCELERATE_USE_CPU") or not torch.cuda.is_available()
    deepspeed = _asked("ACCELERATE_USE_DEEPSPEED")
    if deepspeed:
        # It calls collectives by names that torch is giving up, at every step.
        warnings.filterwarnings("ignore", r"`torch\.distributed\.\w+` is deprecated", FutureWarning)
    if deepspeed and on_cpu:
        spare_compiling()
    group = InitProcessGroupKwargs(
        # DeepSpeed on CPUs: without the name, every rank believes that it is alone.
        backend="gloo" if on_cpu else "nccl",
        timeout=timedelta(seconds=config.timeout),
    )
    accelerator = Accelerator(
        # Without this, processes without a GPU would not exchange gradients; with it, DeepSpeed
        # would be left out.
        cpu=on_cpu and not deepspeed,
        mixed_precision="bf16" if config.precision == "bf16" and not deepspeed else "no",
        gradient_accumulation_steps=config.optim.accumulate,
        kwargs_handlers=[group] if "LOCAL_RANK" in os.environ else [],  # a launcher sets it
    )
    check_processes(config, accelerator)
    if deepspeed:
        configure_deepspeed(config, accelerator)
    return accelerator


Answer = TypeVar("Answer")


def on_main(accelerator: Accelerator, do: Callable[[], Answer]) -> Answer:
    """What `do` returns on the main process, on every rank.

    Where it raises there, all end: the main process by that, the others in silence.
    """
    said: list[Any] = []
    if accelerator.is_main_process:
        try:
            said = [do(), True]
        finally:
            broadcast_object_list(said or [None, False])
    else:
        said = broadcast_object_list([None, False])
        if not said[1]:
            raise SystemExit(EXIT_BAD_INPUT)
    answer: Answer = said[0]
    return answer


def spare_compiling() -> None:
    """Keep DeepSpeed from compiling, as processes on CPUs start, a kernel that only inference
    calls: it takes most of a minute and a C++ compiler."""
    import deepspeed

    deepspeed.ops.__compatible_ops__ = {}


def check_request(config: Config) -> None:
    """Raise InputError for a launch that would quietly become another one."""
    for variable, name in UNSUPPORTED.items():
        if _asked(variable):
            raise InputError(f"{variable}: {name} is not supported; use plain DDP or DeepSpeed")
    if _asked("ACCELERATE_USE_DEEPSPEED") and _asked("ACCELERATE_USE_CPU"):
        raise InputError(
            "ACCELERATE_USE_CPU makes Accelerate ignore DeepSpeed; unset it (use_cpu: false), and "
            "set DS_ACCELERATOR=cpu to run DeepSpeed on CPUs"
        )
    restarts = int(os.environ.get("TORCHELASTIC_MAX_RESTARTS", "0"))
    if restarts and _asked("TORCHELASTIC_USE_AGENT_STORE"):
        raise InputError(
            "the launcher would start lost processes again, but they would find the addresses of "
            "those before and wait for them: give it --rdzv_backend c10d, and set "
            "TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1 where it is started"
        )
    launched = os.environ.get("ACCELERATE_MIXED_PRECISION", "no")
    if launched not in ("no", config.precision):
        raise InputError(
            f"the launcher asks for mixed_precision {launched}, the experiment for precision "
            f"{config.precision}; the experiment decides: launch with mixed_precision 'no'"
        )


def check_processes(config: Config, accelerator: Accelerator) -> None:
    """Raise InputError unless world size, kind, backend and batch are what was asked for."""
    got, world = accelerator.num_processes, int(os.environ.get("WORLD_SIZE", "1"))
    if got != world:
        raise InputError(
            f"the launcher started {world} processes, but this one is in a group of {got}; see "
            f"configs/accelerate for launches that work"
        )
    if config.processes not in (None, got):
        raise InputError(
            f"{got} process(es) take part, but --processes {config.processes} was asked for; "
            f"`accelerate launch --cpu` starts a single one: see configs/accelerate/cpu.yaml"
        )
    kind = accelerator.distributed_type
    deepspeed = _asked("ACCELERATE_USE_DEEPSPEED")
    if deepspeed != (kind == DistributedType.DEEPSPEED) or (got > 1 and kind == DistributedType.NO):
        raise InputError(
            f"the launcher asks for {'DeepSpeed' if deepspeed else 'DDP'}, Accelerate made it "
            f"{kind.value} of {got} process(es); see configs/accelerate for launches that work"
        )
    backend = dist.get_backend() if got > 1 else None
    wanted = "nccl" if accelerator.device.type == "cuda" else "gloo"
    if backend not in (None, wanted):
        raise InputError(f"processes on {accelerator.device} talk by {backend}, not by {wanted}")
    accumulate = config.optim.accumulate
    if accelerator.gradient_accumulation_steps != accumulate:
        raise InputError(
            f"the launcher asks for {accelerator.gradient_accumulation_steps} accumulated batches, "
            f"the experiment for optim.accumulate {accumulate}; the experiment decides: leave it "
            f"out of the launch"
        )
    if config.data.batch_size % (got * accumulate):
        raise InputError(
            f"data.batch_size {config.data.batch_size} (pairs of one optimizer step) must be a "
            f"multiple of {got} process(es) x optim.accumulate {accumulate}"
        )
    on_gpu = accelerator.device.type == "cuda"
    if config.precision == "bf16" and on_gpu and not torch.cuda.is_bf16_supported(False):
        raise InputError(f"{torch.cuda.get_device_name()} has no bf16; set precision to fp32")


def configure_deepspeed(config: Config, accelerator: Accelerator) -> None:
    """Give DeepSpeed the experiment's batch, clipping and precision; its file has only sharding.

    Weights, gradients and moments stay in fp32 and autocast computes in bf16, as under DDP.
    """
    settings: dict[str, Any] = accelerator.state.deepspeed_plugin.deepspeed_config
    zero = settings.get("zero_optimization", {})
    if zero.get("stage") not in (1, 2, 3):
        raise InputError(f"DeepSpeed's zero_optimization.stage {zero.get('stage')}: use 1, 2 or 3")
    for part in ("offload_optimizer", "offload_param"):
        if zero.get(part, {}).get("device", "none") != "none":
            raise InputError(f"DeepSpeed's {part} is not supported; leave it out")
    for precision in ("bf16", "fp16"):
        if settings.get(precision, {}).get("enabled", False) is True:
            raise InputError(f"DeepSpeed's {precision} is not supported; set --precision instead")
    own = {
        "train_batch_size": config.data.batch_size,
        "train_micro_batch_size_per_gpu": config.data.batch_size
        // (accelerator.num_processes * config.optim.accumulate),
        "gradient_accumulation_steps": config.optim.accumulate,
        "gradient_clipping": config.optim.clip_norm,
    }
    # Accelerate writes this one where the file leaves it out.
    absent = {"gradient_accumulation_steps": 1}
    for key, value in own.items():
        if settings.get(key, "auto") not in ("auto", absent.get(key), value):
            raise InputError(
                f"DeepSpeed's {key} is {settings[key]}, the experiment makes it {value}; leave it "
                f"out of DeepSpeed's configuration"
            )
    settings |= own
    if config.precision == "bf16":
        settings["torch_autocast"] = {
            "enabled": True,
            "dtype": "bfloat16",
            "lower_precision_safe_modules": [],  # gradients are reduced in fp32
        }


def describe(config: Config, accelerator: Accelerator) -> str:
    """What takes part and how it computes, in three lines."""
    world, accumulate = accelerator.num_processes, config.optim.accumulate
    kind = "DDP" if world > 1 else "undistributed"
    if accelerator.distributed_type == DistributedType.DEEPSPEED:
        kind = f"DeepSpeed ZeRO {accelerator.state.deepspeed_plugin.zero_stage}"
    hosts = world // int(os.environ.get("LOCAL_WORLD_SIZE", world))
    backend = dist.get_backend() if world > 1 else "alone"
    device = accelerator.device.type
    if device == "cuda":
        device = torch.cuda.get_device_name()
    kernels = ", ".join(f"{name} {value}" for name, value in config.model.kernels().items())
    return (
        f"{world} process(es) on {hosts} host(s), {kind}, {backend}, {device}, "
        f"{torch.get_num_threads()} thread(s) each, {config.precision}\n"
        f"model {config.model.kind}, {kernels}, optimizer {config.optim.kernel}"
        f"{', compiled' if config.compile else ''}"
        f"{', deterministic' if config.deterministic else ''}\n"
        f"{config.data.batch_size} pairs a step = {world} process(es) x {accumulate} accumulated x "
        f"{config.data.batch_size // (world * accumulate)}"
    )


def _asked(variable: str) -> bool:
    return os.environ.get(variable, "false").lower() in ("1", "true", "yes")


def lost_contact(error: RuntimeError) -> bool:
    """Whether an error says that another process is gone or does not answer."""
    # gloo has no class of its own, and names itself in some of its messages only.
    of_gloo = any(words in str(error) for words in ("gloo", "pair closure"))
    return isinstance(error, dist.DistError) or of_gloo


def leave(accelerator: Accelerator, error: RuntimeError) -> NoReturn:
    """End this process with `EXIT_LOST`, without the farewells that need the others."""
    print(
        f"rank {accelerator.process_index}: lost contact with another process "
        f"({str(error).splitlines()[0]}); the run goes on from its last checkpoint when it is "
        f"started again",
        file=sys.stderr,
        flush=True,
    )
    os._exit(EXIT_LOST)
