"""The methods that sit in the same seat: a case goes in, a patch (or a reminder) and a trace come out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from editing.methods.delman import DelmanSettings, delman
from editing.methods.dinm import DinmSettings, dinm, preset
from editing.methods.dpo import DpoSettings, dpo
from editing.methods.ext_sub import ExtSubSettings, ext_sub
from editing.methods.ft_l import FtLSettings, ft_l
from editing.methods.gated import GatedSettings, gated
from editing.methods.mend import MendSettings, mend
from editing.methods.self_reminder import SelfReminderSettings, self_reminder
from editing.methods.sft import SftSettings, sft
from editing.progress import EditEvents
from editing.values import FORMAT_PARTS, made, setting_names
from inspector.errors import EditError
from inspector.model import PromptFormat
from inspector.presets import Preset
from inspector.validated import read_value


@dataclass(frozen=True)
class Method:
    """One method.

    Attributes:
        key: Its name for programs.
        title: Its name on the screen.
        card: What it does, in two sentences.
        source: Where it comes from.
        settings: Class of its settings.
        run: ``run(model, case, block, settings, companions=, cancel=)``, a generator of steps.
        learns_from_companions: It trains on further cases where some are given.
        one_layer: It changes matrices of the layer that is named, and of no other.
        toxic: Where no layer is named it edits the toxic one, as the DINM that the paper compares it with.
    """

    key: str
    title: str
    card: str
    source: str
    settings: type
    run: Callable[..., EditEvents]
    learns_from_companions: bool = False
    one_layer: bool = True
    toxic: bool = False


def _dinm(model: Any, case: Any, block: int, settings: DinmSettings, *, companions: Any = (), **options: Any):
    return dinm(model, case, block, settings, **options)


METHODS: dict[str, Method] = {
    method.key: method
    for method in (
        Method(
            "dinm",
            "DINM",
            "Makes the safe answer likely by changing the down-projection of the toxic layer alone. A KL term holds "
            "the model to its own answers on harmless prompts.",
            "Wang et al. 2024, arXiv 2403.14472",
            DinmSettings,
            _dinm,
        ),
        Method(
            "ft-l",
            "FT-L",
            "Fine-tunes the same down-projection on the safe answer's likelihood. Nothing holds it to the rest of the "
            "model's behaviour but an optional limit on each weight's change.",
            "Meng et al. 2022, arXiv 2202.05262",
            FtLSettings,
            ft_l,
            toxic=True,
        ),
        Method(
            "gated",
            "Gated",
            "Rewrites a few neurons of one layer that harmless prompts hardly use as gates that open on harm, and "
            "trains what they write to make the model decline. It is plain weights, yet does nothing where its gates "
            "stay shut.",
            "after Huang et al. 2023, arXiv 2301.09785",
            GatedSettings,
            gated,
            True,
        ),
        Method(
            "delman",
            "DELMAN",
            "Finds what the region would have to write at the question for the safe answer, and writes it in closed "
            "form. What harmless prompts use of the region stands against it with a fixed weight.",
            "Wang et al. 2025, arXiv 2502.11647",
            DelmanSettings,
            delman,
            True,
        ),
        Method(
            "sft",
            "SFT",
            "Fine-tunes every matrix of every layer on the safe answer's likelihood. As LoRA factors, or in full.",
            "supervised fine-tuning; LoRA: Hu et al. 2021, arXiv 2106.09685",
            SftSettings,
            sft,
            True,
            one_layer=False,
        ),
        Method(
            "dpo",
            "DPO",
            "Trains every matrix to prefer the safe over the unsafe answer, measured against a reference model. Some "
            "SFT updates come first and make that reference.",
            "Rafailov et al. 2023, arXiv 2305.18290",
            DpoSettings,
            dpo,
            True,
            one_layer=False,
        ),
        Method(
            "mend",
            "MEND",
            "A network that was trained on other cases turns one fine-tuning gradient into an edit of the last layers' "
            "MLPs. One pass, nothing is optimised on this case.",
            "Mitchell et al. 2022, arXiv 2110.11309",
            MendSettings,
            mend,
            one_layer=False,
        ),
        Method(
            "ext-sub",
            "Ext-Sub",
            "Trains one LoRA module on safe and one on unsafe answers. Subtracts from the first only that part of the "
            "second which lies off their common direction.",
            "Hu et al. 2024, arXiv 2308.08090",
            ExtSubSettings,
            ext_sub,
            True,
            one_layer=False,
        ),
        Method(
            "self-reminder",
            "Self-Reminder",
            "Puts a sentence before and one after the prompt that remind the model to be responsible. No weight "
            "changes, so there is no patch.",
            "Xie et al. 2023, Nature Machine Intelligence 5",
            SelfReminderSettings,
            self_reminder,
            one_layer=False,
        ),
    )
}
"""Every method by its key, in the order of the tables."""


def method_named(key: str) -> Method:
    """Return a method by its key.

    Raises:
        EditError: There is none of that name.
    """
    if key not in METHODS:
        raise EditError(f"Unknown method '{key}'. Valid ones: {', '.join(METHODS)}.")
    return METHODS[key]


def method_settings(key: str, dinm_preset: Preset = "corrected", **changes: Any) -> Any:
    """Return a method's settings.

    Args:
        dinm_preset: Preset of DINM; the others have none.
        changes: Changed settings by name, parts of the prompt format (``suffix``, ``chat``, ``turn_end``) among them.

    Raises:
        EditError: The method, the preset or a setting is unknown, or a value is out of range.
    """
    method = method_named(key)
    for name in changes:
        if name != "format":
            _require_setting(method, name)
    if key == "dinm":
        return preset(dinm_preset, **changes)
    return made(method.settings, **changes)


def _require_setting(method: Method, name: str) -> None:
    known = setting_names(method.settings)
    if name not in known:
        raise EditError(f"{method.title} has no setting '{name}'. It has {', '.join(known)}.")


def read_settings(key: str, entries: Sequence[str]) -> dict[str, Any]:
    """Read ``NAME=VALUE`` entries as a method's settings want them; ``none`` or nothing stands for no value.

    Each is read for itself: which ones go together, and with which preset, :func:`method_settings` looks at.

    Raises:
        EditError: The method or a name is unknown, an entry has no equals sign, or a value is of another type or out of
            its own range.
    """
    method = method_named(key)
    found: dict[str, Any] = {}
    for entry in entries:
        name, equals, text = entry.partition("=")
        if not equals:
            raise EditError(f"'{entry}' is no NAME=VALUE. Write for example --set steps=10.")
        _require_setting(method, name)
        kind = PromptFormat if name in FORMAT_PARTS else method.settings
        try:
            found[name] = read_value(kind, name, text, EditError)
        except EditError:
            if text.lower() not in ("none", ""):
                raise
            found[name] = read_value(kind, name, None, EditError)
    return found


def method_of(settings: Any) -> str | None:
    """Return the key of the method whose settings these are; ``None`` for a knock-out."""
    return next((key for key, method in METHODS.items() if type(settings) is method.settings), None)
