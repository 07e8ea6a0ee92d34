"""Check petbook.interpretation against independent implementations, on random and on real predictions.

    python nbs/scripts/check_interpretation.py [--images FOLDER] [--weights FILE]

Needs scikit-learn, scipy, netcal and cleanlab (`pip install scikit-learn scipy netcal cleanlab`). The real predictions are out-of-fold:
a logistic regression on pooled features, of the drawn pets and petnet by default, or of the photographs in FOLDER (named breed_12.jpg)
and the MobileNet v1 trunk in FILE. It also plants 5 % wrong labels and counts how many are found. Prints a table and writes
nbs/scripts/results/interpretation_checks.json.
"""
import argparse
import json
import re
import warnings
from pathlib import Path

import numpy as np
import torch
from cleanlab.filter import find_label_issues
from cleanlab.rank import get_label_quality_scores
from netcal.metrics import ECE
from scipy.optimize import minimize_scalar
from scipy.stats import binomtest
from sklearn import metrics as sk
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import cross_val_predict

from petbook.all import mobilenet_v1, petnet
from petbook.all import ClassificationInterpretation, Comparison, expected_calibration_error, fit_temperature, label_quality, likely_label_errors, wilson_interval
from petbook.all import get_pets
from petbook.all import ItemStage, Resize


def pooled_features(paths: list[Path], weights: str | None, size: int) -> torch.Tensor:
    body, stage = (mobilenet_v1(weights=weights) if weights else petnet()).eval(), ItemStage([Resize(size)])
    with torch.inference_mode():
        parts = [body(torch.stack([stage(path) for path in paths[start : start + 32]]) / 127.5 - 1).mean(dim=(2, 3)) for start in range(0, len(paths), 32)]
    features = torch.cat(parts)
    return (features - features.mean(dim=0)) / features.std(dim=0).clamp_min(1e-6)


def out_of_fold(features: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    model = LogisticRegression(C=0.01, max_iter=200)
    return torch.tensor(cross_val_predict(model, features.numpy(), targets.numpy(), cv=5, method="predict_proba"))


def random_case(count: int, classes: int, scale: float, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    targets = torch.randint(0, classes, (count,), generator=generator)
    logits = torch.randn(count, classes, generator=generator, dtype=torch.float64) * scale
    logits[torch.arange(count), targets] += 2
    return torch.softmax(logits, dim=1), targets


def compare(name: str, probabilities: torch.Tensor, targets: torch.Tensor) -> dict:
    "The largest difference from each peer; 0 or rounding is what we want."
    p, t, said, classes = probabilities.numpy(), targets.numpy(), probabilities.argmax(dim=1).numpy(), probabilities.shape[1]
    view = ClassificationInterpretation(probabilities, targets)
    report = sk.classification_report(t, said, labels=range(classes), output_dict=True, zero_division=0)
    ours = np.array([[score.precision, score.recall.value if score.support else 0, score.f1, score.support] for score in view.class_scores()])
    theirs = np.array([[report[str(number)][key] for key in ("precision", "recall", "f1-score", "support")] for number in range(classes)])
    wrong = int((said != t).sum())
    wilson = binomtest(wrong, len(t)).proportion_ci(method="wilson")
    logs = np.log(np.clip(p, 1e-38, None))
    best = minimize_scalar(lambda x: sk.log_loss(t, torch.softmax(torch.tensor(logs) / np.exp(x), dim=1).numpy(), labels=range(classes)), bounds=(-3, 3), method="bounded", options={"xatol": 1e-7})
    suspects = find_label_issues(t, p, filter_by="confident_learning", return_indices_ranked_by="normalized_margin", n_jobs=1)
    return {
        "case": name, "items": len(t), "classes": classes,
        "confusion matrix (scikit-learn)": int(np.abs(view.confusion_matrix().numpy() - sk.confusion_matrix(t, said, labels=range(classes))).sum()),
        "report (scikit-learn)": float(np.abs(ours - theirs).max()),
        "error interval (scipy)": float(np.abs(np.array(view.error()[1:]) - [wilson.low, wilson.high]).max()),
        # netcal reads two columns as one binary probability, so the top label has no peer there
        "calibration error (netcal)": None if classes == 2 else abs(expected_calibration_error(probabilities, targets, 15) - float(ECE(15).measure(p, t))),
        "temperature (scipy)": abs(fit_temperature(probabilities, targets) / float(np.exp(best.x)) - 1),
        "label quality (cleanlab)": float(np.abs(label_quality(probabilities, targets).numpy() - get_label_quality_scores(t, p, method="normalized_margin")).max()),
        "suspects (cleanlab), same in the same order": likely_label_errors(probabilities, targets).tolist() == list(map(int, suspects)),
        "suspects": len(suspects),
    }


def planted(features: torch.Tensor, targets: torch.Tensor, share: float = 0.05, seed: int = 42) -> dict:
    "Give `share` of the items another label, and see how early they are found."
    generator, classes = torch.Generator().manual_seed(seed), int(targets.max()) + 1
    places = torch.randperm(len(targets), generator=generator)[: round(share * len(targets))]
    given = targets.clone()
    given[places] = (targets[places] + torch.randint(1, classes, (len(places),), generator=generator)) % classes
    probabilities = out_of_fold(features, given)
    suspects, ranked = likely_label_errors(probabilities, given), label_quality(probabilities, given).argsort(stable=True)
    hits, by_quality, count = torch.isin(suspects, places), torch.isin(ranked, places), len(places)
    theirs = torch.tensor(find_label_issues(given.numpy(), probabilities.numpy(), filter_by="confident_learning", return_indices_ranked_by="normalized_margin", n_jobs=1).astype(int))
    return {"planted": count, "seed": seed, "suspects": len(suspects), "found among as many suspects as planted": int(hits[:count].sum()), "found among all suspects": int(hits.sum()),
            "cleanlab's: among as many": int(torch.isin(theirs[:count], places).sum()), "found in the first 10 % by label quality": int(by_quality[: len(targets) // 10].sum()),
            "found in the first 20 % by label quality": int(by_quality[: len(targets) // 5].sum())}


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--images", help="photographs named breed_12.jpg; the drawn pets if left out")
    options.add_argument("--weights", help="MobileNet v1 trunk; petnet if left out")
    options.add_argument("--size", type=int, default=144, help="pixels the features are taken at")
    chosen = options.parse_args()
    warnings.filterwarnings("ignore")
    paths = sorted(Path(chosen.images or get_pets("sketch") / "images").glob("*.jpg"))
    names = [re.match(r"(.+)_\d+.jpg$", path.name)[1] for path in paths]
    vocab = sorted(set(names))
    targets = torch.tensor([vocab.index(name) for name in names])
    features = pooled_features(paths, chosen.weights, chosen.size)
    real = "photographs" if chosen.images else "drawn pets"
    cases = [(f"{real}, out of fold", out_of_fold(features, targets), targets)]
    cases += [(f"random {number}", *random_case(*shape, number)) for number, shape in enumerate([(500, 5, 2.0), (200, 37, 3.0), (1000, 3, 1.0), (300, 2, 2.0)])]
    rows = [compare(*case) for case in cases]
    found = [planted(features, targets, seed=seed) for seed in (42, 43, 44)]
    tosses = max(abs(Comparison(0, first, second, 0).p_value - binomtest(first, first + second, 0.5).pvalue) for first, second in [(5, 3), (10, 1), (7, 7), (40, 60)])
    ends = max(abs(wilson_interval(k, n)[1] - binomtest(k, n).proportion_ci(method="wilson").low) for k, n in [(0, 10), (10, 10), (3, 17), (27, 148)])
    for row in rows + found: print(json.dumps(row, indent=1))
    print(f"McNemar against scipy's binomial test: {tosses:.1e}; Wilson at the ends: {ends:.1e}")
    results = {"compared": rows, "planted label errors": found, "McNemar (scipy)": tosses, "Wilson (scipy)": ends}
    file = Path(__file__).parent / "results" / f"interpretation_checks{'_photographs' if chosen.images else ''}.json"
    file.parent.mkdir(exist_ok=True)
    file.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__": main()
