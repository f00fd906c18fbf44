// Elements, written as calls. Text is always set as text, so that names from the data can never become markup.

const SVG = "http://www.w3.org/2000/svg";

export const $ = (id) => document.getElementById(id);

/** An HTML element: attributes by name, listeners as `onclick: function`, children as nodes or text. */
export const h = (tag, attributes = {}, ...children) => fill(document.createElement(tag), attributes, children);

/** An SVG element. */
export const s = (tag, attributes = {}, ...children) => fill(document.createElementNS(SVG, tag), attributes, children);

function fill(element, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (value === true) element.setAttribute(name, "");
    else if (value !== false && value != null) element.setAttribute(name, value);
  }
  element.append(...children.flat().filter((child) => child != null && child !== false));
  return element;
}

/** Rows of a description list. */
export const facts = (rows) =>
  h("dl", { class: "facts" }, rows.map(([name, value]) => h("div", {}, h("dt", {}, name), h("dd", {}, value))));

/** Give a select its options, and choose one; another one where that is not offered. */
export function options(select, choices, chosen, otherwise = choices.at(-1)[0]) {
  select.replaceChildren(...choices.map(([value, text]) => h("option", { value }, text)));
  select.value = choices.some(([value]) => String(value) === String(chosen)) ? chosen : otherwise;
}
