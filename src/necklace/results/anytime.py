"""The paired t confidence sequence: an interval of a mean that may be looked at after every seed.

The differences x_1, x_2, ... are taken to be independent and normal, with mean mu and standard deviation s, both unknown. For a
value mu0 of the mean, write the effect size as d = (mu - mu0) / s. The e-value of n differences is the ratio of two marginal
likelihoods: of the mixture d ~ N(0, g), and of d = 0, each with the improper right Haar prior ds / s on the scale.

Derivation. Let y_i = x_i - mu0, S = sum y_i and U = sum y_i^2. Given s, the mixture integrates the normal density of d out:

    integral exp(-sum (y_i - d s)^2 / (2 s^2)) N(d; 0, g) dd  =  (1 + n g)^(-1/2) exp(-W / (2 s^2)),   W = U - S^2 g / (1 + n g)

(complete the square in d: the exponent is -U / (2 s^2) + d S / s - d^2 (n + 1/g) / 2). What is left is the integral over s of
s^(-n) exp(-W / (2 s^2)) ds / s, which is proportional to W^(-n/2), with the same factor for d = 0, where W = U. So

    E_n = (1 + n g)^(-1/2) (U / W)^(n/2).

With t = sqrt(n) (mean - mu0) / sd, U = (n - 1) sd^2 (1 + t^2 / (n - 1)) and W = (n - 1) sd^2 (1 + t^2 / ((n - 1)(1 + n g))),
this is

    log E_n = -1/2 log(1 + n g) + n/2 [log(1 + t^2 / (n - 1)) - log(1 + t^2 / ((n - 1)(1 + n g)))].

E_n depends on the data through y / |y_1| alone, and is the likelihood ratio of this maximal invariant, whose distribution under
d = 0 is the same for every s. So under mu = mu0 it is a martingale of mean E_1 = 1, and by Ville's inequality it reaches 1 /
alpha at any n, ever, with a probability of at most alpha. The values of mu0 at which it has not are a confidence sequence:
they hold mu at all n at once with probability 1 - alpha, whatever decides when to look and when to stop.

Closed form. E_n < 1 / alpha is U < c W with c = ((1 + n g) / alpha^2)^(1/n). With V = sum (x_i - mean)^2 and D = mean - mu0,
U = V + n D^2 and W = V + n D^2 / (1 + n g), so

    D^2 < V (c - 1) / (n (1 - c / (1 + n g)))   where c < 1 + n g, and every D otherwise: the interval is then unbounded.

Sources: Wang and Ramdas 2024, Anytime-valid t-tests and confidence sequences for Gaussian means with unknown variance, arXiv
2310.03722; Lai 1976, Annals of Statistics 4(2), 265-280. Deviation: theirs has the width of the mixture as c^2 = 1 / g.
"""

import math

import numpy as np

SCALE = 1.0
"""Variance g of the effect sizes that the mixture expects: of the order of one standard deviation of the differences."""


def log_e_value(differences: np.ndarray, mu0: float = 0.0, g: float = SCALE) -> float:
    """The evidence against a mean of `mu0`, as the logarithm of an e-value.

    Args:
        differences: [n], one for each seed.
        mu0: The mean that is doubted, in the same unit.
        g: Variance of the effect sizes under the mixture, above 0.

    Returns:
        At most the logarithm of (1 + n g)^((n - 1) / 2), which it is where all differences are equal and not `mu0`; 0 for n =
        1. Where all of them are `mu0`, the limit of equally many on both sides, -1/2 log(1 + n g): no evidence.

    Raises:
        ValueError: `differences` is not [n] with n >= 1, a value is not finite, or `g` is not above 0.
    """
    x = _checked(differences, g)
    if not math.isfinite(mu0):
        raise ValueError(f"mu0 is {mu0}: must be finite")
    n = len(x)
    if n == 1:
        return 0.0
    spread, distance = _moments(x - mu0)
    whole = spread + n * distance**2
    left = spread + n * distance**2 / (1 + n * g)
    ratio = math.log(whole) - math.log(left) if left > 0 else 0.0
    return (n * ratio - math.log1p(n * g)) / 2


def interval(differences: np.ndarray, alpha: float, g: float = SCALE, floor: float = 0.0) -> tuple[float, float]:
    """The interval of the mean at this n, of a sequence that holds the mean at all n at once with probability 1 - alpha.

    Args:
        differences: [n], one for each seed.
        alpha: In (0, 1).
        g: Variance of the effect sizes under the mixture, above 0.
        floor: The standard deviation is taken to be at least this; a larger one only widens the interval.

    Returns:
        Both ends; (-inf, inf) while n is too small for a bounded one. Where all differences are equal and `floor` is 0, the
        bounded interval is a point.

    Raises:
        ValueError: As for `log_e_value`; or `alpha` or `floor` is out of its range.
    """
    x = _checked(differences, g)
    if not 0 < alpha < 1 or not 0 <= floor < math.inf:
        raise ValueError(
            f"alpha {alpha} with a floor of {floor}: allowed are an alpha between 0 and 1 and a finite floor from 0"
        )
    n = len(x)
    factor = float(half_widths(np.array([n]), alpha, g)[0])
    if math.isinf(factor):
        return -math.inf, math.inf
    spread, mean = _moments(x)
    half = factor * max(math.sqrt(spread / (n - 1)), floor)
    return mean - half, mean + half


def half_widths(n: np.ndarray, alpha: float, g: float = SCALE) -> np.ndarray:
    """Half the interval's width in standard deviations (n - 1) of the differences, after each number of seeds.

    Args:
        n: int [k], numbers of seeds from 1.
        alpha: In (0, 1).
        g: Variance of the effect sizes under the mixture, above 0.

    Returns:
        float [k]; infinite where the interval is unbounded.
    """
    n = np.asarray(n, dtype=np.float64)
    inflation = np.log1p(n * g)
    log_c = (inflation - 2 * math.log(alpha)) / n
    # A bounded interval has n >= 2: at n = 1, c = (1 + g) / alpha^2 is above 1 + g.
    bounded = log_c < inflation
    with np.errstate(over="ignore", divide="ignore", invalid="ignore"):
        squared = (n - 1) * np.expm1(log_c) / (n * -np.expm1(log_c - inflation))
    return np.where(bounded, np.sqrt(np.where(bounded, squared, 0.0)), np.inf)


def _checked(differences: np.ndarray, g: float) -> np.ndarray:
    x = np.asarray(differences, dtype=np.float64)
    if x.ndim != 1 or not x.size:
        raise ValueError(f"differences have shape {list(x.shape)}: allowed is one value for each seed, at least 1")
    if not np.isfinite(x).all():
        raise ValueError(f"differences hold {x[~np.isfinite(x)][0]}: allowed are finite values")
    if not 0 < g < math.inf:
        raise ValueError(f"g is {g}: must be finite and above 0")
    return x


def _moments(x: np.ndarray) -> tuple[float, float]:
    """The sum of squared deviations from the mean, and the mean; exactly 0 and the value for equal values."""
    mean = float(x[0]) if np.ptp(x) == 0 else math.fsum(x) / len(x)
    return math.fsum((x - mean) ** 2), mean
