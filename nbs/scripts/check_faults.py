"""Do to petbook what machines and strangers do to programs, and look at what is left.

    python nbs/scripts/check_faults.py --quick     two minutes, for every change
    python nbs/scripts/check_faults.py             ten moments, some ten minutes; writes results/faults.json
    python nbs/scripts/check_faults.py --only disk,workers

Each case is a row of the page "What petbook survives": the fault, how often it was done, what was kept. A case that needs what this
machine does not have (the right to mount, Linux, torchrun) is skipped with its reason. Processes are forked after torch's import, so
that a case takes seconds.
"""
import argparse
import csv
import io
import json
import multiprocessing
import os
import platform
import random
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import warnings
import zlib
from contextlib import contextmanager
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import torch

from fuzz_workers import peak, reset_peak
from petbook.all import (
    Checkpoint, CSVLogger, DataBlock, PetbookError, Trainer, WriteError, draw_pet, get_pets, load_learner, random_stream)
from petbook.cli.main import main
from petbook.core import atomic_path, isolated_randomness
from petbook.data.caches import FolderCache, bytes_to_image
from petbook.models.files import read_model_file, write_model_file
from petbook.training.checkpoints import read_tensors
from petbook.widgets.changes import undo_changes

HERE = Path(__file__).parent
FORK = multiprocessing.get_context("fork") if "fork" in multiprocessing.get_all_start_methods() else None
CASES = []


class Skip(Exception):
    "This machine cannot do the case; the message says why."


def case(group, fault, kept, quick=True):
    "Note a case: its group, the fault, and what is to be kept. The function returns how often it was done."
    def note(function):
        CASES.append((group, fault, kept, quick, function))
        return function
    return note


# processes

def _begin(log, function, arguments):
    "In the child: a session of its own, output into a file."
    os.setsid()
    stream = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(stream, 1)
    os.dup2(stream, 2)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    sys.exit(function(*arguments))


class Child:
    "A forked process that runs a function; its exit status is what the function returns."

    def __init__(self, base, function, *arguments):
        self.log = base / f"log {random.random()}"
        sys.stdout.flush()
        self.process = FORK.Process(target=_begin, args=(self.log, function, arguments))
        self.process.start()
        self.pid = self.process.pid

    def send(self, number): os.kill(self.pid, number)

    def wait(self, seconds=180):
        self.process.join(seconds)
        if self.process.is_alive():
            self.process.kill()
            raise AssertionError(f"still running after {seconds} s: {self.said()[-300:]}")
        return self.process.exitcode

    def said(self): return self.log.read_text(errors="backslashreplace") if self.log.exists() else ""

    def running(self): return self.process.is_alive()

    def others(self):
        "Processes of its session that are still there, apart from itself. Linux only."
        found = []
        for entry in Path("/proc").glob("[0-9]*"):
            try: fields = (entry / "stat").read_text().rpartition(")")[2].split()
            except OSError: continue
            if int(fields[3]) == self.pid and int(entry.name) != self.pid and fields[0] != "Z": found.append(int(entry.name))
        return found

    def left_alone(self, seconds=15):
        "Assert that no process is left of it."
        until(lambda: not self.others(), seconds, f"orphans: {self.others()}")


def until(condition, seconds=120, words="it did not happen"):
    end = time.time() + seconds
    while not condition():
        if time.time() > end: raise AssertionError(words)
        time.sleep(0.02)


def need_linux():
    if sys.platform != "linux": raise Skip("looks into /proc, which only Linux has")


# disks

@contextmanager
def small_disk(base, megabytes):
    "A folder on a disk of its own size; skipped where nothing may be mounted."
    folder = base / "disk"
    folder.mkdir(exist_ok=True)
    made = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={megabytes}m", "tmpfs", str(folder)], capture_output=True, text=True) if shutil.which("mount") else None
    if made is None or made.returncode: raise Skip("mounting a small disk needs root and the right to mount")
    try: yield folder
    finally: subprocess.run(["umount", "-l", str(folder)], check=True)


def fill(folder):
    "Fill a disk to the last byte."
    with open(folder / "filler", "wb", buffering=0) as file:
        size = 2**20
        while size:
            try: file.write(bytes(size))
            except OSError: size //= 2


# data and runs

def make_data(folder, classes=("pug", "Bengal", "boxer", "Sphynx"), count=12):
    for breed in classes:
        (folder / breed).mkdir(parents=True)
        for number in range(1, count + 1): draw_pet(breed, number, size=80).save(folder / breed / f"{number}.jpg")


def words(data, out, *more):
    return ["train", "--data", str(data), "--arch", "petnet", "--head", "random", "--size", "64", "--bs", "8", "--epochs", "3", "--workers", "0",
            "--lr", "0.002", "--no-compare", "--out", str(out), *more]


def train(data, out, *more): return main(words(data, out, *more))


def model(folder): return (folder / "model.safetensors").read_bytes()


class World:
    "What the cases share: a folder, drawn images, an unbroken run."

    def __init__(self, base, moments, seed):
        self.base, self.moments, self.random = base, moments, random.Random(seed)
        self.data, self.whole, self.computed = base / "data", base / "whole", base / "computed"
        child = Child(base, self.prepare)
        assert child.wait(600) == 0, child.said()
        self.seconds = float((base / "seconds").read_text())

    def prepare(self):
        make_data(self.data)
        start = time.perf_counter()
        code = train(self.data, self.whole)
        (self.base / "seconds").write_text(str(time.perf_counter() - start))
        return code or train(self.data, self.computed, "--head", "auto")

    def folder(self, name):
        folder = self.base / f"{name} {self.random.random()}"
        return folder

    def run(self, *arguments, function=train): return Child(self.base, function, *arguments)

    def resume(self, out, *more):
        child = self.run(["train", "--resume", str(out), *more], function=main)
        assert child.wait() == 0, child.said()[-500:]
        return child


def check_leftovers(folder):
    left = [path for path in Path(folder).rglob(".petbook-*")]
    assert not left, f"litter: {left}"


# kills and signals

@case("kill", "kill -9 at random moments of `petbook train`, then `--resume`", "the weights of the unbroken run, to the bit; no litter")
def kill_training(world):
    need_linux()
    for _ in range(world.moments):
        out = world.folder("killed")
        child = world.run(world.data, out)
        until(lambda: out.exists() or not child.running())
        time.sleep(world.random.uniform(0, 0.8 * world.seconds))
        child.send(signal.SIGKILL)
        child.wait()
        if (out / "resume.json").exists(): world.resume(out)
        elif not (out / "report.html").exists():  # killed before there was anything to go on from
            shutil.rmtree(out, ignore_errors=True)
            assert world.run(world.data, out).wait() == 0
        assert model(out) == model(world.whole), "other weights"
        assert sorted(path.name for path in out.iterdir()) == sorted(path.name for path in world.whole.iterdir()), list(out.iterdir())
    return world.moments


def _stopped(world, number, status):
    "Send a signal at a random moment to a run whose head is trained, or computed, and judge what is left."
    out, head = world.folder("stopped"), world.random.choice(["random", "auto"])
    child = world.run(world.data, out, "--head", head)
    until(lambda: "data  " in child.said() or not child.running())
    time.sleep(world.random.uniform(0, 0.9 * world.seconds))
    child.send(number)
    code, said = child.wait(60), child.said()
    child.left_alone()
    if code == 0: return  # it was done before
    assert code == status, (code, said[-500:])
    assert "Traceback" not in said, said[-800:]
    if "nothing is left behind" in said: assert not out.exists(), list(out.iterdir())
    else:
        assert "the model is" in said and "--resume" in said, said[-500:]
        label, _, chances = load_learner(out / "model.safetensors").predict(world.data / "pug" / "1.jpg")
        assert abs(float(chances.sum()) - 1) < 1e-3
        world.resume(out)
        assert model(out) == model(world.whole if head == "random" else world.computed), "other weights"


def _each_moment(world, function, *arguments):
    for _ in range(world.moments): function(world, *arguments)
    return world.moments


@case("signals", "Ctrl-C at random moments of `petbook train`",
      "exit status 130; the best model so far and the words that resume it to the unbroken run's weights, or nothing at all; no process left")
def interrupted(world):
    need_linux()
    return _each_moment(world, _stopped, signal.SIGINT, 130)


@case("signals", "SIGTERM at random moments of `petbook train`", "the same, with exit status 143")
def terminated(world):
    need_linux()
    return _each_moment(world, _stopped, signal.SIGTERM, 143)


@case("signals", "Ctrl-C while torch is imported", "the process ends without a traceback, and nothing was begun")
def interrupted_import(world):
    program = "import sys; from petbook.cli.main import main; print('begun', flush=True); sys.exit(main(sys.argv[1:]))"
    out = world.folder("import")
    process = subprocess.Popen([sys.executable, "-c", program, *words(world.data, out)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                               preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler))
    process.stdout.readline()
    time.sleep(0.2)
    process.send_signal(signal.SIGINT)
    _, told = process.communicate(timeout=60)
    assert process.returncode in (-signal.SIGINT, 130) and "Traceback" not in told, (process.returncode, told[-400:])
    assert not out.exists()
    return 1


def _write_for_ever(kind, folder):
    "Write the same file again and again, until killed."
    if kind == "export":
        tensors = {"weight": torch.rand(3_000_000, generator=random_stream(0))}
        while True: write_model_file(folder / "model.safetensors", {"a": 1}, tensors)
    if kind == "checkpoint":
        trainer = small_trainer(folder, Checkpoint())
        trainer.fit(1)
        while True: trainer.callbacks[-1].write(trainer)
    number, cache = 0, FolderCache(folder, "recipe")
    while True:
        number += 1
        item = folder / "items" / str(number % 50)
        item.parent.mkdir(exist_ok=True)
        item.touch()
        cache.put(cache.entry(item), torch.zeros(3, 100 + number % 50, 400, dtype=torch.uint8))


def _read_back(kind, folder):
    "In a child: is what is there whole? And is the litter gone after one more write?"
    if kind == "export": read_model_file(folder / "model.safetensors")
    if kind == "checkpoint": read_tensors(folder / "models" / "checkpoint.pt")
    if kind == "cache":
        found = list(folder.rglob("[!.]*.pixels"))  # one with a dot is half written, and nobody reads it
        assert found and all(bytes_to_image(np.fromfile(path, np.uint8)) is not None for path in found)
    for place in {path.parent for path in folder.rglob("*") if path.is_file()}:
        with atomic_path(place / "last") as temporary: temporary.touch()
    check_leftovers(folder)
    return 0


def _kill_writing(world, kind, wanted):
    folder = world.folder(kind)
    folder.mkdir()
    for _ in range(world.moments):
        child = world.run(kind, folder, function=_write_for_ever)
        until(lambda: any(folder.rglob(wanted)) or not child.running())
        time.sleep(world.random.uniform(0, 0.3))
        child.send(signal.SIGKILL)
        child.wait()
        reader = world.run(kind, folder, function=_read_back)
        assert reader.wait() == 0, reader.said()[-500:]
    return world.moments


@case("kill", "kill -9 while a model is exported", "the last whole file; what was half written is swept at the next start")
def kill_export(world): return _kill_writing(world, "export", "model.safetensors")


@case("kill", "kill -9 while a checkpoint is written", "the last whole checkpoint; no litter after the next start")
def kill_checkpoint(world): return _kill_writing(world, "checkpoint", "checkpoint.pt")


@case("kill", "kill -9 while a folder cache is filled", "only whole images in the cache; no litter after the next start")
def kill_cache(world): return _kill_writing(world, "cache", "[!.]*.pixels")


@case("kill", "kill -9 of a process that draws pets with helpers", "no helper goes on; the next call finishes the set, all files whole", quick=False)
def kill_drawing(world):
    need_linux()
    folder = world.folder("drawn")
    folder.mkdir()
    child = world.run(folder, function=lambda folder: get_pets("sketch", folder, 1, workers=2) and 0)
    until(lambda: len(list(folder.rglob("*.jpg"))) > 5)
    child.send(signal.SIGKILL)
    child.wait()
    child.left_alone()
    again = world.run(folder, function=lambda folder: get_pets("sketch", folder, 1, workers=1) and 0)
    assert again.wait(300) == 0, again.said()
    files = [path.read_bytes() for path in folder.rglob("images/*.jpg")]
    assert len(files) == 37 and all(content[-2:] == b"\xff\xd9" for content in files)
    check_leftovers(folder)
    return 1


# disks

def small_trainer(folder, *cbs):
    with isolated_randomness(0, "init"): net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3 * 64 * 64, 40))
    x, y = torch.randn(16, 3, 64, 64, generator=random_stream(0, "x")), torch.arange(16)
    data = type("Data", (), {"train": [(x, y)], "valid": [(x, y)]})
    trainer = Trainer(data, net, torch.nn.functional.cross_entropy, path=folder, cbs=list(cbs), device="cpu")
    trainer.no_logging()
    return trainer


def _writers(folder):
    "Each thing that petbook writes: a name, and a function that writes it."
    trainer = small_trainer(folder, Checkpoint(), CSVLogger())
    trainer.create_opt()
    rows = [{"epoch": number, "loss": 1.0} for number in range(5000)]
    logger = next(callback for callback in trainer.callbacks if isinstance(callback, CSVLogger))
    trainer.recorder.rows = rows
    report = folder / "report.html"

    def write_page():
        from petbook.writing import whole_file

        with whole_file(report) as temporary: temporary.write_text("x" * 200_000)

    return {"model.safetensors": lambda: write_model_file(folder / "model.safetensors", {"a": 1}, trainer.model.state_dict()),
            "a.pth": lambda: trainer.save("a"), "b.safetensors": lambda: trainer.save("b.safetensors"),
            "history.csv": lambda: logger.after_epoch(trainer), "report.html": write_page}


def _every_writer(folder, spoil):
    "In a child: write everything, spoil the disk, write again: petbook's error with the file's name, and the old files as they were."
    writers = _writers(folder)
    for write in writers.values(): write()
    old = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    spoil()
    for name, write in writers.items():
        try: write()
        except WriteError as error: assert name in str(error) and "could not be written" in str(error), error
        else: raise AssertionError(f"{name}: written to a full disk?")
    for path, content in old.items(): assert path.read_bytes() == content, path
    check_leftovers(folder)
    return 0


def _lower_limit():
    "A quota of the process's own: no file may grow over 20 KB."
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))


@case("disk", "files may not grow any more (a quota), under every writer", "`WriteError` with the file's name; the old files untouched; no litter")
def quota(world):
    folder = world.folder("quota")
    folder.mkdir()
    child = world.run(folder, _lower_limit, function=_every_writer)
    assert child.wait() == 0, child.said()[-600:]
    return 5


@case("disk", "the disk is full, under every writer", "`WriteError` with the file's name; the old files untouched; no litter")
def full_disk(world):
    with small_disk(world.base, 12) as disk:
        (disk / "files").mkdir()
        child = world.run(disk / "files", lambda: fill(disk), function=_every_writer)
        assert child.wait() == 0, child.said()[-600:]
    return 5


@case("disk", "`petbook train` on a disk that is too small", "refused before training, with what it needs")
def small_disk_train(world):
    with small_disk(world.base, 4) as disk:
        child = world.run(world.data, disk / "run")
        assert child.wait() == 2, child.said()[-600:]
        assert "MB cannot be written there" in child.said() and "epoch" not in child.said(), child.said()[-600:]
        assert not (disk / "run").exists()
    return 1


def _train_at_home(home, *arguments):
    os.environ["PETBOOK_HOME"] = str(home)
    return train(*arguments)


@case("disk", "the disk fills up while `petbook train` trains", "the model, in petbook's cache folder, and words that say where; exit status 1")
def filling_disk(world):
    home = world.folder("home")
    with small_disk(world.base, 40) as disk:
        child = world.run(home, world.data, disk / "run", function=_train_at_home)
        until(lambda: (disk / "run" / "checkpoint.pt").exists() or not child.running())
        fill(disk)
        code, said = child.wait(), child.said()
        assert code == 1 and "the results are in" in said, (code, said[-800:])
        kept, = home.rglob("model.safetensors")
        assert (kept.parent / "report.html").is_file() and (kept.parent / "results.csv").is_file()
        assert model(kept.parent) == model(world.whole), said[-900:]  # the best weights, kept in memory
    return 1


@contextmanager
def read_only(world):
    "A folder that cannot be written to: a small disk mounted so, or one without the right."
    if os.geteuid():
        folder = world.folder("read only")
        folder.mkdir()
        folder.chmod(0o555)
        yield folder
        folder.chmod(0o755)
        return
    with small_disk(world.base, 1) as disk:
        subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
        yield disk


@case("disk", "`petbook train --out` and `get_pets` in a read-only folder", "refused in words before anything else is done")
def read_only_train(world):
    with read_only(world) as folder:
        child = world.run(world.data, folder / "run")
        assert child.wait() == 2 and "MB cannot be written there" in child.said(), child.said()[-500:]
        assert "Traceback" not in child.said() and "images to train" not in child.said()
        try: get_pets("sketch", folder, 1)
        except WriteError as error: assert str(folder) in str(error), error
        else: raise AssertionError("drawn into a read-only folder?")
    return 2


# files

@case("files", "an image vanishes, shrinks or becomes another file, after the folder was listed",
      "named in words, exit status 2; with `--on-error skip` the run goes on without it")
def changing_files(world):
    done = 0
    for change in ("vanish", "shrink", "text"):
        for skip in (False, True):
            data, out = world.folder("changed"), world.folder("out")
            shutil.copytree(world.data, data)
            victim = data / "pug" / "1.jpg"

            def changed_train(*arguments):
                listing = DataBlock.dataloaders

                def dataloaders(block, *given, **named):
                    found = listing(block, *given, **named)
                    if change == "vanish": victim.unlink()
                    elif change == "shrink": victim.write_bytes(victim.read_bytes()[:700])
                    else: victim.write_text("not an image any more")
                    return found

                DataBlock.dataloaders = dataloaders
                return train(*arguments)

            child = world.run(data, out, *(["--on-error", "skip"] if skip else []), function=changed_train)
            code, said = child.wait(), child.said()
            assert code == (0 if skip else 2) and "1.jpg" in said and "Traceback" not in said, (change, skip, code, said[-500:])
            assert skip or not out.exists()
            done += 1
    return done


def _refuses(function, *arguments):
    try: function(*arguments)
    except PetbookError as error: return str(error)
    raise AssertionError("believed")


@case("files", "a model file, a checkpoint or the images of a stopped run are damaged or changed", "refused in words that name them")
def damaged(world):
    out = world.folder("damaged")
    child = world.run(world.data, out)
    until(lambda: (out / "checkpoint.pt").exists() or not child.running())
    child.send(signal.SIGTERM)
    child.wait()
    if not (out / "resume.json").exists(): raise Skip("the run was over before it could be stopped")
    good = (out / "checkpoint.pt").read_bytes()
    for content in (good[: len(good) // 2], b"", b"PK" + bytes(1000)):
        (out / "checkpoint.pt").write_bytes(content)
        child = world.run(["train", "--resume", str(out)], function=main)
        assert child.wait() == 2 and "checkpoint.pt" in child.said() and "Traceback" not in child.said(), child.said()[-500:]
    (out / "checkpoint.pt").write_bytes(good)
    cut = world.base / "cut.safetensors"
    for length in (0, 7, 300, 100_000):
        cut.write_bytes(model(world.whole)[:length])
        assert "cut.safetensors" in _refuses(load_learner, cut)
    image = world.data / "pug" / "2.jpg"
    kept = image.read_bytes()
    draw_pet("pug", 99, size=80).save(image)
    child = world.run(["train", "--resume", str(out)], function=main)
    assert child.wait() == 2 and "not those that this run began with" in child.said(), child.said()[-500:]
    image.write_bytes(kept)
    world.resume(out)
    assert model(out) == model(world.whole)
    return 8


@case("files", "the log of a cleaner that a stranger planted names files outside the data set", "nothing moves; the path is named")
def planted_log(world):
    root = world.folder("planted")
    (root / ".removed").mkdir(parents=True)
    outside = world.base / "outside.txt"
    outside.write_text("mine")
    (root / "link").symlink_to(world.base)
    for number, place in enumerate((outside, root / ".." / outside.name, root / "link" / outside.name)):
        log = root / ".removed" / f"{number}.csv"
        with open(log, "w", newline="") as file:
            writer = csv.DictWriter(file, ["batch", "when", "action", "path", "to", "new"])
            writer.writeheader()
            writer.writerow({"batch": 1, "action": "remove", "path": root / "stolen.jpg", "to": place})
        assert "outside" in _refuses(undo_changes, log)
        assert outside.read_text() == "mine" and not (root / "stolen.jpg").exists()
    return 3


# workers and processes

@case("workers", "kill -9 of a loader process while a step computes", "words and what to lower; the run goes on with fewer, to the same weights")
def dead_worker(world):
    need_linux()
    out = world.folder("worker")
    child = world.run(world.data, out, "--workers", "2")
    until(lambda: ((out / "checkpoint.pt").exists() and child.others()) or not child.running())
    workers = child.others()
    if not workers: raise Skip("the run was over before a worker could be killed")
    os.kill(workers[0], signal.SIGKILL)
    code, said = child.wait(), child.said()
    assert code == 0 and "going on from the last checkpoint with 1" in said and "--workers 1" in said, (code, said[-800:])
    assert model(out) == model(world.whole), "other weights"
    child.left_alone()
    return 1


@case("workers", "kill -9 of `petbook train` with two loader processes", "no process is left after some seconds", quick=False)
def killed_with_workers(world):
    need_linux()
    out = world.folder("with workers")
    child = world.run(world.data, out, "--workers", "2")
    until(lambda: len(child.others()) > 1 or not child.running())
    child.send(signal.SIGKILL)
    child.wait()
    child.left_alone(30)
    return 1


@case("processes", "a second run in the folder of a running one", "refused, or given a folder of its own; the first ends as if alone")
def two_runs(world):
    out = world.folder("shared")
    first = world.run(world.data, out)
    until(lambda: (out / "settings.json").exists() or not first.running())
    second = world.run(world.data, out)
    code, said = second.wait(), second.said()
    assert (code == 2 and "another run is writing" in said) or (code == 0 and f"wrote     {out}/" not in said), (code, said[-500:])
    assert first.wait() == 0, first.said()[-500:]
    assert model(out) == model(world.whole)
    return 1


@case("processes", "a process dies under `torchrun`", "torchrun ends with an error and leaves nobody; `--resume` finishes the run", quick=False)
def dead_rank(world):
    need_linux()
    if not shutil.which("torchrun"): raise Skip("torchrun is not installed")
    out, program = world.folder("ranks"), world.base / "run.py"
    program.write_text("import sys\nfrom petbook.cli.main import main\nsys.exit(main(sys.argv[1:]))\n")

    def start(*arguments):
        command = [shutil.which("torchrun"), "--standalone", "--nproc-per-node", "2", str(program), *arguments]
        return world.run(command, function=lambda command: subprocess.run(command).returncode)

    def running():
        "The processes that torchrun started; each has a session of its own."
        found = []
        for entry in Path("/proc").glob("[0-9]*"):
            try: line = (entry / "cmdline").read_bytes()
            except OSError: continue
            if str(program).encode() in line and b"torchrun" not in line: found.append(int(entry.name))
        return found

    child = start(*words(world.data, out), "--epochs", "6")
    until(lambda: (out / "checkpoint.pt").exists() or not child.running(), 300)
    assert running(), child.said()[-800:]
    os.kill(max(running()), signal.SIGKILL)
    assert child.wait(180) != 0
    until(lambda: not running(), 60, "processes are left")
    again = start("train", "--resume", str(out))
    assert again.wait(300) == 0, again.said()[-800:]
    load_learner(out / "model.safetensors")
    return 1


# strangers

@case("strangers", "hostile names of files and classes: escape sequences, line breaks, quotes, 255 bytes, no UTF-8",
      "trained, listed and answered; no control character reaches the terminal")
def names(world):
    data, out = world.folder("names"), world.folder("out")
    classes = ["a\x1b[2J", "b\nc", "<b>&'\"", "--out", "ü" * 120, "\u202ertl\u200f", "$\\frac$%s{0}", "{{7*7}}", "caf\udce9", "😀, 柴犬"]
    for name in classes:
        try: (data / name).mkdir(parents=True)
        except OSError: continue  # a file system that takes UTF-8 only
        for number in range(8): shutil.copy(world.data / "pug" / f"{number + 1}.jpg", data / name / f"{number}\x1b]0;x\x07 \n.jpg")
    shutil.copy(world.data / "pug" / "9.jpg", data / classes[0] / ("x" * 251 + ".jpg"))
    try: shutil.copy(os.fsencode(world.data / "pug" / "9.jpg"), os.fsencode(data / classes[0]) + b"/\xff\xfe.jpg")
    except OSError: pass  # a file system that takes UTF-8 only
    for arguments in (words(data, out, "--epochs", "1", "--cache", str(world.folder("cache"))), ["data", str(data)], ["predict", str(out / "model.safetensors"), str(data)]):
        child = world.run(arguments, function=main)
        assert child.wait() == 0, (arguments[0], child.said()[-600:])
        raw = [line for line in child.said().splitlines() if {"\x1b", "\x07", "\u202e"} & set(line)]
        assert not raw, (arguments[0], raw[0][:200])
    page = (out / "report.html").read_text(errors="backslashreplace")
    assert "<b>&'" not in page and "\x1b" not in page and "\u202e" not in page
    return 3


def _png(width, height, depth, rows):
    "A PNG that claims a size, with these compressed rows."
    def chunk(kind, data): return len(data).to_bytes(4, "big") + kind + data + zlib.crc32(kind + data).to_bytes(4, "big")

    head = width.to_bytes(4, "big") + height.to_bytes(4, "big") + bytes([depth, 2, 0, 0, 0])
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


def write_bombs(folder):
    "Files that cost much more than they weigh, a program and two pipes; returns the names of those that are files."
    drawn, packed = draw_pet("pug", 1, size=1500), io.BytesIO()
    drawn.save(packed, "JPEG", progressive=True)
    data = packed.getvalue()
    row, last = zlib.compress(bytes(1 + 3 * 178_000_000), 1), data.rfind(b"\xff\xda")
    bombs = {"gif.gif": b"GIF89a\x80\x3e\xe0\x2e\xf0\0\0\0\0\0\xff\xff\xff,\0\0\0\0\x80\x3e\xe0\x2e\0\2\2D\1\0;",
             "deep.png": _png(13_300, 13_300, 16, zlib.compress(bytes(6 * 10**7), 9)),
             "strip.png": _png(178_000_000, 1, 8, row), "scans.jpg": data[:-2] + data[last:-2] * 400 + data[-2:],
             "cat.jpg": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n{} loop\n"}
    for name, content in bombs.items(): (folder / name).write_bytes(content)
    os.mkfifo(folder / "pipe.jpg")
    (folder / "open.jpg").symlink_to("/dev/fd/0")
    return list(bombs)


def _measured(arguments):
    "In a child: a command, and the megabytes that it took beside what torch and petbook had already."
    reading, _ = os.pipe()
    os.dup2(reading, 0)
    warnings.resetwarnings()
    before = reset_peak()
    status = main(arguments)
    print(f"megabytes {peak() - before:.0f}", flush=True)
    return status


@case("strangers", "a folder of bombs beside good images: a GIF of 35 bytes, a 16-bit PNG, a JPEG of 410 scans, a row of 178 million pixels, "
      "pipes, a PostScript file; for `petbook predict` and `petbook data`",
      "the good ones answered, each other named with the reason, less than 200 MB")
def bombs(world):
    need_linux()
    folder = world.folder("bombs")
    folder.mkdir()
    for number in range(1, 4): shutil.copy(world.data / "pug" / f"{number}.jpg", folder / f"good{number}.jpg")
    names = write_bombs(folder)
    for arguments in (["predict", str(world.whole / "model.safetensors"), str(folder)], ["data", str(folder)]):
        child = world.run(arguments, function=_measured)
        code, said = child.wait(), child.said()
        assert code == 1 and "Traceback" not in said, (code, said[-600:])
        for name in (*names, "pipe.jpg", "open.jpg"): assert name in said, (name, said[-600:])
        if arguments[0] == "predict": assert said.count("good") == 3 and said.count("cannot be read") == 5, said
        else: assert "8 files checked: 5 cannot be read" in said, said
        assert float(said.split("megabytes ")[1]) < 200, said[-300:]
    return 2


@case("strangers", "mutated image files", "an answer or petbook's error for each, in bounded time and memory; nothing is run", quick=False)
def strangers_images(world): return _fuzz("fuzz_images.py")


@case("strangers", "mutated model files with their digests recomputed", "a refusal or a sound model; no code runs", quick=False)
def strangers_models(world): return _fuzz("fuzz_models.py")


FUZZ = {"count": 100}


def _fuzz(name):
    "Run another script of this folder shortly."
    if not (HERE / name).is_file(): raise Skip(f"{name} is not here")
    ran = subprocess.run([sys.executable, str(HERE / name), "--count", str(FUZZ["count"]), "--no-results"], capture_output=True, text=True, timeout=600)
    assert ran.returncode == 0, (ran.stdout + ran.stderr)[-600:]
    return FUZZ["count"]


# the suite

def run_case(world, group, fault, kept, function):
    start, row = time.perf_counter(), {"group": group, "fault": fault, "kept": kept}
    try: row |= {"survived": True, "times": function(world)}
    except Skip as reason: row |= {"skipped": str(reason)}
    except Exception as error: row |= {"survived": False, "problem": f"{type(error).__name__}: {error}"}
    row["seconds"] = round(time.perf_counter() - start, 1)
    told = f"skipped: {row['skipped']}" if "skipped" in row else "survived" if row["survived"] else f"FAILED: {row['problem']}"
    print(f"{row['seconds']:6.1f} s  {group:10} {fault[:70]:70} {told}", flush=True)
    return row


def parse():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--quick", action="store_true", help="one moment for each case, and only the cases that take seconds; writes nothing")
    parser.add_argument("--moments", type=int, help="how many random moments a case of kills and signals tries (10; quick: 1)")
    parser.add_argument("--only", default="", help="groups, or names of functions, separated by commas")
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    parser.add_argument("--out", type=Path, help="JSON file for the rows (results/faults.json, unless quick); with --only, the other rows in it stay")
    return parser.parse_args()


def conditions(options, world):
    return {"petbook": __import__("petbook").__version__, "python": platform.python_version(), "torch": torch.__version__, "system": platform.system(),
            "cores": os.cpu_count(), "moments": world.moments, "seconds_of_the_unbroken_run": round(world.seconds, 1), "seed": options.seed}


def write(out, told, some):
    "Write the rows; of only some cases, into those of the others, in the order of the cases."
    if some and out.exists():
        rows = {row["fault"]: row for row in json.loads(out.read_text(encoding="utf-8"))["rows"] + told["rows"]}
        told = told | {"rows": [rows[fault] for _, fault, *_ in CASES if fault in rows]}
    out.write_text(json.dumps(told, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def check():
    options = parse()
    if FORK is None: raise SystemExit("not tried: this system cannot fork")
    wanted = set(filter(None, options.only.split(",")))
    chosen = [one for one in CASES if (not wanted or wanted & {one[0], one[4].__name__}) and (one[3] or not options.quick)]
    if not options.quick: FUZZ["count"] = 300
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    with tempfile.TemporaryDirectory() as base:
        world = World(Path(base), options.moments or (1 if options.quick else 10), options.seed)
        print(f"the unbroken run took {world.seconds:.1f} s", flush=True)
        rows = [run_case(world, group, fault, kept, function) for group, fault, kept, _, function in chosen]
        told = {"conditions": conditions(options, world), "rows": rows}
    out = options.out or (None if options.quick else HERE / "results" / "faults.json")
    if out: write(out, told, bool(wanted))
    failed = [row for row in rows if row.get("survived") is False]
    print(f"{sum(row.get('survived', False) for row in rows)} of {len(rows)} survived, {sum('skipped' in row for row in rows)} skipped")
    return int(bool(failed))


if __name__ == "__main__": sys.exit(check())
