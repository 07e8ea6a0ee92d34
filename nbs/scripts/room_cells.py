"""Names and examples of a room for another notebook, so that the solutions of its exercises start where the
room ended: `room(globals(), "110_transforms", "class Roll")` imports what the room imports and defines, and
runs those of its cells that hold one of the words. What these cells print and draw is not shown."""
import ast
import contextlib
import io
import json
import re
from importlib import import_module
from pathlib import Path

import matplotlib.pyplot as plt


def only_imports(source):
    "Does a cell do nothing but import?"
    try: body = ast.parse(source).body
    except SyntaxError: return False
    return bool(body) and all(isinstance(one, (ast.Import, ast.ImportFrom)) for one in body)


def room(this, name, *words):
    "Fill the dictionary `this` with a room's names, and run its cells that hold one of the words in it."
    file = Path(__file__).resolve().parents[1] / f"{name}.ipynb"
    cells = ["".join(cell["source"]) for cell in json.loads(file.read_text(encoding="utf-8"))["cells"]
             if cell["cell_type"] == "code"]
    module = re.search(r"^#\| default_exp ([\w.]+)", "\n".join(cells), re.M)[1]
    this.update({key: value for key, value in vars(import_module(f"petbook.{module}")).items()
                 if not key.startswith("__")})
    for word in words:
        if not any(word in cell for cell in cells): raise LookupError(f"no cell of {file.name} holds {word!r}")
    shown = set(plt.get_fignums())
    with contextlib.redirect_stdout(io.StringIO()):
        for cell in cells:
            exported = re.search(r"^#\| exports?\b", cell, re.M)
            if only_imports(cell) or not exported and any(word in cell for word in words): exec(cell, this)
    for number in set(plt.get_fignums()) - shown: plt.close(number)
