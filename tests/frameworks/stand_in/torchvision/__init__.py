"""As much of torchvision as Ultralytics calls when it trains: its version, and ``ops.nms``."""

from torchvision import ops

__all__ = ["ops"]
__version__ = "0.28.0"
