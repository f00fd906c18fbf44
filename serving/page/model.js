// The model that answers: what it is, and how it was judged.

import { facts, h } from "./dom.js";
import { count, number, plainDay, share, title } from "./words.js";

const GATE = "stmp.gate"; // tag of a version that was held against the champion

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

/** How good the version is: what the gate said, and its losses in training. */
export function gateCard({ tags, validation }) {
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
        "ul",
        gate.failed.map((rule) => h("li", h("code", rule))),
      ),
    gate &&
      facts(
        [
          ["Against", gate.against || "seasonal naive, as there was no champion"],
          ["When", gate.at],
          ["By", gate.by],
          ["Report", gate.report && h("code", gate.report)],
        ].filter(([, value]) => value),
      ),
    losses.length > 0 && h("h3", "Loss on days held out of training"),
    losses.length > 0 && facts(losses.map(([name, loss]) => [title(name), loss.toFixed(3)])),
    rest.length > 0 &&
      h("details", h("summary", "Tags of the version"), facts(rest.map(([name, value]) => [name, h("code", value)]))),
  ].filter(Boolean);
}

function readTag(text) {
  try {
    return text ? JSON.parse(text) : null;
  } catch {
    return null;
  }
}
