"""Run files: what is accepted, and the one clear message for everything that is not."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from federation_cases import PRIVATE, document, settings_of
from hypothesis import given
from hypothesis import strategies as st

from models.errors import ModelError
from privacy.errors import PrivacyError
from strategies.agreement import digest, plan_for, read_spec, resolve, write_spec
from strategies.errors import MessageError, SettingsError
from strategies.runfile import load, parse
from strategies.settings import RunSettings
from strategies.wire import VERSION

MINIMAL = """
[model]
name = "logistic"
[data]
kind = "tabular"
label = "y"
columns = {a = {bounds = [0, 1]}}
[privacy]
epsilon = 3
"""


def refusal(**tables: Any) -> str:
    with pytest.raises(SettingsError) as caught:
        parse(document(**tables), where="run.toml")
    return str(caught.value)


@pytest.mark.parametrize(
    ("tables", "said"),
    [
        ({"training": {"learning_rat": 1.0}}, "training.learning_rat: unknown key; did you mean learning_rate?"),
        ({"trainin": {}}, "trainin: unknown key; did you mean training?"),
        ({"strategy": {"name": "fedavgg"}}, "did you mean fedavg?"),
        ({"model": {"name": "logistc"}}, "did you mean 'logistic'?"),
        ({"model": {"name": "mlp", "hiden": [4]}}, "did you mean 'hidden'?"),
        ({"model": {"name": "mlp", "hidden": "wide"}}, "mlp.hidden='wide'"),
        ({"model": "logistic"}, "model = "),
        ({"data": {"columns": {"a": {"bound": [0, 1]}}}}, "data.columns.a.bound: unknown key; did you mean bounds?"),
        ({"training": {"rounds": "ten"}}, 'training.rounds = "ten"'),
        ({"training": {"rounds": "10"}}, 'training.rounds = "10"'),
        ({"training": {"rounds": True}}, "training.rounds = true"),
        ({"training": {"rounds": 0}}, "training.rounds = 0"),
        ({"training": {"rounds": 2.5}}, "training.rounds = 2.5"),
        ({"training": {"sampling_rate": 0}}, "training.sampling_rate = 0"),
        ({"training": {"sampling_rate": 1.01}}, "training.sampling_rate = 1.01"),
        ({"training": {"sampling_rate": -0.5}}, "training.sampling_rate = -0.5"),
        ({"training": {"sampling_rate": float("nan")}}, "training.sampling_rate = NaN"),
        ({"training": {"learning_rate": float("inf")}}, "training.learning_rate = Infinity"),
        ({"training": {"momentum": 1.0}}, "training.momentum = 1.0"),
        ({"privacy": {"mode": "local", "epsilon": 0}}, "privacy.epsilon = 0"),
        ({"privacy": {"mode": "local", "epsilon": -1}}, "privacy.epsilon = -1"),
        ({"privacy": {"mode": "local", "epsilon": 1, "delta": 1}}, "privacy.delta = 1"),
        ({"privacy": {"mode": "local", "epsilon": 1, "delta": 0}}, "privacy.delta = 0"),
        ({"privacy": {"mode": "local", "noise_multiplier": 0}}, "privacy.noise_multiplier = 0"),
        ({"privacy": {"mode": "local", "noise_multiplier": 1e-6}}, "privacy.noise_multiplier = 1e-06"),
        ({"privacy": {"mode": "local", "epsilon": 1, "metric_noise": 0.01}}, "privacy.metric_noise = 0.01"),
        ({"privacy": {"mode": "local", "epsilon": 1, "max_grad_norm": 0}}, "privacy.max_grad_norm = 0"),
        ({"privacy": {"mode": "off", "epsilon": 3}}, 'remove it or set mode = "local"'),
        ({"privacy": {"mode": "off", "noise_multiplier": 3}}, "noise_multiplier = 3"),
        ({"privacy": {"mode": "local"}}, 'give epsilon (or noise_multiplier), or say mode = "off" openly'),
        ({"privacy": {"mode": "local", "epsilon": 1, "metrics": "off", "metric_noise": 1}}, "metric_noise needs"),
        ({"privacy": "of"}, "privacy.mode"),
        ({"privacy": 3}, "privacy = 3"),
        ({"strategy": {"name": "scaffold"}, "training": {"momentum": 0.5}}, "set momentum = 0"),
        ({"strategy": {"quorum": 0}}, "strategy.quorum = 0"),
        ({"strategy": {"fraction": 1.5}}, "strategy.fraction = 1.5"),
        ({"strategy": {"min_departments": 0}}, "strategy.min_departments = 0"),
        ({"strategy": {"deadline": 0}}, "strategy.deadline = 0"),
        ({"strategy": {"tau": 0}}, "strategy.tau = 0"),
        ({"seed": -1}, "seed = -1"),
        ({"seed": True}, "seed = true"),
        ({"name": "../../etc"}, "name = "),
        ({"name": ""}, "name = "),
        ({"publish": {"name": "a/b"}}, "publish.name = "),
        ({"performance": {"gradients": "fast"}}, "performance.gradients"),
        ({"performance": {"threads": 0}}, "performance.threads = 0"),
        ({"evaluation": {"baselines": "yes"}}, 'evaluation.baselines = "yes"'),
        ({"data": {"name": None, "test": {"share": 0.2}}}, "test.share needs path"),
    ],
)
def test_what_is_refused_names_the_key_and_the_value(tables: dict[str, Any], said: str) -> None:
    text = refusal(**tables)
    assert said in text
    assert text.startswith("run.toml: ")


def test_missing_tables_are_named() -> None:
    with pytest.raises(SettingsError, match="privacy: missing"):
        parse({key: value for key, value in document().items() if key != "privacy"})
    with pytest.raises(SettingsError, match=r"model\.name: missing"):
        parse(document() | {"model": {}})


def test_several_problems_come_one_a_line() -> None:
    text = refusal(training={"rounds": 0, "momentum": 2}, seed=-1)
    assert len(text.splitlines()) == 3


def test_privacy_off_can_be_said_in_a_word() -> None:
    assert not parse(document() | {"privacy": "off"}).privacy.on


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "no such file"),
        (b"\xff\xfe[model]", "not UTF-8 text (byte 0)"),
        (b"[model\nname=", "not valid TOML"),
        (b"x = " + b"[" * 5000, "nested too deeply"),
        (b"seed = " + b"9" * 5000, "not valid TOML"),
        (b"#" * (4 * 1024 * 1024 + 1), "more than a settings file may have"),
        (b"", "model: missing"),
    ],
)
def test_a_file_that_cannot_be_read_is_explained(tmp_path: Path, content: bytes | None, said: str) -> None:
    path = tmp_path / "run.toml"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(SettingsError) as caught:
        load(path)
    assert said in str(caught.value)
    assert str(path) in str(caught.value)


def test_a_folder_is_no_run_file(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="is a folder"):
        load(tmp_path)


def test_overrides_are_toml_or_else_text(tmp_path: Path) -> None:
    path = tmp_path / "run.toml"
    path.write_text(MINIMAL)
    overrides = ["privacy.epsilon=4", "name=trial", "training.rounds = 7", 'strategy.name="fedadam"', "seed=3"]
    settings = load(path, overrides)
    assert (settings.privacy.epsilon, settings.name, settings.training.rounds) == (4, "trial", 7)
    assert (settings.strategy.name, settings.seed) == ("fedadam", 3)


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("privacy.epsilon", "write it as key=value"),
        ("=3", "write it as key=value"),
        ("name.x=3", "name is not a table"),
        ("training.round=3", "did you mean rounds?"),
        ("training.rounds=many", 'training.rounds = "many"'),
        ("training.rounds=" + "[" * 5000, "training.rounds"),
        ("seed=" + "9" * 5000, "seed"),
        ("a..b=1", "a: unknown key"),
    ],
)
def test_bad_overrides_are_explained(tmp_path: Path, override: str, said: str) -> None:
    path = tmp_path / "run.toml"
    path.write_text('name = "x"\n' + MINIMAL)
    with pytest.raises(SettingsError) as caught:
        load(path, [override])
    assert said in str(caught.value)


def test_paths_are_relative_to_the_file(tmp_path: Path) -> None:
    path = tmp_path / "run.toml"
    path.write_text(MINIMAL.replace('label = "y"', 'label = "y"\npath = "some/data.csv"'))
    assert load(path).data.path == str(tmp_path / "some" / "data.csv")
    path.write_text(MINIMAL.replace('label = "y"', 'label = "y"\ndepartments = {n = "n.csv", s = "/abs/s.csv"}'))
    assert load(path).data.departments == {"n": str(tmp_path / "n.csv"), "s": "/abs/s.csv"}


SECRET = "/srv/secret"


@given(
    rounds=st.integers(1, 50),
    strategy=st.sampled_from(["fedavg", "fedprox", "fedadam", "fedyogi", "fedavgm", "scaffold"]),
    model=st.sampled_from([{"name": "logistic"}, {"name": "mlp", "hidden": [4, 3]}, {"name": "linear-svm"}]),
    private=st.booleans(),
    seed=st.none() | st.integers(0, 2**63 - 1),
    fraction=st.floats(0.01, 1),
    source=st.sampled_from(
        [{"path": SECRET, "partition": {"departments": 3}}, {"departments": {"secret-office": SECRET}}, {}]
    ),
)
def test_the_public_part_says_nothing_of_the_place_and_round_trips(
    rounds: int,
    strategy: str,
    model: dict[str, Any],
    private: bool,
    seed: int | None,
    fraction: float,
    source: dict[str, Any],
) -> None:
    settings = settings_of(
        model=model,
        training={"rounds": rounds},
        strategy={"name": strategy, "fraction": fraction},
        privacy=PRIVATE if private else {},
        data=source,
        seed=seed,
        performance={"threads": 3, "gradients": "hooks"},
        publish={"name": "named", "description": "told"},
    )
    spec = write_spec(settings, run="toy-1")
    for word in ("secret", "partition", "seed", "threads", "gradients", "performance", "publish"):
        assert f'"{word}' not in spec
        assert SECRET not in spec
    run, received = read_spec(spec)
    assert run == "toy-1"
    assert received.public() == settings.public()
    assert write_spec(received, run="toy-1") == spec
    assert digest(write_spec(received, run="toy-1")) == digest(spec)


@pytest.mark.parametrize(
    ("spec", "error"),
    [
        ("", MessageError),
        ("[]", MessageError),
        ("null", MessageError),
        ('{"version": 1}', MessageError),
        ('{"version": 99, "run": "a", "settings": {}}', MessageError),
        ('{"version": 1, "run": 3, "settings": {}}', MessageError),
        ('{"version": 1, "run": "a", "settings": []}', MessageError),
        (f'{{"version": {VERSION}, "run": "a", "settings": {{"model": 3}}}}', SettingsError),
        ("[" * 100_000, MessageError),
    ],
)
def test_a_spec_that_is_none_is_refused(spec: str, error: type[Exception]) -> None:
    with pytest.raises(error):
        read_spec(spec)


def test_an_unknown_key_in_a_spec_is_refused() -> None:
    spec = json.loads(write_spec(settings_of(), run="r"))
    spec["settings"]["training"]["backdoor"] = 1
    with pytest.raises(SettingsError, match="backdoor"):
        read_spec(json.dumps(spec))


def test_noise_given_beside_an_epsilon_must_meet_it() -> None:
    def given(epsilon: float, noise: float) -> RunSettings:
        privacy = {"mode": "local", "epsilon": epsilon, "noise_multiplier": noise, "metrics": "off"}
        return parse(document(privacy=privacy, training={"rounds": 1, "local_steps": 1, "sampling_rate": 1}))

    assert resolve(given(1.1, 4.0)).privacy.noise_multiplier == 4.0
    with pytest.raises(SettingsError, match=r"privacy\.epsilon = 1: the noise given beside it costs"):
        resolve(given(1.0, 4.0))


def test_resolving_twice_changes_nothing() -> None:
    training = {"rounds": 1, "local_steps": 1, "sampling_rate": 0.1}
    once = resolve(parse(document(privacy={"mode": "local", "epsilon": 3}, training=training)))
    assert once.privacy.noise_multiplier is not None
    assert once.privacy.metric_noise is not None
    assert resolve(once) == once


def test_metric_noise_cannot_be_guessed() -> None:
    with pytest.raises(SettingsError, match="metric_noise: missing"):
        resolve(parse(document(privacy={"mode": "local", "noise_multiplier": 1.0})))
    quiet = resolve(parse(document(privacy={"mode": "local", "noise_multiplier": 1.0, "metrics": "off"})))
    assert plan_for(quiet, declared_size=10) is not None


def test_an_epsilon_that_no_noise_meets_is_refused() -> None:
    with pytest.raises(PrivacyError, match="epsilon"):
        resolve(parse(document(privacy={"mode": "local", "epsilon": 0.001})))


def test_a_loss_that_does_not_suit_the_targets_is_a_model_error() -> None:
    from strategies.agreement import task_of

    with pytest.raises(ModelError, match="mse"):
        task_of(settings_of(training={"loss": "mse"}))
    assert "target_bounds" in refusal(training={"loss": "mse"}, privacy=PRIVATE)
