"""The sizes of the demo's network and data, for both kinds of trainers."""

from __future__ import annotations

FEATURE_COUNT = 128
CLASS_COUNT = 10
WIDTH = 384
BLOCK_COUNT = 4
TRAIN_COUNT = 8192
VALIDATION_COUNT = 2048
