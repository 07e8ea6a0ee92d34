"""Send every page through nbdev's processing for the site and look at what comes out: errors, and links whose page or anchor is missing."""
import json
import re
import shutil
import sys
from pathlib import Path

from nbdev.serve import proc_nbs


def anchor(heading):
    "The anchor that Quarto gives a heading."
    heading = re.sub(r"[`*_]", "", heading).strip().lower()
    return re.sub(r"-+", "-", re.sub(r"[^\w\- ]", "", heading).replace(" ", "-")).lstrip("0123456789-")


def main():
    problems, anchors, links = [], {}, []
    folder = proc_nbs(force=True, n_workers=2)
    for path in sorted(path for kind in ("*.ipynb", "*.qmd", "*.md") for path in folder.rglob(kind)):
        name = str(path.relative_to(folder))
        text, shown = path.read_text(encoding="utf-8"), ""
        if path.suffix == ".ipynb":
            cells = json.loads(text)["cells"]
            text = "\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "markdown")
            shown = "\n".join(line for cell in cells for output in cell.get("outputs", []) for line in output.get("data", {}).get("text/markdown", []))
            for cell in cells:
                for output in cell.get("outputs", []):
                    if output["output_type"] == "error": problems.append(f"{name}: {output['ename']}: {output['evalue'][:200]}")
        text = re.sub(r"^```.*?^```", "", text, flags=re.M | re.S)  # what stands in a code block is no heading and no link
        anchors[name] = {anchor(title) for title in re.findall(r"^#+ +([^\n{]+)", text + "\n" + shown, flags=re.M)}
        links += [(name, target) for target in re.findall(r"\]\((?!https?:|mailto:|data:)([^)\s]+)\)", text)]
    for name, target in links:
        page, _, mark = target.partition("#")
        page = str((folder / name).parent.joinpath(page).resolve().relative_to(folder.resolve())) if page else name
        if page.endswith(".html"): page = page[:-5] + ".ipynb"
        if not (folder / page).exists(): problems.append(f"{name}: link to a missing page: {target}")
        elif mark and page in anchors and mark not in anchors[page]: problems.append(f"{name}: link to a missing anchor: {target}")
    pages = len(anchors)
    shutil.rmtree(folder)
    print("\n".join(problems) or f"{pages} pages processed, {len(links)} links checked")
    sys.exit(bool(problems))


if __name__ == "__main__": main()
