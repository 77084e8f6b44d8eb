"""What every report says, whatever the evidence: sentences for people, and where each standard's terms are found."""

from __future__ import annotations

from typing import Final

HEADLINES: Final = {
    "pass": "Every cap held at every moment that the evidence covers.",
    "violation": "The evidence breaks a rule or contradicts itself. Do not rely on any figure below.",
    "incomplete": "Nothing found contradicts the claims, but something to compare them with is missing.",
}

UNIT: Final = (
    "One record of one data set. It protects a person as far as the person has one record there: two or five records "
    "of one person cost what the rows for groups say."
)
ADJACENCY: Final = (
    "Zero-out: two data sets are neighbours when one record of either is replaced by one whose every contribution is "
    "zero. Replacing a record by another is two such steps: it costs at most 2ε, at δ (1 + e^ε)."
)
FLAVOUR: Final = "approximate differential privacy (epsilon, delta), composed as Rényi differential privacy"
DEPLOYMENT: Final = (
    "Local to each department: clipping, sampling and noise happen on its own machine, before anything leaves it. "
    "No other party is trusted with a record."
)
ENFORCED: Final = (
    "The figure that the department's own ledger enforced before every run. It holds although each new run was "
    "decided on after seeing the earlier ones. Open reservations count in full."
)
PLD: Final = (
    "What the runs cost by privacy loss distributions: tighter, and exact bookkeeping of the runs that were made, but "
    "no promise by itself where runs were chosen by looking at earlier results."
)
MECHANISM: Final = (
    "DP-SGD (Abadi et al. 2016): every record's gradient is clipped to max_grad_norm, batches are Poisson samples, "
    "Gaussian noise of noise_multiplier times max_grad_norm is added to every step's sum, and the sum is divided by "
    "the public sampling_rate times declared_size.",
    "Noise and sampling come from AES-CTR keyed by the operating system. Noised sums are rounded to a public grid of "
    "at most 2^-20 of the noise's standard deviation, against the leak of floating point (Mironov 2012); what is left "
    "has probability below 1e-15 a coordinate. Nothing runs in constant time.",
    "A record whose loss or gradient is not finite counts as zero. An empty batch adds noise and costs as much as any.",
    "Validation metrics leave only as sums with Gaussian noise of metric_noise, from records held out from training.",
    "Every department adds all of its noise itself; secure aggregation lowers no epsilon.",
)
WHO_SEES_WHAT: Final = (
    ("the department", "its own records, everything it computes; the global models"),
    ("another department", "the global models; who takes part. Never another's update"),
    ("the coordinator, sealed runs", "sums over the departments of a round; who answered and when; status codes"),
    ("the coordinator, clear runs", "every department's noised update; the same besides"),
    ("whoever gets a model", "the model: the outcome of all accounted releases together"),
    ("the auditor", "this bundle: ledgers, policies, checkpoints, rosters, manifests. No record, update or metric"),
)
HONEST: Final = (
    "each department's own machine and operators, and the software installed there: that noise was really added is "
    "tested by the conformance audit, not proven by the ledger",
    "at least one witness of each ledger: a department and all of its witnesses together can show another history",
    "in a sealed round, all departments but as many colluders as its roster names; for epsilon nobody else, since it "
    "counts as if the coordinator saw every update",
    "Ed25519, SHA-256 and AES as cryptography, and the randomness of the departments' operating systems",
)
UNPROTECTED: Final = (
    ("declared sizes, caps, policies and public settings", "chosen by people and public by definition"),
    ("times, sizes and order of messages, and who takes part", "no noise is added; they depend on no single record"),
    (
        "commitments to data and to the split (HMAC under a secret of the machine)",
        "show that data changed, and nothing else",
    ),
)
LIMITS: Final = (
    "Differential privacy is not “anonymous” in law. It bounds what one record can change; whether the model is "
    "personal data under the law that applies is for counsel to decide, with these figures.",
    "The choice of hyper-parameters is in no epsilon unless it was made in runs of this ledger: a recipe tuned on a "
    "public benchmark pays nothing, one tuned elsewhere on the same records would have to.",
    "A person with records in several departments, or in several data sets, pays in each: add their epsilons and "
    "deltas.",
    "Several records of one person in a data set are a group: see the rows for 2 and 5 records. A department that has "
    "a column for the person keeps one row for each.",
    "A data set registered again under a new name, or on another machine, cannot be recognised in general.",
    "Nothing is forgotten: removing a record from a data set does not remove what earlier models learnt.",
    "Baselines (without privacy, or one department alone) are simulated on public copies and touch no private record.",
)
STANDARDS: Final = (
    ("NIST SP 800-226 (2025)", "privacy parameters ε and δ", "Summary; Departments"),
    ("NIST SP 800-226 (2025)", "unit of privacy", "Guarantee"),
    ("NIST SP 800-226 (2025)", "trust model", "Trust model"),
    ("NIST SP 800-226 (2025)", "algorithms and their correctness", "Guarantee; Empirical audit"),
    ("NIST SP 800-226 (2025)", "utility", "Models and runs"),
    ("NIST SP 800-226 (2025)", "side channels", "Released"),
    ("NIST SP 800-226 (2025)", "data collection exposure", "Other data touches"),
    ("DP Deployments Registry, tier 1", "curator, intended use, data product, publication date", "Models and runs"),
    ("DP Deployments Registry, tier 2", "flavor, privacy unit, privacy loss parameters", "Guarantee; Departments"),
    ("DP Deployments Registry, tier 2", "deployment model", "Trust model"),
    ("DP Deployments Registry, tier 3", "data domain", "Models and runs"),
    ("DP Deployments Registry, tier 3", "unprotected quantities", "Released"),
    ("DP Deployments Registry, tier 3", "composition, post-processing", "Guarantee; Released"),
    ("DP Deployments Registry, tier 3", "implementation and security", "Guarantee; Trust model"),
    ("ISO/IEC 27559:2022", "6 context assessment (threat modelling)", "Trust model"),
    ("ISO/IEC 27559:2022", "7 data assessment (attack modelling)", "Departments"),
    ("ISO/IEC 27559:2022", "8.2 quantifying identifiability, adversarial testing", "Departments; Empirical audit"),
    ("ISO/IEC 27559:2022", "8.3 mitigation", "Guarantee; Policies"),
    ("ISO/IEC 27559:2022", "9 de-identification governance", "Policies; How to verify"),
)
