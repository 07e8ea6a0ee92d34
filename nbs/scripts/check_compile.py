"""Train through `torch.compile`: is it the same training, and is it quicker?

    python nbs/scripts/check_compile.py              the checks, then the speed of petnet (some minutes, most of them compiling)
    python nbs/scripts/check_compile.py --only checks

checks  a small network with dropout: losses as without `compile` but for rounding; the same to the bit after `lr_find`, and
        after a run that was broken off and resumed from its checkpoint; then petnet, frozen and let go, with averaged weights,
        validated, asked, exported and loaded again.
speed   milliseconds per batch with and without, in turn, the least of each; and the seconds that compiling takes beforehand.
"""
import argparse
import json
import tempfile
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn

from machine import describe_machine
from bench_training import batches, seconds, trainer_for
from petbook.all import aug_transforms
from petbook.all import isolated_randomness, random_stream
from petbook.all import CategoryBlock, DataBlock, ImageBlock, RandomSplitter, RegexLabeller, get_image_files, using_attr
from petbook.all import freeze, unfreeze
from petbook.all import load_learner
from petbook.all import vision_learner
from petbook.all import get_pets
from petbook.all import Resize
from petbook.all import EMA, Callback, Checkpoint, Trainer, one_cycle

HERE = Path(__file__).resolve().parent


class Data:
    "Noise with a hidden class; its last batch is smaller."

    def __init__(self):
        x = torch.randn(104, 3, 16, 16, generator=random_stream(0, "x"))
        y = (x.mean((1, 2, 3)) > 0).long()
        pairs = list(zip(x.split(16), y.split(16)))
        self.train, self.valid, self.c = pairs[2:], pairs[:2], 2


class PowerCut(Callback):
    order = 2000

    def after_batch(self, trainer):
        if (trainer.epoch, trainer.batch) == (1, 3): raise SystemError("the power is gone")


def small(folder, compile, *cbs):
    with isolated_randomness(0, "init"):
        model = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.Dropout2d(0.1), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 2))
    trainer = Trainer(Data(), model, F.cross_entropy, lr=1e-2, precision="fp32", compile=compile, path=folder, cbs=[Checkpoint(every_batches=1, resume=True), EMA(0.9), *cbs])
    trainer.no_logging()
    return trainer


def check_small():
    from petbook.all import lr_find

    losses = {}
    for name in ("plain", "compiled", "after lr_find", "resumed"):
        with tempfile.TemporaryDirectory() as folder:
            trainer = small(folder, name != "plain", *([PowerCut()] if name == "resumed" else []))
            if name == "after lr_find": lr_find(trainer, num_it=12, show_plot=False)
            try: trainer.fit(3, schedule=one_cycle(1e-2))
            except SystemError:
                trainer = small(folder, True)
                trainer.fit(3, schedule=one_cycle(1e-2))
            losses[name] = trainer.recorder.losses
    difference = max(abs(one - other) for one, other in zip(losses["plain"], losses["compiled"]))
    print(f"small network: {len(losses['compiled'])} losses, at most {difference:.1e} from those without compile", flush=True)
    assert difference < 1e-5
    for name in ("after lr_find", "resumed"):
        assert losses[name] == losses["compiled"], name
        print(f"  {name}: identical to the bit", flush=True)
    return {"largest_difference_of_losses": difference, "identical_after_lr_find": True, "identical_when_resumed": True}


def check_petnet():
    def few(folder): return get_image_files(folder)[::18]  # 41 pictures: 33 to train, in batches of 11, and 8

    block = DataBlock(
        blocks=(ImageBlock, CategoryBlock), get_items=few, splitter=RandomSplitter(seed=42),
        get_y=using_attr(RegexLabeller(r"(.+)_\d+.jpg$"), "name"), item_tfms=Resize(110), batch_tfms=aug_transforms(size=96, min_scale=0.75),
    )
    dls = block.dataloaders(get_pets("sketch") / "images", bs=11, num_workers=0)
    learners = [vision_learner(dls, "petnet", metrics="error_rate", precision="fp32", compile=compile) for compile in (False, True)]
    for learn in learners:
        learn.no_logging()
        learn.fit_one_cycle(2, 1e-3, cbs=EMA())
        learn.unfreeze()
        learn.fit_one_cycle(2, slice(1e-5, 1e-3))
    plain, compiled = (learn.recorder.losses for learn in learners)
    difference = max(abs(one - other) / one for one, other in zip(plain, compiled))
    print(f"petnet, frozen and let go: losses differ by at most {difference:.1e} of their value; validation {learners[0].validate()} and {learners[1].validate()}", flush=True)
    assert difference < 1e-2
    with tempfile.TemporaryDirectory() as folder:
        picture = dls.valid.dataset.items[0]
        answer, loaded = learners[1].predict(picture)[2], load_learner(learners[1].export(Path(folder) / "model.safetensors")).predict(picture).probabilities
        assert torch.allclose(torch.as_tensor(answer), torch.as_tensor(loaded), atol=1e-5)
    print("  exported, loaded: the same answer", flush=True)
    counters = torch._dynamo.utils.counters["stats"]["unique_graphs"]
    print(f"  networks compiled in all: {counters}", flush=True)
    return {"petnet_largest_relative_difference": difference, "compiled_graphs": counters}


def speed(precision, frozen, rounds, count=6, size=96):
    data, times, first = batches(count, size), {}, {}
    trainers = {"plain": trainer_for("petnet", data, precision), "compiled": trainer_for("petnet", data, precision, compile=True)}
    for name, trainer in trainers.items():
        (freeze if frozen else unfreeze)(trainer)
        first[name], times[name] = seconds(trainer.fit, 1), []
    for number in range(rounds):
        for name in sorted(trainers, reverse=bool(number % 2)): times[name].append(seconds(trainers[name].fit, 1) * 1000 / count)
    plain, compiled = (min(times[name]) for name in ("plain", "compiled"))
    return {"network": f"petnet, {size} px, batch 32", "precision": trainers["plain"].precision, "body": "frozen" if frozen else "learning", "plain_ms": plain,
            "compiled_ms": compiled, "speedup": plain / compiled, "compiling_s": first["compiled"] - compiled * count / 1000}


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--only", nargs="+", choices=["checks", "speed"], default=["checks", "speed"])
    parser.add_argument("--rounds", type=int, default=8, help="rounds of the timing")
    parser.add_argument("--out", type=Path, default=HERE / "results" / "compile.json")
    options = parser.parse_args()
    found = json.loads(options.out.read_text()) if options.out.exists() else {}
    found["measured_on"] = describe_machine()
    if "checks" in options.only: found["checks"] = check_small() | check_petnet()
    if "speed" in options.only:
        found["rows"] = [speed(precision, frozen, options.rounds) for precision in ("fp32", "auto") for frozen in (True, False)]
        for row in found["rows"]:
            print("{network}, {precision}, body {body}: {plain_ms:.0f} ms per batch, compiled {compiled_ms:.0f} ms ({speedup:.2f} x), after {compiling_s:.0f} s of compiling".format(**row), flush=True)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__": main()
