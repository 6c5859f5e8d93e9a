"""Who made the CPU, as the system tells."""

import pytest

from fgvc_hf.kernels import processor


@pytest.mark.parametrize("text, vendor", [
    ("processor\t: 0\nvendor_id\t: AuthenticAMD\nmodel\t: 17\nvendor_id\t: Other\n", "AuthenticAMD"),
    ("vendor_id       : GenuineIntel\n", "GenuineIntel"),
    ("processor : 0\nBogoMIPS : 50.00\n", ""),  # ARM
])  # fmt: skip
def test_linux_names_the_vendor(text, vendor, tmp_path, monkeypatch):
    (tmp_path / "cpuinfo").write_text(text)
    monkeypatch.setattr(processor, "Path", lambda name: tmp_path / name.rpartition("/")[2])
    assert processor.cpu_vendor() == vendor


@pytest.mark.parametrize("name, vendor", [
    ("Intel64 Family 6 Model 143 Stepping 8, GenuineIntel", "GenuineIntel"),
    ("AMD64 Family 25 Model 97 Stepping 2, AuthenticAMD", "AuthenticAMD"),
    ("", ""),
])  # fmt: skip
def test_windows_names_the_vendor_last(name, vendor, tmp_path, monkeypatch):
    monkeypatch.setattr(processor, "Path", lambda name: tmp_path / "absent")
    monkeypatch.setattr("platform.processor", lambda: name)
    assert processor.cpu_vendor() == vendor
