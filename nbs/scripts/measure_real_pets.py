"""Fine-tune a real ImageNet trunk on 370 real photographs of 37 breeds: fastai's algorithm, the linear probe, and the probe with fine-tuning.

    python nbs/scripts/measure_real_pets.py                  everything that is not measured yet
    python nbs/scripts/measure_real_pets.py --minutes 4      as much of it as fits into four minutes
    python nbs/scripts/measure_real_pets.py --only seed --precision fp32

Each piece is added to nbs/scripts/results/real_pets.json as soon as it is done, so the script can be stopped and started again.
Needs a folder of photographs named like `great_pyrenees_12.jpg` and the trunk's weights (`--photographs`, `--trunk`).
"""
import argparse
import json
import math
import time
from pathlib import Path

from machine import describe_machine

from petbook.all import aug_transforms
from petbook.all import mobilenet_v1
from petbook.all import CategoryBlock, DataBlock, ImageBlock, KFoldSplitter, RandomSplitter, RegexLabeller, get_image_files, using_attr
from petbook.all import cnn_learner
from petbook.all import error_rate
from petbook.all import Resize
from petbook.all import Callback

here = Path(__file__).resolve().parent
shared = here.parent.parent.parent / "shared"
CHOSEN = {"epochs": 2, "base_lr": 2e-4}  # after a probe; the rate was chosen inside the training part of fold 0 (choose_rates.py)


def make_data(photographs, splitter):
    "The chapter's data."
    block = DataBlock(blocks=(ImageBlock, CategoryBlock), get_items=get_image_files, splitter=splitter,
                      get_y=using_attr(RegexLabeller(r"(.+)_\d+.jpg$"), "name"),
                      item_tfms=Resize(460), batch_tfms=aug_transforms(size=224, min_scale=0.75))
    return block.dataloaders(photographs, bs=32, num_workers=0, cache="memory")


class AtTheStart(Callback):
    "Look at the model as it is when a fit begins, without counting the time that takes."

    def before_fit(self, trainer):
        self.began = clock()
        self.preds, self.targets = trainer.get_preds()
        self.took = since(self.began)


def clock():
    "Seconds by the clock on the wall, and of processor time, which says more where other programs run beside."
    return time.perf_counter(), time.process_time()


def since(began):
    "Both, from `began` to now."
    return [now - then for now, then in zip(clock(), began)]


def outcome(dls, preds, targets, took):
    "What is kept of a piece."
    wrong = (preds.argmax(1) != targets).nonzero().flatten().tolist()
    names = [Path(dls.valid.dataset.items[item]).name for item in wrong]
    return {"error": len(wrong) / len(targets), "n": len(targets), "seconds": round(took[0], 1), "cpu_seconds": round(took[1], 1), "wrong": names}


def run_fastai(dls, options):
    "fastai's algorithm, as the chapter has it."
    began = clock()
    learner = cnn_learner(dls, mobilenet_v1, weights=options.trunk, metrics=error_rate, precision=options.now, train_bn=options.train_bn)
    quiet(learner).fine_tune(6, 3e-3, freeze_epochs=2)
    took = since(began)
    return {"fastai": outcome(dls, *learner.get_preds(), took)}


def run_probe(dls, options):
    "The probe, and what gentle fine-tuning makes of it."
    began, start = clock(), AtTheStart()
    learner = cnn_learner(dls, mobilenet_v1, weights=options.trunk, metrics=error_rate, precision=options.now, cbs=start)
    quiet(learner).fine_tune(**CHOSEN, head="probe")
    took = [whole - looking for whole, looking in zip(since(began), start.took)]
    return {"probe": outcome(dls, start.preds, start.targets, [at - before for at, before in zip(start.began, began)]), "probe + fine_tune": outcome(dls, *learner.get_preds(), took)}


def quiet(learner):
    "No bars and tables."
    learner.progress.bar = learner.progress.table = False
    return learner


def read(path):
    return json.loads(path.read_text()) if path.is_file() else {"pieces": {}}


def sign_test(first, second):
    "Two-sided exact McNemar test on the photographs that exactly one of two methods gets wrong."
    only_first, only_second = len(first - second), len(second - first)
    n, k = only_first + only_second, min(only_first, only_second)
    return only_first, only_second, min(1.0, 2 * sum(math.comb(n, i) for i in range(k + 1)) / 2**n) if n else 1.0


def summarise(pieces):
    "Means, totals and paired comparisons, as far as there is something to compare."
    summary = {}
    for precision in ("fp32", "auto"):
        seeds = [pieces[f"seed {seed}, fastai, {precision}"] for seed in range(3) if f"seed {seed}, fastai, {precision}" in pieces]
        if seeds: summary[f"seeds, fastai, {precision}"] = {
            "errors": [round(100 * one["error"], 1) for one in seeds], "mean": round(100 * sum(one["error"] for one in seeds) / len(seeds), 1),
            "seconds": [one["seconds"] for one in seeds], "cpu_seconds": [one["cpu_seconds"] for one in seeds]}
        folds = {}
        for method in ("fastai", "probe", "probe + fine_tune"):
            found = [pieces[f"fold {fold}, {method}, {precision}"] for fold in range(5) if f"fold {fold}, {method}, {precision}" in pieces]
            if len(found) < 5: continue
            folds[method] = {name for one in found for name in one["wrong"]}
            summary[f"5-fold, {method}, {precision}"] = {"wrong": len(folds[method]), "of": sum(one["n"] for one in found),
                "error": round(100 * len(folds[method]) / sum(one["n"] for one in found), 1), "seconds": round(sum(one["seconds"] for one in found), 1), "cpu_seconds": round(sum(one["cpu_seconds"] for one in found), 1)}
        for first, second in (("fastai", "probe"), ("fastai", "probe + fine_tune"), ("probe", "probe + fine_tune")):
            if first in folds and second in folds:
                only_first, only_second, p = sign_test(folds[first], folds[second])
                summary[f"paired, {first} against {second}, {precision}"] = {f"only {first} wrong": only_first, f"only {second} wrong": only_second, "p": round(p, 4)}
    return summary


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photographs", type=Path, default=shared / "pets" / "images")
    parser.add_argument("--trunk", type=Path, default=shared / "weights" / "mobilenet_v1_trunk.safetensors")
    parser.add_argument("--minutes", type=float, default=math.inf, help="begin nothing new after so many")
    parser.add_argument("--only", default="", help="pieces whose name begins like this: seed, fold, 'fold 3'")
    parser.add_argument("--method", choices=["fastai", "probe"])
    parser.add_argument("--precision", choices=["fp32", "auto"])
    parser.add_argument("--train-bn", action="store_true", help="fastai's batch norm: norm layers of a frozen body learn on")
    parser.add_argument("--results", type=Path, default=here / "results" / "real_pets.json")
    options = parser.parse_args()
    began = time.perf_counter()
    wanted = [(f"seed {seed}", RandomSplitter(seed=seed), "fastai", precision) for precision in ("auto", "fp32") for seed in range(3)]
    wanted += [(f"fold {fold}", KFoldSplitter(fold, seed=0), method, precision)
               for method in ("probe", "fastai") for precision in ("auto", "fp32") for fold in range(5)]
    for name, splitter, method, precision in wanted:
        if not name.startswith(options.only) or options.method not in (None, method) or options.precision not in (None, precision): continue
        if f"{name}, {method}, {precision}" in read(options.results)["pieces"] or time.perf_counter() - began > 60 * options.minutes: continue
        options.now = precision
        dls = make_data(options.photographs, splitter)
        for found, piece in (run_fastai if method == "fastai" else run_probe)(dls, options).items():
            print(f"{name}, {found}, {precision}: {piece['error']:.1%} wrong, {piece['seconds']:.0f} s ({piece['cpu_seconds']:.0f} s of processor time)", flush=True)
            record = read(options.results)
            record["pieces"][f"{name}, {found}, {precision}"] = piece
            options.results.parent.mkdir(exist_ok=True)
            options.results.write_text(json.dumps(record, indent=1) + "\n")
    record = read(options.results)
    record["summary"] = summarise(record["pieces"])
    record["measured_on"] = describe_machine()
    options.results.write_text(json.dumps(record, indent=1) + "\n")
    for name, line in record["summary"].items(): print(f"{name:48} {line}")


if __name__ == "__main__": main()
