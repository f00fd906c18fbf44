// The page: what was asked for, and what follows from it.

import { get, post, token } from "./api.js";
import { dayFacts, festivalList, legend, outcome, readout, shortfall, tiles } from "./cards.js";
import { Chart } from "./chart.js";
import { $, options } from "./dom.js";
import { gateCard, modelCard, trialCard } from "./model.js";
import { Picker } from "./picker.js";
import { Problem, problemNotice } from "./problem.js";
import { table } from "./table.js";
import { festivalsAhead, hasForecast, noForecast, plannedAhead, tail, timeline } from "./timeline.js";
import { WhatIf } from "./whatif.js";
import { count, periods, title } from "./words.js";

const NARROW = window.matchMedia("(max-width: 700px)");
const PAUSE_MS = 120;
const LOOK_AGAIN_MS = 60_000;

/** Answers of the API; changed is the forecast under the what-ifs, which are changes, and other that of the model that
 * is not in charge of the region while two are on trial, as {name, forecast}. */
const state = { model: null, region: null, plan: null, changed: null, other: null, changes: [] };

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

/** Ask anew if another model answers by now, or another is on trial: a page may stay open for days. */
const lookAgain = newest(async (signal) => {
  if (!state.plan || document.hidden) return;
  const models = ({ model_version, trial }) => JSON.stringify([model_version, trial?.model_version]);
  const before = models(state.model);
  await loadModel(signal);
  if (models(state.model) !== before) await refresh();
});

async function askPlan(signal) {
  $("answer").setAttribute("aria-busy", "true");
  try {
    state.plan = plannedAhead(state.region).ahead ? await forecast([], signal) : nothing();
  } catch (error) {
    if (!state.plan && !signal.aborted) drawHistory();
    throw error;
  }
  const { model, plan } = state;
  const known = [model.model_version, model.trial?.model_version].includes(plan.model_version);
  if (model.trial || !known) await loadModel(signal);
  const line = timeline(state.region, plan.forecasts[0]);
  $("answer").hidden = false;
  whatIf.show(line, festivalsAhead(line));
  await forecastChanged(signal);
  draw();
}

async function forecastChanged(signal) {
  const changes = hasForecast(timeline(state.region, state.plan.forecasts[0])) ? whatIf.changes() : [];
  const [changed, other] = await Promise.all([
    changes.length ? forecast(changes, signal) : null,
    forecastOther(changes, signal),
  ]);
  Object.assign(state, { changed, other, changes });
  const same = ({ model_version, sequence }) =>
    model_version === state.plan.model_version && sequence === state.plan.sequence;
  if (changed && !same(changed)) show(state.region.id); // a new model or new sales came in between
}

/** The forecast of the model that is not in charge of the region, while one is on trial. */
async function forecastOther(changes, signal) {
  const { model, plan } = state;
  if (!model.trial?.loaded || !plan.forecasts[0].dates.length) return null;
  const tried = plan.model_version === model.trial.model_version;
  const [by, name] = tried
    ? ["champion", `By ${model.model_version}, the champion`]
    : ["challenger", `By ${model.trial.model_version}, on trial`];
  try {
    return { name, forecast: (await forecast(changes, signal, by)).forecasts[0] };
  } catch (error) {
    if (!(error instanceof Problem)) throw error;
    await loadModel(signal); // which tells why the trial has ended
    return null;
  }
}

function forecast(changes, signal, by) {
  const body = { regions: [state.region.id], series: [$("series").value], horizon: Number($("ahead").value) };
  return post("v1/forecasts", { ...body, ...(changes.length && { what_if: changes }), ...(by && { by }) }, signal);
}

/** In place of a forecast where there can be none. */
function nothing() {
  const { model, region } = state;
  return { model_version: model.model_version, forecasts: [noForecast(region, $("series").value)] };
}

function drawHistory() {
  Object.assign(state, { plan: nothing(), changed: null, other: null, changes: [] });
  $("answer").hidden = false;
  draw();
}

function askWhatIf() {
  if (state.plan?.forecasts[0].dates.length) askChanged();
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
  $("trial-card").hidden = !model.trial;
  if (model.trial) $("trial").replaceChildren(...trialCard(model));
  const shown = JSON.stringify({ ...model, replica: null, trial: null });
  if (shown !== $("model").dataset.shown) {
    $("model").dataset.shown = shown;
    $("model").replaceChildren(...modelCard(state.model));
    $("gate").replaceChildren(...gateCard(state.model, () => get("v1/model/gate")));
  }
  const spans = state.model.periods.shown;
  options(
    $("shown"),
    spans.map((n) => [n, count(n, state.model.periods)]),
    $("shown").value,
    spans[NARROW.matches ? 0 : 1],
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
  const planned = plannedAhead(region);
  const most = planned.ahead;
  const choices = [...state.model.periods.ahead.filter((n) => n < most), most];
  options(
    $("ahead"),
    choices.map((n) => [n, n ? count(n, state.model.periods) : "none"]),
    $("ahead").dataset.chosen,
    most,
  );
  $("ahead").disabled = !planned.ahead;
  $("shortfall").replaceChildren(...shortfall(planned, region, state.model));
  $("shortfall").hidden = !$("shortfall").hasChildNodes();
}

function draw() {
  fail(null);
  const { region, plan, changed, changes, other, model } = state;
  const whole = timeline(region, plan.forecasts[0], changed?.forecasts[0], changes, other);
  const line = tail(whole, Number($("shown").value));
  const ahead = festivalsAhead(whole);
  $("title").textContent = model.series.length > 1 ? `${region.id}, ${title(plan.forecasts[0].series)}` : region.id;
  $("unit").textContent = `${title(plan.forecasts[0].series)} a ${model.periods.one}`;
  $("cold").hidden = !plan.forecasts[0].cold;
  $("by").hidden = plan.model_version !== model.trial?.model_version;
  $("by").textContent = `forecast by ${plan.model_version}, on trial`;
  $("aside").hidden = $("tiles").hidden = !hasForecast(whole);
  $("tiles").replaceChildren(...(hasForecast(whole) ? tiles(whole, model.periods) : []));
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
  $("table").scrollTop = first ? first.offsetTop - head.offsetHeight : $("table").scrollHeight;
});
document.addEventListener("visibilitychange", () => lookAgain());
setInterval(lookAgain, LOOK_AGAIN_MS);
window.addEventListener("hashchange", () => regionInAddress() && show(regionInAddress()));

start();
