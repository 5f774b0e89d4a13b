// Puts a search box above each long table, which leaves the rows with its text.
"use strict";

for (const table of document.querySelectorAll("table")) {
  const rows = [...table.tBodies[0].rows];
  if (rows.length <= 12) continue;
  const box = document.createElement("input");
  box.type = "search";
  box.ariaLabel = box.placeholder = "Rows with";
  box.addEventListener("input", () => {
    const text = box.value.toLowerCase();
    for (const row of rows) row.hidden = !row.textContent.toLowerCase().includes(text);
  });
  table.parentNode.before(box);
}
