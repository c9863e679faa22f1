"""A training as anybody writes it with transformers: ``huggingface_trainer.py EVENTS DIRECTORY STEPS [CHECKPOINT]``.

It saves after each step, into a directory of its own, and keeps the last two of them. It ends after STEPS, or when
there is a file named EVENTS with ``.enough`` after it.
"""

import json
import os
import sys

import torch
from transformers import LlamaConfig, LlamaForCausalLM, Trainer, TrainerCallback, TrainingArguments


class Numbers(torch.utils.data.Dataset):
    """Sequences that count."""

    def __len__(self):
        """A thousand of them."""
        return 1000

    def __getitem__(self, index):
        """Counting from *index*."""
        numbers = torch.arange(index, index + 16) % 128
        return {"input_ids": numbers, "labels": numbers}


class Telling(TrainerCallback):
    """Says where the training begins and where it ends, and that it is enough."""

    def __init__(self, events):
        self._events = events

    def on_train_begin(self, args, state, control, **kwargs):
        """It begins, or goes on."""
        self._tell("begins", state.global_step)

    def on_step_end(self, args, state, control, **kwargs):
        """It is saved, and goes on or not."""
        control.should_training_stop |= os.path.exists(self._events + ".enough")

    def on_train_end(self, args, state, control, **kwargs):
        """It ended."""
        self._tell("ended", state.global_step)

    def _tell(self, event, step):
        with open(self._events, "a") as stream:
            stream.write(json.dumps({"event": event, "step": step}) + "\n")


def main() -> None:
    """Train, or go on from a checkpoint."""
    events, directory, steps, *checkpoint = sys.argv[1:]
    shape = LlamaConfig(
        vocab_size=128, hidden_size=128, intermediate_size=256, num_hidden_layers=2, num_attention_heads=4
    )
    arguments = TrainingArguments(
        directory,
        max_steps=int(steps),
        save_steps=1,
        save_total_limit=2,
        per_device_train_batch_size=4,
        use_cpu=True,
        report_to=[],
        disable_tqdm=True,
    )
    trainer = Trainer(
        model=LlamaForCausalLM(shape), args=arguments, train_dataset=Numbers(), callbacks=[Telling(events)]
    )
    trainer.train(resume_from_checkpoint=checkpoint[0] if checkpoint else None)


if __name__ == "__main__":
    main()
