"""How petbook's cost grows with the number of images, their size, the classes, the batch and the workers, and two comparisons that no
other script makes: the batch stage with its own parts by hand, and `predict_many` with onnxruntime.

    python nbs/scripts/bench_growth.py [--only images size classes batch workers hand onnx] [--rounds 3] [--seconds 50] [--quick]

images    finding, labelling and splitting a folder; one frozen pass and a linear probe; one epoch of everything (petnet, 112 pixels)
size      a step of training and an answer, per image, at 64 to 320 pixels (petnet and efficientnet_lite0)
classes   a linear probe of 740 images with 1024 features each, and judging 2000 answers, for 2 to 1000 classes
batch     a step of training and an answer, per image, in batches of 2 to 128 (petnet, 112 pixels)
workers   images per second of a whole training loader, 460 to 224 pixels, with 0 to 4 workers: from the files, into a memory cache (a first
          epoch, whose workers are new and whose cache is empty), and out of it (every later epoch)
hand      64 images, 460 to 224: the batch stage, and the same sampling, light and normalisation written by hand for the same numbers
onnx      answers for 64 images in memory, beside onnxruntime with as many threads (needs the extra `onnx`)

Rounds go round all cases, and the fastest counts. A part begins no round that would take it over `--seconds`, so that images, size,
classes and workers are measured in about four minutes together; at least one round is measured. Written to results/growth.json;
`--quick` is a try at small sizes and writes nothing.
"""
import argparse
import json
import os
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch
import torch.nn.functional as F

from machine import describe_machine

from petbook.all import (
    BatchStage, CategoryBlock, DataBlock, FusedStep, ImageBlock, ItemStage, Normalize, Predictor, RandomSplitter, RegexLabeller, Resize,
    Trainer, aug_transforms, create_vision_model, get_image_files, get_pets, image_to_tensor, isolated_randomness, layer_groups, freeze,
    linear_probe, open_image, random_stream, using_attr)
from petbook.interpretation.confusion import PredictionSet, most_confused
from petbook.interpretation.scores import class_scores
from petbook.losses.metrics import confusion_counts
from petbook.models.logistic import solve_probe

FILE = Path(__file__).parent / "results" / "growth.json"
MEAN, STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]


def seconds(function):
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


def fastest(cases, rounds, scale=1.0, budget=float("inf")):
    """The least time of each case: {name: function}. The cases take turns, and a first round warms up; it counts, and no other is begun,
    where another would take the whole over `budget` seconds."""
    best, left = {}, budget
    for turn in range(rounds + 1):
        taken = {name: seconds(function) for name, function in cases.items()}
        best = {name: min(value, best[name]) if turn > 1 else value for name, value in taken.items()}
        left -= sum(taken.values())
        if left < sum(taken.values()): break
    return {name: value * scale for name, value in best.items()}


def block(resize, size):
    "The chapter's recipe."
    return DataBlock(blocks=(ImageBlock, CategoryBlock), get_items=get_image_files, splitter=RandomSplitter(seed=42),
                     get_y=using_attr(RegexLabeller(r"(.+)_\d+.jpg$"), "name"), item_tfms=Resize(resize),
                     batch_tfms=aug_transforms(size=size, min_scale=0.75))


def quiet_trainer(dls, arch, classes, **settings):
    with isolated_randomness(0, "init"): model = create_vision_model(arch, classes, pretrained=False)
    trainer = Trainer(dls, model, F.cross_entropy, splitter=layer_groups, **settings)
    trainer.no_logging()
    return trainer


def linked(files, folder):
    "A folder that holds links to these files."
    folder.mkdir(parents=True)
    for file in files: os.symlink(file.resolve(), folder / file.name)
    return folder


def images(options):
    "Seconds for 1/8, 1/4, 1/2 and all of the 740 drawn pets."
    counts, rows = ([37, 74] if options.quick else [92, 185, 370, 740]), []
    files = sorted(get_image_files(get_pets("sketch")))
    cases, made = {}, {}
    with tempfile.TemporaryDirectory() as scratch:
        for count in counts:
            folder = linked(files[:: max(len(files) // count, 1)][:count], Path(scratch) / str(count))
            dls = block(180, 112).dataloaders(folder, bs=32, num_workers=0)
            trainer = quiet_trainer(dls, "petnet", dls.c)
            freeze(trainer)
            learning = quiet_trainer(dls, "petnet", dls.c)
            made[count] = trainer
            cases[count, "find, label and split"] = lambda folder=folder: block(180, 112).datasets(folder)
            cases[count, "a linear probe"] = lambda trainer=trainer: linear_probe(trainer, [0.03])
            cases[count, "a frozen epoch"] = lambda trainer=trainer: trainer.fit(1)
            cases[count, "an epoch of everything"] = lambda learning=learning: learning.fit(1)
        for (count, what), taken in fastest(cases, options.rounds, 1, options.seconds).items(): rows.append({"images": count, "what": what, "seconds": taken})
    return rows


class Memory:
    "A batch in memory, again and again, and no validation."
    seed = 42

    def __init__(self, bs, size, classes, count=1):
        generator = torch.Generator().manual_seed(0)
        x = torch.rand(bs, 3, size, size, generator=generator).to(memory_format=torch.channels_last)
        self.train, self.valid = [(x, torch.randint(classes, (bs,), generator=generator))] * count, None


def steps(arch, bs, size, count=2):
    "A training step and an answer as two functions of no arguments, for `count` batches."
    data = Memory(bs, size, 37, count)
    trainer = quiet_trainer(data, arch, 37)
    x = data.train[0][0]

    def answer():
        with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16, enabled=trainer.precision == "bf16"):
            trainer.model.eval()
            for _ in range(count): trainer.model(x)

    return lambda: trainer.fit(1), answer


def size(options):
    "Milliseconds an image, in batches of 16."
    sizes = [64, 96] if options.quick else [64, 96, 128, 160, 224, 320]
    cases = {}
    for arch in ("petnet", "efficientnet_lite0"):
        for side in sizes:
            cases[arch, side, "training"], cases[arch, side, "answering"] = steps(arch, 16, side)
    taken = fastest(cases, options.rounds, 1000 / (16 * 2), options.seconds)
    return [{"network": arch, "pixels": side, "what": what, "ms": ms} for (arch, side, what), ms in taken.items()]


def batch(options):
    "Milliseconds an image."
    sizes = [2, 8] if options.quick else [2, 4, 8, 16, 32, 64, 128]  # norm layers cannot learn from one image
    cases = {}
    for bs in sizes: cases[bs, "training"], cases[bs, "answering"] = steps("petnet", bs, 112, max(1, 64 // bs))
    taken = fastest(cases, options.rounds, 1000)
    return [{"batch": bs, "what": what, "ms": ms / (bs * max(1, 64 // bs))} for (bs, what), ms in taken.items()]


def classes(options):
    "Seconds; the features are random, in as many heaps as there are classes."
    counts, cases = ([2, 10] if options.quick else [2, 10, 37, 100, 300, 1000]), {}
    for count in counts:
        generator = torch.Generator().manual_seed(0)
        n = max(740, 4 * count)
        y = torch.arange(n) % count
        features = torch.randn(count, 1024, generator=generator)[y] + 2 * torch.randn(n, 1024, generator=generator)
        logits = 3 * F.one_hot(torch.arange(2000) % count, count) + torch.randn(2000, count, generator=generator)
        answers = PredictionSet(logits.softmax(1), torch.arange(2000) % count, vocab=[f"class {number}" for number in range(count)])

        def judge(answers=answers, count=count):
            matrix = confusion_counts(answers.targets, answers.predictions, count)
            class_scores(matrix, answers.vocab, 0.95)
            most_confused(matrix, answers.vocab)

        cases[count, "a linear probe"] = lambda f=features, y=y, count=count: solve_probe(f, y, count, [0.03])
        cases[count, "judging 2000 answers"] = judge
    taken = fastest(cases, options.rounds, 1, options.seconds)
    return [{"classes": count, "what": what, "seconds": value} for (count, what), value in taken.items()]


def workers(options):
    "Images per second of a pass over 592 training images."
    folder, cases = get_pets("sketch"), {}

    def loader(number, cache): return block(460, 224).dataloaders(folder, bs=32, num_workers=number, cache=cache, device="cpu").train

    def read(train): return sum(len(y) for _, y in train)

    for number in [0, 1] if options.quick else [0, 1, 2, 4]:
        files, memory = loader(number, None), loader(number, "memory")
        for train in (files, memory): read(train)  # workers start, and the cache is filled
        cases[number, "none"] = lambda train=files: read(train)
        cases[number, "memory, first epoch"] = lambda number=number: read(loader(number, "memory"))
        cases[number, "memory"] = lambda train=memory: read(train)
    taken, count = fastest(cases, options.rounds, 1, options.seconds), len(files.dataset)
    return [{"workers": number, "cache": cache, "images_per_s": count / value} for (number, cache), value in taken.items()]


def by_hand(pixels, plan, pool, out):
    "What the fused step computes, written out: smoothing, one sampling, light in logits, normalisation; one image a thread."
    scale, shift = (torch.tensor(value).view(3, 1, 1) for value in (plan.scale, plan.shift))
    height, width = plan.size
    u, v = ((torch.arange(side) + 0.5) * (2 / side) - 1 for side in (width, height))
    place = torch.stack([u.expand(height, width), v[:, None].expand(height, width), torch.ones(height, width)])

    def act(number):
        image, gain = pixels[number].to(torch.int16), 255.0
        for weight, axis in zip(plan.weights[number].tolist(), (1, 2)):
            if not weight: continue
            padded = F.pad(image[None].float(), (1, 1, 0, 0) if axis == 2 else (0, 0, 1, 1), mode="replicate")[0].to(torch.int16)
            image = padded.narrow(axis, 0, image.shape[axis]) + padded.narrow(axis, 2, image.shape[axis]) + weight * image
            gain *= weight + 2
        seen = torch.einsum("ij,jhw->ihw", plan.matrix[number], place)
        grid = (seen[:2] / seen[2:]).permute(1, 2, 0)[None]
        image = F.grid_sample(image.float()[None], grid, mode="bilinear", padding_mode="reflection", align_corners=False)[0] / gain
        image = torch.logit(image.clamp_(1e-3, 1 - 1e-3))
        image = torch.einsum("ij,jhw->ihw", plan.colour[number], image) + plan.offset[number].view(3, 1, 1)
        torch.addcmul(shift, image.sigmoid_(), scale, out=out[number])

    list(pool.map(act, range(len(pixels))))
    return out


def hand(options):
    "Milliseconds for a batch of 64, in training and in validation."
    count = 8 if options.quick else 64
    stage = ItemStage([Resize(460)])
    files = sorted(get_image_files(get_pets("sketch")))[::11][:count]
    pixels = torch.stack([image_to_tensor(stage(file)) if not isinstance(stage(file), torch.Tensor) else stage(file) for file in files])
    tfms = [*aug_transforms(size=224, min_scale=0.75), Normalize(MEAN, STD)]
    training, fused = BatchStage(tfms), FusedStep(sorted(tfms, key=lambda tfm: tfm.rank))
    threads = torch.get_num_threads()
    streams = [[random_stream(number) for number in range(count)], [None]]
    cases, rows = {}, []
    with ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(1,)) as pool:
        for kind, own in zip(("training", "validation"), streams):
            plan = fused.plan(pixels, fused.make_params(own, 460, 460))
            out = torch.empty(count, 3, *plan.size)
            fresh = (lambda: [random_stream(number) for number in range(count)]) if own[0] else (lambda: None)
            cases[kind, "petbook"] = lambda fresh=fresh: training(pixels, fresh())
            cases[kind, "by hand"] = lambda plan=plan, out=out: by_hand(pixels, plan, pool, out)
        taken = fastest(cases, 5 * options.rounds, 1000)
    for (kind, how), ms in taken.items(): rows.append({"kind": kind, "how": how, "ms": ms})
    return rows


def onnx(options):
    "Milliseconds an image: 64 opened images, one after the other and as many threads on both sides."
    import onnxruntime

    from petbook.all import export_onnx
    from petbook.inference.onnx import as_array

    count, rows = (4 if options.quick else 64), []
    files = sorted(get_image_files(get_pets("sketch")))[::11][:count]
    opened = [open_image(file) for file in files]
    stages = ItemStage([Resize(460)]), BatchStage([*aug_transforms(size=224, min_scale=0.75), Normalize(MEAN, STD)])
    settings = onnxruntime.SessionOptions()
    settings.intra_op_num_threads = torch.get_num_threads()
    cases = {}
    with tempfile.TemporaryDirectory() as folder:
        for arch in ("petnet", "efficientnet_lite0"):
            with isolated_randomness(0, "init"): model = create_vision_model(arch, 37, pretrained=False).eval()
            model = model.to(memory_format=torch.channels_last)
            fp32 = Predictor(model, [f"class {number}" for number in range(37)], *stages, device="cpu", precision="fp32")
            auto = Predictor(model, [f"class {number}" for number in range(37)], *stages, device="cpu", precision="auto")
            graph = export_onnx(fp32, Path(folder) / f"{arch}.onnx")
            session = onnxruntime.InferenceSession(str(graph), settings, providers=["CPUExecutionProvider"])

            def all_graph(session=session):
                for image in opened: session.run(None, {"images": as_array(image)})

            cases[arch, "onnxruntime"] = all_graph
            cases[arch, "predict_many, fp32"] = lambda fp32=fp32: fp32.predict_many(opened, progress=False)
            cases[arch, "predict_many, auto"] = lambda auto=auto: auto.predict_many(opened, progress=False)
        taken = fastest(cases, options.rounds, 1000 / count)
    for (arch, how), ms in taken.items(): rows.append({"network": arch, "how": how, "ms": ms})
    return rows


def main():
    parts = {"images": images, "size": size, "classes": classes, "batch": batch, "workers": workers, "hand": hand, "onnx": onnx}
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=list(parts), default=list(parts), help="parts to measure; the others keep their figures")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=50, help="so long for the rounds of images, size, classes and workers, each")
    parser.add_argument("--quick", action="store_true", help="small sizes, one round; nothing is written")
    options = parser.parse_args()
    if options.quick: options.rounds = 1
    found = json.loads(FILE.read_text()) if FILE.exists() and not options.quick else {}
    found["measured_on"] = describe_machine()
    found["threads"] = torch.get_num_threads()
    for part in options.only:
        try: rows = parts[part](options)
        except ImportError as error:
            print(f"{part}: not run, {error}")
            continue
        found[part] = [{name: round(value, 5) if isinstance(value, float) else value for name, value in row.items()} for row in rows]
        for row in found[part]: print(part, row, flush=True)
        if not options.quick: FILE.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__": main()
