"""Record the learning rates and momentum that fastai gives each layer group, batch by batch.

Run with a Python that has fastai 2.8.12 installed:  python nbs/scripts/record_fastai_rates.py
Writes nbs/scripts/results/fastai_rates.json, which nbs/09_fine_tuning.ipynb compares petbook with.
"""
import json
from importlib.metadata import version
from pathlib import Path

import torch
from fastai.basics import L, DataLoader, DataLoaders, Learner, nn, params
from fastai.callback.all import Callback


class Record(Callback):
    "Keep each batch's rates and momentum."
    order = 70  # after the schedule has set them

    def __init__(self): self.rows = []

    def before_batch(self):
        if self.training: self.rows.append([[float(group["lr"]) for group in self.opt.hypers], float(self.opt.hypers[-1]["mom"])])


def three_groups(model):
    return L(model[0], model[1], model[2]).map(params)


def make():
    "A learner on random numbers: 3 layer groups, 4 batches in an epoch."
    items = [(torch.randn(4), torch.randn(1)) for _ in range(8)]
    dls = DataLoaders(DataLoader(items, bs=2), DataLoader(items, bs=2))
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 1))
    return Learner(dls, model, loss_func=nn.MSELoss(), splitter=three_groups)


runs = {
    "fine_tune(3, 3e-3, freeze_epochs=2)": lambda learner, record: learner.fine_tune(3, 3e-3, freeze_epochs=2, cbs=record),
    "fit_one_cycle(2, slice(1e-5, 1e-3))": lambda learner, record: learner.fit_one_cycle(2, slice(1e-5, 1e-3), cbs=record),
    "fit_one_cycle(2, slice(1e-3))": lambda learner, record: learner.fit_one_cycle(2, slice(1e-3), cbs=record),
    "fit_flat_cos(2, 1e-3)": lambda learner, record: learner.fit_flat_cos(2, 1e-3, cbs=record),
    "fit_sgdr(2, 1, 1e-3)": lambda learner, record: learner.fit_sgdr(2, 1, 1e-3, cbs=record),
}
found = {"fastai": version("fastai")}
for name, run in runs.items():
    record, learner = Record(), make()
    with learner.no_bar(), learner.no_logging(): run(learner, record)
    found[name] = record.rows
    print(f"{name}: {len(record.rows)} batches")
path = Path(__file__).parent / "results" / "fastai_rates.json"
path.write_text(json.dumps(found) + "\n")
