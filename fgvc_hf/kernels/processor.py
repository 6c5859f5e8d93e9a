"""What the CPU of this machine multiplies fast, as torch and the system tell."""

import platform
from pathlib import Path

import torch


def has_matrix_tiles() -> bool:
    """Whether the CPU multiplies matrices of bfloat16 in tiles (AMX: Intel since Sapphire Rapids; virtual machines may hide it)."""
    return getattr(torch.cpu, "_is_amx_tile_supported", bool)()


def multiplies_bfloat16() -> bool:
    """Whether the CPU multiplies bfloat16 faster than float32, and torch has the library that does so (oneDNN, unless it is switched off).

    It does with AMX, with the AVX512-BF16 of AMD (since Zen 4), and with the BF16 extension of ARMv8.6. Intel's AVX512-BF16, without AMX, is no
    faster than float32. Other CPUs with AVX-512 compute in bfloat16 as well, by conversion, which is slower.
    """
    if not (torch.backends.mkldnn.enabled and torch.ops.mkldnn._is_mkldnn_bf16_supported()):
        return False
    if platform.machine().lower() not in ("x86_64", "amd64"):  # on ARM, torch asks for the instructions themselves
        return True
    return has_matrix_tiles() or (torch.cpu._is_avx512_bf16_supported() and cpu_vendor() == "AuthenticAMD")


def cpu_vendor() -> str:
    """The maker of an x86 CPU as it names itself, such as `"GenuineIntel"`; empty where the system does not tell."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:  # not Linux; Windows names the vendor last
        return platform.processor().rpartition(" ")[2]
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("vendor_id")), "")


__all__ = ["cpu_vendor", "has_matrix_tiles", "multiplies_bfloat16"]
