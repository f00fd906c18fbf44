// Picking a region: the combobox of the ARIA Authoring Practices, with a list that the server searches.

import { h } from "./dom.js";
import { number } from "./words.js";

const MOST = 50; // regions in the list; whoever wants another one types more
const PAUSE_MS = 150;

export class Picker {
  /**
   * @param parts input, popup, list and found: the elements.
   * @param search function (text, limit) that resolves to an answer of GET /v1/regions.
   * @param choose function (id), called when a region was picked.
   * @param fail function (error), called when the search failed.
   */
  constructor({ input, popup, list, found }, { search, choose, fail }) {
    Object.assign(this, { input, popup, list, found, search, choose, fail });
    this.unit = "day";
    this.chosen = "";
    this.active = -1;
    input.addEventListener("focus", () => input.select());
    input.addEventListener("click", () => this.open(""));
    input.addEventListener("input", () => this.later());
    input.addEventListener("keydown", (event) => this.key(event));
    input.addEventListener("blur", () => this.close());
    // A press on the list must not take the focus from the input, or the list would close before the click.
    popup.addEventListener("pointerdown", (event) => event.preventDefault());
    popup.addEventListener("mousedown", (event) => event.preventDefault());
  }

  set(id) {
    this.chosen = id;
    this.input.value = id;
  }

  later() {
    clearTimeout(this.timer);
    this.timer = setTimeout(() => this.open(this.input.value.trim()), PAUSE_MS);
  }

  async open(text) {
    const asked = (this.asked = Symbol("newest search"));
    let answer;
    try {
      answer = await this.search(text, MOST);
    } catch (error) {
      this.fail(error);
      return;
    }
    if (asked !== this.asked || document.activeElement !== this.input) return;
    const { regions, total } = answer;
    this.list.replaceChildren(...regions.map((region, index) => this.option(region, index)));
    this.found.textContent =
      total === 0
        ? "No region has this in its name."
        : total > regions.length
          ? `${number(regions.length)} of ${number(total)} regions; type to find others`
          : `${number(total)} ${total === 1 ? "region" : "regions"}`;
    this.popup.hidden = false;
    this.input.setAttribute("aria-expanded", "true");
    this.move(text ? 0 : regions.findIndex((region) => region.id === this.chosen));
  }

  option({ id, cold, mean_sales: mean }, index) {
    return h(
      "li",
      { id: `region-${index}`, role: "option", "data-id": id, "aria-selected": "false", onclick: () => this.pick(id) },
      h("span.name", id),
      cold && h("span.badge", "new"),
      h("span.mean", `${number(mean)} a ${this.unit}`),
    );
  }

  close() {
    clearTimeout(this.timer);
    this.asked = null;
    this.popup.hidden = true;
    this.input.setAttribute("aria-expanded", "false");
    this.input.removeAttribute("aria-activedescendant");
    this.active = -1;
    this.input.value = this.chosen;
  }

  pick(id) {
    this.set(id);
    this.close();
    this.choose(id);
  }

  move(index) {
    const items = this.list.children;
    items[this.active]?.setAttribute("aria-selected", "false");
    this.active = Math.min(Math.max(index, -1), items.length - 1);
    const item = items[this.active];
    if (!item) {
      this.input.removeAttribute("aria-activedescendant");
      return;
    }
    item.setAttribute("aria-selected", "true");
    item.scrollIntoView({ block: "nearest" });
    this.input.setAttribute("aria-activedescendant", item.id);
  }

  key(event) {
    const { length } = this.list.children;
    const moves = { ArrowDown: (this.active + 1) % length, ArrowUp: this.active <= 0 ? length - 1 : this.active - 1 };
    if (event.key in moves) {
      event.preventDefault();
      if (this.popup.hidden) this.open("");
      else if (length) this.move(moves[event.key]);
    } else if (event.key === "Enter") {
      event.preventDefault();
      const item = this.list.children[this.active];
      if (!this.popup.hidden && item) this.pick(item.dataset.id);
    } else if (event.key === "Escape") {
      this.close();
    }
  }
}
