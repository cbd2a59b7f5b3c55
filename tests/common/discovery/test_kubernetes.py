"""Services of a cluster as tools: listed, watched, listed anew if need be, kept while nobody can say."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import yaml

from common.contracts.discovery import DiscoveryContract
from common.discovery import kube_api, kubernetes
from common.discovery.loading import make_source
from common.discovery.partial import Partial
from common.domain.egress import EgressRules
from common.domain.errors import ConfigurationError
from common.domain.ids import ClientId, TenantId, ToolId
from common.domain.invocation import Caller
from common.domain.policy import Counters
from common.domain.tool import Tool
from common.policy.judge import Judge
from common.ports import Discovery
from common.settings import PolicySettings, RuntimeSettings
from common.settings.definitions import tool_from_entry
from common.settings.egress import EgressSettings
from common.settings.kubernetes import KubernetesSettings
from common.settings.sources import SourceSettings
from tests.support.certificates import Authority, server_context
from tests.support.servers.kubernetes import KubernetesApi, running_kubernetes, service
from tests.support.wait import wait_until

Entries = Mapping[str, Mapping[str, Any]]
RULES = Path(__file__).parents[3] / "deploy" / "kubernetes" / "discovery-rbac.yaml"


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kubernetes, "LOOK", 0.02)
    monkeypatch.setattr(kubernetes, "AGAIN_FIRST", 0.02)
    monkeypatch.setattr(kubernetes, "AGAIN_MAX", 0.05)
    monkeypatch.setattr(kubernetes, "SETTLING", 0.01)


@pytest.fixture
def api() -> Iterator[KubernetesApi]:
    with running_kubernetes() as found:
        yield found


def source_of(
    api: KubernetesApi,
    rules: EgressRules | None = None,
    present: Mapping[str, Tool] | None = None,
    **settings: Any,
) -> Discovery:
    own = {"api_url": api.url, "token_file": None, "ca_file": None, "watch_timeout": 30, **settings}
    entry = {"name": "cluster", "type": "kubernetes", "kubernetes": own}
    registered = {"cluster": present or {}}
    return make_source(SourceSettings.model_validate(entry), rules or EgressRules(), registered.__getitem__)


class Watching:
    """A source at work in a thread."""

    def __init__(self, source: Discovery) -> None:
        self.named: list[Entries] = []
        self.fault: BaseException | None = None
        self._wanted = True
        self._source = source
        self.thread = threading.Thread(target=self._run)
        self.thread.start()

    def _run(self) -> None:
        try:
            for entries in self._source.watch(lambda: self._wanted):
                self.named.append(entries)
        except BaseException as error:
            self.fault = error

    @property
    def last(self) -> Entries | None:
        return self.named[-1] if self.named else None

    def await_tools(self, *ids: str) -> None:
        wait_until(
            lambda: self.last is not None and set(self.last) == set(ids),
            description=f"the tools are {ids}, not {self.last}, {self.fault!r}",
        )

    def end(self) -> None:
        self._wanted = False
        self.thread.join(10)
        assert not self.thread.is_alive()


@contextmanager
def watching(source: Discovery) -> Iterator[Watching]:
    found = Watching(source)
    try:
        yield found
    finally:
        found.end()


def entry_of(api: KubernetesApi, found: Mapping[str, Any], **settings: Any) -> Any:
    """What one service is."""
    api.replace(dict(found))
    with watching(source_of(api, **settings)) as seen:
        wait_until(lambda: seen.last is not None, description="it is named")
        assert seen.last is not None
        ((_, entry),) = seen.last.items()
        return entry


class TestContract(DiscoveryContract):
    """As any source, over HTTPS with the cluster's own authority and a token."""

    @pytest.fixture(autouse=True)
    def _cluster(self, tmp_path: Path) -> Iterator[None]:
        authority = Authority(tmp_path)
        self.ca, self.token = str(authority.file), tmp_path / "token"
        self.token.write_text("t-1\n")
        with running_kubernetes(server_context(authority.issue("127.0.0.1"))) as self.api:
            self.api.token = "t-1"
            yield

    def source(self) -> Discovery:
        return source_of(self.api, token_file=str(self.token), ca_file=self.ca, names_from=["tools"])

    def expected(self, url: str) -> str:
        host = (urlsplit(url).hostname or "").partition(".")[0]
        return f"https://{host}.tools.svc.cluster.local:443/mcp"

    def name(self, entries: Entries) -> None:
        self.api.replace(
            *(
                service(
                    (urlsplit(str(entry["url"])).hostname or "").partition(".")[0],
                    ports=[{"port": 443, "appProtocol": "https"}],
                    name=name,
                )
                for name, entry in entries.items()
            )
        )


def test_services_become_tools(api: KubernetesApi) -> None:
    """By namespace and name, at the one port there is."""
    api.put(service("search"), service("other", "team-a", path="/a/mcp", description="Finds things"))
    with watching(source_of(api)) as seen:
        seen.await_tools("tools.search", "team-a.other")
        assert seen.last == {
            "tools.search": {"url": "http://search.tools.svc.cluster.local:8080/mcp"},
            "team-a.other": {
                "url": "http://other.team-a.svc.cluster.local:8080/a/mcp",
                "description": "Finds things",
            },
        }


PORTS = [{"port": 80, "name": "web"}, {"port": 9000, "name": "mcp"}, {"port": 53, "protocol": "UDP"}]


@pytest.mark.parametrize(
    ("found", "settings", "entry"),
    [
        (service("s", ports=PORTS), {}, {"url": "http://s.tools.svc.cluster.local:9000/mcp"}),
        (service("s", ports=PORTS, port="web"), {}, {"url": "http://s.tools.svc.cluster.local:80/mcp"}),
        (service("s", ports=PORTS, port="80"), {}, {"url": "http://s.tools.svc.cluster.local:80/mcp"}),
        (service("s", transport="https"), {}, {"url": "https://s.tools.svc.cluster.local:8080/mcp"}),
        (
            service("s"),
            {"path": "/x", "cluster_domain": "c.example"},
            {"url": "http://s.tools.svc.c.example:8080/x"},
        ),
        (
            service("s", labels={"canalgate.dev/path": "/from"}),
            {},
            {"url": "http://s.tools.svc.cluster.local:8080/from"},
        ),
        (
            service("s", required_scopes="tools:read, tools:write"),
            {},
            {
                "url": "http://s.tools.svc.cluster.local:8080/mcp",
                "required_scopes": ["tools:read", "tools:write"],
            },
        ),
    ],
)
def test_annotations_say_more(
    api: KubernetesApi, found: Mapping[str, Any], settings: dict[str, Any], entry: dict[str, Any]
) -> None:
    assert entry_of(api, found, **settings) == entry


@pytest.mark.parametrize(
    ("found", "words"),
    [
        (service("s", kind="ExternalName"), "ExternalName"),
        (service("s", ports=PORTS[:1] + PORTS[2:] + [{"port": 81}]), "2 TCP ports and none named mcp"),
        (service("s", ports=PORTS, port="443"), "no TCP port '443'"),
        (service("s", ports=PORTS, port="53"), "no TCP port '53'"),
        (service("s", path="mcp"), "path must begin with /"),
        (service("s", path="/a/../b"), "path must begin with /"),
        (service("s", path="/a?x=1"), "path must begin with /"),
        (service("s", path="/a@evil.example/#"), "path must begin with /"),
        (service("s", transport="stdio"), "transport must be http or https"),
        (service("s", required_scopes=" , "), "required-scopes must hold at least one"),
        (service("s", name="team-a.x"), "must hold no dot"),
    ],
)
def test_what_is_wrong_with_a_service_is_told_of_it_alone(
    api: KubernetesApi, found: Mapping[str, Any], words: str
) -> None:
    """The others are named all the same."""
    api.put(service("good"))
    api.put(dict(found))
    with watching(source_of(api)) as seen:
        seen.await_tools("tools.good", "tools.s")
        assert seen.last is not None
        assert words in getattr(seen.last["tools.s"], "words", "")
        assert seen.last["tools.good"]["url"]


OLD, NEW = "2020-01-01T00:00:00Z", "2024-01-01T00:00:00Z"


def test_nobody_takes_anothers_name(api: KubernetesApi) -> None:
    """Of two that are there from the start and want an id it is the older one's."""
    api.put(service("b", "bad", born=NEW, name="search"), service("z", "good", born=OLD, name="search"))
    with watching(source_of(api, names_from=["good", "bad"])) as seen:
        seen.await_tools("search", "bad.b")
        assert seen.last is not None
        assert seen.last["search"]["url"] == "http://z.good.svc.cluster.local:8080/mcp"
        assert "is that of the service good.z" in seen.last["bad.b"].words  # type: ignore[attr-defined]


def url_of(seen: Watching, tool: str) -> str:
    assert seen.last is not None
    return str(seen.last[tool]["url"])


def test_who_has_an_id_keeps_it(api: KubernetesApi) -> None:
    """Also from an older one that wants it later, and when it is made anew: until it wants it no more."""
    api.put(service("s", "team-a", born=NEW, name="search"))
    with watching(source_of(api, names_from=["team-a", "team-b"])) as seen:
        seen.await_tools("search")
        api.put(service("x", "team-b", born=OLD, name="search"))
        seen.await_tools("search", "team-b.x")
        assert url_of(seen, "search") == "http://s.team-a.svc.cluster.local:8080/mcp"
        assert "is that of the service team-a.s" in seen.last["team-b.x"].words  # type: ignore[index,union-attr]
        api.put(service("s", "team-a", born="2026-01-01T00:00:00Z", name="search", path="/new"))
        wait_until(lambda: url_of(seen, "search").endswith("/new"), description="it is another")
        assert url_of(seen, "search").startswith("http://s.team-a.")
        api.remove("s", "team-a")
        seen.await_tools("search")
        assert url_of(seen, "search").startswith("http://x.team-b.")


def test_who_had_an_id_before_this_source_began_keeps_it(api: KubernetesApi) -> None:
    """Another worker goes on where one ended: the registry knows whose it is."""
    api.put(service("s", "team-a", born=NEW, name="search"), service("x", "team-b", born=OLD, name="search"))
    present = {"search": tool_at("search", "http://s.team-a.svc.cluster.local:8080/mcp")}
    with watching(source_of(api, present=present, names_from=["team-a", "team-b"])) as seen:
        seen.await_tools("search", "team-b.x")
        assert url_of(seen, "search").startswith("http://s.team-a.")


def test_ids_are_chosen_where_the_operator_says_so(api: KubernetesApi) -> None:
    """And nowhere else: a namespace that is not listed cannot have an id without its name in it."""
    api.put(service("s", "team-a", name="search"), service("x", "team-b", name="find"))
    with watching(source_of(api, names_from=["team-a"])) as seen:
        seen.await_tools("search", "team-b.x")
        assert "kubernetes.names_from" in seen.last["team-b.x"].words  # type: ignore[index,union-attr]


def tool_at(name: str, url: str) -> Tool:
    return tool_from_entry(name, {"url": url}, RuntimeSettings())


def fault_of(seen: Watching) -> str:
    return seen.last.fault if isinstance(seen.last, Partial) else ""


def keeps(seen: Watching, place: str) -> bool:
    assert isinstance(seen.last, Partial)
    return seen.last.kept(tool_at("x", f"http://{place}.svc.cluster.local:8080/mcp"))


@pytest.mark.parametrize("what", ["list", "watch"])
def test_a_namespace_that_is_refused_stops_no_other(api: KubernetesApi, what: str) -> None:
    """Its tools stay as they are, and are told; what goes in others is seen; it comes back by itself."""
    api.put(service("x", "a"), service("y", "b"), service("z", "b"))
    with watching(source_of(api, namespaces=["a", "b"])) as seen:
        seen.await_tools("a.x", "b.y", "b.z")
        api.refused["a"] = ("list", "watch") if what == "list" else ("watch",)
        wait_until(lambda: api.watching == 2, description="both are watched")
        api.cut()
        wait_until(lambda: "namespace a" in fault_of(seen), description="it is told")
        api.remove("y", "b")
        seen.await_tools("b.z")
        assert "403" in fault_of(seen)
        assert keeps(seen, "x.a")
        assert not keeps(seen, "y.b")
        del api.refused["a"]
        seen.await_tools("a.x", "b.z")
        wait_until(lambda: not fault_of(seen), description="it is mended")
        assert seen.fault is None


def test_a_namespace_that_is_refused_from_the_start_stops_no_other(api: KubernetesApi) -> None:
    """Nor does anybody take an id of it meanwhile."""
    api.put(service("s", "a", name="search"), service("y", "b", name="search"))
    api.refused["a"] = ("list", "watch")
    present = {"search": tool_at("search", "http://s.a.svc.cluster.local:8080/mcp")}
    source = source_of(api, present=present, namespaces=["a", "b"], names_from=["a", "b"])
    with watching(source) as seen:
        seen.await_tools("b.y")
        assert keeps(seen, "s.a")
        assert "is that of the service a.s" in seen.last["b.y"].words  # type: ignore[index,union-attr]


@pytest.mark.parametrize("namespaces", [[], ["a", "b"]])
def test_a_namespace_with_too_many_services_stops_no_other(api: KubernetesApi, namespaces: list[str]) -> None:
    """Its tools stay as they are, until it has fewer."""
    api.put(service("y", "b"), *(service(f"s{number}", "a") for number in range(4)))
    with watching(source_of(api, namespaces=namespaces, most_services=3)) as seen:
        seen.await_tools("b.y")
        assert fault_of(seen) == "namespace a has too many services"
        assert keeps(seen, "s0.a")
        api.put(service("z", "b"))
        seen.await_tools("b.y", "b.z")
        api.remove("s0", "a")
        seen.await_tools("b.y", "b.z", "a.s1", "a.s2", "a.s3")
        assert not fault_of(seen)


def test_of_too_many_in_all_the_largest_namespace_waits(
    api: KubernetesApi, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kubernetes, "MOST_TOOLS", 4)
    api.put(service("y", "b"), *(service(f"s{number}", "a") for number in range(4)))
    with watching(source_of(api)) as seen:
        seen.await_tools("b.y")
        assert "namespace a has too many" in fault_of(seen)


def test_pages_that_are_too_large_are_asked_for_in_smaller_ones(
    api: KubernetesApi, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By halves; what is large and nobody's business is not kept."""
    monkeypatch.setattr(kube_api, "PAGE", 8)
    monkeypatch.setattr(kube_api, "MOST_BYTES", 30_000)
    large = [service(f"s{number}", path="/mcp") for number in range(8)]
    for found in large:
        found["metadata"]["annotations"]["other.example/blob"] = "x" * 8_000
    api.put(*large)
    with watching(source_of(api)) as seen:
        seen.await_tools(*(f"tools.s{number}" for number in range(8)))
        assert [asked["limit"] for _, asked in api.requests if "watch" not in asked] == ["8", "4", *["2"] * 4]


def test_a_note_that_is_too_long_is_told(api: KubernetesApi) -> None:
    words = entry_of(api, service("s", description="x" * 5_000)).words
    assert "canalgate.dev/description has more than 4096 characters" in words


def test_rules_speak_of_a_namespace(api: KubernetesApi) -> None:
    """`team-a.*` is what is in that namespace, for its tenants alone, whatever others call theirs."""
    rules = [
        {"effect": "allow", "tenants": ["team-a"], "tools": ["team-a.*"]},
        {"effect": "allow", "tools": ["tools.*"]},
    ]
    judge = Judge(PolicySettings.model_validate({"rules": rules}), EgressRules(), lambda *_: Counters())
    api.put(
        service("search", "team-a"),
        service("search"),
        service("thief", "team-b", name="team-a.search"),
        service("other", "team-ab"),
    )

    def may(tenant: str, tool: str) -> bool:
        who = Caller(tenant=TenantId(tenant), client=ClientId("c"))
        return judge.judge(who, ToolId(tool), "tools/call", {"name": "x", "arguments": {}}).allowed

    with watching(source_of(api)) as seen:
        seen.await_tools("team-a.search", "tools.search", "team-b.thief", "team-ab.other")
        assert seen.last is not None
        assert url_of(seen, "team-a.search").startswith("http://search.team-a.svc.")
        assert {tool for tool in seen.last if may("team-a", tool)} == {"team-a.search", "tools.search"}
        assert {tool for tool in seen.last if may("team-b", tool)} == {"tools.search"}


def test_changes_are_watched_and_not_listed(api: KubernetesApi) -> None:
    """From the version of the list on, over watches that end by their time."""
    api.put(service("a"))
    with watching(source_of(api, watch_timeout=1)) as seen:
        seen.await_tools("tools.a")
        api.put(service("b"))
        seen.await_tools("tools.a", "tools.b")
        wait_until(lambda: _watches(api) > 1, description="another watch")
        api.put(service("c"))
        seen.await_tools("tools.a", "tools.b", "tools.c")
        api.remove("a")
        seen.await_tools("tools.b", "tools.c")
        assert api.lists() == 1
        _, asked = api.requests[0]
        assert asked["labelSelector"] == "canalgate.dev/mcp=true"


@pytest.mark.parametrize("status", [410, 503])
def test_a_refusal_of_a_watch_is_not_read_to_its_end(api: KubernetesApi, status: int) -> None:
    """It may have none."""
    api.put(service("a"))
    api.endless = True
    api.watch_statuses.append(status)
    with watching(source_of(api)) as seen:
        seen.await_tools("tools.a")
        wait_until(lambda: api.watching == 1, description="it is watched all the same")


def _watches(api: KubernetesApi) -> int:
    return sum("watch" in asked for _, asked in api.requests)


def _watched_from(api: KubernetesApi) -> list[int]:
    return [int(asked["resourceVersion"]) for _, asked in api.requests if "watch" in asked]


def test_a_bookmark_moves_the_version_on(api: KubernetesApi) -> None:
    """So that nothing has to be listed anew after a quiet time."""
    api.put(service("a"))
    api.bookmarks = True
    with watching(source_of(api)) as seen:
        seen.await_tools("tools.a")
        wait_until(lambda: api.watching == 1, description="it is watched")
        api.cut()
        wait_until(lambda: _watches(api) == 2, description="another watch")
        api.churn()
        api.cut()
        wait_until(lambda: _watches(api) == 3, description="another watch")
        api.forget()
        api.bookmarks = False
        api.cut()
        wait_until(lambda: _watches(api) >= 4, description="another watch")
        assert _watched_from(api)[3] >= _watched_from(api)[1] + 1000


@pytest.mark.parametrize("how", ["event", "status"])
def test_a_version_that_is_too_old_has_it_listed_anew(api: KubernetesApi, how: str) -> None:
    """Also what went meanwhile is seen, and nothing is named in between."""
    api.put(service("a"), service("b"))
    with watching(source_of(api)) as seen:
        seen.await_tools("tools.a", "tools.b")
        wait_until(lambda: api.watching == 1, description="it is watched")
        named = len(seen.named)
        if how == "status":
            api.watch_statuses.append(410)
        api.cut()
        api.remove("a")
        api.put(service("c"))
        api.forget()
        seen.await_tools("tools.b", "tools.c")
        assert api.lists() >= 2
        assert all(found for found in seen.named[named:])


@pytest.mark.parametrize(
    "fault",
    [
        lambda api: api.cut(),
        lambda api: api.send(b"{no json"),
        lambda api: api.send(b"[]"),
        lambda api: api.send({"type": "ADDED"}),
        lambda api: api.send({"type": "ERROR", "object": {"code": 500}}),
        lambda api: api.send({"type": "ADDED", "object": {"metadata": {"name": "x"}}}),
        lambda api: (api.watch_statuses.extend([500, 429, 503]), api.cut()),
    ],
)
def test_a_watch_that_breaks_is_taken_up_where_it_was(
    api: KubernetesApi, fault: Callable[[KubernetesApi], object]
) -> None:
    """Without listing, and without a word: nothing is named meanwhile."""
    api.put(service("a"))
    with watching(source_of(api)) as seen:
        seen.await_tools("tools.a")
        wait_until(lambda: api.watching == 1, description="it is watched")
        before = _watches(api)
        fault(api)
        wait_until(lambda: _watches(api) > before, description="another watch")
        api.put(service("b"))
        seen.await_tools("tools.a", "tools.b")
        assert [set(found) for found in seen.named] == [{"tools.a"}, {"tools.a", "tools.b"}]
        assert api.lists() == 1


@pytest.mark.parametrize("body", [b"", b"[]", b"{}", b'{"metadata": {"resourceVersion": "1"}, "items": 5}'])
def test_a_list_that_is_none_says_nothing(api: KubernetesApi, body: bytes) -> None:
    """It is not an empty one."""
    api.put(service("a"))
    api.bodies.append(body)
    with watching(source_of(api)) as seen:
        seen.await_tools("tools.a")
        assert len(seen.named) == 1


def test_an_empty_list_is_an_answer(api: KubernetesApi) -> None:
    """There are no tools then."""
    with watching(source_of(api)) as seen:
        seen.await_tools()


def test_long_lists_come_in_pages(api: KubernetesApi, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kube_api, "PAGE", 3)
    api.put(*(service(f"s{number}") for number in range(8)))
    with watching(source_of(api)) as seen:
        seen.await_tools(*(f"tools.s{number}" for number in range(8)))
        assert len(seen.named) == 1
        assert sum("continue" in asked for _, asked in api.requests) == 2


def test_a_page_that_is_gone_begins_anew(api: KubernetesApi, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kube_api, "PAGE", 1)
    api.put(service("a"), service("b"))
    api.statuses.append((410, {}))
    with watching(source_of(api)) as seen:
        seen.await_tools("tools.a", "tools.b")


def test_nothing_is_named_before_all_namespaces_are_known(api: KubernetesApi) -> None:
    """Else what is in the others would be taken for removed."""
    api.put(service("x", "a"), service("y", "b"), service("z", "c"))
    api.statuses.append((503, {}))
    with watching(source_of(api, namespaces=["a", "b"])) as seen:
        seen.await_tools("a.x", "b.y")
        assert len(seen.named) == 1
        assert {path for path, _ in api.requests} == {
            "/api/v1/namespaces/a/services",
            "/api/v1/namespaces/b/services",
        }


@pytest.mark.parametrize(("status", "words"), [(401, "does not know"), (403, "RBAC"), (404, "no such")])
def test_a_refusal_is_told_at_once(api: KubernetesApi, status: int, words: str) -> None:
    """With what is missing; the tools are kept by whoever watches it."""
    api.statuses.append((status, {}))
    with watching(source_of(api, namespaces=["a"])) as seen:
        wait_until(lambda: seen.fault is not None, description="it is told")
        assert isinstance(seen.fault, ConfigurationError)
        assert words in seen.fault.message
        assert "namespace a" in seen.fault.message


def test_failures_for_long_are_told(api: KubernetesApi, monkeypatch: pytest.MonkeyPatch) -> None:
    """And shorter ones are not."""
    monkeypatch.setattr(kubernetes, "PATIENCE", 0.3)
    api.statuses.extend([(503, {})] * 1000)
    begun = time.monotonic()
    with watching(source_of(api)) as seen:
        wait_until(lambda: seen.fault is not None, description="it is told")
        assert time.monotonic() - begun > 0.3
        assert isinstance(seen.fault, ConfigurationError)
        assert "503" in seen.fault.message


def test_it_waits_as_long_as_it_is_told(api: KubernetesApi) -> None:
    api.put(service("a"))
    api.statuses.append((429, {"Retry-After": "1"}))
    begun = time.monotonic()
    with watching(source_of(api)) as seen:
        seen.await_tools("tools.a")
        assert time.monotonic() - begun > 0.9


def test_the_token_is_read_anew(api: KubernetesApi, tmp_path: Path) -> None:
    """It is rotated while the gateway runs."""
    token = tmp_path / "token"
    token.write_text("t-1\n")
    api.token = "t-1"
    api.put(service("a"))
    with watching(source_of(api, token_file=str(token))) as seen:
        seen.await_tools("tools.a")
        wait_until(lambda: api.watching == 1, description="it is watched")
        token.write_text("t-2\n")
        api.token = "t-2"
        api.put(service("b"))
        api.cut()
        api.put(service("c"))
        seen.await_tools("tools.a", "tools.b", "tools.c")


def test_a_foreign_authority_is_not_trusted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kubernetes, "PATIENCE", 0.1)
    authority, other = Authority(tmp_path / "a"), Authority(tmp_path / "b")
    with (
        running_kubernetes(server_context(authority.issue("127.0.0.1"))) as api,
        watching(source_of(api, ca_file=str(other.file))) as seen,
    ):
        wait_until(lambda: seen.fault is not None, description="it is told")
        assert api.requests == []


def test_the_guard_judges_the_api_server(api: KubernetesApi, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is one of the operator's own places, and may be denied like those."""
    monkeypatch.setattr(kubernetes, "PATIENCE", 0.1)
    rules = EgressSettings.model_validate({"denied_networks": ["127.0.0.0/8"]}).rules
    with watching(source_of(api, rules)) as seen:
        wait_until(lambda: seen.fault is not None, description="it is told")
        assert api.requests == []


def test_outside_a_cluster_it_needs_an_address(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    entry = {"name": "c", "type": "kubernetes"}
    with pytest.raises(ConfigurationError, match=r"kubernetes\.api_url"):
        make_source(SourceSettings.model_validate(entry))
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "fd00::1")
    monkeypatch.setenv("KUBERNETES_SERVICE_PORT", "6443")
    assert kube_api.server_url(KubernetesSettings()) == "https://[fd00::1]:6443"
    make_source(SourceSettings.model_validate(entry))


def test_the_rights_in_the_manifest_are_those_that_are_used() -> None:
    """And no others."""
    documents = [found for found in yaml.safe_load_all(RULES.read_text(encoding="utf-8")) if found]
    roles = [found for found in documents if found["kind"] in ("Role", "ClusterRole")]
    assert roles
    for role in roles:
        assert role["rules"] == [{"apiGroups": [""], "resources": ["services"], "verbs": ["list", "watch"]}]
