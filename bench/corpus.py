"""Files that the real libraries write, and what mlsync says of each: nothing may be called broken or warned about.

    python bench/corpus.py make FOLDER [--only KIND]    # in a Python with the libraries; what is not there is left out
    python bench/corpus.py judge FOLDER                 # in mlsync's own: a backup of the folder, and its proofs

Each kind has a directory of its own below FOLDER. ``judge`` backs all of it up as one run, with a repository in memory
and the proof on the CPU, and prints a row for each kind: how many files, which containers, which level each reached.
It ends with status 1 if a file was refused, warned of, or is not in the version.
"""

from __future__ import annotations

import argparse
import os
import pickle
import shutil
import sys
import tempfile
import warnings
from collections import Counter, defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
os.environ.setdefault("KERAS_BACKEND", "torch")
os.environ.setdefault("JAX_PLATFORMS", "cpu")
MAKERS: dict[str, Callable[[Path], None]] = {}


def maker(make: Callable[[Path], None]) -> Callable[[Path], None]:
    """A function that fills a directory."""
    MAKERS[make.__name__] = make
    return make


def network() -> Any:
    import torch

    torch.manual_seed(1)
    layers = [torch.nn.Linear(24, 48), torch.nn.BatchNorm1d(48), torch.nn.ReLU(), torch.nn.Linear(48, 10)]
    return torch.nn.Sequential(*layers)


def trained(kind: str) -> tuple[Any, Any]:
    """A small network and its optimizer after two steps."""
    import torch

    model = network()
    optimizer = getattr(torch.optim, kind)(model.parameters(), lr=1e-3)

    def loss() -> Any:
        optimizer.zero_grad()
        value = model(torch.randn(8, 24)).square().mean()
        value.backward()
        return value

    for _ in range(2):
        optimizer.step(loss)
    return model, optimizer


# Of a transformer on texts, as small as the library takes it.
SMALL_TEXTS = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 64,
    "vocab_size": 99,
}


@maker
def torch_types(folder: Path) -> None:
    import torch

    names = (
        "float32 float64 float16 bfloat16 int8 int16 int32 int64 uint8 uint16 uint32 uint64 bool complex64 complex128"
    )
    names += " float8_e4m3fn float8_e5m2 float8_e4m3fnuz float8_e5m2fnuz"
    for name in names.split():
        torch.save({"a": torch.randn(30, 40).to(getattr(torch, name))}, folder / f"{name}.pt")


@maker
def torch_tensors(folder: Path) -> None:
    import numpy as np
    import torch

    base = torch.randn(40, 30)
    torch.save({"base": base, "row": base[3], "turned": base.T, "wide": base[0, :1].expand(9)}, folder / "shared.pt")
    torch.save({"none": torch.zeros(0, 3), "a": base[9:]}, folder / "empty.pt")
    torch.save(torch.quantize_per_tensor(base, 0.1, 3, torch.qint8), folder / "quantised.pt")
    torch.save(
        torch.quantize_per_channel(base, torch.ones(40), torch.zeros(40), 0, torch.qint8), folder / "channels.pt"
    )
    torch.save({"a": torch.eye(60).to_sparse(), "b": torch.eye(30).to_sparse_csr()}, folder / "sparse.pt")
    torch.save(torch.nested.nested_tensor([base[:3], base[:7]]), folder / "nested.pt")
    torch.save(base, folder / "tensor.pt")
    torch.save([base, (base, {"x": 1})], folder / "list.pt")
    torch.save({"w": np.ones(300, "f4"), "t": base, "scalar": np.float64(2)}, folder / "numpy.pt")
    torch.save(torch.nn.Parameter(base), folder / "parameter.pt")
    torch.save({"nothing": 1}, folder / "no-tensor.pt")
    torch.save(base.conj_physical().to(torch.complex64).conj(), folder / "conjugate.pt")
    torch.save(torch.randn(3, 4, 5, 6).to(memory_format=torch.channels_last), folder / "channels-last.pt")
    torch.save({"a": base}, folder / "protocol-4.pt", pickle_protocol=4)
    torch.save({"a": base}, folder / "protocol-5.pt", pickle_protocol=5)


@maker
def torch_legacy(folder: Path) -> None:
    import torch

    for kind in ("Adam", "SGD"):
        model, optimizer = trained(kind)
        state = {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "epoch": 3}
        torch.save(state, folder / f"{kind}.pth.tar", _use_new_zipfile_serialization=False)
    torch.save(network(), folder / "module.pt", _use_new_zipfile_serialization=False)
    torch.save(torch.randn(9, 9).half(), folder / "half.th", _use_new_zipfile_serialization=False)


@maker
def torch_trainings(folder: Path) -> None:
    import torch

    kinds = [
        "SGD",
        "Adam",
        "AdamW",
        "Adagrad",
        "RMSprop",
        "Adadelta",
        "Adamax",
        "NAdam",
        "RAdam",
        "ASGD",
        "Rprop",
        "LBFGS",
        "Adafactor",
    ]
    for kind in kinds:
        model, optimizer = trained(kind)
        scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 3)
        state = {"epoch": 3, "model": model.state_dict(), "optimizer": optimizer.state_dict(), "scaler": {}}
        torch.save(state | {"scheduler": scheduler.state_dict(), "rng": torch.get_rng_state()}, folder / f"{kind}.pt")
    model, _ = trained("SGD")
    torch.save(model, folder / "module.pth")
    torch.save(torch.optim.swa_utils.AveragedModel(model).state_dict(), folder / "ema.pth")
    torch.save({"args": argparse.Namespace(lr=0.1, name="run"), "model": model.state_dict()}, folder / "args.pth")
    torch.save({f"module.{key}": value for key, value in model.state_dict().items()}, folder / "ddp.bin")


@maker
def torchscript(folder: Path) -> None:
    import torch

    model, rows = network().eval(), torch.randn(4, 24)
    script = torch.jit.script(model)
    script.save(str(folder / "script.pt"))
    torch.jit.trace(model, rows).save(str(folder / "trace.ts.pt"))
    torch.jit.freeze(script).save(str(folder / "frozen.jit"))
    torch.jit.optimize_for_inference(torch.jit.script(model)).save(str(folder / "inference.torchscript"))
    script._save_for_lite_interpreter(str(folder / "lite.ptl"))  # noqa: SLF001 - torch has no other way


@maker
def exported(folder: Path) -> None:
    import torch

    for name, model in {"plain": network().eval(), "conv": torch.nn.Conv2d(3, 8, 3)}.items():
        rows = torch.randn(4, 24) if name == "plain" else torch.randn(1, 3, 9, 9)
        torch.export.save(torch.export.export(model, (rows,)), folder / f"{name}.pt2")
    with torch.package.PackageExporter(folder / "package.pt") as exporter:
        exporter.extern("**")
        exporter.save_pickle("model", "model.pkl", network())


@maker
def distributed(folder: Path) -> None:
    import torch.distributed.checkpoint as dcp
    from torch.distributed.checkpoint.filesystem import FileSystemWriter, SerializationFormat

    model, optimizer = trained("Adam")
    state = {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "epoch": 3, "notes": ["a"]}
    dcp.save(state, storage_writer=FileSystemWriter(folder / "step_1", sync_files=False), no_dist=True)
    writer = FileSystemWriter(folder / "step_2", sync_files=False, single_file_per_rank=False)
    dcp.save(state, storage_writer=writer, no_dist=True)
    writer = FileSystemWriter(folder / "step_3", sync_files=False, serialization_format=SerializationFormat.SAFETENSORS)
    dcp.save({"model": model.state_dict()}, storage_writer=writer, no_dist=True)


@maker
def safetensors_files(folder: Path) -> None:
    import numpy as np
    import safetensors.numpy
    import safetensors.torch
    import torch

    for name in [
        "float32",
        "float16",
        "bfloat16",
        "int64",
        "uint8",
        "bool",
        "float8_e4m3fn",
        "float8_e5m2",
        "complex64",
    ]:
        values = {"a": torch.randn(30, 40).to(getattr(torch, name)), "b": torch.zeros(0, 3).to(getattr(torch, name))}
        safetensors.torch.save_file(values, folder / f"{name}.safetensors", {"format": "pt"})
    safetensors.numpy.save_file({"w": np.ones((3, 4)), "n": np.arange(5)}, folder / "numpy.safetensors")
    safetensors.torch.save_model(network(), str(folder / "model.sft"))
    safetensors.torch.save_file({}, folder / "empty.safetensors")


@maker
def numpy_files(folder: Path) -> None:
    import numpy as np

    np.savez(folder / "plain.npz", a=np.ones((3, 4)), b=np.arange(9), c=np.float32(3))
    np.savez_compressed(folder / "packed.npz", a=np.zeros((300, 40)), b=np.arange(9))
    np.savez(folder / "kinds.npz", t=np.array(["a", "bc"]), d=np.array(["2026-01-01"], "M8[D]"), r=np.zeros(3, "i4,f8"))
    np.savez(folder / "objects.npz", o=np.array([{"a": 1}, [2]], dtype=object))
    np.savez(
        folder / "orders.npz", f=np.asfortranarray(np.ones((5, 6))), b=np.arange(9, dtype=">f8"), e=np.zeros((0, 3))
    )


@maker
def gguf_files(folder: Path) -> None:
    import numpy as np
    from gguf import GGMLQuantizationType, GGUFWriter, quants

    kinds = ["F32", "F16", "BF16", "Q4_0", "Q4_1", "Q5_0", "Q8_0"]
    for name in kinds:
        kind = GGMLQuantizationType[name]
        writer = GGUFWriter(folder / f"{name}.gguf", "llama")
        writer.add_block_count(1)
        writer.add_array("words", ["a", "bc"])
        data = quants.quantize(np.random.default_rng(1).standard_normal((8, 256)).astype("f4"), kind)
        writer.add_tensor("token_embd.weight", data, raw_dtype=kind)
        writer.add_tensor("output_norm.weight", np.ones(256, "f4"))
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()


@maker
def transformers_models(folder: Path) -> None:
    import transformers as t

    t5 = {"d_model": 32, "num_layers": 2, "num_heads": 2, "d_ff": 64, "d_kv": 16, "vocab_size": 99}
    models = {
        "bert": t.BertForMaskedLM(t.BertConfig(**SMALL_TEXTS)),
        "llama": t.LlamaForCausalLM(t.LlamaConfig(**SMALL_TEXTS, num_key_value_heads=2)),
        "qwen": t.Qwen2ForCausalLM(t.Qwen2Config(**SMALL_TEXTS, num_key_value_heads=2)),
        "gpt2": t.GPT2LMHeadModel(t.GPT2Config(n_embd=32, n_layer=2, n_head=2, vocab_size=99)),
        "t5": t.T5ForConditionalGeneration(t.T5Config(**t5)),
        "vit": t.ViTForImageClassification(
            t.ViTConfig(hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64, image_size=32)
        ),
    }
    import torch

    for name, model in models.items():
        model.save_pretrained(folder / name)
        model.half().save_pretrained(folder / f"{name}-shards", max_shard_size="40KB")
        torch.save(model.state_dict(), folder / name / "pytorch_model.bin")


@maker
def transformers_trainer(folder: Path) -> None:
    import torch
    import transformers as t

    model = t.BertForSequenceClassification(t.BertConfig(**SMALL_TEXTS))
    rows = [{"input_ids": torch.arange(9), "labels": torch.tensor(number % 2)} for number in range(8)]
    arguments = t.TrainingArguments(
        str(folder), max_steps=4, save_steps=2, report_to=[], use_cpu=True, per_device_train_batch_size=4
    )
    t.Trainer(model, arguments, train_dataset=rows).train()


@maker
def peft_adapters(folder: Path) -> None:
    import peft
    import transformers as t

    kinds = {
        "lora": peft.LoraConfig(target_modules=["query"]),
        "ia3": peft.IA3Config(target_modules=["key"], feedforward_modules=[]),
    }
    for name, config in kinds.items():
        model = peft.get_peft_model(t.BertModel(t.BertConfig(**SMALL_TEXTS)), config)
        model.save_pretrained(folder / name)
        model.save_pretrained(folder / f"{name}-bin", safe_serialization=False)


@maker
def accelerate_states(folder: Path) -> None:
    import torch
    from accelerate import Accelerator

    for safe in (True, False):
        accelerator = Accelerator(cpu=True)
        model, optimizer = trained("AdamW")
        scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 3)
        prepared = accelerator.prepare(model, optimizer, scheduler)
        assert prepared
        accelerator.save_state(str(folder / f"checkpoint_{int(safe)}"), safe_serialization=safe)


@maker
def lightning_checkpoints(folder: Path) -> None:
    import lightning
    import torch

    class Task(lightning.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.layer = network()

        def training_step(self, batch: Any, _: int) -> Any:
            loss = self.layer(batch[0]).square().mean()
            self.log("loss", loss)
            return loss

        def configure_optimizers(self) -> Any:
            return torch.optim.AdamW(self.parameters())

    from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint

    rows = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(torch.randn(16, 24)), 4)
    callbacks = [ModelCheckpoint(folder, save_last=True, monitor="loss", save_top_k=2), EarlyStopping("loss")]
    quiet = {"enable_progress_bar": False, "enable_model_summary": False, "accelerator": "cpu"}
    trainer = lightning.Trainer(max_epochs=2, logger=False, callbacks=callbacks, **quiet)
    trainer.fit(Task(), rows)
    trainer.save_checkpoint(folder / "weights.ckpt", weights_only=True)


@maker
def timm_checkpoints(folder: Path) -> None:
    import timm
    import timm.utils
    import torch

    model = timm.create_model("resnet10t")
    optimizer = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9)
    saver = timm.utils.CheckpointSaver(
        model, optimizer, args=argparse.Namespace(model="resnet10t"), checkpoint_dir=str(folder)
    )
    saver.save_checkpoint(1, metric=0.5)


@maker
def torchvision_models(folder: Path) -> None:
    import torch
    import torchvision

    model = torchvision.models.mobilenet_v3_small()
    torch.save(model.state_dict(), folder / "mobilenet.pth")
    torch.save(
        {"state_dict": model.state_dict(), "best_acc1": torch.tensor(3.5), "arch": "m"}, folder / "model_best.pth.tar"
    )


@maker
def ultralytics_models(folder: Path) -> None:
    from ultralytics import YOLO

    for name in ("yolov8n.yaml", "yolo11n.yaml"):
        model = YOLO(name)
        model.save(folder / f"{name[:-5]}.pt")
    place = shutil.copy(folder / "yolov8n.pt", folder / "export.pt")
    model = YOLO(place)
    model.export(format="torchscript", imgsz=64)


@maker
def diffusers_models(folder: Path) -> None:
    import diffusers

    unet = diffusers.UNet2DModel(
        sample_size=8,
        block_out_channels=(32, 32),
        down_block_types=("DownBlock2D",) * 2,
        up_block_types=("UpBlock2D",) * 2,
    )
    unet.save_pretrained(folder / "unet")
    unet.save_pretrained(folder / "unet-bin", safe_serialization=False)
    unet.save_pretrained(folder / "unet-shards", max_shard_size="300KB")


@maker
def torchao_quantised(folder: Path) -> None:
    import torch
    from torchao.quantization import Int8WeightOnlyConfig, quantize_

    model = network().eval()
    quantize_(model, Int8WeightOnlyConfig())
    torch.save(model.state_dict(), folder / "int8.pt")


@maker
def keras_models(folder: Path) -> None:
    import keras
    import numpy as np

    layers = keras.layers
    models = {
        "dense": keras.Sequential([keras.Input((7,)), layers.Dense(5), layers.BatchNormalization(), layers.Dense(3)]),
        "conv": keras.Sequential([keras.Input((16, 16, 3)), layers.Conv2D(8, 3), layers.Flatten(), layers.Dense(2)]),
        "lstm": keras.Sequential([keras.Input((5, 4)), layers.LSTM(6), layers.Dense(1)]),
        "embedding": keras.Sequential([keras.Input((5,)), layers.Embedding(50, 8), layers.GlobalAveragePooling1D()]),
    }
    for name, model in models.items():
        model.compile("adam", "mse")
        shape = (2, *model.input_shape[1:])
        model.fit(np.ones(shape), np.ones((2, *model.output_shape[1:])), verbose=0)
        model.save(folder / f"{name}.keras")
        model.save(folder / f"{name}.h5")
        model.save_weights(folder / f"{name}.weights.h5")


@maker
def hdf5_files(folder: Path) -> None:
    import h5py
    import numpy as np

    for name, options in {"oldest": {}, "latest": {"libver": "latest"}, "v110": {"libver": "v110"}}.items():
        with h5py.File(folder / f"{name}.h5", "w", **options) as file:
            file.attrs["note"] = "x" * 100
            for number in range(40):
                file.create_dataset(f"layer{number}/w", data=np.full((9, 9), number, "f4"))
            file.create_dataset("big", data=np.random.default_rng(1).random((100, 100)), chunks=(32, 32))
            file.create_dataset("packed", data=np.zeros((100, 100)), compression="gzip", shuffle=True, fletcher32=True)
            file.create_dataset("text", data=["a", "bc"])
            file.create_dataset("rows", data=np.zeros(9, "i4,f8"))
            file.create_dataset("grows", shape=(5, 5), maxshape=(None, 5), dtype="f8")
            del file["layer7"]


@maker
def onnx_models(folder: Path) -> None:
    import onnx
    import torch

    model, rows = network().eval(), torch.randn(4, 24)
    torch.onnx.export(model, (rows,), folder / "old.onnx", dynamo=False)
    torch.onnx.export(model, (rows,), folder / "new.onnx", dynamo=True, external_data=False)
    (folder / "outside").mkdir()
    torch.onnx.export(model, (rows,), folder / "outside" / "new.onnx", dynamo=True, external_data=True)
    convolution = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3), torch.nn.ReLU(), torch.nn.MaxPool2d(2))
    torch.onnx.export(convolution, (torch.randn(1, 3, 16, 16),), folder / "conv.onnx", dynamo=False)
    loaded = onnx.load(folder / "old.onnx")
    onnx.save(onnx.shape_inference.infer_shapes(loaded), folder / "shapes.onnx")
    onnx.save(onnx.version_converter.convert_version(loaded, 21), folder / "opset-21.onnx")


@maker
def onnx_of_sklearn(folder: Path) -> None:
    import numpy as np
    import skl2onnx
    from sklearn.ensemble import RandomForestClassifier
    from sklearn.linear_model import LogisticRegression

    rows = np.random.default_rng(1).random((40, 5), "f4")
    for model in (LogisticRegression(), RandomForestClassifier(5)):
        found = skl2onnx.to_onnx(model.fit(rows, rows[:, 0] > 0.5), rows[:1])
        (folder / f"{type(model).__name__}.onnx").write_bytes(found.SerializeToString())


@maker
def sklearn_models(folder: Path) -> None:
    import joblib
    import numpy as np
    from sklearn import (
        cluster,
        decomposition,
        ensemble,
        linear_model,
        naive_bayes,
        neighbors,
        neural_network,
        pipeline,
        preprocessing,
        svm,
        tree,
    )

    rows = np.random.default_rng(1).random((80, 6))
    kinds = [
        linear_model.LogisticRegression(),
        ensemble.RandomForestClassifier(5),
        ensemble.GradientBoostingClassifier(n_estimators=5),
        ensemble.HistGradientBoostingClassifier(max_iter=5),
        svm.SVC(),
        neighbors.KNeighborsClassifier(),
        naive_bayes.GaussianNB(),
        neural_network.MLPClassifier((9,), max_iter=5),
        tree.DecisionTreeClassifier(),
        cluster.KMeans(3),
        decomposition.PCA(2),
        pipeline.make_pipeline(preprocessing.StandardScaler(), linear_model.SGDClassifier()),
    ]
    for model in kinds:
        name = type(model).__name__
        model.fit(rows, rows[:, 0] > 0.5)
        joblib.dump(model, folder / f"{name}.joblib")
        (folder / f"{name}.pkl").write_bytes(pickle.dumps(model))
    joblib.dump(kinds[0], folder / "packed.joblib", compress=3)
    joblib.dump(kinds[0], folder / "packed.joblib.gz", compress=("gzip", 3))


@maker
def boosted_trees(folder: Path) -> None:
    import lightgbm
    import numpy as np
    import xgboost

    rows = np.random.default_rng(1).random((80, 6))
    booster = xgboost.train({"max_depth": 3}, xgboost.DMatrix(rows, rows[:, 0] > 0.5), 5)
    for ending in ("json", "ubj"):
        booster.save_model(folder / f"xgboost.{ending}")
    (folder / "xgboost.pkl").write_bytes(pickle.dumps(booster))
    model = lightgbm.train({"verbose": -1}, lightgbm.Dataset(rows, rows[:, 0]), 5)
    model.save_model(folder / "lightgbm.txt")
    (folder / "lightgbm.pkl").write_bytes(pickle.dumps(model))


@maker
def pickles(folder: Path) -> None:
    import numpy as np

    values = {"epoch": 3, "w": np.ones((30, 40), "f4"), "names": ["a", "b"], "o": np.array([1, "x"], dtype=object)}
    for protocol in range(6):
        (folder / f"protocol-{protocol}.pkl").write_bytes(pickle.dumps(values, protocol))


@maker
def stable_baselines(folder: Path) -> None:
    import stable_baselines3 as sb3

    for kind in (sb3.PPO, sb3.A2C, sb3.DQN):
        agent = kind("MlpPolicy", "CartPole-v1", policy_kwargs={"net_arch": [8]}, device="cpu")
        agent.save(folder / kind.__name__)


@maker
def flax_files(folder: Path) -> None:
    import flax.linen as nn
    import jax
    import jax.numpy as jnp
    import optax
    from flax import serialization
    from flax.training import train_state

    model = nn.Dense(9)
    params = model.init(jax.random.PRNGKey(0), jnp.ones((1, 24)))["params"]
    for name, tx in {"sgd": optax.sgd(0.1), "adam": optax.adam(0.1), "adafactor": optax.adafactor(0.1)}.items():
        state = train_state.TrainState.create(apply_fn=model.apply, params=params, tx=tx)
        (folder / f"{name}.msgpack").write_bytes(serialization.to_bytes(state))
    half = jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), params)
    (folder / "flax_model.msgpack").write_bytes(serialization.to_bytes(half))


@maker
def orbax_checkpoints(folder: Path) -> None:
    import jax.numpy as jnp
    import orbax.checkpoint as ocp

    state = {
        "params": {"w": jnp.arange(4000.0).reshape(40, 100), "b": jnp.ones(16, jnp.bfloat16)},
        "step": jnp.int32(7),
    }
    with ocp.CheckpointManager(folder / "manager") as manager:
        for step in (1, 2):
            manager.save(step, args=ocp.args.StandardSave(state))
        manager.wait_until_finished()
    ocp.PyTreeCheckpointer().save(folder / "tree", state)
    checkpointer = ocp.Checkpointer(ocp.PyTreeCheckpointHandler(use_ocdbt=False))
    checkpointer.save(folder / "zarr", args=ocp.args.PyTreeSave(state))


@maker
def tensorflow_checkpoints(folder: Path) -> None:
    import numpy as np
    import tensorflow as tf

    model = tf.Module()
    model.w = tf.Variable(np.ones((24, 16), "f4"))
    model.h = tf.Variable(tf.cast(tf.ones((30, 10)), tf.bfloat16))
    model.t = tf.Variable(["a", "longer text"])
    tf.train.Checkpoint(model=model).write(str(folder / "ckpt-1"))
    manager = tf.train.CheckpointManager(tf.train.Checkpoint(model=model), str(folder / "managed"), 2)
    for _ in range(3):
        manager.save()
    tf.saved_model.save(model, str(folder / "saved"))


@maker
def already_here(folder: Path) -> None:
    """The files that the tests have, of other versions and libraries too."""
    for path in sorted((ROOT / "tests/formats/made").rglob("*")):
        if path.is_file() and path.suffix != ".py":
            target = folder / path.relative_to(ROOT / "tests/formats/made")
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(path, target)


def make(folder: Path, only: list[str]) -> None:
    """Fill a directory for each kind."""
    warnings.simplefilter("ignore")
    for name, maker_of in MAKERS.items():
        if only and name not in only:
            continue
        place = folder / name
        place.mkdir(parents=True, exist_ok=True)
        try:
            maker_of(place)
        except Exception as error:  # noqa: BLE001 - one library that is not there costs its own files
            print(f"{name}: not made, or in part: {type(error).__name__}: {str(error)[:200]}", flush=True)


def judge(folder: Path) -> int:
    """Back the folder up and print what was said of each kind."""
    sys.path.insert(0, str(ROOT / "tests"))
    from flow_parts import World
    from mlsync.backup.checkpoints.not_understood import not_understood
    from mlsync.proof.options import ProofOptions
    from mlsync.proof.prover import Prover
    from mlsync.repository.encoding.tokens import EntryKind
    from mlsync.values import Severity

    bad = 0
    with tempfile.TemporaryDirectory() as base:
        world = World(Path(base))
        world.directory = folder
        world.backup(required_level=4, prover=Prover(ProofOptions(device="cpu")))
        manifest = world.manifest()
        world.close()
    rows: dict[str, Counter[str]] = defaultdict(Counter)
    shortfalls: dict[str, set[str]] = defaultdict(set)
    for entry in manifest.entries:
        if entry.kind is not EntryKind.FILE:
            continue
        kind = entry.path.split(b"/")[0].decode()
        if entry.proof is None:
            rows[kind]["-"] += 1
            continue
        rows[kind][f"{entry.proof.container} L{entry.proof.level}"] += 1
        if entry.proof.level < 4:
            shortfalls[kind].add(entry.proof.shortfall or "; ".join(f.what for f in entry.proof.findings))
        for finding in entry.proof.findings:
            if finding.severity is not Severity.NOTE:
                print(f"{finding.severity.name}: {entry.path.decode()}: {finding.what}")
                bad += 1
    for trouble in manifest.root.troubles:
        print(f"{trouble.kind.name}: {trouble.path.decode()}: {trouble.text}")
        bad += 1
    print("| kind | files | container and level: how many | no checkpoints |\n|---|---|---|---|")
    for kind, found in sorted(rows.items()):
        proved = ", ".join(f"{what}: {count}" for what, count in sorted(found.items()) if what != "-")
        print(f"| {kind} | {sum(found.values())} | {proved} | {found['-']} |")
    print("not understood:", *sorted(path.decode() for path in not_understood(manifest.entries)))
    for kind, texts in sorted(shortfalls.items()):
        print(f"below 4: {kind}: {sorted(texts)}")
    total = sum(sum(found.values()) for found in rows.values())
    proofs = sum(count for found in rows.values() for what, count in found.items() if what != "-")
    print(f"{total} files, {proofs} with a proof, {bad} refused or warned of")
    return int(bad > 0)


def main() -> int:
    """Make, or judge."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("what", choices=["make", "judge"])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--only", action="append", default=[], choices=MAKERS)
    options = parser.parse_args()
    if options.what == "make":
        make(options.folder.resolve(), options.only)
        return 0
    return judge(options.folder.resolve())


if __name__ == "__main__":
    sys.exit(main())
