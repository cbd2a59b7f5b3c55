"""One test's cluster with the load on it, and the verdict on what happened."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import orjson

from common.audit.verify import verify_file
from tests.chaos.cluster import Cluster
from tests.chaos.journal import Journal
from tests.chaos.load import Load
from tests.chaos.mixes import rules_of
from tests.chaos.plan import AUDIT_FILE, AUDIT_KEY, Plan
from tests.chaos.program import Program
from tests.support.history import History
from tests.support.invariants import judge
from tests.support.servers.peer import Json
from tests.support.told import complete
from tests.support.verdict import Rules, Violation
from tests.support.wait import wait_until

SHOWN = 20


class Scene:
    """Belongs to one test: start a cluster, make calls, break things, and :meth:`judge`."""

    def __init__(self, home: Path, seed: str, stack: ExitStack) -> None:
        self.home = home
        self._seed = seed
        self._stack = stack
        self._cluster: Cluster | None = None
        self._load: Load | None = None

    def start(self, plan: Plan) -> Cluster:
        """Start the cluster, and the callers that know its web processes."""
        cluster = self._cluster = self._stack.enter_context(Cluster(plan, self.home))
        journal = self._callers = Journal(self.home / "client.jsonl")
        self._stack.callback(journal.close)
        self._load = self._stack.enter_context(
            Load(cluster.places, journal, seed=self._seed, out=cluster.out)
        )
        return cluster

    @property
    def cluster(self) -> Cluster:
        """The cluster that was started."""
        assert self._cluster is not None, "start() comes first"
        return self._cluster

    @property
    def load(self) -> Load:
        """The callers."""
        assert self._load is not None, "start() comes first"
        return self._load

    def backend_events(self, kind: str, call: str | None = None) -> list[Json]:
        """What the backends wrote down so far."""
        return [
            event
            for event in logged_so_far(self.home / "backend.jsonl")
            if event["event"] == kind and (call is None or event.get("call") == call)
        ]

    def wait_backend(self, kind: str, count: int = 1, *, timeout: float = 15.0) -> list[Json]:
        """Wait until the backends wrote so many events of a kind, all in all."""

        def found() -> list[Json] | None:
            events = self.backend_events(kind)
            return events if len(events) >= count else None

        events: list[Json] | None = wait_until(
            found, timeout=timeout, description=f"{count} times {kind} at the backends"
        )
        assert events is not None
        return events

    def owner(self, call: str) -> Program:
        """The worker whose child got a call; waits until one has."""

        def found() -> Program | None:
            markers = {event["marker"] for event in self.backend_events("got", call)}
            sessions = [event for event in self.backend_events("opened") if event["marker"] in markers]
            return self.cluster.worker_above(sessions[0]["ancestors"]) if sessions else None

        owner: Program | None = wait_until(found, timeout=15, description=f"a worker's child to get {call}")
        assert owner is not None
        return owner

    def answered_more(self, count: int, *, timeout: float = 30.0) -> float:
        """Wait for so many more good answers; returns the seconds that took."""
        wanted, begun = self.load.answered + count, time.monotonic()

        def answered() -> bool:
            self.load.check()
            return self.load.answered >= wanted

        wait_until(answered, timeout=timeout, description=f"{count} more good answers")
        return time.monotonic() - begun

    def note_sent(self, call: str, *, tool: str, client: str, deadline: float) -> None:
        """Write down a call that a test makes by itself, of the tenant ``acme`` in the legacy era."""
        facts = {"tool": tool, "tenant": "acme", "client": client, "era": "legacy", "deadline": deadline}
        self._callers.write("sent", call=call, port=self.cluster.places[0].port, **facts)

    def note_left(self, call: str) -> None:
        """Write down that its caller left."""
        self._callers.write("ended", call=call, outcome="left")

    def expect_codes(self, *allowed: str) -> None:
        """Fail if calls ended in another way than ``answered``, a stranger's refusal, or one of these."""
        others = set(self.load.codes) - {"answered", "FORBIDDEN", *allowed}
        assert not others, f"ends that nothing explains: {dict(self.load.codes)}"

    def codes(self) -> Counter[str]:
        """How the calls ended so far."""
        return Counter(self.load.codes)

    def judge(
        self, rules: Rules | None = None, *, quiet: float = 30.0, children: int | None = None
    ) -> History:
        """End the load, wait until all is quiet, and fail with every violation of the history."""
        self.load.finish()
        self.cluster.quiet(timeout=quiet, children=children)
        history = History.read(self.home)
        found = [*judge(history, rules or rules_of(self.cluster.plan.tools)), *self._journal(history)]
        shown = "\n".join(f"  {violation}" for violation in found[:SHOWN])
        print(f"{len(history.sent)} calls: {dict(self.load.codes)}")
        assert not found, f"{len(found)} violations of {len(history.sent)} calls:\n{shown}"
        return history

    def _journal(self, history: History) -> Iterator[Violation]:
        """What is wrong with the audit journal: in its file, once all of it has arrived there.

        Of what Redis itself forgot nobody can tell whether it had been told, so then only the file has to be sound.
        """
        wait_until(self.cluster.delivered, timeout=30, description="the journal to be in its file")
        path = self.home / AUDIT_FILE
        for problem in verify_file(path, AUDIT_KEY.encode()).problems:
            yield Violation(invariant="chain", text=f"{problem.flaw}: {problem.text}")
        if not self.cluster.forgetful:
            yield from complete(history, [record["event"] for record in logged_so_far(path)])

    def keep_dump(self) -> None:
        """Write down what Redis holds, for whoever looks into a failure."""
        if self._cluster is not None:
            self._cluster.keep_dump()


def logged_so_far(path: Path) -> list[Json]:
    """The events of a file that others are writing."""
    if not path.exists():
        return []
    whole = path.read_bytes().rpartition(b"\n")[0]
    return [orjson.loads(line) for line in whole.splitlines()]
