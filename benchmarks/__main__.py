"""python -m benchmarks NAME [options]: one module of this package per NAME, with a `main(arguments)`."""

import argparse
import importlib
import pkgutil
import signal
import sys

import benchmarks

HELPERS = ("__main__", "descriptions", "timing", "hosts")


def main():
    names = [module.name for module in pkgutil.iter_modules(benchmarks.__path__)]
    names = [name.replace("_", "-") for name in names if name not in HELPERS and not name.startswith("_")]
    parser = argparse.ArgumentParser(prog="python -m benchmarks", add_help=False, description=benchmarks.__doc__)
    parser.add_argument("name", nargs="?", choices=names, metavar="NAME")
    chosen, arguments = parser.parse_known_args()
    if chosen.name is None:
        parser.exit(message=f"usage: python -m benchmarks NAME [options]; NAME is one of: {', '.join(names)}\n")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # what has been set up is removed all the same
    importlib.import_module(f"benchmarks.{chosen.name.replace('-', '_')}").main(arguments)


if __name__ == "__main__":  # processes that a benchmark starts import this, too
    main()
