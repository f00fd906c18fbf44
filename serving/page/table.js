// The picture as a table, for whoever cannot see it or wants the numbers.

import { h } from "./dom.js";
import { number, plainDay, title, weekday } from "./words.js";

/** One row a day; days ahead are of the class `ahead`. */
export function table(line) {
  const columns = [
    ["Sold", line.sold],
    ["Expected", line.expected],
    ...(line.planned ? [["As planned", line.planned]] : []),
    ...(line.other ? [[line.other.name, line.other.values]] : []),
    ...line.quantiles.map(({ level, values }) => [`${Math.round(level * 1000) / 10} %`, values]),
    ...Object.entries(line.known).map(([name, values]) => [title(name.replace("@", ", ")), values]),
  ];
  return h(
    "table",
    h("caption.hidden", "Sales, forecast and its quantiles, and what is planned, by date."),
    h(
      "thead",
      h(
        "tr",
        ["Date", "Day type", "Festival", ...columns.map(([name]) => name)].map((name) =>
          h("th", { scope: "col" }, name),
        ),
      ),
    ),
    h(
      "tbody",
      line.dates.map((date, index) =>
        h(
          "tr",
          { class: line.expected[index] === null ? "past" : "ahead" },
          h("th", { scope: "row" }, `${weekday(date)} ${plainDay(date)}`),
          h("td.text", title(line.dayTypes[index]) + (line.closed[index] ? ", closed" : "")),
          h("td.text", title(line.events[index])),
          columns.map(([, values]) => h("td", values[index] === null ? "" : number(values[index]))),
        ),
      ),
    ),
  );
}
