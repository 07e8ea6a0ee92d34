"""Measure what sharing each batch between two processes changes: the error, and the time.

    python nbs/scripts/bench_distributed.py

fastai's fine-tuning (a new head with batch norm and dropout; an epoch frozen, three unfrozen) on the drawn pets, 96 px, batches
of 32, is run by one process and by two that torchrun starts, for twelve seeds. Norm layers learn from each process's own share,
so the two are not the same training; is one better? To see whether the shares are the reason, a third run has one process whose
norm layers look at each half of the batch by itself. The time is that of the fastest unfrozen epoch, with one thread for each
process (two for a single one) and as many workers in all. The table is printed and written to
nbs/scripts/results/distributed.json.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from machine import describe_machine

RUNS = {"one": 1, "two": 2, "halves": 1}  # name -> processes


def norms_on_halves(model):
    "Let batch-norm layers take each half of a batch by itself, and the mean of both for their running averages."
    from torch import cat, nn

    def on_halves(layer):
        def forward(x):
            if not layer.training: return type(layer).forward(layer, x)
            averages = [(layer.running_mean.clone(), layer.running_var.clone()) for _ in range(2)]
            parts = [nn.functional.batch_norm(half, *own, layer.weight, layer.bias, True, layer.momentum, layer.eps)
                     for half, own in zip((x[: len(x) // 2], x[len(x) // 2 :]), averages)]
            for average, (first, second) in zip((layer.running_mean, layer.running_var), zip(*averages)): average.copy_((first + second) / 2)
            return cat(parts)
        return forward

    for layer in model.modules():
        if isinstance(layer, nn.modules.batchnorm._BatchNorm): layer.forward = on_halves(layer)


def train_once(seed, file, halves):
    "Train, and let process 0 write the error and the seconds of the fastest unfrozen epoch."
    from petbook.all import (CategoryBlock, DataBlock, ImageBlock, RandomSplitter, RegexLabeller, Resize, aug_transforms, distrib_ctx, error_rate,
                             get_image_files, get_pets, petnet, rank_distrib, using_attr, vision_learner)
    from petbook.all import Callback

    class Clock(Callback):
        def before_fit(self, trainer): self.seconds = []

        def before_epoch(self, trainer): self.started = time.perf_counter()

        def after_epoch(self, trainer): self.seconds.append(time.perf_counter() - self.started)

    pets = DataBlock(blocks=(ImageBlock, CategoryBlock), get_items=get_image_files, splitter=RandomSplitter(seed=seed),
                     get_y=using_attr(RegexLabeller(r"(.+)_\d+.jpg$"), "name"), item_tfms=Resize(160), batch_tfms=aug_transforms(size=96, min_scale=0.75))
    dls = pets.dataloaders(get_pets("sketch") / "images", bs=32, device="cpu", seed=seed)
    learn, clock = vision_learner(dls, petnet, metrics=error_rate, seed=seed), Clock()
    if halves: norms_on_halves(learn.model)
    with distrib_ctx(learn), learn.no_logging(): learn.fine_tune(3, 3e-3, cbs=clock)
    if rank_distrib() == 0:
        Path(file).write_text(json.dumps({"error": learn.recorder.rows[-1]["error_rate"], "seconds": min(clock.seconds), "precision": learn.precision}))


def run(seed, name, scratch):
    "Train in processes of their own, and give what number 0 wrote."
    file, processes = Path(scratch) / "result.json", RUNS[name]
    command = [sys.executable] if processes == 1 else [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
    threads = str(max(1, os.cpu_count() // processes))
    subprocess.run([*command, __file__, "--train", str(seed), "--into", file, *(["--halves"] if name == "halves" else [])], check=True, env=os.environ | {"OMP_NUM_THREADS": threads})
    return json.loads(file.read_text())


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=12, help="how many trainings of each kind")
    parser.add_argument("--train", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--into", help=argparse.SUPPRESS)
    parser.add_argument("--halves", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.train is not None: return train_once(arguments.train, arguments.into, arguments.halves)

    from petbook.all import atomic_path
    from petbook.all import get_pets

    get_pets("sketch")
    rows = []
    with tempfile.TemporaryDirectory() as scratch:
        for seed in range(arguments.seeds):
            rows.append({"seed": seed} | {name: run(seed, name, scratch) for name in RUNS})
            print(f"seed {seed}:", ", ".join(f"{name} {rows[-1][name]['error']:.1%} wrong, {rows[-1][name]['seconds']:.2f} s an epoch" for name in RUNS), flush=True)
    gaps = {name: [row[name]["error"] - row["one"]["error"] for row in rows] for name in RUNS if name != "one"}
    result = {"measured_on": describe_machine(), "precision": rows[0]["one"]["precision"], "rows": rows,
              "error": {name: statistics.mean(row[name]["error"] for row in rows) for name in RUNS},
              "gap": {name: {"mean": statistics.mean(gap), "standard_error": statistics.stdev(gap) / len(gap) ** 0.5} for name, gap in gaps.items()},
              "epoch_seconds": {name: min(row[name]["seconds"] for row in rows) for name in RUNS}}
    print(json.dumps({key: value for key, value in result.items() if key != "rows"}, indent=1))
    with atomic_path(Path(__file__).parent / "results" / "distributed.json") as path: path.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__": main()
