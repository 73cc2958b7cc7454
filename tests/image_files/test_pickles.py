"""Pickled data sets are read without the unpickler, and whatever else a pickle holds is refused."""

import contextlib
import pickle
import random
import time

import numpy as np
import pytest

from eproxy_jax.image_files import pickles
from eproxy_jax.image_files.pickles import PickleError, read_pickle

PIXELS = np.random.default_rng(0).integers(0, 256, (5, 48), dtype=np.uint8)


@pytest.mark.parametrize("protocol", range(6))
def test_every_protocol_of_todays_numpy(protocol):
    values = {
        b"data": PIXELS, "mirrored": PIXELS[:, ::-1], "columns": np.asfortranarray(PIXELS), "mean": PIXELS.mean(0),
        "labels": [0, 1, 300, 70000, 2**40], "array": np.arange(5), "scalars": [np.int64(3)], "pair": (1, None),
        "filenames": [b"a.png", b""], "text": "ö\n", "flags": [True, False], "share": 0.5, "few": (1, 2, 3, 4), "d": {},
    }  # fmt: skip
    found = read_pickle(pickle.dumps(values, protocol=protocol))
    assert found.keys() == {"data", *list(values)[1:]}
    for name, value in values.items():
        read = found[name if isinstance(name, str) else name.decode()]
        np.testing.assert_array_equal(read, value)
    assert found["data"].dtype == np.uint8


def python2(protocol):
    """What Python 2's cPickle writes of ``{'data': PIXELS, 'labels': [1, 2]}``: byte strings, NumPy's old home."""
    raw = PIXELS.tobytes()
    names = b"cnumpy.core.multiarray\n_reconstruct\n", b"cnumpy\nndarray\n", b"cnumpy\ndtype\n"
    if protocol == 0:
        # As repr of Python 2 writes bytes: what is no printable ASCII is escaped.
        text = "".join(chr(b) if 32 <= b < 127 and b not in (39, 92) else f"\\x{b:02x}" for b in raw).encode()
        return (
            b"(dp1\nS'data'\np2\n" + names[0] + b"p3\n(" + names[1] + b"p4\n(I0\ntS'b'\ntRp5\n(I1\n(I5\nI48\nt"
            + names[2] + b"p6\n(S'u1'\nI0\nI1\ntRp7\n(I3\nS'|'\nNNNI-1\nI-1\nI0\ntbI00\nS'" + text
            + b"'\ntbsS'labels'\n(lp8\nI1\naI2\nas."
        )  # fmt: skip
    size = len(raw).to_bytes(4, "little")
    return (
        b"\x80\x02}q\x01(U\x04dataq\x02" + names[0] + b"q\x03" + names[1] + b"q\x04K\x00\x85U\x01b\x87Rq\x05(K\x01"
        b"K\x05K0\x86" + names[2] + b"q\x06U\x02u1K\x00K\x01\x87Rq\x07(K\x03U\x01|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xff"
        b"K\x00tb\x89T" + size + raw + b"tbU\x06labels]q\x08(K\x01K\x02eu."
    )  # fmt: skip


@pytest.mark.parametrize("protocol", [0, 2])
def test_pickles_of_python_2(protocol):
    found = read_pickle(python2(protocol))
    np.testing.assert_array_equal(found["data"], PIXELS)
    assert found["labels"] == [1, 2]
    # The same bytes, as the unpickler reads them.
    np.testing.assert_array_equal(pickle.loads(python2(protocol), encoding="bytes")[b"data"], PIXELS)


class Evil:
    def __reduce__(self):
        import os

        return os.mkdir, ("pwned",)


def test_pickles_run_nothing(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for protocol in range(6):
        with pytest.raises(PickleError, match=r"asks for \w+.mkdir, which is not array data"):
            read_pickle(pickle.dumps({b"data": Evil()}, protocol=protocol))
    assert not (tmp_path / "pwned").exists()


def with_state(old, new):
    content = pickle.dumps({"data": PIXELS}, protocol=2)
    assert old in content
    return content.replace(old, new)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "ends early"),
        (b"\x80\x02}q", "ends early"),
        (b"K\x01.", "a int, where a dictionary is expected"),
        (b"}K\x01K\x02s.", "keys are no names"),
        (b"}(X\x01\x00\x00\x00aK\x01u", "ends early"),
        (b"(i__main__\nThing\n.", "INST at byte 1 is no data"),
        (b"\xffxx", "an unknown instruction at byte 0"),
        (b"\x82\x01.", "EXT1 at byte 0 is no data"),
        (b"P1\n.", "PERSID at byte 0 is no data"),
        (b"\x97.", "NEXT_BUFFER at byte 0 is no data"),
        (b"h\x05.", "damaged at byte 2"),
        (b"T\xff\xff\xff\x7fab.", "ends early"),
        (b"\x8e\xff\xff\xff\xff\xff\xff\xff\x7fab.", "ends early"),
        (b"L" + b"9" * 5000 + b"L\n.", "more digits"),
        (b"\x8b\xff\xff\xff\x7f.", "more digits"),
        (b"N" * 2_100_000, "more than 2,000,000 instructions"),
        (pickle.dumps({"data": np.array([None, 1])}, protocol=2), "dtype 'O8'"),
        (pickle.dumps({"data": np.zeros(3, "S4")}, protocol=2), "dtype 'S4'"),
        (pickle.dumps({"data": np.zeros(3, [("a", "i4")])}, protocol=2), "dtype 'V4'"),
        (with_state(b"K\x05K0\x86", b"K\x06K0\x86"), r"shape \[6, 48\] with 240 bytes"),
        (with_state(b"K\x05K0\x86", b"K\x05N\x86"), "shape or content is no data"),
        (with_state(b"NNNJ", b"NK\x01NJ"), "state at byte"),
    ],
)
def test_what_is_no_data_is_refused(content, message):
    with pytest.raises(PickleError, match=message):
        read_pickle(content)


def test_no_file_takes_more_work_than_its_size():
    """One text is encoded again and again; lists hold themselves; tuples hold tuples."""
    text = b"X\x00\x00\x10\x00" + b"a" * 2**20
    start = b"c_codecs\nencode\nq\x01" + text + b"q\x02X\x06\x00\x00\x00latin1q\x03"
    again = start + b"h\x01h\x02h\x03\x86R" * 100_000 + b"."
    begin = time.process_time()
    with pytest.raises(PickleError, match="encodes more than it contains"):
        read_pickle(again)
    with pytest.raises(PickleError, match="a tuple"):
        read_pickle(b"K\x01" + b"q\x01h\x01\x86" * 100_000 + b".")
    with pytest.raises(PickleError, match="damaged"):  # names of modules that are no text are not put into words
        read_pickle(b"]q\x01" + b"q\x01h\x01h\x01\x86" * 1000 + b"h\x01\x93.")
    assert time.process_time() - begin < 3


def test_damage_is_one_kind_of_error():
    """Changed bytes, random bytes, and random instructions raise nothing else."""
    rng = random.Random(0)
    whole = pickle.dumps({"data": PIXELS, "labels": [1, 2]}, protocol=2)
    codes = [bytes([code]) for code in [*pickles._STEPS, 0x2E]]
    for number in range(4000):
        kind = number % 3
        if kind == 0:
            content = bytearray(whole)
            for _ in range(rng.randint(1, 5)):
                content[rng.randrange(len(content))] = rng.randrange(256)
        elif kind == 1:
            content = bytes(rng.randrange(256) for _ in range(rng.randrange(60)))
        else:
            numbers = [bytes(rng.choice([0, 1, 2, 65]) for _ in range(rng.randrange(3))) for _ in range(30)]
            content = b"".join(rng.choice(codes) + part for part in numbers)
        with contextlib.suppress(PickleError):
            read_pickle(bytes(content))
