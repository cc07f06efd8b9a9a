"""Hooks of schemathesis. Half of the valid requests name what exists, so that commands succeed too. No
request names a file outside of the folder of the test."""

import json
import os
import zlib

import schemathesis

FOLDER = os.environ["PEERKIT_FOLDER"]
# The values that exist, by the names of the arguments.
KNOWN = json.loads(os.environ["PEERKIT_KNOWN"])


def is_outside(value):
    """Whether a value has a path that is not below the folder."""
    if isinstance(value, dict):
        return any(map(is_outside, value.values()))
    if isinstance(value, list):
        return any(map(is_outside, value))
    if not isinstance(value, str):
        return False
    return any(word.startswith(("/", "~")) and not word.startswith(FOLDER) for word in value.split())


@schemathesis.hook
def filter_body(context, body):
    return not is_outside(body)


@schemathesis.hook
def before_call(context, case, kwargs):
    if case.meta is not None and case.meta.generation.mode.is_negative:
        return
    for part in case.path_parameters, case.query, case.body:
        if not isinstance(part, dict):
            continue
        # The same choice for the same request, so that a failure can be repeated.
        for name in sorted(part.keys() & KNOWN.keys()):
            if zlib.crc32(repr(part[name]).encode()) % 2:
                part[name] = KNOWN[name]
