// Draws the figures of a report. Each one's box is on paper as wide as the paper: the drawing is scaled with it.
(() => {
  const config = { displayModeBar: false, responsive: true };
  const scaled = (plot) => {
    for (const drawing of plot.querySelectorAll(".main-svg")) {
      drawing.setAttribute("viewBox", `0 0 ${drawing.getAttribute("width")} ${drawing.getAttribute("height")}`);
    }
    plot.style.setProperty("--shape", `${plot.offsetWidth} / ${plot.offsetHeight}`);
  };
  for (const told of document.querySelectorAll("script[data-figure]")) {
    const { data, layout } = JSON.parse(told.textContent), box = document.getElementById(told.dataset.figure);
    delete layout.width;
    Plotly.newPlot(box, data, layout, config).then((plot) => {
      plot.on("plotly_afterplot", () => scaled(plot));
      scaled(plot);
    });
  }
})();
