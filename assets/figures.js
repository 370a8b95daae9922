// Every figure has a name and, in its corner, the table of its numbers, which can be taken away as CSV, and the drawing as
// SVG or PNG. All come from what plotly draws, so that they follow each update; the table is made when it is opened.
(() => {
  const ICON = '<svg viewBox="0 0 14 12" width="14" height="12" aria-hidden="true"><path fill="none" stroke="currentColor" d="M.5.5h13v11H.5zM.5 4h13M.5 7.7h13M5 .5v11"/></svg>';

  const plain = (markup) => {
    const text = String(markup ?? "").replace(/<br\s*\/?>/g, " ");
    return /[<&]/.test(text) ? new DOMParser().parseFromString(text, "text/html").body.textContent : text;
  };
  // Many numbers come in binary: plotly keeps what it has read of them beside them.
  const list = (values) => Array.from(values?._inputArray ?? values ?? []);
  const shown = (value) => {
    if (typeof value !== "number") return plain(value);
    if (!Number.isFinite(value)) return "";
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
    return plain(trace.name) || hoverName(trace, 0) || measured || above || "value";
  }
  function keyName(layout, trace) {
    const hovered = /([a-z]+) %\{x\}/.exec(trace.hovertemplate ?? "");
    return titleOf(axisOf(layout, trace, trace.orientation === "h" ? "y" : "x")) || hovered?.[1] || "";
  }

  // As few digits as tell a number of single precision from its neighbours; one of double precision has all of its own.
  function whole(value) {
    if (Number.isInteger(value)) return String(value);
    const short = [6, 7, 8, 9].map((digits) => Number(value.toPrecision(digits))).find((one) => Math.fround(one) === value);
    return String(short ?? value);
  }
  // What an interval's length adds to a value or takes from it, without the last digits that only the sum has.
  const end = (value) => Number(value.toPrecision(12));

  // Numbers are shown short to readers, and whole in files; there an interval, and a text beside a number, has columns of its own.
  const READ = {
    number: shown,
    of: (value, low, high) => [shown(value) + (low == null ? "" : ` (${shown(low)} to ${shown(high)})`)],
    names: (name) => [name],
    both: (one, other) => [[one, other].filter(Boolean).join(" ")],
    bothNames: (one) => [one],
  };
  const WHOLE = {
    number: (value) => (typeof value !== "number" ? plain(value) : Number.isFinite(value) ? whole(value) : ""),
    of: (value, low, high, ranged) => [value, ...(ranged ? [low, high] : [])].map((one) => (one == null ? "" : WHOLE.number(one))),
    names: (name, ranged) => [name, ...(ranged ? [`${name}, low`, `${name}, high`] : [])],
    both: (one, other) => [one, other],
    bothNames: (one, other) => [one, other],
  };
  const isRanged = (trace, letter) => Boolean(trace[`error_${letter}`]?.array);
  // The letters of the axes along which a trace's points stand and are measured.
  const axesOf = (trace) => (trace.orientation === "h" ? ["y", "x"] : ["x", "y"]);
  const valuesOf = (trace, letter) => list(trace[letter] ?? list(trace[letter === "x" ? "y" : "x"]).keys());
  const textOf = (trace, place) => plain(Array.isArray(trace.text) ? trace.text[place] : "");

  // The cells of each value along an axis, its interval with it; of those without one they are empty where others have one.
  function saidOf(trace, letter, write, ranged) {
    const bars = trace[`error_${letter}`];
    return valuesOf(trace, letter).map((value, place) => {
      const up = bars?.array?.[place], down = bars?.arrayminus?.[place] ?? up;
      const none = up == null || value == null;
      return write.of(value, none ? null : end(value - down), none ? null : end(value + up), ranged);
    });
  }

  // Each point of a trace: where it stands, its value with its interval, and the text beside it.
  function pointsOf(trace, write = READ) {
    const [across, upright] = axesOf(trace), keys = valuesOf(trace, across);
    const said = saidOf(trace, upright, write, isRanged(trace, upright));
    return said.map((cells, place) => ({ key: keys[place], said: cells, text: textOf(trace, place) }));
  }

  function heatmapTable(layout, trace, write) {
    const lines = list(trace.z), columns = list(trace.x ?? list(lines[0]).keys()).map(plain);
    const measured = plain(trace.colorbar?.title?.text) || "value";
    const cells = (row) => (value, place) => {
      const number = write.number(value);
      return trace.text ? write.both(plain(trace.text[row]?.[place]), number) : [number];
    };
    const heads = columns.flatMap((name) => (trace.text ? write.bothNames(name, `${name}, ${measured}`) : [name]));
    const rows = lines.map((line, row) => [plain(list(trace.y)[row] ?? row), ...list(line).flatMap(cells(row))]);
    return { over: titleOf(axisOf(layout, trace, "x")), from: 1, named: true, head: [titleOf(axisOf(layout, trace, "y")), ...heads], rows };
  }

  // What all traces measure, where their own names do not say it.
  function sharedTitle(layout, traces) {
    const [title, ...others] = new Set(traces.map((trace) => titleOf(axisOf(layout, trace, axesOf(trace)[1]))));
    return others.length || traces.some((trace) => nameOf(layout, trace) === title) ? "" : title;
  }

  // One line a point of the shared axis, one column a trace.
  function sharedTable(layout, traces, write) {
    const lines = new Map(), heads = traces.map((trace) => write.names(nameOf(layout, trace), isRanged(trace, axesOf(trace)[1])));
    const empty = heads.flat().map(() => ""), texted = traces.some((trace) => Array.isArray(trace.text));
    const key = keyName(layout, traces[0]), first = texted ? write.bothNames(key, `${key}, text`) : [key];
    const begun = (point) => (texted ? write.both(write.number(point.key), point.text) : [write.number(point.key)]);
    let column = first.length;
    traces.forEach((trace, number) => {
      for (const point of pointsOf(trace, write)) {
        if (!lines.has(point.key)) lines.set(point.key, [...begun(point), ...empty]);
        lines.get(point.key).splice(column, point.said.length, ...point.said);
      }
      column += heads[number].length;
    });
    return { over: sharedTitle(layout, traces), from: first.length, head: [...first, ...heads.flat()], rows: [...lines.values()] };
  }

  // One line a point, for clouds; along either axis an interval has its columns as soon as one trace has it.
  function cloudTable(layout, traces, write) {
    const axes = ["x", "y"].map((letter) => ({ letter, ranged: traces.some((trace) => isRanged(trace, letter)) }));
    const heads = axes.flatMap(({ letter, ranged }) => write.names(titleOf(axisOf(layout, traces[0], letter)), ranged));
    const rows = traces.flatMap((trace) => {
      const [across, upright] = axes.map(({ letter, ranged }) => saidOf(trace, letter, write, ranged));
      const nameAt = (place) => plain(trace.name) || textOf(trace, place) || hoverName(trace, place);
      return across.map((said, place) => [nameAt(place), ...said, ...upright[place]]);
    });
    return { head: ["", ...heads], rows };
  }

  // Where a point stands is no line's name if it was measured itself.
  function isShared(traces) {
    if (traces.some((trace) => isRanged(trace, axesOf(trace)[0]))) return false;
    const kinds = traces.map((trace) => pointsOf(trace).map((point) => point.key));
    if (kinds.some((keys) => new Set(keys).size !== keys.length)) return false;
    return kinds.flat().every((key) => typeof key === "string" || Number.isInteger(key))
      || kinds.every((keys) => String(keys) === String(kinds[0]) && keys.length > 1);
  }

  function tablesOf(plot, write = READ) {
    const maps = plot.data.filter((trace) => trace.type === "heatmap"), others = plot.data.filter((trace) => !maps.includes(trace));
    const tables = maps.map((trace) => heatmapTable(plot.layout, trace, write));
    if (others.length) tables.push((isShared(others) ? sharedTable : cloudTable)(plot.layout, others, write));
    return tables;
  }

  // Labels may be what a model said: one that a spreadsheet would run is quoted.
  function csvCell(text) {
    const safe = /^[=+\-@\t\r]/.test(text) && !Number.isFinite(Number(text)) ? `'${text}` : text;
    return /[",\r\n]/.test(safe) ? `"${safe.replaceAll('"', '""')}"` : safe;
  }
  // What stands above several heads in a table for readers stands before each of them in a file.
  // But for what it says of the pointer.
  const headOf = ({ over, from, head }) => {
    const above = over?.replace(/ \([^()]*hover[^()]*\)/, "");
    return above ? head.map((text, place) => (place < from ? text : `${above}: ${text}`)) : head;
  };
  const csvOf = (plot) => tablesOf(plot, WHOLE)
    .map((table) => [headOf(table), ...table.rows].map((line) => `${line.map(csvCell).join(",")}\r\n`).join("")).join("\r\n");

  const fileName = (title) => title.toLowerCase().replace(/[^a-z0-9]+/g, "-").replace(/^-|-$/g, "");
  function save(address, name) {
    const link = document.createElement("a");
    Object.assign(link, { href: address, download: name });
    document.body.append(link);
    link.click();
    link.remove();
  }

  // On a white ground in dark ink, whatever theme is on the screen.
  function picture(plot, kind) {
    const ink = { color: "#1b2430" }, { data, layout } = plot, { width, height } = plot._fullLayout;
    const paper = { ...layout, font: { ...layout.font, ...ink }, paper_bgcolor: "#ffffff", plot_bgcolor: "#ffffff" };
    return window.Plotly.toImage({ data, layout: paper }, { format: kind, width, height, scale: kind === "png" ? 2 : 1 });
  }

  async function take(frame, kind) {
    const plot = frame.querySelector(".js-plotly-plot"), name = `${fileName(frame.dataset.figure)}.${kind}`;
    if (!plot?.data) return;
    if (kind !== "csv") return save(await picture(plot, kind), name);
    const address = URL.createObjectURL(new Blob(["\ufeff", csvOf(plot)], { type: "text/csv" }));
    save(address, name);
    setTimeout(() => URL.revokeObjectURL(address), 60000);
  }

  function takers(frame) {
    const line = document.createElement("div");
    line.className = "taken";
    for (const [kind, what] of [["csv", "numbers"], ["svg", "drawing"], ["png", "picture"]]) {
      const button = cell("button", kind.toUpperCase());
      button.type = "button";
      button.title = `Download the ${what} as ${kind.toUpperCase()}`;
      button.addEventListener("click", () => take(frame, kind));
      line.append(button);
    }
    return line;
  }

  function cell(kind, text, scope) {
    const made = document.createElement(kind);
    made.textContent = text;
    if (scope) made.scope = scope;
    return made;
  }

  // Heads that the page's glossary has, by their small letters; a report has no glossary.
  let terms = null;
  function known(head) {
    const glossary = document.getElementById("glossary");
    if (!glossary) return undefined;
    terms ??= new Map([...glossary.querySelectorAll("[data-heads]")].flatMap(
      (place) => place.dataset.heads.split("|").map((word) => [word, place]),
    ));
    // As it is; else without its weight, its number, the layer that it is of, its unit, and what stands in brackets or
    // behind a colon.
    const word = head.toLowerCase();
    return terms.get(word) ?? terms.get(word.replace(/^\S+ × | of layer \d+$| \d+(?=,|$)|\s*[,(:].*$/g, ""));
  }
  function headCell(text) {
    const made = cell("th", text, "col"), place = known(text);
    if (!place) return made;
    const term = cell("button", text);
    Object.assign(term, { type: "button", className: "term", title: place.querySelector("dd").textContent });
    term.dataset.term = place.id;
    made.replaceChildren(term);
    return made;
  }

  function drawn(table, name) {
    const made = document.createElement("table");
    made.className = "scores";
    made.createCaption().textContent = name;
    // Columns of a map go by names, of tokens or categories: the line above them says of what, and opens the glossary.
    if (table.over) {
      const over = headCell(table.over), before = cell("td", "");
      before.colSpan = table.from;
      Object.assign(over, { scope: "colgroup", colSpan: table.head.length - table.from });
      made.createTHead().insertRow().append(before, over);
    }
    const head = made.createTHead().insertRow(), [first, ...others] = table.head;
    head.append(first ? headCell(first) : cell("td", ""));
    for (const text of others) head.append(table.named ? cell("th", text, "col") : headCell(text));
    const body = made.createTBody();
    for (const [first, ...rest] of table.rows) body.insertRow().append(cell("th", first, "row"), ...rest.map((text) => cell("td", text)));
    return made;
  }

  function fill(frame) {
    const plot = frame.querySelector(".js-plotly-plot"), numbers = frame.querySelector(":scope > .numbers");
    if (!plot?.data || !numbers?.open) return;
    const found = tablesOf(plot), said = JSON.stringify([frame.dataset.figure, found]);
    if (numbers.said === said) return; // another width, say: whoever is in the table stays in it
    numbers.said = said;
    const tables = found.map((table) => drawn(table, frame.dataset.figure));
    numbers.lastElementChild.replaceChildren(...(tables.length ? [takers(frame), ...tables] : [cell("p", "Nothing is drawn yet.")]));
  }

  function name(frame, title) {
    frame.dataset.figure = title;
    const numbers = document.createElement("details");
    numbers.className = "numbers";
    numbers.innerHTML = `<summary title="Numbers of this figure; CSV, SVG, PNG">${ICON}</summary><div tabindex="0" role="region"></div>`;
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

  // What a block's figure is called may change with what is drawn there.
  const labelOf = (frame) => frame?.dataset.title ?? frame?.querySelector('[data-testid="block-label"]')?.textContent.trim();
  function called(plot, frame, label) {
    plot.setAttribute("aria-label", label);
    const numbers = frame.querySelector(":scope > .numbers");
    if (!numbers) name(frame, label);
    else if (frame.dataset.figure !== label) {
      frame.dataset.figure = label;
      numbers.firstElementChild.setAttribute("aria-label", `Numbers: ${label}`);
      numbers.lastElementChild.setAttribute("aria-label", `Table: ${label}`);
    }
    fill(frame);
  }

  new MutationObserver(() => {
    for (const plot of document.querySelectorAll(".js-plotly-plot:not([data-named])")) {
      const frame = plot.closest(".block, figure"); // of the page, and of a report
      const label = labelOf(frame);
      if (!label || typeof plot.on !== "function") continue;
      plot.dataset.named = "yes";
      plot.setAttribute("role", "img");
      plot.on("plotly_afterplot", () => called(plot, frame, labelOf(frame) || label));
      called(plot, frame, label);
    }
  }).observe(document.documentElement, { childList: true, subtree: true });
})();
