"""One process with a fake driver: loads the loader without torch, does what the arguments say, prints JSON.

    python scenario.py <loader library> <fake driver> <actions as JSON>

An action is ["devices"], ["routes", device], ["launch", device, kernel index, stream], ["current", device] or ["log"].
"""

from __future__ import annotations

import ctypes
import json
import sys

_BYTES = 4096


def main() -> None:
    loader, driver = ctypes.CDLL(sys.argv[1]), ctypes.CDLL(sys.argv[2])
    driver.fake_log.restype = ctypes.c_char_p
    loader.mbu_cuda_kernel_name.restype = ctypes.c_char_p
    text = ctypes.create_string_buffer(_BYTES)

    def said() -> str:
        return text.value.decode()

    def devices() -> dict[str, object]:
        count = ctypes.c_int()
        version = loader.mbu_cuda_driver(ctypes.byref(count), text, _BYTES)
        return {"version": version, "devices": count.value, "why": said()}

    def routes(device: int) -> dict[str, tuple[bool, str]]:
        found = {}
        for i in range(loader.mbu_cuda_kernel_count()):
            usable = bool(loader.mbu_cuda_route(device, i, text, _BYTES))
            found[loader.mbu_cuda_kernel_name(i).decode()] = (usable, said())
        return found

    def launch(device: int, kernel: int, stream: int) -> str:
        params = ctypes.create_string_buffer(_BYTES)
        loader.probe_launch(device, kernel, 3, 2, params, ctypes.c_void_p(stream), text, _BYTES)
        return said()

    def log() -> list[str]:
        lines = driver.fake_log().decode().splitlines()
        driver.fake_clear_log()
        return lines

    actions = {
        "devices": devices,
        "routes": routes,
        "launch": launch,
        "log": log,
        "current": driver.fake_set_current,
    }
    print(json.dumps([actions[name](*arguments) for name, *arguments in json.loads(sys.argv[3])]))


if __name__ == "__main__":
    main()
