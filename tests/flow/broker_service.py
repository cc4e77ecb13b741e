"""A service in this process, as its settings make it and as HTTP shows it."""

import asyncio
import urllib.error
import urllib.request

from common.runtime.settings import EdgeSettings, load


def settings(url, **more):
    return load(EdgeSettings, {"QIG_BROKER_URL": url, "QIG_HTTP_PORT": "0"} | more)


async def fetch(url):
    def get():
        try:
            with urllib.request.urlopen(url, timeout=5) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.read().decode()

    return await asyncio.to_thread(get)


async def ready(url):
    return (await fetch(url + "/readyz"))[0] == 200
