"""Arrays in files: only the rows asked for are read, and damaged, encrypted and lying files are refused in one line."""

import io
import random
import struct
import tracemalloc
import zipfile

import numpy as np
import pytest

from eproxy_jax.image_files import arrays

IMAGES = np.random.default_rng(0).integers(0, 256, (40, 8, 8, 3), dtype=np.uint8)
ROWS = np.asarray([0, 3, 4, 39])


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("dtype", [np.uint8, np.float32, ">i2"])
def test_rows_of_archives(tmp_path, monkeypatch, packed, order, dtype):
    values = np.asarray(IMAGES.astype(dtype), order=order)
    (np.savez_compressed if packed else np.savez)(tmp_path / "x.npz", x=values, y=np.arange(40))
    np.save(tmp_path / "x.npy", values)
    np.testing.assert_array_equal(arrays.open_npy(tmp_path / "x.npy")[ROWS], values[ROWS])
    for block in (2**20, 100, 192):  # blocks that end within images, and at their ends
        monkeypatch.setattr(arrays, "_BLOCK", 2**20)
        archive = arrays.Archive(tmp_path / "x.npz")
        monkeypatch.setattr(arrays, "_BLOCK", block)
        monkeypatch.setattr(arrays._Bounded, "read", lambda self, size=-1: self._file.read(size))
        rows = archive.rows("x", ROWS)
        assert rows.dtype == values.dtype
        np.testing.assert_array_equal(rows, values[ROWS])
        np.testing.assert_array_equal(archive.whole("y"), np.arange(40))
        monkeypatch.undo()


def npy(shape, content=b"", dtype="|u1", version=(1, 0)):
    """An .npy file with the shape that its header claims."""
    header = f"{{'descr': {dtype!r}, 'fortran_order': False, 'shape': {shape}, }}".encode()
    size = struct.pack("<H" if version == (1, 0) else "<I", len(header))
    return b"\x93NUMPY" + bytes(version) + size + header + content


BAD_NPY = [
    (b"", "not a readable NumPy file"),
    (b"not numpy", "not a readable NumPy file"),
    (npy((40, 8, 8, 3), b"x"), "its header asks for 7,"),
    (npy((2**62, 2**62)), "its header asks for"),
    (npy((-1, 4)), "not a readable NumPy file"),
    (npy((True, 4)), "not a readable NumPy file"),
    (npy("(" * 3000), "not a readable NumPy file"),
    (npy("3"), "not a readable NumPy file"),
    (npy((1,), b"x", "|O"), "dtype object, where numbers are expected"),
    (npy((1,), b"x", "<U9"), "dtype <U9, where numbers"),
    (npy((1,), b"x" * 16, "<c16"), "dtype complex128, where numbers"),
    (npy((1,), b"x", "nonsense"), "not a readable NumPy file"),
    (b"\x93NUMPY\x02\x00\xff\xff\xff\x7f" + b" " * 50, "not a readable NumPy file"),
    (npy((1,), b"x", version=(2, 0)).replace(b"{", b"{" + b" " * 20_000), "not a readable NumPy file"),
    (npy((1,), b"x", version=(9, 0)), "not a readable NumPy file"),
]


@pytest.mark.parametrize(("content", "message"), BAD_NPY)
def test_bad_npy(tmp_path, content, message):
    (tmp_path / "x.npy").write_bytes(content)
    with pytest.raises(ValueError, match=message) as raised:
        arrays.open_npy(tmp_path / "x.npy")
    assert len(str(raised.value)) < 400


def archive_of(members, change=None, method=zipfile.ZIP_STORED):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", method) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    content = file.getvalue()
    return content if change is None else change(content)


def encrypted(content):
    """The flag of encryption in both headers of the first member."""
    for start, place in ((b"PK\3\4", 6), (b"PK\1\2", 8)):
        at = content.index(start) + place
        content = content[:at] + b"\x01\x00" + content[at + 2 :]
    return content


WHOLE = npy((40, 8, 8, 3), IMAGES.tobytes())
BAD_NPZ = [
    (b"PK not zip", "not a readable .npz file"),
    (b"", "not a readable .npz file"),
    (archive_of({"x.npy": b"not numpy"}), "not a readable .npz file"),
    (archive_of({"x.npy": WHOLE}, encrypted), "'x.npy' is encrypted"),
    (archive_of({"x.npy": WHOLE}, method=zipfile.ZIP_LZMA), "packed by method 14"),
    (archive_of({"x.npy": npy((41, 8, 8, 3), IMAGES.tobytes())}), "its header asks for another number"),
    (archive_of({"x.npy": npy((39, 8, 8, 3), IMAGES.tobytes())}), "its header asks for another number"),
    (archive_of({"x.npy": WHOLE}, lambda c: c[: len(c) // 2]), "not a readable .npz file"),
    (archive_of({f"{i}.npy": npy((1,), b"x") for i in range(1001)}), "1001 members"),
    (archive_of({"x" * 60_000 + f"{i}.npy": b"" for i in range(20)}), "directory of more members"),
    (archive_of({"x.npy": npy((2**27,), bytes(2**27))}, method=zipfile.ZIP_DEFLATED), "no images pack so well"),
]


@pytest.mark.parametrize(("content", "message"), BAD_NPZ, ids=range(len(BAD_NPZ)))
def test_bad_npz(tmp_path, content, message):
    (tmp_path / "x.npz").write_bytes(content)
    tracemalloc.start()
    with pytest.raises(ValueError, match=message) as raised:
        arrays.Archive(tmp_path / "x.npz")
    assert tracemalloc.get_traced_memory()[1] < 20e6
    tracemalloc.stop()
    assert len(str(raised.value)) < 400


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_damage_in_the_content_is_found(tmp_path, method):
    """Also where the rows that are asked for are whole."""
    content = bytearray(archive_of({"x.npy": npy((200, 8, 8, 3), 5 * IMAGES.tobytes())}, method=method))
    content[len(content) * 3 // 4] ^= 1
    (tmp_path / "x.npz").write_bytes(content)
    archive = arrays.Archive(tmp_path / "x.npz")
    with pytest.raises(ValueError, match="not a readable .npz file"):
        archive.rows("x", np.asarray([0]))


def test_other_members_are_named_and_left_alone(tmp_path):
    np.savez(tmp_path / "x.npz", x=IMAGES, names=np.array(["a", "b"]), objects=np.array([None]), wide=np.zeros(2, "c8"))
    with zipfile.ZipFile(tmp_path / "x.npz", "a") as archive:
        archive.writestr("readme.txt", "hello")
    archive = arrays.Archive(tmp_path / "x.npz")
    assert list(archive.headers) == ["x"]
    assert archive.others == ["names", "objects", "wide", "readme.txt"]


def test_changed_bytes_raise_nothing_else(tmp_path):
    rng = random.Random(0)
    for number in range(400):
        content = bytearray(WHOLE if number % 2 else archive_of({"x.npy": npy((2, 4, 4, 3), bytes(96))}))
        for _ in range(rng.randint(1, 4)):
            content[rng.randrange(min(len(content), 400))] = rng.randrange(256)
        path = tmp_path / ("x.npy" if number % 2 else "x.npz")
        path.write_bytes(content)
        try:
            if number % 2:
                arrays.open_npy(path)[:1].sum()
            else:
                archive = arrays.Archive(path)
                for name in archive.headers:
                    archive.whole(name)
        except ValueError:
            pass
