"""The head of the page, its help, and what it says of a calibration in the background."""

from __future__ import annotations

from html import escape

from dashboard.kit.html import progress_bar, reading
from inspector.model import InspectedModel


def header(model: InspectedModel) -> str:
    """Return the page's head: name, one line, model chip, theme switch, help."""
    chip = (
        f"<b>{escape(model.name)}</b> {model.blocks} layers (0-{model.blocks - 1}) · d_model "
        f"{model.architecture.d_model:,} · {escape(model.dtype_name)} · {escape(str(model.device))}"
    )
    return (
        '<header class="mast"><div class="mast-text"><h1>DINM Inspector</h1>'
        "<p>Locate where a safe and an unsafe answer part, edit one weight matrix there, and compare.</p></div>"
        f'<div class="mast-side"><span class="chip" title="fingerprint {escape(model.fingerprint)}">{chip}</span>'
        '<button type="button" class="chip chip-button" id="theme-switch">Light / dark</button></div></header>'
    )


HELP = """<div class="help"><ol>
<li><b>Prompt.</b> Pick an example on the left or write your own question, attack template and two answers.</li>
<li><b>Locate.</b> The model reads both answers; one bar a layer shows how far apart they are inside it. The layer
where they part most is DINM's toxic layer. You can pick another.</li>
<li><b>Operate.</b> DINM changes that layer's MLP down-projection until the safe answer is likely, and watches that
the answers to harmless prompts stay as they were. Cancel stops it within one step and leaves nothing behind.</li>
<li><b>Compare.</b> The same prompt goes to the vanilla and the edited weights in one batch.</li>
<li><b>Stress test.</b> The SafeEdit benchmark on this edit: prompts that it never saw, harmless prompts that must
still be answered, facts and summaries, each marked and counted.</li>
<li><b>Why this layer.</b> Twelve locators side by side, what the same edit achieves at every layer, and what is inside
the picked one: neurons, logit lens, tokens, toxicity.</li></ol>
<p>The base weights are never written: an edit is a patch that acts for your visit alone, and Undo is exact.
Unsafe text is blurred until you click it.</p></div>"""


def calibrating(said: str, share: float, ended: bool) -> str:
    """Say how far the calibration in the background is, or how it ended."""
    if ended:
        return reading(said)
    text = "Calibrating this model in the background, once: where edits work, what is harmful"
    return progress_bar(f"{text}. {said}, {100 * share:.0f} %", share)
