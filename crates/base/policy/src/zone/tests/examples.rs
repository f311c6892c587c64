use super::*;
use crate::reason::Reason;
use crate::zone::diff::ChangeKind;
use crate::{McpCall, Routes};
use serde_json::json;

/// A shipped file, with the file of policies that it names.
struct Example {
    name: &'static str,
    text: &'static str,
    policies: Option<(&'static str, &'static str)>,
}

const EXAMPLES: &[Example] = &[
    Example { name: "deny-all", text: include_str!("../../../../../../examples/zones/deny-all.toml"), policies: None },
    Example {
        name: "software-engineering",
        text: include_str!("../../../../../../examples/zones/software-engineering.toml"),
        policies: Some((
            "software-engineering.cedar",
            include_str!("../../../../../../examples/zones/software-engineering.cedar"),
        )),
    },
    Example {
        name: "data-analysis",
        text: include_str!("../../../../../../examples/zones/data-analysis.toml"),
        policies: None,
    },
    Example {
        name: "customer-support",
        text: include_str!("../../../../../../examples/zones/customer-support.toml"),
        policies: None,
    },
];

fn document(name: &str) -> Document {
    let Example { text, policies, .. } = EXAMPLES.iter().find(|example| example.name == name).unwrap();
    let mut document = Document::parse(name, text).unwrap_or_else(|errors| panic!("{}", listed(&errors)));
    if let Some((file, policies)) = policies {
        document.attach(file, policies);
    }
    document
}

fn example(name: &str) -> Zones {
    Zones::load(&document(name), &names()).unwrap_or_else(|errors| panic!("{}", listed(&errors)))
}

fn only(name: &str) -> Arc<Zone> {
    example(name).iter().next().map(Arc::clone).unwrap()
}

/// Each line with the rule that allows it, or the reason of the refusal.
fn decides(zone: &Zone, table: &[(&str, Result<&str, Reason>)]) {
    for (line, expected) in table {
        let decided = zone.request(&request(line));
        let decided = decided.as_ref().map(|permit| permit.rule()).map_err(|denial| denial.reason);
        assert_eq!(decided, *expected, "{line}");
    }
}

fn calls(zone: &Zone, server: &str, tool: &str, arguments: &serde_json::Value) -> Result<String, Reason> {
    let call = McpCall { route: server, method: "tools/call", tool: Some(tool), arguments: arguments.as_object() };
    zone.mcp(&call).map(|permit| permit.rule().to_owned()).map_err(|denial| denial.reason)
}

#[test]
fn every_example_loads_without_an_error_or_a_warning() {
    for Example { name, .. } in EXAMPLES {
        let document = document(name);
        assert_eq!(example(name).warnings(), [], "{name}");
        let routes = Routes::load(&document).unwrap_or_else(|errors| panic!("{}", listed(&errors)));
        assert_eq!(routes.warnings(), [], "{name}");
        assert_eq!(example(name).iter().count(), 1, "{name}");
    }
}

#[test]
fn deny_all_lets_nothing_out() {
    let zone = only("deny-all");
    decides(
        &zone,
        &[
            ("GET https://example.com/", Err(Reason::HostNotAllowed)),
            ("GET http://169.254.169.254/latest/meta-data/", Err(Reason::RawAddress)),
        ],
    );
    assert_eq!(calls(&zone, "wiki", "search", &json!({})), Err(Reason::McpServerNotAllowed));
    assert!(zone.tool_use(&ToolUse { name: "bash".to_owned() }).is_ok());
}

#[test]
fn software_engineering_reads_and_proposes_and_neither_merges_nor_administers() {
    let zone = only("software-engineering");
    let rule = |number: u8| {
        ["software-engineering/egress/1", "software-engineering/egress/2", "software-engineering/egress/3"]
            [usize::from(number) - 1]
    };
    decides(
        &zone,
        &[
            ("GET https://code.example.com/api/v1/repos/acme/shop/contents/README.md", Ok(rule(1))),
            ("POST https://code.example.com/api/v1/repos/acme/shop/pulls", Ok(rule(2))),
            ("POST https://code.example.com/api/v1/repos/acme/shop/issues/7/comments", Ok(rule(2))),
            ("GET https://packages.example.com/pypi/simple/requests/", Ok(rule(3))),
            ("PUT https://code.example.com/api/v1/repos/acme/shop/pulls/7/merge", Err(Reason::MethodNotAllowed)),
            ("POST https://code.example.com/api/v1/repos/acme/shop/pulls/7/merge", Err(Reason::MethodNotAllowed)),
            ("GET https://code.example.com/api/v1/repos/other/shop/contents/x", Err(Reason::PathNotAllowed)),
            ("DELETE https://code.example.com/api/v1/repos/acme/shop", Err(Reason::MethodNotAllowed)),
            ("PUT https://packages.example.com/pypi/shop/1.0", Err(Reason::MethodNotAllowed)),
            ("GET https://gist.example.com/api/v1/repos/acme/shop", Err(Reason::HostNotAllowed)),
        ],
    );
    let step = json!({"path": "/engineering/deploy"});
    assert_eq!(calls(&zone, "wiki", "read_page", &step), Ok("software-engineering/mcp/2".to_owned()));
    assert_eq!(calls(&zone, "wiki", "read_page", &json!({"path": "/hr/salaries"})), Err(Reason::ArgumentNotAllowed));
    assert_eq!(calls(&zone, "wiki", "delete_page", &step), Err(Reason::ToolNotAllowed));
}

#[test]
fn what_software_engineering_forbids_stays_forbidden_under_a_wider_rule() {
    let mut document = document("software-engineering");
    let more = "\n[[zone.software-engineering.egress]]\nhost = \"code.example.com\"\n";
    let text = format!("{}{more}", document.text().text);
    let attached = document.text().attachments.clone();
    document = Document::parse("wider", &text).unwrap();
    attached.iter().for_each(|(name, text)| document.attach(name, text));
    let wider = Zones::load(&document, &names()).unwrap().named("software-engineering").unwrap();
    decides(
        &wider,
        &[
            ("DELETE https://code.example.com/api/v1/repos/acme/shop", Err(Reason::PolicyForbidden)),
            ("POST https://code.example.com/api/v1/repos/acme/shop/keys", Err(Reason::PolicyForbidden)),
            ("PUT https://code.example.com/api/v1/repos/acme/shop/pulls/7/merge", Ok("software-engineering/egress/4")),
        ],
    );
}

#[test]
fn data_analysis_queries_and_looks_up_and_loads_nothing_from_outside() {
    let zone = only("data-analysis");
    decides(
        &zone,
        &[
            ("POST https://warehouse.internal:8443/v1/query", Ok("data-analysis/egress/1")),
            ("GET https://warehouse.internal:8443/v1/query/42", Ok("data-analysis/egress/2")),
            ("GET https://warehouse.internal:8443/v1/catalog/sales/orders", Ok("data-analysis/egress/2")),
            ("POST https://warehouse.internal:8443/v1/load", Err(Reason::PathNotAllowed)),
            ("DELETE https://warehouse.internal:8443/v1/query/42", Err(Reason::MethodNotAllowed)),
            ("POST https://warehouse.internal/v1/query", Err(Reason::PortNotAllowed)),
            ("GET https://pypi.org/simple/pandas/", Err(Reason::HostNotAllowed)),
        ],
    );
    let report = |more: serde_json::Value| calls(&zone, "reports", "save_report", &more);
    assert_eq!(report(json!({"folder": "drafts", "rows": 10})), Ok("data-analysis/mcp/2".to_owned()));
    assert_eq!(report(json!({"folder": "board", "rows": 10})), Err(Reason::ArgumentNotAllowed));
    assert_eq!(report(json!({"folder": "drafts", "rows": 10_001})), Err(Reason::ArgumentNotAllowed));
    assert_eq!(report(json!({"folder": "drafts", "rows": 10, "publish": true})), Err(Reason::ArgumentNotAllowed));
}

#[test]
fn customer_support_reads_one_order_at_a_time_and_drafts() {
    let zone = only("customer-support");
    decides(
        &zone,
        &[
            ("GET https://orders.internal/tenants/acme/orders/1001", Ok("customer-support/egress/1")),
            ("GET https://orders.internal/tenants/acme/orders/1001/shipments", Ok("customer-support/egress/1")),
            ("GET https://orders.internal/tenants/acme/orders", Err(Reason::PathNotAllowed)),
            ("GET https://orders.internal/tenants/acme/orders/", Err(Reason::PathNotAllowed)),
            ("GET https://orders.internal/tenants/other/orders/1001", Err(Reason::PathNotAllowed)),
            ("POST https://orders.internal/tenants/acme/orders/1001", Err(Reason::MethodNotAllowed)),
            ("POST https://mail.internal/send", Err(Reason::HostNotAllowed)),
        ],
    );
    let draft = |visibility: &str| calls(&zone, "tickets", "draft_reply", &json!({"visibility": visibility}));
    assert_eq!(draft("internal"), Ok("customer-support/mcp/2".to_owned()));
    assert_eq!(draft("customer"), Err(Reason::ArgumentNotAllowed));
    let back = |amount: f64| {
        calls(&zone, "returns", "start_return", &json!({"amount": amount, "currency": "EUR", "reason": "late"}))
    };
    assert_eq!(back(49.5), Ok("customer-support/mcp/3".to_owned()));
    assert_eq!(back(50.01), Err(Reason::ArgumentNotAllowed));
}

#[test]
fn every_example_reaches_more_than_deny_all_and_none_holds_another() {
    let wider = |from: &str, to: &str| {
        let differences = example(from).diff(&example(to));
        let [difference] = differences.as_slice() else { panic!("{differences:?}") };
        let reaching =
            [ChangeKind::Host, ChangeKind::Path, ChangeKind::Method, ChangeKind::McpServer, ChangeKind::Credential];
        difference.wider.iter().filter(|change| reaching.contains(&change.kind)).count()
    };
    for Example { name: one, .. } in &EXAMPLES[1..] {
        assert_eq!(wider(one, "deny-all"), 0, "{one}");
        assert!(wider("deny-all", one) > 0, "{one}");
        for Example { name: other, .. } in EXAMPLES[1..].iter().filter(|other| other.name != *one) {
            assert!(wider(one, other) > 0, "{one} holds {other}");
        }
    }
}
