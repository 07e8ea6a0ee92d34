"""Everything that a GPU can show of petbook, checked and timed in one run of six minutes at most.

    python nbs/scripts/check_gpu.py [--peer-python PATH]     PATH: a Python with fastai 2.8.12; without it nothing is compared
    python nbs/scripts/check_gpu.py --device cpu --small     as far as a processor goes: for trying the script

losses       the same training on the CPU and on the GPU, in fp32: the loss of each batch, side by side
precisions   the same in bf16 and, with CUDA, fp16: the course of the loss, and how long an epoch takes
layout       channels-last against PyTorch's own order: the same logits, and how long a step takes
pinned       batches from worker processes lie in pinned memory
waiting      no step of the batch stage waits for the GPU (`torch.cuda.set_sync_debug_mode`)
stage        the batch stage: 64 images, 460 to 224 pixels; beside fastai's
epoch        an epoch of resnet34 from files, all layers and frozen; beside fastai's
prediction   images per second of `predict_many`
processes    torchrun with one process, NCCL on a GPU: the same weights as without it
compiled     `compile=True`: the same losses but for rounding, and how long an epoch takes

A part that this machine cannot do is skipped with its reason. Results go to results/gpu.json, on the CPU to no file.
"""
import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
import traceback
from functools import cache
from pathlib import Path

import torch

from machine import describe_machine

from petbook.all import (
    BatchStage, CategoryBlock, DataBlock, ImageBlock, Normalize, RandomSplitter, RegexLabeller, Resize, aug_transforms, cnn_learner,
    get_image_files, get_pets, imagenet_stats, isolated_randomness, load_learner, petnet, random_stream, resnet34, using_attr)
from petbook.data.workers import fetch

HERE = Path(__file__).resolve().parent
BUDGET = 360  # seconds, all parts together
PARTS = {}


class Skip(Exception):
    "Why a part cannot be done here."


def part(function):
    "Keep a function as one part of the run, under its name."
    PARTS[function.__name__] = function
    return function


def wait(device):
    "Until the device has done what it was given."
    if device.type == "cuda": torch.cuda.synchronize(device)


def best(function, device, rounds):
    "The shortest of some rounds, in milliseconds, after two that do not count."
    times = []
    for number in range(rounds + 2):
        wait(device)
        start = time.perf_counter()
        function()
        wait(device)
        if number >= 2: times.append((time.perf_counter() - start) * 1e3)
    return {"min_ms": round(min(times), 2), "median_ms": round(statistics.median(times), 2)}


def loaders(world, size=96, bs=32, workers=0, **options):
    "Loaders of drawn pets."
    block = DataBlock(blocks=(ImageBlock, CategoryBlock), get_items=get_image_files, splitter=RandomSplitter(seed=42),
                      get_y=using_attr(RegexLabeller(r"(.+)_\d+.jpg$"), "name"), item_tfms=Resize(size * 3 // 2),
                      batch_tfms=aug_transforms(size=size, min_scale=0.75))
    return block.dataloaders(world.images, bs=bs, num_workers=workers, **options)


def learner(world, device, arch=petnet, size=96, workers=0, **options):
    "A learner that starts from the same weights on every device."
    with isolated_randomness(0, "check_gpu"):
        learn = cnn_learner(loaders(world, size, workers=workers, device=device), arch, pretrained=arch is petnet, seed=7, device=device, **options)
    learn.unfreeze()
    learn.no_logging()
    return learn


def trained(world, device, epochs=1, **options):
    "The losses of a training, and its seconds for an epoch, the first not counted."
    learn = learner(world, device, **options)
    learn.fit(1, 1e-4)
    wait(learn.device)
    start = time.perf_counter()
    learn.fit(epochs, 1e-4)
    wait(learn.device)
    return learn, learn.recorder.losses, (time.perf_counter() - start) / epochs


def farthest(losses, others):
    "The largest relative difference of two courses."
    return max(abs(a - b) / max(abs(a), 1e-6) for a, b in zip(losses, others, strict=True))


@part
def losses(world):
    if world.device.type == "cpu": raise Skip("there is no second device to compare with")
    _, wanted, _ = trained(world, torch.device("cpu"), precision="fp32")
    _, found, seconds = trained(world, world.device, precision="fp32")
    gap = farthest(wanted, found)
    assert gap < 0.02, f"the losses on the GPU are up to {gap:.1%} from those on the CPU"
    return {"batches": len(found), "largest_relative_difference": gap, "epoch_s": seconds}


@part
def precisions(world):
    rows, wanted = {}, None
    for precision in ("fp32", "bf16", *(["fp16"] if world.device.type == "cuda" else [])):
        learn, found, seconds = trained(world, world.device, precision=precision)
        assert learn.precision == precision and all(map(torch.isfinite, map(torch.tensor, found)))
        wanted = wanted or found
        rows[precision] = {"epoch_s": seconds, "last_loss": found[-1], "largest_relative_difference": farthest(wanted, found)}
        assert rows[precision]["largest_relative_difference"] < 0.1, rows
    return rows


@part
def layout(world):
    rows, logits = {}, []
    for name, channels_last in (("channels_last", True), ("torch's own", False)):
        learn = learner(world, world.device, precision="fp32", channels_last=channels_last)
        x, y, _ = learn.to_device(next(iter(learn.dls.valid.batches())))
        learn.model.eval()
        with torch.no_grad(): logits.append(learn.model(x))

        def step():
            learn.model.train()
            learn.loss_func(learn.model(x), y).backward()
            learn.model.zero_grad()

        rows[name] = best(step, world.device, world.rounds)
    gap = (logits[0] - logits[1]).abs().max().item()
    assert gap < 1e-2, f"the two layouts answer {gap} apart"
    return rows | {"largest_difference_of_logits": gap}


@part
def pinned(world):
    if world.device.type != "cuda": raise Skip("memory is pinned for a GPU only")
    dls = loaders(world, workers=2, device=world.device)
    seen = [batch.images.is_pinned() for batch in fetch(dls.train, dls.train.plan(0))]
    assert all(seen), f"{seen.count(False)} of {len(seen)} batches are not pinned"
    return {"batches": len(seen)}


def batch_stage(world):
    "The stage, and what it is given."
    stage = BatchStage([*aug_transforms(size=224, min_scale=0.75), Normalize.from_stats(*imagenet_stats)])
    count = 8 if world.small else 64
    images = torch.randint(0, 256, (count, 3, 460, 460), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)).to(world.device)
    return stage, images, [random_stream(42, "check_gpu", number) for number in range(count)]


@part
def waiting(world):
    if world.device.type != "cuda": raise Skip("only a GPU can be waited for")
    stage, images, streams = batch_stage(world)
    stage(images, streams)  # constants are made and sent once
    wait(world.device)
    torch.cuda.set_sync_debug_mode("error")
    try: stage(images, streams), stage(images)
    finally: torch.cuda.set_sync_debug_mode("default")
    return {"synchronisations": 0}


FASTAI_STAGE = """
import json, sys, time, torch
from fastai.vision.all import IntToFloatTensor, Normalize, TensorImage, aug_transforms, imagenet_stats
from fastcore.transform import Pipeline
images = torch.randint(0, 256, (64, 3, 460, 460), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)).to(sys.argv[1])
tfms = [IntToFloatTensor(), *aug_transforms(size=224, min_scale=.75), Normalize.from_stats(*imagenet_stats)]
found = {}
for name, split in (("train", 0), ("valid", 1)):
    pipe, times = Pipeline(tfms, split_idx=split), []
    for number in range(12):
        torch.cuda.synchronize()
        start = time.perf_counter()
        pipe(TensorImage(images))
        torch.cuda.synchronize()
        if number >= 2: times.append((time.perf_counter() - start) * 1e3)
    found[name] = min(times)
print("RESULT " + json.dumps(found))
"""


def asked(command):
    "What a process of a peer answers in its line RESULT."
    run = subprocess.run(command, capture_output=True, text=True, timeout=150)
    lines = [line for line in run.stdout.splitlines() if line.startswith("RESULT ")]
    if not lines: raise RuntimeError(f"the peer failed: {run.stderr[-500:]}")
    return json.loads(lines[-1][7:])


@part
def stage(world):
    stage, images, streams = batch_stage(world)
    rows = {"train": best(lambda: stage(images, streams), world.device, world.rounds), "valid": best(lambda: stage(images), world.device, world.rounds)}
    if world.peer and world.device.type == "cuda":
        rows["fastai_ms"] = asked([world.peer, "-W", "ignore", "-c", FASTAI_STAGE, "cuda"])
        rows["times_faster"] = {name: rows["fastai_ms"][name] / rows[name]["min_ms"] for name in ("train", "valid")}
    return rows


@part
def epoch(world):
    learn = learner(world, world.device, arch=resnet34, size=64 if world.small else 224, workers=0 if world.small else 8)

    def seconds():
        start = time.perf_counter()
        learn.fit(1, 1e-4)
        wait(world.device)
        return time.perf_counter() - start

    seconds()
    rows = {"precision": learn.precision, "images": len(learn.dls.train.dataset), "full_s": min(seconds(), seconds())}
    learn.freeze()
    rows["frozen_s"] = min(seconds(), seconds())
    if world.peer and world.device.type == "cuda":
        peer = asked([world.peer, "-W", "ignore", HERE / "bench_training.py", "--system", "fastai", "--folder", world.images])
        rows |= {"fastai": peer, "full_times_faster": peer["full_s"] / rows["full_s"], "frozen_times_faster": peer["frozen_s"] / rows["frozen_s"]}
    return rows


@part
def prediction(world):
    learn = learner(world, world.device)
    files = get_image_files(world.images)
    with tempfile.TemporaryDirectory() as folder:
        predictor = load_learner(learn.export(Path(folder, "model.safetensors")), device=world.device)
    predictor.predict_many(files[:64], progress=False)
    start = time.perf_counter()
    answers = predictor.predict_many(files, progress=False)
    seconds = time.perf_counter() - start
    same = sum(a.label == predictor.predict(file).label for a, file in zip(answers[:20], files))
    assert same == len(answers[:20]), f"{same} of 20 answers are those of predict"
    return {"images": len(files), "images_per_s": len(files) / seconds, "precision": learn.precision}


@part
def processes(world):
    with tempfile.TemporaryDirectory() as folder:
        files = [Path(folder, name) for name in ("alone.pt", "torchrun.pt")]
        commands = [sys.executable], [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "1"]
        for file, command in zip(files, commands):
            subprocess.run([*command, __file__, "--device", str(world.device), "--train-into", file, *(["--small"] if world.small else [])],
                           check=True, capture_output=True, timeout=120)
        alone, shared = (torch.load(file, weights_only=True) for file in files)
    gap = max((alone["weights"][name].float() - weight.float()).abs().max().item() for name, weight in shared["weights"].items())
    assert gap < 1e-3, f"weights are up to {gap} apart"
    return {"backend": shared["backend"], "largest_difference_of_weights": gap}


@part
def compiled(world):
    if world.device.type == "cpu": raise Skip("check_compile.py does this on a processor; compiling takes minutes there")
    rows, courses = {}, []
    for name, compile in (("plain", False), ("compiled", True)):
        start = time.perf_counter()
        _, found, seconds = trained(world, world.device, precision="fp32", compile=compile)
        rows[name] = {"epoch_s": seconds, "with_the_first_s": time.perf_counter() - start}
        courses.append(found)
    gap = farthest(*courses)
    assert gap < 0.02, f"compiled, the losses are up to {gap:.1%} away"
    return rows | {"largest_relative_difference": gap}


def train_into(world, file):
    "One epoch, shared by the processes that torchrun started, and its weights."
    from petbook.all import distrib_ctx

    learn = learner(world, world.device, precision="fp32")
    with distrib_ctx(learn):
        backend = torch.distributed.get_backend() if torch.distributed.is_initialized() else "none"
        learn.fit(1, 1e-4)
    torch.save({"weights": {name: tensor.cpu() for name, tensor in learn.model.state_dict().items()}, "backend": backend}, file)


class World:
    "What the parts share."

    def __init__(self, options):
        self.device, self.small, self.peer = torch.device(options.device), options.small, options.peer_python
        self.rounds = 3 if options.small else 10

    @property
    @cache
    def images(self):
        "A folder of drawn pets; a small one holds 64 of five breeds."
        folder = get_pets("sketch") / "images"
        if not self.small: return folder
        few = Path(tempfile.mkdtemp(prefix="check_gpu-"))
        for file in sorted(folder.glob("*.jpg"))[:100]: (few / file.name).symlink_to(file.resolve())
        return few


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda", help="cuda, or cpu to try the script")
    parser.add_argument("--small", action="store_true", help="100 images and few rounds")
    parser.add_argument("--peer-python", help="a Python that has fastai 2.8.12")
    parser.add_argument("--only", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--train-into", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.device == "cuda" and not torch.cuda.is_available(): parser.error("there is no GPU that torch can use here; --device cpu --small tries the script")
    world = World(options)
    if options.train_into: return train_into(world, options.train_into)
    found, started = {"measured_on": describe_machine()}, time.perf_counter()
    for name in options.only:
        begin = time.perf_counter()
        try:
            if begin - started > BUDGET: raise Skip(f"the {BUDGET} seconds of this script were over")
            found[name] = PARTS[name](world) | {"seconds": round(time.perf_counter() - begin, 1)}
        except Skip as why: found[name] = {"skipped": str(why)}
        except Exception as error:
            traceback.print_exc()
            found[name] = {"failed": f"{type(error).__name__}: {error}"[:300]}
        print(name, json.dumps(found[name]), flush=True)
        if world.device.type == "cuda": (HERE / "results" / "gpu.json").write_text(json.dumps(found, indent=1) + "\n")
    failed = [name for name in options.only if "failed" in found[name]]
    print(f"{len(options.only) - len(failed)} of {len(options.only)} parts hold, {time.perf_counter() - started:.0f} s")
    return int(bool(failed))


if __name__ == "__main__": sys.exit(main())
