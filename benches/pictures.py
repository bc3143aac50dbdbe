"""Makes the pictures of docs/performance.md: ``python benches/pictures.py --output docs/pictures``.

It measures for some minutes, on as many threads as FASTMLP_NUM_THREADS says (one by default), and keeps the figures in
performance.json beside the pictures; ``--again`` draws them anew from there.
"""

import argparse
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import probe
from bench_batch_sweep import BATCH_SIZES, checked_ways, in_rounds
from peers import OURS, contenders
from race import best_peer, prepare, race, team
from threadpoolctl import threadpool_limits
from workloads import N_THREADS, THREADS

from fastmlp._bench._machine import machine
from fastmlp._bench._rounds import stopwatch
from fastmlp._bench._tasks import flop_of
from fastmlp._bench._workload import Workload
from fastmlp._bench._workloads import WORKLOADS
from fastmlp._demos import _figure

TASKS = {"step": "One training step", "forward": "Forward pass of a batch"}
BEST_PEER = "best peer"
LEAST_DRAWN_FLOP = 1e5  # a smaller call is all overhead: its share is 0 whatever computes
TICKS = (0.3, 1.0, 3.0, 10.0, 30.0, 100.0)
COLOURS = _figure.BACKEND_COLOURS | {BEST_PEER: _figure.GREY}


def measure_shares() -> Iterator[dict[str, Any]]:
    """Of every task and workload: its operations, and the share of the peak of each backend and the best peer."""
    multiply_add, flop_of_limit = probe.multiply_add("float32")
    with team(contenders(), N_THREADS) as workers:
        for task in TASKS:
            for case, workload in WORKLOADS.items():
                seconds = race(prepare(workers, task, workload), task, workload, limit=stopwatch(multiply_add))
                flop = flop_of(task, workload)
                best_seconds = flop * seconds.pop("limit") / flop_of_limit / N_THREADS
                named = {name.removeprefix(OURS): name for name in seconds if name.startswith(OURS)}
                named[BEST_PEER] = best_peer(seconds)
                shares = {name: best_seconds / seconds[key] for name, key in named.items()}
                print(
                    task, case, named[BEST_PEER], {name: f"{share:.3f}" for name, share in shares.items()}, flush=True
                )
                yield {"task": task, "case": case, "flop": flop, "shares": shares}


def measure_sweep() -> Iterator[dict[str, Any]]:
    """Of every task and batch size: seconds per example of each backend."""
    workloads = {n: Workload((64, 100, 10), "relu", "softmax", n) for n in BATCH_SIZES}
    with threadpool_limits(N_THREADS):
        for task in TASKS:
            for (backend, n), seconds in in_rounds(checked_ways(workloads, task)).items():
                yield {"task": task, "backend": backend, "n": n, "seconds": seconds / n}


def draw_shares(figure: Any, figures: dict[str, Any]) -> None:
    """The share of the FMA peak against the operations of a call."""
    _figure.title(figure, f"How near the machine's peak: float32, {THREADS}")
    for axes, (task, title) in zip(figure.subplots(1, 2, sharey=True), TASKS.items()):
        points = [point for point in figures["shares"] if point["task"] == task and point["flop"] > LEAST_DRAWN_FLOP]
        points.sort(key=lambda point: point["flop"])
        flop = [point["flop"] for point in points]
        axes.axhline(100.0, color=_figure.INK, linewidth=1.2)
        for name in points[0]["shares"]:
            shares = [100.0 * point["shares"][name] for point in points]
            label = name if name == BEST_PEER else f"backend {name}"
            axes.plot(flop, shares, "o-", color=COLOURS[name], markersize=5, label=label)
        for flop, name in names_of(points):
            axes.text(flop, 102.0, name, rotation=90, ha="center", va="bottom", fontsize=8, color=_figure.GREY)
        axes.set(xscale="log", ylim=(0.0, 135.0), xlabel="floating-point operations of a call", title=title)
        axes.set_yticks(range(0, 101, 20))
    figure.axes[0].set_ylabel("share of the measured FMA peak (%)")
    _figure.legend_below(figure, axes, columns=4)


def names_of(points: list[dict[str, Any]]) -> list[tuple[float, str]]:
    """Where the names of the cases go; those of nearly the same operations share a place."""
    names: list[tuple[float, str]] = []
    for point in points:
        if names and point["flop"] < 1.1 * names[-1][0]:
            names[-1] = (names[-1][0], f"{names[-1][1]}, {point['case']}")
        else:
            names.append((point["flop"], point["case"]))
    return names


def draw_sweep(figure: Any, figures: dict[str, Any]) -> None:
    """The time per example against the batch size."""
    _figure.title(figure, "Time per example of a 64-100-10 net, by batch size")
    for axes, (task, title) in zip(figure.subplots(1, 2, sharey=True), TASKS.items()):
        points = [point for point in figures["sweep"] if point["task"] == task]
        for name in dict.fromkeys(point["backend"] for point in points):
            mine = sorted((point["n"], 1e6 * point["seconds"]) for point in points if point["backend"] == name)
            axes.plot(*zip(*mine), "o-", color=COLOURS[name], markersize=4, label=f"backend {name}")
        ticks = [2**power for power in range(13)]
        axes.set_xscale("log", base=2)
        axes.set_xticks(ticks, [str(n) for n in ticks])
        axes.set(yscale="log", xlabel="batch size (examples)", title=title)
        axes.set_yticks(TICKS, [f"{tick:g}" for tick in TICKS])
    figure.axes[0].set_ylabel("time per example (µs)")
    _figure.legend_below(figure, axes, columns=3)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Measure, and make the pictures of docs/performance.md.")
    parser.add_argument("--output", type=Path, default=Path("docs/pictures"), help="folder (default: %(default)s)")
    parser.add_argument("--again", action="store_true", help="draw the figures measured before")
    options = parser.parse_args(arguments)
    kept = options.output / "performance.json"
    if not options.again:
        figures = {"machine": machine(), "shares": list(measure_shares()), "sweep": list(measure_sweep())}
        options.output.mkdir(parents=True, exist_ok=True)
        kept.write_text(json.dumps(figures, indent=1) + "\n")
    figures = json.loads(kept.read_text())
    _figure.write(options.output / "roofline.png", lambda figure: draw_shares(figure, figures), (13.0, 5.0))
    _figure.write(options.output / "batch-sweep.png", lambda figure: draw_sweep(figure, figures), (13.0, 5.0))


if __name__ == "__main__":
    main()
