"""Layout of step 7, methods: which to run, the table, the plane, what the picked one does."""

from __future__ import annotations

import gradio as gr

from dashboard import methods_figures, methods_fragments
from dashboard.example import Example
from dashboard.inputs import WAYS
from dashboard.methods import ALONE, SIZES, TITLES, TRAIN_ON
from dashboard.parts import CANCEL_OFF, Parts
from editing.trainee import SCOPES


def build(parts: Parts, example: Example) -> None:
    """Lay out the step with the example's contest on it."""
    known = example.session.contest
    standings = known.standings if known is not None else ()
    picked = next((s for s in standings if not s.failed and s.method.key == "sft"), standings[0] if standings else None)
    title = picked.method.title if picked is not None else None
    with gr.Column(elem_classes="step", elem_id="step-methods"):
        gr.HTML(methods_fragments.HEADING)
        with gr.Accordion("What each method does", open=False, elem_id="methods-cards"):
            gr.HTML(methods_fragments.cards())
        _controls(parts)
        with gr.Row(equal_height=False):
            with gr.Column(scale=1, min_width=230):
                parts.methods = gr.Button("Run methods", variant="primary", elem_id="methods")
                parts.methods_cancel = gr.Button(
                    CANCEL_OFF, variant="stop", interactive=False, elem_id="methods-cancel"
                )
                parts.methods_head = gr.HTML(methods_fragments.head(example.session), elem_id="methods-head")
            with gr.Column(scale=3, min_width=420):
                parts.methods_clock = gr.HTML(methods_fragments.ended(known), elem_id="methods-clock")
        parts.methods_table = gr.Dataframe(
            methods_fragments.rows(standings),
            headers=list(methods_fragments.HEADERS),
            interactive=False,
            max_height=330,
            wrap=True,
            show_label=False,
            buttons=[],
            column_widths=["12%", "5%", "6%", "5%", "8%", "7%", "8%", "6%", "8%", "6%", "6%", "8%", "8%", "7%"],
            elem_id="methods-table",
        )
        gr.HTML(methods_fragments.LEGEND)
        with gr.Accordion("All scores", open=False, elem_id="methods-all"):
            parts.methods_scores = gr.HTML(methods_fragments.all_scores(standings), elem_id="methods-scores")
        with gr.Row(equal_height=False):
            with gr.Column(min_width=340):
                gr.HTML("<h3>Erase or suppress?</h3>")
                parts.methods_plane = _plot(methods_figures.plane(standings, title), "methods-plane")
                parts.methods_plane_reading = gr.HTML(methods_fragments.plane_reading(standings))
            with gr.Column(min_width=340):
                gr.HTML("<h3>Activation shift per layer</h3>")
                parts.methods_shifts = _plot(methods_figures.shifts_by_block(standings, title), "methods-shifts")
                parts.methods_shifts_reading = gr.HTML(methods_fragments.shifts_reading(standings))
        gr.HTML("<h3>The picked method</h3>")
        with gr.Row(equal_height=True):
            with gr.Column(scale=3, min_width=300):
                parts.methods_picked = gr.Dropdown(
                    list(TITLES),
                    value=title,
                    label="Method",
                    info="Or click a line of the table",
                    interactive=True,
                    elem_id="methods-picked",
                )
            with gr.Column(scale=2, min_width=200, elem_classes="buttons"):
                parts.methods_load = gr.Button("Load its patch into Compare", elem_id="methods-load")
        with gr.Row(equal_height=False):
            with gr.Column(min_width=340):
                gr.HTML("<h3>Source of the shift</h3>")
                parts.methods_source = _plot(methods_figures.source(picked), "methods-source")
                parts.methods_source_reading = gr.HTML(methods_fragments.source_reading(picked))
            with gr.Column(min_width=340):
                gr.HTML("<h3>Toxicity of each neuron of the region</h3>")
                parts.methods_neurons = _plot(methods_figures.neuron_toxicity(picked), "methods-neurons")
                parts.methods_neurons_reading = gr.HTML(methods_fragments.neurons_reading(picked))
        parts.methods_answer_head = gr.HTML(methods_fragments.answer_head(picked), elem_id="methods-answer-head")
        reply = picked.exam.replies[0] if picked is not None and picked.exam is not None else None
        with gr.Row(equal_height=True):
            for name, text, label in (
                ("vanilla", reply.vanilla.text if reply else "", "Vanilla answer to the adversarial prompt"),
                ("edited", reply.edited.text if reply else "", "Answer with the picked method"),
            ):
                with gr.Column(min_width=300):
                    pane = gr.Textbox(
                        text or "(no answer yet)",
                        label=label,
                        info="May be unsafe: blurred until clicked",
                        lines=5,
                        max_lines=5,
                        interactive=False,
                        buttons=["copy"],
                        elem_id=f"methods-{name}",
                        elem_classes=["blurred", f"{name}-pane"],
                    )
                    setattr(parts, f"methods_{name}", pane)


def _plot(figure, name: str):
    return gr.Plot(figure, show_label=False, container=False, elem_id=name)


def _controls(parts: Parts) -> None:
    parts.methods_chosen = gr.CheckboxGroup(
        list(TITLES), value=list(TITLES), label="Methods", elem_classes="chips", elem_id="methods-chosen"
    )
    with gr.Row(equal_height=True):
        parts.methods_scope = gr.Radio(
            list(SCOPES),
            value="LoRA",
            label="SFT and DPO train",
            info="Low-rank factors, or every matrix of the blocks",
            min_width=180,
        )
        parts.methods_train_on = gr.Radio(
            list(TRAIN_ON),
            value=ALONE,
            label="SFT, DPO, Ext-Sub train on",
            info="This case, or one of each category",
            min_width=180,
        )
        parts.methods_size = gr.Radio(
            list(SIZES),
            value="Brief",
            label="Exam",
            info="17 prompts; Quick has held-out cases as well",
            min_width=180,
        )
        parts.methods_way = gr.Radio(
            list(WAYS),
            value=next(iter(WAYS)),
            label="Asked",
            info="Both alike, or vanilla without the suffix",
            min_width=180,
            elem_id="methods-way",
        )
        parts.methods_tokens = gr.Slider(
            16, 256, value=40, step=8, label="Longest answer", info="Tokens; greedy", min_width=180
        )
