"""The proxy on the way to a server, as the environment names it."""

from contextlib import suppress
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

from yarl import URL

from ruo.errors import ArgumentError


def proxy_of(url: str) -> str | None:
    """The proxy that HTTP_PROXY, HTTPS_PROXY and NO_PROXY name for an address; ArgumentError for what is no HTTP proxy."""
    parts = urlsplit(url)
    proxy = None if proxy_bypass(parts.netloc) else getproxies().get(parts.scheme)
    if not proxy:
        return None
    proxy = proxy if "://" in proxy else f"http://{proxy}"
    with suppress(ValueError):
        if (parsed := URL(proxy)).scheme in ("http", "https") and parsed.host and parsed.port:
            return proxy
    # without its text, which may hold a password
    what = f"{parts.scheme.upper()}_PROXY is not the address of an HTTP proxy"
    raise ArgumentError(f"{what}; write it as http://host:port, or unset it.")
