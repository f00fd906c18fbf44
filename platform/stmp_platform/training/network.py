"""The address at which workers of several machines meet: the one that Ray knows each machine by.

Gloo, which workers without GPUs talk over, takes the address that the machine's own name resolves to. On many machines
(all of Debian and Ubuntu) that is a loopback address, where no other machine finds it.
"""

from __future__ import annotations

import fcntl
import os
import socket
import struct
from typing import Any

from ray.train.torch import TorchConfig

SIOCGIFADDR = 0x8915  # Linux: the IPv4 address of an interface


class MeetingConfig(TorchConfig):
    """`TorchConfig` whose workers meet at the addresses of Ray's nodes."""

    @property
    def backend_cls(self) -> type[Any]:
        """What Ray Train sets the process group up with."""
        usual: type[Any] = super().backend_cls

        class Backend(usual):  # type: ignore[misc,valid-type]
            def on_start(self, worker_group: Any, backend_config: TorchConfig) -> None:
                worker_group.execute(use_the_nodes_interface)
                super().on_start(worker_group, backend_config)

        return Backend


def use_the_nodes_interface() -> None:
    """Have Gloo use the network interface of this node's address, unless the environment names one."""
    import ray

    name = interface_of(ray.util.get_node_ip_address())
    if name is not None:
        os.environ.setdefault("GLOO_SOCKET_IFNAME", name)


def interface_of(address: str) -> str | None:
    """Name of the network interface that has an IPv4 address; None if there is none, or this is not Linux."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        for _, name in socket.if_nameindex():
            try:
                answer = fcntl.ioctl(probe, SIOCGIFADDR, struct.pack("256s", name.encode()))
            except OSError:  # it has none
                continue
            if socket.inet_ntoa(answer[20:24]) == address:
                return name
    return None
