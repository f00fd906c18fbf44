"""The web page in a real Chromium, against a served city: what a planner does there, with and without a mouse."""

from __future__ import annotations

import json
import re
import shutil
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
import uvicorn
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Page, Route, expect, sync_playwright

from serving.app import make_app
from serving.replica import Replica
from serving.settings import Settings
from tests.serving import HORIZON, settings

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
FLAGS = [
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync",
]  # fmt: skip
TOKEN = "a token for the tests"
WAIT_MS = 10_000
OPTION = "#regions [role=option]"

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not here: apt-get install chromium")


@contextmanager
def at_an_address(model: Path, given: Settings) -> Iterator[str]:
    """Serve the application in a thread, and give its address."""
    app = make_app(Replica(given, "test").begin(str(model)))
    server = uvicorn.Server(uvicorn.Config(app, log_level="warning"))
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        yield f"http://127.0.0.1:{listener.getsockname()[1]}/"
        server.should_exit = True
        thread.join()


@pytest.fixture(scope="module")
def address(shop: str, first_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Yield where the application is, which asks for no token."""
    with at_an_address(first_model, settings(shop, tmp_path_factory.mktemp("page"))) as url:
        yield url


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Yield the system's Chromium, with a profile of its own."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield browser
        browser.close()


class Visit:
    """A page, and what it asked for and complained of meanwhile."""

    def __init__(self, browser: Browser, **context: Any) -> None:
        self.context = browser.new_context(**{"viewport": {"width": 1280, "height": 900}} | context)
        self.page: Page = self.context.new_page()
        self.page.set_default_timeout(WAIT_MS)
        self.asked: list[str] = []
        self.complaints: list[str] = []
        self.page.on("request", lambda request: self.asked.append(request.url))
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on("console", lambda message: self.complaints.append(message.text))

    def open(self, url: str) -> Page:
        """Open the page and wait for its picture."""
        self.page.goto(url)
        expect(self.page.locator("#chart path.expected")).to_be_attached()
        return self.page


@pytest.fixture
def visit(browser: Browser) -> Iterator[Callable[..., Visit]]:
    """Return a function that begins a visit; afterwards none may have gone elsewhere, nor complained."""
    visits: list[Visit] = []

    def begin(**context: Any) -> Visit:
        visits.append(Visit(browser, **context))
        return visits[-1]

    yield begin
    for visit in visits:
        visit.context.close()
        assert {url.split("/")[2] for url in visit.asked} <= {visit.asked[0].split("/")[2]}, "another host was asked"
        assert visit.complaints == []


def forecast(address: str, **asked: Any) -> dict[str, Any]:
    answer = httpx.post(f"{address}v1/forecasts", json=asked)
    answer.raise_for_status()
    found: dict[str, Any] = answer.json()["forecasts"][0]
    return found


def drawn(page: Page, path: str = "#chart path.expected") -> str:
    return page.locator(path).get_attribute("d") or ""


def whole(value: float) -> str:
    return f"{value:,.0f}"


def test_a_planner_finds_a_region_and_asks_what_if(visit: Callable[..., Visit], address: str) -> None:
    page = visit().open(address)
    page.get_by_role("combobox", name="Region").click()
    expect(page.locator(OPTION)).to_have_count(14)
    page.get_by_role("combobox", name="Region").press_sequentially("004")
    expect(page.locator(OPTION)).to_have_count(1)
    page.locator(OPTION, has_text="R000004").click()
    expect(page.get_by_role("heading", name="R000004")).to_be_visible()
    assert page.url.endswith("#region=R000004")

    plan = forecast(address, regions=["R000004"])
    expect(page.locator("#tiles")).to_contain_text(whole(sum(plan["mean"])))
    expect(page.locator("#chart .fan path")).to_have_count(len(plan["quantiles"]) // 2)
    expect(page.locator("#chart .festival-days").first).to_be_attached()
    before, fan = drawn(page), drawn(page, "#chart .fan path >> nth=0")

    # The slider begins at the plan, and what it is moved to is what the API is asked.
    page.get_by_role("slider", name="Price").press("End")
    expect(page.locator("#chart path.planned")).to_be_attached()
    days = {"first": plan["dates"][0], "last": plan["dates"][-1]}
    changed = forecast(address, regions=["R000004"], what_if=[{"column": "price", "to": 10, **days}])
    assert sum(changed["mean"]) != pytest.approx(sum(plan["mean"]), rel=1e-3)
    expect(page.locator("#outcome")).to_contain_text(
        f"{whole(sum(changed['mean']))} expected in place of {whole(sum(plan['mean']))}"
    )
    assert drawn(page) != before
    assert drawn(page, "#chart .fan path >> nth=0") != fan
    assert drawn(page, "#chart path.planned").count("L") == HORIZON - 1

    # On some days only, and with a promotion beside it.
    page.get_by_label("On", exact=True).select_option("other days")
    page.get_by_label("To", exact=True).fill(plan["dates"][2])
    page.get_by_role("slider", name="Promo").press("ArrowRight")
    days["last"] = plan["dates"][2]
    what_if = [{"column": "promo", "to": 1, **days}, {"column": "price", "to": 10, **days}]
    few = forecast(address, regions=["R000004"], what_if=what_if)
    expect(page.locator("#outcome")).to_contain_text(f"{whole(sum(few['mean']))} expected in place of")

    page.get_by_role("button", name="All as planned").click()
    expect(page.locator("#chart path.planned")).to_have_count(0)
    assert drawn(page) == before


def test_the_keyboard_reaches_everything(visit: Callable[..., Visit], address: str) -> None:
    page = visit().open(address)
    page.locator("body").press("Tab")
    reached: list[str] = []
    for _ in range(40):
        focused = page.evaluate(
            """() => {
              const element = document.activeElement;
              const { outlineStyle, outlineWidth } = getComputedStyle(element);
              const name = element.id || element.textContent.trim();
              return [name, outlineStyle !== "none" && parseFloat(outlineWidth) >= 2];
            }"""
        )
        if focused[0] in reached or page.evaluate("document.activeElement === document.body"):
            break
        assert focused[1], f"{focused[0]} does not show that it has the focus"
        reached.append(focused[0])
        page.keyboard.press("Tab")
    wanted = ["region", "ahead", "shown", "day", "The same as a table"]
    wanted += ["what-if-days", "what-if-promo", "what-if-price", "what-if-open", "Tags of the version"]
    assert [name for name in reached if name in wanted] == [name for name in wanted if name in reached]
    assert set(wanted) - set(reached) == {"Tags of the version"}, "a model in a folder has no tags"

    # A region, from the keyboard alone.
    page.locator("#region").focus()
    page.keyboard.type("R00001")
    expect(page.locator(OPTION)).to_have_count(4)
    page.keyboard.press("ArrowDown")
    expect(page.locator(f"{OPTION}[aria-selected=true]")).to_contain_text("R000011")
    assert page.locator("#region").get_attribute("aria-activedescendant") == "region-1"
    page.keyboard.press("Enter")
    expect(page.get_by_role("heading", name="R000011")).to_be_visible()
    page.keyboard.press("ArrowDown")
    expect(page.locator("#popup")).to_be_visible()
    page.keyboard.press("Escape")
    expect(page.locator("#popup")).to_be_hidden()
    expect(page.locator("#region")).to_have_value("R000011")

    # The picture, day by day, as a screen reader says it.
    day = page.get_by_role("slider", name="Day")
    number = r"[\d.,]+"
    first = rf"Tue, 15 Mar 2022: Weekday; Expected: {number}; 80 % range: {number} to {number}; Promo: 0;"
    expect(day).to_have_attribute("aria-valuetext", re.compile(first))
    day.press("ArrowLeft")
    expect(day).to_have_attribute("aria-valuetext", re.compile(rf"Mon, 14 Mar 2022: Weekday; Sold: {number}; Promo: "))


def test_the_table_holds_what_the_api_said(visit: Callable[..., Visit], address: str) -> None:
    page = visit().open(f"{address}#region=R000002")
    page.get_by_text("The same as a table").click()
    shown = int(page.locator("#shown").input_value())
    expect(page.locator("#table tbody tr")).to_have_count(shown + HORIZON)
    heads = page.locator("#table thead th").all_inner_texts()
    plan = forecast(address, regions=["R000002"])
    row = page.locator("#table tr.ahead").nth(3).locator("th, td").all_inner_texts()
    cells = dict(zip(heads, row, strict=True))
    assert cells["Date"] == "Fri 18 Mar 2022"
    assert float(cells["Expected"].replace(",", "")) == pytest.approx(plan["mean"][3], rel=5e-3)
    for level, values in plan["quantiles"].items():
        assert float(cells[f"{float(level):.0%}".replace("%", " %")].replace(",", "")) == pytest.approx(
            values[3], rel=5e-3
        )
    region = httpx.get(f"{address}v1/regions/R000002", params={"history": shown}).json()
    sold = page.locator("#table tr.past td:nth-of-type(3)").all_inner_texts()
    assert [text == "" for text in sold] == [value is None for value in region["history"][0]["sales"]]


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 390])
def test_axe_finds_nothing_and_nothing_sticks_out(
    visit: Callable[..., Visit], address: str, scheme: str, width: int
) -> None:
    page = visit(color_scheme=scheme, viewport={"width": width, "height": 844}).open(address)
    page.get_by_text("The same as a table").click()
    page.get_by_role("slider", name="Promo").press("ArrowRight")
    expect(page.locator("#chart path.planned")).to_be_attached()
    page.locator("#region").click()
    expect(page.locator(OPTION).first).to_be_visible()
    page.keyboard.press("ArrowDown")
    found = Axe().run(page)
    assert found.response["passes"], "axe looked at nothing"
    assert found.violations_count == 0, found.generate_report()
    assert page.evaluate("document.documentElement.scrollWidth") == width


def test_a_token_is_asked_for_and_kept_in_the_tab(
    visit: Callable[..., Visit], shop: str, first_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STMP_SERVE_TOKENS", json.dumps({"planner": {"token": TOKEN, "scopes": ["read"]}}))
    with at_an_address(first_model, settings(shop, tmp_path)) as url:
        going = visit()
        page = going.page
        page.goto(url)
        expect(page.get_by_label("Token")).to_be_focused()
        expect(page.locator("#problem")).to_be_hidden()
        page.get_by_label("Token").fill("not the right one")
        page.get_by_label("Token").press("Enter")
        expect(page.get_by_role("alert")).to_contain_text("This token is not known.")
        page.get_by_label("Token").fill(TOKEN)
        page.get_by_role("button", name="Use it").click()
        expect(page.locator("#chart path.expected")).to_be_attached()
        expect(page.locator("#problem")).to_be_hidden()
        assert page.evaluate("[localStorage.length, document.cookie]") == [0, ""]
        page.reload()
        expect(page.locator("#chart path.expected")).to_be_attached()
        page.get_by_role("button", name="Forget the token").click()
        expect(page.get_by_label("Token")).to_be_focused()
        assert page.evaluate("sessionStorage.length") == 0
        assert TOKEN not in page.url
        going.complaints = [text for text in going.complaints if "401 (Unauthorized)" not in text]


def test_problems_are_said_plainly(visit: Callable[..., Visit], address: str) -> None:
    going = visit()
    page = going.page
    page.goto(f"{address}#region=<b>nowhere</b>")
    expect(page.get_by_role("alert")).to_contain_text(
        "there is no region '<b>nowhere</b>'. GET /v1/regions lists them."
    )
    expect(page.get_by_role("button", name="Try again")).to_have_count(0)
    page.locator("#region").fill("R000001")
    expect(page.locator(OPTION)).to_have_count(1)
    page.locator("#region").press("Enter")
    expect(page.locator("#chart path.expected")).to_be_attached()
    expect(page.locator("#problem")).to_be_hidden()

    # What passes can be tried again: too much to do, and no connection at all.
    def busy(route: Route) -> None:
        body = {"title": "Too much to do", "status": 503, "detail": "200 requests wait."}
        route.fulfill(status=503, content_type="application/problem+json", json=body, headers={"Retry-After": "2"})

    page.route("**/v1/forecasts", busy)
    page.get_by_role("slider", name="Price").press("End")
    expect(page.get_by_role("alert")).to_contain_text("200 requests wait.")
    expect(page.get_by_role("alert")).to_contain_text("wait 2 s")
    page.unroute("**/v1/forecasts")
    page.route("**/v1/forecasts", lambda route: route.abort())
    page.get_by_role("button", name="Try again").click()
    expect(page.get_by_role("alert")).to_contain_text("The server does not answer")
    page.unroute("**/v1/forecasts")
    page.get_by_role("button", name="Try again").click()
    expect(page.locator("#chart path.planned")).to_be_attached()
    expect(page.locator("#problem")).to_be_hidden()
    going.complaints = [text for text in going.complaints if not text.startswith("Failed to load resource")]


def test_the_model_and_its_gate_are_shown(visit: Callable[..., Visit], address: str) -> None:
    model = httpx.get(f"{address}v1/model").json()
    gate = {
        "passed": False,
        "failed": ["festival.worse_by"],
        "against": "models:/city/1",
        "at": "2026-01-02",
        "by": "ann",
    }

    def promoted(route: Route) -> None:
        tags = {"stmp.gate": json.dumps(gate)}
        route.fulfill(json=model | {"tags": tags, "wanted": "city/3", "error": "its weights are damaged."})

    page = visit().open(address)
    expect(page.locator("#model")).to_contain_text(model["fingerprint"])
    expect(page.locator("#gate")).to_contain_text("was not held against a champion")
    page.route("**/v1/model", promoted)
    page.reload()
    for text in ("Refused", "festival.worse_by", "models:/city/1", "2026-01-02", "ann"):
        expect(page.locator("#gate")).to_contain_text(text)
    expect(page.locator("#loading-model")).to_contain_text("city/3 could not be loaded: its weights are damaged.")


TIMELINES = """async () => {
  const { timeline, tail, ranges, festivalsAhead, figures } = await import("./timeline.js");
  const region = {
    id: "a", data_date: "2024-01-15", known_until: "2024-02-05",
    dates: ["2024-01-01", "2024-01-08", "2024-01-15", "2024-01-22", "2024-01-29"],
    day_types: ["festival", "ordinary", "ordinary", "ordinary", "festival"],
    events: ["fair", "", "", "", "fair"], closed: [false, false, false, false, false],
    known: { price: [1, 1, 1, 1, null] }, history: [{ series: "x", sales: [5, null, 7] }],
  };
  const forecast = (scale) => ({
    series: "x", data_date: "2024-01-15", dates: ["2024-01-22", "2024-01-29"], mean: [4 * scale, 6 * scale],
    quantiles: { 0.9: [8, 9], 0.1: [1, 2], 0.5: [4, 5] },
  });
  const changes = [{ column: "price", to: 3, first: "2024-01-29", last: "2024-01-29" }];
  const line = timeline(region, forecast(1), forecast(2), changes);
  return { line, tail: tail(line, 1), ranges: ranges(line), ahead: festivalsAhead(timeline(region, forecast(1))),
           figures: figures(line) };
}"""


def test_timelines_join_history_and_forecast(visit: Callable[..., Visit], address: str) -> None:
    """Weekly data with a gap, whose only earlier festival is cut off by the beginning of what is known."""
    found = visit().open(address).evaluate(TIMELINES)
    line = found["line"]
    assert line["sold"] == [5, None, 7, None, None]
    assert line["expected"] == [None, None, None, 8, 12]
    assert line["planned"] == [None, None, None, 4, 6]
    assert line["known"]["price"] == [1, 1, 1, 1, 3]
    assert [q["level"] for q in line["quantiles"]] == [0.1, 0.5, 0.9]
    assert found["tail"]["dates"] == ["2024-01-15", "2024-01-22", "2024-01-29"]
    assert found["tail"]["origin"] == 0
    assert [(r["low"], r["high"], r["upper"][3:]) for r in found["ranges"]] == [(0.1, 0.9, [8, 9])]
    assert found["ahead"] == [
        {"name": "fair", "from": 4, "to": 4, "total": 6, "daily": 6, "ordinary": 4, "before": None}
    ]
    assert found["figures"] == {"first": 3, "length": 2, "total": 20, "best": 4, "sold": None, "planned": 10}
