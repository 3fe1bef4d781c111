"""How does a command turn flags and YAML into typed configuration, and a fault into one line?

Every command of the project parses with jsonargparse: dataclasses give the schema and the defaults,
`--config FILE` reads YAML, `--section.field value` overrides it, later ones win.
"""

import dataclasses
import difflib
import errno
import functools
import io
import itertools
import os
import re
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import FrameType
from typing import Any, TypeVar

import jsonargparse
import yaml
from rich.console import Console

from data_pipeline.errors import EXIT_BAD_INPUT, EXIT_INTERRUPTED, InputError
from data_pipeline.untrusted import CODE, check_plain, check_yaml, read_yaml, readable, shown
from model.config import ModelConfig, ObjectiveConfig
from model.kinds import KINDS

# What a file holds is data. The parser would import and build whatever a `class_path` names.
jsonargparse.set_parsing_settings(
    instantiate_subclass_spec_in_any=False, import_path_denylist=["*"]
)
_load_yaml = jsonargparse.get_loader("yaml")
jsonargparse.set_loader(
    "yaml",
    lambda text: _load_yaml(check_yaml(text, "a value")),
    # What is no YAML, such as a path with brackets, is text.
    exceptions=(yaml.YAMLError, InputError),
)

Config = TypeVar("Config")


def make_parser(description: str | None) -> jsonargparse.ArgumentParser:
    """A parser that raises instead of exiting; add arguments to it, then call `parse`."""
    # Without abbreviations: `--epoch 3` is a mistyped key, not a short one.
    return jsonargparse.ArgumentParser(
        description=description, exit_on_error=False, allow_abbrev=False
    )


def parse(
    parser: jsonargparse.ArgumentParser,
    args: Sequence[str] | None,
    files: Mapping[str, Any] | None = None,
) -> Any:
    """Parsed arguments, with dataclasses built; `files` are read already: their values by name.

    Raises InputError, in one line and with the nearest valid name, for an unknown key, a value of
    the wrong type, a value that a dataclass refuses in `__post_init__`, or a key `class_path`.
    """
    try:
        given = [to_yaml(files[each]) if files and each in files else each for each in args or ()]
        namespace = parser.parse_args(given if files else args)
        check_plain(namespace.as_dict(), "the command line")
        check_numbers(namespace.as_dict())
        return parser.instantiate(namespace)
    except InputError:
        raise
    except Exception as error:  # of the parser, of a `__post_init__`, of what they call
        raise InputError(_explain(str(error), parser, args)) from error


def check_numbers(values: Any, name: str = "") -> None:
    """Raise InputError for a number that nothing here can be: not finite, or beyond 2^53."""
    if isinstance(values, dict):
        for key, value in values.items():
            check_numbers(value, f"{name}.{key}".lstrip("."))
    elif isinstance(values, list | tuple):
        for value in values:
            check_numbers(value, name)
    elif isinstance(values, int | float) and not abs(values) < 2**53:
        raise InputError(f"{name}: {shown(values)} is out of all bounds; give a smaller number")


def parse_config(
    schema: type[Config], args: Sequence[str] | None, description: str | None = None
) -> Config:
    """Read `--config FILE` and `--section.field value` overrides into the dataclass `schema`.

    Dashes in a flag's name are as good as underscores. Where a later `model.kind` is another than a
    file's, that file's `model` and `loss` do not apply, but for the widths of the features.
    """
    args = [_underscored(argument) for argument in (sys.argv[1:] if args is None else args)]
    args = [part for each in args for part in _parts(each)]
    files = {
        file: read_yaml(Path(file))
        for option, file in itertools.pairwise(args)
        if option == "--config"
    }
    kind = _kind(schema, args, files)
    for file, values in files.items():
        files[file] = values = _of_this_kind(values, kind)
        # For its faults: the parser does not say where they are.
        check_sections(schema, values, file, kind=kind)
    parser = _config_parser(schema, description, kind)  # type: ignore[arg-type]  # a class has a hash
    values = parse(parser, args, files).as_dict()
    values.pop("config")
    try:
        return schema(**values)
    except InputError:
        raise
    except Exception as error:  # a number that is null, for one
        raise InputError(_explain(str(error), parser, args)) from error


def _parts(argument: str) -> list[str]:
    """`--config=FILE` as two arguments, others as they are."""
    name, equals, value = argument.partition("=")
    return [name, value] if name == "--config" and equals else [argument]


def check_sections(
    schema: type[Any], values: Any, file: str, name: str = "", kind: str = ""
) -> None:
    """Raise InputError unless what `values` has for each section of `schema` is a mapping."""
    if not isinstance(values, dict):
        what = f"{name!r} must be" if name else "must hold"
        raise InputError(f"{file}: {what} settings as 'key: value', found {shown(values)}")
    for key, value in values.items():
        if not name and key in ("config", "print_config", "help"):
            raise InputError(f"{file}: unknown key {key!r}; a file does not name another")
        section = _of_kind(schema, kind).get(key) or next(
            (f.type for f in dataclasses.fields(schema) if f.name == key), None
        )
        if dataclasses.is_dataclass(section) and isinstance(section, type):
            check_sections(section, value, file, f"{name}.{key}".lstrip("."))


def _kind(schema: type[Any], args: Sequence[str], files: dict[str, Any]) -> str:
    """The last `model.kind` that is given; "" where `schema` is the same for all kinds."""
    if not _of_kind(schema, "sdst"):
        return ""
    kind: Any = "sdst"
    source = ""
    for position, argument in enumerate(args):
        option, equals, value = argument.partition("=")
        following = args[position + 1] if position + 1 < len(args) else ""
        value = value if equals else following
        if option == "--model.kind":
            kind, source = value, ""
        elif option == "--config" and isinstance(file := files.get(value), dict):
            section = file.get("model")
            if isinstance(section, dict) and "kind" in section:
                kind, source = section["kind"], f"{value}: "
    if not isinstance(kind, str) or kind not in KINDS:
        near = difflib.get_close_matches(str(kind), KINDS, n=1, cutoff=0.5)
        mend = f"did you mean {near[0]!r}?" if near else f"choose from {', '.join(KINDS)}"
        raise InputError(f"{source}model.kind {shown(kind)} is no kind of model; {mend}")
    return kind


def _of_this_kind(values: Any, kind: str) -> Any:
    """What a file holds that applies to models of `kind`."""
    model = values.get("model") if isinstance(values, dict) else None
    if not kind or not isinstance(model, dict) or model.get("kind", "sdst") == kind:
        return values
    described = {
        name: model[name] for name in ("video_width", "text_width", "existence") if name in model
    }
    return {name: value for name, value in values.items() if name != "loss"} | {"model": described}


def _of_kind(schema: type[Any], kind: str) -> dict[str, type[Any]]:
    """The sections of `schema` that each kind of model has its own class for."""
    if not kind:
        return {}
    own: dict[Any, type[Any]] = {ModelConfig: KINDS[kind].config, ObjectiveConfig: KINDS[kind].loss}
    return {f.name: own[f.type] for f in dataclasses.fields(schema) if f.type in own}


@functools.cache  # a parser takes longer to build than to use, and a sweep uses it for every trial
def _config_parser(
    schema: type[Any], description: str | None, kind: str
) -> jsonargparse.ArgumentParser:
    parser = make_parser(description)
    parser.add_argument("--config", action="config", help="YAML file; later flags override it")
    sections = _of_kind(schema, kind)
    parser.add_class_arguments(schema, skip=set(sections))
    for name, section in sections.items():
        parser.add_class_arguments(section, name)
    return parser


def _underscored(argument: str) -> str:
    if not argument.startswith("--"):
        return argument
    name, equals, value = argument.partition("=")
    return "--" + name[2:].replace("-", "_") + equals + value


def load_config(schema: type[Config], path: Path) -> Config:
    """The dataclass `schema` from a YAML file alone; InputError names the file."""
    if not path.is_file():
        raise InputError(f"{path}: no such configuration file")
    return parse_config(schema, ["--config", str(path)])


def load_section(schema: type[Config], path: Path, name: str) -> Config:
    """The dataclass `schema` from the section `name` of a YAML file that holds others beside it.

    Raises InputError, which names the file.
    """
    values = read_yaml(path)
    if not isinstance(values, dict) or not isinstance(values.get(name), dict):
        raise InputError(f"{path}: has no section {name!r}; is it the right file?")
    check_sections(schema, values[name], str(path), name)
    parser = _config_parser(schema, None, "")  # type: ignore[arg-type]
    try:
        found = parser.instantiate(parser.parse_object(values[name])).as_dict()
        found.pop("config", None)
        return schema(**found)
    except Exception as error:  # as in `parse`
        raise InputError(f"{path}: {_explain(str(error), parser, [])}") from error


def dump_config(config: Any) -> str:
    """The YAML of a configuration dataclass; `load_config` reads it back unchanged."""
    return to_yaml(dataclasses.asdict(config))


def to_yaml(values: dict[str, Any]) -> str:
    """YAML of nested values; tuples become lists and paths strings."""
    return yaml.safe_dump(_plain(values), sort_keys=False)


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return str(value) if isinstance(value, Path) else value


def terminal(stderr: bool = False, soft_wrap: bool = False) -> Console:
    """The terminal, on which what people write (names, paths, sentences) comes out as typed.

    Brackets and colons style nothing; what is to be styled is a `rich.text.Text`. What the
    terminal's encoding lacks, as bytes in names that are no text, is escaped.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    return Console(stderr=stderr, soft_wrap=soft_wrap, markup=False, emoji=False, highlight=False)


def command(main: Callable[[list[str] | None], int | None]) -> Callable[..., int]:
    """Entry-point decorator: `main(args) -> status`, with faults of the user's as one line.

    Returns 2 after an InputError, and where the system does not allow something, and 130 after
    Ctrl-C; anything else is a fault of ours and keeps its trace.
    """

    @functools.wraps(main)
    def wrapped(args: list[str] | None = None) -> int:
        if os.getpid() == 1:
            # In a container, as process 1, a signal without a handler would be dropped.
            signal.signal(signal.SIGTERM, _unwind)
        try:
            return main(args) or 0
        except InputError as error:
            print(f"error: {readable(str(error))}", file=sys.stderr)
            return EXIT_BAD_INPUT
        except ImportError as error:
            if "pip install" not in str(error):  # a package that we did not check for is our fault
                raise
            print(f"error: {error}", file=sys.stderr)
            return EXIT_BAD_INPUT
        except OSError as error:
            if error.errno not in NOT_ALLOWED:
                raise
            print(f"error: {_not_allowed(error)}", file=sys.stderr)
            return EXIT_BAD_INPUT
        except KeyboardInterrupt:
            print("interrupted; run the same command again to go on", file=sys.stderr)
            return EXIT_INTERRUPTED

    return wrapped


NOT_ALLOWED = {
    **dict.fromkeys((errno.ENOSPC, errno.EDQUOT), "make room, then run the same command again"),
    **dict.fromkeys(
        (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENAMETOOLONG, errno.ENOTDIR),
        "it needs another place, a shorter name or permission",
    ),
}
"""What the system does not allow here, whatever we do, and the mend."""


def _not_allowed(error: OSError) -> str:
    place = "the disk" if error.filename is None else error.filename
    return f"{place}: {error.strerror}; {NOT_ALLOWED[error.errno or 0]}"


def _unwind(number: int, _: FrameType | None) -> None:
    raise SystemExit(128 + number)


UNKNOWN = re.compile(
    r"Group '(?P<group>[\w.]+)' does not accept option '(?P<key>[\w.-]+)'"
    r"|Option '(?P<option>[\w.-]+)' is not accepted"
    r"|unrecognized arguments: --(?P<flag>[\w.-]+)"
)


DENIED = re.compile(r"Importing '([^']*)' is not allowed")


def _explain(message: str, parser: jsonargparse.ArgumentParser, args: Sequence[str] | None) -> str:
    line = " ".join(message.split())
    given = list(sys.argv[1:] if args is None else args)
    file = f"{given[given.index('--config') + 1]}: " if "--config" in given else ""
    if denied := DENIED.search(line):
        line = CODE.format(shown(denied.group(1)))
    unknown = UNKNOWN.search(line)
    if unknown is None:
        line = readable(line)
        if line.startswith("Problems parsing config") and file:
            return f"{file}not valid YAML: {line}"
        return f"{file}{line}"
    group, key, option, flag = unknown.group("group", "key", "option", "flag")
    name = f"{group}.{key}" if group else option or flag
    known = [action.dest for action in parser._actions if action.dest != "print_config"]
    where = "" if flag else file
    if near := nearest(name, known):
        mend = f"did you mean {near!r}?"
    elif len(known) <= LISTED:
        mend = f"valid keys: {', '.join(known)}"
    else:
        mend = "--help lists the valid ones"
    return f"{where}unknown key {name!r}; {mend}"


NEAR = 0.75
"""Least likeness of a key that is suggested: two letters of eight may be wrong."""
LISTED = 20
"""Keys that an error message lists."""


def nearest(name: str, known: Sequence[str]) -> str | None:
    """The key that is most like `name`, None if none is near.

    It is its last part that counts, for sections have many keys: a section that was left out costs
    little, another one more.
    """
    section, _, word = name.rpartition(".")

    def likeness(key: str) -> float:
        other, _, end = key.rpartition(".")
        away = 0.01 if not section else 0.15 * (1 - _ratio(section, other))
        return _ratio(word, end) - (away if section != other else 0.0)

    best = max(known, key=likeness, default=None)
    return best if best is not None and likeness(best) >= NEAR else None


def _ratio(one: str, other: str) -> float:
    return difflib.SequenceMatcher(None, one, other).ratio()
