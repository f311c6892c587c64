//! The Cedar text of a zone's rules: one permit per rule, carrying the rule's id, asking for the rule's facts.

/// The name of a fact: this matcher of this rule agreed.
pub(crate) fn fact(rule: &str, matcher: &str) -> String {
    format!("{rule}:{matcher}")
}

/// The permit of one egress rule. It speaks at three decision points, with the facts that exist at each.
pub(super) fn egress_permit(zone: &str, rule: &str, credentials: &[&str]) -> String {
    let actions = if !credentials.is_empty() {
        r#"[Postern::Action::"egress.connect", Postern::Action::"egress.request", Postern::Action::"credential.use"]"#
    } else {
        r#"[Postern::Action::"egress.connect", Postern::Action::"egress.request"]"#
    };
    let connect = asked("egress.connect", rule, &["host", "port", "scheme"]);
    let request = asked("egress.request", rule, &["host", "port", "scheme", "method", "path"]);
    let use_of = |credential: &&str| {
        let facts = asked("credential.use", rule, &["host", "port", "scheme", "method", "path", "location"]);
        format!(" ||\n  ({facts} && resource == Postern::Credential::{})", quoted(credential))
    };
    let use_of: String = credentials.iter().map(use_of).collect();
    format!(
        "permit (\n  principal == Postern::Zone::{},\n  action in {actions},\n  resource\n) when {{\n  {connect} ||\n  {request}{use_of}\n}};\n",
        quoted(zone)
    )
}

/// The permit of a rule whose connections pass through uninspected: of connections, and of no request.
pub(super) fn passing_permit(zone: &str, rule: &str) -> String {
    let connect = asked("egress.connect", rule, &["host", "port", "scheme"]);
    format!(
        "permit (\n  principal == Postern::Zone::{},\n  action == Postern::Action::\"egress.connect\",\n  resource\n) when {{\n  {connect}\n}};\n",
        quoted(zone)
    )
}

/// The permit of one MCP rule. Facts about a tool exist only where one is called.
pub(super) fn mcp_permit(zone: &str, rule: &str, server: &str) -> String {
    let call = asked("mcp.call", rule, &["server", "method", "tool", "arguments"]);
    let other = asked("mcp.call", rule, &["server", "method"]);
    format!(
        "permit (\n  principal == Postern::Zone::{},\n  action == Postern::Action::\"mcp.call\",\n  resource == Postern::McpServer::{}\n) when {{\n  {call} ||\n  (context.method != \"tools/call\" && {other})\n}};\n",
        quoted(zone),
        quoted(server)
    )
}

/// The permit for the tools of a sandbox: all of them, until a policy file forbids some.
pub(super) fn tools_permit(zone: &str) -> String {
    format!(
        "permit (principal == Postern::Zone::{}, action == Postern::Action::\"tool.use\", resource);\n",
        quoted(zone)
    )
}

fn asked(action: &str, rule: &str, matchers: &[&str]) -> String {
    let facts: Vec<String> = matchers.iter().map(|matcher| quoted(&fact(rule, matcher))).collect();
    format!("(action == Postern::Action::{} && context.facts.containsAll([{}]))", quoted(action), facts.join(", "))
}

/// A Cedar string. Names are plain where a zone loads; in one that will not, they can be anything.
fn quoted(text: &str) -> String {
    format!("\"{}\"", text.escape_debug())
}
