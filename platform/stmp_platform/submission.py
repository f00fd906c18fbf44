"""Jobs on a Ray cluster, through its job server: this machine's code goes along, its log and exit code come back.

A job runs there as it would here: the same command of `stmp`, in the environment of the cluster's machines. Their
variables hold the secrets; nothing of this machine's environment is sent but what is named, for whatever is sent can be
read in Ray's dashboard.
"""

from __future__ import annotations

import importlib.util
import logging
import os
import shlex
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stmp.errors import ConfigError, StmpError

if TYPE_CHECKING:
    from ray.job_submission import JobSubmissionClient

PACKAGES = ("stmp", "stmp_platform", "jobs", "serving")
"""What is sent along; what they need is in the cluster's image."""
NAME = "stmp.name"
"""Where Ray keeps the name of a job: it cannot be the id of a second attempt."""
POLL_S = 1.0
PATIENCE_S = 60.0
"""How long the job server may be out of reach, and how long a job may wait to begin, before this gives up."""
DONE = ("SUCCEEDED", "FAILED", "STOPPED")


class SubmissionError(StmpError):
    """The cluster does not answer, or has no such job."""


@dataclass(frozen=True)
class Submitted:
    """A job on a cluster.

    Attributes
    ----------
    id : str
    name : str
        Under which it was submitted: the id of its first attempt.
    command : str
        As it runs there.
    status : str
        ``PENDING``, ``RUNNING``, ``SUCCEEDED``, ``FAILED`` or ``STOPPED``.
    exit_code : int or None
        Of the command, when it has ended.
    message : str
        What Ray says of it.
    began, ended : str or None
        UTC times.
    """

    id: str
    name: str
    command: str
    status: str
    exit_code: int | None
    message: str
    began: str | None
    ended: str | None

    @classmethod
    def of(cls, details: Any) -> Submitted:
        """What Ray's job server tells."""
        began, ended = (_time(ms) for ms in (details.start_time, details.end_time))
        code = details.driver_exit_code
        if code is None and details.status == "SUCCEEDED":
            code = 0
        name = (details.metadata or {}).get(NAME, details.submission_id)
        return cls(
            details.submission_id,
            name,
            details.entrypoint,
            str(details.status),
            code,
            details.message or "",
            began,
            ended,
        )


class Cluster:
    """The job server of a Ray cluster.

    Parameters
    ----------
    address : str
        Of the dashboard, ``http://head:8265``. A token comes from ``RAY_AUTH_TOKEN`` or ``~/.ray/auth_token``.

    Raises
    ------
    SubmissionError
        If nothing answers there, or it wants another token.
    """

    def __init__(self, address: str) -> None:
        from ray.job_submission import JobSubmissionClient

        self.address = address.rstrip("/")
        logging.getLogger("ray.dashboard.modules.dashboard_sdk").setLevel(logging.WARNING)
        try:
            self.client: JobSubmissionClient = JobSubmissionClient(self.address)
        except (ConnectionError, RuntimeError, ValueError) as error:
            raise SubmissionError(_unreachable(self.address, error)) from error

    def submit(self, arguments: Sequence[str], *, name: str | None = None, env: Sequence[str] = ()) -> tuple[str, bool]:
        """Have a command of `stmp` run on the cluster.

        Parameters
        ----------
        arguments : sequence of str
            Of `stmp`: ``["train", "--data", ...]``.
        name : str, optional
            Name of the job. One of this name that runs or has succeeded is not started again; one that has failed or
            was stopped is.
        env : sequence of str
            Names of variables whose values are sent along. They can be read in Ray's dashboard.

        Returns
        -------
        id : str
        new : bool
            Whether it was started now.

        Raises
        ------
        ConfigError
            If the name is taken by another command, or a variable is not set.
        SubmissionError
            If the cluster does not take it.
        """
        command = shlex.join(["python", "-m", "jobs.cli", *arguments])
        attempts = [job for job in self.list() if job.name == name] if name is not None else []
        if attempts and attempts[0].command != command:
            raise ConfigError(
                f"The job '{name}' is there already, and runs another command: {attempts[0].command}. Choose another "
                "--id."
            )
        if attempts and attempts[0].status in ("PENDING", "RUNNING", "SUCCEEDED"):
            return attempts[0].id, False
        own = name or f"stmp-{arguments[0]}-{uuid.uuid4().hex[:8]}"
        id_ = f"{own}-{len(attempts) + 1}" if attempts else own
        modules = [_folder_of(package) for package in PACKAGES]
        runtime = {"py_modules": modules, "excludes": ["**/__pycache__"], "env_vars": _values(env)}
        self._call(
            self.client.submit_job,
            entrypoint=command, submission_id=id_, runtime_env=runtime, metadata={NAME: own},
        )  # fmt: skip
        return id_, True

    def follow(self, job: str, tell: Callable[[str], None]) -> Submitted:
        """Pass a job's log on until the job has ended.

        Parameters
        ----------
        tell : function
            Takes what is new in the log.

        Raises
        ------
        SubmissionError
            If the job does not begin within a minute, or the cluster is out of reach for as long. The job is left as
            it is.
        """
        told, heard, waited = 0, time.monotonic(), time.monotonic()
        while True:
            try:
                state, log = self.get(job), self.log(job)
                heard = time.monotonic()
            except SubmissionError:
                if time.monotonic() - heard > PATIENCE_S:
                    raise
                time.sleep(POLL_S)
                continue
            if len(log) > told:
                tell(log[told:])
                told = len(log)
            if state.status in DONE:
                return state
            if state.status == "PENDING" and time.monotonic() - waited > PATIENCE_S:
                raise SubmissionError(
                    f"The job {job} has not begun within {PATIENCE_S:.0f} s: {state.message or 'no reason is told'}. "
                    f"It still waits: `stmp jobs stop {job} --address {self.address}` takes it back."
                )
            time.sleep(POLL_S)

    def get(self, job: str) -> Submitted:
        """One job.

        Raises
        ------
        SubmissionError
            If there is none, or the cluster does not answer.
        """
        return Submitted.of(self._call(self.client.get_job_info, job))

    def log(self, job: str) -> str:
        """All that a job has printed so far."""
        return str(self._call(self.client.get_job_logs, job))

    def list(self) -> list[Submitted]:
        """All jobs that were submitted, the newest first."""
        found = [Submitted.of(job) for job in self._call(self.client.list_jobs) if job.submission_id]
        return sorted(found, key=lambda job: job.began or "", reverse=True)

    def stop(self, job: str) -> bool:
        """Ask a job to end; whether it was still there to be asked."""
        return bool(self._call(self.client.stop_job, job))

    def _call(self, ask: Callable[..., Any], *given: Any, **named: Any) -> Any:
        try:
            return ask(*given, **named)
        except RuntimeError as error:
            text = str(error)
            if "does not exist" in text:
                raise SubmissionError(
                    f"The cluster at {self.address} has no job '{given[0]}'. `stmp jobs list` names them."
                ) from error
            raise SubmissionError(f"The cluster at {self.address} refuses: {_first(text)}") from error
        except (ConnectionError, OSError) as error:
            raise SubmissionError(_unreachable(self.address, error)) from error


def _folder_of(package: str) -> str:
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise ConfigError(f"The package '{package}' is not installed here, so that it cannot be sent to a cluster.")
    return str(Path(next(iter(spec.submodule_search_locations))).resolve())


def _values(names: Sequence[str]) -> Mapping[str, str]:
    missing = [name for name in names if name not in os.environ]
    if missing:
        raise ConfigError(f"--env names variables that are not set here: {', '.join(missing)}.")
    return {name: os.environ[name] for name in names}


def _time(milliseconds: int | None) -> str | None:
    return datetime.fromtimestamp(milliseconds / 1000, UTC).isoformat(timespec="seconds") if milliseconds else None


def _unreachable(address: str, error: Exception) -> str:
    return (
        f"No Ray cluster answers at {address}: {_first(str(error))}. Give the address of its dashboard, "
        "http://HEAD:8265 (`ray dashboard cluster.yaml` brings it to this machine), and the cluster's token in "
        "RAY_AUTH_TOKEN or ~/.ray/auth_token."
    )


def _first(text: str) -> str:
    return next((line.strip() for line in text.splitlines() if line.strip()), text)
