// Calls of the API. Addresses are relative, so that the application may lie under any prefix.

import { Problem } from "./problem.js";

const KEY = "stmp-token";

export const token = {
  get: () => sessionStorage.getItem(KEY),
  keep: (value) => sessionStorage.setItem(KEY, value),
  forget: () => sessionStorage.removeItem(KEY),
};

export function get(path, query = {}, signal) {
  const text = new URLSearchParams(query).toString();
  return call(text ? `${path}?${text}` : path, { signal });
}

export function post(path, body, signal) {
  return call(path, {
    method: "POST",
    signal,
    body: JSON.stringify(body),
    headers: { "Content-Type": "application/json" },
  });
}

async function call(path, request) {
  const headers = { Accept: "application/json", ...request.headers };
  if (token.get()) headers.Authorization = `Bearer ${token.get()}`;
  let response;
  try {
    response = await fetch(path, { ...request, headers, credentials: "omit" });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Problem({
      title: "The server does not answer",
      detail: "Is it running, and is this device still connected?",
    });
  }
  if (response.ok) return response.json();
  throw new Problem(await problemOf(response), response.headers.get("Retry-After"));
}

/** The body of an error; a proxy before the server may have sent something else. */
async function problemOf(response) {
  const plain = {
    title: "The request failed",
    status: response.status,
    detail: `The server answered ${response.status}.`,
  };
  try {
    return { ...plain, ...(await response.json()) };
  } catch {
    return plain;
  }
}
