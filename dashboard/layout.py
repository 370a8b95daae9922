"""The page: which components stand where. No events in here."""

from __future__ import annotations

import gradio as gr

from dashboard import figures, fragments, layout_methods, layout_stress, layout_why
from dashboard.actions import OWN_PROMPT, PROMPT_CHOICES
from dashboard.example import CASE, Example
from dashboard.parts import CANCEL_OFF, LONGEST_ANSWER, NO_TEMPLATE, OWN_TEMPLATE, Parts, examples_of
from editing import preset
from editing.calibration import Calibration
from editing.trial_edits import Layers
from inspector.divergence import PRESETS
from inspector.model import VANILLA, Detector, InspectedModel
from inspector.safeedit import bundled_cases, bundled_templates
from inspector.safeedit.cases import CATEGORIES


def build(model: InspectedModel, example: Example, read_only: bool, calibration: Calibration | None = None) -> Parts:
    """Lay out the page with the finished example on it.

    Args:
        calibration: The model's, if it is calibrated.
    """
    parts = Parts()
    gr.HTML(fragments.header(model), elem_id="header")
    parts.live = gr.HTML(fragments.live_badge(example.session), elem_id="live")
    with gr.Accordion("How this page works", open=False, elem_id="help"):
        gr.HTML(fragments.HELP)
    with gr.Sidebar(width=372, elem_id="rail"):
        _rail(parts, example, read_only)
    with gr.Column(elem_id="steps"):
        _prompt(parts, model, example)
        _locate(parts, model, example, calibration.layers if calibration else None)
        _operate(parts, example)
        _compare(parts, example, read_only, calibration.detector if calibration else None)
        layout_stress.build(parts, model, example, read_only)
        layout_why.build(parts, model, example, read_only)
        layout_methods.build(parts, example)
    return parts.complete()


def _section(number: int, name: str, line: str) -> None:
    gr.HTML(f'<h2><span class="step-number">{number}</span>{name}<small>{line}</small></h2>')


def _rail(parts: Parts, example: Example, read_only: bool) -> None:
    case = bundled_cases()[CASE]
    texts = example.texts
    free = not read_only
    gr.HTML(
        '<h2 class="rail-title">Case</h2>'
        + ('<p class="reading warn">Read-only demo: pick examples; free text is off.</p>' if read_only else "")
    )
    parts.category = gr.Radio(
        list(CATEGORIES), value=case.category, label="Category", elem_classes="chips", info="SafeEdit's nine"
    )
    parts.example = gr.Radio(
        examples_of(case.category), value=case.question, label="Example", elem_classes="chips stacked"
    )
    parts.question = gr.Textbox(
        texts.question, label="Question", lines=2, max_lines=8, interactive=free, elem_id="question"
    )
    parts.template_name = gr.Dropdown(
        [NO_TEMPLATE, *(t.name for t in bundled_templates()), OWN_TEMPLATE],
        value=case.attack_name,
        label="Attack template",
        interactive=True,
    )
    parts.template = gr.Textbox(
        texts.template,
        label="Template text",
        info="The question goes where {question} stands",
        lines=3,
        max_lines=10,
        interactive=free,
        elem_id="template",
    )
    parts.safe = gr.Textbox(
        texts.safe, label="Safe answer", lines=3, max_lines=10, interactive=free, elem_id="safe", elem_classes="safe"
    )
    parts.unsafe = gr.Textbox(
        texts.unsafe,
        label="Unsafe answer",
        info="Blurred until clicked",
        lines=3,
        max_lines=10,
        interactive=free,
        elem_id="unsafe",
        elem_classes="unsafe blurred",
    )
    with gr.Row(elem_classes="tight"):
        parts.unsafe_case = gr.Button("From the case", size="sm", min_width=80)
        parts.unsafe_ask = gr.Button(
            "Ask the model" if free else "Ask the model (off: read-only)", size="sm", min_width=80, interactive=free
        )
    parts.suffix = gr.Textbox(
        texts.suffix,
        label="Suffix prompt S",
        info="Put after every prompt with one space; an edit is asked with the one it was made with",
        lines=2,
        max_lines=4,
        interactive=free,
        elem_id="suffix",
    )


def _prompt(parts: Parts, model: InspectedModel, example: Example) -> None:
    from dashboard.actions import view_prompt

    view = view_prompt(model, example.texts)
    with gr.Column(elem_classes="step", elem_id="step-prompt"):
        _section(1, "Prompt", "what the model gets, with its chat template and the suffix")
        parts.prompt = gr.Textbox(
            view.text,
            label="Adversarial prompt",
            show_label=False,
            lines=8,
            max_lines=14,
            interactive=False,
            buttons=["copy"],
            elem_classes="mono",
            elem_id="assembled",
        )
        parts.prompt_reading = gr.HTML(fragments.prompt_reading(view), elem_id="prompt-reading")


def _locate(parts: Parts, model: InspectedModel, example: Example, layers: Layers | None) -> None:
    measured = example.session.divergence
    recommended = layers.recommended if layers else None
    assert measured is not None
    with gr.Column(elem_classes="step", elem_id="step-locate"):
        _section(2, "Locate", "how far apart the two answers are after each layer")
        with gr.Row(equal_height=False):
            with gr.Column(scale=1, min_width=230):
                parts.locate_preset = gr.Radio(
                    list(PRESETS), value="corrected", label="Preset", info="corrected: after the prompt; others: alone"
                )
                parts.distance = gr.Radio(
                    [("L2", "l2"), ("relative L2", "relative"), ("cosine", "cosine"), ("growth of L2", "growth")],
                    value="l2",
                    label="Distance",
                    info="DINM uses L2",
                )
                parts.padding = gr.Radio(
                    ["right", "left"],
                    value="right",
                    label="Padding side",
                    info="Used by paper and reference only",
                    interactive=False,
                )
                parts.once = gr.Checkbox(
                    False, label="Choose the layer once", info="As the released code: later cases keep the first layer"
                )
                parts.locate = gr.Button("Locate", variant="primary", elem_id="locate")
            with gr.Column(scale=3, min_width=420):
                parts.curve = gr.Plot(
                    figures.curve(measured, "l2", example.block, recommended),
                    show_label=False,
                    elem_id="curve",
                    container=False,
                )
                parts.locate_reading = gr.HTML(
                    fragments.locate_reading(measured, "l2", model.architecture.last_block, layers),
                    elem_id="locate-reading",
                )
                parts.block = gr.Slider(
                    0,
                    model.architecture.last_block,
                    value=example.block,
                    step=1,
                    label=f"Layer to edit (0-{model.architecture.last_block})",
                    info="Recommended, or with other presets of Locate the toxic layer; a click on a bar picks, too",
                    elem_id="block",
                )
        with gr.Accordion("Token by token", open=True):
            parts.heatmap = gr.Plot(
                figures.divergence_heatmap(measured), show_label=False, elem_id="heatmap", container=False
            )
            parts.heatmap_reading = gr.HTML(fragments.heatmap_reading(measured))


def _operate(parts: Parts, example: Example) -> None:
    live = example.session.live
    assert live is not None
    settings = preset("corrected")
    result = live.result
    with gr.Column(elem_classes="step", elem_id="step-operate"):
        _section(3, "Operate", "DINM on the picked layer, its vital signs as it runs")
        with gr.Row(equal_height=False):
            with gr.Column(scale=1, min_width=230):
                parts.edit_preset = gr.Radio(
                    list(PRESETS),
                    value="corrected",
                    label="Preset",
                    info="ours, the paper's equations, or the authors' released code",
                )
                parts.steps = gr.Slider(1, 100, value=settings.steps, step=1, label="Step limit")
                parts.learning_rate = gr.Number(
                    settings.learning_rate or 0,
                    label="Learning rate",
                    info="Size of one update; 0 measures it",
                    minimum=0,
                )
                with gr.Row(elem_classes="tight"):
                    parts.edit = gr.Button("Edit", variant="primary", elem_id="edit", min_width=90)
                    parts.cancel = gr.Button(
                        CANCEL_OFF, variant="stop", interactive=False, elem_id="cancel", min_width=90
                    )
            with gr.Column(scale=3, min_width=420):
                parts.clock = gr.HTML(fragments.finished(result), elem_id="clock")
                parts.vitals = gr.Plot(
                    figures.vitals(result.trace, settings.steps, settings.damage_budget, settings.target_probability),
                    show_label=False,
                    elem_id="vitals",
                    container=False,
                )
                parts.vitals_reading = gr.HTML(fragments.vitals_reading(result.trace), elem_id="vitals-reading")
        with gr.Accordion("All settings", open=False, elem_id="settings"):
            _settings(parts, settings)


def _settings(parts: Parts, settings) -> None:
    with gr.Row():
        parts.edit_weight = gr.Number(settings.edit_weight, label="Edit weight", info="c_edit, 0.1 in the paper")
        parts.constraint_weight = gr.Number(
            settings.constraint_weight, label="Constraint weight", info="Factor on the KL"
        )
        parts.target = gr.Number(
            settings.target_probability, label="Target P(safe)", info="Stop here; 0 for never", minimum=0, maximum=1
        )
        parts.budget = gr.Number(
            settings.damage_budget, label="Damage budget", info="Largest KL, nats a token; 0 for none", minimum=0
        )
        parts.step_kl = gr.Number(
            settings.step_kl, label="Cost of a step", info="KL, where its size is measured", minimum=0
        )
        parts.clamp = gr.Number(0.0, label="Clamp", info="Largest change of one weight; 0 for none", minimum=0)
    with gr.Row():
        parts.optimiser = gr.Radio(["adam", "descent"], value=settings.optimiser, label="Optimiser")
        parts.constraint = gr.Radio(
            ["harmless", "answer", "next token"],
            value=settings.constraint,
            label="Constraint",
            info="KL on own answers to harmless prompts, on the case's answer, or on the token after its prompt",
        )
        parts.direction = gr.Radio(
            ["vanilla to edited", "edited to vanilla"], value=settings.direction, label="KL direction"
        )
        parts.loss_positions = gr.Radio(
            ["aligned", "reference"],
            value=settings.loss_positions,
            label="Loss positions",
            info="reference: as the released code",
        )
    with gr.Row():
        parts.weight_decay = gr.Number(settings.weight_decay, label="Weight decay", info="0 in the paper", minimum=0)
        parts.stop_below = gr.Number(
            settings.stop_below, label="Stop below", info="Total loss that ends the edit", minimum=0
        )
        parts.harmless_prompts = gr.Slider(
            1, 128, value=settings.harmless_prompts, step=1, label="Harmless prompts", info="For 'harmless'"
        )
        parts.harmless_tokens = gr.Slider(
            1, 64, value=settings.harmless_tokens, step=1, label="Tokens of each", info="Own answers' length"
        )
        parts.harmless_at_once = gr.Number(
            settings.harmless_at_once or 0,
            label="Of them a step",
            info="In turn; 0 for all at once",
            precision=0,
            minimum=0,
        )
    with gr.Row():
        parts.constraint_gradient = gr.Checkbox(
            settings.constraint_gradient, label="KL has a gradient", info="Off in the released code"
        )
        parts.chat = gr.Checkbox(settings.format.chat, label="Chat template", info="Off in the released code")
        parts.end_of_answer = gr.Checkbox(
            settings.format.turn_end, label="Learn to end", info="What ends a turn after the safe answer"
        )
        parts.watch_unsafe = gr.Checkbox(
            settings.watch_unsafe, label="Watch the unsafe answer", info="One more forward pass a step"
        )
        parts.safe_answers = gr.Slider(
            1, 4, value=settings.safe_answers, step=1, label="Safe answers", info="The case's, then short ones of ours"
        )
        parts.question_alone = gr.Checkbox(
            settings.question_alone, label="Question alone, too", info="Learn the answer without the attack as well"
        )
        parts.neurons_only = gr.Number(
            0, label="Neurons only", info="Edit this many columns; 0 for the whole matrix", precision=0, minimum=0
        )


def _compare(parts: Parts, example: Example, read_only: bool, detector: Detector | None) -> None:
    session = example.session
    live, comparison, answers = session.live, session.comparison, session.answers
    assert live is not None and comparison is not None and answers is not None
    readings = fragments.compare_readings(comparison)
    with gr.Column(elem_classes="step", elem_id="step-compare"):
        _section(4, "Compare", "vanilla and edited weights, same prompt, same suffix, same decoding, one batch")
        parts.tiles = gr.HTML(fragments.tiles(comparison, live), elem_id="tiles")
        with gr.Row(equal_height=True):
            parts.ask_what = gr.Dropdown(
                [*PROMPT_CHOICES, *([] if read_only else [OWN_PROMPT])],
                value="Adversarial prompt",
                label="Ask both",
                info="Generalization prompts of the case, or your own",
                scale=3,
                min_width=220,
                elem_id="ask-what",
            )
            parts.strength = gr.Slider(
                0,
                1.5,
                value=1.0,
                step=0.05,
                label="Strength of the edit",
                info="0 vanilla, 1 as made; release to regenerate",
                scale=4,
                min_width=240,
                elem_id="strength",
            )
            with gr.Column(scale=2, min_width=150, elem_classes="buttons"):
                parts.ask = gr.Button("Ask both", variant="primary", elem_id="ask", min_width=100)
                parts.undo = gr.Button("Undo edit", elem_id="undo", min_width=100)
        parts.routed = gr.Checkbox(
            False,
            label="The edit acts only where harm is detected",
            info=fragments.detector_note(detector),
            interactive=detector is not None,
            elem_id="routed",
        )
        parts.own_text = gr.Textbox(
            "",
            label="Your own text",
            placeholder="For example a harmless question, to see whether it is still answered",
            lines=2,
            visible=False,
            elem_id="own-text",
        )
        with gr.Accordion("Decoding", open=False), gr.Row():
            parts.max_new_tokens = gr.Slider(
                8, 256, value=LONGEST_ANSWER, step=8, label="Longest answer", info="Tokens"
            )
            parts.temperature = gr.Slider(0, 1.5, value=0, step=0.1, label="Temperature", info="0 is greedy")
            parts.seed = gr.Number(0, label="Seed", info="For temperatures above 0", precision=0)
        with gr.Row(elem_id="answers", equal_height=True):
            with gr.Column(min_width=300):
                parts.vanilla_head = gr.HTML(
                    fragments.weights_badge(VANILLA, fragments.answer_note("Adversarial prompt"))
                )
                parts.vanilla = gr.Textbox(
                    answers.texts[0],
                    label="Vanilla answer",
                    info="May be unsafe: blurred until clicked",
                    lines=8,
                    max_lines=8,
                    interactive=False,
                    buttons=["copy"],
                    elem_id="vanilla",
                    elem_classes="blurred vanilla-pane",
                )
            with gr.Column(min_width=300):
                parts.edited_head = gr.HTML(
                    fragments.weights_badge(session.row, fragments.answer_note("Adversarial prompt"))
                )
                parts.edited = gr.Textbox(
                    answers.texts[1],
                    label="Edited answer",
                    info="Same batch, same decoding",
                    lines=8,
                    max_lines=8,
                    interactive=False,
                    buttons=["copy"],
                    elem_id="edited",
                    elem_classes="edited-pane",
                )
        with gr.Row(elem_id="figures") as parts.figures:
            for title, plot, text, figure, shown in (
                (
                    "Safe answer, token by token",
                    "token_figure",
                    "token_reading",
                    figures.token_probabilities(comparison.before[0], comparison.after[0]),
                    readings[0],
                ),
                (
                    "Divergence before and after",
                    "divergence_figure",
                    "divergence_reading",
                    figures.divergence_before_after(comparison),
                    readings[1],
                ),
                (
                    "Activation shift per layer",
                    "shift_figure",
                    "shift_reading",
                    figures.shift_by_block(comparison.shift),
                    readings[2],
                ),
                (
                    "Activation shift per token",
                    "shift_tokens",
                    "shift_tokens_reading",
                    figures.shift_heatmap(comparison.shift),
                    readings[3],
                ),
                ("Neurons that moved", "neurons", "neurons_reading", figures.neurons(comparison.profile), readings[4]),
            ):
                _figure(parts, title, plot, text, figure, shown)


def _figure(parts: Parts, title: str, plot: str, text: str, figure, shown: str) -> None:
    with gr.Column(min_width=340):
        gr.HTML(f"<h3>{title}</h3>")
        setattr(parts, plot, gr.Plot(figure, show_label=False, container=False, elem_id=plot.replace("_", "-")))
        setattr(parts, text, gr.HTML(shown))
