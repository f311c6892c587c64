use super::*;
use crate::reason::Reason;
use crate::zone::{AuditMode, Control, MountAccess};

#[test]
fn the_example_loads_with_all_it_says() {
    let zone = zone(LEDGER);
    assert_eq!(zone.name(), "ledger");
    let sandbox = zone.sandbox();
    assert_eq!((sandbox.memory_bytes, sandbox.cpus, sandbox.processes), (Some(2 << 30), Some(1.0), Some(256)));
    assert_eq!((sandbox.disk_bytes, sandbox.mounts[0].access), (Some(4 << 30), MountAccess::Read));
    assert_eq!(sandbox.require, Some(vec![Control::Seccomp, Control::Landlock, Control::Netns]));
    let credential = &zone.credentials()[0];
    assert_eq!(
        (credential.source.to_string().as_str(), credential.env.as_deref()),
        ("store:ledger-api", Some("LEDGER_API_KEY"))
    );
    assert_eq!(credential.inject, [Location::Header("authorization".to_owned()), Location::Basic(BasicPart::Password)]);
}

#[test]
fn a_variable_of_a_vault_is_seen_under_its_own_name_unless_the_zone_says_another() {
    for (env, seen) in [("", "Crm_Token"), ("env = \"CRM\"\n", "CRM")] {
        let from = "source = \"store:ledger-api\"\nenv = \"LEDGER_API_KEY\"\n";
        assert!(LEDGER.contains(from));
        let zone = zone(&LEDGER.replacen(from, &format!("source = \"api:Crm_Token\"\n{env}"), 1));
        let credential = zone.for_variable("Crm_Token").unwrap();
        assert_eq!((credential.source.to_string().as_str(), credential.env.as_deref()), ("api:Crm_Token", Some(seen)));
        assert_eq!(zone.for_variable("CRM_TOKEN"), None, "names are compared as they are");
    }
}

#[test]
fn hosts_of_a_vault_that_no_rule_leads_to_are_named() {
    let zone = zone(LEDGER);
    let name = zone.credentials()[0].name.clone();
    let reach = |hosts: &[&str]| crate::Reach {
        hosts: hosts.iter().map(|host| (*host).to_owned()).collect(),
        header: true,
        body: true,
    };
    for (hosts, expected) in [
        (&["api.ledger.internal"][..], &[][..]),
        (&["*"], &[]),
        (&["*.ledger.internal"], &[]),
        (&["api.ledger.internal", "a.example", "10.0.0.1"], &["a.example", "10.0.0.1"]),
        // Reached by a rule, but not by one that names the credential.
        (&["plain.example"], &["plain.example"]),
    ] {
        assert_eq!(zone.out_of_reach(&name, &reach(hosts)), expected, "{hosts:?}");
    }
}

#[test]
fn a_zone_says_how_safe_a_record_must_be_before_the_action() {
    let text = |line: &str| format!("config = 1\n[zone.a]\nenvironment = \"default\"\n{line}\n");
    for (line, mode) in
        [("", AuditMode::Written), ("audit = \"written\"", AuditMode::Written), ("audit = \"disk\"", AuditMode::Disk)]
    {
        assert_eq!(zone(&text(line)).audit(), mode, "{line}");
    }
    for line in ["audit = \"none\"", "audit = true"] {
        assert!(load(&text(line)).is_err(), "{line}");
    }
}

#[test]
fn every_error_of_a_file_comes_out_at_once_with_its_place() {
    let text = r#"config = 1
[zone.a]
environment = "nowhere"
agents = ["my agent"]
mode = "half"
colour = "red"

[[zone.a.credential]]
name = "k"
source = "vault:secret/k"
inject = [{ query = "a key" }, { header = "host" }]

[[zone.a.egress]]
host = "127.1"
ports = [443, 0, "x"]
methods = ["get"]
paths = ["v1"]
credential = "missing"
addresses = ["0.0.0.0/0"]
connect = "10.0.0.1:443"
scheme = "postgres"
inspect = false

[[zone.a.mcp]]
server = "wiki"

[zone.Bad]
environment = "default"
"#;
    let errors = load(text).unwrap_err();
    let seen: Vec<(usize, usize, &str)> =
        errors.iter().map(|error| (error.line, error.column, error.message.as_str())).collect();
    let expected = [
        (3, 15, "no environment is known here as \"nowhere\""),
        (4, 11, "agents: not an agent"),
        (5, 8, "mode must be \"enforce\" or \"shadow\""),
        (6, 1, "unknown key: colour in [zone.a]"),
        (10, 10, "not in this build: source = \"vault:\""),
        (11, 21, "query: a key has letters"),
        (11, 43, "header: host is set by the proxy"),
        (14, 8, "host: an odd way to write an IPv4 address"),
        (15, 15, "a port is a number from 1 to 65535"),
        (15, 18, "ports must be a whole number, not a string"),
        (16, 12, "methods: not a request method"),
        (17, 10, "paths: the path does not begin with /"),
        (19, 14, "addresses: 0.0.0.0/0 reaches across"),
        (21, 10, "not in this build: scheme = \"postgres\""),
        (22, 11, "inspect = false looks at no request, so the rule cannot have methods, paths, credential"),
        (24, 1, "the rule allows no tool"),
        (27, 7, "a zone's name has lower-case letters"),
    ];
    for (line, column, message) in expected {
        let found = seen
            .iter()
            .any(|(at_line, at_column, text)| (*at_line, *at_column) == (line, column) && text.starts_with(message));
        assert!(found, "{line}:{column} {message}\nin\n{}", super::listed(&errors));
    }
    assert_eq!(errors.len(), expected.len(), "{}", super::listed(&errors));
    assert!(errors.is_sorted());
}

#[test]
fn each_mistake_in_a_rule_or_credential_is_refused_where_it_stands() {
    let table = [
        ("host = \"api.ledger.internal\"\nscheme", "scheme", "missing key: host"),
        ("connect = \"10.3.0.7:8443\"", "connect = \"10.9.0.7:8443\"", "not a public address"),
        ("connect = \"10.3.0.7:8443\"", "connect = \"ledger:8443\"", "connect: "),
        ("addresses = [\"10.3.0.0/24\"]", "", "not a public address"),
        ("addresses = [\"10.3.0.0/24\"]", "addresses = []", "addresses is empty"),
        ("credential = \"ledger-api\"\n", "credential = \"other\"\n", "no credential of this zone is named \"other\""),
        ("scheme = \"https\"", "scheme = \"http\"", "a credential is not sent in the clear"),
        ("host = \"api.ledger.internal\"\nscheme", "host = \"*.amazonaws.com\"\nscheme", "reaches strangers"),
        ("host = \"api.ledger.internal\"\nscheme", "host = \"*.com\"\nscheme", "host: not a DNS name"),
        ("foreign_credentials = \"refuse\"", "foreign_credentials = \"maybe\"", "foreign_credentials must be"),
        ("paths = [\"/v1/**\"]", "paths = []", "paths is empty"),
        ("paths = [\"/v1/**\"]", "paths = [\"/v1/**/x\"]", "may only be the last segment"),
        ("paths = [\"/v1/**\"]", "paths = [\"/v1/../x\"]", "dot segment"),
        ("foreign_credentials = \"refuse\"", "ca_file = \"no.pem\"", "no.pem cannot be read"),
        ("env = \"LEDGER_API_KEY\"", "env = \"LD_PRELOAD\"", "meaning of its own"),
        ("env = \"LEDGER_API_KEY\"", "env = \"https_proxy\"", "env must be a variable's name"),
        ("inject = [{ header = \"authorization\" }, { basic = \"password\" }]", "inject = []", "inject is empty"),
        ("inject = [{ header = \"authorization\" }, { basic = \"password\" }]", "", "missing key: inject"),
        ("source = \"store:ledger-api\"", "source = \"ledger-api\"", "source must begin with"),
        ("source = \"store:ledger-api\"", "source = \"store:\"", "names nothing"),
        ("source = \"store:ledger-api\"", "source = \"api:\"", "followed by a variable's name"),
        ("source = \"store:ledger-api\"", "source = \"api:1KEY\"", "followed by a variable's name"),
        ("source = \"store:ledger-api\"\nenv = \"LEDGER_API_KEY\"", "source = \"api:PATH\"", "say with env"),
        (
            "source = \"store:ledger-api\"\nenv = \"LEDGER_API_KEY\"\ninject = [{ header = \"authorization\" }",
            "source = \"api:KEY\"\ninject = [{ query = \"key\" }",
            "headers and bodies alone",
        ),
        (
            "[[zone.ledger.egress]]\nhost = \"api.ledger.internal\"",
            "[[zone.ledger.credential]]\nname = \"a\"\nsource = \"api:A\"\ninject = [{ basic = \"password\" }]\n\
             [[zone.ledger.credential]]\nname = \"b\"\nsource = \"api:A\"\nenv = \"B\"\ninject = [{ basic = \"password\" }]\n\
             [[zone.ledger.egress]]\nhost = \"api.ledger.internal\"",
            "two credentials of this zone have the source api:A",
        ),
        ("header = \"authorization\"", "json = \"token\"", "json: a JSON pointer such as /auth/token"),
        ("header = \"authorization\"", "form = \"a=b\"", "form: a key has letters"),
        ("header = \"authorization\"", "path = \"/hook\"", "path: the path needs `{secret}` exactly once"),
        ("header = \"authorization\"", "query = \"k\", form = \"k\"", "names one place"),
        ("header = \"authorization\"", "query = 1", "query must be a string"),
        ("{ header = \"authorization\" }", "{}", "names one place"),
        ("header = \"authorization\"", "header = \"cookie\"", "not in this build: header = \"cookie\""),
        ("host = \"plain.example\"", "host = \"10.3.0.7\"", "host: 10.3.0.7 is not a public address"),
        ("host = \"plain.example\"", "host = \"::1\"", "host: ::1 is not a public address"),
        ("host = \"plain.example\"", "host = \"plain.example\"\ninspect = false", "needs scheme = \"https\""),
        ("paths = [\"/public/**\"]", "inspect = false", "passes through what ledger/egress/1 inspects"),
        (
            "methods = [\"GET\"]\n\n",
            "inspect = false\nforeign_credentials = \"allow\"\n",
            "cannot have foreign_credentials",
        ),
        (
            "host = \"*.pypi.example\"\nmethods = [\"GET\"]",
            "host = \"93.184.216.34\"\ninspect = false",
            "not its address",
        ),
        ("{ basic = \"password\" }", "{ client_certificate = true }", "it has no other place and no env"),
        ("{ basic = \"password\" }", "{ client_certificate = false }", "client_certificate is true, or left out"),
        (
            "foreign_credentials = \"refuse\"",
            "client_certificate = \"ledger-api\"",
            "ledger-api is no client certificate",
        ),
        ("mode = \"enforce\"", "mode = \"learn\"", "mode must be"),
        ("agents = [\"*\"]", "agents = []", "agents is empty"),
        ("agents = [\"*\"]", "agents = \"*\"", "agents must be an array of strings, not a string"),
        ("agents = [\"*\"]", "agents = [\"agent_a@+1\"]", "not an agent"),
        ("agents = [\"*\"]", "agents = [\"agent_a@01\"]", "not an agent"),
        ("addresses = [\"10.3.0.0/24\"]", "addresses = [\"::ffff:10.3.0.0/120\"]", "write it as IPv4"),
        ("header = \"authorization\"", "header = \"x-http-method-override\"", "cannot hold a credential"),
        ("header = \"authorization\"", "header = \"x_original_url\"", "cannot hold a credential"),
        ("header = \"authorization\"", "header = \"proxy-authenticate\"", "cannot hold a credential"),
        ("env = \"LEDGER_API_KEY\"", "env = \"NODE_OPTIONS\"", "meaning of its own"),
        ("env = \"LEDGER_API_KEY\"", "env = \"GIT_CONFIG_COUNT\"", "meaning of its own"),
        ("env = \"LEDGER_API_KEY\"", "env = \"SSLKEYLOGFILE\"", "meaning of its own"),
        ("memory = \"2GiB\"", "memory = 2", "memory must be a string"),
        ("require = [\"seccomp\"", "require = [\"magic\"", "no such control"),
        ("access = \"read\"", "access = \"all\"", "access must be"),
        ("at = \"/data\"", "at = \"/data/../etc\"", "absolute path without .."),
    ];
    for (from, to, message) in table {
        assert!(LEDGER.contains(from), "{from}");
        let errors = load(&LEDGER.replacen(from, to, 1)).map(|_| ()).unwrap_err();
        assert_eq!(errors.len(), 1, "{to}: {}", super::listed(&errors));
        assert!(errors[0].message.contains(message), "{to}: {}", errors[0]);
        assert!(errors[0].line > 1, "{}", errors[0]);
    }
}

#[test]
fn a_credential_goes_in_the_clear_to_loopback_only_and_says_so() {
    let text = LEDGER
        .replace("scheme = \"https\"\nports = [443]", "scheme = \"http\"")
        .replace("connect = \"10.3.0.7:8443\"\n", "")
        .replace("10.3.0.0/24", "127.0.0.0/8");
    let zones = load(&text).unwrap_or_else(|errors| panic!("{}", super::listed(&errors)));
    assert!(zones.warnings().iter().any(|warning| warning.message.contains("in the clear")));
    let permit = zones
        .named("ledger")
        .unwrap()
        .request(&holding("GET http://api.ledger.internal/v1/x", authorization()))
        .unwrap();
    assert_eq!(permit.dial("93.184.216.34".parse().unwrap()).unwrap_err().reason, Reason::AddressNotAllowed);
}

#[test]
fn shared_domains_and_unused_credentials_are_warned_about() {
    let text = LEDGER.replace("*.pypi.example", "*.github.io").replace("credential = \"ledger-api\"\n", "");
    let warnings: Vec<String> = load(&text).unwrap().warnings().iter().map(ToString::to_string).collect();
    assert!(warnings.iter().any(|warning| warning.contains("*.github.io reaches strangers")), "{warnings:?}");
    assert!(
        warnings.iter().any(|warning| warning.contains("credential ledger-api is named by no egress rule")),
        "{warnings:?}"
    );
    assert_eq!(load(LEDGER).unwrap().warnings(), []);
    let bucket = LEDGER.replace("host = \"api.ledger.internal\"\nscheme", "host = \"*.eu.s3.amazonaws.com\"\nscheme");
    assert!(load(&bucket).unwrap().warnings()[0].message.contains("reaches strangers"));
}

fn zones_of(agents: &[&str]) -> Result<Zones, Vec<ConfigError>> {
    let sections = agents
        .iter()
        .enumerate()
        .map(|(n, agents)| format!("[zone.z{n}]\nenvironment = \"default\"\nagents = [{agents}]\n"));
    load(&format!("config = 1\n{}", sections.collect::<String>()))
}

#[test]
fn two_zones_that_could_cover_one_session_do_not_load() {
    let (one, two) = (format!("\"sha256:{}\"", "a".repeat(64)), format!("\"sha256:{}\"", "b".repeat(64)));
    let table = [
        ("\"*\"", "\"agent_1\"", true),
        ("\"agent_1\"", "\"agent_1\"", true),
        ("\"agent_1\"", "\"agent_1@2\"", true),
        ("\"agent_1\", \"agent_2\"", "\"agent_2\"", true),
        (&one, "\"agent_1\"", true),
        (&one, &one, true),
        (&one, &two, false),
        ("\"agent_1\"", "\"agent_2\"", false),
        ("\"agent_1@1\"", "\"agent_1@2\"", false),
    ];
    for (first, second, meet) in table {
        let loaded = zones_of(&[first, second]);
        assert_eq!(loaded.is_err(), meet, "{first} {second}");
        if let Err(errors) = loaded {
            assert_eq!((errors.len(), errors[0].line), (1, 5), "{}", super::listed(&errors));
        }
    }
}

#[test]
fn a_session_is_covered_by_id_version_or_digest_and_never_by_name() {
    let digest = format!("\"sha256:{}\"", "a".repeat(64));
    let table = [
        ("\"*\"", true),
        ("\"agent_1\"", true),
        ("\"agent_1@2\"", true),
        (&digest, true),
        ("\"agent_1@3\"", false),
        ("\"agent_2\"", false),
    ];
    for (agents, covered) in table {
        let selected = zones_of(&[agents]).unwrap().select(&facts("agent_1"));
        match selected {
            Ok(zone) => assert!(covered && zone.name() == "z0", "{agents}"),
            Err(denial) => {
                assert!(!covered && denial.reason == Reason::ZoneNone, "{agents}");
                assert!(denial.next_step.contains("agent_1"));
            }
        }
    }
    assert!(zones_of(&["\"Billing bot\""]).is_err());
    let elsewhere = SessionFacts { environment_id: "env_2".to_owned(), ..facts("agent_1") };
    assert_eq!(zones_of(&["\"agent_2\""]).unwrap().select(&elsewhere).unwrap().name(), DENY_ALL);
}

#[test]
fn the_digest_changes_with_what_is_decided_and_not_with_the_layout() {
    let digest = |text: &str| zone(text).digest().to_owned();
    assert_eq!(
        digest(LEDGER),
        digest(&LEDGER.replace("methods = [\"GET\", \"POST\"]", "methods = [ \"GET\",\n  \"POST\" ] # comment"))
    );
    assert_ne!(digest(LEDGER), digest(&LEDGER.replace("/v1/**", "/v2/**")));
    let policy = |text: &str| with_policy(text).unwrap().digest().to_owned();
    let forbid = "forbid (principal, action == Postern::Action::\"tool.use\", resource);";
    assert_ne!(policy(forbid), policy(""));
}

#[test]
fn a_policy_file_that_permits_or_speaks_of_what_is_not_there_does_not_load() {
    let table = [
        ("permit (principal, action, resource);", "is a permit"),
        ("forbid (principal, action, resource) when { context.host == \"x\" };", "host"),
        (
            "forbid (principal, action == Postern::Action::\"egress.connect\", resource) when { context.method == \"GET\" };",
            "method",
        ),
        (
            "forbid (principal, action == Postern::Action::\"egress.request\", resource) when { context.port == \"443\" };",
            "policy_file",
        ),
        ("forbid (principal, action == Postern::Action::\"egress.everything\", resource);", "egress.everything"),
        ("forbid (principal == ?principal, action, resource);", "template"),
        (
            "forbid (principal, action == Postern::Action::\"egress.request\", resource == Postern::Tool::\"x\");",
            "policy_file",
        ),
        ("this is not cedar", "is not Cedar"),
        (
            "@id(\"a\") forbid (principal, action, resource); @id(\"a\") forbid (principal, action, resource);",
            "@id of another",
        ),
    ];
    for (policy, message) in table {
        let errors = with_policy(policy).map(|_| ()).unwrap_err();
        assert!(errors.iter().all(|error| error.line == 6), "{policy}: {}", super::listed(&errors));
        assert!(super::listed(&errors).contains(message), "{policy}: {}", super::listed(&errors));
    }
}

#[test]
fn what_is_wrong_with_a_policy_is_said_with_its_place_in_the_policy_file() {
    let sound = "// Höchstens lesen.\nforbid (principal, action == Postern::Action::\"tool.use\", resource);\n\n  ";
    for wrong in [
        "permit (principal, action, resource);",
        "forbid (principal, action, resource) when { context.nothing };",
        "forbid (principal == ?principal, action, resource);",
        "forbid (principal == Postern::Zone::\"typo\", action, resource);",
        ") is not Cedar",
    ] {
        let errors = with_policy(&format!("{sound}{wrong}")).map(|_| ()).unwrap_err();
        let told = super::listed(&errors);
        assert!(told.contains(":6:") && told.contains("policy_file: ledger.cedar:4:3: "), "{wrong}: {told}");
    }
}

#[test]
fn a_list_in_which_something_is_wrong_is_not_called_empty_as_well() {
    for (right, wrong) in [
        ("methods = [\"GET\", \"POST\"]", "methods = [5]"),
        ("paths = [\"/v1/**\"]", "paths = [5]"),
        ("ports = [443]", "ports = [\"443\"]"),
        ("addresses = [\"10.3.0.0/24\"]", "addresses = [5]"),
    ] {
        assert!(LEDGER.contains(right), "{right}");
        let errors = load(&LEDGER.replace(right, wrong)).unwrap_err();
        assert_eq!(errors.len(), 1, "{}", super::listed(&errors));
    }
}

#[test]
fn a_forbid_of_something_that_never_is_does_not_load() {
    let of = |action: &str, condition: &str| {
        format!("forbid (principal, action == Postern::Action::\"{action}\", resource) when {{ {condition} }};")
    };
    let request = |condition: &str| of("egress.request", condition);
    let vain = [
        ("forbid (principal == Postern::Zone::\"typo\", action, resource);".to_owned(), "no zone is named \"typo\""),
        (request("resource == Postern::Host::\"A.example.\""), "\"a.example\" in its one form"),
        (request("context.host == \"10.0.0.01\""), "is no host"),
        (request("context.method == \"delete\""), "methods are upper-case"),
        (request("context.port == 443 && [\"GET\", \"Delete\"].contains(context.method)"), "methods are upper-case"),
        (request("\"HTTPS\" == context.scheme"), "scheme is never"),
        (request("context.method != \"delete\""), "methods are upper-case"),
        (of("egress.connect", "context.transport == \"websocket\""), "transport is never"),
    ];
    for (policy, message) in vain {
        let errors = with_policy(&policy).map(|_| ()).unwrap_err();
        let told = super::listed(&errors);
        assert!(told.contains("that never is") && told.contains(message), "{policy}: {told}");
    }
    for sound in [
        "forbid (principal == Postern::Zone::\"ledger\", action, resource == Postern::Host::\"a.example\");".to_owned(),
        request("context.method == \"DELETE\" && context.host == \"a.example\" && context.path == \"delete\""),
        of("mcp.call", "context.method == \"tools/call\""),
    ] {
        with_policy(&sound).map_or_else(|errors| panic!("{sound}: {}", super::listed(&errors)), drop);
    }
}

#[test]
fn a_policy_file_that_was_not_attached_does_not_load() {
    let errors = load(&LEDGER.replace("mode = \"enforce\"", "policy_file = \"x.cedar\"")).unwrap_err();
    assert!(errors[0].message.contains("x.cedar cannot be read"));
}

#[test]
fn a_ca_file_is_attached_and_given_with_the_permit() {
    let mut text = LEDGER.replace("foreign_credentials = \"refuse\"", "ca_file = \"ca.pem\"");
    text.push_str("[worker]\nca_file = \"not-for-zones.pem\"\n");
    let mut document = Document::parse("postern.toml", &text).unwrap();
    document.attach("ca.pem", "-----BEGIN CERTIFICATE-----\nMA==\n-----END CERTIFICATE-----\n");
    let sent = serde_json::to_string(document.text()).unwrap();
    assert_eq!(document.referenced_files(), ["ca.pem"]);
    let received = Document::from_text(serde_json::from_str(&sent).unwrap()).unwrap();
    let zone = Zones::load(&received, &names()).unwrap().named("ledger").unwrap();
    let permit = zone.request(&request("GET https://api.ledger.internal/v1/x")).unwrap();
    assert!(permit.ca_pem().unwrap().contains("MA=="));
}

#[test]
fn a_name_with_quotes_in_a_broken_file_is_an_error_like_any_other() {
    let text = LEDGER
        .replace("source = \"store:ledger-api\"", "")
        .replace("credential = \"ledger-api\"", "credential = 'a\") || true'");
    let errors = load(&text).map(|_| ()).unwrap_err();
    assert_eq!(errors.len(), 1, "{}", super::listed(&errors));
    assert!(errors[0].message.contains("missing key: source"));
}
