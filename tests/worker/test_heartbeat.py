"""The heartbeat file: touched while the loop turns, gone when the worker stopped."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import pytest

from gateway_worker import heartbeat
from gateway_worker.heartbeat import Heartbeat
from gateway_worker.node import Node, lease_time
from tests.support.aio import on_loop, until


@on_loop
async def test_it_says_whether_the_node_may_act(tmp_path: Path) -> None:
    node, path = Node("worker@here"), tmp_path / "beat"
    beats = Heartbeat(path, node)
    beats.beat()
    assert path.read_text() == "waiting\n"
    node.confirm(lease_time())
    beats.beat()
    assert path.read_text() == "ready\n"
    assert os.listdir(tmp_path) == ["beat"]


@on_loop
async def test_each_beat_makes_it_younger(tmp_path: Path) -> None:
    path = tmp_path / "beat"
    beats = Heartbeat(path, Node("worker@here"))
    beats.beat()
    os.utime(path, (1, 1))
    beats.beat()
    assert path.stat().st_mtime > 1


@on_loop
async def test_a_file_that_was_taken_away_comes_back(tmp_path: Path) -> None:
    path = tmp_path / "beat"
    beats = Heartbeat(path, Node("worker@here"))
    beats.beat()
    path.unlink()
    beats.beat()
    assert path.read_text() == "waiting\n"


@on_loop
async def test_a_worker_that_stops_takes_it_away(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(heartbeat, "BEAT", 0.001)
    path = tmp_path / "beat"
    task = asyncio.create_task(Heartbeat(path, Node("worker@here")).run())
    await until(path.exists, description="the file")
    task.cancel()
    await asyncio.wait([task])
    assert not path.exists()


@on_loop
async def test_a_file_that_cannot_be_written_stops_nothing(tmp_path: Path) -> None:
    directory = tmp_path / "not-there"
    beats = Heartbeat(directory / "beat", Node("worker@here"))
    beats.beat()
    directory.mkdir()
    beats.beat()
    assert (directory / "beat").read_text() == "waiting\n"
