"""The house rules, checked: rooms in order, classes in one place, an example under every
function, documented names, clean pages. Exits with 1 and a list if one is broken."""
import ast
import inspect
import json
import re
import subprocess
import sys
import textwrap
from collections import Counter
from pathlib import Path

WIDTH = 95  # characters in a line of a cell: what a page of the site shows
MODULE, FUNCTION, CLASS = 300, 25, 100  # lines: of code, of a body, of a class cell
CHAIN, LADDER = 9, 3  # the longest chain of imports; the tallest class, itself counted
NOTEBOOK, FIGURE = 400_000, 60_000  # bytes
TALL = {"Trainer": 163, "Learner": 110}  # their many public methods have a comment on each parameter
EXAMPLES, PROSE_GAP = 0.85, 6  # share of definitions with an example; code cells without prose
# Parameters that take any object of the right shape; their comment says which.
DUCKS = {"ax", "axes", "trainer", "learn", "learner", "dls", "dl", "loader", "metrics", "weights",
         "found", "interpretation", "predictor", "lr_find", "batch", "stage", "item_stage",
         "batch_stage", "block", "explorer", "value", "values", "recorder", "source"}
LEAKS = ((r"(?<![\w.])/(?:work|root|tmp|home|opt|usr|Users)/[\w.]", "a path of one machine"),
         (r"Traceback \(most recent", "a traceback"), (r"\b\w*Warning:", "a warning"),
         (r" at 0x[0-9a-f]{6,}", "an address"), (r"\d+%\|.*\|", "a progress bar"),
         (r"Text\(0|<matplotlib\.|<function ", "what an object looks like to Python"))
problems = []


def lines_of(text):
    "Lines of code: neither blank nor a comment."
    return [line for line in text.splitlines() if line.strip() and line.strip()[0] != "#"]


def read_modules():
    "Each module: its name, number, text, tree and public names."
    found = {}
    for path in sorted(Path("petbook").rglob("*.py")):
        if path.stem in ("_modidx", "__init__"): continue
        text = path.read_text(encoding="utf-8")
        tree = ast.parse(text)
        number = re.search(r"File to edit: .*?/(\d+)_\w+\.ipynb", text)
        public = next((ast.literal_eval(node.value) for node in tree.body
                       if isinstance(node, ast.Assign)
                       and getattr(node.targets[0], "id", "") == "__all__"
                       and isinstance(node.value, (ast.List, ast.Tuple))), [])
        name = ".".join(path.with_suffix("").parts)
        if not number: problems.append(f"{path}: no numbered notebook makes this module")
        found[name] = (int(number[1]) if number else -1, text, tree, public)
    return found


def imports_of(module, tree, modules):
    "(module, imported module, name, whether at the top) of each import of petbook's own."
    top, parts = set(map(id, tree.body)), module.split(".")
    for node in ast.walk(tree):
        if not isinstance(node, ast.ImportFrom): continue
        base = node.module or ""
        if node.level: base = ".".join([*parts[:-node.level], *([base] if base else [])])
        for alias in node.names:
            target = base if base in modules else f"{base}.{alias.name}"
            if target in modules: yield target, alias.name, id(node) in top


def for_types_only(tree):
    "The imports below `if TYPE_CHECKING:`, which no program runs."
    return {id(node) for test in ast.walk(tree) if isinstance(test, ast.If)
            and getattr(test.test, "id", "") == "TYPE_CHECKING" for node in test.body}


def check_order(modules):
    "Imports go down, only to public names, at the top, in short chains."
    graph = {name: set() for name in modules}
    for name, (number, _, tree, _) in modules.items():
        typing_only = for_types_only(tree)
        for node in ast.walk(tree):
            if id(node) in typing_only: node.names = []
        for target, what, at_top in imports_of(name, tree, modules):
            if at_top: graph[name].add(target)
            elif not name.startswith("petbook.cli"):
                problems.append(f"{name} imports {target} inside a function")
            if modules[target][0] >= number:
                problems.append(f"{name} imports {target}, which stands below it")
            if what == "*" and name != "petbook.all":
                problems.append(f"{name} imports * from {target}")
            elif what not in ("*", target.rpartition(".")[2], *modules[target][3]):
                problems.append(f"{name} imports {what}, which is no public name of {target}")

    def depth(name): return 1 + max(map(depth, graph[name]), default=0)

    deepest = max(modules, key=depth)
    if depth(deepest) > CHAIN:
        problems.append(f"{deepest} stands on a chain of {depth(deepest)} imports, over {CHAIN}")


def check_sizes(modules):
    "Rooms that one reads in a sitting; functions and classes that one sees whole."
    for name, (_, text, tree, _) in modules.items():
        if len(lines_of(text)) > MODULE:
            problems.append(f"{name} has {len(lines_of(text))} lines of code, over {MODULE}")
        for node in ast.walk(tree):
            if not isinstance(node, ast.FunctionDef): continue
            length = node.end_lineno - node.body[0].lineno + 1
            if length > FUNCTION:
                problems.append(f"{name}.{node.name}: a body of {length} lines, over {FUNCTION}")


def check_ladders(modules):
    "No class exists only to be inherited once, and no ladder is tall."
    classes = {node.name: [getattr(base, "id", getattr(base, "attr", "")) for base in node.bases]
               for _, _, tree, _ in modules.values() for node in ast.walk(tree)
               if isinstance(node, ast.ClassDef)}

    def height(name): return 1 + max((height(base) for base in classes[name] if base in classes),
                                     default=0)

    for name in classes:
        if height(name) > LADDER: problems.append(f"class {name} stands on {height(name) - 1} "
                                                  "others of petbook's")
    children = Counter(base for bases in classes.values() for base in bases if base in classes)
    uses = Counter(node.id for _, _, tree, _ in modules.values() for node in ast.walk(tree)
                   if isinstance(node, ast.Name) and node.id in children)
    problems.extend(f"class {name} exists only to be inherited once"
                    for name, count in children.items() if count == 1 and uses[name] <= 1)


def check_imports(modules):
    "Each module can be imported first: what its notebook forgot to export would show here."
    code = ("import importlib, sys, torch, torchvision\n"
            "for name in sys.argv[1:]:\n"
            "    for old in [old for old in sys.modules if old.startswith('petbook')]:\n"
            "        del sys.modules[old]\n"
            "    try: importlib.import_module(name)\n"
            "    except Exception as error: print(f'import {name} fails: {error!r}')\n")
    run = [sys.executable, "-W", "error::SyntaxWarning", "-c", code, *modules]
    said = subprocess.run(run, capture_output=True, text=True)
    problems.extend([*said.stdout.splitlines(), *said.stderr.splitlines()[-1:]])
    files = [name.replace(".", "/") + ".py" for name in modules if name != "petbook.all"]
    flakes = subprocess.run([sys.executable, "-m", "pyflakes", *files], capture_output=True,
                            text=True)
    problems.extend(f"pyflakes: {line}" for line in flakes.stdout.splitlines()
                    if not (line.endswith("in __all__") and "models/backbones" in line))


def documented(where, value):
    "What a public function or class lacks."
    if not (value.__doc__ or "").strip(): yield f"{where} has no docstring"
    if getattr(value, "_is_protocol", False): return
    function = value.__init__ if inspect.isclass(value) else value
    if inspect.isclass(value) and "__init__" not in vars(value): return
    try: source = inspect.getsource(function)
    except (OSError, TypeError): return
    tree, lines = ast.parse(textwrap.dedent(source)).body[0], source.splitlines()

    def commented(first, last):
        "Is there a comment on these lines, or on a line of its own above them?"
        return ("#" in "".join(lines[first - 1:last])
                or lines[first - 2].strip().startswith("#"))

    gives = any(isinstance(node, ast.Return) and node.value is not None
                for node in ast.walk(tree))
    heading = tree.body[0].lineno - 1
    if inspect.isfunction(value) and gives and tree.returns is None:
        if not commented(heading, heading):
            yield f"{where}: what it returns is neither hinted nor described"
    arguments = [*tree.args.posonlyargs, *tree.args.args, *tree.args.kwonlyargs,
                 *filter(None, (tree.args.vararg, tree.args.kwarg))]
    for argument in arguments:
        if argument.arg in ("self", "cls"): continue
        if not commented(argument.lineno, argument.end_lineno):
            yield f"{where}: parameter {argument.arg} has no comment"
        if argument.annotation is None and argument.arg not in DUCKS:
            if argument is not tree.args.kwarg:
                yield f"{where}: parameter {argument.arg} has no type hint"


def check_names(modules):
    "Public names have docstrings, hints and comments."
    for name, (_, _, _, public) in modules.items():
        if name == "petbook.all": continue
        module = __import__(name, fromlist=["*"])
        for what in public:
            value = getattr(module, what)
            own = getattr(value, "__module__", "") == name
            if inspect.isclass(value) and issubclass(value, BaseException): continue
            if own and (inspect.isfunction(value) or inspect.isclass(value)):
                problems.extend(documented(f"{name}.{what}", value))


def tree_of(source):
    "The syntax tree of a cell; magics are left out."
    try: return ast.parse(re.sub(r"^\s*[%!].*$", "", source, flags=re.M))
    except SyntaxError: return ast.parse("")


def definitions(source):
    "The public functions and classes that an exported cell defines."
    if not re.search(r"^#\|\s*exports?\b", source, re.M): return []
    return [node.name for node in tree_of(source).body
            if isinstance(node, (ast.FunctionDef, ast.ClassDef)) and node.name[0] != "_"]


def has_picture(kind, source, outputs):
    "Does a cell show a picture?"
    if kind == "markdown": return bool(re.search(r"!\[|<img|<svg", source))
    return any(name.startswith("image/") for out in outputs for name in out.get("data", {}))


def check_rhythm(path, cells):
    "Widths, privacy, examples and prose; gives (definitions, those with an example)."
    shown, followed, run, pictured = 0, 0, 0, False
    for number, (kind, source, outputs) in enumerate(cells):
        pictured = pictured or has_picture(kind, source, outputs)
        run = run + 1 if kind == "code" else 0
        head = (source.splitlines() or [""])[0][:50]
        if run > PROSE_GAP: problems.append(f"{path}: {run} code cells without prose ({head})")
        if kind != "code": continue
        code = [line for line in source.splitlines() if not line.lstrip().startswith("#|")]
        wide = sum(len(line) > WIDTH for line in code)
        if wide: problems.append(f"{path}: {wide} lines over {WIDTH} characters ({head})")
        if "#| exporti" in source: problems.append(f"{path}: `exporti`; use a leading _ ({head})")
        names = definitions(source)
        if not names: continue
        if not shown and not pictured: problems.append(f"{path}: no picture before {names[0]}")
        if len(lines_of(source)) > TALL.get(names[0], CLASS):
            problems.append(f"{path}: a cell of {len(lines_of(source))} lines ({names[0]})")
        following = next((cell for cell in cells[number + 1:] if cell[0] == "code"), None)
        nearby = " ".join(cell[1] for cell in cells[number + 1:number + 5])
        good = (following and not re.search(r"^#\|\s*(export|hide)", following[1], re.M)
                and any(name in nearby for name in names))
        shown, followed = shown + 1, followed + bool(good)
    return shown, followed


def check_outputs(path, source, outputs):
    "What a stored output must not hold, and what a figure must."
    text, head = json.dumps(outputs), source.splitlines()[0][:60]
    for pattern, what in LEAKS:
        if re.search(pattern, text): problems.append(f"{path}: an output shows {what} ({head})")
    for output in outputs:
        for kind, data in output.get("data", {}).items():
            if kind not in ("image/png", "image/jpeg"): continue
            size = len("".join(data)) * 3 // 4
            if size > FIGURE: problems.append(f"{path}: a figure of {size // 1000} KB ({head})")
            if not re.search(r"^#\| fig-alt: *\S", source, flags=re.M):
                problems.append(f"{path}: a figure without alt text ({head})")
            if not re.search(r"^#\| fig-cap: *\S", source, flags=re.M):
                problems.append(f"{path}: a figure without caption ({head})")


def check_links(path, text):
    "Pictures have alt texts, and relative links lead to a file."
    if re.search(r"!\[\s*\]\(", text): problems.append(f"{path}: a picture without alt text")
    for target in re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", text):
        if not re.match(r"https?:|mailto:", target) and not (path.parent / target).exists():
            problems.append(f"{path}: broken link {target}")


def check_notebook(path):
    "One page: its title, outputs, links and rhythm."
    notebook = json.loads(path.read_text(encoding="utf-8"))
    cells = [(cell["cell_type"], "".join(cell["source"]), cell.get("outputs", []))
             for cell in notebook["cells"] if "".join(cell["source"]).strip()]
    size = path.stat().st_size
    if size > NOTEBOOK: problems.append(f"{path}: {size // 1000} KB, over {NOTEBOOK // 1000}")
    if "widgets" in notebook["metadata"] or "jupyter.widget-view" in json.dumps(notebook["cells"]):
        problems.append(f"{path}: stores a widget's state; keep its picture alone")
    titles = [source for kind, source, _ in cells if kind == "markdown"]
    if not titles or not re.match(r"# .+\n\n> .+", titles[0]):
        problems.append(f"{path}: the first text is not a title and a one-line subtitle")
    elif not re.fullmatch(r"# .+\n\n> .+(\n- .+)*\s*", titles[0]):
        problems.append(f"{path}: the site drops what stands below the subtitle; give it a cell of its own")
    if not any(outputs for _, _, outputs in cells): problems.append(f"{path}: no stored outputs")
    for kind, source, outputs in cells:
        if kind == "code": check_outputs(path, source, outputs)
        else: check_links(path, source)
    return check_rhythm(path, cells) if path.name[0].isdigit() else (0, 0)


def tracked(*patterns):
    "The files of these kinds that git knows."
    found = subprocess.run(["git", "ls-files", *patterns], capture_output=True, text=True,
                           check=True)
    return found.stdout.splitlines()


def check_pages():
    "The other pages' links, and that the sidebar lists every page."
    for path in [*map(Path, ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")),
                 *Path("nbs").rglob("*.qmd")]:
        check_links(path, path.read_text(encoding="utf-8"))
    text = Path("_quarto.yml").read_text(encoding="utf-8")
    listed = set(re.findall(r"(?:href: |- )((?:nbs/|)[\w/-]+\.(?:ipynb|qmd|md))", text))
    problems.extend(f"_quarto.yml: {name} does not exist"
                    for name in sorted(listed) if not Path(name).exists())
    problems.extend(f"_quarto.yml: {name} is not in the sidebar"
                    for name in tracked("nbs/*.ipynb", "nbs/*.qmd") if name not in listed)


def main():
    "Run every check and say what was found."
    modules = read_modules()
    for check in (check_order, check_sizes, check_ladders, check_imports, check_names):
        check(modules)
    notebooks = tracked("*.ipynb")
    counts = [check_notebook(Path(name)) for name in notebooks]
    shown, followed = (sum(column) for column in zip(*counts))
    if followed < EXAMPLES * shown:
        problems.append(f"{followed} of {shown} public definitions have an example next, under "
                        f"{EXAMPLES:.0%}")
    check_pages()
    print("\n".join(problems) or f"house rules hold: {len(modules)} rooms in order, "
          f"{len(notebooks)} notebooks clean, an example under {followed} of {shown} definitions")
    sys.exit(bool(problems))


if __name__ == "__main__": main()
