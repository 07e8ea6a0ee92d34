"""Few photographs: which way of making a classifier errs least, at what cost, and why fine-tuning can hurt.

    python nbs/scripts/measure_few_photographs.py                      everything that is not measured yet
    python nbs/scripts/measure_few_photographs.py --minutes 20         as much of it as fits into twenty minutes
    python nbs/scripts/measure_few_photographs.py --only sizes         one part: sizes, classes, folds, causes
    python nbs/scripts/measure_few_photographs.py --summary            only sum up what is there

Needs a folder of photographs named like `great_pyrenees_12.jpg` (`--photographs`). Each piece is added to
nbs/scripts/results/few_photographs.json as soon as it is done, so the script can be stopped and started again.

sizes    features at several image sizes, taken once and kept in `--features`; probe and discriminant on the same folds
classes  the same with 5, 10 and 20 of the classes, and on drawn pets; what the training images alone would choose
folds    every method as a user calls it, with its time: probe, auto, scale and shift, fastai's algorithm
causes   fastai's algorithm on one split, with one thing changed at a time
"""
import argparse
import json
import math
import time
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from machine import describe_machine

from petbook.all import (
    CategoryBlock, DataBlock, ImageBlock, KFoldSplitter, RandomSplitter, RegexLabeller, Resize, atomic_path, aug_transforms,
    choose_discriminant, cnn_learner, efficientnet_lite0, error_rate, fit_one_cycle, get_image_files, get_pets,
    hold_norms, linear_probe, petnet, pooled_features, solve_probe, unfreeze, using_attr)
from petbook.training.optimizers import norm_types

here = Path(__file__).resolve().parent
shared = here.parent.parent.parent / "shared"
PENALTIES = (3e-2, 3e-3, 3e-4)
SIZES = (224, 256, 288, 320)
SEEDS = (0, 1, 2)


def make_data(folder, splitter, size=224):
    "The chapter's data."
    block = DataBlock(blocks=(ImageBlock, CategoryBlock), get_items=get_image_files, splitter=splitter,
                      get_y=using_attr(RegexLabeller(r"(.+)_\d+.jpg$"), "name"),
                      item_tfms=Resize(460), batch_tfms=aug_transforms(size=size, min_scale=0.75))
    return block.dataloaders(folder, bs=32, num_workers=0, cache="memory")


def make_learner(dls, arch=efficientnet_lite0, precision="auto"):
    learner = cnn_learner(dls, arch, metrics=error_rate, precision=precision)
    learner.progress.bar = learner.progress.table = False
    return learner


def clock():
    "Seconds on the wall, and of processor time, which says more where other programs run beside."
    return time.perf_counter(), time.process_time()


def since(began):
    return [round(now - then, 1) for now, then in zip(clock(), began)]


# --- features, taken once ---------------------------------------------------------------------

def features_of(options, data, size, precision):
    "Features of all images, in the order of their names; kept in a folder."
    kept = options.features / f"{data}_{size}_{precision}.safetensors"
    folder = options.photographs if data == "photographs" else get_pets("sketch") / "images"
    files = sorted(get_image_files(folder))
    if kept.is_file(): return load_file(kept)["x"], load_file(kept)["y"], files
    dls = make_data(folder, KFoldSplitter(0, seed=0), size)
    learner = make_learner(dls, efficientnet_lite0 if data == "photographs" else petnet, precision)
    x, y = pooled_features(learner, learner.dls.test_dl(files, with_labels=True))
    kept.parent.mkdir(parents=True, exist_ok=True)
    save_file({"x": x, "y": y}, kept)
    return x, y, files


def closed_form(x, y, n_out, train, valid):
    "Probe and discriminant: (cross-entropy and error held out in training, wrong in validation) of each."
    half = x.shape[1] // 2
    weight, bias, tried = solve_probe(x[train], y[train], n_out, PENALTIES)
    best = min(tried, key=lambda l2: tried[l2][0])
    found = choose_discriminant(x[train, half:], y[train], n_out)
    answers = {"probe": (x[valid] @ weight.T + bias, *tried[best]),
               "discriminant": (x[valid, half:] @ found.weight.T + found.bias, found.loss, found.error)}
    return {kind: {"loss": loss, "error": error, "wrong": [valid[i] for i in (logits.argmax(1) != y[valid]).nonzero().flatten().tolist()]}
            for kind, (logits, loss, error) in answers.items()}


def picked(own, larger):
    "What `pick_head` would take: the rule of nbs/647_choosing.ipynb, on measured numbers."
    fair = [one for one in own.values() if one["error"] <= own["probe"]["error"]]
    best = min(fair, key=lambda one: one["loss"])
    more = [one for one in larger.values() if one["error"] <= best["error"] and one["loss"] <= best["loss"]]
    return min(more, key=lambda one: one["loss"], default=best)


def over_folds(x, y, n_out, seed, more=None):
    "Wrong items of each method over five folds; `more` are features of larger images."
    wrong, labels = {}, y.tolist()
    for fold in range(5):
        train, valid = KFoldSplitter(fold, seed=seed)(range(len(y)), labels)
        own = closed_form(x, y, n_out, train, valid)
        found = dict(own)
        if more is not None:
            larger = closed_form(more, y, n_out, train, valid)
            found |= {f"{kind}, larger": one for kind, one in larger.items()} | {"auto": picked(own, larger)}
        for kind, one in found.items(): wrong.setdefault(kind, []).extend(one["wrong"])
    return wrong


# --- pieces ----------------------------------------------------------------------------------

def sizes_piece(options, size, precision, seed):
    x, y, files = features_of(options, "photographs", size, precision)
    wrong = over_folds(x, y, int(y.max()) + 1, seed)
    return {kind: [files[i].name for i in items] for kind, items in wrong.items()}


def classes_piece(options, data, count, seed):
    "Some of the classes, drawn by the seed; sizes as a user would have them, and the next larger ones."
    small, large = (224, 288) if data == "photographs" else (160, 192)
    x, y, files = features_of(options, data, small, options.features_precision)
    more = features_of(options, data, large, options.features_precision)[0]
    generator = torch.Generator().manual_seed(100 + seed)
    classes = torch.randperm(int(y.max()) + 1, generator=generator)[:count].sort().values
    kept = torch.isin(y, classes).nonzero().flatten()
    wrong = over_folds(x[kept], torch.searchsorted(classes, y[kept]), len(classes), seed, more[kept])
    return {"n": len(kept), "wrong": {kind: sorted(files[kept[i]].name for i in items) for kind, items in wrong.items()}}


def shift_and_scale(learner, epochs=6, base_lr=3e-3):
    "From a probe: only the norm layers' factors and offsets, and the head, learn; their averages stay."
    linear_probe(learner)
    unfreeze(learner)
    hold_norms(learner)
    for module in learner.model[0].modules():
        for parameter in module.parameters(recurse=False):
            parameter.requires_grad_(isinstance(module, norm_types))
    learner.set_train_mode = learner.model.eval  # factors learn, averages do not
    fit_one_cycle(learner, epochs, slice(base_lr / 3, base_lr / 30), pct_start=0.3)


METHODS = {
    "probe": lambda learner: linear_probe(learner),
    "auto": lambda learner: learner.fine_tune(6, 3e-3, head="auto"),
    "scale and shift": shift_and_scale,
    "fastai": lambda learner: learner.fine_tune(6, 3e-3, freeze_epochs=2),
}


def fold_piece(options, method, precision, seed, fold):
    "One method as a user calls it, on one fold; the time of everything but loading the library."
    began = clock()
    dls = make_data(options.photographs, KFoldSplitter(fold, seed=seed))
    learner = make_learner(dls, precision=precision)
    METHODS[method](learner)
    took = since(began)
    preds, targets = learner.get_preds()
    wrong = (preds.argmax(1) != targets).nonzero().flatten().tolist()
    choice = getattr(learner, "head_choice", None)
    return {"wrong": [Path(dls.valid.dataset.items[i]).name for i in wrong], "n": len(targets), "seconds": took[0], "cpu_seconds": took[1],
            **({"taken": choice.name} if choice else {})}


def cause_run(learner, change):
    "fastai's algorithm with one thing changed; the rows of the table."
    rate, epochs = 3e-3, 6
    learner.freeze()
    learner.fit_one_cycle(2, slice(rate), pct_start=0.99, phase="frozen")
    learner.unfreeze()
    if change == "norms held": hold_norms(learner)
    if change == "norms' averages held":
        for module in learner.model.modules():
            if isinstance(module, norm_types) and hasattr(module, "momentum"): module.momentum = 0.0
    rates = {"body at a tenth": slice(rate / 2000, rate / 2), "all at a tenth": slice(rate / 2000, rate / 20),
             "norms held, all at a tenth": slice(rate / 2000, rate / 20)}.get(change, slice(rate / 200, rate / 2))
    if change == "norms held, all at a tenth": hold_norms(learner)
    if change == "one group for the body": rates = [rate / 200, rate / 200, rate / 2]
    learner.fit_one_cycle(2 if change == "two epochs" else epochs, rates, pct_start=0.3, div=5.0, phase="unfrozen")
    names = ("phase", "train_loss", "valid_loss", "error_rate")
    return [{name: round(row[name], 4) if name != "phase" else row[name] for name in names} for row in learner.recorder.rows]


CAUSES = ("nothing changed", "norms held", "norms' averages held", "body at a tenth", "all at a tenth", "norms held, all at a tenth",
          "one group for the body", "two epochs")


def cause_piece(options, change, seed):
    learner = make_learner(make_data(options.photographs, RandomSplitter(seed=seed), options.cause_size))
    began = clock()
    rows = cause_run(learner, change)
    return {"rows": rows, "size": options.cause_size, "cpu_seconds": since(began)[1]}


# --- summary ---------------------------------------------------------------------------------

def mcnemar(first, second):
    "Two-sided exact test on what exactly one of two methods gets wrong (sets of (seed, name))."
    one, other = len(first - second), len(second - first)
    n, k = one + other, min(one, other)
    return one, other, min(1.0, 2 * sum(math.comb(n, i) for i in range(k + 1)) / 2**n) if n else 1.0


def summarise(pieces):
    sizes, compared, seeds, folds = {}, {}, {}, {}
    for name, piece in pieces.items():
        part, *rest = name.split(", ")
        if part == "sizes":
            size, precision, seed = rest
            for kind, wrong in piece.items():
                sizes.setdefault(precision, {}).setdefault(size, {}).setdefault(kind, []).append(len(wrong))
                compared.setdefault(f"{kind} at {size}, {precision}", set()).update((seed, one) for one in wrong)
                seeds.setdefault(f"{kind} at {size}, {precision}", set()).add(seed)
        if part == "folds":
            method, precision, seed, _ = rest
            entry = folds.setdefault(f"{method}, {precision}", {"wrong": {}, "n": {}, "seconds": [], "cpu_seconds": []})
            entry["wrong"][seed] = entry["wrong"].get(seed, 0) + len(piece["wrong"])
            entry["n"][seed] = entry["n"].get(seed, 0) + piece["n"]
            for key in ("seconds", "cpu_seconds"): entry[key].append(piece[key])
    tests = {}
    for name, wrong in compared.items():
        base = "probe at 224, " + name.split(", ")[1]
        if name == base or base not in compared: continue
        common = seeds[name] & seeds[base]
        sides = [{one for one in side if one[0] in common} for side in (wrong, compared[base])]
        tests[f"{name} against {base}, {len(common)} deals"] = mcnemar(*sides)
    for precision in ("fp32", "auto"):
        for method in METHODS:
            keys = [name for name in pieces if name.startswith(f"folds, probe, {precision}") and name.replace("probe", method, 1) in pieces]
            if method == "probe" or not keys: continue
            sides = [{(name.split(", ")[3], one) for name in keys for one in pieces[name.replace("probe", kind, 1)]["wrong"]} for kind in (method, "probe")]
            tests[f"{method} against probe, {len(keys)} folds, {precision}"] = mcnemar(*sides)
    classes = {name: {kind: len(wrong) for kind, wrong in piece["wrong"].items()} | {"n": piece["n"]}
               for name, piece in pieces.items() if name.startswith("classes")}
    return {"sizes": sizes.get("bf16") or sizes.get("fp32") or {}, "sizes by precision": sizes, "classes": classes, "folds": folds, "tests": tests}


# --- in order ----------------------------------------------------------------------------------

def plan(options):
    "Every piece: its name, and what makes it; the cheap ones first."
    for precision in ("bf16", "fp32"):
        for size in SIZES:
            for seed in SEEDS: yield f"sizes, {size}, {precision}, {seed}", lambda s=size, p=precision, e=seed: sizes_piece(options, s, p, e)
    for data, counts in (("photographs", (5, 10, 20, 37)), ("drawn", (5, 10, 20, 37))):
        for count in counts:
            for seed in SEEDS: yield f"classes, {data}, {count}, {seed}", lambda d=data, c=count, e=seed: classes_piece(options, d, c, e)
    for method in METHODS:
        for precision in ("auto", "fp32"):
            for seed in SEEDS:
                for fold in range(5):
                    yield (f"folds, {method}, {precision}, {seed}, {fold}",
                           lambda m=method, p=precision, e=seed, f=fold: fold_piece(options, m, p, e, f))
    for seed in (1, 0):
        for change in CAUSES: yield f"causes, {change}, {seed}", lambda c=change, e=seed: cause_piece(options, c, e)


def read(path):
    return json.loads(path.read_text()) if path.is_file() else {"pieces": {}}


def write(path, record):
    "Write the record whole or not at all: the script may be stopped at any moment."
    path.parent.mkdir(exist_ok=True)
    with atomic_path(path) as temporary: temporary.write_text(json.dumps(record, indent=1) + "\n")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photographs", type=Path, default=shared / "pets" / "images")
    parser.add_argument("--features", type=Path, default=Path.home() / ".cache" / "petbook" / "few_photographs", help="where features are kept")
    parser.add_argument("--features-precision", default="bf16", help="of the features that the part `classes` uses")
    parser.add_argument("--cause-size", type=int, default=224, help="size of the images in the part `causes`")
    parser.add_argument("--minutes", type=float, default=math.inf, help="begin nothing new after so many")
    parser.add_argument("--only", default="", help="pieces whose name begins like this: sizes, 'folds, auto', …")
    parser.add_argument("--summary", action="store_true", help="measure nothing")
    parser.add_argument("--results", type=Path, default=here / "results" / "few_photographs.json")
    options = parser.parse_args()
    began = time.perf_counter()
    for name, measure in plan(options):
        if options.summary or not name.startswith(options.only) or name in read(options.results)["pieces"]: continue
        if time.perf_counter() - began > 60 * options.minutes: break
        found = measure()
        record = read(options.results)
        record["pieces"][name] = found
        write(options.results, record)
        print(f"{name} ({time.perf_counter() - began:.0f} s)", flush=True)
    record = read(options.results)
    record |= summarise(record["pieces"])
    record["measured_on"] = describe_machine()
    write(options.results, record)
    for part in ("sizes by precision", "classes", "folds", "tests"):
        for name, line in record[part].items(): print(f"{name:52} {line}")


if __name__ == "__main__": main()
