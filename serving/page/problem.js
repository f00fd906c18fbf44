// Errors as RFC 9457 has them, and how they are shown.

import { h } from "./dom.js";

/** An answer other than success: RFC 9457's fields, whatever the server or the network said. */
export class Problem extends Error {
  constructor({ title, status, detail, errors = [] }, retryAfter = null) {
    super(detail ?? title);
    Object.assign(this, { title, status, detail, errors, retryAfter });
  }
}

/** An error, with where it is and what can be done. */
export function problemNotice({ title: what, status, message, errors = [], retryAfter }, again) {
  const passing = !(status < 500) || status === 429;
  return [
    h("strong", what ?? "This page failed"),
    errors.length === 0 && h("p", message),
    errors.length > 0 &&
      h(
        "ul",
        errors.map(({ field, reason, remedy }) =>
          h("li", h("code", field), `: ${reason}.`.replace("..", "."), remedy && ` ${remedy}`),
        ),
      ),
    retryAfter && h("p", `The server asks to wait ${retryAfter} s.`),
    passing && h("button", { type: "button", onclick: again }, "Try again"),
  ].filter(Boolean);
}
