"""Every error that mlsync raises on purpose, each leaf with an exit status of its own.

::

    Error                          1   base; shown as one line, no traceback
    |- ConfigInvalid               2   configuration or arguments (click's own usage errors are 2 too)
    |- Stopped                     3   asked to stop; what was uploaded by then is used by the next backup
    |- Untrusted                   4   root would use a file that others can change
    |- GraveFound                103   doctor found something grave
    |- ServiceError
    |  |- UnitChanged              5   somebody changed the unit of the service
    |  |- UnitNotWritten           6   the unit of the service cannot be written or removed
    |  |- ProcessKilled           38   a process that works for the agent was killed from outside
    |  |- AgentAway               82   no agent answers at its socket
    |  |- PathUnwatched          118   no agent keeps watch over what a program told of
    |  |- VersionStale            83   the last proved version is older than was asked for
    |  |- ListenFailed            84   the address for metrics and the status page cannot be had
    |  |- NotProvedYet            79   a version that was waited for is stored, and not proved yet
    |  |- NoticeRefused          106   a service did not take a notice
    |  |- NoticeUndelivered      107   a service that takes notices was not reached
    |  |- LastBackupLate         100   the machine's end came before the last backup was committed
    |  `- FirstRestoreFailed     108   the first process of a launcher did not restore for the others
    |- RepositoryError
    |  |- RepositoryMissing       10   no repository at that place
    |  |- RepositoryExists        11   init refuses a place that is taken
    |  |- FormatUnsupported       12   written by a newer mlsync
    |  |  `- EpochUnknown         28   sealed with a master key that is not known here
    |  |- RunLocked               13   another agent or backup works on this run
    |  |- RunMissing              14   no such run in the repository
    |  |- VersionMissing          15   no such version in the run
    |  |- HistoryRolledBack       16   the store shows an older history than was seen before
    |  |- VersionTaken            17   another writer committed this version number
    |  |- RunNameInvalid          18   a name that is not safe in paths and messages
    |  |- PathMissing             19   the version has nothing at a path that was asked for
    |  |- RunOfAnother            90   another machine or directory writes this run
    |  |- VersionAmbiguous        91   a time that could mean two versions
    |  |- PinNameTaken            92   another version has a pin of that name
    |  |- DecisionTaken           93   other writers pin or forget versions of the run at the same time
    |  |- VersionKept             94   a version that must stay cannot be forgotten
    |  |- DecisionsHidden         95   what was decided of a run's versions is missing, and may not be undone
    |  |- LogMissing             112   no log of a training, or none with a number in it
    |  |- MetricMissing          113   no metric of that name was logged
    |  |- PruneBlocked            96   prune cannot see all that may name a pack, and deletes none
    |  |- PruneUnconfirmed        97   prune changed nothing, since nobody confirmed it
    |  `- CompactionRefused       98   what is left of packs is more to move than was allowed
    |- RetentionError
    |  |- RemovalRefused          89   more versions would be removed than was confirmed
    |  `- PolicyRefused           99   a policy cannot be applied to what is known; nothing was removed
    |- KeyProblem
    |  |- PassphraseMissing       20   no passphrase or key file was given
    |  |- WrongPassphrase         21   no key slot opens with what was given
    |  |- KeySlotDamaged          22   a key slot does not parse
    |  |- PassphraseWeak          23   a new passphrase that is too short
    |  |- KeySlotMissing          24   no such key slot
    |  |- KeySlotInUse            25   the key slot that opened the repository stays; or the secret has one already
    |  |- KeySlotsFull            26   no room for another key slot
    |  |- KeySlotKept             27   an old key slot could not be removed, and still opens
    |  |- WriteOnly               86   this node can write to the repository and read nothing
    |  |- WriteOnlyKeyInvalid     85   a write-only key that is damaged, or of another repository
    |  |- KeyServiceRefused       87   AWS KMS refuses: no right, no credentials, or a key that is disabled
    |  |- KeyServiceUnavailable   88   AWS KMS is away, or still failed after the last try
    |  `- KeyRetired              29   the key was rotated, and this process has an older one
    |- Damage
    |  |- ObjectMissing           30   an object that a version needs is not there
    |  |- ObjectDamaged           31   an object does not authenticate or is cut short
    |  |- ManifestDamaged         32   a manifest does not authenticate or contradicts itself
    |  |- ProblemsFound           33   check ended with problems, all of them listed
    |  |- DiscardRefused          34   what was to be given up opens, may come back, or can be healed
    |  |- HealingIncomplete       66   not all that is lost or damaged could be healed from a mirror
    |  |- MirrorNeeded            67   all is there, but some of it only in a mirror
    |  |- RepairIncomplete        35   repair ended, and something stays lost
    |  |- RebuildNeeded           36   all manifests are gone; repair asks for --rebuild
    |  `- RepairUnconfirmed       37   repair changed nothing, since nobody confirmed it
    |- SourceError
    |  |- SourceMissing           40   the watched directory is not there
    |  |- SourceUnreadable        41   a file or directory cannot be read
    |  |- ChangedWhileReading     42   a file kept changing
    |  |- SourceEmptied           43   the directory became empty; no version was made
    |  |- SourceUntrusted         44   root would read a directory that others can redirect
    |  `- SourceShrunk            45   most checkpoints are gone at once; mlsync waits for them
    |- CheckpointBroken           50   a checkpoint does not load; its last good content was kept
    |- ProofUnavailable
    |  |- DeviceMissing           51   the device that was asked for is not there
    |  |- TorchMissing            52   no torch that works for a proof on a GPU
    |  |- ProofTimedOut           53   the proof's deadline passed
    |  |- ProofOutOfMemory        54   host or device memory ran out
    |  |- ProofCrashed            55   the proof's process crashed
    |  |- DeviceFailed            56   the device or its driver reported an error
    |  |- ProofDisbelieved        57   the proof's process gave an impossible answer
    |  |- ProofKilled             58   the proof's process was killed from outside
    |  |- PythonUnfit             59   the proof's Python is missing, too old, none, or lacks numpy
    |  `- CommandUnavailable      49   the command of level 5 could not run, or could not tell
    |- EvaluationError
    |  |- EvaluationFailed        110   the command that evaluates failed, or said no number
    |  `- EvaluationUnavailable   111   nothing to evaluate, or no command that could be started
    |- TrainingError
    |  |- CommandMissing         127   mlsync run: no such program, as shells say it
    |  |- CommandNotExecutable   126   mlsync run: it cannot be started, as shells say it
    |  `- LastBackupFailed        78   mlsync run --strict: what the training wrote last is not stored
    |- TargetError
    |  |- DirectoryNewer          39   files are newer than what was to be restored over them
    |  |- TargetBlocked           60   something is in the way at the restore target
    |  |- TargetFull              61   no room at the restore target
    |  |- TargetLocked            62   another restore writes there
    |  `- DeletionRefused         63   --delete would delete more than was confirmed
    |- StoreError
    |  |- NotFound                70   no object of that name
    |  |- AlreadyExists           71   an object of that name exists; nothing was overwritten
    |  |- StoreDenied             72   credentials refused
    |  |- StoreUnavailable        73   away, or still failing after the last retry
    |  |- StoreFull               74   no room in the store
    |  |- StoreLocationInvalid    75   a URL that names no store
    |  |- StoreBroken             76   the store gave an impossible answer
    |  |- ObjectArchived          77   an object is in cold storage and must be restored from it first
    |  |- ThawUnderWay           119   the store was asked to thaw objects, and has not done so yet
    |  |- ThawRefused            120   the store does not thaw these objects in that way
    |  |- LockNotExtended        101   the lock of an object that versions use could not be extended
    |  `- BucketOfAnother        102   the bucket belongs to another account than it should
    |- RegistryError
    |  |- RegistryRefused        114   the registry of models does not take it
    |  |- RegistryAway           115   the registry of models was not reached, or has a fault of its own
    |  `- RegistryDenied         116   the registry of models does not accept the credentials
    |- BucketDiffers             104   a bucket is not set as it was asked for, or that cannot be seen
    |- BucketUnconfirmed         105   a bucket was not changed, since nobody confirmed it
    |- PolicyTooLong             109   a policy of rights is longer than its provider takes
    |- ExportRefused             117   an export would overwrite something else
    |- MirrorError
    |  |- MirrorIncomplete       121   some versions could not be copied to the mirror, all of them listed
    |  |- MirrorConflict         122   the mirror has another object under a name of the source
    |  |- MirrorForeign           64   the mirror's place is another repository's
    |  `- RekeyRefused            65   what is copied to another key cannot be copied there
    `- StateError
       |- StateFull               80   no room for the local state
       `- StateDamaged            81   the local state does not open; it may be deleted

Anything that is not an :class:`Error` is a bug and is shown with its traceback.
"""

from __future__ import annotations

from typing import Final


class Error(Exception):
    """Base of all errors that mlsync raises on purpose.

    *advice* says what to do, with a command or a key of the configuration to copy. Where the place that raises knows no
    better, a command that ends with the error gives its *usual_advice*.
    """

    exit_code: int = 1
    usual_advice: str | None = None

    def __init__(self, what: str, *, where: str | None = None, advice: str | None = None) -> None:
        super().__init__(what)
        self.what = what
        self.where = where
        self.advice = advice

    def __str__(self) -> str:
        """Say what went wrong, where, and what to do, on one line."""
        text = self.what
        if self.where is not None:
            text += f": {self.where}"
        if self.advice is not None:
            text += f" ({self.advice})"
        return text


class ConfigInvalid(Error):
    """The configuration or an argument is wrong."""

    exit_code = 2


class Stopped(Error):
    """The work was asked to stop, and did at a safe point."""

    exit_code = 3
    usual_advice = "give the command again: it goes on where it stopped"


class Untrusted(Error):
    """Root would use a configuration, a secret or a program that other users can change."""

    exit_code = 4


class GraveFound(Error):
    """What backups depend on is not as it has to be; all of it was listed."""

    exit_code = 103
    usual_advice = "each line says what to do; then look again"


class ServiceError(Error):
    """Something about the installed service."""


class UnitChanged(ServiceError):
    """A unit of systemd is not as mlsync wrote it."""

    exit_code = 5
    usual_advice = "systemctl edit mlsync-agent is for your own settings; --force replaces the unit"


class UnitNotWritten(ServiceError):
    """A unit of systemd cannot be written or removed."""

    exit_code = 6
    usual_advice = "run it as root, or with --user for yourself"


class ProcessKilled(ServiceError):
    """A process that works for the agent was killed from outside; the next one goes on."""

    exit_code = 38
    usual_advice = "out of memory? the kernel's log would say so"


class AgentAway(ServiceError):
    """No agent answers at its socket: none runs, it hangs, or it is another user's."""

    exit_code = 82
    usual_advice = "mlsync status shows whether one runs; mlsync agent starts one"
    # The socket is left over from an agent that ended.
    is_gone: bool = False


class PathUnwatched(ServiceError):
    """No agent on this machine keeps watch over what a program told of as saved, in a run of this user."""

    exit_code = 118
    usual_advice = "mlsync status shows what is watched; watch the directory, or start the training by mlsync run"


class VersionStale(ServiceError):
    """The last proved version of a run is older than was asked for, or there is none."""

    exit_code = 83
    usual_advice = "mlsync status shows what the agent does; mlsync backup makes a version now"


class ListenFailed(ServiceError):
    """The agent cannot listen at the address for metrics and the status page; backups went on without."""

    exit_code = 84
    usual_advice = "set another listen under [agent], or stop what listens there: ss -ltnp shows it"


class NotProvedYet(ServiceError):
    """A version that somebody waited for is stored, and not all of its checkpoints are proved."""

    exit_code = 79
    usual_advice = "the agent proves it later; mlsync show says why, mlsync prove --pending does it now"


class NoticeRefused(ServiceError):
    """A service that is to be told of events answered, and did not take the notice."""

    exit_code = 106
    usual_advice = "each line says what it answered; make the bot anew, or correct its address and secret"


class NoticeUndelivered(ServiceError):
    """A service that is to be told of events was not reached."""

    exit_code = 107
    usual_advice = "look at the network, the proxy and the address; the agent tries notices again by itself"


class LastBackupLate(ServiceError):
    """The time until the machine's end was over before the last backup of every run was committed."""

    exit_code = 100
    usual_advice = "what was uploaded is used by the next backup"


class FirstRestoreFailed(ServiceError):
    """The process that restores for all that a launcher started on this machine did not; this one started nothing."""

    exit_code = 108
    usual_advice = "the first process says why; --restore never waits for nothing"


class RepositoryError(Error):
    """Something about the repository as a whole."""


class RepositoryMissing(RepositoryError):
    """There is no repository at that place."""

    exit_code = 10
    usual_advice = "make one with: mlsync init URL --watch DIR"


class RepositoryExists(RepositoryError):
    """There is a repository already; nothing was changed."""

    exit_code = 11
    usual_advice = "mlsync versions --repo URL shows what is in it"


class FormatUnsupported(RepositoryError):
    """An object was written in a format that this mlsync does not know.

    *is_claim*: only the object itself says so, and nothing of it was authenticated.
    """

    exit_code = 12
    usual_advice = "upgrade mlsync"
    is_claim: bool = False


class EpochUnknown(FormatUnsupported):
    """An object says that it is sealed with a newer master key than those that are known here."""

    exit_code = 28
    usual_advice = "give the command again: it opens the repository anew, with all of its keys"


class RunLocked(RepositoryError):
    """Another process on this machine works on the run."""

    exit_code = 13
    usual_advice = "one at a time: wait for the other one, or stop it"


class RunMissing(RepositoryError):
    """The repository holds no run of that name."""

    exit_code = 14
    usual_advice = "mlsync versions lists all runs"


class VersionMissing(RepositoryError):
    """The run holds no such version."""

    exit_code = 15
    usual_advice = "mlsync versions lists what there is"


class HistoryRolledBack(RepositoryError):
    """The store shows less than it showed before, or something else."""

    exit_code = 16
    usual_advice = "find out who changed the store; --accept-rollback reads what there is"


class VersionTaken(RepositoryError):
    """Another writer committed the version number first; *is_planted*: it was no mlsync with the key."""

    exit_code = 17
    usual_advice = 'give each machine a run of its own: run = "name" under [[watch]]'
    is_planted: bool = False
    # A prune took the number, and the next one is to be tried.
    is_fenced: bool = False


class RunNameInvalid(RepositoryError):
    """A run name that is not safe in paths and messages."""

    exit_code = 18
    usual_advice = 'run = "name" under [[watch]] sets another one'


class PathMissing(RepositoryError):
    """The version has nothing at that path."""

    exit_code = 19
    usual_advice = "mlsync show lists what the version has"


class RunOfAnother(RepositoryError):
    """Another machine or directory writes the run."""

    exit_code = 90
    usual_advice = "mlsync backup --take-over continues the run from here"


class VersionAmbiguous(RepositoryError):
    """A time that could mean two versions, in the hour that a clock change repeats."""

    exit_code = 91
    usual_advice = "mlsync versions lists the numbers"


class PinNameTaken(RepositoryError):
    """Another version of the run is pinned under that name."""

    exit_code = 92
    usual_advice = "choose another name, or take it off that version first with: mlsync unpin NAME"


class DecisionTaken(RepositoryError):
    """Other writers pin or forget versions of the run at the same time; nothing was changed."""

    exit_code = 93
    usual_advice = "give the command again"


class VersionKept(RepositoryError):
    """A version cannot be forgotten, since something needs it; nothing was changed."""

    exit_code = 94
    usual_advice = "mlsync versions shows what is pinned; leave that version out"


class DecisionsHidden(RepositoryError):
    """A decision about the run's versions is missing or damaged: what it says may not be undone, so nothing is."""

    exit_code = 95
    usual_advice = "find out who changed the store; --accept-rollback decides anew on what it shows"


class LogMissing(RepositoryError):
    """A version holds no log of a training that mlsync reads, or none with a number in it."""

    exit_code = 112
    usual_advice = "mlsync show lists the files of a version; --log PATH names one that is a log"


class MetricMissing(RepositoryError):
    """Nothing of that name was logged."""

    exit_code = 113
    usual_advice = "mlsync metrics lists the names"


class PruneBlocked(RepositoryError):
    """Something that may name packs cannot be read, or a listing is incomplete: prune deletes none of it."""

    exit_code = 96
    usual_advice = "mlsync check names what is wrong, mlsync repair heals what has a copy"


class PruneUnconfirmed(RepositoryError):
    """Nobody confirmed the prune; nothing was changed."""

    exit_code = 97
    usual_advice = "--yes carries it out, --dry-run only shows it"


class CompactionRefused(RepositoryError):
    """To move what is left of old packs takes more reading and writing than was allowed; nothing was moved."""

    exit_code = 98
    usual_advice = "mlsync prune --compact --dry-run says how much; --max-move allows more"


class RetentionError(Error):
    """Something about the policy that says which versions are kept; nothing was removed."""


class RemovalRefused(RetentionError):
    """More versions would be removed in one go than the configuration allows, or other ones than were confirmed."""

    exit_code = 89
    usual_advice = "--dry-run shows them; --yes-remove COUNT confirms them"


class PolicyRefused(RetentionError):
    """A policy asks for what is not known, or what the store shows is not complete; nothing was removed."""

    exit_code = 99
    usual_advice = "mlsync check names what is unclear in the store"


class KeyProblem(Error):
    """The master key cannot be opened."""


class PassphraseMissing(KeyProblem):
    """Neither passphrase nor key file was given."""

    exit_code = 20
    usual_advice = "--passphrase-file FILE names a file of your own (chmod 600) with the passphrase in its first line"


class WrongPassphrase(KeyProblem):
    """No key slot opens with what was given."""

    exit_code = 21
    usual_advice = "try another one, also with --passphrase-file FILE or --key-file FILE; there is no other way in"


class KeySlotDamaged(KeyProblem):
    """A key slot does not parse."""

    exit_code = 22
    usual_advice = "copy the object back from a copy of the repository; mlsync key list shows all key slots"


class PassphraseWeak(KeyProblem):
    """A new passphrase is so short that it can be guessed."""

    exit_code = 23
    usual_advice = "take a longer one, or give --allow-weak"


class KeySlotMissing(KeyProblem):
    """There is no such key slot, or there are several."""

    exit_code = 24


class KeySlotInUse(KeyProblem):
    """A key slot opened the repository for this command and stays, or opens with the new secret already."""

    exit_code = 25


class KeySlotsFull(KeyProblem):
    """Readers would not try another key slot."""

    exit_code = 26


class KeySlotKept(KeyProblem):
    """A key slot that was to be removed is still there; everything else is done."""

    exit_code = 27


class WriteOnly(KeyProblem):
    """The node has a write-only key, and the command would have to read."""

    exit_code = 86
    usual_advice = "do it where the repository opens with a passphrase or key file"


class WriteOnlyKeyInvalid(KeyProblem):
    """The file of a write-only key is damaged, or of another repository."""

    exit_code = 85
    usual_advice = (
        "copy the file again, or make another one where the repository opens: mlsync key add --write-only FILE"
    )


class KeyServiceRefused(KeyProblem):
    """The key service refuses: credentials, a right, or the state of its key."""

    exit_code = 87
    usual_advice = "docs/keys.md says which rights it takes; --passphrase-file FILE opens with another key slot"


class KeyServiceUnavailable(KeyProblem):
    """The key service is away, or still failed after the last try."""

    exit_code = 88
    usual_advice = "check the network, and give the command again; --passphrase-file FILE opens with another key slot"


class KeyRetired(KeyProblem):
    """The repository's key was rotated, or is being rotated: what is written with an older key counts for nothing."""

    exit_code = 29
    usual_advice = "give this machine a passphrase or key file that opens the repository now, see docs/keys.md"


class Damage(Error):
    """The store returns something else than was written."""


class ObjectMissing(Damage):
    """An object that a version needs is not there."""

    exit_code = 30
    usual_advice = "mlsync check lists what is affected; mlsync restore --version N brings back any other version"


class ObjectDamaged(Damage):
    """An object, or a part of it, does not authenticate."""

    exit_code = 31
    usual_advice = "mlsync check lists what is affected; mlsync restore --version N brings back any other version"


class ManifestDamaged(Damage):
    """A manifest does not authenticate, does not parse, or contradicts itself.

    *is_retired*: the object opens, and was written with a key after that was rotated.
    """

    exit_code = 32
    is_retired: bool = False
    usual_advice = "mlsync check lists what is affected; mlsync restore --version N brings back any other version"


class ProblemsFound(Damage):
    """A check ran to its end and found problems."""

    exit_code = 33
    usual_advice = (
        "mlsync restore --version N brings back any version that is not named above, and of the others what is not "
        "damaged"
    )


class DiscardRefused(Damage):
    """What was to be given up opens, may come back, or can be healed; nothing was changed."""

    exit_code = 34
    usual_advice = "mlsync check names what does not open, and mlsync repair heals what has a copy"


class HealingIncomplete(Damage):
    """Not all that is lost or damaged could be healed from a mirror."""

    exit_code = 66
    usual_advice = "mlsync repair heals what has a copy in the repository; the next backup stores again what is there"


class MirrorNeeded(Damage):
    """Every byte came back, but some of them only from a mirror: the repository itself lacks them."""

    exit_code = 67
    usual_advice = "mlsync check --repair-from-mirror puts back what the repository lacks"


class RepairIncomplete(Damage):
    """A repair ran to its end, and some of what is lost stays lost."""

    exit_code = 35
    usual_advice = "mlsync restore --version N brings back all of a version but the files named above"


class RebuildNeeded(Damage):
    """All manifests are gone while their copies are there."""

    exit_code = 36
    usual_advice = "mlsync repair --rebuild makes them from their copies"


class RepairUnconfirmed(Damage):
    """Nobody confirmed the repair; nothing was changed."""

    exit_code = 37
    usual_advice = "--yes carries it out, --dry-run only shows it"


class SourceError(Error):
    """Something about the watched directory; never about the store."""


class SourceMissing(SourceError):
    """The watched directory is not there."""

    exit_code = 40
    usual_advice = "mount it, or correct directory under [[watch]]"


class SourceUnreadable(SourceError):
    """A file or directory of the source cannot be read."""

    exit_code = 41
    usual_advice = "give mlsync's user the right to read it, or add it to exclude under [[watch]]"


class ChangedWhileReading(SourceError):
    """A file changed each time that it was read."""

    exit_code = 42
    usual_advice = "give mlsync backup again when it is written"


class SourceEmptied(SourceError):
    """The directory is empty while its last version was not."""

    exit_code = 43
    usual_advice = "mount the disk; if it is intended, put a file there"


class SourceUntrusted(SourceError):
    """Root would read a directory that another user can redirect."""

    exit_code = 44
    usual_advice = "name the directory itself in directory under [[watch]], or work as the trainer's user"


class SourceShrunk(SourceError):
    """Most checkpoints of the last version are gone at once; mlsync waits for them to come back."""

    exit_code = 45
    usual_advice = "mount the disk; if it is intended: mlsync backup --accept-loss"


class CheckpointBroken(Error):
    """A checkpoint does not load; the version keeps its last good content."""

    exit_code = 50
    usual_advice = "mlsync show says what was found; mlsync restore --version resumable brings back an older one"


class ProofUnavailable(Error):
    """The proof was not possible, which says nothing about the checkpoint."""


class DeviceMissing(ProofUnavailable):
    """The device that was asked for is not there."""

    exit_code = 51
    usual_advice = "--device cpu proves without it; nvidia-smi shows the GPUs"


class TorchMissing(ProofUnavailable):
    """The Python for a proof on a GPU has no torch, or none that works."""

    exit_code = 52
    usual_advice = "--device cpu needs no torch; python under [proof] names a Python that has it"


class ProofTimedOut(ProofUnavailable):
    """The proof ran into its deadline."""

    exit_code = 53
    usual_advice = "raise timeout under [proof], or look with nvidia-smi whether the device hangs"


class ProofOutOfMemory(ProofUnavailable):
    """Host or device memory ran out during the proof."""

    exit_code = 54
    usual_advice = "--device cpu needs no memory of the GPU; memory under [proof] says how much a proof may take"


class ProofCrashed(ProofUnavailable):
    """The proof's process crashed."""

    exit_code = 55
    usual_advice = "mlsync verify tries it again"


class DeviceFailed(ProofUnavailable):
    """The device or its driver reported an error."""

    exit_code = 56
    usual_advice = "--device cpu proves without it; nvidia-smi and dmesg show its state"


class ProofDisbelieved(ProofUnavailable):
    """The proof's process gave an answer that is impossible on a sound device."""

    exit_code = 57
    usual_advice = "test the memory of machine and device; --device cpu proves without the latter"


class ProofKilled(ProofUnavailable):
    """The proof's process was killed from outside."""

    exit_code = 58
    usual_advice = "dmesg and journalctl say by whom; mlsync verify tries it again"


class PythonUnfit(ProofUnavailable):
    """The Python for proofs is missing, too old, not a Python, or has no numpy that works."""

    exit_code = 59
    usual_advice = "python under [proof] names another one; without it mlsync's own is used"


class CommandUnavailable(ProofUnavailable):
    """The command of level 5 could not run, or could not tell."""

    exit_code = 49
    usual_advice = "correct command, framework or python under [proof]"


class EvaluationError(Error):
    """Something about measuring a checkpoint with a command of the user's."""


class EvaluationFailed(EvaluationError):
    """The command that evaluates failed, took too long, or said nothing that is a number with a name."""

    exit_code = 110
    usual_advice = "nothing was stored, and the version stays as it is; try the command on a restored checkpoint"


class EvaluationUnavailable(EvaluationError):
    """There is nothing to evaluate in the version, or the command could not be tried here."""

    exit_code = 111
    usual_advice = "correct command, path or environment under [evaluate]"


class TrainingError(Error):
    """Something about the training that ``mlsync run`` starts."""


class CommandMissing(TrainingError):
    """There is no program of that name; nothing was started."""

    exit_code = 127
    usual_advice = "put the training's command behind --, as you would type it"


class CommandNotExecutable(TrainingError):
    """There is such a file, and it is no program that can be started."""

    exit_code = 126
    usual_advice = "chmod +x it, or name the program that runs it: python train.py"


class LastBackupFailed(TrainingError):
    """The training ended well, and what it wrote last is not stored; only with ``--strict``."""

    exit_code = 78
    usual_advice = "mlsync backup stores it, as long as this machine lives"


class TargetError(Error):
    """Something about the place that a restore writes to."""


class DirectoryNewer(TargetError):
    """Files in the directory are newer than the version that was to be restored over them; nothing was changed."""

    exit_code = 39
    usual_advice = "mlsync run --restore never goes on with these files; to go on from the version, move them away"


class TargetBlocked(TargetError):
    """Something is in the way at the restore target."""

    exit_code = 60
    usual_advice = "move it away, or restore with --to another place"


class TargetFull(TargetError):
    """There is no room at the restore target."""

    exit_code = 61
    usual_advice = "make room and give the command again, or restore with --to another place"


class TargetLocked(TargetError):
    """Another restore writes to that place, or to a directory above or below it."""

    exit_code = 62
    usual_advice = "wait for it, or restore with --to another place"


class DeletionRefused(TargetError):
    """A restore would delete more than was confirmed."""

    exit_code = 63
    usual_advice = "look at --to; if it is right, give --yes"


class StoreError(Error):
    """Something about the store, never about the source; *retry_after_s* is the pause that it asks for."""

    retry_after_s: float = 0.0


class NotFound(StoreError):
    """The store has no object of that name."""

    exit_code = 70
    usual_advice = "check the URL: mlsync status shows it"


class AlreadyExists(StoreError):
    """The store has an object of that name; it was left as it was."""

    exit_code = 71
    usual_advice = "give the command again; if it comes back, two machines write one run"


class StoreDenied(StoreError):
    """The store refuses the credentials or the permission."""

    exit_code = 72
    usual_advice = "check keys (AWS_ACCESS_KEY_ID, --profile NAME) and policy (mlsync iam-policy), or owner and mode"


class StoreUnavailable(StoreError):
    """The store is away, or still failed after the last retry."""

    exit_code = 73
    usual_advice = "check the network and --endpoint-url, and give the command again"


class StoreFull(StoreError):
    """The store has no room left."""

    exit_code = 74
    usual_advice = "make room and give the command again: what was stored is used"


class StoreLocationInvalid(StoreError):
    """The URL names no store that mlsync knows."""

    exit_code = 75
    usual_advice = "write /path, file:///path or s3://bucket/prefix"


class StoreBroken(StoreError):
    """The store gave an impossible answer: a short body, a listing that contradicts itself.

    *is_of_object*: the answer is sound and the object is not, since its length is not that of what was written. Only
    that is damage; other answers say nothing about the object.
    """

    exit_code = 76
    usual_advice = "give the command again; if it comes back: mlsync check"

    def __init__(
        self, what: str, *, where: str | None = None, advice: str | None = None, is_of_object: bool = False
    ) -> None:
        super().__init__(what, where=where, advice=advice)
        self.is_of_object = is_of_object


class ObjectArchived(StoreError):
    """The object is in cold storage and must be restored from it before it can be read."""

    exit_code = 77
    usual_advice = "mlsync restore --thaw has the store bring it back first: docs/s3.md, Cold storage"


class ThawUnderWay(StoreError):
    """The store was asked to thaw objects, and has not done so yet: the same command goes on later."""

    exit_code = 119
    usual_advice = "give the same command again later: it asks for nothing twice"


class ThawRefused(StoreError):
    """The store does not thaw these objects in the way that was asked for."""

    exit_code = 120
    usual_advice = "choose another tier: --thaw standard or bulk"


class LockNotExtended(StoreError):
    """Objects that versions use could not be locked for another period."""

    exit_code = 101
    usual_advice = "each line says what to do; then run mlsync check --extend-lock again"


class BucketOfAnother(StoreError):
    """The bucket does not belong to the account that the configuration expects: nothing was sent there."""

    exit_code = 102
    usual_advice = "check the bucket's name, and expected_bucket_owner under [s3]"


class RegistryError(Error):
    """Something about a registry of models, such as MLflow's."""


class RegistryRefused(RegistryError):
    """The registry of models answered, and does not take what was sent; *is_missing*: it has no such thing."""

    exit_code = 114
    usual_advice = "docs/mlflow.md says what MLflow takes"
    is_missing: bool = False


class RegistryAway(RegistryError):
    """The registry of models was not reached, or has a fault of its own that may pass."""

    exit_code = 115
    usual_advice = "check the tracking URI and the network, and give the command again; an agent tries again by itself"


class RegistryDenied(RegistryError):
    """The registry of models does not accept the credentials, or their rights are too few."""

    exit_code = 116
    usual_advice = "check token_file, or username and password_file, under [mlflow], or MLFLOW_TRACKING_TOKEN"


class BucketDiffers(Error):
    """A bucket is not set as it was asked for: something was refused, is lacking, or cannot be seen."""

    exit_code = 104
    usual_advice = "each line says why; mlsync bucket plan shows what is left"


class BucketUnconfirmed(Error):
    """A bucket would be changed, and nobody confirmed it; nothing was changed."""

    exit_code = 105
    usual_advice = "--yes does it without asking"


class PolicyTooLong(Error):
    """The policy that grants a role its rights is longer than AWS or Aliyun takes."""

    exit_code = 109
    usual_advice = "give the repository a shorter prefix, or a bucket of its own"


class ExportRefused(Error):
    """An export would overwrite a file or object with other content; nothing was overwritten."""

    exit_code = 117
    usual_advice = "look at it; to replace it, give --force, or choose another place with --to"


class MirrorError(Error):
    """Something about a second copy of the repository, a mirror."""


class MirrorIncomplete(MirrorError):
    """Some versions could not be copied to the mirror; all of them were listed, and the others are there."""

    exit_code = 121
    usual_advice = "mlsync check says what is wrong with the repository; copy again afterwards, and it goes on"


class MirrorConflict(MirrorError):
    """The mirror has another object under a name of the source; nothing was overwritten, and the rest was copied."""

    exit_code = 122
    usual_advice = (
        "compare both with mlsync versions: if the repository was brought back from an older state, the mirror has "
        "what it lost; a copy that is to have the new history needs another place"
    )


class MirrorForeign(MirrorError):
    """The mirror's place is another repository's; nothing was written there."""

    exit_code = 64
    usual_advice = "give the mirror a place of its own"


class RekeyRefused(MirrorError):
    """What is to be copied to another key cannot be copied to that place."""

    exit_code = 65
    usual_advice = "give the copy a place of its own"


class StateError(Error):
    """Something about the local state."""


class StateFull(StateError):
    """There is no room for the local state."""

    exit_code = 80
    usual_advice = "make room, or set state_directory in the configuration"


class StateDamaged(StateError):
    """The local state does not open; it is only a cache and may be deleted."""

    exit_code = 81
    usual_advice = "delete it: the next backup makes it anew, and reads everything once"


#: What may be wrong with one object of the store. Any other error is about the store, and ends what reads from it.
OF_OBJECT: Final = (Damage, FormatUnsupported, ObjectArchived, NotFound)
