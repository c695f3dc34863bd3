"use strict";
(() => {
  const root = document.documentElement;
  const button = document.getElementById("theme");
  const memory = "pinikit-theme";
  const system = matchMedia("(prefers-color-scheme: dark)");

  function remembered() {
    try { return localStorage.getItem(memory); } catch { return null; }
  }
  function remember(theme) {
    try { localStorage.setItem(memory, theme); } catch { /* the page works without */ }
  }
  function isDark() {
    return (root.dataset.theme || (system.matches ? "dark" : "light")) === "dark";
  }
  function show() {
    button.setAttribute("aria-pressed", String(isDark()));
  }
  if (["light", "dark"].includes(remembered())) root.dataset.theme = remembered();
  button.hidden = false;
  button.addEventListener("click", () => {
    root.dataset.theme = isDark() ? "light" : "dark";
    remember(root.dataset.theme);
    show();
  });
  system.addEventListener("change", show);
  show();

  const words = new Intl.Collator("en", { numeric: true });
  const keyOf = (row, column) => row.cells[column].dataset.sort ?? row.cells[column].textContent.trim();

  // Unknown values stay at the end, whatever the direction.
  function compare(one, other, numeric, sign) {
    if (one === "" || other === "") return (one === "") - (other === "");
    return sign * (numeric ? Number(one) - Number(other) : words.compare(one, other));
  }
  function sort(table, head) {
    const column = head.cellIndex;
    const body = table.tBodies[0];
    const rows = [...body.rows];
    const keys = new Map(rows.map((row) => [row, keyOf(row, column)]));
    const numeric = [...keys.values()].every((key) => key === "" || Number.isFinite(Number(key)));
    const first = numeric ? "descending" : "ascending";
    const second = numeric ? "ascending" : "descending";
    const direction = head.getAttribute("aria-sort") === first ? second : first;
    for (const other of head.parentElement.cells) other.setAttribute("aria-sort", "none");
    head.setAttribute("aria-sort", direction);
    const sign = direction === "ascending" ? 1 : -1;
    rows.sort((one, other) => compare(keys.get(one), keys.get(other), numeric, sign));
    body.append(...rows);
  }
  for (const table of document.querySelectorAll("table.sortable")) {
    for (const head of table.tHead.rows[0].cells) {
      head.querySelector("button").addEventListener("click", () => sort(table, head));
    }
  }
  addEventListener("beforeprint", () => {
    for (const part of document.querySelectorAll("details")) part.open = true;
  });
})();
