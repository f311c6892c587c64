"""What h11, a parser that shares no code with ours, reads in byte streams: JSON lists of hex in, of requests out."""

import json
import sys

import h11


def requests(stream):
    """The requests of a stream as [method, target, body], and why nothing more was read."""
    connection = h11.Connection(h11.SERVER)
    connection.receive_data(stream)
    connection.receive_data(b"")
    read, body, request = [], b"", None
    try:
        while True:
            event = connection.next_event()
            if isinstance(event, h11.Request):
                request, body = event, b""
            elif isinstance(event, h11.Data):
                body += bytes(event.data)
            elif isinstance(event, h11.EndOfMessage):
                read.append([request.method.decode("latin-1"), request.target.decode("latin-1"), body.hex()])
                # Anything but yes: a CONNECT or an upgrade that is agreed to ends the requests.
                connection.send(h11.Response(status_code=405, headers=[("content-length", "0")]))
                connection.send(h11.EndOfMessage())
                if connection.our_state is not h11.DONE or connection.their_state is not h11.DONE:
                    return read, "closed"
                connection.start_next_cycle()
            elif isinstance(event, h11.ConnectionClosed):
                return read, "ended"
            elif event is h11.PAUSED or event is h11.NEED_DATA:
                return read, "unfinished"
    except h11.RemoteProtocolError as error:
        return read, str(error)


json.dump([requests(bytes.fromhex(stream)) for stream in json.load(sys.stdin)], sys.stdout)
