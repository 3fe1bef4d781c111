"""Which lines does each test reach, and how long does it take?

    python -m tests.mutation.reaching OUTPUT.json TEST_FILE …

A program of its own, which the tests of a copy of the checkout are run by; its status is theirs.
"""

import json
import sys
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path

import coverage
import pytest

from tests.mutation.changes import PARTS

OPTIONS = ("-q", "-m", "not slow", "-p", "no:cacheprovider", "--no-header")
"""Of pytest, here and when a change is tried."""


@dataclass
class Reach:
    """What a test reaches: of each file the lines that ran; and its seconds."""

    seconds: float = 0.0
    lines: dict[str, list[int]] = field(default_factory=dict)


class Watch:
    """A plugin of pytest: what runs counts to the test that runs it."""

    def __init__(self, tracer: coverage.Coverage) -> None:
        self._tracer = tracer
        self.tests: dict[str, Reach] = defaultdict(Reach)

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Iterator[None]:
        self._tracer.switch_context(item.nodeid)
        yield
        self._tracer.switch_context("")

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        self.tests[report.nodeid].seconds += report.duration


def main(output: Path, files: list[str]) -> int:
    """Run tests and write what each reached."""
    here = Path.cwd()
    tracer = coverage.Coverage(
        data_file=None,
        include=[f"{here / part}{'' if part.endswith('.py') else '/*'}" for part in PARTS],
    )
    tracer.start()
    watch = Watch(tracer)
    status = pytest.main([*OPTIONS, *files], plugins=[watch])
    tracer.stop()
    data = tracer.get_data()
    for file in data.measured_files():
        name = str(Path(file).relative_to(here))
        for line, tests in data.contexts_by_lineno(file).items():
            for test in filter(None, tests):
                watch.tests[test].lines.setdefault(name, []).append(line)
    output.write_text(json.dumps({test: asdict(reach) for test, reach in watch.tests.items()}))
    return int(status)


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), sys.argv[2:]))
