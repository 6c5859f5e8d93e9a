"""The Triton kernels against the definitions in torch.

On a GPU they run there. Elsewhere Triton's interpreter takes them, which has to be chosen before Triton is imported: one test runs this file
again in a process where it is.
"""

import os
import subprocess
import sys
from importlib.util import find_spec
from types import SimpleNamespace

import pytest
import torch

from fgvc_hf.kernels import dispatch
from fgvc_hf.matching.windows import TILE, window_topk
from fgvc_hf.training import window_losses
from fgvc_hf.training.objectives import cell_grid, gaussian_loss, reconstruction_loss
from fgvc_hf.training.window_losses import LOSSES_MEMORY, window_average, window_cross_entropy
from fgvc_hf.training.window_targets import DiracTarget, GaussianTarget, SoftTarget


DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
SHARED_MEMORY = {80: 163 * 2**10, 89: 99 * 2**10, 90: 227 * 2**10, 120: 99 * 2**10}  # bytes that a program may take
TYPES = {torch.float32: "*fp32", torch.bfloat16: "*bf16", torch.int64: "*i64"}

# The interpreter warns of queries off the map, whose results are dropped
pytestmark = pytest.mark.filterwarnings("ignore:.* encountered in:RuntimeWarning")
needs_triton = pytest.mark.skipif(find_spec("triton") is None, reason="Triton is not installed")
runs_kernels = pytest.mark.skipif(
    find_spec("triton") is None or not (INTERPRETED or DEVICE == "cuda"),
    reason="Triton is not installed, or test_kernels_in_the_interpreter runs this",
)
compiles_kernels = pytest.mark.skipif(
    find_spec("triton") is None or INTERPRETED, reason="Triton is not installed, or interprets"
)


def features(*shape: int, dtype: torch.dtype = torch.float32, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(DEVICE, dtype)


@pytest.mark.slow
@needs_triton
@pytest.mark.skipif(INTERPRETED or DEVICE == "cuda", reason="the kernels run in this process")
def test_kernels_in_the_interpreter():
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", __file__]
    environment = os.environ | {"TRITON_INTERPRET": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0 and "passed" in done.stdout, done.stdout + done.stderr


B, R, SCALE = 2, 2, 0.3
SIZES = pytest.mark.parametrize(
    "h, w, channels, dtype",
    [(9, 14, 48, torch.float32), (7, 18, 64, torch.bfloat16)],
)


def assert_same(loss, query: torch.Tensor, key: torch.Tensor) -> None:
    """`loss(query, key, backend)` and its gradients are the same by Triton and by torch."""
    results = []
    for backend in ("triton", "torch"):
        same = (
            f if backend == "triton" else f.float() for f in (query, key)
        )  # torch would round products of bfloat16
        inputs = [f.detach().requires_grad_() for f in same]
        found = loss(*inputs, backend)
        weights = features(*found.shape, seed=9)
        results.append((found.detach(), *torch.autograd.grad((found * weights).sum(), inputs)))
    tolerance = 1e-5 if query.dtype == torch.float32 else 1e-2
    for found, expected in zip(*results, strict=True):
        torch.testing.assert_close(found.float(), expected, rtol=0, atol=tolerance * expected.abs().max().item())


@runs_kernels
@SIZES
@pytest.mark.parametrize("outside", ["excluded", "zero"])
def test_average_and_its_gradients(h, w, channels, dtype, outside):
    query, key = features(2, B, h, w, channels, dtype=dtype)
    values = features(B, h, w, 3, seed=1)
    assert_same(lambda q, k, backend: window_average(q, k, values, R, SCALE, outside, backend), query, key)


@runs_kernels
@SIZES
@pytest.mark.parametrize("label", ["dirac", "gaussian", "soft"])
def test_cross_entropy_and_its_gradients(h, w, channels, dtype, label):
    query, key = features(2, B, h, w, channels, dtype=dtype)
    positions = cell_grid(query) + features(B, h, w, 2, seed=1).clamp(-R, R)
    valid = ((positions >= 0) & (positions <= positions.new_tensor([w - 1, h - 1]))).all(-1)
    warped, teacher = features(2, B, h, w, 20, dtype=dtype, seed=2)
    target = {
        "dirac": DiracTarget(positions),
        "gaussian": GaussianTarget(positions, 0.7),
        "soft": SoftTarget(warped, teacher, SCALE),
    }[label]

    def loss(query, key, backend):
        in_float32 = label == "soft" and backend == "torch"
        like = SoftTarget(warped.float(), teacher.float(), SCALE) if in_float32 else target
        return window_cross_entropy(query, key, valid, like, R, SCALE, backend)

    assert_same(loss, query, key)


@runs_kernels
def test_losses_of_training_reach_the_kernels(monkeypatch):
    from fgvc_hf.kernels import window_losses_triton

    query, key = features(2, B, 4, 6, 130)  # more channels than one program sums the gradient of
    positions, valid = cell_grid(query).expand(B, 4, 6, 2), torch.ones(B, 4, 6, dtype=torch.bool, device=DEVICE)
    colours = features(2, B, 1, 8, 12, seed=1)

    def losses(query, key, backend):
        monkeypatch.setenv("FGVC_KERNELS", backend)
        label = gaussian_loss(query, key, positions, valid, R, 0.1, 0.7)
        return torch.stack([label, reconstruction_loss(query, key, *colours, R)])

    for name in ("fused_window_average", "fused_window_cross_entropy"):
        with monkeypatch.context() as patched:
            patched.setattr(window_losses_triton, name, lambda *_: pytest.fail("reached"))
            with pytest.raises(pytest.fail.Exception, match="reached"):
                losses(query, key, "triton")
    assert_same(losses, query, key)


@runs_kernels
def test_no_valid_query_is_a_loss_of_zero():
    query, key = (f.requires_grad_() for f in features(2, B, 4, 6, 16).unbind())
    target = DiracTarget(cell_grid(query).expand(B, 4, 6, 2))
    loss = window_cross_entropy(
        query, key, torch.zeros(B, 4, 6, device=DEVICE) > 0, target, R, SCALE, backend="triton"
    )
    assert loss.tolist() == [0, 0]
    assert all((gradient == 0).all() for gradient in torch.autograd.grad(loss.sum(), (query, key)))


@runs_kernels
def test_unknown_inputs_are_refused():
    query, key = features(2, 4, 6, 16).double()
    with pytest.raises(ValueError, match="backend=triton needs .*, got torch.float64"):
        window_topk(query, [key], 2, "disc", 3, backend="triton")
    with pytest.raises(ValueError, match="backend=triton needs .*, got torch.float64"):
        window_average(query[None], key[None], key[None], R, SCALE, backend="triton")
    valid = torch.ones(1, 4, 6, dtype=torch.bool, device=DEVICE)
    with pytest.raises(ValueError, match="dirac, gaussian and soft targets, got function"):
        window_cross_entropy(*features(2, 1, 4, 6, 16), valid, lambda *_: valid, R, SCALE, backend="triton")


def type_of(value) -> str:
    """An argument's type as Triton writes it."""
    return TYPES[value.dtype] if torch.is_tensor(value) else "i32" if isinstance(value, int) else "fp32"


class OnlyCompiled:
    """Stands in for a kernel, and compiles it, which needs no GPU, for what it is launched with, and GPUs of a compute capability."""

    def __init__(self, kernel, capability: int):
        self.kernel, self.capability, self.shared = kernel, capability, []

    def __getitem__(self, grid):
        return self.launch

    def launch(self, *arguments, num_warps, num_stages, **options):
        import triton
        from triton.backends.compiler import GPUTarget
        from triton.compiler import ASTSource

        values = dict(zip(self.kernel.arg_names, arguments, strict=False)) | options
        fixed = {p.name: values[p.name] for p in self.kernel.params if p.is_constexpr or values[p.name] is None}
        types = {name: type_of(value) for name, value in values.items() if name not in fixed}
        names = self.kernel.arg_names
        source = ASTSource(
            self.kernel,
            {name: types.get(name, "constexpr") for name in names},
            {(names.index(name),): value for name, value in fixed.items()},
            {(names.index(name),): [["tt.divisibility", 16]] for name in types if types[name].startswith("*")},
        )
        launch = {"num_warps": num_warps, "num_stages": num_stages}
        self.shared.append(
            triton.compile(source, target=GPUTarget("cuda", self.capability, 32), options=launch).metadata.shared
        )


@pytest.fixture
def compile_only(monkeypatch, tmp_path):
    """Replaces a module's kernel by one that is compiled instead of run."""
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))

    def replace(module, name: str, capability: int = 90) -> OnlyCompiled:
        kernel = OnlyCompiled(getattr(module, name), capability)
        monkeypatch.setattr(module, name, kernel)
        monkeypatch.setattr(module, "operand", torch.Tensor.contiguous)
        return kernel

    return replace


@pytest.mark.slow
@compiles_kernels
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("capability", list(SHARED_MEMORY))
def test_selection_fits_gpus_since_ampere(compile_only, dtype, capability):
    from fgvc_hf.kernels import topk_triton

    kernel = compile_only(topk_triton, "_topk_kernel", capability)
    for channels in (48, 256, 1024):
        query, key = features(2, 8, 16, channels, dtype=dtype)
        topk_triton.fused_topk(query, [key], 15, 14, True, 10, torch.zeros(1, dtype=torch.long), TILE)
    assert len(kernel.shared) == 3 and max(kernel.shared) <= SHARED_MEMORY[capability]


@pytest.mark.slow
@compiles_kernels
def test_losses_fit_an_h100(monkeypatch, compile_only):
    from fgvc_hf.kernels import window_losses_triton

    names = "_average_kernel", "_cross_entropy_kernel", "_gradient_kernel"
    kernels = [compile_only(window_losses_triton, name) for name in names]
    monkeypatch.setattr(window_losses, "backend_for", lambda *_: "triton")  # which refuses a CPU
    query, key, teacher = (f.requires_grad_() for f in features(3, 1, 8, 16, 256, dtype=torch.bfloat16).unbind())
    valid, teacher = torch.ones(1, 8, 16, dtype=torch.bool, device=DEVICE), teacher.detach()
    losses = [window_average(query, key, features(1, 8, 16, 1), 24, SCALE, backend="triton")]
    for target in (GaussianTarget(features(1, 8, 16, 2), 1.0), SoftTarget(teacher, teacher, SCALE)):
        losses.append(window_cross_entropy(query, key, valid, target, 24, SCALE, backend="triton"))
    for loss in losses:
        torch.autograd.grad(loss.sum(), (query, key))
    shared = [size for kernel in kernels for size in kernel.shared]
    assert len(shared) == 3 + 6 and max(shared) <= LOSSES_MEMORY


@pytest.mark.parametrize(
    "major, shared, hip, fits",
    [(9, 227, None, True), (8, 99, None, False), (7, 227, None, False), (9, 227, "6.4", False)],
)
def test_kernels_are_the_default_on_gpus_that_they_fit(monkeypatch, major, shared, hip, fits):
    properties = SimpleNamespace(major=major, shared_memory_per_block_optin=shared * 2**10)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: properties)
    monkeypatch.setattr(torch.version, "hip", hip)
    monkeypatch.setattr(dispatch, "find_spec", lambda name: name == "triton")
    triton_fits = dispatch.triton_fits.__wrapped__  # without its cache
    assert triton_fits(torch.device("cuda", 0), LOSSES_MEMORY) == fits
    assert triton_fits(torch.device("cuda", 0)) == (major >= 8 and hip is None)
    assert not triton_fits(torch.device("cpu"))
    monkeypatch.setattr(dispatch, "find_spec", lambda name: None)
    assert not triton_fits(torch.device("cuda", 0))


def test_what_triton_needs_is_said(monkeypatch):
    query, key = torch.zeros(2, 1, 4, 6, 16)
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    monkeypatch.setitem(sys.modules, "triton", None)  # importing it fails
    with pytest.raises(ValueError, match="needs Triton installed"):
        window_topk(query[0], [key[0]], 2, "disc", 3, backend="triton")
    with pytest.raises(ValueError, match="needs Triton installed"):
        window_average(query, key, key, R, SCALE, backend="triton")


@compiles_kernels
def test_losses_on_a_cpu_are_refused():
    query, key = torch.zeros(2, 1, 4, 6, 16)
    with pytest.raises(ValueError, match="features on a GPU, .*, got torch.float32 on cpu"):
        window_average(query, key, key, R, SCALE, backend="triton")
