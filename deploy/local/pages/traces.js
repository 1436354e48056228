// Lists recent calls and draws one as a waterfall. Nothing is fetched from anywhere else, and every text goes in as
// text, never as HTML.
"use strict";

const byId = (id) => document.getElementById(id);
const EVERY_MS = 2000;
let chosen = location.hash.slice(1);
let drawn = "";

function element(name, properties = {}, ...children) {
  const made = Object.assign(document.createElement(name), properties);
  made.append(...children.filter((child) => child !== null && child !== undefined));
  return made;
}

const milliseconds = (value) => (value < 10 ? value.toFixed(2) : value.toFixed(value < 100 ? 1 : 0));

function line(trace) {
  const began = new Date(trace.start_unix_nano / 1e6);
  const row = element("tr", { tabIndex: 0 },
    element("td", { className: "number", textContent: began.toLocaleTimeString(), title: began.toISOString() }),
    element("td", { className: "call", textContent: trace.name, title: trace.services.join(", ") }),
    element("td", { className: trace.failed ? "bad" : "", textContent: trace.status }),
    element("td", { className: "number", textContent: milliseconds(trace.duration_ms) }),
    element("td", { className: "number", textContent: trace.spans }));
  row.setAttribute("aria-selected", String(trace.trace_id === chosen));
  const choose = () => { chosen = trace.trace_id; location.hash = chosen; drawn = ""; refresh(); };
  row.addEventListener("click", choose);
  row.addEventListener("keydown", (event) => { if (event.key === "Enter") choose(); });
  return row;
}

async function list() {
  const wanted = new URLSearchParams([...new FormData(byId("search"))].filter(([, value]) => value));
  const answer = await fetch(`/traces?${wanted}`);
  if (!answer.ok) return;
  const { traces } = await answer.json();
  byId("rows").replaceChildren(...traces.map(line));
  byId("none").hidden = traces.length > 0;
}

// Every span below the one that made it, with its depth; those whose parent is missing stand at the top.
function* ordered(spans) {
  const known = new Set(spans.map((span) => span.span_id));
  const below = new Map();
  for (const span of spans) {
    const parent = known.has(span.parent_span_id) ? span.parent_span_id : "";
    below.set(parent, [...(below.get(parent) || []), span]);
  }
  function* grow(parent, depth) {
    for (const span of below.get(parent) || []) {
      yield [span, depth];
      yield* grow(span.span_id, depth + 1);
    }
  }
  yield* grow("", 0);
}

function spanRow(span, depth, began, whole) {
  const from = span.start_unix_nano - began;
  const took = span.end_unix_nano - span.start_unix_nano;
  const failed = span.status === "ERROR";
  const bar = element("div", { className: failed ? "bar failed" : "bar" });
  bar.style.left = `${(100 * from) / whole}%`;
  bar.style.width = `${(100 * took) / whole}%`;
  const named = element("summary", { textContent: span.name, title: span.name, className: failed ? "bad" : "" });
  named.style.paddingLeft = `${depth}rem`;
  const told = { service: span.service, kind: span.kind, status: [span.status, span.status_message].join(" ").trim(),
    "begins after": `${milliseconds(from / 1e6)} ms`, span: span.span_id, ...span.attributes };
  const facts = element("table", { className: "details mono", hidden: true }, ...Object.entries(told).map(
    ([name, value]) => element("tr", {}, element("td", { textContent: name }), element("td", { textContent: String(value) }))));
  const fold = element("details", {}, named);
  fold.addEventListener("toggle", () => { facts.hidden = !fold.open; });
  return element("div", { className: "span" }, fold, element("span", { className: "note", textContent: span.service }),
    element("div", { className: "lane" }, bar),
    element("span", { className: "number", textContent: `${milliseconds(took / 1e6)} ms` }), facts);
}

async function draw() {
  if (!chosen) return;
  const answer = await fetch(`/traces/${encodeURIComponent(chosen)}`);
  if (!answer.ok) {
    byId("trace").replaceChildren(element("p", { className: "note", textContent: `There is no trace ${chosen} here: it may be older than what is kept.` }));
    return;
  }
  const { trace_id, spans } = await answer.json();
  if (drawn === `${trace_id} ${spans.length}`) return; // as it stands: what is unfolded stays so
  drawn = `${trace_id} ${spans.length}`;
  spans.sort((one, other) => one.start_unix_nano - other.start_unix_nano);
  const began = spans[0].start_unix_nano;
  const whole = Math.max(...spans.map((span) => span.end_unix_nano)) - began || 1;
  const services = new Set(spans.map((span) => span.service));
  const tenant = spans.map((span) => span.attributes["rapport.tenant"]).find((found) => found);
  byId("trace").replaceChildren(
    element("h2", { textContent: [...ordered(spans)][0][0].name }),
    element("p", { className: "mono" }, `${trace_id}${tenant ? ` · tenant ${tenant}` : ""}`),
    element("p", { className: "note", textContent: `${new Date(began / 1e6).toISOString()} · ${spans.length} spans in ${services.size} services · ${milliseconds(whole / 1e6)} ms until the last effect` }),
    ...[...ordered(spans)].map(([span, depth]) => spanRow(span, depth, began, whole)));
}

async function refresh() {
  await Promise.allSettled([list(), draw()]);
}

byId("search").addEventListener("submit", (event) => event.preventDefault());
byId("search").addEventListener("input", refresh);
addEventListener("hashchange", () => { chosen = location.hash.slice(1); drawn = ""; refresh(); });
setInterval(() => { if (byId("follow").checked && !document.hidden) refresh(); }, EVERY_MS);
refresh();
