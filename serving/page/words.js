// How dates, numbers and names are written.

const LOCALE = "en-GB";
const whole = new Intl.NumberFormat(LOCALE, { maximumFractionDigits: 0 });
const fine = new Intl.NumberFormat(LOCALE, { maximumSignificantDigits: 3 });
const dated = (form) => {
  const format = new Intl.DateTimeFormat(LOCALE, { timeZone: "UTC", ...form });
  return (date) => format.format(asDate(date));
};

/** Periods of the data, and which spans of them are offered. `memory` reaches past last year's festivals. */
export const PERIODS = {
  D: { one: "day", many: "days", shown: [28, 56, 91, 182, 364], ahead: [7, 14, 28, 56, 91], memory: 430 },
  W: { one: "week", many: "weeks", shown: [13, 26, 52, 104], ahead: [4, 8, 13, 26, 52], memory: 110 },
  M: { one: "month", many: "months", shown: [12, 24, 36], ahead: [3, 6, 12, 24], memory: 36 },
  Q: { one: "quarter", many: "quarters", shown: [8, 12, 16], ahead: [2, 4, 8], memory: 16 },
};

export const periods = (frequency) => PERIODS[frequency.toUpperCase()[0]] ?? PERIODS.D;
export const count = (n, { one, many }) => `${number(n)} ${n === 1 ? one : many}`;

export const asDate = (date) => new Date(`${date}T00:00:00Z`);
export const day = dated({ day: "numeric", month: "short" });
export const month = dated({ month: "short" });
export const year = dated({ year: "numeric" });
export const weekday = dated({ weekday: "short" });
export const fullDay = dated({ weekday: "short", day: "numeric", month: "short", year: "numeric" });
export const plainDay = dated({ day: "numeric", month: "short", year: "numeric" });

/** A moment with its time zone, such as 2026-01-02T15:04:05+00:00. */
export const moment = (text) => {
  const [date, time] = text.split("T");
  return time ? `${plainDay(date)}, ${time.slice(0, 5)} ${time.endsWith("+00:00") ? "UTC" : time.slice(8)}` : plainDay(date);
};

const range = new Intl.DateTimeFormat(LOCALE, { timeZone: "UTC", day: "numeric", month: "short", year: "numeric" });
/** Days from one to another, with what both share written once. */
export const days = (first, last) => range.formatRange(asDate(first), asDate(last));

export const number = (value) =>
  value == null ? "–" : (Math.abs(value) >= 100 || Number.isInteger(value) ? whole : fine).format(value);

/** A relative change, with its sign. */
export const change = (ratio) => `${ratio > 1 ? "+" : ratio < 1 ? "−" : ""}${percent(ratio)}`;

/** A relative change in words: more or less. */
export const more = (ratio) => `${percent(ratio)} ${ratio < 1 ? "less" : "more"}`;

function percent(ratio) {
  const size = Math.abs(100 * (ratio - 1));
  return `${size < 10 ? size.toFixed(1) : whole.format(size)} %`;
}

/** The share of days that a range between two levels holds: 0.1 and 0.9 make 80 %. */
export const share = (low, high) => `${Math.round(100 * (high - low))} %`;

/** A name from the data, to be read: `new_year` becomes New year. */
export function title(name) {
  const text = name.replaceAll("_", " ").trim();
  return text.charAt(0).toUpperCase() + text.slice(1);
}

export const sum = (values) => values.reduce((total, value) => total + value, 0);
