"""Who may use what, by rules alone."""

from __future__ import annotations

from typing import Any

import pytest

from common.domain import policy_rules
from common.domain.ids import ClientId, TenantId
from common.domain.invocation import Caller
from common.domain.policy import Capability, CapabilityKind, Ground
from common.domain.policy_rules import RuleSet
from common.policy.compiled import rules_of
from common.settings import PolicySettings

TOOL, RESOURCE, PROMPT = CapabilityKind.TOOL, CapabilityKind.RESOURCE, CapabilityKind.PROMPT
DENY, ALLOW = {"effect": "deny"}, {"effect": "allow"}


def caller(tenant: str = "t", client: str = "c", subject: str = "s", *scopes: str) -> Caller:
    return Caller(tenant=TenantId(tenant), client=ClientId(client), subject=subject, scopes=frozenset(scopes))


def rules(*common: dict[str, Any], **by_tool: list[dict[str, Any]]) -> RuleSet:
    return rules_of(PolicySettings.model_validate({"rules": common, "tools": by_tool}))


def allowed(
    made: RuleSet,
    who: Caller | None = None,
    tool: str = "git",
    name: str = "read",
    kind: CapabilityKind = TOOL,
) -> bool:
    return made.decide(who or caller(), tool, Capability(kind, name)).allowed


def test_without_rules_everything_is_allowed() -> None:
    """And an empty set of them says so."""
    assert allowed(rules())
    assert not rules()
    assert rules(DENY)
    assert rules(git=[DENY])


@pytest.mark.parametrize(
    ("criterion", "fits", "others"),
    [
        ({"tenants": ["t*"]}, caller("team"), caller("x")),
        ({"clients": ["a", "c"]}, caller("t", "c"), caller("t", "cc")),
        ({"subjects": ["*@a.example"]}, caller("t", "c", "me@a.example"), caller("t", "c", "me@b.example")),
        ({"subjects": ["a"]}, caller("t", "c", "a"), caller("t", "c", "")),
        ({"scopes": ["write:*"]}, caller("t", "c", "s", "read", "write:x"), caller("t", "c", "s", "read")),
        ({"scopes": ["*"]}, caller("t", "c", "s", "any"), caller("t", "c", "s")),
    ],
)
def test_a_rule_is_about_the_callers_that_it_names(
    criterion: dict[str, Any], fits: Caller, others: Caller
) -> None:
    """A denial of them leaves the others, a permission of them leaves nobody else."""
    assert (allowed(rules(DENY | criterion), fits), allowed(rules(DENY | criterion), others)) == (False, True)
    assert (allowed(rules(ALLOW | criterion), fits), allowed(rules(ALLOW | criterion), others)) == (
        True,
        False,
    )


def test_all_that_a_rule_names_must_fit() -> None:
    """Tenant and client."""
    made = rules(DENY | {"tenants": ["t"], "clients": ["c"]})
    assert not allowed(made, caller("t", "c"))
    assert allowed(made, caller("t", "d"))
    assert allowed(made, caller("u", "c"))


def test_a_rule_is_about_the_tools_that_it_names() -> None:
    """By pattern in the common list, by its place in a tool's own."""
    for made in (rules(DENY | {"tools": ["git*"]}), rules(git=[DENY])):
        assert not allowed(made, tool="git")
        assert allowed(made, tool="other")


@pytest.mark.parametrize(
    ("member", "kind", "pattern", "denied", "others"),
    [
        ("mcp_tools", TOOL, "delete_*", "delete_all", "read"),
        ("prompts", PROMPT, "p", "p", "q"),
        ("resources", RESOURCE, "note://a/*", "note://a/b", "note://b/b"),
        ("resources", CapabilityKind.TEMPLATE, "note://a/*", "note://a/{id}", "note://{x}/{id}"),
    ],
)
def test_a_rule_is_about_the_capabilities_that_it_names(
    member: str, kind: CapabilityKind, pattern: str, denied: str, others: str
) -> None:
    """And about no other kind: a permission of MCP tools permits no resource."""
    denies, allows = rules(DENY | {member: [pattern]}), rules(ALLOW | {member: [pattern]})
    assert (allowed(denies, name=denied, kind=kind), allowed(denies, name=others, kind=kind)) == (False, True)
    assert (allowed(allows, name=denied, kind=kind), allowed(allows, name=others, kind=kind)) == (True, False)
    another = PROMPT if kind is TOOL else TOOL
    assert allowed(denies, name=denied, kind=another)
    assert not allowed(allows, name=denied, kind=another)


def test_a_denial_goes_before_every_permission() -> None:
    """Wherever either stands."""
    assert not allowed(rules(ALLOW, DENY))
    assert not allowed(rules(DENY, ALLOW))
    assert not allowed(rules(ALLOW, git=[DENY]))
    assert not allowed(rules(DENY, git=[ALLOW]))
    named = DENY | {"mcp_tools": ["read"]}
    assert not allowed(rules(ALLOW, named))
    assert not allowed(rules(named, ALLOW | {"mcp_tools": ["read"]}))
    assert not allowed(rules(ALLOW, git=[ALLOW, named]))


def test_a_permission_makes_its_list_a_list_of_what_is_allowed() -> None:
    """Also for tools and callers that no rule is about."""
    made = rules(ALLOW | {"tools": ["git"], "tenants": ["t"]})
    assert allowed(made)
    assert not allowed(made, tool="other")
    assert not allowed(made, caller("u"))
    own = rules(git=[ALLOW | {"mcp_tools": ["read"]}])
    assert allowed(own, tool="other")
    assert not allowed(own, name="write")


def test_both_lists_must_agree() -> None:
    """The tool's own list widens nothing."""
    made = rules(ALLOW | {"tenants": ["t"]}, git=[ALLOW | {"mcp_tools": ["read"]}])
    assert allowed(made)
    assert not allowed(made, caller("u"))
    assert not allowed(made, name="write")


def test_a_decision_names_its_rule() -> None:
    """By its id, or its place in the file; what is on no list has none."""
    made = rules(
        DENY | {"mcp_tools": ["a"]}, DENY | {"id": "no-b", "mcp_tools": ["b"]}, git=[ALLOW | {"id": "r"}]
    )
    found = [made.decide(caller(), "git", Capability(TOOL, name)) for name in "abc"]
    assert [(decision.rule, decision.ground) for decision in found] == [
        ("rules[0]", Ground.RULE),
        ("no-b", Ground.RULE),
        ("r", None),
    ]
    denied = rules(ALLOW | {"tenants": ["u"]}).decide(caller(), "git", Capability(TOOL, "a"))
    assert (denied.rule, denied.ground) == ("", Ground.NOT_ALLOWED)


def test_a_uri_without_a_certain_reading_is_denied_where_rules_speak_of_resources() -> None:
    """And is the backend's own affair where they do not."""
    odd = "note://a/../b"
    for made in (rules(DENY | {"resources": ["x:*"]}), rules(ALLOW, DENY | {"resources": ["x:*"]})):
        found = made.decide(caller(), "git", Capability(RESOURCE, odd))
        assert (found.allowed, found.ground) == (False, Ground.UNCLEAR)
    assert allowed(rules(DENY | {"mcp_tools": ["x"]}), name=odd, kind=RESOURCE)
    assert allowed(rules(DENY | {"tenants": ["u"], "resources": ["x:*"]}), name=odd, kind=RESOURCE)


def test_what_names_no_capability_is_allowed_only_with_everything_else() -> None:
    """A method that nobody knows cannot be held against names."""
    assert rules(ALLOW).decide(caller(), "git", None).allowed
    assert rules(DENY | {"tenants": ["u"]}).decide(caller(), "git", None).allowed
    assert not rules(DENY | {"mcp_tools": ["x"]}).decide(caller(), "git", None).allowed
    assert not rules(ALLOW | {"mcp_tools": ["x"]}).decide(caller(), "git", None).allowed


def test_nothing_of_a_tool_may_be_used() -> None:
    """If a rule denies it as a whole, or no permission of a list is about it."""

    def shut(made: RuleSet, who: Caller) -> bool:
        return made.scope_of(made.kind_of(who), "git").shut is not None

    assert shut(rules(DENY | {"tools": ["git"]}), caller())
    assert shut(rules(ALLOW | {"tools": ["other"]}), caller())
    assert shut(rules(git=[ALLOW | {"tenants": ["u"]}]), caller())
    assert not shut(rules(git=[ALLOW | {"tenants": ["u"]}]), caller("u"))
    assert not shut(rules(DENY | {"mcp_tools": ["*"]}), caller())


def test_what_is_remembered_is_bounded_and_never_another_s(monkeypatch: pytest.MonkeyPatch) -> None:
    """Decisions are the same before and after all is forgotten; callers whom the same rules fit are of one kind."""
    monkeypatch.setattr(policy_rules, "MOST_CACHED", 5)
    made = rules(DENY | {"tenants": ["u"], "mcp_tools": ["a*"]})
    for _ in range(2):
        for number in range(20):
            assert allowed(made, caller("t", f"c{number}"), name="a")
            assert not allowed(made, caller("u", f"c{number}"), name=f"a{number}")
    assert len(made._decided) <= 5
    assert len(made._kinds) <= 5
    assert made.kind_of(caller("t", "1")) == made.kind_of(caller("t", "2"))
    assert made.kind_of(caller("t")) != made.kind_of(caller("u"))
    made.decide(caller("u"), "git", Capability(TOOL, "a" * 1000))
    assert not any(len(capability.name) > 512 for _, _, capability in made._decided)
