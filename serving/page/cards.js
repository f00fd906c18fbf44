// What stands beside the picture: figures, festivals ahead, the readout of a day, the table, the model and its gate.

import { facts, h } from "./dom.js";
import { figures, ranges } from "./timeline.js";
import { change, count, day, days, fullDay, more, number, plainDay, share, title, weekday } from "./words.js";

const GATE = "stmp.gate"; // tag of a version that was held against the champion

/** The figures above the picture. */
export function tiles(line, periods) {
  const { first, length, total, best, sold, planned } = figures(line);
  const [wide] = ranges(line);
  const tile = (name, value, note, kind = "tile") =>
    h("div", { class: kind }, h("dt", {}, name), h("dd", {}, h("span", { class: "value" }, value), h("span", { class: "note" }, note)));
  return [
    tile("Expected in all", number(total), days(line.dates[first], line.dates.at(-1))),
    sold > 0 && tile(`Against the last ${count(length, periods)}`, change(total / sold), `${number(sold)} sold`),
    tile(`Busiest ${periods.one}`, day(line.dates[best]),
      `${number(line.expected[best])}${wide ? `, likely ${number(wide.lower[best])} to ${number(wide.upper[best])}` : ""}`),
    planned > 0 && tile("What if", change(total / planned), `${number(planned)} as planned`, "tile changed"),
  ].filter(Boolean);
}

/** What is known of one day, as pairs; the first one names the day. */
export function dayFacts(line, index, periods) {
  const [wide] = ranges(line);
  const { events, dayTypes, closed, sold, expected, planned, known } = line;
  return [
    [periods.one === "day" ? fullDay(line.dates[index]) : plainDay(line.dates[index]),
      [title(dayTypes[index]), events[index] && title(events[index]), closed[index] && "closed"].filter(Boolean).join(", ")],
    sold[index] !== null && ["Sold", number(sold[index])],
    expected[index] !== null && ["Expected", number(expected[index])],
    expected[index] !== null && wide && [`${share(wide.low, wide.high)} range`, `${number(wide.lower[index])} to ${number(wide.upper[index])}`],
    planned?.[index] != null && ["As planned", number(planned[index])],
    sold[index] === null && expected[index] === null && ["Sold", "not known"],
    ...Object.entries(known).map(([name, values]) => [title(name.replace("@", ", ")), number(values[index])]),
  ].filter(Boolean);
}

export const readout = (pairs) => pairs.map(([name, value]) => h("span", {}, h("b", {}, name), ` ${value}`));

/** What the colours and lines of the picture mean. */
export function legend(line, dayTypes) {
  const [wide] = ranges(line);
  const changed = line.planned !== null;
  const item = (name, text) => h("li", {}, h("i", { class: name, "aria-hidden": "true" }), text);
  return [
    item("key-sold", "Sold"),
    item(changed ? "key-expected changed" : "key-expected", changed ? "Expected, what if" : "Expected"),
    wide && item(changed ? "key-fan changed" : "key-fan", `${share(wide.low, wide.high)} range`),
    changed && item("key-planned", "Expected as planned"),
    ...dayTypes.map((name, index) => item(`key-type day-type-${index}`, title(name))),
  ].filter(Boolean);
}

/** The picture as a table. */
export function table(line) {
  const columns = [
    ["Sold", line.sold], ["Expected", line.expected], ...(line.planned ? [["As planned", line.planned]] : []),
    ...line.quantiles.map(({ level, values }) => [`${Math.round(level * 1000) / 10} %`, values]),
    ...Object.entries(line.known).map(([name, values]) => [title(name.replace("@", ", ")), values]),
  ];
  return h("table", {},
    h("caption", { class: "hidden" }, "Sales, forecast and its quantiles, and what is planned, by date."),
    h("thead", {}, h("tr", {}, ["Date", "Day type", "Festival", ...columns.map(([name]) => name)].map((name) => h("th", { scope: "col" }, name)))),
    h("tbody", {}, line.dates.map((date, index) =>
      h("tr", { class: line.expected[index] === null ? "past" : "ahead" },
        h("th", { scope: "row" }, `${weekday(date)} ${plainDay(date)}`),
        h("td", { class: "text" }, title(line.dayTypes[index]) + (line.closed[index] ? ", closed" : "")),
        h("td", { class: "text" }, title(line.events[index])),
        columns.map(([, values]) => h("td", {}, values[index] === null ? "" : number(values[index])))))));
}

/** What the what-ifs come to, beside their sliders. */
export function outcome(line) {
  const { total, planned } = figures(line);
  if (planned === null) return [`${number(total)} expected as planned.`];
  return [h("b", { class: "moved" }, number(total)), ` expected in place of ${number(planned)}`, planned > 0 && `: ${more(total / planned)}.`].filter(Boolean);
}

/** The festivals of the forecast. */
export function festivalList(line, ahead, periods, choose) {
  if (!ahead.length) return [h("p", { class: "note" }, "None among the days that are forecast.")];
  return [h("ul", { class: "festivals" }, ahead.map(({ name, from, to, total, daily, ordinary, before }) =>
    h("li", {},
      h("div", { class: "heading" },
        h("h3", {}, title(name)),
        choose && h("button", { type: "button", class: "quiet", onclick: () => choose(from, to), "aria-label": `What if on ${title(name)}` }, "what if")),
      h("p", { class: "note" }, days(line.dates[from], line.dates[to])),
      h("p", {}, h("b", {}, number(total)), ` expected, ${number(daily)} a ${periods.one}`,
        ordinary > 0 && `: ${more(daily / ordinary)} than on other ${periods.many}`),
      before && h("p", { class: "note" }, `Last time ${number(before.daily)} a ${periods.one}, ${days(line.dates[before.from], line.dates[before.to])}`))))];
}

/** The card of the model. */
export function modelCard(model) {
  const list = (values) => (values.length ? values.map(title).join(", ") : "none");
  return [
    facts([
      ["Version", model.model_version],
      ["Learned from", `${number(model.trained_regions)} regions, up to ${plainDay(model.trained_until)}`],
      ["Forecasts", `up to ${count(model.horizon, model.periods)}, ${number(model.levels.length)} quantiles from ${share(0, model.levels[0])} to ${share(0, model.levels.at(-1))}`],
      ["Series", list(model.series)],
      ["Day types", list(model.day_types)],
      ["Known ahead", list(model.known.map(({ name }) => name))],
      ["Known in hindsight", list(model.past)],
      ["Features of a region", list([...new Set(model.static.map((name) => name.split("=")[0]))])],
      ["Data", h("code", {}, model.fingerprint)],
    ]),
  ];
}

/** How good the version is: what the gate said, and its losses in training. */
export function gateCard({ tags, validation }) {
  const { [GATE]: found, ...others } = tags;
  const losses = Object.entries(validation);
  const gate = readTag(found);
  const rest = Object.entries(others);
  return [
    !gate && h("p", { class: "note" }, "This version was not held against a champion, or its registry was not at hand."),
    gate && h("p", {}, h("span", { class: gate.passed ? "badge good" : "badge bad" }, gate.passed ? "Passed" : "Refused"),
      gate.passed ? " It is better than the champion before it, and nowhere worse." : " It broke these rules:"),
    gate?.failed?.length > 0 && h("ul", {}, gate.failed.map((rule) => h("li", {}, h("code", {}, rule)))),
    gate && facts([
      ["Against", gate.against || "seasonal naive, as there was no champion"],
      ["When", gate.at],
      ["By", gate.by],
      ["Report", gate.report && h("code", {}, gate.report)],
    ].filter(([, value]) => value)),
    losses.length > 0 && h("h3", {}, "Loss on days held out of training"),
    losses.length > 0 && facts(losses.map(([name, loss]) => [title(name), loss.toFixed(3)])),
    rest.length > 0 && h("details", {}, h("summary", {}, "Tags of the version"), facts(rest.map(([name, value]) => [name, h("code", {}, value)]))),
  ].filter(Boolean);
}

function readTag(text) {
  try {
    return text ? JSON.parse(text) : null;
  } catch {
    return null;
  }
}

/** An error, with where it is and what can be done. */
export function problemNotice({ title: what, status, message, errors = [], retryAfter }, again) {
  const passing = !(status < 500) || status === 429;
  return [
    h("strong", {}, what ?? "This page failed"),
    errors.length === 0 && h("p", {}, message),
    errors.length > 0 && h("ul", {}, errors.map(({ field, reason, remedy }) =>
      h("li", {}, h("code", {}, field), `: ${reason}.`.replace("..", "."), remedy && ` ${remedy}`))),
    retryAfter && h("p", {}, `The server asks to wait ${retryAfter} s.`),
    passing && h("button", { type: "button", onclick: again }, "Try again"),
  ].filter(Boolean);
}
