"""The tries of a call after a first one that failed, by tenacity: whoever's store answers never imports it."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, TypeVar

import tenacity

from mlsync import errors

_WAIT_FIRST_S = 0.25
_WAIT_MAX_S = 20.0

_Result = TypeVar("_Result")


class TryLimits(NamedTuple):
    """How many tries a call has, the first one included, and how long they may take.

    No time limit ends it before the try *tries_min*, unless the store asks for a longer wait than the whole limit.
    """

    tries_max: int
    tries_min: int
    budget_s: float


class Tries:
    """What all calls of a store have in common when they are tried again."""

    def __init__(
        self,
        limits: TryLimits,
        is_worth_a_retry: Callable[[BaseException], bool],
        sleep: Callable[[float], None],
        clock: Callable[[], float],
        on_wait: Callable[[str, errors.StoreError, float], None] | None,
    ) -> None:
        self._limits = limits
        self._is_worth_a_retry = is_worth_a_retry
        self._sleep = sleep
        self._clock = clock
        self._on_wait = on_wait

    def go_on(self, method: str, work: Callable[[], _Result], failed: errors.StoreError, began_s: float) -> _Result:
        """Return what *work* returns in the end, whose first try began at *began_s* and *failed*.

        Raise ``StoreUnavailable`` after the last try, and any other error of a try as it is.
        """
        limits = self._limits
        first: errors.StoreError | None = failed

        def attempt() -> _Result:
            nonlocal first
            if first is not None:
                error, first = first, None
                raise error
            return work()

        def is_over(state: tenacity.RetryCallState) -> bool:
            if state.attempt_number >= limits.tries_max or state.upcoming_sleep > max(limits.budget_s, _WAIT_MAX_S):
                return True
            ends_s = self._clock() - began_s + state.upcoming_sleep
            return state.attempt_number >= limits.tries_min and ends_s > limits.budget_s

        retrying = tenacity.Retrying(
            # Whoever calls this has asked about the first one.
            retry=tenacity.retry_if_exception(lambda error: error is failed or self._is_worth_a_retry(error)),
            wait=_wait_s,
            stop=is_over,
            sleep=self._sleep,
            before_sleep=lambda state: self._report(method, state),
            retry_error_callback=lambda state: _give_up(method, state),
        )
        return retrying(attempt)

    def _report(self, method: str, state: tenacity.RetryCallState) -> None:
        error = state.outcome.exception() if state.outcome is not None else None
        if self._on_wait is not None and isinstance(error, errors.StoreError):
            self._on_wait(method, error, state.upcoming_sleep)


_jitter_s = tenacity.wait_random_exponential(multiplier=_WAIT_FIRST_S, max=_WAIT_MAX_S)


def _wait_s(state: tenacity.RetryCallState) -> float:
    """Return a random wait that grows with each try, and is never shorter than the store asked for."""
    error = state.outcome.exception() if state.outcome is not None else None
    asked_s = error.retry_after_s if isinstance(error, errors.StoreError) else 0.0
    return max(_jitter_s(state), asked_s)


def _give_up(method: str, state: tenacity.RetryCallState) -> None:
    error = state.outcome.exception() if state.outcome is not None else None
    if not isinstance(error, errors.StoreError):
        msg = "only store errors are retried"
        raise TypeError(msg)
    tries = "1 try" if state.attempt_number == 1 else f"{state.attempt_number} tries"
    text = f"{error.what} ({tries} of {method})"
    raise errors.StoreUnavailable(text, where=error.where, advice=error.advice) from error
