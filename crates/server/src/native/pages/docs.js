import { byId, element } from "./common.js";

const refName = (schema) => schema.$ref?.split("/").pop();

// A schema in a few words, with links to those that have a name.
function typeOf(schema = {}) {
  const name = refName(schema);
  if (name) return [element("a", { href: `#schema-${name}` }, name)];
  const choices = schema.oneOf ?? schema.anyOf;
  if (choices) return choices.flatMap((choice, at) => (at ? [" or ", ...typeOf(choice)] : typeOf(choice)));
  if (schema.enum) return [schema.enum.map((word) => JSON.stringify(word)).join(" | ")];
  const types = [schema.type ?? "any"].flat();
  if (types.includes("array")) return ["list of ", ...typeOf(schema.items)];
  return [types.join(" or ") + (schema.format ? ` (${schema.format})` : "")];
}

function table(titles, rows) {
  const head = element("tr", {}, ...titles.map((title) => element("th", {}, title)));
  const body = rows.map((cells) => element("tr", {}, ...cells.map((cell) => element("td", {}, ...[cell].flat()))));
  const made = element("table", {}, element("thead", {}, head), element("tbody", {}, ...body));
  return element("div", { class: "scroll" }, made);
}

const code = (text) => element("code", {}, text);
const section = (title, content) => [element("h4", {}, title), content];

function contentRows(content) {
  return Object.entries(content ?? {}).flatMap(([media, { schema }]) => [media, ": ", ...typeOf(schema), " "]);
}

function operation(method, path, { operationId, summary, description, parameters = [], requestBody, responses = {} }) {
  const title = [element("span", { class: "method" }, method.toUpperCase()), code(path), ` ${summary ?? ""}`];
  const parts = [element("summary", {}, ...title)];
  if (description) parts.push(element("p", {}, description));
  if (parameters.length) {
    const rows = parameters.map((parameter) => [
      code(parameter.name),
      parameter.in + (parameter.required ? ", required" : ""),
      typeOf(parameter.schema),
      parameter.description ?? "",
    ]);
    parts.push(...section("Parameters", table(["name", "in", "type", ""], rows)));
  }
  if (requestBody) parts.push(...section("Body", element("p", {}, ...contentRows(requestBody.content))));
  const rows = Object.entries(responses).map(([status, response]) => [
    code(status),
    response.description ?? "",
    contentRows(response.content),
  ]);
  parts.push(...section("Answers", table(["status", "", "body"], rows)));
  return element("details", { class: "operation", id: operationId ?? path }, ...parts);
}

function schema(name, { description, properties = {}, required = [], ...rest }) {
  const parts = [element("summary", {}, code(name))];
  if (description) parts.push(element("p", {}, description));
  const rows = Object.entries(properties).map(([key, value]) => [
    code(key),
    typeOf(value),
    required.includes(key) ? "always" : "",
    value.description ?? "",
  ]);
  parts.push(rows.length ? table(["field", "type", "", ""], rows) : element("p", {}, ...typeOf(rest)));
  return element("details", { class: "operation", id: `schema-${name}` }, ...parts);
}

// Opens what the address names.
function openNamed() {
  const named = location.hash && byId(decodeURIComponent(location.hash.slice(1)));
  if (named) named.open = true;
}

function show(contract) {
  byId("about").textContent = contract.info.description.split("\n")[0];
  const byTag = new Map((contract.tags ?? []).map((tag) => [tag.name, { tag, operations: [] }]));
  for (const [path, item] of Object.entries(contract.paths)) {
    for (const [method, described] of Object.entries(item)) {
      const tag = described.tags?.[0] ?? "other";
      if (!byTag.has(tag)) byTag.set(tag, { tag: { name: tag }, operations: [] });
      byTag.get(tag).operations.push(operation(method, path, described));
    }
  }
  for (const { tag, operations } of byTag.values()) {
    const title = element("h2", {}, tag.name, element("small", {}, tag.description ?? ""));
    byId("contract").append(element("section", {}, title, ...operations));
  }
  const schemas = Object.entries(contract.components?.schemas ?? {}).map(([name, described]) => schema(name, described));
  byId("contract").append(element("section", {}, element("h2", {}, "schemas"), ...schemas));
  addEventListener("hashchange", openNamed);
  openNamed();
}

fetch("/openapi.json")
  .then((response) => response.json())
  .then(show)
  .catch((error) => {
    byId("about").textContent = `the contract could not be read: ${error.message}`;
  });
