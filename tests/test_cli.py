"""The command line: its commands, its exit codes, and what it says when something is missing."""

import subprocess
import sys

import pytest
from support import make_net, run_python

from fastmlp import _cli
from fastmlp._bench import _command
from fastmlp._demos import DEMOS, digits, minimal


@pytest.fixture
def calls(monkeypatch):
    """The arguments that demos are run with, in place of running them."""
    seen = []
    for module in (digits, minimal):
        monkeypatch.setattr(module, "run", lambda *arguments, module=module: seen.append((module, *arguments)))
    return seen


def test_plain_demo_runs_digits(calls):
    assert _cli.main(["demo", "--backend", "numpy"]) == 0
    (call,) = calls
    assert call[0] is digits
    assert call[2:] == ("numpy", False)


def test_options_reach_the_demo(calls, tmp_path):
    assert _cli.main(["demo", "minimal", "--output", str(tmp_path), "--backend", "numpy", "--quick"]) == 0
    assert calls == [(minimal, tmp_path, "numpy", True)]


def test_bench_prints_a_table(capfd):
    assert _cli.main(["bench", "--backend", "numpy", "--quick"]) == 0
    machine, threads, *_, header, rule, by_hand, numpy = capfd.readouterr().out.splitlines()[: 3 + 1 + 4]
    assert "NumPy" in machine
    assert "threads: 1;" in threads
    assert header.split("  ")[0] == "case"
    assert header.endswith("lead")
    assert set(rule) == {"-", " "}
    assert by_hand.split()[:5] == ["xor", "2-2-1", "NumPy", "by", "hand"]
    assert numpy.split()[0] == "numpy"
    assert numpy.endswith("x")


def test_options_reach_the_bench(monkeypatch):
    seen = []

    def run(command, *, env, check):
        seen.append((command[1:], env["OPENBLAS_NUM_THREADS"], env["FASTMLP_NUM_THREADS"]))
        return subprocess.CompletedProcess(command, 3)

    monkeypatch.setattr(_command.subprocess, "run", run)
    assert _cli.main(["bench", "--threads", "2", "--backend", "numpy"]) == 3
    assert _cli.main(["bench", "--quick"]) == 3
    module = ["-m", "fastmlp._bench"]
    assert seen == [([*module, "numpy", ""], "2", "2"), ([*module, "", "quick"], "1", "1")]


@pytest.mark.parametrize("threads", ["0", "-1", "many"])
def test_nonsense_threads_are_refused(threads, capsys):
    with pytest.raises(SystemExit, match="2"):
        _cli.main(["bench", f"--threads={threads}"])
    assert f"'{threads}' is not a whole number of at least 1" in capsys.readouterr().err


def test_no_command_prints_help(capsys):
    assert _cli.main([]) == 0
    assert "usage: fastmlp" in capsys.readouterr().out


def test_help_names_every_demo(capsys):
    with pytest.raises(SystemExit, match="0"):
        _cli.main(["demo", "--help"])
    printed = capsys.readouterr().out
    for name, demo in DEMOS.items():
        assert f"{name} " in printed
        assert demo.summary in printed


def test_config_is_shown(capsys):
    assert _cli.main(["config"]) == 0
    printed = capsys.readouterr().out
    assert "numpy" in printed
    assert "backend" in printed


@pytest.mark.parametrize("arguments", [["demo", "nonsense"], ["nonsense"], ["demo", "--nonsense"]])
def test_nonsense_is_refused(arguments, capsys):
    with pytest.raises(SystemExit, match="2"):
        _cli.main(arguments)
    assert "nonsense" in capsys.readouterr().err


def failure_of(arguments, capsys):
    """The one line on standard error that a command fails with."""
    assert _cli.main(arguments) == 1
    (line,) = capsys.readouterr().err.splitlines()
    return line


def test_unknown_backend_is_named(calls, capsys):
    assert "'torch'" in failure_of(["demo", "minimal", "--backend", "torch"], capsys)
    assert "'torch'" in failure_of(["bench", "--backend", "torch"], capsys)
    assert not calls


def test_backend_of_the_environment_is_checked_too(calls, capsys, monkeypatch):
    monkeypatch.setenv("FASTMLP_BACKEND", "torch")
    assert "FASTMLP_BACKEND is 'torch'" in failure_of(["demo", "minimal"], capsys)
    assert not calls


def test_unusable_backend_gives_its_reason(calls, capsys, monkeypatch):
    monkeypatch.setattr(_cli._backends, "_reason_missing", lambda name: "no such luck")
    assert "no such luck" in failure_of(["demo", "minimal", "--backend", "c"], capsys)
    assert not calls


def test_missing_scikit_learn_names_the_command(capsys, monkeypatch, tmp_path):
    for module in ("sklearn", "sklearn.datasets"):
        monkeypatch.setitem(sys.modules, module, None)
    line = failure_of(["demo", "digits", "--backend", "numpy", "--output", str(tmp_path)], capsys)
    assert "scikit-learn" in line
    assert 'pip install "fastmlp[demo]"' in line


def test_unwritable_output_is_one_line(capsys, tmp_path):
    pytest.importorskip("matplotlib")
    (tmp_path / "file").write_text("in the way")
    arguments = ["demo", "gates", "--backend", "numpy", "--output", str(tmp_path / "file")]
    assert "file" in failure_of(arguments, capsys)


def test_interruption_has_its_own_exit_code(capsys, monkeypatch):
    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(minimal, "run", interrupt)
    assert _cli.main(["demo", "minimal", "--backend", "numpy"]) == 130
    assert "interrupted" in capsys.readouterr().err


def test_runs_as_a_module(tmp_path):
    printed = run_python(
        "import runpy, sys\n"
        f"sys.argv = ['fastmlp', 'demo', 'minimal', '--backend', 'numpy', '--output', {str(tmp_path)!r}]\n"
        "try:\n    runpy.run_module('fastmlp', run_name='__main__')\n"
        "except SystemExit as end:\n    assert not end.code, end.code\n"
    )
    assert "theta" in printed


def test_export_c_writes_the_file_that_the_method_writes(tmp_path, capsys):
    net, _ = make_net((3, 4, 2), output_activation="softmax", backend="numpy")
    net.save(tmp_path / "net.safetensors")
    net.export_c(tmp_path / "expected.c", "iris")
    arguments = ["export-c", str(tmp_path / "net.safetensors"), "-o", str(tmp_path / "net.c"), "--name", "iris"]
    assert _cli.main(arguments) == 0
    assert capsys.readouterr().out == f"{tmp_path / 'net.c'}: 26 parameters, iris_forward\n"
    assert (tmp_path / "net.c").read_bytes() == (tmp_path / "expected.c").read_bytes()


def test_export_c_fails_in_one_line(tmp_path, capsys):
    net, _ = make_net((3, 4, 2), backend="numpy")
    path = str(tmp_path / "net.safetensors")
    assert "no such file" in failure_of(["export-c", "no such file", "-o", str(tmp_path / "net.c")], capsys)
    (tmp_path / "net.safetensors").write_bytes(b"something else")
    assert "cannot be loaded" in failure_of(["export-c", path, "-o", str(tmp_path / "net.c")], capsys)
    net.save(path)
    assert "name is '2nd'" in failure_of(["export-c", path, "-o", str(tmp_path / "net.c"), "--name", "2nd"], capsys)
    assert "no such folder" in failure_of(["export-c", path, "-o", str(tmp_path / "no such folder" / "net.c")], capsys)
    with pytest.raises(SystemExit, match="2"):
        _cli.main(["export-c", path])
    assert [entry.name for entry in tmp_path.iterdir()] == ["net.safetensors"]


def test_command_line_imports_nothing_heavy():
    printed = run_python(
        "import sys, fastmlp._cli\n"
        "print([name for name in ('matplotlib', 'sklearn', 'numba', 'tqdm') if name in sys.modules])"
    )
    assert printed.strip() == "[]"
