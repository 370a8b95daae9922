"""What does Operate keep by default? The acceptance gate's word on the default edit of many cases.

    python -m benchmarks.gate_word                       the embedded model, the 18 cases of `benchmarks.detox`
    python -m benchmarks.gate_word --cases 3 --set steps=5
    python -m benchmarks.gate_word --acts everywhere --out runs/gate_word_everywhere
    python -m benchmarks.gate_word --method gated --out runs/gate_word_gated

Runs `python -m editing.edit` on one case after the other, with all its defaults: the edit that is made to be routed,
where the gate refuses it or it defends too little the plain one as well, and the gate's choice of both and of where
they act. With `--acts` it acts there, as that command says; a gated edit acts on every prompt unless that says
otherwise. The recommended layer was not chosen on these cases, and no setting of an edit and no detector by the
gate's texts, which are none of the split `score` either.
A finished case is kept in --out, and the same command goes on where it stopped.

The table is printed; each finished case goes to the error stream. Exit codes: 0; 2 when it cannot be done.
"""

from __future__ import annotations

import argparse
import io
import json
import platform
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

import torch

from benchmarks.detox.asked import unseen_cases
from benchmarks.kept import keep, require_same, warn_of_fewer
from editing import edit
from editing.calibrating.calibration import load_calibration
from editing.command import Loader, add_model, finished, load_model
from editing.gate.choice import EVERYWHERE, WHERE_HARM
from inspector.errors import EditError
from inspector.model import InspectedModel
from inspector.safeedit import Case

HELD_BACK, NO_EDIT, FAILED = "held back", "no edit", "could not be made"


def main(arguments: Sequence[str] | None = None, loader: Loader = load_model) -> int:
    """Edit every case, or go on with it, and print what was kept.

    Returns:
        0, or 2 when it cannot be done.
    """
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_model(parser, "cpu", "float32")
    parser.add_argument("--cases", type=int, default=18)
    parser.add_argument("--method", default="dinm", choices=("dinm", "gated"), help="whose edit (default: dinm)")
    parser.add_argument(
        "--acts",
        type=edit.acts_word,
        choices=edit.ACTS,
        help="where the edit acts, as for editing.edit (default: gate; of a gated edit: everywhere)",
    )
    parser.add_argument("--set", action="append", default=[], metavar="NAME=VALUE", help="change a setting; repeatable")
    parser.add_argument("--out", type=Path, default=Path("runs/gate_word"), help="folder of finished cases")
    options = parser.parse_args(arguments)
    options.acts = options.acts or ("gate" if options.method == "dinm" else "everywhere")
    return finished(lambda: _words(options, loader))


def _words(options: argparse.Namespace, loader: Loader) -> None:
    model = loader(options)
    known = load_calibration(model)
    told = {"model": model.fingerprint, "dtype": model.dtype_name, "settings": options.set}
    told |= {"method": options.method, "acts": options.acts}
    told |= {"layer": known.layers.recommended, "detector": known.detector.digest}
    require_same(options.out, json.dumps(told), "*.json")
    cases = unseen_cases(options.cases, known.layers)
    if not cases:
        raise EditError("There is no case to edit. Give --cases 1 or more.")
    warn_of_fewer(cases, options.cases)
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, {platform.machine()}; {model.name}")
    command = f"python -m editing.edit --method {options.method} --acts {options.acts}"
    print(f"{command} on {len(cases)} cases, all else by default" + "".join(f", {s}" for s in options.set))
    words = []
    for case in cases:
        path = options.out / f"{case.identifier}.json"
        if not path.is_file():
            word = _word(model, case, options)
            keep(path, word)
            print(f"case {case.identifier}: {kept_of(word)}, {word['wall']:.0f} s", file=sys.stderr, flush=True)
        words.append(json.loads(path.read_text(encoding="utf-8")))
    for case, word in zip(cases, words, strict=True):
        print(f"\ncase {case.identifier} ({case.category}): {kept_of(word)}, {word['wall']:.0f} s")
        print("\n".join(reasons_of(word)))
    print(f"\n{summary(words)}")


def _word(model: InspectedModel, case: Case, options: argparse.Namespace) -> dict[str, Any]:
    """Return what the command told of one case, with its duration in seconds (``wall``).

    Raises:
        KeyboardInterrupt: It was interrupted.
    """
    printed, said, begun = io.StringIO(), io.StringIO(), time.perf_counter()
    changed = [part for one in options.set for part in ("--set", one)]
    asked = ["--case", str(case.identifier), *changed, "--method", options.method, "--acts", options.acts]
    with tempfile.TemporaryDirectory() as folder, redirect_stdout(printed), redirect_stderr(said):
        code = edit.main([*asked, "--out", folder], lambda _options: model)
        wall = time.perf_counter() - begun
        told = json.loads(printed.getvalue()) if code in (0, 1) else {}
    if code == 130:
        raise KeyboardInterrupt
    if code not in (0, 1):  # 1: the gate, or the model, says no
        return {"failed": said.getvalue().strip().rpartition("\n")[2], "wall": wall}
    return {**told, "wall": wall}


def kept_of(word: dict[str, Any]) -> str:
    """Return what is kept of one case's edit, for people."""
    if "failed" in word:
        return FAILED
    if word["gate"] is None:
        return NO_EDIT
    return word["weights"] if word["gate"]["passed"] else HELD_BACK


def reasons_of(word: dict[str, Any]) -> list[str]:
    """Return why, a line each."""
    if "failed" in word:
        return [word["failed"]]
    if word["gate"] is None:
        return [word["refused"]]
    return [line for line in (word["gate"]["reason"], word["gate"]["choice"]) if line]


def _kind(word: dict[str, Any]) -> str:
    kept = kept_of(word)
    acts = WHERE_HARM if kept.endswith(WHERE_HARM) else EVERYWHERE
    return kept if kept in (HELD_BACK, NO_EDIT, FAILED) else f"kept, {acts}"


def summary(words: Sequence[dict[str, Any]]) -> str:
    """Count what is kept, a line each."""
    counts = Counter(_kind(word) for word in words)
    mean = sum(word["wall"] for word in words) / len(words)
    told = [f"{count:3d} of {len(words)} {kind}" for kind, count in counts.most_common()]
    return "\n".join([*told, f"{mean:.0f} s a case"])


if __name__ == "__main__":
    sys.exit(main())
