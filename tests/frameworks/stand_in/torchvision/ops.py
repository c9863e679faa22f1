"""The one operation of torchvision that a training calls, when it validates."""

import torch


def nms(boxes: torch.Tensor, scores: torch.Tensor, iou_threshold: float) -> torch.Tensor:
    """Return the indices of the boxes that stay, best first: none overlaps a better one by more than the threshold."""
    left = scores.argsort(descending=True)
    kept = []
    while len(left):
        best, left = left[0], left[1:]
        kept.append(best)
        left = left[_overlaps(boxes[best], boxes[left]) <= iou_threshold]
    return torch.stack(kept) if kept else left


def _overlaps(box: torch.Tensor, others: torch.Tensor) -> torch.Tensor:
    corners = torch.minimum(box[2:], others[:, 2:]) - torch.maximum(box[:2], others[:, :2])
    both = corners.clamp(min=0).prod(dim=1)
    return both / ((box[2:] - box[:2]).prod() + (others[:, 2:] - others[:, :2]).prod(dim=1) - both)
