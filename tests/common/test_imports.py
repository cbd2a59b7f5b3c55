"""What importing costs, and that ``common`` is ours: the name is a common one."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

import common
import gateway_web
import gateway_worker

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = (common, gateway_web, gateway_worker)


def modules_after(statement: str) -> set[str]:
    """Names of all modules loaded in a fresh interpreter after ``statement``."""
    done = subprocess.run(
        [sys.executable, "-c", f"import json, sys\n{statement}\nprint(json.dumps(list(sys.modules)))"],
        capture_output=True,
        text=True,
        cwd="/",
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return set(json.JSONDecoder().decode(done.stdout.splitlines()[-1]))


def top_level(modules: set[str]) -> set[str]:
    return {name.partition(".")[0] for name in modules}


def test_common_is_ours() -> None:
    """Not another distribution's module of that name, and not half of each."""
    folders = {Path(str(package.__file__)).resolve().parent for package in PACKAGES}
    assert {folder.parent for folder in folders} == {folders.pop().parent}
    assert common.__doc__ == "What the web program and the worker program share."
    assert common.__version__.count(".") >= 2
    assert list(common.__path__) == [str(Path(str(common.__file__)).parent)]


def test_the_tests_test_this_tree() -> None:
    """Not an installed copy of an earlier day."""
    for package in PACKAGES:
        assert Path(str(package.__file__)).resolve().is_relative_to(ROOT)


def test_every_module_can_be_imported_first() -> None:
    """No import depends on another one having come before: no circle is hidden by the order."""
    names = sorted(
        ".".join(file.relative_to(ROOT).with_suffix("").parts)
        for package in (
            "domain",
            "mcp",
            "telemetry",
            "store",
            "registry",
            "calls",
            "sessions",
            "circuit",
            "audit",
        )
        for file in (ROOT / "common" / package).glob("[a-z]*.py")
    )
    program = (
        "import importlib, subprocess, sys\n"
        "for name in sys.argv[1:]:\n"
        "    for loaded in [m for m in sys.modules if m.partition('.')[0] == 'common']:\n"
        "        del sys.modules[loaded]\n"
        "    importlib.import_module(name)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, *names],
        capture_output=True,
        text=True,
        cwd="/",
        timeout=60,
        check=False,
    )
    assert len(names) > 20
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("module", ["ids", "errors", "tool", "invocation", "session"])
def test_the_domain_is_pure(module: str) -> None:
    """The standard library and itself: no store, no settings, no network."""
    loaded = top_level(modules_after(f"import common.domain.{module}"))
    assert loaded.isdisjoint({"redis", "pydantic", "orjson", "structlog", "yaml", "httpx", "flask", "celery"})
    ours = {name for name in modules_after(f"import common.domain.{module}") if name.startswith("common.")}
    assert all(name.startswith("common.domain") for name in ours)


def test_the_web_program_loads_neither_celery_nor_the_sdk() -> None:
    """They take seconds to start and 68 MB of each process."""
    loaded = top_level(modules_after("import gateway_web.app"))
    assert {"flask", "redis", "gateway_web", "common"} <= loaded
    assert loaded.isdisjoint({"celery", "kombu", "billiard", "mcp", "mcp_types", "httpx2", "gateway_worker"})


def test_what_both_share_loads_no_framework() -> None:
    """The Python API can be used without either program."""
    loaded = top_level(modules_after("import common.gateway"))
    assert loaded.isdisjoint({"flask", "werkzeug", "celery", "kombu", "gunicorn", "gevent", "mcp"})
    assert loaded.isdisjoint({"gateway_web", "gateway_worker", "tests"})


@pytest.mark.parametrize("program", ["gateway_web.app", "gateway_worker.pool"])
def test_nothing_of_opentelemetry_is_loaded_while_tracing_is_off(program: str, tmp_path: Path) -> None:
    """Off costs nothing, not even the import; the processes that hold calls load it when they start it."""
    (tmp_path / "canalgate.yaml").write_text("redis: {url: 'redis://127.0.0.1:1'}")
    statement = (
        f"import os\nos.environ['CANALGATE_CONFIG'] = {str(tmp_path / 'canalgate.yaml')!r}\n"
        f"import {program}\nfrom common.settings import load\nfrom common.telemetry.start import start_tracing\n"
        "assert start_tracing(load().telemetry, load().egress.rules, 'web') is None"
    )
    # redis imports the SDK's metrics by itself.
    parts = ("opentelemetry.sdk.trace", "opentelemetry.exporter", "opentelemetry.proto", "grpc")
    assert not {name for name in modules_after(statement) if name.startswith(parts)}
