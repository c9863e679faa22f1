"""How large the demo's network and its data are, whichever trainer learns them."""

from __future__ import annotations

FEATURE_COUNT = 128
CLASS_COUNT = 10
WIDTH = 384
BLOCK_COUNT = 4
TRAIN_COUNT = 8192
VALIDATION_COUNT = 2048
