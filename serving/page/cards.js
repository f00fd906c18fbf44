// What stands around the picture: its figures and colours, one day read out, and the festivals ahead.

import { h } from "./dom.js";
import { figures, hasForecast, ranges } from "./timeline.js";
import { change, count, day, days, fullDay, more, number, plainDay, share, title } from "./words.js";

/** The figures above the picture. */
export function tiles(line, periods) {
  const { first, length, total, best, sold, planned, other } = figures(line);
  const [wide] = ranges(line);
  const likely = wide ? `, likely ${number(wide.lower[best])} to ${number(wide.upper[best])}` : "";
  const tile = (name, value, note, kind = "tile") =>
    h("div", { class: kind }, h("dt", name), h("dd", h("span.value", value), h("span.note", note)));
  return [
    tile("Expected in all", number(total), days(line.dates[first], line.dates.at(-1))),
    sold > 0 && tile(`Against the last ${count(length, periods)}`, change(total / sold), `${number(sold)} sold`),
    tile(`Busiest ${periods.one}`, day(line.dates[best]), `${number(line.expected[best])}${likely}`),
    planned > 0 && tile("What if", change(total / planned), `${number(planned)} as planned`, "tile changed"),
    other > 0 && tile(line.other.name, change(other / total), `${number(other)} in all`, "tile other"),
  ].filter(Boolean);
}

/** What is known of one day, as pairs; the first one names the day. */
export function dayFacts(line, index, periods) {
  const [wide] = ranges(line);
  const { events, dayTypes, closed, sold, expected, planned, other, known } = line;
  return [
    [
      periods.one === "day" ? fullDay(line.dates[index]) : plainDay(line.dates[index]),
      [title(dayTypes[index]), events[index] && title(events[index]), closed[index] && "closed"]
        .filter(Boolean)
        .join(", "),
    ],
    sold[index] !== null && ["Sold", number(sold[index])],
    expected[index] !== null && ["Expected", number(expected[index])],
    expected[index] !== null &&
      wide && [`${share(wide.low, wide.high)} range`, `${number(wide.lower[index])} to ${number(wide.upper[index])}`],
    planned?.[index] != null && ["As planned", number(planned[index])],
    other?.values[index] != null && [other.name, number(other.values[index])],
    sold[index] === null && expected[index] === null && ["Sold", "not known"],
    ...Object.entries(known).map(([name, values]) => [title(name.replace("@", ", ")), number(values[index])]),
  ].filter(Boolean);
}

export const readout = (pairs) => pairs.map(([name, value]) => h("span", h("b", name), ` ${value}`));

/** What the colours and lines of the picture mean. */
export function legend(line, dayTypes) {
  const [wide] = ranges(line);
  const changed = line.planned !== null;
  const item = (name, text) => h("li", h("i", { class: name, "aria-hidden": "true" }), text);
  return [
    item("key-sold", "Sold"),
    hasForecast(line) &&
      item(changed ? "key-expected changed" : "key-expected", changed ? "Expected, what if" : "Expected"),
    wide && item(changed ? "key-fan changed" : "key-fan", `${share(wide.low, wide.high)} range`),
    changed && item("key-planned", "Expected as planned"),
    line.other && item("key-other", line.other.name),
    ...dayTypes.map((name, index) => item(`key-type day-type-${index}`, title(name))),
  ].filter(Boolean);
}

/** Why there is no forecast, or one of fewer days than the model has learned; nothing if it goes as far as it can. */
export function shortfall({ ahead, missing }, region, { horizon, periods }) {
  if (ahead >= horizon || !missing.length) return [];
  const names = new Intl.ListFormat("en-GB").format(missing.map((name) => title(name.replace("@", ", "))));
  const until = plainDay(region.known_until);
  const remedy = ["To go further, add their planned values to the data, or set a ", h("code", "fill"), " in dataset.yaml."];
  return ahead
    ? [`The forecast ends on ${until}, after ${count(ahead, periods)}: there are no values of ${names} beyond. `, ...remedy]
    : [
        h("strong", "No forecast: nothing is planned yet"),
        h("p", `The last sales are of ${until}, and there are no values of ${names} for the ${periods.many} after it.`),
        h("p", "Add their planned values to the data, or set a ", h("code", "fill"), " in dataset.yaml that holds where nothing is planned."),
      ];
}

/** What the what-ifs come to, beside their sliders. */
export function outcome(line) {
  const { total, planned } = figures(line);
  if (planned === null) return [`${number(total)} expected as planned.`];
  return [
    h("b.moved", number(total)),
    ` expected in place of ${number(planned)}`,
    planned > 0 && `: ${more(total / planned)}.`,
  ].filter(Boolean);
}

/** The festivals of the forecast. */
export function festivalList(line, ahead, periods, choose) {
  if (!ahead.length) return [h("p.note", "None among the days that are forecast.")];
  const dates = ({ from, to }) => days(line.dates[from], line.dates[to]);
  return [
    h(
      "ul.festivals",
      ahead.map(({ name, from, to, total, daily, ordinary, before }) =>
        h(
          "li",
          h(
            "div.heading",
            h("h3", title(name)),
            choose &&
              h(
                "button",
                {
                  type: "button",
                  class: "quiet",
                  onclick: () => choose(from, to),
                  "aria-label": `What if on ${title(name)}`,
                },
                "what if",
              ),
          ),
          h("p.note", dates({ from, to })),
          h(
            "p",
            h("b", number(total)),
            ` expected, ${number(daily)} a ${periods.one}`,
            ordinary > 0 && `: ${more(daily / ordinary)} than on other ${periods.many}`,
          ),
          before && h("p.note", `Last time ${number(before.daily)} a ${periods.one}, `, dates(before)),
        ),
      ),
    ),
  ];
}
