"""Are the documents true? What they link to, start and name is there, and a figure stands once."""

import contextlib
import importlib.util
import io
import re
import shlex
import tomllib
from collections import defaultdict
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

import pytest

from model.kinds import KINDS

ROOT = Path(__file__).resolve().parents[1]
HALLS = ("model", "data_pipeline", "trainer", "launch", "tests")
DOCUMENTS = sorted(
    path
    for folder in (ROOT, *(ROOT / hall for hall in HALLS), ROOT / "kubernetes")
    for path in (folder.glob("*.md") if folder == ROOT else folder.rglob("*.md"))
    if "templates" not in path.parts
)
CONFIGS = sorted((ROOT / "configs").rglob("*.yaml"))
COMMANDS = ROOT / "launch" / "README.md"


def each(paths: list[Path]) -> pytest.MarkDecorator:
    names = [str(path.relative_to(ROOT)) for path in paths]
    return pytest.mark.parametrize("document", paths, ids=names)


def prose(path: Path) -> str:
    """A document's text; of a configuration the comments."""
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".md":
        return text
    return "\n".join(re.findall(r"#(.*)", text))


def anchors(path: Path) -> set[str]:
    """What the headings of a document are called in links."""
    headings = re.findall(r"^#+ (.+)$", path.read_text(encoding="utf-8"), re.MULTILINE)
    plain = (re.sub(r"[^\w\- ]", "", heading.lower()) for heading in headings)
    return {heading.strip().replace(" ", "-") for heading in plain}


@each(DOCUMENTS)
def test_relative_links_lead_somewhere(document: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", prose(document)):
        if target.startswith(("https://", "http://")):
            continue
        path, _, anchor = target.partition("#")
        place = (document.parent / path).resolve() if path else document
        assert place.exists(), target
        assert place.is_relative_to(ROOT), target
        assert not anchor or anchor in anchors(place), target


@each(DOCUMENTS + CONFIGS)
def test_every_path_that_is_named_exists(document: Path) -> None:
    """Paths that begin at a folder of the project; NAME stands for any one name."""
    halls = "|".join((*HALLS, "configs", "kubernetes"))
    for path in re.findall(rf"(?<![\w./~-])((?:{halls})/[\w./*-]*\w/?)", prose(document)):
        there = ROOT.glob(path.rstrip("/").replace("NAME", "*"))
        assert any(there), path


@each(DOCUMENTS)
def test_every_room_and_file_that_is_named_exists(document: Path) -> None:
    """Files of code in backticks, and what a table of rooms or folders lists."""
    text = prose(document)
    named = re.findall(r"`([\w/]+\.py)`", text)
    for table in re.findall(r"^\| (?:room|folder).*\n\|[-|]+\n((?:\|.*\n)+)", text, re.MULTILINE):
        for row in table.splitlines():
            named += re.findall(r"[`\[]([\w./]+)[`\]]", row.split("|")[1])
    for name in named:
        places = (ROOT / name, document.parent / name, *document.parent.rglob(name))
        assert any(place.exists() for place in places), name


@each(DOCUMENTS + CONFIGS)
def test_every_module_that_is_named_can_be_imported(document: Path) -> None:
    text = prose(document)
    names = set(re.findall(r"python -m ((?:\w+\.)*\w+)", text))
    names |= set(re.findall(r"(?<![\w./-])((?:launch|data_pipeline|trainer)\.[a-z]\w*)", text))
    for name in names - {"pip", "trainer.kubeflow"}:
        assert importlib.util.find_spec(name), name


def examples() -> Iterator[tuple[str, list[str]]]:
    """(module or script, its arguments) of every command in the blocks of the commands' page."""
    blocks = re.findall(r"^    .*$", COMMANDS.read_text(encoding="utf-8"), re.MULTILINE)
    script = "\n".join(line[4:] for line in blocks).replace("\\\n", " ")
    for line in script.splitlines():
        words = shlex.split(line, comments=True) if re.match(r"[A-Z_a-z-]+", line) else []
        words = [word for word in words if not re.fullmatch(r"[A-Z_]+=\S*", word)]
        if words[:2] == ["python", "-m"]:
            yield words[2], words[3:]
        elif words and words[0].startswith("sdst-"):
            yield words[0], words[1:]
        elif "trainer/main.py" in words:
            yield "sdst-train", words[words.index("trainer/main.py") + 1 :]


def scripts() -> dict[str, str]:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    return {name: target.partition(":")[0] for name, target in project["scripts"].items()}


def test_every_command_has_an_example() -> None:
    shown = {name for name, _ in examples()}
    for script, module in scripts().items():
        assert {script, module} & shown, f"{script} has no example in {COMMANDS}"
    for path in (ROOT / "launch").glob("*.py"):
        if "\nif __name__ ==" in path.read_text(encoding="utf-8"):
            assert f"launch.{path.stem}" in shown, f"{path} has no example in {COMMANDS}"


def test_the_examples_give_flags_that_the_commands_have() -> None:
    flags = defaultdict(set)
    for name, words in examples():
        if name == "launch.node":  # what follows is the trainer's, after accelerate's own
            name, words = "sdst-train", words[words.index("trainer/main.py") + 1 :]
        given = {word.partition("=")[0].replace("-", "_") for word in words if word[:2] == "--"}
        flags[scripts().get(name, name)] |= given
    assert len(flags) >= len(scripts())
    for module, given in flags.items():
        help_of = io.StringIO()
        with contextlib.redirect_stdout(help_of), pytest.raises(SystemExit):
            import_module(module).main(["--help"])
        known = {flag.replace("-", "_") for flag in re.findall(r"--[\w.-]+", help_of.getvalue())}
        if module == "trainer.main":
            for kind in KINDS:
                with contextlib.redirect_stdout(help_of), pytest.raises(SystemExit):
                    import_module(module).main(["--model.kind", kind, "--help"])
            known = {
                flag.replace("-", "_") for flag in re.findall(r"--[\w.-]+", help_of.getvalue())
            }
            known |= {"__checkpoint", "__eval", "__dump"}
        if module == "launch.import_features":
            known |= {"__out"}
        assert given <= known, module


def test_the_front_page_is_short() -> None:
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= 120


def test_a_measured_figure_stands_in_one_document() -> None:
    """Figures with a unit, a point or comma and at least three digits: others agree by chance."""
    units = r"s|ms|min|[GM]i?B|x|%|pairs/s|[GM]?FLOP|steps|MB/s|points"
    places: dict[str, set[str]] = defaultdict(set)
    for document in DOCUMENTS + CONFIGS:
        for figure in re.findall(rf"\d[\d,]*[.,]\d+ (?:{units})(?!\w)", prose(document)):
            if len(re.findall(r"\d", figure)) >= 3:
                places[figure].add(str(document.relative_to(ROOT)))
    assert places
    assert {figure: at for figure, at in places.items() if len(at) > 1} == {}


def test_the_example_of_the_model_runs(capsys: pytest.CaptureFixture[str]) -> None:
    code, *_ = re.findall(r"^```python\n(.*?)^```", prose(ROOT / "model/README.md"), re.M | re.S)
    exec(compile(code, "model/README.md", "exec"), {})
    assert capsys.readouterr().out == "torch.Size([2, 1, 30, 2])\n"


def test_the_fifth_kind_that_is_shown_is_the_one_that_is_tried() -> None:
    _, *shown = re.findall(r"^```python\n(.*?)^```", prose(ROOT / "model/README.md"), re.M | re.S)
    tried = (ROOT / "tests/trainer/training/fifth_kind.py").read_text(encoding="utf-8")
    assert [code for code in shown if code not in tried] == []
    assert len(shown) == 3
