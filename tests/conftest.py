"""Shapes and types are checked while testing: before anything of these packages is imported."""

from jaxtyping import install_import_hook

install_import_hook(
    [
        "models",
        "pipeline.metrics",
        "pipeline.training",
        "pipeline.data.store.codecs",
        "pipeline.data.store.reader",
        "pipeline.data.store.shard_reader",
        "pipeline.data.windows",
    ],
    "beartype.beartype",
)
