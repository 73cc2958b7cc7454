// Sorts tables, draws figures out of the page's own data, and lists all architectures. It asks no network for anything.
"use strict";
(() => {
  const figures = JSON.parse(document.getElementById("figures").textContent);
  const MILLION = 1e6;
  const dark = window.matchMedia("(prefers-color-scheme: dark)");

  // --- sorting -----------------------------------------------------------------------------------------------------

  // Absent values come last either way.
  function compare(a, b, descending) {
    const missing = (a === null || a === "") - (b === null || b === "");
    if (missing || a === null || a === "") return missing;
    const order = typeof a === "number" ? a - b : String(a).localeCompare(String(b), "en", { numeric: true });
    return descending ? -order : order;
  }

  // Marks the heading that a table is sorted by, and returns if it is sorted from the largest.
  function turn(button) {
    const heading = button.closest("th");
    const number = heading.classList.contains("number");
    const before = heading.getAttribute("aria-sort");
    const descending = before ? before === "ascending" : number;
    for (const other of heading.parentElement.children) other.removeAttribute("aria-sort");
    heading.setAttribute("aria-sort", descending ? "descending" : "ascending");
    return descending;
  }

  function sortable(table) {
    const body = table.tBodies[0];
    const limit = Number(table.dataset.limit) || Infinity;
    let whole = false;
    const trim = () => [...body.rows].forEach((row, i) => { row.hidden = !whole && i >= limit; });
    table.tHead.addEventListener("click", (event) => {
      const button = event.target.closest("button");
      if (!button) return;
      const place = button.closest("th").cellIndex;
      const number = button.closest("th").classList.contains("number");
      const descending = turn(button);
      const value = (row) => {
        const text = row.cells[place].dataset.value;
        return number && text !== "" ? Number(text) : text;
      };
      const rows = [...body.rows].sort((a, b) => compare(value(a), value(b), descending));
      body.append(...rows);
      trim();
    });
    if (body.rows.length > limit) {
      const more = document.createElement("p");
      more.className = "more";
      const button = document.createElement("button");
      button.type = "button";
      button.textContent = `Show all ${body.rows.length} rows`;
      button.addEventListener("click", () => { whole = true; trim(); more.remove(); });
      more.append(button);
      table.closest(".scroll").after(more);
    }
    trim();
  }

  // --- figures -----------------------------------------------------------------------------------------------------

  // Colours of axes and letters are those of the page, light or dark.
  function style() {
    const own = getComputedStyle(document.documentElement);
    const colour = (name) => own.getPropertyValue(name).trim();
    const text = { labelColor: colour("--soft"), titleColor: colour("--text") };
    const font = getComputedStyle(document.body).fontFamily;
    return {
      background: "transparent",
      font,
      view: { stroke: null },
      // The end of the scale that would vanish in the background is left out.
      range: { ramp: { scheme: "viridis", extent: dark.matches ? [0.25, 1] : [0, 0.92] } },
      axis: { ...text, gridColor: colour("--grid"), domainColor: colour("--line"), tickColor: colour("--line"),
        labelFontSize: 12, titleFontSize: 12, titleFontWeight: 500 },
      axisX: { tickCount: 8 },
      axisY: { tickCount: 6 },
      legend: { ...text, symbolStrokeWidth: 3, symbolSize: 220, labelFontSize: 12, titleFontSize: 12, titleFontWeight: 500 },
    };
  }

  // Ranks from 1, the smallest; equal values share their mean rank.
  function ranks(values) {
    const order = values.map((_, i) => i).filter((i) => values[i] !== null).sort((a, b) => values[a] - values[b]);
    const found = values.map(() => null);
    for (let start = 0; start < order.length;) {
      let end = start;
      while (end + 1 < order.length && values[order[end + 1]] === values[order[start]]) end += 1;
      for (let i = start; i <= end; i += 1) found[order[i]] = (start + end) / 2 + 1;
      start = end + 1;
    }
    return found;
  }

  const SIZES = { "MACs (M)": "macs as written" };
  function column(data, name) {
    const own = SIZES[name];
    return own ? data[own].map((value) => (value === null ? null : value / MILLION)) : data[name];
  }

  function points(data, across, up, asRanks) {
    let x = column(data, across);
    let y = column(data, up);
    if (asRanks) [x, y] = [ranks(x), ranks(y)];
    const macs = column(data, "MACs (M)");
    const rows = [];
    data.arch.forEach((arch, i) => {
      if (x[i] !== null && y[i] !== null) rows.push({ arch, x: x[i], y: y[i], macs: macs[i] });
    });
    return rows;
  }

  function titled(spec, names) {
    const found = structuredClone(spec);
    if (!found.encoding) return found;
    for (const [axis, title] of Object.entries(names)) {
      found.encoding[axis].title = title;
      for (const tip of found.encoding.tooltip) if (tip.field === axis) tip.title = title;
    }
    return found;
  }

  async function draw(place, data) {
    const own = figures[place.dataset.figure];
    let spec = own.spec;
    if (own.across) {
      const choice = (axis) => place.closest("figure").querySelector(`[data-axis="${axis}"]`);
      const across = choice("x") ? choice("x").value : own.across[0];
      const up = choice("y") ? choice("y").value : own.up[0];
      const asRanks = Boolean(choice("ranks") && choice("ranks").checked);
      const named = (name) => (asRanks ? `${name} (rank)` : name);
      if (choice("x")) spec = titled(spec, { x: named(across), y: named(up) });
      spec = { ...spec, datasets: { archs: points(data, across, up, asRanks) } };
    }
    const narrow = window.innerWidth < 640;
    const config = style();
    if (narrow) config.legend.columns = 1;
    if (place.view) place.view.finalize();
    const made = await vegaEmbed(place, spec, {
      config, renderer: "canvas", actions: { export: true, source: false, compiled: false, editor: false },
      tooltip: { theme: "custom", maxDepth: 1 },
    });
    place.view = made;
    place.style.minHeight = "";
    place.dataset.drawn = "true";
  }

  function drawAll(data) {
    const places = [...document.querySelectorAll(".chart")];
    if (!window.vegaEmbed) return;
    const fail = (place) => (error) => {
      place.textContent = `This figure could not be drawn: ${error.message}`;
      console.error(error);
    };
    // A figure is drawn when it comes near the window, so that a long page opens at once.
    const near = new IntersectionObserver((entries) => {
      for (const entry of entries) {
        if (!entry.isIntersecting) continue;
        near.unobserve(entry.target);
        draw(entry.target, data).catch(fail(entry.target));
      }
    }, { rootMargin: "600px" });
    for (const place of places) {
      const own = figures[place.dataset.figure].spec.height;
      if (typeof own === "number") place.style.minHeight = `${own + 60}px`;
      near.observe(place);
      const choices = place.closest("figure").querySelector(".choices");
      if (choices) choices.addEventListener("change", () => draw(place, data).catch(fail(place)));
    }
    dark.addEventListener("change", () => {
      for (const place of places) if (place.view) draw(place, data).catch(fail(place));
    });
  }

  // --- all architectures -------------------------------------------------------------------------------------------

  function listAll(data) {
    const place = document.getElementById("all-archs");
    if (!place || !data.arch) return;
    const table = place.querySelector("table");
    const status = place.querySelector("[role=status]");
    const columns = [...table.tHead.querySelectorAll("button")].map((button) => button.dataset.column);
    let order = data.arch.map((_, i) => i);
    let kept = order;
    let shown = 0;

    const format = (value) => {
      if (value === null || value === undefined) return "\u2013";
      return Math.abs(value) >= 1e4 ? value.toLocaleString("en") : String(value);
    };
    function show(count) {
      const rows = document.createDocumentFragment();
      for (const i of kept.slice(shown, shown + count)) {
        const row = document.createElement("tr");
        const head = document.createElement("th");
        head.scope = "row";
        const code = document.createElement("code");
        data.arch[i].split(/(?<=[|,+/)\] ])/).forEach((part, n) => {
          if (n) code.append(document.createElement("wbr"));
          code.append(part);
        });
        head.append(code);
        row.append(head);
        for (const name of columns) {
          const cell = document.createElement("td");
          cell.className = "number";
          cell.textContent = format(data[name][i]);
          row.append(cell);
        }
        rows.append(row);
      }
      table.tBodies[0].append(rows);
      shown = Math.min(shown + count, kept.length);
      status.textContent = `${shown.toLocaleString("en")} of ${kept.length.toLocaleString("en")} shown`;
      for (const button of place.querySelectorAll("[data-more]")) button.hidden = shown === kept.length;
    }
    function again() {
      const text = place.querySelector("input").value.trim().toLowerCase();
      kept = text ? order.filter((i) => data.arch[i].toLowerCase().includes(text)) : order;
      table.tBodies[0].replaceChildren();
      shown = 0;
      show(20);
    }
    function sort(button) {
      const values = data[button.dataset.column];
      const descending = turn(button);
      order = order.slice().sort((a, b) => compare(values[a], values[b], descending));
      again();
    }
    table.tHead.addEventListener("click", (event) => {
      const button = event.target.closest("button");
      if (button) sort(button);
    });
    place.querySelector("input").addEventListener("input", again);
    place.addEventListener("click", (event) => {
      const more = event.target.dataset.more;
      if (more) show(Number(more));
    });
    sort([...table.tHead.querySelectorAll("button")].find((one) => one.dataset.column === place.dataset.by));
  }

  // --- start -------------------------------------------------------------------------------------------------------

  async function unpack() {
    const text = document.getElementById("data").textContent.trim();
    const bytes = Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
    const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
    return JSON.parse(await new Response(stream).text());
  }

  document.querySelectorAll("table.sortable").forEach(sortable);
  unpack().then((data) => {
    drawAll(data);
    listAll(data);
    document.documentElement.dataset.ready = "true";
  }).catch((error) => console.error(error));
})();
