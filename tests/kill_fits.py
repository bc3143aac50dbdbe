"""Kills fits at random moments, with SIGKILL, and lets them go on: ``kill_fits.py BACKEND KILLS [SEED [FOLDER]]``.

Every fit must end with the bits of one that was left alone: parameters, the optimizer's state, the history and the
generator. It prints what it did. test_checkpoint.py runs a handful of kills.
"""

import os
import random
import signal
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

import fastmlp
from fastmlp import _fit

# Shorter slices have more ends at which a file can be written.
_fit.SLICE_SECONDS = 0.002
LONGEST_LIFE = 0.2

OPTIMIZERS = {
    "sgd": lambda: fastmlp.SGD(lr=0.05),
    "nesterov": lambda: fastmlp.SGD(lr=fastmlp.schedules.cosine(0.05, epochs=9), momentum=0.9, nesterov=True),
    "adamw": lambda: fastmlp.AdamW(lr=lambda epoch: 1e-3 / (1 + epoch), clip_norm=1.0),
    "rmsprop": lambda: fastmlp.RMSprop(),
}
GENERATORS = {
    "none": lambda: None,
    "int": lambda: 5,
    "pcg64": lambda: np.random.default_rng(7),
    "mt19937": lambda: np.random.Generator(np.random.MT19937(3)),
    "philox": lambda: np.random.Generator(np.random.Philox(3)),
    "sfc64": lambda: np.random.Generator(np.random.SFC64(3)),
}


def choose(choice, backend):
    """The settings of one fit, and of its checkpoints."""
    return {
        "backend": backend,
        "dtype": choice.choice(["float32", "float64"]),
        "sizes": choice.choice([(12, 40, 3), (12, 200, 100, 3), (12, 3)]),
        "n": choice.choice([90, 1500, 6000]),
        "batch_size": choice.choice([16, 64, 700]),
        "dropout": choice.choice([0.0, 0.3]),
        "optimizer": choice.choice(list(OPTIMIZERS)),
        "rng": choice.choice(list(GENERATORS)),
        "validated": choice.choice([False, True]),
        "bad_rows": choice.choice([0, 0, 3]),
        "every": choice.choice([1, 4, "0.001s", "0.02s"]),
    }


def run(settings, path=None):
    """One fit, with checkpoints at ``path``; returns all that it ends with, as bytes."""
    random = np.random.default_rng(1)
    n = settings["n"]
    X = random.normal(size=(n, 12)).astype(settings["dtype"])
    X[: settings["bad_rows"]] = np.nan
    y = random.integers(0, 3, n)
    net = fastmlp.MLP(
        settings["sizes"],
        output_activation="softmax",
        dropout=settings["dropout"],
        dtype=settings["dtype"],
        rng=11 if path is None or settings["rng"] == "none" else None,
        backend=settings["backend"],
        n_threads=1,
    )
    if settings["rng"] != "none":
        net.set_parameters(np.random.default_rng(4).normal(size=net.n_parameters) / 10)
        net._seed = 99
        net._use_threads()
    optimizer, rng = OPTIMIZERS[settings["optimizer"]](), GENERATORS[settings["rng"]]()
    history = net.fit(
        X,
        y,
        optimizer=optimizer,
        epochs=9,
        batch_size=settings["batch_size"],
        validation_data=(X[5:50], y[5:50]) if settings["validated"] else None,
        early_stopping=3 if settings["validated"] else None,
        callbacks=[] if path is None else [fastmlp.Checkpoint(path, every=settings["every"])],
        rng=rng,
        record=("steps", "parameters"),
        on_nonfinite="ignore",
        resume=path,
    )
    update = optimizer._update
    arrays = [net.parameters, update.first, update.second, update.scalars, history.step_loss, history.parameters]
    arrays += [np.array(history.loss), np.array(history.val_loss)]
    generator = rng if isinstance(rng, np.random.Generator) else net._shuffle_rng
    drawn = generator.random(4) if settings["rng"] != "int" else np.empty(0)
    facts = repr((history.epochs, history.best_epoch, history.stopped_by, net._dropout_step, optimizer._epoch))
    return b"".join(array.tobytes() for array in (*arrays, drawn)) + facts.encode()


def start(work):
    """A forked child at work; returns its process number."""
    child = os.fork()
    if not child:
        try:
            work()
        except BaseException:
            import traceback

            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    return child


def kill_fits(backend, n_kills, seed=0, folder=None):
    """Fits one after the other, each killed until it gets through; returns what was counted."""
    choice = random.Random(seed)
    counts = {"kills": 0, "fits": 0, "kills while a file was written": 0, "kills with a file there": 0}
    # In memory a file is written at once; a disk makes many wait.
    folder = folder or ("/dev/shm" if Path("/dev/shm").is_dir() else None)
    with tempfile.TemporaryDirectory(dir=folder) as folder:
        path, result = Path(folder, "fit"), Path(folder, "result")
        while counts["kills"] < n_kills:
            settings = choose(choice, backend)
            expected = run(settings)
            while True:
                began = time.time_ns()
                child = start(lambda settings=settings: result.write_bytes(run(settings, path)))
                if counts["kills"] < n_kills:
                    time.sleep(LONGEST_LIFE * choice.random() ** 2)
                    os.kill(child, signal.SIGKILL)
                _, status = os.waitpid(child, 0)
                if os.WIFEXITED(status):
                    break
                counts["kills"] += 1
                counts["kills while a file was written"] += any(
                    file.suffix == ".partial" and file.stat().st_mtime_ns > began for file in Path(folder).iterdir()
                )
                counts["kills with a file there"] += path.exists()
            assert os.WEXITSTATUS(status) == 0, f"a fit failed: {settings}"
            assert result.read_bytes() == expected, f"other bits: {settings}"
            counts["fits"] += 1
            for file in Path(folder).iterdir():
                file.unlink()
    return counts


def main(backend, n_kills, seed="0", folder=None):
    for what, count in kill_fits(backend, int(n_kills), int(seed), folder).items():
        print(f"{count} {what}")


if __name__ == "__main__":
    main(*sys.argv[1:])
