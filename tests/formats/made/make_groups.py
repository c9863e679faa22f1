"""Writes the checkpoints of several files below ``groups/``, each with the library that it is named for.

Run once as ``python -P make_groups.py NAME``, a process for each NAME, with Python 3.11 on a CPU: torch 2.13.0+cpu,
deepspeed 0.19.8, accelerate 1.15.0, peft 0.21.2, torchtune 0.6.1, torchtitan 0.2.2, megatron-core 0.16.1 and
nemo_toolkit 3.0.0. What takes no part in writing files and does not run here is left out, as each function says.
The tests read what it wrote and need none of these. Megatron's ``mp_rank_XX`` are written by its training scripts,
which no wheel has, and directories of NeMo 2 by a library that needs GPUs: tests imitate both.
"""

from __future__ import annotations

import importlib.machinery
import os
import shutil
import sys
import tempfile
from pathlib import Path
from unittest.mock import MagicMock

import torch

GROUPS = Path(__file__).parent / "groups"


class Absent:
    """Modules that are not to be had here and take no part in writing files."""

    def __init__(self, *names: str) -> None:
        self.names = names

    def find_spec(self, name, path=None, target=None):
        """Say that it is there."""
        if name in self.names or name.partition(".")[0] in self.names:
            return importlib.machinery.ModuleSpec(name, self, is_package=True)
        return None

    def create_module(self, spec):
        """Return one in which every name is something."""
        module = MagicMock(name=spec.name)
        module.__spec__, module.__path__, module.__name__, module.__version__ = spec, [], spec.name, "0"
        return module

    def exec_module(self, module) -> None:
        """Do nothing."""


def one_process(port: int) -> None:
    """Make a group of one process."""
    os.environ.update(RANK="0", WORLD_SIZE="1", LOCAL_RANK="0", MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    torch.distributed.init_process_group("gloo")


def _deepspeed_rank(rank: int, out: str, stage: int) -> None:
    os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE="2", MASTER_ADDR="127.0.0.1")
    os.environ.update(MASTER_PORT=str(29600 + stage), DS_ACCELERATOR="cpu")
    import deepspeed

    deepspeed.init_distributed("gloo")
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.Linear(4, 2))
    config = {
        "train_micro_batch_size_per_gpu": 1,
        "zero_optimization": {"stage": stage},
        "bf16": {"enabled": True},
        "optimizer": {"type": "AdamW", "params": {"torch_adam": True}},
    }
    engine, *_ = deepspeed.initialize(model=model, config=config, model_parameters=model.parameters())
    for _ in range(2):
        engine.backward(engine(torch.randn(1, 4, dtype=torch.bfloat16)).float().square().mean())
        engine.step()
        engine.save_checkpoint(out)


def deepspeed() -> None:
    """Two ranks with ZeRO-1 and with ZeRO-3; two steps, of which the first is left out."""
    for stage in (1, 3):
        with tempfile.TemporaryDirectory() as directory:
            torch.multiprocessing.spawn(_deepspeed_rank, (directory, stage), nprocs=2)
            target = GROUPS / f"deepspeed-zero{stage}"
            shutil.copytree(directory, target, ignore=shutil.ignore_patterns("*.py", "global_step1"))


def accelerate() -> None:
    """``save_state`` of a model, its optimizer and schedule, a shuffling loader and an object of the user's."""
    from accelerate import Accelerator
    from accelerate.utils import DataLoaderConfiguration, ProjectConfiguration

    class Counter:
        def state_dict(self):
            return {"step": 3}

        def load_state_dict(self, state) -> None:
            pass

    project = ProjectConfiguration(project_dir=str(GROUPS / "accelerate"), automatic_checkpoint_naming=True)
    loading = DataLoaderConfiguration(use_seedable_sampler=True)
    accelerator = Accelerator(cpu=True, project_config=project, dataloader_config=loading)
    model = torch.nn.Linear(4, 2)
    optimizer = torch.optim.AdamW(model.parameters())
    rows = torch.utils.data.TensorDataset(torch.randn(12, 4))
    loader = torch.utils.data.DataLoader(rows, batch_size=4, shuffle=True)
    model, optimizer, schedule, loader = accelerator.prepare(
        model, optimizer, torch.optim.lr_scheduler.StepLR(optimizer, 1), loader
    )
    accelerator.register_for_checkpointing(Counter())
    for (row,) in loader:
        accelerator.backward(model(row).square().mean())
        optimizer.step()
        schedule.step()
    accelerator.save_state()


def peft() -> None:
    """``save_pretrained`` of two LoRA adapters: the second one lies in a directory of its own."""
    from peft import LoraConfig, get_peft_model

    class Model(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.q, self.v = torch.nn.Linear(8, 8), torch.nn.Linear(8, 8)

        def forward(self, row):
            return self.v(self.q(row))

    model = get_peft_model(Model(), LoraConfig(r=2, target_modules=["q", "v"]))
    model.add_adapter("second", LoraConfig(r=4, target_modules=["q"]))
    model.save_pretrained(str(GROUPS / "peft"))
    (GROUPS / "peft" / "README.md").unlink()


def torchtune() -> None:
    """Two epochs to go on from and the last one; without torchao, as its newest and torchtune do not fit together."""
    sys.meta_path.insert(0, Absent("torchao"))
    from torchtune.training.checkpointing import FullModelTorchTuneCheckpointer

    with tempfile.TemporaryDirectory() as directory:
        torch.save({"layer.weight": torch.ones(4, 4)}, f"{directory}/model.pt")
        Path(directory, "config.json").write_text("{}")
        checkpointer = FullModelTorchTuneCheckpointer(
            checkpoint_dir=directory,
            checkpoint_files=["model.pt"],
            model_type="LLAMA2",
            output_dir=str(GROUPS / "torchtune"),
        )
        checkpointer.load_checkpoint()
        for epoch in (0, 1):
            state = {
                "model": {"layer.weight": torch.full((4, 4), float(epoch))},
                "optimizer": {"state": {}, "param_groups": [{"lr": 0.1}]},
                "epochs_run": epoch + 1,
                "total_epochs": 3,
            }
            checkpointer.save_checkpoint(state, epoch=epoch, intermediate_checkpoint=True)


def torchtitan() -> None:
    """``CheckpointManager`` with two steps, of which the first is left out."""
    one_process(29601)
    from torchtitan.components.checkpoint import CheckpointManager
    from torchtitan.components.lr_scheduler import LRSchedulersContainer
    from torchtitan.components.optimizer import OptimizersContainer
    from torchtitan.config.job_config import Checkpoint

    class Train:
        step = 0

        def state_dict(self):
            return {"step": torch.tensor(self.step)}

        def load_state_dict(self, state) -> None:
            pass

    model = torch.nn.Linear(4, 2, bias=False)
    optimizers = OptimizersContainer([model], torch.optim.SGD, {"lr": 0.1})
    train = Train()
    manager = CheckpointManager(
        dataloader=None,
        model_parts=[model],
        optimizers=optimizers,
        lr_schedulers=LRSchedulersContainer(optimizers, lambda _: 1.0),
        states={"train_state": train},
        checkpoint_config=Checkpoint(enable=True, interval=1, keep_latest_k=0),
        sd_adapter=None,
        base_folder=str(GROUPS / "torchtitan"),
    )
    for train.step in (1, 2):
        optimizers.zero_grad()
        model(torch.randn(3, 4)).square().mean().backward()
        optimizers.step()
        manager.save(train.step)
    manager.close()
    shutil.rmtree(GROUPS / "torchtitan" / "checkpoint" / "step-1")


def megatron() -> None:
    """``dist_checkpointing.save`` of megatron-core, which asks for a GPU only to wait for it; the tracker by hand."""
    one_process(29602)
    torch.cuda.synchronize = lambda *_: None
    torch.cuda.current_device = lambda: "cpu"
    from megatron.core import dist_checkpointing
    from megatron.core.dist_checkpointing import ShardedTensor

    target = GROUPS / "megatron" / "iter_0000010"
    target.mkdir(parents=True)
    state = {"w": ShardedTensor.from_rank_offsets("w", torch.ones(4, 4)), "iteration": 10, "args": {"lr": 0.1}}
    dist_checkpointing.save(state, str(target))
    (target.parent / "latest_checkpointed_iteration.txt").write_text("10")


def nemo() -> None:
    """What ``save_to`` of a model calls to write weights and to pack them; without NVIDIA's telemetry."""
    sys.meta_path.insert(0, Absent("nv_one_logger", "nemo.lightning.callback_group"))
    from nemo.core.connectors.save_restore_connector import SaveRestoreConnector

    with tempfile.TemporaryDirectory() as directory:
        Path(directory, "model_config.yaml").write_text("name: small\n")
        Path(directory, "0123456789abcdef_vocab.txt").write_text("a\nb\n")
        state = {"encoder.weight": torch.arange(64.0).reshape(8, 8), "encoder.bias": torch.ones(8, dtype=torch.half)}
        SaveRestoreConnector._save_state_dict_to_disk(state, f"{directory}/model_weights.ckpt")
        SaveRestoreConnector._make_nemo_file_from_folder(str(GROUPS / "small.nemo"), directory)


if __name__ == "__main__":
    GROUPS.mkdir(exist_ok=True)
    for name in sys.argv[1:]:
        globals()[name]()
