"""The gateway beside another checkout of itself: what is compared, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from benchmarks import earlier, run
from benchmarks.targets import EARLIER, GATEWAY, REPOSITORY


def row(name: str, cpu: list[float | None], rps: list[float | None], concurrency: int = 16) -> dict[str, Any]:
    """A row as the result file has it, as far as it is looked at."""
    return {
        "name": name,
        "version": "v1",
        "transport": "stdio",
        "concurrency": concurrency,
        "cpu_ms_of_rounds": cpu,
        "rps_of_rounds": rps,
    }


def test_rounds_are_compared_each_with_its_own() -> None:
    """A machine that became four times slower half-way changes nothing."""
    before = row(EARLIER, [1.0, 4.0, 4.0], [100.0, 25.0, 25.0])
    now = row(GATEWAY, [1.1, 4.4, 4.4], [90.0, 22.5, 22.5])
    assert earlier.lines([now, before]) == ["stdio, c=16: CPU 1.10x, calls/s 0.90x of v1"]


def test_a_round_without_a_figure_is_left_out() -> None:
    """And a cell without any has none."""
    rows = [row(EARLIER, [None, 2.0], [0.0, 0.0]), row(GATEWAY, [1.0, 3.0], [5.0, 5.0])]
    assert earlier.lines(rows) == ["stdio, c=16: CPU 1.50x, calls/s - of v1"]


def test_what_was_not_measured_beside_it_has_no_line() -> None:
    """The same concurrency is needed on both sides."""
    assert earlier.lines([row(GATEWAY, [1.0], [1.0])]) == []
    assert earlier.lines([row(GATEWAY, [1.0], [1.0]), row(EARLIER, [1.0], [1.0], concurrency=1)]) == []


def test_a_folder_that_is_no_checkout_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Before anything is started."""
    with pytest.raises(SystemExit):
        run.parse(["--against", str(tmp_path)])
    assert "no checkout of canalgate" in capsys.readouterr().err
    assert run.parse(["--against", str(REPOSITORY)]).against == REPOSITORY


def test_settings_are_given_by_their_dotted_names(capsys: pytest.CaptureFixture[str]) -> None:
    """Several of a section are one section; what names no key is refused."""
    options = run.parse(["--set", "audit.calls=false", "--set", "audit.max_backlog=5", "--set", "web.a.b=x"])
    assert run.nested(options.set) == {"audit": {"calls": False, "max_backlog": 5}, "web": {"a": {"b": "x"}}}
    own = next(target for target in run.chosen_targets(options) if target.name == GATEWAY)
    assert '"calls":false' in own.setup
    with pytest.raises(SystemExit):
        run.parse(["--set", "audit=1"])
    assert "no section.key=value" in capsys.readouterr().err
