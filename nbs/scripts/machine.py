"""What a figure was measured on, for every script that writes one."""
import os
import platform
import time
from importlib.metadata import version
from pathlib import Path


def processor_name():
    "The processor in words, as the system tells it."
    listing = Path("/proc/cpuinfo")
    if listing.exists():
        for line in listing.read_text().splitlines():
            if line.startswith("model name"): return " ".join(line.partition(":")[2].split())
    return platform.processor() or platform.machine()


def describe_machine():
    "Processor, cores, date, how busy it was before, and versions of what a figure depends on."
    described = {"processor": processor_name(), "cores": os.cpu_count(), "date": time.strftime("%Y-%m-%d"),
                 "load_before": round(os.getloadavg()[0], 1) if hasattr(os, "getloadavg") else None,
                 "python": platform.python_version(), "system": platform.system()}
    described |= {name: version(name) for name in ("torch", "torchvision", "pillow")}
    import torch  # here, because some scripts time its import
    if torch.cuda.is_available(): described["card"] = torch.cuda.get_device_name()
    return described
