// Adds to a page: lines to hide, the other vertical axis, rows to choose, and the value of a mark.
// Without scripts the page shows everything.
"use strict";

const all = (selector, within = document) => [...within.querySelectorAll(selector)];
const create = (tag, properties = {}) => Object.assign(document.createElement(tag), properties);

// A line's checkbox shows and hides it in every picture.
for (const box of all("input[data-toggle]")) {
  const parts = all(`[data-line="${box.dataset.toggle}"]`);
  const apply = () => parts.forEach((part) => part.classList.toggle("off", !box.checked));
  box.hidden = false;
  box.addEventListener("change", apply);
  apply();
}

// Each picture is drawn twice, once for each vertical axis; the style sheet shows the chosen one.
for (const choice of all(".scales")) choice.hidden = false;

// Filters rows by a text, and by the values of the columns in data-filters; shows the linked row.
for (const table of all('table:not([data-filters=""])')) {
  const names = all("thead th", table).map((cell) => cell.textContent);
  const rows = all("tbody tr", table);
  const tools = create("div", { className: "tools" });
  const count = create("span", { role: "status" });
  const filters = [];
  const add = (name, control, accepts) => {
    const label = create("label");
    label.append(`${name} `, control);
    tools.append(label);
    filters.push(accepts);
  };
  const search = create("input", { type: "search", size: 12 });
  add("Rows with", search,
    (row) => row.textContent.toLowerCase().includes(search.value.toLowerCase()));
  for (const name of table.dataset.filters.split("|")) {
    const text = (row) => row.cells[names.indexOf(name)].textContent;
    const select = create("select");
    select.append(new Option(`any ${name}`, ""));
    for (const value of [...new Set(rows.map(text))].sort()) select.append(new Option(value));
    add(name, select, (row) => !select.value || text(row) === select.value);
  }
  const apply = () => {
    const shows = (row) => row.matches(":target") || filters.every((accepts) => accepts(row));
    for (const row of rows) row.hidden = !shows(row);
    count.textContent = `${rows.filter((row) => !row.hidden).length} of ${rows.length} rows`;
  };
  tools.append(count);
  table.parentNode.before(tools);
  for (const event of ["input", "change"]) tools.addEventListener(event, apply);
  addEventListener("hashchange", apply);
  apply();
}

// The marks of a line belong to its cases, in order.
for (const line of all('[data-cases]:not([data-cases=""])')) {
  const cases = line.dataset.cases.split("-");
  all("use", line).forEach((mark, place) => { mark.dataset.case = cases[place]; });
}

// Shows the table row of a mark: under the pointer or a finger, or by the arrow keys.
const value = document.getElementById("value");

function show(mark) {
  const row = mark && document.getElementById(`case-${mark.dataset.case}`);
  all(".at").forEach((other) => other.classList.remove("at"));
  value.hidden = !row;
  if (!row) return;
  mark.classList.add("at");
  const names = all("thead th", row.closest("table"));
  const lines = [...row.cells].map(
    (cell, column) => `${names[column].textContent}: ${cell.textContent}`);
  value.textContent = lines.filter((line) => !line.endsWith(": -")).join("\n");
  const at = mark.getBoundingClientRect();
  const size = value.getBoundingClientRect();
  value.style.left = `${Math.max(4, Math.min(at.right + 12, innerWidth - size.width - 8))}px`;
  value.style.top = `${Math.max(4, Math.min(at.bottom + 12, innerHeight - size.height - 8))}px`;
}

const centre = (mark) => {
  const at = mark.getBoundingClientRect();
  return [at.left + at.width / 2, at.top + at.height / 2];
};

// The mark with the least distance, a function of its offset from a place; none from `most` on.
function nearest(marks, [left, top], distance, most) {
  const distances = marks.map(centre).map(([x, y]) => distance(x - left, y - top));
  const least = Math.min(...distances);
  return least < most ? marks[distances.indexOf(least)] : null;
}

for (const box of all(".box").filter((element) => element.querySelector("[data-case]"))) {
  let current = null;
  const marks = () => all("[data-case]", box).filter((mark) => !mark.closest(".off"));
  const pick = (mark) => { current = mark; show(mark); };
  const open = () => { if (current) location.hash = `case-${current.dataset.case}`; };
  // The next mark along the line, or the mark of another line at the same size.
  const beside = (step) => marks().at((marks().indexOf(current) + step) % marks().length);
  const across = (step) => {
    const distance = (right, down) => (
      Math.abs(right) < 2 && down * step > 0.01 ? down * step : Infinity);
    return current ? nearest(marks(), centre(current), distance, Infinity) || current : beside(1);
  };
  const keys = {
    ArrowRight: () => beside(1), ArrowLeft: () => beside(-1),
    ArrowDown: () => across(1), ArrowUp: () => across(-1), Escape: () => null,
  };
  for (const kind of ["pointermove", "pointerdown"]) {
    box.addEventListener(kind, (event) => pick(
      nearest(marks(), [event.clientX, event.clientY], Math.hypot, 28)));
  }
  box.addEventListener("pointerleave", (event) => {
    if (event.pointerType === "mouse") pick(null);
  });
  box.addEventListener("blur", () => pick(null));
  box.addEventListener("click", open);
  box.addEventListener("keydown", (event) => {
    if (event.key === "Enter") open();
    if (!(event.key in keys)) return;
    event.preventDefault();
    pick(keys[event.key]());
  });
}
addEventListener("keydown", (event) => { if (event.key === "Escape") show(null); });

// A link to a row marks its case in the pictures too.
function markLinkedCase() {
  const row = document.querySelector("tr:target");
  all("[data-case]").forEach((mark) => mark.classList.toggle(
    "here", row?.id === `case-${mark.dataset.case}`));
  row?.scrollIntoView();
}
addEventListener("hashchange", markLinkedCase);
markLinkedCase();
