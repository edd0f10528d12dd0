import { byId, element } from "./common.js";

const ROWS_MAX = 100;
const CHANGES_MAX = 100;
const REFRESH_MS = 2000;
// However many changes come, the page is drawn no more often than this.
const REDRAW_MS = 250;

const filters = byId("filters");
let following = null;

const valueOf = (name) => filters.elements[name].value.trim();

function headers() {
  const headers = {};
  if (valueOf("tenant")) headers["X-Tenant-ID"] = valueOf("tenant");
  if (valueOf("token")) headers.Authorization = `Bearer ${valueOf("token")}`;
  return headers;
}

function query(more) {
  const query = new URLSearchParams(more);
  for (const name of ["name", "capabilities", "tags", "selector", "status"]) {
    if (valueOf(name)) query.set(name, valueOf(name));
  }
  return query;
}

async function ask(path, signal) {
  const response = await fetch(path, { headers: headers(), signal });
  if (response.ok) return response;
  const problem = await response.json().catch(() => ({}));
  const faults = (problem.errors ?? []).map(({ field, message }) => `${field}: ${message}`);
  throw new Error([problem.detail ?? `${path} answered ${response.status}`, ...faults].join("; "));
}

function complain(text) {
  byId("problem").textContent = text;
  byId("problem").hidden = !text;
}

function card(member, status) {
  const leads = member.node_id === status.leader_id;
  const lag = member.lag_entries ?? 0;
  const facts = {
    clients: member.api_address,
    peers: member.peer_address,
    applied: member.applied_index ?? "unknown",
    behind: member.reachable ? `${lag} entries` : "out of reach",
    version: member.version ?? "unknown",
  };
  const list = Object.entries(facts).flatMap(([key, value]) => [element("dt", {}, key), element("dd", {}, String(value))]);
  const title = `${member.node_id} · ${leads ? "leader" : member.role}${member.node_id === status.node_id ? " · asked" : ""}`;
  const state = !member.reachable ? " away" : lag > 1000 ? " behind" : "";
  return element("div", { class: `card${state}` }, element("h3", {}, title), element("dl", {}, ...list));
}

async function showNodes() {
  const status = await (await ask("/api/cluster/status")).json();
  const leader = status.leader_id === null ? "no leader" : `node ${status.leader_id} leads`;
  byId("summary").textContent =
    `${leader} in term ${status.term} · revision ${status.revision} · log index ${status.applied_index} · ` +
    `cluster ${status.cluster_id}, epoch ${status.epoch}`;
  byId("nodes").replaceChildren(...status.members.map((member) => card(member, status)));
}

function words(texts) {
  return texts.map((text) => element("span", { class: "tag" }, text));
}

function row(service) {
  const cells = [
    element("td", {}, service.id),
    element("td", {}, service.name),
    element("td", {}, service.type),
    element("td", { class: `status ${service.status}` }, service.status),
    element("td", {}, ...words((service.capabilities ?? []).map((capability) => capability.capability_name ?? capability))),
    element("td", {}, ...words(service.tags ?? [])),
    element("td", {}, service.url),
    element("td", { class: "number" }, `${(service.lease.expires_in_ms / 1000).toFixed(1)} s`),
  ];
  return element("tr", {}, ...cells);
}

async function showRoll() {
  const found = await (await ask(`/api/services?${query({ limit: ROWS_MAX })}`)).json();
  const shown = found.services.length;
  byId("count").textContent = shown < found.total_count ? `the first ${shown} of ${found.total_count}` : `${found.total_count}`;
  byId("roll").replaceChildren(...found.services.map(row));
  return found.revision;
}

async function refresh() {
  try {
    await showNodes();
    await showRoll();
    complain("");
  } catch (error) {
    complain(error.message);
  }
}

function change({ update_type, service, revision, timestamp }) {
  const texts = [String(revision), update_type, service.id, `${service.name} · ${service.url}`];
  const cells = texts.map((text) => element("span", { class: update_type }, text));
  return element("li", {}, ...cells, element("time", { datetime: timestamp }, new Date(timestamp).toLocaleTimeString()));
}

// The events of a stream, one by one.
async function* events(body) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    rest += value;
    const parts = rest.split("\n\n");
    rest = parts.pop();
    for (const part of parts) {
      const event = {};
      for (const line of part.split("\n")) {
        const at = line.indexOf(":");
        if (at > 0) event[line.slice(0, at)] = line.slice(at + 1).trimStart();
      }
      if (event.event) yield event;
    }
  }
}

// Shows what changes from now on, until the filters change or the stream ends.
async function follow(signal) {
  const revision = await showRoll();
  const response = await ask(`/api/services/watch?${query({ from_revision: revision })}`, signal);
  byId("following").textContent = `since revision ${revision}`;
  let waiting = [];
  let timer = null;
  const draw = () => {
    timer = null;
    byId("changes").prepend(...waiting.slice(-CHANGES_MAX).reverse().map(change));
    while (byId("changes").childElementCount > CHANGES_MAX) byId("changes").lastElementChild.remove();
    waiting = [];
    showRoll().catch((error) => complain(error.message));
  };
  for await (const event of events(response.body)) {
    if (event.event !== "change") continue;
    waiting.push(JSON.parse(event.data));
    timer ??= setTimeout(draw, REDRAW_MS);
  }
}

async function keepFollowing() {
  following?.abort();
  const mine = (following = new AbortController());
  byId("changes").replaceChildren();
  while (!mine.signal.aborted) {
    try {
      await follow(mine.signal);
    } catch (error) {
      if (mine.signal.aborted) return;
      byId("following").textContent = `not followed: ${error.message}`;
    }
    await new Promise((resolve) => setTimeout(resolve, REFRESH_MS));
  }
}

let settled = null;
filters.addEventListener("input", () => {
  clearTimeout(settled);
  settled = setTimeout(() => {
    refresh();
    keepFollowing();
  }, REDRAW_MS);
});
filters.addEventListener("submit", (event) => event.preventDefault());

refresh();
keepFollowing();
setInterval(refresh, REFRESH_MS);
