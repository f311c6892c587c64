//! Every key of zones and routes, tight and loose, one at a time: a key that is read and stands in neither table turns this red.

use super::*;
use crate::document::asked;
use crate::gateway::Routes;
use std::collections::BTreeSet;

/// A key, the file before and after it alone is loosened, and the kind of change that must be reported.
type Row = (&'static str, &'static str, &'static str, &'static str);

#[rustfmt::skip]
const LOOSENED: &[Row] = &[
    // The zone itself.
    ("zone.environment", "[zone.a]\nenvironment = 'env_2'\n[[zone.a.egress]]\nhost = 'a.example'", "{host}", "host"),
    ("zone.agents", "{zone}agents = ['agent_a']", "{zone}agents = ['agent_a', 'agent_b']", "sessions"),
    ("zone.mode", "{zone}[zone.b]\nmode = 'shadow'\nof = 'a'", "{zone}[zone.b]\nmode = 'enforce'\nenvironment = 'env_2'\n[[zone.b.egress]]\nhost = 'a.example'", "host"),
    ("zone.audit", "{zone}audit = 'disk'", "{zone}audit = 'written'", "audit"),
    ("zone.policy_file", "{zone}policy_file = 'forbid.cedar'", "{zone}policy_file = 'empty.cedar'", "policy"),
    ("zone.sandbox", "{zone}", "{sandbox}packages = 'session'", "sandbox_system"),
    ("zone.credential", "{host}", "{host}credential = 'k'\n{key}{header}", "credential"),
    ("zone.egress", "{zone}", "{host}", "host"),
    ("zone.mcp", "{zone}", "{mcp}", "mcp_server"),

    // Its sandboxes.
    ("zone.sandbox.memory", "{sandbox}memory = '1GiB'", "{sandbox}memory = '2GiB'", "sandbox_limit"),
    ("zone.sandbox.cpus", "{sandbox}cpus = 1.0", "{sandbox}cpus = 2.0", "sandbox_limit"),
    ("zone.sandbox.processes", "{sandbox}processes = 10", "{sandbox}processes = 20", "sandbox_limit"),
    ("zone.sandbox.disk", "{sandbox}disk = '1GiB'", "{sandbox}disk = '2GiB'", "sandbox_limit"),
    ("zone.sandbox.system", "{sandbox}", "{sandbox}system = { directories = ['/opt/a'] }", "sandbox_system"),
    ("zone.sandbox.system.directories", "{sandbox}system = { directories = ['/opt/a/b'] }", "{sandbox}system = { directories = ['/opt/a'] }", "sandbox_system"),
    ("zone.sandbox.system.image", "{sandbox}system = { image = '/srv/a' }", "{sandbox}system = { image = '/srv/b' }", "sandbox_system"),
    ("zone.sandbox.packages", "{sandbox}packages = 'none'", "{sandbox}packages = 'session'", "sandbox_system"),
    ("zone.sandbox.mounts", "{sandbox}", "{sandbox}mounts = [{ host = '/srv/a', at = '/a' }]", "sandbox_mount"),
    ("zone.sandbox.mounts.host", "{sandbox}mounts = [{ host = '/srv/a/b', at = '/a' }]", "{sandbox}mounts = [{ host = '/srv/a', at = '/a' }]", "sandbox_mount"),
    ("zone.sandbox.mounts.at", "{sandbox}mounts = [{ host = '/srv/a', at = '/a' }]", "{sandbox}mounts = [{ host = '/srv/a', at = '/b' }]", "sandbox_mount"),
    ("zone.sandbox.mounts.access", "{sandbox}mounts = [{ host = '/srv/a', at = '/a', access = 'read' }]", "{sandbox}mounts = [{ host = '/srv/a', at = '/a', access = 'write' }]", "sandbox_mount"),
    ("zone.sandbox.devices", "{sandbox}", "{sandbox}devices = ['/dev/fuse']", "sandbox_mount"),
    ("zone.sandbox.require", "{sandbox}require = ['seccomp', 'netns']", "{sandbox}require = ['netns']", "sandbox_control"),

    // Its rules.
    ("zone.egress.host", "{rule}host = 'a.example.org'", "{rule}host = '*.example.org'", "host"),
    ("zone.egress.scheme", "{host}ports = [443]", "{host}ports = [443]\nscheme = 'http'", "scheme"),
    ("zone.egress.inspect", "{host}", "{host}inspect = false", "inspection"),
    ("zone.egress.ports", "{host}", "{host}ports = [443, 8443]", "port"),
    ("zone.egress.methods", "{host}methods = ['GET']", "{host}", "method"),
    ("zone.egress.paths", "{host}paths = ['/v1/**']", "{host}", "path"),
    ("zone.egress.credential", "{host}{key}{header}", "{host}credential = 'k'\n{key}{header}", "credential"),
    ("zone.egress.client_certificate", "{host}{certificate}", "{host}client_certificate = 'c'\n{certificate}", "credential"),
    ("zone.egress.repositories", "{host}", "{host}repositories = true", "credential"),
    ("zone.egress.foreign_credentials", "{host}foreign_credentials = 'refuse'", "{host}foreign_credentials = 'allow'", "foreign_credentials"),
    ("zone.egress.websocket", "{host}", "{host}websocket = true", "websocket"),
    ("zone.egress.addresses", "{host}addresses = ['10.3.0.0/24']", "{host}addresses = ['10.0.0.0/8']", "addresses"),
    ("zone.egress.connect", "{host}", "{host}connect = '93.184.216.34:8443'", "addresses"),
    ("zone.egress.ca_file", "{host}", "{host}ca_file = 'ca.pem'", "authority"),

    // Its credentials, each used by a rule.
    ("zone.credential.name", "{host}credential = 'x'\n{named}name = 'x'\nsource = 'store:k'\n{header}", "{host}credential = 'k'\n{key}{header}", "credential"),
    ("zone.credential.source", "{use}{named}name = 'k'\nsource = 'store:other'\n{header}", "{use}{key}{header}", "credential"),
    ("zone.credential.source", "{use}{named}name = 'k'\nsource = 'api:OTHER'\nenv = 'K'\n{header}", "{use}{named}name = 'k'\nsource = 'api:K'\n{header}", "credential"),
    ("zone.credential.env", "{use}{key}{header}", "{use}{key}env = 'KEY'\n{header}", "variable"),
    ("zone.credential.inject", "{use}{key}{header}", "{use}{key}inject = [{ header = 'x-a' }, { header = 'x-b' }]", "credential"),
    ("zone.credential.inject.header", "{use}{key}{header}", "{use}{key}inject = [{ header = 'x-b' }]", "credential"),
    ("zone.credential.inject.basic", "{use}{key}inject = [{ basic = 'password' }]", "{use}{key}inject = [{ basic = 'username' }]", "credential"),
    ("zone.credential.inject.query", "{use}{key}inject = [{ query = 'a' }]", "{use}{key}inject = [{ query = 'b' }]", "credential"),
    ("zone.credential.inject.path", "{use}{key}inject = [{ path = '/x/{secret}/**' }]", "{use}{key}inject = [{ path = '/y/{secret}/**' }]", "credential"),
    ("zone.credential.inject.json", "{use}{key}inject = [{ json = '/a' }]", "{use}{key}inject = [{ json = '/b' }]", "credential"),
    ("zone.credential.inject.form", "{use}{key}inject = [{ form = 'a' }]", "{use}{key}inject = [{ form = 'b' }]", "credential"),

    // What it says of MCP servers.
    ("zone.mcp.server", "{mcp}", "{tools}server = 'v'\ntools = ['x']", "mcp_server"),
    ("zone.mcp.tools", "{mcp}", "{tools}server = 'w'\ntools = ['*']", "mcp_tool"),
    ("zone.mcp.methods", "{mcp}methods = ['resources/read']", "{mcp}methods = ['resources/*']", "mcp_method"),
    ("zone.mcp.arguments", "{mcp}arguments = { n = { eq = 1 } }", "{mcp}", "mcp_arguments"),
    ("zone.mcp.arguments.n.eq", "{mcp}arguments = { n = { eq = 1 } }", "{mcp}arguments = { n = { eq = 2 } }", "mcp_arguments"),
    ("zone.mcp.arguments.n.in", "{mcp}arguments = { n = { in = [1, 2] } }", "{mcp}arguments = { n = { in = [1, 2, 3] } }", "mcp_arguments"),
    ("zone.mcp.arguments.n.glob", "{mcp}arguments = { n = { glob = 'a/*' } }", "{mcp}arguments = { n = { glob = 'a/**' } }", "mcp_arguments"),
    ("zone.mcp.arguments.n.range", "{mcp}arguments = { n = { range = [1, 2] } }", "{mcp}arguments = { n = { range = [1, 9] } }", "mcp_arguments"),
    ("zone.mcp.arguments.n.each", "{mcp}arguments = { n = { each = { eq = 'a' } } }", "{mcp}arguments = { n = { each = { in = ['a', 'b'] } } }", "mcp_arguments"),
    ("zone.mcp.arguments.n.absent", "{mcp}arguments = { n = { absent = true } }", "{mcp}", "mcp_arguments"),

    // The gateway's routes.
    ("gateway.token_endpoint", "{zone}", "{token}", "token_endpoint"),
    ("gateway.token_endpoint.url", "{token}", "[[gateway.token_endpoint]]\nurl = 'https://other.example/token'", "token_endpoint"),
    ("gateway.token_endpoint.addresses", "{token}addresses = ['10.3.0.0/24']", "{token}addresses = ['10.0.0.0/8']", "addresses"),
    ("gateway.token_endpoint.ca_file", "{token}", "{token}ca_file = 'ca.pem'", "authority"),
    ("gateway.route", "{zone}", "{route}", "gateway_route"),
    ("gateway.route.host", "{route}", "{led}host = 'other'\nupstream = 'https://wiki.example/mcp'", "gateway_route"),
    ("gateway.route.upstream", "{route}", "{led}host = 'wiki'\nupstream = 'https://elsewhere.example/mcp'", "gateway_route"),
    ("gateway.route.url", "{route}", "{route}url = 'https://public.example/mcp'", "gateway_route"),
    ("gateway.route.addresses", "{route}addresses = ['10.3.0.0/24']", "{route}addresses = ['10.0.0.0/8']", "addresses"),
    ("gateway.route.ca_file", "{route}", "{route}ca_file = 'ca.pem'", "authority"),
    ("gateway.route.credential", "{route}", "{route}credential = { source = 'api:' }", "credential"),
    ("gateway.route.credential.source", "{route}credential = { source = 'store:k' }", "{route}credential = { source = 'store:j' }", "credential"),
    ("gateway.route.credential.header", "{route}credential = { source = 'store:k', header = 'x-a' }", "{route}credential = { source = 'store:k', header = 'x-b' }", "credential"),
    ("gateway.route.credential.format", "{route}credential = { source = 'store:k', format = 'a {secret}' }", "{route}credential = { source = 'store:k', format = 'b {secret}' }", "credential"),
    ("gateway.route.timeout", "{route}timeout = '10s'", "{route}timeout = '11s'", "gateway_limit"),
    ("gateway.route.max_request", "{route}max_request = '1MiB'", "{route}max_request = '2MiB'", "gateway_limit"),
    ("gateway.route.max_response", "{route}max_response = '1MiB'", "{route}max_response = '2MiB'", "gateway_limit"),
];

/// Keys that can open nothing, each with why.
const OPEN_NOTHING: &[(&str, &str)] = &[
    ("zone.of", "of which zone one in shadow is a candidate: it decides nothing"),
    ("zone.credential.inject.client_certificate", "true or left out; a rule's key says where it is presented"),
    ("zone.mcp.arguments.n", "the argument's own name"),
];

/// Keys that do not load, whatever they say.
const REFUSED: &[(&str, &str)] = &[
    ("zone.ask", "{zone}ask = 'x'"),
    ("zone.approvers", "{zone}approvers = 'x'"),
    ("zone.tools", "{zone}tools = 'x'"),
    ("zone.detect", "{zone}detect = 'x'"),
    ("zone.credential.kind", "{use}{key}{header}kind = 'x'"),
    ("zone.credential.shape", "{use}{key}{header}shape = 'x'"),
    ("zone.credential.format", "{use}{key}{header}format = 'x'"),
    ("zone.credential.hosts", "{use}{key}{header}hosts = 'x'"),
    ("zone.credential.danger_short", "{use}{key}{header}danger_short = 'x'"),
];

/// What rows have in common, a later one may hold earlier ones.
const PARTS: &[(&str, &str)] = &[
    ("{use}", "{host}credential = 'k'\n"),
    ("{key}", "{named}name = 'k'\nsource = 'store:k'\n"),
    ("{header}", "inject = [{ header = 'x-a' }]\n"),
    ("{certificate}", "{named}name = 'c'\nsource = 'store:c'\ninject = [{ client_certificate = true }]\n"),
    ("{host}", "{rule}host = 'a.example'\n"),
    ("{rule}", "{zone}[[zone.a.egress]]\n"),
    ("{mcp}", "{tools}server = 'w'\ntools = ['x']\n"),
    ("{tools}", "{zone}[[zone.a.mcp]]\n"),
    ("{sandbox}", "{zone}[zone.a.sandbox]\n"),
    ("{route}", "{led}host = 'wiki'\nupstream = 'https://wiki.example/mcp'\n"),
    ("{token}", "[[gateway.token_endpoint]]\nurl = 'https://login.example/token'\n"),
    ("{led}", "[[gateway.route]]\n"),
    ("{named}", "[[zone.a.credential]]\n"),
    ("{zone}", "[zone.a]\nenvironment = 'env_1'\n"),
];

fn load(row: &str) -> Result<(Zones, Routes), Vec<crate::ConfigError>> {
    let filled = PARTS.iter().fold(row.to_owned(), |text, (part, words)| text.replace(part, words));
    let mut document = Document::parse("postern.toml", &format!("config = 1\n{filled}\n"))?;
    document.attach("ca.pem", "-----BEGIN CERTIFICATE-----\nAA==\n-----END CERTIFICATE-----\n");
    document.attach("empty.cedar", "");
    let forbid = "@id(\"one\") forbid (principal, action == Postern::Action::\"tool.use\", resource);";
    document.attach("forbid.cedar", forbid);
    Ok((Zones::load(&document, &BTreeMap::new())?, Routes::load(&document)?))
}

fn loaded(row: &str) -> (Zones, Routes) {
    load(row).unwrap_or_else(|errors| panic!("{errors:?}\n{row}"))
}

/// All that is wider from one row to another.
pub(super) fn changes(tight: &str, loose: &str) -> Vec<Change> {
    let ((zones, routes), (looser, longer)) = (loaded(tight), loaded(loose));
    let of_zones = zones.diff(&looser).into_iter().flat_map(|one| one.wider);
    of_zones.chain(routes.diff(&longer).wider).collect()
}

#[test]
fn each_key_that_alone_is_loosened_is_reported() {
    for (key, tight, loose, kind) in LOOSENED {
        let wider = changes(tight, loose);
        assert!(wider.iter().any(|change| change.kind.code() == *kind), "{key}: {:?}", kinds(&wider));
    }
}

#[test]
fn no_key_that_is_read_is_without_its_loosening_or_its_reason() {
    let read = asked::during(|| {
        for (_, tight, loose, _) in LOOSENED {
            let _both = (loaded(tight), loaded(loose));
        }
    });
    let of_file = |(table, key): &(String, String)| {
        let whole = format!("{table}.{key}");
        let words: Vec<&str> = whole.split('.').collect();
        match words.as_slice() {
            ["zone", _, rest @ ..] if !rest.is_empty() => {
                // The elements of an argument's array have the tests that the argument itself has.
                Some(format!("zone.{}", rest.join(".")).replace(".n.each.", ".n."))
            }
            ["gateway", "route" | "token_endpoint", ..] => Some(whole),
            _ => None,
        }
    };
    let read: BTreeSet<String> = read.iter().filter_map(of_file).collect();
    let loosened = LOOSENED.iter().map(|(key, ..)| *key);
    let others = OPEN_NOTHING.iter().chain(REFUSED).map(|(key, _)| *key);
    assert_eq!(read, loosened.chain(others).map(str::to_owned).collect::<BTreeSet<_>>());
}

#[test]
fn what_is_said_to_be_refused_does_not_load() {
    for (key, row) in REFUSED {
        let errors = load(row).expect_err(key);
        assert!(errors.iter().any(|error| error.message.contains("not in this build")), "{key}: {errors:?}");
    }
}
