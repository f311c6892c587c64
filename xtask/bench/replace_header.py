"""The addon with which mitmproxy does what is measured: the stand-in in the authorization header becomes the secret."""

from mitmproxy import ctx, http


def load(loader) -> None:
    loader.add_option("stand_in", str, "", "what clients send")
    loader.add_option("secret", str, "", "what the server gets")


def requestheaders(flow: http.HTTPFlow) -> None:
    value = flow.request.headers.get("authorization")
    if value is not None:
        flow.request.headers["authorization"] = value.replace(ctx.options.stand_in, ctx.options.secret)
