"""By hand: what the suite's tolerance for the curve of an interrupted detector is worth.

Trains the detector of `tests/suites/curves.rs` without a break, with one (it goes on from the checkpoint of its second
epoch), and, as a control, with one after which the weights in the checkpoint are fresh ones. Says by how much of an
epoch's loss the parts of the loss are off from those without a break, and how far the weights at the end are from those
of the checkpoint. Run it in the environment of trainers/ultralytics: `curve_control.py [EPOCHS [PIXELS]]`.
"""

import pathlib
import shutil
import sys
import tempfile

import torch
from PIL import Image, ImageDraw
from ultralytics import YOLO
from ultralytics.nn.tasks import DetectionModel

EPOCHS, BREAK = int(sys.argv[1]) if len(sys.argv) > 1 else 4, 2
SIDE = int(sys.argv[2]) if len(sys.argv) > 2 else 640


def scene(root: pathlib.Path) -> pathlib.Path:
    """Twelve pictures with one object each, nine to train with; as the suite's."""
    for number in range(12):
        part = "val" if number in (2, 5, 9) else "train"
        left, top, width, height = 6 + number * 2, 30 - number * 2, 24, 20 + number % 3
        picture = Image.new("RGB", (64, 64), (90 + number, 100, 110))
        dark = number % 2 == 0
        box = (left, top, left + width, top + height)
        ImageDraw.Draw(picture).rectangle(box, fill=(10, 10, 10) if dark else (240, 240, 240))
        for kind in ("images", "labels"):
            (root / kind / part).mkdir(parents=True, exist_ok=True)
        picture.save(root / "images" / part / f"{number}.bmp")
        row = (0 if dark else 1, (left + width / 2) / 64, (top + height / 2) / 64, width / 64, height / 64)
        (root / "labels" / part / f"{number}.txt").write_text(" ".join(map(str, row)))
    data = root / "data.yaml"
    data.write_text(f"path: {root}\ntrain: images/train\nval: images/val\nnames: [dark, light]\n")
    return data


def train(model: YOLO, keep: pathlib.Path | None = None, **arguments) -> dict[int, dict[str, float]]:
    """The parts of the loss by epoch."""
    curve = {}

    def told(trainer):
        losses = {name: float(value) for name, value in trainer.label_loss_items(trainer.tloss).items()}
        curve[trainer.epoch + 1] = losses | {"loss": sum(losses.values())}

    def saved(trainer):
        if keep and trainer.epoch + 1 == BREAK:
            shutil.copy(trainer.last, keep)

    model.add_callback("on_train_epoch_end", told)
    model.add_callback("on_model_save", saved)
    model.train(**arguments)
    return curve


def weights(path: pathlib.Path) -> torch.Tensor:
    """All that it has learned."""
    checkpoint = torch.load(path, map_location="cpu", weights_only=False)
    model = checkpoint.get("ema") or checkpoint["model"]
    return torch.cat([value.float().flatten() for value in model.parameters()])


def freshen(path: pathlib.Path) -> None:
    """Its weights are those of a model that has seen nothing; all else is as it was."""
    checkpoint = torch.load(path, map_location="cpu", weights_only=False)
    torch.manual_seed(99)
    fresh = DetectionModel("yolo11n.yaml", nc=2, verbose=False)
    checkpoint["ema"].load_state_dict(fresh.half().state_dict())
    torch.save(checkpoint, path)


def main() -> None:
    root = pathlib.Path(tempfile.mkdtemp())
    data, kept = scene(root), root / "kept.pt"
    whole = train(
        YOLO("yolo11n.yaml"),
        keep=kept,
        data=str(data),
        epochs=EPOCHS,
        imgsz=SIDE,
        batch=3,
        lr0=0.01,
        device="cpu",
        workers=0,
        pretrained=False,
        amp=False,
        plots=False,
        project=str(root),
        name="whole",
        verbose=False,
    )
    end = root / "whole" / "weights" / "last.pt"
    ends = {"without a break": weights(end)}
    begun, curves = weights(kept), {}
    for name in ("with a break", "with fresh weights"):
        last = root / "whole" / "weights" / "last.pt"
        shutil.copy(kept, last)
        if name == "with fresh weights":
            freshen(last)
        curves[name] = train(YOLO(str(last)), resume=True)
        ends[name] = weights(last)
    for name, curve in curves.items():
        for epoch, losses in sorted(curve.items()):
            off = {part: abs(losses[part] - whole[epoch][part]) / whole[epoch]["loss"] for part in losses}
            words = ", ".join(f"{part} {share:.1%}" for part, share in off.items())
            print(f"{name}: epoch {epoch}: {words}")
    for name, end in ends.items():
        share = float((end - begun).norm() / begun.norm())
        print(f"{name}: at the end the weights are {share:.2%} of their length from the checkpoint's")


if __name__ == "__main__":
    main()
