"""What the worker's log lines are about: a call, or a tool session, whose lines belong to no call."""

from __future__ import annotations

from contextvars import Context
from typing import Any

from common.calls.head import Head, parts_of
from common.domain.ids import NodeId, ToolId, tool_of
from common.telemetry.about import About, apart


class AboutSession(About):
    """A tool session, or a call of one."""

    __slots__ = ()

    def facts(self) -> dict[str, Any]:
        """With the parties that the session's name holds, where the call itself was not read."""
        found = super().facts()
        if "tenant" not in found:
            tenant, client, _ = parts_of(self.session)
            if tenant:
                found |= {"tenant": tenant, "client": client}
        return found


def about_call(head: Head, node: NodeId) -> About:
    """A call that was begun."""
    about = AboutSession(tool=tool_of(head.queue) or "", session=head.session, node=node)
    about.id = head.id
    return about


def session_context(tool: ToolId, session: str, node: NodeId) -> Context:
    """The context of a session's own tasks: they outlive the call in whose course they begin, and serve others."""
    return apart(AboutSession(tool=tool, session=session, node=node))
