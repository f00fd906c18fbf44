"""Every command in a ```bash block of the README and the docs runs, page by page, in an empty folder."""

from __future__ import annotations

import json
import os
import re
import shlex
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

import stmp
from tests.e2e.conftest import Stmp

ROOT = Path(__file__).resolve().parents[2]


def commands(page: Path) -> list[str]:
    blocks = re.findall(r"^```bash\n(.*?)^```", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    lines = re.sub(r"\\\n\s*", " ", "\n".join(blocks)).splitlines()
    return [line.split("  #")[0].strip() for line in lines if line.strip() and not line.lstrip().startswith("#")]


PAGES = [page for page in (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))) if commands(page)]


def test_python_of_the_readme_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    (block,) = re.findall(r"^```python\n(.*?)^```", (ROOT / "README.md").read_text(), flags=re.MULTILINE | re.DOTALL)
    small = stmp.Config.from_mapping({}, ["train.max_steps=3", "model.hidden=8", "model.horizon=14"])
    full_training = stmp.train
    monkeypatch.setattr(stmp, "train", lambda panel, **given: full_training(panel, small, **given), raising=False)
    days = pd.date_range("2021-12-01", "2022-12-20")
    level = 100 + 20 * np.sin(np.arange(len(days)) * 2 * np.pi / 7)
    sales = pd.concat(pd.DataFrame({"unique_id": f"r{r}", "ds": days, "y": level * (r + 1)}) for r in range(6))
    names: dict[str, Any] = {"sales": sales.assign(promo=(sales["ds"].dt.day < 8).astype(float))}
    exec(block, names)
    frame = names["forecast"].to_frame()
    assert len(frame) == 6 * 14
    assert np.isfinite(frame["mean"]).all()


# One process for a whole page: most commands take less time than the libraries take to load.
ONE_BY_ONE = """
import json, sys
from jobs.cli import run
for arguments in json.loads(sys.argv[1]):
    if run(arguments):
        sys.exit(f"failed: {arguments}")
"""


TAKES_LONG = pytest.mark.skipif(
    "STMP_TEST_LARGE" not in os.environ, reason="a search takes a minute: STMP_TEST_LARGE=1"
)


@pytest.mark.slow
@pytest.mark.parametrize(
    "page", [pytest.param(p, id=p.name, marks=[TAKES_LONG] if p.name == "tuning.md" else []) for p in PAGES]
)
def test_commands_of_a_page_run(page: Path, tmp_path: Path) -> None:
    lines = [shlex.split(line) for line in commands(page)]
    for program, *arguments in lines:
        assert program == "stmp", f"{page.name}: only `stmp` commands are run; show '{arguments}' in a text block"
    Stmp(tmp_path, ("-c", ONE_BY_ONE)).ok(json.dumps([arguments for _, *arguments in lines]))
