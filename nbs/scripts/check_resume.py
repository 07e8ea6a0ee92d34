"""Kill training at random moments with SIGKILL, resume it, and compare the final weights with those of an unbroken run, bit for bit.

    python nbs/scripts/check_resume.py                    ten kills, each in a run of its own, then ten kills in one run
    python nbs/scripts/check_resume.py --moments 2 --chain 0

The training has everything that a checkpoint could forget: two fits with a one-cycle each, dropout, batch norm, images that are
augmented at random, gradient accumulation, clipping, a moving average of the weights, best-model saving, and a table of results.
"""
import argparse
import json
import multiprocessing
import random
import sys
import tempfile
import time
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn

from petbook.all import isolated_randomness, random_stream
from petbook.all import EMA, Callback, Checkpoint, GradientAccumulation, GradientClip, SaveModel, Trainer, one_cycle


class Pictures(torch.utils.data.Dataset):
    "Noise with a hidden class, augmented from the global generator: the hardest case, for petbook's own data does not touch it."

    def __init__(self, count):
        self.x = torch.randn(count, 3, 16, 16, generator=random_stream(0, "x"))
        self.y = (self.x.mean((1, 2, 3)) > 0).long()

    def __len__(self): return len(self.y)

    def __getitem__(self, item): return self.x[item] + 0.1 * torch.randn(3, 16, 16) + 0.01 * random.random(), self.y[item]


class Data:
    def __init__(self, workers):
        loader = torch.utils.data.DataLoader
        self.train = loader(Pictures(480), batch_size=16, shuffle=True, num_workers=workers)
        self.valid = loader(Pictures(64), batch_size=32)


class Started(Callback):
    "Tells the parent that the first batch is done: what comes before it, imports for the most part, is not worth a kill."

    def __init__(self, event): self.event = event

    def after_batch(self, trainer): self.event.set()


def make_model():
    with isolated_randomness(0, "init"):
        return nn.Sequential(
            nn.Conv2d(3, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(), nn.Dropout2d(0.2),
            nn.Conv2d(16, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 2),
        )


def train(folder, workers, epochs, resume, started):
    "The whole program that a user would run again after a power cut."
    torch.set_num_threads(1)
    checkpoint = Checkpoint(every_batches=4, resume=resume)
    cbs = [checkpoint, GradientAccumulation(32), GradientClip(1.0), EMA(0.9), SaveModel(), Started(started)]
    trainer = Trainer(Data(workers), make_model(), F.cross_entropy, cbs=cbs, metrics="accuracy", path=folder)
    trainer.no_logging()
    trainer.fit(epochs, schedule=one_cycle(3e-3))
    trainer.fit(epochs, schedule=one_cycle(1e-2))
    rows = [{name: value for name, value in row.items() if name != "time"} for row in trainer.recorder.rows]
    started.set()  # a run that was finished before has no batch
    torch.save({"model": trainer.model.state_dict(), "rows": rows, "losses": trainer.recorder.losses}, folder / "final.pt")


def launch(context, *arguments):
    started = context.Event()
    process = context.Process(target=train, args=(*arguments, started))
    process.start()
    while process.is_alive() and not started.wait(0.1): pass
    return process


def same(one, other):
    "Are two results the same, to the bit?"
    first, second = (torch.load(folder / "final.pt", weights_only=True) for folder in (one, other))
    weights = all(torch.equal(first["model"][name], second["model"][name]) for name in first["model"])
    return weights and first["rows"] == second["rows"] and first["losses"] == second["losses"]


def finish(context, folder, options):
    process = launch(context, folder, options.workers, options.epochs, True)
    process.join()
    if process.exitcode: raise SystemExit(f"the resumed run failed with exit status {process.exitcode}")


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--moments", type=int, default=10, help="kills, each in a run of its own")
    parser.add_argument("--chain", type=int, default=10, help="kills in one run, one after the other")
    parser.add_argument("--workers", type=int, default=0, help="loader workers")
    parser.add_argument("--epochs", type=int, default=4, help="epochs in each of the two fits")
    parser.add_argument("--seed", type=int, default=0, help="seed of the moments")
    parser.add_argument("--out", type=Path, help="write a JSON file with the figures")
    options = parser.parse_args()
    context = multiprocessing.get_context("fork" if "fork" in multiprocessing.get_all_start_methods() else "spawn")
    moments = random.Random(options.seed)
    with tempfile.TemporaryDirectory() as base:
        base, found = Path(base), []
        whole = base / "whole"
        whole.mkdir()
        process, start = launch(context, whole, options.workers, options.epochs, False), time.perf_counter()
        process.join()
        duration = time.perf_counter() - start
        print(f"unbroken run: {duration:.1f} s")
        for number in range(options.moments):
            folder = base / f"killed {number}"
            folder.mkdir()
            process, moment = launch(context, folder, options.workers, options.epochs, False), moments.uniform(0, duration)
            time.sleep(moment)
            process.kill()
            process.join()
            had = (folder / "models" / "checkpoint.pt").exists()
            finish(context, folder, options)
            found.append(same(whole, folder))
            print(f"killed after {moment / duration:5.1%} of the run, {'resumed' if had else 'begun anew'}: {'identical' if found[-1] else 'DIFFERENT'}", flush=True)
        if options.chain:
            folder = base / "chain"
            folder.mkdir()
            for _ in range(options.chain):
                process = launch(context, folder, options.workers, options.epochs, True)
                time.sleep(moments.uniform(0, 2 * duration / options.chain))
                process.kill()
                process.join()
            finish(context, folder, options)
            found.append(same(whole, folder))
            print(f"killed {options.chain} times in one run: {'identical' if found[-1] else 'DIFFERENT'}")
            left = [file.name for file in (folder / "models").iterdir() if file.name.startswith(".checkpoint")]
            if left: raise SystemExit(f"half-written files were left behind: {left}")
    print(f"{sum(found)} of {len(found)} identical to the unbroken run, to the bit")
    if options.out:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        options.out.write_text(json.dumps({"kills_in_runs_of_their_own": options.moments, "kills_in_one_run": options.chain, "identical": sum(found), "compared": len(found), "torch": torch.__version__}, indent=1) + "\n")
    sys.exit(0 if all(found) else 1)


if __name__ == "__main__": main()
