"""Files of numbers that are not what they should be: one sentence each, whatever reads them."""

import os
import socket
import struct
import zipfile

import h5py
import numpy as np
import pytest

from tests.in_process import coopmpi, refused
from tests.runs import write_quadratic

M, D = 4, 3
GOOD = {"quadratic": {"a": np.ones(D), "b": np.ones((M, D)), "x0": np.ones(D)},
        "data": {"x": np.arange(40.0).reshape(20, 2), "y": np.arange(20) % 2},
        "mixing": {"w": np.full((M, M), 1 / M)},
        "trace": {"train/compute_time": np.ones((5, M))}}
READ = {  # arguments that read a file of each kind
    "quadratic": lambda path: ["train", "--dry-run", "--set=task.kind=quadratic", f"--set=task.path={path}"],
    "quadratic-outline": lambda path: ["simulate", "--time-only", "--dry-run", "--set=task.kind=quadratic",
                                       f"--set=task.path={path}"],
    "data": lambda path: ["train", "--dry-run", f"--set=task.data={path}"],
    "data-outline": lambda path: ["simulate", "--time-only", "--dry-run", f"--set=task.data={path}"],
    "data-regress": lambda path: ["train", "--dry-run", "--set=task.kind=regress", f"--set=task.data={path}"],
    "mixing": lambda path: ["graph", path],
    "trace": lambda path: ["simulate", "--dry-run", "--set=compute.kind=trace", f"--set=compute.file={path}"],
}
WHAT = {name: name.partition("-")[0] for name in READ}
FIRST = {"quadratic": "b", "data": "x", "mixing": "w", "trace": "train/compute_time"}


def group_instead(file, name):
    file.create_group(name)


def soft_loop(file, name):
    file[name] = h5py.SoftLink(f"/{name}")


def two_soft_links(file, name):
    file["elsewhere"], file[name] = h5py.SoftLink(f"/{name}"), h5py.SoftLink("/elsewhere")


def dangling(file, name):
    file[name] = h5py.SoftLink("/nowhere")


def hard_loop(file, name):
    file[name] = file["/"]


def external_link(file, name):
    file[name] = h5py.ExternalLink("whole.h5", "/x")


def link_to_external(file, name):
    file["far"] = h5py.ExternalLink("whole.h5", "/")
    file[name] = h5py.SoftLink("/far/x")


def external_pipe(file, name):
    os.mkfifo(f"{file.filename}.pipe")
    file[name] = h5py.ExternalLink(f"{file.filename}.pipe", "/x")


def external_storage(file, name):
    file.create_dataset(name, (M, M), "f8", external=[("/etc/passwd", 0, 8 * M * M)])


def virtual(file, name):
    layout = h5py.VirtualLayout((M, M), "f8")
    layout[:] = h5py.VirtualSource("whole.h5", "x", (M, M))
    file.create_virtual_dataset(name, layout)


def committed_type(file, name):
    file[name] = np.dtype("f8")


def of(values, **keys):
    def write(file, name):
        file.create_dataset(name, data=values, **keys)

    return write


def declared(shape, dtype="f8", **keys):
    def write(file, name):
        file.create_dataset(name, shape, dtype, **keys)

    return write


def nothing(file, name):
    pass


BAD = {
    "missing": nothing, "group": group_instead, "soft loop": soft_loop, "soft circle": two_soft_links,
    "dangling": dangling,
    "hard loop": hard_loop, "external": external_link, "link to external": link_to_external, "pipe": external_pipe,
    "storage": external_storage, "virtual": virtual, "type": committed_type, "scalar": of(3.0), "text": of("a text"),
    "texts": of(np.array([b"a", b"b"])), "strings": of(["a", "b"]), "null": of(h5py.Empty("f8")),
    "complex": of(np.ones((M, M)) + 1j), "compound": of(np.zeros((M, M), [("a", "f8"), ("b", "i4")])),
    "enum of text": of(np.zeros((M, M), h5py.enum_dtype({"a": 0})).astype("V8")),
    "references": declared((M,), h5py.ref_dtype), "ragged": of(np.array([np.ones(2), np.ones(3)], object),
                                                                   dtype=h5py.vlen_dtype("f8")),
    "opaque": of(np.zeros((M, M), "V16")), "empty": of(np.zeros((0, M))), "empty too": of(np.zeros((M, 0))),
    "nan": of(np.full((M, M), np.nan)), "inf": of(np.full((M, M), np.inf)), "five axes": of(np.ones((1, 2, 2, 2, 2))),
    "huge": declared((10**9, 10**6), chunks=(10, 10)), "huger": declared((2**40, 2**20), "i8", chunks=(1, 1)),
    "huge and whole": declared((10**7, 10**6)), "fixed texts": declared((M, M), "S8"),
    "arrays in elements": declared((M,), np.dtype(("f8", (2, 2)))),
}


@pytest.mark.parametrize("reader", READ)
@pytest.mark.parametrize("case", BAD)
def test_hdf5_that_holds_something_else(tmp_path, monkeypatch, reader, case):
    monkeypatch.chdir(tmp_path)
    kind = WHAT[reader]
    with h5py.File(tmp_path / "whole.h5", "w") as file:
        file["x"] = np.full((M, M), 1 / M)
    with h5py.File(tmp_path / "bad.h5", "w") as file:
        for name, values in GOOD[kind].items():
            if name != FIRST[kind]:
                file[name] = values
        BAD[case](file, FIRST[kind])
    if (case, kind) in (("nan", "quadratic"), ("inf", "quadratic"), ("nan", "data"),
                        ("inf", "data")) and "outline" in reader:
        return  # numbers are not read
    message = refused(*READ[reader]("bad.h5"))
    assert "bad.h5" in message
    if case in ("external", "link to external", "pipe", "storage", "virtual"):
        assert "another file" in message or "other files" in message


@pytest.mark.parametrize("reader", READ)
def test_links_within_a_file_are_followed(tmp_path, monkeypatch, reader):
    monkeypatch.chdir(tmp_path)
    kind = WHAT[reader]
    with h5py.File("good.h5", "w") as file:
        for number, (name, values) in enumerate(GOOD[kind].items()):
            file[f"inside/{number}"] = values
            file[name] = h5py.SoftLink(f"/inside/./{number}")
    status, _, message = coopmpi(*READ[reader]("good.h5"))
    assert status == 0, message


@pytest.mark.parametrize("noise", ["big", [1.0, 2.0], np.inf, np.nan, -1.0, 1j, h5py.Empty("f8"), np.zeros(0), b"1"])
def test_noise_that_is_no_number(tmp_path, noise):
    path = write_quadratic(tmp_path / "q.h5", M)
    with h5py.File(path, "a") as file:
        file.attrs["noise"] = noise
    assert "noise" in refused(*READ["quadratic"](path))


@pytest.mark.parametrize("change, words", [
    ({"a": np.ones(0), "b": np.ones((M, 0)), "x0": np.ones(0)}, "d >= 1"),
    ({"a": np.ones((D, 1))}, "(3, 1)"), ({"b": np.ones((M + 1, D))}, "(5, 3)"), ({"x0": np.ones(2)}, "(2,)"),
    ({"a": np.full(D, 1e300)}, "'a' holds NaN or Inf as float32"), ({"b": np.full((M, D), np.nan)}, "'b'"),
])
def test_quadratics_that_do_not_fit(tmp_path, change, words):
    with h5py.File(tmp_path / "q.h5", "w") as file:
        for name, values in (GOOD["quadratic"] | change).items():
            file[name] = values
    assert words in refused(*READ["quadratic"](tmp_path / "q.h5"))


@pytest.mark.parametrize("reader", READ)
def test_hdf5_cut_anywhere_or_with_a_bad_checksum(tmp_path, reader):
    kind = WHAT[reader]
    path = tmp_path / "bad.h5"
    with h5py.File(path, "w", libver="latest") as file:
        for name, values in GOOD[kind].items():
            file.create_dataset(name, data=values, chunks=values.shape, fletcher32=True)
    content = path.read_bytes()
    for length in (0, 1, 8, 40, 100, len(content) // 2, len(content) - 1):
        path.write_bytes(content[:length])
        refused(*READ[reader](path))
    name = FIRST[kind]
    needle = GOOD[kind][name].tobytes()
    at = content.rindex(needle) + len(needle) - 3
    path.write_bytes(content[:at] + bytes([content[at] ^ 16]) + content[at + 1:])
    if "outline" not in reader:
        assert "bad.h5" in refused(*READ[reader](path))


# files that are no files
@pytest.mark.parametrize("suffix", [".h5", ".npz", ".npy", ".txt", ".graphml", "-images-idx3-ubyte"])
@pytest.mark.parametrize("reader", ["quadratic", "data", "mixing", "trace"])
@pytest.mark.parametrize("kind", ["folder", "pipe", "socket", "device", "loop", "long", "gone"])
def test_what_is_no_regular_file_is_not_opened(tmp_path, monkeypatch, reader, suffix, kind):
    monkeypatch.chdir(tmp_path)
    path = f"bad{suffix}"
    if kind == "folder":
        os.mkdir(path)
    elif kind == "pipe":
        os.mkfifo(path)
    elif kind == "socket":
        server = socket.socket(socket.AF_UNIX)
        server.bind(path)
        server.close()
    elif kind == "device":
        os.symlink("/dev/zero", path)
    elif kind == "loop":
        os.symlink(path, path)
    elif kind == "long":
        path = "n" * 5000 + suffix
    refused(*READ[reader](path))


def test_a_pipe_among_the_files_of_a_folder(tmp_path):
    for name in ("data_batch_1.bin", "test_batch.bin"):
        os.mkfifo(tmp_path / name)
    assert "pipe" in refused(*READ["data"](tmp_path))
    for name in ("data_batch_1.bin", "test_batch.bin"):
        os.unlink(tmp_path / name)
        (tmp_path / name).write_bytes(b"")
    assert "found 0" in refused(*READ["data"](tmp_path))


# .npy and .npz
def npy(header, body=b"\0" * 64, version=b"\x01\x00"):
    text = header.encode() + b"\n"
    return b"\x93NUMPY" + version + struct.pack("<H" if version[0] == 1 else "<I", len(text)) + text + body


HEADER = "{{'descr': {}, 'fortran_order': False, 'shape': {}}}"
NPY = {
    "empty": b"", "magic alone": b"\x93NUMPY", "version 9": npy(HEADER.format("'<f8'", "(2,)"), version=b"\x09\x00"),
    "no dictionary": npy("1"), "code": npy("__import__('os').getpid()"), "brackets": npy("(" * 500),
    "negative": npy(HEADER.format("'<f8'", "(-1,)")), "huge": npy(HEADER.format("'<f8'", f"({10**15},)")),
    "beyond counting": npy(HEADER.format("'<f8'", f"({2**62}, {2**62})")), "floats": npy(HEADER.format("'<f8'",
                                                                                                       "(2.5,)")),
    "objects": npy(HEADER.format("'|O'", "(2,)")), "strange type": npy(HEADER.format("'<q99'", "(2,)")),
    "type of types": npy(HEADER.format("[('a', [('b', '<f8')])]", "(1,)")), "no type": npy(HEADER.format("[]", "(1,)")),
    "texts": npy(HEADER.format("'<U4'", "(2, 2)")), "complex": npy(HEADER.format("'<c16'", "(2, 2)")),
    "times": npy(HEADER.format("'<M8[s]'", "(2, 2)")), "cut": npy(HEADER.format("'<f8'", "(90, 90)")),
    "long header": npy("#" * 20000), "NUL": npy("\0" * 30), "scalar": npy(HEADER.format("'<f8'", "()")),
    "none": npy(HEADER.format("'<f8'", "(0,)")), "not a shape": npy(HEADER.format("'<f8'", "'ab'")),
    "subarray": npy(HEADER.format("('<f8', (2, 2))", "(2,)")),
}


@pytest.mark.parametrize("reader", ["mixing", "trace"])
@pytest.mark.parametrize("case", NPY)
def test_npy_that_cannot_be_read(tmp_path, reader, case):
    (tmp_path / "bad.npy").write_bytes(NPY[case])
    assert "bad.npy" in refused(*READ[reader](tmp_path / "bad.npy"))


@pytest.mark.parametrize("reader", ["data", "data-outline", "data-regress"])
@pytest.mark.parametrize("case", NPY)
def test_npz_whose_arrays_cannot_be_read(tmp_path, reader, case):
    with zipfile.ZipFile(tmp_path / "bad.npz", "w") as archive:
        archive.writestr("x.npy", NPY[case])
        archive.writestr("y.npy", NPY[case])
    assert "bad.npz" in refused(*READ[reader](tmp_path / "bad.npz"))


@pytest.mark.parametrize("reader", ["data", "data-outline", "data-regress"])
def test_npz_with_other_files_in_it(tmp_path, reader):
    with zipfile.ZipFile(tmp_path / "bad.npz", "w") as archive:
        archive.writestr("x", "text")
        archive.writestr("y.npy", "text")
    assert "bad.npz" in refused(*READ[reader](tmp_path / "bad.npz"))


# text
TEXTS = {
    "empty": b"", "comments": b"# nothing\n", "not UTF-8": b"1 2\n\xff\xfe 3\n", "NUL": b"1 2\n3\0 4\n",
    "words": b"one two\n",
    "complex": b"1+2j 3\n", "ragged": b"1 2\n3\n", "long number": b"9" * 5000 + b" 1\n",
    "one long line": b"1 " * 20000 + b"x\n",
    "nan": b"nan nan\n", "negative": b"-1 -2\n", "binary": bytes(range(256)), "bits": b"0x10 0x20\n",
    "huge": b"1e999 1\n",
    "control": b"\x1b[2J 1\n",
}


@pytest.mark.parametrize("reader", ["mixing", "trace"])
@pytest.mark.parametrize("case", TEXTS)
def test_texts_that_hold_something_else(tmp_path, reader, case):
    (tmp_path / "bad.txt").write_bytes(TEXTS[case])
    message = refused(*READ[reader](tmp_path / "bad.txt"))
    assert "bad.txt" in message and "\x1b" not in message


GRAPHML = {
    "empty": b"", "text": b"hello", "cut": b"<graphml><graph>", "no graph": b"<graphml/>", "other": b"<svg/>",
    "NUL": b"<graphml>\0</graphml>", "bomb": b'<!DOCTYPE g [<!ENTITY a "aaaaaaaaaa">'
    + b"".join(b'<!ENTITY b%d "%s">' % (i, (b"&b%d;" % (i - 1) if i else b"&a;") * 10) for i in range(9))
    + b"]><graphml><graph edgedefault='undirected'><node id='&b8;'/></graph></graphml>",
    "deep": b"<g>" * 100000, "no nodes": b'<graphml xmlns="http://graphml.graphdrawing.org/xmlns"><graph edgedefault="directed"/>'
    b"</graphml>", "no ends": b'<graphml xmlns="http://graphml.graphdrawing.org/xmlns"><graph edgedefault="directed">'
    b'<node id="0"/><edge/></graph></graphml>', "not UTF-8": b"<graphml>\xff</graphml>",
}


@pytest.mark.parametrize("case", GRAPHML)
def test_graphml_that_cannot_be_read(tmp_path, case):
    (tmp_path / "bad.graphml").write_bytes(GRAPHML[case])
    assert "bad.graphml" in refused("graph", tmp_path / "bad.graphml")


@pytest.mark.parametrize("axes", [0, 5, 65, 255])
def test_idx_with_too_many_axes(tmp_path, axes):
    for name in ("train-images-idx3-ubyte", "train-labels-idx1-ubyte"):
        (tmp_path / name).write_bytes(bytes([0, 0, 8, axes]) + struct.pack(">I", 1) * axes + b"\0")
    assert "number of axes" in refused(*READ["data"](tmp_path / "train-images-idx3-ubyte"))
