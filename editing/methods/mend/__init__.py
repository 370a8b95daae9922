"""MEND: an editor network, trained on many cases, turns one fine-tuning gradient into an edit.

``python -m editing.methods.mend train`` trains one for a model, ``evaluate`` measures it on cases kept for scoring.
"""

from editing.methods.mend.edit import MendSettings, mend
from editing.methods.mend.training import MendTraining

__all__ = ["MendSettings", "MendTraining", "mend"]
