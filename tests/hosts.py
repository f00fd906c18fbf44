"""Machines of a Ray cluster on this one: network namespaces with addresses of their own, joined by a bridge.

It needs root and iproute2. What runs in a namespace shares this machine's disk and cores, and nothing of its network:
a machine is lost when its cable is pulled, and no process of it says good-bye.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType

import psutil
import pytest

from stmp_platform.submission import Cluster, SubmissionError

BIN = Path(sys.executable).parent
PORT = 6379


def ip(*arguments: str) -> str:
    """Run iproute2, and return what it prints."""
    return subprocess.run(["ip", *arguments], check=True, capture_output=True, text=True).stdout


@dataclass
class Host:
    """One machine.

    Attributes
    ----------
    name : str
        Of its network namespace.
    cable : str
        The end of its cable at the bridge.
    address : str
    """

    name: str
    cable: str
    address: str
    ray: subprocess.Popen[bytes] | None = None
    lost: bool = False

    def processes(self, name: str = "") -> list[psutil.Process]:
        """What runs on it, and has a name in its command line."""
        found = []
        for pid in ip("netns", "pids", self.name).split():
            with contextlib.suppress(psutil.NoSuchProcess):
                process = psutil.Process(int(pid))
                if name in " ".join(process.cmdline()):
                    found.append(process)
        return found

    def lose(self) -> None:
        """Pull the cable, and then the plug."""
        ip("link", "set", self.cable, "down")
        self.kill()

    def kill(self) -> None:
        """SIGKILL to all that runs on it."""
        self.lost = True
        gone = self.processes()
        for process in gone:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        if self.ray is not None:
            self.ray.wait()
        psutil.wait_procs(gone, timeout=10)


@dataclass
class Hosts:
    """A Ray cluster of such machines; its head only schedules.

    Attributes
    ----------
    env : mapping
        Variables of all machines.
    gateway : str
        This machine's address, as they see it: for the servers that the cluster uses.
    """

    env: Mapping[str, str] = field(default_factory=dict)
    gateway: str = f"10.213.{os.getpid() % 250}.1"
    hosts: list[Host] = field(default_factory=list)

    def __enter__(self) -> Hosts:
        if os.geteuid() != 0 or shutil.which("ip") is None or not (BIN / "ray").exists():
            pytest.skip("several machines on one need root, iproute2 and the command `ray`")
        # The path of a socket may be no longer than 107 bytes.
        self.scratch = Path(tempfile.mkdtemp(prefix="ray-", dir="/tmp"))
        self.bridge = f"stmp{os.getpid()}"
        ip("link", "add", self.bridge, "type", "bridge")
        ip("addr", "add", f"{self.gateway}/24", "dev", self.bridge)
        ip("link", "set", self.bridge, "up")
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        for host in self.hosts:
            host.kill()
            ip("netns", "del", host.name)  # the cable goes with it
        ip("link", "del", self.bridge)
        shutil.rmtree(self.scratch, ignore_errors=True)

    @property
    def head(self) -> Host:
        """The first machine."""
        return self.hosts[0]

    def start(self) -> Cluster:
        """Start a head, and wait for its job server."""
        if not self.hosts:
            self._plug()
        self._ray(self.head, "--head", f"--port={PORT}", "--num-cpus=0", f"--dashboard-host={self.head.address}")
        deadline = time.monotonic() + 90
        while time.monotonic() < deadline:
            assert self.head.ray is not None and self.head.ray.poll() is None, self.log(self.head)
            with contextlib.suppress(SubmissionError):
                found = Cluster(f"http://{self.head.address}:8265")
                found.list()
                return found
            time.sleep(0.5)
        raise TimeoutError(self.log(self.head))

    def add(self) -> Host:
        """Start a machine with one CPU."""
        host = self._plug()
        self._ray(host, f"--address={self.head.address}:{PORT}", "--num-cpus=1")
        return host

    def have(self, number: int, limit_s: float = 120) -> list[Host]:
        """Add or lose machines until Ray knows of so many beside the head, and return them."""
        there = [host for host in self.hosts[1:] if not host.lost]
        for host in there[number:]:
            host.lose()
        kept = there[:number] + [self.add() for _ in range(number - len(there))]
        deadline = time.monotonic() + limit_s
        while self.cpus() != number:
            assert time.monotonic() < deadline, f"Ray has {self.cpus()} machines, not {number}"
            time.sleep(0.5)
        return kept

    def cpus(self) -> int:
        """CPUs of the machines that Ray knows of."""
        at = f"--address={self.head.address}:{PORT}"
        status = ip("netns", "exec", self.head.name, str(BIN / "ray"), "status", at)
        found = re.search(r"/([\d.]+) CPU", status)
        return int(float(found[1])) if found else 0

    def log(self, host: Host) -> str:
        """What `ray start` has printed on a machine."""
        return (self.scratch / f"{host.name}.log").read_text()

    def _plug(self) -> Host:
        number = len(self.hosts) + 2
        name = f"{self.bridge}-{number}"
        host = Host(name, f"v{number}-{os.getpid()}", f"{self.gateway.rpartition('.')[0]}.{number}")
        ip("netns", "add", name)
        ip("link", "add", host.cable, "type", "veth", "peer", "name", "eth0", "netns", name)
        ip("link", "set", host.cable, "master", self.bridge, "up")
        ip("-n", name, "addr", "add", f"{host.address}/24", "dev", "eth0")
        for device in ("eth0", "lo"):
            ip("-n", name, "link", "set", device, "up")
        self.hosts.append(host)
        return host

    def _ray(self, host: Host, *arguments: str) -> None:
        host.lost = False
        env = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
        env |= {"PATH": f"{BIN}:{env['PATH']}", "RAY_AUTH_MODE": "disabled", "OMP_NUM_THREADS": "1", **self.env}
        command = [
            "ip", "netns", "exec", host.name, str(BIN / "ray"), "start", "--block", "--disable-usage-stats",
            f"--node-ip-address={host.address}", f"--temp-dir={self.scratch / host.cable}",
            "--object-store-memory=80000000", *arguments,
        ]  # fmt: skip
        with (self.scratch / f"{host.name}.log").open("w") as output:
            host.ray = subprocess.Popen(
                command, env=env, stdout=output, stderr=output, start_new_session=True, cwd=self.scratch
            )


@contextlib.contextmanager
def store(address: str) -> Iterator[dict[str, str]]:
    """An S3-compatible store at an address of this machine; yields the variables that it is reached with."""
    server_module = pytest.importorskip("moto.server")
    server = server_module.ThreadedMotoServer(ip_address=address, port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield {
        "AWS_ENDPOINT_URL": f"http://{host}:{port}",
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "a-key-of-nobody",
        "AWS_DEFAULT_REGION": "us-east-1",
    }
    server.stop()
