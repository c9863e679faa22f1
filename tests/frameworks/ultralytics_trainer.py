"""A training as anybody writes it with Ultralytics: ``ultralytics_trainer.py EVENTS train|resume PATH [PROJECT]``.

An epoch of real data takes minutes, and one of eight small pictures a quarter of a second: each but the last lasts
until a line comes on stdin. What happens is written to EVENTS, a line of JSON each.
"""

import importlib.util
import json
import sys

from ultralytics import YOLO


def main() -> None:
    """Train, or go on."""
    events, what, path, *project = sys.argv[1:]

    def tell(event, **more):
        with open(events, "a") as stream:
            stream.write(json.dumps({"event": event, **more}) + "\n")

    def begins(trainer):
        # An installation in place leaves a folder of this name without modules beside other packages.
        spec = importlib.util.find_spec("mlsync")
        tell("begins", epoch=trainer.start_epoch, sees_mlsync=spec is not None and spec.loader is not None)

    def saved(trainer):
        tell("saved", epoch=trainer.epoch)
        if trainer.epoch + 1 < trainer.epochs:
            sys.stdin.readline()

    model = YOLO("yolov8n.yaml" if what == "train" else path)
    model.add_callback("on_train_start", begins)
    model.add_callback("on_model_save", saved)
    if what == "resume":
        model.train(resume=True)
    else:
        model.train(
            data=path,
            project=project[0],
            name="train",
            epochs=3,
            imgsz=64,
            batch=4,
            nbs=4,
            workers=0,
            device="cpu",
            optimizer="AdamW",
            plots=False,
        )


if __name__ == "__main__":
    main()
