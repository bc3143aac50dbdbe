"""How many threads a network may use."""

import os
from functools import cache
from typing import Protocol
from weakref import WeakSet

from fastmlp._numbers import check_whole


class _Threaded(Protocol):
    """What follows the number of threads: a network."""

    def _use_threads(self) -> None: ...


_process_wide: int | None = None
_followers: WeakSet[_Threaded] = WeakSet()


def set_num_threads(n: int | None) -> None:
    """Set how many threads networks may use, for the whole process.

    It takes effect at once, for existing networks too, and goes before the environment variable
    FASTMLP_NUM_THREADS. A network's own ``n_threads`` still bounds that network. Results are the same
    bits for any number of threads.

    Parameters
    ----------
    n : int or None
        At least 1; None returns to the default.
    """
    global _process_wide
    if n is not None:
        n = check_whole("n", n, at_least=1)
    _process_wide = n
    for network in list(_followers):
        network._use_threads()


def follow(network: _Threaded) -> None:
    """Have a network told of `set_num_threads` for as long as it lives."""
    _followers.add(network)


def threads_for(n_threads: int | None) -> int:
    """The most threads a network made with ``n_threads`` may use now."""
    limit = _process_wide or _from_environment("FASTMLP_NUM_THREADS")
    if n_threads is not None:
        return min(n_threads, limit or n_threads)
    return limit or default_threads()


def default_threads() -> int:
    """The processors this process may use, or fewer where OMP_NUM_THREADS says so (joblib sets it)."""
    bounds = [_affinity(), _cgroup_quota(), _from_environment("OMP_NUM_THREADS", strict=False)]
    return min(bound for bound in bounds if bound is not None)


def _affinity() -> int:
    if hasattr(os, "sched_getaffinity"):
        return max(1, len(os.sched_getaffinity(0)))
    return os.cpu_count() or 1


def _from_environment(name: str, strict: bool = True) -> int | None:
    """A number of threads from the environment; None where unset, or where not ``strict`` and unreadable."""
    text = os.environ.get(name, "").strip()
    if not text:
        return None
    # OMP_NUM_THREADS may be a list, one number per nesting level.
    first = text if strict else text.split(",")[0].strip()
    if first.isdecimal() and int(first) >= 1:
        return int(first)
    if strict:
        raise ValueError(f"the environment variable {name} is {text!r}; a number of threads is an int of at least 1")
    return None


@cache
def _cgroup_quota(proc: str = "/proc/self/cgroup", root: str = "/sys/fs/cgroup") -> int | None:
    """Whole processors that the control groups of this process allow, at least 1; None where unlimited."""
    try:
        lines = _read(proc).splitlines()
    except OSError:
        return None
    shares = []
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers == "":
            shares += [_share_v2(folder) for folder in _ancestors(root, path)]
        elif "cpu" in controllers.split(","):
            for mount in (os.path.join(root, controllers), os.path.join(root, "cpu")):
                shares += [_share_v1(folder) for folder in _ancestors(mount, path)]
    known = [share for share in shares if share is not None]
    return max(1, int(min(known))) if known else None


def _ancestors(mount: str, path: str) -> list[str]:
    """The folders of a group and of every group above it; inside a container only the upper ones may exist."""
    names = path.strip("/").split("/")
    return [os.path.join(mount, *names[:depth]) for depth in range(len(names), -1, -1)]


def _read(*path: str) -> str:
    with open(os.path.join(*path)) as file:
        return file.read()


def _share_v2(folder: str) -> float | None:
    """Processors that cpu.max of ``folder`` allows."""
    try:
        quota, period = _read(folder, "cpu.max").split()
        return None if quota == "max" else int(quota) / int(period)
    except (OSError, ValueError, ZeroDivisionError):
        return None


def _share_v1(folder: str) -> float | None:
    """Processors that cpu.cfs_quota_us of ``folder`` allows."""
    try:
        quota = int(_read(folder, "cpu.cfs_quota_us"))
        period = int(_read(folder, "cpu.cfs_period_us"))
        return quota / period if quota > 0 else None
    except (OSError, ValueError, ZeroDivisionError):
        return None
