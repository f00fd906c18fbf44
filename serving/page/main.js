// The page: what was asked for, and what follows from it.

import { get, post, token } from "./api.js";
import { dayFacts, festivalList, legend, outcome, readout, tiles } from "./cards.js";
import { Chart } from "./chart.js";
import { $, options } from "./dom.js";
import { gateCard, modelCard } from "./model.js";
import { Picker } from "./picker.js";
import { Problem, problemNotice } from "./problem.js";
import { table } from "./table.js";
import { festivalsAhead, tail, timeline } from "./timeline.js";
import { WhatIf } from "./whatif.js";
import { count, periods, title } from "./words.js";

const NARROW = window.matchMedia("(max-width: 700px)");
const PAUSE_MS = 120;

/** Answers of the API; changed is the forecast under the what-ifs, which are changes. */
const state = { model: null, region: null, plan: null, changed: null, changes: [] };

const chart = new Chart($("chart"), point);
const whatIf = new WhatIf($("what-if-controls"), $("reset"), later(askWhatIf));
const picker = new Picker(
  { input: $("region"), popup: $("popup"), list: $("regions"), found: $("regions-found") },
  { search: (search, limit) => get("v1/regions", { search, limit }), choose: (id) => show(id), fail },
);

const start = newest(async (signal) => {
  await loadModel(signal);
  $("token-form").hidden = true;
  $("content").hidden = false;
  const wanted = regionInAddress() ?? (await get("v1/regions", { limit: 1 }, signal)).regions[0].id;
  await show(wanted);
});

const show = newest(async (signal, id) => {
  state.plan = null;
  $("answer").setAttribute("aria-busy", "true");
  const region = await get(`v1/regions/${encodeURIComponent(id)}`, { history: state.model.periods.memory }, signal);
  state.region = region;
  picker.set(id);
  history.replaceState(null, "", `#${new URLSearchParams({ region: id })}`);
  offer(region);
  await askPlan(signal);
});

/** Ask for the forecast as planned, and under the what-ifs if there are any. */
const refresh = newest(askPlan);
const askChanged = newest(async (signal) => {
  await forecastChanged(signal);
  draw();
});

async function askPlan(signal) {
  $("answer").setAttribute("aria-busy", "true");
  state.plan = await forecast([], signal);
  if (state.plan.model_version !== state.model.model_version) await loadModel(signal);
  const line = timeline(state.region, state.plan.forecasts[0]);
  $("answer").hidden = false;
  whatIf.show(line, festivalsAhead(line));
  await forecastChanged(signal);
  draw();
}

async function forecastChanged(signal) {
  const changes = whatIf.changes();
  const changed = changes.length ? await forecast(changes, signal) : null;
  Object.assign(state, { changed, changes });
  const same = ({ model_version, sequence }) =>
    model_version === state.plan.model_version && sequence === state.plan.sequence;
  if (changed && !same(changed)) show(state.region.id); // a new model or new sales came in between
}

function forecast(changes, signal) {
  const body = { regions: [state.region.id], series: [$("series").value], horizon: Number($("ahead").value) };
  return post("v1/forecasts", changes.length ? { ...body, what_if: changes } : body, signal);
}

function askWhatIf() {
  if (state.plan) askChanged();
}

async function loadModel(signal) {
  const model = await get("v1/model", {}, signal);
  const known = JSON.stringify([state.model?.known, state.model?.frequency]);
  state.model = { ...model, periods: periods(model.frequency) };
  if (known !== JSON.stringify([model.known, model.frequency])) whatIf.build(state.model);
  picker.unit = state.model.periods.one;
  $("version").textContent = `Model ${model.model_version}`;
  $("loading-model").hidden = model.wanted === model.model_version;
  $("loading-model").textContent = model.error
    ? `${model.wanted} could not be loaded: ${model.error} These are forecasts of ${model.model_version}.`
    : `${model.wanted} is being loaded; until then these are forecasts of ${model.model_version}.`;
  $("model").replaceChildren(...modelCard(state.model));
  $("gate").replaceChildren(...gateCard(state.model));
  const { shown } = state.model.periods;
  options(
    $("shown"),
    shown.map((n) => [n, count(n, state.model.periods)]),
    $("shown").value,
    shown[NARROW.matches ? 0 : 1],
  );
  options(
    $("series"),
    model.series.map((name) => [name, title(name)]),
    $("series").value,
    model.series[0],
  );
  $("series-field").hidden = model.series.length < 2;
}

/** Offer the horizons that can be forecast for a region without being told more of its future. */
function offer(region) {
  const known = region.dates.filter((date) => date > region.data_date && date <= region.known_until).length;
  const most = Math.max(1, known);
  const choices = [...state.model.periods.ahead.filter((n) => n < most), most];
  const chosen = $("ahead").dataset.chosen;
  options(
    $("ahead"),
    choices.map((n) => [n, count(n, state.model.periods)]),
    chosen,
    most,
  );
}

function draw() {
  fail(null);
  const { region, plan, changed, changes, model } = state;
  const whole = timeline(region, plan.forecasts[0], changed?.forecasts[0], changes);
  const line = tail(whole, Number($("shown").value));
  const ahead = festivalsAhead(whole);
  $("title").textContent = model.series.length > 1 ? `${region.id}, ${title(plan.forecasts[0].series)}` : region.id;
  $("cold").hidden = !plan.forecasts[0].cold;
  $("tiles").replaceChildren(...tiles(whole, model.periods));
  $("legend").replaceChildren(...legend(line, model.day_types));
  $("festivals").replaceChildren(
    ...festivalList(whole, ahead, model.periods, whatIf.sliders.length ? (from, to) => whatIf.on(from, to) : null),
  );
  chart.at = undefined;
  chart.draw(line, model.day_types);
  scrub(line);
  if ($("table-card").open) $("table").replaceChildren(table(line));
  $("outcome").replaceChildren(...outcome(whole));
}

function regionInAddress() {
  return new URLSearchParams(location.hash.slice(1)).get("region");
}

/** Lay the slider of days under the picture, day above day. */
function scrub(line) {
  const slider = $("day");
  slider.max = line.dates.length - 1;
  slider.style.marginLeft = `${chart.left - 9}px`;
  slider.style.width = `${chart.x(line.dates.length - 1) - chart.left + 18}px`;
  point(chart.at);
}

/** Tell of one day, which was pointed at or moved to. */
function point(index) {
  const pairs = dayFacts(chart.line, index, state.model.periods);
  chart.mark(index);
  $("day").value = index;
  $("day").setAttribute("aria-valuetext", pairs.map(([name, value]) => `${name}: ${value}`).join("; "));
  $("readout").replaceChildren(...readout(pairs));
}

/** Say what went wrong; null takes it back. A missing token is asked for. */
function fail(error, again) {
  $("answer").removeAttribute("aria-busy");
  const box = $("problem");
  box.hidden = error === null;
  if (error === null) return;
  if (!(error instanceof Problem)) console.error(error);
  if (!state.plan) $("answer").hidden = true;
  box.replaceChildren(...problemNotice(error, again));
  box.scrollIntoView({ block: "nearest" });
  if (error.status !== 401) return;
  box.hidden = !token.get(); // that there is none yet is no error
  token.forget();
  $("forget").hidden = true;
  $("version").textContent = "";
  $("content").hidden = true;
  $("token-form").hidden = false;
  $("token").focus();
}

/** Run work so that only the newest run counts: an older one is broken off. */
function newest(work) {
  let running = null;
  const run = async (...wanted) => {
    running?.abort();
    const own = (running = new AbortController());
    try {
      await work(own.signal, ...wanted);
    } catch (error) {
      if (!own.signal.aborted) fail(error, () => run(...wanted));
    }
  };
  return run;
}

function later(work) {
  let timer;
  return () => {
    clearTimeout(timer);
    timer = setTimeout(work, PAUSE_MS);
  };
}

$("token-form").addEventListener("submit", (event) => {
  event.preventDefault();
  token.keep($("token").value.trim());
  $("token").value = "";
  $("forget").hidden = false;
  fail(null);
  start();
});
$("forget").addEventListener("click", () => {
  token.forget();
  location.reload();
});
$("forget").hidden = !token.get();
$("day").addEventListener("input", () => point(Number($("day").value)));
$("series").addEventListener("change", () => refresh());
$("ahead").addEventListener("change", () => {
  $("ahead").dataset.chosen = $("ahead").value;
  refresh();
});
$("shown").addEventListener("change", () => state.plan && draw());
$("table-card").addEventListener("toggle", () => {
  if (!state.plan || !$("table-card").open) return;
  draw();
  const [head, first] = [$("table").querySelector("thead"), $("table").querySelector(".ahead")];
  $("table").scrollTop = first.offsetTop - head.offsetHeight;
});
window.addEventListener("hashchange", () => regionInAddress() && show(regionInAddress()));

start();
