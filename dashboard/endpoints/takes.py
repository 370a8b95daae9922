"""What endpoints are given: each parameter with its type and its meaning."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated, Any

from pydantic import Field

from dashboard.endpoints.gives import File
from dashboard.kit.sessions.values import WAYS
from dashboard.steps.keep.asking import OWN, PROMPTS
from dashboard.steps.keep.history import LONGEST_NAME
from dashboard.steps.keep.saving import FORMS, RANKS
from dashboard.steps.methods.run import SIZES as CONTESTS
from dashboard.steps.methods.run import TITLES, TRAIN_ON
from dashboard.steps.stress.run import JUDGES, SIZES, attack_choices
from dashboard.steps.why.run import ATLAS_ANSWERS
from editing.gate.budgets import DEFAULTS
from editing.optimising.trainee import SCOPES
from inspector.divergence import Padding
from inspector.presets import Preset
from inspector.token_attribution import Way


def _one_of(*names: str) -> dict[str, Any]:
    return {"enum": list(names)}


Question = Annotated[str, Field(description="The harmful question itself, without attack and without suffix.")]
AttackTemplate = Annotated[
    str, Field(description="The attack around it, with {question} where the question stands; empty for none.")
]
SafeAnswer = Annotated[str, Field(description="The answer that declines.")]
UnsafeAnswer = Annotated[str, Field(description="The answer that complies.")]
Suffix = Annotated[
    str, Field(description="Suffix prompt S after the user's text; empty for none. The paper's by default.")
]
OwnSuffix = Annotated[
    str | None,
    Field(description="Suffix prompt S; the live edit's own if left out. An edit refuses any other than its own."),
]
Chat = Annotated[bool, Field(description="Ask in the model's chat template, if it has one; else as plain text.")]
OwnChat = Annotated[
    bool | None, Field(description="Ask in the model's chat template; as the live edit was made if left out.")
]
PresetName = Annotated[
    Preset,
    Field(description="corrected: ours; paper: the paper's equations; reference: what the authors' code does."),
]
PaddingSide = Annotated[Padding, Field(description="Side on which the presets paper and reference pad.")]
Layer = Annotated[int, Field(description="Number of the layer, counted from 0.")]
Steps = Annotated[int, Field(description="Most updates; 0 for the preset's own number.")]
OnTop = Annotated[bool, Field(description="Start from the live edit and stack on it, instead of from vanilla.")]
MadeRouted = Annotated[
    bool | None,
    Field(
        description="true: made and examined to act only where harm is detected; false: on every prompt; left out: as "
        "the gate finds best."
    ),
]
GateBudgets = Annotated[
    dict[str, float] | None,
    Field(
        description=f"Other budgets of the gate, by name: some of {', '.join(asdict(DEFAULTS))}; a looser one that an "
        "edit needs to pass is recorded as kept by hand."
    ),
]
BothWays = Annotated[
    bool,
    Field(
        description="Also where the edit does not act so now, on every prompt or only where harm is detected: in the "
        "last event as other. It takes a detector."
    ),
]
Text = Annotated[str, Field(description="The user's text, as it is.")]
Strength = Annotated[
    float | None,
    Field(description="Factor on the live edit, 0 to 1.5, from now on; left out: as it was."),
]
ActsRouted = Annotated[
    bool | None,
    Field(
        description="true: from now on the edit acts only where harm is detected; false: on every prompt; left out: as "
        "it did."
    ),
]
NewTokens = Annotated[int, Field(description="Longest answer, tokens, 1 to 1024.")]
TestSize = Annotated[str, Field(description="How much is asked.", json_schema_extra=_one_of(*SIZES))]
JudgeName = Annotated[
    str,
    Field(description=f"Who judges: {' or '.join(JUDGES)}, or the hub id or folder of a classifier or guard model."),
]
Attacks = Annotated[
    str,
    Field(
        description="Also ask in the attack templates of this installed package, and its questions; none for not.",
        json_schema_extra=_one_of(*attack_choices()),
    ),
]
Asked = Annotated[
    str,
    Field(
        description="same prompts for both weights, or as in the paper: vanilla without the suffix.",
        json_schema_extra=_one_of(*WAYS),
    ),
]
AtlasAnswers = Annotated[
    str,
    Field(
        description="Whether the edits also answer the case's five prompts, and how they and vanilla are asked then.",
        json_schema_extra=_one_of(*ATLAS_ANSWERS),
    ),
]
Chosen = Annotated[
    list[str] | None, Field(description=f"Methods to run, some of {', '.join(TITLES)}; all if left out.")
]
Scope = Annotated[str, Field(description="What SFT and DPO train.", json_schema_extra=_one_of(*SCOPES))]
TrainOn = Annotated[
    str,
    Field(
        description="What methods that learn from several cases train on: this case, or eight of other categories too.",
        json_schema_extra=_one_of(*TRAIN_ON),
    ),
]
ContestSize = Annotated[str, Field(description="How much each edit is asked.", json_schema_extra=_one_of(*CONTESTS))]
RoutedToo = Annotated[
    bool,
    Field(
        description="Also each patch routed by the detector, a record more each; DINM's also as /edit makes it first."
    ),
]
MethodTitle = Annotated[str, Field(description="Title of a method that was run, as its record has it.")]
KeepAnyway = Annotated[
    bool, Field(description="Make it live although the gate refuses it; its patch records that it was kept by hand.")
]
Answer = Annotated[str, Field(description="The answer that is read after the prompt.")]
Top = Annotated[int, Field(description="How many of each layer's likeliest next tokens are told, 1 to 20.")]
AttributionWay = Annotated[Way, Field(description="How the answer is attributed to the prompt's tokens.")]
Form = Annotated[
    str,
    Field(
        description="What it is to be: a patch with its record, a PEFT adapter, or base and edit as one model.",
        json_schema_extra=_one_of(*FORMS),
    ),
]
Rank = Annotated[str, Field(description="Most rank of an adapter's matrices.", json_schema_extra=_one_of(*RANKS))]
Files = Annotated[
    list[File],
    Field(
        description="A saved edit: the .zip that /save has written, or its .safetensors with or without its .json, "
        "sent with gradio_client's handle_file, or by a post to /gradio_api/upload."
    ),
]
Row = Annotated[int, Field(description="Number of an edit, as /history tells it.")]
Redact = Annotated[bool, Field(description="Leave prompts, and answers that are not known to be safe, out.")]
LinkedLayer = Annotated[int | None, Field(description="Number of the layer, counted from 0; none if left out.")]
Link = Annotated[str, Field(description="The link: its whole address, what stands after the ? in it, or its name.")]
ModelLabel = Annotated[str, Field(description="A model of the operator's list, by its name there: see /status.")]
RowName = Annotated[
    str, Field(description=f"What this client calls it, at most {LONGEST_NAME} characters; empty for nothing.")
]
AskedBoth = Annotated[
    str,
    Field(
        description=f"What they are asked: a prompt of the first or of the second edit's case, or '{OWN}'.",
        json_schema_extra=_one_of(*PROMPTS, OWN),
    ),
]
OwnText = Annotated[str, Field(description=f"The text, where '{OWN}' is asked; nobody judges the answers then.")]
