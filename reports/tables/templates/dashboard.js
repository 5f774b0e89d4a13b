// What a page adds where scripts run: lines that hide, the other axis, rows to choose from, and the value of a mark.
// Without it everything is shown.
"use strict";

const all = (selector, within = document) => [...within.querySelectorAll(selector)];

// A line's checkbox shows and hides it in every picture.
for (const box of all("input[data-toggle]")) {
  box.hidden = false;
  const apply = () => all(`[data-line="${box.dataset.toggle}"]`).forEach((part) => part.classList.toggle("off", !box.checked));
  box.addEventListener("change", apply);
  apply();
}

// Pictures are drawn twice, once for each axis: only one of the two is seen.
for (const choice of all(".scales")) {
  choice.hidden = false;
  all(".scale").forEach((words) => { words.hidden = true; });
  const apply = () => {
    const scale = choice.querySelector("input:checked").value;
    all("figure[data-scale]", choice.closest("section")).forEach((figure) => { figure.hidden = figure.dataset.scale !== scale; });
  };
  choice.addEventListener("change", apply);
  apply();
}

// Rows by a text, and by the values of the columns that the table names.
function addFilters(table) {
  const names = all("thead th", table).map((cell) => cell.textContent);
  const rows = all("tbody tr", table);
  const tools = document.createElement("div");
  tools.className = "tools";
  const count = document.createElement("span");
  count.setAttribute("role", "status");
  const label = (name, control) => {
    const made = document.createElement("label");
    made.append(`${name} `, control);
    tools.append(made);
    for (const event of ["input", "change"]) control.addEventListener(event, apply);
    return control;
  };
  const text = label("Rows with", Object.assign(document.createElement("input"), { type: "search", size: 12 }));
  const selects = table.dataset.filters.split("|").filter((name) => names.includes(name)).map((name) => {
    const column = names.indexOf(name);
    const select = document.createElement("select");
    select.append(new Option(`any ${name}`, ""));
    for (const value of [...new Set(rows.map((row) => row.cells[column].textContent))].sort()) select.append(new Option(value));
    return [column, label(name, select)];
  });
  function apply() {
    const wanted = text.value.toLowerCase();
    for (const row of rows) {
      row.hidden = !row.textContent.toLowerCase().includes(wanted)
        || selects.some(([column, select]) => select.value && row.cells[column].textContent !== select.value);
    }
    count.textContent = `${rows.filter((row) => !row.hidden).length} of ${rows.length} rows`;
  }
  // A link leads to its row, whatever was chosen before.
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

// The value of a mark, from its row of the table: under the pointer, a finger, or by the arrow keys.
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
  value.textContent = [...row.cells].map((cell, column) => `${names[column].textContent}: ${cell.textContent}`)
    .filter((line) => !line.endsWith(": -")).join("\n");
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

for (const box of all(".box").filter((one) => one.querySelector("[data-case]"))) {
  let current = null;
  const pick = (mark) => { current = mark; show(mark); };
  box.addEventListener("pointermove", (event) => pick(nearest(marksOf(box), event.clientX, event.clientY)));
  box.addEventListener("pointerdown", (event) => pick(nearest(marksOf(box), event.clientX, event.clientY)));
  box.addEventListener("pointerleave", (event) => { if (event.pointerType === "mouse") pick(null); });
  box.addEventListener("blur", () => pick(null));
  box.addEventListener("click", () => { if (current) location.hash = `case-${current.dataset.case}`; });
  box.addEventListener("keydown", (event) => {
    const marks = marksOf(box);
    const here = marks.indexOf(current);
    const along = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    const across = { ArrowUp: -1, ArrowDown: 1 }[event.key];
    if (event.key === "Escape") pick(null);
    if (event.key === "Enter" && current) location.hash = `case-${current.dataset.case}`;
    if (!along && !across || !marks.length) return;
    event.preventDefault();
    let next = marks[here < 0 ? 0 : (here + (along || 0) + marks.length) % marks.length];
    if (across && here >= 0) {
      // The mark of another line at the same size: the nearest above or below.
      const [x, y] = centre(current);
      const beside = marks.filter((mark) => Math.abs(centre(mark)[0] - x) < 2 && (centre(mark)[1] - y) * across > 0.01);
      next = beside.sort((a, b) => Math.abs(centre(a)[1] - y) - Math.abs(centre(b)[1] - y))[0] || current;
    }
    pick(next);
  });
}
addEventListener("keydown", (event) => { if (event.key === "Escape") show(null); });

// A link to a cell marks it in the pictures too.
function follow() {
  const row = /^#case-\d+$/.test(location.hash) && location.hash.slice(6);
  all("[data-case]").forEach((mark) => mark.classList.toggle("here", mark.dataset.case === row));
}
addEventListener("hashchange", follow);
follow();
