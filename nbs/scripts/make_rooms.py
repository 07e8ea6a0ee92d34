"""Write the pages that are made from the notebooks themselves: nbs/rooms.qmd (number, title, what one can
do after it, which rooms it needs, and how data flow through them) and nbs/reference.qmd (every public name
with a line), nbs/references.qmd (the papers of references.bib, and which pages name them). `--check` says
whether all are up to date. Run `nbdev_export` first."""
import ast
import json
import re
import sys
from html import escape
from pathlib import Path

NBS = Path(__file__).resolve().parents[1]
PACKAGE = NBS.parent / "petbook"
WINGS = {"0": "Base, and the drawn pets", "1": "Images", "2": "Augmentation", "3": "Data",
         "4": "Losses", "5": "Training", "6": "Models", "7": "Interpretation", "8": "Use"}
# The drawing: x, y, width, words, module of the room. Two lanes, one for pixels and one for labels.
BOXES = (
    (150, 10, 180, "a folder of images", "data.files"),
    (150, 80, 180, "paths, in two parts", "data.splits"),
    (20, 150, 210, "open, upright, RGB", "images.opening"),
    (250, 150, 210, "read the label", "data.labels"),
    (20, 220, 210, "presize: Resize(460)", "images.stage"),
    (250, 220, 210, "number in the vocabulary", "data.building"),
    (130, 290, 220, "a batch, on the device", "data.loaders"),
    (130, 360, 220, "one sampling, one pass of light", "augmentation.stage"),
    (130, 430, 220, "network: logits", "models.backbones"),
    (20, 500, 210, "cross-entropy: loss", "losses.cross_entropy"),
    (250, 500, 210, "probabilities", "inference.predictions"),
    (20, 570, 210, "optimizer, learning rates", "training.trainer"),
    (250, 570, 210, "interpretation, predictor", "interpretation.interpretation"))
ARROWS = ((0, 1, "get_items"), (1, 2, "train / valid"), (1, 3, "get_y"), (2, 4, "uint8, any size"),
          (3, 5, "text"), (4, 6, "uint8 [3, 460, 460]"), (5, 6, "int64"), (6, 7, "uint8 [B, 3, 460, 460]"),
          (7, 8, "float [B, 3, 224, 224]"), (8, 9, "[B, classes]"), (8, 10, "softmax"), (9, 11, "gradients"),
          (10, 12, "after training"))


def read_room(path):
    "A notebook's number, title, subtitle, module, and the modules that it imports."
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    sources = ["".join(cell["source"]) for cell in cells]
    title, subtitle = re.search(r"^# (.+)\n\n> (.+)", "\n".join(sources), re.M).groups()
    exported = "\n".join(source for source in sources if source.startswith("#| export"))
    needs = re.findall(r"^from petbook\.([\w.]+) import", exported, re.M)
    module = re.search(r"#\| default_exp ([\w.]+)", sources[0])[1]
    return path.name[:3], title, subtitle, module, needs


def read_rooms():
    "Every room, by number; and the file of each module's room."
    paths = sorted(NBS.glob("[0-9]*.ipynb"))
    rooms = [read_room(path) for path in paths]
    return rooms, {room[3]: path.name for room, path in zip(rooms, paths)}


def page_of(file):
    "The name that a notebook's page gets from nbdev."
    return re.sub(r"^\d+[a-zA-Z0-9]*_", "", file).replace(".ipynb", ".html")


def draw_flow(files):
    "How data flow, as SVG in the colours of the page; each box leads to its room."
    parts = ['<svg viewBox="0 0 480 620" role="img" aria-label="How data flow: a folder of images becomes paths, '
             'split in two; one lane opens and presizes the images, the other reads labels and numbers them; both '
             'meet in a batch, which is augmented in one sampling and goes through the network; its logits lead to '
             'the loss and the optimizer, and to probabilities and their interpretation." '
             'style="max-width: 480px; width: 100%; font-size: 13px">',
             '<defs><marker id="tip" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" '
             'orient="auto"><path d="M0 0 L8 4 L0 8 z" fill="#7a8794"/></marker></defs>']
    for start, end, words in ARROWS:
        (x1, y1, w1, *_), (x2, y2, w2, *_) = BOXES[start], BOXES[end]
        x1, x2 = x1 + w1 / 2, x2 + w2 / 2
        aside = -8 if x1 != x2 and x1 + x2 < 480 else 8  # outside of a fork
        parts.append(f'<line x1="{x1:g}" y1="{y1 + 36}" x2="{x2:g}" y2="{y2 - 2}" stroke="#7a8794" '
                     'marker-end="url(#tip)"/>'
                     f'<text x="{(x1 + x2) / 2 + aside:g}" y="{(y1 + 36 + y2) / 2 + 4:g}" font-size="11" '
                     f'fill="#7a8794" text-anchor="{"start" if aside > 0 else "end"}">{escape(words)}</text>')
    for x, y, width, words, module in BOXES:
        room = files[module]
        parts.append(f'<a href="{page_of(room)}"><rect x="{x}" y="{y}" width="{width}" height="36" rx="6" '
                     'fill="none" stroke="currentColor"/>'
                     f'<text x="{x + width / 2:g}" y="{y + 23}" text-anchor="middle" fill="currentColor">'
                     f'{room[:3]} {escape(words)}</text></a>')
    return "\n".join([*parts, "</svg>"])


def make_rooms():
    "The page of rooms as text."
    rooms, files = read_rooms()
    lines = ["---", "title: The rooms", "subtitle: Every page of the reference, what you can do "
             "after it, and which pages it builds on", "---", "",
             "Each room is one notebook, one module and one idea. A room imports only from rooms "
             "with a smaller number, so you can read in order, or start anywhere and go back by "
             "the last column. [The reference](reference.qmd) lists every public name.", "",
             "## How data flow", "", "```{=html}", draw_flow(files), "```", ""]
    for digit, wing in WINGS.items():
        lines += [f"## {wing}", "", "::: {.rooms}", "", "| | room | after it you can | builds on |",
                  "|:--|:------|:--------------------|:-----|"]
        for room, title, subtitle, module, needs in rooms:
            if room[0] != digit: continue
            below = sorted({files[need] for need in needs if need in files} - {files["core"]})
            shown = " ".join(f"[{file[:3]}]({file})" for file in below)
            if module == "all": shown = "every room"
            lines.append(f"| {room} | [{title}]({files[module]}) | {subtitle} | {shown} |")
        lines += ["", ":::", ""]
    return "\n".join(lines)


def public_names(module):
    "The public names of a module: name, what it is, and whether it is a definition with a signature."
    text = (PACKAGE / (module.replace(".", "/") + ".py")).read_text(encoding="utf-8")
    tree, lines = ast.parse(text), text.splitlines()
    listed, said = [], {}
    for node in tree.body:
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            said[node.name] = (ast.get_docstring(node) or "").split("\n\n")[0].replace("\n", " ")
        elif isinstance(node, ast.Assign):
            name = getattr(node.targets[0], "id", "")
            comment = re.search(r"  #\s*(.+)$", lines[node.end_lineno - 1])
            if name == "__all__": listed = ast.literal_eval(node.value)
            else: said[name] = comment[1] if comment else worth(node.value)
    defined = {node.name for node in tree.body if isinstance(node, (ast.FunctionDef, ast.ClassDef))
               and not any("command" in ast.unparse(one) for one in node.decorator_list)}
    return [(name, said[name], name in defined) for name in listed if name in said]


def worth(value):
    "What a constant is, in a few words."
    text = ast.unparse(value).replace("`", "'")
    if isinstance(value, ast.Name): return f"another name of `{text}`"
    return f"`{text}`" if len(text) < 60 else f"`{text[:57]}…`"


def star_names():
    "What `from petbook.all import *` brings."
    tree = ast.parse((PACKAGE / "all.py").read_text(encoding="utf-8"))
    return {name for node in tree.body if isinstance(node, ast.Assign) and node.targets[0].id == "__all__"
            for name in ast.literal_eval(node.value)}


def make_reference():
    "The page of all public names as text."
    rooms, files = read_rooms()
    lines = ["---", "title: The reference", "subtitle: Every public name of petbook, with one line each, "
             "by wing", "---", "",
             "`from petbook.all import *` brings the **bold** names; the others are imported from the module beside "
             "them, as in `from petbook.core import size_pair`. Each name leads to its page: what it takes, what it "
             "gives, its source and an example. Search in the page opens the lists.", ""]
    together = star_names()
    for digit, wing in WINGS.items():
        rows = []
        for room, _, _, module, _ in rooms:
            if room[0] != digit or module == "all": continue
            for name, words, defined in public_names(module):
                shown = re.sub(r"(`[^`]*`)|<", lambda found: found[1] or r"\<", words.replace("|", "\\|"))
                shown = shown.replace("--", r"\-\-")  # an option stays one, and becomes no dash
                anchor = f"#api-{name}" if defined else ""
                link = f"[`{name}`]({files[module]}{anchor})"
                link = f"**{link}**" if name in together else link
                rows.append(f"| {link} | {shown} | `{module}` [{room}]({files[module]}) |")
        lines += [f"## {wing}", "", "```{=html}", f"<details><summary>{len(rows)} names</summary>", "```", "",
                  "::: {.names}", "", "| name | what it is | module, room |", "|:-------|:---------------|:-----|", *rows, "",
                  ":::", "", "```{=html}", "</details>", "```", ""]
    return "\n".join(lines)


def read_papers():
    "The entries of references.bib, as dictionaries."
    text = (NBS / "references.bib").read_text(encoding="utf-8")
    return [dict(re.findall(r"^ *(\w+) = \{(.*?)\},?$", entry, re.M)) | {"key": key}
            for key, entry in re.findall(r"^@\w+\{(\w+),\n(.*?)^\}", text, re.M | re.S)]


def naming_pages(paper):
    "Links to the pages that name a paper."
    for path in [*sorted(NBS.glob("*.ipynb")), *sorted(NBS.glob("*/*.ipynb"))]:
        if path.name == "897_site_pages.ipynb" or path.parent.name == "solutions": continue  # examples
        cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
        text = "\n".join("".join(cell["source"]) for cell in cells)
        if any(paper.get(field) and paper[field] in text for field in ("eprint", "found")):
            place = path.relative_to(NBS).as_posix()
            title = re.search(r"^# (.+)$", text, re.M)[1]
            yield f"[{path.name[:3] if path.name[0].isdigit() else title}]({place})"


def make_references():
    "The page of papers as text."
    lines = ["---", "title: References", "subtitle: The papers behind petbook's methods, and the pages that "
             "use them", "---", "",
             "Where a page names a preprint, it links to this list. `references.bib`, beside the notebooks, holds "
             "the same for BibTeX.", "", "::: {.rooms}", "", "| paper | used in |", "|:---------------|:---|"]
    for paper in sorted(read_papers(), key=lambda one: (one["author"].split(" and ")[0].split()[-1], one["year"])):
        names = paper["author"].removesuffix(" and others").replace(" and ", ", ")
        if paper["author"].endswith(" and others"): names += " and others"
        number = paper.get("eprint")
        anchor = f"arxiv-{number.replace('.', '-')}" if number else paper["key"]
        link = f" [arXiv:{number}](https://arxiv.org/abs/{number})" if number else ""
        lines.append(f"| []{{#{anchor}}}{names}. *{paper['title']}*. {paper['journal']}.{link} "
                     f"| {' '.join(naming_pages(paper))} |")
    return "\n".join([*lines, "", ":::", ""])


PAGES = {NBS / "rooms.qmd": make_rooms, NBS / "reference.qmd": make_reference,
         NBS / "references.qmd": make_references}

if __name__ == "__main__":
    for page, make in PAGES.items():
        text = make()
        if "--check" in sys.argv and (not page.exists() or page.read_text(encoding="utf-8") != text):
            sys.exit(f"nbs/{page.name} is out of date: run nbs/scripts/make_rooms.py")
        page.write_text(text, encoding="utf-8")
