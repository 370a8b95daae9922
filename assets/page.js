// What Gradio's components cannot do: views by the address, theme, drawer and help.
(() => {
  const opened = new Set(["operate"]);
  const find = (selector) => document.querySelector(selector);

  // What survives a reload beside the address; private windows keep nothing.
  const kept = {
    read(name) { try { return localStorage.getItem(`dinm-inspector-${name}`); } catch { return null; } },
    write(name, value) { try { localStorage.setItem(`dinm-inspector-${name}`, value); } catch { /* see above */ } },
  };

  // A link is taken out of the address before anything is drawn, so that a reload keeps what was done since; it waits in
  // the tab until the page stands, also behind a log-in.
  const PARTS = ["link", "case", "layer"];
  const WAITING = "dinm-inspector-link";
  (function takeLink() {
    const query = new URLSearchParams(location.search);
    const found = PARTS.filter((name) => query.has(name)).map((name) => [name, query.get(name)]);
    if (!found.length) return;
    try { sessionStorage.setItem(WAITING, JSON.stringify(Object.fromEntries(found))); } catch { return; }
    for (const name of PARTS) query.delete(name);
    const left = String(query);
    history.replaceState(null, "", `${location.pathname}${left ? `?${left}` : ""}${location.hash}`);
  })();
  const waitingLink = () => { try { return sessionStorage.getItem(WAITING) ?? ""; } catch { return ""; } };
  // A view other than the first waits for the link, so that it is drawn by what that has filled, and is drawn once.
  let linked = waitingLink() !== "";
  window.dinmLinkOpened = () => {
    if (!linked) return;
    linked = false;
    show();
  };
  if (linked) setTimeout(window.dinmLinkOpened, 20000); // whatever has become of it
  window.dinmLink = () => {
    const found = waitingLink();
    try { sessionStorage.removeItem(WAITING); } catch { /* it was never kept */ }
    return found;
  };

  // What comes from the server is said where it will stand.
  function say(place, text) {
    const line = find(place);
    if (line && line.textContent !== text) line.textContent = text;
  }
  function coming() {
    const view = document.body.dataset.view;
    say("#view-coming", view && !find(`#view-${view}`) ? "Opening this view" : "");
  }

  // The address names the view; Back works because the browser keeps addresses.
  function show() {
    const named = location.hash.slice(1);
    const views = [...document.querySelectorAll("nav.views a")].map((link) => link.dataset.view);
    const view = views.includes(named) ? named : "operate";
    const turned = document.body.dataset.view && document.body.dataset.view !== view;
    document.body.dataset.view = view;
    drawer(false);
    for (const link of document.querySelectorAll("nav.views a")) {
      if (link.dataset.view === view) link.setAttribute("aria-current", "page");
      else link.removeAttribute("aria-current");
    }
    // On a phone the row of views scrolls.
    find("nav.views a[aria-current]")?.scrollIntoView({ block: "nearest", inline: "center" });
    const opener = find(`#open-${view}`);
    if (opener && !linked && !opened.has(view)) {
      opened.add(view);
      opener.click(); // its content comes now
      setTimeout(() => {
        if (find(`#view-${view}`)) return;
        opened.delete(view); // the press was lost on its way
        if (document.body.dataset.view === view) show();
      }, 30000);
    }
    coming();
    if (turned) window.scrollTo(0, 0);
    window.dispatchEvent(new Event("resize")); // figures take the width that they have now
  }
  window.addEventListener("hashchange", show);
  window.addEventListener("popstate", show);
  document.addEventListener("focusin", (event) => {
    if (event.target.closest("nav.views a")) event.target.scrollIntoView({ block: "nearest", inline: "center" });
  });

  // Buttons bear the names of views as ids; the browser would scroll to them if it followed the link itself.
  function turn(view) {
    // Written out, because Gradio sets a base address, and plotly's patterns are lost once the query is another one.
    if (location.hash !== `#${view}`) history.pushState(null, "", `${location.pathname}${location.search}#${view}`);
    show();
  }

  function dark(on) {
    document.body.classList.toggle("dark", on);
    find("#theme-switch")?.setAttribute("aria-pressed", String(on));
    kept.write("theme", on ? "dark" : "light");
  }

  function help(on) {
    document.body.classList.toggle("help-open", on);
    find("#help-switch")?.setAttribute("aria-expanded", String(on));
    kept.write("help", on ? "open" : "");
  }

  // A term opens the glossary at its place; Escape goes back to it.
  let asked = null;
  function explain(term) {
    const place = document.getElementById(term.dataset.term), glossary = find("#glossary");
    if (!place || !glossary) return;
    if (!term.closest("#help")) asked = term;
    help(true);
    glossary.open = true;
    for (const picked of glossary.querySelectorAll("[aria-current]")) picked.removeAttribute("aria-current");
    place.setAttribute("aria-current", "true");
    place.scrollIntoView({ block: "center" });
    place.focus({ preventScroll: true });
  }

  function drawer(on) {
    const head = find("#top"), was = document.body.classList.contains("rail-open");
    if (head) document.body.style.setProperty("--top-height", `${head.offsetHeight}px`); // it wraps on a phone
    document.body.classList.toggle("rail-open", on);
    find("#rail-switch")?.setAttribute("aria-expanded", String(on));
    if (was && !on && find("#rail")?.contains(document.activeElement)) find("#rail-switch")?.focus();
  }

  document.addEventListener("click", (event) => {
    const target = event.target instanceof Element ? event.target : null;
    if (!target) return;
    const link = target.closest("a[data-view]");
    if (link && !(event.ctrlKey || event.metaKey || event.shiftKey)) {
      event.preventDefault();
      turn(link.dataset.view);
      if (link.closest("#help")) help(false);
    }
    if (target.closest("#skip")) find("#main")?.focus();
    for (const over of document.querySelectorAll("details.over[open]")) if (!over.contains(target)) over.open = false;
    if (target.closest("#copy-link")) find("#make-link")?.click();
    else if (!target.closest("#link-made, #make-link")) document.body.classList.remove("link-open");
    if (target.closest("#theme-switch")) dark(!document.body.classList.contains("dark"));
    const open = document.body.classList.contains("help-open");
    if (target.closest("#help-switch")) help(!open);
    else if (open && event.isTrusted && !target.closest("#help, .term")) help(false);
    const term = target.closest(".term");
    if (term) explain(term);
    if (target.closest("#rail-switch")) drawer(!document.body.classList.contains("rail-open"));
    else if (!target.closest("#rail") && target.isConnected) drawer(false);
  });

  document.addEventListener("keydown", (event) => {
    if (event.key !== "Escape") return;
    for (const over of document.querySelectorAll("details.over[open]")) {
      if (over.contains(document.activeElement)) over.firstElementChild.focus();
      over.open = false;
    }
    if (document.body.classList.contains("help-open")) {
      help(false);
      (asked?.isConnected ? asked : find("#help-switch"))?.focus();
      asked = null;
    }
    if (document.body.classList.contains("link-open")) {
      document.body.classList.remove("link-open");
      find("#copy-link")?.focus();
    }
    drawer(false);
  });

  // Gradio's slider has no event for a number that keys have set on its track: Strength takes it once they rest.
  let rest;
  document.addEventListener("keyup", (event) => {
    const track = event.target instanceof Element ? event.target.closest("#strength input[type=range]") : null;
    if (!track || !/^(Arrow|Page|Home$|End$)/.test(event.key)) return;
    clearTimeout(rest);
    rest = setTimeout(() => {
      if (!track.disabled) track.dispatchEvent(new PointerEvent("pointerup", { bubbles: true }));
    }, 800);
  });

  // What was folded is drawn once it opens: the tab that was asked for is brought into sight then, and has the focus.
  window.dinmDetailOpens = (left = 600) => {
    const title = find(`#shortcuts [data-part="${window.dinmDetail}"]`).textContent;
    const open = [...document.querySelectorAll("#details [role=tab][aria-selected=true]")].find(
      (tab) => tab.textContent.trim() === title && tab.checkVisibility(),
    );
    if (!open && left > 0) setTimeout(window.dinmDetailOpens, 50, left - 1);
    open?.focus({ preventScroll: true });
    if (open) scrollBy({ top: find("#details-line").getBoundingClientRect().top - find("#top").offsetHeight - 8 });
  };

  // What stands in the details comes when they are first unfolded.
  function unfold() {
    const opener = find("#open-details"), fold = find("#details");
    if (!opener || opened.has("details")) return;
    if (linked) { setTimeout(unfold, 100); return; } // what a link fills is drawn with it
    opened.add("details");
    opener.click();
    fold.setAttribute("aria-busy", "true");
    say("#details-coming", "Opening the details");
    const began = Date.now(), look = setInterval(() => {
      const there = find("#details [role=tab]");
      if (!there && Date.now() - began < 30000) return;
      clearInterval(look);
      fold.removeAttribute("aria-busy");
      say("#details-coming", "");
      if (there) return;
      opened.delete("details"); // the press was lost on its way
      if (find("#details > .label-wrap.open")) unfold();
    }, 50);
  }
  document.addEventListener("click", (event) => {
    if (event.target.closest("#details > button, #details > .label-wrap, #shortcuts button")) unfold();
  }, true);
  // A figure that was hidden as it was drawn takes the width that it has once it is seen.
  let resizing = null;
  const widths = new ResizeObserver((entries) => {
    for (const { target, contentRect } of entries) {
      const drawn = target.querySelector(".main-svg")?.clientWidth ?? contentRect.width;
      if (!contentRect.width || Math.abs(drawn - contentRect.width) < 3 || resizing !== null) continue;
      resizing = setTimeout(() => { resizing = null; window.dispatchEvent(new Event("resize")); }, 50);
    }
  });

  function start() {
    const theme = kept.read("theme");
    if (theme && !new URLSearchParams(location.search).has("__theme")) dark(theme === "dark");
    find("#theme-switch").setAttribute("aria-pressed", String(document.body.classList.contains("dark")));
    help(kept.read("help") === "open");
    for (const [part, name] of [["#rail", "Case"], ["#main", "View"]]) {
      find(part).setAttribute("role", "region");
      find(part).setAttribute("aria-label", name);
    }
    find("#main").tabIndex = -1;
    show();
  }

  let started = false;
  new MutationObserver(() => {
    // What closes a message of Gradio's is a button within a button: only the inner one stays one.
    for (const head of document.querySelectorAll(".toast-header[role=button]")) {
      for (const name of ["role", "tabindex"]) head.removeAttribute(name);
    }
    if (find("#header h1")) find("#early")?.remove(); // it stood in the page before its scripts
    if (!started && find("nav.views a") && find("#main .opener") && find("#rail")) {
      started = true;
      start();
    }
    coming();
    for (const plot of document.querySelectorAll(".js-plotly-plot:not([data-sized])")) {
      plot.dataset.sized = "yes";
      widths.observe(plot);
    }
  }).observe(document.documentElement, { childList: true, subtree: true });
})();
