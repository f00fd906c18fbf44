"""Every command in a ```bash block of the README and the docs runs, page by page, in an empty folder."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from tests.e2e.conftest import Stmp

ROOT = Path(__file__).resolve().parents[2]


def commands(page: Path) -> list[str]:
    blocks = re.findall(r"^```bash\n(.*?)^```", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    lines = re.sub(r"\\\n\s*", " ", "\n".join(blocks)).splitlines()
    return [line.split("  #")[0].strip() for line in lines if line.strip() and not line.lstrip().startswith("#")]


PAGES = [page for page in (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))) if commands(page)]


@pytest.mark.slow
@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_commands_of_a_page_run(page: Path, tmp_path: Path) -> None:
    stmp = Stmp(tmp_path)
    for line in commands(page):
        program, *arguments = shlex.split(line)
        assert program == "stmp", f"{page.name}: only `stmp` commands are run; show '{line}' in a text block"
        stmp.ok(*arguments)
