"""Write the page of rooms, nbs/rooms.qmd, from the notebooks themselves: number, title, what one
can do after it, and which rooms it needs. `--check` says whether the page is up to date."""
import json
import re
import sys
from pathlib import Path

NBS = Path(__file__).resolve().parents[1]
WINGS = {"0": "Base, and the drawn pets", "1": "Images", "2": "Augmentation", "3": "Data",
         "4": "Losses", "5": "Training", "6": "Models", "7": "Interpretation", "8": "Use"}


def read_room(path):
    "A notebook's number, title, subtitle, module, and the modules that it imports."
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    sources = ["".join(cell["source"]) for cell in cells]
    title, subtitle = re.search(r"^# (.+)\n\n> (.+)", "\n".join(sources), re.M).groups()
    exported = "\n".join(source for source in sources if source.startswith("#| export"))
    needs = re.findall(r"^from petbook\.([\w.]+) import", exported, re.M)
    module = re.search(r"#\| default_exp ([\w.]+)", sources[0])[1]
    return path.name[:3], title, subtitle, module, needs


def make_page():
    "The page as text."
    rooms = [read_room(path) for path in sorted(NBS.glob("[0-9]*.ipynb"))]
    files = {path.name[:3]: path.name for path in NBS.glob("[0-9]*.ipynb")}
    number = {module: room for room, _, _, module, _ in rooms}
    lines = ["---", "title: The rooms", "subtitle: Every page of the reference, what you can do "
             "after it, and which pages it builds on", "---", "",
             "Each room is one notebook, one module and one idea. A room imports only from rooms "
             "with a smaller number, so you can read in order, or start anywhere and go back by "
             "the last column.", ""]
    for digit, wing in WINGS.items():
        lines += [f"## {wing}", "", "| | room | after it you can | builds on |", "|---|---|---|---|"]
        for room, title, subtitle, _, needs in rooms:
            if room[0] != digit: continue
            below = sorted({number[need] for need in needs if need in number} - {"000"})
            shown = " ".join(f"[{one}]({files[one]})" for one in below if room != "890")
            lines.append(f"| {room} | [{title}]({files[room]}) | {subtitle} | {shown} |")
        lines.append("")
    return "\n".join(lines)


if __name__ == "__main__":
    page = NBS / "rooms.qmd"
    if "--check" in sys.argv:
        sys.exit(page.read_text(encoding="utf-8") != make_page() and "nbs/rooms.qmd is out of date: "
                 "run nbs/scripts/make_rooms.py")
    page.write_text(make_page(), encoding="utf-8")
