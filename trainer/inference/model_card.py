"""What should somebody who gets a model know? Its card, generated from the run that made it."""

from pathlib import Path

import jinja2

from model.kinds import KINDS
from trainer.inference.pretrained import Export
from trainer.metrics import HEADLINES
from trainer.metrics.bootstrap import LEVEL, Interval, intervals
from trainer.metrics.storage import read_evaluation
from trainer.tracking.run_files import read_result, told_apart

CARD = "README.md"


def model_card(name: str, export: Export, run: Path | None) -> str:
    """The card in Markdown; scores and intervals from the files of the run's folder.

    Without a run, or for one that was never scored, the card says so.
    """
    result = {"metrics": {}, "baselines": {}, "provenance": told_apart(export.provenance)}
    spread: dict[str, Interval] = {}
    if run is not None and (run / "metrics.json").is_file():
        result = read_result(run / "metrics.json")
        if (run / "per_query.json").is_file():
            spread = intervals(read_evaluation(run / "per_query.json"))
    metrics = result["metrics"]
    environment = jinja2.Environment(  # Markdown, not HTML: nothing is to be escaped
        loader=jinja2.PackageLoader("trainer.inference"),
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
        autoescape=False,
    )
    return environment.get_template("model_card.md").render(
        name=name,
        export=export,
        source=KINDS[export.model.kind].source or export.model.kind,
        parameters=result.get("trainable_parameters"),
        level=f"{LEVEL:.0%}",
        metrics={name: metrics[name] for name in HEADLINES if name in metrics},
        intervals=spread,
        baselines=result["baselines"],
        provenance=result["provenance"],
        frames=export.features.frames_per_clip,
    )
