"""Export a classifier of photographs to ONNX, in 32 and in 8 bits, and ask both graphs and petbook about every photograph.

    python nbs/scripts/check_onnx.py FOLDER        photographs named like Oxford-IIIT Pet's, beagle_12.jpg

The classifier is EfficientNet-Lite0 with a linear probe. A fifth of the photographs is kept out of it; with these the eight bits are
calibrated. Then all photographs are decoded and go through the graph, nothing else done to them, and the answers are compared with
petbook's own from the same files. Written to results/onnx.json.
"""
import argparse
import json
import tempfile
import time
from pathlib import Path

import onnxruntime
import torch

from machine import describe_machine

from petbook.all import (
    CategoryBlock, DataBlock, ImageBlock, RandomSplitter, RegexLabeller, Resize, aug_transforms, efficientnet_lite0, export_onnx,
    get_image_files, load_learner, using_attr, vision_learner)
from petbook.inference.onnx import as_array


def trained(photographs, file):
    "A model file, and the photographs that it has not learned from."
    block = DataBlock(blocks=(ImageBlock, CategoryBlock), get_items=get_image_files, splitter=RandomSplitter(seed=42),
                      get_y=using_attr(RegexLabeller(r"(.+)_\d+.jpg$"), "name"), item_tfms=Resize(460),
                      batch_tfms=aug_transforms(size=224, min_scale=0.75))
    dls = block.dataloaders(photographs, bs=16, num_workers=0)
    learn = vision_learner(dls, efficientnet_lite0, precision="fp32")
    learn.progress.bar = False
    learn.linear_probe()
    return learn.export(file), dls.valid.dataset.items


def ask(graphs, files, wanted):
    "Each graph's answers beside petbook's, and the time that one takes, alone on one thread."
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    sessions = [onnxruntime.InferenceSession(str(graph), options, providers=["CPUExecutionProvider"]) for graph in graphs]
    asked = [[] for _ in graphs]
    for file, answer in zip(files, wanted):
        pixels = as_array(file)
        for session, rows in zip(sessions, asked):  # by turns, so that what else the machine does slows both
            start = time.process_time()
            (found,) = session.run(None, {"images": pixels})
            seconds = time.process_time() - start
            rows.append((int(found[0].argmax() == answer.index), float(abs(found[0] - answer.probabilities.numpy()).max()), seconds))
    for graph, rows in zip(graphs, asked):
        same, differences, seconds = zip(*rows)
        yield {"megabytes": graph.stat().st_size / 1e6, "images": len(files), "same": sum(same), "largest": max(differences),
               "median": sorted(differences)[len(files) // 2], "milliseconds": 1000 * sorted(seconds)[len(files) // 2]}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("photographs", type=Path)
    args = parser.parse_args()
    if not args.photographs.is_dir(): raise SystemExit(f"not run: there is no folder {args.photographs}")
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        model, kept_out = trained(args.photographs, folder / "model.safetensors")
        predictor = load_learner(model, device="cpu", precision="fp32")
        files = sorted(get_image_files(args.photographs))
        wanted = [predictor.predict(file) for file in files]
        graphs = [export_onnx(predictor, folder / f"{int8}.onnx", images=kept_out, int8=int8) for int8 in (False, True)]
        for name, found in zip(("32 bits", "8 bits"), ask(graphs, files, wanted)):
            rows.append({"graph": name} | found)
            print(rows[-1], flush=True)
    kept = {"rows": rows, "network": "efficientnet_lite0 with a linear probe", "measured_on": describe_machine(),
            "versions": {"torch": torch.__version__, "onnxruntime": onnxruntime.__version__}}
    Path(__file__).with_name("results").joinpath("onnx.json").write_text(json.dumps(kept, indent=1) + "\n")


if __name__ == "__main__": main()
