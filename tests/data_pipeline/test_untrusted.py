"""Whatever a text holds, it becomes plain values of bounded size or one line that says why not."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_pipeline.errors import InputError
from data_pipeline.untrusted import (
    MAX_MESSAGE,
    check_plain,
    iter_rows,
    natural,
    parse_json,
    parse_yaml,
    plain_name,
    read_json,
    readable,
    reading,
    shown,
)

LAUGHS = "\n".join(
    ["a0: &a0 [x, x]", *(f"a{n}: &a{n} [*a{n - 1}, *a{n - 1}]" for n in range(1, 9))]
)

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(codec="utf-8", exclude_characters="\0")),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text("abc"), inner, max_size=4),
    max_leaves=20,
)  # fmt: skip


def refusal(parse: Any, text: str | bytes) -> str:
    with pytest.raises(InputError) as caught:
        parse(text, "f")
    said = str(caught.value)
    assert said.isprintable()
    assert len(said) < 300
    return said


@given(VALUES)
def test_what_python_writes_is_read(value: Any) -> None:
    assert parse_json(json.dumps(value), "f") == value


@given(st.binary(max_size=200) | st.text(max_size=200))
def test_any_text_is_plain_values_or_one_line(text: bytes | str) -> None:
    for parse in (parse_json, parse_yaml):
        try:
            check_plain(parse(text, "f"), "f")
        except InputError as error:
            said = str(error)
        else:
            continue
        assert said.startswith("f")
        assert said.isprintable()


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("[" * 100_000, "nested too deeply"),
        ("[" * 3000 + "]" * 3000, "nested too deeply"),
        ("[" * 200 + "]" * 200, "nested too deeply"),
        ("9" * 5000, "not valid JSON"),
        ("[NaN]", "NaN is no number of JSON"),
        ("-Infinity", "-Infinity is no number of JSON"),
        (b"\xff\xfe{}", "not UTF-8 text"),
        ('{"a": 1,}', "at letter 9"),
        ("{\n\n]", "at line 3"),
        ('["\\ud800"]', "half of a character"),
        ('{"\\udfff": 1}', "half of a character"),
        ('["a\\u0000b"]', "zero byte"),
        ('[{"class_path": "os.system"}]', "names code"),
    ],
)
def test_json_that_no_reader_should_take(text: str | bytes, why: str) -> None:
    assert why in refusal(parse_json, text)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("[" * 100_000, "f:1: nested too deeply"),
        ("a: " + "[" * 30_000 + "]" * 30_000, "f:1: nested too deeply"),
        ("[" * 65 + "]" * 65, "nested too deeply"),
        (LAUGHS, "f:1: YAML's anchors and aliases"),
        ("a: 1\nb: *a", "f:2: YAML's anchors and aliases"),
        ("a: !!python/name:os.system", "f:1: YAML's tags"),
        ("- " * 60 + "\n" + "- a\n" * 100_001, "too many values"),
        ("a: " + "x" * 1_000_000 + "y" * 100_000, "longer than"),
        ("a: 1\n--- \nb: 2", "too many values"),
        ("a: [1", "not valid YAML"),
        (b"\xff\xfe\xfd", "not UTF-8"),
        ("a: {class_path: os.system}", "names code"),
        ("[1, 2]: 3", "f:1: not valid YAML (found unhashable key)"),
    ],
)
def test_yaml_that_no_reader_should_take(text: str | bytes, why: str) -> None:
    assert why in refusal(parse_yaml, text)


def test_plain_yaml_is_read_and_dates_stay_text() -> None:
    text = "a: 1\nb: [x, 2.5, null, true]\nc: 2024-01-01\n"
    assert parse_yaml(text, "f") == {"a": 1, "b": ["x", 2.5, None, True], "c": "2024-01-01"}
    assert parse_yaml("[" * 64 + "]" * 64, "f")


def test_numbers_that_json_lacks_are_read_where_they_are_asked_for() -> None:
    assert parse_json("[-Infinity, 1]", "f", nan=True) == [float("-inf"), 1]


def test_a_file_is_bounded_and_named(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    with pytest.raises(InputError, match=r"x\.json: cannot be read: No such file"):
        read_json(path)
    path.write_text("[" + "1," * 100 + "1]")
    assert len(read_json(path, limit=203)) == 101
    with pytest.raises(InputError, match=r"x\.json: is larger than"):
        read_json(path, limit=202)


def test_rows_come_with_their_lines_whatever_editor_wrote_them(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_bytes('\ufeff{}\r\n\r\n["a\u2028b"]\r\n3'.encode())
    assert list(iter_rows(path)) == [(1, {}), (3, ["a\u2028b"]), (4, 3)]
    path.write_bytes(b"{}\n{")
    with pytest.raises(InputError, match=r"rows\.jsonl:2: not valid JSON"):
        list(iter_rows(path))


@pytest.mark.parametrize(
    "name",
    [
        *("", ".", "..", "../x", "a/b", "/x", "a\\b", "a\0", "a\nb", "\x7f", "a" * 256, "é" * 128),
        *(None, 3, 0.5, True, ["a"], float("nan")),
    ],
)
def test_a_name_stays_in_its_folder(name: Any) -> None:
    with pytest.raises(InputError, match="the split"):
        plain_name(name, "the split", "f")


@pytest.mark.parametrize("name", ["/x", "a/../b", "a//b", "a/", "./a", "a/" * 1500 + "a", "..", ""])
def test_a_name_in_folders_below_does_not_leave_them(name: str) -> None:
    with pytest.raises(InputError, match="cannot name a file"):
        plain_name(name, "a video", "f", folders=True)


def test_ordinary_names_are_taken() -> None:
    for name in ("val", "RoripwjYFp8_60.0_210.0", "s13-d21.avi", "é" * 127, "A [x]: ...y", "-"):
        assert plain_name(name, "a name", "f") == name
    assert plain_name("2024/May/IMG 1", "a name", "f", folders=True) == "2024/May/IMG 1"


@pytest.mark.parametrize(
    "fault", [KeyError("x"), IndexError(), OverflowError(), RecursionError(), AttributeError("y")]
)
def test_what_taking_a_file_apart_trips_over_is_the_files_fault(fault: Exception) -> None:
    with pytest.raises(InputError, match=r"f: malformed \(.*\); mend it"), reading("f", "mend it"):
        raise fault


def test_what_a_message_repeats_is_short_and_printable() -> None:
    assert shown("x" * 10**6).endswith("…")
    assert len(shown(["y" * 1000] * 1000)) <= 80
    assert len(shown({"a": 10**5000})) <= 80
    assert shown("a\x1b[31mb\u2028\ud800") == ascii("a\x1b[31mb\u2028\ud800").replace("\\\\", "\\")
    assert readable("a\n\tb") == "a b"
    assert len(readable("z" * 10**7)) == MAX_MESSAGE


UNSAFE = re.compile(
    r"\bjson\.loads?\(|\byaml\.(safe_|full_|unsafe_)?load(_all)?\(|\bpickle\.loads?\(|\bnp\.load\("
    r"|\btorch\.load\((?![^)]*weights_only=True)|(?<![.\w])(eval|exec)\("
)


@pytest.mark.parametrize("hall", ["data_pipeline", "launch", "model", "trainer"])
def test_no_other_code_parses_what_files_hold(hall: str) -> None:
    root = Path(__file__).parents[2]
    found = {
        f"{path.relative_to(root)}: {match.group()}"
        for path in (root / hall).rglob("*.py")
        for match in UNSAFE.finditer(path.read_text())
        if path.name != "untrusted.py"
    }
    assert found == set()


def test_a_mark_of_an_editor_is_passed_over_and_counts_are_from_0_on() -> None:
    assert parse_json(b"\xef\xbb\xbf[1]", "f") == [1]
    assert natural(0) == 0
    for value in (-1, 2**48, 1.0, True, "1"):
        with pytest.raises(ValueError, match="no count"):
            natural(value)
