"""What a verdict comes to, in one word."""

from mlsync.proof.verdict import Verdict
from mlsync.values import Level


def status(verdict: Verdict, wanted: int = Level.NUMBERS) -> str:
    """``broken``, ``unavailable``, ``proved`` as far as files of its kind can be, or ``unknown``: not understood."""
    if verdict.refused is not None:
        return "broken"
    if verdict.unavailable is not None:
        return "unavailable"
    return "proved" if verdict.proof.level >= min(wanted, Level.MEANING) else "unknown"
