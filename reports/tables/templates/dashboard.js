// Adds to a page: lines to hide, the other vertical axis, rows to choose, and the value of a mark.
// Without scripts the page shows everything.
"use strict";

const all = (selector, within = document) => [...within.querySelectorAll(selector)];

// A line's checkbox shows and hides it in every picture.
for (const box of all("input[data-toggle]")) {
  box.hidden = false;
  const parts = all(`[data-line="${box.dataset.toggle}"]`);
  const apply = () => parts.forEach((part) => part.classList.toggle("off", !box.checked));
  box.addEventListener("change", apply);
  apply();
}

// Each picture is drawn twice, once for each vertical axis; the script shows one drawing.
for (const choice of all(".scales")) {
  choice.hidden = false;
  all(".scale").forEach((words) => { words.hidden = true; });
  const apply = () => {
    const scale = choice.querySelector("input:checked").value;
    for (const figure of all("figure[data-scale]", choice.closest("section"))) {
      figure.hidden = figure.dataset.scale !== scale;
    }
  };
  choice.addEventListener("change", apply);
  apply();
}

// Filters rows by a text, and by the values of the columns in data-filters.
function addFilters(table) {
  const names = all("thead th", table).map((cell) => cell.textContent);
  const rows = all("tbody tr", table);
  const tools = document.createElement("div");
  tools.className = "tools";
  const count = document.createElement("span");
  count.setAttribute("role", "status");
  const label = (name, control) => {
    const element = document.createElement("label");
    element.append(`${name} `, control);
    tools.append(element);
    for (const event of ["input", "change"]) control.addEventListener(event, apply);
    return control;
  };
  const search = Object.assign(document.createElement("input"), { type: "search", size: 12 });
  const text = label("Rows with", search);
  const columns = table.dataset.filters.split("|").filter((name) => names.includes(name));
  const selects = columns.map((name) => {
    const column = names.indexOf(name);
    const select = document.createElement("select");
    select.append(new Option(`any ${name}`, ""));
    const values = new Set(rows.map((row) => row.cells[column].textContent));
    for (const value of [...values].sort()) select.append(new Option(value));
    return [column, label(name, select)];
  });
  function apply() {
    const wanted = text.value.toLowerCase();
    for (const row of rows) {
      row.hidden = !row.textContent.toLowerCase().includes(wanted)
        || selects.some(([column, select]) =>
          select.value && row.cells[column].textContent !== select.value);
    }
    count.textContent = `${rows.filter((row) => !row.hidden).length} of ${rows.length} rows`;
  }
  // A link to a hidden row clears the filters.
  addEventListener("hashchange", () => {
    const row = document.getElementById(location.hash.slice(1));
    if (row && rows.includes(row) && row.hidden) {
      text.value = "";
      selects.forEach(([, select]) => { select.value = ""; });
      apply();
      row.scrollIntoView();
    }
  });
  tools.append(count);
  table.parentNode.before(tools);
  apply();
}
all("table[data-filters]").forEach(addFilters);

// The marks of a line belong to its cases, in order.
for (const line of all("[data-cases]")) {
  const cases = line.dataset.cases.split("-");
  all("use", line).forEach((mark, place) => { if (cases[place]) mark.dataset.case = cases[place]; });
}

// Shows the table row of a mark: under the pointer or a finger, or by the arrow keys.
const value = document.getElementById("value");

function rowOf(mark) {
  return document.getElementById(`case-${mark.dataset.case}`);
}

function show(mark) {
  const row = mark && rowOf(mark);
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

function marksOf(box) {
  return all("[data-case]", box).filter((mark) => !mark.closest(".off"));
}

function centre(mark) {
  const at = mark.getBoundingClientRect();
  return [at.left + at.width / 2, at.top + at.height / 2];
}

function nearest(marks, x, y) {
  let best = null;
  let least = 28;
  for (const mark of marks) {
    const [left, top] = centre(mark);
    const away = Math.hypot(left - x, top - y);
    if (away < least) [best, least] = [mark, away];
  }
  return best;
}

for (const box of all(".box").filter((element) => element.querySelector("[data-case]"))) {
  let current = null;
  const pick = (mark) => { current = mark; show(mark); };
  const point = (event) => pick(nearest(marksOf(box), event.clientX, event.clientY));
  const follow = () => { if (current) location.hash = `case-${current.dataset.case}`; };
  box.addEventListener("pointermove", point);
  box.addEventListener("pointerdown", point);
  box.addEventListener("pointerleave", (event) => {
    if (event.pointerType === "mouse") pick(null);
  });
  box.addEventListener("blur", () => pick(null));
  box.addEventListener("click", follow);
  box.addEventListener("keydown", (event) => {
    const marks = marksOf(box);
    const here = marks.indexOf(current);
    const along = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    const across = { ArrowUp: -1, ArrowDown: 1 }[event.key];
    if (event.key === "Escape") pick(null);
    if (event.key === "Enter") follow();
    if (!along && !across || !marks.length) return;
    event.preventDefault();
    let next = marks[here < 0 ? 0 : (here + (along || 0) + marks.length) % marks.length];
    if (across && here >= 0) {
      // The mark of another line at the same size: the nearest above or below.
      const [x, y] = centre(current);
      const distance = (mark) => (centre(mark)[1] - y) * across;
      const beside = marks.filter(
        (mark) => Math.abs(centre(mark)[0] - x) < 2 && distance(mark) > 0.01);
      next = beside.sort((a, b) => distance(a) - distance(b))[0] || current;
    }
    pick(next);
  });
}
addEventListener("keydown", (event) => { if (event.key === "Escape") show(null); });

// A link to a cell marks it in the pictures too.
function markLinkedCase() {
  const row = /^#case-\d+$/.test(location.hash) && location.hash.slice(6);
  all("[data-case]").forEach((mark) => mark.classList.toggle("here", mark.dataset.case === row));
}
addEventListener("hashchange", markLinkedCase);
markLinkedCase();
