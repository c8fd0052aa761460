"""coopmpi plot: curves against the files themselves, what a view shows, figures and their files, terminals, and what is refused."""

import glob
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest
from rich.cells import cell_len

from coopmpi.report.plot import curves, figure, lines
from coopmpi.report.plot.curves import Line, panels
from tests.in_process import coopmpi, refused
from tests.result_files import made, made_up
from tests.test_cli_inspect import start_file
from tests.test_signals import in_a_terminal

METHODS = {"sync": {"algorithm": {"kind": "sync-sgd"}}, "local-5": {"algorithm": {"kind": "local-sgd"}, "period": {"tau": 5}},
           "local-1": {"algorithm": {"kind": "local-sgd"}, "period": {"tau": 1}}}
COOPMPI = [sys.executable, "-m", "coopmpi"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("plots")
    for name, tables in METHODS.items():
        for seed in (1, 2):
            made(folder / f"{name}-{seed}.h5", "simulate", seed=seed, compute={"kind": "exponential"}, network={"bandwidth": 1e5}, **tables)
    made(folder / "train.h5", algorithm={"kind": "sync-sgd"})
    made(folder / "time.h5", "time-only", algorithm={"kind": "sync-sgd"})
    return folder


@pytest.fixture
def paths(folder):
    return [str(folder / f"{name}-{seed}.h5") for name in METHODS for seed in (1, 2)]


def columns(path, *names):
    with h5py.File(path) as file:
        return [file[name][:] for name in names]


# numbers
def test_seeds_are_mean_least_and_most_at_equal_steps(paths):
    panel, = panels(paths, "time", ["eval/loss"])
    assert [line.label for line in panel.lines] == ["sync-sgd", "local-sgd, tau = 5", "local-sgd, tau = 1"]
    for line, first in zip(panel.lines, (0, 2, 4)):
        values, x = [], []
        for path in paths[first:first + 2]:
            steps, loss, time = columns(path, "eval/step", "eval/loss", "train/virtual_time")
            values.append(loss)
            x.append(np.concatenate([[0], time])[steps])
        assert line.runs == 2 and np.array_equal(line.least, np.min(values, axis=0)) and np.array_equal(line.most, np.max(values, axis=0))
        np.testing.assert_allclose(line.mean, np.mean(values, axis=0), rtol=1e-15)
        np.testing.assert_allclose(line.x, np.mean(x, axis=0), rtol=1e-15)


def test_seeds_that_were_evaluated_at_other_steps_and_ended_earlier_are_one_line(tmp_path):
    a = made(tmp_path / "a.h5", seed=1, record={"eval_every": 6})
    b = made(tmp_path / "b.h5", seed=2, record={"eval_every": 9}, steps=60, stop={"loss": 2.0})
    line, = panels([a, b], "steps", ["eval/loss"])[0].lines
    (steps, loss), (other, other_loss) = (columns(path, "eval/step", "eval/loss") for path in (a, b))
    assert other[-1] < 60 and line.x[-1] == other[-1] and set(line.x) == {k for k in (*steps, *other) if k <= other[-1]}
    expected = (np.interp(line.x, steps, loss) + np.interp(line.x, other, other_loss)) / 2
    np.testing.assert_allclose(line.mean, expected, rtol=1e-14)


@pytest.mark.parametrize("window", [1, 7, 60, 1000])
def test_series_of_the_steps_are_smoothed_as_the_label_says(folder, window):
    path = folder / "local-5-1.h5"
    panel, = panels([path], "steps", ["train/loss"], smooth=window)
    loss, = columns(path, "train/loss")
    used = min(window, 60)
    line, = panel.lines
    np.testing.assert_allclose(line.mean, np.convolve(loss.mean(axis=1, dtype=float), np.ones(used) / used, "valid"), rtol=1e-9)
    middle = (used - 1) // 2 + 1
    assert np.array_equal(line.x, np.arange(middle, middle + 61 - used))
    assert panel.y_label == ("mini-batch loss" if window == 1 else f"mini-batch loss (mean of {used} steps)")


def test_long_series_keep_their_ends_and_become_few_points(tmp_path):
    path = made_up(tmp_path / "long.h5", 5000, 2, losses=np.linspace(3, 1, 5000))
    line, = panels([path], "steps", ["train/loss"])[0].lines
    assert 200 < len(line.x) < 800 and line.x[0] < 100 and line.x[-1] > 4900
    np.testing.assert_allclose(line.mean, np.interp(line.x, [1, 5000], [3, 1]), atol=0.01)  # noise of 125 steps x 2 workers


@pytest.mark.parametrize("axis, label, factor", [("bytes", r"sent per worker \((kB|MB)\)", None), ("epochs", "epochs", 4 * 32 / 1438),
                                                 ("steps", "steps", 1)])
def test_axes(folder, axis, label, factor):
    path = folder / "local-5-1.h5"
    panel, = panels([path], axis, ["accuracy"])
    steps, sent, accuracy = columns(path, "eval/step", "train/bytes_sent", "eval/accuracy")
    unit = re.fullmatch(label, panel.x_label)
    expected = steps * factor if factor else np.concatenate([[0], np.cumsum(sent.mean(axis=1))])[steps] / {"kB": 1e3, "MB": 1e6}[unit[1]]
    np.testing.assert_allclose(panel.lines[0].x, expected, rtol=1e-12)
    np.testing.assert_allclose(panel.lines[0].mean, 100 * accuracy, rtol=1e-12)
    assert panel.y_label == "accuracy (%)"


def test_a_key_as_the_axis_shows_the_end_of_each_run(paths):
    panel, = panels(paths, "period.tau", ["eval/loss"])
    ends = [columns(path, "eval/loss")[0][-1] for path in paths]
    local = next(line for line in panel.lines if line.label == "local-sgd")
    assert local.x.tolist() == [1, 5] and local.runs == 2 and panel.points and panel.y_label == "held-out loss at the end"
    np.testing.assert_allclose(local.mean, [np.mean(ends[4:]), np.mean(ends[2:4])], rtol=1e-15)
    # the period plays no part in sync-sgd: a level line
    sync = next(line for line in panel.lines if line.label == "sync-sgd")
    assert sync.x.tolist() == [1, 5] and len(set(sync.mean)) == 1


def test_a_failed_run_is_drawn_as_far_as_it_came_and_said_to_have_failed(tmp_path):
    whole = made_up(tmp_path / "a.h5", 1000, 2, seed=1)
    loss = np.r_[np.ones(900), np.full(100, np.nan)]
    path = made_up(tmp_path / "b.h5", 1000, 2, seed=2, losses=loss, status="failed")
    line, = panels([path], "steps", ["train/loss"], smooth=10)[0].lines
    assert line.label == f"{path} (failed)" and 890 <= line.x[-1] <= 900
    assert panels([whole, path], "steps", ["train/loss"])[0].lines[0].label == "local-sgd (1 of 2 failed)"


# views
def steep(*ends):
    x = np.arange(101.0)
    return [Line(f"to {end}", 1, x, y, y, y) for end in ends for y in [end + 100 * np.exp(-x / 4)]]


def test_a_steep_beginning_that_hides_how_lines_differ_is_left_out_and_said():
    (low, high), said = curves.view_of(steep(1, 1.2), False, "")
    assert low < 1 and 1.2 < high < 10 and said == "the beginning, up to 101, is above this axis"
    rising = [line._replace(mean=-line.mean, least=-line.mean, most=-line.mean) for line in steep(1, 1.2)]
    (low, high), said = curves.view_of(rising, False, "")
    assert -10 < low < -1.2 and "down to -101, is below" in said


@pytest.mark.parametrize("given, whole, log", [(steep(1, 1.2), True, ""), (steep(1), False, ""), (steep(1, 1.2), False, "y"),
                                               (steep(1, 80), False, "")])
def test_nothing_is_left_out_of_one_line_or_logarithms_or_where_it_hides_nothing_or_on_demand(given, whole, log):
    (low, high), said = curves.view_of(given, whole, log)
    assert low < 1 and high > 101 and said == ""


def test_what_is_mere_rounding_is_below_a_logarithmic_axis_and_said():
    x = np.arange(1.0, 11)
    given = [Line("a", 1, x, y, y, y) for y in (x, 1e-12 * x)]
    (low, high), said = curves.view_of(given, False, "y")
    assert 1e-9 < low < 1e-6 and said == "more, down to 1e-12, is below this axis"


def test_axes_become_logarithmic_where_numbers_ask_for_it(tmp_path):
    shrinking = made_up(tmp_path / "a.h5", 1000, 2, losses=np.geomspace(100, 0.1, 1000))
    assert panels([shrinking], "steps", ["train/loss"], smooth=1)[0].log == "y"
    assert panels([shrinking], "steps", ["train/loss"], smooth=1, log="none")[0].log == ""
    frugal = made_up(tmp_path / "b.h5", 1000, 2, period={"tau": 100})
    assert panels([shrinking, frugal], "bytes", ["accuracy"])[0].log == "x"
    assert panels([shrinking, frugal], "bytes", ["accuracy"], log="y")[0].log == "y"


# figures
def drawn(given, paper=None, **options):
    found = panels(given, **options)
    with figure.look(paper):
        made = lines.draw(found, paper)
        made.draw_without_rendering()
    return made


def test_what_stands_in_a_figure(paths):
    made = drawn(paths, x="steps", ys=["train/loss", "accuracy"], smooth=5)
    first, second = made.axes
    assert first.get_ylabel().replace("\n", " ") == "mini-batch loss (mean of 5 steps)" and second.get_ylabel() == "accuracy (%)"
    assert {text.get_text() for text in made.legends[0].get_texts()} == {"sync-sgd", "local-sgd, tau = 5", "local-sgd, tau = 1"}
    assert len(first.collections) == 3  # bands


@pytest.mark.parametrize("paper, inches", [("single", 3.3), ("double", 6.8)])
def test_a_paper_has_columns_and_serif_letters(paths, paper, inches):
    made = drawn(paths, paper)
    assert made.get_size_inches()[0] == inches
    assert made.axes[0].xaxis.label.get_fontname() == "STIXGeneral"


def test_lines_differ_without_colour_and_those_below_are_wider():
    with figure.look("single"):
        looks = figure.styles(36)
    assert len({(str(look["linestyle"]), look["marker"]) for look in looks}) == 36
    assert [look["zorder"] for look in looks] == sorted(look["zorder"] for look in looks)
    widths = [look["linewidth"] for look in looks]
    assert widths == sorted(widths, reverse=True)


def test_labels_at_the_ends_do_not_meet_each_other(paths):
    # the lines of sync-sgd and of local SGD with period 1 are the same
    made = drawn(paths, x="steps", ys=["eval/loss"])
    labels = made.axes[0].texts
    assert len(labels) == 3 and not made.legends
    boxes = sorted((label.get_window_extent() for label in labels), key=lambda box: box.y0)
    assert all(below.y1 <= above.y0 + 0.5 for below, above in zip(boxes, boxes[1:]))
    assert all(made.bbox.x0 <= box.x0 and box.x1 <= made.bbox.x1 for box in boxes)


def over_key(*lines_at):
    """A panel of lines over these values of a key."""
    given = [Line(f"line {i}", 1, x, x, x, x) for i, x in enumerate(np.array(at, float) for at in lines_at)]
    return curves.Panel("loss", "tau", "loss", given, "x", True, (0.0, 70.0), "")


def test_marks_at_the_same_value_of_a_key_stand_beside_each_other_and_others_at_their_own():
    with figure.look(None):
        place, = lines.draw([over_key([1, 4, 64], [1, 4], [1])], None).axes
    first, second, third = (container.lines[0].get_xdata() for container in place.containers)
    assert first[0] < second[0] < third[0] and second[0] == pytest.approx(1)
    assert first[1] < 4 < second[1] and first[2] == pytest.approx(64)


def test_labels_of_a_key_do_not_meet_each_other():
    with figure.look("double"):
        made = lines.draw([over_key([5, 20, 22.1, 64])] * 3, "double")
        made.draw_without_rendering()
    boxes = [label.get_window_extent() for label in made.axes[0].get_xticklabels() if label.get_text()]
    assert [label.get_text() for label in made.axes[0].get_xticklabels()] == ["5", "20", "", "64"]
    assert all(left.x1 < right.x0 for left, right in zip(boxes, boxes[1:]))


def test_labels_of_a_logarithmic_axis_do_not_meet_each_other():
    x = np.geomspace(200, 7000, 50)
    given = curves.Panel("loss", "steps", "loss", [Line("a", 1, x, x, x, x)], "x", False, (0.0, 7000.0), "")
    with figure.look("double"):
        made = lines.draw([given] * 3, "double")
        made.draw_without_rendering()
    axis, (left, right) = made.axes[0].xaxis, made.axes[0].get_xlim()
    ticks = [*axis.get_major_ticks(), *axis.get_minor_ticks()]
    shown = [tick.label1 for tick in ticks if left <= tick.get_loc() <= right and tick.label1.get_text()]
    assert [label.get_text() for label in shown] == ["200", "500", "1000", "2000", "5000"]
    boxes = [label.get_window_extent() for label in shown]
    assert all(left.x1 < right.x0 for left, right in zip(boxes, boxes[1:]))


def test_a_target_is_a_dotted_line_and_told():
    given = over_key([1, 4])._replace(target=3.0)
    with figure.look(None):
        place, = lines.draw([given], None).axes
    level, = (line for line in place.lines if list(line.get_ydata()) == [3, 3])
    assert level.get_linestyle() == ":" and "target" in [text.get_text() for text in place.texts] and "dotted: the target" in given.caption


def test_places_move_as_little_as_they_need_to():
    assert lines.spread_out([0.0, 10.0, 5.0], 1.0) == [0.0, 10.0, 5.0]
    np.testing.assert_allclose(lines.spread_out([3.0, 3.0, 3.0], 2.0), [1.0, 3.0, 5.0])
    draw = np.random.default_rng(0)
    for _ in range(50):
        wanted = draw.uniform(0, 10, 7)
        found = np.array(lines.spread_out(wanted.tolist(), 1.0))
        order = np.argsort(wanted)
        assert (np.diff(found[order]) >= 1 - 1e-9).all() and found.mean() == pytest.approx(wanted.mean())


@pytest.mark.parametrize("suffix", [".pdf", ".svg", ".png", ".html"])
def test_a_figure_is_written_and_the_same_again(paths, tmp_path, suffix):
    output = tmp_path / f"figure{suffix}"
    status, said, _ = coopmpi("plot", *paths, "-o", output, "--paper")
    assert status == 0 and said.startswith(f"{output}: held-out loss over virtual time (s)") and "bands: least to most of 2 seeds" in said
    content = output.read_bytes()
    assert coopmpi("plot", *paths, "-o", output, "--paper")[0] == 0 and output.read_bytes() == content
    assert [path.name for path in tmp_path.iterdir()] == [output.name]
    begins = {".pdf": b"%PDF", ".svg": b"<?xml", ".png": b"\x89PNG", ".html": b"<!doctype html>"}
    assert content.startswith(begins[suffix])


def test_a_pdf_embeds_its_letters_and_a_page_needs_nothing_else(paths, tmp_path):
    for name in ("a.pdf", "a.html"):
        coopmpi("plot", *paths, "-o", tmp_path / name)
    assert b"/FontFile2" in (tmp_path / "a.pdf").read_bytes()  # not Type 3, which journals refuse
    page = (tmp_path / "a.html").read_text()
    assert not re.search(r"<(script|link|img|iframe)|src=|@import|url\((?!#)|<!DOCTYPE svg", page)
    assert all(target.startswith("#") for target in re.findall(r'href="([^"]*)"', page))
    assert page.count("<svg") == 1 and "<figcaption>held-out loss" in page


# terminals
@pytest.mark.parametrize("width", [60, 80, 120])
@pytest.mark.parametrize("options", [[], ["-x", "bytes", "-y", "train/loss"], ["-x", "period.tau", "-y", "accuracy"]])
def test_a_plot_fits_a_terminal_and_hides_no_line(paths, monkeypatch, width, options):
    monkeypatch.setenv("COLUMNS", str(width))
    status, out, _ = coopmpi("plot", *paths, *options)
    assert status == 0 and "\x1b" not in out
    assert max(map(cell_len, out.splitlines())) == width
    for plot in out.split("\n\n"):
        canvas = "".join(line for line in plot.splitlines() if line.rstrip().endswith(("│", "A", "B", "C")))
        # sync-sgd and local SGD with period 1 are the same
        letters = re.findall(r"^ (\w)  (?:sync|local)-sgd", plot, re.MULTILINE)
        assert sorted(letters) == (["A", "B"] if "period.tau" in options else ["A", "B", "C"])
        assert all(letter in canvas for letter in letters), plot


def test_the_list_below_tells_the_best_first(paths):
    loss, accuracy = coopmpi("plot", *paths)[1].split("\n\n")
    ends = [float(end) for end in re.findall(r"^ \w  .*?: (\S+) \(", loss, re.MULTILINE)]
    assert len(ends) == 3 and ends == sorted(ends)
    ends = [float(end) for end in re.findall(r"^ \w  .*?: (\S+) \(", accuracy, re.MULTILINE)]
    assert len(ends) == 3 and ends == sorted(ends, reverse=True)


def test_a_terminal_has_colours_unless_they_are_not_wanted(paths, monkeypatch):
    monkeypatch.setenv("COLUMNS", "70")
    monkeypatch.setenv("TERM", "xterm-256color")
    command = [*COOPMPI, "plot", *paths, "-y", "eval/loss"]
    status, shown = in_a_terminal(".", command, [])
    assert status == 0 and "\x1b[38;5;" in shown and "held-out loss" in shown
    assert not re.search(r"\x1b\[48;", shown)  # the terminal keeps its background
    monkeypatch.setenv("NO_COLOR", "1")
    status, shown = in_a_terminal(".", command, [])
    assert status == 0 and "\x1b" not in shown


# what is refused
@pytest.mark.parametrize("arguments, words", [
    (["sync-1.h5", "-y", "train/los"], ["'train/los'", "did you mean 'train/loss'"]),
    (["sync-1.h5", "-y", "loss"], ["may be any of train/loss, eval/loss"]), (["sync-1.h5", "-y", "top5"], ["'top5'", "eval/accuracy"]),
    (["sync-1.h5", "-x", "stpes"], ["'stpes'", "did you mean 'steps'", "bytes, epochs"]),
    (["sync-1.h5", "local-5-1.h5", "local-1-1.h5", "-x", "period.taus"], ["did you mean 'period.tau'"]),
    (["sync-1.h5", "-x", "task.data"], ["'task.data'"]), (["sync-1.h5", "train.h5"], ["their seconds cannot be compared"]),
    (["time.h5", "-y", "train/loss"], ["'train/loss'", "train/wait_time"]),
    (["sync-1.h5", "time.h5", "-y", "train/loss"], ["time.h5: unknown series -y 'train/loss'"]),
    (["sync-1.h5", "--log", "y", "-y", "train/wait_time", "-x", "nothing"], ["'nothing'"]),
    (["silent.h5", "--log", "y", "-y", "train/wait_time"], ["--log y", "no point above 0"]),
    (["nowhere.h5"], ["nowhere.h5", "does not exist"]), (["broken.h5"], ["broken.h5: not a readable HDF5 file"]),
    (["other.h5"], ["other.h5: not a result"]), (["cut.h5"], ["cut.h5: truncated"]), (["empty.h5"], ["empty.h5", "not a readable HDF5"]),
    (["begun.h5"], ["begun.h5: has nothing to draw of eval/loss yet"]), ([], ["give result files"]),
    (["-y", "train/loss"], ["give result files"]),
    (["sync-1.h5", "--smoth", "3"], ["No such option '--smoth'", "'--smooth'"]),
    (["sync-1.h5", "-o", "x.jpg"], ["'.jpg'", ".pdf"]), (["sync-1.h5", "-o", "figure"], ["unknown kind of figure ''"]),
    (["sync-1.h5", "-o", "no/x.pdf"], ["the folder 'no' does not exist"]), (["sync-1.h5", "-o", "folder.pdf"], ["is a folder"]),
    (["sync-1.h5", "--smooth", "0"], ["--smooth"]), (["sync-1.h5", "--steps", "1:3"], ["--steps belongs to --timeline"]),
    (["sync-1.h5", "-m", "3"], ["belong to --graph"])], ids=lambda value: " ".join(value) if isinstance(value, list) else None)
def test_what_cannot_be_drawn_is_refused_in_a_sentence(folder, monkeypatch, arguments, words):
    monkeypatch.chdir(folder)
    if not os.path.exists("folder.pdf"):
        os.mkdir("folder.pdf")
        made("silent.h5", algorithm={"kind": "sync-sgd"}, workers=1)
        with h5py.File("silent.h5", "a") as file:
            file["train/wait_time"][:] = 0
        start_file("begun.h5").close("interrupted")
        open("broken.h5", "wb").write(b"\x89HDF\r\n\x1a\n" + b"x" * 100)
        open("empty.h5", "wb").close()
        open("cut.h5", "wb").write(open("sync-1.h5", "rb").read()[:5000])
        with h5py.File("other.h5", "w") as file:
            file["x"] = [1]
    message = refused("plot", *arguments)
    assert all(word in message for word in words), message


def test_without_matplotlib_the_extra_is_named_and_the_terminal_goes_on(paths, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    assert "pip install 'coopmpi[plot]'" in refused("plot", *paths, "-o", tmp_path / "x.pdf")
    assert coopmpi("plot", *paths)[0] == 0


# size
MEASURED = """
import re, sys
from tests.in_process import coopmpi
assert coopmpi(*sys.argv[1:])[0] == 0
times, status = (open(f"/proc/self/{name}").read() for name in ("stat", "status"))
print(int(re.search(r"VmHWM:\\s+(\\d+)", status)[1]), (int(times.split()[13]) + int(times.split()[15])) / 100)
"""


def test_ten_thousand_steps_of_256_workers_take_seconds_and_little_memory(tmp_path):
    path, seconds = made_up(tmp_path / "large.h5", 10_000, 256), 0.0
    for arguments in (["compare", path], ["plot", path, "-y", "train/loss", "-o", tmp_path / "x.pdf"],
                      ["plot", "--timeline", path, "--steps", "1:", "-o", tmp_path / "x.png"]):
        done = subprocess.run([sys.executable, "-c", MEASURED, *map(str, arguments)], check=True, capture_output=True, text=True, timeout=100,
                              cwd=Path(__file__).parents[1])
        kilobytes, took = done.stdout.split()
        assert int(kilobytes) < 1e6
        seconds += float(took)  # of the processor, with children: the machine may be busy
    assert seconds < 30


# the page
def test_the_commands_of_the_page_work(tmp_path, monkeypatch):
    page = (Path(__file__).parents[1] / "docs" / "compare-and-plot.md").read_text()
    commands = re.findall(r"^(?:\$ )?coopmpi ((?:compare|plot) .*)$", page, re.MULTILINE)
    monkeypatch.chdir(tmp_path)
    for name, kind, tau in (("sync-1", "sync-sgd", 1), ("dpa-1", "dpa", 4), ("local-2-1", "local-sgd", 2), ("local-4-1", "local-sgd", 4)):
        made(f"{name}.h5", "simulate", algorithm={"kind": kind}, period={"tau": tau})
    assert len(commands) >= 7
    for command in commands:
        words = [found for word in shlex.split(command) for found in sorted(glob.glob(word)) or [word]]
        status, _, message = coopmpi(*words)
        assert status == 0, (command, message)
