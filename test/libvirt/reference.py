#!/usr/bin/python3
"""The reference for a binding of libvirt: calls libvirt-python as told and says what came of it.

Reads a JSON object a line, answers with one a line:
  {"object": "libvirt", "method": "open", "args": ["test:///default"], "as": "conn"}
  {"result": {"$object": "virConnect", "handle": "conn"}}
  {"object": "conn", "method": "lookupByName", "args": ["nobody"]}
  {"error": {"type": "libvirtError", "code": 42, ...}}
An object is "libvirt" (or "libvirt_qemu", "libvirt_lxc") or a handle. "as" keeps the result as a handle; a list of
objects as NAME.0, NAME.1, and so on. "id" comes back with the answer. {"drop": "conn"} forgets a handle. A method
that is an attribute is read; "named" has arguments by name. What JSON has not is written {"$handle": name},
{"$constant": "VIR_..."}, {"$tuple": [...]}, {"$bytes": hex} and {"$int": digits} in arguments, and as the last two
and {"$float": text} in results.
"""
import importlib
import json
import math
import sys

import libvirt

MODULES = ("libvirt", "libvirt_qemu", "libvirt_lxc")
SAFE = 2**53 - 1

handles = {}


def resolve(name):
    if name in handles:
        return handles[name]
    if name in MODULES:
        return importlib.import_module(name)
    raise KeyError(f"no handle {name!r}")


def decode(value):
    if isinstance(value, list):
        return [decode(item) for item in value]
    if not isinstance(value, dict):
        return value
    if len(value) == 1:
        ((key, text),) = value.items()
        if key == "$handle":
            return resolve(text)
        if key == "$constant":
            return getattr(libvirt, text)
        if key == "$bytes":
            return bytes.fromhex(text)
        if key == "$int":
            return int(text)
        if key == "$tuple":
            return tuple(decode(item) for item in text)
    return {key: decode(item) for key, item in value.items()}


def encode(value, name):
    if value is None or isinstance(value, (bool, str)):
        return value
    if isinstance(value, int):
        return value if abs(value) <= SAFE else {"$int": str(value)}
    if isinstance(value, float):
        return value if math.isfinite(value) else {"$float": str(value)}
    if isinstance(value, (bytes, bytearray)):
        return {"$bytes": value.hex()}
    if isinstance(value, (list, tuple)):
        return [encode(item, name and f"{name}.{i}") for i, item in enumerate(value)]
    if isinstance(value, (set, frozenset)):
        return sorted(encode(item, None) for item in value)
    if isinstance(value, dict):
        return {str(key): encode(item, name and f"{name}.{key}") for key, item in value.items()}
    if name:
        handles[name] = value
    described = {"$object": type(value).__name__}
    return {**described, "handle": name} if name else described


def describe(error):
    told = {"type": type(error).__name__, "message": str(error)}
    if isinstance(error, libvirt.libvirtError) and error.err:
        keys = ("code", "domain", "message", "level", "str1", "str2", "str3", "int1", "int2")
        told.update(zip(keys, error.err))
    return told


def perform(request):
    if "drop" in request:
        del handles[request["drop"]]
        return None
    member = getattr(resolve(request["object"]), request["method"])
    if callable(member):
        member = member(*decode(request.get("args", [])), **decode(request.get("named", {})))
    elif "args" in request:
        raise TypeError(f"{request['method']} is not a method")
    return encode(member, request.get("as"))


def main():
    # Errors are answers here, not messages.
    libvirt.registerErrorHandler(lambda context, error: None, None)
    for line in sys.stdin:
        answer = {}
        try:
            request = json.loads(line)
            if "id" in request:
                answer["id"] = request["id"]
            answer["result"] = perform(request)
        except Exception as error:  # whatever a call throws is its result
            answer["error"] = describe(error)
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
