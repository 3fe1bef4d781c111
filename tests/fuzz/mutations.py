"""What can go wrong with a file, or be done to it: bytes, values, texts and names.

Every mutation draws from the `random.Random` it is given and from nothing else.
"""

import copy
import io
import json
import random
import string
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from data_pipeline.mapped import Mapped, write_arrays

STRANGER = {"class_path": "stranger.Guest", "init_args": {"a": 1}}
"""Names a module that the campaign looks out for."""

OUTSIDE = ("../secret", "../../secret", "{root}/secret", "a/../../secret", "..", "/etc/hostname")
"""Names that lead out of a case's folder; `secret` lies beside it."""

# Bytes


def mutate_bytes(draw: random.Random, data: bytes) -> bytes:
    """One to three changes of a file's bytes."""
    for _ in range(draw.choice((1, 1, 1, 2, 3))):
        data = draw.choice(BYTES)(draw, data)
    return data


def _place(draw: random.Random, data: bytes) -> tuple[int, int]:
    start = draw.randrange(len(data) + 1)
    return start, min(len(data), start + draw.choice((1, 2, 4, 8, 16, 64, 512, 4096)))


def _flip(draw: random.Random, data: bytes) -> bytes:
    if not data:
        return b"\0"
    changed = bytearray(data)
    changed[draw.randrange(len(data))] ^= 1 << draw.randrange(8)
    return bytes(changed)


def _fill(draw: random.Random, data: bytes) -> bytes:
    start, end = _place(draw, data)
    fill = draw.choice((b"\0", b"\xff", b" ", b"[", b"{", b'"', b"9", b"\n"))
    return data[:start] + fill * (end - start) + data[end:]


def _noise(draw: random.Random, data: bytes) -> bytes:
    start, end = _place(draw, data)
    return data[:start] + draw.randbytes(end - start) + data[end:]


def _cut(draw: random.Random, data: bytes) -> bytes:
    return data[: draw.randrange(len(data) + 1)]


def _drop(draw: random.Random, data: bytes) -> bytes:
    start, end = _place(draw, data)
    return data[:start] + data[end:]


def _repeat(draw: random.Random, data: bytes) -> bytes:
    start, end = _place(draw, data)
    return data[:end] + data[start:end] * draw.choice((1, 2, 50)) + data[end:]


def _insert(draw: random.Random, data: bytes) -> bytes:
    start, _ = _place(draw, data)
    odd = draw.choice((b"\0", b"\xff\xfe", b"\xef\xbb\xbf", b"\xed\xa0\x80", b"\r", b"\x1b[2J"))
    return data[:start] + odd + data[start:]


def _exchange(draw: random.Random, data: bytes) -> bytes:
    """Two blocks of one size change places: a sum over them stays the same."""
    size = 8 * draw.choice((1, 2, 8, 32))
    blocks = len(data) // size
    if blocks < 2:
        return data[::-1]
    one, other = (size * place for place in sorted(draw.sample(range(blocks), 2)))
    first, second = data[one : one + size], data[other : other + size]
    return data[:one] + second + data[one + size : other] + first + data[other + size :]


BYTES: tuple[Callable[[random.Random, bytes], bytes], ...] = (
    *(_flip, _fill, _noise, _cut, _drop, _repeat, _insert, _exchange),
)

# Values


def odd_value(draw: random.Random, root: Path) -> Any:
    """A value that is seldom where it is met."""
    values = (
        *(None, True, False, 0, -1, 1, 2**31, 2**53, 2**63, 2**64, -(2**63), 10**30, 10**400),
        *(0.5, -0.0, 1e308, -1e308, 5e-324, float("nan"), float("inf"), float("-inf")),
        *(
            "",
            " ",
            "0",
            "x",
            "NaN",
            "null",
            "\0",
            "a\0b",
            "\ud800",
            "\u2028",
            "\x1b[31m",
            "...",
        ),
        *("[/x]", "[bold]", ":cat:", "{0}", "%s", "$x$", "<script>", "'", '"', "\\", "\n"),
        *(name.format(root=root) for name in OUTSIDE),
        *([], [[]], [None], {}, {"": {}}, {"a": 1}, [0.1, 0.2], [1, 2, 3], ["a", "b"]),
        *("x" * 300, "é" * 200, "x" * 100_000, list(range(1000)), _deep(draw.choice((20, 70)))),
        *(STRANGER, {"note": STRANGER}, [STRANGER], "stranger.Guest"),
    )
    return copy.deepcopy(draw.choice(values))  # it may be changed in its turn


def _deep(levels: int) -> Any:
    value: Any = 1
    for level in range(levels):
        value = [value] if level % 2 else {"a": value}
    return value


def places(value: Any) -> Iterator[tuple[Any, ...]]:
    """The path of every value inside `value`, itself first; `value` may be nested deeply."""
    waiting: list[tuple[tuple[Any, ...], Any]] = [((), value)]
    while waiting:
        path, value = waiting.pop()
        yield path
        if isinstance(value, dict | list):
            items = value.items() if isinstance(value, dict) else enumerate(value)
            waiting += [((*path, key), item) for key, item in items]


def mutate_value(draw: random.Random, value: Any, root: Path) -> Any:
    """One to three changes of nested values: others, none, more, elsewhere."""
    value = copy.deepcopy(value)
    for _ in range(draw.choice((1, 1, 1, 2, 3))):
        path = draw.choice(list(places(value)))
        if not path:
            if draw.random() < 0.1:
                value = odd_value(draw, root)
            continue
        *above, key = path
        inside = value
        for step in above:
            inside = inside[step]
        kind = draw.randrange(10)
        if kind < 5:
            inside[key] = odd_value(draw, root)
        elif kind == 5:
            del inside[key]
        elif kind == 6 and isinstance(inside, dict):
            inside[draw.choice(("", "x", "class_path", str(key) + "_"))] = inside.pop(key)
        elif kind == 7 and isinstance(inside, list):
            inside.insert(key, copy.deepcopy(draw.choice(inside)))
        elif kind == 8 and isinstance(inside, list):
            draw.shuffle(inside)
        elif isinstance(inside[key], int | float):
            inside[key] = draw.choice((inside[key] + 1, inside[key] - 1, -inside[key], 0))
        else:
            inside[key] = [inside[key]]
    return value


def mutate_json(draw: random.Random, data: bytes, root: Path) -> bytes:
    """A JSON file with other values, another text, or other bytes."""
    return _mutate_text(draw, data, root, json.loads, json.dumps, HOSTILE_JSON)


def mutate_rows(draw: random.Random, data: bytes, root: Path) -> bytes:
    """A JSONL file with one line changed, doubled, left out, or a row of another kind."""
    lines = data.splitlines(keepends=True) or [b"{}\n"]
    place = draw.randrange(len(lines))
    kind = draw.randrange(8)
    if kind < 5:
        lines[place] = mutate_json(draw, lines[place], root).replace(b"\n", b" ") + b"\n"
    elif kind == 5:
        lines.insert(place, draw.choice(lines))
    elif kind == 6:
        del lines[place]
    else:
        return mutate_bytes(draw, data)
    return b"".join(lines)


def mutate_yaml(draw: random.Random, data: bytes, root: Path) -> bytes:
    """A YAML file with other values, another text, or other bytes."""

    def dump(value: Any) -> str:
        try:
            return yaml.safe_dump(value)
        except (yaml.YAMLError, UnicodeError):
            return json.dumps(value)

    return _mutate_text(draw, data, root, yaml.safe_load, dump, HOSTILE_YAML)


def _mutate_text(
    draw: random.Random,
    data: bytes,
    root: Path,
    load: Callable[[bytes], Any],
    dump: Callable[[Any], str],
    hostile: tuple[str, ...],
) -> bytes:
    kind = draw.random()
    if kind < 0.7:
        text = dump(mutate_value(draw, load(data), root))
        return text.encode("utf-8", errors="surrogatepass")
    if kind < 0.8:
        return draw.choice(hostile).encode("utf-8", errors="surrogatepass")
    return mutate_bytes(draw, data)


def mutate_arrays(draw: random.Random, data: bytes, root: Path) -> bytes:
    """A file of arrays with other values, or fewer, and the checksums of these."""
    with tempfile.NamedTemporaryFile() as file:
        file.write(data)
        file.flush()
        found = Mapped.of_file(Path(file.name))
    arrays = {name: np.array(array) for name, array in found.items()}
    for _ in range(draw.randint(1, 3)):
        name = draw.choice(sorted(arrays))
        array = arrays[name]
        if draw.random() < 0.1 or not len(array):
            arrays[name] = array[:-1]
            continue
        values = [draw.choice(array.tolist()), 0, 1, 2**40, 255, draw.randrange(256)]
        bits = 8 * array.dtype.itemsize - (array.dtype.kind == "i")
        array[draw.randrange(len(array))] = draw.choice(values) % 2**bits
    target = io.BytesIO()
    write_arrays(target, arrays, found.notes)
    return target.getvalue()


HOSTILE_JSON = (
    *("", " ", "null", "[]", "{}", "3", '"x"', "NaN", "-Infinity", "[NaN]", "\ufeff{}", "\0"),
    *("[" * 100_000, "[" * 3000 + "]" * 3000, '{"a":' * 50_000, "9" * 5000, "[" + "9" * 5000 + "]"),
    *(
        '{"a": 1e400}',
        '"\\ud800"',
        '{"\\ud800": 1}',
        '{"a": 1, "a": 2}',
        "[1,]",
        "{'a': 1}",
        "// x",
    ),
    *('"' + "x" * 3_000_000 + '"', "[" + "[]," * 200_000 + "[]]", '"\x1b[31m"', "\u2028", "<html>"),
)

HOSTILE_YAML = (
    *("", "---", "- 1", "3", "a: b: c", "a: [1", "\ta: 1", "a: 1\na: 2", "? [1]\n: 2", "%YAML 9.9"),
    *("[" * 100_000, "a: " + "[" * 30_000 + "]" * 30_000, "a: [" * 3000, "{" * 3000, "- " * 50_000),
    *(
        "a: !!python/object/apply:os.system ['touch OWNED']",
        "!!python/name:os.system",
        "a: !!set {x}",
    ),
    *(
        "--- 1\n--- 2",
        "a: &x 1\nb: *x",
        "a: &x [*x]",
        "<<: {a: 1}",
        "a: !!binary aGk=",
        "a: 2024-01-01",
    ),
    "\n".join(["a0: &a0 [x, x]", *(f"a{n}: &a{n} [*a{n - 1}, *a{n - 1}]" for n in range(1, 40))]),
    "\n".join(f"{letter * 3}{n}: 1" for letter in string.ascii_lowercase for n in range(4000)),
    *(
        "\0",
        "\x1b[2J",
        "name: \x07",
        "a: 0o99999999999",
        "a: 1e999",
        "a: .nan",
        "a: 9" + "9" * 5000,
    ),
    *("model: stranger.Guest", "model: {class_path: stranger.Guest}", "x: " + "y" * 1_500_000),
)

# Files


def replace_file(draw: random.Random, path: Path, folder: Path) -> None:
    """Something else is where the file was."""
    others = [p for p in folder.rglob("*") if p.is_file() and p != path]
    data = path.read_bytes()
    path.unlink()
    kind = draw.randrange(6)
    if kind == 0:
        path.mkdir()
    elif kind == 1:
        path.symlink_to(path.name)
    elif kind == 2:
        path.symlink_to("nowhere")
    elif kind == 3 and others:
        path.write_bytes(draw.choice(others).read_bytes())
    elif kind == 4:
        path.write_bytes(data + data)
    elif kind == 5:
        path.write_bytes(b"")
