"""How e2e tests call the command line: as a process of its own, without a terminal, in an empty folder."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest


@dataclass(frozen=True)
class Stmp:
    """The `stmp` command in one folder; `python` are Python's own arguments before those of the command."""

    folder: Path
    python: tuple[str, ...] = ("-m", "jobs.cli")

    def start(self, *arguments: str, **env: str) -> subprocess.Popen[str]:
        """Start a command, with both of its outputs piped."""
        hidden = ("MLFLOW_", "STMP_", "PYTHONPATH")
        clean = {k: v for k, v in os.environ.items() if not k.startswith(hidden) or k == "MLFLOW_DISABLE_TELEMETRY"}
        if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
            # A shell's background job ignores Ctrl-C, and what it starts would inherit that.
            signal.signal(signal.SIGINT, signal.default_int_handler)
        return subprocess.Popen(
            [sys.executable, *self.python, *arguments],
            cwd=self.folder,
            env=clean | env,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def __call__(self, *arguments: str, **env: str) -> subprocess.CompletedProcess[str]:
        """Run a command and return how it ended, with what it printed."""
        with self.start(*arguments, **env) as process:
            try:
                output, errors = process.communicate(timeout=280)
            except subprocess.TimeoutExpired:
                process.kill()
                raise
        return subprocess.CompletedProcess(process.args, process.returncode, output, errors)

    def ok(self, *arguments: str, **env: str) -> str:
        """Run a command that must succeed, and return what it printed."""
        done = self(*arguments, **env)
        assert done.returncode == 0, f"stmp {' '.join(arguments)}\n{done.stdout}\n{done.stderr}"
        assert "Traceback" not in done.stderr, done.stderr
        return done.stdout

    def json(self, *arguments: str, **env: str) -> dict[str, Any]:
        """Run a command that must succeed, and return its --json."""
        file = self.folder / "result.json"
        self.ok(*arguments, "--json", str(file), **env)
        loaded: dict[str, Any] = json.loads(file.read_text())
        file.unlink()
        return loaded

    def refused(self, *arguments: str, code: int = 2, **env: str) -> str:
        """Run a command that must be refused with one message and no traceback, and return the message."""
        done = self(*arguments, **env)
        assert done.returncode == code, f"{done.returncode}\n{done.stdout}\n{done.stderr}"
        assert "Traceback" not in done.stderr, done.stderr
        return done.stderr


@pytest.fixture(scope="module")
def stmp(tmp_path_factory: pytest.TempPathFactory) -> Stmp:
    """Return the command line, in an empty folder that the tests of one module share."""
    return Stmp(tmp_path_factory.mktemp("stmp"))
