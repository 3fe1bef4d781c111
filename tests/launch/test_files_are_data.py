"""Whatever a file says, reading it imports nothing and starts nothing."""

import dataclasses
import json
import sys
from pathlib import Path

import pytest
import yaml

from data_pipeline.config import ImportConfig
from launch import convert_internvideo2, extract, import_features, parameters, profile, quickstart
from model.config import SDSTConfig
from trainer import main as training
from trainer.cli import load_config
from trainer.config import Config
from trainer.inference.pretrained import Export

COMMANDS = {
    training.main: Config,
    extract.main: extract.Command,
    import_features.main: ImportConfig,
    parameters.main: SDSTConfig,
    profile.main: profile.ProfileConfig,
    quickstart.main: quickstart.QuickstartConfig,
    convert_internvideo2.main: convert_internvideo2.ConvertConfig,
}
FORMS = (
    lambda spec: spec,
    lambda spec: {"note": spec},
    lambda spec: {"deep": {"deeper": [[1, spec]]}},
    lambda spec: spec["class_path"],
)


@pytest.fixture
def spec(tmp_path, monkeypatch):
    """Names a module that leaves a file when it is imported and another when it is built."""
    (tmp_path / "stranger.py").write_text(
        "import pathlib\n"
        f"pathlib.Path({str(tmp_path / 'OWNED')!r}).touch()\n"
        "class Guest:\n    def __init__(self, **given): pass\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.chdir(tmp_path)
    yield {"class_path": "stranger.Guest", "init_args": {"a": 1}}
    assert "stranger" not in sys.modules
    assert not (tmp_path / "OWNED").exists()


def fields(schema, prefix=()):
    """Path of every field of a configuration, sections included."""
    for field in dataclasses.fields(schema):
        yield (*prefix, field.name)
        if dataclasses.is_dataclass(field.type):
            yield from fields(field.type, (*prefix, field.name))


def nested(path, value):
    for name in reversed(path):
        value = {name: value}
    return value


@pytest.mark.parametrize("main", COMMANDS, ids=lambda main: main.__module__)
def test_no_field_of_a_configuration_file_names_code(main, spec, tmp_path, capsys):
    file = tmp_path / "c.yaml"
    for path in fields(COMMANDS[main]):
        for form in FORMS[:3]:
            file.write_text(yaml.safe_dump(nested(path, form(spec))))
            assert main(["--config", str(file)]) == 2, path
            said = capsys.readouterr().err.strip()
            assert said.startswith(f"error: {file}: "), said
            assert "\n" not in said


def test_the_refusal_of_code_says_what_to_remove(spec, tmp_path, capsys):
    file = tmp_path / "c.yaml"
    for values in ({"data": {"provenance": {"note": spec}}}, {"model": spec}):
        file.write_text(yaml.safe_dump(values))
        assert training.main(["--config", str(file)]) == 2
        assert capsys.readouterr().err == (
            f"error: {file}: 'stranger.Guest': names code, and what is read cannot choose what "
            "runs; remove the key 'class_path'\n"
        )


@pytest.mark.parametrize("form", FORMS)
def test_no_field_of_a_models_configuration_names_code(form, spec, tmp_path):
    for path in fields(Export):
        (tmp_path / "config.yaml").write_text(yaml.safe_dump(nested(path, form(spec))))
        with pytest.raises(ValueError, match=r"config\.yaml: "):
            load_config(Export, tmp_path / "config.yaml")


def test_flags_name_no_code_either(spec):
    assert training.main([f"--model={json.dumps(spec)}"]) == 2
    assert training.main(["--model.class_path=stranger.Guest"]) == 2
    assert training.main(["--data.provenance.class_path=stranger.Guest"]) == 2
    assert extract.main(["--encoder.video_options.a.class_path", "stranger.Guest"]) == 2
    assert extract.main([f"--encoder.text_options={json.dumps({'a': spec})}"]) == 2
    assert parameters.main(["--stranger.Guest"]) == 2
    assert not Path("runs").exists()
