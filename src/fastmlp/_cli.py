"""The command line: ``fastmlp demo [NAME]``, ``bench``, ``config`` and ``export-c``."""

import argparse
import importlib
import sys
from collections.abc import Sequence
from pathlib import Path

from fastmlp import _backends
from fastmlp._bench._command import run_apart
from fastmlp._config import show_config
from fastmlp._demos import DEFAULT_DEMO, DEMOS
from fastmlp._demos._extras import MissingExtra
from fastmlp._mlp import MLP

EPILOG = "demos:\n" + "\n".join(f"  {name:<9} {demo.summary}" for name, demo in DEMOS.items())


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command and return its exit code: 0, or 1 with one line on standard error.

    Parameters
    ----------
    arguments : sequence of str, optional
        What follows the command's name; by default those of the process.

    Raises
    ------
    SystemExit
        With code 2 where the arguments make no sense, with code 0 after ``--help``.
    """
    parser = _parser()
    options = parser.parse_args(arguments)
    if options.command is None:
        parser.print_help()
        return 0
    if options.command == "config":
        show_config()
        return 0
    if options.command == "export-c":
        return _export_c(options.model, options.output, options.name)
    try:
        _backends.resolve(options.backend)
    except (RuntimeError, ValueError) as error:
        return _fail(str(error))
    try:
        if options.command == "bench":
            return run_apart(options.backend, options.threads, options.quick)
        return _run_demo(options.name, options.output, options.backend, options.quick)
    except KeyboardInterrupt:
        print("\nfastmlp: interrupted", file=sys.stderr)
        return 130  # what a shell expects of a process that SIGINT ended


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="fastmlp", description="Multi-layer perceptrons, fast on a CPU.")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND")
    demo = commands.add_parser(
        "demo",
        help="run a demo of the lecture",
        description="Run a demo: it prints its results and writes its pictures.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    demo.add_argument(
        "name",
        nargs="?",
        choices=list(DEMOS),
        default=DEFAULT_DEMO,
        metavar="NAME",
        help="one of the demos below (default: %(default)s)",
    )
    demo.add_argument(
        "--output",
        type=Path,
        default=Path("fastmlp-demo"),
        metavar="DIR",
        help="folder for the pictures (default: %(default)s)",
    )
    demo.add_argument(
        "--backend", metavar="NAME", help="c, numba or numpy (default: the best, or all where they are compared)"
    )
    demo.add_argument("--quick", action="store_true", help="do less work: fewer seeds, steps and repetitions")
    bench = commands.add_parser(
        "bench",
        help="time training steps beside NumPy",
        description="Check and time training steps of every backend beside the same net written by hand in NumPy.",
    )
    bench.add_argument("--backend", metavar="NAME", help="c, numba or numpy (default: all that are available)")
    bench.add_argument(
        "--threads",
        type=_number_of_threads,
        default=1,
        metavar="N",
        help="for fastmlp and for NumPy (default: %(default)s)",
    )
    bench.add_argument("--quick", action="store_true", help="small nets alone, and less time for each")
    commands.add_parser("config", help="show backends, instruction set, threads and versions")
    export_c = commands.add_parser(
        "export-c",
        help="write a saved network as one C file",
        description="Write a network from a file of MLP.save or Checkpoint as one C99 file; its comment tells the use.",
    )
    export_c.add_argument("model", metavar="FILE", help="the network, such as model.safetensors")
    export_c.add_argument("-o", "--output", required=True, metavar="FILE", help="the C file, such as model.c")
    export_c.add_argument(
        "--name", default="mlp", help="stands in front of what the file defines: NAME_forward (default: %(default)s)"
    )
    return parser


def _number_of_threads(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of at least 1")
    return int(text)


def _run_demo(name: str, output: Path, backend: str | None, quick: bool) -> int:
    module = importlib.import_module(f"fastmlp._demos.{DEMOS[name].module}")
    try:
        module.run(output, backend, quick)
    except (MissingExtra, OSError) as error:
        return _fail(str(error))
    return 0


def _export_c(model: str, output: str, name: str) -> int:
    try:
        net = MLP.load(model)
        net.export_c(output, name)
    except (OSError, ValueError, RuntimeError) as error:
        return _fail(str(error))
    print(f"{output}: {net.n_parameters:,} parameters, {name}_forward")
    return 0


def _fail(message: str) -> int:
    print(f"fastmlp: {message}", file=sys.stderr)
    return 1
