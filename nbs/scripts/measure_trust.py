"""How far can answers be trusted? Known or not, sets that hold, and one class more.

    python nbs/scripts/measure_trust.py features --photographs FOLDER --strangers FOLDER
    python nbs/scripts/measure_trust.py known fresh sets uneven growing refusals suggesting
    python nbs/scripts/measure_trust.py discriminants
    python nbs/scripts/measure_trust.py command --run RUN --new FOLDER

`features` sends every image through its network once: the photographs through EfficientNet-Lite0,
drawn pets through petnet, and strangers (digits of scikit-learn, photographs without animals)
through both. The other parts need only those features, on one core, and write
`results/trust.json`; `discriminants` replaces some lines of `known`, in minutes, and `command` times
`petbook add-class` in cold processes. Where pytorch-ood and TorchCP are installed they judge the same
features; where they are not, their rows are left out."""
import argparse
import json
import sys
import time
from pathlib import Path
from unittest import mock

import torch
from torch.nn import functional as F

from petbook.core import random_stream
from petbook.interpretation.known import (
    centred_energy, combined_score, energy, fit_detector, fit_gaussians, largest_logit,
    neighbour_distance, p_values, separation, unit_length)
from petbook.interpretation.scores import wilson_interval
from petbook.interpretation.sets import (
    class_p_values, cross_p_values, measure_sets, prediction_sets, strangeness)
from petbook.models.discriminant import choose_discriminant
from petbook.models.logistic import even_folds, fit_logistic, item_axes, solve_probe
from petbook.models.recomputing import HeadSolver, fold_logits

HERE = Path(__file__).parent
RESULTS = HERE / "results" / "trust.json"
SHARES = [0.005, 0.01, 0.02, 0.03, 0.04, 0.05, 0.075, 0.1, 0.15, 0.2, 0.25, 0.3]


def write(part, value):
    "Put one part's results into the file, and leave the others."
    found = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    RESULTS.write_text(json.dumps(found | {part: value}, indent=1) + "\n")
    print(part, "written")


def mean_range(values, low=0.0, high=1.0):
    "Mean of draws, and the range of the draws between two quantiles."
    values = torch.tensor(values, dtype=torch.float64)
    half = 1.96 * values.std().item() / len(values) ** 0.5
    return {"mean": round(values.mean().item(), 4), "half": round(half, 4),
            "low": round(values.quantile(low).item(), 4),
            "high": round(values.quantile(high).item(), 4)}


# ---- features ---------------------------------------------------------------------------------

def digits(count=100):
    "Handwritten digits as images."
    from PIL import Image
    from sklearn.datasets import load_digits
    images = load_digits().images
    return [Image.fromarray((image / 16 * 255).astype("uint8")).convert("RGB").resize((300, 300))
            for image in images[::len(images) // count][:count]]


def scenes(folder):
    "Photographs without animals: each file of a folder whole, and two parts of it."
    from PIL import Image
    images = []
    for file in sorted(Path(folder).iterdir()) if folder else []:
        image = Image.open(file).convert("RGB")
        wide, high = image.size
        images += [image, image.crop((0, 0, wide * 2 // 3, high * 2 // 3)),
                   image.crop((wide // 3, high // 3, wide, high))]
    return images


def features_of(folder, arch, strangers, cache):
    "Send a folder of labelled images and all strangers through a network, once."
    from petbook.all import (CategoryBlock, DataBlock, ImageBlock, RandomSplitter, Resize,
                             aug_transforms, get_image_files, vision_learner)
    from petbook.models.features import pooled_features
    breed = lambda file: Path(file).stem.rsplit("_", 1)[0]
    block = DataBlock(blocks=(ImageBlock, CategoryBlock), get_items=get_image_files, get_y=breed,
                      splitter=RandomSplitter(), item_tfms=Resize(460),
                      batch_tfms=aug_transforms(size=224, min_scale=0.75))
    learn = vision_learner(block.dataloaders(folder, bs=32), arch, precision="fp32")
    take = lambda items: pooled_features(learn, learn.dls.test_dl(items))[0]
    files = sorted(get_image_files(folder))
    vocab = sorted({breed(file) for file in files})
    torch.save({"z": take(files), "y": torch.tensor([vocab.index(breed(file)) for file in files]),
                "vocab": vocab, "far": {kind: take(items) for kind, items in strangers.items()
                                        if items}}, cache)


def make_features(options):
    "Cache the features of both data sets."
    from petbook.all import get_pets
    strangers = {"digits": digits(), "scenes": scenes(options.strangers)}
    if options.photographs:
        features_of(options.photographs, "efficientnet_lite0", strangers,
                    options.cache / "photographs.pt")
    folder = get_pets("sketch", images_per_breed=10) / "images"
    features_of(folder, "petnet", {"digits": digits()}, options.cache / "drawn.pt")
    folder = get_pets("sketch", images_per_breed=22) / "images"
    features_of(folder, "petnet", {}, options.cache / "fresh.pt")


# ---- known or not -----------------------------------------------------------------------------

def fold_heads(z, y, classes, penalty=3e-3, parts=10):
    """Solve a probe of all images and one without each fold, in coordinates that all share.

    Returns the head, the folds' heads, the folds, and each image's logits by its fold's head."""
    mean, std = z.mean(0), z.std(0)
    std = std.clamp_min(1e-3 * std.mean())
    axes = item_axes((z - mean) / std)
    x, folds = ((z - mean) / std) @ axes, even_folds(y, parts)

    def back(answer):
        weight = answer[:, :-1] @ axes.T / std
        return weight, answer[:, -1] - weight @ mean

    whole = fit_logistic(x, y, classes, penalty, tolerance=1e-5)
    heads = [back(fit_logistic(x[folds != fold], y[folds != fold], classes, penalty, whole,
                               tolerance=1e-5)) for fold in range(parts)]
    held = torch.zeros(len(z), classes)
    for fold, (weight, bias) in enumerate(heads):
        held[folds == fold] = z[folds == fold] @ weight.T + bias
    return back(whole), heads, folds, held


def others(train, y, weight, bias, parts):
    """Scores of pytorch-ood's detectors on the same features; higher: better known.

    Those that need more images than features (Mahalanobis, RMD, GMM) are left out."""
    try: from pytorch_ood import detector
    except ImportError: return {}
    head = torch.nn.Linear(*weight.T.shape).requires_grad_(False)
    head.load_state_dict({"weight": weight, "bias": bias})
    with mock.patch.object(sys, "stderr"):
        logits = {kind: z @ weight.T + bias for kind, z in parts.items()}
        found = {f"{name}*": {kind: -getattr(detector, name).score(one)
                              for kind, one in logits.items()}
                 for name in ("MaxSoftmax", "EnergyBased", "MaxLogit", "GEN")}
        made = {"KNN*": detector.KNN(None, k=3), "KNN, one neighbour*": detector.KNN(None, k=1),
                "ViM*": detector.ViM(None, d=64, w=weight, b=bias),
                "SHE*": detector.SHE(None, head), "NNGuide*": detector.NNGuide(None, head),
                "fDBD*": detector.fDBD(None, head), "NCI*": detector.NCI(None, head),
                "DICE*": detector.DICE(None, w=weight, b=bias, p=0.7)}
        for name, one in made.items():
            one.fit_features(train, y)
            found[name] = {kind: -one.predict_features(z).float() for kind, z in parts.items()}
    return found


def split_of(data, draw, held_breeds=5, parts=5, dealt=False):
    """Keep some breeds out, and split the others: features and class numbers of training images,
    and features of known (validation) and near images.

    The validation images are drawn at random, or dealt, so that every class has just as many training
    images. Then new images have one neighbour of their own class more than the training images have
    among themselves, and fewer are refused than was asked for."""
    z, y, classes = data["z"], data["y"], len(data["vocab"])
    stream = random_stream(draw, "known or not")
    breeds = torch.randperm(classes, generator=stream)
    near = torch.isin(y, breeds[:held_breeds])
    number = torch.full((classes,), -1)
    number[breeds[held_breeds:].sort().values] = torch.arange(classes - held_breeds)
    rows = (~near).nonzero().flatten()
    rows = rows[torch.randperm(len(rows), generator=stream)]
    valid = torch.arange(len(rows)) < len(rows) // parts
    if dealt: valid = even_folds(y[rows], parts) == draw % parts
    return z[rows[~valid]], number[y[rows[~valid]]], z[rows[valid]], z[near]


def fit_draw(train, y, classes):
    """A probe and a discriminant of training images, each with its detector.

    The penalty is the one that the probe chooses for all images."""
    (weight, bias), _, _, held = fold_heads(train, y, classes)
    return {"probe": (lambda z: F.linear(z, weight, bias), held, fit_detector(train, held)),
            "discriminant": discriminant_draw(train, y, classes)}, weight, bias


def discriminant_draw(train, y, classes, parts=None):
    """A discriminant of averages alone, as `head="auto"` makes it: its answers, the logits of the
    training images, each left out or in so many folds, and the detector."""
    averages = lambda z: z[:, z.shape[1] // 2:]
    chosen = choose_discriminant(averages(train), y, classes)
    solver = HeadSolver("discriminant", chosen.shrinkage, chosen.temperature)
    folded = fold_logits(averages(train), y, classes, solver, parts)
    return (lambda z: F.linear(averages(z), chosen.weight, chosen.bias), folded,
            fit_detector(train, folded))


def one_draw(data, draw, held_breeds=5):
    "Each detector's separation of known images from near and far ones; ten images of each class."
    train, y, known_images, near = split_of(data, draw, held_breeds, dealt=True)
    fitted, weight, bias = fit_draw(train, y, len(data["vocab"]) - held_breeds)
    images = {"known": known_images, "near": near, "far": torch.cat(list(data["far"].values()))}
    logits = {kind: one @ weight.T + bias for kind, one in images.items()}
    gauss, (answer, folded, detector) = fit_gaussians(train, y), fitted["discriminant"]
    away = {kind: neighbour_distance(one, train) for kind, one in images.items()}
    raw = torch.stack([energy(folded).mean(), energy(folded).std(), *detector.scale[2:]])
    scores = {"largest probability": {kind: one.softmax(1).amax(1) for kind, one in logits.items()},
              "energy": {kind: energy(one) for kind, one in logits.items()},
              "largest logit": {kind: largest_logit(one) for kind, one in logits.items()},
              "Mahalanobis": {kind: -gauss.distances(one).amin(1) for kind, one in images.items()},
              "third neighbour": {kind: -one for kind, one in away.items()},
              "energy and neighbour": {kind: fitted["probe"][2].scores(one, logits[kind])
                                       for kind, one in images.items()},
              "the same of a discriminant": {kind: detector.scores(one, answer(one))
                                             for kind, one in images.items()},
              "of a discriminant, mean left in": {
                  kind: combined_score(energy(answer(one)), away[kind], raw)
                  for kind, one in images.items()}}
    scores |= others(train, y, weight, bias, images)
    found = {name: {kind: separation(one["known"], one[kind]) for kind in ("near", "far")}
             for name, one in scores.items()}
    return found, taught(data, draw, held_breeds)


def taught(data, draw, held_breeds):
    "How well a head that was taught the near strangers as well tells them: what features allow."
    z, y, classes = data["z"], data["y"], len(data["vocab"])
    stream = random_stream(draw, "known or not")
    near = torch.randperm(classes, generator=stream)[:held_breeds]
    rows = torch.randperm(len(y), generator=stream)
    valid = even_folds(y[rows], 5) == draw % 5
    weight, bias, _ = solve_probe(z[rows[~valid]], y[rows[~valid]], classes, [3e-3])
    stranger = (z[rows[valid]] @ weight.T + bias).softmax(1)[:, near].sum(1)
    is_near = torch.isin(y[rows[valid]], near)
    return separation(-stranger[~is_near], -stranger[is_near])


def judged(data, draws, dealt, held_breeds=5):
    """p-values of known, near and far images, and the share of known ones refused at 5 %.

    A draw's images share one detector, so the interval is made of the draws, not of the images."""
    p, shares = {"known": [], "near": [], "far": []}, {"probe": [], "discriminant": []}
    for draw in range(draws):
        train, y, images, near = split_of(data, draw, held_breeds, dealt=dealt)
        fitted, _, _ = fit_draw(train, y, len(data["vocab"]) - held_breeds)
        far = torch.cat([*data["far"].values()])
        for kind, one in {"known": images, "near": near, "far": far}.items():
            for head, (answer, _, ours) in fitted.items():
                found = ours.p_values(one, answer(one))
                if kind == "known": shares[head].append((found <= 0.05).double().mean().item())
                if head == "probe": p[kind].append(found)
    return p, {head: share_of(one) | {"draws": draws, "count": sum(map(len, p["known"]))}
               for head, one in shares.items()}


def judged_discriminant(data, draws, dealt, parts, held_breeds=5):
    "The share of known images refused at 5 % by a discriminant, and its separation."
    shares, near_by, far_by = [], [], []
    for draw in range(draws):
        train, y, images, near = split_of(data, draw, held_breeds, dealt=dealt)
        answer, _, ours = discriminant_draw(train, y, len(data["vocab"]) - held_breeds, parts)
        shares.append((ours.p_values(images, answer(images)) <= 0.05).double().mean().item())
        scores = [ours.scores(one, answer(one)) for one in
                  (images, near, torch.cat([*data["far"].values()]))]
        near_by.append(separation(scores[0], scores[1]))
        far_by.append(separation(scores[0], scores[2]))
    return (share_of(shares) | {"draws": draws, "count": len(images) * draws},
            {"near": mean_range(near_by), "far": mean_range(far_by)})


def discriminants(options, draws=10, long=100):
    "The lines of `known` that are of a discriminant: each image left out, and ten folds."
    result = json.loads(RESULTS.read_text())["known"]
    for name in "photographs", "drawn":
        data, lines = torch.load(options.cache / f"{name}.pt"), result[name]
        lines["refused_discriminant"], _ = judged_discriminant(data, long, False, None)
        lines["refused_discriminant_folds"], _ = judged_discriminant(data, long, False, 10)
        lines["refused_dealt_discriminant"], found = judged_discriminant(data, draws, True, None)
        lines["separation"]["the same of a discriminant"] = found
        print(name, {key: one for key, one in lines.items() if "discriminant" in key}, found)
    write("known", result)


def share_of(shares):
    "Mean of the shares of draws, and its interval."
    found = mean_range(shares)
    return {"value": found["mean"], "low": round(found["mean"] - found["half"], 4),
            "high": round(found["mean"] + found["half"], 4)}


def known(options, draws=10, long=20):
    "Known or not, on photographs and on drawn pets."
    result = {"shares": SHARES, "draws": draws}
    for name in "photographs", "drawn":
        data = torch.load(options.cache / f"{name}.pt")
        found = [one_draw(data, draw) for draw in range(draws)]
        rows = {detector: {kind: mean_range([one[detector][kind] for one, _ in found])
                           for kind in ("near", "far")} for detector in found[0][0]}
        rows = dict(sorted(rows.items(), key=lambda one: one[1]["near"]["mean"]))
        p, random = judged(data, long, False)
        _, dealt = judged(data, long // 2, True)
        result[name] = {"separation": rows, "taught": mean_range([one for _, one in found]),
                        "refused": random["probe"], "refused_dealt": dealt["probe"],
                        "refused_discriminant": random["discriminant"],
                        "refused_discriminant_folds": judged_discriminant(data, long, False, 10)[0],
                        "refused_dealt_discriminant": dealt["discriminant"],
                        "strangers": {kind: len(one) for kind, one in data["far"].items()},
                        "caught": {kind: [round((torch.cat(one) <= share).double().mean().item(), 4)
                                          for share in SHARES] for kind, one in p.items()}}
        print(name, {one: (row["near"]["mean"], row["far"]["mean"]) for one, row in rows.items()},
              random, dealt, result[name]["taught"], flush=True)
    write("known", result)


def third_nearest(likeness):
    "Distance to the third nearest, from the products of unit vectors."
    return (2 - 2 * likeness.topk(3, dim=1).values[:, -1]).clamp_min(0).sqrt()


def fresh_draw(z, y, classes, train, rest):
    """p-values of images that nothing was fitted on: by the detector, and by the strict form, in
    which each fold's head and neighbours judge an image against that fold (Vovk, 2015)."""
    (weight, bias), heads, folds, held = fold_heads(z[train], y[train], classes)
    ours = fit_detector(z[train], held)
    short = ours.p_values(z[rest], z[rest] @ weight.T + bias)
    known_rows, new_rows = unit_length(z[train]), unit_length(z[rest])
    own, new = known_rows @ known_rows.T, new_rows @ known_rows.T
    counted = torch.zeros(len(rest))
    for fold, (weight, bias) in enumerate(heads):
        here = folds == fold
        reference = combined_score(centred_energy(held[here]),
                                   third_nearest(own[here][:, ~here]), ours.scale)
        score = combined_score(centred_energy(z[rest] @ weight.T + bias),
                               third_nearest(new[:, ~here]), ours.scale)
        counted += p_values(score, reference) * (len(reference) + 1) - 1
    return {"short": short, "strict": (counted + 1) / (len(train) + 1)}


def fresh(options, draws=14, size=256, held_breeds=5):
    "Refusals of drawn pets that nobody has dealt out: training images and new ones by chance."
    data = torch.load(options.cache / "fresh.pt")
    z, labels, classes, p = data["z"], data["y"], len(data["vocab"]), {"short": [], "strict": []}
    for draw in range(draws):
        stream = random_stream(draw, "fresh")
        breeds = torch.randperm(classes, generator=stream)[held_breeds:].sort().values
        number = torch.full((classes,), -1)
        number[breeds] = torch.arange(len(breeds))
        rows = (number[labels] >= 0).nonzero().flatten()
        rows = rows[torch.randperm(len(rows), generator=stream)]
        found = fresh_draw(z, number[labels], len(breeds), rows[:size], rows[size:])
        for name, one in found.items(): p[name].append(one)
        print(draw, {name: round((one[-1] <= 0.05).double().mean().item(), 3)
                     for name, one in p.items()}, flush=True)
    write("fresh", {"draws": draws, "training": size, "count": sum(map(len, p["short"])), **{
        name: {str(asked): share_of([(one <= asked).double().mean().item() for one in found])
               for asked in (0.025, 0.05, 0.1, 0.2)} for name, found in p.items()}})


# ---- sets -------------------------------------------------------------------------------------

def torchcp_raps():
    "TorchCP's RAPS with the settings of its examples, or None."
    # its other parts need packages that its scores do not
    absent = {name: mock.MagicMock() for name in ("torchsort", "torch_geometric", "transformers",
              "torchcp.graph", "torchcp.llm", "torchcp.regression")}
    with mock.patch.dict(sys.modules, absent):
        try: from torchcp.classification.score.raps import RAPS
        except ImportError: return None
    return RAPS(score_type="identity", randomized=True, penalty=0.01, kreg=5)


def set_rows(probabilities, targets, held, truth, folded, coverages):
    "The sets of one split by every method: {method: {coverage: bool (N, C)}}."
    stream, p = random_stream(len(targets), "shares"), {}
    places = torch.arange(len(truth))
    for method in "threshold", "aps", "raps":
        shares = [None if method == "threshold" else torch.rand(len(one), 1, generator=stream)
                  for one in (held, probabilities)]
        p[method] = class_p_values(strangeness(probabilities, method, shares[1]),
                                   strangeness(held, method, shares[0])[places, truth])
    folds, heads = folded
    p["threshold, every fold"] = cross_p_values(
        [strangeness(one) for one in heads],
        [strangeness(held)[places, truth][folds == fold] for fold in range(len(heads))])
    raps = torchcp_raps()
    if raps:
        torch.manual_seed(0)
        p["torchcp_raps"] = class_p_values(raps._calculate_all_label(probabilities),
                                           raps._calculate_single_label(held, truth))
    return {name: {one: prediction_sets(values, one, never_empty=False) for one in coverages}
            for name, values in p.items()}


def rotated(z, size=128):
    "The principal components of the features, standardised over all images: quick to solve for."
    std = z.std(0)
    x = (z - z.mean(0)) / std.clamp_min(1e-3 * std.mean())
    return x @ torch.linalg.svd(x, full_matrices=False)[2][:size].T


def solve_heads(z, y, classes, masks, l2, max_iter=50):
    "Solve a linear head on each subset of the images, all in one run of L-BFGS: (H, C, D + 1)."
    ones = torch.cat([z, z.new_ones(len(z), 1)], 1)
    answer = torch.zeros(len(masks) * classes, ones.shape[1], requires_grad=True)
    price = torch.full((ones.shape[1],), l2)
    price[-1] = l2 * 1e-3
    share = masks / masks.sum(1, keepdim=True)
    solver = torch.optim.LBFGS([answer], max_iter=max_iter, history_size=20, tolerance_grad=1e-7,
                               line_search_fn="strong_wolfe")

    def loss():
        solver.zero_grad()
        logits = (ones @ answer.T).reshape(len(z), len(masks), classes)
        each = F.cross_entropy(logits.flatten(0, 1), y.repeat_interleave(len(masks)), reduction="none")
        value = (each.reshape(len(z), -1).T * share).sum() + (price * answer.square()).sum() / 2
        value.backward()
        return value

    solver.step(loss)
    return answer.detach().reshape(len(masks), classes, -1)


def one_split(z, y, classes, seed, coverages, penalty=3e-3, parts=10):
    """Train on four fifths, and give the sets of the rest with its targets.

    The penalty is the one that the probe chooses for all photographs."""
    rows = torch.randperm(len(y), generator=random_stream(seed, "split"))
    valid, train = rows[:len(y) // 5], rows[len(y) // 5:]
    folds = even_folds(y[train], parts)
    masks = torch.stack([folds >= 0] + [folds != fold for fold in range(parts)]).float()
    heads = solve_heads(z[train], y[train], classes, masks, penalty)
    answer = lambda head, where: (z[where] @ head[:, :-1].T + head[:, -1]).softmax(1)
    held = torch.stack([answer(heads[fold + 1], train[place:place + 1])[0]
                        for place, fold in enumerate(folds.tolist())])
    return set_rows(answer(heads[0], valid), y[valid], held, y[train],
                    (folds, [answer(head, valid) for head in heads[1:]]), coverages), y[valid]


def sets(options, splits=100):
    "Coverage and size of sets over many splits of the photographs."
    data, coverages = torch.load(options.cache / "photographs.pt"), (0.8, 0.9, 0.95)
    found, z = [], rotated(data["z"])
    for seed in range(splits):
        found.append(one_split(z, data["y"], len(data["vocab"]), seed, coverages))
        if seed % 25 == 24: write("sets", summary_of(data, found, coverages))


def summary_of(data, found, coverages):
    "Coverage and size over all splits so far, by every method, and class by class."
    rows = {method: {str(one): {"coverage": [], "size": []} for one in coverages}
            for method in found[0][0]}
    for made, targets in found:
        for method, asked in made.items():
            for coverage, chosen in asked.items():
                measured = measure_sets(chosen, targets)
                rows[method][str(coverage)]["coverage"].append(measured.coverage.value)
                rows[method][str(coverage)]["size"].append(measured.size)
    rows = {method: {one: {key: mean_range(values, 0.05, 0.95) for key, values in cell.items()}
                     for one, cell in asked.items()} for method, asked in rows.items()}
    whole = measure_sets(torch.cat([made["threshold"][0.9] for made, _ in found]),
                         torch.cat([targets for _, targets in found]))
    by_class = {name: [round(share.value, 4), round(size, 3), count] for name, (share, size, count)
                in zip(data["vocab"], whole.by_class)}
    # ten images of a class recur in all splits, so its interval is that of ten images
    off = sum(not (found.low <= 0.9 <= found.high) for found in
              (wilson_interval(round(share * 10), 10) for share, _, _ in by_class.values()))
    return {"splits": len(found), "coverages": [str(one) for one in coverages], "methods": rows,
            "by_class": by_class, "classes": len(by_class), "classes_off": off}


# ---- uneven classes ---------------------------------------------------------------------------

COUNTS = [2, 2, 3, 5, 5, 10, 10, 20, 20, 30, 60, 60]
BREEDS = ["beagle", "Bengal", "boxer", "Birman", "pug", "Ragdoll", "samoyed", "Siamese",
          "Sphynx", "havanese", "Bombay", "leonberger"]


def make_uneven_features(options, each=90):
    "Cache petnet's features of some breeds, many drawings of each."
    from petbook.all import (CategoryBlock, DataBlock, ImageBlock, RandomSplitter, Resize,
                             petnet, vision_learner)
    from petbook.drawing.pets import draw_pet
    from petbook.models.features import pooled_features
    items = [(breed, number) for breed in BREEDS for number in range(each)]
    drawn = [draw_pet(breed, number, seed=7, size=160) for breed, number in items]
    places = list(range(len(items)))
    block = DataBlock(blocks=(ImageBlock(type_tfms=[drawn.__getitem__]), CategoryBlock),
                      get_items=lambda source: source, get_y=lambda place: items[place][0],
                      splitter=RandomSplitter(), item_tfms=Resize(128))
    learn = vision_learner(block.dataloaders(places, bs=32, num_workers=0), petnet, precision="fp32")
    z, y = pooled_features(learn, learn.dls.test_dl(places, with_labels=True))
    torch.save({"z": z, "y": y, "vocab": list(learn.dls.vocab)}, options.cache / "uneven.pt")


def solve_with(loss_func, z, y, classes, l2=3e-3):
    "A linear head by L-BFGS under any loss: weights (C, D) and biases (C,) for standardised z."
    answer = torch.zeros(classes, z.shape[1] + 1, requires_grad=True)
    ones = torch.cat([z, z.new_ones(len(z), 1)], 1)
    solver = torch.optim.LBFGS([answer], max_iter=200, history_size=20, tolerance_grad=1e-6,
                               line_search_fn="strong_wolfe")

    def loss():
        solver.zero_grad()
        value = loss_func(ones @ answer.T, y) + l2 / 2 * answer[:, :-1].square().sum()
        value.backward()
        return value

    solver.step(loss)
    return answer.detach()


def ways_of(y, classes, stream):
    "Ways to train on uneven classes: name -> (loss, rows to train on, shift of the answers)."
    from petbook.losses.uneven import class_counts_of, log_shares, uneven_loss
    every = torch.arange(len(y))
    counts = class_counts_of(y, classes)
    evenly = torch.multinomial(1 / counts[y], len(y), True, generator=stream)
    plain, nothing = uneven_loss("none", y, classes), torch.zeros(classes)
    return {"plain": (plain, every, nothing),
            "balanced weights": (uneven_loss("balanced", y, classes), every, nothing),
            "effective weights": (uneven_loss("effective", y, classes), every, nothing),
            "balanced drawing": (plain, evenly, nothing),
            "logit-adjusted loss": (uneven_loss("logit_adjusted", y, classes), every, nothing),
            "logits adjusted afterwards": (plain, every, log_shares(counts))}


def uneven_draw(data, draw, judged=30):
    "Train in every way on one uneven draw: recall of each class, and calibration."
    from petbook.interpretation.scores import expected_calibration_error
    z, y, classes = data["z"], data["y"], len(data["vocab"])
    stream = random_stream(draw, "uneven")
    counts = torch.tensor(COUNTS)[torch.randperm(classes, generator=stream)]
    rows, test = [], []
    for number, count in enumerate(counts.tolist()):
        here = (y == number).nonzero().flatten()
        here = here[torch.randperm(len(here), generator=stream)]
        test.append(here[:judged])
        rows.append(here[judged:judged + count])
    rows, test = torch.cat(rows), torch.cat(test)
    mean, std = z[rows].mean(0), z[rows].std(0).clamp_min(1e-6)
    x, found = (z - mean) / std.clamp_min(1e-3 * std.mean()), {}
    as_drawn = test[torch.multinomial(counts[y[test]].double(), 2000, True, generator=stream)]
    for name, (loss, chosen, shift) in ways_of(y[rows], classes, stream).items():
        head = solve_with(loss, x[rows][chosen], y[rows][chosen], classes)
        answer = lambda where: (x[where] @ head[:, :-1].T + head[:, -1] - shift).softmax(1)
        hits = (answer(test).argmax(1) == y[test]).double()
        found[name] = {"recall": [hits[y[test] == one].mean().item() for one in range(classes)],
                       "ece": expected_calibration_error(answer(test), y[test]),
                       "ece_drawn": expected_calibration_error(answer(as_drawn), y[as_drawn]),
                       "accuracy_drawn": (answer(as_drawn).argmax(1) == y[as_drawn]).double().mean().item()}
    return counts, found


def uneven(options, draws=10):
    "Uneven classes: recall of rare and frequent classes, and calibration, in every way."
    if not (options.cache / "uneven.pt").exists(): make_uneven_features(options)
    data = torch.load(options.cache / "uneven.pt")
    found, sizes, ways = [uneven_draw(data, draw) for draw in range(draws)], sorted(set(COUNTS)), {}
    for name in found[0][1]:
        recalls = [torch.tensor(one[name]["recall"]) for _, one in found]
        groups = {"rare": lambda counts: counts <= 5, "frequent": lambda counts: counts >= 30,
                  "middle": lambda counts: (counts > 5) & (counts < 30)}
        plain = [torch.tensor(one["plain"]["recall"]) for _, one in found]
        ways[name] = {"balanced_accuracy": mean_range([one.mean() for one in recalls]),
                      "gain": mean_range([(one - other).mean() for one, other in zip(recalls, plain)])}
        ways[name] |= {group: mean_range([one[chosen(counts)].mean() for one, (counts, _)
                                          in zip(recalls, found)])
                       for group, chosen in groups.items()}
        ways[name] |= {key: mean_range([one[name][key] for _, one in found])
                       for key in ("ece", "ece_drawn", "accuracy_drawn")}
        ways[name]["recall_by_count"] = [
            round(torch.cat([one[counts == size] for one, (counts, _)
                             in zip(recalls, found)]).mean().item(), 4) for size in sizes]
    write("uneven", {"counts": sizes, "draws": draws, "ways": ways})
    for name, row in ways.items(): print(name, {key: row[key]["mean"] for key in list(row)[:-1]})


# ---- one class more ---------------------------------------------------------------------------

def growing(options, choices=10, penalty=3e-3):
    "One class more: error of old and new classes and time, against training from scratch."
    from petbook.models.growing import grow_layer
    data = torch.load(options.cache / "photographs.pt")
    z, y, classes, found = data["z"], data["y"], len(data["vocab"]), []
    for new in torch.randperm(classes, generator=random_stream(1, "new class"))[:choices].tolist():
        stream = random_stream(new, "one class more")
        rows = torch.randperm(len(y), generator=stream)
        valid = torch.zeros(len(y), dtype=torch.bool)
        valid[rows[even_folds(y[rows], 5) == 0]] = True
        # the new class comes last
        number = torch.tensor([one - (one > new) if one != new else classes - 1
                               for one in range(classes)])[y]
        old = number < classes - 1
        weight, bias, _ = solve_probe(z[~valid & old], number[~valid & old], classes - 1, [penalty])
        before = (z[valid & old] @ weight.T + bias).argmax(1) == number[valid & old]
        started = time.process_time()  # of one core: others may use the machine
        layer = torch.nn.Linear(z.shape[1], classes - 1)
        with torch.no_grad(): layer.weight.copy_(weight), layer.bias.copy_(bias)
        grown = grow_layer(layer, z[~valid], number[~valid])
        seconds = time.process_time() - started
        weight, bias, _ = solve_probe(z[~valid], number[~valid], classes, [penalty])
        right = {"grown": grown(z[valid]).argmax(1) == number[valid],
                 "scratch": (z[valid] @ weight.T + bias).argmax(1) == number[valid]}
        kinds = old[valid]
        found.append({"class": data["vocab"][new], "seconds": seconds,
                      "old_before": before.double().mean().item()}
                     | {f"{name}_{kind}": one[kinds == (kind == "old")].double().mean().item()
                        for name, one in right.items() for kind in ("old", "new")})
        print(found[-1], flush=True)
    write("growing", {"choices": choices, "new": [one["class"] for one in found],
                      **{key: mean_range([one[key] for one in found])
                         for key in found[0] if key != "class"}})


def discriminant_of(z, y, classes, solver=None):
    "A discriminant by these settings, or by those it chooses, and its detector: answers, settings."
    averages = lambda one: one[:, one.shape[1] // 2:]
    if solver is None:
        chosen = choose_discriminant(averages(z), y, classes)
        solver = HeadSolver("discriminant", chosen.shrinkage, chosen.temperature)
    weight, bias = solver(averages(z), y, classes)
    detector = fit_detector(z, fold_logits(averages(z), y, classes, solver))
    refused = lambda one: (detector.p_values(one, F.linear(averages(one), weight, bias))
                           <= 0.05).double()
    right = lambda one, wanted: (F.linear(averages(one), weight, bias).argmax(1) == wanted).double()
    return refused, right, solver


def refusals(options, choices=10):
    "What a grown model refuses, and one trained from scratch: the head that `petbook train` takes."
    data = torch.load(options.cache / "photographs.pt")
    z, y, classes, far = data["z"], data["y"], len(data["vocab"]), torch.cat([*data["far"].values()])
    shares = {}
    for new in torch.randperm(classes, generator=random_stream(1, "new class"))[:choices].tolist():
        rows = torch.randperm(len(y), generator=random_stream(new, "one class more"))
        valid = torch.zeros(len(y), dtype=torch.bool)
        valid[rows[even_folds(y[rows], 5) == 0]] = True
        number = torch.tensor([one - (one > new) if one != new else classes - 1
                               for one in range(classes)])[y]
        old = number < classes - 1
        before = discriminant_of(z[~valid & old], number[~valid & old], classes - 1)
        models = {"before": before,
                  "grown": discriminant_of(z[~valid], number[~valid], classes, before[2]),
                  "scratch": discriminant_of(z[~valid], number[~valid], classes)}
        for name, (refused, right, _) in models.items():
            for kind, part in {"old": valid & old, "new": valid & ~old}.items():
                shares.setdefault(f"{name}_{kind}", []).append(refused(z[part]).mean().item())
                shares.setdefault(f"{name}_{kind}_right", []).append(
                    right(z[part], number[part]).mean().item())
            shares.setdefault(f"{name}_far", []).append(refused(far).mean().item())
    write("refusals", {"choices": choices, "old_images": int((valid & old).sum()) * choices,
                       "new_images": int((valid & ~old).sum()) * choices, "far_images": len(far),
                       **{key: mean_range(values) for key, values in shares.items()}})
    print({key: round(sum(values) / choices, 3) for key, values in shares.items()})


def command(options, times=5):
    "Time `petbook add-class` in cold processes, and beside it the mere import of torch."
    import subprocess
    import tempfile
    from resource import RUSAGE_CHILDREN, getrusage
    walls, cores, imports = [], [], []
    with tempfile.TemporaryDirectory() as folder:
        for place in range(times):
            started, before = time.perf_counter(), getrusage(RUSAGE_CHILDREN)
            subprocess.run([sys.executable, "-c", "from petbook.cli.main import main; main()",
                            "add-class", options.run, options.new, "--out",
                            f"{folder}/{place}"], check=True, capture_output=True)
            after = getrusage(RUSAGE_CHILDREN)
            walls.append(time.perf_counter() - started)
            cores.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
            started = time.perf_counter()
            subprocess.run([sys.executable, "-c", "import torch"], check=True)
            imports.append(time.perf_counter() - started)
            print(f"{walls[-1]:.1f} s, {cores[-1]:.1f} s of a core; importing torch "
                  f"{imports[-1]:.1f} s", flush=True)
    manifest = json.loads((Path(options.run) / "settings.json").read_text())
    write("command", {"arch": manifest["arch"], "times": times,
                      "images": sum(1 for _ in Path(options.new).iterdir()),
                      "seconds": mean_range(walls), "core_seconds": mean_range(cores),
                      "import_torch": mean_range(imports)})


# ---- what to label next -----------------------------------------------------------------------

def suggesting(options, draws=10, start=2, steps=(37, 74, 111)):
    "Error after labelling more photographs, chosen by petbook or at random."
    from petbook.interpretation.suggesting import suggestion_order
    data = torch.load(options.cache / "photographs.pt")
    z, y, classes = data["z"], data["y"], len(data["vocab"])
    errors = {way: {str(step): [] for step in (0, *steps)}
              for way in ("suggested", "uncertain only", "random")}
    for draw in range(draws):
        stream = random_stream(draw, "suggesting")
        rows = torch.randperm(len(y), generator=stream)
        fold = even_folds(y[rows], 10)
        test, first = rows[fold < 3], rows[(fold >= 3) & (fold < 3 + start)]
        pool = rows[fold >= 3 + start]

        def judge(labelled):
            weight, bias, _ = solve_probe(z[labelled], y[labelled], classes, [3e-3])
            return weight, bias, ((z[test] @ weight.T + bias).argmax(1) != y[test]).double().mean().item()

        for way, found in errors.items():
            labelled, left = first, pool
            weight, bias, error = judge(labelled)
            found["0"].append(error)
            for step in steps:
                count = step - (len(labelled) - len(first))
                p = (z[left] @ weight.T + bias).softmax(1)
                if way == "suggested": order = suggestion_order(p, z[left], z[labelled], count)
                elif way == "random": order = torch.randperm(len(left), generator=stream)[:count]
                else: order = suggestion_order(p, None, None, count)
                keep = torch.ones(len(left), dtype=torch.bool)
                keep[order] = False
                labelled, left = torch.cat([labelled, left[order]]), left[keep]
                weight, bias, error = judge(labelled)
                found[str(step)].append(error)
        print(draw, {way: [round(one[-1], 3) for one in found.values()]
                     for way, found in errors.items()}, flush=True)
    write("suggesting", {"draws": draws, "start": start, "errors":
                         {way: {step: mean_range(values) for step, values in found.items()}
                          for way, found in errors.items()}})


def main():
    "Run the parts that are asked for."
    parts = {"features": make_features, "known": known, "fresh": fresh, "sets": sets, "uneven": uneven,
             "growing": growing, "refusals": refusals, "discriminants": discriminants,
             "suggesting": suggesting, "command": command}
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("parts", nargs="+", choices=[*parts])
    parser.add_argument("--photographs", help="folder of photographs named like breed_12.jpg")
    parser.add_argument("--strangers", help="folder of photographs without animals")
    parser.add_argument("--run", help="folder that `petbook train` left, for `command`")
    parser.add_argument("--new", help="folder of images of a new class, for `command`")
    parser.add_argument("--cache", type=Path, default=Path("features"), help="folder for features")
    options = parser.parse_args()
    options.cache.mkdir(exist_ok=True)
    torch.set_num_threads(1)
    for part in options.parts:
        started = time.perf_counter()
        parts[part](options)
        print(f"{part}: {time.perf_counter() - started:.0f} s")


if __name__ == "__main__": main()
