"""Arrays in NPZ files."""

import numpy as np
import pytest

from fgvc_hf.io.array_files import read_npz, write_npz


@pytest.mark.parametrize("name", ["a.npz", "A.NPZ", "without suffix"])
def test_what_is_written_is_read_and_nothing_else_is_in_the_file(tmp_path, name):
    arrays = {"points": np.eye(3, dtype=np.float32), "seen": np.ones(2, bool), "name": np.array("ü")}
    write_npz(tmp_path / name, **arrays)
    assert [path.name for path in tmp_path.iterdir()] == [name]
    with np.load(tmp_path / name, allow_pickle=False) as file:
        assert set(file.files) == set(arrays)
    found = read_npz(tmp_path / name, tuple(arrays), "arrays")
    for key, array in arrays.items():
        np.testing.assert_array_equal(found[key], array)


def test_objects_are_refused_before_a_file_is_begun(tmp_path):
    with pytest.raises(ValueError, match=r"^names holds Python objects; numbers, bools and text can be written\.$"):
        write_npz(tmp_path / "a.npz", names=np.array([None, "a"], dtype=object))
    assert not list(tmp_path.iterdir())
