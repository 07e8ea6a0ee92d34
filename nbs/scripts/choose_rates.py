"""Which rates should follow a linear probe? Tried on drawn pets with the bundled petnet, on items held out.

    python nbs/scripts/choose_rates.py                                     drawn pets
    python nbs/scripts/choose_rates.py --photographs FOLDER --trunk FILE   real ones, inside the training part of each fold

With photographs, one fifth (the fold that measure_real_pets.py validates on) is put away first and never read.
Writes nbs/scripts/results/choose_rates.json.
"""
import argparse
import json
import time
from pathlib import Path

from measure_real_pets import AtTheStart, make_data, quiet
from torch.nn import functional as F

from petbook.all import mobilenet_v1, petnet
from petbook.all import KFoldSplitter, StratifiedSplitter
from petbook.all import fit_one_cycle, hold_norms, linear_probe, unfreeze
from petbook.all import cnn_learner
from petbook.all import error_rate
from petbook.all import get_pets

here = Path(__file__).resolve().parent


class Inside:
    "Split the training part of a fold again; what the fold validates on is in neither part."

    uses_labels = True

    def __init__(self, fold): self.fold = fold

    def __call__(self, items, labels):
        train, _ = KFoldSplitter(self.fold, seed=0)(items, labels)
        first, second = StratifiedSplitter(0.25, seed=1)([items[i] for i in train], [labels[i] for i in train])
        return [train[i] for i in first], [train[i] for i in second]


def scores(preds, targets):
    return {"loss": round(F.nll_loss(preds.clamp_min(1e-9).log(), targets).item(), 4), "error": round((preds.argmax(1) != targets).float().mean().item(), 4)}


def try_one(dls, arch, weights, rates, epochs, penalties, hold=True):
    "Probe, then a second act with these rates."
    learner = quiet(cnn_learner(dls, arch, weights=weights, metrics=error_rate))
    linear_probe(learner, **({"penalties": penalties} if penalties else {}))
    start = AtTheStart()
    unfreeze(learner)
    if hold: hold_norms(learner)
    began = time.perf_counter()
    fit_one_cycle(learner, epochs, rates, pct_start=0.3, div=5, cbs=start)
    took = time.perf_counter() - began - start.took
    return scores(start.preds, start.targets), scores(*learner.get_preds()) | {"seconds": round(took, 1)}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photographs", type=Path)
    parser.add_argument("--trunk", type=Path)
    parser.add_argument("--folds", type=int, nargs="+", default=[0])
    parser.add_argument("--epochs", type=int, nargs="+", default=[2])
    parser.add_argument("--rates", nargs="+", default=["1e-6,3e-6,1e-5", "1e-5,3e-5,1e-4", "3e-5,1e-4,3e-4"], help="rates of early body, late body, head")
    parser.add_argument("--penalties", type=float, nargs="+", help="of the probe, to choose from; its own if left out")
    parser.add_argument("--train-norms", action="store_true", help="let norm layers learn in the second act")
    options = parser.parse_args()
    arch, weights = (mobilenet_v1, options.trunk) if options.trunk else (petnet, None)
    folder, path = options.photographs or get_pets("sketch") / "images", here / "results" / "choose_rates.json"
    for fold in options.folds:
        dls = make_data(folder, Inside(fold))
        for rates in options.rates:
            for epochs in options.epochs:
                probe, tuned = try_one(dls, arch, weights, [float(rate) for rate in rates.split(",")], epochs, options.penalties, not options.train_norms)
                kind = "photographs" if options.photographs else "drawn"
                more = (f", penalty {options.penalties}" if options.penalties else "") + (", norms learn" if options.train_norms else "")
                name = f"{kind}, fold {fold}, rates {rates}, {epochs} epochs{more}"
                print(f"{name}: probe {probe}, after {tuned}", flush=True)
                record = json.loads(path.read_text()) if path.is_file() else {}
                record[name] = {"probe": probe, "after": tuned}
                path.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__": main()
