"""Services of a cluster as tools: what their labels and annotations say. Pure."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from common.discovery.unfit import Unfit
from common.settings.kubernetes import KubernetesSettings

_PATH = re.compile(r"/[A-Za-z0-9._~!$&'()*+,;=:@%/-]*")
_LABEL = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")
SCHEMES = ("http", "https")
PORT_NAME = "mcp"
"""Of the port that is meant where a service has several and no annotation."""
NOTES = ("name", "path", "port", "transport", "description", "required-scopes")
"""Annotations that mean something, behind the prefix."""
MOST_TEXT = 4096
"""Characters of one of them."""
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


def slim(service: Mapping[str, Any], settings: KubernetesSettings) -> dict[str, Any]:
    """What is read of a service, and no more: annotations of others may be large."""
    about, spec = service.get("metadata"), service.get("spec")
    about = about if isinstance(about, Mapping) else {}
    notes = {key: value[: MOST_TEXT + 1] for key, value in _notes(about, settings).items()}
    kept = {key: spec.get(key) for key in ("type", "ports")} if isinstance(spec, Mapping) else None
    return {"born": str(about.get("creationTimestamp")), "notes": notes, "spec": kept}


def entries_of(
    services: Mapping[Place, Mapping[str, Any]],
    settings: KubernetesSettings,
    owners: dict[str, Place],
    unseen: Callable[[str], bool] = lambda _namespace: False,
) -> Entries:
    """The tools that these services, each as :func:`slim` leaves it, are, by id.

    What is wrong with one is told under its id. An id that several want is that of its present owner (``owners``, which
    is brought up to date) while it wants it, or while its namespace is ``unseen``; else the oldest one's, by namespace
    and name of those that are equally old.
    """
    # Ids with a dot are those of places alone, so that rules for `team-a.*` speak of that namespace.
    found: Entries = {}
    wants: dict[str, list[Place]] = {}
    for place in sorted(services, key=lambda place: (services[place]["born"], place)):
        tool = services[place]["notes"].get("name") or place.id
        if words := _not_for(tool, place, settings):
            found[place.id] = Unfit(words)
        else:
            wants.setdefault(tool, []).append(place)
    present = {tool: place for tool, place in owners.items() if unseen(place.namespace)}
    for tool, places in wants.items():
        owner = owners.get(tool)
        present.setdefault(tool, owner if owner in places else places[0])
        for place in places:
            if place == present[tool]:
                found[tool] = _entry(place, services[place], settings)
            else:
                words = (
                    f"the id {tool[:100]!r} is that of the service {present[tool].id}: give it another one"
                )
                found.setdefault(place.id, Unfit(words))
    owners.clear()
    owners.update((tool, place) for tool, place in present.items() if tool != place.id)
    return found


def _not_for(tool: str, place: Place, settings: KubernetesSettings) -> str:
    """Why a service may not have this id; empty: it may."""
    if tool == place.id:
        return ""
    if "." in tool:
        return f"{settings.prefix}/name must hold no dot: it would be another service's place"
    if place.namespace not in settings.names_from:
        return (
            f"{settings.prefix}/name is not for namespace {place.namespace}: leave it away, or list the namespace in "
            "kubernetes.names_from"
        )
    return ""


def place_in(url: str, settings: KubernetesSettings) -> Place | None:
    """The service to which a tool's URL, made by :func:`entries_of`, leads; None for any other one."""
    try:
        host = urlsplit(url).hostname or ""
    except ValueError:
        return None
    name, _, rest = host.partition(".")
    namespace, _, domain = rest.partition(".")
    return Place(namespace, name) if domain == f"svc.{settings.cluster_domain}" else None


def too_many(services: Iterable[Place], most: int, most_of_all: int) -> list[str]:
    """Namespaces with more than ``most`` services, and the largest ones until the others are not above
    ``most_of_all`` together.
    """
    counts = Counter(place.namespace for place in services)
    left, found = counts.total(), list[str]()
    for namespace, count in sorted(counts.items(), key=lambda item: (-item[1], item[0])):
        if count <= most and left <= most_of_all:
            break
        found.append(namespace)
        left -= count
    return found


def _notes(about: Mapping[str, Any], settings: KubernetesSettings) -> dict[str, str]:
    """What annotations, and labels where there is no such annotation, say under our prefix."""
    prefix = f"{settings.prefix}/"
    notes: dict[str, str] = {}
    for kind in ("labels", "annotations"):
        given = about.get(kind)
        for key, value in given.items() if isinstance(given, Mapping) else ():
            name = key.removeprefix(prefix) if isinstance(key, str) and key.startswith(prefix) else ""
            if name in NOTES and isinstance(value, str):
                notes[name] = value.strip()
    return notes


def _entry(place: Place, service: Mapping[str, Any], settings: KubernetesSettings) -> Mapping[str, Any]:
    notes, spec = service["notes"], service["spec"]
    try:
        if long := [name for name, value in notes.items() if len(value) > MOST_TEXT]:
            raise _BadService(f"{settings.prefix}/{long[0]} has more than {MOST_TEXT} characters")
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
