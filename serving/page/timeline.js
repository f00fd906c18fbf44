// What is drawn, listed and summed: history and forecast of one series of one region, day by day.

import { sum } from "./words.js";

export const FESTIVAL = "festival";

/**
 * Join the answers of the API to lists that run over the same days.
 *
 * @param region answer of GET /v1/regions/{id}
 * @param plan one forecast of POST /v1/forecasts, with the future as it is known
 * @param changed the same under the what-ifs, or null
 * @param changes the what-ifs
 * @param other {name, forecast} of another model under the same what-ifs, or null
 * @returns dates, dayTypes, events, closed, known by name; sold and expected with null where there is none; planned,
 *   the expectation without the what-ifs, or null; other {name, values} or null; quantiles by rising level; origin, the
 *   index of the last day whose sales were used.
 */
export function timeline(region, plan, changed = null, changes = [], other = null) {
  const forecast = changed ?? plan;
  const length = region.dates.indexOf(forecast.dates.at(-1) ?? forecast.data_date) + 1;
  const dates = region.dates.slice(0, length);
  const history = region.history.find(({ series }) => series === forecast.series);
  const spread = (of) => {
    const at = new Map(of.dates.map((date, index) => [date, index]));
    return (values) => dates.map((date) => values[at.get(date)] ?? null);
  };
  const over = spread(forecast);
  const levels = Object.keys(forecast.quantiles)
    .map(Number)
    .sort((a, b) => a - b);
  return {
    dates,
    dayTypes: region.day_types.slice(0, length),
    events: region.events.slice(0, length),
    closed: region.closed.slice(0, length),
    known: Object.fromEntries(
      Object.entries(region.known).map(([name, values]) => [
        name,
        dates.map((date, index) => {
          const change = changes.find(({ column, first, last }) => column === name && first <= date && date <= last);
          return change ? change.to : values[index];
        }),
      ]),
    ),
    sold: dates.map((_, index) => history.sales[index] ?? null),
    expected: over(forecast.mean),
    planned: changed ? spread(plan)(plan.mean) : null,
    other: other && { name: other.name, values: spread(other.forecast)(other.forecast.mean) },
    quantiles: levels.map((level) => ({ level, values: over(forecast.quantiles[level]) })),
    origin: region.dates.indexOf(forecast.data_date),
  };
}

/** A forecast of no days, for a region whose history alone can be shown. */
export const noForecast = ({ data_date }, series) => ({ series, data_date, dates: [], mean: [], quantiles: {} });

export const hasForecast = (line) => line.origin + 1 < line.dates.length;

/** How many periods of a region can be forecast without more of its future, and what is missing for the next one. */
export function plannedAhead({ dates, data_date, known_until, known }) {
  const ahead = dates.filter((date) => date > data_date && date <= known_until).length;
  const next = dates.findIndex((date) => date > known_until);
  const missing = Object.keys(known).filter((name) => next >= 0 && known[name][next] === null);
  return { ahead, missing };
}

/** Pairs of quantiles from the outermost to the innermost: {low, high} levels and {lower, upper} values. */
export function ranges({ quantiles }) {
  return quantiles.slice(0, Math.floor(quantiles.length / 2)).map(({ level: low, values: lower }, index) => {
    const { level: high, values: upper } = quantiles.at(-1 - index);
    return { low, high, lower, upper };
  });
}

/** The last days of a timeline: some of history, and all of the forecast. */
export function tail(line, history) {
  const begin = Math.max(0, line.origin + 1 - history);
  const cut = (values) => values?.slice(begin) ?? null;
  return {
    ...line,
    dates: cut(line.dates),
    dayTypes: cut(line.dayTypes),
    events: cut(line.events),
    closed: cut(line.closed),
    known: Object.fromEntries(Object.entries(line.known).map(([name, values]) => [name, cut(values)])),
    sold: cut(line.sold),
    expected: cut(line.expected),
    planned: cut(line.planned),
    other: line.other && { ...line.other, values: cut(line.other.values) },
    quantiles: line.quantiles.map(({ level, values }) => ({ level, values: cut(values) })),
    origin: line.origin - begin,
  };
}

/** Runs of days that belong to the same festival: {name, from, to}, as indices. */
export function festivals({ events }) {
  const runs = [];
  events.forEach((name, index) => {
    if (!name) return;
    const last = runs.at(-1);
    if (last?.name === name && last.to === index - 1) last.to = index;
    else runs.push({ name, from: index, to: index });
  });
  return runs;
}

/**
 * The festivals of the forecast, with what a planner asks of them.
 *
 * @returns a list of {name, from, to, total, daily, ordinary, before}: expected in all and a day; expected on a day of
 *   this forecast without a festival, or null; and what was sold a day the last time, as {daily, from, to}, or null.
 */
export function festivalsAhead(line) {
  const runs = festivals(line);
  const ahead = (index) => line.expected[index] !== null;
  const quiet = line.expected.filter((value, index) => value !== null && !line.events[index] && !line.closed[index]);
  const ordinary = quiet.length ? sum(quiet) / quiet.length : null;
  return runs
    .filter(({ to }) => ahead(to))
    .map(({ name, from, to }) => {
      const values = line.expected.slice(from, to + 1).filter((value) => value !== null);
      const total = sum(values);
      return {
        name,
        from: to + 1 - values.length,
        to,
        total,
        daily: total / values.length,
        ordinary,
        before: lastTime(line, runs, name, from),
      };
    });
}

function lastTime(line, runs, name, before) {
  const run = runs.findLast((one) => one.name === name && one.to < before && one.from > 0);
  const sold = run ? line.sold.slice(run.from, run.to + 1).filter((value) => value !== null) : [];
  return sold.length ? { from: run.from, to: run.to, daily: sum(sold) / sold.length } : null;
}

/** The figures above the picture. */
export function figures(line) {
  const first = line.origin + 1;
  const expected = line.expected.slice(first);
  const best = first + expected.indexOf(Math.max(...expected));
  const sold = line.sold.slice(Math.max(0, first - expected.length), first);
  const complete = sold.length === expected.length && sold.every((value) => value !== null);
  return {
    first,
    length: expected.length,
    total: sum(expected),
    best,
    sold: complete ? sum(sold) : null,
    planned: line.planned ? sum(line.planned.slice(first)) : null,
    other: line.other ? sum(line.other.values.slice(first)) : null,
  };
}
