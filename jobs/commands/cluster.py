"""Commands that run other commands on a Ray cluster."""

from __future__ import annotations

from typing import Annotated

import typer

from jobs.options import Debug, JsonFile, finish
from stmp.errors import ConfigError

app = typer.Typer()
jobs = typer.Typer(help="Show and stop jobs of a Ray cluster.", no_args_is_help=True)
app.add_typer(jobs, name="jobs")

Address = Annotated[
    str, typer.Option(envvar="RAY_API_SERVER_ADDRESS", help="The cluster's dashboard; `ray dashboard` forwards it.")
]
LOCAL = "http://127.0.0.1:8265"
ELSEWHERE = ("demo", "jobs", "rollout", "serve", "submit")
"""Commands that start or steer something of their own."""


@app.command(context_settings={"allow_extra_args": True, "ignore_unknown_options": True})
def submit(
    context: typer.Context,
    job: Annotated[str, typer.Argument(metavar="COMMAND", help="Any command of stmp, followed by its options.")],
    address: Address = LOCAL,
    name: Annotated[
        str | None, typer.Option("--id", help="Of the job: repeated, it is not started again, unless it has failed.")
    ] = None,
    env: Annotated[
        list[str] | None,
        typer.Option("--env", metavar="NAME", help="A variable to send along; seen by all in Ray's dashboard."),
    ] = None,
    follow: Annotated[bool, typer.Option(help="Print its log, wait for its end, and end with its exit code.")] = True,
    debug: Debug = False,
) -> None:
    """Run a command on a Ray cluster, with the code of this machine, as it would run here.

    \b
    stmp submit train --data s3://bucket/stores --out s3://bucket/runs/may --workers 4 --gpu --address http://head:8265
    stmp submit ingest s3://bucket/raw/dataset.yaml --out s3://bucket/stores --id ingest-may
    """
    if job in ELSEWHERE:
        raise ConfigError(f"`stmp {job}` cannot be submitted: it starts or steers something of its own.")
    from jobs.submit import submit as run

    result = run([job, *context.args], address=address, name=name, env=env or (), follow=follow)
    if follow:
        raise typer.Exit(result["exit_code"] if result["exit_code"] is not None else 1)


@jobs.command("list")
def list_(address: Address = LOCAL, json_file: JsonFile = None, debug: Debug = False) -> None:
    """List the jobs of a cluster.

    \b
    stmp jobs list --address http://head:8265
    """
    from jobs.submit import list_jobs

    finish(list_jobs(address), json_file)


Job = Annotated[str, typer.Argument(metavar="JOB", help="Id of a job.")]


@jobs.command()
def logs(job: Job, address: Address = LOCAL, json_file: JsonFile = None, debug: Debug = False) -> None:
    """Show what a job has printed.

    \b
    stmp jobs logs ingest-may --address http://head:8265
    """
    from jobs.submit import job_log

    finish(job_log(job, address), json_file)


@jobs.command()
def stop(job: Job, address: Address = LOCAL, json_file: JsonFile = None, debug: Debug = False) -> None:
    """Stop a job.

    \b
    stmp jobs stop ingest-may --address http://head:8265
    """
    from jobs.submit import stop_job

    finish(stop_job(job, address), json_file)
