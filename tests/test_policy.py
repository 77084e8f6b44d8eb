"""Policies: what they may say, how they refuse what they may not, and whose they are."""

from __future__ import annotations

import hashlib
import re

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from privacy.errors import PolicyError
from privacy.policy import MAX_BYTES, TEMPLATE, Cap, Period, Policy, digest, sign, verify
from privacy.renyi import FILTER_ORDERS

KEY = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
HEAD = 'version = 1\nunit = "record"\nadjacency = "zero-out"\n'
TABLE = '[dataset."claims-2026"]\n'
NEEDED = 'declared_size = 12000\nlifetime = { epsilon = "8", delta = "1e-6" }\n'
WHOLE = (
    HEAD
    + 'mode = "renyi-filter"\norders = [2, 4, 8, 16, 32, 64]\n'
    + TABLE
    + NEEDED
    + 'per_run = { epsilon = "2" }\nperiod = { days = 90, epsilon = "4e0" }\nsigma_min = "0.8"\n'
    + 'sampling_rate_max = "0.1"\nmax_runs = 12\nmodels = ["cnn", "logistic"]\nmin_cohort = 5\nmetrics = "off"\n'
    + 'group = "claims"\nallow_without_privacy = true\n'
)
PINNED = (
    HEAD
    + 'mode = "pinned"\n'
    + TABLE
    + 'declared_size = 12000\nlifetime = { epsilon = "3", delta = "1e-6" }\nsigma_min = "8"\n'
    + 'sampling_rate_max = "0.2"\nmax_steps = 300\nmetric_sigma_min = "20"\nmax_evaluations = 40\n'
)


def parsed(text: str) -> Policy:
    return Policy.parse(text.encode())


def message(text: str | bytes) -> str:
    with pytest.raises(PolicyError) as caught:
        Policy.parse(text if isinstance(text, bytes) else text.encode())
    found = str(caught.value)
    assert "\n" not in found
    assert len(found) < 500
    return found


def table(lines: str = "", needed: str = NEEDED) -> str:
    return HEAD + TABLE + needed + lines


def test_every_key_is_read() -> None:
    policy = parsed(WHOLE)
    assert (policy.unit, policy.adjacency, policy.mode) == ("record", "zero-out", "renyi-filter")
    assert policy.orders == (2, 4, 8, 16, 32, 64)
    assert policy.digest == hashlib.sha256(WHOLE.encode()).hexdigest() == digest(WHOLE.encode())
    found = policy.dataset("claims-2026")
    assert found is not None
    assert found.lifetime == Cap(epsilon=8.0, delta=1e-6, epsilon_text="8", delta_text="1e-6")
    assert (found.per_run, found.period) == (2.0, Period(days=90, epsilon=4.0))
    assert (found.sigma_min, found.sampling_rate_max, found.max_runs) == (0.8, 0.1, 12)
    assert (found.models, found.min_cohort, found.metrics) == (("cnn", "logistic"), 5, "off")
    assert (found.group, found.allow_without_privacy, found.declared_size) == ("claims", True, 12000)
    assert policy.dataset("claims-2025") is None
    with pytest.raises(TypeError):
        policy.datasets["more"] = found  # type: ignore[index]  # a policy does not change under anybody's hands


def test_defaults() -> None:
    policy = parsed(table())
    found = policy.dataset("claims-2026")
    assert found is not None
    assert (policy.mode, policy.orders, found.metrics) == ("renyi-filter", FILTER_ORDERS, "dp")
    assert (found.per_run, found.period, found.group, found.max_steps) == (None, None, None, None)
    assert not found.allow_without_privacy
    assert policy.warnings() == []


def test_the_template_denies_everything_and_its_example_is_one() -> None:
    policy = parsed(TEMPLATE)
    assert not policy.datasets
    assert policy.warnings() == ['no data set has a table, so every run is denied; add [dataset."NAME"]']
    head, _, example = TEMPLATE.partition("# [dataset.")
    lines = [re.sub("^# ?", "", line) for line in f"# [dataset.{example}".splitlines()]
    pinned = next(index for index, line in enumerate(lines) if "mode" in line and "pinned" in line)
    found = parsed(head + "\n".join(lines[:pinned])).dataset("claims-2026")
    assert found is not None
    assert {name for name, value in vars(found).items() if value is None} == {
        "max_steps",
        "metric_sigma_min",
        "max_evaluations",
    }
    every = "\n".join(line for line in lines if not line.startswith("period"))
    pinned_text = (head + every).replace('"renyi-filter"\n', '"pinned"\n').replace('"0.8"', '"0.001"')
    assert "max_steps = 2000: at sigma_min = 0.001" in message(pinned_text)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        # missing
        ("", "version is missing: add version = 1"),
        ("version = 1\n", 'unit is missing: add unit = "record"'),
        ('version = 1\nunit = "record"\n', 'adjacency is missing: add adjacency = "zero-out"'),
        (table(needed=""), "dataset.claims-2026.declared_size is missing: add declared_size = 12000"),
        (table(needed="declared_size = 1\n"), 'lifetime is missing: add lifetime = { epsilon = "8", delta = "1e-6" }'),
        (
            table(needed='declared_size = 1\nlifetime = { epsilon = "8" }\n'),
            'claims-2026.lifetime.delta is missing: add delta = "1e-6"',
        ),
        (table('period = { epsilon = "1" }'), "period.days is missing: add days = 90"),
        # unknown
        (table('sigma_mim = "0.8"'), 'sigma_mim = "0.8": there is no such key; did you mean sigma_min?'),
        (table("colour = 1"), "colour = 1: there is no such key; remove it (keys here: declared_size, lifetime,"),
        (HEAD + 'Mode = "pinned"\n', 'Mode = "pinned": there is no such key; did you mean mode?'),
        (HEAD + "max_runs = 3\n", 'max_runs = 3: it belongs in a data set\'s table, [dataset."NAME"]'),
        (table('per_run = { epsilon = "1", delta = "1e-6" }'), 'per_run.delta = "1e-6": there is no such key'),
        # other versions and words
        (HEAD.replace("1", "2"), "version = 2: this Confide reads version 1"),
        (HEAD.replace("1", "true"), "version = true: must be a whole number without quotes"),
        (HEAD.replace("1", '"1"'), 'version = "1": must be a whole number without quotes'),
        (HEAD.replace("record", "client"), 'unit = "client": must be "record"'),
        (HEAD.replace("zero-out", "add-remove"), 'adjacency = "add-remove": must be "zero-out"'),
        (HEAD + 'mode = "pined"\n', 'mode = "pined": must be "renyi-filter" or "pinned"; did you mean "pinned"?'),
        (HEAD + "mode = 3\n", "mode = 3: must be"),
        (table('metrics = "plain"'), 'metrics = "plain": must be "dp" or "off"'),
        # wrong types
        (
            table("sigma_min = 0.8"),
            'sigma_min = 0.8: numbers with a fraction are strings here; write sigma_min = "0.8"',
        ),
        (table("sigma_min = nan"), "sigma_min = nan: must be a number in quotes"),
        (table("sigma_min = true"), "sigma_min = true: must be a number in quotes"),
        (table("sigma_min = []"), "sigma_min = []: must be a number in quotes"),
        (table("sigma_min = 2026-01-01"), "sigma_min = 2026-01-01: must be a number in quotes"),
        (
            table('max_runs = "3"'),
            'max_runs = "3": must be a whole number without quotes; write, for example, max_runs = 12',
        ),
        (table("max_runs = 3.0"), "max_runs = 3.0: must be a whole number"),
        (table("models = []"), 'models = []: must list one name or more; write models = ["cnn"], or remove it'),
        (table('models = "cnn"'), 'models = "cnn": must list one name or more'),
        (table("models = [1]"), "models = [1]: must list one name or more"),
        (table('models = [""]'), "must list one name or more"),
        (table('group = ""'), 'group = "": must be a name of 1 to 128 characters'),
        (table('allow_without_privacy = "yes"'), 'allow_without_privacy = "yes": must be true or false'),
        (table('per_run = "2"'), 'per_run = "2": must be a table with the keys epsilon'),
        (HEAD + "dataset = 3\n", 'dataset = 3: must be a table of tables, each [dataset."NAME"]'),
        (HEAD + "[dataset]\nclaims = 3\n", "dataset.claims = 3: must be a table with the keys declared_size"),
        # numbers that are none, or too large, or out of range
        (table('sigma_min = "NaN"'), 'sigma_min = "NaN": must be a plain decimal number, not negative'),
        (table('sigma_min = "Infinity"'), "must be a plain decimal number"),
        (table('sigma_min = "-1"'), 'sigma_min = "-1": must be a plain decimal number, not negative'),
        (table('sigma_min = "1e400"'), 'sigma_min = "1e400": is beyond what a computer can count with'),
        (table('sigma_min = "1e-400"'), 'sigma_min = "1e-400": must be above 0'),
        (table('sigma_min = "0"'), "must be above 0"),
        (table('sigma_min = "01"'), "must be a plain decimal number"),
        (table('sigma_min = " 1"'), "must be a plain decimal number"),
        (table('sigma_min = "1E5"'), "must be a plain decimal number"),
        (table('sigma_min = "\u0661"'), "must be a plain decimal number"),
        (table(f'sigma_min = "1.{"0" * 63}"'), "at most 64 characters"),
        (table('sampling_rate_max = "1.01"'), 'sampling_rate_max = "1.01": must be above 0 and at most 1'),
        (table("max_runs = 0"), "max_runs = 0: must be at least 1"),
        (table(f"max_runs = 1{'0' * 18}"), "must be in 1 to 999999999999999999"),
        (table("min_cohort = 2"), "min_cohort = 2: must be at least 3"),
        (table(needed=NEEDED.replace("12000", "-5")), "declared_size = -5: must be in 1 to 10000000000; write"),
        (table('period = { days = 0, epsilon = "1" }'), "period.days = 0: must be in 1 to 36500"),
        (table(needed=NEEDED.replace("1e-6", "1e-11")), 'delta = "1e-11": must be at least 1e-10'),
        (table(needed=NEEDED.replace("1e-6", "1")), 'delta = "1": must be below 1; keep it below 1/declared_size'),
        (HEAD + "orders = []\n", "orders = []: must be a list of 1 to 32 integers"),
        (HEAD + "orders = [1, 2]\n", "orders = [1, 2]: 1 is not an integer in 2 to 256; remove it"),
        (HEAD + "orders = [2, 257]\n", "257 is not an integer in 2 to 256"),
        (HEAD + "orders = [2, 2.5]\n", "2.5 is not an integer"),
        (HEAD + "orders = [2, true]\n", "true is not an integer"),
        (HEAD + "orders = [4, 2, 4]\n", "orders = [4, 2, 4]: must rise strictly; write orders = [2, 4]"),
        (HEAD + f"orders = {list(range(2, 40))}\n", "must be a list of 1 to 32 integers"),
        (HEAD + f'[dataset."{"x" * 129}"]\n' + NEEDED, "a data set's name has 1 to 128 characters"),
        (HEAD + '[dataset.""]\n' + NEEDED, "a data set's name has 1 to 128 characters"),
        # contradictions
        (table('per_run = { epsilon = "9" }'), 'per_run = { epsilon = "9" }: epsilon 9 is above the lifetime\'s 8'),
        (table('period = { days = 9, epsilon = "8.5" }'), "epsilon 8.5 is above the lifetime's 8"),
        (table("max_steps = 100"), 'max_steps = 100: only mode = "pinned" has this key; remove it, or set the mode'),
        (PINNED.replace('sigma_min = "8"\n', "", 1), 'claims-2026.sigma_min is missing: mode = "pinned" needs it; add'),
        (PINNED.replace('sampling_rate_max = "0.2"\n', ""), "sampling_rate_max is missing: mode"),
        (PINNED.replace("max_steps = 300\n", ""), "max_steps is missing: mode"),
        (PINNED.replace("max_evaluations = 40\n", ""), 'metric_sigma_min = "20": it needs max_evaluations beside it'),
        (PINNED.replace('metric_sigma_min = "20"\n', ""), "max_evaluations = 40: it needs metric_sigma_min beside it"),
        (PINNED + 'metrics = "off"\n', 'there are no metrics to release with metrics = "off"'),
        (PINNED + 'period = { days = 9, epsilon = "1" }\n', 'mode = "pinned" counts steps, not time; remove it'),
        # not TOML at all
        (b"version = 1\xff", "the policy is not UTF-8 at byte 11: save it as UTF-8"),
        (b"\xef\xbb\xbfversion = 1", "starts with a byte order mark"),
        (b"#" * (MAX_BYTES + 1), f"has {MAX_BYTES + 1} bytes: at most {MAX_BYTES} are read"),
        ("version = \n", "the policy is not TOML: Invalid value (at line 1, column 11)"),
        (HEAD + HEAD, "the policy is not TOML: Cannot overwrite a value"),
        (f"version = 1{'0' * 5000}", "the policy is not TOML: Exceeds the limit"),
        ("version = " + "[" * 20_000, "the policy is not TOML: nested too deeply"),
    ],
)
def test_a_bad_policy_says_what_is_wrong_and_what_to_write(text: str | bytes, expected: str) -> None:
    assert expected in message(text)


def test_pinned_is_checked_by_pld_at_its_worst_case() -> None:
    found = parsed(PINNED).dataset("claims-2026")
    assert found is not None
    assert (found.max_steps, found.metric_sigma_min, found.max_evaluations) == (300, 20.0, 40)
    apart, added = found.pinned_epsilon(), found.pinned_epsilon(add=True)
    assert apart < added < 3.0
    too_many = message(PINNED.replace("max_steps = 300", "max_steps = 3000"))
    assert "max_steps = 3000: at sigma_min = 8 and sampling_rate_max = 0.2" in too_many
    assert re.search(r"comes to epsilon \d\.\d+ at delta 1e-6, above the lifetime's 3; raise sigma_min", too_many)
    assert "no finite epsilon" in message(PINNED.replace('sigma_min = "8"', 'sigma_min = "0.001"', 1))
    assert "above the lifetime's 3" in message(PINNED.replace('metric_sigma_min = "20"', 'metric_sigma_min = "2"'))
    other = parsed(table()).dataset("claims-2026")
    assert other is not None
    with pytest.raises(PolicyError, match="not one of mode pinned"):
        other.pinned_epsilon()


def test_a_group_is_one_budget() -> None:
    def two(second: str) -> str:
        return table('group = "g"\n') + '[dataset."more"]\n' + second + 'group = "g"\n'

    assert len(parsed(two(NEEDED + "max_runs = 3\n")).datasets) == 2
    found = message(two(NEEDED.replace('"8"', '"4"')))
    assert 'dataset.more.lifetime: not that of dataset.claims-2026, though both are of group "g"' in found
    assert "dataset.more.sigma_min: not that" in message(two(NEEDED + 'sigma_min = "1"\n'))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (table(needed=NEEDED.replace("1e-6", "0.001")), "delta = 0.001 is not below 1/declared_size = 8.33e-05"),
        (
            table(needed=NEEDED.replace('"8"', '"0.2"')),
            "lifetime epsilon = 0.2: with these orders the filter lets only about 0.1",
        ),
        (
            table(needed=NEEDED.replace('"8"', '"0.1"')),
            "admits no run at all: with these orders the filter starts at 0.176",
        ),
        (table('period = { days = 90, epsilon = "0.17" }'), "period epsilon = 0.17 admits no run at all"),
        (HEAD + "orders = [2, 3]\n" + TABLE + NEEDED, "the filter lets only about"),
        (table(needed=NEEDED.replace('"8"', '"20"')), "lifetime epsilon = 20: above about 10 little is promised"),
        (table('sigma_min = "0.3"'), "sigma_min = 0.3 is below 0.5"),
        (table("allow_without_privacy = true"), "a single such run makes epsilon unbounded"),
        (
            PINNED.replace("max_evaluations = 40\n", "").replace('metric_sigma_min = "20"\n', ""),
            "no validation metrics can be released",
        ),
    ],
)
def test_what_is_allowed_but_unwise(text: str, expected: str) -> None:
    (found,) = parsed(text).warnings()
    assert found.startswith("data set claims-2026: ")
    assert expected in found


def test_pinned_has_no_filter_to_warn_of() -> None:
    small = PINNED.replace('epsilon = "3"', 'epsilon = "0.17"').replace("300", "1").replace('"20"', '"2000"')
    assert parsed(small).warnings() == []


def test_a_signature_is_of_these_bytes_by_this_key() -> None:
    text = WHOLE.encode()
    signature = sign(text, KEY)
    public = KEY.public_key().public_bytes_raw()
    verify(text, signature, public)
    KEY.public_key().verify(signature, b"confide/policy/v1\n" + text)
    other = Ed25519PrivateKey.from_private_bytes(bytes(32))
    for wrong in (
        (text + b"\n", signature, public),
        (text, signature[:-1] + bytes([signature[-1] ^ 1]), public),
        (text, b"", public),
        (text, signature, other.public_key().public_bytes_raw()),
        (text, signature, b"short"),
        (text, KEY.sign(text), public),
    ):
        with pytest.raises(PolicyError, match="its signature is not this ledger's; read the policy"):
            verify(*wrong)
