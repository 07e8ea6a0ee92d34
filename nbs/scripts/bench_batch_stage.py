"""The batch stage side by side: petbook, fastai, torchvision v2 and kornia, time and quality, in one run.

    python nbs/scripts/bench_batch_stage.py --peer-python PATH   # a Python that has fastai==2.8.12 and kornia
    python nbs/scripts/bench_batch_stage.py                      # makes such an environment first (some GB, minutes)

Resamplings: how often an image is resampled on its way, counted by petbook's `count_resamplings` in every system's process.

Time: 64 pictures, 460 -> 224 pixels, aug_transforms(size=224, min_scale=.75) with normalisation, and what comes nearest to it in
the others. Every system runs in a process of its own; the rounds are interleaved, and the least and the median time are kept.

Quality: flip, warp, turn, zoom and crop together, with fixed numbers, 460 -> 224 and 460 -> 96, on drawn pets (and on the
photographs of --images, if that folder exists), against a supersampled ideal: 12 x 12 looks at the source for every pixel of the
result. Each system is compared with the ideal of its own geometry, which is measured by sending a picture of the coordinates
through it, so that half-pixel conventions play no part. Pixels near the edge, where paddings differ, are left out.
"""
import argparse
import json
import math
import os
import statistics
import subprocess
import sys
import tempfile
import time
import venv
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

from machine import describe_machine

HERE = Path(__file__).resolve().parent
SYSTEMS = ("petbook", "fastai", "torchvision", "torchvision, whole batch", "kornia")
CHAINS = ("petbook", "fastai", "torchvision", "kornia", "one sampling, no smoothing")
SIDE = 460
# flip, warp (x, y), degrees, zoom (factor, x, y), crop box (top, left, side)
SETTINGS = {
    "mild": (1, (0.05, -0.03), 4.0, (1.03, 0.5, 0.5), (15, 20, 420)),
    "usual": (0, (-0.10, 0.06), -7.0, (1.06, 0.4, 0.6), (25, 30, 405)),
    "strong": (1, (0.16, 0.10), 10.0, (1.10, 0.6, 0.4), (30, 25, 400)),
}


# ------------------------------------------------------------------ the systems: one process each

class Petbook:
    def __init__(self):
        from petbook.all import BatchStage, Normalize, aug_transforms, imagenet_stats

        self.stage = BatchStage([*aug_transforms(size=224, min_scale=0.75), Normalize.from_stats(*imagenet_stats)])

    def run(self, images, training, round):
        from petbook.all import random_stream

        return self.stage(images, [random_stream(42, "batch", round, number) for number in range(len(images))] if training else None)

    def chain(self, images, size, setting, steps=None):
        import petbook.all as augmentation

        flip, (warp_x, warp_y), degrees, (zoom, x, y), (top, left, side) = setting
        transforms = [augmentation.Flip(p=1, draw=flip), augmentation.Warp(p=1, draw_x=warp_x, draw_y=warp_y), augmentation.Rotate(p=1, draw=degrees),
                      augmentation.Zoom(p=1, draw=zoom, draw_x=x, draw_y=y), augmentation.RandomResizedCropGPU(size)]
        stage = augmentation.BatchStage(transforms)
        params = stage.make_params([torch.Generator()], *images.shape[-2:])
        box = {"top": top, "left": left, "height": side, "width": side}
        params[0][-1] = {name: torch.tensor([value], dtype=torch.float64) for name, value in box.items()}
        return stage.apply(images, params)


class Fastai:
    def __init__(self):
        from fastai.vision.all import IntToFloatTensor, Normalize, Pipeline, aug_transforms, imagenet_stats

        def pipeline(split):
            return Pipeline([IntToFloatTensor(), *aug_transforms(size=224, min_scale=0.75), Normalize.from_stats(*imagenet_stats, cuda=False)], split_idx=split)

        self.pipelines = {True: pipeline(0), False: pipeline(1)}

    def run(self, images, training, round):
        from fastai.vision.all import TensorImage

        return self.pipelines[training](TensorImage(images))

    def chain(self, images, size, setting):
        from fastai.vision import augment
        from fastai.vision.all import TensorImage

        flip, (warp_x, warp_y), degrees, (zoom, x, y), (top, left, side) = setting
        affine = augment.setup_aug_tfms([augment.Flip(p=1.0, draw=flip), augment.Warp(p=1.0, draw_x=warp_x, draw_y=warp_y), augment.Rotate(p=1.0, draw=degrees),
                                         augment.Zoom(p=1.0, draw=zoom, draw_x=x, draw_y=y)])[0]
        crop = augment.RandomResizedCropGPU(size, min_scale=0.75, ratio=(1, 1))

        def fixed_box(batch, split_idx): crop.do, crop.cp_size, crop.tl = True, (side, side), (top, left)

        crop.before_call = fixed_box
        return crop(affine(TensorImage(images), split_idx=0), split_idx=0).as_subclass(torch.Tensor)


class Torchvision:
    whole_batch = False

    def __init__(self):
        from torchvision.transforms import v2

        normal = [v2.ToDtype(torch.float32, scale=True), v2.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))]
        train = [v2.RandomHorizontalFlip(), v2.RandomPerspective(0.2, p=0.75), v2.RandomApply([v2.RandomRotation(10, v2.InterpolationMode.BILINEAR)], p=0.75),
                 v2.RandomApply([v2.RandomAffine(0, scale=(1, 1.1), interpolation=v2.InterpolationMode.BILINEAR)], p=0.75),
                 v2.RandomApply([v2.ColorJitter(brightness=0.2)], p=0.75), v2.RandomApply([v2.ColorJitter(contrast=0.2)], p=0.75),
                 v2.RandomResizedCrop(224, scale=(0.75, 1), ratio=(1, 1), antialias=True)]
        self.pipelines = {True: v2.Compose(train + normal), False: v2.Compose([v2.Resize((224, 224), antialias=True)] + normal)}

    def run(self, images, training, round):
        if self.whole_batch or not training: return self.pipelines[training](images)
        return torch.stack([self.pipelines[True](image) for image in images])

    def chain(self, images, size, setting):
        from torchvision.transforms.v2 import functional as V

        flip, warp, degrees, (zoom, x, y), (top, left, side) = setting
        if flip: images = V.horizontal_flip(images)
        corners = [[0, 0], [SIDE - 1, 0], [SIDE - 1, SIDE - 1], [0, SIDE - 1]]
        images = V.perspective(images, corners, tilted(warp), interpolation=V.InterpolationMode.BILINEAR)
        images = V.rotate(images, -degrees, interpolation=V.InterpolationMode.BILINEAR)
        images = V.affine(images, 0, [0, 0], zoom, [0, 0], interpolation=V.InterpolationMode.BILINEAR, center=[x * SIDE, y * SIDE])
        return V.resized_crop(images, top, left, side, side, [size, size], antialias=True)


class TorchvisionWholeBatch(Torchvision):
    whole_batch = True


class Kornia:
    def __init__(self):
        import kornia.augmentation as K

        mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
        self.train = K.AugmentationSequential(
            K.RandomHorizontalFlip(p=0.5), K.RandomPerspective(0.2, p=0.75), K.RandomAffine(10, scale=(1.0, 1.1), padding_mode="reflection", p=0.75),
            K.RandomBrightness((0.8, 1.2), p=0.75), K.RandomContrast((0.8, 1.2), p=0.75),
            K.RandomResizedCrop((224, 224), scale=(0.75, 1.0), ratio=(1.0, 1.0)), K.Normalize(mean, std))
        self.valid = K.AugmentationSequential(K.Resize((224, 224), antialias=True), K.Normalize(mean, std))

    def run(self, images, training, round): return (self.train if training else self.valid)(images.float().div_(255))

    def chain(self, images, size, setting):
        import kornia.geometry as G

        flip, warp, degrees, (zoom, x, y), (top, left, side) = setting
        count = len(images)
        if flip: images = G.hflip(images)
        corners = torch.tensor([[0, 0], [SIDE - 1, 0], [SIDE - 1, SIDE - 1], [0, SIDE - 1]], dtype=torch.float32)
        matrix = G.get_perspective_transform(corners[None], torch.tensor(tilted(warp), dtype=torch.float32)[None])
        images = G.warp_perspective(images, matrix.expand(count, 3, 3), (SIDE, SIDE), padding_mode="reflection")
        images = G.rotate(images, torch.full((count,), -degrees), padding_mode="reflection")
        centre = torch.tensor([[x * SIDE, y * SIDE]]).expand(count, 2)
        images = G.scale(images, torch.full((count, 2), zoom), centre, padding_mode="reflection")
        box = torch.tensor([[left, top], [left + side - 1, top], [left + side - 1, top + side - 1], [left, top + side - 1]], dtype=torch.float32)
        return G.crop_by_indices(images, box[None].expand(count, 4, 2), (size, size), interpolation="bilinear", align_corners=True)


class OneSampling(Petbook):
    "What composing alone gives: one bilinear sampling without anything against aliasing."

    def chain(self, images, size, setting):
        from petbook.augmentation import fused_step as augmentation

        plain = lambda shrink: (torch.ones(len(shrink), dtype=torch.long), torch.zeros(len(shrink), 2, dtype=torch.long))
        kept, augmentation.antialias_filter = augmentation.antialias_filter, plain
        try: return super().chain(images, size, setting)
        finally: augmentation.antialias_filter = kept


CLASSES = {"petbook": Petbook, "fastai": Fastai, "torchvision": Torchvision, "torchvision, whole batch": TorchvisionWholeBatch, "kornia": Kornia,
           "one sampling, no smoothing": OneSampling}


def tilted(warp):
    "Where `Warp` puts the four corners, in pixels, clockwise from the top left."
    x, y = warp
    places = [(-1 - y, -1 - x), (1 + y, -1 + x), (1 - y, 1 - x), (-1 + y, 1 + x)]
    return [[(u + 1) / 2 * (SIDE - 1), (v + 1) / 2 * (SIDE - 1)] for u, v in places]


def resamplings(system, images):
    "How often the system resamples an image on its way through the batch stage, and by which operations."
    sys.path.insert(0, str(HERE.parents[1]))  # the tool is petbook's, also where petbook is not installed
    from petbook.all import count_resamplings

    answer, names = {}, {}
    for kind, training in (("train", True), ("valid", False)):
        with count_resamplings() as seen: system.run(images, training, 0)
        answer[kind] = seen.per_image(len(images))
        names |= {f"{one.name} to {one.size[0]}": None for one in seen}
    return answer | {"seen": ", ".join(names)}


def work(name, folder):
    "Serve one system: lines of JSON in, lines of JSON out."
    torch.set_grad_enabled(False)
    torch.manual_seed(0)
    system = CLASSES[name]()
    images = torch.from_numpy(np.load(folder / "timing.npy"))
    versions = {"torch": torch.__version__, "threads": torch.get_num_threads()}
    print(json.dumps({"ready": versions}), flush=True)
    for line in sys.stdin:
        order = json.loads(line)
        if order["do"] == "time":
            started = time.perf_counter()
            result = system.run(images, order["training"], order["round"])
            answer = {"seconds": time.perf_counter() - started, "shape": list(result.shape), "finite": bool(torch.isfinite(result).all())}
            del result
        elif order["do"] == "count": answer = resamplings(system, images)
        else:
            torch.set_num_threads(1)  # not timed; and many small threads on a busy machine wait for each other
            pictures = torch.from_numpy(np.load(folder / "quality.npy")).float()
            ramp = torch.linspace(0, 1, SIDE)
            coordinates = torch.stack([ramp.expand(SIDE, SIDE), ramp[:, None].expand(SIDE, SIDE), torch.full((SIDE, SIDE), 0.5)])[None]
            for size in (224, 96):
                for setting, values in SETTINGS.items():
                    stem = f"{name.split(',')[0]}-{size}-{setting}"
                    chain = [system.chain(part, size, values) for part in (pictures / 255).split(8)]
                    np.save(folder / f"{stem}.npy", torch.cat(chain).numpy())
                    np.save(folder / f"{stem}-places.npy", system.chain(coordinates, size, values)[0].numpy())
            answer = {"done": True}
        print(json.dumps(answer), flush=True)


# ------------------------------------------------------------------ quality

def fit_homography(places, mask):
    "The 3x3 matrix (pixel of the result -> place in the source, in pixels) behind a picture of coordinates, by least squares."
    rows, columns = (places_of[::7] for places_of in np.nonzero(mask))
    x, y = places[0][rows, columns] * (SIDE - 1), places[1][rows, columns] * (SIDE - 1)
    u, v, one, zero = columns / mask.shape[1], rows / mask.shape[0], np.ones(len(rows)), np.zeros(len(rows))
    x, y = x / SIDE, y / SIDE
    equations = np.concatenate([np.stack([u, v, one, zero, zero, zero, -u * x, -v * x], 1), np.stack([zero, zero, zero, u, v, one, -u * y, -v * y], 1)])
    solution = np.linalg.lstsq(equations, np.concatenate([x, y]), rcond=None)[0]
    residual = np.abs(equations @ solution - np.concatenate([x, y])).max() * SIDE
    matrix = np.append(solution, 1).reshape(3, 3)
    return np.diag([SIDE, SIDE, 1]) @ matrix @ np.diag([1 / mask.shape[1], 1 / mask.shape[0], 1]), residual


def ideal(pictures, matrix, size, looks=12):
    "Every pixel as the mean of `looks` by `looks` bilinear looks at the source."
    matrix = torch.from_numpy(matrix)
    pixel = torch.arange(size, dtype=torch.float64)
    total = torch.zeros(*pictures.shape[:2], size, size)
    for dy in range(looks):
        for dx in range(looks):
            u, v = pixel + (dx + 0.5) / looks - 0.5, pixel + (dy + 0.5) / looks - 0.5
            point = torch.stack([u.expand(size, size), v[:, None].expand(size, size), torch.ones(size, size, dtype=torch.float64)], -1) @ matrix.T
            places = ((point[..., :2] / point[..., 2:] * 2 + 1) / SIDE - 1).float()
            total += F.grid_sample(pictures, places.expand(len(pictures), -1, -1, -1), padding_mode="border", align_corners=False)
    return total / looks**2


def inner(size, setting):
    "The pixels that no system fetches from near an edge, at any step of its chain."
    flip, (x, y), degrees, (zoom, centre_x, centre_y), (top, left, side) = setting
    u = ((torch.arange(size, dtype=torch.float64) + 0.5) / size * side + left) / SIDE * 2 - 1
    v = ((torch.arange(size, dtype=torch.float64) + 0.5) / size * side + top) / SIDE * 2 - 1
    point = torch.stack([u.expand(size, size), v[:, None].expand(size, size), torch.ones(size, size, dtype=torch.float64)], -1)
    angle, scale = math.radians(degrees), 1 / zoom
    quad = torch.tensor([[1 - y * y, -x * y, x], [-x * y, 1 - x * x, y], [x, y, 1]], dtype=torch.float64)
    steps = [[[scale, 0, (1 - scale) * (2 * centre_x - 1)], [0, scale, (1 - scale) * (2 * centre_y - 1)], [0, 0, 1]],
             [[math.cos(angle), math.sin(angle), 0], [-math.sin(angle), math.cos(angle), 0], [0, 0, 1]], torch.linalg.inv(quad)]
    good = torch.ones(size, size, dtype=torch.bool)
    for step in steps:
        point = point @ torch.as_tensor(step, dtype=torch.float64).T
        good &= ((point[..., :2] / point[..., 2:]).abs() < 0.95).all(-1)
    good[:6] = good[-6:] = good[:, :6] = good[:, -6:] = False
    return good


def psnr(first, second, mask):
    "Peak signal to noise, dB, for each picture, over the masked pixels."
    return -10 * torch.log10((first - second).square()[..., mask].mean((1, 2)))


def ssim(first, second, mask):
    "Structural similarity of the luminance (Wang et al. 2004: 11 x 11 Gaussian window, deviation 1.5) for each picture."
    window = torch.exp(-((torch.arange(11, dtype=torch.float64) - 5) ** 2) / (2 * 1.5**2))
    window = (window / window.sum()).float()
    blur = lambda image: F.conv2d(F.conv2d(image, window.view(1, 1, 11, 1), padding=(5, 0)), window.view(1, 1, 1, 11), padding=(0, 5))
    grey = torch.tensor([0.299, 0.587, 0.114]).view(1, 3, 1, 1)
    a, b = (first * grey).sum(1, keepdim=True), (second * grey).sum(1, keepdim=True)
    mean_a, mean_b = blur(a), blur(b)
    var_a, var_b, both = blur(a * a) - mean_a**2, blur(b * b) - mean_b**2, blur(a * b) - mean_a * mean_b
    index = (2 * mean_a * mean_b + 0.01**2) * (2 * both + 0.03**2) / ((mean_a**2 + mean_b**2 + 0.01**2) * (var_a + var_b + 0.03**2))
    return index[:, 0][:, mask].mean(1)


def judge(folder, kinds):
    "The quality of every system's pictures: PSNR and SSIM for each size and setting."
    torch.set_num_threads(1)
    pictures = torch.from_numpy(np.load(folder / "quality.npy")).float() / 255
    rows = []
    for size in (224, 96):
        for setting, values in SETTINGS.items():
            mask = inner(size, values)
            wanted = {}
            for name in CHAINS:
                stem = f"{name.split(',')[0]}-{size}-{setting}"
                got = torch.from_numpy(np.load(folder / f"{stem}.npy"))
                matrix, residual = fit_homography(np.load(folder / f"{stem}-places.npy"), mask.numpy())
                key = np.round(matrix, 3).tobytes()  # systems that share a geometry share its ideal
                if key not in wanted: wanted[key] = ideal(pictures, matrix, size)
                decibel, similar = psnr(got, wanted[key], mask), ssim(got, wanted[key], mask)
                row = {"system": name, "size": size, "setting": setting, "psnr": decibel.mean().item(), "ssim": similar.mean().item(),
                       "worst_psnr": decibel.min().item(), "geometry_residual_px": float(residual), "judged_share": mask.float().mean().item()}
                row |= {f"psnr_{kind}": decibel[[k == kind for k in kinds]].mean().item() for kind in sorted(set(kinds))}
                rows.append(row)
    return rows


# ------------------------------------------------------------------ the run

def make_pictures(folder, photographs):
    "The test pictures, presized to 460: drawn pets always, photographs if there are any."
    from petbook.all import BREEDS, draw_pet
    from petbook.all import ItemStage, Resize

    stage = ItemStage(Resize(SIDE))
    sources = [draw_pet(BREEDS[number * len(BREEDS) // 20], 1, size=600) for number in range(20)]
    kinds = ["drawn"] * len(sources)
    files = sorted(photographs.glob("*.jpg")) if photographs.is_dir() else []
    files = files[:: max(len(files) // 20, 1)][:20]
    sources, kinds = sources + files, kinds + ["photograph"] * len(files)
    tensors = torch.stack([stage(source) for source in sources])
    np.save(folder / "quality.npy", tensors.numpy())
    np.save(folder / "timing.npy", tensors[torch.arange(64) % len(tensors)].contiguous().numpy())
    return kinds


def peer_environment(folder):
    "A Python with fastai and kornia, in an environment of its own."
    folder = Path(folder)
    python = folder / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    if not python.exists():
        venv.create(folder, with_pip=True)
        subprocess.run([python, "-m", "pip", "install", "-q", "fastai==2.8.12", "kornia", "numpy"], check=True)
    return python


class Worker:
    def __init__(self, name, python, folder):
        command = [str(python), str(Path(__file__).resolve()), "--worker", name, "--folder", str(folder)]
        self.name, self.process = name, subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.ready = self.answer()["ready"]

    def answer(self):
        line = self.process.stdout.readline()
        if not line: raise RuntimeError(f"{self.name} ended without an answer")
        answer = json.loads(line)
        return answer

    def ask(self, **order):
        self.process.stdin.write(json.dumps(order) + "\n")
        self.process.stdin.flush()
        return self.answer()

    def close(self):
        self.process.stdin.close()
        self.process.wait()


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--peer-python", help="a Python with fastai 2.8.12 and kornia")
    parser.add_argument("--images", default=str(HERE.parents[2] / "shared" / "pets" / "images"), help="a folder of photographs, if you have one")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--no-quality", action="store_true", help="time only; keeps the quality figures of the last run")
    parser.add_argument("--out", default=str(HERE / "results" / "batch_stage.json"))
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    parser.add_argument("--folder", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.worker: return work(arguments.worker, Path(arguments.folder))
    peer = arguments.peer_python or peer_environment(Path.home() / ".cache" / "petbook" / "peers")
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        kinds = make_pictures(folder, Path(arguments.images))
        python = {"petbook": sys.executable, "one sampling, no smoothing": sys.executable}
        workers = {name: Worker(name, python.get(name, peer), folder) for name in SYSTEMS}
        times = {(name, training): [] for name in SYSTEMS for training in (True, False)}
        for turn in range(arguments.rounds + 1):
            for (name, training), taken in times.items():
                if not training and name == "torchvision, whole batch": continue
                answer = workers[name].ask(do="time", training=training, round=turn)
                assert answer["shape"] == [64, 3, 224, 224] and answer["finite"], (name, answer)
                if turn: taken.append(answer["seconds"] * 1000)  # the first turn warms up
        result = {"what": "64 pictures, 460 -> 224, milliseconds", "measured_on": describe_machine(),
                  "versions": {name: worker.ready for name, worker in workers.items()}, "time": {}, "quality": [], "pictures": {kind: kinds.count(kind) for kind in set(kinds)}}
        for (name, training), taken in times.items():
            if taken: result["time"].setdefault(name, {})["train" if training else "valid"] = {"min": min(taken), "median": statistics.median(taken)}
        for name in SYSTEMS: result["time"][name]["slower_than_petbook"] = {
            kind: result["time"][name][kind]["min"] / result["time"]["petbook"][kind]["min"] for kind in ("train", "valid") if kind in result["time"][name]}
        result["resamplings"] = {name: workers[name].ask(do="count") for name in SYSTEMS if name in CHAINS}
        if not arguments.no_quality:
            workers |= {name: Worker(name, python.get(name, peer), folder) for name in CHAINS if name not in workers}
            for name in CHAINS: workers[name].ask(do="quality")
            result["quality"] = judge(folder, kinds)
        elif Path(arguments.out).exists(): result["quality"] = json.loads(Path(arguments.out).read_text())["quality"]
        for worker in workers.values(): worker.close()
    report(result)
    Path(arguments.out).parent.mkdir(exist_ok=True)
    Path(arguments.out).write_text(json.dumps(result, indent=1) + "\n")


def report(result):
    print(f"{'64 x 460 -> 224, ms':28}{'train min':>10}{'median':>9}{'x petbook':>11}{'valid min':>11}{'x petbook':>11}")
    for name, row in result["time"].items():
        valid = f"{row['valid']['min']:11.0f}{row['slower_than_petbook']['valid']:11.1f}" if "valid" in row else ""
        print(f"{name:28}{row['train']['min']:10.0f}{row['train']['median']:9.0f}{row['slower_than_petbook']['train']:11.1f}{valid}")
    print("\nresamplings per image in the batch stage")
    for name, row in result["resamplings"].items(): print(f"{name:28}train {row['train']:.2f}   valid {row['valid']:.2f}   {row['seen']}")
    for size in (224, 96):
        print(f"\n460 -> {size}: PSNR (dB) and SSIM against the supersampled ideal")
        for name in CHAINS:
            rows = [row for row in result["quality"] if row["system"] == name and row["size"] == size]
            print(f"{name:28}" + "".join(f"{row['setting']:>9} {row['psnr']:5.1f} {row['ssim']:.4f}" for row in rows))


if __name__ == "__main__": main()
