"""Which component's event calls which handler."""

from __future__ import annotations

import json
from typing import Any

import gradio as gr

from dashboard.actions import OWN_PROMPT
from dashboard.inputs import DECODING_FIELDS, SETTING_FIELDS, TEXT_FIELDS
from dashboard.locate_events import LocateEvents
from dashboard.methods_events import MethodsEvents
from dashboard.operate_events import OperateEvents
from dashboard.parts import CANCEL_SENT, OWN_TEMPLATE, examples_of
from dashboard.rail_events import RailEvents
from dashboard.stress_events import StressEvents
from dashboard.why_events import WhyEvents


class Wiring(RailEvents, LocateEvents, OperateEvents, StressEvents, WhyEvents, MethodsEvents):
    """Connects the components of one page to the handlers of its seven steps."""

    def connect(self) -> None:
        """Register every event."""
        p = self.parts
        rail = self._components(TEXT_FIELDS)
        quiet: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private"}
        shown: dict[str, Any] = {"show_progress": "minimal", "api_visibility": "private"}

        p.category.input(lambda c: gr.Radio(examples_of(c), value=None), p.category, p.example, **quiet)
        p.example.input(
            self.on_example,
            [p.example, p.suffix],
            [p.question, p.template_name, p.template, p.safe, p.unsafe],
            **quiet,
        )
        p.template_name.input(self.on_template, [p.template_name, p.template], p.template, **quiet)
        p.template.input(lambda: OWN_TEMPLATE, None, p.template_name, **quiet)
        p.unsafe_case.click(self.on_unsafe_case, [p.question, p.unsafe], p.unsafe, **quiet)
        p.unsafe_ask.click(self.on_unsafe_ask, [*rail, *self._components(DECODING_FIELDS)], p.unsafe, **shown)
        gr.on(
            [c.change for c in rail],
            self.on_texts,
            [*rail, p.distance],
            [p.prompt, p.prompt_reading, p.locate_reading],
            trigger_mode="always_last",
            **quiet,
        )

        locating = [p.curve, p.block, p.locate_reading, p.heatmap, p.heatmap_reading, p.why_head, p.methods_head]
        p.locate_preset.input(
            lambda name: gr.Radio(interactive=name != "corrected"), p.locate_preset, p.padding, **quiet
        )
        p.locate.click(self.on_locate, [*rail, p.locate_preset, p.distance, p.padding, p.once], locating, **shown)
        p.distance.input(self.on_distance, [p.distance, p.once], [p.curve, p.block, p.locate_reading], **quiet)
        p.block.change(self.on_pick, [p.distance, p.block], p.curve, trigger_mode="always_last", **quiet)

        p.edit_preset.input(self.on_preset, p.edit_preset, self._components(list(SETTING_FIELDS)), **quiet)
        editing = p.edit.click(
            self.on_edit,
            [
                *rail,
                p.block,
                p.edit_preset,
                *self._components(list(SETTING_FIELDS)),
                *self._components(DECODING_FIELDS),
            ],
            self._operated(),
            **quiet,
        )

        asking = [p.suffix, p.ask_what, p.own_text, *self._components(DECODING_FIELDS)]
        p.ask_what.input(lambda c: gr.Textbox(visible=c == OWN_PROMPT), p.ask_what, p.own_text, **quiet)
        p.ask.click(self.on_ask, asking, self._answered(), **quiet)
        scaling = p.strength.release(self.on_strength, [p.strength, *asking], self._compared(), **quiet)
        p.routed.input(self.on_routed, [p.routed, *asking], [*self._answered(), p.live], **quiet)
        undoing = p.undo.click(self.on_undo, asking, [*self._compared(), p.clock, p.vitals, p.vitals_reading], **quiet)

        p.stress.click(
            self.on_stress,
            [p.stress_size, p.stress_judge, p.stress_attacks, p.stress_tokens, p.stress_way, p.stress_filter],
            self._stressed(),
            **quiet,
        )
        p.stress_filter.input(self.on_filter, p.stress_filter, p.stress_rows, **quiet)
        p.stress_rows.select(self.on_answer, None, self._read_answer(), **quiet)
        for button in (p.cancel, p.stress_cancel, p.why_cancel, p.methods_cancel):
            # The browser says so by itself: an answer of the server could come after the run's last word and stay.
            button.click(None, None, button, js=f"() => {json.dumps(CANCEL_SENT)}", **quiet)
            button.click(self.on_cancel, None, None, queue=False, **quiet)
        loading = self._connect_methods(rail, quiet)
        self._connect_why(rail, quiet, [editing, scaling, undoing, *loading])

    def _connect_methods(self, rail: list[Any], quiet: dict[str, Any]) -> list[Any]:
        p = self.parts
        of_picked = self._components(
            [
                f"methods_{n}"
                for n in (
                    *("plane", "shifts", "source", "source_reading", "neurons", "neurons_reading"),
                    *("answer_head", "vanilla", "edited"),
                )
            ]
        )
        table = self._components([f"methods_{n}" for n in ("table", "scores", "plane_reading", "shifts_reading")])
        chosen = self._components([f"methods_{n}" for n in ("chosen", "scope", "train_on", "size", "tokens", "way")])
        p.methods.click(
            self.on_methods,
            [*rail, *chosen, p.block, p.methods_picked],
            [*self._controls(), *table, *of_picked],
            **quiet,
        )
        p.methods_picked.input(self.on_method_picked, p.methods_picked, of_picked, **quiet)
        decoding = self._components(DECODING_FIELDS)
        loaded = list(dict.fromkeys([*self._operated(), *self._controls()]))
        row = p.methods_table.select(self.on_method_row, decoding, [*loaded, p.methods_picked, *of_picked], **quiet)
        button = p.methods_load.click(self.on_method_load, [p.methods_picked, *decoding], loaded, **quiet)
        return [row, button]

    def _connect_why(self, rail: list[Any], quiet: dict[str, Any], changes: list[Any]) -> None:
        p = self.parts
        panel = [
            p.block,
            *self._components([f"why_{n}" for n in ("order", "answer", "weights", "place", "way", "ig_steps")]),
        ]
        overview = self._components(
            [f"why_{n}" for n in ("locators", "locators_reading", "atlas", "atlas_reading", "agreement")]
        )
        neurons, lens = (
            [p.why_neurons, p.why_neurons_reading],
            [p.why_lens, p.why_lens_reading, p.why_peaks, p.why_place],
        )
        inside = [
            *neurons,
            *lens,
            *self._components(
                [
                    f"why_{n}"
                    for n in ("tokens", "tokens_reading", "regions", "probe_reading", "padding", "padding_reading")
                ]
            ),
        ]
        controls = self._controls()
        everything = [*controls, *overview, *inside]
        p.why.click(self.on_why, [*rail, *panel, p.padding], everything, **quiet)
        p.why_atlas_run.click(self.on_atlas, [*rail, *panel, p.why_answers], everything, **quiet)
        p.block.change(
            self.on_why_pick,
            panel,
            [*overview, *neurons, *lens, p.why_regions, p.why_probe_reading, p.why_selected],
            trigger_mode="always_last",
            **quiet,
        )
        p.why_order.input(self.on_order, panel, neurons, **quiet)
        gr.on(
            [p.why_answer.input, p.why_weights.input, p.why_place.change],
            self.on_lens,
            panel,
            lens,
            trigger_mode="always_last",
            **quiet,
        )
        p.why_neurons.select(self.on_neuron, p.why_selected, p.why_selected, **quiet)
        decoding = self._components(DECODING_FIELDS)
        knocking = p.why_knock.click(
            self.on_knock,
            [p.why_selected, *panel, p.suffix, *decoding],
            list(dict.fromkeys([*self._operated(), *controls, *neurons])),
            **quiet,
        )
        settings = [p.why_k if name == "neurons_only" else getattr(p, name) for name in SETTING_FIELDS]
        columns = p.why_edit.click(
            self.on_edit, [*rail, p.block, p.edit_preset, *settings, *decoding], self._operated(), **quiet
        )
        for event in (*changes, knocking, columns):
            event.then(self.on_live_changed, panel, inside, **quiet)
        p.why_attribute.click(self.on_attribute, panel, [*controls, p.why_tokens, p.why_tokens_reading], **quiet)
        p.why_train.click(self.on_train, [p.why_source, *panel], [*controls, *inside], **quiet)

    def _controls(self) -> list[Any]:
        """Return what every run switches off and on."""
        p = self.parts
        names = ("edit", "ask", "undo", "cancel", "strength", "routed", "stress", "stress_cancel", "stress_head")
        why = ("why", "why_atlas_run", "why_cancel", "why_clock", "why_head", "why_knock", "why_edit", "why_attribute")
        methods = [f"methods_{name}" for name in ("load", "cancel", "clock", "head")]
        return [*self._components([*names, *why, *methods]), p.methods, p.why_train, p.why_edits]

    def _answered(self) -> list[Any]:
        p = self.parts
        return [p.vanilla_head, p.vanilla, p.edited_head, p.edited, p.clock, *self._controls()]

    def _compared(self) -> list[Any]:
        p = self.parts
        measured = ("tiles", "token_figure", "token_reading", "divergence_figure", "divergence_reading", "shift_figure")
        more = ("shift_reading", "shift_tokens", "shift_tokens_reading", "neurons", "neurons_reading")
        return [*self._answered(), *self._components((*measured, *more)), p.live, p.figures]

    def _operated(self) -> list[Any]:
        p = self.parts
        return list(dict.fromkeys([*self._compared(), p.clock, p.vitals, p.vitals_reading, p.ask_what, p.own_text]))

    def _read_answer(self) -> list[Any]:
        p = self.parts
        return [p.stress_prompt, p.stress_vanilla_head, p.stress_vanilla, p.stress_edited_head, p.stress_edited]

    def _stressed(self) -> list[Any]:
        p = self.parts
        shown = ("clock", "table", "chart", "reading", "categories", "categories_reading", "rows", "csv", "json")
        return [
            *(part for part in self._answered() if part not in (p.vanilla_head, p.vanilla, p.edited_head, p.edited)),
            *self._components([f"stress_{name}" for name in shown]),
            *self._read_answer(),
        ]
