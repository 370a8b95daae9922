"""Are deliberate faults still caught by the tests?

    python -m benchmarks.planted_faults

Each fault is a small change of the engine that somebody could make by mistake. It is planted in a copy of the packages,
and the test files that should catch it are run there, with one thread. The files are those that are nearest to what is
broken, so that a whole run takes minutes; that they pass without a fault is seen first.

The table is printed and written to --out. Exit codes: 0 all are caught; 1 one is not; 2 when it cannot be done.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from inspector.command import finished
from inspector.errors import EditError
from inspector.model.whole_file import write_whole

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results" / "planted_faults.txt"
PACKAGES = ("inspector", "editing", "dashboard", "benchmarks", "tests")


@dataclass(frozen=True)
class Fault:
    """A change that is wrong.

    Attributes:
        what: What it does, in a few words.
        file: Where it is made, beneath the checkout.
        right: The text that is replaced; it stands there once.
        wrong: What stands there instead.
        tests: The file that should catch it.
    """

    what: str
    file: str
    right: str
    wrong: str
    tests: str


FAULTS = (
    Fault(
        "KL of edited to vanilla instead of vanilla to edited",
        "inspector/kl.py",
        "(first.exp() * (first - second)).sum(dim=-1)",
        "(second.exp() * (second - first)).sum(dim=-1)",
        "tests/inspector/test_kl.py",
    ),
    Fault(
        "an answer ends with the end-of-sequence token instead of the template's turn end",
        "inspector/model/encoding.py",
        '(turn.before, turn.after) if turn is not None else (own_space, "")',
        '(turn.before, "") if turn is not None else (own_space, "")',
        "tests/inspector/model/test_prompt_format.py",
    ),
    Fault(
        "an answer is tokenised apart from its prompt, with a second space",
        "inspector/model/encoding.py",
        "return whole[len(prompt) :]",
        "return tokenise(model, more, special=False)",
        "tests/editing/test_tokenizers.py",
    ),
    Fault(
        "LoRA factors keep the base's data type",
        "editing/optimising/trainee.py",
        "        layer.lora_A.float()\n        layer.lora_B.float()\n",
        "        layer.lora_A\n        layer.lora_B\n",
        "tests/editing/test_half_precision.py",
    ),
    Fault(
        "a tail is compared by its largest activation instead of position by position",
        "inspector/model/passes/tails.py",
        "(error <= _TOLERANCE.get(own.dtype, 1e-4) * size).all()",
        "(error <= _TOLERANCE.get(own.dtype, 1e-4) * size.amax()).all()",
        "tests/inspector/test_half_precision.py",
    ),
    Fault(
        "counted positions are one too early",
        "inspector/model/counted.py",
        "places = [place for places in positions for place in places]",
        "places = [max(place - 1, 0) for places in positions for place in places]",
        "tests/editing/optimising/test_replay.py",
    ),
    Fault(
        "the released code's padding is left unmasked",
        "inspector/divergence.py",
        "            if masked:\n",
        "            if False:\n",
        "tests/inspector/test_padding.py",
    ),
    Fault(
        "an edit that leaves its damage budget keeps the update that did",
        "editing/optimising/descent.py",
        "            self.trained.restore(self._before)\n",
        "",
        "tests/editing/optimising/test_descent.py",
    ),
    Fault(
        "memory that runs out ends a whole sweep",
        "inspector/model/memory/halving.py",
        "        if ran_out(error):\n            let_go(error)\n            raise told from None\n",
        "",
        "tests/editing/sweep/test_sweep_faults.py",
    ),
    Fault(
        "refused cases are left out of a sweep's scores",
        "editing/sweep/report.py",
        'if result.status != "failed"]',
        'if result.status == "done"]',
        "tests/editing/sweep/test_sweep_faults.py",
    ),
    Fault(
        "the strength of an edit is not applied",
        "inspector/model/patches/standing.py",
        ".append((index, row.strength, delta))",
        ".append((index, 1.0, delta))",
        "tests/inspector/model/patches/test_patch.py",
    ),
    Fault(
        "a fingerprint reads no whole rows and columns",
        "inspector/model/patches/patch.py",
        "for third in (1, 2):",
        "for third in ():",
        "tests/inspector/model/patches/test_patch.py",
    ),
    Fault(
        "percentages have 90 % intervals",
        "inspector/safeedit/intervals.py",
        "_NORMAL = 1.959963984540054",
        "_NORMAL = 1.6448536269514722",
        "tests/inspector/safeedit/test_intervals.py",
    ),
    Fault(
        "the paper's evaluation asks the vanilla weights with the suffix",
        "inspector/safeedit/exam.py",
        'format.without_suffix() if evaluation == "paper" else format',
        "format",
        "tests/editing/sweep/test_sweep_faults.py",
    ),
    Fault(
        "an edit made in halves holds what the gradient needs of both at once",
        "editing/optimising/smaller.py",
        "checkpoint(part, *given, use_reentrant=False, preserve_rng_state=False)",
        "part(*given)",
        "tests/faults/test_smaller_edits.py",
    ),
    Fault(
        "a half that is run again ends before its last module, which does not give its fetched weights back",
        "editing/optimising/smaller.py",
        "set_checkpoint_early_stop(False)",
        "set_checkpoint_early_stop(True)",
        "tests/faults/test_smaller_edits.py",
    ),
    Fault(
        "of several changes in one batch, what was recorded stands sequence after sequence",
        "inspector/model/passes/tails.py",
        "torch.cat([value] * times)",
        "value.repeat_interleave(times, dim=0)",
        "tests/inspector/model/passes/test_tails.py",
    ),
    Fault(
        "an edit is predicted to keep what enters every block above it",
        "inspector/model/memory/memory_need.py",
        "harmless) * (shape.d_model + shape.d_ff) * size",
        "harmless) * ((above + 1) * shape.d_model + shape.d_ff) * size",
        "tests/inspector/model/memory/test_memory_need.py",
    ),
    Fault(
        "an adapter or a model leaves Keep with the whole edit, whatever its strength",
        "dashboard/steps/keep/saving.py",
        "    row = session.row\n    with session.next_folder",
        "    row = Row(session.row.patch)\n    with session.next_folder",
        "tests/dashboard/steps/keep/test_keep_saving.py",
    ),
    Fault(
        "MEND trains only the first layer of its network",
        "editing/methods/mend/training.py",
        '{"params": network, "lr"',
        '{"params": network[:5], "lr"',
        "tests/editing/methods/mend/test_mend_training.py",
    ),
)


def planted(text: str, fault: Fault) -> str:
    """Return a file's text with a fault in it.

    Raises:
        EditError: What the fault replaces does not stand there, or more than once.
    """
    if text.count(fault.right) != 1:
        raise EditError(
            f"'{fault.what}' cannot be planted: {fault.file} has {fault.right!r} {text.count(fault.right)} times. "
            "Adapt benchmarks/planted_faults.py."
        )
    return text.replace(fault.right, fault.wrong)


def caught_by(folder: Path, tests: str) -> str:
    """Run a file of tests in a copy; return how the first one fails, empty if all pass.

    Raises:
        EditError: They could not be run.
    """
    ran = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", "-p", "no:xdist", tests],
        cwd=folder,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    if ran.returncode not in (0, 1):
        raise EditError(f"{tests} could not be run: {(ran.stdout + ran.stderr)[-500:]}")
    failed = re.search(r"^(?:FAILED|ERROR) (.+?)(?: - |$)", ran.stdout, re.MULTILINE)
    if ran.returncode == 1 and failed is None:
        raise EditError(f"{tests} failed without a test that did: {ran.stdout[-500:]}")
    return failed[1].rpartition("::")[2] if failed else ""


def measure(folder: Path, faults: Sequence[Fault]) -> list[str]:
    """Plant one fault after the other in a copy of the checkout; return the test that caught each, empty for none.

    Raises:
        EditError: The tests fail without any fault, or cannot be run.
    """
    for tests in dict.fromkeys(fault.tests for fault in faults):
        failing = caught_by(folder, tests)
        if failing:
            raise EditError(f"{tests} fails without a fault ({failing}). Mend that first.")
    found = []
    for fault in faults:
        file = folder / fault.file
        right = file.read_text(encoding="utf-8")
        file.write_text(planted(right, fault), encoding="utf-8")
        found.append(caught_by(folder, fault.tests))
        file.write_text(right, encoding="utf-8")
        print(f"{fault.what}: {found[-1] or 'NOT CAUGHT'}", file=sys.stderr, flush=True)
    return found


def copied(folder: Path) -> Path:
    """Copy the packages and what their tests read."""
    for name in PACKAGES:
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    for path in ROOT.iterdir():
        if path.name not in PACKAGES and path.name not in (".git", ".venv"):
            (folder / path.name).symlink_to(path)
    return folder


def main(arguments: list[str] | None = None) -> int:
    """Plant them, print and write the table; 1 if one was not caught."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=RESULTS)
    chosen = parser.parse_args(arguments)
    return finished(lambda: _measure(chosen.out))


def _measure(out: Path) -> int:
    with tempfile.TemporaryDirectory() as folder:
        found = measure(copied(Path(folder)), FAULTS)
    lines = [f"{sum(map(bool, found))} of {len(FAULTS)} faults caught (python -m benchmarks.planted_faults)", ""]
    for fault, test in zip(FAULTS, found, strict=True):
        lines += [f"{fault.what}", f"  {fault.file}; {fault.tests}: {test or 'NOT CAUGHT'}"]
    write_whole(out, "\n".join([*lines, ""]))
    print("\n".join(lines))
    return int(not all(found))


if __name__ == "__main__":
    sys.exit(main())
