"""The documentation is true: the generated page is up to date, and every command that is shown is one that exists."""

from __future__ import annotations

import importlib.util
import re
import shlex
from pathlib import Path
from types import ModuleType

import pytest
import typer.main

from jobs.cli import app
from stmp.config import Config

ROOT = Path(__file__).resolve().parents[2]
PRESETS = sorted((ROOT / "jobs" / "presets").glob("*.yaml"))


def generator() -> ModuleType:
    spec = importlib.util.spec_from_file_location("generate_docs", ROOT / "docs" / "generate.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def shown_commands() -> list[str]:
    """Return every `stmp ...` line of README, docs, benchmarks and help texts, joined over continued lines."""
    pages = [
        ROOT / "README.md",
        *(ROOT / "docs").glob("*.md"),
        *(ROOT / "benchmarks").glob("*.md"),
        *(ROOT / "jobs/commands").glob("*.py"),
    ]
    found = []
    for page in pages:
        text = re.sub(r"\\\n\s*", " ", page.read_text(encoding="utf-8"))
        found += re.findall(r"^[ \t]*(stmp [a-z].*)$", text, flags=re.MULTILINE)
    return sorted({line.split("  #")[0].strip() for line in found})


def test_commands_are_shown() -> None:
    assert len(shown_commands()) >= 8


@pytest.mark.parametrize("line", shown_commands())
def test_shown_command_parses(line: str) -> None:
    command = typer.main.get_command(app)
    rest = shlex.split(line)[1:]
    context = None
    while hasattr(command, "commands"):
        assert rest[0] in command.commands, line
        command, rest = command.commands[rest[0]], rest[1:]
    context = command.make_context(line, rest)
    assert context.params
    if command.name == "submit":  # what it submits is a command as well
        test_shown_command_parses(shlex.join(["stmp", context.params["job"], *context.args]))


def test_each_fault_is_tried_by_a_test_that_exists() -> None:
    shown = re.findall(r"`(tests/\S+) -k (\w+)` \|$", (ROOT / "docs" / "operations.md").read_text(), flags=re.M)
    assert len(shown) >= 10
    for place, part in shown:
        files = [ROOT / place] if place.endswith(".py") else (ROOT / place).glob("test_*.py")
        assert any(re.search(rf"^def test_\w*{part}", file.read_text(), flags=re.M) for file in files), part


def test_configuration_page_is_up_to_date() -> None:
    assert generator().main(["--check"]) == 0, "run `make docs`"


@pytest.mark.parametrize("preset", PRESETS, ids=lambda p: p.stem)
def test_preset_is_valid(preset: Path) -> None:
    assert Config.load(preset)


def test_product_is_the_default() -> None:
    assert Config.load(ROOT / "jobs" / "presets" / "product.yaml") == Config()
