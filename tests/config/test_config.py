"""The configuration: strict, with a line and a suggestion for every mistake."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest

from mlsync.app.flow_options import proof_options
from mlsync.config.every import Cron, Interval, Never, parse_every
from mlsync.config.load import find_config, load
from mlsync.config.model import TABLES, TOP, Config, KeySettings, WatchSettings
from mlsync.config.places import SYSTEM_FILE, default_state_directory, place_to_write, usual_places
from mlsync.config.run_name import check_run_name
from mlsync.config.template import EXAMPLE, template
from mlsync.config.toml_lines import line_of
from mlsync.errors import ConfigInvalid, RunNameInvalid

GOOD = """\
repository = "file:///srv/mlsync"
"""

# text, line that is named, what is said
MISTAKES = {
    "suggestion": ('[agent]\nsetle = "2s"\n', 3, "unknown key setle in [agent]: FILE:3 (did you mean settle?)"),
    "refuse_nan": (
        "[proof]\nrefuse_nan = true\n",
        3,
        "unknown key refuse_nan in [proof]: FILE:3 (did you mean refuse?)",
    ),
    "unknown table": ("\n[agnet]\n", 3, "unknown table agnet: FILE:3 (did you mean agent?)"),
    "wrong table": ('every = "1h"\n', 2, "unknown key every: FILE:2 (it belongs under [agent])"),
    "no idea": (
        "[key]\nzzz = 1\n",
        3,
        (
            "unknown key zzz in [key]: FILE:3 (known here: passphrase_file, key_file, kms_key, kms_region, "
            "kms_endpoint_url, kms_profile, write_only_key_file, remember)"
        ),
    ),
    "second watch": (
        '[[watch]]\ndirectory = "/a"\n\n[[watch]]\ndirectory = "/b"\nexclud = []\n',
        7,
        "unknown key exclud in [[watch]]: FILE:7 (did you mean exclude?)",
    ),
    "number for duration": (
        "[agent]\nsettle = 5\n",
        3,
        'settle in [agent] must be a length of time like "500ms", "2s", "30m", "1h30m" or "1d", not 5: FILE:3',
    ),
    "bad cron": (
        '[agent]\nevery = "61 * * * *"\n',
        3,
        (
            'every in [agent] must be a length of time like "30m", "6h" or "1d", a cron line like "0 * * * *", '
            'or "never", not "61 * * * *": FILE:3'
        ),
    ),
    "kept warm for ever": (
        '[proof]\nkeep_warm = "2h"\n',
        3,
        (
            'keep_warm in [proof] must be a length of time like "500ms", "2s", "30m", "1h30m" or "1d", up to one hour, '
            'not "2h": FILE:3'
        ),
    ),
    "bad choice": (
        '[proof]\ndevice = "gpu"\n',
        3,
        'device in [proof] must be one of "auto", "cuda", "cuda:N", "cpu", "none", not "gpu": FILE:3',
    ),
    "signing that is true or false": (
        "[s3]\npayload_signing = true\n",
        3,
        'payload_signing in [s3] must be one of "auto", "always", "never", not true: FILE:3',
    ),
    "no number of a device": (
        '[proof]\ndevice = "cuda:x"\n',
        3,
        'device in [proof] must be one of "auto", "cuda", "cuda:N", "cpu", "none", not "cuda:x": FILE:3',
    ),
    "unknown fault of numbers": (
        '[proof]\nrefuse = ["nan", "nul"]\n',
        3,
        (
            'refuse in [proof] must be a list of some of "nan", "inf", "zero", "constant", "saturated", '
            'not ["nan", "nul"]: FILE:3'
        ),
    ),
    "fault of numbers that is no list": (
        '[proof]\nwarn = "nan"\n',
        3,
        'warn in [proof] must be a list of some of "nan", "inf", "zero", "constant", "saturated", not "nan": FILE:3',
    ),
    "memory without a unit": (
        "[proof]\nmemory = 512\n",
        3,
        'memory in [proof] must be an amount of memory like "512MiB" or "1.5GiB", at least 384MiB, not 512: FILE:3',
    ),
    "cache of bases that is no amount": (
        '[backup]\nbase_cache = "0"\n',
        3,
        'base_cache in [backup] must be an amount of memory like "512MiB" or "1.5GiB", at least 64MiB, not "0": FILE:3',
    ),
    "too small a cache of bases": (
        '[backup]\nbase_cache = "1MiB"\n',
        3,
        'base_cache in [backup] must be at least 64MiB, not "1MiB": FILE:3',
    ),
    "too little memory": (
        '[proof]\nmemory = "0.1GiB"\n',
        3,
        'memory in [proof] must be at least 384MiB, not "0.1GiB": FILE:3',
    ),
    "flag as level": (
        "[proof]\nrequire = true\n",
        3,
        "require in [proof] must be a whole number from 0 to 5, not true: FILE:3",
    ),
    "text as flag": (
        '[agent]\non_change = "yes"\n',
        3,
        'on_change in [agent] must be true or false, not "yes": FILE:3',
    ),
    "inline table": (
        's3 = { addressing = "host" }\n',
        2,
        'addressing in [s3] must be one of "auto", "path", "virtual", not "host": FILE:2',
    ),
    "dotted key": ("s3.profil = 'x'\n", 2, "unknown key profil in [s3]: FILE:2 (did you mean profile?)"),
    "run name": (
        '[[watch]]\ndirectory = "/a"\nrun = "../b"\n',
        4,
        'run in [[watch]] must be a run\'s name; it has a "/", not "../b": FILE:4',
    ),
    "unknown rule": (
        '[retention]\nkeep = ["last 5", "lst 3"]\n',
        3,
        (
            'keep in [retention] must be a list of rules like ["last 5", "daily 14", "pinned"]; '
            '\'lst 3\' is no rule: did you mean last?, not ["last 5", "lst 3"]: FILE:3'
        ),
    ),
    "no rule at all": (
        "[retention]\nkeep = []\n",
        3,
        (
            'keep in [retention] must be a list of rules like ["last 5", "daily 14", "pinned"]; '
            "an empty one would keep nothing; without it, all versions are kept, not []: FILE:3"
        ),
    ),
    "level without its letter": (
        "[retention]\nfloor = 3\n",
        3,
        'floor in [retention] must be one of "L0", "L1", "L2", "L3", "L4", "L5", not 3: FILE:3',
    ),
    "more than all processors": (
        '[limits]\nprocessor_share = "101%"\n',
        3,
        'processor_share in [limits] must be a share from "0.1%" to "100%", not "101%": FILE:3',
    ),
    "no share of the processors": (
        "[limits]\nprocessor_share = 5\n",
        3,
        'processor_share in [limits] must be a share from "0.1%" to "100%", not 5: FILE:3',
    ),
    "more than all": (
        '[retention]\nmax_remove = "150%"\n',
        3,
        'max_remove in [retention] must be a share like "50%", or a number of versions, not "150%": FILE:3',
    ),
    "retention of one run": (
        '[[watch]]\ndirectory = "/a"\n[[watch]]\ndirectory = "/b"\n[watch.retention]\nkep = ["last 1"]\n',
        7,
        "unknown key kep in [watch.retention]: FILE:7 (did you mean keep?)",
    ),
    "a prune of one run": (
        '[[watch]]\ndirectory = "/a"\n[watch.retention]\nprune = "daily"\n',
        5,
        "prune in [watch.retention] cannot be for one run: FILE:5 (write it in [retention])",
    ),
    "retention of one run that is no table": (
        '[[watch]]\ndirectory = "/a"\nretention = ["last 1"]\n',
        4,
        "retention in [[watch]] must be a table: FILE:4 (write [watch.retention] on a line below it)",
    ),
    "directory without a name": (
        '[[watch]]\ndirectory = "/"\n',
        3,
        "this directory's name gives no run name: it is empty: FILE:3 (set run)",
    ),
    "same name twice": (
        '[[watch]]\ndirectory = "/a/x"\n[[watch]]\ndirectory = "/b/x"\n',
        5,
        "a second run named 'x': FILE:5 (the first one is at line 2; set run)",
    ),
    "no directory": ('[[watch]]\nrun = "x"\n', 2, "a [[watch]] without directory: FILE:2"),
    "watching its own writes": (
        '[[watch]]\ndirectory = "/srv"\n',
        3,
        "the repository is inside a watched directory: FILE:3 (move /srv/mlsync elsewhere)",
    ),
    "two secrets": (
        '[key]\npassphrase_file = "/a"\nkey_file = "/b"\n',
        4,
        "both passphrase_file and key_file in [key]: FILE:4 (keep one of them)",
    ),
    "a key of KMS and a secret": (
        '[key]\nkey_file = "/b"\nkms_key = "alias/a"\n',
        4,
        "both kms_key and a secret's file in [key]: FILE:4 (keep one of them)",
    ),
    "no key of KMS": (
        '[key]\nkms_key = "a key"\n',
        3,
        'kms_key in [key] must be a key\'s ARN, its id, or "alias/NAME", not "a key": FILE:3',
    ),
    "watch as a table": (
        '[watch]\ndirectory = "/a"\n',
        2,
        "watch must be a list of tables: FILE:2 (write [[watch]] above each directory)",
    ),
    "command without a path": (
        '[proof]\ncommand = ["true"]\n',
        3,
        (
            'command in [proof] must be a list of strings like ["python", "check.py", "{path}"], with {path} among '
            'them, not ["true"]: FILE:3'
        ),
    ),
    "program that is not there": (
        '[proof]\ncommand = ["python", "/absent/check.py", "{path}"]\n',
        3,
        (
            "command in [proof] must be a command whose programs exist; there is no /absent/check.py, "
            'not ["python", "/absent/check.py", "{path}"]: FILE:3'
        ),
    ),
    "command and framework": (
        '[proof]\ncommand = ["true", "{path}"]\nframework = "ultralytics"\n',
        4,
        "both command and framework in [proof]: FILE:4 (keep one of them)",
    ),
    "state_dict without a model": (
        '[proof]\nframework = "state_dict"\n',
        3,
        'model in [proof] and framework = "state_dict" need each other: FILE:3',
    ),
    "model of nothing": (
        '[proof]\nmodel = "a.b:c"\n',
        3,
        'model in [proof] and framework = "state_dict" need each other: FILE:3',
    ),
    "model that is no callable": (
        '[proof]\nmodel = "a/b.py"\n',
        3,
        'model in [proof] must be a module and a callable in it, like "package.module:build", not "a/b.py": FILE:3',
    ),
    "level 5 without a device": (
        '[proof]\ndevice = "none"\nframework = "ultralytics"\n',
        3,
        (
            'device = "none" in [proof], and a command or framework: FILE:3 '
            "(level 5 comes after the levels that need a device)"
        ),
    ),
    "level 5 of nothing": (
        "[proof]\nrequire = 5\n",
        3,
        "require = 5 in [proof], and no command or framework: FILE:3",
    ),
    "a secret for the command": (
        '[proof]\ncommand_environment = ["MLSYNC_PASSPHRASE"]\n',
        3,
        (
            'command_environment in [proof] must be a list like ["PYTHONPATH", "OMP_NUM_THREADS=4"], without MLSYNC_* '
            'and AWS_*, not ["MLSYNC_PASSPHRASE"]: FILE:3'
        ),
    ),
    "settling longer than allowed": (
        '[agent]\nsettle = "5m"\nsettle_max = "1m"\n',
        4,
        "settle_max in [agent] is less than settle: FILE:4",
    ),
    "archive for packs": (
        '[s3]\nstorage_class = "DEEP_ARCHIVE"\n',
        3,
        (
            "storage_class in [s3] must be a class whose objects can be read at once: a backup reads back what it "
            'stored, and a lifecycle rule may archive packs later, not "DEEP_ARCHIVE": FILE:3'
        ),
    ),
    "archive for manifests, by its name at Aliyun": (
        '[s3]\nstorage_class_others = "ColdArchive"\n',
        3,
        (
            "storage_class_others in [s3] must be a class whose objects can be read at once: every command reads them, "
            'not "ColdArchive": FILE:3'
        ),
    ),
    "key of KMS without KMS": (
        '[s3]\nsse = "AES256"\nkms_key_id = "alias/a"\n',
        4,
        'kms_key_id in [s3] without encryption by KMS: FILE:4 (set sse = "aws:kms")',
    ),
    "bucket key with two layers": (
        '[s3]\nsse = "aws:kms:dsse"\nbucket_key = true\n',
        4,
        'bucket_key in [s3] without encryption by KMS: FILE:4 (set sse = "aws:kms")',
    ),
    "lock shorter than the grace": (
        '[s3]\nobject_lock = "compliance 5d"\n',
        3,
        (
            "object_lock in [s3] is for less than the grace in [retention], 7 days: FILE:3 (what is forgotten stays "
            "that long, and could be destroyed before; lock for longer, or set grace)"
        ),
    ),
    "lock shorter than the grace of a run": (
        '[[watch]]\ndirectory = "/a"\n[watch.retention]\ngrace = "40d"\n[s3]\nobject_lock = "governance 30d"\n',
        7,
        (
            "object_lock in [s3] is for less than the grace in [retention], 40 days: FILE:7 (what is forgotten stays "
            "that long, and could be destroyed before; lock for longer, or set grace)"
        ),
    ),
    "lock of a mirror shorter than the grace": (
        '[[mirror]]\nurl = "s3://b/c"\nobject_lock = "governance 3d"\n',
        4,
        (
            "object_lock in [[mirror]] is for less than the grace in [retention], 7 days: FILE:4 (what is forgotten "
            "stays that long, and could be destroyed before; lock for longer, or set grace)"
        ),
    ),
    "lock of no mode": (
        '[s3]\nobject_lock = "30d"\n',
        3,
        (
            'object_lock in [s3] must be "governance" or "compliance", and a length of time like "500ms", "2s", "30m", '
            '"1h30m" or "1d", from 3d to 100 years: "governance 30d", not "30d": FILE:3'
        ),
    ),
    "too many tags": (
        "[s3]\ntags = { a = '', b = '', c = '', d = '', e = '', f = '', g = '', h = '', i = '' }\n",
        3,
        (
            "tags in [s3] must be at most 8 tags: an object may have 10, and mlsync adds 2, not "
            "{'a': '', 'b': '', 'c': '', 'd': '', 'e': '', 'f': '', 'g': '', 'h': '', 'i': ''}: FILE:3"
        ),
    ),
    "tag with letters that no server takes": (
        '[s3]\ntags = { team = "a&b" }\n',
        3,
        (
            "tags in [s3] must be made of letters, digits, spaces and + - = . _ : / @, as 'a&b' is not, not "
            "{'team': 'a&b'}: FILE:3"
        ),
    ),
    "tag of mlsync's": (
        '[s3]\ntags = { mlsync-kind = "a" }\n',
        3,
        (
            "tags in [s3] must be names that do not begin with aws: or mlsync-, as 'mlsync-kind' does, not "
            "{'mlsync-kind': 'a'}: FILE:3"
        ),
    ),
    "account that is a number": (
        "[s3]\nexpected_bucket_owner = 111122223333\n",
        3,
        (
            'expected_bucket_owner in [s3] must be an account\'s twelve digits in quotes, like "111122223333", not '
            "111122223333: FILE:3"
        ),
    ),
}


@pytest.fixture
def write(tmp_path):
    def write(text):
        file = tmp_path / "mlsync.toml"
        file.write_text(text)
        return file

    return write


@pytest.mark.parametrize("mistake", MISTAKES)
def test_each_mistake_is_named_with_its_line(mistake, write):
    """A mistake is told with file, line, what is allowed, and what was meant."""
    text, line, said = MISTAKES[mistake]
    file = write(GOOD + text)
    with pytest.raises(ConfigInvalid) as raised:
        load(file)
    assert str(raised.value) == said.replace("FILE", str(file))
    assert f":{line}" in raised.value.where


@pytest.mark.parametrize(
    ("place", "said"),
    [
        ("file://srv/x", "a directory of this machine"),
        ("file:/srv/x", "a directory of this machine"),
        ("file://user:secret@srv/x", "a directory of this machine"),
        ("file:///srv/x?y", "%3F"),
        ("file:///srv/x#y", "%23"),
        ("s3://", "a bucket's name"),
        ("s3:bucket", "a path"),
        ("S3://bucket", "a path"),
        ("s3://key:secret@bucket", "a URL without credentials"),
        ("https://key:secret@x", "a path"),
        ("C:\\\\x", "a path"),
        ("key:secret@host:/x", "a path"),
        ("~nobody-of-this-name/x", "~nobody-of-this-name is not known"),
        ("", "a path or a URL in quotes"),
    ],
)
def test_repository_must_name_a_place_without_secrets(place, said, write):
    """A repository that names no store, or holds a secret, is refused in the file and in --repo alike."""
    with pytest.raises(ConfigInvalid, match=":1") as raised:
        load(write(f'repository = "{place}"\n'))
    assert said in str(raised.value)
    assert "secret@" not in str(raised.value)
    with pytest.raises(ConfigInvalid) as raised:
        Config.for_repository(place.replace("\\\\", "\\"))
    assert said in str(raised.value)
    assert "secret@" not in str(raised.value)


@pytest.mark.parametrize(
    ("place", "url"),
    [
        ("/srv/x/../y", "file:///srv/y"),
        ("/srv/100% #1?", "file:///srv/100%25%20%231%3F"),
        ("./r", "file://{base}/r"),
        ("r", "file://{base}/r"),
        ("../r", "file://{above}/r"),
        ("./a:b", "file://{base}/a%3Ab"),
        ("~/r", "file://{home}/r"),
        ("file://localhost/srv/y", "file://localhost/srv/y"),
        ("s3://bucket/../x", "s3://bucket/../x"),
    ],
)
def test_a_repository_may_be_a_path(place, url, write, tmp_path, monkeypatch):
    """A path names the directory's URL; a relative one counts from the file, and with --repo from the current place."""
    monkeypatch.setenv("HOME", "/home/u")
    meant = url.format(base=tmp_path, above=tmp_path.parent, home="/home/u")
    assert load(write(f'repository = "{place}"\n')).repository == meant
    monkeypatch.chdir(tmp_path)
    assert Config.for_repository(place).repository == meant


def test_the_directory_of_a_path_is_the_path(write):
    """Percent signs and number signs of a path reach the store as they are."""
    assert load(write('repository = "/srv/100% #1"\n')).repository_directory == Path("/srv/100% #1")


def test_a_relative_path_in_a_removed_directory_is_refused(tmp_path, monkeypatch):
    """Where the current directory was removed, a relative path is refused and an absolute one works."""
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    assert Config.for_repository("/srv/x").repository == "file:///srv/x"
    with pytest.raises(ConfigInvalid, match="an absolute path, since the current directory was removed"):
        Config.for_repository("x")
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize("url", ["https://key:secret@minio", "minio:9000", "ftp://minio", "https://"])
def test_an_endpoint_is_a_url_without_secrets(url, write):
    """An endpoint that is no URL of a server, or holds a secret, is refused with its line."""
    with pytest.raises(ConfigInvalid, match=r"endpoint_url in \[s3\] must be a URL.*:3") as raised:
        load(write(f'{GOOD}[s3]\nendpoint_url = "{url}"\n'))
    assert "secret@" not in str(raised.value)


@pytest.mark.parametrize("mangle", [lambda text: "\ufeff" + text, lambda text: text.replace("\n", "\r\n")])
def test_files_of_other_systems_are_read(mangle, write):
    """A byte-order mark and line ends with a carriage return change nothing."""
    file = write("")
    file.write_bytes(mangle(GOOD + '[agent]\nevery = "2h"\n').encode())
    assert load(file).agent.every == Interval(7200.0)
    file.write_bytes(mangle(GOOD + "[agent]\nevry = 1\n").encode())
    with pytest.raises(ConfigInvalid, match=":3"):
        load(file)


def test_a_file_without_repository_is_refused(write):
    """A configuration that names no repository is refused."""
    with pytest.raises(ConfigInvalid, match="names no repository"):
        load(write("[agent]\n"))


def test_broken_toml_names_the_line(write):
    """What TOML's own parser refuses is told with its line."""
    with pytest.raises(ConfigInvalid, match=r"not TOML: .*mlsync.toml:2$"):
        load(write(GOOD + "[agent\n"))


def test_a_backslash_that_is_no_escape_gets_the_advice(write):
    """A path with backslashes in double quotes is told how to be written."""
    with pytest.raises(ConfigInvalid, match=r"not TOML: .*:1 \(write what has a backslash in single quotes\)"):
        load(write('repository = "C:\\x"\n'))


def test_values_arrive(write):
    """Each key of a file arrives as the value it says."""
    file = write(
        GOOD
        + """\
state_directory = "state"
[key]
passphrase_file = "~/secret"
[agent]
every = "1h30m"
settle = "500ms"
stop_within = "10s"
[[watch]]
directory = "runs/yolo"
exclude = ["*.tmp"]
[[watch]]
directory = "/data/x"
run = "größe 2"
[proof]
python = "/opt/conda/bin/python"
require = 3
"""
    )
    config = load(file)
    assert config.state_directory == file.parent / "state"
    assert config.key == KeySettings(passphrase_file=Path.home() / "secret")
    assert (config.agent.every, config.agent.settle_s, config.agent.stop_within_s) == (Interval(5400.0), 0.5, 10.0)
    assert config.watches == (
        WatchSettings(file.parent / "runs/yolo", "yolo", ("*.tmp",)),
        WatchSettings(Path("/data/x"), "größe 2"),
    )
    assert (config.proof.require, config.proof.device, config.path) == (3, "auto", file)


def options_of(write, proof):
    """What the prover is told by the lines of ``[proof]``."""
    return proof_options(load(write(GOOD + "[proof]\n" + proof)), None)


def test_numbers_are_refused_and_warned_of_as_the_lists_say(write):
    """Both lists arrive at the prover; without them NaN, infinity and saturation are warned of, nothing is refused."""
    options = options_of(write, 'refuse = ["constant", "zero", "zero"]\nwarn = []\n')
    assert (options.refuse, options.warn) == ({"zero", "constant"}, set())
    options = options_of(write, "")
    assert (options.refuse, options.warn) == (set(), {"nan", "inf", "saturated"})


@pytest.mark.parametrize("device", ["auto", "cuda", "cuda:1", "cpu", "none"])
def test_a_gpu_is_named_by_its_number(write, device):
    """A kind of device and one GPU's number arrive at the prover as they are."""
    assert options_of(write, f'device = "{device}"\n').device == device


@pytest.mark.parametrize(
    ("text", "size_bytes"), [("512MiB", 512 << 20), ("1.5 GiB", 3 << 29), ("500MB", 500_000_000), ("2GB", 2 * 10**9)]
)
def test_the_bound_on_a_gpus_memory_is_an_amount_with_its_unit(write, text, size_bytes):
    """The amount arrives at the prover in bytes."""
    assert options_of(write, f'memory = "{text}"\n').memory_bytes == size_bytes


def test_the_template_reads_back(write):
    """The file that init writes says what was given to it, and nothing else."""
    strange = Path('/data/a "b"\x7f\n\\')
    text = template(
        "s3://bucket/x",
        [(strange, "named"), (Path("/data/c"), None)],
        s3={"endpoint_url": "https://m", "payload_signing": "always"},
    )
    config = load(write(text))
    assert config.repository == "s3://bucket/x"
    assert config.watches == (WatchSettings(strange, "named"), WatchSettings(Path("/data/c"), "c"))
    assert (config.s3.endpoint_url, config.s3.payload_signing) == ("https://m", "always")
    plain = Config.for_repository("s3://bucket/x")
    assert (config.agent, config.proof, config.key) == (plain.agent, plain.proof, plain.key)


def test_retention_of_a_run_is_that_of_all_but_for_what_it_says(write):
    """A run without a table has the keys of all runs, and so has one for each key that its own table leaves out."""
    text = GOOD + (
        '[[watch]]\ndirectory = "/a"\n[watch.retention]\nkeep = ["last 1"]\ngrace = "1d"\n'
        '[[watch]]\ndirectory = "/b"\n[retention]\nkeep = ["daily 7", "pinned"]\nfloor = "L4"\nmax_remove = 9\n'
    )
    config = load(write(text))
    said = {
        run: (
            [rule.text for rule in found.keep],
            found.floor,
            found.grace_s,
            str(found.max_remove),
        )
        for run in ("a", "b", "elsewhere")
        for found in [config.retention_of(run)]
    }
    assert said == {
        "a": (["last 1"], 4, 86_400, "9"),
        "b": (["daily 7", "pinned"], 4, 604_800, "9"),
        "elsewhere": (["daily 7", "pinned"], 4, 604_800, "9"),
    }


def test_without_a_word_all_versions_are_kept(write):
    """The defaults remove nothing."""
    assert load(write(GOOD)).retention.keep == ()


def lines_behind(text):
    """Tables and keys of a template that stand behind a #; comments have a space there."""
    return [line[1:] for line in text.splitlines() if line.startswith("#") and not line.startswith("# ")]


def test_the_template_shows_every_key():
    """Every key that the reader knows is in the template, once in each table, with what it is for."""
    text = template("file:///r")
    plain = " ".join(re.sub(r"^# ?", "", text, flags=re.MULTILINE).split())
    for keys in (TOP, *TABLES.values()):
        for name, key in keys.items():
            tables = sum(name in others for others in (TOP, *TABLES.values()))
            assert len(re.findall(rf"^#?{name} = ", text, re.MULTILINE)) == tables
            assert f"{key.why} ".replace("`", "") in plain
            unset = key.unset.replace("`", "")
            assert (f"Default: {unset}. {name} = {key.example}{EXAMPLE}".replace("  ", " ") in plain) == (
                key.default is None and key.unset != "" and name != "state_directory"
            ), name


@pytest.mark.parametrize("environ", [{"HOME": "/home/u"}, {"XDG_STATE_HOME": "/s"}, {"STATE_DIRECTORY": "/v"}])
def test_what_the_template_shows_is_the_default(write, environ):
    """With the # before each key taken away, except before examples, the configuration stays the same."""
    shown = template("file:///r", environ=environ)
    tables = ("[[watch]]", "[[notify]]", "[[mirror]]")
    keys = [line for line in lines_behind(shown) if not line.endswith(EXAMPLE) and line not in tables]
    assert len(keys) == sum(key.default is not None for keys in (TOP, *TABLES.values()) for key in keys.values()) + 1
    text = shown.replace("#[[watch]]", '[[watch]]\ndirectory = "/t"').replace("#[[mirror]]", '[[mirror]]\nurl = "/m"')
    for line in keys:
        text = text.replace(f"#{line}\n", f"{line}\n")
    small = 'repository = "file:///r"\n[[watch]]\ndirectory = "/t"\n[[mirror]]\nurl = "/m"\n'
    plain = load(write(small), environ)
    assert load(write(text), environ) == plain
    assert plain.state_directory == default_state_directory(environ)


@pytest.mark.parametrize("table", ["", *TABLES])
def test_each_example_is_understood(table, tmp_path):
    """The example of each key is a value that the key takes, and differs from its default."""
    (tmp_path / "check.py").touch()
    for name, key in (TABLES[table] if table else TOP).items():
        value = tomllib.loads(f"value = {key.example}")["value"]
        assert key.default is None or key.parse(value, tmp_path) != key.parse(
            tomllib.loads(f"value = {key.default}")["value"], tmp_path
        ), name
        key.parse(value, tmp_path)


def test_looking_for_a_file_tells_all_places(tmp_path, monkeypatch):
    """Without a configuration every place that was looked at is named."""
    monkeypatch.setattr("mlsync.config.places.SYSTEM_FILE", tmp_path / "etc/mlsync.toml")
    with pytest.raises(ConfigInvalid) as raised:
        find_config(environ={"XDG_CONFIG_HOME": str(tmp_path / "cfg")})
    assert str(raised.value) == (
        f"no configuration file: looked for --config, MLSYNC_CONFIG, {tmp_path}/cfg/mlsync/mlsync.toml, "
        f"{tmp_path}/etc/mlsync.toml (make one with: mlsync init URL --watch DIR; or name a repository with --repo URL)"
    )


def test_looking_goes_from_the_nearest_to_the_farthest(tmp_path, monkeypatch):
    """Option before variable before the user's place before the system's."""
    files = [tmp_path / name for name in ("option.toml", "variable.toml", "cfg/mlsync/mlsync.toml", "system.toml")]
    for file in files:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(GOOD)
    monkeypatch.setattr("mlsync.config.places.SYSTEM_FILE", files[3])
    environ = {"XDG_CONFIG_HOME": str(tmp_path / "cfg"), "MLSYNC_CONFIG": str(files[1])}
    assert find_config(files[0], environ) == files[0]
    assert find_config(None, environ) == files[1]
    del environ["MLSYNC_CONFIG"]
    assert find_config(None, environ) == files[2]
    files[2].unlink()
    assert find_config(None, environ) == files[3]


def test_a_named_file_is_never_replaced_by_another(tmp_path):
    """A file that was named and is not there is an error, whatever lies elsewhere."""
    with pytest.raises(ConfigInvalid, match="the place that MLSYNC_CONFIG names"):
        find_config(None, {"MLSYNC_CONFIG": str(tmp_path / "gone.toml")})


@pytest.mark.parametrize(
    ("environ", "uid", "place"),
    [
        ({"STATE_DIRECTORY": "/var/lib/mlsync:/x", "XDG_STATE_HOME": "/s"}, 5, "/var/lib/mlsync"),
        ({"STATE_DIRECTORY": "/v", "XDG_STATE_HOME": "/s"}, 0, "/v"),
        ({"XDG_STATE_HOME": "/s"}, 0, "/s/mlsync"),
        ({"XDG_STATE_HOME": "rel"}, 0, "/var/lib/mlsync"),
        ({"HOME": "/root"}, 0, "/var/lib/mlsync"),
        ({"XDG_STATE_HOME": "/s"}, 5, "/s/mlsync"),
        ({"HOME": "/home/u", "XDG_STATE_HOME": "rel"}, 5, "/home/u/.local/state/mlsync"),
        ({"HOME": "/home/u"}, 5, "/home/u/.local/state/mlsync"),
    ],
)
def test_the_state_has_its_usual_places(environ, uid, place):
    """The directory of systemd wins, then XDG_STATE_HOME if it is absolute, then root's, then the user's."""
    assert default_state_directory(environ, uid=uid) == Path(place)


@pytest.mark.parametrize(
    ("environ", "uid", "place"),
    [
        ({"MLSYNC_CONFIG": "/m.toml", "XDG_CONFIG_HOME": "/c"}, 0, "/m.toml"),
        ({"XDG_CONFIG_HOME": "/c"}, 0, "/c/mlsync/mlsync.toml"),
        ({"XDG_CONFIG_HOME": "rel", "HOME": "/root"}, 0, "/etc/mlsync/mlsync.toml"),
        ({"HOME": "/root"}, 0, "/etc/mlsync/mlsync.toml"),
        ({"XDG_CONFIG_HOME": "/c"}, 5, "/c/mlsync/mlsync.toml"),
        ({"HOME": "/home/u"}, 5, "/home/u/.config/mlsync/mlsync.toml"),
    ],
)
def test_a_new_configuration_goes_where_the_others_look(environ, uid, place):
    """The places of ``init``: MLSYNC_CONFIG, below XDG_CONFIG_HOME if it is absolute, root's or the user's."""
    assert place_to_write(environ, uid=uid) == Path(place)
    assert "MLSYNC_CONFIG" in environ or Path(place) in usual_places(environ)


def test_a_user_without_a_home(monkeypatch):
    """Without a home the system's configuration is looked for, and the state's place has to be named."""

    def unknown():
        raise RuntimeError

    monkeypatch.setattr(Path, "home", unknown)
    assert usual_places({}) == (SYSTEM_FILE,)
    with pytest.raises(ConfigInvalid, match=r"no home directory \(set HOME or XDG_STATE_HOME"):
        default_state_directory({}, uid=5)


def test_a_home_is_only_needed_where_the_file_does_not_say(write, monkeypatch):
    """A configuration with a state directory needs no home."""
    monkeypatch.setattr("mlsync.config.load.default_state_directory", None)
    assert load(write(GOOD + 'state_directory = "/s"\n'), {}).state_directory == Path("/s")


def test_a_directory_is_no_configuration(tmp_path):
    """A directory that is named as the configuration is refused as one."""
    with pytest.raises(ConfigInvalid, match="a directory and no configuration file at the place that --config names"):
        find_config(tmp_path)


@pytest.mark.parametrize(
    ("text", "every"),
    [
        ("90s", Interval(90.0)),
        ("1d", Interval(86400.0)),
        ("never", Never()),
        ("0 * * * *", Cron("0", "*", "*", "*", "*")),
        ("30 3 * * 0", Cron("30", "3", "*", "*", "sun")),
        ("0 0 * * 1-5", Cron("0", "0", "*", "*", "mon,tue,wed,thu,fri")),
        ("0 0 * * 5-7,2", Cron("0", "0", "*", "*", "fri,sat,sun,tue")),
    ],
)
def test_every_is_understood(text, every):
    """Lengths of time and cron lines are understood, weekdays as cron counts them."""
    assert parse_every(text) == every


@pytest.mark.parametrize(
    "text", ["", "5", "h", "0s", "-1h", "1h x", "* * * *", "0 0 1 * 1", "0 0 * * 5-3", "0 0 * * 8"]
)
def test_nonsense_is_no_schedule(text):
    """What is neither a length of time nor a cron line is refused."""
    with pytest.raises(ValueError, match=r"\w"):
        parse_every(text)


@pytest.mark.parametrize("name", ["a", "yolo-1", "größe", "训练", "a b", "x" * 128, "_x", "1.2"])
def test_printable_names_are_run_names(name):
    """Printable names in composed form are taken as they are."""
    assert check_run_name(name) == name


@pytest.mark.parametrize(
    "name",
    [
        "",
        "x" * 129,
        "a/b",
        "/",
        ".",
        "..",
        ".a",
        "-a",
        "a\n",
        "a\0",
        " a",
        "a ",
        "gro\u0308ße",
        "\x1b[2J",
        "\u202eabc",
        "\udcff",
    ],
)
def test_names_that_mislead_are_refused(name):
    """Names that could be paths, options, or mislead the eye are refused with a printable message."""
    with pytest.raises(RunNameInvalid) as raised:
        check_run_name(name)
    assert str(raised.value).isprintable()


def test_lines_are_found_behind_text_that_looks_like_toml():
    """Keys inside a multi-line string are not taken for keys."""
    text = 'a = """\n[agent]\nevery = 1\n"""\n# [agent]\n[agent] # here\n"every" = 2\n'
    assert line_of(text, ("agent", "every")) == 7
    assert line_of(text, ("agent",)) == 6
    assert line_of(text, ("absent",)) == 1


@pytest.mark.parametrize("url", ["file:///srv/my%20models/mlsync", "file:///srv/my models/mlsync"])
def test_a_repository_inside_a_watched_directory_is_refused_whatever_its_url(tmp_path, url):
    """A file URL is compared by the path that it stands for."""
    file = tmp_path / "mlsync.toml"
    file.write_text(f'repository = "{url}"\n[[watch]]\ndirectory = "/srv/my models"\n')
    with pytest.raises(ConfigInvalid, match="the repository is inside a watched directory"):
        load(file)


def test_new_objects_are_written_as_they_were_said(tmp_path):
    """A file that mlsync writes says the lock and the tags of the settings again."""
    said = 'repository = "s3://b/p"\n[s3]\nobject_lock = "compliance 30d"\ntags = { team = "ä b", x = "" }\n'
    file = tmp_path / "mlsync.toml"
    file.write_text(said)
    s3 = load(file).s3
    assert (s3.object_lock.mode, s3.object_lock.period_s) == ("compliance", 30 * 86400.0)
    file.write_text(template("s3://b/p", s3={"object_lock": s3.object_lock, "tags": s3.tags}))
    assert load(file).s3 == s3
