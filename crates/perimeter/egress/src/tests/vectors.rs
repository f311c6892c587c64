//! Byte streams that two HTTP parsers might read in two ways, each with what makes it so and what becomes of it. After
//! each stream comes a further request, `GET /sentinel`, so that what one parser takes for a body can be another's
//! request. `{A}` is the authority of the host.

/// One stream.
pub(super) struct Vector {
    /// What two parsers might differ about.
    pub(super) about: &'static str,
    /// As a client sends it.
    pub(super) bytes: &'static [u8],
    /// What reaches the upstream: method, path and body of each request.
    pub(super) arrives: &'static [&'static str],
    /// Why more arrives than two parsers read alike, where it does.
    pub(super) because: Option<&'static str>,
}

const fn vector(about: &'static str, bytes: &'static [u8], arrives: &'static [&'static str]) -> Vector {
    Vector { about, bytes, arrives, because: None }
}

impl Vector {
    const fn because(mut self, reason: &'static str) -> Self {
        self.because = Some(reason);
        self
    }
}

/// Nothing arrives, and nothing after it: the connection ends.
const ENDS: &[&str] = &[];
/// The request is refused by itself; where it ends is certain, so the next one is read.
const REFUSED: &[&str] = &["GET /sentinel"];

pub(super) const VECTORS: &[Vector] = &[
    // Lengths.
    vector("nothing: an ordinary request", b"POST /a HTTP/1.1\r\nhost: {A}\r\ncontent-length: 3\r\n\r\nabc", &["POST /a abc", "GET /sentinel"]),
    vector("a length twice, the same", b"POST /a HTTP/1.1\r\nhost: {A}\r\ncontent-length: 3\r\ncontent-length: 3\r\n\r\nabc", &["POST /a abc", "GET /sentinel"]),
    vector("a length twice, another", b"POST /a HTTP/1.1\r\nhost: {A}\r\ncontent-length: 3\r\ncontent-length: 0\r\n\r\nabc", ENDS),
    vector("a list of lengths, the same", b"POST /a HTTP/1.1\r\nhost: {A}\r\ncontent-length: 3, 3\r\n\r\nabc", ENDS),
    vector("a list of lengths, another", b"POST /a HTTP/1.1\r\nhost: {A}\r\ncontent-length: 3, 0\r\n\r\nabc", ENDS),
    vector("a length with a plus", b"POST /a HTTP/1.1\r\nhost: {A}\r\ncontent-length: +3\r\n\r\nabc", ENDS),
    vector("a negative length", b"POST /a HTTP/1.1\r\nhost: {A}\r\ncontent-length: -3\r\n\r\nabc", ENDS),
    vector("a hexadecimal length", b"POST /a HTTP/1.1\r\nhost: {A}\r\ncontent-length: 0x3\r\n\r\nabc", ENDS),
    vector("a length with zeros before it", b"POST /a HTTP/1.1\r\nhost: {A}\r\ncontent-length: 0003\r\n\r\nabc", &["POST /a abc", "GET /sentinel"]),
    vector("a length with an underscore", b"POST /a HTTP/1.1\r\nhost: {A}\r\ncontent-length: 1_0\r\n\r\nabcdefghij", ENDS),
    vector("a length with a fraction", b"POST /a HTTP/1.1\r\nhost: {A}\r\ncontent-length: 3.0\r\n\r\nabc", ENDS),
    vector("a length of another alphabet's digits", b"POST /a HTTP/1.1\r\nhost: {A}\r\ncontent-length: \xd9\xa3\r\n\r\nabc", ENDS),
    vector("a length beyond 64 bits", b"POST /a HTTP/1.1\r\nhost: {A}\r\ncontent-length: 18446744073709551619\r\n\r\nabc", ENDS),
    vector("an empty length", b"POST /a HTTP/1.1\r\nhost: {A}\r\ncontent-length:\r\n\r\nabc", ENDS),
    vector("a length in a list with nothing", b"POST /a HTTP/1.1\r\nhost: {A}\r\ncontent-length: 3,\r\n\r\nabc", ENDS),
    vector("a length with a space inside", b"POST /a HTTP/1.1\r\nhost: {A}\r\ncontent-length: 3 0\r\n\r\nabc", ENDS),
    vector("a length beyond the body", b"POST /a HTTP/1.1\r\nhost: {A}\r\ncontent-length: 900\r\n\r\nabc", ENDS),
    vector("a length below the body", b"POST /a HTTP/1.1\r\nhost: {A}\r\ncontent-length: 2\r\n\r\nabc", &["POST /a ab"]),
    vector("a length of a GET", b"GET /a HTTP/1.1\r\nhost: {A}\r\ncontent-length: 3\r\n\r\nabc", &["GET /a abc", "GET /sentinel"]),
    vector("a length with a name like it", b"POST /a HTTP/1.1\r\nhost: {A}\r\ncontent_length: 3\r\n\r\n", &["POST /a", "GET /sentinel"]),
    // Length beside chunks.
    vector("a length before chunks", b"POST /a HTTP/1.1\r\nhost: {A}\r\ncontent-length: 4\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n", &["POST /a abc"]),
    vector("a length after chunks", b"POST /a HTTP/1.1\r\nhost: {A}\r\ntransfer-encoding: chunked\r\ncontent-length: 4\r\n\r\n3\r\nabc\r\n0\r\n\r\n", &["POST /a abc"]),
    vector("no length by the one, chunks by the other", b"POST /a HTTP/1.1\r\nhost: {A}\r\ncontent-length: 0\r\ntransfer-encoding: chunked\r\n\r\n1d\r\nGET /smuggled HTTP/1.1\r\nx: yz\r\n0\r\n\r\n", ENDS),
    vector("a request inside the chunks", b"POST /a HTTP/1.1\r\nhost: {A}\r\ncontent-length: 6\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\nGET /smuggled HTTP/1.1\r\nx: ", &["POST /a"]),
    // Encodings of the transfer.
    vector("an encoding besides chunks", b"POST /a HTTP/1.1\r\nhost: {A}\r\ntransfer-encoding: gzip, chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n", ENDS),
    vector("chunks that are not last", b"POST /a HTTP/1.1\r\nhost: {A}\r\ntransfer-encoding: chunked, gzip\r\n\r\n3\r\nabc\r\n0\r\n\r\n", ENDS),
    vector("chunks twice in one header", b"POST /a HTTP/1.1\r\nhost: {A}\r\ntransfer-encoding: chunked, chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n", ENDS),
    vector("chunks in two headers", b"POST /a HTTP/1.1\r\nhost: {A}\r\ntransfer-encoding: chunked\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n", ENDS),
    vector("identity and chunks", b"POST /a HTTP/1.1\r\nhost: {A}\r\ntransfer-encoding: identity\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n", ENDS),
    vector("identity and a length", b"POST /a HTTP/1.1\r\nhost: {A}\r\ntransfer-encoding: identity\r\ncontent-length: 3\r\n\r\nabc", ENDS),
    vector("chunked in capitals", b"POST /a HTTP/1.1\r\nhost: {A}\r\ntransfer-encoding: CHUNKED\r\n\r\n3\r\nabc\r\n0\r\n\r\n", &["POST /a abc", "GET /sentinel"]),
    vector("a word like chunked", b"POST /a HTTP/1.1\r\nhost: {A}\r\ntransfer-encoding: xchunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n", ENDS),
    vector("chunked with a parameter", b"POST /a HTTP/1.1\r\nhost: {A}\r\ntransfer-encoding: chunked;q=1\r\n\r\n3\r\nabc\r\n0\r\n\r\n", ENDS),
    vector("chunked in quotes", b"POST /a HTTP/1.1\r\nhost: {A}\r\ntransfer-encoding: \"chunked\"\r\n\r\n3\r\nabc\r\n0\r\n\r\n", ENDS),
    vector("chunked after a tab", b"POST /a HTTP/1.1\r\nhost: {A}\r\ntransfer-encoding:\tchunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n", &["POST /a abc", "GET /sentinel"]),
    vector("chunked after a vertical tab", b"POST /a HTTP/1.1\r\nhost: {A}\r\ntransfer-encoding: \x0bchunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n", ENDS),
    vector("chunked after a form feed", b"POST /a HTTP/1.1\r\nhost: {A}\r\ntransfer-encoding: \x0cchunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n", ENDS),
    vector("chunked and a comma", b"POST /a HTTP/1.1\r\nhost: {A}\r\ntransfer-encoding: chunked,\r\n\r\n3\r\nabc\r\n0\r\n\r\n", ENDS),
    vector("chunks of an HTTP/1.0 request", b"POST /a HTTP/1.0\r\nhost: {A}\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n", ENDS),
    vector("a name like the encoding's", b"POST /a HTTP/1.1\r\nhost: {A}\r\ntransfer_encoding: chunked\r\ncontent-length: 3\r\n\r\nabc", &["POST /a abc", "GET /sentinel"]),
    // Chunks.
    vector("a chunk's size with an extension", b"POST /a HTTP/1.1\r\nhost: {A}\r\ntransfer-encoding: chunked\r\n\r\n3;x=y\r\nabc\r\n0\r\n\r\n", &["POST /a abc", "GET /sentinel"]),
    vector("a line feed in a chunk's extension", b"POST /a HTTP/1.1\r\nhost: {A}\r\ntransfer-encoding: chunked\r\n\r\n3;x\nabc\r\n0\r\n\r\n", ENDS),
    vector("a quoted line end in a chunk's extension", b"POST /a HTTP/1.1\r\nhost: {A}\r\ntransfer-encoding: chunked\r\n\r\n3;x=\"\r\nabc\r\n0\r\n\r\n", &["POST /a abc", "GET /sentinel"]),
    vector("a chunk's size with 0x", b"POST /a HTTP/1.1\r\nhost: {A}\r\ntransfer-encoding: chunked\r\n\r\n0x3\r\nabc\r\n0\r\n\r\n", ENDS),
    vector("a chunk's size with a plus", b"POST /a HTTP/1.1\r\nhost: {A}\r\ntransfer-encoding: chunked\r\n\r\n+3\r\nabc\r\n0\r\n\r\n", ENDS),
    vector("a negative chunk", b"POST /a HTTP/1.1\r\nhost: {A}\r\ntransfer-encoding: chunked\r\n\r\n-3\r\nabc\r\n0\r\n\r\n", ENDS),
    vector("a chunk's size after a space", b"POST /a HTTP/1.1\r\nhost: {A}\r\ntransfer-encoding: chunked\r\n\r\n 3\r\nabc\r\n0\r\n\r\n", ENDS),
    vector("a chunk's size before a space", b"POST /a HTTP/1.1\r\nhost: {A}\r\ntransfer-encoding: chunked\r\n\r\n3 \r\nabc\r\n0\r\n\r\n", &["POST /a abc", "GET /sentinel"]),
    vector("a chunk's size with zeros before it", b"POST /a HTTP/1.1\r\nhost: {A}\r\ntransfer-encoding: chunked\r\n\r\n00003\r\nabc\r\n0\r\n\r\n", &["POST /a abc", "GET /sentinel"]),
    vector("a chunk's size beyond 64 bits", b"POST /a HTTP/1.1\r\nhost: {A}\r\ntransfer-encoding: chunked\r\n\r\n10000000000000003\r\nabc\r\n0\r\n\r\n", ENDS),
    vector("a chunk's size that is empty", b"POST /a HTTP/1.1\r\nhost: {A}\r\ntransfer-encoding: chunked\r\n\r\n\r\nabc\r\n0\r\n\r\n", ENDS),
    vector("a chunk's size that ends in a line feed", b"POST /a HTTP/1.1\r\nhost: {A}\r\ntransfer-encoding: chunked\r\n\r\n3\nabc\r\n0\r\n\r\n", ENDS),
    vector("a chunk's size that ends in a carriage return", b"POST /a HTTP/1.1\r\nhost: {A}\r\ntransfer-encoding: chunked\r\n\r\n3\rabc\r\n0\r\n\r\n", ENDS),
    vector("a chunk that ends in a line feed", b"POST /a HTTP/1.1\r\nhost: {A}\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\n0\r\n\r\n", ENDS),
    vector("a chunk longer than it says", b"POST /a HTTP/1.1\r\nhost: {A}\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabcd\r\n0\r\n\r\n", ENDS),
    vector("a last chunk of several zeros", b"POST /a HTTP/1.1\r\nhost: {A}\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n000\r\n\r\n", &["POST /a abc", "GET /sentinel"]),
    vector("an end in line feeds", b"POST /a HTTP/1.1\r\nhost: {A}\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\n", &["POST /a abc"]),
    vector("a length among the trailers", b"POST /a HTTP/1.1\r\nhost: {A}\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\ncontent-length: 40\r\n\r\n", ENDS),
    vector("an encoding and a host among the trailers", b"POST /a HTTP/1.1\r\nhost: {A}\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\ntransfer-encoding: chunked\r\nhost: evil.test\r\n\r\n", ENDS),
    vector("a trailer that is no header", b"POST /a HTTP/1.1\r\nhost: {A}\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\nGET /smuggled HTTP/1.1\r\n\r\n", ENDS),
    // Lines and names.
    vector("a space before the colon", b"POST /a HTTP/1.1\r\nhost: {A}\r\ncontent-length : 3\r\n\r\nabc", ENDS),
    vector("a tab before the colon", b"POST /a HTTP/1.1\r\nhost: {A}\r\ntransfer-encoding\t: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n", ENDS),
    vector("a folded header", b"POST /a HTTP/1.1\r\nhost: {A}\r\nx: a\r\n content-length: 3\r\n\r\nabc", ENDS),
    vector("a folded encoding", b"POST /a HTTP/1.1\r\nhost: {A}\r\ntransfer-encoding:\r\n chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n", ENDS),
    vector("a fold before the first header", b"POST /a HTTP/1.1\r\n host: {A}\r\ncontent-length: 3\r\n\r\nabc", ENDS),
    vector("a header without a colon", b"POST /a HTTP/1.1\r\nhost: {A}\r\ncontent-length\r\n\r\n", ENDS),
    vector("a header without a name", b"POST /a HTTP/1.1\r\nhost: {A}\r\n: 3\r\n\r\n", ENDS),
    vector("a NUL in a value", b"POST /a HTTP/1.1\r\nhost: {A}\r\nx: a\0b\r\n\r\n", ENDS),
    vector("a NUL in a name", b"POST /a HTTP/1.1\r\nhost: {A}\r\nx\0: b\r\n\r\n", ENDS),
    vector("a carriage return in a value", b"POST /a HTTP/1.1\r\nhost: {A}\r\nx: a\rcontent-length: 3\r\n\r\nabc", ENDS),
    vector("a byte beyond ASCII in a name", b"POST /a HTTP/1.1\r\nhost: {A}\r\ncontent-length\xa0: 3\r\n\r\nabc", ENDS),
    vector("a header that ends in a line feed", b"POST /a HTTP/1.1\r\nhost: {A}\ncontent-length: 3\r\n\r\nabc", &["POST /a abc", "GET /sentinel"]),
    vector("a head in line feeds", b"POST /a HTTP/1.1\nhost: {A}\ncontent-length: 3\n\nabc", &["POST /a abc", "GET /sentinel"]),
    vector("a head that ends in a line feed", b"POST /a HTTP/1.1\r\nhost: {A}\r\ncontent-length: 3\r\n\nabc", &["POST /a abc", "GET /sentinel"]),
    vector("carriage returns alone", b"POST /a HTTP/1.1\rhost: {A}\r\rGET /smuggled HTTP/1.1\r\n\r\n", ENDS),
    vector("a line end before the request", b"\r\nGET /a HTTP/1.1\r\nhost: {A}\r\n\r\n", ENDS),
    vector("a line end after a body", b"POST /a HTTP/1.1\r\nhost: {A}\r\ncontent-length: 3\r\n\r\nabc\r\n", &["POST /a abc", "GET /sentinel"])
        .because("one empty line before a request is ignored (RFC 9112, section 2.2); h11 does not know that"),
    // The request line.
    vector("two spaces in the request line", b"GET  /a HTTP/1.1\r\nhost: {A}\r\n\r\n", ENDS),
    vector("a tab in the request line", b"GET\t/a HTTP/1.1\r\nhost: {A}\r\n\r\n", ENDS),
    vector("a space in the target", b"GET /a b HTTP/1.1\r\nhost: {A}\r\n\r\n", ENDS),
    vector("a method in small letters", b"get /a HTTP/1.1\r\nhost: {A}\r\n\r\n", ENDS),
    vector("a fragment in the target", b"GET /a#b HTTP/1.1\r\nhost: {A}\r\n\r\n", &["GET /a", "GET /sentinel"])
        .because("what was decided on leaves, without the fragment; h11 takes it for a part of the path"),
    vector("a byte beyond ASCII in the target", b"GET /a\xe9 HTTP/1.1\r\nhost: {A}\r\n\r\n", ENDS),
    vector("HTTP/0.9", b"GET /a\r\n", ENDS),
    vector("HTTP/1.2", b"GET /a HTTP/1.2\r\nhost: {A}\r\n\r\n", ENDS),
    vector("HTTP/2.0", b"GET /a HTTP/2.0\r\nhost: {A}\r\n\r\n", ENDS),
    vector("HTTP/1.10", b"GET /a HTTP/1.10\r\nhost: {A}\r\n\r\n", ENDS),
    vector("http/1.1 in small letters", b"GET /a http/1.1\r\nhost: {A}\r\n\r\n", ENDS),
    vector("no version", b"GET /a \r\nhost: {A}\r\n\r\n", ENDS),
    vector("an HTTP/1.0 request that wants to go on", b"GET /a HTTP/1.0\r\nhost: {A}\r\nconnection: keep-alive\r\n\r\n", &["GET /a", "GET /sentinel"])
        .because("h11 ends every HTTP/1.0 connection"),
    vector("an HTTP/1.0 request", b"GET /a HTTP/1.0\r\nhost: {A}\r\n\r\n", &["GET /a"]),
    // Hosts.
    vector("no host", b"GET /a HTTP/1.1\r\n\r\n", ENDS),
    vector("a host twice", b"GET /a HTTP/1.1\r\nhost: {A}\r\nhost: {A}\r\n\r\n", ENDS),
    vector("two hosts", b"GET /a HTTP/1.1\r\nhost: {A}\r\nhost: evil.test\r\n\r\n", ENDS),
    vector("an empty host", b"GET /a HTTP/1.1\r\nhost:\r\n\r\n", REFUSED),
    vector("hosts in a list", b"GET /a HTTP/1.1\r\nhost: {A}, evil.test\r\n\r\n", ENDS),
    vector("a host with a path", b"GET /a HTTP/1.1\r\nhost: {A}/x\r\n\r\n", ENDS),
    vector("a target of another host", b"GET http://evil.test/a HTTP/1.1\r\nhost: {A}\r\n\r\n", REFUSED),
    vector("a target of the same host", b"GET http://{A}/a HTTP/1.1\r\nhost: {A}\r\n\r\n", &["GET /a", "GET /sentinel"]),
    vector("a target of another scheme", b"GET ftp://{A}/a HTTP/1.1\r\nhost: {A}\r\n\r\n", REFUSED),
    vector("a target that begins with two slashes", b"GET //evil.test/a HTTP/1.1\r\nhost: {A}\r\n\r\n", REFUSED),
    vector("an asterisk as target", b"OPTIONS * HTTP/1.1\r\nhost: {A}\r\n\r\n", REFUSED),
    // The connection.
    vector("a length named by the connection", b"POST /a HTTP/1.1\r\nhost: {A}\r\nconnection: content-length\r\ncontent-length: 3\r\n\r\nabc", &["POST /a abc", "GET /sentinel"]),
    vector("an encoding named by the connection", b"POST /a HTTP/1.1\r\nhost: {A}\r\nconnection: transfer-encoding\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n", &["POST /a abc", "GET /sentinel"]),
    vector("a host named by the connection", b"GET /a HTTP/1.1\r\nhost: {A}\r\nconnection: host\r\n\r\n", &["GET /a", "GET /sentinel"]),
    vector("an upgrade", b"GET /a HTTP/1.1\r\nhost: {A}\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n", ENDS),
    vector("a request behind a CONNECT", b"CONNECT {A} HTTP/1.1\r\nhost: {A}\r\n\r\n", REFUSED),
    vector("a body behind an expectation", b"POST /a HTTP/1.1\r\nhost: {A}\r\nexpect: 100-continue\r\ncontent-length: 3\r\n\r\nabc", &["POST /a abc", "GET /sentinel"]),
    vector("an expectation that nobody knows", b"POST /a HTTP/1.1\r\nhost: {A}\r\nexpect: 200-ok\r\ncontent-length: 3\r\n\r\nabc", &["POST /a abc", "GET /sentinel"]),
    vector("a body of a request that ends the connection", b"POST /a HTTP/1.1\r\nhost: {A}\r\nconnection: close\r\ncontent-length: 3\r\n\r\nabcGET /smuggled HTTP/1.1\r\nhost: {A}\r\n\r\n", &["POST /a abc"]),
];
