"""Services of a cluster as tools: what their labels and annotations say. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from common.discovery.unfit import Unfit
from common.settings.kubernetes import KubernetesSettings

_PATH = re.compile(r"/[A-Za-z0-9._~!$&'()*+,;=:@%/-]*")
_LABEL = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")
SCHEMES = ("http", "https")
PORT_NAME = "mcp"
"""Of the port that is meant where a service has several and no annotation."""
Entries = dict[str, Mapping[str, Any]]


class Place(NamedTuple):
    """What names a service in a cluster."""

    namespace: str
    name: str

    @property
    def id(self) -> str:
        """The tool's id unless an annotation says another: neither part may hold a dot."""
        return f"{self.namespace}.{self.name}"


def place_of(service: Mapping[str, Any]) -> Place | None:
    """None for what is no service that could be reached by its name."""
    about = service.get("metadata")
    if not isinstance(about, Mapping):
        return None
    place = Place(str(about.get("namespace")), str(about.get("name")))
    return place if all(_LABEL.fullmatch(part) for part in place) else None


def entries_of(services: Mapping[Place, Mapping[str, Any]], settings: KubernetesSettings) -> Entries:
    """The tools that these services are, by id.

    What is wrong with one is told under its id. An id that two want is the older one's: no team takes another's name.
    """
    # Ids with a dot are those of places alone, so that rules for `team-a.*` speak of that namespace.
    found: Entries = {}
    owners: dict[str, Place] = {}
    for place in sorted(services, key=lambda place: _rank(place, services[place])):
        service = services[place]
        tool = _notes(service, settings).get("name") or place.id
        if "." in tool and tool != place.id:
            found[place.id] = Unfit(
                f"{settings.prefix}/name must hold no dot: it would be another service's place"
            )
            continue
        if tool in owners:
            words = f"the id {tool[:100]!r} is that of the service {owners[tool].id}: give it another one"
            found.setdefault(place.id, Unfit(words))
            continue
        owners[tool] = place
        found[tool] = _entry(place, service, settings)
    return found


def _rank(place: Place, service: Mapping[str, Any]) -> tuple[str, Place]:
    born = service.get("metadata", {}).get("creationTimestamp")
    return str(born), place


def _notes(service: Mapping[str, Any], settings: KubernetesSettings) -> dict[str, str]:
    """What annotations, and labels where there is no such annotation, say under our prefix."""
    about = service.get("metadata", {})
    prefix = f"{settings.prefix}/"
    notes: dict[str, str] = {}
    for kind in ("labels", "annotations"):
        given = about.get(kind)
        for key, value in given.items() if isinstance(given, Mapping) else ():
            if isinstance(key, str) and key.startswith(prefix) and isinstance(value, str):
                notes[key.removeprefix(prefix)] = value.strip()
    return notes


def _entry(place: Place, service: Mapping[str, Any], settings: KubernetesSettings) -> Mapping[str, Any]:
    notes, spec = _notes(service, settings), service.get("spec")
    try:
        if not isinstance(spec, Mapping) or spec.get("type") == "ExternalName":
            raise _BadService("it is an ExternalName, which may lead anywhere")
        port = _port(spec, notes)
        scheme = notes.get("transport") or ("https" if port.get("appProtocol") == "https" else "http")
        if scheme not in SCHEMES:
            raise _BadService(f"{settings.prefix}/transport must be http or https")
        path = notes.get("path") or settings.path
        if not _PATH.fullmatch(path) or ".." in path.split("/"):
            raise _BadService(f"{settings.prefix}/path must begin with / and hold no ?, # or ..")
        host = f"{place.name}.{place.namespace}.svc.{settings.cluster_domain}"
        entry: dict[str, Any] = {"url": f"{scheme}://{host}:{port['port']}{path}"}
        if notes.get("description"):
            entry["description"] = notes["description"]
        if "required-scopes" in notes:
            entry["required_scopes"] = _listed(notes["required-scopes"], f"{settings.prefix}/required-scopes")
    except _BadService as error:
        return Unfit(f"service {place.id}: {error}")
    return entry


class _BadService(Exception):
    """What is wrong with its annotations."""


def _listed(text: str, name: str) -> list[str]:
    """Never empty: that would mean everybody."""
    found = [part for part in (part.strip() for part in text.split(",")) if part]
    if not found:
        raise _BadService(f"{name} must hold at least one, separated by commas")
    return found


def _port(spec: Mapping[str, Any], notes: Mapping[str, str]) -> Mapping[str, Any]:
    given = spec.get("ports")
    ports = [
        port
        for port in (given if isinstance(given, list) else ())
        if isinstance(port, Mapping)
        and port.get("protocol", "TCP") == "TCP"
        and type(port.get("port")) is int
    ]
    if wanted := notes.get("port"):
        chosen = [port for port in ports if wanted in (str(port["port"]), port.get("name"))]
        if not chosen:
            raise _BadService(f"it has no TCP port {wanted[:63]!r}")
        return chosen[0]
    chosen = ports if len(ports) == 1 else _named(ports)
    if len(chosen) != 1:
        raise _BadService(
            f"it has {len(ports)} TCP ports and none named {PORT_NAME}: say which by an annotation"
        )
    return chosen[0]


def _named(ports: Iterable[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    return [port for port in ports if port.get("name") == PORT_NAME]
