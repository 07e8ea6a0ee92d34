"""How long from a cold process to the error that fastai reaches on few photographs, everything counted.

    python nbs/scripts/time_to_error.py FOLDER --peer-python PATH [--seeds 0 1 2]

FOLDER: photographs named like Oxford-IIIT Pet's; PATH: a Python with fastai 2.8.12 and timm. Both start from the same ImageNet weights of
EfficientNet-Lite0 and read the files anew. fastai trains with `fine_tune(6, 3e-3, freeze_epochs=2)`, batches of 32, and the time is that of
the whole process. petbook's processes do what its README says for own photographs, `fine_tune(head="auto")`, and `linear_probe()`, which is
the shortest way. The splits are RandomSplitter's of each library with the same seed, so they hold the same number of other photographs.
Seed by seed the three processes run one after the other. Written to results/time_to_error.json.
"""
import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from machine import describe_machine

HERE = Path(__file__).resolve().parent
PATTERN = r"(.+)_\d+.jpg$"


def petbook(folder, seed, way, weights):
    "The error of one way, as a user would call it."
    from petbook.all import (
        CategoryBlock, DataBlock, ImageBlock, RandomSplitter, RegexLabeller, Resize, aug_transforms, cnn_learner, efficientnet_lite0,
        error_rate, get_image_files, using_attr)

    block = DataBlock(blocks=(ImageBlock, CategoryBlock), get_items=get_image_files, splitter=RandomSplitter(seed=seed),
                      get_y=using_attr(RegexLabeller(PATTERN), "name"), item_tfms=Resize(460), batch_tfms=aug_transforms(size=224, min_scale=0.75))
    learn = cnn_learner(block.dataloaders(folder, bs=32), efficientnet_lite0, metrics=error_rate)
    learn.progress.bar = False
    learn.linear_probe() if way == "probe" else learn.fine_tune(6, 3e-3, head="auto")
    return float(learn.validate()[1])


def fastai(folder, seed, way, weights):
    "The error of fastai's algorithm in fastai."
    import warnings

    warnings.simplefilter("ignore")
    import torch
    from fastai.vision.all import (
        CategoryBlock, DataBlock, ImageBlock, Normalize, RandomSplitter, RegexLabeller, Resize, aug_transforms, error_rate, get_image_files,
        using_attr, vision_learner)

    block = DataBlock(blocks=(ImageBlock, CategoryBlock), get_items=get_image_files, splitter=RandomSplitter(seed=seed),
                      get_y=using_attr(RegexLabeller(PATTERN), "name"), item_tfms=Resize(460),
                      batch_tfms=[*aug_transforms(size=224, min_scale=0.75), Normalize.from_stats([0.5] * 3, [0.5] * 3)])
    learn = vision_learner(block.dataloaders(folder, bs=32), "tf_efficientnet_lite0", pretrained=False, metrics=error_rate)
    network, kept = learn.model[0].model, torch.load(weights, weights_only=True)
    state = network.state_dict()
    assert [tuple(tensor.shape) for tensor in state.values()] == [tuple(tensor.shape) for tensor in kept]
    network.load_state_dict(dict(zip(state, kept)))
    with learn.no_bar(), learn.no_logging(): learn.fine_tune(6, 3e-3, freeze_epochs=2)
    return float(learn.validate()[1])


def keep_weights(file):
    "The tensors of petbook's pretrained body, in the order of its network."
    import torch
    from petbook.all import create_body, efficientnet_lite0

    torch.save(list(create_body(efficientnet_lite0).state_dict().values()), file)


def cold(python, library, folder, seed, way, weights):
    "Error and seconds of a whole process."
    start = time.perf_counter()
    run = subprocess.run([python, "-W", "ignore", __file__, str(folder), "--do", library, way, str(seed), str(weights)], capture_output=True, text=True)
    seconds = time.perf_counter() - start
    lines = [line for line in run.stdout.splitlines() if line.startswith("RESULT ")]
    if not lines: raise SystemExit(f"{library} failed:\n{run.stderr[-3000:]}")
    return {"error": float(lines[-1][7:]), "seconds": round(seconds, 1)}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--peer-python")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--do", nargs=4, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.do:
        library, way, seed, weights = options.do
        print("RESULT", {"petbook": petbook, "fastai": fastai}[library](options.folder, int(seed), way, weights))
        return
    file = HERE / "results" / "time_to_error.json"
    found = json.loads(file.read_text()) if file.exists() else {"rows": []}
    with tempfile.TemporaryDirectory() as scratch:
        weights = Path(scratch, "weights.pt")
        keep_weights(weights)
        for seed in options.seeds:
            row = {"seed": seed} | {f"petbook, {way}": cold(sys.executable, "petbook", options.folder, seed, way, weights) for way in ("probe", "auto")}
            if options.peer_python: row["fastai"] = cold(options.peer_python, "fastai", options.folder, seed, "-", weights)
            print(row, flush=True)
            found["rows"] = [*(one for one in found["rows"] if one["seed"] != seed), row]
            found["measured_on"] = describe_machine()
            file.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__": main()
