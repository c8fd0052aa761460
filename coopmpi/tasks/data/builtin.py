"""Data sets that need no file: the UCI digits, which come with the package, and a generated teacher."""

from pathlib import Path

import numpy as np

from coopmpi.errors import UserError
from coopmpi.streams import Purpose, stream
from coopmpi.tasks.data.formats.raw import Raw

HIDDEN = 64  # tanh units of the teacher
BLOCK = 8192  # samples drawn from one stream
LARGEST = 10**15  # numbers


def digits():
    """1,797 real images of handwritten digits, 8x8, values 0..16.

    E. Alpaydin, C. Kaynak, "Optical Recognition of Handwritten Digits", UCI Machine Learning Repository, 1998,
    CC BY 4.0 (DATA_SOURCES.md).
    """
    with np.load(Path(__file__).with_name("digits.npz"), allow_pickle=False) as archive:
        return Raw(archive["x"], archive["y"], classes=10, full_scale=16)


def teacher(kind, dtype, seed, samples, features, outputs, noise):
    """x ~ N(0, I) and the outputs of a random, fixed two-layer tanh network.

    classify: y = argmax of the `outputs` logits; a fraction `noise` of the labels is moved to another class.
    regress: y = the outputs + noise * N(0, I). The logits are x -> tanh(x A) B with A ~ N(0, 1/features),
    B ~ N(0, 1/HIDDEN).
    """
    _check_teacher(kind, samples, features, outputs, noise)
    network = stream(seed, Purpose.DATA)
    a = network.normal(0, features**-0.5, (features, HIDDEN))
    b = network.normal(0, HIDDEN**-0.5, (HIDDEN, outputs))
    x = np.empty((samples, features), dtype)
    y = np.empty(samples, np.int64) if kind == "classify" else np.empty((samples, outputs), dtype)
    for block, start in enumerate(range(0, samples, BLOCK), start=1):
        rows = slice(start, min(start + BLOCK, samples))
        draw = stream(seed, Purpose.DATA, step=block)
        inputs = draw.standard_normal((rows.stop - start, features))
        answers = np.tanh(inputs @ a) @ b
        if kind == "classify":
            flipped = draw.random(len(inputs)) < noise
            y[rows] = (answers.argmax(axis=1) + flipped * draw.integers(1, outputs, len(inputs))) % outputs
        else:
            y[rows] = answers + noise * draw.standard_normal(answers.shape)
        x[rows] = inputs
    return Raw(x, y, classes=outputs if kind == "classify" else None)


def _check_teacher(kind, samples, features, outputs, noise):
    at_least = {"samples": (samples, 2), "features": (features, 1),
                "classes" if kind == "classify" else "outputs": (outputs, 2 if kind == "classify" else 1)}
    for key, (given, least) in at_least.items():
        if given < least:
            raise UserError(f"data 'teacher': {key} must be at least {least}, given {given}")
    if samples * max(features, outputs) > LARGEST:
        raise UserError(f"data 'teacher': samples x features may be up to {LARGEST:g} numbers, given {samples} x "
                        f"{max(features, outputs)}")
    most = 1 if kind == "classify" else np.inf
    if not 0 <= noise <= most:
        rule = "a fraction between 0 and 1" if kind == "classify" else "a standard deviation >= 0"
        raise UserError(f"data 'teacher': noise must be {rule}, given {noise}")
