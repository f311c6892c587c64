//! A request in words, as the question that the zone is asked. What the proxy would refuse before it asks is refused
//! here with the same reason.

use http::{HeaderMap, HeaderName, HeaderValue, header};
use postern_model::tool::Builtin;
use postern_policy::{
    BasicPart, CanonicalPath, Connect, CredentialName, Denial, Found, FoundValue, Host, Issued, Location, Place, Port,
    Reason, RepositoryUrl, Request, Scheme, ToolUse, Transport, Upgrade, foreign, overrides,
};
use serde_json::{Map, Value};

use postern_policy::location::{JsonPlaces, Segment};

use crate::cli::ExplainArguments;
use crate::failure::{Failure, Or};

/// What is asked.
pub(crate) enum Question {
    /// One request of a sandbox.
    Request(Box<Request>),
    /// A connection of a sandbox, before anything is read.
    Connect(Connect),
    /// An MCP message.
    Mcp {
        /// The route.
        server: String,
        /// The method.
        method: String,
        /// The tool, where one is called.
        tool: Option<String>,
        /// Its arguments.
        arguments: Option<Map<String, Value>>,
    },
    /// A tool of the sandbox.
    Tool(ToolUse),
    /// Whether custody hands a credential out.
    Grant(CredentialName),
    /// Whether it hands out the token of a session's repository.
    Repository(RepositoryUrl),
}

/// Reads the question; the inner error is a refusal before any zone is asked.
///
/// # Errors
/// The words are no question.
pub(crate) fn read(arguments: &ExplainArguments) -> Result<Result<Question, Denial>, Failure> {
    if arguments.credential.is_some() || arguments.repository.is_some() {
        nothing_of_a_request(arguments)?;
    }
    if let Some(name) = &arguments.credential {
        return Ok(Ok(Question::Grant(CredentialName::new(name.as_str()))));
    }
    if let Some(url) = &arguments.repository {
        let url = url.parse().or_misused("read the repository's URL")?;
        return Ok(Ok(Question::Repository(url)));
    }
    let words: Vec<&str> = arguments.request.iter().flat_map(|word| split(word)).collect();
    if !matches!(words.as_slice(), [_, url] if url.contains("://")) {
        nothing_of_a_request(arguments)?;
    }
    match words.as_slice() {
        ["connect", authority] if !has_port(authority) => {
            Err(Failure::Misused(format!("a connection has a port: ask about `connect {authority}:443`")))
        }
        ["connect", authority] => Ok(connect(authority)),
        ["tool", name] => tool(name).map(Ok),
        ["mcp", server, tool] => Ok(Ok(call(server, tool, None))),
        ["mcp", server, tool, arguments] => {
            let read = serde_json::from_str(arguments).or_misused("read the tool's arguments as a JSON object")?;
            // What two parsers could read differently the gateway refuses.
            let one_reading = JsonPlaces::of(arguments.as_bytes(), b"").is_ok();
            Ok(if one_reading { Ok(call(server, tool, Some(read))) } else { Err(Denial::new(Reason::RequestMalformed)) })
        }
        ["mcp-method", server, method] => Ok(Ok(Question::Mcp {
            server: (*server).to_owned(),
            method: (*method).to_owned(),
            tool: None,
            arguments: None,
        })),
        [method, url] if url.contains("://") => request(method, url, arguments),
        _ => Err(Failure::Misused(
            "ask about `GET https://HOST/PATH`, `connect HOST:PORT`, `mcp SERVER TOOL [JSON]`, `mcp-method SERVER METHOD` or `tool NAME`".to_owned(),
        )),
    }
}

/// What is said of a request where none is asked about would have no part in the answer.
fn nothing_of_a_request(arguments: &ExplainArguments) -> Result<(), Failure> {
    let given = [
        ("--address", arguments.address.is_some()),
        ("--header", !arguments.header.is_empty()),
        ("--placeholder", !arguments.placeholder.is_empty()),
    ];
    match given.into_iter().find(|(_, is_given)| *is_given) {
        Some((option, _)) => {
            Err(Failure::Misused(format!("{option} is judged with a request alone: ask about `GET https://HOST/PATH`")))
        }
        None => Ok(()),
    }
}

/// A tool of the sandbox; of others no zone is asked.
fn tool(name: &str) -> Result<Question, Failure> {
    if Builtin::IN_SANDBOX.iter().any(|tool| tool.name() == name) {
        return Ok(Question::Tool(ToolUse { name: name.to_owned() }));
    }
    let known = Builtin::IN_SANDBOX.map(Builtin::name).join(", ");
    Err(Failure::Misused(format!("no sandbox has a tool {name}; ask about one of {known}, or `mcp SERVER TOOL`")))
}

/// A request may come as one quoted word or as several; a JSON object stays whole.
fn split(word: &str) -> Vec<&str> {
    if word.trim_start().starts_with('{') { vec![word] } else { word.split_whitespace().collect() }
}

fn call(server: &str, tool: &str, arguments: Option<Map<String, Value>>) -> Question {
    let (server, tool) = (server.to_owned(), Some(tool.to_owned()));
    Question::Mcp { server, method: "tools/call".to_owned(), tool, arguments }
}

fn connect(text: &str) -> Result<Question, Denial> {
    let (host, port) = authority(text, None)?;
    Ok(Question::Connect(Connect { host, port, transport: Transport::Unread }))
}

/// As the proxy parses them: host, port and path in their one form, or a refusal.
fn request(method: &str, url: &str, arguments: &ExplainArguments) -> Result<Result<Question, Denial>, Failure> {
    let (scheme, rest) = match url.split_once("://") {
        Some(("https", rest)) => (Scheme::Https, rest),
        Some(("http", rest)) => (Scheme::Http, rest),
        _ => return Err(Failure::Misused(format!("{url} is no https:// or http:// URL"))),
    };
    let headers = headers(&arguments.header)?;
    let credentials_present =
        arguments.placeholder.iter().map(|text| placeholder(text, url)).collect::<Result<_, _>>()?;
    Ok(parsed(method, scheme, rest, &headers, credentials_present))
}

fn parsed(
    method: &str,
    scheme: Scheme,
    rest: &str,
    headers: &HeaderMap,
    credentials_present: Vec<Found>,
) -> Result<Question, Denial> {
    let rest = rest.split('#').next().unwrap_or(rest);
    let (rest, query) = rest.split_once('?').map_or((rest, None), |(rest, query)| (rest, Some(query.to_owned())));
    let (stated, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
    let (userinfo, stated) = stated.rsplit_once('@').map_or((false, stated), |(_, stated)| (true, stated));
    let (host, port) = authority(stated, Some(scheme))?;
    hosted(headers, scheme, &host, port)?;
    framed(headers)?;
    let upgrade = upgrade(method, headers)?;
    let raw_query = query.as_deref().map(str::as_bytes);
    let evidence = foreign::Evidence {
        headers,
        query: raw_query,
        form: None,
        userinfo,
        ours: &[],
        cookies: &std::collections::BTreeSet::new(),
    };
    Ok(Question::Request(Box::new(Request {
        host,
        port,
        scheme,
        method: method.parse().map_err(|_| Denial::new(Reason::RequestMalformed))?,
        path: if path.is_empty() { "/" } else { path }.parse().map_err(|_| Denial::new(Reason::PathAmbiguous))?,
        foreign: foreign::find(&evidence),
        overrides: overrides::find(headers, raw_query),
        upgrade,
        query,
        credentials_present,
    })))
}

/// A Host header must say what the URL says.
fn hosted(headers: &HeaderMap, scheme: Scheme, host: &Host, port: Port) -> Result<(), Denial> {
    let mut said = headers.get_all(header::HOST).iter();
    match (said.next(), said.next()) {
        (None, _) => Ok(()),
        (Some(only), None) => {
            let only = only.to_str().map_err(|_| Denial::new(Reason::RequestMalformed))?;
            let agrees = authority(only, Some(scheme))? == (host.clone(), port);
            if agrees { Ok(()) } else { Err(Denial::new(Reason::AuthorityMismatch)) }
        }
        (Some(_), Some(_)) => Err(Denial::new(Reason::RequestMalformed)),
    }
}

/// A body ends in one way: by its length or by chunks.
fn framed(headers: &HeaderMap) -> Result<(), Denial> {
    let mut transfers = headers.get_all(header::TRANSFER_ENCODING).iter();
    let lengths = headers.get_all(header::CONTENT_LENGTH).iter().count();
    match (transfers.next(), transfers.next()) {
        (None, _) if lengths <= 1 => Ok(()),
        (Some(only), None) if only.as_bytes().eq_ignore_ascii_case(b"chunked") && lengths == 0 => Ok(()),
        _ => Err(Denial::new(Reason::RequestMalformed)),
    }
}

/// What the connection is to become. `Upgrade: websocket` alone stands for the whole handshake.
fn upgrade(method: &str, headers: &HeaderMap) -> Result<Upgrade, Denial> {
    let upgrades: Vec<_> = headers.get_all(header::UPGRADE).iter().collect();
    let words = headers.get_all(header::CONNECTION).iter().filter_map(|value| value.to_str().ok());
    let asks = words.flat_map(|value| value.split(',')).any(|word| word.trim().eq_ignore_ascii_case("upgrade"));
    let h2c = headers.contains_key("http2-settings");
    let closes = headers.contains_key(header::CONNECTION) && !asks;
    match upgrades.as_slice() {
        [] if !asks && !h2c => Ok(Upgrade::None),
        [only] if only.as_bytes().eq_ignore_ascii_case(b"websocket") && method == "GET" && !h2c && !closes => {
            Ok(Upgrade::WebSocket)
        }
        _ => Err(Denial::new(Reason::UpgradeRefused)),
    }
}

fn has_port(authority: &str) -> bool {
    authority.rsplit_once(':').is_some_and(|(_, port)| !port.ends_with(']'))
}

fn authority(text: &str, scheme: Option<Scheme>) -> Result<(Host, Port), Denial> {
    let malformed = || Denial::new(Reason::RequestMalformed);
    let (host, port) = match text.rsplit_once(':') {
        Some((host, port)) if !port.ends_with(']') => (host, number(port)),
        _ => (text, scheme.map(Scheme::default_port)),
    };
    Ok((host.parse().map_err(|_| Denial::new(Reason::HostMalformed))?, port.ok_or_else(malformed)?))
}

/// Digits alone.
fn number(port: &str) -> Option<Port> {
    port.bytes().all(|byte| byte.is_ascii_digit()).then(|| port.parse().ok()).flatten().and_then(Port::new)
}

fn headers(written: &[String]) -> Result<HeaderMap, Failure> {
    let mut headers = HeaderMap::new();
    for line in written {
        let (name, value) =
            line.split_once(':').ok_or_else(|| Failure::Misused(format!("--header is `name: value`, not {line}")))?;
        let name: HeaderName = name.trim().parse().or_misused("read the name of a header")?;
        let value: HeaderValue = value.trim().parse().or_misused("read the value of a header")?;
        headers.append(name, value);
    }
    Ok(headers)
}

fn path_of(url: &str) -> Option<CanonicalPath> {
    let (_, rest) = url.split_once("://")?;
    rest[rest.find('/')?..].split(['?', '#']).next()?.parse().ok()
}

/// `ledger-api@header:authorization`: a live placeholder of the session's own, at its place.
fn placeholder(text: &str, url: &str) -> Result<Found, Failure> {
    let place = |location: &str| match location.split_once(':') {
        Some(("header", name)) => Some(Place::At(Location::Header(name.to_ascii_lowercase()))),
        Some(("basic", "username")) => Some(Place::At(Location::Basic(BasicPart::Username))),
        Some(("basic", "password")) => Some(Place::At(Location::Basic(BasicPart::Password))),
        Some(("query", key)) => key.parse().ok().map(|key| Place::At(Location::Query(key))),
        Some(("json", pointer)) => pointer.parse().ok().map(|pointer| Place::At(Location::Json(pointer))),
        Some(("form", key)) => key.parse().ok().map(|key| Place::At(Location::Form(key))),
        // What stands for it in the URL: whether that is a place depends on the form of the path.
        Some(("path", written)) => path_of(url).and_then(|path| Segment::holding(&path, written)).map(Place::Segment),
        Some(_) => None,
        None => match location {
            "path" => Some(Place::Path),
            "query" => Some(Place::Query),
            "body" => Some(Place::Body),
            "elsewhere" => Some(Place::Elsewhere),
            _ => None,
        },
    };
    let (credential, location) = text.rsplit_once('@').unwrap_or((text, ""));
    let place = place(location).ok_or_else(|| {
        Failure::Misused(format!(
            "--placeholder is CREDENTIAL@LOCATION with header:NAME, basic:username, basic:password, query:KEY, path:TEXT-IN-THE-URL, json:/POINTER, form:KEY, path, query, body or elsewhere, not {text}"
        ))
    })?;
    let value = FoundValue::Placeholder(Issued::ThisSession);
    Ok(Found { credential: CredentialName::new(credential), value, place })
}
