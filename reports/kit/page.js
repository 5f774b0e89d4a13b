// Sorts, filters and copies tables; filters many charts. What is chosen stands in the address.
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

// A bar before a table or a grid: of many items, with a search box that leaves those with its text,
// and their number.
function barOf(place, items) {
  const bar = make("p", { className: "tools" });
  place.before(bar);
  if (items.length < 8) return bar;
  const { id } = place.closest("section");
  const box = make("input", { type: "search", placeholder: "Filter" });
  const count = make("output");
  const plain = (text) => text.toLowerCase().replace(/[-_]/g, " ");
  const show = () => {
    const text = plain(box.value);
    for (const item of items) item.hidden = !plain(item.textContent).includes(text);
    const found = items.filter((item) => !item.hidden).length;
    count.textContent = box.value && `${found} of ${items.length}`;
    remember(id, box.value);
  };
  box.addEventListener("input", show);
  box.value = state.get(id) ?? "";
  if (box.value) show();
  bar.append(box, " ", count, " ");
  return bar;
}

// A list before a grid, from which the reader chooses which one of these charts is shown.
function listOf(grid, items) {
  const { id } = grid.closest("section");
  const list = make("select");
  const names = items.map(({ dataset }) => dataset.choice);
  const show = () => items.forEach((item, n) => { item.hidden = n !== list.selectedIndex; });
  for (const name of names) list.add(new Option(name));
  list.selectedIndex = Math.max(names.indexOf(state.get(id)), 0);
  list.addEventListener("change", () => {
    show();
    remember(id, list.value);
  });
  show();
  const bar = make("label", { className: "tools" });
  bar.append("Show ", list);
  grid.before(bar);
}

// Sizes and other numbers go by their value, texts by their letters.
function order({ textContent: a }, { textContent: b }) {
  const value = (text) => parseFloat(text) * (SCALES[/[KMG](?=iB)/.exec(text)?.[0]] ?? 1);
  return value(a) - value(b) || a.localeCompare(b);
}

for (const table of document.querySelectorAll(".box > table")) {
  const rows = [...table.tBodies[0].rows];
  const heads = [...table.tHead.rows[0].cells];
  const isMatrix = table.parentNode.classList.contains("matrix");
  buttonIn(barOf(table.parentNode, isMatrix ? [] : rows), () => {
    getSelection().selectAllChildren(table);
    document.execCommand("copy");
  }, "Copy");
  if (!isMatrix) heads.forEach((head, column) => buttonIn(head, () => {
    const sign = head.ariaSort === "ascending" ? -1 : 1;
    for (const each of heads) each.ariaSort = null;
    head.ariaSort = sign > 0 ? "ascending" : "descending";
    rows.sort((a, b) => sign * order(a.cells[column], b.cells[column]));
    table.tBodies[0].append(...rows);
  }));
}

for (const grid of document.querySelectorAll(".grid")) {
  const choices = [...grid.querySelectorAll("[data-choice]")];
  if (choices.length > 1) listOf(grid, choices);
  else barOf(grid, [...grid.children]);
}

// How old the newest run is: `data-days` is the age from which that is no longer usual.
for (const time of document.querySelectorAll("time")) {
  const days = Math.floor((Date.now() - Date.parse(time.dateTime)) / 864e5);
  const className = days > time.dataset.days ? "chip unsure" : "";
  const textContent = new Intl.RelativeTimeFormat("en").format(-days, "day");
  if (days > 0) time.after(className ? " " : ", ", make("span", { className, textContent }));
}
