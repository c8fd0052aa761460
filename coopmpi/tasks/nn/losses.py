"""What is minimised: each loss leaves its gradient in the outputs, and its value per sample in an array."""


def cross_entropy(scratch, outputs, labels, weights, losses):
    """losses (b, n) = -log softmax(outputs)[label]; outputs (b, n, classes) become weights d losses / d outputs.

    labels: integers (b, n) below `classes`; weights: (b, n) or (1, n). The largest output of each sample is
    subtracted before exp, so that nothing overflows.
    """
    xp, (b, n, classes) = scratch.xp, outputs.shape
    # the maximum over classes, class by class: numpy is slow along a short last axis
    by_class = scratch.array("by class", (classes, b, n))
    by_class[...] = outputs.transpose(2, 0, 1)
    largest = xp.max(by_class, axis=0, out=scratch.array("largest", (b, n)))
    xp.subtract(outputs, largest[..., None], out=outputs)
    # where the output of each label is in the flat array
    first = scratch.keep("first", lambda: classes * xp.arange(b * n).reshape(b, n))
    where = xp.add(first, labels, out=scratch.array("where", (b, n), first.dtype))
    flat = outputs.reshape(-1)
    at_label = flat[where]
    # loss = log sum_c exp(output_c) - output_label
    xp.exp(outputs, out=outputs)
    total = xp.matmul(outputs, scratch.ones(classes, 1), out=scratch.array("total", (b, n, 1)))
    xp.log(total[..., 0], out=losses)
    xp.subtract(losses, at_label, out=losses)
    # gradient = weight (softmax - one hot)
    xp.multiply(outputs, xp.divide(weights[..., None], total, out=total), out=outputs)
    flat[where] -= weights


def squared_error(scratch, outputs, targets, weights, losses):
    """losses (b, n) = 1/2 |outputs - targets|^2; outputs (b, n, o) become weights (outputs - targets).

    targets: (b, n, o), or (b, n) for one output; weights: (b, n) or (1, n).
    """
    xp = scratch.xp
    xp.subtract(outputs, targets.reshape(outputs.shape), out=outputs)
    squares = xp.multiply(outputs, outputs, out=scratch.array("squares", outputs.shape))
    xp.sum(squares, axis=-1, out=losses)
    xp.multiply(losses, 0.5, out=losses)
    xp.multiply(outputs, weights[..., None], out=outputs)


def count_correct(outputs, labels):
    """How many samples have their largest output at their label."""
    return (outputs.argmax(axis=-1) == labels).sum()


LOSSES = {"cross-entropy": cross_entropy, "squared-error": squared_error}
