"""All tools at once over the admin API: exported, planned, imported."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from common.control.tool_import import ToolImport
from common.domain.errors import VersionConflict
from common.domain.ids import ToolId
from common.domain.tool import MASK
from tests.web.admin.conftest import Ask
from tests.web.harness import Web

ENTRY = {"command": "cmd", "env": {"TOKEN": "sesame"}}


@pytest.fixture
def document(ask: Ask) -> Iterator[dict[str, dict[str, object]]]:
    """What is exported, two tools of the test's own among it."""
    for name in ("one", "two"):
        ask("DELETE", f"/tools/{name}")
        assert ask("PUT", f"/tools/{name}", json=ENTRY, headers={"If-None-Match": "*"}).status_code == 201
    yield ask("GET", "/config/export", role="viewer").json["tools"]
    for name in ("one", "two", "three"):
        ask("DELETE", f"/tools/{name}")


def told(ask: Ask, tools: object, query: str = "") -> dict[str, object]:
    answer = ask("POST", f"/config/import{query}", json={"tools": tools})
    assert answer.status_code == 200, answer.text
    return dict(answer.json)


def test_what_was_exported_changes_nothing(ask: Ask, document: dict[str, dict[str, object]]) -> None:
    """Secrets are masked in it, and stand for those that the tools have."""
    assert document["one"]["env"] == {"TOKEN": MASK}
    version = ask("GET", "/tools/one").headers["ETag"]
    done = told(ask, document)
    assert (done["created"], done["changed"], done["removed"]) == ([], [], [])
    assert sorted(done["unchanged"]) == sorted(document)
    assert ask("GET", "/tools/one").headers["ETag"] == version


def test_a_plan_is_what_is_done_then(
    ask: Ask, document: dict[str, dict[str, object]], admin_web: Web
) -> None:
    """A dry run changes nothing; what the document does not name stays."""
    tools = {"one": document["one"], "two": {**document["two"], "description": "new"}, "three": ENTRY}
    plan = told(ask, tools, "?dry_run=true")
    assert ask("GET", "/tools/three").status_code == 404
    done = told(ask, tools)
    assert plan == {**done, "dry_run": True}
    assert done == {
        "dry_run": False,
        "created": ["three"],
        "changed": ["two"],
        "unchanged": ["one"],
        "removed": [],
    }
    two = admin_web.gateway.registry.get(ToolId("two")).tool
    assert (two.description, two.transport.env) == ("new", {"TOKEN": "sesame"})
    assert ask("GET", "/tools/echo").status_code == 200


def test_only_with_prune_anything_is_removed(ask: Ask, document: dict[str, dict[str, object]]) -> None:
    """And only what the document does not name."""
    tools = {name: entry for name, entry in document.items() if name != "two"}
    assert told(ask, tools, "?prune=true")["removed"] == ["two"]
    assert ask("GET", "/tools/two").status_code == 404
    assert ask("GET", "/tools/one").status_code == 200


@pytest.mark.parametrize(
    ("entry", "field"),
    [
        ({"command": "sh"}, "tools.three.command"),
        ({"command": "cmd", "tiemout": 1}, "tools.three.tiemout"),
        ({"command": "cmd", "env": {"X": MASK}}, "tools.three.env.X"),
    ],
)
@pytest.mark.parametrize("query", ["", "?dry_run=true"])
def test_one_entry_at_fault_leaves_all_undone(
    ask: Ask, document: dict[str, dict[str, object]], entry: dict[str, object], field: str, query: str
) -> None:
    """It is named, also by a dry run."""
    tools = {"two": {**document["two"], "description": "new"}, "three": entry}
    answer = ask("POST", f"/config/import{query}", json={"tools": tools})
    assert answer.status_code == 400
    assert answer.json["field"] == field
    assert ask("GET", "/tools/two").json["definition"]["description"] != "new"


def test_what_others_changed_meanwhile_is_left(
    ask: Ask, document: dict[str, dict[str, object]], admin_web: Web
) -> None:
    """Between plan and deed; the rest is done, and the tool is named."""
    gateway = admin_web.gateway
    service = ToolImport(gateway.registry, gateway.settings)
    plan = service.plan(
        {name: {**document[name], "description": "new"} for name in ("one", "two")}, prune=False
    )
    ask("PATCH", "/tools/one", json={"description": "theirs"})
    with pytest.raises(VersionConflict) as found:
        service.apply(plan, actor="me")
    assert found.value.data["conflicts"] == ["one"]
    assert gateway.registry.get(ToolId("one")).tool.description == "theirs"
    assert gateway.registry.get(ToolId("two")).tool.description == "new"
