"""A trainer's export in three shards, overwritten under the same names; run as ``shard_writer.py DIRECTORY``.

Each line that it reads is one step: ``temporary N VALUE`` writes shard N of a save under a temporary name, as
safetensors does, ``rename N`` gives it its own, ``index`` writes what is written last. Each answer is a line, when that
is done.
"""

import json
import os
import sys

import numpy as np
from safetensors.numpy import save

COUNT = 3


def name_of(number: int) -> str:
    """What a shard is called."""
    return f"model-{number:05}-of-{COUNT:05}.safetensors"


def do(directory: str, order: str, number: int = 1, value: float = 0.0) -> None:
    """Do one step."""
    temporary = f"{directory}/.tmp{number:06}"
    if order == "temporary":
        with open(temporary, "wb") as file:
            file.write(save({f"layer{number}": np.full((1000,), value, np.float32)}))
    elif order == "rename":
        os.rename(temporary, f"{directory}/{name_of(number)}")
    elif order == "index":
        names = {f"layer{n}": name_of(n) for n in range(1, COUNT + 1)}
        with open(f"{directory}/model.safetensors.index.json", "w") as file:
            json.dump({"metadata": {"total_size": 4000 * COUNT}, "weight_map": names}, file)


if __name__ == "__main__":
    for line in sys.stdin:
        words = line.split()
        do(sys.argv[1], words[0], *map(int, words[1:2]), *map(float, words[2:3]))
        sys.stdout.write("done\n")
        sys.stdout.flush()
