"""Trainings that tell the agent of their saves: ``telling_trainer.py KIND DIRECTORY [DATA]``, three saves each.

Each line on stdout is what the agent was told of, and what it was then: a digest of each file.
"""

import hashlib
import json
import os
import sys
from pathlib import Path

import mlsync.python.now as module

TELL = module.now


def telling(path=None, **more):
    """Tell the agent, and the test."""
    if "after" in more:
        # It comes here again, once the save has ended.
        return TELL(path, **more)
    place = Path(path)
    files = sorted(place.rglob("*")) if place.is_dir() else [place]
    digests = {os.path.realpath(one): hashlib.sha256(one.read_bytes()).hexdigest() for one in files if one.is_file()}
    # So that each save is a version of its own, whatever the machine has to do.
    saved = TELL(path, wait=120, required=True, **more)
    sys.stdout.write(json.dumps({"path": os.path.realpath(place), "version": saved.version, "files": digests}) + "\n")
    sys.stdout.flush()
    return saved


module.now = telling


def ultralytics(directory, data):
    """Three epochs, and what is stripped at the end."""
    from ultralytics import YOLO

    from mlsync.integrations.ultralytics import attach

    model = YOLO("yolov8n.yaml")
    attach(model)
    more = {"imgsz": 64, "batch": 4, "nbs": 4, "workers": 0, "device": "cpu", "optimizer": "AdamW", "plots": False}
    model.train(data=data, project=directory, name="train", epochs=3, **more)


def huggingface(directory, _data):
    """Three steps, of which the first one's checkpoint is deleted again."""
    from huggingface_trainer import Numbers
    from transformers import LlamaConfig, LlamaForCausalLM, Trainer, TrainingArguments

    from mlsync.integrations.huggingface import HuggingFaceCallback

    shape = {"hidden_size": 64, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 4}
    more = {"per_device_train_batch_size": 4, "use_cpu": True, "report_to": [], "disable_tqdm": True}
    arguments = TrainingArguments(directory, max_steps=3, save_steps=1, save_total_limit=2, **more)
    model = LlamaForCausalLM(LlamaConfig(vocab_size=128, **shape))
    Trainer(model=model, args=arguments, train_dataset=Numbers(), callbacks=[HuggingFaceCallback()]).train()


def lightning(directory, _data, *plugins):
    """Three epochs, with a file for each and a last one."""
    import pytorch_lightning
    import torch
    from lightning_trainer import Regression
    from pytorch_lightning.callbacks import ModelCheckpoint

    from mlsync.integrations.lightning import LightningCallback

    saving = ModelCheckpoint(directory, save_top_k=-1, save_last=True)
    trainer = pytorch_lightning.Trainer(
        max_epochs=3,
        accelerator="cpu",
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[saving, LightningCallback()],
        plugins=list(plugins),
    )
    trainer.fit(Regression(), torch.utils.data.DataLoader(torch.randn(64, 64), batch_size=32))


def lightning_later(directory, data):
    """The same, and a thread writes."""
    from pytorch_lightning.plugins.io import AsyncCheckpointIO

    lightning(directory, data, AsyncCheckpointIO())


def torch_later(directory, _data):
    """A distributed checkpoint whose writing goes on."""
    import torch
    from torch.distributed import checkpoint

    import mlsync

    for step in range(3):
        place = f"{directory}/step-{step}"
        future = checkpoint.async_save({"weight": torch.full((100,), float(step))}, checkpoint_id=place)
        mlsync.now(place, after=future)
        future.result()


if __name__ == "__main__":
    KINDS = {one.__name__: one for one in (ultralytics, huggingface, lightning, lightning_later, torch_later)}
    KINDS[sys.argv[1]](sys.argv[2], sys.argv[3])
