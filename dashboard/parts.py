"""The page's components by role, and the words that layout and events share."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

from inspector.safeedit import bundled_cases

NO_TEMPLATE = "No attack, the question alone"
OWN_TEMPLATE = "Your own template"
LONGEST_ANSWER = 72
CANCEL, CANCEL_SENT, CANCEL_OFF = "Cancel", "Stopping", "Nothing runs"


@dataclass
class Parts:
    """Every component that an event reads or writes, by its role."""

    live: Any = None
    category: Any = None
    example: Any = None
    question: Any = None
    template_name: Any = None
    template: Any = None
    suffix: Any = None
    safe: Any = None
    unsafe: Any = None
    unsafe_case: Any = None
    unsafe_ask: Any = None
    prompt: Any = None
    prompt_reading: Any = None
    locate_preset: Any = None
    distance: Any = None
    padding: Any = None
    once: Any = None
    locate: Any = None
    curve: Any = None
    block: Any = None
    locate_reading: Any = None
    heatmap: Any = None
    heatmap_reading: Any = None
    edit_preset: Any = None
    learning_rate: Any = None
    step_kl: Any = None
    steps: Any = None
    edit_weight: Any = None
    constraint_weight: Any = None
    target: Any = None
    budget: Any = None
    clamp: Any = None
    optimiser: Any = None
    constraint: Any = None
    constraint_gradient: Any = None
    direction: Any = None
    loss_positions: Any = None
    chat: Any = None
    end_of_answer: Any = None
    weight_decay: Any = None
    stop_below: Any = None
    harmless_prompts: Any = None
    harmless_tokens: Any = None
    harmless_at_once: Any = None
    safe_answers: Any = None
    question_alone: Any = None
    watch_unsafe: Any = None
    edit: Any = None
    cancel: Any = None
    clock: Any = None
    vitals: Any = None
    vitals_reading: Any = None
    tiles: Any = None
    figures: Any = None
    ask_what: Any = None
    own_text: Any = None
    ask: Any = None
    undo: Any = None
    strength: Any = None
    routed: Any = None
    max_new_tokens: Any = None
    temperature: Any = None
    seed: Any = None
    vanilla_head: Any = None
    edited_head: Any = None
    vanilla: Any = None
    edited: Any = None
    token_figure: Any = None
    token_reading: Any = None
    divergence_figure: Any = None
    divergence_reading: Any = None
    shift_figure: Any = None
    shift_reading: Any = None
    shift_tokens: Any = None
    shift_tokens_reading: Any = None
    neurons: Any = None
    neurons_reading: Any = None
    stress: Any = None
    stress_size: Any = None
    stress_judge: Any = None
    stress_attacks: Any = None
    stress_tokens: Any = None
    stress_way: Any = None
    stress_cancel: Any = None
    stress_csv: Any = None
    stress_json: Any = None
    stress_clock: Any = None
    stress_head: Any = None
    stress_table: Any = None
    stress_chart: Any = None
    stress_reading: Any = None
    stress_categories: Any = None
    stress_categories_reading: Any = None
    stress_filter: Any = None
    stress_rows: Any = None
    stress_prompt: Any = None
    stress_vanilla_head: Any = None
    stress_vanilla: Any = None
    stress_edited_head: Any = None
    stress_edited: Any = None
    neurons_only: Any = None
    why: Any = None
    why_cancel: Any = None
    why_clock: Any = None
    why_head: Any = None
    why_locators: Any = None
    why_locators_reading: Any = None
    why_atlas_run: Any = None
    why_answers: Any = None
    why_atlas: Any = None
    why_atlas_reading: Any = None
    why_agreement: Any = None
    why_order: Any = None
    why_neurons: Any = None
    why_neurons_reading: Any = None
    why_selected: Any = None
    why_knock: Any = None
    why_k: Any = None
    why_edit: Any = None
    why_edits: Any = None
    why_answer: Any = None
    why_weights: Any = None
    why_lens: Any = None
    why_lens_reading: Any = None
    why_place: Any = None
    why_peaks: Any = None
    why_way: Any = None
    why_ig_steps: Any = None
    why_attribute: Any = None
    why_tokens: Any = None
    why_tokens_reading: Any = None
    why_source: Any = None
    why_train: Any = None
    why_regions: Any = None
    why_probe_reading: Any = None
    why_padding: Any = None
    why_padding_reading: Any = None

    methods: Any = None
    methods_chosen: Any = None
    methods_scope: Any = None
    methods_train_on: Any = None
    methods_size: Any = None
    methods_tokens: Any = None
    methods_way: Any = None
    methods_cancel: Any = None
    methods_clock: Any = None
    methods_head: Any = None
    methods_table: Any = None
    methods_scores: Any = None
    methods_plane: Any = None
    methods_plane_reading: Any = None
    methods_shifts: Any = None
    methods_shifts_reading: Any = None
    methods_picked: Any = None
    methods_load: Any = None
    methods_source: Any = None
    methods_source_reading: Any = None
    methods_neurons: Any = None
    methods_neurons_reading: Any = None
    methods_answer_head: Any = None
    methods_vanilla: Any = None
    methods_edited: Any = None

    def complete(self) -> Parts:
        """Check that every role has its component."""
        missing = [f.name for f in fields(self) if getattr(self, f.name) is None]
        if missing:
            raise AssertionError(f"layout lacks {missing}")
        return self


def examples_of(category: str) -> list[str]:
    """Return the bundled questions of a category that may be edited on; the others are kept for scoring."""
    return [case.question for case in bundled_cases() if case.category == category and case.split != "score"]
