"""A file of tensors that cannot be written is an error as of every other file."""

import resource

import pytest
import torch
from safetensors import SafetensorError

from fgvc_hf.io.files import atomic_write
from fgvc_hf.io.tensor_files import write_tensors


def test_a_full_disk_is_one_sentence_and_leaves_no_file(tmp_path):
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    with pytest.raises(OSError, match=r"a\.safetensors: cannot be written \(File too large\)\.$"):  # noqa: SIM117
        with atomic_write(tmp_path / "a.safetensors") as temporary:
            resource.setrlimit(resource.RLIMIT_FSIZE, (500, limits[1]))
            try:
                write_tensors(temporary, {"a": torch.zeros(1000)}, {"b": "c"})
            finally:
                resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert list(tmp_path.iterdir()) == []


def test_what_safetensors_says_without_a_number_of_an_error_is_told(tmp_path, monkeypatch):
    def save_file(*arguments, **keywords):
        raise SafetensorError("Error while serializing: broken header")

    monkeypatch.setattr("fgvc_hf.io.tensor_files.save_file", save_file)
    with pytest.raises(OSError, match=r"a: cannot be written \(Error while serializing: broken header\)\.$"):
        write_tensors(tmp_path / "a", {"a": torch.zeros(1)})
