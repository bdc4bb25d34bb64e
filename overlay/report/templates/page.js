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
  const isNamed = (query, parts) =>
    query.length === parts.length && query.every((part, i) => fits(part, parts[i], false, false));
  // A part of a name, from the middle of a word to the middle of a word, against a whole pattern.
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
    // A tensor's full name is its family's row, and not also the rows of names that begin so.
    const whole = terms.length === 1 && groups.some((group) => group.rows.some((entry) => isNamed(queries[0], entry.parts)));
    const found = (entry) =>
      whole
        ? isNamed(queries[0], entry.parts)
        : terms.every((term, i) => entry.text.includes(term) || names(queries[i], entry.parts));
    let hits = 0;
    for (const group of groups) {
      let here = 0;
      for (const entry of group.rows) {
        const hit = found(entry);
        entry.row.hidden = !hit;
        here += hit ? 1 : 0;
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
