"""Whether a call has leave to be sent a second time."""

from __future__ import annotations

from collections.abc import Mapping

from common.domain.invocation import Invocation
from common.domain.rules import Retry
from common.registry.records import Entry


def leave_of(entry: Entry, invocation: Invocation) -> Retry:
    """The tool's ``retry``; ``safe`` also for a capability whose annotations the operator trusts.

    Annotations come from the backend and are no leave by themselves (2025-11-25, "Tool annotations": "clients MUST
    consider tool annotations to be untrusted unless they come from trusted servers").
    """
    tool = entry.tool
    if not tool.trust_annotations or tool.retry is not Retry.UNSENT or invocation.method != "tools/call":
        return tool.retry
    definition = entry.definition(str(invocation.params.get("name"))) or {}
    annotations = definition.get("annotations")
    if not isinstance(annotations, Mapping):
        return tool.retry
    harmless = annotations.get("readOnlyHint") is True or annotations.get("idempotentHint") is True
    return Retry.SAFE if harmless else tool.retry
