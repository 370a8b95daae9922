// The tour: six stops over the page's own elements, offered at a first visit by a small line, again from the help.
(() => {
  const STOPS = [
    { at: ["#question", "#rail-switch"], title: "Start with a question",
      text: () => `${off("#question textarea") ? "Pick" : "Write one of your own, or pick"} one of the mild examples below it. Attack, both answers and suffix are folded under it. The head names the model; where several are listed, its name opens a menu.` },
    { at: ["#step-locate"], title: "Where the answers part",
      text: "One bar a layer: how far apart the model is after it when it gives the safe and the unsafe answer. Click a bar to pick a layer." },
    { at: ["#operate"], title: "Operate does all of it",
      text: "It locates, edits one matrix of one layer, asks a small exam whether the edit is good enough, and compares. Cancel stops within one step and leaves nothing behind but a first edit that the gate has passed." },
    { at: ["#step-operate"], title: "Vital signs and the gate",
      text: "The loss, the harm to harmless answers and both answers' probability, live. Below them the gate's word: what it refuses is held back until you keep it." },
    { at: ["#answers", "#vanilla"], title: "Before and after",
      text: "Both weights answer the same prompt, side by side. Strength scales the edit, Undo takes it away exactly. Unsafe text stays covered until you click it." },
    { at: ["nav.views"], title: "More views of the same case",
      text: "Score the edit, ask why this layer, compare methods, keep the edit and a report of the visit, read ten questions. Words with dots under them tell their meaning; ? has the help." },
  ];
  const SEEN = "dinm-inspector-tour";
  const find = (selector) => document.querySelector(selector);
  const off = (selector) => Boolean(find(selector)?.disabled);
  const shown = (part) => part && part.getClientRects().length > 0 && getComputedStyle(part).visibility !== "hidden";
  const read = () => { try { return localStorage.getItem(SEEN); } catch { return "off"; } };
  const write = (value) => { try { localStorage.setItem(SEEN, value); } catch { /* private windows keep nothing */ } };

  let box = null, stop = 0, before = null;
  const target = () => STOPS[stop].at.map(find).find(shown) ?? find("#main");

  // Beside its element where there is room, else below or above it; never outside the window.
  function place() {
    if (!box) return;
    const around = target().getBoundingClientRect(), own = box.getBoundingClientRect(), gap = 12;
    const wide = innerWidth - 16, high = innerHeight - 16;
    let left = around.right + gap, top = around.top;
    if (left + own.width > wide) left = around.left - gap - own.width;
    if (left < 16 || around.height < 60) { // a line, or as wide as the window: below it, else above
      left = Math.min(around.left, wide - own.width);
      top = around.bottom + gap;
      if (top + own.height > high && around.top - gap - own.height > 16) top = around.top - gap - own.height;
    }
    box.style.left = `${Math.max(16, Math.min(left, wide - own.width))}px`;
    box.style.top = `${Math.max(16, Math.min(top, high - own.height))}px`;
  }

  function draw() {
    document.querySelectorAll(".tour-at").forEach((part) => part.classList.remove("tour-at"));
    const part = target(), { title, text } = STOPS[stop];
    part.classList.add("tour-at");
    part.scrollIntoView({ block: "nearest" });
    box.querySelector("h2").textContent = title;
    box.querySelector("p").textContent = typeof text === "function" ? text() : text;
    box.querySelector(".count").textContent = `${stop + 1} of ${STOPS.length}`;
    box.querySelector("[data-go='-1']").disabled = stop === 0;
    box.querySelector("[data-go='1']").textContent = stop === STOPS.length - 1 ? "Done" : "Next";
    place();
    box.querySelector("h2").focus({ preventScroll: true });
  }

  function go(by) {
    stop += by;
    if (stop >= STOPS.length) end();
    else draw();
  }

  function end() {
    write("seen");
    document.querySelectorAll(".tour-at").forEach((part) => part.classList.remove("tour-at"));
    box?.remove();
    box = null;
    const back = before?.isConnected && shown(before) ? before : find("#help-switch");
    back?.focus({ preventScroll: true });
  }

  function begin() {
    find("#tour-offer")?.remove();
    if (box) return;
    write("seen");
    before = document.activeElement === document.body ? null : document.activeElement;
    find("nav.views a[data-view=operate]")?.click();
    if (document.body.classList.contains("help-open")) find("#help-switch").click();
    stop = 0;
    box = document.createElement("div");
    box.id = "tour";
    box.setAttribute("role", "dialog");
    box.setAttribute("aria-modal", "true");
    box.setAttribute("aria-labelledby", "tour-title");
    box.setAttribute("aria-describedby", "tour-text");
    box.innerHTML = '<h2 id="tour-title" tabindex="-1"></h2><p id="tour-text"></p><div><span class="count"></span>'
      + '<button type="button" class="chip chip-button" data-go="0">Skip</button>'
      + '<button type="button" class="chip chip-button" data-go="-1">Back</button>'
      + '<button type="button" class="chip chip-button" data-go="1">Next</button></div>';
    find(".gradio-container").append(box);
    box.addEventListener("click", (event) => {
      const by = event.target.closest("[data-go]")?.dataset.go;
      if (by !== undefined) by === "0" ? end() : go(Number(by));
    });
    // Tab stays in the dialog.
    box.addEventListener("keydown", (event) => {
      const buttons = [...box.querySelectorAll("button:not(:disabled)")], at = buttons.indexOf(document.activeElement);
      if (event.key === "Escape") { event.stopPropagation(); end(); }
      if (event.key === "ArrowRight") go(1);
      if (event.key === "ArrowLeft" && stop > 0) go(-1);
      if (event.key !== "Tab") return;
      event.preventDefault();
      buttons.at((at < 0 ? (event.shiftKey ? -1 : 0) : at + (event.shiftKey ? -1 : 1)) % buttons.length).focus();
    });
    draw();
  }

  // A line in the rail; on a phone, where the rail is a drawer, in the head.
  function offer() {
    const line = document.createElement("div");
    line.id = "tour-offer";
    line.innerHTML = '<span>New here?</span><button type="button" class="chip chip-button">Take the tour</button>'
      + '<button type="button" class="chip chip-button" aria-label="No tour">×</button>';
    line.children[1].addEventListener("click", begin);
    line.children[2].addEventListener("click", () => { write("seen"); line.remove(); });
    (matchMedia("(max-width: 900px)").matches ? find("#top") : find("#rail")).prepend(line);
  }

  window.addEventListener("resize", place);
  window.addEventListener("scroll", place, { passive: true, capture: true });
  document.addEventListener("click", (event) => {
    if (event.target instanceof Element && event.target.closest("#take-tour")) begin();
  });
  const waiting = new MutationObserver(() => {
    if (!find("#rail #question") || !find("nav.views a") || !find("#operate")) return;
    waiting.disconnect();
    if (read() === null) offer();
  });
  waiting.observe(document.documentElement, { childList: true, subtree: true });
})();
