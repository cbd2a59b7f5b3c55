"""Classes of others, by dotted path or entry point."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from common.plugins import UnknownPlugin, installed, load_class

GROUP = "canalgate.nothing_real"


def distribution(place: Path, name: str, *entries: str) -> None:
    """What an installed package leaves behind of its entry points."""
    info = place / f"{name}-1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1\n")
    (info / "entry_points.txt").write_text("\n".join([f"[{GROUP}]", *entries, ""]))


@pytest.fixture
def packages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    return tmp_path


def test_a_dotted_path_needs_nothing() -> None:
    assert load_class("pathlib:Path", GROUP) is Path


def test_an_installed_one_is_found_by_its_name(packages: Path) -> None:
    distribution(packages, "one", "own = pathlib:Path", "other = pathlib:PurePath")
    assert load_class("own", GROUP) is Path
    assert installed(GROUP) == ("other", "own")


def test_an_unknown_name_is_told_with_those_known(packages: Path) -> None:
    distribution(packages, "one", "own = pathlib:Path")
    with pytest.raises(UnknownPlugin) as error:
        load_class("onw", GROUP, ["file"])
    assert error.value.message == (
        f"'onw' is unknown: built in are file; installed packages bring own (entry points {GROUP}); "
        "or give a class as package.module:Class"
    )
    with pytest.raises(UnknownPlugin, match="installed packages bring none"):
        load_class("x", "canalgate.nobody_has_any")


def test_a_name_that_two_packages_bring_is_nobodys(packages: Path) -> None:
    distribution(packages, "one", "own = pathlib:Path")
    distribution(packages, "two", "own = pathlib:PurePath")
    with pytest.raises(UnknownPlugin, match="brought by 2 packages"):
        load_class("own", GROUP)


@pytest.mark.parametrize("name", ["no_such_module:X", "pathlib:NoSuchClass"])
def test_what_an_import_raises_is_told_to_whoever_asks(name: str) -> None:
    with pytest.raises((ImportError, AttributeError)):
        load_class(name, GROUP)
