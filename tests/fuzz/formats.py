"""Which files does the project read, and by which ways? Small true ones, to be altered.

A format makes its files once, by the project's own code; a case alters a copy of the folder and
reads it by all its readers. A reader raises InputError to refuse, Lie for what it took in silence.
"""

import argparse
import asyncio
import functools
import json
import os
import random
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import h5py
import mlflow.entities  # noqa: F401 - asks for the machine when it is imported
import numpy as np
import torch
import yaml
from safetensors.torch import save_file

from data_pipeline.annotations import read_annotations
from data_pipeline.config import DataConfig, OrderConfig
from data_pipeline.errors import InputError
from data_pipeline.extraction.weights import read_weights
from data_pipeline.features.shards import Damaged, FeatureSet
from data_pipeline.importing.files import read_array
from data_pipeline.stream.stream import PairStream
from data_pipeline.video.video import VideoFile, clip_count
from launch import (
    evaluate,
    extract,
    import_checkpoint,
    import_features,
    parameters,
    profile,
    shards,
)
from launch.answers.batch import read_queries
from launch.convert_internvideo2 import read_checkpoint
from launch.page.server import CALL, Guard
from launch.page.videos import find_examples
from launch.sweeping.plan import Plan, read_plan, trials
from tests.conftest import build_feature_set
from tests.data_pipeline.conftest import write_video
from tests.fuzz.archives import INDEX
from tests.fuzz.format import Format, Reader, digest, one_of, plain_bytes
from tests.fuzz.mutations import (
    mutate_arrays,
    mutate_bytes,
    mutate_json,
    mutate_rows,
    mutate_yaml,
    odd_value,
    replace_file,
)
from tests.fuzz.watch import Lie, run_command
from tests.launch.test_import_checkpoint import write as write_released
from trainer import main as training
from trainer.cli import load_config
from trainer.comparison.compare import compare
from trainer.comparison.page import write_comparison_page
from trainer.comparison.runs import read_run
from trainer.config import Config
from trainer.experiment import same_as_saved
from trainer.inference.cutting import cut
from trainer.inference.pretrained import load_pretrained
from trainer.pictures.report import write_report
from trainer.pictures.thumbnails import film_strip
from trainer.tracking.delivery import Delivery
from trainer.tracking.tracking import RunRecord, keep_until
from trainer.training import checkpoints

CONFIGS = Path(__file__).resolve().parents[2] / "configs"

# Shards


def make_shards(folder: Path) -> None:
    build_feature_set(folder / "set", videos=6, queries=2, per_shard=3)
    rows = [q.annotation for n in range(6) for q in FeatureSet(folder / "set").read(n).queries]
    (folder / "rows.jsonl").write_text("".join(json.dumps(row.to_row()) + "\n" for row in rows))
    (folder / "set" / "failures.jsonl").write_text(
        '{"vid": "gone", "kind": "missing", "cause": "gone: no such file"}\n'
    )
    (folder.parent / "shards.json").write_text(json.dumps(pairs_of(FeatureSet(folder / "set"))))


def pairs_of(features: FeatureSet, skip: bool = False) -> dict[str, str]:
    """A digest of every pair by its qid."""
    found: dict[str, str] = {}
    for index in range(len(features.samples)):
        try:
            sample = features.read(index)
        except Damaged:
            if not skip:
                raise
            features.left_out += len(features.samples[index].queries)
            continue
        for query in sample.queries:
            first, end = query.tokens
            if str(query.annotation.qid) in found:
                raise Lie(f"{query.annotation.qid} is there twice")
            found[str(query.annotation.qid)] = digest(
                query.annotation, sample.duration, sample.video, sample.text[first:end]
            )
    return found


@functools.cache
def _written(path: Path) -> dict[str, str]:
    written: dict[str, str] = json.loads(path.read_text())
    return written


def written(folder: Path) -> dict[str, str]:
    """The pairs of the true set."""
    return _written(Path(os.environ["SDST_FUZZ_SEEDS"]) / "shards.json")


def read_set(folder: Path) -> None:
    if pairs_of(FeatureSet(folder / "set")) != written(folder):
        raise Lie("other pairs")


def read_what_is_left(folder: Path) -> None:
    features = FeatureSet(folder / "set", skip_damaged=True)
    true, found = written(folder), pairs_of(features, skip=True)
    if not found.items() <= true.items():
        raise Lie("altered pairs")
    if len(found) + features.left_out != len(true):
        raise Lie(f"{len(found)} pairs and {features.left_out} left out are not {len(true)}")


def stream(folder: Path, skip: bool) -> None:
    config = DataConfig(
        train="x", selection=None, batch_size=4, eval_batch_size=4, order=OrderConfig(lanes=4),
        workers=0, skip_damaged=skip,
    )  # fmt: skip
    pairs = PairStream(FeatureSet(folder / "set", skip_damaged=skip), config, seed=0)
    for _ in pairs.train(0):
        pass
    seen: dict[str, int] = {}
    for batch in pairs.evaluate():
        for row, annotation in enumerate(batch.annotations):
            if not bool(batch.repeated[row]):
                seen[str(annotation.qid)] = seen.get(str(annotation.qid), 0) + 1
    lost = sum(pairs.damaged.values())
    if not skip and seen != dict.fromkeys(written(folder), 1):
        raise Lie(f"streamed {len(seen)} of {len(written(folder))}")
    if skip and pairs.annotated != len(written(folder)):
        raise Lie(f"says {pairs.annotated} annotated, {len(written(folder))} were; {lost} replaced")


def shards_command(*args: str) -> Reader:
    return lambda folder: run_command(
        shards.main, [args[0], str(folder / "set"), *(a.format(folder=folder) for a in args[1:])]
    )


SHARDS = Format(
    make_shards,
    one_of(
        manifest=("set/manifest.json", mutate_json),
        index=("set/0*.json", mutate_json),
        again=("set/0*.json", mutate_json),
        columns=("set/index.safetensors", plain_bytes),
        resealed=("set/index.safetensors", mutate_arrays),
        tar=("set/0*.tar", plain_bytes),
        failures=("set/failures.jsonl", mutate_rows),
        rows=("rows.jsonl", mutate_rows),
    ),
    {
        "set": (read_set, 1),
        "what is left": (read_what_is_left, 1),
        "stream": (lambda folder: stream(folder, False), 1),
        "stream of what is left": (lambda folder: stream(folder, True), 1),
        "verify": (shards_command("verify"), 1),
        "verify rows": (shards_command("verify", "--annotations", "{folder}/rows.jsonl"), 1),
        "stats": (shards_command("stats"), 1),
        "ls": (shards_command("ls"), 1),
    },
)

# Annotations and predictions


def make_rows(folder: Path) -> None:
    annotations, rows = [], []
    for number in range(4):
        annotations.append(
            {
                "qid": number,
                "query": f"a dog {number}",
                "vid": f"v{number}",
                "duration": 20.0,
                "relevant_windows": [[2.0, 8.0], [12, 14]],
                "relevant_clip_ids": [1, 2],
                "saliency_scores": [[4, 4, 3], [2, 2, 1]],
            }
        )
        rows.append(
            {
                "qid": number,
                "query": f"a dog {number}",
                "vid": f"v{number}",
                "pred_relevant_windows": [[2.0, 8.0, 0.9], [10, 12, 0.1]],
                "pred_saliency_scores": [0.1 * clip for clip in range(10)],
            }
        )
    for name, lines in (("a.jsonl", annotations), ("p.jsonl", rows)):
        (folder / name).write_text("".join(json.dumps(line) + "\n" for line in lines))
    with zipfile.ZipFile(folder / "s.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for name in ("hl_val_submission.jsonl", "hl_test_submission.jsonl"):
            archive.writestr(name, (folder / "p.jsonl").read_text())
    (folder / "queries.txt").write_text("a dog\n# not\na cat\n")


def evaluate_command(*args: str) -> Reader:
    return lambda folder: run_command(
        evaluate.main, [a.format(folder=folder) for a in args] + ["--json", f"{folder}/out.json"]
    )


ANNOTATIONS = Format(
    make_rows,
    one_of(rows=("a.jsonl", mutate_rows)),
    {
        "rows": (lambda folder: read_annotations(folder / "a.jsonl"), 1),
        "evaluate": (
            evaluate_command(
                "--predictions", "{folder}/p.jsonl", "--annotations", "{folder}/a.jsonl"
            ),
            1,
        ),
        "check": (
            evaluate_command("--check", "{folder}/s.zip", "--annotations", "{folder}/a.jsonl"),
            0.5,
        ),
    },
)


def mutate_zip(draw: random.Random, data: bytes, root: Path) -> bytes:
    """A zip with other members, methods, claims or bytes."""
    import io

    kind = draw.randrange(6)
    if kind < 3:
        return mutate_bytes(draw, data)
    held = io.BytesIO()
    method = draw.choice(
        (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA)
    )
    with zipfile.ZipFile(held, "w", method) as archive:
        rows = zipfile.ZipFile(io.BytesIO(data)).read("hl_val_submission.jsonl")
        for name in (
            "hl_val_submission.jsonl",
            "hl_test_submission.jsonl",
            "../secret",
            "x/" * 200,
        ):
            if draw.random() < 0.7:
                archive.writestr(name, mutate_rows(draw, rows, root) if kind == 3 else rows)
        if kind == 4:
            blank = draw.choice((b" ", b"\n", b"[],", b"{}\n", b"\0"))
            size = 10**8 if method == zipfile.ZIP_DEFLATED else 10**7
            archive.writestr("hl_val_submission.jsonl", blank * draw.choice((10**6, size)))
    packed = held.getvalue()
    return mutate_bytes(draw, packed) if kind == 5 else packed


PREDICTIONS = Format(
    make_rows,
    one_of(
        rows=("p.jsonl", mutate_rows),
        more=("p.jsonl", mutate_rows),
        zip=("s.zip", mutate_zip),
        queries=("queries.txt", plain_bytes),
    ),
    {
        "evaluate": ANNOTATIONS.readers["evaluate"],
        "versus": (
            evaluate_command(
                *("--predictions", "{folder}/p.jsonl", "--annotations", "{folder}/a.jsonl"),
                *("--versus", "{folder}/p.jsonl"),
            ),
            0.1,
        ),
        "check zip": ANNOTATIONS.readers["check"],
        "check rows": (
            evaluate_command("--check", "{folder}/p.jsonl", "--annotations", "{folder}/a.jsonl"),
            1,
        ),
        "queries": (lambda folder: read_queries(folder / "queries.txt"), 0.3),
    },
)

# Configurations


def make_configs(folder: Path) -> None:
    for name in ("quickstart.yaml", "extract/quickstart.yaml", "ablations/attention.yaml"):
        found = sorted(CONFIGS.rglob(Path(name).name)) if not (CONFIGS / name).is_file() else None
        source = found[0] if found else CONFIGS / name
        values = yaml.safe_load(source.read_text())
        # What is named is not there: whatever is accepted ends at the door.
        if "data" in values:
            values["data"] |= {"train": "absent/train", "selection": "absent/dev"}
        if "annotations" in values:
            values["annotations"] = "absent.jsonl"
        (folder / Path(name).parent.name).mkdir(exist_ok=True)
        target = {"quickstart.yaml": "train", "extract/quickstart.yaml": "extract"}.get(
            name, "sweep"
        )
        (folder / f"{target}.yaml").write_text(yaml.safe_dump(values))
    (folder / "import.yaml").write_text("annotations: absent.jsonl\noutput: out\nvideo_dir: v\n")
    (folder / "model.yaml").write_text("model: {width: 256, heads: 8}\n")
    (folder / "profile.yaml").write_text("model: {width: 16, heads: 2}\nbatch: 2\nsteps: 1\n")


def config_command(main: Callable[[list[str]], int | None], name: str, *args: str) -> Reader:
    return lambda folder: run_command(main, ["--config", str(folder / f"{name}.yaml"), *args])


def plan_sweep(folder: Path) -> None:
    values = read_plan(folder / "sweep.yaml")
    trials(Plan(**({"config": Path("c"), "name": "n"} | values)))


CONFIGURATIONS = Format(
    make_configs,
    one_of(
        train=("train.yaml", mutate_yaml),
        extract=("extract.yaml", mutate_yaml),
        sweep=("sweep.yaml", mutate_yaml),
        importing=("import.yaml", mutate_yaml),
        model=("model.yaml", mutate_yaml),
        profile=("profile.yaml", mutate_yaml),
    ),
    {
        "train": (config_command(training.main, "train", "--runs", "runs"), 1),
        "extract": (config_command(extract.main, "extract"), 1),
        "import": (config_command(import_features.main, "import"), 0.5),
        "parameters": (config_command(parameters.main, "model"), 0.2),
        "profile": (config_command(profile.main, "profile"), 0.2),
        "sweep": (plan_sweep, 1),
    },
)


def make_nothing(folder: Path) -> None:
    (folder / "flags.json").write_text("[]")


def alter_flags(draw: random.Random, folder: Path, root: Path) -> None:
    from tests.launch.test_files_are_data import fields

    names = [".".join(path) for path in fields(Config)]
    flags = []
    for _ in range(draw.choice((1, 1, 2, 4))):
        value = odd_value(draw, root)
        while "secret" in str(value):  # who types a name may mean it
            value = odd_value(draw, root)
        name = draw.choice(names) if draw.random() < 0.9 else draw.choice(("", "x", "model.", "."))
        text = value if isinstance(value, str) else json.dumps(value)
        flags += [f"--{name}={text}"] if draw.random() < 0.5 else [f"--{name}", text]
    (folder / "flags.json").write_text(json.dumps(flags))


def flags_command(main: Callable[[list[str]], int | None]) -> Reader:
    def read(folder: Path) -> None:
        flags = json.loads((folder / "flags.json").read_text())
        run_command(main, [*flags, "--data.train=absent", "--data.selection=null", "--runs=runs"])

    return read


FLAGS = Format(make_nothing, alter_flags, {"train": (flags_command(training.main), 1)})

# Runs: a real one is trained


def make_run(folder: Path) -> None:
    train(folder)


def train(folder: Path) -> None:
    """A finished run of a few steps in <folder>/run, its features beside it."""
    for seed, split in enumerate(("train", "dev", "val")):
        build_feature_set(folder.parent / "splits" / split, videos=6, queries=2, seed=seed)
    splits = folder.parent / "splits"
    flags = {
        "name": "run",
        "runs": folder,
        "epochs": 2,
        "data.train": splits / "train",
        "data.selection": splits / "dev",
        "data.report": splits / "val",
        "data.batch_size": 4,
        "data.eval_batch_size": 4,
        "data.order.lanes": 4,
        "data.workers": 0,
        "model.video_width": 12,
        "model.text_width": 10,
        "model.layers": "[-1, -2]",
        "model.width": 16,
        "model.heads": 2,
        "model.queries": 3,
        "tracking.mlflow": "false",
        "tracking.peak_tflops": 1,
        "tracking.every": 1,
    }
    if training.main([f"--{name}={value}" for name, value in flags.items()]):
        raise RuntimeError("the run that is to be altered could not be trained")
    shutil.copytree(folder / "run", folder / "other")


def _checkpoint(folder: Path) -> Path:
    return sorted((folder / "run" / "checkpoints").glob("step_*"))[-1]


def read_checkpoint_folder(folder: Path) -> None:
    """The newest whole one is taken, as it was written."""
    path = checkpoints.newest(folder / "run" / "checkpoints")
    if path is None:
        raise InputError("no whole checkpoint")
    found = checkpoints.read(path)
    true = checkpoints.read(
        Path(os.environ["SDST_FUZZ_SEEDS"]) / "runs/run/checkpoints" / path.name
    )
    same = found.state == true.state and all(
        torch.equal(found.weights[name], true.weights[name]) for name in true.weights
    )
    if not same:
        raise Lie(f"{path.name} is another")


def read_model(folder: Path) -> None:
    model, _ = load_pretrained(folder / "run" / "model")
    true, _ = load_pretrained(Path(os.environ["SDST_FUZZ_SEEDS"]) / "runs" / "run" / "model")
    theirs = true.state_dict()
    if any(not torch.equal(theirs[name], value) for name, value in model.state_dict().items()):
        raise Lie("other weights")


CHECKPOINTS = Format(
    make_run,
    one_of(
        seal=("run/checkpoints/step_*/checkpoint.json", mutate_json),
        state=("run/checkpoints/step_*/state.json", mutate_json),
        weights=("run/checkpoints/step_*/*.safetensors", plain_bytes),
    ),
    {"newest": (read_checkpoint_folder, 1)},
)

MODELS = Format(
    make_run,
    one_of(
        weights=("run/model/model.safetensors", plain_bytes),
        config=("run/model/config.yaml", mutate_yaml),
    ),
    {"load": (read_model, 1)},
)


def deliver(folder: Path) -> None:
    """What `launch.track` takes from a run's folder; the server is left out."""
    record = RunRecord.read(folder / "run")
    if record is not None:
        delivery = Delivery(folder / "run", record)
        delivery._known = {}
        delivery._has = lambda record: False  # type: ignore[method-assign]
        for _, metrics in delivery._calls():
            for metric in metrics:
                if not (0 <= metric.step < 2**63 and 0 <= metric.timestamp < 2**63):
                    raise Lie(f"the server would not take {metric}")
        for name in record.artifacts:
            (folder / "run" / name).is_file()


def compare_runs(folder: Path) -> None:
    runs = [read_run(folder / name, name, name) for name in ("run", "other")]
    write_comparison_page(compare(runs, runs[0]), folder / "comparison.html")


def report(folder: Path) -> None:
    annotations = read_annotations(folder / "run" / "annotations.jsonl")
    write_report(folder / "run", annotations, folder / "videos")


def resume(folder: Path) -> None:
    keep_until(folder / "run" / "metrics.jsonl", 4)
    config = load_config(
        Config, Path(os.environ["SDST_FUZZ_SEEDS"]) / "runs" / "run" / "config.yaml"
    )
    import dataclasses

    same_as_saved(dataclasses.replace(config, runs=folder))


RUNS = Format(
    make_run,
    one_of(
        config=("run/config.yaml", mutate_yaml),
        result=("run/metrics.json", mutate_json),
        records=("run/metrics.jsonl", mutate_rows),
        predictions=("run/predictions.jsonl", mutate_rows),
        queries=("run/per_query.json", mutate_json),
        rows=("run/annotations.jsonl", mutate_rows),
        tracking=("run/tracking.json", mutate_json),
    ),
    {
        "read": (lambda folder: read_run(folder / "run", "run", "run"), 1),
        "deliver": (deliver, 1),
        "resume": (resume, 1),
        "examples": (lambda folder: find_examples(folder / "run"), 1),
        "compare": (compare_runs, 0.1),
        "report": (report, 0.1),
    },
)

# Weights and features that others released


def make_arrays(folder: Path) -> None:
    source = np.random.default_rng(0)
    video = source.normal(size=(5, 4, 8)).astype(np.float16)
    np.save(folder / "video.npy", video)
    np.savez_compressed(folder / "video.npz", features=video)
    np.savez(folder / "text.npz", last_hidden_state=video)
    torch.save(torch.from_numpy(video), folder / "video.pt")
    with h5py.File(folder / "video.hdf5", "w") as file:
        file.create_dataset("v", data=video, compression="gzip")
    weights = {"a.b": torch.ones(3, 2), "c": torch.zeros(4)}
    save_file(weights, folder / "w.safetensors")
    torch.save({"model": weights}, folder / "w.pt")
    write_released(folder / "best.ckpt", "moment_detr", opt=argparse.Namespace(nheads=4))


def mutate_array(draw: random.Random, data: bytes, root: Path) -> bytes:
    """A .npy or .npz whose header claims otherwise."""
    claims = (b"(", b"((((", b"(True, 4, 8)", b"(10**20,)", b"(-1, 4)", b"(9999999999,)", b"'|O'")
    for true in (b"(5, 4, 8)", b"'<f2'"):
        if true in data and draw.random() < 0.4:
            claim = draw.choice(claims)[: len(true)].ljust(len(true))
            return data.replace(true, claim)
    return mutate_bytes(draw, data)


def import_released(folder: Path) -> None:
    """Another's checkpoint; what it becomes can be loaded."""
    model = folder / "imported"
    flags = ["--kind", "moment_detr", "--output", str(model)]
    run_command(import_checkpoint.main, [str(folder / "best.ckpt"), *flags])
    load_pretrained(model)


RELEASED = Format(
    make_arrays,
    one_of(
        npy=("video.npy", mutate_array),
        npz=("video.npz", mutate_array),
        text=("text.npz", mutate_array),
        tensor=("video.pt", plain_bytes),
        hdf5=("video.hdf5", plain_bytes),
        weights=("w.safetensors", plain_bytes),
        pickled=("w.pt", plain_bytes),
        checkpoint=("best.ckpt", plain_bytes),
    ),
    {
        "npy": (lambda folder: read_array(folder / "video.npy"), 1),
        "npz": (lambda folder: read_array(folder / "video.npz", ["features"]), 1),
        "text": (lambda folder: read_array(folder / "text.npz", ["last_hidden_state"]), 1),
        "tensor": (lambda folder: read_array(folder / "video.pt"), 1),
        "hdf5": (lambda folder: read_array(folder / "video.hdf5", ["v"]), 1),
        "safetensors": (lambda folder: read_weights(folder / "w.safetensors"), 1),
        "pt": (lambda folder: read_weights(folder / "w.pt"), 1),
        "checkpoint": (lambda folder: read_checkpoint(folder / "w.pt"), 1),
        "model of others": (import_released, 1),
    },
)

# Videos, and calls of the page


def make_videos(folder: Path) -> None:
    for name in ("a.mp4", "a.mkv", "a.ts", "a.avi", "a.mov", "a.flv"):
        write_video(folder / name, frames=12, size=(64, 48), audio_seconds=1.0, g="4")
    write_video(folder / "b.mp4", frames=12, size=(64, 48), codec="mpeg4")


def each_video(read: Callable[[Path], Any]) -> Reader:
    """Reads the one that was altered, which a case writes down."""
    return lambda folder: read(folder / (folder / "which").read_text())


def alter_video(draw: random.Random, folder: Path, root: Path) -> None:
    path = draw.choice(sorted(folder.glob("[ab].*")))
    (folder / "which").write_text(path.name)
    if draw.random() < 0.05:
        replace_file(draw, path, folder)
    else:
        path.write_bytes(mutate_bytes(draw, path.read_bytes()))


def decode(path: Path, damage: Literal["refuse", "bear"]) -> None:
    video = VideoFile(path, damage=damage)
    pieces = sum(len(piece) for piece in video.clips(0.5, 2, 32))
    if pieces != clip_count(video.info.duration, 0.5):
        raise Lie(f"{pieces} clips of {video.info.duration} s")


VIDEOS = Format(
    make_videos,
    alter_video,
    {
        "clips": (each_video(lambda path: decode(path, "refuse")), 1),
        "clips of what is left": (each_video(lambda path: decode(path, "bear")), 1),
        "strip": (each_video(lambda path: film_strip(path, 1.2, count=3)), 0.5),
        "cut": (each_video(lambda path: cut(path, 0.2, 0.9, path.parent / "c.mp4")), 0.5),
    },
)


def make_calls(folder: Path) -> None:
    call = {"fn_index": 1, "data": ["key", "a dog"], "event_data": None, "trigger_id": 3}
    (folder / "call.json").write_text(json.dumps(call | {"session_hash": "abc"}))


def call_page(folder: Path) -> None:
    """What the page's guard lets through is what the page itself sends."""
    body, answered = (folder / "call.json").read_bytes(), []
    passed: list[bytes] = []

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": body, "more_body": False}

    async def send(message: Any) -> None:
        answered.append(message)

    async def page(scope: Any, receive: Any, send: Any) -> None:
        passed.append((await receive())["body"])

    scope = {"type": "http", "method": "POST", "path": CALL, "headers": [], "query_string": b""}
    asyncio.run(Guard(page, {0: 1, 1: 2})(scope, receive, send))
    if not passed:
        if not 400 <= answered[0]["status"] < 500:
            raise Lie(f"answered {answered[0]['status']}")
        raise InputError("refused")
    call = json.loads(passed[0])
    right = call["fn_index"] in (0, 1) and len(call["data"]) == call["fn_index"] + 1
    if not right or not all(value is None or isinstance(value, str) for value in call["data"]):
        raise Lie(f"let through {call}")


def alter_call(draw: random.Random, folder: Path, root: Path) -> None:
    path = folder / "call.json"
    path.write_bytes(mutate_json(draw, path.read_bytes(), root))


CALLS = Format(make_calls, alter_call, {"guard": (call_page, 1)})

FORMATS = {
    "index": INDEX,
    "shards": SHARDS,
    "annotations": ANNOTATIONS,
    "predictions": PREDICTIONS,
    "configurations": CONFIGURATIONS,
    "flags": FLAGS,
    "checkpoints": CHECKPOINTS,
    "models": MODELS,
    "runs": RUNS,
    "released": RELEASED,
    "videos": VIDEOS,
    "calls": CALLS,
}
SEEDS = {"checkpoints": "runs", "models": "runs"}
"""Formats that alter the files of another."""
