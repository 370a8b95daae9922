"""What is inside the picked layer: neurons, logit lens, tokens of the prompt, probe, padding."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import gradio as gr

from dashboard.kit.bus import Update, Values
from dashboard.kit.drawing.html import heading
from dashboard.kit.drawing.plots import LAYER, plot
from dashboard.kit.room import Context
from dashboard.kit.sessions.session import Session
from dashboard.steps.why import figures, run
from dashboard.steps.why import texts as words
from dashboard.steps.why.state import Looked, Panel
from inspector.errors import CaseError
from inspector.neurons import ORDERS
from inspector.token_attribution import ATTRIBUTION_WAYS
from inspector.toxicity import BUNDLED

LENS_ANSWERS = ("safe answer", run.COVERED)
LENS_WEIGHTS = ("vanilla", "edited")


class Inside:
    """The tabs under the atlas, and their controls.

    Args:
        context: The page's.
    """

    def __init__(self, context: Context) -> None:
        self.context, self.model = context, context.model

    def build(self) -> None:
        """Lay the tabs out."""
        with gr.Tabs(elem_id="why-tabs"):
            with gr.Tab("Neurons"):
                self._build_neurons()
            with gr.Tab("Logit lens"):
                self._build_lens()
            with gr.Tab("Tokens of the prompt"):
                self._build_tokens()
            with gr.Tab("Toxicity probe"):
                self._build_probe()
            with gr.Tab("Padding"):
                self.padding = plot(None, "why-padding", "Padding and the released locator")
                self.padding_reading = gr.HTML()

    def _build_neurons(self) -> None:
        with gr.Row(equal_height=False):
            with gr.Column(min_width=240):
                self.order = gr.Radio(
                    list(ORDERS), value=ORDERS[0], label="List the first 40 by", info="Click a header to sort them"
                )
            with gr.Column(min_width=240):
                self.selected = gr.Textbox(
                    "",
                    label="Neurons to knock out",
                    info="Click lines to add or remove, or type numbers",
                    max_lines=2,
                    elem_id="why-selected",
                )
                self.knock = gr.Button("Knock out", size="sm", elem_id="why-knock")
            with gr.Column(min_width=240):
                self.k = gr.Slider(
                    1,
                    min(256, self.model.architecture.d_ff),
                    value=32,
                    step=1,
                    label="Columns",
                    info="Of the neurons that carry most of the difference",
                )
                self.edit = gr.Button("DINM on these columns only", size="sm", elem_id="why-edit")
        self.neurons = gr.Dataframe(
            headers=list(words.NEURON_HEADERS),
            datatype=list(words.NEURON_TYPES),
            interactive=False,
            max_height=320,
            wrap=False,
            show_label=False,
            buttons=[],
            column_widths=["8%", "10%", "9%", "9%", "9%", "9%", "23%", "23%"],
            elem_id="why-neurons",
        )
        self.neurons_reading = gr.HTML()
        gr.HTML(heading(3, "Edits of this visit"))
        self.edits = gr.HTML(elem_id="why-edits")

    def _build_lens(self) -> None:
        with gr.Row(equal_height=True):
            self.answer = gr.Radio(list(LENS_ANSWERS), value=LENS_ANSWERS[0], label="Text", info="After the prompt")
            self.weights = gr.Radio(list(LENS_WEIGHTS), value=LENS_WEIGHTS[0], label="Weights")
            self.place = gr.Slider(
                0,
                1,
                value=0,
                step=1,
                label="Column",
                info="Its tokens are listed below; or click the figure",
                elem_id="why-place",
            )
        self.lens = plot(None, "why-lens", "What each layer would say next", picks={"y": LAYER, "column": "why-place"})
        self.lens_reading = gr.HTML()
        self.peaks = gr.HTML(elem_id="why-peaks")

    def _build_tokens(self) -> None:
        with gr.Row(equal_height=True):
            self.way = gr.Radio(
                list(ATTRIBUTION_WAYS),
                value=ATTRIBUTION_WAYS[0],
                label="Method",
                info="One pass; one pass a step, with its convergence gap; one pass a token, no gradient",
                scale=3,
            )
            with gr.Column(scale=2, min_width=240):
                self.ig_steps = gr.Slider(8, 128, value=32, step=8, label="Steps", info="Integrated gradients")
                self.attribute = gr.Button("Attribute", variant="primary", size="sm", elem_id="why-attribute")
        self.tokens = gr.HTML(elem_id="why-tokens")
        self.tokens_reading = gr.HTML()

    def _build_probe(self) -> None:
        self.regions = plot(None, "why-regions", "Toxicity of every layer's region", picks={"x": LAYER})
        self.probe_reading = gr.HTML(elem_id="why-probe-reading")
        with gr.Row(equal_height=False):
            self.source = gr.Textbox(
                BUNDLED,
                label="Labelled texts",
                info="bundled, a CSV file (Jigsaw's train.csv fits), or a hub dataset that you may read",
                max_lines=1,
                interactive=not self.context.read_only,
                scale=4,
                elem_id="why-source",
            )
            self.train = gr.Button(
                "Train probe", scale=1, min_width=110, interactive=not self.context.read_only, elem_id="why-train"
            )

    @property
    def table(self) -> list[Any]:
        """The table of neurons with its reading."""
        return [self.neurons, self.neurons_reading]

    @property
    def _lens_parts(self) -> list[Any]:
        return [self.lens, self.lens_reading, self.peaks, self.place]

    @property
    def by_layer(self) -> list[Any]:
        """What follows the picked layer."""
        return [*self.table, *self._lens_parts, self.regions, self.probe_reading]

    @property
    def all_parts(self) -> list[Any]:
        """Everything that is drawn."""
        return [*self.by_layer, self.tokens, self.tokens_reading, self.padding, self.padding_reading]

    @property
    def choices(self) -> dict[str, Any]:
        """What can be chosen of any case, by name; the column of the lens and the neurons to knock out belong to one
        that was measured.
        """
        names = ("order", "k", "answer", "weights", "way", "ig_steps")
        return {name: getattr(self, name) for name in names}

    def controls(self, layer: Iterable[Any]) -> list[Any]:
        """Return the components that :meth:`panel` reads.

        Args:
            layer: The component of the picked layer.
        """
        (self.block,) = layer
        return [self.block, self.order, self.answer, self.weights, self.place, self.way, self.ig_steps]

    def panel(self, values: Values) -> Panel:
        """Return what the controls are set to; an emptied number is the default."""
        return Panel(
            block=int(values[self.block] or 0),
            order=values[self.order],
            answer=values[self.answer],
            weights=values[self.weights],
            place=int(values[self.place] or 0),
            way=values[self.way],
            ig_steps=int(values[self.ig_steps] or 32),
        )

    def read(self, session: Session, values: Values) -> None:
        """Keep what the controls are set to."""
        session.slot(Looked).panel = self.panel(values)

    def connect(self, controls: list[Any]) -> None:
        """Wire the controls that only draw."""
        react = self.context.react
        react(self.order.input, self.on_order, inputs=controls, outputs=self.table)

        def read_otherwise(*arguments: Any, **options: Any) -> Any:
            return gr.on([self.answer.input, self.weights.input, self.place.change], *arguments, **options)

        lens = self._lens_parts
        react(read_otherwise, self.on_lens, inputs=controls, outputs=lens, trigger_mode="always_last")
        react(self.neurons.select, self.on_neuron, inputs=[self.selected], outputs=[self.selected], event=gr.SelectData)

    def at_answer(self, session: Session) -> Update:
        """Move the lens to where its answer begins, and return the slider there."""
        kept = session.slot(Looked)
        pair = kept.why.lenses.get(kept.panel.answer)
        if pair is None:
            return {}
        read = pair[0]
        place = next((n for n, p in enumerate(read.positions) if p >= read.prompt_tokens - 1), 0)
        kept.panel = replace(kept.panel, place=place)
        return {self.place: gr.Slider(maximum=len(read.positions) - 1, value=place)}

    def on_order(self, session: Session, values: Values) -> Update:
        """List other neurons."""
        self.read(session, values)
        return self.draw_neurons(session)

    def on_lens(self, session: Session, values: Values) -> Update:
        """Show another text, other weights or another column of the lens; nothing while that is typed."""
        if values[self.place] is None:
            return {}
        self.read(session, values)
        return self.draw_lens(session)

    def on_neuron(self, _session: Session, values: Values, event: gr.SelectData) -> Update:
        """Add the clicked neuron to the selection, or take it out."""
        selected = values[self.selected] or ""
        try:
            chosen = run.neurons_from(selected) if selected.strip() else []
        except CaseError:
            chosen = []
        # The table may be sorted: its first cell says which neuron it is.
        chosen = sorted(set(chosen) ^ {int(event.row_value[0])})
        return {self.selected: ", ".join(map(str, chosen))}

    def draw(self, session: Session) -> Update:
        """Draw everything that depends on the picked layer or the live weights."""
        known = session.slot(Looked).why
        return {
            **self.draw_neurons(session),
            **self.draw_lens(session),
            **self.draw_regions(session),
            **self.draw_tokens(session),
            self.padding: figures.padding(known.padding),
            self.padding_reading: words.padding_reading(known.padding),
        }

    def draw_tokens(self, session: Session) -> Update:
        """Draw the attribution to the prompt's tokens."""
        known = session.slot(Looked).why
        return {
            self.tokens: words.token_spans(known.tokens),
            self.tokens_reading: words.tokens_reading(known.tokens),
        }

    def draw_regions(self, session: Session) -> Update:
        """Draw the toxicity of every layer's region."""
        block = session.slot(Looked).panel.block
        curve = run.region_curve(self.model, session)
        return {
            self.regions: figures.regions(curve, block),
            self.probe_reading: words.probe_reading(session.probe, curve, block),
        }

    def draw_neurons(self, session: Session) -> Update:
        """List the picked layer's neurons."""
        panel = session.slot(Looked).panel
        found = run.neurons_of(self.model, session, panel.block, panel.order)
        return {self.neurons: words.neuron_rows(found), self.neurons_reading: words.neurons_reading(found)}

    def draw_lens(self, session: Session) -> Update:
        """Draw what every layer would say."""
        kept = session.slot(Looked)
        known, panel = kept.why, kept.panel
        pair = known.lenses.get(panel.answer)
        if pair is None:
            return {
                self.lens: figures.lens(None, None, 0),
                self.lens_reading: words.lens_reading(known, panel.answer),
                self.peaks: "",
            }
        reading, covered = pair[1] if panel.weights == "edited" else pair[0], panel.answer == run.COVERED
        last = len(reading.positions) - 1
        place = min(panel.place, last)
        kept.panel = replace(panel, place=place)
        # A value goes along only where it has to follow the range: it would pull a column back while one drags.
        within = {} if place == panel.place else {"value": place}
        found = run.peaks_of(self.model, known, panel.answer, place)
        return {
            self.lens: figures.lens(run.without_answer(reading) if covered else reading, panel.block, place),
            self.lens_reading: words.lens_reading(known, panel.answer),
            self.peaks: words.peaks_table(found, str(place) if covered else f"{place}: {reading.tokens[place]!r}"),
            self.place: gr.Slider(maximum=last, **within),
        }
