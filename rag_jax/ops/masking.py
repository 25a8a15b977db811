"""One stand-in for minus infinity.

Scores and log-likelihoods of what cannot be chosen are `NEG_INF`, a finite
number, so that sums and differences of two of them are not NaN.
"""

NEG_INF = -1e9  # nats
