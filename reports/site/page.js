// Filters, copies and saves long tables; filters many charts. What is chosen stands in the address.
"use strict";

const state = new URLSearchParams(location.hash.slice(1));

function remember(name, value) {
  if (value) state.set(name, value);
  else state.delete(name);
  history.replaceState(null, "", `#${state}`);
}

function make(tag, values) {
  return Object.assign(document.createElement(tag), values);
}

// A search box that leaves the items with its text.
function filterOf(name, items) {
  const box = make("input", { type: "search", placeholder: "Filter", ariaLabel: "Filter" });
  const texts = items.map((item) => item.textContent.toLowerCase());
  const show = () => {
    const words = box.value.toLowerCase().split(" ");
    items.forEach((item, n) => { item.hidden = !words.every((word) => texts[n].includes(word)); });
    remember(name, box.value);
  };
  box.addEventListener("input", show);
  box.value = state.get(name) ?? "";
  if (box.value) show();
  return box;
}

function cellsOf(table) {
  const rows = [...table.rows].filter((row) => !row.hidden);
  return rows.map((row) => [...row.cells].map((cell) => cell.innerText.trim()));
}

function markdownOf(table) {
  const lines = cellsOf(table).map((cells) => {
    const texts = cells.map((text) => text.replace(/\s+/g, " ").replace(/[|\\`<]/g, "\\$&"));
    return `| ${texts.join(" | ")} |`;
  });
  lines.splice(1, 0, "|---".repeat(table.rows[0].cells.length) + "|");
  return lines.join("\n");
}

// A text that a spreadsheet would run as a formula gets an apostrophe.
function csvOf(table) {
  const quoted = (text) => `"${text.replace(/^(?=[=@\t]|[-+](?![\d.]))/, "'").replace(/"/g, '""')}"`;
  return cellsOf(table).map((cells) => cells.map(quoted).join(",")).join("\r\n");
}

function barBefore(place, ...tools) {
  const bar = make("p", { className: "tools" });
  bar.append(...tools);
  place.before(bar);
}

for (const table of document.querySelectorAll(".box > table")) {
  const rows = [...table.tBodies[0].rows];
  const filter = rows.length > 12 ? [filterOf(table.id, rows)] : [];
  const copy = make("button", { textContent: "Copy as Markdown" });
  copy.addEventListener("click", async () => {
    await navigator.clipboard.writeText(markdownOf(table));
    copy.textContent = "Copied";
  });
  const save = make("button", { textContent: "CSV" });
  save.addEventListener("click", () => {
    const href = URL.createObjectURL(new Blob([csvOf(table)], { type: "text/csv" }));
    make("a", { href, download: `${table.id}.csv` }).click();
  });
  barBefore(table.parentNode, ...filter, copy, save);
}

for (const grid of document.querySelectorAll(".grid[id]")) {
  if (grid.children.length > 6) {
    barBefore(grid, filterOf(grid.id, [...grid.children]));
  }
}
