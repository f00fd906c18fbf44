// The picture: history, the forecast's fan, festivals and day types, as one SVG of the size that it is shown at.

import { s } from "./dom.js";
import { festivals, hasForecast, ranges } from "./timeline.js";
import { asDate, day, month, number, title, year } from "./words.js";

const TOP = 42; // two rows of festivals' names
const BOTTOM = 40; // day types and dates
const RIGHT = 14;
const STRIP = 7; // height of the day types
const LETTER = 6.3; // about the width of a letter, to keep names apart

export class Chart {
  /**
   * @param box element that the picture is put into.
   * @param point function (index), called when a day is pointed at.
   */
  constructor(box, point) {
    this.box = box;
    this.point = point;
    this.line = null;
    box.addEventListener("pointermove", (event) => this.pointed(event));
    box.addEventListener("pointerdown", (event) => this.pointed(event));
    new ResizeObserver(() => this.line && box.clientWidth !== this.width && this.draw(this.line)).observe(box);
  }

  /** @param line a timeline. @param dayTypes all names of day types, by which they are coloured. */
  draw(line, dayTypes = this.dayTypes) {
    Object.assign(this, { line, dayTypes });
    this.width = this.box.clientWidth;
    this.height = this.width < 560 ? 270 : 370;
    this.scale();
    this.cursor = s("g", { class: "cursor" });
    this.box.replaceChildren(
      s(
        "svg",
        { width: this.width, height: this.height, "aria-hidden": "true" },
        this.festivals(),
        this.axes(),
        this.types(),
        hasForecast(this.line) && this.border(),
        this.fan(),
        this.lines(),
        this.cursor,
      ),
    );
    this.mark(this.at ?? line.origin + 1);
  }

  scale() {
    const { sold, planned, other, expected, quantiles, dates } = this.line;
    const values = [sold, planned ?? [], other?.values ?? [], expected, quantiles.at(-1)?.values ?? []]
      .flat()
      .filter((value) => value !== null);
    const step = roundStep((Math.max(...values) || 1) / (this.height < 300 ? 4 : 5));
    const top = Math.ceil((Math.max(...values) || 1) / step) * step;
    this.ticks = Array.from({ length: Math.round(top / step) + 1 }, (_, index) => index * step);
    this.left = 14 + LETTER * 1.1 * Math.max(...this.ticks.map((tick) => number(tick).length));
    this.base = this.height - BOTTOM;
    this.pitch = (this.width - this.left - RIGHT) / Math.max(1, dates.length - 1);
    this.x = (index) => this.left + index * this.pitch;
    this.y = (value) => this.base - (value / top) * (this.base - TOP);
  }

  /** Shaded days, and their names where there is room; those ahead come first. */
  festivals() {
    const runs = festivals(this.line);
    const rows = [[], []];
    const names = [];
    for (const { name, from, to } of [...runs].reverse()) {
      const half = (title(name).length * LETTER) / 2 + 4;
      const middle = Math.min(Math.max((this.x(from) + this.x(to)) / 2, half), this.width - half);
      const row = rows.findIndex((taken) =>
        taken.every((other) => Math.abs(other.middle - middle) > other.half + half + LETTER),
      );
      if (row < 0) continue;
      rows[row].push({ middle, half });
      names.push(s("text", { x: middle, y: 30 - 16 * row, class: "festival-name" }, title(name)));
    }
    const shades = runs.map(({ from, to }) => this.days("festival-days", from, to, TOP - 4, this.base - TOP + 4));
    return s("g", shades, names);
  }

  /** A rectangle over some days, each half a day to both sides, within the picture. */
  days(name, from, to, top, height) {
    const begin = Math.max(this.left, this.x(from - 0.5));
    const end = Math.min(this.x(this.line.dates.length - 1), this.x(to + 0.5));
    return s("rect", { class: name, x: begin, y: top, width: Math.max(1, end - begin), height });
  }

  axes() {
    const rows = this.ticks.map((tick) =>
      s(
        "g",
        s("line", {
          class: tick ? "grid" : "axis",
          x1: this.left,
          x2: this.width - RIGHT,
          y1: this.y(tick),
          y2: this.y(tick),
        }),
        s("text", { class: "tick end", x: this.left - 8, y: this.y(tick) + 4 }, number(tick)),
      ),
    );
    const columns = dateTicks(this.line.dates, this.pitch).map(({ index, text }) =>
      s(
        "g",
        s("line.axis", { x1: this.x(index), x2: this.x(index), y1: this.base + STRIP + 5, y2: this.base + STRIP + 10 }),
        s(
          "text",
          { class: "tick middle", x: Math.min(Math.max(this.x(index), 20), this.width - 20), y: this.height - 8 },
          text,
        ),
      ),
    );
    return s("g", rows, columns);
  }

  /** The strip of day types under the picture. */
  types() {
    const { dayTypes } = this.line;
    const runs = dayTypes.flatMap((type, index) =>
      index && dayTypes[index - 1] === type ? [] : [{ type, from: index }],
    );
    return s(
      "g",
      runs.map(({ type, from }, index) =>
        this.days(
          `day-type day-type-${this.dayTypes.indexOf(type)}`,
          from,
          (runs[index + 1]?.from ?? dayTypes.length) - 1,
          this.base + 3,
          STRIP,
        ),
      ),
    );
  }

  border() {
    const at = this.x(this.line.origin + 0.5);
    return s("line.border", { x1: at, x2: at, y1: TOP - 4, y2: this.base });
  }

  fan() {
    const name = this.line.planned ? "fan changed" : "fan";
    return s(
      "g",
      { class: name },
      ranges(this.line).map(({ lower, upper }) => s("path", { d: this.area(lower, upper) })),
    );
  }

  lines() {
    const { sold, expected, planned, other, origin } = this.line;
    // Dots where there is room for them, and where a line would have no length.
    const alone = (index) => (sold[index - 1] ?? null) === null && (sold[index + 1] ?? null) === null;
    const dots = sold.flatMap((value, index) => (value !== null && (this.pitch >= 5 || alone(index)) ? [index] : []));
    return s(
      "g",
      s("path.sold", { d: this.path(sold) }),
      dots.map((index) => s("circle.sold-day", { cx: this.x(index), cy: this.y(sold[index]), r: 1.8 })),
      planned && s("path.planned", { d: this.path(planned) }),
      other && s("path.other", { d: this.path(other.values) }),
      s("path", { class: planned ? "expected changed" : "expected", d: this.path(expected) }),
      expected.length === origin + 2 &&
        s("circle.expected-day", { cx: this.x(origin + 1), cy: this.y(expected[origin + 1]), r: 3 }),
    );
  }

  path(values) {
    const begins = (index) => (values[index - 1] ?? null) === null;
    return values
      .map((value, index) => (value === null ? "" : `${begins(index) ? "M" : "L"}${this.spot(index, value)}`))
      .join("");
  }

  area(lower, upper) {
    const there = lower.flatMap((value, index) => (value === null ? [] : [index]));
    // One day alone has no width of its own.
    const wide = there.length > 1 ? there : [there[0] - 0.3, there[0] + 0.3];
    const edge = (values, list) => list.map((index) => this.spot(index, values[Math.round(index)])).join("L");
    return `M${edge(upper, wide)}L${edge(lower, [...wide].reverse())}Z`;
  }

  spot(index, value) {
    return `${this.x(index).toFixed(1)},${this.y(value).toFixed(1)}`;
  }

  /** Mark a day, and what was sold or is expected on it. */
  mark(index) {
    this.at = Math.min(Math.max(index, 0), this.line.dates.length - 1);
    const { sold, expected, planned, other } = this.line;
    const dots = [
      [sold, "sold-day"],
      [other?.values, "other-day"],
      [planned, "planned-day"],
      [expected, planned ? "expected-day changed" : "expected-day"],
    ];
    const x = this.x(this.at);
    this.cursor.replaceChildren(
      s("line", { x1: x, x2: x, y1: TOP - 4, y2: this.base }),
      ...dots
        .filter(([values]) => (values?.[this.at] ?? null) !== null)
        .map(([values, name]) => s("circle", { class: name, cx: x, cy: this.y(values[this.at]), r: 4 })),
    );
  }

  pointed(event) {
    if (!this.line) return;
    const index = Math.round((event.clientX - this.box.getBoundingClientRect().left - this.left) / this.pitch);
    this.point(Math.min(Math.max(index, 0), this.line.dates.length - 1));
  }
}

/** 1, 2 or 5 times a power of ten, and no less than a step. */
export function roundStep(step) {
  const power = 10 ** Math.floor(Math.log10(step));
  return power * [1, 2, 5, 10].find((factor) => factor * power >= step * (1 - 1e-9));
}

/** Where dates are written: days, Mondays or first days of months, as far apart as their text needs. */
function dateTicks(dates, pitch) {
  const room = Math.ceil(64 / pitch);
  const named = (index, text) => ({ index, text });
  const daily = dates.length < 2 || asDate(dates[1]) - asDate(dates[0]) === 86_400_000;
  if (!daily) return dates.flatMap((date, index) => (index % room ? [] : [named(index, day(date))]));
  if (room <= 14) {
    const stride = room <= 1 ? 1 : 7 * Math.ceil(room / 7);
    const monday = dates.findIndex((date) => asDate(date).getUTCDay() === 1);
    const begin = stride === 1 || monday < 0 ? 0 : monday;
    return dates.flatMap((date, index) => (index < begin || (index - begin) % stride ? [] : [named(index, day(date))]));
  }
  const stride = Math.ceil(room / 31);
  return dates.flatMap((date, index) => {
    const number = asDate(date).getUTCMonth();
    if (asDate(date).getUTCDate() !== 1 || number % stride) return [];
    return [named(index, number === 0 ? year(date) : month(date))];
  });
}
