// What-ifs: one slider a known-future covariate, and the days that it holds on.

import { h, options } from "./dom.js";
import { roundStep } from "./chart.js";
import { count, days, number, sum, title } from "./words.js";

const ALL = "all";
const OWN = "own";
const STEPS = 50; // at least so many stops on a slider

export class WhatIf {
  /**
   * @param box element for the controls.
   * @param reset button.
   * @param changed function, called when there is something else to ask.
   */
  constructor(box, reset, changed) {
    this.box = box;
    this.resetButton = reset;
    this.changed = changed;
    this.sliders = [];
    reset.addEventListener("click", () => this.reset());
  }

  /** Build the controls for a model; everything is as planned then. */
  build(model) {
    this.frequency = model.periods;
    this.sliders = model.known.map(sliderFor).filter(Boolean);
    this.days = h("select", { id: "what-if-days", onchange: () => this.chooseDays() });
    this.first = h("input", { id: "what-if-first", type: "date", onchange: () => this.move() });
    this.last = h("input", { id: "what-if-last", type: "date", onchange: () => this.move() });
    this.own = h("div", { class: "row own", hidden: true }, field("From", this.first), field("To", this.last));
    this.box.replaceChildren(
      ...(this.sliders.length
        ? [field("On", this.days), this.own, ...this.sliders.map((slider) => this.row(slider))]
        : [h("p.note", "This model knows of nothing that could be planned otherwise.")]),
    );
    this.tell();
  }

  row(slider) {
    const { column, input, output } = slider;
    const id = `what-if-${column.name}`;
    input.id = id;
    input.addEventListener("input", () => {
      slider.moved = column.binary ? input.value !== "0" : true;
      this.move();
    });
    const stops = column.binary ? ["no day", "as planned", "every day"] : [number(column.low), number(column.high)];
    return h(
      "div.slider",
      h("label", { for: id }, title(column.name.replace("@", ", "))),
      output,
      input,
      h(
        "div.stops",
        { "aria-hidden": "true" },
        stops.map((stop) => h("span", stop)),
      ),
    );
  }

  /** Take in the plan of a region and the festivals ahead. Moved sliders stay moved. */
  show(line, ahead) {
    this.line = line;
    const dates = line.dates.slice(line.origin + 1);
    if (!this.sliders.length) return;
    options(
      this.days,
      [
        [ALL, `all ${count(dates.length, this.frequency)}`],
        ...ahead.map(({ name, from, to }) => [
          `${line.dates[from]}/${line.dates[to]}`,
          `${title(name)}, ${days(line.dates[from], line.dates[to])}`,
        ]),
        [OWN, "other days"],
      ],
      this.days.value,
      ALL,
    );
    for (const input of [this.first, this.last]) Object.assign(input, { min: dates[0], max: dates.at(-1) });
    if (!(dates.includes(this.first.value) && dates.includes(this.last.value))) {
      this.first.value = dates[0];
      this.last.value = dates.at(-1);
    }
    this.tell();
  }

  chooseDays() {
    this.own.hidden = this.days.value !== OWN;
    if (!this.own.hidden) this.first.focus();
    this.move();
  }

  /** Set the days, as one of the festivals does. */
  on(from, to) {
    this.days.value = `${this.line.dates[from]}/${this.line.dates[to]}`;
    this.own.hidden = true;
    this.days.focus();
    this.move();
  }

  move() {
    this.tell();
    this.changed();
  }

  reset() {
    for (const slider of this.sliders) slider.moved = false;
    this.move();
  }

  /** First and last day of the what-if. */
  span() {
    const { dates, origin } = this.line;
    if (this.days.value === OWN) return [this.first.value || dates[origin + 1], this.last.value || dates.at(-1)].sort();
    return this.days.value === ALL ? [dates[origin + 1], dates.at(-1)] : this.days.value.split("/");
  }

  /** The changes as POST /v1/forecasts takes them. */
  changes() {
    return this.sliders
      .filter(({ moved }) => moved)
      .map(({ column, input }) => {
        const [first, last] = this.span();
        const to = column.binary ? Number(input.value > 0) : Number(input.value);
        return { column: column.name, to, first, last };
      });
  }

  /** Write beside each slider what it stands for; one that was not moved stands at the plan. */
  tell() {
    for (const { column, input, output, moved } of this.sliders) {
      const plan = this.line ? this.planned(column.name) : [];
      const mean = plan.length ? sum(plan) / plan.length : null;
      if (!moved) input.value = column.binary ? 0 : (mean ?? column.low);
      const { text, said } = words(column, input.value, moved, plan, mean, this.frequency);
      output.textContent = text;
      output.classList.toggle("moved", moved);
      input.setAttribute("aria-valuetext", said);
    }
    this.resetButton.disabled = !this.sliders.some(({ moved }) => moved);
  }

  /** The planned values of a covariate on the days of the what-if. */
  planned(name) {
    const [first, last] = this.span();
    const { dates, known } = this.line;
    return known[name].filter((value, index) => value !== null && dates[index] >= first && dates[index] <= last);
  }
}

function sliderFor(column) {
  if (!column.read || column.low === null || column.low === column.high) return null;
  const range = { type: "range" };
  if (column.binary) Object.assign(range, { min: -1, max: 1, step: 1 });
  else {
    const step = roundStep((column.high - column.low) / STEPS / 2);
    const within = (edge, round) => Number((round(edge / step) * step).toPrecision(12));
    Object.assign(range, { step, min: within(column.low, Math.floor), max: within(column.high, Math.ceil) });
  }
  return { column, input: h("input", range), output: h("output", {}), moved: false };
}

function words(column, value, moved, plan, mean, frequency) {
  if (column.binary) {
    const on = plan.filter((planned) => planned > 0).length;
    const planned = plan.length ? `on ${number(on)} of ${count(plan.length, frequency)}` : "not known";
    const text = !moved ? `as planned: ${planned}` : value > 0 ? `on every ${frequency.one}` : `on no ${frequency.one}`;
    return { text, said: text };
  }
  const text = moved ? number(Number(value)) : mean === null ? "not known" : `as planned: ${number(mean)} on average`;
  return { text, said: moved ? `${text} on every ${frequency.one}` : text };
}

const field = (name, input) => h("div.field", h("label", { for: input.id }, name), input);
