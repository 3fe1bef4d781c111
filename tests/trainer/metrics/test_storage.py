"""per_query.json: what is read is what was written, or a line that names the file."""

import json

import pytest

from data_pipeline.annotations import Annotation
from data_pipeline.errors import InputError
from trainer.metrics import evaluate
from trainer.metrics.storage import read_evaluation, write_evaluation


@pytest.mark.parametrize(
    ("key", "value"),
    [("vids", [["v"]]), ("qids", [None]), ("domains", [3]), ("summary", {"a": "x"})],
)
def test_names_and_figures_of_other_types_are_refused(tmp_path, key, value):
    row = {"qid": 1, "query": "a dog", "vid": "v", "pred_relevant_windows": [[2.0, 8.0, 0.9]]}
    row["pred_saliency_scores"] = [0.0] * 10
    annotation = Annotation(1, "a dog", "v", 20.0, ((2.0, 8.0),), {1: (4, 4, 4)})
    path = tmp_path / "per_query.json"
    write_evaluation(path, evaluate([row], [annotation]))
    assert read_evaluation(path).vids == ("v",)
    record = json.loads(path.read_text())
    path.write_text(json.dumps(record | {key: value}))
    with pytest.raises(InputError, match=r"per_query\.json: malformed \(.*evaluate the run again"):
        read_evaluation(path)
