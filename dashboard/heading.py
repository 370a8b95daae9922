"""The head of the page, its help, and what it says of a calibration in the background."""

from __future__ import annotations

from html import escape

from dashboard.kit.html import progress_bar, reading
from inspector.model import InspectedModel

VIEWS = {"operate": "Operate", "stress": "Stress test", "why": "Why this layer", "methods": "Methods", "keep": "Keep"}
"""The views of the page by the names in its address: the only list of them; the operation comes first."""


def view_rules() -> str:
    """Return the style rules that show the view which the page's script has named on ``body``, else the first."""
    named = [f'body[data-view="{name}"] #view-{name}' for name in VIEWS]
    return f"{', '.join([*named, 'body:not([data-view]) #view-operate'])} {{ display: flex !important; }}"


def header(model: InspectedModel) -> str:
    """Return the page's name and the chip of the model."""
    about = f"{model.blocks} layers · {escape(model.dtype_name)} · {escape(' + '.join(map(str, model.devices)))}"
    chip = f"<b>{escape(model.name)}</b> · {about}"
    return (
        '<header class="mast"><button type="button" class="chip chip-button" id="skip">Skip the case</button>'
        '<button type="button" class="chip chip-button" id="rail-switch" aria-expanded="false">Case</button>'
        "<h1>DINM Inspector</h1>"
        f'<span class="chip model" title="fingerprint {escape(model.fingerprint)}">{chip}</span></header>'
    )


def views() -> str:
    """Return the links to the views, the theme switch and the help."""
    links = "".join(f'<a href="#{name}" data-view="{name}">{title}</a>' for name, title in VIEWS.items())
    return (
        f'<nav class="views" aria-label="Views">{links}'
        '<button type="button" class="chip chip-button" id="theme-switch" aria-label="Dark theme">◐</button>'
        '<button type="button" class="chip chip-button" id="help-switch" aria-label="Help" aria-expanded="false">?'
        "</button></nav>"
    )


HELP = """<div class="help"><ol>
<li><b>Case.</b> Write a question on the left or pick an example; attack, answers and suffix are folded below it.</li>
<li><b>Operate</b> does the whole thing: it locates where the safe and the unsafe answer part, edits one matrix of the
recommended layer (or of the toxic one, where they part most), and lets both weights answer the same prompt.</li>
<li><b>Locate</b> and <b>Edit layer</b> do one part each; a click on a bar picks another layer. Cancel stops within one
step and leaves nothing behind. <b>Undo</b> is exact.</li>
<li><b>Strength</b> scales the edit; <b>Ask both</b> asks other prompts of the case, or your own text.</li>
<li><b>Stress test, Why this layer, Methods</b> are views of the same page, above; <b>Keep</b> writes a report of what
you did, and code that repeats it.</li></ol>
<p>The base weights are never written: an edit is a patch that acts for your visit alone. Answers stay blurred until
they are judged safe or you click them.</p></div>"""


def calibrating(said: str, share: float, ended: bool) -> str:
    """Say how far the calibration in the background is, or how it ended."""
    if ended:
        return reading(said)
    text = "Calibrating this model in the background, once: where edits work, what is harmful"
    return progress_bar(f"{text}. {said}, {100 * share:.0f} %", share)
