"""The web page in a real Chromium, against a served city: what a planner does there, with and without a mouse."""

from __future__ import annotations

import json
import re
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
from serving.trial import TrialSettings
from tests.serving import HORIZON, make_model, settings
from tests.visits import CHROMIUM, FLAGS, Visit

TOKEN = "a token for the tests"
OPTION = "#regions [role=option]"

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not here: apt-get install chromium")


@contextmanager
def at_an_address(replica: Replica) -> Iterator[str]:
    """Serve the application in a thread, and give its address."""
    server = uvicorn.Server(uvicorn.Config(make_app(replica), log_level="warning"))
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
    replica = Replica(settings(shop, tmp_path_factory.mktemp("page")), "test")
    with at_an_address(replica.begin(str(first_model))) as url:
        yield url


@pytest.fixture(scope="module")
def tried(shop: str, first_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Replica]]:
    """Yield an application in which a challenger answers for some of the regions, and its replica.

    Nothing is planned for the first region, and the promotions of the second one for four days only.
    """
    replica = Replica(settings(shop, tmp_path_factory.mktemp("tried")), "test")
    known, origin = replica.data.panel.known, int(replica.data.origin[0])
    known[0, origin + 1 :] = float("nan")
    known[1, origin + 5 :, replica.data.panel.known_names.index("promo")] = float("nan")
    replica.begin(str(first_model))
    challenger = make_model(shop, tmp_path_factory.mktemp("models") / "challenger", seed=7)
    replica.want_trial(TrialSettings(model=str(challenger), share=0.4, max_difference=99.0, max_slowdown=99.0))
    replica.trials.wait(60)
    with at_an_address(replica) as url:
        yield url, replica


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Yield the system's Chromium, with a profile of its own."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield browser
        browser.close()


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


def forecast_by(address: str, region: str, **asked: Any) -> tuple[str, list[float]]:
    """Which model answers for a region, and its means."""
    answer = httpx.post(f"{address}v1/forecasts", json={"regions": [region]} | asked).json()
    return answer["model_version"], answer["forecasts"][0]["mean"]


def written(value: float) -> str:
    """A number as the page writes it."""
    return whole(value) if value >= 100 else f"{value:.3g}"


def drawn(page: Page, path: str = "#chart path.expected") -> str:
    """A line of the picture, once the page has answered: until then it is still that of the region before."""
    expect(page.locator("#answer:not([aria-busy])")).to_be_visible()
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
    page.get_by_label("History").select_option("28 days")
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
    with at_an_address(Replica(settings(shop, tmp_path), "test").begin(str(first_model))) as url:
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
        "failed": ["slices.festival"],
        "against": "1",
        "at": "2026-01-02T15:04:05+00:00",
        "by": "ann",
        "report": "gate/1/gate.html",
    }
    report = {
        "origins": ["2025-12-01", "2025-12-15"],
        "horizon": 14,
        "checks": [
            {"rule": "overall.better_by", "passed": True, "text": "3 % better"},
            {"rule": "slices.festival", "passed": False, "text": "9 % worse"},
            {"rule": "slices.cold", "passed": None, "text": "12 points"},
        ],
    }

    def promoted(route: Route) -> None:
        if route.request.url.endswith("/gate"):
            route.fulfill(json=report)
            return
        tags = {"stmp.gate": json.dumps(gate)}
        state = {"tags": tags, "model_version": "city/2", "wanted": "city/3", "error": "its weights are damaged."}
        route.fulfill(json=model | state)

    page = visit().open(address)
    expect(page.locator("#model")).to_contain_text(model["fingerprint"])
    expect(page.locator("#gate")).to_contain_text("was not held against a champion")
    page.route("**/v1/model*", promoted)
    page.route("**/v1/model/gate", promoted)
    page.reload()
    for text in ("Refused", "slices.festival", "city/1", "2 Jan 2026, 15:04 UTC", "ann"):
        expect(page.locator("#gate")).to_contain_text(text)
    page.get_by_text("The report, rule by rule").click()
    rows = page.locator("#gate table.rules tbody tr")
    expect(rows).to_have_text(
        ["overall.better_byholds3 % better", "slices.festivalbroken9 % worse", re.compile("too few")]
    )
    assert Axe().run(page, "#gate").violations_count == 0
    expect(page.locator("#loading-model")).to_contain_text("city/3 could not be loaded: its weights are damaged.")


def test_an_open_page_takes_up_another_model(visit: Callable[..., Visit], address: str) -> None:
    seen = visit()
    page = seen.open(address)
    asked = seen.asked
    forecasts = [url for url in asked if url.endswith("v1/forecasts")]

    with page.expect_response("**/v1/model"):
        page.evaluate("document.dispatchEvent(new Event('visibilitychange'))")
    page.wait_for_timeout(200)
    assert [url for url in asked if url.endswith("v1/forecasts")] == forecasts, "nothing has changed"

    real = httpx.get(f"{address}v1/model").json()
    page.route("**/v1/model", lambda route: route.fulfill(json=real | {"model_version": "models:/shop/8"}))
    with page.expect_request("**/v1/forecasts"):
        page.evaluate("document.dispatchEvent(new Event('visibilitychange'))")
    expect(page.locator("#version")).to_contain_text("models:/shop/8")


def test_only_what_is_planned_is_forecast(visit: Callable[..., Visit], tried: tuple[str, Replica]) -> None:
    """Where covariates of coming days are missing, history is shown, and what to do."""
    url, _ = tried
    page = visit().open(f"{url}#region=R000001")
    expect(page.locator("#shortfall")).to_contain_text("after 4 days: there are no values of Promo beyond.")
    expect(page.locator("#ahead option")).to_have_text(["4 days"])
    assert drawn(page).count("L") == 3
    page.locator("#region").fill("R000000")
    expect(page.locator(OPTION)).to_have_count(1)
    page.locator("#region").press("Enter")
    expect(page.locator("#shortfall")).to_contain_text("No forecast: nothing is planned yet")
    expect(page.locator("#shortfall")).to_contain_text("there are no values of Promo, Price and Open for the days")
    assert len(drawn(page, "#chart path.sold")) > 100
    assert drawn(page) == ""
    expect(page.get_by_role("heading", name="What if")).to_be_hidden()
    expect(page.get_by_role("slider", name="Day")).to_have_attribute("aria-valuetext", re.compile("Sold: "))
    page.get_by_text("The same as a table").click()
    expect(page.locator("#table tr.ahead")).to_have_count(0)
    found = Axe().run(page, "#forecast")
    assert found.violations_count == 0, found.generate_report()


def test_history_stays_where_a_forecast_fails(visit: Callable[..., Visit], address: str) -> None:
    going = visit()
    going.page.route("**/v1/forecasts", lambda route: route.abort())
    going.page.goto(address)
    expect(going.page.get_by_role("alert")).to_contain_text("The server does not answer")
    expect(going.page.locator("#chart path.sold")).to_be_attached()
    going.page.unroute("**/v1/forecasts")
    going.page.get_by_role("button", name="Try again").click()
    expect(going.page.locator("#tiles")).to_contain_text("Expected in all")
    going.complaints = [text for text in going.complaints if not text.startswith("Failed to load resource")]


def test_a_challenger_is_drawn_beside_the_champion(
    visit: Callable[..., Visit], tried: tuple[str, Replica], first_model: Path
) -> None:
    url, replica = tried
    assert replica.trial is not None
    version, champion = replica.trial.version, str(first_model)
    fallen = {f"R{r:06d}": forecast_by(url, f"R{r:06d}")[0] for r in range(2, 14)}
    theirs = next(region for region, by in fallen.items() if by == version)
    ours = next(region for region, by in fallen.items() if by == champion)

    page = visit(viewport={"width": 390, "height": 844}).open(f"{url}#region={ours}")
    expect(page.locator("#legend")).to_contain_text(f"By {version}, on trial")
    _, other = forecast_by(url, ours, by="challenger")
    assert drawn(page, "#chart path.other").count("L") == HORIZON - 1
    expect(page.locator("#tiles")).to_contain_text(f"{whole(sum(other))} in all")
    said = re.compile(rf"By {re.escape(version)}, on trial: {re.escape(written(other[0]))};")
    expect(page.get_by_role("slider", name="Day")).to_have_attribute("aria-valuetext", said)
    expect(page.locator("#by")).to_be_hidden()
    expect(page.locator("#trial")).to_contain_text("On trial It answers for 40 % of the regions")
    expect(page.locator("#trial")).to_contain_text(re.compile(r"Mean difference[\d.]+ %Time to answer[\d.]+ times"))
    found = Axe().run(page)
    assert found.violations_count == 0, found.generate_report()
    assert page.evaluate("document.documentElement.scrollWidth") == 390

    # Under a what-if both are asked the same; in the challenger's share it is the champion that is drawn beside it.
    line = drawn(page, "#chart path.other")
    page.get_by_role("slider", name="Price").press("End")
    expect(page.locator("#chart path.planned")).to_be_attached()
    assert drawn(page, "#chart path.other") != line
    page.get_by_role("button", name="All as planned").click()
    page.locator("#region").fill(theirs)
    expect(page.locator(OPTION)).to_have_count(1)
    page.locator("#region").press("Enter")
    expect(page.locator("#by")).to_have_text(f"forecast by {version}, on trial")
    expect(page.locator("#legend")).to_contain_text(f"By {champion}, the champion")

    # A trial that was stopped says why, and the champion answers.
    replica.batcher.thread.submit(replica.trial.stop, "it takes too long").result()
    page.reload()
    expect(page.locator("#trial")).to_contain_text("Stopped it takes too long.")
    expect(page.locator("#tiles")).to_contain_text("Expected in all")
    expect(page.locator("#chart path.other")).to_have_count(0)


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
  const line = timeline(region, forecast(1), forecast(2), changes, { name: "b", forecast: forecast(3) });
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
    assert line["other"] == {"name": "b", "values": [None, None, None, 12, 18]}
    assert line["known"]["price"] == [1, 1, 1, 1, 3]
    assert [q["level"] for q in line["quantiles"]] == [0.1, 0.5, 0.9]
    assert found["tail"]["dates"] == ["2024-01-15", "2024-01-22", "2024-01-29"]
    assert found["tail"]["origin"] == 0
    assert [(r["low"], r["high"], r["upper"][3:]) for r in found["ranges"]] == [(0.1, 0.9, [8, 9])]
    assert found["ahead"] == [
        {"name": "fair", "from": 4, "to": 4, "total": 6, "daily": 6, "ordinary": 4, "before": None}
    ]
    sums = {"total": 20, "sold": None, "planned": 10, "other": 30}
    assert found["figures"] == {"first": 3, "length": 2, "best": 4, **sums}
