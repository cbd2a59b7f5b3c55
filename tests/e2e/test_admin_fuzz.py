"""The admin API of a real gateway against its own OpenAPI document: requests by schemathesis, for each role.

``ADMIN_FUZZ_EXAMPLES`` says how many a route has at random, beside those at the edges of each type.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.servers.gateway import RunningGateway, running_gateway
from tests.support.servers.process import server_command

pytestmark = pytest.mark.e2e
EXAMPLES = int(os.environ.get("ADMIN_FUZZ_EXAMPLES") or 0)
SEED = os.environ.get("FUZZ_SEED") or "1"
ROLES = ("viewer", "operator", "admin")
COMMAND, *ARGS = server_command("echo")
SETTINGS = {
    "admin": {
        "enabled": True,
        "tokens": [{"name": role, "token": f"the-token-of-the-{role}", "role": role} for role in ROLES],
    }
}


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningGateway]:
    tools = {"local": {"command": COMMAND, "args": ARGS}}
    with running_gateway(tools, directory=tmp_path_factory.mktemp("fuzz"), settings=SETTINGS) as found:
        yield found


@pytest.mark.timeout(600)
@pytest.mark.skipif(not EXAMPLES, reason="longer than CI has time for: make admin-fuzz")
@pytest.mark.parametrize("role", ROLES)
def test_the_document_says_what_is_answered(gateway: RunningGateway, role: str, tmp_path: Path) -> None:
    """Every status, type and schema is in it, what it forbids is refused, and nothing breaks the gateway."""
    command = [
        *(str(Path(sys.executable).parent / "schemathesis"), "--no-color"),
        *("--config-file", str(Path(__file__).with_name("schemathesis.toml"))),
        *("run", f"{gateway.url}/admin/v1/openapi.json", "--phases", "coverage,fuzzing"),
        *("--header", f"Authorization: Bearer the-token-of-the-{role}"),
        *("--max-examples", str(EXAMPLES), "--seed", SEED),
        *("--exclude-path", "/admin/v1/audit/stream"),  # it does not end
        *("--generation-database", "none", "--no-shrink", "--continue-on-failure"),
    ]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Tested:" in done.stdout
