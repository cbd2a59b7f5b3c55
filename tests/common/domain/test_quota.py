"""Quotas: layers over one another, what contradicts itself is refused by name, globs for capabilities."""

from __future__ import annotations

from typing import Any

import pytest

from common.domain.errors import InvalidRequest
from common.domain.limits import Rate
from common.domain.quota import CapabilityRate, Quota, layer_from_wire, layer_to_wire, layered

GIT = {"tool": "git", "name": "push_*", "requests_per_minute": 6}


def test_a_layer_sets_what_it_holds_and_nothing_else() -> None:
    """None in it is no bound, whatever lies below."""
    below = Quota(requests_per_minute=60, burst=5, max_calls=3, max_sessions=2)
    over = layered(below, {"max_calls": None, "max_mcp_sessions": 7})
    assert over == Quota(requests_per_minute=60, burst=5, max_sessions=2, max_mcp_sessions=7)


def test_a_rate_is_set_as_a_whole() -> None:
    """The burst of another rate means nothing to it; without one, a minute's requests may come at once."""
    below = Quota(requests_per_minute=60, burst=5, client_requests_per_minute=6, client_burst=1)
    over = layered(below, {"requests_per_minute": 600, "client_requests_per_minute": None})
    assert (over.rate, over.client_rate) == (Rate(600, 600), None)
    assert below.rate == Rate(60, 5)


@pytest.mark.parametrize(
    ("wire", "field"),
    [
        ({"requests_per_minute": 0}, "requests_per_minute"),
        ({"requests_per_minute": -1}, "requests_per_minute"),
        ({"requests_per_minute": 10**9}, "requests_per_minute"),
        ({"requests_per_minute": 1.5}, "requests_per_minute"),
        ({"requests_per_minute": True}, "requests_per_minute"),
        ({"requests_per_minute": 5, "burst": 6}, "burst"),
        ({"burst": 5}, "burst"),
        ({"client_burst": 5}, "client_burst"),
        ({"client_requests_per_minute": 5, "client_burst": 0}, "client_burst"),
        ({"max_calls": 0}, "max_calls"),
        ({"client_max_calls": "many"}, "client_max_calls"),
        ({"max_sessions": -5}, "max_sessions"),
        ({"max_mcp_sessions": 10**9}, "max_mcp_sessions"),
        ({"enabled": 1}, "enabled"),
        ({"capabilities": "git"}, "capabilities"),
        ({"capabilities": [{"tool": "git"}]}, "capabilities"),
        ({"capabilities": [{**GIT, "tool": ""}]}, "capabilities.tool"),
        ({"capabilities": [{**GIT, "name": ""}]}, "capabilities.name"),
        ({"capabilities": [{**GIT, "burst": 7}]}, "capabilities.burst"),
        ({"capabilities": [{**GIT, "requests_per_minute": "6"}]}, "capabilities.requests_per_minute"),
        ({"capabilities": [GIT, {**GIT, "requests_per_minute": 7}]}, "capabilities"),
        ({"capabilities": [{**GIT, "name": str(n)} for n in range(101)]}, "capabilities"),
    ],
)
def test_what_makes_no_sense_is_refused_by_its_field(wire: dict[str, Any], field: str) -> None:
    """With a word on what to do."""
    with pytest.raises(InvalidRequest) as caught:
        layer_from_wire(wire)
    assert caught.value.data["field"] == field
    assert field in caught.value.message


def test_an_unknown_field_is_refused_with_those_there_are() -> None:
    """A limit that was misspelt must not be no limit."""
    with pytest.raises(InvalidRequest, match=r"max_call'.*max_calls"):
        layered(Quota(), {"max_call": 5})


def test_a_layer_survives_the_wire() -> None:
    """Also what it sets to no bound; what a newer writer has added is left out."""
    layer = {"enabled": False, "max_calls": None, "capabilities": (CapabilityRate(**GIT, burst=2),)}
    assert layer_from_wire({**layer_to_wire(layer), "newer": 1}) == layer


@pytest.mark.parametrize(
    ("glob", "name", "fits"),
    [
        ("*", "anything\nat all", True),
        ("push_*", "push_branch", True),
        ("push_*", "pull", False),
        ("push_*", "PUSH_x", False),
        ("push", "push_x", False),
        ("file:///a/*", "file:///a/b/c", True),
        ("a[bc]?", "abd", False),
        ("a.c", "abc", False),
    ],
)
def test_a_glob_fits_whole_names(glob: str, name: str, fits: bool) -> None:
    """Letters count as they are written; where nobody can tell the name, all fit."""
    limit = CapabilityRate(tool="git", name=glob, requests_per_minute=1)
    assert limit.matches("git", (name,)) is fits
    assert not limit.matches("other", (name,))
    assert not limit.matches("git", ()) or glob == "*"
    assert limit.matches("git", None)
