"""What kind of place an address is."""

from __future__ import annotations

import pytest

from common.domain.networks import Place, embedded, parsed, place_of

PLACES: dict[str, Place] = {
    "8.8.8.8": Place.PUBLIC,
    "1.1.1.1": Place.PUBLIC,
    "172.15.255.255": Place.PUBLIC,
    "172.32.0.0": Place.PUBLIC,
    "100.63.255.255": Place.PUBLIC,
    "100.128.0.0": Place.PUBLIC,
    "2606:4700:4700::1111": Place.PUBLIC,
    "2a00:1450::": Place.PUBLIC,
    "127.0.0.1": Place.LOOPBACK,
    "127.255.255.254": Place.LOOPBACK,
    "::1": Place.LOOPBACK,
    "0.0.0.0": Place.UNSPECIFIED,  # noqa: S104
    "0.1.2.3": Place.UNSPECIFIED,
    "::": Place.UNSPECIFIED,
    "10.0.0.1": Place.PRIVATE,
    "172.16.0.1": Place.PRIVATE,
    "172.31.255.255": Place.PRIVATE,
    "192.168.1.1": Place.PRIVATE,
    "fd12:3456::1": Place.PRIVATE,
    "fec0::1": Place.PRIVATE,
    "100.64.0.1": Place.SHARED,
    "100.127.255.255": Place.SHARED,
    "169.254.1.1": Place.LINK_LOCAL,
    "fe80::1": Place.LINK_LOCAL,
    "fe80::1%eth0": Place.LINK_LOCAL,
    "169.254.169.254": Place.METADATA,
    "169.254.170.2": Place.METADATA,
    "168.63.129.16": Place.METADATA,
    "100.100.100.200": Place.METADATA,
    "192.0.0.192": Place.METADATA,
    "fd00:ec2::254": Place.METADATA,
    "fd20:ce::254": Place.METADATA,
    "224.0.0.1": Place.MULTICAST,
    "239.255.255.250": Place.MULTICAST,
    "ff02::1": Place.MULTICAST,
    "::ffff:127.0.0.1": Place.EMBEDDING,
    "::ffff:8.8.8.8": Place.EMBEDDING,
    "::127.0.0.1": Place.EMBEDDING,
    "::ffff:0:127.0.0.1": Place.EMBEDDING,
    "64:ff9b::a00:1": Place.EMBEDDING,
    "64:ff9b:1::a00:1": Place.EMBEDDING,
    "2002:7f00:1::": Place.EMBEDDING,
    "2001:0:4136:e378:8000:63bf:80ff:fffe": Place.EMBEDDING,
    "192.0.0.1": Place.RESERVED,
    "192.0.2.1": Place.RESERVED,
    "192.88.99.1": Place.RESERVED,
    "198.18.0.1": Place.RESERVED,
    "198.19.255.255": Place.RESERVED,
    "198.51.100.1": Place.RESERVED,
    "203.0.113.1": Place.RESERVED,
    "240.0.0.1": Place.RESERVED,
    "255.255.255.255": Place.RESERVED,
    "100::1": Place.RESERVED,
    "2001:db8::1": Place.RESERVED,
    "3fff::1": Place.RESERVED,
    "5f00::1": Place.RESERVED,
    "4000::1": Place.RESERVED,
}

INSIDE = {
    "::ffff:127.0.0.1": "127.0.0.1",
    "::10.0.0.1": "10.0.0.1",
    "64:ff9b::a00:1": "10.0.0.1",
    "64:ff9b:1::a9fe:a9fe": "169.254.169.254",
    "2002:a00:1::5": "10.0.0.1",
    "2001:0:4136:e378:8000:63bf:80ff:fffe": "127.0.0.1",
    "::1": None,
    "2606:4700::1": None,
    "127.0.0.1": None,
}


@pytest.mark.parametrize(("address", "place"), PLACES.items())
def test_the_place_of_an_address(address: str, place: Place) -> None:
    """The ends of each range, and what lies just outside."""
    assert place_of(parsed(address)) is place


@pytest.mark.parametrize(("address", "inner"), INSIDE.items())
def test_an_ipv4_address_inside_an_ipv6_one(address: str, inner: str | None) -> None:
    """In each of the forms that carry one."""
    found = embedded(parsed(address))
    assert (None if found is None else str(found)) == inner
