"""``[[notify]]`` and ``[hooks]``: what is taken, what is refused, and the channel that the environment names."""

from __future__ import annotations

import pytest

from mlsync.config.load import load, load_with
from mlsync.errors import ConfigInvalid

HEAD = 'repository = "/r"\n'


def test_channels_and_hooks_are_read(tmp_path):
    """A channel is called like its service unless it has a name; a hook's program may lie beside the file."""
    (tmp_path / "tell.sh").touch()
    file = tmp_path / "mlsync.toml"
    file.write_text(
        HEAD + '[[notify]]\nchannel = "wecom"\nurl_file = "url"\n[[notify]]\nchannel = "wecom"\nname = "team-2"\n'
        'url_variable = "BOT"\nlanguage = "zh"\nevents = ["broken", "best"]\n[hooks]\non_best = ["tell.sh", "-q"]\n'
    )
    config = load(file, {"HOME": "/root"})
    first, second = config.channels
    assert (first.name, first.url_file, first.language) == ("wecom", tmp_path / "url", "en")
    assert "best" in first.events
    assert "digest" not in first.events
    assert (second.name, second.events, second.language) == ("team-2", ("best", "broken"), "zh")
    assert config.hooks.on_best == (str(tmp_path / "tell.sh"), "-q")
    assert config.hooks.hook_timeout_s == 30.0


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('[[notify]]\nurl_file = "u"', "without channel"),
        ('[[notify]]\nchannel = "msteams"', 'one of "wecom"'),
        ('[notify]\nchannel = "wecom"', "list of tables"),
        ('[[notify]]\nchannel = "wecom"\nurl = "https://x"', "unknown key url"),
        ('[[notify]]\nchannel = "wecom"\nevents = ["nothing"]', "events in"),
        ('[[notify]]\nchannel = "wecom"\nname = "../x"', "lower-case"),
        ('[[notify]]\nchannel = "wecom"\nurl_variable = "MLSYNC_BOT"', "does not begin with MLSYNC_"),
        ('[[notify]]\nchannel = "wecom"\nurl_variable = "B"\nurl_file = "u"', "both url_file and url_variable"),
        ('[[notify]]\nchannel = "wecom"\n[[notify]]\nchannel = "wecom"', "a second channel named 'wecom'"),
        ("[hooks]\non_best = []", "no shell reads it"),
        ('[hooks]\non_best = "tell.sh"', "no shell reads it"),
        ('[hooks]\nhook_timeout = "0s"', "above zero"),
    ],
)
def test_what_is_wrong_is_refused(tmp_path, text, said):
    """The message says what is allowed."""
    file = tmp_path / "mlsync.toml"
    file.write_text(HEAD + text + "\n")
    with pytest.raises(ConfigInvalid, match=said):
        load(file, {"HOME": "/root"})


def test_the_environment_names_one_channel():
    """Without a file, and with the name of a variable instead of the address itself."""
    environ = {"HOME": "/root", "MLSYNC_REPOSITORY": "/r", "MLSYNC_NOTIFY_CHANNEL": "dingtalk"}
    (found,) = load_with(None, environ=environ | {"MLSYNC_NOTIFY_URL_VARIABLE": "BOT", "BOT": "x"}).channels
    assert (found.channel, found.name, found.url_variable) == ("dingtalk", "dingtalk", "BOT")
