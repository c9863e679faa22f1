"""The stand-in for MLflow answers as the real server did that was recorded."""

from __future__ import annotations

import json

import pytest
import record_mlflow

RECORDED = json.loads(record_mlflow.ANSWERS.read_text())


def test_the_stand_in_answers_as_the_recorded_server(mlflow):
    """Each answer is the same, byte for byte but for its times: to questions, changes and refusals."""
    for one in RECORDED:
        assert record_mlflow.answer(mlflow.url, one["method"], one["what"], one["body"]) == one


def test_the_recording_has_what_is_asked_today():
    """A request that was changed in the script was recorded again."""
    assert [(one["method"], one["what"], one["body"]) for one in RECORDED] == record_mlflow.REQUESTS


@pytest.mark.parametrize("refused", ["RESOURCE_ALREADY_EXISTS", "INVALID_PARAMETER_VALUE", "RESOURCE_DOES_NOT_EXIST"])
def test_the_recording_has_each_kind_of_refusal(refused):
    """Refusals are part of it."""
    assert any(refused in one["answer"] for one in RECORDED)
