"""Which image goes to which card, what the driver is asked, and what happens where it refuses."""

from __future__ import annotations

import pytest

from mbu_ops.cuda import cuda_kernels, serving_target

from .conftest import A100, H200, RTX_2080, RTX_3090, RTX_5090, Run

CAPABILITIES = (70, 75, 80, 86, 87, 89, 90, 100, 120)


def named(targets: tuple[str, ...]) -> list[str]:
    """kernels.inc leaves "sm_" out."""
    return [target if "_" in target else f"sm_{target}" for target in targets]


def fits(target: str, capability: int) -> bool:
    """CUDA's rule, written a second time."""
    number = int("".join(filter(str.isdigit, target)))
    if target.startswith("compute_"):
        return number <= capability
    if target.endswith("a"):
        return number == capability
    return number // 10 == capability // 10 and number <= capability


@pytest.mark.parametrize("capability", CAPABILITIES)
def test_a_kernel_is_served_only_where_a_target_of_it_runs(capability: int) -> None:
    for kernel in cuda_kernels():
        allowed = [target for target in named(kernel.targets) if fits(target, capability)]
        served = serving_target(kernel, capability)
        assert (served is None) == (not allowed)
        if served is not None:
            assert served in allowed
            # Machine code where there is some.
            assert served.startswith("sm_") or all(target.startswith("compute_") for target in allowed)


@pytest.mark.parametrize("card", [RTX_2080, A100, RTX_3090, H200, RTX_5090])
def test_the_driver_accepts_what_the_loader_chose(run: Run, card: str) -> None:
    """The fake driver reads the capability from the machine code itself, and refuses what does not fit."""
    capability = int(card.split(":")[0].replace(".", ""))
    routes, log = run(card, ["routes", 0], ["log"])
    for kernel in cuda_kernels():
        usable, text = routes[kernel.name]
        target = serving_target(kernel, capability)
        if target is None:
            assert not usable
            assert f"not for compute capability {capability // 10}.{capability % 10}" in text
        elif kernel.shared_bytes > int(card.split(":")[1]):
            assert not usable
            assert "bytes of shared memory" in text
        else:
            assert usable
            assert text == ("PTX " if target.startswith("compute") else "cubin ") + target
    # Nothing was tried and refused on the way, and every push has its pop.
    assert "refused" not in log
    assert sum(line.startswith("push") for line in log) == sum(line.startswith("pop") for line in log)


def test_a_launch_on_the_second_card_leaves_the_first_current(run: Run) -> None:
    i, kernel = first_for(86)
    actions = ["routes", 1], ["current", 0], ["log"], ["launch", 1, i, 0x5150], ["log"]
    *_, launched, calls = run(f"{A100};{RTX_3090}", *actions)
    assert launched == ""
    assert calls[0] == "push 1"
    assert calls[1].startswith(f"launch {kernel} on 1 stream 0x5150 grid 3x2x1 threads ")
    assert calls[2] == "pop 1"


def test_no_context_is_pushed_where_the_device_is_current(run: Run) -> None:
    i, _ = first_for(86)
    *_, log = run(RTX_3090, ["routes", 0], ["current", 0], ["log"], ["launch", 0, i, 0], ["log"])
    assert [line.split()[0] for line in log] == ["launch"]


def test_a_kernel_for_another_architecture_cannot_be_launched(run: Run) -> None:
    others = [i for i, kernel in enumerate(cuda_kernels()) if serving_target(kernel, 70) is None]
    assert others
    for i in others:
        launched, log = run("7.0:98304", ["launch", 0, i, 0], ["log"])
        assert (
            f"{cuda_kernels()[i].name} cannot run on CUDA device 0: not for compute capability 7.0"
            in launched
        )
        assert not [line for line in log if line.startswith("launch")]


def test_loading_while_a_graph_is_captured_is_allowed(run: Run) -> None:
    i, _ = first_for(86)
    (launched,) = run(RTX_3090, ["launch", 0, i, 0], FAKE_CAPTURE="1")
    assert launched == ""


def test_an_old_driver_is_reported_with_every_step(run: Run) -> None:
    """Neither machine code nor PTX of this toolkit, and no NVRTC to compile for that driver."""
    _, kernel = first_for(86)
    (routes,) = run(
        RTX_3090, ["routes", 0], FAKE_REFUSE="cubin=300,ptx=222", MBU_NVRTC="/nowhere/libnvrtc.so"
    )
    usable, text = routes[kernel]
    assert not usable
    assert "cuModuleLoadDataEx: CUDA_ERROR_INVALID_SOURCE" in text
    assert "refused by this driver" in text
    assert "NVRTC was not found" in text


def test_a_missing_driver_and_a_driver_without_a_card(run: Run) -> None:
    (found,) = run("", ["devices"], MBU_CUDA_DRIVER="/nowhere/libcuda.so")
    assert found["version"] == 0
    assert "the NVIDIA driver could not be opened (/nowhere/libcuda.so" in found["why"]
    (found,) = run("", ["devices"], FAKE_INIT="100")
    assert found["why"] == "cuInit: CUDA_ERROR_NO_DEVICE (no CUDA-capable device is detected)"
    found, routes = run("", ["devices"], ["routes", 0])
    assert (found["version"], found["devices"]) == (13000, 0)
    assert all(not usable and "CUDA_ERROR_INVALID_DEVICE" in text for usable, text in routes.values())


def first_for(capability: int) -> tuple[int, str]:
    """Index and name of the first kernel that serves a capability."""
    return next(
        (i, kernel.name) for i, kernel in enumerate(cuda_kernels()) if serving_target(kernel, capability)
    )
