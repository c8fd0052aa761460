"""What is minimised: each loss leaves its gradient in the outputs, and its value per sample in an array."""

from math import prod


def cross_entropy(scratch, outputs, labels, weights, losses):
    """losses (b, n) = -log softmax(outputs)[label]; outputs (b, n, classes) become weights d losses / d outputs.

    labels: integers (b, n) below `classes`; weights: (b, n) or one number. The largest output of each sample is
    subtracted before exp, so that nothing overflows.
    """
    xp, classes = scratch.xp, outputs.shape[-1]
    largest = xp.max(outputs, axis=-1, keepdims=True, out=scratch.array("largest", (*labels.shape, 1)))
    xp.subtract(outputs, largest, out=outputs)
    # where the output of each label is in the flat array
    first = scratch.keep("first", lambda: classes * xp.arange(prod(labels.shape)).reshape(labels.shape))
    where = xp.add(first, labels, out=scratch.array("where", labels.shape, first.dtype))
    flat = outputs.reshape(-1)
    at_label = flat[where]
    # loss = log sum_c exp(output_c) - output_label
    xp.exp(outputs, out=outputs)
    total = xp.matmul(outputs, scratch.ones(classes, 1), out=scratch.array("total", (*labels.shape, 1)))
    xp.log(total[..., 0], out=losses)
    xp.subtract(losses, at_label, out=losses)
    # gradient = weight (softmax - one hot)
    scale = xp.divide(weights if isinstance(weights, float) else weights[..., None], total, out=total)
    xp.multiply(outputs, scale, out=outputs)
    flat[where] -= weights


def squared_error(scratch, outputs, targets, weights, losses):
    """losses (b, n) = 1/2 |outputs - targets|^2; outputs (b, n, o) become weights (outputs - targets).

    targets: (b, n, o), or (b, n) for one output; weights: (b, n) or one number.
    """
    xp = scratch.xp
    xp.subtract(outputs, targets.reshape(outputs.shape), out=outputs)
    squares = xp.multiply(outputs, outputs, out=scratch.array("squares", outputs.shape))
    xp.sum(squares, axis=-1, out=losses)
    xp.multiply(losses, 0.5, out=losses)
    xp.multiply(outputs, weights if isinstance(weights, float) else weights[..., None], out=outputs)


def count_correct(outputs, labels):
    """How many samples have their largest output at their label."""
    return (outputs.argmax(axis=-1) == labels).sum()


LOSSES = {"cross-entropy": cross_entropy, "squared-error": squared_error}
