"""Write what is generated in the documentation: `python docs/generate.py`, or `make docs`.

With ``--check`` nothing is written, and the exit code says whether something would change.
"""

from __future__ import annotations

import json
import statistics
import sys
import typing
from pathlib import Path
from typing import Any

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from stmp.config import Config
from stmp_platform.gate.rules import Rules, SliceRule
from stmp_platform.monitoring.watch import Thresholds

DOCS = Path(__file__).resolve().parent
PRESETS = DOCS.parent / "jobs" / "presets"
ABLATION = DOCS.parent / "benchmarks" / "results" / "ablation.json"
HEADS = {("all", "wape"): "WAPE", ("festival", "wape"): "WAPE of festivals", ("all", "wql"): "WQL"}

HEAD = """# Configuration

<!-- Written by `make docs` from stmp/config.py and jobs/presets/. Do not edit by hand. -->

A training is configured by a preset and by settings that change it:

```text
stmp train --data data/city --preset product --set train.max_steps=500 --set model.hidden=32 --out runs/small
```

`--preset` takes the name of a file in `jobs/presets/` or a path to a YAML file of your own; `--set` takes
`section.key=value` and may be repeated. A setting that is unknown, of the wrong type or out of range ends the command
with exit code 2 before anything is read. The whole configuration is written to `config.json` in the run's folder.
Where the default is *by the data*, the frequency and the length of the data decide.
"""

BEGIN, END = "<!-- Written by `make docs`; do not edit the table by hand. -->", "<!-- End of the table. -->"


def kind(annotation: Any) -> str:
    """Write a type as a user would."""
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is typing.Literal:
        return ", ".join(f"`{a}`" for a in arguments)
    if origin is tuple:
        return f"list of {kind(arguments[0])}"
    if arguments:
        return " or ".join(kind(a) for a in arguments if a is not type(None))
    return {bool: "true, false", int: "integer", float: "number", str: "text"}[annotation]


def bounds(field: FieldInfo) -> str:
    """Write the limits of a number, such as ` >= 0`."""
    signs = {"ge": "≥", "gt": ">", "le": "≤", "lt": "<"}
    found = [f"{sign} {getattr(m, name):g}" for m in field.metadata for name, sign in signs.items() if hasattr(m, name)]
    return " " + " and ".join(found) if found else ""


def value(content: Any) -> str:
    """Write a value as it is written in YAML."""
    if content is None:
        return "*by the data*"
    if isinstance(content, bool):
        return f"`{str(content).lower()}`"
    if isinstance(content, tuple):
        return f"`[{', '.join(f'{c:g}' for c in content)}]`"
    return f"`{content:g}`" if isinstance(content, float) else f"`{content}`"


def table(name: str, section: type[BaseModel], default: BaseModel, paper: BaseModel) -> str:
    """Write the settings of one section, with what the preset `paper` changes."""
    lines = [f"## `{name}`", "", (section.__doc__ or "").strip(), ""]
    lines += ["| setting | values | default | `paper` | meaning |", "|---|---|---|---|---|"]
    for key, field in section.model_fields.items():
        ours, theirs = getattr(default, key), getattr(paper, key)
        changed = value(theirs) if ours != theirs else ""
        meaning = (field.description or "").replace("|", "\\|")
        lines.append(
            f"| `{name}.{key}` | {kind(field.annotation)}{bounds(field)} | {value(ours)} | {changed} | {meaning} |"
        )
    return "\n".join(lines) + "\n"


def configuration() -> str:
    """Write docs/configuration.md."""
    default, paper = Config.load(PRESETS / "product.yaml"), Config.load(PRESETS / "paper.yaml")
    parts = [HEAD]
    for name in Config.model_fields:
        parts.append(table(name, type(getattr(default, name)), getattr(default, name), getattr(paper, name)))
    return "\n".join(parts)


def rules() -> str:
    """Write the table of the gate's rules."""
    lines = ["| rule | values | default | meaning |", "|---|---|---|---|"]

    def row(name: str, field: FieldInfo, content: Any) -> None:
        meaning = (field.description or "").replace("|", "\\|")
        lines.append(f"| `{name}` | {kind(field.annotation)}{bounds(field)} | {value(content)} | {meaning} |")

    default = Rules()
    for name, top in Rules.model_fields.items():
        section = getattr(default, name)
        if name == "slices":
            for key, rule in section.items():
                asked = ", required" if rule.required else ""
                lines.append(f"| `slices.{key}.worse_by` | number | `{rule.worse_by:g}`{asked} | |")
            for key, field in SliceRule.model_fields.items():
                row(f"slices.*.{key}", field, field.default)
        elif isinstance(section, BaseModel):
            for key, field in type(section).model_fields.items():
                row(f"{name}.{key}", field, getattr(section, key))
        else:
            row(name, top, section)
    return "\n".join(lines)


def thresholds() -> str:
    """Write the table of the monitor's thresholds."""
    lines = ["| threshold | values | default | meaning |", "|---|---|---|---|"]
    for key, field in Thresholds.model_fields.items():
        lines.append(
            f"| `{key}` | {kind(field.annotation)}{bounds(field)} | {value(field.default)} | {field.description} |"
        )
    return "\n".join(lines)


def ablation() -> str:
    """Write what models lose without each part, from what `stmp bench ablation` found: a table by when it was."""
    found = json.loads(ABLATION.read_text(encoding="utf-8"))
    times = dict.fromkeys(data["told"] for data in found)
    return "\n\n".join(f"{told}:\n\n{ablation_rows([d for d in found if d['told'] == told])}" for told in times)


def ablation_rows(found: list[dict[str, Any]]) -> str:
    """One table, with columns for each data set."""
    shown = [
        (data, part, score) for data in found for part, score in (("all", "wape"), ("festival", "wape"), ("all", "wql"))
    ]
    heads = [f"{data['data'].partition('_')[0].capitalize()}, {HEADS[part, score]}" for data, part, score in shown]
    lines = [f"| | {' | '.join(heads)} |", "|---" + "|--:" * len(shown) + "|"]
    names = dict.fromkeys(name for data in found for name in data["variants"])
    for name in sorted(names, key=lambda name: name.startswith("paper")):  # those of one data set alone come late
        whole = "paper" if name.startswith("paper") else "whole"
        cells = []
        for data, part, score in shown:
            values, rivals = (_scores(data["variants"].get(of), part, score) for of in (name, whole))
            cells.append(_mean(values) if name == whole else _change(values, rivals))
        lines.append(f"| {'**' + name + '**' if name == whole else name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _scores(variant: dict[str, Any] | None, part: str, score: str) -> list[float]:
    """Of each seed; none where they were not measured."""
    values = variant["slices"][part][score] if variant else []
    return [] if None in values else values


def _mean(values: list[float]) -> str:
    return f"{statistics.mean(values):.4f} ± {_error(values):.4f}" if values else ""


def _change(values: list[float], rivals: list[float]) -> str:
    """Seed by seed, in percent of the whole, and the standard error of the mean."""
    if not values or not rivals:
        return ""
    changes = [100 * (value / rival - 1) for value, rival in zip(values, rivals, strict=True)]
    return f"{statistics.mean(changes):+.1f} ± {_error(changes):.1f} %"


def _error(values: list[float]) -> float:
    return statistics.stdev(values) / len(values) ** 0.5


def with_table(page: Path, content: str) -> str:
    """Put a table between the marks of a page; the rest stays."""
    head, _, rest = page.read_text(encoding="utf-8").partition(BEGIN)
    return f"{head}{BEGIN}\n{content}\n{END}{rest.partition(END)[2]}"


def main(arguments: list[str]) -> int:
    """Write the pages, or check that they are up to date."""
    pages = {DOCS / "configuration.md": configuration()}
    for name, content in (("promotion.md", rules()), ("monitoring.md", thresholds()), ("ablation.md", ablation())):
        pages[DOCS / name] = with_table(DOCS / name, content)
    if "--check" in arguments:
        return int(any(not page.exists() or page.read_text(encoding="utf-8") != text for page, text in pages.items()))
    for page, text in pages.items():
        page.write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
