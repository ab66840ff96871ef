"""Pytest option for the number of faults to try, and a table of faults that were tried, survived and lost."""

from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest

Recorder = Callable[..., None]


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--fault-cases", type=int, default=1, help="Cases of every kind of fault (tests marked faults).")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run a test with an argument `fault_seed` once for every case."""
    if "fault_seed" in metafunc.fixturenames:
        metafunc.parametrize("fault_seed", range(metafunc.config.getoption("fault_cases")))


@pytest.fixture
def record_fault(record_property: Callable[[str, Any], None]) -> Recorder:
    """Return a function that records cases of a fault for the table: name, number tried, number survived."""

    def record(fault: str, *, tried: int = 0, survived: int = 0) -> None:
        record_property("fault", (fault, tried, survived))

    return record


def pytest_terminal_summary(terminalreporter: Any) -> None:
    tried: Counter[str] = Counter()
    survived: Counter[str] = Counter()
    for reports in terminalreporter.stats.values():
        for report in reports:
            for name, value in getattr(report, "user_properties", ()):
                if name == "fault" and report.when == "call":
                    tried[value[0]] += value[1]
                    survived[value[0]] += value[2]
    if tried:
        terminalreporter.section("faults")
        terminalreporter.line(f"{'fault':<50} {'tried':>6} {'survived':>8} {'lost':>5}")
        for fault in sorted(tried):
            lost = tried[fault] - survived[fault]
            terminalreporter.line(f"{fault:<50} {tried[fault]:>6} {survived[fault]:>8} {lost:>5}")
