"""The examples of docs/python.md, as they stand there, with nothing but Redis and a worker."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from tests.support.redis import RedisServer
from tests.support.servers.process import running

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "docs" / "python.md").read_text(encoding="utf-8")
EXAMPLES = dict(re.findall(r"<!-- example: (\w+) -->\n```python\n(.*?)```", TEXT, re.DOTALL))
SAID = {
    "call": "True\nsuccess hello\n",
    "stream": "1 of 3\n2 of 3\n3 of 3\nsuccess\n",
    "async": "['1.0', '2.0', '3.0', '4.0', '5.0']\n['demo']\n",
    "control": "TOOL_DISABLED\ntool_drained True\nTrue 1\n",
}


@pytest.fixture(scope="module")
def environment(
    redis_server: RedisServer, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[dict[str, str]]:
    """Of a program beside a worker."""
    place = tmp_path_factory.mktemp("python")
    demo = {"command": sys.executable, "args": ["-m", "gateway_worker.demo_server"]}
    (place / "canalgate.yaml").write_text(yaml.safe_dump({"tools": {"demo": demo}}), encoding="utf-8")
    redis_server.client(11).flushdb()
    added = {
        "CANALGATE_CONFIG": str(place / "canalgate.yaml"),
        "CANALGATE_REDIS__URL": redis_server.url(11),
        "CANALGATE_STATE_DIR": str(place / "state"),
        "PYTHONPATH": str(ROOT),
    }
    command = [sys.executable, "-m", "gateway_web", "worker", "-c", "4", "-n", "python@%h"]
    with running(command, log=place / "worker.log", env=added, remove="CANALGATE_") as worker:
        own = {name: value for name, value in os.environ.items() if not name.startswith("CANALGATE_")}
        yield own | added
        worker.stop()


@pytest.mark.e2e
def test_the_examples_say_what_they_should(environment: dict[str, str], tmp_path: Path) -> None:
    """In the order of the document; the first one publishes the tool."""
    assert set(EXAMPLES) == set(SAID)
    for name, text in EXAMPLES.items():
        script = tmp_path / f"{name}.py"
        script.write_text(text, encoding="utf-8")
        done = subprocess.run(
            [sys.executable, str(script)],
            env=environment,
            capture_output=True,
            text=True,
            timeout=50,
            check=False,
        )
        assert done.stdout.endswith(SAID[name]), (name, done.stderr)
        assert done.returncode == 0, (name, done.stderr)
