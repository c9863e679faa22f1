"""The table of servers in docs/s3.md is what the servers do that the tests have."""

from __future__ import annotations

import re
from importlib.metadata import version
from pathlib import Path

import pytest

from server_probe import THINGS, Probe

pytestmark = pytest.mark.slow

PAGE = (Path(__file__).parents[2] / "docs" / "s3.md").read_text()
TABLE = PAGE.partition("| thing | SeaweedFS | MiniStack | moto | rclone | without it |\n")[2].partition("\n\n")[0]
ROWS = [[cell.strip() for cell in line.strip("|").split("|")] for line in TABLE.splitlines()[1:]]


def test_each_thing_has_a_row_and_what_follows_without_it():
    """The table lists what the probe asks, each with a sentence for servers that cannot do it."""
    assert [row[0] for row in ROWS] == list(THINGS)
    assert all(row[5] for row in ROWS)


@pytest.mark.parametrize(("fixture", "column"), [("s3_server", 1), ("aws_server", 2)])
def test_a_column_is_what_the_server_does(fixture, column, request):
    """Every cell is what the probe finds; another server of MLSYNC_TEST_S3_ENDPOINT has no column."""
    server = request.getfixturevalue(fixture)
    if fixture == "s3_server" and not server.lacking:
        pytest.skip("another server than the table has")
    probe = Probe(server.endpoint_url)
    try:
        assert probe.row() == {row[0]: row[column] for row in ROWS}
    finally:
        probe.close()


def test_the_version_that_plays_aws_is_named():
    """The page names the release that is installed."""
    assert re.search(r"MiniStack ([0-9.]+),", PAGE)[1] == version("ministack")
