"""Tiny models on disk, loaded whole and spread over memory and disk with accelerate."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import tiny_models

from inspector.model import InspectedModel, load
from inspector.model.offloaded import is_offloaded

SHARES = (0.7, 0.8, 0.9)
"""Shares of a model's bytes that stay in memory; the first is taken with which some blocks do and some do not."""


class Folders:
    """Folders of tiny models; each is written once, and each model loaded once."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._models: dict[tuple[str, str], InspectedModel] = {}

    def of(self, family: str) -> Path:
        """Return the folder of a family's tiny model."""
        folder = self._root / family
        if not folder.exists():
            tiny_models.network(family).save_pretrained(folder)
            tiny_models.tokenizer().save_pretrained(folder)
        return folder

    def whole(self, family: str) -> InspectedModel:
        """Return the model in memory."""
        return self._once(family, "whole", lambda: load(self.of(family), device="cpu", dtype="float32"))

    def on_disk(self, family: str) -> InspectedModel:
        """Return the model with all of it on disk."""
        return self._once(family, "disk", lambda: self._limited(family, 0.0))

    def spread(self, family: str) -> InspectedModel:
        """Return the model with some blocks in memory and the others on disk."""

        def found() -> InspectedModel:
            for share in SHARES:
                model = self._limited(family, share)
                if len({is_offloaded(down) for down in model.architecture.down_projections}) == 2:
                    return model
            raise AssertionError(f"No share of {family} puts some blocks on disk and some not.")

        return self._once(family, "spread", found)

    def _once(self, family: str, kind: str, make: Callable[[], InspectedModel]) -> InspectedModel:
        if (family, kind) not in self._models:
            self._models[family, kind] = make()
        return self._models[family, kind]

    def _limited(self, family: str, share: float) -> InspectedModel:
        limit = int(share * sum(p.numel() * 4 for p in self.whole(family).network.parameters()))
        return load(self.of(family), device="cpu", dtype="float32", device_map="auto", max_memory={"cpu": limit})


def blocks_by_place(model: InspectedModel) -> tuple[int, int]:
    """Return a block whose down-projection is in memory, and one whose is on disk."""
    places = [is_offloaded(down) for down in model.architecture.down_projections]
    return places.index(False), places.index(True)
