"""What kind of place an IP address is: the table by which outgoing connections are judged. Pure.

From IANA's registries of special-purpose addresses (RFC 6890 and its additions), and from the clouds' documents for the
metadata services. What stands in no row is public, as far as it is IPv4 or in 2000::/3.
"""

from __future__ import annotations

from enum import StrEnum
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network


class Place(StrEnum):
    """The kinds. The word stands in messages to operators."""

    PUBLIC = "public"
    LOOPBACK = "loopback"
    PRIVATE = "private network"
    SHARED = "carrier's shared network"
    LINK_LOCAL = "link-local"
    METADATA = "cloud metadata service"
    UNSPECIFIED = "unspecified"
    MULTICAST = "multicast"
    EMBEDDING = "IPv6 form of an IPv4 address"
    RESERVED = "reserved"


LOCAL = frozenset({Place.LOOPBACK, Place.PRIVATE})
"""Where an operator's own file may lead."""

_ROWS: tuple[tuple[Place, tuple[str, ...]], ...] = (
    # The first row that fits counts: what is more particular stands first.
    (
        Place.METADATA,
        (
            "169.254.169.254/32",  # AWS, Azure, Google, Oracle, OpenStack, DigitalOcean
            "169.254.169.253/32",  # AWS's resolver
            "169.254.170.2/32",  # AWS: credentials of ECS tasks
            "169.254.170.23/32",  # AWS: credentials of EKS pods
            "168.63.129.16/32",  # Azure's WireServer, in the middle of public addresses
            "100.100.100.200/32",  # Alibaba
            "192.0.0.192/32",  # Oracle, of old
            "fd00:ec2::254/128",  # AWS
            "fd00:ec2::253/128",
            "fd00:ec2::23/128",
            "fd20:ce::254/128",  # Google
        ),
    ),
    (Place.LOOPBACK, ("127.0.0.0/8", "::1/128")),
    (Place.UNSPECIFIED, ("0.0.0.0/8", "::/128")),
    (Place.PRIVATE, ("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "fc00::/7", "fec0::/10")),
    (Place.SHARED, ("100.64.0.0/10",)),
    (Place.LINK_LOCAL, ("169.254.0.0/16", "fe80::/10")),
    (Place.MULTICAST, ("224.0.0.0/4", "ff00::/8")),
    (
        Place.EMBEDDING,
        (
            "::ffff:0:0/96",  # mapped
            "::/96",  # compatible, of old
            "::ffff:0:0:0/96",  # translated (SIIT)
            "64:ff9b::/96",  # NAT64
            "64:ff9b:1::/48",  # NAT64, local use
            "2002::/16",  # 6to4
            "2001::/32",  # Teredo
        ),
    ),
    (
        Place.RESERVED,
        (
            *("192.0.0.0/24", "192.0.2.0/24", "192.88.99.0/24", "198.18.0.0/15", "198.51.100.0/24"),
            *("203.0.113.0/24", "240.0.0.0/4"),
            *("100::/64", "100:0:0:1::/64", "2001:2::/48", "2001:10::/28", "2001:20::/28", "2001:db8::/32"),
            *("3fff::/20", "5f00::/16"),
        ),
    ),
)
TABLE: tuple[tuple[Place, tuple[Network, ...]], ...] = tuple(
    (place, tuple(map(ip_network, networks))) for place, networks in _ROWS
)
"""The networks of each kind; the first row that fits counts."""
_GLOBAL_UNICAST = IPv6Network("2000::/3")
_LAST_32 = tuple(
    map(IPv6Network, ("::ffff:0:0/96", "::/96", "::ffff:0:0:0/96", "64:ff9b::/96", "64:ff9b:1::/48"))
)
"""Forms whose last 32 bits are the IPv4 address; of the local NAT64 in its usual layout (/96)."""


def parsed(text: str) -> Address:
    """An address as the resolver writes it, without the interface (``%eth0``). Raises ValueError."""
    return ip_address(text.partition("%")[0])


def place_of(address: Address) -> Place:
    """What kind of place it is."""
    for place, networks in TABLE:
        if any(address in network for network in networks):
            return place
    return Place.PUBLIC if address.version == 4 or address in _GLOBAL_UNICAST else Place.RESERVED


def embedded(address: Address) -> IPv4Address | None:
    """The IPv4 address inside an IPv6 one, if it has that form."""
    if not isinstance(address, IPv6Address) or place_of(address) is not Place.EMBEDDING:
        return None
    if any(address in network for network in _LAST_32):
        return IPv4Address(int(address) & 0xFFFFFFFF)
    found = address.sixtofour
    return found if found is not None else address.teredo[1] if address.teredo else None
