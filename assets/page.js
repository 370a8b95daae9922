// What Gradio's components cannot do: theme switch, reveal of blurred text, picking a layer by clicking a bar.
(() => {
  document.addEventListener("click", (event) => {
    const target = event.target instanceof Element ? event.target : null;
    if (!target) return;
    if (target.closest("#theme-switch")) document.body.classList.toggle("dark");
    const blurred = target.closest(".blurred");
    if (blurred) blurred.classList.add("revealed");
  });

  document.addEventListener("keydown", (event) => {
    const pane = event.target instanceof Element && event.target.matches(".blurred") ? event.target : null;
    if (pane && (event.key === "Enter" || event.key === " ")) pane.classList.add("revealed");
  });

  function pick(block, slider = "#block") {
    const input = document.querySelector(`${slider} input[type=number]`);
    if (!input) return;
    Object.getOwnPropertyDescriptor(HTMLInputElement.prototype, "value").set.call(input, String(block));
    for (const name of ["input", "change", "blur"]) input.dispatchEvent(new Event(name, { bubbles: true }));
  }

  const PICKS = {
    "#curve": (point) => pick(point.x),
    "#why-locators": (point) => pick(point.x),
    "#why-atlas": (point) => pick(point.x),
    "#why-regions": (point) => pick(point.x),
    // Columns of the lens are named "position: token"; the heatmap's point knows which one it is.
    "#why-lens": (point) => { pick(point.y); pick(point.pointIndex[1], "#why-place"); },
  };

  // gr.Plot has no click event, and every update draws a new plot: bind to each one once.
  new MutationObserver(() => {
    for (const pane of document.querySelectorAll(".blurred:not([tabindex])")) pane.tabIndex = 0;
    for (const [name, picked] of Object.entries(PICKS)) {
      const plot = document.querySelector(`${name} .js-plotly-plot`);
      if (!plot || plot.dataset.picks || typeof plot.on !== "function") continue;
      plot.dataset.picks = "yes";
      plot.on("plotly_click", (data) => picked(data.points[0]));
    }
  }).observe(document.documentElement, { childList: true, subtree: true });
})();
