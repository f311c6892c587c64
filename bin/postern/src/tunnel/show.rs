//! What `postern tunnel` prints for people.

use std::fmt::Write as _;

use serde_json::Value;

/// One tunnel on one line.
pub(super) fn line(tunnel: &Value) -> String {
    let name = tunnel["display_name"].as_str().unwrap_or("-");
    format!("{}  {}  {name}", plain(&tunnel["id"]), plain(&tunnel["domain"]))
}

/// Connections, certificates, routes and last errors.
pub(super) fn status(tunnel: &Value, status: &Value) -> String {
    let mut out = format!("{}\n", line(tunnel));
    let connections = items(&status["connections"]);
    if connections.is_empty() {
        out.push_str("  connections   none: start `postern gateway`, or `postern up` without --no-gateway\n");
    }
    for connection in connections {
        let (lane, peer, streams) =
            (plain(&connection["lane"]), plain(&connection["peer"]), plain(&connection["open_streams"]));
        let (since, bytes) = (second(&connection["since"]), plain(&connection["carried_bytes"]));
        let _ =
            writeln!(out, "  connection    {lane:<11} from {peer}, since {since}, {streams} streams, {bytes} bytes");
    }
    let certificates = items(&status["certificates"]);
    if certificates.is_empty() {
        out.push_str("  CA            none active: every call is refused until one is registered\n");
    }
    for certificate in certificates {
        let (id, days) = (plain(&certificate["id"]), plain(&certificate["days_left"]));
        let _ = writeln!(out, "  CA            {id}, {days} days left");
    }
    let gateways = items(&status["gateways"]);
    if gateways.is_empty() {
        out.push_str("  gateway       no control stream: its routes and certificate are not known here\n");
    }
    for process in gateways {
        gateway(&mut out, process);
    }
    for error in items(&status["last_errors"]) {
        let (at, code, message) = (second(&error["at"]), plain(&error["code"]), plain(&error["message"]));
        let _ = writeln!(out, "  error         {at} {code}: {message}");
    }
    out
}

fn gateway(out: &mut String, process: &Value) {
    let (name, gateway) = (plain(&process["name"]), &process["status"]["gateway"]);
    if !gateway.is_object() {
        let _ = writeln!(out, "  gateway       {name} does not answer: {}", plain(&process["error"]["message"]));
        return;
    }
    let _ = writeln!(out, "  gateway       {name}, since {}", second(&process["connected_at"]));
    let _ = writeln!(out, "  certificate   {} days left", plain(&gateway["leaf_days_left"]));
    let routes = items(&gateway["routes"]);
    if routes.is_empty() {
        out.push_str("  routes        none: write [[gateway.route]]\n");
    }
    for route in routes {
        let _ = writeln!(out, "  route         {} -> {}", plain(&route["name"]), plain(&route["upstream"]));
    }
    for error in items(&gateway["last_errors"]) {
        let (at, code, message) = (second(&error["at"]), plain(&error["code"]), plain(&error["message"]));
        let _ = writeln!(out, "  gateway error {at} {code}: {message}");
    }
}

/// Each hop and its time, or its failure.
pub(super) fn probe(route: &str, report: &Value) -> String {
    let mut out = String::new();
    for hop in items(&report["hops"]) {
        let name = plain(&hop["name"]);
        match hop["failure"]["message"].as_str() {
            None => {
                let _ = writeln!(out, "  {name:<22} {:>8.2} ms", hop["millis"].as_f64().unwrap_or_default());
            }
            Some(failure) => {
                let _ = writeln!(out, "  {name:<22} FAILED    {}", clean(failure));
            }
        }
    }
    let tools: Vec<String> = items(&report["tools"]).iter().map(plain).collect();
    match report["failure"].as_object() {
        None => {
            let _ = writeln!(out, "{route} answers; its tools: {}", tools.join(", "));
        }
        Some(_) => {
            let failure = &report["failure"];
            let (code, message) = (plain(&failure["code"]), plain(&failure["message"]));
            let _ =
                writeln!(out, "{route} does not answer: {code}: {message}\n  next: {}", plain(&failure["next_step"]));
        }
    }
    out
}

fn items(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

/// A scalar as text; what a peer chose is shown without control characters.
fn plain(value: &Value) -> String {
    match value {
        Value::String(text) => clean(text),
        Value::Null => "-".to_owned(),
        other => other.to_string(),
    }
}

/// A moment without the fractions of its second.
fn second(value: &Value) -> String {
    let text = plain(value);
    match text.split_once('.') {
        Some((whole, fraction)) if fraction.ends_with('Z') => format!("{whole}Z"),
        _ => text,
    }
}

fn clean(text: &str) -> String {
    text.chars().map(|character| if character.is_control() { ' ' } else { character }).take(400).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_tunnel_without_anything_says_what_to_do() {
        let text = status(&json!({"id": "tnl_1", "domain": "d", "display_name": null}), &json!({}));
        for wanted in ["postern gateway", "none active", "no control stream"] {
            assert!(text.contains(wanted), "{text}");
        }
    }

    #[test]
    fn a_gateway_tells_its_certificate_routes_and_errors() {
        let says = json!({"leaf_days_left": 89, "routes": [{"name": "wiki", "upstream": "https://wiki.internal:443/mcp"}],
            "last_errors": [{"at": "2026-01-02T03:04:05.678Z", "code": "upstream_unreachable", "message": "route wiki"}]});
        let standing = json!({"name": "vm", "connected_at": "2026-01-02T03:04:05.678Z", "status": {"gateway": says}});
        let silent = json!({"name": "other", "error": {"message": "no answer in 5 s"}});
        let text = status(&json!({"id": "tnl_1", "domain": "d"}), &json!({"gateways": [standing, silent]}));
        for wanted in [
            "vm, since 2026-01-02T03:04:05Z\n",
            "certificate   89 days left",
            "wiki -> https://wiki.internal:443/mcp",
            "2026-01-02T03:04:05Z upstream_unreachable: route wiki",
            "other does not answer: no answer in 5 s",
        ] {
            assert!(text.contains(wanted), "{wanted} in {text}");
        }
    }

    #[test]
    fn a_failed_hop_is_named() {
        let report = json!({"hops": [{"name": "edge", "millis": 0.1}, {"name": "inner TLS", "failure": {"message": "expired\u{1b}[2J"}}],
            "failure": {"code": "certificate_expired", "message": "m", "next_step": "renew"}});
        let text = probe("wiki", &report);
        assert!(text.contains("inner TLS") && text.contains("FAILED") && text.contains("next: renew"), "{text}");
        assert!(!text.contains('\u{1b}'), "{text}");
    }
}
