"""What reaches a terminal."""

from mlsync.cli import output


def test_nothing_that_a_terminal_would_obey_is_printed(capsys):
    """Escapes, line breaks and lone surrogates of names and findings are shown, not sent."""
    output.say("record 'a\x1b[31m\n\udc80b' ✓")
    assert capsys.readouterr().out == "record 'a\\u001b[31m\\u000a\\udc80b' ✓\n"
