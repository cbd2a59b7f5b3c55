"""Where connections may lead, and what may be registered at run time."""

from __future__ import annotations

from ipaddress import ip_network

import pytest

from common.domain.egress import STRICT, EgressRules
from common.domain.errors import InvalidRequest
from common.domain.ids import ToolId
from common.domain.networks import TABLE, Place, parsed
from common.domain.tool import HttpTransport, StdioTransport, Tool


def rules(**given: tuple[str, ...]) -> EgressRules:
    networks = {name: tuple(map(ip_network, value)) for name, value in given.items() if "networks" in name}
    return EgressRules(**{**given, **networks})  # type: ignore[arg-type]


def reached(rules: EgressRules, *addresses: str, host: str = "h.example", local: bool = False) -> bool:
    return rules.refusal(host, map(parsed, addresses), local=local) is None


def test_without_settings_only_public_addresses() -> None:
    """And all of a name's addresses have to be."""
    assert reached(STRICT, "8.8.8.8", "2606:4700::1")
    assert not reached(STRICT, "8.8.8.8", "10.0.0.1")
    assert not reached(STRICT, "127.0.0.1")


@pytest.mark.parametrize("address", ["127.0.0.1", "::1", "10.1.1.1", "192.168.0.1", "fd12::1"])
def test_the_operator_s_own_file_may_lead_to_this_machine_and_private_networks(address: str) -> None:
    """That is where most tools are."""
    assert reached(STRICT, address, local=True)


@pytest.mark.parametrize(
    "address",
    [
        *("169.254.169.254", "169.254.0.1", "fd00:ec2::254", "0.0.0.0", "::ffff:127.0.0.1"),  # noqa: S104
        *("64:ff9b::7f00:1", "224.0.0.1", "100.64.0.1", "255.255.255.255", "168.63.129.16"),
    ],
)
def test_but_nowhere_else(address: str) -> None:
    """A metadata service gives credentials away; other forms of an address are for walking round a guard."""
    assert not reached(STRICT, address, local=True)


@pytest.mark.parametrize(
    "address",
    ["169.254.0.1", "0.0.0.0", "::ffff:127.0.0.1", "64:ff9b::7f00:1", "224.0.0.1"],  # noqa: S104
)
def test_a_network_that_is_allowed_is_reached(address: str) -> None:
    """Whatever kind of place it is, in whatever form."""
    assert reached(rules(allowed_networks=("0.0.0.0/0", "::/0")), address)


METADATA = [str(network.network_address) for network in dict(TABLE)[Place.METADATA]]


@pytest.mark.parametrize("local", [False, True])
@pytest.mark.parametrize("address", METADATA)
def test_a_metadata_service_is_opened_by_its_own_address_alone(address: str, local: bool) -> None:
    """No range that happens to hold it does, however small; nor any form of it."""
    wide = (
        "0.0.0.0/0",
        "::/0",
        str(ip_network(f"{address}/{parsed(address).max_prefixlen - 1}", strict=False)),
    )
    for ranges in (rules(allowed_networks=wide), rules(discovered_networks=wide).for_discovered):
        refusal = ranges.refusal("h.example", [parsed(address)], local=local)
        assert refusal is not None
        assert "by itself" in refusal
    assert reached(rules(allowed_networks=(address,)), address, local=local)


def test_nor_in_another_form() -> None:
    """As an IPv6 address that means it."""
    wide = rules(allowed_networks=("0.0.0.0/0", "::/0"))
    for address in ("::ffff:169.254.169.254", "64:ff9b::169.254.169.254", "2002:a9fe:a9fe::"):
        assert not reached(wide, address, local=True)
    assert reached(rules(allowed_networks=("::ffff:0:0/96", "169.254.169.254/32")), "::ffff:169.254.169.254")


def test_an_allowed_network_that_translates_allows_nothing_inside_it() -> None:
    """Behind NAT64 public addresses are reached, private ones not."""
    nat64 = rules(allowed_networks=("64:ff9b::/96",))
    assert reached(nat64, "64:ff9b::808:808")
    assert not reached(nat64, "64:ff9b::a00:1")
    assert not reached(nat64, "64:ff9b::a9fe:a9fe", local=True)
    assert reached(rules(allowed_networks=("64:ff9b::/96", "10.0.0.0/8")), "64:ff9b::a00:1")


def test_an_allowed_name_may_resolve_to_local_addresses_and_never_to_a_metadata_service() -> None:
    """By its whole name, or everything below one; a final dot and capitals are the same name."""
    named = rules(allowed_hosts=("tools.internal", "*.corp"))
    for host in ("tools.internal", "TOOLS.internal.", "a.corp", "a.b.corp"):
        assert reached(named, "10.0.0.1", "127.0.0.1", "100.64.0.1", host=host)
    for host in ("x.tools.internal", "tools.internal.example", "corp", "acorp"):
        assert not reached(named, "10.0.0.1", host=host)
    assert not reached(named, "169.254.169.254", host="tools.internal")


def test_what_is_denied_is_denied_to_everybody() -> None:
    """Before whatever else allows it, and inside the other forms too."""
    denied = rules(
        denied_networks=("10.0.0.0/8",),
        denied_hosts=("*.evil",),
        allowed_networks=("0.0.0.0/0", "::/0"),
        allowed_hosts=("x.evil", "h.example"),
    )
    assert not reached(denied, "10.0.0.1", local=True)
    assert not reached(denied, "64:ff9b::a00:1", local=True)
    assert not reached(denied, "8.8.8.8", host="x.evil", local=True)
    assert reached(denied, "192.168.0.1")


def stdio(command: str, *args: str, **env: str) -> Tool:
    return Tool(id=ToolId("t"), transport=StdioTransport(command=command, args=args, env=env))


def http(url: str) -> Tool:
    return Tool(id=ToolId("t"), transport=HttpTransport(url=url))


TIME = rules(allowed_commands=("uvx mcp-server-time", "echo"))


@pytest.mark.parametrize(
    "tool", [stdio("echo"), stdio("echo", "x"), stdio("uvx", "mcp-server-time", "--local-timezone=UTC")]
)
def test_commands_of_the_list_may_be_registered(tool: Tool) -> None:
    """With whatever words behind those of the list."""
    TIME.check_runtime(tool)


@pytest.mark.parametrize(
    "tool",
    [
        stdio("sh", "-c", "echo"),
        stdio("uvx"),
        stdio("uvx", "mcp-server-time-evil"),
        stdio("uvx", "--from", "evil", "mcp-server-time"),
        stdio("uvx mcp-server-time"),
        stdio("/bin/echo"),
        stdio("echo;id"),
        stdio("--echo"),
        stdio("-c"),
    ],
    ids=lambda tool: " ".join([tool.transport.command, *tool.transport.args]),
)
def test_any_other_command_may_not(tool: Tool) -> None:
    """Whole words, in their places, and never an option in the place of a command."""
    with pytest.raises(InvalidRequest) as refused:
        TIME.check_runtime(tool)
    assert refused.value.data["field"] == "command"


@pytest.mark.parametrize(
    "name",
    [
        *(
            "PATH",
            "Path",
            "LD_PRELOAD",
            "LD_LIBRARY_PATH",
            "DYLD_INSERT_LIBRARIES",
            "NODE_OPTIONS",
            "PYTHONPATH",
        ),
        *("PYTHONSTARTUP", "BASH_ENV", "ENV", "BASH_FUNC_x%%", "PERL5OPT", "RUBYOPT", "JAVA_TOOL_OPTIONS"),
        *("GIT_SSH", "npm_config_registry", "UV_INDEX_URL", "PIP_INDEX_URL", "HTTPS_PROXY", "SSL_CERT_FILE"),
        *("HOME", "IFS", "_CANALGATE_CHILD", "CANALGATE_REDIS__URL", "GLIBC_TUNABLES", "GOFLAGS"),
    ],
)
def test_variables_that_decide_what_code_runs_are_refused(name: str) -> None:
    """In any case of letters: some programs do not look."""
    with pytest.raises(InvalidRequest, match=name.replace("%%", "")) as refused:
        TIME.check_runtime(stdio("echo", **{name: "secret-value"}))
    assert refused.value.data["field"] == "env"
    assert "secret-value" not in refused.value.message


def test_other_variables_are_the_tool_s_own() -> None:
    """Keys of the services it talks to, above all."""
    TIME.check_runtime(stdio("echo", API_KEY="k", GOOGLE_API_KEY="k", GITHUB_TOKEN="t", DEBUG="1"))


@pytest.mark.parametrize(
    "url", ["http://127.0.0.1/", "http://[::1]:1/", "http://10.0.0.1", "http://169.254.169.254/x"]
)
def test_an_address_in_a_url_is_judged_when_it_is_registered(url: str) -> None:
    """A name only when it is connected to."""
    with pytest.raises(InvalidRequest) as refused:
        STRICT.check_runtime(http(url))
    assert refused.value.data["field"] == "url"
    STRICT.check_runtime(http("http://localhost/"))
    rules(allowed_networks=("0.0.0.0/0", "::/0", "169.254.169.254/32")).check_runtime(http(url))
