use super::*;
use crate::permit::Target;
use std::net::SocketAddr;

const WIKI: &str = r#"config = 1
[gateway]
tls_dir = "tls"

[[gateway.route]]
host = "wiki"
upstream = "http://127.0.0.1:9300/mcp"
addresses = ["127.0.0.0/8"]
credential = { source = "store:wiki-token", header = "authorization", format = "Bearer {secret}" }

[[gateway.route]]
host = "tickets"
url = "https://MCP.Tickets.example:443/v1/mcp/"
credential = { source = "api:" }

[[gateway.route]]
host = "files"
upstream = "https://files.internal:8443/mcp/"
addresses = ["10.3.0.0/24"]
ca_file = "files-ca.pem"
credential = { source = "env:FILES_KEY", header = "X-Api-Key" }
timeout = "90s"
max_request = "1MiB"
max_response = "64MiB"
"#;

const PEM: &str = "-----BEGIN CERTIFICATE-----\nAA==\n-----END CERTIFICATE-----\n";

fn load(text: &str) -> Result<Routes, Vec<ConfigError>> {
    let mut document = Document::parse("postern.toml", text)?;
    for file in document.referenced_files() {
        if file == "files-ca.pem" {
            document.attach(&file, PEM);
        }
    }
    Routes::load(&document)
}

fn routes(text: &str) -> Routes {
    load(text).unwrap_or_else(|errors| panic!("{}", listed(&errors)))
}

fn listed(errors: &[ConfigError]) -> String {
    errors.iter().map(|error| format!("{error}\n")).collect()
}

fn route(name: &str) -> Arc<Route> {
    Arc::clone(routes(WIKI).by_host_label(name).unwrap())
}

#[test]
fn a_document_without_routes_has_none() {
    let none = Routes::load(&Document::empty()).unwrap();
    assert!(none.is_empty());
    assert_eq!(none.digest(), Routes::none().digest());
}

#[test]
fn routes_load_with_all_they_say() {
    let routes = routes(WIKI);
    assert_eq!(routes.iter().map(|route| route.name.as_str()).collect::<Vec<_>>(), ["wiki", "tickets", "files"]);
    assert!(routes.warnings().is_empty());

    let wiki = route("wiki");
    assert_eq!((wiki.upstream.to_string().as_str(), wiki.path.as_str()), ("http://127.0.0.1:9300/mcp", "/mcp"));
    assert_eq!((wiki.max_request_bytes, wiki.max_response_bytes), (4 << 20, 32 << 20));
    assert_eq!((wiki.timeout, wiki.url.as_deref()), (Duration::from_secs(60), None));
    let Some(RouteCredential::Own { source, header, format }) = &wiki.credential else { panic!("{wiki:?}") };
    assert_eq!((source.to_string().as_str(), header.as_str()), ("store:wiki-token", "authorization"));
    assert_eq!((format.before(), format.after(), format.to_string().as_str()), ("Bearer ", "", "Bearer {secret}"));

    let tickets = route("tickets");
    assert_eq!(tickets.url.as_deref(), Some("https://mcp.tickets.example/v1/mcp"));
    assert_eq!(tickets.upstream.to_string(), "https://mcp.tickets.example/v1/mcp");
    assert_eq!(tickets.credential, Some(RouteCredential::Api));

    let files = route("files");
    assert_eq!((files.path.as_str(), files.ca_pem.as_deref()), ("/mcp/", Some(PEM)));
    assert_eq!(files.timeout, Duration::from_secs(90));
    assert_eq!((files.max_request_bytes, files.max_response_bytes), (1 << 20, 64 << 20));
    let Some(RouteCredential::Own { header, format, .. }) = &files.credential else { panic!("{files:?}") };
    assert_eq!((header.as_str(), format), ("x-api-key", &HeaderFormat::bare()));
}

#[test]
fn the_label_of_public_urls_is_no_route() {
    let text = "config = 1\n[[gateway.route]]\nhost = \"mcp-url\"\nupstream = \"http://127.0.0.1:1/mcp\"\naddresses = [\"127.0.0.0/8\"]\n";
    let errors = Routes::load(&Document::parse("postern.toml", text).unwrap()).unwrap_err();
    assert!(errors[0].to_string().contains("3:8: host \"mcp-url\" is taken"), "{errors:?}");
}

#[test]
fn a_route_is_found_by_its_label_and_by_its_normalised_url() {
    let routes = routes(WIKI);
    let found = |label: &str| routes.by_host_label(label).map(|route| route.name.clone());
    assert_eq!((found("wiki"), found("WIKI")), (Some("wiki".to_owned()), Some("wiki".to_owned())));
    assert_eq!((found("wik"), found(""), found("wiki.")), (None, None, None));
    let url = normalise_mcp_url("HTTPS://mcp.tickets.example/v1/mcp//").unwrap();
    assert_eq!(routes.by_url(&url).unwrap().name, "tickets");
    assert!(routes.by_url("https://mcp.tickets.example/v1").is_none());
}

#[test]
fn custody_learns_the_routes_own_sources() {
    let routes = routes(WIKI);
    let sources: Vec<String> = routes.sources().map(|(route, source)| format!("{route} {source}")).collect();
    assert_eq!(sources, ["wiki store:wiki-token", "files env:FILES_KEY"]);
}

#[test]
fn each_mistake_in_a_route_is_refused_where_it_stands() {
    let table = [
        ("host = \"wiki\"\n", "", "5:1: missing key: host"),
        ("host = \"wiki\"", "host = \"wiki.internal\"", "6:8: host is one DNS label"),
        ("host = \"wiki\"", "host = \"Wiki\"", "6:8: host is one DNS label"),
        ("host = \"wiki\"", "host = \"-wiki\"", "6:8: host is one DNS label"),
        ("host = \"wiki\"", "host = \"xn--wiki\"", "6:8: host is one DNS label"),
        ("host = \"wiki\"", "host = \"\"", "6:8: host is one DNS label"),
        ("host = \"files\"", "host = \"wiki\"", "two routes have the host wiki"),
        ("upstream = \"http://127.0.0.1:9300/mcp\"\n", "", "5:1: missing key: upstream"),
        ("http://127.0.0.1", "ftp://127.0.0.1", "7:12: upstream: the URL must begin with"),
        ("http://127.0.0.1", "http://me:key@127.0.0.1", "7:12: upstream: the URL must not hold a user name"),
        ("9300/mcp\"", "9300/mcp?key=1\"", "7:12: upstream: the URL must not have a query"),
        ("9300/mcp\"", "9300/a/../mcp\"", "7:12: upstream: the path of the URL"),
        ("addresses = [\"127.0.0.0/8\"]\n", "", "7:12: upstream: http:// goes to private and loopback"),
        ("[\"127.0.0.0/8\"]", "[\"127.0.0.0/8\", \"93.184.216.0/24\"]", "7:12: upstream: http:// goes to private"),
        ("[\"127.0.0.0/8\"]", "[\"169.254.0.0/16\"]", "7:12: upstream: http:// goes to private"),
        ("[\"127.0.0.0/8\"]", "[\"10.0.0.0/8\"]", "7:12: upstream: 127.0.0.1 is not a public address"),
        ("[\"127.0.0.0/8\"]", "[\"0.0.0.0/0\"]", "8:14: addresses: 0.0.0.0/0 reaches across"),
        ("[\"127.0.0.0/8\"]", "[]", "addresses is empty"),
        ("http://127.0.0.1:9300", "https://169.254.169.254", "7:12: upstream: 169.254.169.254 is not a public"),
        ("store:wiki-token", "vault:wiki", "not in this build: source = \"vault:\""),
        ("store:wiki-token", "wiki-token", "source must begin with one of"),
        ("store:wiki-token", "api:", "9:33: header: a vault credential is always sent"),
        ("store:wiki-token", "api:x", "source = \"api:\", without a name"),
        ("source = \"store:wiki-token\", ", "", "missing key: source in [gateway.route.credential]"),
        ("header = \"authorization\"", "header = \"host\"", "header: host is set by the gateway"),
        ("header = \"authorization\"", "header = \"Content-Length\"", "header: content-length is set by the gateway"),
        ("header = \"authorization\"", "header = \"accept\"", "header: accept is set by the gateway"),
        ("header = \"authorization\"", "header = \"Mcp-Session-Id\"", "header: mcp-session-id belongs to MCP"),
        ("header = \"authorization\"", "header = \"Last-Event-ID\"", "header: last-event-id belongs to MCP"),
        ("header = \"authorization\"", "header = \"postern-identity\"", "header: postern-identity is ours"),
        ("header = \"authorization\"", "header = \"cookie\"", "header: cookie has a meaning of its own"),
        ("header = \"authorization\"", "header = \"x y\"", "header is not the name of a header"),
        ("Bearer {secret}", "Bearer", "format: must hold {secret} exactly once"),
        ("Bearer {secret}", "{secret}{secret}", "format: must hold {secret} exactly once"),
        ("Bearer {secret}", " {secret}", "format: must have printable ASCII"),
        ("Bearer {secret}", "a\\n{secret}", "format: must have printable ASCII"),
        ("Bearer {secret}", "a\\r\\nx: {secret}", "format: must have printable ASCII"),
        ("header = \"authorization\"", "query = \"key\"", "unknown key: query in [gateway.route.credential]"),
        ("url = \"https://MCP", "url = \"http://MCP", "url is that of a public MCP server: https:// only"),
        ("url = \"https://MCP", "url = \"https://me@MCP", "url: the URL must not hold a user name"),
        ("ca_file = \"files-ca.pem\"", "ca_file = \"no.pem\"", "ca_file: no.pem cannot be read"),
        ("timeout = \"90s\"", "timeout = \"11m\"", "timeout must be from 100ms to 10m"),
        ("timeout = \"90s\"", "timeout = 90", "timeout must be a string"),
        ("max_request = \"1MiB\"", "max_request = \"1GiB\"", "max_request must be from 1KiB to 64MiB"),
        ("max_response = \"64MiB\"", "max_response = \"1B\"", "max_response must be from 1KiB to 256MiB"),
        ("timeout = \"90s\"", "retries = 3", "unknown key: retries in [gateway.route]"),
    ];
    for (from, to, message) in table {
        assert!(WIKI.contains(from), "{from}");
        let errors = listed(&load(&WIKI.replacen(from, to, 1)).map(|_| ()).expect_err(to));
        assert!(errors.contains(message), "{from} -> {to}: {errors}");
    }
}

#[test]
fn ca_files_have_no_meaning_in_the_clear_and_two_routes_no_common_url() {
    let clear = WIKI.replacen("addresses = [\"127", "ca_file = \"files-ca.pem\"\naddresses = [\"127", 1);
    assert!(listed(&load(&clear).unwrap_err()).contains("ca_file has no meaning"));
    let twice = format!("{WIKI}url = \"https://mcp.tickets.example/v1/mcp\"\n");
    assert!(listed(&load(&twice).unwrap_err()).contains("two routes have the url"));
}

#[test]
fn all_errors_of_all_routes_come_at_once_in_the_order_of_the_file() {
    let text = WIKI.replacen("host = \"wiki\"", "host = 1", 1).replacen("90s", "90", 1).replacen("api:", "x", 1);
    let errors = load(&text).unwrap_err();
    assert_eq!(errors.iter().map(|error| error.line).collect::<Vec<_>>(), [6, 14, 22]);
}

#[test]
fn a_credential_in_the_clear_beyond_this_machine_is_a_warning() {
    let text =
        WIKI.replacen("http://127.0.0.1:9300", "http://wiki.internal", 1).replacen("127.0.0.0/8", "10.0.0.0/8", 1);
    assert!(routes(&text).warnings()[0].message.contains("in the clear"));
    let bare = text.replacen(
        "credential = { source = \"store:wiki-token\", header = \"authorization\", format = \"Bearer {secret}\" }",
        "",
        1,
    );
    assert!(routes(&bare).warnings().is_empty());
}

#[test]
fn a_zones_rule_for_a_route_of_another_file_is_a_warning() {
    let text = format!(
        "{WIKI}[zone.a]\nenvironment = \"default\"\n[[zone.a.mcp]]\nserver = \"elsewhere\"\ntools = [\"*\"]\n[[zone.a.mcp]]\nserver = \"wiki\"\ntools = [\"*\"]\n"
    );
    let routes = routes(&text);
    assert_eq!(routes.warnings().len(), 1);
    assert!(routes.warnings()[0].message.contains("host = \"elsewhere\""));
}

#[test]
fn the_digest_follows_every_word_and_file_of_a_route_and_nothing_else() {
    let digest = |text: &str| routes(text).digest().to_owned();
    let plain = digest(WIKI);
    assert!(plain.starts_with("sha256:") && plain.len() == 71);
    assert_eq!(plain, digest(&WIKI.replace("tls_dir = \"tls\"", "tls_dir = \"other\"")));
    assert_ne!(plain, digest(&WIKI.replace("90s", "91s")));
    assert_ne!(plain, digest(&WIKI.replace("10.3.0.0/24", "10.3.0.0/25")));
    let mut document = Document::parse("postern.toml", WIKI).unwrap();
    document.attach("files-ca.pem", &PEM.replace("AA", "BB"));
    assert_ne!(plain, Routes::load(&document).unwrap().digest());
}

#[test]
fn a_probe_asks_what_a_route_has_and_calls_nothing() {
    let routes = routes(WIKI);
    let wiki = routes.by_host_label("wiki").unwrap();
    for method in ["initialize", "notifications/initialized", "tools/list", "ping"] {
        let permit = routes.probe(wiki, method).unwrap();
        assert_eq!((permit.route(), permit.rule(), permit.zone(), permit.tool()), ("wiki", PROBE_RULE, "", None));
        assert_eq!(permit.policy_digest(), routes.digest());
        assert!(wiki.permit(&permit).is_ok());
    }
    for method in ["tools/call", "resources/list", "notifications/cancelled", "", "Initialize", "initialize "] {
        assert_eq!(routes.probe(wiki, method).unwrap_err().reason, Reason::McpMethodNotAllowed, "{method}");
    }
}

#[test]
fn a_permit_for_one_route_dials_no_other() {
    let routes = routes(WIKI);
    let permit = routes.probe(&route("wiki"), "ping").unwrap();
    let denial = route("files").permit(&permit).unwrap_err();
    assert_eq!((denial.reason, denial.alarm), (Reason::RouteMismatch, true));
}

#[test]
fn a_routes_permit_dials_the_addresses_that_the_route_names() {
    let permit = |name: &str| {
        let route = route(name);
        route.permit(&routes(WIKI).probe(&route, "ping").unwrap()).unwrap()
    };
    let table = [
        ("wiki", "127.0.0.1", None),
        ("wiki", "127.9.9.9", None),
        ("wiki", "::ffff:127.0.0.1", None),
        ("wiki", "::1", Some(Reason::AddressLoopback)),
        ("wiki", "10.0.0.1", Some(Reason::AddressPrivate)),
        ("wiki", "93.184.216.34", Some(Reason::AddressNotAllowed)),
        ("wiki", "169.254.169.254", Some(Reason::AddressMetadata)),
        ("tickets", "93.184.216.34", None),
        ("tickets", "10.3.0.7", Some(Reason::AddressPrivate)),
        ("tickets", "127.0.0.1", Some(Reason::AddressLoopback)),
        ("tickets", "169.254.169.254", Some(Reason::AddressMetadata)),
        ("tickets", "fd00:ec2::254", Some(Reason::AddressMetadata)),
        ("tickets", "0.0.0.0", Some(Reason::AddressPrivate)),
        ("files", "10.3.0.7", None),
        ("files", "10.3.1.7", Some(Reason::AddressPrivate)),
        ("files", "93.184.216.34", Some(Reason::AddressNotAllowed)),
    ];
    for (name, address, reason) in table {
        let answer = permit(name).dial(address.parse().unwrap());
        assert_eq!(answer.as_ref().err().map(|denial| denial.reason), reason, "{name} {address}");
        if let Err(denial) = answer {
            assert_eq!(denial.rule.as_deref(), Some(PROBE_RULE));
        }
    }
    let wiki = permit("wiki");
    assert_eq!(wiki.target(), Target::Address(SocketAddr::from(([127, 0, 0, 1], 9300))));
    assert_eq!(wiki.dial("127.0.0.1".parse().unwrap()).unwrap().address().port(), 9300);
    let files = permit("files");
    assert_eq!(files.target(), Target::Resolve("files.internal".parse().unwrap(), crate::Port::new(8443).unwrap()));
    assert_eq!((files.host().to_string().as_str(), files.ca_pem()), ("files.internal", Some(PEM)));
}

#[test]
fn a_metadata_service_is_reached_only_where_its_own_range_is_named() {
    let wide = WIKI.replacen("10.3.0.0/24", "169.254.0.0/16", 1);
    let exact = WIKI.replacen("10.3.0.0/24", "169.254.169.254/32", 1);
    let dial = |text: &str| {
        let routes = routes(text);
        let files = Arc::clone(routes.by_host_label("files").unwrap());
        files.permit(&routes.probe(&files, "ping").unwrap()).unwrap().dial("169.254.169.254".parse().unwrap())
    };
    assert_eq!(dial(&wide).unwrap_err().reason, Reason::AddressMetadata);
    assert!(dial(&exact).is_ok());
}

#[test]
fn a_url_has_one_normal_form() {
    let table = [
        ("https://Mcp.Example.com/Path/", Ok("https://mcp.example.com/Path")),
        ("HTTPS://mcp.example.com:443", Ok("https://mcp.example.com")),
        ("https://mcp.example.com/", Ok("https://mcp.example.com")),
        ("https://mcp.example.com//", Ok("https://mcp.example.com")),
        ("https://mcp.example.com./mcp", Ok("https://mcp.example.com/mcp")),
        ("https://mcp.example.com:8443/a/b", Ok("https://mcp.example.com:8443/a/b")),
        ("http://mcp.example.com:80/a", Ok("http://mcp.example.com/a")),
        ("http://mcp.example.com:443/a", Ok("http://mcp.example.com:443/a")),
        ("https://mcp.example.com/a?tenant=X", Ok("https://mcp.example.com/a?tenant=X")),
        ("https://mcp.example.com/a/?tenant=X/", Ok("https://mcp.example.com/a?tenant=X/")),
        ("https://mcp.example.com/a%20b", Ok("https://mcp.example.com/a%20b")),
        ("https://b\u{fc}cher.example/mcp", Ok("https://xn--bcher-kva.example/mcp")),
        ("https://[::1]:443/mcp", Ok("https://[::1]/mcp")),
        ("mcp.example.com", Err(BadMcpUrl::Scheme)),
        ("ftp://mcp.example.com", Err(BadMcpUrl::Scheme)),
        ("https://user@mcp.example.com", Err(BadMcpUrl::Userinfo)),
        ("https://user:key@mcp.example.com/", Err(BadMcpUrl::Userinfo)),
        ("https://mcp.example.com/#x", Err(BadMcpUrl::Fragment)),
        ("https://mcp.example.com:0/", Err(BadMcpUrl::Port)),
        ("https://mcp.example.com:+443/", Err(BadMcpUrl::Port)),
        ("https://mcp.example.com:/", Err(BadMcpUrl::Port)),
        ("https://mcp.example.com/a b", Err(BadMcpUrl::Character)),
        ("https://mcp.example.com/a\\b", Err(BadMcpUrl::Character)),
        ("https://mcp.example.com/\u{e9}", Err(BadMcpUrl::Character)),
        ("https://mcp.example.com/a\n", Err(BadMcpUrl::Character)),
        ("https://mcp.example.com/a/../b", Err(BadMcpUrl::DotSegment)),
        ("https://mcp.example.com/a/%2E%2e/b", Err(BadMcpUrl::DotSegment)),
        ("https://mcp.example.com/.", Err(BadMcpUrl::DotSegment)),
        ("https://127.1/", Err(BadMcpUrl::Host(crate::BadHost::OddAddress))),
        ("https:///mcp", Err(BadMcpUrl::Host(crate::BadHost::Empty))),
    ];
    for (text, expected) in table {
        assert_eq!(normalise_mcp_url(text), expected.map(str::to_owned), "{text}");
    }
    let long = format!("https://mcp.example.com/{}", "a".repeat(2048));
    assert_eq!(normalise_mcp_url(&long), Err(BadMcpUrl::TooLong));
}

proptest::proptest! {
    #[test]
    fn a_normal_form_is_its_own(host in "[a-zA-Z.]{1,12}", path in "(/[a-zA-Z0-9%.]{0,4}){0,3}/{0,2}", port in proptest::option::of(1u16..)) {
        let port = port.map(|port| format!(":{port}")).unwrap_or_default();
        if let Ok(normal) = normalise_mcp_url(&format!("https://{host}{port}{path}")) {
            proptest::prop_assert_eq!(normalise_mcp_url(&normal), Ok(normal.clone()));
        }
    }
}
