"""How much memory the proof of a checkpoint takes on the host, by the checkpoint's size.

    python bench/proof_memory.py [--device cpu] [--sizes-gib 1,20] [--quick]

Each file is backed up into a repository in a directory and proved to level 4 from there by a process that does nothing
else. Told is the peak of that process and of its child. All tensors of a file are the same: the repository
stays small, and each of them is read back, opened and proved all the same. Takes as much disk as the largest file.

Writes results/proof_memory.json.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import report
from gpu_proof import step
from peers import SECRET, MlsyncWithoutDevice


def main() -> None:
    parser = report.parser(__doc__)
    parser.add_argument("--device", default="cpu", help="cpu, cuda or cuda:N")
    parser.add_argument("--sizes-gib", default=None, help="whole numbers with commas; default 1,20 (quick: 1)")
    arguments = parser.parse_args()
    sizes = [int(size) for size in (arguments.sizes_gib or ("1" if arguments.quick else "1,20")).split(",")]
    with tempfile.TemporaryDirectory(dir=arguments.directory, prefix="mlsync-bench-") as scratch:
        rows = [one_file(Path(scratch) / str(gib), gib, arguments.device) for gib in sizes]
    report.show("Peak of the proof, MiB", list(rows[0]), [list(row.values()) for row in rows])
    report.write(
        "proof_memory", {"what": "MiB that a proof takes at most, by the file's size", "files": rows}, arguments
    )


def one_file(place: Path, gib: int, device: str) -> dict[str, object]:
    source = place / "run"
    source.mkdir(parents=True)
    size_bytes = step("make_repeated", path=str(source / "model.safetensors"), gib=gib)["size_bytes"]
    tool = MlsyncWithoutDevice(place / "mlsync")
    tool.prepare()
    backup_mib = tool.backup(source).peak_mib
    (source / "model.safetensors").unlink()
    proof = step("prove", config=str(tool.place / "mlsync.toml"), passphrase=SECRET, device=device, rounds=1)
    return {
        "gib": gib,
        "size_bytes": size_bytes,
        "device": proof["device"],
        "mlsync_mib": proof["host_peak_mib"],
        "child_mib": proof["child_peak_mib"],
        "both_mib": round(proof["host_peak_mib"] + proof["child_peak_mib"], 1),
        "backup_mib": round(backup_mib, 1),
    }


if __name__ == "__main__":
    main()
