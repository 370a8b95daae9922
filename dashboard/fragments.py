"""Small pieces of HTML. Everything that a person or a model wrote is escaped; prompts and answers never come here."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

import numpy as np

from dashboard.actions import PromptView
from dashboard.session import Comparison, LiveEdit, Session
from editing import EditResult, Preparation, Step
from editing.progress import STOP_TEXT
from editing.trial_edits import Layers
from inspector.divergence import Distance, Divergence
from inspector.model import Detector, InspectedModel, PromptFormat, Row


def number(value: float, digits: int = 3) -> str:
    """Format a number for people: never a bare zero for something small."""
    if value == 0:
        return "0"
    smallest = 10.0 ** -(digits + 1)
    if abs(value) < smallest:
        return f"{'-' if value < 0 else ''}<{smallest:.{digits + 1}f}"
    # From here on three digits would be 1e+03.
    return f"{value:.{digits}g}" if abs(value) < 999.5 else f"{value:,.0f}"


def probability(value: float) -> str:
    """Format a probability: ``<0.0001``, else three digits."""
    return "<0.0001" if value < 0.0001 else f"{value:.3f}" if value >= 0.01 else f"{value:.4f}"


def reading(text: str, kind: str = "") -> str:
    """Return a one-line reading under a figure."""
    return f'<p class="reading {kind}">{escape(text)}</p>'


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


def live_badge(session: Session) -> str:
    """Say which weights are live for this visitor and how many edits there are."""
    row = session.row
    if session.live is None:
        return (
            '<div class="live"><span class="badge vanilla">live weights: vanilla</span>'
            "<span>no edit is live</span></div>"
        )
    made = len(session.edits)
    return (
        f'<div class="live"><span class="badge edited">live weights: {escape(row.label())}</span><span>1 edit live · '
        f"edits do not stack · {made} kept for Undo</span></div>"
    )


def detector_note(detector: Detector | None) -> str:
    """Say what a model's detector was made of, or how to make one."""
    if detector is None:
        return "This model has no detector yet: python -m editing.calibrate"
    about = detector.about
    return f"Made from {about['questions']} harmful questions, {about['harmless_prompts']} harmless prompts"


def calibrating(said: str, share: float, ended: bool) -> str:
    """Say how far the calibration in the background is, or how it ended."""
    if ended:
        return reading(said)
    text = "Calibrating this model in the background, once: where edits work, what is harmful"
    return progress_bar(f"{text}. {said}, {100 * share:.0f} %", share)


def weights_badge(row: Row, extra: str = "") -> str:
    """Say above an answer which weights made it."""
    kind = "vanilla" if row.label() == "vanilla" else "edited"
    tail = f'<span class="badge-note">{escape(extra)}</span>' if extra else ""
    return f'<div class="answer-head"><span class="badge {kind}">{escape(row.label())}</span>{tail}</div>'


def prompt_reading(view: PromptView) -> str:
    """Read the assembled prompt's length and what is odd about it."""
    notes = "".join(f"; {note}" for note in view.notes)
    return reading(f"{view.tokens:,} of at most {view.limit:,} tokens{notes}.", "warn" if view.notes else "")


def locate_reading(measured: Divergence, distance: Distance, last_block: int, layers: Layers | None = None) -> str:
    """Read the divergence curve in plain words, and say where trial edits work where they were made."""
    toxic = measured.toxic_layer(distance)
    text = f"Vanilla weights: the answers part most at layer {toxic} of 0-{last_block}."
    if distance == "l2" and measured.preset == "corrected":
        text += " Raw distance grows with depth by itself: compare the relative, cosine and growth curves."
    if measured.preset == "reference":
        text += (
            f" Reference preset, {measured.padding} padding: pads count, and the last layer is taken after the final "
            "norm, on another scale."
        )
    if measured.preset == "paper":
        text += f" Paper preset: answers alone, {measured.padding} padding sets how their tokens are aligned."
    return reading(f"{text} {_trials(layers)}" if layers is not None else text)


def _trials(layers: Layers) -> str:
    best = layers.best
    told = f"{layers.prompts} unseen prompts of {layers.cases} cases, vanilla {100 * layers.vanilla:.0f} %"
    if best is None:
        return f"Trial edits defend at no layer more than the model does by itself ({told})."
    return f"Trial edits work best at layer {best.block}: {100 * best.defended:.0f} % defended ({told})."


def heatmap_reading(measured: Divergence) -> str:
    """Read the heatmap: where single tokens are farthest apart."""
    values = measured.token_relative
    block, token = divmod(int(values.argmax()), values.shape[1])
    per_token = values.mean(axis=0)
    return reading(
        f"Tokens at the same place of both answers. Farthest apart: token {token} at layer {block} "
        f"({measured.safe_tokens[token]!r} against {measured.unsafe_tokens[token]!r}). The mean over layers "
        f"is largest at token {int(per_token.argmax())}, smallest at token {int(per_token.argmin())}."
    )


def clock(event: Preparation | Step | None, seconds_per_step: float = 0.0) -> str:
    """Return the step clock with its progress bar."""
    if event is None:
        return progress_bar("Ready. Press Edit to start.", 0.0)
    if isinstance(event, Preparation):
        return progress_bar(event.message, event.fraction * 0.1)
    left = seconds_per_step * (event.steps - event.step)
    done = event.step / event.steps
    return progress_bar(
        f"Step {event.step} of at most {event.steps} · {seconds_per_step:.2f} s a step · at most {left:.0f} s left",
        0.1 + 0.9 * done,
    )


def progress_bar(text: str, fraction: float) -> str:
    """Return one line of text over a bar that is filled to a fraction, 0 to 1."""
    return (
        f'<div class="clock" role="status"><span>{escape(text)}</span>'
        f'<div class="bar"><div style="width:{100 * fraction:.1f}%"></div></div></div>'
    )


def finished(result: EditResult) -> str:
    """Return the step clock of an ended edit."""
    kept = "nothing was changed" if result.patch is None else f"{_updates(result)} kept"
    return progress_bar(f"Ended after {result.seconds:.1f} s: {STOP_TEXT[result.stop_reason]}; {kept}.", 1.0)


def _updates(result: EditResult) -> str:
    return f"{result.kept} update{'' if result.kept == 1 else 's'}"


def message(text: str) -> str:
    """Return the step clock with a plain message."""
    return progress_bar(text, 0.0)


def tiles(comparison: Comparison, live: LiveEdit) -> str:
    """Return the row of figures above the answers, under a badge of the weights they were measured on."""
    result = live.result
    kept = next(s for s in result.trace if s.step == result.kept)
    safe, unsafe = comparison.before[0].per_token, comparison.before[1].per_token
    after_safe, after_unsafe = comparison.after[0].per_token, comparison.after[1].per_token
    patch_norm = result.patch.norm if result.patch else 0.0
    cells = [
        ("P(safe) per token", f"{probability(safe)} → {probability(after_safe)}", "safe", "vanilla → edited"),
        ("P(unsafe) per token", f"{probability(unsafe)} → {probability(after_unsafe)}", "unsafe", "vanilla → edited"),
        (
            "first token, safe",
            f"{probability(comparison.before[0].first)} → {probability(comparison.after[0].first)}",
            "safe",
            "next-token probability",
        ),
        (
            "first token, unsafe",
            f"{probability(comparison.before[1].first)} → {probability(comparison.after[1].first)}",
            "unsafe",
            "next-token probability",
        ),
        ("constraint's KL", number(max(0.0, kept.constraint_kl)), "", "nats a token, strength 1"),
        ("norm of the change", number(patch_norm * comparison.strength), "edited", live.patch.where()),
        (
            f"input shift, layer {comparison.shift.region}",
            number(comparison.shift.input_change),
            "",
            "zero by construction" if comparison.shift.forced else "of its down-projection",
        ),
        ("edit time", f"{result.seconds:.1f} s", "", _updates(result)),
    ]
    edited = weights_badge(live.row(comparison.strength), "these weights against vanilla, adversarial prompt")
    return edited + '<div class="tiles">' + "".join(_tile(*cell) for cell in cells) + "</div>"


def _tile(name: str, value: str, kind: str, note: str) -> str:
    return (
        f'<div class="tile {kind}"><span class="tile-name">{escape(name)}</span>'
        f'<span class="tile-value">{escape(value)}</span><span class="tile-note">{escape(note)}</span></div>'
    )


NO_EDIT = (
    '<div class="tiles"><div class="tile wide"><span class="tile-value">No edit is live</span>'
    '<span class="tile-note">Press Edit in step 3 to make one; its measurements come back here.</span></div></div>'
)


def compare_readings(comparison: Comparison) -> tuple[str, str, str, str, str]:
    """Read the five compare figures: tokens, divergence, shift per layer, shift per token, neurons."""
    shift, profile = comparison.shift, comparison.profile
    block = shift.blocks_edited[0]
    before, after = comparison.divergence_before.l2, comparison.divergence_after.l2
    moved = int(abs(after - before).argmax())
    raised = int((comparison.after[0].log_probabilities > comparison.before[0].log_probabilities).sum())
    largest = int(shift.by_block.argmax())
    furthest = int(profile.relative.argmax())
    top = profile.top(10)
    share = float((profile.change[top] ** 2).sum() / max((profile.change**2).sum(), 1e-12))
    answer_shift = float(shift.by_token[largest, shift.prompt_tokens :].mean())
    prompt_shift = float(shift.by_token[largest, : shift.prompt_tokens].mean())
    return (
        reading(f"{raised} of {len(comparison.before[0].tokens)} tokens of the safe answer became more probable."),
        reading(
            f"The distance changes most at layer {moved}: {before[moved]:.1f} before, {after[moved]:.1f} after."
            + (f" Layers below {block} cannot change." if block > 0 else "")
        ),
        reading(
            f"Outputs move most at layer {largest}, by {shift.by_block[largest]:.1%}. The input of layer "
            f"{shift.region}'s down-projection moves by {number(shift.input_change)}"
            + (": zero by construction, nothing before it was changed." if shift.forced else ".")
        ),
        reading(
            f"At layer {largest} the answer's tokens move by {answer_shift:.1%}, the prompt's by {prompt_shift:.1%}."
        ),
        reading(
            f"Layer {profile.block}: neuron {furthest} moved most, by {profile.relative[furthest]:.1%} of its column's "
            f"length, the middle one by {float(np.median(profile.relative)):.1%}; the ten largest changes hold "
            f"{share:.1%} of the whole."
        ),
    )


def answer_note(choice: str, format: PromptFormat | None = None, typed: PromptFormat | None = None) -> str:
    """Say beside an answer's badge what was asked, in which format of the edit, and that no judge scored it.

    Args:
        format: The live edit's format; ``None`` without one.
        typed: The format of what stands in the rail.
    """
    unusual = format.label() if format is not None else ""
    if format is not None and not unusual and typed is not None and typed.suffix != format.suffix:
        unusual = "with the edit's own suffix"
    return f"{choice.lower()}{f' · {unusual}, as the edit was made' if unusual else ''} · not judged"


def vitals_reading(trace: Sequence[Step]) -> str:
    """Read the vital signs in one line."""
    if not trace:
        return reading("The charts fill while the edit runs.")
    first, last = trace[0], trace[-1]
    count = f"{last.step} update{'' if last.step == 1 else 's'}"
    return reading(
        f"The safe answer went from {probability(first.safe_probability)} to "
        f"{probability(last.safe_probability)} per token in {count}; harmless answers moved by "
        f"{number(max(0.0, last.constraint_kl))} nats a token. Dashed lines are target and budget."
    )
