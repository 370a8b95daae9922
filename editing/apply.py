"""Take a saved edit in: check it, hold it to the gate, ask it, hand it on: ``python -m editing.apply EDIT.json``.

    python -m editing.apply EDIT.json --ask "How do I ...?"     both answers; the zip that the page hands out does, too
    python -m editing.apply EDIT.json --merged FOLDER           base and edit as one model, for from_pretrained
    python -m editing.apply EDIT.json --adapter FOLDER          a PEFT adapter, exact; --rank 16 for a smaller one

File, record, base, names, shapes and hash are checked before anything is touched, and the acceptance gate asks the
edit again here, and an adapter of a smaller rank, which is another edit. What it refuses leaves only with
--keep-anyway, or if the record says that a person overrode it; an edit under which the unsafe answer of its own case
gains on the safe one does not leave at all.
Everything that is written is read back and compared with the live edit by its logits. What was done is printed as
JSON: the gate's word, the answers with what the detector reads of each prompt, what was written. Exit codes: 0; 1
refused by the gate; 2 when it cannot be done, and what was done before is printed all the same.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from editing.calibrating.calibration import calibration_of
from editing.command import Loader, add_model, finished, load_model, tell
from editing.gate.gate import accept, is_of
from editing.progress import run
from editing.saved.files import load_edit
from editing.saved.handed_out import Refused, require_adapter, written_adapter, written_model
from editing.saved.incoming import refuse_harmful, unpack
from editing.saved.merged import require_mergeable
from editing.saved.record import EditRecord
from inspector.errors import PatchError
from inspector.model import VANILLA, Decoding, Detector, InspectedModel, Row, answer, encode
from inspector.model.patches.routing import scores


def main(arguments: Sequence[str] | None = None, loader: Loader = load_model) -> int:
    """Check, examine, answer, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_model(parser)
    parser.add_argument(
        "edit", type=Path, help="record (.json) or patch (.safetensors) of a saved edit, or the page's .zip"
    )
    parser.add_argument("--ask", action="append", default=[], metavar="TEXT", help="answer with both; repeatable")
    parser.add_argument("--max-new-tokens", type=int, default=64)
    parser.add_argument("--merged", type=Path, help="folder for the merged model; it must not exist yet")
    parser.add_argument("--adapter", type=Path, help="folder for a PEFT adapter")
    parser.add_argument("--rank", type=int, help="most rank of the adapter's matrices; exact by default")
    parser.add_argument("--keep-anyway", action="store_true", help="go on although the gate refused it")
    chosen = parser.parse_args(arguments)
    return finished(lambda: _apply(chosen, loader))


def _apply(chosen: argparse.Namespace, loader: Loader) -> int:
    decoding = Decoding(max_new_tokens=chosen.max_new_tokens)
    if chosen.rank is not None and chosen.adapter is None:
        raise PatchError("A rank is that of an adapter, and none is asked for. Name its folder with --adapter.")
    model = loader(chosen)
    row, record = _read(chosen.edit, model)
    refuse_harmful(model, row, record)
    _require_targets(chosen, model, row)
    assert row.patch is not None  # a saved edit has one
    room, format = decoding.max_new_tokens, row.patch.format
    prompts = {text: encode(model, text, None, format, room=room).prompt for text in chosen.ask}
    detector = row.detector
    if detector is None and chosen.ask:
        known = calibration_of(model)
        detector = None if known is None else known.detector
    word = run(accept(model, row, record.case))
    assert word is not None  # nobody cancels it
    kept = record.gate is not None and record.gate.get("overridden") and is_of(record.gate, row)
    by_hand = chosen.keep_anyway or bool(kept)
    told: dict[str, Any] = {
        "weights": row.label(),
        "gate": {"passed": word.passed, "overridden": not word.passed and by_hand, "reason": word.reason},
        "answers": [],
    }
    if not word.passed and not by_hand:
        tell(told)
        return 1
    record = replace(record, gate=replace(word, overridden=not word.passed).record())
    try:
        for text in chosen.ask:
            said = answer(model, prompts[text], (VANILLA, row), decoding)
            told["answers"].append(
                {
                    "prompt": text,
                    "vanilla": said.texts[0],
                    "edited": said.texts[1],
                    "held_back": said.held_back[1],
                    "detector": _read_by(model, detector, prompts[text], row),
                }
            )
        return _write(chosen, model, row, record, told)
    finally:
        tell(told)  # what was found and written so far took its time and stays, whatever has ended the rest


def _read_by(
    model: InspectedModel, detector: Detector | None, prompt: Sequence[int], row: Row
) -> dict[str, float | bool] | None:
    """Return what a detector reads of a prompt, ``None`` without one.

    Args:
        detector: The edit's own; of an edit that acts on every prompt the model's.
        prompt: Token ids as the model gets them.
    """
    if detector is None:
        return None
    (score,) = scores(model, detector, [prompt])
    fires, routed = detector.fires(score), row.detector is not None
    return {"score": score, "threshold": detector.threshold, "fires": fires, "routed": routed}


def _read(edit: Path, model: InspectedModel) -> tuple[Row, EditRecord]:
    """Read a saved edit, out of its zip where it is in one.

    Raises:
        PatchError: See :func:`editing.saved.incoming.unpack` and :func:`editing.saved.files.load_edit`.
    """
    if edit.suffix.lower() != ".zip":
        return load_edit(edit, model)
    with tempfile.TemporaryDirectory(prefix="edit-") as folder:
        return load_edit(unpack([edit], model, Path(folder)), model)


def _require_targets(chosen: argparse.Namespace, model: InspectedModel, row: Row) -> None:
    """Refuse before anything is asked what could not be written after it.

    Raises:
        PatchError: There is something under a name already, one folder is in the other, or the edit has no such form.
    """
    if chosen.merged is not None:
        require_mergeable(model, row, chosen.merged)
    if chosen.adapter is not None:
        require_adapter(row, chosen.adapter, chosen.rank)
    if chosen.merged is not None and chosen.adapter is not None:
        merged, adapter = chosen.merged.resolve(), chosen.adapter.resolve()
        if merged.is_relative_to(adapter) or adapter.is_relative_to(merged):
            raise PatchError("One of the two folders is in the other, or is it. Name two that lie apart.", str(adapter))


def _write(
    chosen: argparse.Namespace, model: InspectedModel, row: Row, record: EditRecord, told: dict[str, Any]
) -> int:
    """Write what is asked for, and add it to what is told.

    Returns:
        The exit code: 1 where the gate refuses the adapter's rank.
    """
    if chosen.merged is not None:
        merged = run(written_model(model, row, chosen.merged, record))
        assert merged is not None  # nobody cancels it
        told["merged"] = {"folder": str(chosen.merged), "largest_logit_difference": merged.difference}
    if chosen.adapter is not None:
        try:
            made = run(written_adapter(model, row, chosen.adapter, chosen.rank, record, chosen.keep_anyway))
            assert made is not None
        except Refused as error:
            told["adapter"] = {"refused": error.user_message()}
            return 1
        told["adapter"] = {
            "folder": str(chosen.adapter),
            "rank": chosen.rank,
            "lost_share_of_norm": made.lost,
            "largest_logit_difference": made.difference,
        }
    return 0


if __name__ == "__main__":
    sys.exit(main())
