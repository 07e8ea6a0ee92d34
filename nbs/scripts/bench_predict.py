"""Time `Predictor.predict` on one photograph against the same work written by hand with PIL and torch.

    python nbs/scripts/bench_predict.py [--repeats 30] [--threads N]

Prints a table and writes nbs/scripts/results/predict.json. Both ways run in one process, turn by turn, in the same precision and memory
layout, on the same weights (random ones: time does not depend on them); the fastest of the repeats counts, because a busy machine only
ever adds time. By hand means: open, turn upright, RGB, resize the short side to 460, centre crop, shrink to 224 with antialiasing,
normalise, network, softmax, name.
"""

import argparse
import json
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps

from machine import describe_machine

from petbook.all import BatchStage, Normalize, aug_transforms
from petbook.all import create_vision_model
from petbook.all import Predictor
from petbook.all import BREEDS, draw_pet
from petbook.all import ItemStage, Resize

MEAN, STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]


def by_hand(file, model, vocab, precision):
    "One prediction without petbook."
    with torch.inference_mode():
        image = ImageOps.exif_transpose(Image.open(file)).convert("RGB")
        width, height = image.size
        side = min(width, height)
        left, top = (width - side) / 2, (height - side) / 2
        image = image.resize((460, 460), Image.Resampling.BILINEAR, box=(left, top, left + side, top + side))
        pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1)[None]
        batch = torch.nn.functional.interpolate(pixels.float() / 255, size=(224, 224), mode="bilinear", antialias=True)
        batch = (batch - torch.tensor(MEAN).view(1, 3, 1, 1)) / torch.tensor(STD).view(1, 3, 1, 1)
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"): logits = model(batch.contiguous(memory_format=torch.channels_last))
        probabilities = logits.float().softmax(1)[0]
        index = int(probabilities.argmax())
        return vocab[index], index, probabilities


def fastest(ways, repeats):
    "Milliseconds of each way: the fastest of its repeats, taken turn by turn."
    best = [float("inf")] * len(ways)
    for repeat in range(repeats + 2):
        for number, way in enumerate(ways):
            start = time.perf_counter()
            way()
            if repeat >= 2: best[number] = min(best[number], (time.perf_counter() - start) * 1e3)
    return best


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=30)
    parser.add_argument("--threads", type=int, default=None)
    given = parser.parse_args()
    if given.threads: torch.set_num_threads(given.threads)
    names = [breed if isinstance(breed, str) else breed.name for breed in BREEDS]
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        photo, large = Path(folder) / "500.jpg", Path(folder) / "12mp.jpg"
        drawn = draw_pet(names[0], 1, size=500)
        drawn.save(photo, quality=90)
        drawn.resize((4000, 3000) if drawn.width > drawn.height else (3000, 4000)).save(large, quality=90)
        stages = ItemStage([Resize(460)]), BatchStage([*aug_transforms(size=224, min_scale=0.75), Normalize(MEAN, STD)])
        for arch in ("petnet", "mobilenet_v1", "resnet34"):
            model = create_vision_model(arch, len(names), pretrained=False).eval().to(memory_format=torch.channels_last)
            for precision in ("fp32", "bf16"):
                predictor = Predictor(model, names, *stages, device="cpu", precision=precision)
                for what, file in (("500-pixel JPEG", photo), ("12-megapixel JPEG", large)):
                    if what != "500-pixel JPEG" and arch != "resnet34": continue
                    hand, petbook = fastest([lambda: by_hand(file, model, names, precision), lambda: predictor.predict(file)], given.repeats)
                    rows.append({"case": f"{arch}, {precision}, {what}", "hand_ms": round(hand, 2), "petbook_ms": round(petbook, 2), "ratio": round(petbook / hand, 3)})
                    print(f"{rows[-1]['case']:40} by hand {hand:7.1f} ms   petbook {petbook:7.1f} ms   ratio {petbook / hand:.2f}")
    results = {"rows": rows, "repeats": given.repeats, "threads": torch.get_num_threads(), "measured_on": describe_machine()}
    target = Path(__file__).parent / "results" / "predict.json"
    target.parent.mkdir(exist_ok=True)
    target.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__": main()
