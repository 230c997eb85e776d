"""The stages, one file each: read params.yaml, call pipeline, write what DVC expects."""

from pipeline.system.machine import bound_spinning

bound_spinning()  # before a stage imports torch
