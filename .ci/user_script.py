"""A small script as a user would write it: type checkers must accept every line but the marked ones."""
from pathlib import Path

from petbook.all import (CategoryBlock, ClassificationInterpretation, DataBlock, ImageBlock,
                         RandomSplitter, RegexLabeller, Resize, aug_transforms, cnn_learner,
                         error_rate, get_image_files, get_pets, load_learner, petnet, using_attr)

path = get_pets("sketch")
pets = DataBlock(blocks=(ImageBlock, CategoryBlock), get_items=get_image_files,
                 splitter=RandomSplitter(seed=42), item_tfms=Resize(160),
                 get_y=using_attr(RegexLabeller(r"(.+)_\d+.jpg$"), "name"),
                 batch_tfms=aug_transforms(size=128, min_scale=0.75))
dls = pets.dataloaders(path / "images", bs=32)
learn = cnn_learner(dls, petnet, metrics=error_rate)
learn.fine_tune(1, 3e-3)
learn.to_fp32()
probabilities, targets = learn.get_preds()
print(probabilities.shape, targets)
pairs = ClassificationInterpretation.from_learner(learn).most_confused(min_val=2)
print(len(pairs), pairs[0])
file: Path = learn.export("pets.safetensors")
answer, number, chances = load_learner(file).predict("photo.jpg")
print(answer.upper(), number, chances.max())

RandomSplitter(valid_pct="a fifth")  # planted: a word for a number
Resize(sise=160)  # planted: a misspelt argument
learn.fine_tune("four")  # planted: a word for a number
learn.finetune(4)  # planted: a method that does not exist
get_pets(3)  # planted: a number for a name
dls.vocabulary  # planted: an attribute that does not exist
load_learner(file).predict("photo.jpg", 7, 7)  # planted: too many arguments
