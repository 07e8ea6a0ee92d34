"""Training side by side: petbook's Trainer, a bare torch loop, and fastai, in one run.

    python nbs/scripts/bench_training.py --peer-python PATH   # a Python that has fastai==2.8.12
    python nbs/scripts/bench_training.py                      # makes such an environment first (some GB, minutes)
    python nbs/scripts/bench_training.py --only overhead lr_find

overhead  Trainer.fit against a loop of the same torch calls (same precision, memory layout, optimizer), on batches in memory:
          a network of one layer, which shows the fixed cost per batch and nothing else, and two real ones.
lr_find   lr_find(num_it=100) against a fit of 100 batches without validation.
epochs    one epoch of resnet34 from files, 224 pixels, batch 32, everything else at each library's defaults (Resize(460),
          aug_transforms(size=224, min_scale=.75)), all layers learning and then with the body frozen.
Rounds are interleaved; the least time of each counts.
"""
import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
import venv
from pathlib import Path

from machine import describe_machine

HERE = Path(__file__).resolve().parent


def batches(count, size, classes=37):
    import torch

    generator = torch.Generator().manual_seed(0)
    make = lambda: torch.rand(32, 3, size, size, generator=generator).to(memory_format=torch.channels_last)
    return [(make(), torch.randint(classes, (32,), generator=generator)) for _ in range(count)]


class Memory:
    "Batches in memory, and no validation."
    seed = 42

    def __init__(self, train): self.train, self.valid = train, None


def trainer_for(arch, data, precision, compile=False):
    import torch
    import torch.nn.functional as F

    from petbook.all import create_vision_model, layer_groups
    from petbook.all import isolated_randomness
    from petbook.all import Trainer

    with isolated_randomness(0, "init"):
        if arch == "one layer": model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3 * 8 * 8, 37))
        else: model = create_vision_model(arch, 37, pretrained=False)
    trainer = Trainer(Memory(data), model, F.cross_entropy, precision=precision, splitter=None if arch == "one layer" else layer_groups, compile=compile, device="cpu")
    trainer.no_logging()
    return trainer


def bare_loop(trainer, data):
    "What one would write by hand, on the trainer's own model and optimizer."
    import torch
    import torch.nn.functional as F

    trainer.model.train()
    for x, y in data:
        with torch.autocast("cpu", torch.bfloat16, enabled=trainer.precision == "bf16"): logits = trainer.model(x)
        F.cross_entropy(logits.float(), y).backward()
        trainer.opt.step()
        trainer.opt.zero_grad()


def seconds(function, *arguments):
    start = time.perf_counter()
    function(*arguments)
    return time.perf_counter() - start


def overhead(arch, size, count, precision, rounds):
    "Interleaved times of the trainer and of the bare loop, in milliseconds per batch."
    data = batches(count, size)
    trainer = trainer_for(arch, data, precision)
    trainer.fit(1)
    bare_loop(trainer, data[:1])
    ours, theirs = [], []
    for number in range(rounds):
        pair = [(ours, trainer.fit, (1,)), (theirs, bare_loop, (trainer, data))]
        for times, function, arguments in pair if number % 2 else pair[::-1]: times.append(seconds(function, *arguments) * 1000 / count)
    return {"network": f"{arch}, {size} px, batch 32", "precision": trainer.precision, "bare_ms": min(theirs), "trainer_ms": min(ours), "ratio": min(ours) / min(theirs), "overhead_ms": min(ours) - min(theirs)}


def probe(arch, size, rounds, count=100):
    "lr_find against the same number of plain steps."
    from petbook.all import lr_find

    data = batches(10, size)
    trainer = trainer_for(arch, data, "auto")
    trainer.fit(1)
    find = lambda: lr_find(trainer, num_it=count, stop_div=False, end_lr=1e-3, show_plot=False)
    ours, plain = [], []
    for _ in range(rounds):
        ours.append(seconds(find))
        plain.append(seconds(trainer.fit, count // len(data)))
    return {"network": f"{arch}, {size} px, batch 32", "batches": count, "plain_s": min(plain), "lr_find_s": min(ours), "ratio": min(ours) / min(plain)}


def petbook_epochs(folder, precision):
    from functools import partial

    from petbook.all import aug_transforms, imagenet_stats
    from petbook.all import create_vision_model, layer_groups
    from petbook.all import CategoryBlock, DataBlock, ImageBlock, RandomSplitter, RegexLabeller, get_image_files, using_attr
    from petbook.all import fit_one_cycle, freeze
    from petbook.all import error_rate
    from petbook.all import Resize
    from petbook.all import Trainer

    block = DataBlock(
        blocks=(ImageBlock, CategoryBlock), get_items=get_image_files, splitter=RandomSplitter(seed=42),
        get_y=using_attr(RegexLabeller(r"(.+)_\d+.jpg$"), "name"), item_tfms=Resize(460), batch_tfms=aug_transforms(size=224, min_scale=0.75),
    )
    dls = block.dataloaders(folder, bs=32).normalized(*imagenet_stats)
    trainer = Trainer(dls, create_vision_model("resnet34", dls.c, pretrained=False), metrics=error_rate, splitter=layer_groups, precision=precision)
    trainer.no_logging()
    return partial(fit_one_cycle, trainer, 1, 1e-3), partial(freeze, trainer), {"precision": trainer.precision}


def fastai_epochs(folder, precision):
    import warnings

    warnings.simplefilter("ignore")
    from fastai.vision.all import CategoryBlock, DataBlock, ImageBlock, RandomSplitter, RegexLabeller, Resize
    from fastai.vision.all import aug_transforms, error_rate, get_image_files, resnet34, using_attr, vision_learner

    block = DataBlock(
        blocks=(ImageBlock, CategoryBlock), get_items=get_image_files, splitter=RandomSplitter(seed=42),
        get_y=using_attr(RegexLabeller(r"(.+)_\d+.jpg$"), "name"), item_tfms=Resize(460), batch_tfms=aug_transforms(size=224, min_scale=0.75),
    )
    learn = vision_learner(block.dataloaders(folder, bs=32), resnet34, pretrained=False, metrics=error_rate)
    for callback in list(learn.cbs):
        if type(callback).__name__ == "ProgressCallback": learn.remove_cb(callback)
    learn.logger = lambda *_: None
    return lambda: learn.fit_one_cycle(1, 1e-3), learn.freeze, {"precision": "fp32"}


def one_system(system, folder):
    "In a process of its own: warm up, then time a full epoch and a frozen one."
    name, _, precision = system.partition(" ")
    epoch, freeze, facts = {"petbook": petbook_epochs, "fastai": fastai_epochs}[name](Path(folder), precision or "auto")
    epoch()
    full = seconds(epoch)
    freeze()
    print("RESULT " + json.dumps({**facts, "full_s": full, "frozen_s": seconds(epoch)}))


def make_peer_python():
    "An environment with fastai, below petbook's cache folder."
    from petbook.all import cache_folder

    folder = cache_folder("peers")
    python = folder / ("Scripts" if os.name == "nt" else "bin") / "python"
    if not python.exists(): venv.create(folder, with_pip=True)
    subprocess.run([python, "-m", "pip", "install", "--quiet", "fastai==2.8.12"], check=True)
    return python


def epochs(peer, rounds, count):
    "Full and frozen epochs of each system, in interleaved processes, over `count` drawn pets."
    from petbook.all import get_pets

    systems, found = ["petbook auto", "petbook fp32", "fastai"], {}
    with tempfile.TemporaryDirectory() as folder:
        for file in sorted((get_pets("sketch") / "images").glob("*.jpg"))[:: max(740 // count, 1)][:count]: os.symlink(file.resolve(), Path(folder) / file.name)
        for _ in range(rounds):
            for system in systems:
                python = str(peer) if system == "fastai" else sys.executable
                run = subprocess.run([python, __file__, "--system", system, "--folder", folder], capture_output=True, text=True)
                lines = [line for line in run.stdout.splitlines() if line.startswith("RESULT ")]
                if not lines: raise SystemExit(f"{system} failed:\n{run.stderr[-3000:]}")
                result, best = json.loads(lines[-1][7:]), found.setdefault(system, {})
                for name, value in result.items(): best[name] = value if name == "precision" else min(value, best.get(name, value))
                print(f"  {system:13s} full {result['full_s']:.1f} s, frozen {result['frozen_s']:.1f} s", flush=True)
    for result in found.values(): result.update(full_speedup=found["fastai"]["full_s"] / result["full_s"], frozen_speedup=found["fastai"]["frozen_s"] / result["frozen_s"])
    return {"images": count, "systems": found}


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--peer-python", type=Path, help="a Python that has fastai 2.8.12")
    parser.add_argument("--only", nargs="+", choices=["overhead", "lr_find", "epochs"], default=["overhead", "lr_find", "epochs"])
    parser.add_argument("--rounds", type=int, default=2, help="rounds of the epochs")
    parser.add_argument("--images", type=int, default=160, help="drawn pets for the epochs (a multiple of 160 fills every batch of 32, for fastai drops a last one that is not full)")
    parser.add_argument("--out", type=Path, default=HERE / "results" / "training.json")
    parser.add_argument("--system", help=argparse.SUPPRESS)
    parser.add_argument("--folder", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.system: return one_system(options.system, options.folder)

    found = json.loads(options.out.read_text()) if options.out.exists() else {}
    found["measured_on"] = describe_machine()
    if "overhead" in options.only:
        cases = [("one layer", 8, 200, "fp32", 10), ("petnet", 96, 6, "fp32", 8), ("petnet", 96, 6, "auto", 8), ("resnet34", 224, 2, "auto", 4)]
        found["overhead"] = [overhead(*case) for case in cases]
        for case in found["overhead"]: print("overhead: {network}, {precision}: bare {bare_ms:.2f} ms, Trainer {trainer_ms:.1f} ms per batch (+{overhead_ms:.2f}), ratio {ratio:.4f}".format(**case), flush=True)
    if "lr_find" in options.only:
        found["lr_find"] = probe("petnet", 64, 3)
        print("lr_find: {network}: {batches} plain batches {plain_s:.2f} s, lr_find {lr_find_s:.2f} s, ratio {ratio:.3f}".format(**found["lr_find"]), flush=True)
    if "epochs" in options.only:
        found["epochs"] = epochs(options.peer_python or make_peer_python(), options.rounds, options.images)
        for system, result in found["epochs"]["systems"].items():
            print("{0:13s} ({precision}) full epoch {full_s:.1f} s = {full_speedup:.2f} x fastai; frozen {frozen_s:.1f} s = {frozen_speedup:.2f} x".format(system, **result))
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__": main()
