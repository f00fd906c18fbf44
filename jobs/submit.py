"""The jobs behind `stmp submit` and `stmp jobs`: any command of `stmp` on a Ray cluster, and what became of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from textwrap import shorten
from typing import Any
from urllib.parse import urlsplit

from jobs.screen import say, table, warn

SHOWN = 60
"""Letters of a command in a list; --json has all of it."""


def submit(
    arguments: Sequence[str],
    *,
    address: str,
    name: str | None = None,
    env: Sequence[str] = (),
    follow: bool = True,
) -> dict[str, Any]:
    """Run a command of `stmp` on a cluster as it would run here.

    Parameters
    ----------
    arguments : sequence of str
        The command and its options.
    address : str
        Of the cluster's dashboard.
    name : str, optional
        Id of the job: repeated, it is not started again unless it has failed.
    env : sequence of str
        Variables whose values are sent along.
    follow : bool
        Whether to print its log and wait for its end.

    Raises
    ------
    ConfigError
        If the name belongs to another command.
    SubmissionError
        If the cluster cannot be reached, or the job does not begin within a minute.
    """
    from stmp_platform.submission import Cluster

    _warn_of_local(arguments, address)
    cluster = Cluster(address)
    job, new = cluster.submit(arguments, name=name, env=env)
    say(f"{'Submitted' if new else 'Already there:'} {job}. Its log: stmp jobs logs {job} --address {cluster.address}")
    state = cluster.follow(job, lambda text: print(text, end="", flush=True)) if follow else cluster.get(job)
    if follow:
        say(f"{job}: {state.status.lower()}{'' if state.status == 'SUCCEEDED' else f' ({state.message})'}")
    return asdict(state) | {"new": new}


def list_jobs(address: str) -> dict[str, Any]:
    """Show the jobs of a cluster."""
    from stmp_platform.submission import Cluster

    found = Cluster(address).list()
    rows = [
        (
            job.id,
            job.status.lower(),
            job.began,
            job.ended,
            job.exit_code,
            shorten(job.command, SHOWN, placeholder=" ..."),
        )
        for job in found
    ]
    table(("job", "status", "began", "ended", "exit code", "command"), rows)
    return {"jobs": [asdict(job) for job in found]}


def job_log(job: str, address: str) -> dict[str, Any]:
    """Show what a job has printed."""
    from stmp_platform.submission import Cluster

    text = Cluster(address).log(job)
    print(text, end="", flush=True)
    return {"job": job, "log": text}


def stop_job(job: str, address: str) -> dict[str, Any]:
    """End a job; a training goes on from its last checkpoint when it is submitted again."""
    from stmp_platform.submission import Cluster

    stopped = Cluster(address).stop(job)
    say(f"{job} is being stopped." if stopped else f"{job} had ended already.")
    return {"job": job, "stopped": stopped}


def _warn_of_local(arguments: Sequence[str], address: str) -> None:
    """A path of this machine means something else on another one."""
    if urlsplit(address).hostname in ("localhost", "127.0.0.1", "::1"):
        return
    for argument in arguments:
        if "://" not in argument and not argument.startswith("-") and Path(argument).exists():
            warn(f"{argument} is on this machine; {address} looks for it on its own, where it may not be.")
