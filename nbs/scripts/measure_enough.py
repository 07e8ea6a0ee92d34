"""How many photographs of each class are enough? Errors of a computed head over the number of training images.

    python nbs/scripts/measure_enough.py        about a minute, most of it for the features

Needs a folder of photographs named like `great_pyrenees_12.jpg` (`--photographs`). Features of `efficientnet_lite0`
at 224 pixels are taken once. Then, in three deals of five folds, a discriminant learns from so many images of each
class, drawn from the four other folds, and answers the fifth: 37 breeds, and cats against dogs. Writes
nbs/scripts/results/enough.json.
"""
import argparse
import json
from pathlib import Path

import torch

from machine import describe_machine
from measure_few_photographs import features_of, shared

from petbook.all import KFoldSplitter, choose_discriminant, random_stream
from petbook.models.discriminant import fit_discriminant

here = Path(__file__).resolve().parent
SEEDS, FOLDS = (0, 1, 2), 5
COUNTS = {"37 breeds": (1, 2, 3, 4, 6, 8), "cats and dogs": (1, 2, 4, 8, 16, 32, 64)}


def some_of_each(items, labels, count, *name):
    "So many of the items of each class, drawn by name."
    kept = []
    for label in sorted({labels[item] for item in items}):
        own = torch.tensor([item for item in items if labels[item] == label])
        order = torch.randperm(len(own), generator=random_stream("enough", label, *name))
        kept += own[order[:count]].tolist()
    return kept


def wrong_of(x, y, n_out, train, valid):
    "How many of the validation items a discriminant gets wrong."
    if torch.bincount(y[train], minlength=n_out).min() < 2: weight, bias = fit_discriminant(x[train], y[train], n_out, 0.9)
    else:
        found = choose_discriminant(x[train], y[train], n_out)
        weight, bias = found.weight, found.bias
    return int(((x[valid] @ weight.T + bias).argmax(1) != y[valid]).sum())


def measure(x, y, n_out, counts):
    "For each number of images of a class: wrong answers in each deal."
    labels, rows = y.tolist(), []
    for count in counts:
        wrong = []
        for seed in SEEDS:
            wrong.append(0)
            for fold in range(FOLDS):
                train, valid = KFoldSplitter(fold, seed=seed)(range(len(y)), labels)
                wrong[-1] += wrong_of(x, y, n_out, some_of_each(train, labels, count, seed, fold), valid)
        rows.append({"count": count, "wrong": wrong, "of": len(y)})
        print(f"{n_out:3} classes, {count:3} of each: {[f'{one / len(y):.1%}' for one in wrong]}")
    return rows


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--photographs", type=Path, default=shared / "pets" / "images")
    parser.add_argument("--features", type=Path, default=Path.home() / ".cache" / "petbook" / "few_photographs", help="where features are kept")
    options = parser.parse_args()
    x, y, files = features_of(options, "photographs", 224, "auto")
    x = x[:, x.shape[1] // 2 :]  # the averages of the feature maps
    cat = torch.tensor([int(file.name[0].isupper()) for file in files])
    found = {"37 breeds": measure(x, y, 37, COUNTS["37 breeds"]),
             "cats and dogs": measure(x, cat, 2, COUNTS["cats and dogs"])}
    stored = {"arch": "efficientnet_lite0", "size": 224, "rows": found, "measured_on": describe_machine()}
    (here / "results" / "enough.json").write_text(json.dumps(stored, indent=1) + "\n")


if __name__ == "__main__": main()
