"""Malformed inputs: what the command line says of thousands of damaged and absurd descriptions and files."""

import argparse
import contextlib
import io
import os
import random
import shutil
import signal
import tempfile
import traceback
from collections import Counter
from pathlib import Path
from time import perf_counter

import click
import h5py
import numpy as np
from PIL import Image

from benchmarks.timing import table
from coopmpi import registry
from coopmpi.cli import group
from coopmpi.errors import CoopError

LIMIT = 20  # seconds until a case counts as hanging
TABLES = {"task": "task", "optimizer": "optimizer", "schedule": "schedule", "algorithm": "algorithm",
          "period": "period", "compress": "compress", "compute": "compute", "network": "network", "mixing": "graph"}
WORDS = ["0", "1", "-1", "2", "3", "7", "1000001", str(10**18), str(2**63), str(2**64), "9" * 5000, "0x" + "f" * 400,
         "0.5", "1e-300",
         "1e300", "1e308", "-0.0", "inf", "nan", "true", "false", "\"\"", "''", "[]", "{}", "[[]]", "[1]",
         "[0.1, 0.2]", "[[0, 1]]",
         "[" * 5000, "[nan]", "[1, 'a']", "{a = 1}", "1979-05-27", "07:32:00", "\"\\u0000\"", "\x1b[2J", "digits",
         "ring", "none",
         "adam", "d-psgd", "cosine", "\"" + "x" * 5000 + "\"", ".", "..", "/", "~nobody/x", "/dev/zero", "a=b",
         "\udcff", "\u202e"]
KEYS = ["workers", "steps", "epochs", "seed", "dtype", "device", "deterministic", "record.eval_every", "sinks", "no",
        "", ".", "a.b.c",
        "task", "mixing", ".".join("a" * 200), "mixing.graph", "mixing.weights", "mixing.lazy", "task.options"]


class Hang(BaseException):
    """A case took more than LIMIT seconds."""


def _hang(number, frame):
    raise Hang


def outcome(arguments):
    """How `coopmpi ARGUMENTS` ends: "done", "refused", "failed" (status 1, 3 or 4), "hang", or a traceback."""
    signal.signal(signal.SIGALRM, _hang)
    signal.alarm(LIMIT)
    try:
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            group.main(list(map(str, arguments)), prog_name="coopmpi", standalone_mode=False)
        return "done"
    except CoopError as error:
        return "refused" if error.status == 2 else "failed"
    except click.ClickException:
        return "refused"
    except Hang:
        return "hang"
    except Exception:
        return traceback.format_exc()
    finally:
        signal.alarm(0)


class Cases:
    """Random cases, each a function of its number; in `folder` lie the files that they damage."""

    def __init__(self, folder):
        self.folder = Path(folder)
        self.keys = list(KEYS)
        for name, kind in TABLES.items():
            self.keys += [f"{name}.kind"] * (name != "mixing")
            self.keys += [f"{name}.{key}" for cls in registry.parts(kind).values() for key in cls.__struct_fields__]
        self.kinds = {name: list(registry.parts(kind)) for name, kind in TABLES.items()}
        draw = np.random.default_rng(0)
        x, y = draw.normal(size=(40, 6)), np.arange(40) % 3
        np.savez(self.folder / "good.npz", x=x, y=y)
        self._hdf5("good.h5", {"x": x, "y": y})
        self._hdf5("quadratic.h5", {"a": np.ones(5), "b": draw.normal(size=(4, 5)), "x0": np.ones(5)})
        self._hdf5("w.h5", {"w": np.full((4, 4), 0.25)})
        np.save(self.folder / "w.npy", np.full((4, 4), 0.25))
        np.savetxt(self.folder / "times.txt", draw.random((5, 4)))
        (self.folder / "edges.txt").write_text("0 1\n1 2\n2 3\n3 0\n")
        (self.folder / "edges.graphml").write_text(
            '<graphml xmlns="http://graphml.graphdrawing.org/xmlns"><graph edgedefault="undirected"><node id="0"/><node id="1"/>'
            '<edge source="0" target="1"/></graph></graphml>')
        rows = (f"{','.join(map(str, row))},{'red' if label else 'blue'}\n" for row, label in zip(x.tolist(), y))
        (self.folder / "table.csv").write_text(f"a,b,c,d,e,f,colour\n{''.join(rows)}")
        Image.fromarray(np.arange(48, dtype=np.uint8).reshape(6, 8)).save(self.folder / "image.png")
        Image.fromarray(np.arange(144, dtype=np.uint8).reshape(6, 8, 3)).save(self.folder / "image.jpg")
        (self.folder / "train-images-idx3-ubyte").write_bytes(bytes([0, 0, 8, 3, 0, 0, 0, 9, 0, 0, 0, 2, 0, 0, 0,
                                                                     2]) + bytes(36))
        (self.folder / "train-labels-idx1-ubyte").write_bytes(bytes([0, 0, 8, 1, 0, 0, 0, 9]) + bytes(range(9)))
        (self.folder / "run.toml").write_text('workers = 4\nsteps = 20\n[task]\ndata = "teacher"\nsamples = 50\n[algorithm]\n'
                                              'kind = "dpa"\n[period]\ntau = 2\n[mixing]\ngraph = "ring"\n')
        outcome(["train", self.folder / "run.toml", "-o", self.folder / "run.h5", "--quiet"])
        self.whole = {path.name: path.read_bytes() for path in self.folder.iterdir() if path.is_file()}

    def _hdf5(self, name, arrays):
        with h5py.File(self.folder / name, "w", libver="latest") as file:
            for key, values in arrays.items():
                file[key] = values

    def case(self, number):
        """(what, arguments) of a case."""
        draw = random.Random(number)
        kind = draw.choice(("words", "words", "words", "graph", "description", "data", "data", "result"))
        return kind, getattr(self, f"_{kind}")(draw)

    def _words(self, draw):
        name = draw.choice([name for name in TABLES if name != "mixing"])
        chosen = [f"--set={name}.kind={draw.choice(self.kinds[name])}",
                  "--set=algorithm.kind=dpa"] if draw.random() < 0.5 else []
        chosen += [f"--set={draw.choice(self.keys)}={draw.choice(WORDS)}" for _ in range(draw.randint(1, 3))]
        verb = draw.choice((["train"], ["simulate"], ["simulate", "--time-only"]))
        return [*verb, "--dry-run", *chosen]

    def _graph(self, draw):
        words = [draw.choice(self.kinds["mixing"]), "-m", draw.choice(["1", "2", "5", "8", "12", "0", "-3", "x",
                                                                       "100000000"])]
        keys = ("--shape", "--degree", "--probability", "--budget", "--base", "--weights", "--seed", "--size",
                "--dtype", "--no")
        for _ in range(draw.randint(0, 2)):
            words += [draw.choice(keys), draw.choice(WORDS)]
        return ["graph", *words]

    def _description(self, draw):
        return ["train", "--dry-run", self._damaged(draw, "run.toml")]

    def _data(self, draw):
        name = draw.choice([name for name in self.whole if name not in ("run.toml", "run.h5",
                                                                        "train-labels-idx1-ubyte")])
        path = self._damaged(draw, name)
        if name.startswith("w.") or name.startswith("edges"):
            return ["graph", path]
        if name == "times.txt":
            return ["simulate", "--dry-run", "--set=compute.kind=trace", f"--set=compute.file={path}"]
        if name == "quadratic.h5":
            return ["train", "--dry-run", "--set=task.kind=quadratic", f"--set=task.path={path}"]
        if name.startswith("image"):
            path = self._beside_whole(path)
        return ["train", "--dry-run", f"--set=task.data={path}"]

    def _beside_whole(self, image):
        """A folder with a damaged image in one class, and four whole ones in another."""
        folder = self.folder / "images"
        shutil.rmtree(folder, ignore_errors=True)
        for path, content in [(folder / "bad" / image.name, image.read_bytes()),
                              *((folder / "good" / f"{i}{image.suffix}", self.whole[image.name]) for i in range(4))]:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
        return folder

    def _result(self, draw):
        path = self._damaged(draw, "run.h5")
        verb = draw.choice((["inspect"], ["inspect"], ["inspect", "--config"], ["inspect", "--series", "train/loss"], ["compare"],
                            ["plot", "-y", "train/loss"], ["plot", "--timeline"], ["plot", "--graph", "-o", self.folder / "graph.svg"]))
        return [*verb, path]

    def _damaged(self, draw, name):
        """A file like the whole one, with bits turned, bytes changed, cut, repeated or put in."""
        content = bytearray(self.whole[name])
        for _ in range(draw.choice((1, 1, 2, 8))):
            place, way = draw.randrange(len(content) or 1), draw.random()
            if not content or way < 0.1:
                content[place:place] = draw.randbytes(draw.randrange(1, 9))
            elif way < 0.6:
                content[place] ^= 1 << draw.randrange(8)
            elif way < 0.75:
                content[place] = draw.choice((0, 1, 10, 27, 127, 128, 255))
            elif way < 0.85:
                del content[place:]
            else:
                content[place:place] = content[draw.randrange(len(content)):][:20]
        (self.folder / "damaged").mkdir(exist_ok=True)
        for other in ("train-labels-idx1-ubyte",) * (name == "train-images-idx3-ubyte"):
            (self.folder / "damaged" / other).write_bytes(self.whole[other])
        path = self.folder / "damaged" / name
        path.unlink(missing_ok=True)
        path.write_bytes(content)
        return path


def main(arguments):
    parser = argparse.ArgumentParser(prog="python -m benchmarks fuzz", description=__doc__)
    parser.add_argument("--cases", type=int, default=2000)
    parser.add_argument("--first", type=int, default=0,
                        help="number of the first case: each is a function of its number")
    parser.add_argument("--seconds", type=float, default=float("inf"), help="stop after so many")
    options = parser.parse_args(arguments)
    counts, longest, found = Counter(), 0.0, {}
    begin = perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        cases = Cases(folder)
        for number in range(options.first, options.first + options.cases):
            if perf_counter() - begin > options.seconds:
                break
            what, words = cases.case(number)
            start = perf_counter()
            end = outcome(words)
            longest = max(longest, perf_counter() - start)
            if end not in ("done", "refused", "failed"):
                known = end if end == "hang" else end.splitlines()[-1]
                if known not in found or end == "hang":
                    found[known] = number
                    print(f"case {number}: {[word[:80] for word in map(str, words)]}\n{end}", flush=True)
                end = end if end == "hang" else "traceback"
            counts[what, end] += 1
        os.chdir("/")
    ends = ("done", "refused", "failed", "traceback", "hang")
    rows = [(what, sum(counts[what, end] for end in ends), *(counts[what, end] for end in ends))
            for what in dict.fromkeys(what for what, _ in counts)]
    table(("malformed", "cases", *ends), sorted(rows))
    print(f"{sum(counts.values())} cases, {sum(counts[key] for key in counts if key[1] == 'traceback')} tracebacks, "
          f"{sum(counts[key] for key in counts if key[1] == 'hang')} hangs, {perf_counter() - begin:.0f} s, "
          f"longest case {longest:.1f} s")
