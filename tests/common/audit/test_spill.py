"""Overflow to the keeper's disk: calls go on, and every record comes to the sink in the end, in order."""

from __future__ import annotations

import errno
import os
import shutil
from pathlib import Path
from typing import Any

import pytest

from common.audit import keeper
from common.audit.chain_store import ChainStore, Spilled
from common.audit.rules import Rules
from common.audit.spill import SEGMENT, Spill
from common.audit.spilling import Spilling
from common.audit.verify import verify_file, verify_redis
from common.domain.audit_chain import START, seal_all
from common.domain.errors import ConfigurationError
from common.store.client import Client, StoreAddress
from common.store.keys import Keys
from tests.common.audit.chains import Collector, keeper_of, kept, records, write_events
from tests.common.audit.test_file_sink import Disk
from tests.common.audit.test_keeper import whole
from tests.support.wait import wait_until


def test_what_is_spilled_is_read_back_in_order(tmp_path: Path) -> None:
    """By another process as well; and it is removed as far as every sink has it."""
    spill = Spill(tmp_path)
    all_ = records(9000)
    for start in range(0, 9000, 1000):
        spill.append(all_[start : start + 1000])
    spill.close()
    again = Spill(tmp_path)
    assert (again.name, again.last) == (spill.name, all_[-1].position)
    files = len(list(tmp_path.iterdir()))
    assert files > 3
    place, read = START, []
    while found := again.after(place):
        assert sum(len(record.line()) for record in found) < 2 * SEGMENT
        read += found
        place = found[-1].position
        again.forget(place.seq - 1)
    assert read == all_
    again.forget(9000)
    assert again.last is None
    assert [file.name for file in tmp_path.iterdir() if file.stat().st_size] == ["spill.id"]
    again.append(all_[:0])
    assert again.after(START) is None
    again.close()


def test_what_does_not_follow_is_not_handed_out(tmp_path: Path) -> None:
    """Of another chain, or with a gap before it."""
    spill = Spill(tmp_path)
    all_ = records(20)
    spill.append(all_[10:])
    assert spill.after(START) is None
    assert spill.after(all_[9].position) == all_[10:]
    spill.close()


def test_what_is_not_on_the_disk_does_not_count(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Redis is trimmed behind the last one here: one that was not forced is not that."""
    disk = Disk(monkeypatch)
    spill = Spill(tmp_path)
    all_ = records(20)
    spill.append(all_[:10])
    disk.failing = True
    with pytest.raises(OSError, match="not written back"):
        spill.append(all_[10:])
    assert spill.last == all_[9].position
    disk.failing = False
    spill.append(all_[10:])
    assert disk.numbers == list(range(1, 21))
    assert spill.after(START) == all_
    spill.close()


@pytest.mark.parametrize("cuts", [True, False])
def test_a_torn_line_keeps_no_other_from_its_sink(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cuts: bool
) -> None:
    """A full disk took half of it, and it may be that not even that can be undone."""
    disk = Disk(monkeypatch)
    disk.cuts = cuts
    spill = Spill(tmp_path)
    all_ = records(20)
    spill.append(all_[:10])
    file, room = tmp_path / "spill.ndjson", iter([True])
    size = file.stat().st_size

    def full(fd: int, data: Any) -> int:
        if next(room, False):
            return disk.write(fd, data[:30])
        raise OSError(errno.ENOSPC, "no space left")

    with monkeypatch.context() as patched:
        patched.setattr(os, "write", full)
        with pytest.raises(OSError, match="no space"):
            spill.append(all_[10:])
    assert file.stat().st_size == (size if cuts else size + 30)
    assert spill.after(START) == all_[:10]
    disk.cuts = True
    spill.append(all_[10:])
    assert spill.after(START) == all_
    spill.close()


def test_a_directory_that_cannot_be_is_refused(tmp_path: Path) -> None:
    """With the setting's name."""
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigurationError) as caught:
        Spill(tmp_path / "file" / "spill")
    assert caught.value.data["field"] == "audit.spill_dir"


def test_a_sink_that_is_away_costs_redis_no_more_than_the_bound(
    client: Client, keys: Keys, address: StoreAddress, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ten times the bound; the other sink has all meanwhile, and this one gets all afterwards."""
    monkeypatch.setattr(keeper, "TIDY", 0.1)
    good, away = Collector(), Collector()
    away.failing = True
    with kept(keeper_of(address, keys, {"good": good, "away": away}, most=400, spill=Spill(tmp_path))):
        for count in range(0, 4000, 200):
            write_events(client, keys, 200, first=count)
            wait_until(lambda: client.xlen(keys.audit) < 400, description="room in Redis")
        wait_until(lambda: len(good.got) == 4000, description="the good one has all")
        assert ChainStore(client, keys).state().spill is not None
        away.failing = False
        wait_until(lambda: len(away.got) == 4000, description="the other one has all", timeout=30)
        wait_until(lambda: ChainStore(client, keys).state().spill is None, description="nothing spilled")
    assert [record.event["detail"] for record in away.got] == [str(number) for number in range(4000)]
    assert whole(away).problems == []
    assert verify_redis(ChainStore(client, keys)).sound


def test_another_keeper_with_the_directory_goes_on(
    client: Client, keys: Keys, address: StoreAddress, tmp_path: Path
) -> None:
    """And one without it gives up: what it does not have it must not skip."""
    away = Collector()
    away.failing = True
    with kept(keeper_of(address, keys, {"a": away}, most=200, spill=Spill(tmp_path / "one"))):
        write_events(client, keys, 1000)
        wait_until(lambda: client.xlen(keys.audit) < 200, description="it is spilled")
    for spill in (None, Spill(tmp_path / "other")):
        late = Collector()
        assert keeper_of(address, keys, {"a": late}, most=200, spill=spill).run() is False
        assert late.got == []
    late = Collector()
    with kept(keeper_of(address, keys, {"a": late}, most=200, spill=Spill(tmp_path / "one"))):
        wait_until(lambda: len(late.got) == 1000, description="all of it")
    assert whole(late).problems == []


def test_a_disk_that_is_full_loses_nothing(
    client: Client, keys: Keys, address: StoreAddress, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Redis keeps it all, up to the bound at which calls are refused; with room it is spilled after all."""
    away = Collector()
    away.failing = True
    spill = Spill(tmp_path)
    real, tried = spill.append, []

    def full(found: Any) -> None:
        tried.append(len(found))
        raise OSError(errno.ENOSPC, "no space left")

    monkeypatch.setattr(spill, "append", full)
    with kept(keeper_of(address, keys, {"a": away}, most=200, spill=spill)):
        write_events(client, keys, 1000)
        wait_until(lambda: tried, description="it is tried")
        assert client.xlen(keys.audit) == 1000
        monkeypatch.setattr(spill, "append", real)
        wait_until(lambda: client.xlen(keys.audit) < 200, description="it is spilled")
        away.failing = False
        wait_until(lambda: len(away.got) == 1000, description="all of it")
    assert whole(away).problems == []


@pytest.mark.parametrize(
    "error", [OSError(errno.EROFS, "read-only"), ConfigurationError("something else", field="audit.sinks")]
)
@pytest.mark.parametrize("method", ["forget", "append"])
def test_a_disk_that_fails_ends_no_keeper(
    client: Client,
    keys: Keys,
    address: StoreAddress,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    method: str,
    error: Exception,
) -> None:
    """Whatever it is asked for: sealing and delivering go on."""
    monkeypatch.setattr(keeper, "TIDY", 0.1)
    good, away = Collector(), Collector()
    away.failing = True
    spill = Spill(tmp_path)
    tried = []

    def fails(_: object) -> None:
        tried.append(method)
        raise error

    monkeypatch.setattr(spill, method, fails)
    with kept(keeper_of(address, keys, {"good": good, "away": away}, most=200, spill=spill)):
        write_events(client, keys, 500)
        wait_until(lambda: len(tried) > 1, description="it is tried again")
        write_events(client, keys, 500, first=500)
        wait_until(lambda: len(good.got) == 1000, description="the good one has all")
        assert client.xlen(keys.audit) == 1000


def test_a_directory_that_was_removed_shows(
    client: Client, keys: Keys, address: StoreAddress, tmp_path: Path
) -> None:
    """Begun anew it has another name: nobody takes it for the one that held the records."""
    away = Collector()
    away.failing = True
    with kept(keeper_of(address, keys, {"a": away}, most=200, spill=Spill(tmp_path / "s"))):
        write_events(client, keys, 1000)
        wait_until(lambda: client.xlen(keys.audit) < 200, description="it is spilled")
    shutil.rmtree(tmp_path / "s")
    assert keeper_of(address, keys, {"a": away}, most=200, spill=Spill(tmp_path / "s")).run() is False


@pytest.mark.parametrize("count", [5, 500, 5000])
def test_what_is_left_of_another_chain_is_set_aside(
    client: Client, keys: Keys, address: StoreAddress, tmp_path: Path, count: int
) -> None:
    """Shorter than this one or longer: Redis is not trimmed for it, and it can be looked at."""
    spill = Spill(tmp_path)
    spill.append(records(count))
    away = Collector()
    away.failing = True
    with kept(keeper_of(address, keys, {"a": away}, most=200, spill=spill)):
        write_events(client, keys, 1000)
        wait_until(lambda: client.xlen(keys.audit) < 200, description="it is spilled")
        away.failing = False
        wait_until(lambda: len(away.got) == 1000, description="all of it")
    assert whole(away).problems == []
    (other,) = tmp_path.glob("other.*")
    found = verify_file(other / "spill.ndjson")
    assert (found.sound, found.last) == (True, count)


@pytest.mark.parametrize("count", [37, 40])
def test_what_was_spilled_and_not_put_on_record_is_gone_on_from(
    client: Client, keys: Keys, address: StoreAddress, tmp_path: Path, count: int
) -> None:
    """At a mark or between two: the keeper before ended just then."""
    away = Collector()
    away.failing = True
    with kept(keeper_of(address, keys, {"a": away}, most=200)):
        write_events(client, keys, 1000)
        wait_until(lambda: ChainStore(client, keys).state().head.seq == 1000, description="it is sealed")
    spill = Spill(tmp_path)
    spill.append(seal_all(START, ChainStore(client, keys).entries("0", count)))
    with kept(keeper_of(address, keys, {"a": away}, most=200, spill=spill)):
        wait_until(lambda: client.xlen(keys.audit) < 200, description="it is spilled")
        away.failing = False
        wait_until(lambda: len(away.got) == 1000, description="all of it")
    assert whole(away).problems == []
    assert list(tmp_path.glob("other.*")) == []


def test_a_spill_that_is_further_than_redis_trims_nothing(client: Client, keys: Keys, tmp_path: Path) -> None:
    """Redis forgot: what it took since is not what was spilled under these numbers."""
    spill, store = Spill(tmp_path), ChainStore(client, keys, "me")
    all_ = records(200)
    spill.append(all_)
    store.keep()
    write_events(client, keys, 100)
    sealed = seal_all(START, store.entries("0", 100))
    store.move_head(START, sealed[-1].position, sealed)
    store.move_sink("a", None, START)
    store.set_spill(None, Spilled(START, spill.name))
    state = store.state()
    assert Spilling(spill, store, ["a"], Rules(most=100)).tidy(state, state.head) == state
    assert spill.last == all_[-1].position
    spill.close()
