"""What may be taken from a file that anybody wrote? Data, of bounded size, and nothing else.

Every JSON and YAML text of the project is read here, and every name that a file gives is judged
here. Whatever a parser raises, and whatever it would not end with, becomes one line that names the
file and the place.
"""

import itertools
import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePath
from typing import Any

import yaml

from data_pipeline.errors import InputError

MAX_JSON = 256 << 20
"""Bytes of a JSON file: an index of a million samples has fewer."""
MAX_LINE = 32 << 20
"""Bytes of a line of JSONL: a row of a video of ten hours has fewer."""
MAX_YAML = 1 << 20
MAX_TEXT = 64 << 20
MAX_DEPTH = 64
MAX_NODES = 100_000
"""Of a YAML text."""
MAX_NAME = 255
"""Bytes of a file's name."""
MAX_PATH = 2048
SHOWN = 80
"""Letters of a value that a message repeats."""
MAX_MESSAGE = 1000
"""Letters of a message."""

CODE = "{}: names code, and what is read cannot choose what runs; remove the key 'class_path'"


@contextmanager
def reading(source: object, mend: str = "") -> Iterator[None]:
    """What is done inside takes apart what `source` holds: any fault of that is the source's.

    Raises InputError: `source`, what is wrong, `mend`. (A list of what parsing may raise would be
    too short: KeyError, TypeError, OverflowError, RecursionError, ...)
    """
    try:
        yield
    except InputError:
        raise
    except OSError as error:
        raise InputError(f"{source}: cannot be read: {error.strerror or error}") from error
    except Exception as error:
        said = shown(error) if isinstance(error, ValueError) else f"{error!r}"[:SHOWN]
        raise InputError(f"{source}: malformed ({said}){f'; {mend}' if mend else ''}") from error


def shown(value: object) -> str:
    """A value or an error in a message: one line, cut where it is long."""
    return readable(str(value) if isinstance(value, Exception) else _represented(value), SHOWN)


def readable(text: str, most: int = MAX_MESSAGE) -> str:
    """One line of at most `most` letters, all of which a terminal shows."""
    line = " ".join(text[: 4 * most].split())
    if not line.isprintable():
        line = "".join(letter if letter.isprintable() else ascii(letter)[1:-1] for letter in line)
    return line if len(line) <= most else f"{line[: most - 1]}…"


def _represented(value: object) -> str:
    # Of a long value, what is cut off need not be written first.
    if isinstance(value, str):
        return repr(value[: SHOWN + 1])
    if isinstance(value, int) and value.bit_length() > 1000:
        return f"a number of {value.bit_length()} bits"
    if isinstance(value, list | tuple):
        head = ", ".join(_represented(item) for item in value[:8])
        return f"[{head}{', …' if len(value) > 8 else ''}]"
    if isinstance(value, dict):
        items = itertools.islice(value.items(), 4)
        head = ", ".join(f"{_represented(key)}: {_represented(item)}" for key, item in items)
        return f"{{{head}{', …' if len(value) > 4 else ''}}}"
    return repr(value)


# Text


def read_text(path: Path, limit: int = MAX_TEXT) -> str:
    """The text of a UTF-8 file of at most `limit` bytes, without a mark at its begin."""
    try:
        return read_bytes(path, limit).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: not UTF-8 text; is it the right file?") from error


# JSON


def read_json(path: Path, limit: int = MAX_JSON, nan: bool = False) -> Any:
    """The value of a JSON file; InputError where there is none, or none that is safe to take."""
    return parse_json(read_bytes(path, limit), path, nan)


def read_bytes(path: Path, limit: int) -> bytes:
    """The bytes of a file of at most `limit`; InputError for others."""
    with reading(path), open(path, "rb") as file:
        data = file.read(limit + 1)
    if len(data) > limit:
        raise InputError(f"{path}: is larger than {limit / 1e6:.0f} MB; is it the right file?")
    return data


def parse_json(data: bytes | str, source: object, nan: bool = False) -> Any:
    """The value that a JSON text holds; `source` names it in messages.

    Raises InputError for what is no JSON, nested too deeply, no Unicode, names code, or, without
    `nan`, is not a number (NaN, Infinity: Python writes them, and a run that diverged has them).
    """
    try:
        # Windows' editors begin a file with a mark. (Of bytes, json would also take UTF-16.)
        text = data.decode("utf-8-sig") if isinstance(data, bytes) else data
        value = json.loads(text, parse_constant=None if nan else _refuse_constant)
    except json.JSONDecodeError as error:
        where = f" at letter {error.colno}" if error.lineno == 1 else f" at line {error.lineno}"
        raise InputError(f"{source}: not valid JSON ({error.msg}{where})") from error
    except UnicodeDecodeError as error:
        raise InputError(f"{source}: not UTF-8 text; is this a JSON file?") from error
    except (ValueError, RecursionError, MemoryError) as error:
        why = "nested too deeply" if isinstance(error, RecursionError) else shown(error)
        raise InputError(f"{source}: not valid JSON ({why})") from error
    check_plain(value, source)
    return value


def _refuse_constant(name: str) -> float:
    raise ValueError(f"{name} is no number of JSON")


def iter_rows(path: str | Path, nan: bool = False) -> Iterator[tuple[int, Any]]:
    """(line number, JSON value) of each line of a JSONL file that is not empty.

    Raises InputError naming file and line for an unreadable file or a line that is not JSON.
    """
    for number, line in iter_lines(path):
        yield number, parse_json(line, f"{path}:{number}", nan)


def iter_lines(path: str | Path) -> Iterator[tuple[int, bytes]]:
    """(line number, line) of each line of a text file that is not empty.

    Raises InputError naming file and line for an unreadable file or a line that is too long.
    """
    with reading(path), open(path, "rb") as file:
        number = 0
        while line := file.readline(MAX_LINE + 1):
            number += 1
            if len(line) > MAX_LINE:
                raise InputError(f"{path}:{number}: a line of over {MAX_LINE / 1e6:.0f} MB")
            if number == 1:
                line = line.removeprefix(b"\xef\xbb\xbf")  # editors of Windows begin with a mark
            if line.strip():
                yield number, line


# YAML


class _Loader(yaml.CSafeLoader):
    """Dates stay text, as in JSON."""


_Loader.yaml_implicit_resolvers = {
    letter: [(tag, form) for tag, form in resolvers if not tag.endswith(":timestamp")]
    for letter, resolvers in yaml.CSafeLoader.yaml_implicit_resolvers.items()
}


def read_yaml(path: Path) -> Any:
    """The value of a YAML file; InputError where there is none, or none that is safe to take."""
    return parse_yaml(read_bytes(path, MAX_YAML), path)


def parse_yaml(text: bytes | str, source: object) -> Any:
    """The value of a YAML text of plain scalars, lists and mappings, see `check_yaml`."""
    text = check_yaml(text, source)
    try:
        value = yaml.load(text, Loader=_Loader)
    except Exception as error:
        raise _not_yaml(error, source) from error
    check_plain(value, source)
    return value


def check_yaml(text: bytes | str, source: object) -> str:
    """The text, if a parser can take it in; InputError for what it would not end with.

    Too long, too deep (libyaml's composer then ends the interpreter), with aliases (nine lines of
    them are a billion nodes), of several documents, with tags, or no YAML.
    """
    if len(text) > MAX_YAML:
        raise InputError(f"{source}: is longer than {MAX_YAML / 1e6:.0f} MB; is it the right file?")
    if isinstance(text, bytes):
        try:
            text = text.decode("utf-8-sig")
        except UnicodeDecodeError as error:
            raise InputError(f"{source}: not UTF-8 text; is this a YAML file?") from error
    depth = nodes = documents = 0
    try:
        for event in yaml.parse(text, Loader=yaml.CSafeLoader):
            mark = event.start_mark
            place = f"{source}:{mark.line + 1}" if mark else str(source)
            documents += isinstance(event, yaml.DocumentStartEvent)
            if getattr(event, "anchor", None):  # which an alias has too
                raise InputError(f"{place}: YAML's anchors and aliases are not taken; write it out")
            if tag := getattr(event, "tag", None):
                raise InputError(f"{place}: YAML's tags ({shown(tag)}) are not taken")
            if isinstance(event, yaml.CollectionStartEvent):
                depth += 1
            elif isinstance(event, yaml.CollectionEndEvent):
                depth -= 1
            nodes += isinstance(event, yaml.NodeEvent)
            if depth > MAX_DEPTH or nodes > MAX_NODES or documents > 1:
                why = "nested too deeply" if depth > MAX_DEPTH else "too many values"
                raise InputError(f"{place}: {why}; is it the right file?")
    except InputError:
        raise
    except Exception as error:
        raise _not_yaml(error, source) from error
    return text


def _not_yaml(error: Exception, source: object) -> InputError:
    mark = getattr(error, "problem_mark", None)
    place = f"{source}:{mark.line + 1}" if mark else f"{source}"
    said = getattr(error, "problem", None) or str(error)
    return InputError(f"{place}: not valid YAML ({readable(said, SHOWN)})")


# Values and names


PLAIN = (str, dict, list, PurePath)


def check_plain(value: Any, source: object) -> None:
    """Raise InputError unless `value` is made of plain scalars, lists and mappings with text keys,
    holds no half of a character, no zero byte and no `class_path`, by which parsers let a file name
    code."""
    stack = [(value, 1)]
    while stack:
        value, depth = stack.pop()
        if isinstance(value, str | PurePath):
            _check_text(value, source)
        elif isinstance(value, dict | list | tuple):
            if depth > 2 * MAX_DEPTH:
                raise InputError(f"{source}: nested too deeply")
            if isinstance(value, dict):
                if "class_path" in value:
                    raise InputError(f"{source}: {CODE.format(shown(value['class_path']))}")
                for key in value:
                    if isinstance(key, str):
                        _check_text(key, source)
                value = value.values()
            # Numbers, by far the most, are not looked at one by one.
            stack += [(item, depth + 1) for item in value if isinstance(item, PLAIN)]


def _check_text(value: str | PurePath, source: object) -> None:
    text = str(value)
    if "\0" in text:
        raise InputError(f"{source}: {shown(text)} holds a zero byte")
    if not text.isascii():
        try:
            # A file's name is bytes, which need not be text.
            text.encode(errors="surrogateescape" if isinstance(value, PurePath) else "strict")
        except UnicodeEncodeError as error:
            raise InputError(f"{source}: {shown(text)} holds half of a character") from error


def natural(value: Any, bound: int = 2**48) -> int:
    """`value`, a whole number from 0 to below `bound`; ValueError for others."""
    if type(value) is not int or not 0 <= value < bound:
        raise ValueError(f"{shown(value)} is no count")
    return value


UNFIT = re.compile(r"[\x00-\x1f\x7f]")


def plain_name(value: Any, what: str, source: object, folders: bool = False) -> str:
    """`value`, a name that a file gives, if a file of that name stays in its folder.

    Raises InputError for what is no text, empty, longer than `MAX_NAME` bytes, `.` or `..`, or
    holds a slash, a backslash or a control character. `what` says what it is the name of. With
    `folders` it may lie in folders below, each of them a plain name.
    """
    if not isinstance(value, str):
        raise InputError(f"{source}: {what} is {shown(value)} and no name")
    parts = value.split("/") if folders else [value]
    if not all(_is_plain(part) for part in parts) or len(value) > MAX_PATH:
        below = "a plain name, or one in folders below" if folders else "a plain name"
        raise InputError(f"{source}: {what} {shown(value)} cannot name a file; use {below}")
    return value


def _is_plain(part: str) -> bool:
    if part in ("", ".", "..") or "/" in part or "\\" in part or UNFIT.search(part):
        return False
    return len(part.encode(errors="surrogatepass")) <= MAX_NAME
