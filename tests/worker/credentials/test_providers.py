"""The providers that are built in, and how those of others are found."""

from __future__ import annotations

import os
import sys
import threading
import traceback
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib.metadata import EntryPoint
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from common import plugins
from common.credentials.brought import GROUP
from common.domain.credentials import CredentialRequest, Credentials, safe_part
from common.domain.errors import ConfigurationError
from common.domain.ids import ToolId
from common.ports import CredentialsProvider
from common.settings import Settings
from common.settings.credentials import CredentialsSettings, StaticCredential
from gateway_worker.credentials import asking
from gateway_worker.credentials.asking import ProviderThread
from gateway_worker.credentials.environment import EnvironmentProvider
from gateway_worker.credentials.files import FileProvider
from gateway_worker.credentials.providers import load_providers
from gateway_worker.credentials.static import StaticProvider
from tests.support.aio import on_loop, run
from tests.worker.credentials.contract import Known, ProviderContract, asked, values_of


def parts(request: CredentialRequest) -> list[str]:
    """The encoded ids of a request."""
    return [safe_part(part) for part in (request.tool, request.tenant, request.client) if part is not None]


class TestStatic(ProviderContract):
    """``credentials.static``."""

    @contextmanager
    def know(self, known: Known) -> Iterator[CredentialsProvider]:
        yield StaticProvider(
            StaticCredential.model_validate(
                {
                    "tool": request.tool,
                    "tenant": request.tenant,
                    "client": request.client,
                    "values": dict(values),
                }
            )
            for request, values in known.items()
        )


class TestEnvironment(ProviderContract):
    """Variables of the worker."""

    any_key = False

    @contextmanager
    def know(self, known: Known) -> Iterator[CredentialsProvider]:
        environ = {
            "__".join(["C", *parts(request), key]): value
            for request, values in known.items()
            for key, value in values.items()
        }
        assert len(environ) == sum(map(len, known.values())), "two values have the same name"
        yield EnvironmentProvider("C", environ)

    def test_other_variables_are_no_credentials(self) -> None:
        """Not even those that look alike."""
        environ = {
            "C__a__t___k": "1",
            "C__a__t__k_": "2",
            "C__a__t__": "3",
            "C__a__t__k__l": "4",
            "D__a__t__k": "5",
        }
        assert run(EnvironmentProvider("C", environ).resolve(asked("a", "t"))) is None

    def test_an_empty_variable_is_none(self) -> None:
        """Compose files pass unset variables on as empty ones."""
        assert run(EnvironmentProvider("C", {"C__a__t__k": ""}).resolve(asked("a", "t"))) is None


class TestFiles(ProviderContract):
    """Mounted secrets."""

    @pytest.fixture(autouse=True)
    def _place(self, tmp_path: Path) -> None:
        self.place = tmp_path / "secrets"
        self.count = 0

    @contextmanager
    def know(self, known: Known) -> Iterator[CredentialsProvider]:
        self.count += 1
        place = self.place / str(self.count)
        place.mkdir(parents=True)
        for request, values in known.items():
            put(place.joinpath(*parts(request)), values)
        yield FileProvider(str(place))

    def test_one_line_feed_at_the_end_is_not_part_of_it(self) -> None:
        """As editors and ``kubectl create secret --from-file`` leave it."""
        values = {"one": "x\n", "two": "y\n\n", "three": "-----BEGIN\nEND-----\n"}
        with self.know({asked("a", "t"): values}) as provider:
            found = values_of(run(provider.resolve(asked("a", "t"))))
        assert found == {"one": "x", "two": "y\n", "three": "-----BEGIN\nEND-----"}

    def test_a_changed_file_is_another_secret(self) -> None:
        """It is read each time, and is to be asked again soon."""
        with self.know({asked("a", "t"): {"k": "old"}}) as provider:
            before = run(provider.resolve(asked("a", "t")))
            put(self.place / "1" / "a" / "t", {"k": "new"})
            after = run(provider.resolve(asked("a", "t")))
        assert (values_of(before), values_of(after)) == ({"k": "old"}, {"k": "new"})
        assert before is not None
        assert after is not None
        assert before.fingerprint != after.fingerprint
        assert after.max_age == 1.0

    def test_a_mount_of_kubernetes_is_read_in_one_version(self, tmp_path: Path) -> None:
        """Files are links into ``..data``, which is a link to the version."""
        leaf = tmp_path / "mount" / "a" / "t"
        put(leaf / "..2026_1", {"token": "one"})
        put(leaf / "..2026_2", {"token": "two", "more": "x"})
        (leaf / "..data").symlink_to("..2026_1")
        (leaf / "token").symlink_to("..data/token")
        provider = FileProvider(str(tmp_path / "mount"))
        assert values_of(run(provider.resolve(asked("a", "t")))) == {"token": "one"}
        os.symlink("..2026_2", leaf / "..new")
        os.replace(leaf / "..new", leaf / "..data")
        assert values_of(run(provider.resolve(asked("a", "t")))) == {"token": "two", "more": "x"}

    def test_names_that_differ_in_case_are_two_wherever_they_lie(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A file system that takes them for one opens the other's directory, and lists the one name."""
        place = tmp_path / "mount"
        put(place / "Tool" / "acme" / "App", {"k": "acme's"})
        put(place / "Tool" / "acme", {"k": "acme's"})
        listed = os.listdir
        for theirs, other in (
            ("Tool", "tOOL"),
            ("Tool/acme", "Tool/ACME"),
            ("Tool/acme/App", "Tool/acme/aPP"),
        ):
            (place / other).symlink_to(place / theirs)
        others = {"tOOL", "ACME", "aPP"}
        monkeypatch.setattr(
            os, "listdir", lambda where: [name for name in listed(where) if name not in others]
        )
        provider = FileProvider(str(place))
        for ids in (("Tool", "acme"), ("Tool", "acme", "App")):
            assert values_of(run(provider.resolve(asked(*ids)))) == {"k": "acme's"}
        for ids in (("tOOL", "acme"), ("Tool", "ACME"), ("Tool", "acme", "aPP"), ("tOOL", "ACME", "aPP")):
            assert run(provider.resolve(asked(*ids))) is None, ids

    def test_what_leads_out_is_a_failure(self, tmp_path: Path) -> None:
        """A link to a file, a directory or a version elsewhere is followed by nobody."""
        (tmp_path / "elsewhere").mkdir()
        put(tmp_path / "elsewhere", {"k": "stolen"})
        place = tmp_path / "mount"
        for name, target in (("file", "k"), ("version", "..data")):
            leaf = place / name / "t"
            leaf.mkdir(parents=True)
            (leaf / target).symlink_to(tmp_path / "elsewhere" / ("k" if target == "k" else ""))
        (place / "directory").mkdir()
        (place / "directory" / "t").symlink_to(tmp_path / "elsewhere")
        provider = FileProvider(str(place))
        for tool in ("file", "version", "directory"):
            with pytest.raises(PermissionError):
                run(provider.resolve(asked(tool, "t")))

    def test_what_is_no_plain_file_is_passed_over(self) -> None:
        """A pipe would keep the reader waiting for ever."""
        with self.know({asked("a", "t"): {"k": "v", "empty": ""}}) as provider:
            leaf = self.place / "1" / "a" / "t"
            os.mkfifo(leaf / "pipe")
            (leaf / "folder").mkdir()
            (leaf / ".hidden").write_text("x")
            assert values_of(run(provider.resolve(asked("a", "t")))) == {"k": "v"}

    def test_a_mount_that_is_gone_is_a_failure(self, tmp_path: Path) -> None:
        """It does not read as a secret that never was."""
        with pytest.raises(FileNotFoundError):
            run(FileProvider(str(tmp_path / "none")).resolve(asked("a", "t")))

    @pytest.mark.parametrize("content", [b"\xff\xfe", b"x" * (70 << 10)])
    def test_what_can_be_no_secret_is_a_failure(self, content: bytes) -> None:
        """Bytes that are no text, and more than a variable holds."""
        with self.know({asked("a", "t"): {"k": "v"}}) as provider:
            (self.place / "1" / "a" / "t" / "k").write_bytes(content)
            with pytest.raises(ValueError):  # noqa: PT011 - which of them is no matter
                run(provider.resolve(asked("a", "t")))


def put(directory: Path, values: Mapping[str, str]) -> None:
    """Write files."""
    directory.mkdir(parents=True, exist_ok=True)
    for name, value in values.items():
        (directory / name).write_text(value, encoding="utf-8")


# -- loading --------------------------------------------------------------------------------------------


class Custom:
    """A provider of somebody else's."""

    def __init__(self, settings: CredentialsSettings) -> None:
        self.settings = settings

    async def resolve(self, request: CredentialRequest) -> Credentials | None:
        return Credentials.of({"key": f"{request.tenant}"})


def of(*names: str, **more: Any) -> Settings:
    """Settings with these providers."""
    return Settings.model_validate({"credentials": {"providers": names, **more}})


@pytest.fixture
def module(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """A module that can be imported as ``plugged``."""
    made = ModuleType("plugged")
    made.Custom = Custom  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "plugged", made)
    return made


def test_they_are_made_in_the_order_of_the_settings(module: ModuleType) -> None:
    """A class of one's own among them, which is given the credentials' settings."""
    found = load_providers(of("file", "plugged:Custom", "static"))
    assert list(found) == ["file", "plugged:Custom", "static"]
    custom = found["plugged:Custom"]
    assert isinstance(custom, Custom)
    assert custom.settings.providers == ("file", "plugged:Custom", "static")


def test_a_package_brings_one_by_an_entry_point(module: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    """By its name."""
    entry = EntryPoint("acme", "plugged:Custom", GROUP)
    monkeypatch.setattr(plugins, "entry_points", lambda *, group, name: [entry] if name == "acme" else [])
    assert isinstance(load_providers(of("acme"))["acme"], Custom)


@pytest.mark.parametrize(
    "name", ["nobody", "plugged:None_", "no.such.module:Class", "os:getcwd", "builtins:object"]
)
def test_one_that_cannot_be_made_keeps_the_worker_from_starting(name: str, module: ModuleType) -> None:
    """The name is told."""
    with pytest.raises(ConfigurationError, match=name):
        load_providers(of(name))


def test_what_its_constructor_says_is_not_repeated(module: ModuleType) -> None:
    """It may hold a secret of the settings."""

    def broken(settings: CredentialsSettings) -> None:
        raise RuntimeError("canary-8")

    module.Broken = broken  # type: ignore[attr-defined]
    with pytest.raises(ConfigurationError, match="RuntimeError") as caught:
        load_providers(of("plugged:Broken"))
    assert "canary-8" not in "".join(traceback.format_exception(caught.value))


def test_a_package_that_is_not_installed_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """With what installs it."""
    monkeypatch.setitem(sys.modules, "hvac", None)
    settings = Settings.model_validate(
        {"credentials": {"providers": ["vault"]}, "vault": {"url": "http://v", "token": "t"}}
    )
    with pytest.raises(ConfigurationError, match=r"canalgate\[vault\]"):
        load_providers(settings)
    with pytest.raises(ConfigurationError, match=r"vault\.url"):
        load_providers(of("vault"))


@on_loop
async def test_a_thread_that_cannot_be_had_now_is_asked_for_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """The worker goes on, and the provider answers as soon as there is one."""
    request = CredentialRequest(tool=ToolId("t"), tenant=None, client=None)
    one = ProviderThread("custom", Custom(CredentialsSettings()))

    class Scarce(threading.Thread):
        def start(self) -> None:
            raise RuntimeError("can't start new thread")

    with monkeypatch.context() as scarce:
        scarce.setattr(asking, "threading", SimpleNamespace(Thread=Scarce))
        assert (await one.ask(request, 5)).failure == "the worker has no thread for it now"
    assert not (await one.ask(request, 5)).failure
    one.close()
