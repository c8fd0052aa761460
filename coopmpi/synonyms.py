"""Names that the field has for what is called otherwise here."""

# {table: {what it is here: names of the field}}
_NAMES = {
    "algorithm": {
        "sync-sgd": ("sgd", "ddp", "allreduce", "allreduce-sgd", "ar-sgd", "minibatch-sgd", "horovod"),
        "local-sgd": ("fedavg", "federated-averaging", "periodic-averaging", "pasgd", "parallel-restarted-sgd"),
        'local-sgd with period.kind = "post-local"': ("post-local", "post-local-sgd"),
        'local-sgd with period.kind = "adacomm"': ("adacomm",),
        "easgd with optimizer.momentum and optimizer.nesterov = true": ("eamsgd",),
        "d-psgd (X <- W X - lr G), or dpa with period.tau = 1 (X <- W (X - lr G))": (
            "d-sgd", "dsgd", "decentralized-sgd", "decentralised-sgd", "gossip", "gossip-sgd"),
        "dpa": ("pd-sgd", "pdsgd", "local-d-sgd", "dfedavg"),
        "gradient-tracking": ("gt", "dsgt", "diging"),
        "sgp": ("push-sum", "stochastic-gradient-push"),
        "overlap-sgp": ("osgp", "1-osgp"),
        "choco-sgd": ("choco", "choco-gossip"),
        "double-compressed with period.tau = 1": ("doublesqueeze", "double-squeeze"),
        "double-compressed with period.tau = 1 (which compresses the way back as well)": ("ef-sgd", "mem-sgd"),
        'double-compressed with period.tau = 1 and compress.kind = "sign" (with error feedback)': (
            "signsgd", "ef-signsgd"),
    },
    "optimizer": {
        "sgd with momentum": ("momentum", "sgdm", "heavy-ball"),
        "sgd with momentum and nesterov = true": ("nesterov", "nag"),
    },
    "schedule": {"step": ("multistep", "multi-step"), "cosine": ("cosine-annealing",)},
    "period": {"every": ("fixed", "constant"), "adacomm": ("adaptive",)},
    "compress": {
        "none": ("identity",), "fp16": ("float16", "half"), "bf16": ("bfloat16",), "sign": ("signsgd", "scaled-sign"),
        "lowrank": ("powersgd",),
    },
    "graph": {"complete": ("full", "fully-connected", "clique"), "ring": ("circle", "cycle"), "random-regular": ("regular",),
              "erdos-renyi": ("gnp", "er")},
}


def name_here(kind: str, name: str) -> str | None:
    """What a name of the field is called here, with the keys that go with it; None for any other name."""
    wanted = name.lower().replace("_", "-")
    return next((here for here, others in _NAMES.get(kind, {}).items() if wanted in others), None)
