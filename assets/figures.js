// Every figure has a name and, in its corner, the table of its numbers. Both come from what plotly draws, so that they
// follow each update; the table is made when it is opened.
(() => {
  const ICON = '<svg viewBox="0 0 14 12" width="14" height="12" aria-hidden="true"><path fill="none" stroke="currentColor" d="M.5.5h13v11H.5zM.5 4h13M.5 7.7h13M5 .5v11"/></svg>';

  const plain = (markup) => {
    const text = String(markup ?? "").replace(/<br\s*\/?>/g, " ");
    return /[<&]/.test(text) ? new DOMParser().parseFromString(text, "text/html").body.textContent : text;
  };
  const shown = (value) => {
    if (typeof value !== "number") return plain(value);
    return Number.isInteger(value) ? String(value) : String(Number(value.toPrecision(4)));
  };
  const titleOf = (axis) => plain(axis?.title?.text);
  const axisOf = (layout, trace, letter) => layout[`${letter}axis${(trace[`${letter}axis`] ?? letter).slice(1)}`] ?? {};

  // The first line of what a hover says names a trace that has no name of its own.
  function hoverName(trace, point) {
    const line = plain((trace.hovertemplate ?? "").split("<br>")[0].replace("<extra></extra>", ""));
    const filled = line.replace(/%\{customdata\[(\d+)\]\}/g, (_, place) => trace.customdata?.[point]?.[place] ?? "");
    return filled.includes("%{") ? "" : filled;
  }
  function nameOf(layout, trace) {
    const place = Number((trace.xaxis ?? "x").slice(1) || 1) - 1, note = layout.annotations?.[place];
    const above = note?.xref === "paper" && note?.yref === "paper" ? plain(note.text) : "";
    const measured = titleOf(axisOf(layout, trace, trace.orientation === "h" ? "x" : "y"));
    return trace.name || hoverName(trace, 0) || measured || above || "value";
  }
  function keyName(layout, trace) {
    const hovered = /([a-z]+) %\{x\}/.exec(trace.hovertemplate ?? "");
    return titleOf(axisOf(layout, trace, trace.orientation === "h" ? "y" : "x")) || hovered?.[1] || "";
  }

  // Each point of a trace: where it stands, its value with its interval, and the text beside it.
  function pointsOf(trace) {
    const lying = trace.orientation === "h";
    const values = Array.from((lying ? trace.x : trace.y) ?? []);
    const keys = Array.from((lying ? trace.y : trace.x) ?? values.keys());
    const bars = lying ? trace.error_x : trace.error_y;
    return values.map((value, place) => {
      const up = bars?.array?.[place], down = bars?.arrayminus?.[place] ?? up;
      const interval = up == null || value == null ? "" : ` (${shown(value - down)} to ${shown(value + up)})`;
      return { key: keys[place], said: shown(value) + interval, text: plain(Array.isArray(trace.text) ? trace.text[place] : "") };
    });
  }

  function heatmapTable(layout, trace) {
    const columns = Array.from(trace.x ?? trace.z[0].keys(), plain);
    const rows = Array.from(trace.z, (line, row) => [
      plain(trace.y?.[row] ?? row),
      ...Array.from(line, (value, place) => [plain(trace.text?.[row]?.[place]), shown(value)].filter(Boolean).join(" ")),
    ]);
    return { head: [titleOf(axisOf(layout, trace, "y")), ...columns], rows };
  }

  // One line a point of the shared axis, one column a trace.
  function sharedTable(layout, traces) {
    const lines = new Map();
    traces.forEach((trace, column) => {
      for (const point of pointsOf(trace)) {
        if (!lines.has(point.key)) lines.set(point.key, [[shown(point.key), point.text].filter(Boolean).join(" "), ...traces.map(() => "")]);
        lines.get(point.key)[column + 1] = point.said;
      }
    });
    return { head: [keyName(layout, traces[0]), ...traces.map((trace) => nameOf(layout, trace))], rows: [...lines.values()] };
  }

  // One line a point, for clouds.
  function cloudTable(layout, traces) {
    const rows = traces.flatMap((trace) => pointsOf(trace).map((point, place) => [
      trace.name || point.text || hoverName(trace, place), shown(point.key), point.said,
    ]));
    return { head: ["", titleOf(axisOf(layout, traces[0], "x")), titleOf(axisOf(layout, traces[0], "y"))], rows };
  }

  function isShared(traces) {
    const kinds = traces.map((trace) => pointsOf(trace).map((point) => point.key));
    if (kinds.some((keys) => new Set(keys).size !== keys.length)) return false;
    return kinds.flat().every((key) => typeof key === "string" || Number.isInteger(key))
      || kinds.every((keys) => String(keys) === String(kinds[0]) && keys.length > 1);
  }

  function tablesOf(plot) {
    const maps = plot.data.filter((trace) => trace.type === "heatmap"), others = plot.data.filter((trace) => !maps.includes(trace));
    const tables = maps.map((trace) => heatmapTable(plot.layout, trace));
    if (others.length) tables.push((isShared(others) ? sharedTable : cloudTable)(plot.layout, others));
    return tables;
  }

  function cell(kind, text, scope) {
    const made = document.createElement(kind);
    made.textContent = text;
    if (scope) made.scope = scope;
    return made;
  }

  function drawn(table, name) {
    const made = document.createElement("table");
    made.className = "scores";
    made.createCaption().textContent = name;
    const head = made.createTHead().insertRow();
    for (const text of table.head) head.append(text ? cell("th", text, "col") : cell("td", ""));
    const body = made.createTBody();
    for (const [first, ...rest] of table.rows) body.insertRow().append(cell("th", first, "row"), ...rest.map((text) => cell("td", text)));
    return made;
  }

  function fill(frame) {
    const plot = frame.querySelector(".js-plotly-plot"), numbers = frame.querySelector(":scope > .numbers");
    if (!plot?.data || !numbers?.open) return;
    const tables = tablesOf(plot).map((table) => drawn(table, frame.dataset.figure));
    numbers.lastElementChild.replaceChildren(...(tables.length ? tables : [cell("p", "Nothing is drawn yet.")]));
  }

  function name(frame, title) {
    frame.dataset.figure = title;
    const numbers = document.createElement("details");
    numbers.className = "numbers";
    numbers.innerHTML = `<summary title="Numbers of this figure">${ICON}</summary><div tabindex="0" role="region"></div>`;
    numbers.firstElementChild.setAttribute("aria-label", `Numbers: ${title}`);
    numbers.lastElementChild.setAttribute("aria-label", `Table: ${title}`);
    numbers.addEventListener("toggle", () => fill(frame));
    numbers.addEventListener("keydown", (event) => {
      if (event.key !== "Escape" || !numbers.open) return;
      numbers.open = false;
      numbers.firstElementChild.focus();
    });
    frame.append(numbers);
  }

  new MutationObserver(() => {
    for (const plot of document.querySelectorAll(".js-plotly-plot:not([data-named])")) {
      const frame = plot.closest(".block"), label = frame?.querySelector('[data-testid="block-label"]')?.textContent.trim();
      if (!label || typeof plot.on !== "function") continue;
      plot.dataset.named = "yes";
      plot.setAttribute("role", "img");
      plot.setAttribute("aria-label", label);
      const numbers = frame.querySelector(":scope > .numbers");
      if (!numbers) name(frame, label);
      else if (frame.dataset.figure !== label) { // another figure in the same place
        frame.dataset.figure = label;
        numbers.firstElementChild.setAttribute("aria-label", `Numbers: ${label}`);
        numbers.lastElementChild.setAttribute("aria-label", `Table: ${label}`);
      }
      plot.on("plotly_afterplot", () => fill(frame));
      fill(frame);
    }
  }).observe(document.documentElement, { childList: true, subtree: true });
})();
