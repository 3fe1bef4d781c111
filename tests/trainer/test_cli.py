import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import pytest

from data_pipeline.errors import InputError
from trainer.cli import command, dump_config, load_config, parse_config


@dataclass(frozen=True)
class Part:
    width: int = 8
    layers: tuple[int, ...] = (-1, -2)
    kind: Literal["near", "far"] = "near"

    def __post_init__(self) -> None:
        if self.width < 1:
            raise ValueError(f"part.width must be at least 1, found {self.width}")


@dataclass(frozen=True)
class Whole:
    seed: int = 0
    folder: Path = Path("here")
    part: Part = field(default_factory=Part)


def test_later_flags_override_the_file_which_overrides_the_defaults(tmp_path):
    file = tmp_path / "c.yaml"
    file.write_text("seed: 3\npart: {width: 5, layers: [2]}\n")
    config = parse_config(Whole, ["--config", str(file), "--part.width", "6"])
    assert config == Whole(seed=3, part=Part(width=6, layers=(2,)))


def test_dashes_in_a_flag_are_as_good_as_underscores():
    @dataclass(frozen=True)
    class Named:
        two_words: int = 0

    assert parse_config(Named, ["--two-words", "-3"]) == Named(-3)
    assert parse_config(Named, ["--two-words=-3"]) == Named(-3)


def test_a_configuration_owes_nothing_to_those_read_before_it(tmp_path):
    @dataclass(frozen=True)
    class Mutable:
        numbers: dict[str, int] = field(default_factory=dict)
        names: list[str] = field(default_factory=list)
        part: Part = field(default_factory=Part)

    (tmp_path / "c.yaml").write_text("part: {width: 5}\nnames: [a]\n")
    assert parse_config(Mutable, ["--config", str(tmp_path / "c.yaml")]).names == ["a"]
    with pytest.raises(InputError):
        parse_config(Mutable, ["--numbers", "{a: 1}", "--part.kind=near", "--part.width=0"])
    first = parse_config(Mutable, [])
    first.numbers["b"] = 1
    first.names.append("b")
    assert parse_config(Mutable, []) == Mutable()


def test_a_dumped_configuration_is_read_back_unchanged(tmp_path):
    config = Whole(seed=7, folder=Path("a/b"), part=Part(3, (1, 2), "far"))
    (tmp_path / "c.yaml").write_text(dump_config(config))
    assert load_config(Whole, tmp_path / "c.yaml") == config


@pytest.mark.parametrize(
    ("text", "flags", "message"),
    [
        ("part: {widht: 3}", [], "c.yaml: unknown key 'part.widht'; did you mean 'part.width'?"),
        ("seeed: 3", [], "c.yaml: unknown key 'seeed'; did you mean 'seed'?"),
        ("[1", [], "c.yaml:2: not valid YAML"),
        ("seed: x", [], "Expected a <class 'int'>"),
        ("{}", ["--part.kidn", "far"], "unknown key 'part.kidn'; did you mean 'part.kind'?"),
        ("{}", ["--see", "3"], "unknown key 'see'; did you mean 'seed'?"),
        ("{}", ["--part.kind", "fra"], "'near', 'far'"),
        ("{}", ["--width", "3"], "unknown key 'width'; did you mean 'part.width'?"),
        ("{}", ["--part.folder", "x"], "unknown key 'part.folder'; did you mean 'folder'?"),
        ("device: cpu", [], "c.yaml: unknown key 'device'; valid keys: help, config, seed, folder"),
        ("{}", ["--part.width", "0"], "part.width must be at least 1, found 0"),
    ],
)
def test_a_fault_is_one_line_with_file_and_mend(tmp_path, text, flags, message):
    file = tmp_path / "c.yaml"
    file.write_text(text)
    with pytest.raises(InputError) as caught:
        parse_config(Whole, ["--config", str(file), *flags])
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def raise_(error):
    @command
    def main(args=None):
        raise error

    return main


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (InputError("x.mp4: broken"), 2),
        (ImportError("needs y: pip install y"), 2),
        (KeyboardInterrupt(), 130),
    ],
)
def test_faults_of_the_users_end_with_a_status_and_no_trace(error, status, capsys):
    assert raise_(error)() == status
    assert len(capsys.readouterr().err.splitlines()) == 1


def test_a_fault_of_ours_keeps_its_trace():
    with pytest.raises(ImportError):
        raise_(ImportError("cannot import name 'z'"))()


def test_every_console_is_the_one_that_takes_no_markup():
    root = Path(__file__).parents[2]
    made = [
        f"{path.relative_to(root)}"
        for hall in ("trainer", "launch")
        for path in (root / hall).rglob("*.py")
        if re.search(r"\bConsole\(", path.read_text())
    ]
    assert made == ["trainer/cli.py"]


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (OSError(28, "No space left on device"), "the disk: No space left on device; make room"),
        (OSError(36, "File name too long", "xx"), "xx: File name too long; it needs another place"),
        (PermissionError(13, "Permission denied", "/root/a"), "/root/a: Permission denied; it "),
    ],
)
def test_what_the_system_does_not_allow_is_one_line(error, line, capsys):
    @command
    def main(args):
        raise error

    assert main([]) == 2
    printed = capsys.readouterr().err
    assert printed.startswith(f"error: {line}")
    assert printed.count("\n") == 1


def test_a_file_that_we_should_have_had_keeps_its_trace():
    @command
    def main(args):
        raise FileNotFoundError(2, "No such file or directory", "ours")

    with pytest.raises(FileNotFoundError):
        main([])


@pytest.mark.parametrize("form", [["--config", "{}"], ["--config={}"]])
def test_a_file_is_judged_before_the_parser_has_it_and_names_no_other(tmp_path, form):
    file = tmp_path / "c.yaml"
    args = [part.format(file) for part in form]
    file.write_text("config: other.yaml")
    with pytest.raises(InputError, match=r"c\.yaml: unknown key 'config'; a file does not name"):
        parse_config(Whole, args)
    file.write_text("part: 3")
    with pytest.raises(InputError, match=r"c\.yaml: 'part' must be settings as 'key: value'"):
        parse_config(Whole, args)
