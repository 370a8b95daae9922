// Draws the figures of a report, one after the other, so that the text can be read at once. On paper each one's box is as
// wide as the paper: the drawing is scaled with it.
(() => {
  const config = { displayModeBar: false, responsive: true };
  const scaled = (plot) => {
    for (const drawing of plot.querySelectorAll(".main-svg")) {
      drawing.setAttribute("viewBox", `0 0 ${drawing.getAttribute("width")} ${drawing.getAttribute("height")}`);
    }
    plot.style.setProperty("--shape", `${plot.offsetWidth} / ${plot.offsetHeight}`);
  };
  const waiting = [...document.querySelectorAll("script[data-figure]")];
  function next() {
    const told = waiting.shift();
    if (!told) return;
    const { data, layout } = JSON.parse(told.textContent);
    Plotly.newPlot(document.getElementById(told.dataset.figure), data, layout, config).then((plot) => {
      plot.on("plotly_afterplot", () => scaled(plot));
      scaled(plot);
    });
  }
  function inTurn() {
    next();
    if (waiting.length) setTimeout(inTurn);
  }
  window.addEventListener("beforeprint", () => { while (waiting.length) next(); });
  setTimeout(inTurn);
})();
