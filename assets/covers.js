// Texts that are not known to be safe stay covered until a person uncovers them: blurred, not read out, not editable.
// The cover belongs to the text: another text in the same place is covered anew.
(() => {
  const COVERED = ".blurred:not(.revealed)";
  const held = Object.getOwnPropertyDescriptor(HTMLTextAreaElement.prototype, "value");

  // gr.HTML gives its classes to a frame and to what is in it: the outermost one is what a person presses.
  const frame = (part) => {
    let outer = part.closest(".blurred");
    for (let next = outer; next; next = next.parentElement?.closest(".blurred")) outer = next;
    return outer;
  };
  const layers = (outer) => [outer, ...outer.querySelectorAll(".blurred")];

  function uncover(outer) {
    for (const layer of layers(outer)) layer.classList.add("revealed");
    look();
    (outer.querySelector("textarea") ?? outer).focus();
  }

  function cover(outer) {
    for (const layer of layers(outer)) layer.classList.remove("revealed");
    look();
  }

  // Gradio writes another text into a field without an event or a change of the page's elements.
  function watch(area) {
    Object.defineProperty(area, "value", {
      configurable: true,
      get() { return held.get.call(area); },
      set(text) {
        const other = text !== held.get.call(area);
        held.set.call(area, text);
        const outer = frame(area);
        if (other && outer) cover(outer);
      },
    });
    area.dataset.watched = "yes";
  }

  function look() {
    for (const area of document.querySelectorAll(".blurred textarea:not([data-watched])")) {
      watch(area);
      cover(frame(area)); // a new field in a place that was uncovered
    }
    for (const pane of document.querySelectorAll(".blurred, [data-cover]")) {
      if (pane.parentElement?.closest(".blurred")) continue;
      const covered = pane.matches(COVERED);
      for (const text of pane.querySelectorAll("textarea, .answer")) {
        const area = text instanceof HTMLTextAreaElement;
        if (area && text.inert !== covered) text.inert = covered;
        if (covered === (text.getAttribute("aria-hidden") === "true")) continue;
        if (covered) text.setAttribute("aria-hidden", "true");
        else text.removeAttribute("aria-hidden");
      }
      if (covered && !pane.hasAttribute("aria-label")) { // Gradio takes it away when it writes other classes
        const what = pane.querySelector("textarea") ? "The unsafe answer" : "An answer that is not judged safe";
        pane.setAttribute("aria-label", `${what} is covered. Press Enter to show it.`);
      }
      if (covered === (pane.dataset.cover === "yes")) continue;
      pane.dataset.cover = covered ? "yes" : "no";
      if (covered) {
        pane.tabIndex = 0;
        pane.setAttribute("role", "button");
      } else {
        for (const name of ["role", "aria-label"]) pane.removeAttribute(name);
        if (pane.querySelector("textarea")) pane.removeAttribute("tabindex");
      }
    }
  }

  document.addEventListener("click", (event) => {
    const outer = event.target instanceof Element ? frame(event.target) : null;
    if (outer?.matches(COVERED)) uncover(outer);
  });
  document.addEventListener("keydown", (event) => {
    const pane = event.target instanceof Element && event.target.matches(COVERED) ? event.target : null;
    if (!pane || !(event.key === "Enter" || event.key === " ")) return;
    event.preventDefault();
    uncover(frame(pane));
  });
  new MutationObserver(look).observe(document.documentElement, {
    childList: true, subtree: true, attributes: true, attributeFilter: ["class", "disabled"],
  });
})();
