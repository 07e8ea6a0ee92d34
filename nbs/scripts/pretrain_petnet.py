"""Train `petnet`, the small trunk that petbook carries, to tell imaginary breeds of pets apart.

    python nbs/scripts/pretrain_petnet.py                # draws the pictures, trains, writes petbook/weights/petnet.safetensors
    python nbs/scripts/pretrain_petnet.py --check-only   # how well do its features serve the 37 breeds it has never seen?

None of the 37 breeds of the book is drawn here. The same seed gives the same pictures and the same order of batches.
"""
import argparse
import json
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from functools import partial
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps
from safetensors import safe_open
from safetensors.torch import save_file
from torch.nn import functional as F
from tqdm.auto import tqdm

from petbook.all import petnet
from petbook.all import atomic_path, cache_folder, isolated_randomness, random_stream
from petbook.drawing.pets import DRAWING
from petbook.all import BREEDS, draw_pet, get_pets, imaginary_breed

ROOT = Path(__file__).resolve().parents[2]


def made_up(number, seed):
    "An imaginary breed in one coat."
    breed = imaginary_breed(number, seed)
    return replace(breed, coats=breed.coats[:1])


def draw_breed(number, folder, pictures, seed, side):
    "Draw one imaginary breed into one file, (pictures, side, side, 3) bytes, unless it is there."
    path = folder / f"{number}.npy"
    if path.exists(): return
    images = [ImageOps.fit(draw_pet(made_up(number, seed), i, seed, size=round(side * 1.2)), (side, side)) for i in range(pictures)]
    with atomic_path(path) as temporary: np.save(temporary, np.stack([np.asarray(image) for image in images]))


def draw_all(args):
    "Every imaginary breed as one tensor (breeds, pictures, 3, side, side), drawn once and kept."
    folder = cache_folder(f"imaginary-{DRAWING}-{args.seed}-{args.pictures}-{args.side}")
    draw = partial(draw_breed, folder=folder, pictures=args.pictures, seed=args.seed, side=args.side)
    with ProcessPoolExecutor(args.workers, mp_context=get_context("spawn")) as pool:
        list(tqdm(pool.map(draw, range(args.breeds)), total=args.breeds, desc="drawing", mininterval=10))
    return torch.from_numpy(np.stack([np.load(folder / f"{n}.npy") for n in range(args.breeds)])).permute(0, 1, 4, 2, 3)


def traits(breeds):
    "What the network has to name besides the breed: (breeds, traits) in [0, 1]; words are 0 or 1, numbers are scaled."
    table = []
    for breed in breeds:
        words = [breed.species, f"{breed.coats[0].split(',')[0]} coat", *breed.coats[0].replace(",", "").split()[1:]]
        words += [f"{breed.ears} ears", f"{breed.tail} tail", f"{breed.nose} nose", f"{breed.eyes[0]} eyes"]
        table.append({word: 1.0 for word in words} | {key: value for key, value in vars(breed).items() if isinstance(value, float)})
    values = torch.tensor([[row.get(name, 0.0) for name in sorted(set().union(*table))] for row in table])
    return (values - values.amin(0)) / (values.amax(0) - values.amin(0)).clamp(min=1e-6)


def augment(images, size, generator):
    "Crop, flip, turn and recolour each picture by itself; one sampling. (B, 3, H, W) bytes -> (B, 3, size, size) in about [-1, 1]."
    def uniform(low, high, *shape): return torch.rand(len(images), *shape, generator=generator) * (high - low) + low

    scale, aspect, turn = uniform(0.4, 1).sqrt(), uniform(-0.25, 0.25).exp(), uniform(-0.2, 0.2)
    half_width, half_height = (scale * aspect).clamp(max=1), (scale / aspect).clamp(max=1)
    flip = (uniform(0, 1) < 0.5) * 2.0 - 1
    theta = torch.stack([half_width * turn.cos() * flip, -half_height * turn.sin(), uniform(-1, 1) * (1 - half_width),
                         half_width * turn.sin() * flip, half_height * turn.cos(), uniform(-1, 1) * (1 - half_height)], 1).view(-1, 2, 3)
    grid = F.affine_grid(theta, (len(images), 3, size, size), align_corners=False)
    pictures = F.grid_sample(images.float() / 127.5 - 1, grid, padding_mode="reflection", align_corners=False)
    return pictures * uniform(0.75, 1.3, 3, 1, 1).mean(1, keepdim=True) * uniform(0.92, 1.08, 3, 1, 1) + uniform(-0.2, 0.2, 1, 1, 1)


def train(images, args):
    "One-cycle AdamW on breed and traits, pictures growing; returns the trunk and its accuracy on breeds' pictures held out."
    (breeds, pictures), named = images.shape[:2], traits([made_up(number, args.seed) for number in range(len(images))])
    held_out = max(1, pictures // 20)
    train_x, labels = images[:, held_out:].flatten(0, 1), torch.arange(breeds).repeat_interleave(pictures - held_out)
    with isolated_randomness(args.seed, "petnet"): trunk, head = petnet(args.start), torch.nn.Linear(512, breeds + named.shape[1])
    model = torch.nn.Sequential(trunk, torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten(), head).to(memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW(model.parameters(), weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, args.lr, total_steps=args.epochs * (len(labels) // args.batch), pct_start=0.2)
    for epoch in range(args.epochs):
        began, right, size = time.time(), 0, args.size - 16 * (3 - epoch * 4 // args.epochs)  # small pictures first: most of learning, less work
        order, generator = (torch.randperm(len(labels), generator=random_stream(args.seed, "order", epoch)), random_stream(args.seed, "augment", epoch))
        batches = order[: len(order) // args.batch * args.batch].split(args.batch)
        for rows in batches:
            x = augment(train_x[rows], size, generator).contiguous(memory_format=torch.channels_last)
            with torch.autocast("cpu", torch.bfloat16): logits = model(x).float()
            loss = F.cross_entropy(logits[:, :breeds], labels[rows], label_smoothing=0.1)
            loss = loss + 0.1 * F.binary_cross_entropy_with_logits(logits[:, breeds:], named[labels[rows]], reduction="none").sum(1).mean()
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            schedule.step()
            right += (logits[:, :breeds].argmax(1) == labels[rows]).float().mean().item() / len(batches)
        print(f"epoch {epoch}, {size} px: loss {loss.item():.3f}, right in training {right:.3f}, {time.time() - began:.0f} s", flush=True)
    guess = predict(model.eval(), images[:, :held_out].flatten(0, 1), args.size)[:, :breeds].argmax(1)
    return trunk, (guess == torch.arange(breeds).repeat_interleave(held_out)).float().mean().item()


def save(trunk, file, told):
    "Write the trunk's weights, whole or not at all, with a line on where they come from."
    state = {key: value.contiguous() for key, value in trunk.state_dict().items()}
    about = {"format": "pt", "arch": "MobileNetV1(width=0.5)", "trained_on": told, "input": "RGB, mean 0.5, std 0.5"}
    with atomic_path(file) as temporary: save_file(state, temporary, about)


@torch.no_grad()
def predict(model, images, size):
    "The model's output for pictures in bytes, without augmentation."
    batches = [F.interpolate(x.float() / 127.5 - 1, (size, size), mode="bilinear", antialias=True) for x in images.split(128)]
    return torch.cat([model(x.contiguous(memory_format=torch.channels_last)) for x in batches])


def check(trunk, folder, size):
    "Error of a linear probe on frozen pooled features of the 37 breeds: 5-fold, each fold has 4 of the 20 pictures of a breed."
    images = [ImageOps.fit(Image.open(folder / "images" / f"{breed}_{n}.jpg"), (size, size)) for breed in BREEDS for n in range(1, 21)]
    x, labels = torch.from_numpy(np.stack([np.asarray(image) for image in images])).permute(0, 3, 1, 2), torch.arange(37).repeat_interleave(20)
    features = predict(torch.nn.Sequential(trunk.eval(), torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten()), x, size).double()
    wrong = 0
    for part in range(5):
        inside = torch.arange(len(x)) % 5 != part
        z = F.pad((features - features[inside].mean(0)) / features[inside].std(0).clamp(min=1e-30), (0, 1), value=1.0)
        weight = torch.zeros(z.shape[1], 37, dtype=torch.double, requires_grad=True)
        solver = torch.optim.LBFGS([weight], max_iter=200, line_search_fn="strong_wolfe")

        def closure():
            solver.zero_grad()
            loss = F.cross_entropy(z[inside] @ weight, labels[inside]) + 3e-3 * weight.square().sum()
            loss.backward()
            return loss

        solver.step(closure)
        wrong += ((z[~inside] @ weight).argmax(1) != labels[~inside]).sum().item()
    return wrong / len(labels)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, value in dict(breeds=200, pictures=40, side=128, size=112, epochs=12, batch=64, seed=0, workers=2).items():
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("--lr", type=float, default=4e-3)
    parser.add_argument("--out", type=Path, default=ROOT / "petbook" / "weights" / "petnet.safetensors")
    parser.add_argument("--start", type=Path, help="weights to go on from, instead of random ones")
    parser.add_argument("--check-only", action="store_true")
    args = parser.parse_args()
    began, result = time.time(), {}
    if not args.check_only:
        trunk, score = train(draw_all(args), args)
        told = (f"{args.breeds} imaginary breeds, {args.pictures} drawn pictures each (drawing {DRAWING}), none of the 37 breeds of petbook; "
                f"breed and traits, up to {args.size} px, {args.epochs} epochs, seed {args.seed}")
        if args.start:
            with safe_open(args.start, "pt") as file: told += "; going on from: " + (file.metadata() or {}).get("trained_on", str(args.start))
        save(trunk, args.out, told)
        result = {"trained_on": told, "right_on_held_out_imaginary": round(score, 4), "minutes": round((time.time() - began) / 60, 1)}
    folder = get_pets("sketch")
    with isolated_randomness(args.seed, "petnet"): random_trunk = petnet(None)
    for name, trunk in {"petnet": petnet(args.out), "random": random_trunk}.items():
        result |= {f"probe_error_{name}_{size}": round(check(trunk, folder, size), 4) for size in (128, 224)}
    print(json.dumps(result, indent=1))
    file = ROOT / "nbs" / "scripts" / "results" / "petnet.json"
    if args.check_only and file.exists(): result = json.loads(file.read_text()) | result
    with atomic_path(file) as temporary: temporary.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__": main()
