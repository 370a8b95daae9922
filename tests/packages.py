"""Made-up packages, whose files are read and which must not be imported."""

from __future__ import annotations

from pathlib import Path

from inspector.safeedit.packaged import PINS


def install(folder: Path, name: str, files: dict[str, str], version: str | None = None) -> None:
    """Write a package whose import would fail, with its list of files; by default of the version that is known."""
    version = version or PINS[name].partition("==")[2]
    info = folder / f"{name}-{version}.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n", encoding="utf-8")
    files = {f"{name}/__init__.py": "raise RuntimeError('it was imported')", **files}
    for path, text in files.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_text(text, encoding="utf-8")
    (info / "RECORD").write_text("".join(f"{path},,\n" for path in files), encoding="utf-8")
