"""MEND: an editor network, trained on many cases, turns one fine-tuning gradient into an edit.

``python -m editing.mend train`` trains one for a model, ``evaluate`` measures it on cases kept for scoring.
"""

from editing.mend.edit import MendSettings, mend
from editing.mend.training import MendTraining

__all__ = ["MendSettings", "MendTraining", "mend"]
