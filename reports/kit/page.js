// Sorts, filters, copies and saves tables; filters many charts. What is chosen stands in the address.
"use strict";

const state = new URLSearchParams(location.hash.slice(1));
const SCALES = { K: 2 ** 10, M: 2 ** 20, G: 2 ** 30 };

function remember(name, value) {
  if (value) state.set(name, value);
  else state.delete(name);
  history.replaceState(null, "", `#${state}`);
}

function make(tag, values) {
  return Object.assign(document.createElement(tag), values);
}

// A button with what the place holds, or with this text.
function buttonIn(place, act, textContent) {
  const button = make("button");
  button.append(...(textContent ? [textContent] : place.childNodes));
  button.addEventListener("click", act);
  place.append(button);
  return button;
}

// A search box that leaves the items with its text, and their number.
function filterOf(name, items) {
  const box = make("input", { type: "search", placeholder: "Filter", ariaLabel: "Filter" });
  const count = make("output");
  const plain = (text) => text.toLowerCase().replace(/[-_]/g, " ");
  const texts = items.map((item) => plain(item.textContent));
  const show = () => {
    const words = plain(box.value).split(" ");
    items.forEach((item, n) => { item.hidden = !words.every((word) => texts[n].includes(word)); });
    const found = items.filter((item) => !item.hidden).length;
    count.textContent = box.value && `${found} of ${items.length}`;
    remember(name, box.value);
  };
  box.addEventListener("input", show);
  box.value = state.get(name) ?? "";
  if (box.value) show();
  return [box, count];
}

// Numbers and sizes go by their value, before texts.
function before(one, other) {
  const [a, b] = [one, other].map((cell) => {
    const text = cell.textContent.trim();
    const [, number, scale] = /^([-+]?\d[\d.]*)(?:\s([KMG])iB|\s|%|$)/.exec(text) ?? [];
    return number ? number * (SCALES[scale] ?? 1) : text;
  });
  if (typeof a !== typeof b) return typeof a === "number" ? -1 : 1;
  return a < b ? -1 : Number(a > b);
}

function addSorting(table, rows) {
  const heads = [...table.tHead.rows[0].cells];
  heads.forEach((head, column) => buttonIn(head, () => {
    const isUp = head.ariaSort !== "ascending";
    for (const each of heads) each.ariaSort = null;
    head.ariaSort = isUp ? "ascending" : "descending";
    const order = (a, b) => before(a.cells[column], b.cells[column]) * (isUp ? 1 : -1);
    table.tBodies[0].append(...[...rows].sort(order));
  }));
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
  return bar;
}

for (const table of document.querySelectorAll(".box > table")) {
  const { id } = table.closest("section");
  const rows = [...table.tBodies[0].rows];
  const bar = barBefore(table.parentNode, ...(rows.length > 12 ? filterOf(id, rows) : []));
  const copy = navigator.clipboard && buttonIn(bar, async () => {
    await navigator.clipboard.writeText(markdownOf(table));
    copy.textContent = "Copied";
  }, "Copy as Markdown");
  buttonIn(bar, () => {
    const href = URL.createObjectURL(new Blob([csvOf(table)], { type: "text/csv" }));
    make("a", { href, download: `${id}.csv` }).click();
  }, "CSV");
  const names = [...table.tHead.rows[0].cells].map((head) => head.innerText);
  rows.forEach(({ cells }) => names.forEach((name, n) => { cells[n].dataset.name = name; }));
  table.classList.add("stacked");
  addSorting(table, rows);
}

for (const grid of document.querySelectorAll(".grid")) {
  const items = [...grid.children];
  if (items.length > 6) barBefore(grid, ...filterOf(grid.closest("section").id, items));
}

// How old the newest run is: `data-days` is the age from which that is no longer usual.
for (const time of document.querySelectorAll("time")) {
  const days = Math.floor((Date.now() - Date.parse(time.dateTime)) / 864e5);
  const className = days > time.dataset.days ? "chip unsure" : "";
  if (days > 0) time.after(" ", make("span", { className, textContent: `${days} days ago` }));
}
