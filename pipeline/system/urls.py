"""URLs as people may see them."""

from urllib.parse import urlsplit


def without_secrets(text: str, uri: str) -> str:
    """A text that quotes a URI, without the name and password in it."""
    parts = urlsplit(uri)
    secret = parts.netloc.rpartition("@")[0]
    for part in (f"{secret}@" if secret else "", secret.partition(":")[2], parts.query):
        text = text.replace(part, "") if part else text
    return text
