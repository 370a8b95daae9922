"""Layout of step 6, why this layer: locators over the atlas, then what is inside the picked layer."""

from __future__ import annotations

import gradio as gr

from dashboard import why, why_figures, why_fragments
from dashboard.example import Example
from dashboard.parts import CANCEL_OFF, Parts
from inspector.model import InspectedModel
from inspector.neurons import ORDERS
from inspector.token_attribution import WAYS
from inspector.toxicity import BUNDLED

LENS_ANSWERS = ("safe answer", "unsafe answer")
LENS_WEIGHTS = ("vanilla", "edited")


def build(parts: Parts, model: InspectedModel, example: Example, read_only: bool) -> None:
    """Lay out the step with the example's measurements on it."""
    known, block = example.session.why, example.block
    with gr.Column(elem_classes="step", elem_id="step-why"):
        gr.HTML(why_fragments.HEADING)
        with gr.Row(equal_height=False):
            with gr.Column(scale=1, min_width=230):
                parts.why = gr.Button("Ask all locators", variant="primary", elem_id="why")
                parts.why_answers = gr.Radio(
                    list(why.ATLAS_ANSWERS),
                    value=why.NO_ANSWERS,
                    label="Answers of every edit",
                    info="The atlas then judges the answers to the case's five prompts; some three times slower. As in "
                    "the paper: vanilla without the suffix",
                )
                parts.why_atlas_run = gr.Button("Run atlas", elem_id="why-atlas-run")
                parts.why_cancel = gr.Button(CANCEL_OFF, variant="stop", interactive=False, elem_id="why-cancel")
                parts.why_clock = gr.HTML(
                    why_fragments.clock("Measured on the example; pick a case and press a button.", 1.0),
                    elem_id="why-clock",
                )
                parts.why_head = gr.HTML(why_fragments.head(example.session), elem_id="why-head")
            with gr.Column(scale=3, min_width=420):
                parts.why_locators = _plot(why_figures.locators(known.located, block), "why-locators")
                said = why_fragments.locators_reading(known.located, block, known.refused)
                parts.why_locators_reading = gr.HTML(said)
                gr.HTML("<h3>Atlas: what the same edit achieves at each layer</h3>")
                parts.why_atlas = _plot(why_figures.atlas(known.atlas, block), "why-atlas")
                parts.why_atlas_reading = gr.HTML(why_fragments.atlas_reading(known.atlas))
        with gr.Accordion("Locators judged by the atlas", open=True, elem_id="why-judged"):
            parts.why_agreement = gr.HTML(why_fragments.agreements(known.agreements(), known.atlas))
        with gr.Tabs(elem_id="why-tabs"):
            with gr.Tab("Neurons"):
                _neurons(parts, model, example)
            with gr.Tab("Logit lens"):
                _lens(parts, model, example)
            with gr.Tab("Tokens of the prompt"):
                _tokens(parts, example)
            with gr.Tab("Toxicity probe"):
                _probe(parts, model, example, read_only)
            with gr.Tab("Padding"):
                parts.why_padding = _plot(why_figures.padding(known.padding), "why-padding")
                parts.why_padding_reading = gr.HTML(why_fragments.padding_reading(known.padding))


def _plot(figure, name: str):
    return gr.Plot(figure, show_label=False, container=False, elem_id=name)


def _neurons(parts: Parts, model: InspectedModel, example: Example) -> None:
    found = why.neurons_of(model, example.session, example.block, ORDERS[0])
    with gr.Row(equal_height=False):
        with gr.Column(min_width=240):
            parts.why_order = gr.Radio(
                list(ORDERS), value=ORDERS[0], label="List the first 40 by", info="Click a header to sort them"
            )
        with gr.Column(min_width=240):
            parts.why_selected = gr.Textbox(
                "",
                label="Neurons to knock out",
                info="Click lines to add or remove, or type numbers",
                max_lines=2,
                elem_id="why-selected",
            )
            parts.why_knock = gr.Button("Knock out", size="sm", elem_id="why-knock")
        with gr.Column(min_width=240):
            parts.why_k = gr.Slider(
                1,
                min(256, model.architecture.d_ff),
                value=32,
                step=1,
                label="Columns",
                info="Of the neurons that carry most of the difference",
            )
            parts.why_edit = gr.Button("DINM on these columns only", size="sm", elem_id="why-edit")
    parts.why_neurons = gr.Dataframe(
        why_fragments.neuron_rows(found),
        headers=list(why_fragments.NEURON_HEADERS),
        datatype=list(why_fragments.NEURON_TYPES),
        interactive=False,
        max_height=320,
        wrap=False,
        show_label=False,
        buttons=[],
        column_widths=["8%", "10%", "9%", "9%", "9%", "9%", "23%", "23%"],
        elem_id="why-neurons",
    )
    parts.why_neurons_reading = gr.HTML(why_fragments.neurons_reading(found))
    gr.HTML("<h3>Edits of this visit</h3>")
    edits = why_fragments.edits_table(example.session, why.toxicities(model, example.session))
    parts.why_edits = gr.HTML(edits, elem_id="why-edits")


def _lens(parts: Parts, model: InspectedModel, example: Example) -> None:
    known = example.session.why
    before = known.lenses[LENS_ANSWERS[0]][0]
    place = next((n for n, p in enumerate(before.positions) if p >= before.prompt_tokens - 1), 0)
    with gr.Row(equal_height=True):
        parts.why_answer = gr.Radio(list(LENS_ANSWERS), value=LENS_ANSWERS[0], label="Text", info="After the prompt")
        parts.why_weights = gr.Radio(list(LENS_WEIGHTS), value=LENS_WEIGHTS[0], label="Weights")
        parts.why_place = gr.Slider(
            0,
            len(before.positions) - 1,
            value=place,
            step=1,
            label="Column",
            info="Its tokens are listed below; or click the figure",
            elem_id="why-place",
        )
    parts.why_lens = _plot(why_figures.lens(before, example.block, place), "why-lens")
    parts.why_lens_reading = gr.HTML(why_fragments.lens_reading(known, LENS_ANSWERS[0]))
    found = why.peaks_of(model, known, LENS_ANSWERS[0], place)
    shown = why_fragments.peaks_table(found, f"{place}: {before.tokens[place]!r}")
    parts.why_peaks = gr.HTML(shown, elem_id="why-peaks")


def _tokens(parts: Parts, example: Example) -> None:
    known = example.session.why
    with gr.Row(equal_height=True):
        parts.why_way = gr.Radio(
            list(WAYS),
            value=WAYS[0],
            label="Method",
            info="One pass; one pass a step, with its convergence gap; one pass a token, no gradient",
            scale=3,
        )
        with gr.Column(scale=2, min_width=240):
            parts.why_ig_steps = gr.Slider(8, 128, value=32, step=8, label="Steps", info="Integrated gradients")
            parts.why_attribute = gr.Button("Attribute", variant="primary", size="sm", elem_id="why-attribute")
    parts.why_tokens = gr.HTML(why_fragments.token_spans(known.tokens), elem_id="why-tokens")
    parts.why_tokens_reading = gr.HTML(why_fragments.tokens_reading(known.tokens))


def _probe(parts: Parts, model: InspectedModel, example: Example, read_only: bool) -> None:
    known, curve = example.session.why, why.region_curve(model, example.session)
    parts.why_regions = _plot(why_figures.regions(curve, example.block), "why-regions")
    parts.why_probe_reading = gr.HTML(
        why_fragments.probe_reading(known.probe, curve, example.block), elem_id="why-probe-reading"
    )
    with gr.Row(equal_height=False):
        parts.why_source = gr.Textbox(
            BUNDLED,
            label="Labelled texts",
            info="bundled, a CSV file (Jigsaw's train.csv fits), or a hub dataset that you may read",
            max_lines=1,
            interactive=not read_only,
            scale=4,
        )
        parts.why_train = gr.Button(
            "Train probe", scale=1, min_width=110, interactive=not read_only, elem_id="why-train"
        )
