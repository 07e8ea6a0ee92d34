"""Processes that try hostile files for fuzz_images.py and fuzz_models.py, and a watch that ends those that hang, crash or grow.

A script gives a function `work(connection, *arguments)`, which says "ready", then is sent numbers one by one (None ends it); for each
it says "made" and then a dictionary with what came of that number.

    python nbs/scripts/fuzz_workers.py     four planted faults: does the watch see them?
"""
import multiprocessing
import multiprocessing.connection
import os
import resource
import time
from pathlib import Path


def peak():
    "The most memory that this process has held since `reset_peak`, megabytes."
    try: text = Path("/proc/self/status").read_text()
    except OSError: return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return int(text.split("VmHWM:")[1].split()[0]) / 1024


def reset_peak():
    "Let `peak` begin anew, where the system can."
    try: Path("/proc/self/clear_refs").write_text("5")
    except OSError: pass
    return peak()


class Worker:
    "A worker's process, its connection, and what it does now."

    def __init__(self, work, arguments, limits):
        self.work, self.arguments, self.limits = work, arguments, limits
        context = multiprocessing.get_context("spawn")
        self.connection, theirs = context.Pipe()
        self.process = context.Process(target=work, args=(theirs, *arguments), daemon=True)
        self.process.start()
        theirs.close()
        self.number, self.since, self.worked = None, time.monotonic(), 0

    def again(self):
        "Another worker in its place."
        return Worker(self.work, self.arguments, self.limits)

    def give(self, number):
        "Ask for a number, and begin to count its time."
        self.number, self.since, self.worked = number, time.monotonic(), self.processor_time()
        self.connection.send(number)

    def memory(self):
        "Its memory now, megabytes."
        try: return int(Path(f"/proc/{self.process.pid}/status").read_text().split("VmRSS:")[1].split()[0]) / 1024
        except (OSError, IndexError): return 0

    def processor_time(self):
        "The seconds that it has worked."
        try: fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        except OSError: return 0
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def trouble(self):
        "Why it must be ended, or nothing."
        hang, asleep, runaway = self.limits
        if not self.process.is_alive(): return f"crash, exit code {self.process.exitcode}"
        if self.number is None: return ""
        if self.processor_time() - self.worked > hang: return f"hang: no answer in {hang} s"
        if time.monotonic() - self.since > asleep: return f"asleep: no answer in {asleep} s"
        return f"more than {runaway} MB" if self.memory() > runaway else ""

    def end(self):
        self.process.kill()
        self.process.join()


def run(numbers, work, arguments, limits):
    "Try all numbers, with one worker for each tuple of arguments; yield a dictionary for each. Limits: see `Worker.trouble`."
    numbers = iter(numbers)
    crew = [Worker(work, one, limits) for one in arguments]
    while any(crew):
        ready = multiprocessing.connection.wait([one.connection for one in crew if one], timeout=0.5)
        for place, one in enumerate(crew):
            if one is None: continue
            if one.connection in ready:
                try: told = one.connection.recv()
                except EOFError: told = None
                if isinstance(told, dict): yield told
                if told == "ready" or isinstance(told, dict):
                    one.give(next(numbers, None))
                    if one.number is None: crew[place] = None
                    continue
                if told: continue
                one.process.join(5)
            if trouble := one.trouble():
                one.end()
                if one.number is None: raise SystemExit(f"a worker ended before its first file: {trouble}")
                yield {"number": one.number, "kind": "?", "what": "?", "outcome": "finding", "said": trouble, "seconds": limits[0],
                       "megabytes": 0}
                crew[place] = one.again()


def planted(connection):
    "A worker that crashes, works without end, falls asleep and grows, in this order; other numbers it answers."
    connection.send("ready")
    while (number := connection.recv()) is not None:
        connection.send("made")
        if number == 1: os._exit(11)
        while number == 2: pass
        held = b"1" * (600 * 2**20) if number == 4 else b""
        if number in (3, 4): time.sleep(60)
        connection.send({"number": number, "outcome": "fine", "said": "", "bytes": len(held)})


def main():
    "Try the watch on planted faults. Each has to be seen, and nothing else."
    said = {row["number"]: row["said"] for row in run(range(6), planted, [()], (2, 6, 400))}
    print(*said.items(), sep="\n")
    assert said == {0: "", 1: "crash, exit code 11", 2: "hang: no answer in 2 s", 3: "asleep: no answer in 6 s", 4: "more than 400 MB", 5: ""}


if __name__ == "__main__": main()
