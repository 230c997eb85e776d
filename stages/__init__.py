"""The stages, one file each: read params.yaml, call pipeline, write what DVC expects."""

from pipeline.system.machine import set_up_threads

set_up_threads()  # before a stage imports torch
