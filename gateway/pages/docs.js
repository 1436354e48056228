// Shows /openapi.json: an index, one method at a time, its fields, and a form that tries it out. Nothing is
// fetched from anywhere else, and every text goes in as text, never as HTML.
"use strict";

const byId = (id) => document.getElementById(id);
let api, operations = [];

function element(name, properties = {}, ...children) {
  const made = Object.assign(document.createElement(name), properties);
  made.append(...children.filter((child) => child !== null && child !== undefined));
  return made;
}

// Backticks mark code, as in the contract's comments. Only text nodes are made: nothing is read as HTML.
function prose(text) {
  return text.split("`").map((part, index) => (index % 2 ? element("code", { textContent: part }) : part));
}

function resolve(schema) {
  if (schema.$ref) return { ...api.components.schemas[schema.$ref.split("/").pop()], named: schema.$ref.split("/").pop() };
  if (schema.allOf) return Object.assign({}, ...schema.allOf.map(resolve), { description: schema.description });
  if (schema.anyOf) return resolve(schema.anyOf[0]);
  return schema;
}

function typeName(schema) {
  const real = resolve(schema);
  if (real.type === "array") return `list of ${typeName(real.items)}`;
  const limits = ["minLength", "maxLength", "minimum", "maximum", "pattern", "maxItems"]
    .filter((limit) => real[limit] !== undefined).map((limit) => `${limit} ${real[limit]}`);
  const name = real.named || [real.type || "any", real.format].filter(Boolean).join(" ");
  return limits.length ? `${name} (${limits.join(", ")})` : name;
}

function fields(schema, depth = 0) {
  const real = resolve(schema);
  const rows = Object.entries(real.properties || {}).map(([name, field]) => {
    const inner = resolve(resolve(field).type === "array" ? resolve(field).items : field);
    const nested = inner.properties && depth < 3
      ? element("details", { className: "nested" }, element("summary", { textContent: inner.named || "fields" }))
      : null;
    nested?.addEventListener("toggle", () => { if (nested.children.length === 1) nested.append(fields(inner, depth + 1)); });
    const marks = [(real.required || []).includes(name) ? "required" : "", field.readOnly ? "set by the server" : ""];
    return element("tr", {},
      element("td", { textContent: name }),
      element("td", { className: "type", textContent: typeName(field) }),
      element("td", {}, ...prose([...marks, field.description || resolve(field).description || ""].filter(Boolean).join(" · ")),
        inner.enum ? element("div", { className: "note", textContent: inner.enum.join(", ") }) : null, nested));
  });
  return element("table", {}, ...rows);
}

// The example of a body or a reply, which stands among the components.
function example(part) {
  const { $ref } = Object.values(part.content)[0].examples.default;
  return api.components.examples[$ref.split("/").pop()].value;
}

async function send(operation, form, output) {
  const headers = {};
  const query = new URLSearchParams();
  let path = operation.path;
  for (const input of form.querySelectorAll("[data-in]")) {
    if (!input.value) continue;
    if (input.dataset.in === "path") path = path.replace(`{${input.name}}`, encodeURIComponent(input.value));
    else if (input.dataset.in === "header") headers[input.name] = input.value;
    else if (input.dataset.list) input.value.split(",").forEach((each) => query.append(input.name, each.trim()));
    else query.append(input.name, input.value);
  }
  const body = form.querySelector("textarea")?.value || undefined;
  if (body) headers["content-type"] = "application/json";
  if (byId("key").value) headers.authorization = `Bearer ${byId("key").value}`;
  const url = path + (String(query) ? `?${query}` : "");
  output.textContent = "…";
  try {
    const reply = await fetch(url, { method: operation.verb.toUpperCase(), headers, body });
    const text = await reply.text();
    let shown = text;
    try { shown = JSON.stringify(JSON.parse(text), null, 2); } catch { /* not JSON: shown as it is */ }
    output.textContent = `${operation.verb.toUpperCase()} ${url}\n${reply.status}  trace ${reply.headers.get("x-trace-id")}\n\n${shown}`;
  } catch (error) {
    output.textContent = String(error);
  }
}

function tryOut(operation) {
  const rows = operation.parameters.map((parameter) => {
    const input = element("input", { name: parameter.name, placeholder: (parameter.schema.examples || [""])[0], ariaLabel: parameter.name });
    input.dataset.in = parameter.in;
    if (parameter.schema.type === "array") input.dataset.list = "1";
    return element("tr", {},
      element("td", { textContent: parameter.name + (parameter.required ? " *" : "") }),
      element("td", {}, input, element("div", { className: "note", textContent: `${parameter.in} · ${typeName(parameter.schema)} · ${parameter.description}` })));
  });
  const schema = operation.requestBody?.content["application/json"].schema;
  const text = schema ? element("textarea", { value: JSON.stringify(example(operation.requestBody), null, 2), ariaLabel: "Body" }) : null;
  const output = element("pre", { textContent: "The reply shows here." });
  const form = element("form", {}, element("table", {}, ...rows), text, element("p", {}, element("button", { textContent: "Send" })), output);
  const streams = "text/event-stream" in (operation.responses["200"].content || {});
  if (streams) form.querySelector("button").replaceWith("This one streams; try it with curl -N.");
  form.addEventListener("submit", (event) => { event.preventDefault(); send(operation, form, output); });
  return form;
}

function show(id) {
  const operation = operations.find((each) => each.operationId === id);
  for (const link of document.querySelectorAll("nav a")) link.toggleAttribute("aria-current", link.hash === `#${id}`);
  if (!operation) {
    byId("main").replaceChildren(element("h2", { textContent: api.info.title }),
      ...api.info.description.split("\n\n").map((text) => element("p", {}, ...prose(text))));
    return;
  }
  const schema = operation.requestBody?.content["application/json"].schema;
  const answer = Object.values(operation.responses["200"].content)[0].schema;
  byId("main").replaceChildren(...[
    element("h2", { textContent: operation.operationId }),
    element("p", { className: "path" }, element("span", { className: "verb", textContent: operation.verb.toUpperCase() }), ` ${operation.path}`),
    ...operation.description.split("\n\n").map((text) => element("p", {}, ...prose(text))),
    element("h3", { textContent: "Try it" }), tryOut(operation),
    schema ? element("h3", { textContent: "Body" }) : null, schema ? fields(schema) : null,
    element("h3", { textContent: "Reply" }), fields(answer),
    element("pre", { textContent: JSON.stringify(example(operation.responses["200"]), null, 2) }),
  ].filter(Boolean));
  window.scrollTo(0, 0);
}

function index(words) {
  const parts = words.toLowerCase().split(/\s+/).filter(Boolean);
  const hits = operations.filter((each) => parts.every((part) => each.text.includes(part)));
  const tags = [...new Set(hits.map((each) => each.tags[0]))];
  byId("index").replaceChildren(...tags.map((tag) => element("details", { open: parts.length > 0 },
    element("summary", { textContent: tag }),
    ...hits.filter((each) => each.tags[0] === tag).map((each) =>
      element("a", { href: `#${each.operationId}`, textContent: each.operationId, title: each.summary })))));
}

async function start() {
  api = await (await fetch("/openapi.json")).json();
  for (const [path, verbs] of Object.entries(api.paths)) {
    for (const [verb, operation] of Object.entries(verbs)) {
      operation.parameters = operation.parameters.map((each) => each.$ref ? api.components.parameters[each.$ref.split("/").pop()] : each);
      const names = operation.parameters.map((parameter) => parameter.name).join(" ");
      const text = `${operation.operationId} ${verb} ${path} ${operation.description} ${names}`.toLowerCase();
      operations.push({ ...operation, path, verb, text });
    }
  }
  operations.sort((a, b) => a.tags[0].localeCompare(b.tags[0]) || a.path.localeCompare(b.path));
  index("");
  byId("search").addEventListener("input", (event) => index(event.target.value));
  window.addEventListener("hashchange", () => show(location.hash.slice(1)));
  show(location.hash.slice(1));
}

start().catch((error) => { byId("main").textContent = String(error); });
