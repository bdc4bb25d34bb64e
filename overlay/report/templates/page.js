"use strict";
// Filters the table of tensors.  Everything is there without it.
(() => {
  const box = document.getElementById("search");
  const status = document.getElementById("search-status");
  if (!box || !status) return;
  document.getElementById("search-form").hidden = false;

  const groups = [...document.querySelectorAll("details.group")].map((element) => ({
    element,
    open: element.open,
    rows: [...element.querySelectorAll("tbody tr")].map((row) => ({
      row,
      text: row.textContent.toLowerCase(),
      parts: row.cells[0].textContent.trim().toLowerCase().split("."),
    })),
  }));
  const count = groups.reduce((sum, group) => sum + group.rows.length, 0);

  // One part of a name against one of a pattern: {0-2,5} stands for the numbers 0, 1, 2 and 5.
  const fits = (part, pattern, first, last) => {
    if (/^\{[\d,-]+\}$/.test(pattern)) {
      if (!/^\d{1,9}$/.test(part)) return part === "" || part === "*" || part === pattern;
      return pattern.slice(1, -1).split(",").some((range) => {
        const [low, high] = range.split("-").map(Number);
        return Number(part) >= low && Number(part) <= (high === undefined ? low : high);
      });
    }
    if (/^\d+$/.test(part)) return part === pattern;
    if (first && last) return pattern.includes(part);
    if (first) return pattern.endsWith(part);
    if (last) return pattern.startsWith(part);
    return pattern === part || part === "*";
  };
  // A name, or the middle of one, against a whole pattern.
  const names = (query, parts) => {
    for (let at = 0; at + query.length <= parts.length; at += 1) {
      const end = query.length - 1;
      if (query.every((part, i) => fits(part, parts[at + i], i === 0, i === end))) return true;
    }
    return false;
  };

  const search = () => {
    const terms = box.value.trim().toLowerCase().split(/\s+/).filter(Boolean);
    const queries = terms.map((term) => term.split("."));
    let hits = 0;
    for (const group of groups) {
      let here = 0;
      for (const entry of group.rows) {
        const found = terms.every((term, i) => entry.text.includes(term) || names(queries[i], entry.parts));
        entry.row.hidden = !found;
        here += found ? 1 : 0;
      }
      group.element.hidden = here === 0;
      group.element.open = terms.length ? here > 0 : group.open;
      hits += here;
    }
    status.textContent = terms.length ? `${hits} of ${count} rows` : `${count} rows`;
  };
  box.addEventListener("input", search);
  search();
})();
