"""The web page's files: whole, of this house alone, and served so that a browser runs nothing else."""

from __future__ import annotations

import fnmatch
import re
import tomllib
from html.parser import HTMLParser
from pathlib import Path

import pytest
from starlette.applications import Starlette
from starlette.routing import Mount
from starlette.testclient import TestClient

from serving.static import FOLDER, Page

ROOT = Path(__file__).resolve().parents[2]
FILES = sorted(path.name for path in FOLDER.iterdir())
SCRIPTS = sorted(FOLDER.glob("*.js"))
SVG_NAMESPACE = "http://www.w3.org/2000/svg"


class Document(HTMLParser):
    """All elements of index.html with their attributes, and the text inside script and style."""

    def __init__(self) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.inside = ""
        self.feed((FOLDER / "index.html").read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        if self.elements and self.elements[-1][0] in ("script", "style"):
            self.inside += data.strip()

    def values(self, *names: str) -> list[str]:
        """All values of some attributes."""
        return [value for _, attributes in self.elements for key, value in attributes.items() if key in names and value]


@pytest.fixture(scope="module")
def document() -> Document:
    return Document()


@pytest.fixture(scope="module")
def client() -> TestClient:
    return TestClient(Starlette(routes=[Mount("/", Page())]))


def test_html_holds_no_code_and_no_style(document: Document) -> None:
    """The content security policy would not run it."""
    assert document.inside == ""
    for tag, attributes in document.elements:
        assert tag != "style"
        assert [key for key in attributes if key == "style" or key.startswith("on")] == [], tag


def test_every_file_is_reached_and_there(document: Document) -> None:
    reached = {"index.html"} | {v for v in document.values("src", "href") if not v.startswith(("#", "openapi"))}
    waiting = [name for name in reached if name.endswith(".js")]
    while waiting:
        for name in re.findall(r'from "\./([^"]+)"', (FOLDER / waiting.pop()).read_text(encoding="utf-8")):
            if name not in reached:
                reached.add(name)
                waiting.append(name)
    assert sorted(reached) == FILES


@pytest.mark.parametrize("name", FILES)
def test_no_file_names_another_host(name: str) -> None:
    text = (FOLDER / name).read_text(encoding="utf-8").replace(SVG_NAMESPACE, "")
    assert re.findall(r"\w+:\/\/\S+|[\"'(]\/\/\S+|url\(\S*", text) == []


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_no_text_becomes_markup_or_code(script: Path) -> None:
    """Names of regions and festivals come from data; they may be anything."""
    text = script.read_text(encoding="utf-8")
    assert (
        re.findall(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\(|Function\(|DOMParser", text) == []
    )


def test_ids_that_are_asked_for_are_there_once(document: Document) -> None:
    ids = document.values("id")
    assert len(ids) == len(set(ids))
    asked = {name for script in SCRIPTS for name in re.findall(r'\$\("([\w-]+)"\)', script.read_text(encoding="utf-8"))}
    named = {
        name
        for value in document.values("for", "aria-labelledby", "aria-describedby", "aria-controls")
        for name in value.split()
    }
    links = {value[1:] for value in document.values("href") if value.startswith("#")}
    assert (asked | named | links) - set(ids) == set()


def test_every_field_has_a_label(document: Document) -> None:
    fields = {a["id"] for tag, a in document.elements if tag in ("input", "select", "textarea")}
    assert fields
    assert fields <= set(document.values("for"))


def test_policy_lets_nothing_in_from_elsewhere(client: TestClient) -> None:
    headers = client.get("/").headers
    policy = dict(part.strip().split(" ", 1) for part in headers["content-security-policy"].split(";"))
    assert policy.pop("require-trusted-types-for") == "'script'"
    assert policy["default-src"] == "'none'"
    assert {policy[name] for name in ("base-uri", "form-action", "frame-ancestors")} == {"'none'"}
    assert set(policy.values()) <= {"'none'", "'self'"}
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["referrer-policy"] == "no-referrer"


@pytest.mark.parametrize("name", FILES)
def test_files_are_served_with_their_type_and_asked_for_anew(client: TestClient, name: str) -> None:
    first = client.get(f"/{name}")
    assert first.status_code == 200
    kinds = {".html": "text/html", ".js": "text/javascript", ".css": "text/css", ".svg": "image/svg+xml"}
    assert first.headers["content-type"].split(";")[0] == kinds[Path(name).suffix]
    assert first.headers["cache-control"] == "no-cache"
    again = client.get(f"/{name}", headers={"If-None-Match": first.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")


@pytest.mark.parametrize("path", ["/static.py", "/../static.py", "/%2e%2e/static.py", "/..%2fstatic.py", "/page/"])
def test_nothing_else_is_served(client: TestClient, path: str) -> None:
    assert client.get(path).status_code == 404


def test_files_are_part_of_the_package() -> None:
    data = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["package-data"]
    assert [n for n in FILES if not any(fnmatch.fnmatch(f"page/{n}", pattern) for pattern in data["serving"])] == []
