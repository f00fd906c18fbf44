"""The rules of the house: what lies where, who imports whom, and that Python's own `platform` stays Python's own."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
DOCS = sorted([ROOT / "README.md", *(ROOT / "docs").glob("*.md"), *(ROOT / "benchmarks").glob("*.md")])
TOP = {
    "README.md", "Makefile", "pyproject.toml", "cluster.yaml", ".ci", ".git", ".gitignore", "LICENSE",
    "platform", "stmp", "jobs", "serving", "tests", "docs", "benchmarks",
}  # fmt: skip


def run(*args: str, cwd: Path = ROOT, **env: str) -> subprocess.CompletedProcess[str]:
    clean = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    return subprocess.run(args, cwd=cwd, env=clean | env, capture_output=True, text=True, timeout=120, check=False)


def sources(*folders: str) -> list[str]:
    return sorted(str(p.relative_to(ROOT)) for folder in folders for p in (ROOT / folder).rglob("*.py"))


def test_platform_is_no_package() -> None:
    assert (ROOT / "platform" / "stmp_platform" / "__init__.py").exists()
    assert not (ROOT / "platform" / "__init__.py").exists(), "it would hide Python's own module and hang Ray's workers"


PLATFORM_IS_PYTHONS = "import platform, uuid; assert platform.system(); assert uuid.uuid4(); print(platform.__file__)"


@pytest.mark.parametrize("env", [{}, {"PYTHONPATH": "."}, {"PYTHONPATH": str(ROOT)}], ids=["bare", "dot", "root"])
def test_import_platform_is_pythons_own(env: dict[str, str]) -> None:
    done = run(sys.executable, "-c", PLATFORM_IS_PYTHONS, **env)
    assert done.returncode == 0, done.stderr
    assert not Path(done.stdout.strip()).is_relative_to(ROOT)


def test_import_platform_under_pytest() -> None:
    import platform

    assert platform.system()
    assert not Path(platform.__file__).is_relative_to(ROOT)


@pytest.mark.parametrize("env", [{}, {"PYTHONPATH": "."}], ids=["bare", "dot"])
def test_command_line_runs_as_a_module_at_the_root(env: dict[str, str]) -> None:
    done = run(sys.executable, "-m", "jobs.cli", "--help", **env)
    assert done.returncode == 0, done.stderr
    assert "ingest" in done.stdout
    assert "backtest" in done.stdout


HEAVY = ("ray", "mlflow", "lightgbm", "statsforecast", "plotly", "matplotlib", "duckdb", "sklearn")


@pytest.mark.parametrize("module", ["stmp", "stmp_platform", "jobs.cli"])
def test_imports_stay_light(module: str) -> None:
    code = f"import sys, {module}; print(*[m for m in {HEAVY!r} if m in sys.modules])"
    done = run(sys.executable, "-c", code)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == [], f"import {module} is slow: it loads these"


def test_help_needs_no_torch() -> None:
    done = run(sys.executable, "-c", "import sys, jobs.cli; print('torch' in sys.modules)")
    assert done.stdout.strip() == "False", done.stderr


def test_who_imports_whom() -> None:
    done = run(str(Path(sys.executable).with_name("lint-imports")), "--no-cache")
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_package_of_ours_is_watched_and_installed() -> None:
    """A new top-level package must be named where import-linter, mypy and setuptools look."""
    config = tomllib.loads((ROOT / "pyproject.toml").read_text())
    ours = {p.parent.name for p in [*ROOT.glob("*/__init__.py"), *ROOT.glob("platform/*/__init__.py")]} - {"tests"}
    assert ours == set(config["tool"]["importlinter"]["root_packages"])
    assert ours == {Path(f).name for f in config["tool"]["mypy"]["files"]}
    assert ours == {p.rstrip("*") for p in config["tool"]["setuptools"]["packages"]["find"]["include"]}


def test_nothing_else_lies_at_the_top() -> None:
    listing = run("git", "ls-files")
    if listing.returncode:
        pytest.skip("not a git checkout")
    assert {name.split("/")[0] for name in listing.stdout.splitlines()} <= TOP


def test_files_are_of_a_size_to_read() -> None:
    lines = {
        path: len((ROOT / path).read_text().splitlines())
        for path in sources("stmp", "platform", "jobs", "serving", "tests")
    }
    assert {path: n for path, n in lines.items() if n > 500} == {}, "two ideas share a room"


def test_no_pickle() -> None:
    """Models and checkpoints are safetensors and JSON; a pickle runs what it holds."""
    for path in sources("stmp", "platform", "jobs", "serving", "benchmarks"):
        for node in ast.walk(ast.parse((ROOT / path).read_text())):
            names: list[str] = []
            if isinstance(node, ast.Import):
                names = [a.name for a in node.names]
            elif isinstance(node, ast.ImportFrom):
                names = [node.module or ""]
            assert not {n.split(".")[0] for n in names} & {"pickle", "joblib", "cloudpickle", "dill"}, path


@pytest.mark.parametrize("doc", DOCS, ids=lambda p: p.name)
def test_files_named_in_docs_exist(doc: Path) -> None:
    """Relative links, and paths of ours in backticks."""
    text = doc.read_text()
    links = [t.split("#")[0] for t in re.findall(r"\]\(([^)\s]+)\)", text) if not re.match(r"[a-z]+:|#", t)]
    missing = [t for t in links if t and not (doc.parent / t).exists()]
    named = re.findall(r"`((?:stmp|jobs|platform|docs|tests|benchmarks|serving|\.ci)/[\w./-]*)`", text)
    missing += [t for t in named if not (ROOT / t).exists()]
    assert missing == []
