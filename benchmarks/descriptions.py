"""Run descriptions that methods have in common: what one of them does not read is left out."""

from coopmpi import config


def read(tables):
    """The tables without the keys that play no part."""
    return config.without(tables, config.unread(tables))


def settings(keys):
    """`--set` of {"period.tau": 8, ...} without the keys that play no part."""
    overrides = {key: f"{key}={str(value).lower() if isinstance(value, bool) else value}" for key, value in keys.items()}
    unread = config.unread(config.load(None, overrides.values()))
    return [f"--set={override}" for key, override in overrides.items() if key not in unread]
