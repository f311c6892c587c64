use super::*;

const ALL: &str = r#"config = 1
[server]
listen = "10.0.0.5:8443"
tls = { cert = "server.pem", key = "/etc/postern/server.key" }
mcp_addresses = ["10.9.0.0/16"]

[edge]
listen = "0.0.0.0:443"
tls = { cert = "edge.pem", key = "edge.key" }
domain = "Tunnel.Example"

[worker]
server = "https://postern.example:8443"
ca_file = "ca.pem"
environment = "env_01"
environment_key_file = "environment.key"
sessions = 4

[gateway]
server = "https://postern.example:8443"
ca_file = "ca.pem"
edge = "https://edge.example"
edge_ca_file = "edge-ca.pem"
proxy = "http://proxy.example:3128"
proxy_credentials_file = "proxy.credentials"
tunnel = "tnl_01"
tunnel_token_file = "tunnel.token"
tls_dir = "tls"
identity_key_file = "identity.pub"

[[gateway.route]]
host = "wiki"

[custody]
dir = "custody"

[audit]
dir = "/var/audit"
"#;

fn document(text: &str) -> Document {
    Document::parse("postern.toml", text).unwrap_or_else(|errors| panic!("{errors:?}"))
}

fn load(text: &str) -> Result<Deployment, Vec<ConfigError>> {
    Deployment::load(&document(text), Path::new("/etc/p"))
}

fn listed(errors: &[ConfigError]) -> String {
    errors.iter().map(|error| format!("{error}\n")).collect()
}

#[test]
fn webhooks_have_ranges_and_an_authority_of_their_own() {
    let read = load("config = 1\n[server]\nwebhook_addresses = [\"10.8.0.0/16\"]\nca_file = \"company.pem\"\n");
    let server = read.unwrap_or_else(|errors| panic!("{}", listed(&errors))).server;
    assert_eq!(server.webhook_addresses, ["10.8.0.0/16".parse::<IpNet>().unwrap()]);
    assert_eq!(server.ca_file.as_deref(), Some(Path::new("/etc/p/company.pem")));
    assert!(server.mcp_addresses.is_empty(), "a range for webhooks opens nothing for MCP servers");
}

#[test]
fn web_tools_are_there_where_the_section_is_and_search_needs_a_provider() {
    let web = |text: &str| {
        let read = load(&format!("config = 1\n{text}"));
        read.unwrap_or_else(|errors| panic!("{text}: {}", listed(&errors))).web
    };
    assert_eq!(web(""), Web::default());
    assert!(!web("").fetch && web("[web]\n").fetch && !web("[web]\nfetch = false\n").fetch);
    assert_eq!(web("[web]\naddresses = [\"10.8.0.0/16\"]\n").addresses, ["10.8.0.0/16".parse::<IpNet>().unwrap()]);
    let own = web("[web.search]\nkind = \"searxng\"\nurl = \"http://127.0.0.1:8080/sx\"\n");
    let search = own.search.unwrap();
    assert_eq!((search.kind, search.url.to_string()), (SearchKind::Searxng, "http://127.0.0.1:8080/sx".into()));
    let search = web("[web.search]\nkind = \"brave\"\nkey_file = \"k\"\n").search.unwrap();
    assert_eq!(
        (search.url.host.to_string(), search.key_file),
        ("api.search.brave.com".into(), Some("/etc/p/k".into()))
    );
    for (text, part) in [
        ("[web]\nsurprise = 1\n", "surprise"),
        ("[web.search]\n", "kind"),
        ("[web.search]\nkind = \"other\"\n", "searxng"),
        ("[web.search]\nkind = \"searxng\"\n", "url"),
        ("[web.search]\nkind = \"searxng\"\nurl = \"http://10.0.0.1/\"\n", "in the clear"),
        ("[web.search]\nkind = \"brave\"\n", "key_file"),
        ("[web.search]\nkind = \"brave\"\nurl = \"nonsense\"\nkey_file = \"k\"\n", "url"),
    ] {
        let errors = load(&format!("config = 1\n{text}")).expect_err(text);
        assert!(listed(&errors).contains(part), "{text}: {}", listed(&errors));
    }
}

#[test]
fn the_keys_of_stored_events_are_in_a_file_beside_the_configuration() {
    let read = load("config = 1\n[server]\nevent_key_file = \"events.key\"\n");
    let server = read.unwrap_or_else(|errors| panic!("{}", listed(&errors))).server;
    assert_eq!(server.event_key_file.as_deref(), Some(Path::new("/etc/p/events.key")));
}

#[test]
fn every_section_is_read_and_files_lie_beside_the_configuration() {
    let read = load(ALL).unwrap_or_else(|errors| panic!("{}", listed(&errors)));
    assert_eq!(read.server.listen, Some("10.0.0.5:8443".parse().unwrap()));
    let files = TlsFiles { cert: "/etc/p/server.pem".into(), key: "/etc/postern/server.key".into() };
    assert_eq!(read.server.protection, Protection::Tls(files));
    assert_eq!(read.server.mcp_addresses, ["10.9.0.0/16".parse::<IpNet>().unwrap()]);
    assert_eq!(read.edge.domain.as_deref(), Some("tunnel.example"));
    assert_eq!(read.edge.tls.unwrap().cert, Path::new("/etc/p/edge.pem"));
    assert_eq!((read.worker.environment.as_deref(), read.worker.sessions), (Some("env_01"), 4));
    assert_eq!(read.worker.environment_key_file, Some("/etc/p/environment.key".into()));
    assert_eq!(read.gateway.edge.unwrap().to_string(), "https://edge.example");
    assert_eq!(read.gateway.proxy.unwrap().to_string(), "http://proxy.example:3128");
    assert_eq!(read.gateway.proxy_credentials_file, Some("/etc/p/proxy.credentials".into()));
    assert_eq!((read.gateway.tunnel.as_deref(), read.gateway.tls_dir), (Some("tnl_01"), Some("/etc/p/tls".into())));
    assert_eq!(read.gateway.identity_key_file, Some("/etc/p/identity.pub".into()));
    assert_eq!((read.custody.dir, read.audit.dir), (Some("/etc/p/custody".into()), Some("/var/audit".into())));
}

#[test]
fn nothing_written_is_the_defaults() {
    let read = load("config = 1\n").unwrap();
    assert_eq!(read, Deployment::default());
    assert_eq!((read.worker.sessions, read.server.protection), (16, Protection::Loopback));
}

#[test]
fn plain_http_is_for_loopback_or_behind_a_proxy() {
    let server = |listen: &str, more: &str| load(&format!("config = 1\n[server]\nlisten = \"{listen}\"\n{more}\n"));
    for listen in ["127.0.0.1:0", "[::1]:80", "127.9.9.9:80", "[::ffff:127.0.0.1]:80"] {
        assert_eq!(server(listen, "").unwrap().server.protection, Protection::Loopback, "{listen}");
    }
    for listen in ["0.0.0.0:80", "10.0.0.1:80", "[::]:80", "[::ffff:10.0.0.1]:80"] {
        let errors = listed(&server(listen, "").unwrap_err());
        assert!(errors.starts_with("postern.toml:3:10: listen: plain HTTP is for loopback only"), "{errors}");
        assert_eq!(server(listen, "behind = \"proxy\"").unwrap().server.protection, Protection::BehindProxy);
    }
}

#[test]
fn each_mistake_is_refused_where_it_stands() {
    let table = [
        ("listen = \"10.0.0.5:8443\"", "listen = \"localhost:80\"", "3:10: listen: "),
        ("listen = \"10.0.0.5:8443\"", "database = \"x\"", "3:1: not in this build: database"),
        ("listen = \"10.0.0.5:8443\"", "port = 80", "3:1: unknown key: port in [server]"),
        ("cert = \"server.pem\", ", "", "4:1: missing key: cert in [server.tls]"),
        ("cert = \"server.pem\"", "cert = \"\"", "cert names no file"),
        ("mcp_addresses = [\"10.9.0.0/16\"]", "behind = \"proxy\"", "4:1: tls and behind = \"proxy\" exclude"),
        ("mcp_addresses = [\"10.9.0.0/16\"]", "behind = \"wall\"", "5:10: behind must be \"proxy\""),
        ("10.9.0.0/16", "0.0.0.0/0", "5:18: mcp_addresses: 0.0.0.0/0 reaches across"),
        ("10.9.0.0/16", "ten", "5:18: mcp_addresses: \"ten\" is not a range"),
        ("domain = \"Tunnel.Example\"", "domain = \"10.0.0.1\"", "10:10: domain must be a DNS name"),
        ("domain = \"Tunnel.Example\"", "domain = \"a..b\"", "10:10: domain: not a DNS name"),
        ("https://postern.example:8443", "http://postern.example", "13:10: server: a key is not sent in the clear"),
        ("https://postern.example:8443", "https://me:pw@postern.example", "13:10: server: the URL must not hold"),
        ("env_01", "env_", "environment must be an id"),
        ("env_01", "Default!", "environment must be an id"),
        ("sessions = 4", "sessions = 0", "17:12: sessions must be from 1 to 1024"),
        ("https://edge.example", "http://edge.example", "edge must be https://HOST"),
        ("https://edge.example", "https://edge.example/x", "edge must be https://HOST"),
        ("http://proxy.example:3128", "https://proxy.example", "proxy must be http://HOST:PORT"),
        ("http://proxy.example:3128", "http://me:pw@proxy.example", "proxy: the URL must not hold a user name"),
        ("tnl_01", "tunnel", "tunnel must be an id: tnl_"),
        ("tls_dir = \"tls\"", "tls_dir = 5", "tls_dir must be a string"),
        ("dir = \"custody\"", "directory = \"custody\"", "unknown key: directory in [custody]"),
        ("[audit]\ndir", "[audit]\nkeep = 3\ndir", "unknown key: keep in [audit]"),
    ];
    for (from, to, message) in table {
        assert!(ALL.contains(from), "{from}");
        let errors = listed(&load(&ALL.replacen(from, to, 1)).map(|_| ()).expect_err(to));
        assert!(errors.contains(message), "{from} -> {to}: {errors}");
    }
}

#[test]
fn errors_of_all_sections_come_at_once() {
    let text = ALL.replace("sessions = 4", "sessions = -1").replace("tnl_01", "x").replace("\"/var/audit\"", "7");
    assert_eq!(load(&text).unwrap_err().len(), 3);
}

#[test]
fn http_to_this_very_machine_is_no_way_to_read_a_key_on() {
    for host in ["127.0.0.1:9000", "[::1]:9000", "localhost"] {
        let text = format!("config = 1\n[worker]\nserver = \"http://{host}\"\n");
        assert!(load(&text).unwrap().worker.server.is_some(), "{host}");
    }
    assert!(load("config = 1\n[worker]\nserver = \"http://10.0.0.1\"\n").is_err());
}

#[test]
fn what_a_role_needs_to_run_on_its_own_is_named() {
    let all = document(ALL);
    let none = document("config = 1\n[worker]\nenvironment = \"default\"\n[edge]\n");
    let table = [
        (Role::Server, "missing section: [server], with listen"),
        (Role::Edge, "4:2: missing key: domain in [edge]"),
        (Role::Worker, "2:2: missing key: environment_key_file in [worker]"),
        (Role::Worker, "3:15: environment must be an id here"),
        (Role::Gateway, "missing section: [gateway], with server, edge, tunnel, tunnel_token_file, tls_dir"),
    ];
    for (role, message) in table {
        assert_eq!(Deployment::missing(&all, role), [], "{role:?}");
        let errors = listed(&Deployment::missing(&none, role));
        assert!(errors.contains(message), "{role:?}: {errors}");
    }
    assert_eq!(
        load("config = 1\n[worker]\nenvironment = \"default\"\n").unwrap().worker.environment.as_deref(),
        Some("default")
    );
}
