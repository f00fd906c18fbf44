"""The report: self-contained, escaped, honest in its words, and complete."""

import json
import re
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from stmp.data.calendar import DayRule
from stmp.data.panel import Panel
from stmp.errors import ConfigError
from stmp.evaluation.backtest import backtest
from stmp.evaluation.baselines import SameFestivalLastYear, SeasonalNaive
from stmp.learning.lean import Leaning
from stmp_platform.report import model_card, write_pictures, write_report
from stmp_platform.report.cards import number
from stmp_platform.report.examples import examples
from stmp_platform.report.style import colors
from stmp_platform.report.words import headline, slice_label, verdicts

pytestmark = pytest.mark.unit

EVIL = "<script>alert('x')</script>"


@pytest.fixture(scope="module")
def panel():
    """Ten regions over 60 days, one with a hostile name, with a fair and closed days."""
    rng = np.random.default_rng(0)
    days = pd.date_range("2024-01-01", periods=60)
    names = [f"r{r}" for r in range(9)] + [EVIL]
    frame = pd.DataFrame([(r, d) for r in names for d in days], columns=["unique_id", "ds"])
    frame["y"] = 100 * rng.gamma(20, 0.05, len(frame)) * (1 + 0.5 * (frame["ds"].dt.weekday == 5))
    frame["shut"] = (frame["ds"].dt.day == 10).astype(int)
    events = pd.DataFrame({"date": [days[45]], "event": ["Fair <b>&"]})
    rules = (DayRule("festival", event=("*",), before=1), DayRule("weekend", weekdays=(5, 6)))
    return Panel.from_frame(frame, events=events, rules=rules, closed="shut")


@pytest.fixture(scope="module")
def result(panel):
    """Three origins; the model leaves two regions out of its training."""
    model = SeasonalNaive()
    model.trained_regions = tuple(panel.regions[2:])
    predictors = {"stmp": model, "seasonal_naive": SeasonalNaive(), "same_festival_last_year": SameFestivalLastYear()}
    return backtest(predictors, panel, "2024-02-01", "2024-02-28", 7, draws=40, keep_regions=["r1", EVIL])


@pytest.fixture(scope="module")
def metrics():
    """A short training."""
    rows = [(s, phase, "loss", 1 / s) for s in range(10, 50, 10) for phase in ("spatial", "temporal")]
    rows += [(s, "validation", name, 2 / s) for s in (20, 40) for name in ("all", "festival")]
    return pd.DataFrame(rows, columns=["step", "phase", "name", "value"])


@pytest.fixture(scope="module")
def page(panel, result, metrics, tmp_path_factory):
    """The text of the page, written to a folder of its own."""
    folder = tmp_path_factory.mktemp("report") / "deep"
    path = write_report(
        result, panel, folder, title=EVIL, training=metrics, model=[("Version", EVIL)], data_warnings=["A gap & more"]
    )
    assert path == folder / "report.html"
    assert sorted(p.name for p in folder.iterdir()) == [
        "backtest.json", "forecasts.png", "report.html", "slices.png", "training.png",
    ]  # fmt: skip
    assert json.loads((folder / "backtest.json").read_text()) == json.loads(json.dumps(result.to_dict()))
    return path.read_text(encoding="utf-8")


def outside_scripts(page):
    """The page without what lies in script elements."""
    return re.sub(r"<script\b.*?</script>", "", page, flags=re.DOTALL)


def test_the_page_loads_nothing_from_elsewhere(page):
    assert not re.search(r"<script[^>]+src=", page)
    assert not re.search(r"""(?:src|href)\s*=|url\(|@import""", outside_scripts(page))
    assert page.count("Plotly.newPlot(") >= 8
    assert page.count("plotly.js v") == 1  # embedded once


def test_names_from_the_data_are_text_wherever_they_stand(page):
    assert EVIL not in page
    assert "&lt;script&gt;alert(" in outside_scripts(page)
    assert "Fair &lt;b&gt;&amp;" in outside_scripts(page)
    assert "A gap &amp; more" in page
    assert "holds no earlier year to copy" in page


@pytest.mark.parametrize(
    "heading",
    ["Error by type of day", "Regions over the test period", "Error by how far ahead", "Do the ranges hold?",
     "Regions that the model never saw", "Festivals by name", "Groups of regions", "Training loss", "Held-out loss",
     "Data", "Model", "How to read the figures"],
)  # fmt: skip
def test_every_part_is_there(page, heading):
    assert f"<h2>{heading}</h2>" in page


def test_figures_have_words_for_those_who_do_not_see_them(page):
    figures = re.findall(r'<div class="plot" role="img" aria-label="([^"]{20,})">', page)
    assert len(figures) == page.count("<figure ") == page.count("<figcaption>") >= 7
    assert 'lang="en"' in page
    assert 'name="viewport"' in page


def test_without_baselines_training_or_cold_regions_the_page_is_still_whole(panel, tmp_path):
    alone = backtest({"stmp": SeasonalNaive()}, panel, "2024-02-01", "2024-02-28", 1, 7, draws=20, keep_regions=0)
    text = write_report(alone, panel, tmp_path, pictures=False).read_text(encoding="utf-8")
    assert "There is no baseline to compare with" in text
    assert "No cold-start figures: the model does not say which regions it was trained on" in text
    assert "Training loss" not in text
    assert [p.name for p in write_pictures(alone, panel, tmp_path / "png")] == ["slices.png"]


def test_training_metrics_of_another_shape_are_refused(panel, result, tmp_path):
    with pytest.raises(ConfigError, match="lack the columns"):
        write_report(result, panel, tmp_path, training=pd.DataFrame({"step": [1]}))


def test_examples_show_the_latest_forecast_of_each_day_and_drop_closed_days(panel):
    model = {"stmp": SeasonalNaive()}
    overlapping = backtest(model, panel, "2024-02-01", "2024-02-21", 14, 3, draws=0, keep_regions=["r1"])
    part = examples(overlapping, panel)[0]
    assert part.region == "r1"
    assert str(part.table.index[0].date()) == "2024-02-02"
    assert "2024-02-10" not in part.table.index.astype(str)
    origin, day = "2024-02-07", "2024-02-09"
    latest = SeasonalNaive().predict(panel, origin, 14)
    row = list(panel.regions).index("r1")
    assert part.table.loc[day, "mean"] == pytest.approx(float(latest.mean[row, 1, 0]))
    assert part.table.loc[day, "actual"] == pytest.approx(float(panel.sales[row, panel.index_of(day), 0]))
    assert [(str(s.first), str(s.last), s.name) for s in part.festivals] == [("2024-02-14", "2024-02-15", "Fair <b>&")]


def fake(skill, ci):
    """The part of a report that the headline reads."""
    both = {"wape": skill, "ci": {"wape": ci}}
    slices = {"all": {"wape": 0.1}, "festival": {"wape": 0.2}}
    return {
        "slices": slices,
        "baselines": {"seasonal_naive": {"all": {"wape": 0.1 / (1 - skill)}}},
        "skill": {"seasonal_naive": {"all": both, "festival": both}},
    }


def test_the_headline_says_better_worse_or_too_close():
    better = headline(fake(0.5, [0.4, 0.6]), "STMP", weekly=False)
    assert better[0] == (
        "STMP's forecasts were off by 10.0 % of sales; last week's sales as the forecast would have been off by "
        "20.0 %. That is 50 % less error (95 % interval over regions: 40 to 60 %)."
    )
    assert better[1].startswith("On festivals it was off by 20.0 %, which is 50 % less error than last week's sales")
    assert (
        "25 % more error (95 % interval over regions: 10 to 40 %)"
        in headline(fake(-0.25, [-0.4, -0.1]), "STMP", False)[0]
    )
    close = headline(fake(0.05, [-0.1, 0.2]), "STMP", False)[0]
    assert close.endswith(
        "5 % less error, which is too close to call (95 % interval over regions: 10 % more to 20 % less)."
    )
    nothing = fake(0.5, [0.4, 0.6])
    nothing["slices"]["all"]["wape"] = None
    assert "Nothing was sold" in headline(nothing, "STMP", False)[0]


def test_marks_follow_the_interval_of_the_difference():
    for ci, verdict in {(0.1, 0.2): "better", (-0.2, -0.1): "worse", (-0.1, 0.1): "level"}.items():
        assert verdicts(fake(0.0, list(ci)))["seasonal_naive"]["all"] == verdict
    assert verdicts(fake(0.0, None))["seasonal_naive"]["all"] == ""


def test_small_words():
    assert [number(v) for v in (1234567.0, 12.34, 0.12345, float("nan"), 3.0)] == [
        "1,234,567",
        "12.3",
        "0.123",
        "–",
        "3",
    ]
    assert slice_label("cold_7") == "New region, 7 days of history"
    assert slice_label("payday_week") == "Payday week"
    paint = colors("stmp", ("seasonal_naive", "mine", "yours"))
    assert len(set(paint.values())) == 4
    assert model_card(SeasonalNaive()) == []
    assert model_card(SimpleNamespace(leaning=Leaning(0.125))) == [
        ("Leans on last year's sales", "which weigh half 8 periods ahead")
    ]
    assert model_card(SimpleNamespace(leaning=Leaning(0.125, 0.6))) == [
        ("Leans on last year's sales", "which weigh half 8 periods ahead; 40% of them those of all regions")
    ]
    assert model_card(SimpleNamespace(leaning=Leaning(festivals=0.35))) == [
        ("Leans on last year's sales", "35% close to festivals")
    ]
    assert model_card(SimpleNamespace(leaning=Leaning())) == []
