"""``canalgate up``: the whole gateway on one machine, under a supervisor."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import typer
import yaml

from common.audit.journal import Journal
from common.domain.errors import StoreUnavailable
from common.interchange.exporters import to_client
from common.policy.evaluation import PolicyCounts
from common.policy.loading import evaluators_of
from common.processes import ProcessGuard, no_core_dumps
from common.registry.registry import Registry
from common.settings import Settings, find_file
from common.store.client import Client, StoreAddress, address_of, connect, store_errors
from common.store.key_ring import keys_of
from common.store.keys import Keys
from gateway_web.cli.first_answers import FirstAnswers
from gateway_web.cli.output import Exit, remark, remark_if_heard, remark_text, stop
from gateway_web.cli.programs import environment, flower_command, web_command, worker_command
from gateway_web.cli.up_reload import UpReload, reader, workers_check
from gateway_web.cli.up_token import OwnToken, own_token
from gateway_web.identity import identity_problems
from gateway_web.listener_tls import own_context
from gateway_web.supervisor import (
    ChildSpec,
    Event,
    EventKind,
    RedisServer,
    RunRecord,
    StateDirectory,
    Supervisor,
    SupervisorError,
    find_redis,
    held_state_dir,
    http_ready,
    state_dir_path,
    strangers_refused,
)
from gateway_web.wsgi_address import authority, free_port

DEMO_TOOLS = {"demo": {"command": sys.executable, "args": ["-m", "gateway_worker.demo_server"]}}


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """Everything decided before anything is started."""

    settings: Settings
    read: Callable[[], Settings]
    """Reads them again, as they are then."""
    config: Path
    host: str
    port: int
    redis: RedisServer
    state: StateDirectory
    flower_port: int | None
    """Where Flower listens; None if it is not wanted."""
    token: OwnToken | None = None
    """That of the admin API, if it is on for whoever runs this."""

    @property
    def base_url(self) -> str:
        host = "127.0.0.1" if self.host in {"0.0.0.0", ""} else self.host  # noqa: S104 - compared with
        scheme = "http" if self.settings.web.tls_cert_file is None else "https"
        return f"{scheme}://{authority(host, self.port)}"

    @property
    def flower_url(self) -> str:
        host = self.settings.flower.host
        host = "127.0.0.1" if host == "0.0.0.0" else host  # noqa: S104 - compared with
        return f"http://{authority(host, self.flower_port or 0)}"

    def answers(self, path: str) -> Callable[[], bool]:
        """Whether the web program answers 200 there; one that wants client certificates, whether it refuses us."""
        web = self.settings.web
        tls = own_context(web)
        if tls is not None and web.tls_client_auth == "required":
            host = urlsplit(self.base_url).hostname
            return strangers_refused(host or "", self.port, tls)
        return http_ready(f"{self.base_url}{path}", tls=tls)

    @property
    def endpoint(self) -> str:
        return f"{self.base_url}/mcp"

    @property
    def admin_variables(self) -> dict[str, str]:
        """What the programs that know operators need in their environment."""
        return {} if self.token is None else self.token.variables


def run_up(
    config: Path | None, *, host: str | None, port: int | None, verbose: bool, flower: bool = False
) -> None:
    """Start, serve until a signal, stop in reverse."""
    no_core_dumps()
    try:
        with held_state_dir(state_dir_path(os.environ)) as state:
            plan = _plan(config, host=host, port=port, state=state, flower=flower)
            with own_token(plan.settings, plan.host, state.path) as token:
                _serve(replace(plan, token=token), verbose=verbose)
    except SupervisorError as error:
        raise stop(str(error), Exit.REFUSED) from None


def _plan(
    config: Path | None, *, host: str | None, port: int | None, state: StateDirectory, flower: bool
) -> Plan:
    file = find_file(config, os.environ) or _demo_file(state)
    read = reader(file, host, port)
    settings = read()
    for problem in settings.tool_problems:
        remark(f"tool {problem.id} is skipped: {problem.message}")
    evaluators_of(
        settings.policy, settings.egress.rules, PolicyCounts()
    )  # what it raises every web process would die of
    for text in identity_problems(settings):
        remark(text)
    configured = None if settings.redis.url is None else address_of(settings.redis).url
    return Plan(
        settings=settings,
        read=read,
        config=file,
        host=settings.web.host,
        port=free_port(settings.web.host, settings.web.port),
        flower_port=free_port(settings.flower.host, settings.flower.port) if flower else None,
        redis=find_redis(configured, state.path),
        state=state,
    )


def _demo_file(state: StateDirectory) -> Path:
    """Without a settings file the gateway starts with the built-in demo tool."""
    file = state.path / "demo.yaml"
    file.write_text(yaml.safe_dump({"tools": DEMO_TOOLS}), encoding="utf-8")
    remark("no settings file: starting with the built-in demo tool")
    return file


def _serve(plan: Plan, *, verbose: bool) -> None:
    client = connect(StoreAddress(url=plan.redis.url.for_redis_py), size=4)
    keys = keys_of(plan.settings.redis)
    with ProcessGuard(keep_fds=(plan.state.lock_fd,)) as guard:
        echo: Callable[[str, str], None] | None = _echo if verbose else None
        children = _children(plan, client, keys)
        names = [child.name for child in children if child is not plan.redis.child]
        reload = UpReload(
            plan.settings,
            plan.read,
            names,
            Journal(client, keys),
            own_token=plan.token is not None,
            check=lambda: workers_check(plan.config),
        )
        supervisor = Supervisor(
            children,
            guard,
            _report,
            echo=echo,
            on_hangup=lambda: reload(supervisor.signal_children),
        )
        answers = FirstAnswers(Registry(client, keys), plan.answers("/readyz"))
        stopped_by = supervisor.run(
            settled=answers.complete, on_ready=lambda: _announce(plan, supervisor, answers)
        )
    if stopped_by is signal.SIGHUP:
        raise typer.Exit(Exit.FAILED)


def _children(plan: Plan, client: Client, keys: Keys) -> list[ChildSpec]:
    env = environment(
        plan.config,
        CANALGATE_REDIS__URL=plan.redis.url.for_redis_py,
        CANALGATE_WEB__HOST=plan.host,
        CANALGATE_WEB__PORT=str(plan.port),
        CANALGATE_STATE_DIR=str(plan.state.path),
        PYTHONUNBUFFERED="1",
    )
    workers = [
        _worker(f"worker{number}", plan, client, keys, env)
        for number in range(1, plan.settings.worker.processes + 1)
    ]
    web = ChildSpec(
        name="web",
        argv=web_command(plan.settings, host=plan.host, port=plan.port),
        ready=plan.answers("/livez"),
        ready_timeout=60.0,
        stop_timeout=15.0,
        log_path=plan.state.log("web"),
        env={**env, **plan.admin_variables},
    )
    redis = [] if plan.redis.child is None else [plan.redis.child]
    return [*redis, *workers, web, *_flower(plan, env)]


def _flower(plan: Plan, env: dict[str, str]) -> list[ChildSpec]:
    if plan.flower_port is None:
        return []
    return [
        ChildSpec(
            name="flower",
            argv=flower_command(),
            ready=http_ready(f"{plan.flower_url}/healthcheck"),
            ready_timeout=60.0,
            log_path=plan.state.log("flower"),
            env={**env, **plan.admin_variables, "CANALGATE_FLOWER__PORT": str(plan.flower_port)},
        )
    ]


def _worker(name: str, plan: Plan, client: Client, keys: Keys, env: dict[str, str]) -> ChildSpec:
    return ChildSpec(
        name=name,
        argv=worker_command(f"{name}@%h"),
        ready=lambda: _alive(client, keys, name),
        ready_timeout=60.0,
        stop_timeout=plan.settings.worker.drain_timeout + 10.0,
        log_path=plan.state.log(name),
        env=env,
    )


def _alive(client: Client, keys: Keys, name: str) -> bool:
    """Whether a node of that worker holds its lease."""
    try:
        with store_errors("looking for workers"):
            nodes: list[Any] = client.zrangebyscore(keys.nodes, time.time() * 1000, "+inf")
    except StoreUnavailable:
        return False
    return any(node.decode().startswith(f"{name}@") for node in nodes)


def _announce(plan: Plan, supervisor: Supervisor, answers: FirstAnswers) -> None:
    plan.state.write_run(
        RunRecord(
            pid=os.getpid(),
            endpoint=plan.endpoint,
            redis_url=plan.redis.url.for_redis_py,
            started_at=time.time(),
            children=dict(supervisor.pids),
            admin_token_file=None if plan.token is None else str(plan.token.file),
            config=str(plan.config.absolute()),
        )
    )
    remark(f"Redis: {plan.redis.description}")
    if plan.token is not None:
        remark(f"admin API: {plan.base_url}/admin/v1, its token is in {plan.token.file}")
    if plan.flower_port is not None:
        which = "a token of admin.tokens" if plan.token is None else f"the token in {plan.token.file}"
        remark(f"Flower: {plan.flower_url} (any name; password: {which})")
    for line in answers.lines():
        remark(line)
    remark("add this to your MCP client:")
    remark_text(to_client("canalgate", plan.endpoint, {}, flavour="claude").rstrip())
    if "api_key" in plan.settings.identity.resolver:
        remark("with a key, which `canalgate keys issue` makes: `canalgate client-config` puts it in")
    # One line, unwrapped and unstyled, at once: scripts wait for it.
    sys.stdout.write(f"ready {plan.endpoint} tools={len(plan.settings.tools)}{answers.summary()}\n")
    sys.stdout.flush()


def _report(event: Event) -> None:
    """Tell a person what happens, but not each step of a stop."""
    if event.kind in {EventKind.STARTED, EventKind.STOPPING}:
        return
    seconds = "" if event.seconds is None else f" {event.seconds:.1f} s"
    remark_if_heard(f"{event.child}: {event.kind.value}{seconds} {event.detail}".rstrip())


def _echo(name: str, line: str) -> None:
    remark_if_heard(f"{name} | {line}")
