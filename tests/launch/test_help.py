"""A command's help is there at once: what computes is not imported to print a text."""

import importlib
import subprocess
import sys

import jsonargparse
import pytest

COMMANDS = (
    *("predict", "compare", "extract", "demo", "sweep", "evaluate", "shards", "import_features"),
    *("import_annotations", "index", "search"),
    *("init", "register", "track", "profile", "parameters", "quickstart", "convert_internvideo2"),
)
HEAVY = {"torch", "ray", "mlflow", "accelerate", "altair", "vl_convert", "gradio"}

PROGRAM = """
import runpy, sys
sys.argv = [{module!r}, "--help"]
try:
    runpy.run_module({module!r}, run_name="__main__")
except SystemExit as end:
    assert not end.code, end.code
print(*sorted(sys.modules))
"""


@pytest.mark.parametrize("module", ["trainer.main", *(f"launch.{name}" for name in COMMANDS)])
def test_help_imports_nothing_that_takes_seconds(module):
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM.format(module=module)],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    assert "usage:" in done.stdout
    assert not HEAVY & set(done.stdout.splitlines()[-1].split())


@pytest.mark.parametrize("module", ["trainer.main", *(f"launch.{name}" for name in COMMANDS)])
def test_no_option_is_without_help(module, monkeypatch):
    seen = []

    def note(parser, *_, **__):
        seen.append(parser)
        raise SystemExit

    monkeypatch.setattr(jsonargparse.ArgumentParser, "parse_args", note)
    with pytest.raises(SystemExit):
        importlib.import_module(module).main([])
    options = {action.dest: action.help for action in seen[0]._actions}
    assert len(options) > 1
    assert [name for name, text in options.items() if not (text or "").strip()] == []


def test_the_halls_show_their_faces_lazily():
    program = (
        "import sys, trainer, data_pipeline, model; assert 'torch' not in sys.modules\n"
        "from data_pipeline import FeatureSet, PairStream\nfrom model import SDST, SDSTConfig\n"
        "from trainer import Grounder\nassert 'torch' in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
