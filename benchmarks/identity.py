"""``python -m benchmarks.identity``: what it costs a web process to recognise who calls.

One Redis server, one worker, and beside each other one web process for each way of recognising callers, each called in
interleaved rounds. "looked at each time" has ``identity.cache_ttl: 0``: what it would cost to remember nothing.
"""

from __future__ import annotations

import sys
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

import jwt
import orjson
from cryptography.hazmat.primitives.asymmetric import ec
from jwt.algorithms import ECAlgorithm

from benchmarks.desk import Transport
from benchmarks.figures import rounded
from benchmarks.goals import Row
from benchmarks.load import HttpLoad, SessionMode
from benchmarks.processes import Process
from benchmarks.script import Bench, Options, Outcome, Script, main, rotated
from benchmarks.stack import Stack, cpu_of, endpoint, stdio_tool
from benchmarks.tally import total
from benchmarks.wire import Era
from common.identity.api_keys import ApiKeys

CONCURRENCY = 16
WARM_UP = 0.5
TOOL = "echo"
NOBODY = "none"
ISSUER, AUDIENCE = "https://issuer.example.com", "https://gateway.example.com"


@dataclass(slots=True, kw_only=True)
class Way:
    """One web process, and how its callers are recognised."""

    name: str
    port: int
    process: Process
    headers: Mapping[str, str]
    web_us: list[float] = field(default_factory=list)
    rates: list[float] = field(default_factory=list)

    def load(self) -> HttpLoad:
        """Return load on its door."""
        target = endpoint(self.port, TOOL, headers=self.headers)
        return HttpLoad(target, era=Era.LEGACY, mode=SessionMode.SHARED)


def start(bench: Bench) -> tuple[Stack, list[Way]]:
    """Start everything."""
    desk = bench.desk("web")
    token, jwks = _token(desk.folder)
    identity = {
        "api_keys": [{"key": "of-the-file", "tenant": "default", "client": "bench"}],
        "jwt": {"issuer": ISSUER, "audience": AUDIENCE, "jwks": str(jwks), "tenant": "default"},
    }
    stack = Stack(desk, {TOOL: stdio_tool(desk)}, {"identity": identity, "tenants": {"allow_unlisted": True}})
    stack.start_worker()
    _, key = ApiKeys(stack.client, stack.keys).issue(tenant="default", client="bench", actor="benchmark")
    proxied = {"X-Tenant-Id": "default", "X-Client-Id": "bench"}
    kinds: dict[str, tuple[str, Mapping[str, str], Mapping[str, str]]] = {
        NOBODY: ("none", {}, {}),
        "header": ("header", proxied, {}),
        "key of the file": ("api_key", {"X-API-Key": "of-the-file"}, {}),
        "issued key": ("api_key", {"X-API-Key": key}, {}),
        "token": ("jwt", {"Authorization": f"Bearer {token}"}, {}),
        "issued key, looked at each time": (
            "api_key",
            {"X-API-Key": key},
            {"CANALGATE_IDENTITY__CACHE_TTL": "0"},
        ),
        "token, looked at each time": (
            "jwt",
            {"Authorization": f"Bearer {token}"},
            {"CANALGATE_IDENTITY__CACHE_TTL": "0"},
        ),
    }
    ways = []
    for name, (resolver, headers, env) in kinds.items():
        port = stack.start_web(env={"CANALGATE_IDENTITY__RESOLVER": resolver, **env})
        ways.append(Way(name=name, port=port, process=stack.webs[-1], headers=headers))
    stack.wait_discovered()
    return stack, ways


def _token(folder: Path) -> tuple[str, Path]:
    """A token, and the file with its issuer's keys."""
    key = ec.generate_private_key(ec.SECP256R1())
    file = folder / "jwks.json"
    file.write_bytes(
        orjson.dumps(
            {"keys": [{**ECAlgorithm.to_jwk(key.public_key(), as_dict=True), "kid": "k", "use": "sig"}]}
        )
    )
    claims = {
        "iss": ISSUER,
        "aud": AUDIENCE,
        "sub": "bench",
        "client_id": "bench",
        "exp": int(time.time()) + 86_400,
        "scope": "mcp",
    }
    return jwt.encode(claims, key, algorithm="ES256", headers={"kid": "k"}), file


async def measure(options: Options, bench: Bench) -> Outcome:
    """Measure everything."""
    stack, ways = start(bench)
    outcome = Outcome()
    for number in range(options.rounds):
        for way in rotated(ways, number):
            errors = await _round(stack, way, options.seconds)
            outcome.errors += errors
            print(
                f"round {number + 1} {way.name:32} web {way.web_us[-1]:.0f} us a call, {errors.total()} errors",
                flush=True,
            )
    base = median(next(way.web_us for way in ways if way.name == NOBODY))
    outcome.rows = [_row(way, base) for way in ways]
    stack.close()
    return outcome


async def _round(stack: Stack, way: Way, seconds: float) -> Counter[str]:
    """Measure one window."""
    tally = stack.desk.folder / Transport.STDIO
    async with way.load().open(CONCURRENCY) as runner:
        warm = await runner.run(WARM_UP)
        cpu, before = cpu_of(way.process), total(tally).calls
        window = await runner.run(seconds)
        used, ran = cpu_of(way.process) - cpu, total(tally).calls - before
    errors = warm.errors + window.errors
    if ran != window.calls:
        errors[f"{way.name}: {ran} executions for {window.calls} calls"] += 1
    way.web_us.append(used / max(window.calls, 1) * 1e6)
    way.rates.append(window.rps)
    return errors


def _row(way: Way, base: float) -> Row:
    found = median(way.web_us)
    return {
        "who": way.name,
        "rate": rounded(median(way.rates)),
        "web_us": rounded(found),
        "to_none": rounded(found / base),
    }


SCRIPT = Script(
    name="identity",
    about="what it costs a web process to recognise who calls",
    columns={
        "who": "callers recognised by",
        "rate": f"calls/s (c={CONCURRENCY})",
        "web_us": "web us a call",
        "to_none": "to none",
    },
    measure=measure,
    rounds=5,
    seconds=3.0,
)

if __name__ == "__main__":
    sys.exit(main(SCRIPT))
