// Gradio puts a new place where a figure's value changes, and lets plotly draw into that. Here the drawing that the block has
// goes into the new place, and plotly changes what differs: nothing flickers, what listens to it stays, and so does a
// zoom while points are added to the same lines. A click on a figure that picks fills the sliders that it names.
(() => {
  const drawings = new WeakMap(); // of blocks

  // What a line begins with tells it from another one. Many numbers come in binary.
  const first = (values) => values?.bdata?.slice(0, 5) ?? values?.[0];
  const begun = (data) => JSON.stringify(data.map((trace) => [trace.type, trace.name, first(trace.x), first(trace.y)]));

  // gr.Plot has no event of a click, and Gradio's slider none that a script could send in a person's place. What a figure
  // picks stands in its block's classes (kit/drawing/plots.py): with `picks-x-block` the slider #block takes the point's x.
  const PICKS = /^picks-(x|y|column)-(.+)$/;
  const ALONG = { x: (point) => point.x, y: (point) => point.y, column: (point) => point.pointIndex[1] };
  function pick(block, point) {
    for (const [, along, slider] of [...block.classList].map((name) => PICKS.exec(name)).filter(Boolean)) {
      const input = document.querySelector(`#${slider} input[type=number]`);
      if (!input) continue;
      Object.getOwnPropertyDescriptor(HTMLInputElement.prototype, "value").set.call(input, String(ALONG[along](point)));
      for (const name of ["input", "change", "blur"]) input.dispatchEvent(new Event(name, { bubbles: true }));
    }
  }

  function drawInPlace(plotly) {
    const { react } = plotly, { resize } = plotly.Plots;
    plotly.react = (place, data, layout, config) => {
      const block = place.closest?.(".block");
      if (!block || place.matches(".js-plotly-plot")) return react(place, data, layout, config);
      if (!drawings.has(block)) drawings.set(block, document.createElement("div"));
      const drawing = drawings.get(block);
      if (drawing.parentNode !== place) place.replaceChildren(drawing);
      // Plotly forgets a figure's height when the window changes, and takes that of the element then.
      drawing.style.height = layout.height ? `${layout.height}px` : "";
      const drawn = react(drawing, data, { uirevision: begun(data), ...layout }, config);
      if (!drawing.dataset.picks) {
        drawing.dataset.picks = "yes";
        drawing.on("plotly_click", ({ points }) => pick(block, points[0]));
      }
      return drawn;
    };
    plotly.Plots.resize = (place) => resize(place.querySelector?.(":scope > .js-plotly-plot") ?? place);
  }

  // Gradio's script of plotly comes with the first figure, and says so here.
  let there;
  Object.defineProperty(window, "Plotly", {
    configurable: true,
    get: () => there,
    set(plotly) {
      there = plotly;
      drawInPlace(plotly);
    },
  });
})();
