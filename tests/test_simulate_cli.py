"""``confide simulate`` as a person types it: results, and one clear line for every mistake."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from federation_cases import toy_csv

import confide
from strategies.environment import ENVIRONMENT

RUN = """
name = "toy"
seed = 3
[model]
name = "logistic"
[data]
kind = "tabular"
label = "y"
path = "toy.csv"
columns = {a = {bounds = [-1, 1]}, b = {bounds = [-1, 1]}}
partition = {departments = 3}
test = {share = 0.2}
[training]
rounds = 2
local_steps = 2
sampling_rate = 0.5
[privacy]
noise_multiplier = 4.0
metric_noise = 8.0
[evaluation]
baselines = false
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a run file and its data, and a home elsewhere."""
    monkeypatch.setenv("CONFIDE_HOME", str(tmp_path / "home"))
    monkeypatch.setattr("server.conduct.draw", lambda _directory: [])
    toy_csv(tmp_path / "toy.csv", 120)
    (tmp_path / "run.toml").write_text(RUN)
    return tmp_path


def confide_simulate(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], arguments: Sequence[object]
) -> tuple[int, str, str]:
    """Exit code, stdout and stderr of ``confide simulate`` in this process: starting torch anew is slow."""
    monkeypatch.setattr(sys, "argv", ["confide", "simulate", *map(str, arguments)])
    threads = torch.get_num_threads()
    try:
        confide.main()
    except SystemExit as end:
        code = 0 if end.code is None else int(end.code)
    else:
        code = 0
    finally:
        torch.set_num_threads(threads)
    told = capfd.readouterr()
    return code, told.out, told.err


def test_a_run_and_its_json(folder: Path, monkeypatch: Any, capfd: Any) -> None:
    result_file = folder / "result.json"
    arguments = [folder / "run.toml", "--json", result_file, "--out", folder / "out", "--baselines"]
    code, out, err = confide_simulate(monkeypatch, capfd, arguments)
    assert code == 0, err
    result = json.loads(result_file.read_text())
    assert set(result) == {
        "metric",
        "accuracy",
        "scores",
        "measured_on",
        "epsilon",
        "delta",
        "privacy",
        "rounds",
        "seconds",
        "seconds_to_first_round",
        "round_seconds",
        "leg_seconds_median",
        "secagg",
        "peak_memory_mb",
        "run_dir",
    }
    assert set(result["accuracy"]) == {"federated", "federated_nonprivate", "alone", "untrained"}
    assert len(result["accuracy"]["alone"]) == len(result["epsilon"]) == 3
    assert set(result["epsilon"][0]) == {"department", "opacus_rdp", "opacus_prv", "pld"}
    assert result["rounds"] == 2
    assert result["run_dir"] == str(folder / "out")
    assert (folder / "out" / "model" / "model.safetensors").exists()
    assert "accuracy on the public test set" in out
    assert "not private: seeded" in out
    assert "round   1" in err
    assert not list(Path.cwd().glob("out"))

    # The same folder again is refused; resuming the finished run changes nothing.
    code, _, err = confide_simulate(monkeypatch, capfd, [folder / "run.toml", "--out", folder / "out"])
    assert (code, "exists already" in err) == (2, True)
    again = ["--resume", folder / "out", "--json", result_file, "--baselines"]
    assert confide_simulate(monkeypatch, capfd, again)[0] == 0
    assert json.loads(result_file.read_text())["scores"] == result["scores"]


def test_names_with_brackets_are_printed_as_they_are(folder: Path, monkeypatch: Any, capfd: Any) -> None:
    """Rich takes [north] for a style; a department may be called so all the same."""
    path = toy_csv(folder / "toy.csv", 120, department=3)
    for i, name in enumerate(("[north]", "[/south]", "[red]west")):
        path.write_text(path.read_text().replace(f"office-{i}", name))
    text = RUN.replace("partition = {departments = 3}", 'department_column = "office"')
    (folder / "run.toml").write_text(text)
    code, out, err = confide_simulate(monkeypatch, capfd, [folder / "run.toml"])
    assert code == 0, err
    assert "[north]" in out
    assert "[/south]" in out
    assert "[red]west" in out


def write(path: Path, text: str | bytes) -> None:
    path.write_bytes(text.encode() if isinstance(text, str) else text)


HEADER, LINE = "a,b,y\n", "0.1,0.2,1\n0.3,0.4,0\n"


@pytest.mark.parametrize(
    ("run", "data", "arguments", "said"),
    [
        (None, None, (), "run.toml: no such file"),
        ("", None, (), "model: missing"),
        ("[model", None, (), "not valid TOML"),
        (b"\xff\xfe", None, (), "not UTF-8"),
        (RUN + "[trainig]\n", None, (), "trainig: unknown key; did you mean training?"),
        (RUN, None, ("--set", "training.round=3"), "training.round: unknown key; did you mean rounds?"),
        (RUN, None, ("--set", "model.name=logistik"), "did you mean 'logistic'?"),
        (RUN, None, ("--set", "strategy.name=fedavgg"), "did you mean fedavg?"),
        (RUN, None, ("--set", "privacy.epsilon"), "write it as key=value"),
        (RUN, None, ("--set", "privacy.epsilon=0.5"), "the noise given beside it costs"),
        (RUN, None, ("--set", "privacy.delta=1.0"), "privacy.delta = 1.0"),
        (RUN, None, ("--set", "training.loss=mse"), "data.target_bounds: private regression needs public bounds"),
        (RUN, None, ("--set", "strategy.min_departments=4"), "strategy.min_departments = 4"),
        (RUN, None, ("--set", "data.partition.departments=100"), "departments = 100"),
        (RUN.replace("partition = {departments = 3}", ""), None, (), '[data.partition] kind = "iid"'),
        (RUN, "ABSENT", (), "toy.csv: no such file"),
        (RUN, "", (), "toy.csv"),
        (RUN, HEADER, (), "toy.csv"),
        (RUN, HEADER + LINE * 2, (), "not one of 4 records is set aside"),
        (RUN.replace("test = {share = 0.2}", ""), HEADER + LINE * 2, (), "departments = 3"),
        (RUN, HEADER + "0.1,0.2,1\n" * 60, (), "all labels are the same"),
        (RUN, "a,b,z\n" + LINE * 60, (), "'y'"),
        (RUN, HEADER + LINE * 60 + "0.1,0.2,\n", (), "row 122"),
        (RUN, HEADER + LINE * 60 + "nan,0.2,1\n", (), "row 122, column 'a'"),
        (RUN, HEADER + LINE * 60 + "inf,0.2,1\n", (), "row 122, column 'a'"),
        (RUN, HEADER + LINE * 60 + "0.1,x,1\n", (), "row 122, column 'b'"),
        (RUN, HEADER + LINE * 60 + "0.1,0.2,7\n", (), "row 122, column 'y'"),
        (RUN, HEADER + LINE * 60 + "0.1\n", (), "toy.csv"),
        (RUN, b"a,b,y\n\xff\xfe,1,1\n", (), "toy.csv"),
        (RUN, None, ("--json", "absent/folder/result.json"), "--json absent/folder/result.json"),
        (RUN, None, ("--json", "."), "--json ."),
        (RUN, None, ("--resume", "absent"), "leave run file"),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2(
    folder: Path,
    monkeypatch: Any,
    capfd: Any,
    run: str | bytes | None,
    data: str | bytes | None,
    arguments: tuple[str, ...],
    said: str,
) -> None:
    (folder / "run.toml").unlink()
    if run is not None:
        write(folder / "run.toml", run)
    if data == "ABSENT":
        (folder / "toy.csv").unlink()
    elif data is not None:
        write(folder / "toy.csv", data)
    monkeypatch.chdir(folder)
    code, out, err = confide_simulate(monkeypatch, capfd, ["run.toml", *arguments])
    assert code == 2
    assert out == ""
    assert err.startswith("error: ")
    assert said in err
    assert "Traceback" not in err
    assert len(err.strip().splitlines()) <= (3 if run == "" else 1)  # one line a problem
    assert not list((folder / "home").glob("simulations/*"))  # nothing was begun


def test_one_class_everywhere_is_refused_where_departments_have_files(
    folder: Path, monkeypatch: Any, capfd: Any
) -> None:
    for name in ("n", "s"):
        write(folder / f"{name}.csv", HEADER + "0.1,0.2,1\n" * 30)
    text = RUN.replace('path = "toy.csv"', 'departments = {n = "n.csv", s = "s.csv"}')
    text = text.replace("partition = {departments = 3}\n", "").replace("test = {share = 0.2}\n", "")
    (folder / "run.toml").write_text(text)
    code, _, err = confide_simulate(monkeypatch, capfd, [folder / "run.toml"])
    assert code == 2
    assert "all labels are the same" in err


@pytest.mark.parametrize("arguments", [[], ["--resume", "absent"]])
def test_what_to_simulate_has_to_be_said(folder: Path, monkeypatch: Any, capfd: Any, arguments: Any) -> None:
    monkeypatch.chdir(folder)
    code, _, err = confide_simulate(monkeypatch, capfd, arguments)
    assert code == 2
    assert err.startswith("error: ")


def test_a_federation_s_run_is_not_resumed_as_a_simulation(folder: Path, monkeypatch: Any, capfd: Any) -> None:
    from federation_cases import settings_of

    from server.planning import create

    directory = create(settings_of(), folder, engine="federation", name="real")
    code, _, err = confide_simulate(monkeypatch, capfd, ["--resume", directory.path])
    assert code == 2
    assert "not a simulation" in err


def test_stopping_and_resuming_from_the_command_line(folder: Path, monkeypatch: Any, capfd: Any) -> None:
    from server.runs import RunDirectory

    whole = [folder / "run.toml", "--out", folder / "whole"]
    assert confide_simulate(monkeypatch, capfd, whole)[0] == 0
    keep = RunDirectory.save_checkpoint

    def stop_after(self: RunDirectory, state: Any, extra: Any = None) -> None:
        keep(self, state, extra)
        self.ask_to_stop()

    with monkeypatch.context() as patch:
        patch.setattr(RunDirectory, "save_checkpoint", stop_after)
        code, _, err = confide_simulate(monkeypatch, capfd, [folder / "run.toml", "--out", folder / "cut"])
        assert (code, "stopped" in err) == (130, True)
    assert RunDirectory(folder / "cut").document()["status"] == "stopped"
    assert confide_simulate(monkeypatch, capfd, ["--resume", folder / "cut"])[0] == 0
    models = [RunDirectory(folder / name).load_checkpoint()[0].model for name in ("whole", "cut")]
    assert np.array_equal(*models)


def test_python_m_confide(folder: Path) -> None:
    """The whole way once, in a process of its own, from another folder."""
    import os

    done = subprocess.run(
        [sys.executable, "-m", "confide", "simulate", str(folder / "absent.toml")],
        cwd=Path(confide.__file__).parent,
        env=os.environ | ENVIRONMENT | {"CONFIDE_HOME": str(folder / "home")},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 2
    assert done.stderr.startswith("error: ")
    assert "no such file" in done.stderr
    assert "Traceback" not in done.stderr
