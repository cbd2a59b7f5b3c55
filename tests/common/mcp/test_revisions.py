"""The table of revisions: eras, negotiation, order, methods."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.mcp.revisions import (
    LATEST_LEGACY,
    LATEST_MODERN,
    LEGACY_VERSIONS,
    MODERN_VERSIONS,
    Era,
    at_least,
    client_notifications,
    client_requests,
    era_of_header,
    era_of_version,
    negotiate_legacy,
    server_notifications,
    server_requests,
)

ALL_VERSIONS = (*LEGACY_VERSIONS, *MODERN_VERSIONS)


@pytest.mark.parametrize(
    ("header", "era"),
    [
        (None, Era.LEGACY),
        *((version, Era.LEGACY) for version in LEGACY_VERSIONS),
        ("2026-07-28", Era.MODERN),
        ("2099-01-01", Era.MODERN),
        ("", Era.MODERN),
        ("garbage", Era.MODERN),
        ("2025-11-25,2025-11-25", Era.MODERN),
    ],
)
def test_the_version_header_decides_the_era(header: str | None, era: Era) -> None:
    """Absent and known legacy versions are legacy; all else meets the modern checks and their reasons."""
    assert era_of_header(header) is era


@pytest.mark.parametrize(
    ("requested", "answer"),
    [
        *((version, version) for version in LEGACY_VERSIONS),
        ("2026-07-28", LATEST_LEGACY),
        ("1999-01-01", LATEST_LEGACY),
        ("", LATEST_LEGACY),
        (None, LATEST_LEGACY),
        (["2025-06-18"], LATEST_LEGACY),
    ],
)
def test_initialize_echoes_what_it_knows_and_offers_the_newest_otherwise(
    requested: object, answer: str
) -> None:
    """A handshake never ends in the modern era, and odd types do not break it."""
    assert negotiate_legacy(requested) == answer


def test_versions_are_ordered_as_listed() -> None:
    """Every version is at least itself and every earlier one, and none later."""
    for rank, version in enumerate(ALL_VERSIONS):
        assert [at_least(version, minimum) for minimum in ALL_VERSIONS] == [
            other <= rank for other in range(len(ALL_VERSIONS))
        ]


def test_an_unknown_version_is_never_new_enough_and_an_unknown_minimum_is_our_mistake() -> None:
    """`zzz` sorts behind every date and must not pass for a new revision."""
    assert not at_least("zzz", "2024-11-05")
    with pytest.raises(ValueError, match="minimum"):
        at_least("2025-11-25", "zzz")


def test_the_era_of_an_unknown_version_is_refused() -> None:
    """The tables never answer for a revision they do not know."""
    with pytest.raises(ValueError, match="known are 2024-11-05"):
        era_of_version("2030-01-01")
    for table in (client_requests, client_notifications, server_requests, server_notifications):
        with pytest.raises(ValueError, match="unknown protocol version"):
            table("2030-01-01")


class TestAgainstTheSdk:
    """Our tables and those of `mcp_types` 2.3.0, which were generated from the schemas, are the same."""

    def test_the_versions_are_the_same(self) -> None:
        """Same revisions in the same order, same newest ones."""
        from mcp_types import version as sdk

        assert sdk.HANDSHAKE_PROTOCOL_VERSIONS == LEGACY_VERSIONS
        assert sdk.MODERN_PROTOCOL_VERSIONS == MODERN_VERSIONS
        assert (sdk.LATEST_HANDSHAKE_VERSION, sdk.LATEST_MODERN_VERSION) == (LATEST_LEGACY, LATEST_MODERN)

    @given(st.sampled_from([*ALL_VERSIONS, "zzz", ""]), st.sampled_from(ALL_VERSIONS))
    def test_versions_compare_the_same(self, version: str, minimum: str) -> None:
        """`at_least` agrees with the SDK, also for unknown versions."""
        from mcp_types import version as sdk

        assert at_least(version, minimum) == sdk.is_version_at_least(version, minimum)

    @pytest.mark.parametrize("version", ALL_VERSIONS)
    def test_each_revision_has_the_same_methods(self, version: str) -> None:
        """Requests and notifications, in both directions."""
        from mcp_types import methods

        for ours, theirs in [
            (client_requests, methods.CLIENT_REQUESTS),
            (client_notifications, methods.CLIENT_NOTIFICATIONS),
            (server_requests, methods.SERVER_REQUESTS),
            (server_notifications, methods.SERVER_NOTIFICATIONS),
        ]:
            assert ours(version) == {method for method, known in theirs if known == version}
