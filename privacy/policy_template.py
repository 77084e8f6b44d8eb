"""What ``confide privacy policy init`` writes: a policy that denies everything, and explains itself."""

from __future__ import annotations

TEMPLATE = """\
# What this department allows to be done with its data. Only this machine's operator decides it: nobody else
# can change it, and no run can do more. Nothing holds before it is signed:
#
#     confide privacy policy check
#     confide privacy policy sign
#
# A data set without a table below is denied. As it stands, this file denies everything.

version = 1
unit = "record"           # what is protected is one record; see docs/accounting.md for people with several
adjacency = "zero-out"    # "as if the record had been zeros", the public size of the data being the same

# How caps are kept while it is decided, after each run, whether to run again:
#   "renyi-filter"  any runs, in any order, as long as the caps hold. This freedom costs about a
#                   fifth: of an epsilon of 8 runs can use about 6.5, of 1 about 0.8, of 0.2 about 0.1.
#   "pinned"        no run has less noise or samples more than the table says, and steps are counted, each at
#                   the worst case. All of epsilon can be used. Better where one kind of run is repeated.
mode = "renyi-filter"

# One table a data set. Numbers with a fraction are in quotes, so that what is signed is what is meant.
#
# [dataset."claims-2026"]
# declared_size = 12000                           # about how many records it has; public, you choose it
#
# # Never exceeded, whatever happens: with epsilon 8, whoever sees everything that ever leaves this machine
# # is at most e^8 = 3000 times as sure of anything about one record as without it; with 1, 2.7 times; and
# # outside a chance of delta. At most 1 is strong; above 10 little is promised. Keep delta well below
# # 1 / declared_size. Spent epsilon never comes back. You can sign a higher cap later, but reports
# # will then say that it was raised after results had been seen.
# lifetime = { epsilon = "8", delta = "1e-6" }
#
# per_run = { epsilon = "2" }                     # the most that one run may cost, by itself
# period = { days = 90, epsilon = "4" }           # the most in any 90 days; adds to the lifetime cap
#
# sigma_min = "0.8"                               # least noise_multiplier of training
# sampling_rate_max = "0.1"                       # largest share of records in one step
# max_runs = 12                                   # runs in all; one that released nothing does not count
# models = ["cnn", "logistic"]                    # kinds of model; leave it out to allow every kind
# min_cohort = 5                                  # no sealed round with fewer departments
# metrics = "dp"                                  # validation metrics leave with noise, and are paid for; or "off"
#
# # Data sets that hold the same people share one budget, if they name the same group. Nothing can find out
# # that two data sets overlap: only you know.
# group = "claims"
#
# # Only a run's own settings, and this, allow training without noise. It cannot be undone: after it, nothing
# # is promised for this data set any more, and reports say so.
# allow_without_privacy = false
#
# # In mode = "pinned" only. The first is required; the others are, if metrics are to be released.
# max_steps = 2000                                # training steps of all runs together
# metric_sigma_min = "20"                         # least noise of a metric release
# max_evaluations = 100                           # metric releases of all runs together
"""
