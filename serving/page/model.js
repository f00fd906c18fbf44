// The model that answers: what it is, and how it was judged.

import { facts, h } from "./dom.js";
import { problemNotice } from "./problem.js";
import { count, moment, number, plainDay, share, title } from "./words.js";

const GATE = "stmp.gate"; // tag of a version that was held against the champion
const LOSSES = { all: "All", seen: "Known regions", held_out: "New regions" };

/** The card of the model. */
export function modelCard(model) {
  const list = (values) => (values.length ? values.map(title).join(", ") : "none");
  return [
    facts([
      ["Version", model.model_version],
      ["Learned from", `${number(model.trained_regions)} regions, up to ${plainDay(model.trained_until)}`],
      ["Forecasts", `up to ${count(model.horizon, model.periods)}`],
      ["Quantiles", model.levels.map((level) => share(0, level)).join(", ")],
      ["Series", list(model.series)],
      ["Day types", list(model.day_types)],
      ["Known ahead", list(model.known.map(({ name }) => name))],
      ["Known in hindsight", list(model.past)],
      ["Features of a region", list([...new Set(model.static.map((name) => name.split("=")[0]))])],
      ["Data", h("code", model.fingerprint)],
    ]),
  ];
}

/** The challenger that is on trial beside the model. */
export function trialCard({ model_version: champion, trial }) {
  const { model_version: version, stopped, loaded, answered, failed, compared } = trial;
  const requests = (n) => `${number(n)} ${n === 1 ? "request" : "requests"}`;
  const role = stopped
    ? ["badge bad", "Stopped", ` ${stopped}. ${champion} answers for every region.`.replace("..", ".")]
    : !loaded
      ? ["badge", "Being loaded", ` Until then ${champion} answers for every region.`]
      : trial.share > 0
        ? ["badge good", "On trial", ` It answers for ${share(0, trial.share)} of the regions, ${champion} for the others.`]
        : ["badge good", "In the shadow", ` It is compared with ${champion}, which answers for every region.`];
  const [style, name, text] = role;
  return [
    h("p", h("span", { class: style }, name), text),
    facts(
      [
        ["Challenger", version],
        ["Champion", champion],
        ["Compared", requests(compared)],
        trial.sales > 0 && ["Mean difference", `${(100 * trial.difference / trial.sales).toFixed(1)} %`],
        trial.champion_seconds > 0 && [
          "Time to answer",
          `${(trial.seconds / trial.champion_seconds).toFixed(2)} times the champion's`,
        ],
        trial.share > 0 && ["Answered", requests(answered)],
        ["Failed", requests(failed)],
      ].filter(Boolean),
    ),
  ];
}

/**
 * How good the version is: what the gate said, and its losses in training.
 *
 * @param model answer of GET /v1/model
 * @param report function that resolves to the gate's report, asked for when it is opened
 */
export function gateCard({ model_version: version, tags, validation }, report) {
  const { [GATE]: found, ...others } = tags;
  const losses = Object.entries(validation);
  const gate = readTag(found);
  const rest = Object.entries(others);
  return [
    !gate && h("p.note", "This version was not held against a champion, or its registry was not at hand."),
    gate &&
      h(
        "p",
        h("span", { class: gate.passed ? "badge good" : "badge bad" }, gate.passed ? "Passed" : "Refused"),
        gate.passed ? " It is better than what it was held against, and nowhere worse." : " It broke these rules:",
      ),
    gate?.failed?.length > 0 &&
      h(
        "ul.broken",
        gate.failed.map((rule) => h("li", h("code", rule))),
      ),
    gate &&
      facts(
        [
          ["Against", opponent(gate.against, version)],
          ["When", gate.at && moment(gate.at)],
          ["By", gate.by],
        ].filter(([, value]) => value),
      ),
    gate?.report && whole(report),
    losses.length > 0 && h("h3", "Loss on days held out of training"),
    losses.length > 0 && facts(losses.map(([name, loss]) => [LOSSES[name] ?? title(name), loss.toFixed(3)])),
    rest.length > 0 &&
      h("details", h("summary", "Tags of the version"), facts(rest.map(([name, value]) => [name, h("code", value)]))),
  ].filter(Boolean);
}

/** The champion of that time; the tag has its number alone. */
function opponent(against, version) {
  if (!against) return "seasonal naive, as there was no champion";
  return /^\d+$/.test(against) ? `${version.slice(0, version.lastIndexOf("/"))}/${against}` : against;
}

/** The report, which is fetched when it is opened. */
function whole(report) {
  const box = h("div.scroll", { role: "region", "aria-label": "Rules of the gate", tabindex: 0 });
  const fill = async () => {
    if (!details.open || box.hasChildNodes()) return;
    box.replaceChildren(h("p.note", { role: "status" }, "loading…"));
    try {
      box.replaceChildren(rules(await report()));
    } catch (error) {
      box.replaceChildren(...problemNotice(error, () => (box.replaceChildren(), fill())));
    }
  };
  const details = h("details", { ontoggle: fill }, h("summary", "The report, rule by rule"), box);
  return details;
}

function rules({ checks, origins, horizon }) {
  const outcome = (passed) => (passed === null ? "too few days" : passed ? "holds" : "broken");
  return h(
    "table.rules",
    h(
      "caption",
      `${origins.length} windows of ${horizon} periods, after ${plainDay(origins[0])} to ${plainDay(origins.at(-1))}`,
    ),
    h("thead", h("tr", ["Rule", "Outcome", "Found"].map((name) => h("th", { scope: "col" }, name)))),
    h(
      "tbody",
      checks.map(({ rule, passed, text }) =>
        h("tr", h("th", { scope: "row" }, h("code", breakable(rule))), h("td", outcome(passed)), h("td", text)),
      ),
    ),
  );
}

/** A rule's name, which may go on in the next line after a dot or between words. */
const breakable = (name) => name.split(/(?<=[._])/).flatMap((part, index) => (index ? [h("wbr"), part] : [part]));

function readTag(text) {
  try {
    return text ? JSON.parse(text) : null;
  } catch {
    return null;
  }
}
