"""What is folded below the operation: parts behind one line, each of them one press away."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import gradio as gr

from dashboard.heading import coming
from dashboard.kit.drawing.plain import escape

PRESSED = """
element.addEventListener("click", (event) => {
  const part = event.target.closest("button")?.dataset.part;
  if (part === undefined) return;
  window.dinmDetail = Number(part);
  trigger("click");
});
"""
OPEN = """() => {
  window.dinmDetailOpens?.();
  return [{ __type__: "update", open: true }, { __type__: "update", selected: window.dinmDetail }];
}"""
"""Opens a part in the browser alone; ``assets/page.js`` brings it into sight then."""


def build(parts: Sequence[tuple[str, Callable[[], object]]]) -> gr.Accordion:
    """Lay out the line, its parts, and a button for each of them while they are folded.

    Args:
        parts: What stands on each part's tab, and what lays it out, in order.

    Returns:
        What is folded; the browser is given what stands in it when it is first unfolded.
    """
    buttons = "".join(
        f'<button type="button" data-part="{number}">{escape(title)}</button>'
        for number, (title, _) in enumerate(parts)
    )
    with gr.Column(elem_id="details-line"):
        shortcuts = gr.HTML(
            f'<nav aria-label="Parts that are folded">{buttons}</nav>', elem_id="shortcuts", js_on_load=PRESSED
        )
        folded = gr.Accordion("Details", open=False, elem_id="details")
        with folded, gr.Tabs() as tabs:
            for number, (title, lay_out) in enumerate(parts):
                with gr.Tab(title, id=number):
                    lay_out()
        gr.HTML(coming("details-coming"), elem_classes="coming", padding=False)
    shortcuts.click(None, None, [folded, tabs], js=OPEN, show_progress="hidden", api_visibility="private")
    return folded
