"""Is a change that no test notices told apart from one that is noticed?"""

from pathlib import Path

import pytest

from tests.mutation.__main__ import choose, main, report, try_all
from tests.mutation.changes import all_changes, changed
from tests.mutation.reaching import Reach

SOURCE = '''
from functools import lru_cache


@lru_cache(maxsize=3)
def least(x: "1 + 1", y):
    """The smaller of two."""
    if x < y:
        return x
    return y
'''


@pytest.fixture
def project(tmp_path: Path) -> Path:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "__init__.py").write_text("")
    (tmp_path / "model" / "least.py").write_text(SOURCE)
    test = "from model.least import least\ndef test_least():\n    assert least(1, 2) == 1\n"
    (tmp_path / "test_least.py").write_text(test)
    return tmp_path


def test_every_single_change_is_found_but_those_of_decorators_and_types(project):
    found = list(all_changes(project, "model"))
    with_lines = {(change.operator, change.lines) for change in found}
    assert with_lines == {
        ("core/ReplaceComparisonOperator_Lt_LtE", (8,)),
        ("core/ReplaceComparisonOperator_Lt_Gt", (8,)),
        ("core/AddNot", (8,)),
    }


def test_a_change_is_there_only_while_it_is_tried(project):
    for change in all_changes(project, "model"):
        with changed(project, change):
            assert (project / "model" / "least.py").read_text() != SOURCE
        assert (project / "model" / "least.py").read_text() == SOURCE


def test_what_survives_is_printed_and_counted(project, capsys):
    changes = list(all_changes(project, "model"))
    known = {"test_least.py::test_least": Reach(0.1, {"model/least.py": [8, 9]})}
    ends = try_all([project], changes, known, limit=60)
    assert report(ends) == 1  # two of three are less than wanted
    out = capsys.readouterr().out
    assert "model/least.py:8 survived" in out
    assert "+    if x <= y:" in out
    assert "+    if x > y:" not in out
    assert "model: 2 of 3 noticed (66.7%)" in out


def test_tests_that_reach_a_line_are_asked_first_then_their_files(project):
    change = next(all_changes(project, "model"))
    there, elsewhere = {"model/least.py": [8]}, {"model/least.py": [5, 6]}
    known = {
        "a.py::slow": Reach(2.0, there), "a.py::quick": Reach(1.0, there),
        "a.py::beside": Reach(0.1, {}), "b.py::other": Reach(0.1, elsewhere),
    }  # fmt: skip
    assert choose(change, known) == ["a.py::quick", "a.py::slow", "a.py::beside"]
    assert choose(change, {"b.py::other": known["b.py::other"]}) == ["b.py::other"]


@pytest.mark.parametrize(
    "where", [{"only": "launch"}, {"only": "model/spans.py", "line": 1}, {"only": "model/x.py"}]
)
def test_where_nothing_can_be_changed_no_test_is_run(where):
    with pytest.raises(SystemExit, match=r"^error: there is nothing to change at '(launch|model/)"):
        main(**where)
