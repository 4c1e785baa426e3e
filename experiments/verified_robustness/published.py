"""Published numbers of the study, tables 3.5 to 3.9, as data. Standard library only.

Errors are per cent, radii are in pixels from 0 to 1. One network was trained for each row. Blocks are named by data set, network and norm,
rows by method as everywhere in :mod:`experiments.verified_robustness`.
"""

from __future__ import annotations

from typing import NamedTuple


class Published(NamedTuple):
    """A row of tables 3.6 to 3.8.

    Attributes:
        clean: clean test error (CTE).
        pgd: error under PGD.
        linear: certified error by Fast-Lin, of sigmoid and tanh networks by CROWN.
        interval: certified error by IBP.
        exact: exact error (MIP), where there is one.
        bound_linear, bound_interval, bound_envelope: average certified bounds by these and by PEC.
    """

    clean: float
    pgd: float
    linear: float
    interval: float
    exact: float | None
    bound_linear: float
    bound_interval: float
    bound_envelope: float


Block = dict[str, Published]


def _block(**rows: tuple[float, float, float, float, float | None, float, float, float]) -> Block:
    return {name: Published(*values) for name, values in rows.items()}


BLOCKS: dict[str, Block] = {
    "mnist_fc1_linf": _block(
        plain=(1.99, 98.37, 100.0, 100.0, 100.0, 0.0, 0.0, 0.0),
        at=(1.42, 9.0, 97.94, 100.0, 100.0, 0.0021, 0.0, 0.0099),
        kw=(2.26, 8.59, 12.91, 69.2, 10.9, 0.0871, 0.0308, 0.0928),
        ibp=(1.65, 9.67, 87.27, 15.2, 12.36, 0.0127, 0.0848, 0.0705),
        crown_ibp=(1.98, 9.5, 67.39, 14.45, 11.39, 0.0326, 0.0855, 0.08),
        mmr=(2.11, 17.82, 33.75, 99.88, 24.9, 0.0663, 0.0001, 0.0832),
        mmr_at=(2.04, 10.39, 17.64, 95.09, 14.1, 0.0824, 0.0049, 0.0905),
        l_per=(1.6, 7.45, 11.71, 92.89, 7.69, 0.0883, 0.0071, 0.0935),
        l_per_at=(1.81, 7.73, 12.9, 99.9, 8.22, 0.0871, 0.0001, 0.0925),
        i_per=(1.6, 6.28, 11.96, 93.33, 8.1, 0.088, 0.0067, 0.0934),
        i_per_at=(1.54, 7.15, 13.96, 98.55, 8.48, 0.0868, 0.0014, 0.0927),
    ),
    "mnist_cnn_linf": _block(
        plain=(1.28, 85.75, 100.0, 100.0, 100.0, 0.0, 0.0, 0.0),
        at=(1.02, 4.75, 91.91, 100.0, 100.0, 0.0081, 0.0, 0.0189),
        kw=(1.21, 3.03, 4.44, 100.0, 4.4, 0.0956, 0.0, 0.0971),
        ibp=(1.51, 4.43, 23.89, 8.13, 5.23, 0.0761, 0.0919, 0.0872),
        crown_ibp=(1.85, 4.28, 10.72, 6.91, 4.83, 0.0893, 0.0931, 0.0928),
        mmr=(1.65, 6.07, 11.56, 100.0, 6.1, 0.0884, 0.0, 0.0928),
        mmr_at=(1.19, 3.35, 9.49, 100.0, 3.6, 0.0905, 0.0, 0.0939),
        l_per=(1.44, 3.44, 5.13, 100.0, 3.62, 0.0949, 0.0, 0.0965),
        l_per_at=(0.5, 2.02, 4.85, 100.0, 2.21, 0.0952, 0.0, 0.0969),
        i_per=(1.03, 2.4, 4.64, 99.55, 2.52, 0.0954, 0.0004, 0.0967),
        i_per_at=(0.48, 1.29, 4.61, 99.94, 1.47, 0.0954, 0.0001, 0.0971),
    ),
    "cifar10_cnn_linf": _block(
        plain=(24.62, 86.29, 100.0, 100.0, 100.0, 0.0, 0.0, 0.0),
        at=(27.04, 48.53, 85.36, 100.0, 88.5, 0.0011, 0.0, 0.0015),
        kw=(39.27, 46.6, 53.81, 99.98, 48.0, 0.0036, 0.0, 0.004),
        ibp=(46.74, 56.38, 61.81, 67.58, 58.8, 0.003, 0.0025, 0.0034),
        crown_ibp=(58.32, 63.56, 66.28, 69.1, 65.44, 0.0026, 0.0024, 0.0029),
        mmr=(34.59, 57.17, 69.28, 100.0, 61.0, 0.0024, 0.0, 0.0032),
        mmr_at=(35.36, 49.27, 59.91, 100.0, 54.2, 0.0031, 0.0, 0.0037),
        l_per=(39.21, 50.98, 57.45, 99.98, 52.7, 0.0033, 0.0, 0.0038),
        l_per_at=(28.87, 43.55, 56.59, 100.0, 48.43, 0.0034, 0.0, 0.004),
        i_per=(29.34, 51.54, 64.34, 99.98, 54.87, 0.0028, 0.0, 0.0036),
        i_per_at=(26.66, 43.35, 57.72, 100.0, 47.87, 0.0033, 0.0, 0.004),
    ),
    "mnist_fc1_l2": _block(
        plain=(1.99, 9.81, 40.97, 99.3, None, 0.1771, 0.0021, 0.23),
        at=(1.35, 2.99, 14.85, 99.23, None, 0.2555, 0.0023, 0.2684),
        kw=(1.23, 2.7, 4.91, 41.55, None, 0.2853, 0.1754, 0.2892),
        ibp=(1.36, 2.9, 6.87, 9.01, None, 0.2794, 0.273, 0.2876),
        crown_ibp=(1.26, 2.8, 6.36, 8.73, None, 0.2809, 0.2738, 0.2884),
        mmr=(2.4, 5.88, 7.76, 99.55, None, 0.2767, 0.0013, 0.2845),
        mmr_at=(1.77, 3.76, 5.68, 99.86, None, 0.283, 0.0004, 0.288),
        l_per=(1.26, 2.44, 5.35, 59.17, None, 0.284, 0.1225, 0.2888),
        l_per_at=(0.67, 1.4, 4.84, 64.79, None, 0.2855, 0.1056, 0.291),
        i_per=(1.21, 2.59, 5.34, 54.13, None, 0.284, 0.1376, 0.2888),
        i_per_at=(0.74, 1.46, 7.81, 72.85, None, 0.2766, 0.0814, 0.286),
    ),
    "mnist_cnn_l2": _block(
        plain=(1.28, 4.93, 100.0, 100.0, None, 0.0, 0.0, 0.0),
        at=(1.12, 2.5, 100.0, 100.0, None, 0.0, 0.0, 0.0),
        kw=(1.11, 2.05, 5.84, 100.0, None, 0.2825, 0.0, 0.2861),
        ibp=(2.37, 3.85, 51.12, 11.73, None, 0.1534, 0.2648, 0.1669),
        crown_ibp=(2.89, 4.44, 31.62, 12.29, None, 0.2051, 0.2631, 0.2178),
        mmr=(2.57, 5.49, 10.03, 100.0, None, 0.2699, 0.0, 0.2788),
        mmr_at=(1.73, 3.22, 9.46, 100.0, None, 0.2716, 0.0, 0.278),
        l_per=(1.02, 1.87, 5.04, 100.0, None, 0.2849, 0.0, 0.2882),
        l_per_at=(0.43, 0.91, 5.43, 100.0, None, 0.2837, 0.0, 0.2878),
        i_per=(1.11, 2.16, 6.37, 100.0, None, 0.2809, 0.0, 0.2851),
        i_per_at=(0.52, 1.12, 7.89, 100.0, None, 0.2763, 0.0, 0.2812),
    ),
    "cifar10_cnn_l2": _block(
        plain=(23.29, 47.39, 100.0, 100.0, None, 0.0, 0.0, 0.0),
        at=(25.84, 35.81, 99.96, 100.0, None, 0.0, 0.0, 0.0),
        kw=(40.24, 43.87, 48.98, 100.0, None, 0.051, 0.0, 0.0533),
        ibp=(57.9, 60.03, 64.78, 78.13, None, 0.0352, 0.0219, 0.0366),
        crown_ibp=(71.21, 72.51, 76.23, 80.97, None, 0.0238, 0.019, 0.0256),
        mmr=(40.93, 50.57, 57.07, 100.0, None, 0.0429, 0.0, 0.048),
        mmr_at=(37.78, 43.98, 53.33, 100.0, None, 0.0467, 0.0, 0.0502),
        l_per=(34.1, 52.54, 63.42, 100.0, None, 0.0369, 0.0, 0.0465),
        l_per_at=(25.76, 33.47, 46.74, 100.0, None, 0.0533, 0.0, 0.058),
        i_per=(33.94, 43.06, 56.8, 100.0, None, 0.0432, 0.0, 0.0484),
        i_per_at=(24.85, 31.32, 47.28, 100.0, None, 0.0528, 0.0, 0.0572),
    ),
    "mnist_fc1_sigmoid_linf": _block(
        plain=(2.04, 97.8, 100.0, 100.0, None, 0.0, 0.0, 0.0),
        at=(1.78, 10.05, 98.52, 100.0, None, 0.0015, 0.0, 0.0055),
        ibp=(2.06, 10.58, 44.14, 13.65, None, 0.0559, 0.0863, 0.0846),
        crown_ibp=(2.88, 9.83, 26.04, 12.51, None, 0.074, 0.0875, 0.0886),
        l_per=(1.97, 7.55, 12.15, 84.76, None, 0.0879, 0.0152, 0.093),
        l_per_at=(2.16, 7.12, 11.87, 88.06, None, 0.0881, 0.0119, 0.0927),
        i_per=(2.15, 8.35, 12.79, 86.99, None, 0.0872, 0.013, 0.0926),
        i_per_at=(2.45, 8.05, 12.36, 88.94, None, 0.0876, 0.0111, 0.0923),
    ),
    "mnist_fc1_tanh_linf": _block(
        plain=(2.0, 97.8, 100.0, 100.0, None, 0.0, 0.0, 0.0),
        at=(1.28, 8.89, 99.98, 100.0, None, 0.0, 0.0, 0.0001),
        ibp=(2.04, 9.84, 31.81, 13.02, None, 0.0682, 0.087, 0.0864),
        crown_ibp=(2.75, 9.57, 20.1, 11.8, None, 0.0799, 0.0882, 0.0894),
        l_per=(2.19, 7.71, 11.55, 57.81, None, 0.0885, 0.0422, 0.0934),
        l_per_at=(2.3, 7.45, 11.39, 56.74, None, 0.0886, 0.0433, 0.093),
        i_per=(2.21, 8.51, 12.23, 55.53, None, 0.0878, 0.0445, 0.0929),
        i_per_at=(2.46, 7.87, 12.04, 66.04, None, 0.088, 0.034, 0.0929),
    ),
    "mnist_fc1_sigmoid_l2": _block(
        plain=(2.01, 10.25, 30.78, 94.82, None, 0.2077, 0.0155, 0.2539),
        at=(1.65, 3.48, 7.5, 85.84, None, 0.2775, 0.0422, 0.2839),
        ibp=(1.4, 3.07, 6.43, 9.13, None, 0.2807, 0.2726, 0.2873),
        crown_ibp=(1.51, 3.24, 6.36, 8.73, None, 0.2709, 0.2738, 0.2872),
        l_per=(1.36, 2.58, 6.12, 73.71, None, 0.2816, 0.0789, 0.2867),
        l_per_at=(0.46, 1.03, 5.26, 68.94, None, 0.2842, 0.0932, 0.2905),
        i_per=(1.19, 2.59, 6.05, 70.18, None, 0.2818, 0.0895, 0.2871),
        i_per_at=(0.49, 1.16, 5.03, 65.79, None, 0.2849, 0.1026, 0.2907),
    ),
    "mnist_fc1_tanh_l2": _block(
        plain=(1.94, 16.46, 61.66, 99.64, None, 0.115, 0.0011, 0.1789),
        at=(1.36, 3.02, 12.35, 97.66, None, 0.263, 0.007, 0.2735),
        ibp=(1.57, 3.17, 7.21, 10.44, None, 0.2784, 0.2688, 0.2851),
        crown_ibp=(1.5, 3.14, 6.64, 9.53, None, 0.2801, 0.2714, 0.2861),
        l_per=(1.31, 2.47, 5.53, 55.17, None, 0.2834, 0.1345, 0.288),
        l_per_at=(0.58, 1.3, 5.89, 54.88, None, 0.2823, 0.1354, 0.2885),
        i_per=(1.38, 2.85, 5.9, 45.31, None, 0.2823, 0.1641, 0.2874),
        i_per_at=(0.55, 1.17, 5.57, 53.73, None, 0.2833, 0.1388, 0.289),
    ),
}
"""Tables 3.6 to 3.8, as printed."""

EPS = {
    "mnist_fc1_linf": 0.1,
    "mnist_cnn_linf": 0.1,
    "cifar10_cnn_linf": 2 / 255,
    "mnist_fc1_l2": 0.3,
    "mnist_cnn_l2": 0.3,
    "cifar10_cnn_l2": 0.1,
    "mnist_fc1_sigmoid_linf": 0.1,
    "mnist_fc1_tanh_linf": 0.1,
    "mnist_fc1_sigmoid_l2": 0.3,
    "mnist_fc1_tanh_l2": 0.3,
}
"""The radius of each block."""
TITLES = {
    "mnist_fc1_linf": "MNIST, FC1, l∞",
    "mnist_cnn_linf": "MNIST, CNN, l∞",
    "cifar10_cnn_linf": "CIFAR-10, CNN, l∞",
    "mnist_fc1_l2": "MNIST, FC1, l2",
    "mnist_cnn_l2": "MNIST, CNN, l2",
    "cifar10_cnn_l2": "CIFAR-10, CNN, l2",
    "mnist_fc1_sigmoid_linf": "MNIST, FC1 with sigmoid, l∞",
    "mnist_fc1_tanh_linf": "MNIST, FC1 with tanh, l∞",
    "mnist_fc1_sigmoid_l2": "MNIST, FC1 with sigmoid, l2",
    "mnist_fc1_tanh_l2": "MNIST, FC1 with tanh, l2",
}


def table(block: str) -> str:
    """The number of the table that a block is in."""
    if "sigmoid" in block or "tanh" in block:
        return "table 3.8"
    return "table 3.6" if block.endswith("linf") else "table 3.7"


SEARCH: dict[str, dict[str, tuple[float, float]]] = {
    "mnist_fc1_linf": {
        "plain": (9.85, 0.8207),
        "at": (10.77, 0.8972),
        "kw": (8.48, 0.7066),
        "mmr": (8.04, 0.6703),
        "mmr_at": (7.68, 0.6402),
        "l_per": (9.34, 0.778),
        "l_per_at": (9.38, 0.7816),
    },
    "mnist_cnn_linf": {
        "plain": (10.56, 0.8804),
        "at": (11.39, 0.9489),
        "kw": (11.61, 0.9674),
        "mmr": (10.68, 0.8897),
        "mmr_at": (11.22, 0.9351),
        "l_per": (11.17, 0.9305),
        "l_per_at": (11.74, 0.9784),
    },
    "cifar10_cnn_linf": {
        "plain": (9.33, 0.9331),
        "at": (9.12, 0.9128),
        "kw": (8.43, 0.8432),
        "mmr": (8.05, 0.8053),
        "mmr_at": (8.45, 0.845),
        "l_per": (8.61, 0.8606),
        "l_per_at": (8.68, 0.8681),
    },
    "mnist_fc1_l2": {
        "plain": (9.68, 0.6914),
        "at": (10.44, 0.7457),
        "kw": (7.72, 0.5514),
        "mmr": (5.86, 0.4186),
        "mmr_at": (5.91, 0.4221),
        "l_per": (11.47, 0.8194),
        "l_per_at": (11.34, 0.81),
    },
    "mnist_cnn_l2": {
        "plain": (13.64, 0.9742),
        "at": (13.76, 0.9829),
        "kw": (12.63, 0.9021),
        "mmr": (8.52, 0.6086),
        "mmr_at": (12.13, 0.8664),
        "l_per": (13.75, 0.9819),
        "l_per_at": (13.72, 0.9796),
    },
    "cifar10_cnn_l2": {
        "plain": (11.73, 0.9775),
        "at": (11.67, 0.9725),
        "kw": (10.23, 0.8525),
        "mmr": (9.05, 0.7542),
        "mmr_at": (10.33, 0.8608),
        "l_per": (9.13, 0.7609),
        "l_per_at": (10.71, 0.8926),
    },
}
"""Table 3.9: mean number of bound calculations by PEC, and its share of those by binary search."""
SEARCH_TO = {
    "mnist_fc1_linf": 0.4,
    "mnist_cnn_linf": 0.4,
    "cifar10_cnn_linf": 0.1,
    "mnist_fc1_l2": 1.2,
    "mnist_cnn_l2": 1.2,
    "cifar10_cnn_l2": 0.4,
}
"""Upper end of the search; the lower one is 0."""
PRECISION = 1e-4
"""Of the search. It is not stated, but gives the printed 12, 12, 10, 14, 14 and 12 bound calculations of binary search."""


class Values(NamedTuple):
    """A row of table 3.5. ``first_eps``: the radius in the first epochs, doubled every 20 epochs if it is not the last."""

    alpha: float
    beta: float
    beta_at: float
    first_eps: float
    doubled: bool


TABLE_3_5 = {
    "mnist_fc1_linf": Values(0.15, 0.1, 0.1, 0.0064, True),
    "mnist_cnn_linf": Values(0.15, 0.3, 0.03, 0.1, False),
    "cifar10_cnn_linf": Values(0.1, 0.0003, 0.001, 0.008, False),
    "mnist_fc1_l2": Values(0.45, 1.0, 1.0, 0.02, True),
    "mnist_cnn_l2": Values(0.45, 1.0, 1.0, 0.3, False),
    "cifar10_cnn_l2": Values(0.15, 0.3, 1.0, 0.1, False),
}
"""As printed. By the text's own rule, 1.5 times the radius, alpha of CIFAR-10 in l-infinity is 0.012, not 0.1."""

KW_AND_PGD = (3.64, 8.12)
"""Errors under PGD and by Fast-Lin after training on the sum of the losses of KW and of PGD; MNIST, CNN, l-infinity."""

MISPRINTS = (
    "The text says that stopping the greedy Algorithm 3.4 early gives an upper bound of problem (3.14), and a valid guarantee. It gives a lower "
    "bound; an upper one would be no guarantee.",
    "The text says that the distance to the envelope falls with the radius of the budget. It need not: for the margin relu(x) + 0.5 at x = 0.2 it grows "
    "from 0.7 to 1.1. The search of Algorithm 3.5 remains sound, because its lower end moves by certificates alone, but the middle of its last "
    "interval, which it returns, is not certified. The lower end is reported here.",
    "By the definitions L-PER and I-PER are the same for one hidden layer, yet tables 3.6 to 3.8 have different rows for them. Code that composes "
    "forward, or other seeds, may be why.",
    "CRE MIP of AT is above CRE Lin in all three blocks of table 3.6, which cannot be: probably time-outs that count as errors.",
    "Seven of the rows break ACB = ε (1 - CRE): I-PER+at in FC1 l∞ (0.0868 for 0.0860), IBP in MNIST CNN l2 (0.1534 for 0.1466), L-PER and I-PER+at in CIFAR-10 "
    "l2 by rounding, AT and CROWN-IBP in sigmoid l2 (0.0422 for 0.0425, 0.2709 for 0.2809), IBP in tanh l2 (0.2688 for 0.2687).",
    "Table 3.5 has alpha = 0.1 for CIFAR-10 in l∞, where the rule of the text gives 0.012.",
)
"""What is wrong in text and tables."""
