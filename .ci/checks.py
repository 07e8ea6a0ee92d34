"""The house rules, checked: import order, documented names, clean outputs, alt texts, links. Exits with 1 and a list if one is broken."""
import ast
import inspect
import json
import re
import subprocess
import sys
import textwrap
from pathlib import Path

ROOMS = "core pets presizing augmentation datablock losses training lr_finder backbones fine_tuning learner interpretation inference widgets distributed cli all".split()
# The two late imports that point upwards, both documented where they stand.
UPWARD = {("learner", "inference")}
# Parameters that take any object of the right shape; their comment says which.
DUCKS = {"ax", "axes", "trainer", "learn", "learner", "dls", "dl", "metrics", "weights", "found", "interpretation", "predictor", "lr_find"}
problems = []


def imports_of(tree):
    "The petbook modules that a syntax tree imports, and whether each is at the top level."
    top = set(map(id, tree.body))
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.level or (node.module or "").startswith("petbook")):
            star = any(name.name == "*" for name in node.names)
            module = (node.module or "") if node.level else node.module.partition(".")[2]  # nbdev exports `from petbook.core` as `from .core`
            if module: yield module, id(node) in top, star
            else: yield from ((name.name, id(node) in top, star) for name in node.names if name.name in ROOMS)
        if isinstance(node, ast.Import):
            for name in node.names:
                if name.name.startswith("petbook."): yield name.name.partition(".")[2], id(node) in top, False


def check_rooms():
    modules = sorted(path.stem for path in Path("petbook").glob("*.py") if not path.stem.startswith("_"))
    graph = {}
    for module in modules:
        if module not in ROOMS: problems.append(f"petbook/{module}.py is no room of the table"); continue
        for other, at_top, star in imports_of(ast.parse(Path(f"petbook/{module}.py").read_text(encoding="utf-8"))):
            if star and module != "all": problems.append(f"petbook.{module} imports * from petbook.{other}")
            if not other: continue
            if ROOMS.index(other) >= ROOMS.index(module) and not (not at_top and (module, other) in UPWARD):
                problems.append(f"petbook.{module} imports petbook.{other}, which stands below it")
            if at_top: graph.setdefault(module, set()).add(other)
    for module in modules:
        done = subprocess.run([sys.executable, "-W", "error::SyntaxWarning", "-c", f"import petbook.{module}"], capture_output=True, text=True)
        if done.returncode: problems.append(f"import petbook.{module} fails in a fresh process: {done.stderr.strip().splitlines()[-1]}")
    flakes = subprocess.run([sys.executable, "-m", "pyflakes", *[f"petbook/{module}.py" for module in modules if module != "all"]], capture_output=True, text=True).stdout
    # an exported notebook may import a name that only its later cells, not its exported ones, use
    problems.extend(f"pyflakes: {line}" for line in flakes.splitlines())
    return graph


def documented(module, name, value):
    "What a public function or class lacks."
    where = f"petbook.{module}.{name}"
    if not (value.__doc__ or "").strip(): yield f"{where} has no docstring"
    function = value.__init__ if inspect.isclass(value) else value
    if inspect.isclass(value) and "__init__" not in vars(value): return
    try: source = inspect.getsource(function)
    except (OSError, TypeError): return
    tree = ast.parse(textwrap.dedent(source)).body[0]
    lines = source.splitlines()
    if inspect.isfunction(value) and tree.returns is None and any(isinstance(node, ast.Return) and node.value is not None for node in ast.walk(tree)) and "#" not in lines[tree.body[0].lineno - 2]:
        yield f"{where}: what it returns is neither hinted nor described"
    arguments = tree.args.posonlyargs + tree.args.args + tree.args.kwonlyargs + [a for a in (tree.args.vararg, tree.args.kwarg) if a]
    for argument in arguments:
        if argument.arg in ("self", "cls"): continue
        if "#" not in lines[argument.lineno - 1] and "#" not in lines[(argument.end_lineno or argument.lineno) - 1]:
            yield f"{where}: parameter {argument.arg} has no comment"
        if argument.annotation is None and argument.arg not in DUCKS and argument is not tree.args.kwarg:
            yield f"{where}: parameter {argument.arg} has no type hint"


def check_names():
    for path in sorted(Path("petbook").glob("*.py")):
        if path.stem.startswith("_") or path.stem == "all": continue
        module = __import__(f"petbook.{path.stem}", fromlist=["*"])
        for name in getattr(module, "__all__", []):
            value = getattr(module, name)
            if inspect.isfunction(value) or inspect.isclass(value):
                if value.__module__ == module.__name__ and not issubclass(value if inspect.isclass(value) else int, BaseException):
                    problems.extend(documented(path.stem, name, value))


def check_notebook(path):
    notebook = json.loads(path.read_text(encoding="utf-8"))
    cells = [(cell["cell_type"], "".join(cell["source"]), cell.get("outputs", [])) for cell in notebook["cells"]]
    if path.stat().st_size > 600_000: problems.append(f"{path}: {path.stat().st_size // 1000} KB, over 600 KB")
    if "widgets" in notebook["metadata"] or "jupyter.widget-view" in json.dumps(notebook["cells"]): problems.append(f"{path}: stores a widget's state, which no page can show; keep its picture alone")
    titles = [source for kind, source, _ in cells if kind == "markdown"]
    if not titles or not re.match(r"# .+\n\n> .+", titles[0]): problems.append(f"{path}: the first text is not a title and a one-line subtitle")
    code = [(source, outputs) for kind, source, outputs in cells if kind == "code" and source.strip()]
    if not any(outputs for _, outputs in code): problems.append(f"{path}: no stored outputs")
    for source, outputs in code:
        text = json.dumps(outputs)
        head = source.splitlines()[0][:60]
        for pattern, what in ((r"(?<![\w.])/(?:work|root|tmp|home|opt|usr|Users)/[\w.]", "a path of one machine"), (r"Traceback \(most recent", "a traceback"),
                              (r"\b\w*Warning:", "a warning"), (r" at 0x[0-9a-f]{6,}", "an address"), (r"\d+%\|.*\|", "a progress bar")):
            if re.search(pattern, text): problems.append(f"{path}: an output shows {what} (cell: {head})")
        for output in outputs:
            for kind, data in output.get("data", {}).items():
                if kind in ("image/png", "image/jpeg"):
                    if len("".join(data)) * 3 // 4 > 60_000: problems.append(f"{path}: a figure of {len(''.join(data)) * 3 // 4000} KB, over 60 KB (cell: {head})")
                    if not re.search(r"^#\| fig-alt: *\S", source, flags=re.M): problems.append(f"{path}: a figure without alt text (cell: {head})")
        if "#| export" in source:
            length = len([line for line in source.splitlines() if not line.startswith("#|")])
            if length > 45: problems.append(f"{path}: an exported cell of {length} lines, over 45 (cell: {source.splitlines()[1][:60]})")
    for kind, source, _ in cells:
        if kind != "markdown": continue
        if re.search(r"!\[\s*\]\(", source): problems.append(f"{path}: a picture without alt text (cell: {source[:60]!r})")
        for target in re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", source):
            if not re.match(r"https?:|mailto:", target) and not (path.parent / target).exists(): problems.append(f"{path}: broken link {target}")


def tracked(*patterns):
    "The files of these kinds that git knows."
    return subprocess.run(["git", "ls-files", *patterns], capture_output=True, text=True, check=True).stdout.splitlines()


def check_pages():
    for path in [*map(Path, ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")), *Path("nbs").glob("*.qmd")]:
        text = path.read_text(encoding="utf-8")
        if re.search(r"!\[\s*\]\(", text): problems.append(f"{path}: a picture without alt text")
        for target in re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", text):
            if not re.match(r"https?:|mailto:", target) and not (path.parent / target).exists(): problems.append(f"{path}: broken link {target}")
    listed = set(re.findall(r"(?:href: |- )((?:nbs/|)[\w/]+\.(?:ipynb|qmd|md))", Path("_quarto.yml").read_text(encoding="utf-8")))
    problems.extend(f"_quarto.yml: {name} does not exist" for name in sorted(listed) if not Path(name).exists())
    problems.extend(f"_quarto.yml: {name} is not in the sidebar" for name in tracked("nbs/*.ipynb", "nbs/*.qmd") if name not in listed)


check_rooms()
check_names()
notebooks = tracked("*.ipynb")
for name in notebooks: check_notebook(Path(name))
check_pages()
print("\n".join(problems) or f"house rules hold: {len(ROOMS)} rooms in order, {len(notebooks)} notebooks clean")
sys.exit(bool(problems))
