// What Gradio's components cannot do: views by the address, theme, drawer and help, reveal of blurred text,
// picking a layer by clicking a bar.
(() => {
  const VIEWS = ["operate", "stress", "why", "methods"];
  const KEPT = "dinm-inspector-theme";
  const opened = new Set(["operate"]);

  // The address names the view; Back works because the browser keeps addresses.
  function show() {
    const named = location.hash.slice(1);
    const view = VIEWS.includes(named) ? named : "operate";
    document.body.dataset.view = view;
    document.body.classList.remove("rail-open");
    for (const link of document.querySelectorAll("nav.views a")) {
      if (link.dataset.view === view) link.setAttribute("aria-current", "page");
      else link.removeAttribute("aria-current");
    }
    const opener = document.querySelector(`#open-${view}`);
    if (opener && !opened.has(view)) {
      opened.add(view);
      opener.click(); // its content comes now
    }
    window.dispatchEvent(new Event("resize")); // figures take the width that they have now
  }
  window.addEventListener("hashchange", show);

  function dark(on) {
    document.body.classList.toggle("dark", on);
    try { localStorage.setItem(KEPT, on ? "dark" : "light"); } catch { /* private windows keep nothing */ }
  }

  function reveal(pane) {
    // gr.HTML gives its classes to a frame and to what is in it.
    for (let part = pane; part; part = part.parentElement?.closest(".blurred")) part.classList.add("revealed");
    pane.querySelector("textarea, .answer")?.removeAttribute("aria-hidden");
  }

  document.addEventListener("click", (event) => {
    const target = event.target instanceof Element ? event.target : null;
    if (!target) return;
    if (target.closest("#theme-switch")) dark(!document.body.classList.contains("dark"));
    if (target.closest("#help-switch")) document.body.classList.toggle("help-open");
    else if (!target.closest("#help")) document.body.classList.remove("help-open");
    if (target.closest("#rail-switch")) {
      const head = document.querySelector("#top");
      if (head) document.body.style.setProperty("--top-height", `${head.offsetHeight}px`); // it wraps on a phone
      document.body.classList.toggle("rail-open");
    } else if (!target.closest("#rail") && target.isConnected) document.body.classList.remove("rail-open");
    const blurred = target.closest(".blurred");
    if (blurred) reveal(blurred);
  });

  document.addEventListener("keydown", (event) => {
    if (event.key === "Escape") document.body.classList.remove("help-open", "rail-open");
    const pane = event.target instanceof Element && event.target.matches(".blurred") ? event.target : null;
    if (pane && (event.key === "Enter" || event.key === " ")) reveal(pane);
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

  let started = false;
  // gr.Plot has no click event, and every update draws a new plot: bind to each one once.
  new MutationObserver(() => {
    if (!started && document.querySelector("nav.views a") && document.querySelector("#open-methods")) {
      started = true;
      let kept = null;
      try { kept = localStorage.getItem(KEPT); } catch { /* private windows keep nothing */ }
      if (kept && !new URLSearchParams(location.search).has("__theme")) dark(kept === "dark");
      show();
    }
    for (const pane of document.querySelectorAll(".blurred:not([tabindex])")) pane.tabIndex = 0;
    // What is blurred is not read out either, until it is revealed.
    for (const text of document.querySelectorAll("textarea, .answer")) {
      const covered = !(text instanceof HTMLTextAreaElement && !text.disabled) && text.closest(".blurred:not(.revealed)") !== null;
      if (covered === (text.getAttribute("aria-hidden") === "true")) continue;
      if (covered) text.setAttribute("aria-hidden", "true");
      else text.removeAttribute("aria-hidden");
    }
    for (const [name, picked] of Object.entries(PICKS)) {
      const plot = document.querySelector(`${name} .js-plotly-plot`);
      if (!plot || plot.dataset.picks || typeof plot.on !== "function") continue;
      plot.dataset.picks = "yes";
      plot.on("plotly_click", (data) => picked(data.points[0]));
    }
  }).observe(document.documentElement, { childList: true, subtree: true });
})();
