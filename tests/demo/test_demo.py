import json
import os
import signal
import subprocess
import sys
import time
import venv
from pathlib import Path
from types import SimpleNamespace

import pytest

import mlsync
from mlsync.demo import workplace
from mlsync.errors import ConfigInvalid

DEMO = ["-P", "-m", "mlsync", "demo"]


def processes_of(directory: Path) -> list[str]:
    """The command lines of all processes that have to do with *directory*."""
    found = []
    for place in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            command = place.read_bytes()
        except OSError:
            continue
        if os.fsencode(directory) in command:
            found.append(command.replace(b"\0", b" ").decode())
    return found


@pytest.fixture(scope="module")
def without_torch(tmp_path_factory):
    """The Python of a virtual environment that has all that this one has, but for torch."""
    place = tmp_path_factory.mktemp("without-torch")
    venv.create(place / "venv", symlinks=True)
    packages = place / "packages"
    packages.mkdir()
    for directory in map(Path, sys.path):
        if directory.name in ("site-packages", "dist-packages"):
            for package in directory.iterdir():
                if not package.name.startswith(("torch", "functorch")) and not (packages / package.name).is_symlink():
                    (packages / package.name).symlink_to(package)
    found = next((place / "venv/lib").glob("python*/site-packages")) / "packages.pth"
    found.write_text(f"{packages}\n{Path(mlsync.__file__).parents[1]}\n")
    return str(place / "venv/bin/python")


def start(directory, *options, command=(sys.executable, *DEMO)):
    # The second is what a person may have: nothing of the demo goes there, or it would be found behind it.
    environment = os.environ | {"TMPDIR": str(directory), "STATE_DIRECTORY": str(directory / "state")}
    return subprocess.Popen(
        [*command, *options], env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


# A third as wide: a training takes all of a processor for as long as the agent needs for what it saves.
TRAINER = "from mlsync.demo import sizes; sizes.WIDTH = 128; from mlsync.demo.trainer import main; main()"


def shortened(python, versions):
    """The command of a demo that waits for that many versions until the trainer is killed, and as many epochs after."""
    program = (
        f"import sys; from mlsync.demo import observed, story; observed.TRAINER = ('-c', {TRAINER!r})\n"
        f"story.VERSIONS_BEFORE = story.EPOCHS_AFTER = {versions}\n"
        "sys.argv[0] = 'mlsync'; from mlsync.cli.main import main; main()\n"
    )
    return python, "-P", "-c", program, "demo"


def wait_until_training(process):
    """Read the story on stderr until the trainer has begun."""
    for line in process.stderr:
        if "training:" in line:
            return
    pytest.fail("the demo ended before it began")


@pytest.fixture(scope="module")
def played(tmp_path_factory, without_torch):
    """The demo, a shorter one, where no torch is: its directory for temporary files and what it printed."""
    directory = tmp_path_factory.mktemp("demo")
    process = start(directory, "--json", command=shortened(without_torch, 2))
    out, err = process.communicate(timeout=240)
    assert process.returncode == 0, err
    return directory, json.loads(out), err


pytestmark = pytest.mark.slow


def test_torn_checkpoint_is_named_and_its_last_good_content_kept(played):
    """A checkpoint that the killed trainer left half-written is named in a version that holds the epoch before."""
    _, report, _ = played
    torn = report["torn"]
    assert torn["path"] == "weights/last.safetensors"
    assert 0 < torn["bytes_on_disk"] < torn["whole_bytes"]
    assert torn["kept_epoch"] < torn["epoch"]
    version = next(item for item in report["versions"] if item["number"] == torn["version"])
    assert [trouble["path"] for trouble in version["troubles"]] == ["weights/last.safetensors"]
    assert version["troubles"][0]["kept_version"] == torn["kept_version"]


def test_restore_brings_back_every_bit(played):
    """All files of the lost directory came back as the trainer wrote them, from the version with the torn file."""
    _, report, _ = played
    restored = report["restored"]
    assert restored["version"] == report["torn"]["version"]
    assert restored["identical_count"] == restored["file_count"] >= 4


def test_training_goes_on_where_it_was(played):
    """The epoch that was torn is trained again to the same loss, and later ones go below the first."""
    _, report, _ = played
    resumed = report["resumed"]
    both = [row for row in resumed["losses"] if row["killed"] is not None and row["resumed"] is not None]
    assert resumed["from_epoch"] == report["torn"]["kept_epoch"]
    assert both[0]["epoch"] == resumed["from_epoch"] + 1
    assert all(row["resumed"] == pytest.approx(row["killed"], rel=1e-4) for row in both)
    assert resumed["losses"][-1]["resumed"] < 0.9 * resumed["losses"][0]["killed"]


def test_versions_were_proved_and_the_history_went_on(played):
    """Each version with checkpoints was proved to its numbers, and the last one stands upon the lost machine's."""
    _, report, _ = played
    with_checkpoints = [version for version in report["versions"] if version["checkpoint_count"]]
    assert all(version["level"] == 4 and version["device"] == "cpu" for version in with_checkpoints)
    assert [version["number"] for version in report["versions"]] == list(range(1, len(report["versions"]) + 1))
    # Two versions hold the same last checkpoint where the first was made before the epoch's other files were written.
    first_of_epoch = {version["epoch"]: version for version in reversed(with_checkpoints)}
    assert all(0 < version["proved_after_s"] < 120 for version in first_of_epoch.values() if not version["troubles"])
    assert all(version["read_bytes"] for version in report["versions"])
    assert report["versions"][-1]["made_by"] == "backup"
    assert report["versions"][-1]["number"] == report["torn"]["version"] + 1
    assert report["versions"][-1]["epoch"] == resumed_to(report)
    assert (report["agent_exit_status"], report["problem_count"]) == (0, 0)


def resumed_to(report):
    return report["resumed"]["losses"][-1]["epoch"]


def test_nothing_is_left(played):
    """When the demo has ended, neither a file nor a process of it is left."""
    directory, _, _ = played
    assert list(directory.iterdir()) == []
    assert processes_of(directory) == []


def test_json_is_alone_on_stdout_and_the_story_on_stderr(played):
    """With --json the story goes to stderr, and a line of it tells of the kill."""
    _, _, err = played
    assert "SIGKILL in the middle of a save" in err


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 3)])
def test_an_interrupted_demo_leaves_nothing(tmp_path, number, status):
    """Ctrl-C and SIGTERM in the middle of the training end the demo, its processes and its files."""
    process = start(tmp_path, "--json", "--trainer", "numpy")
    wait_until_training(process)
    assert len(processes_of(tmp_path)) >= 2
    process.send_signal(number)
    out, _ = process.communicate(timeout=60)
    assert process.returncode == status
    assert json.loads(out)["error"]["exit_status"] == status
    assert processes_of(tmp_path) == []
    assert list(tmp_path.iterdir()) == []


def test_a_killed_demo_leaves_no_process(tmp_path):
    """Agent and trainer die with a demo that is killed without a chance to end them."""
    process = start(tmp_path, "--json", "--trainer", "numpy")
    wait_until_training(process)
    process.kill()
    process.communicate(timeout=60)
    deadline_s = time.monotonic() + 60
    while processes_of(tmp_path):
        assert time.monotonic() < deadline_s, processes_of(tmp_path)
        time.sleep(0.05)


def test_a_directory_in_use_is_refused(tmp_path):
    """A directory that holds something is no place for the demo, and stays as it is."""
    (tmp_path / "mine").write_text("precious")
    done = subprocess.run(
        [sys.executable, *DEMO, "--directory", str(tmp_path)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert "is not empty" in done.stderr
    assert (tmp_path / "mine").read_text() == "precious"


def test_a_disk_without_room_is_refused(tmp_path, monkeypatch):
    """Where there is not the room that a demo takes, it says so at once, and the directory is as it was."""
    monkeypatch.setattr(workplace, "NEEDED_BYTES", 1 << 60)
    with pytest.raises(ConfigInvalid, match="room for") as caught, workplace.workplace(tmp_path / "new", keep=False):
        pytest.fail("it began")
    assert "--directory" in caught.value.advice
    assert list(tmp_path.iterdir()) == []


def test_a_disk_that_fills_up_is_named(tmp_path, monkeypatch):
    """What fails where no room is left is followed by that, whichever process it was that could not say so."""
    with workplace.workplace(tmp_path, keep=False) as place:
        assert place.shortage() is None
        monkeypatch.setattr(workplace.shutil, "disk_usage", lambda _: SimpleNamespace(free=4096))
        assert "no room left" in place.shortage()


def test_torchs_trainer_is_killed_restored_and_resumed_as_well(tmp_path):
    """With torch the same story, here a short one, goes as well, and its checkpoints are torch's."""
    process = start(tmp_path, "--json", "--device", "cpu", command=shortened(sys.executable, 1))
    out, err = process.communicate(timeout=240)
    assert process.returncode == 0, err
    report = json.loads(out)
    assert (report["trainer"], report["torn"]["path"]) == ("torch", "weights/last.pt")
    assert report["restored"]["identical_count"] == report["restored"]["file_count"]
    assert report["resumed"]["losses"][-1]["resumed"] == pytest.approx(
        report["resumed"]["losses"][-1]["killed"], rel=1e-4
    )
    assert min(version["level"] for version in report["versions"] if version["checkpoint_count"]) == 4


def test_torchs_trainer_without_torch_says_how_to_get_it(tmp_path, without_torch):
    """Where torch is not installed, to ask for it ends with TorchMissing's status and the command that installs it."""
    place = tmp_path / "demo"
    command = [without_torch, *DEMO, "--trainer", "torch", "--directory", str(place)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 52
    assert "pip install '.[torch]'" in done.stderr
    assert not place.exists()
