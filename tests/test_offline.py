"""The guard in conftest.py that keeps all tests offline does its work."""

from __future__ import annotations

import socket

import pytest


def test_other_machines_are_out_of_reach(offline: list[str]) -> None:
    with pytest.raises(OSError, match="no network"):
        socket.create_connection(("192.0.2.1", 80), timeout=1)
    with pytest.raises(OSError, match="no network"):
        socket.getaddrinfo("example.com", 80)
    assert len(offline) == 2
    offline.clear()


def test_this_machine_is_within_reach() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server, socket.create_connection(server.getsockname(), timeout=5):
        pass
