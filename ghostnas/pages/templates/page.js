/* What a page does in the browser: draws its figures, links their selections, sorts and filters its
   tables, copies its commands. The data are in the element #drawn. */
(() => {
  "use strict";
  const began = performance.now();
  const element = document.getElementById("drawn");
  const drawn = element ? JSON.parse(element.textContent) : { figures: [], datasets: {}, theme: {} };
  const figures = new Map(); // by name: { view, brushed }
  const marked = new Set(); // values of the link, of all figures

  /* ---- hover ---- */

  const tip = document.getElementById("tip");

  function hover(_handler, event, _item, value) {
    if (value == null || value === "") {
      tip.hidden = true;
      return;
    }
    tip.replaceChildren();
    if (typeof value === "object") {
      const list = document.createElement("dl");
      for (const [name, text] of Object.entries(value)) {
        if (text === "" || text === "null" || text === "undefined") continue;
        const term = document.createElement("dt");
        const given = document.createElement("dd");
        term.textContent = name;
        given.textContent = text;
        list.append(term, given);
      }
      tip.append(list);
    } else {
      tip.textContent = String(value);
    }
    tip.hidden = false;
    const box = tip.getBoundingClientRect();
    const x = event.clientX + 14 + box.width > innerWidth ? event.clientX - box.width - 14 : event.clientX + 14;
    const y = event.clientY + 14 + box.height > innerHeight ? event.clientY - box.height - 14 : event.clientY + 14;
    tip.style.left = `${Math.max(4, x)}px`;
    tip.style.top = `${Math.max(4, y)}px`;
  }

  /* ---- figures ---- */

  function namesIn(spec, found = new Set()) {
    if (Array.isArray(spec)) spec.forEach((each) => namesIn(each, found));
    else if (spec && typeof spec === "object") {
      if (spec.data && typeof spec.data.name === "string") found.add(spec.data.name);
      if (spec.from && spec.from.data && typeof spec.from.data.name === "string") found.add(spec.from.data.name);
      Object.values(spec).forEach((each) => namesIn(each, found));
    }
    return found;
  }

  async function draw(figure) {
    const datasets = {};
    for (const name of namesIn(figure.spec)) datasets[name] = structuredClone(drawn.datasets[name]);
    const spec = {
      width: "container",
      autosize: { type: "fit-x", contains: "padding" },
      padding: { left: 2, right: 6, top: 6, bottom: 4 },
      ...figure.spec,
      datasets,
      config: drawn.theme,
    };
    const compiled = vegaLite.compile(spec, { logger: vega.logger(vega.Warn) }).spec;
    const container = document.getElementById(`plot-${figure.name}`);
    const view = new vega.View(vega.parse(compiled), { renderer: "svg", container, hover: true, tooltip: hover });
    view.logLevel(vega.Warn);
    await view.runAsync();
    container.querySelector("svg").setAttribute("aria-hidden", "true"); // the container has its words
    container.view = view; // for whoever looks into it from the console
    const known = { view, figure, brushed: null };
    figures.set(figure.name, known);
    if (figure.link) linkBrush(known);
    if (figure.zoom) offerZoom(known);
  }

  function signal(view, name, value) {
    try {
      view.signal(name, value);
      return true;
    } catch {
      return false; // the figure has no such parameter
    }
  }

  /* ---- linked selections ---- */

  function within(extents, row) {
    return Object.entries(extents).every(([field, [...ends]]) => {
      const value = row[field];
      if (value == null) return false;
      if (typeof value !== "number") return ends.includes(value);
      return value >= Math.min(...ends) && value <= Math.max(...ends);
    });
  }

  function linkBrush(known) {
    const { view, figure } = known;
    let waiting = 0;
    try {
      view.addSignalListener("brush", (_name, extents) => {
        cancelAnimationFrame(waiting);
        waiting = requestAnimationFrame(() => {
          const held = extents && Object.keys(extents).length ? extents : null;
          known.brushed = held;
          const button = document.querySelector(`#figure-${figure.name} [data-zoom="brush"]`);
          if (button) button.disabled = !held;
          if (!held) {
            if (known.marks) mark([]);
            known.marks = false;
            return;
          }
          known.marks = true;
          clear(known); // one selection at a time
          const rows = drawn.datasets[figure.source].filter((row) => within(held, row));
          mark(rows.map((row) => row[figure.link]));
        });
      });
    } catch {
      /* a figure that shows what is marked, and has no brush of its own */
    }
  }

  function clear(except) {
    for (const known of figures.values()) {
      if (known === except || !known.brushed) continue;
      known.brushed = null;
      known.marks = false;
      if (signal(known.view, "brush_x", [])) signal(known.view, "brush_y", []);
      known.view.runAsync();
    }
  }

  function mark(keys) {
    marked.clear();
    keys.forEach((key) => marked.add(String(key)));
    showMarked();
  }

  function showMarked() {
    const value = marked.size ? Object.fromEntries([...marked].map((key) => [key, true])) : null;
    for (const { view, figure } of figures.values()) {
      if (figure.link && signal(view, "marked", value)) view.runAsync();
    }
    for (const row of document.querySelectorAll("tr[data-key]")) {
      const held = marked.has(row.dataset.key);
      row.classList.toggle("is-marked", held);
      const box = row.querySelector("input[type=checkbox]");
      if (box) box.checked = held;
    }
    const bar = document.getElementById("marked");
    if (bar) {
      bar.hidden = !marked.size;
      bar.firstElementChild.textContent = `${marked.size} marked`;
    }
    document.querySelectorAll("table.sortable").forEach((table) => table.dispatchEvent(new Event("marks")));
  }

  /* ---- zoom ---- */

  const LIMITS = { x: ["x0", "x1"], y: ["y0", "y1"] };

  function offerZoom(known) {
    const tools = document.querySelector(`#figure-${known.figure.name} .tools`);
    tools.hidden = false;
    tools.addEventListener("click", (event) => {
      const how = event.target.dataset.zoom;
      if (how) zoom(known, how);
    });
    document.getElementById(`plot-${known.figure.name}`).addEventListener("wheel", (event) => {
      if (!event.ctrlKey && !event.metaKey) return; // the page scrolls
      event.preventDefault();
      zoom(known, event.deltaY < 0 ? "in" : "out");
    }, { passive: false });
  }

  function zoom(known, how) {
    const { view } = known;
    for (const [axis, [low, high]] of Object.entries(LIMITS)) {
      let ends = [null, null];
      if (how === "brush" && known.brushed) {
        const fields = known.figure.spec.usermeta.fields;
        const held = known.brushed[fields[axis]];
        if (held) ends = [Math.min(...held), Math.max(...held)];
      } else if (how === "in" || how === "out") {
        const domain = view.scale(axis).domain();
        const middle = (domain[0] + domain[domain.length - 1]) / 2;
        const half = ((domain[domain.length - 1] - domain[0]) / 2) * (how === "in" ? 0.7 : 1 / 0.7);
        ends = [middle - half, middle + half];
      }
      signal(view, low, ends[0]);
      signal(view, high, ends[1]);
    }
    view.runAsync();
  }

  /* ---- tables ---- */

  function cellValue(row, at) {
    const cell = row.cells[at];
    const text = cell.dataset.value ?? cell.textContent.trim();
    return text === "" || Number.isNaN(Number(text)) ? text : Number(text);
  }

  function compare(a, b) {
    if (a === "" || b === "") return a === b ? 0 : a === "" ? 1 : -1; // what is missing comes last
    return typeof a === "number" && typeof b === "number" ? a - b : String(a).localeCompare(String(b), "en");
  }

  function sortBy(table, header) {
    const descending = header.getAttribute("aria-sort") === "ascending";
    for (const each of table.tHead.rows[0].cells) each.removeAttribute("aria-sort");
    header.setAttribute("aria-sort", descending ? "descending" : "ascending");
    const at = header.cellIndex;
    const rows = [...table.tBodies[0].rows].map((row) => ({ row, value: cellValue(row, at) }));
    rows.sort((a, b) => {
      const order = compare(a.value, b.value);
      return descending && a.value !== "" && b.value !== "" ? -order : order;
    });
    table.tBodies[0].append(...rows.map(({ row }) => row));
  }

  const COMPARISON = /^([a-z]+)(<=|>=|<|>|=)(-?[\d.]+)$/;

  function test(table, term) {
    const found = COMPARISON.exec(term);
    const columns = [...table.tHead.rows[0].cells].map((cell) => cell.dataset.column);
    if (!found || !columns.includes(found[1])) return (row) => row.textContent.toLowerCase().includes(term);
    const at = columns.indexOf(found[1]);
    const limit = Number(found[3]);
    const holds = { "<": (v) => v < limit, ">": (v) => v > limit, "<=": (v) => v <= limit, ">=": (v) => v >= limit, "=": (v) => v === limit };
    return (row) => {
      const value = cellValue(row, at);
      return typeof value === "number" && holds[found[2]](value);
    };
  }

  function offerTable(table) {
    table.tHead.addEventListener("click", (event) => {
      const button = event.target.closest("button.sort");
      if (button) sortBy(table, button.closest("th"));
    });
    table.tBodies[0].addEventListener("change", (event) => {
      const row = event.target.closest("tr[data-key]");
      if (!row) return;
      if (event.target.checked) marked.add(row.dataset.key);
      else marked.delete(row.dataset.key);
      showMarked();
    });
    const filter = document.querySelector(`[data-filters="${table.id}"]`);
    if (!filter) return;
    const words = filter.querySelector("input[type=search]");
    const only = filter.querySelector("input[type=checkbox]");
    const count = filter.querySelector("output");
    const apply = () => {
      const tests = words.value.toLowerCase().split(/\s+/).filter(Boolean).map((term) => test(table, term));
      let shown = 0;
      for (const row of table.tBodies[0].rows) {
        const hidden = !tests.every((holds) => holds(row)) || (only.checked && !marked.has(row.dataset.key));
        row.hidden = hidden;
        shown += hidden ? 0 : 1;
      }
      count.textContent = `${shown} of ${table.tBodies[0].rows.length} shown`;
    };
    words.addEventListener("input", apply);
    only.addEventListener("change", apply);
    table.addEventListener("marks", () => only.checked && apply());
    apply();
    filter.hidden = false;
  }

  /* ---- commands ---- */

  async function copy(button) {
    const source = button.parentElement.querySelector("pre");
    try {
      await navigator.clipboard.writeText(source.textContent);
      button.textContent = "Copied";
    } catch {
      getSelection().selectAllChildren(source); // no clipboard here: at least it is selected
      button.textContent = "Selected";
    }
    setTimeout(() => { button.textContent = "Copy"; }, 1500);
  }

  /* ---- begin ---- */

  document.addEventListener("click", (event) => {
    if (event.target.matches(".copy")) copy(event.target);
    if (event.target.matches(".clear")) {
      clear(null);
      mark([]);
    }
  });
  document.querySelectorAll("table.sortable").forEach(offerTable);
  (async () => {
    for (const figure of drawn.figures) await draw(figure);
    document.documentElement.dataset.drawn = String(drawn.figures.length);
    document.documentElement.dataset.milliseconds = (performance.now() - began).toFixed(0);
  })();
})();
