"""A web process takes other settings over: each live one is seen to hold, and what cannot be made changes nothing."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import orjson
import pytest

from common.control.reload import Reload, checked
from common.domain.audit import AuditEvent, EventKind
from common.domain.errors import ConfigurationError, GatewayError, StoreUnavailable
from common.domain.ids import ClientId, TenantId, ToolId
from common.domain.invocation import Caller
from common.gateway import Gateway
from common.settings import Settings
from common.settings.changes import changes_between
from gateway_web.http import IDENTITY
from gateway_web.identity import identity_problems
from tests.support.servers.issuer import AUDIENCE, Issuer, jwk
from tests.web.harness import Serve, Web
from tests.web.identity.support import facts, named

ISSUER = Issuer(keys=[jwk("ES256", "k1")])
ANN = Caller(tenant=TenantId("acme"), client=ClientId("ann"))
ECHO = ToolId("echo")
KEY = {"key": "key-of-ann", "tenant": "acme", "client": "ann", "scopes": ["a"]}
HEADERS = {name: name for name in ("x-tenant-id", "x-client-id", "x-other-tenant", "x-other-client", "x-sub")}
XFCC = {"x-forwarded-client-cert": 'Subject="CN=bot,O=Acme"'}
TOKEN = "x" * 16
CEL = {"id": "e", "type": "cel", "expression": "true"}
NO_CEL = {"id": "no", "type": "cel", "expression": "false"}
Sections = Mapping[str, Any]
Look = Callable[[Web], object]


def quota(web: Web) -> object:
    return web.gateway.tenants.quota_of("acme")


def let_in(web: Web) -> object:
    return refusal(lambda: web.gateway.tenants.authorise(TenantId("stranger")))


def judged(web: Web) -> object:
    return web.gateway.policy.judge(ANN, ECHO, "tools/call", {"name": "add"}).allowed


def refusal(do: Callable[[], object]) -> str:
    try:
        do()
    except GatewayError as error:
        return type(error).__name__
    return ""


def caller(headers: Mapping[str, str]) -> Look:
    def look(web: Web) -> object:
        identity = web.app.config[IDENTITY]
        try:
            found = identity.recognise(facts(headers))
        except GatewayError:
            return named(identity, facts(headers))
        return found

    return look


def bearer() -> Look:
    return caller({"authorization": f"Bearer {ISSUER.token(tenant='acme')}"})


def resolver(attribute: str) -> Look:
    return lambda web: getattr(web.app.config[IDENTITY]._resolvers[0], attribute)


def cache_of(web: Web) -> object:
    return web.app.config[IDENTITY]._resolvers[0]._cache._ttl


def metadata(web: Web) -> object:
    return web.http.get("/.well-known/oauth-protected-resource").json


ADMIN = {"enabled": True, "tokens": [{"name": "a", "token": TOKEN, "role": "admin"}]}


def sends_secrets(web: Web) -> object:
    """Whether a tool with credentials may be registered over the admin API."""
    entry = {"url": "https://tools.example/mcp", "credentials": {"inject": {"headers": {"X-Key": "{key}"}}}}
    headers = {"Authorization": f"Bearer {TOKEN}", "If-None-Match": "*"}
    return web.http.put("/admin/v1/tools/secretive", json=entry, headers=headers).status_code


def admin(web: Web) -> object:
    return web.http.get("/admin/v1/tools", headers={"Authorization": f"Bearer {TOKEN}"}).status_code


def api_key(**changes: Any) -> Sections:
    return {"identity": {"resolver": "api_key", "api_keys": [KEY], **changes}}


def header(**changes: Any) -> Sections:
    return {"identity": {"resolver": "header", **changes}}


def jwt(**changes: Any) -> Sections:
    token = {
        "issuer": ISSUER.name,
        "jwks": "JWKS",
        "audience": [AUDIENCE],
        "tenant_claim": "tenant",
        **changes,
    }
    return {"identity": {"resolver": "jwt", "jwt": token}}


def oauth(name: str) -> Sections:
    part = {
        "resource": "https://g.example",
        "authorization_servers": ["https://i.example"],
        "resource_name": name,
    }
    return {"identity": {"resolver": "api_key", "api_keys": [KEY], "oauth": part}}


def mtls(tenant: str) -> Sections:
    return {"identity": {"resolver": "mtls", "mtls": {"tenant": tenant}}}


def custom(**changes: Any) -> Sections:
    return {"identity": {"resolver": "tests.web.test_reload:Nobody", **changes}}


class Nobody:
    """A resolver that knows nobody."""

    def __init__(self, _settings: object) -> None:
        pass

    def resolve(self, _request: object) -> None:
        return None


def policy(**section: Any) -> Sections:
    return {"policy": section}


DENY = {"effect": "deny", "tools": ["echo"]}
BOUNDS = {
    "requests_per_minute": 7,
    "max_calls": 7,
    "client_requests_per_minute": 7,
    "client_max_calls": 7,
    "max_sessions": 7,
    "max_mcp_sessions": 7,
    "capabilities": [{"tool": "t", "requests_per_minute": 7}],
}
PROBES: dict[str, tuple[Sections, Sections, Look]] = {
    **{f"tenants.{key}": ({}, {"tenants": {key: value}}, quota) for key, value in BOUNDS.items()},
    "tenants.burst": (
        {"tenants": {"requests_per_minute": 7}},
        {"tenants": {"requests_per_minute": 7, "burst": 3}},
        quota,
    ),
    "tenants.client_burst": (
        {"tenants": {"client_requests_per_minute": 7}},
        {"tenants": {"client_requests_per_minute": 7, "client_burst": 3}},
        quota,
    ),
    "tenants.allow_unlisted": ({}, {"tenants": {"allow_unlisted": True}}, let_in),
    "tenants.listed": ({}, {"tenants": {"listed": ["stranger"]}}, let_in),
    "policy.rules": ({}, policy(rules=[DENY]), judged),
    "policy.tools": ({}, policy(tools={"echo": [{"effect": "deny", "tenants": ["acme"]}]}), judged),
    "policy.evaluators": (
        policy(evaluators=[CEL], evaluator="e"),
        policy(evaluators=[{**NO_CEL, "id": "e"}], evaluator="e"),
        judged,
    ),
    "policy.evaluator": (
        policy(evaluators=[CEL, NO_CEL], evaluator="e"),
        policy(evaluators=[CEL, NO_CEL], evaluator="no"),
        judged,
    ),
    "policy.tenants": (
        policy(evaluators=[NO_CEL]),
        policy(evaluators=[NO_CEL], tenants={"acme": "no"}),
        judged,
    ),
    "identity.api_keys": (
        api_key(),
        api_key(api_keys=[{**KEY, "key": "another"}]),
        caller({"x-api-key": "key-of-ann"}),
    ),
    "identity.required_scopes": (
        api_key(),
        api_key(required_scopes=["b"]),
        caller({"x-api-key": "key-of-ann"}),
    ),
    "identity.cache_ttl": (api_key(), api_key(cache_ttl=0), cache_of),
    "identity.recheck_interval": (
        api_key(),
        api_key(recheck_interval=9),
        lambda web: web.app.config[IDENTITY].watches.interval,
    ),
    "identity.resolver_timeout": (custom(), custom(resolver_timeout=1), resolver("_timeout")),
    "identity.tenant_header": (header(), header(tenant_header="X-Other-Tenant"), caller(HEADERS)),
    "identity.client_header": (header(), header(client_header="X-Other-Client"), caller(HEADERS)),
    "identity.subject_header": (header(), header(subject_header="X-Sub"), caller(HEADERS)),
    "identity.scopes_header": (header(), header(scopes_header="X-Sub"), caller(HEADERS)),
    "identity.jwt": (jwt(), jwt(audience=["somebody-else"]), bearer()),
    "identity.mtls": (mtls("acme"), mtls("other"), caller(XFCC)),
    "identity.oauth": (oauth("one"), oauth("two"), metadata),
    "admin.allow_credentials": (
        {"admin": ADMIN},
        {"admin": {**ADMIN, "allow_credentials": True}},
        sends_secrets,
    ),
    "admin.tokens": (
        {"admin": {"enabled": True, "tokens": [{"name": "a", "token": TOKEN}]}},
        {"admin": {"enabled": True, "tokens": [{"name": "a", "token": TOKEN[::-1] + "y"}]}},
        admin,
    ),
}
"""Of each live setting of web processes: the settings before, after, and what is seen to be another."""


def replaced(sections: Sections, jwks: str) -> dict[str, Any]:
    text = orjson.dumps(dict(sections)).decode().replace('"JWKS"', orjson.dumps(jwks).decode())
    found: dict[str, Any] = orjson.loads(text)
    return found


@pytest.fixture
def jwks(tmp_path: Path) -> str:
    file = tmp_path / "keys.json"
    file.write_bytes(orjson.dumps({"keys": ISSUER.keys}))
    return str(file)


def wanted(web: Web, sections: Sections) -> Settings:
    prefix = {"redis": {"key_prefix": web.gateway.settings.redis.key_prefix}}
    return Settings.model_validate({**prefix, **sections})


@pytest.mark.parametrize("setting", PROBES)
def test_a_changed_setting_holds_at_once(setting: str, serve: Serve, jwks: str) -> None:
    """And it is the one that changed."""
    before, after, look = PROBES[setting]
    web = serve(**replaced(before, jwks))
    seen = look(web)
    changes = changes_between(web.gateway.settings, wanted(web, replaced(after, jwks)))
    assert setting in changes.live
    assert changes.restart == ()
    web.gateway.take_over(changes)
    assert look(web) != seen
    assert web.gateway.settings == changes.settings


def test_what_cannot_be_made_changes_nothing_at_all(serve: Serve) -> None:
    """Of the parts that could, neither."""
    web = serve(**api_key())
    asked = {"x-api-key": "key-of-ann"}
    seen = caller(asked)(web)
    broken = {
        **api_key(api_keys=[{**KEY, "key": "another"}]),
        **policy(rules=[DENY], evaluators=[{**CEL, "expression": "((("}]),
        "tenants": {"max_calls": 1},
    }
    changes = changes_between(web.gateway.settings, wanted(web, broken))
    with pytest.raises(ConfigurationError):
        web.gateway.take_over(changes)
    assert caller(asked)(web) == seen
    assert judged(web) is True
    assert web.gateway.tenants.quota_of("acme").max_calls is None


class Choosy(Nobody):
    """A resolver that cannot be made of some settings."""

    def __init__(self, settings: Any) -> None:
        if settings.cache_ttl == 0:
            raise ConfigurationError("not with these")
        super().__init__(settings)


def test_what_fails_last_keeps_back_what_was_made_before(serve: Serve) -> None:
    """Everything is made before anything is put in place."""
    resolver = "tests.web.test_reload:Choosy"
    web = serve(identity={"resolver": resolver})
    broken = {"identity": {"resolver": resolver, "cache_ttl": 0}, "tenants": {"max_calls": 1}}
    changes = changes_between(web.gateway.settings, wanted(web, broken))
    assert set(changes.live) == {"identity.cache_ttl", "tenants.max_calls"}
    with pytest.raises(ConfigurationError):
        web.gateway.take_over(changes)
    assert web.gateway.tenants.quota_of("acme").max_calls is None


@pytest.mark.parametrize("change", [{"key": "another"}, {"tenant": "other"}, {"client": "bob"}])
def test_an_open_stream_ends_with_whom_it_was_opened_for(serve: Serve, change: Sections) -> None:
    """Its key was taken out, or is another tenant's or client's; at once, not when it is looked at next."""
    web = serve(**api_key(recheck_interval=600))
    ended: list[bool] = []
    identity = web.app.config[IDENTITY]
    asked = facts({"x-api-key": "key-of-ann"})
    identity.watch(asked, identity.recognise(asked), lambda: ended.append(True))
    changed = api_key(recheck_interval=600, api_keys=[{**KEY, **change}])
    web.gateway.take_over(changes_between(web.gateway.settings, wanted(web, changed)))
    end = time.monotonic() + 10
    while not ended and time.monotonic() < end:
        time.sleep(0.01)
    assert ended == [True]


@pytest.fixture
def told() -> list[AuditEvent]:
    return []


def reload_of(
    gateway: Gateway, read: Callable[[], Settings], told: list[AuditEvent], **options: Any
) -> Reload:
    return Reload(
        gateway, lambda: checked(read, identity_problems), process="p", record=told.append, **options
    )


def test_a_reload_tells_names_and_never_values(serve: Serve, told: list[AuditEvent]) -> None:
    """In the journal and the counts."""
    web, counts = serve(**api_key()), []
    listed = {"tenants": {"listed": ["acme"]}}
    after = wanted(web, {**api_key(api_keys=[{**KEY, "key": "hunter2"}]), **listed, "web": {"processes": 3}})
    reload = reload_of(web.gateway, lambda: after, told, count=counts.append)
    reload()
    reload()
    assert counts == ["taken", "taken"]  # the one that needs a restart is said again
    assert [event.kind for event in told] == [EventKind.SETTINGS_RELOADED] * 2
    assert told[0].detail == "taken over: identity.api_keys, tenants.listed; need a restart: web.processes"
    assert "hunter2" not in repr(told)
    reload_of(web.gateway, lambda: web.gateway.settings, told, count=counts.append)()
    assert (counts[-1], len(told)) == ("unchanged", 2)


@pytest.mark.parametrize("fault", [ConfigurationError("web.port is no port"), ValueError("odd")])
def test_what_is_wrong_is_told_and_nothing_is_raised(
    fault: Exception, serve: Serve, told: list[AuditEvent]
) -> None:
    """Also where the reading itself breaks."""
    web, counts = serve(), []
    before = web.gateway.settings

    def read() -> Settings:
        raise fault

    reload_of(web.gateway, read, told, count=counts.append)()
    assert counts == ["refused"]
    assert told[0].kind is EventKind.SETTINGS_REFUSED
    assert web.gateway.settings is before


def test_settings_with_a_broken_tool_are_refused(serve: Serve, told: list[AuditEvent]) -> None:
    """So is what nobody could ever be recognised by."""
    web = serve()
    from common.settings.model import ToolProblem

    read = wanted(web, {}).model_copy(update={"tool_problems": (ToolProblem(id="t", message="no command"),)})
    reload_of(web.gateway, lambda: read, told)()
    assert [(event.kind, event.detail) for event in told] == [
        (EventKind.SETTINGS_REFUSED, "tool t: no command")
    ]
    reload_of(web.gateway, lambda: wanted(web, api_key()), told)()
    assert "acme" in told[1].detail


def test_what_would_hold_beside_the_old_rest_is_looked_at(serve: Serve, told: list[AuditEvent]) -> None:
    """A file may be good, and the part of it that is live of no use with what waits for a restart."""
    listed = {"tenants": {"listed": ["acme"]}}
    web = serve(**api_key(), **listed)
    of_another = {"identity": {"resolver": "jwt", **jwt(tenant="other", tenant_claim=None)["identity"]}}
    after = wanted(web, {**of_another, "tenants": {"listed": ["other"]}})
    Reload(web.gateway, lambda: after, process="p", record=told.append, looks=(identity_problems,))()
    assert [event.kind for event in told] == [EventKind.SETTINGS_REFUSED]
    assert "acme" in told[0].detail
    assert caller({"x-api-key": "key-of-ann"})(web) == caller({"x-api-key": "key-of-ann"})(web)
    assert web.gateway.tenants.quota_of("acme") is not None


def test_a_journal_that_is_away_keeps_nothing_from_being_taken_over(serve: Serve) -> None:
    """It is in the log at least."""
    web = serve()

    def away(_event: AuditEvent) -> None:
        raise StoreUnavailable("Redis is away")

    after = wanted(web, {"tenants": {"max_calls": 3}})
    Reload(web.gateway, lambda: after, process="p", record=away)()
    assert web.gateway.tenants.quota_of("acme").max_calls == 3
