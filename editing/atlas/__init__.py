"""The atlas: the same small DINM edit at every block, and what each one achieves.

It is the ground truth that locators are judged by: not where two answers part, but where an edit works. One pass
per set of texts feeds the tails of all blocks (:class:`inspector.model.passes.tails.Tails`), the first update of every
edit takes its gradient from one backward pass through the whole model, and edits of neighbouring blocks share
their batch above the higher one.
"""

from editing.atlas.made import Atlas, AtlasProgress, AtlasSettings, Entry
from editing.atlas.making import make_atlas

__all__ = ["Atlas", "AtlasProgress", "AtlasSettings", "Entry", "make_atlas"]
