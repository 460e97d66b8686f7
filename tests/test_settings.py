"""Whatever the caller has set torch and NumPy to, our functions give the same bits and leave it as it was."""

from __future__ import annotations

import inspect
import random
import re
import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import xarray as xr
from tree_factory import make_tree

import spectral_toolkit as st
from spectral_toolkit._affinity.rows import affinity_row
from spectral_toolkit._analysis import trust
from spectral_toolkit._analysis.regions import hierarchy, recut
from spectral_toolkit._capture import estimate_bytes
from spectral_toolkit._compute.settings import computing, own_settings
from spectral_toolkit._compute.torch_state import PRECISIONS
from spectral_toolkit.errors import DeviceMemoryError, SpectralToolkitError
from spectral_toolkit.solvers.gradient import objective

# --- states a caller may have brought about --------------------------------------------------------------------------


@contextmanager
def setting(write: Callable[[Any], object], hostile: object, usual: object) -> Iterator[None]:
    write(hostile)
    try:
        yield
    finally:
        write(usual)


@contextmanager
def precision(backend: str, operation: str, value: str) -> Iterator[None]:
    before = torch._C._get_fp32_precision_getter(backend, operation)
    torch._C._set_fp32_precision_setter(backend, operation, value)
    try:
        yield
    finally:
        torch._C._set_fp32_precision_setter(backend, operation, before)


@contextmanager
def everything_at_once() -> Iterator[None]:
    with (
        torch.autocast("cpu", torch.bfloat16),
        torch.inference_mode(),
        torch.device("meta"),
        setting(torch.set_default_dtype, torch.float64, torch.float32),
        setting(torch.set_float32_matmul_precision, "medium", "highest"),
        setting(torch.set_flush_denormal, True, False),
        np.errstate(all="raise"),
    ):
        yield


HOSTILE: dict[str, Callable[[], Any]] = {
    "autocast": lambda: torch.autocast("cpu", torch.bfloat16),
    "no_grad": torch.no_grad,
    "inference_mode": torch.inference_mode,
    "default dtype float64": lambda: setting(torch.set_default_dtype, torch.float64, torch.float32),
    "default dtype bfloat16": lambda: setting(torch.set_default_dtype, torch.bfloat16, torch.float32),
    "default device meta": lambda: setting(torch.set_default_device, "meta", None),
    "deterministic": lambda: setting(torch.use_deterministic_algorithms, True, False),
    "threads": lambda: setting(torch.set_num_threads, 2, torch.get_num_threads()),
    "matmul precision": lambda: setting(torch.set_float32_matmul_precision, "medium", "highest"),
    "onednn precision": lambda: precision("mkldnn", "all", "bf16"),
    "denormals flushed": lambda: setting(torch.set_flush_denormal, True, False),
    "no oneDNN": lambda: torch.backends.mkldnn.flags(enabled=False),
    "no flash attention": lambda: setting(torch.backends.cuda.enable_flash_sdp, False, True),
    "NumPy raises": lambda: np.errstate(all="raise"),
    "another seed": lambda: setting(seed_all, 1234, 0),
    "everything": everything_at_once,
}


def seed_all(seed: int) -> None:
    torch.manual_seed(seed)
    np.random.seed(seed)
    random.seed(seed)


def state() -> dict[str, Any]:
    """Everything of the caller's that could be changed."""
    generator: Any = np.random.get_state()
    return {
        "autocast": [torch.is_autocast_enabled(kind) for kind in ("cpu", "cuda", "mps")],
        "gradients": (torch.is_grad_enabled(), torch.is_inference_mode_enabled()),
        "default": (torch.get_default_dtype(), torch.empty(0).device.type),
        "deterministic": (
            torch.are_deterministic_algorithms_enabled(),
            torch.is_deterministic_algorithms_warn_only_enabled(),
        ),
        "threads": torch.get_num_threads(),
        "precisions": [torch._C._get_fp32_precision_getter(*place) for place in PRECISIONS],
        "tf32 of convolutions": torch.backends.cudnn.allow_tf32,
        "cudnn": (torch.backends.cudnn.benchmark, torch.backends.cudnn.deterministic),
        "oneDNN": (torch.backends.mkldnn.enabled, torch.backends.mkldnn.deterministic),
        "attention": (torch.backends.cuda.flash_sdp_enabled(), torch.backends.mha.get_fastpath_enabled()),
        "denormals": sys.float_info.min / 2 > 0,
        "NumPy": np.geterr(),
        "random": (
            torch.default_generator.get_state().numpy().tobytes(),
            generator[1].tobytes(),
            generator[2:],
        ),  # Python's own is drawn from by beartype, which checks types during tests
    }


# --- what is called in them ------------------------------------------------------------------------------------------


class Givens:
    """Inputs of all calls, made once, under the settings that torch starts with."""

    def __init__(self) -> None:
        from transformers import ViTConfig, ViTModel

        config = ViTConfig(
            hidden_size=16,
            num_hidden_layers=2,
            num_attention_heads=2,
            intermediate_size=16,
            image_size=32,
            patch_size=8,
        )
        seed_all(0)
        self.vit = ViTModel(config)
        self.pictures = st.scenes.sample(3, seed=0, size=32)
        self.acts = st.capture(self.vit, self.pictures, progress=False)
        self.tree = make_tree([(4, 6), (3, 3)], images=3, special=1, bias=True, dtype="float32")
        self.labels = np.random.default_rng(0).integers(0, 3, (3, 32, 32))
        self.graph = st.affinity(self.tree, "vv", device="cpu")
        self.eig = st.solve(self.graph, 3)
        self.segments = st.segment(self.eig, 3, method="cuts", graph=self.graph)
        fitted = make_tree([(4, 6), (3, 3)], images=2, special=1, bias=True, dtype="float32", seed=1)
        graph = st.affinity(fitted, "vv", scope="dataset", within=5, across=5, device="cpu")
        self.fitted = st.solve(graph, 2), graph
        denoiser: Any = st.load_model("scenes-diffusion")
        self.denoiser = denoiser.at(n_timesteps=1)
        self.picture = np.random.default_rng(1).integers(0, 255, (3, 32, 48, 3)).astype(np.uint8)


@pytest.fixture(scope="module")
def givens() -> Givens:
    return Givens()


def solved(tree: xr.DataTree, *args: Any, n: int = 3, method: str = "exact", options: Any = None, **settings: Any):
    graph = st.affinity(tree, *args, device="cpu", **settings)
    return st.solve(graph, n, method=method, **(options or {}))


def drawn(figure: Any) -> Any:
    return [element.dimension_values(2) for element in figure.traverse(lambda x: x, ["Image"])]


BRIEF = {"steps": 4}
CALLS: dict[str, Callable[[Givens], Any]] = {
    "capture": lambda g: st.capture(g.vit, g.pictures, quantities=("query", "key", "value", "token"), progress=False),
    "capture scenes": lambda g: st.capture("scenes", g.pictures, layers=[-1], size=32, progress=False),
    "capture scenes-diffusion": lambda g: st.capture(g.denoiser, g.pictures, layers=[-1], progress=False),
    "estimate_memory": lambda g: st.estimate_memory(g.vit, g.pictures).forward,
    "estimate_bytes": lambda g: estimate_bytes(g.vit, g.pictures),
    "solve softmax": lambda g: solved(g.tree),
    "solve cosine": lambda g: solved(g.tree, "vv"),
    "solve rbf": lambda g: solved(g.tree, "kk", kernel="rbf"),
    "solve walk": lambda g: solved(g.tree, "vv", steps=3),
    "solve iterated": lambda g: solved(make_tree([(24, 21)], dtype="float32"), "vv", kernel="shifted_cosine", n=2),
    "solve by the gradient": lambda g: solved(g.tree, "vv", method="gradient", n=2, options=BRIEF),
    "solve dataset knn": lambda g: solved(g.tree, "vv", scope="dataset", within=5, across=5),
    "solve dataset shifted": lambda g: solved(g.tree, "vv", scope="dataset", kernel="shifted_cosine"),
    "solve dataset by the gradient": lambda g: solved(
        g.tree, "vv", scope="dataset", method="gradient", n=2, options={"epochs": 1, "n_features": 4}
    ),
    "objective": lambda g: objective(
        [torch.full((1, 4, 4), 0.25, device="cpu", dtype=torch.float32)],
        torch.arange(8, device="cpu", dtype=torch.float32).reshape(1, 2, 2, 2),
    ),
    "to_dense": lambda g: st.affinity(g.tree, "vv", device="cpu").to_dense(1),
    "reweight": lambda g: st.solve(g.graph.reweight([0.5, 2]), 2),
    "affinity_row": lambda g: affinity_row(g.graph, (1, 2)),
    "project": lambda g: st.project(g.tree, *g.fitted, device="cpu"),
    "align": lambda g: st.align(g.eig, g.eig.isel(component=[1, 0, 2])),
    "subspace_distance": lambda g: st.subspace_distance(g.eig, g.eig.isel(component=[0, 1])),
    "layer_distances": lambda g: st.layer_distances(g.graph, g.graph.reweight([2, 1]), 2),
    "segment kmeans": lambda g: st.segment(g.eig, 3),
    "segment cuts": lambda g: st.segment(g.eig, 3, method="cuts", graph=g.graph),
    "hierarchy": lambda g: hierarchy(g.segments),
    "recut": lambda g: recut(g.segments, 0.3),
    "cut_costs": lambda g: st.cut_costs(g.eig, g.graph, 1),
    "instances": lambda g: st.instances(g.eig),
    "refine": lambda g: st.refine(g.segments, g.picture),
    "prepare_labels": lambda g: st.prepare_labels(g.acts, g.labels),
    "pathways": lambda g: st.pathways(
        g.acts, g.labels, kinds="vv", n_eigenvectors=2, n_bootstrap=5, model=g.vit, progress=False, device="cpu"
    ),
    "evaluate": lambda g: st.evaluate(g.segments, np.zeros((3, 4, 6), int) + np.arange(6) % 2),
    "trust_statements": lambda g: [str(s) for s in trust.trust_statements(g.eig.isel(image=0))],
    "outlying_masks": lambda g: trust.outlying_masks(g.tree),
    "generate": lambda g: st.scenes.generate(n=1, steps=2),
    "sample": lambda g: st.scenes.sample(1, seed=3, size=32),
    "frozen": lambda g: re.sub(
        "seconds</th><td>[0-9.e-]+",
        "",
        st.freeze(
            g.acts.isel(image=slice(1)), kinds=["vv"], presets=["all"], n_eigenvectors=2, n_segments=2, device="cpu"
        ).html,
    ),
    "overlay": lambda g: drawn(
        st.overlay(g.acts.isel(image=[0]), st.solve(st.affinity(g.acts.isel(image=[0]), "vv", device="cpu"), 2))
    ),
}


def bits(value: Any) -> Any:
    """A value with every number in it as bytes; times of computing are left out."""
    if isinstance(value, torch.Tensor):
        return bits(value.detach().numpy())
    if isinstance(value, np.ndarray):
        return (str(value.dtype), value.shape, value.tobytes() if value.dtype != object else str(value.tolist()))
    if isinstance(value, xr.DataTree):
        return {name: bits(node.to_dataset()) for name, node in value.subtree_with_keys}
    if isinstance(value, xr.DataArray):
        return bits(value.to_dataset(name="value"))
    if isinstance(value, xr.Dataset):
        attrs = {key: str(entry) for key, entry in value.attrs.items() if "seconds" not in key}
        return {str(name): bits(variable.values) for name, variable in value.variables.items()}, attrs
    if isinstance(value, dict):
        return {key: bits(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [bits(entry) for entry in value]
    return value


@pytest.fixture(scope="module")
def expected(givens: Givens) -> dict[str, Any]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        return {name: bits(call(givens)) for name, call in CALLS.items()}


@pytest.mark.parametrize("hostile", HOSTILE)
@pytest.mark.filterwarnings("ignore:In . of . images")  # random images have nothing in common to project onto
def test_same_bits_and_nothing_left_behind(hostile: str, givens: Givens, expected: dict[str, Any]) -> None:
    with HOSTILE[hostile]():
        before = state()
        for name, call in CALLS.items():
            assert bits(call(givens)) == expected[name], f"{name} under {hostile}"
            assert state() == before, f"{name} under {hostile}"


def test_nothing_is_left_behind_by_an_error(givens: Givens) -> None:
    with everything_at_once():
        before = state()
        for call in (
            lambda: st.solve(givens.graph, 10**6),
            lambda: st.affinity(givens.tree, "vw"),
            lambda: st.capture(givens.vit, "no-such-picture.png"),
            lambda: st.solve(givens.graph, 2, progress=interrupt),
        ):
            with pytest.raises((st.errors.SpectralToolkitError, KeyboardInterrupt)):
                call()
            assert state() == before


def interrupt(*_: object) -> None:
    raise KeyboardInterrupt


def test_gradients_pass_through_the_objective_and_nothing_else(givens: Givens) -> None:
    features = torch.arange(8.0).reshape(1, 2, 2, 2).requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        objective([torch.full((1, 4, 4), 0.25)], features).backward()
    assert features.grad is not None
    assert bool(features.grad.any())
    with torch.no_grad():
        assert not objective([torch.full((1, 4, 4), 0.25)], features).requires_grad


LEGACY = {
    "matmul high": lambda: torch.set_float32_matmul_precision("high"),
    "matmul medium": lambda: torch.set_float32_matmul_precision("medium"),
    "tf32 allowed": lambda: setattr(torch.backends.cuda.matmul, "allow_tf32", True),
    "generic": lambda: setattr(torch.backends, "fp32_precision", "tf32"),
    "CUDA, by the new switch": lambda: setattr(torch.backends.cuda.matmul, "fp32_precision", "tf32"),
    "oneDNN": lambda: torch._C._set_fp32_precision_setter("mkldnn", "matmul", "bf16"),
    "convolutions without": lambda: setattr(torch.backends.cudnn, "allow_tf32", False),
}


def precisions() -> dict[Any, Any]:
    """What every backend multiplies in, and what the older switches say, which may be nothing."""
    found: dict[Any, Any] = {place: torch._C._get_fp32_precision_getter(*place) for place in PRECISIONS}
    for name, read in (
        ("matmul", torch.get_float32_matmul_precision),
        ("tf32", lambda: torch.backends.cuda.matmul.allow_tf32),
        ("convolutions", lambda: torch.backends.cudnn.allow_tf32),
    ):
        try:
            found[name] = read()
        except RuntimeError:
            found[name] = "contradictory"
    return found


@pytest.mark.parametrize("switch", LEGACY)
def test_products_are_made_in_full_precision_whichever_switch_was_turned(switch: str) -> None:
    usual = precisions()
    try:
        LEGACY[switch]()
        before = precisions()
        with own_settings():
            inside = precisions()
            assert not {"tf32", "bf16", "high", "medium", True} & set(map(str, inside.values())), inside
            if "contradictory" not in before.values():
                assert "contradictory" not in inside.values()
        assert precisions() == before
    finally:
        torch.set_float32_matmul_precision("highest")
        torch.backends.cudnn.allow_tf32 = True
        for place in PRECISIONS:
            torch._C._set_fp32_precision_setter(*place, usual[place])
        assert precisions() == usual


def test_settings_of_the_process_are_held_while_any_thread_computes() -> None:
    """The last to leave puts back what the caller has set, also what was set in the meantime."""
    inside, leave = threading.Event(), threading.Event()
    seen = []

    @computing
    def long() -> None:
        inside.set()
        assert leave.wait(60)
        seen.append(torch.get_default_dtype())

    torch.set_default_dtype(torch.float64)
    try:
        worker = threading.Thread(target=long)
        worker.start()
        assert inside.wait(60)
        torch.set_default_dtype(torch.bfloat16)  # while the other computes
        with own_settings():
            assert torch.get_default_dtype() == torch.float32
        leave.set()
        worker.join()
        assert seen == [torch.float32]
        assert torch.get_default_dtype() == torch.bfloat16
    finally:
        leave.set()
        torch.set_default_dtype(torch.float32)


# --- that none is forgotten ------------------------------------------------------------------------------------------

REFERENCE = Path(__file__).parent.parent / "docs" / "reference" / "index.md"


def public_functions() -> dict[str, Callable[..., Any]]:
    """Every function that the package or its reference names, and the methods that the reference names."""
    found: dict[str, Any] = {f"spectral_toolkit.{name}": getattr(st, name) for name in st.__all__}
    for module in (st.scenes, st.solvers, st.studies):
        found |= {f"{module.__name__}.{name}": getattr(module, name) for name in module.__all__}
    for kind, name, members in re.findall(
        r"auto(function|class|module):: ([\w.]+)\n(?: *:members:([^\n]*)\n)?", REFERENCE.read_text()
    ):
        path = name if name.startswith("spectral_toolkit.") else f"spectral_toolkit.{name}"
        where, _, last = path.rpartition(".")
        holder = import_module(path) if kind == "module" else getattr(import_module(where), last)
        wanted = re.findall(r"\w+", members)
        if path == "spectral_toolkit._analysis.trust":
            wanted = [key for key, value in vars(trust).items() if getattr(value, "__module__", "") == path]
        found |= {path: holder, **{f"{path}.{one}": getattr(holder, one) for one in wanted if one[0] != "_"}}
    # Adding a row to a table, or taking one away, computes nothing.
    tables = ("register", "unregister")
    return {name: value for name, value in found.items() if inspect.isfunction(value) and not name.endswith(tables)}


@pytest.mark.parametrize("name", public_functions())
def test_every_public_function_computes_under_our_settings(name: str) -> None:
    function = public_functions()[name]
    assert vars(function).get("is_computing"), f"{name} is not decorated with settings.computing"
    assert not inspect.isgeneratorfunction(inspect.unwrap(function)), "a generator would run under the caller's"
    assert inspect.signature(function) == inspect.signature(inspect.unwrap(function))


def test_the_walk_finds_them() -> None:
    found = public_functions()
    assert {"spectral_toolkit.solve", "spectral_toolkit.solvers.gradient.objective"} <= set(found)
    assert {"spectral_toolkit.outlying_masks", "spectral_toolkit.hierarchy"} <= set(found)
    assert "spectral_toolkit._affinity.layer_graph.LayerGraph.to_dense" in found
    assert len(found) > 30


def test_nothing_draws_from_generators_that_are_the_callers() -> None:
    """Only `settings.drawing`, which puts them back, and the training scripts, which nobody calls."""
    shared = re.compile(
        r"torch\.(manual_seed|seed\()|random\.fork_rng|np\.random\.(seed|rand|normal|choice|shuffle|permutation)"
        r"|^import random|^from random|torch\.rand\w*\((?![^\n]*generator=)",
        re.MULTILINE,
    )
    package = Path(st.__file__).parent
    sources = {path.relative_to(package).as_posix(): path.read_text() for path in package.rglob("*.py")}
    found = {name for name, text in sources.items() if shared.search(text)} - TRAINING
    assert found == {"_compute/random_state.py", "solvers/gradient.py"}  # whose features are made inside `drawing`


TRAINING = {
    "training/shared.py",
    "training/scenes.py",
    "training/diffusion.py",
    "training/objectives.py",
    "scenes/flow.py",
}


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has 1.00 GiB free."),
        RuntimeError("MPS backend out of memory (MPS allocated: 8.00 GB, max allowed: 9.07 GB)."),
    ],
)
def test_a_full_device_is_told_with_ways_out(error: RuntimeError) -> None:
    @computing
    def greedy() -> None:
        raise error

    @computing
    def outer() -> None:
        greedy()

    with pytest.raises(DeviceMemoryError, match=r"greedy does not fit .*GiB|GB.* device='cpu'") as raised:
        outer()
    assert str(raised.value).count("does not fit") == 1


def test_other_errors_of_torch_stay_what_they_are() -> None:
    @computing
    def wrong() -> None:
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")

    with pytest.raises(RuntimeError, match="mat1") as raised:
        wrong()
    assert not isinstance(raised.value, SpectralToolkitError)
