"""The network interface of a node's address, over which workers of several machines meet."""

from __future__ import annotations

import os
import sys

import pytest

from stmp_platform.training import network

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="interfaces are looked up on Linux alone")


def test_an_interface_is_found_by_its_address() -> None:
    assert network.interface_of("127.0.0.1") == "lo"
    assert network.interface_of("203.0.113.1") is None, "kept for documentation, and nobody's"


def test_what_the_environment_names_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ray.util.get_node_ip_address", lambda: "127.0.0.1")
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "chosen")
    network.use_the_nodes_interface()
    assert os.environ["GLOO_SOCKET_IFNAME"] == "chosen"
    monkeypatch.delenv("GLOO_SOCKET_IFNAME")
    network.use_the_nodes_interface()
    assert os.environ.pop("GLOO_SOCKET_IFNAME") == "lo"
