// Elements, written as calls. Text is always set as text, so that names from the data can never become markup.

const SVG = "http://www.w3.org/2000/svg";

export const $ = (id) => document.getElementById(id);

/** An HTML element: `h("p.note", { id: "x", onclick: f }, "text", ...)`, all but its name optional. */
export const h = (name, ...rest) => build((tag) => document.createElement(tag), name, rest);

/** An SVG element, in the same way. */
export const s = (name, ...rest) => build((tag) => document.createElementNS(SVG, tag), name, rest);

function build(create, name, rest) {
  const [tag, style] = name.split(".");
  const element = create(tag);
  if (style) element.setAttribute("class", style);
  const given = rest.flat(2).filter((one) => one != null && one !== false);
  const attributes = given.filter(isAttributes);
  for (const [key, value] of attributes.flatMap(Object.entries)) {
    if (key.startsWith("on")) element.addEventListener(key.slice(2), value);
    else if (value === true) element.setAttribute(key, "");
    else if (value !== false && value != null) element.setAttribute(key, value);
  }
  element.append(...given.filter((one) => !isAttributes(one)));
  return element;
}

const isAttributes = (one) => typeof one === "object" && !(one instanceof Node);

/** Rows of a description list. */
export const facts = (rows) =>
  h(
    "dl.facts",
    rows.map(([name, value]) => h("div", h("dt", name), h("dd", value))),
  );

/** Give a select its options, and choose one; another one where that is not offered. */
export function options(select, choices, chosen, otherwise = choices.at(-1)[0]) {
  select.replaceChildren(...choices.map(([value, text]) => h("option", { value }, text)));
  select.value = choices.some(([value]) => String(value) === String(chosen)) ? chosen : otherwise;
}
