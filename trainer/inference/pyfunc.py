"""A trained model as MLflow serves it: a table of videos and sentences in, what was found out.

MLflow runs this file when it loads the model, so nothing of ours is ever unpickled.
"""

from typing import Any

import pandas as pd
from mlflow.models import set_model
from mlflow.pyfunc.model import PythonModel

from trainer.inference.predict import Grounder


class GroundingModel(PythonModel):
    """Columns `video` (a path) and `query` in; rows of `Grounding.to_row` out, in that order."""

    def load_context(self, context: Any) -> None:
        self.grounder = Grounder.from_pretrained(context.artifacts["model"])

    def predict(
        self, context: Any, model_input: pd.DataFrame, params: dict[str, Any] | None = None
    ) -> pd.DataFrame:
        """Each video is encoded once, whatever the number of its sentences."""
        rows: dict[Any, dict[str, Any]] = {}
        for video, asked in model_input.groupby("video", sort=False):
            found = self.grounder.predict(str(video), list(asked["query"]))
            rows |= {
                place: {"video": video} | grounding.to_row()
                for place, grounding in zip(asked.index, found, strict=True)
            }
        return pd.DataFrame([rows[place] for place in model_input.index])


set_model(GroundingModel())
