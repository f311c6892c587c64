//! The trust line, as rules over `cargo metadata`: who may reach whom, from where crates come, under which licence.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use crate::run::{Outcome, command, output};

/// `.0` must not reach any of `.1`, directly or through others (normal dependencies).
const FORBIDDEN: &[(&str, &[&str], &str)] = &[
    ("postern-session", &["postern-custody", "tokio", "sqlx", "hyper"], "the loop is a pure state machine"),
    ("postern-model", &["tokio", "sqlx", "hyper", "axum"], "nouns know no runtime"),
    ("postern-policy", &["tokio", "sqlx", "hyper", "axum"], "decisions know no runtime"),
    ("postern-sandbox", &["postern-custody", "postern-egress"], "what builds sandboxes holds no secret"),
    ("postern-tools", &["postern-custody", "postern-egress", "sqlx"], "what serves tool uses holds no secret"),
    ("postern-custody", &["sqlx", "axum"], "the perimeter does not drag in what only the server needs"),
    ("postern-egress", &["sqlx", "axum"], "the perimeter does not drag in what only the server needs"),
    ("postern-runner", &["sqlx", "axum"], "the perimeter does not drag in what only the server needs"),
    (
        "postern-connector",
        &["postern-gateway", "postern-custody", "sqlx", "axum"],
        "what faces the edge sees ciphertext",
    ),
    ("postern-edge", &["postern-gateway", "postern-custody"], "the edge carries ciphertext"),
    (
        "postern-gateway",
        &["postern-connector", "rmcp", "sqlx", "axum"],
        "a tunnel forwards HTTP and parses with few words",
    ),
];

/// Two versions of one crate that the build carries, and why that cannot be mended here.
const DOUBLED: &[(&str, &str)] = &[
    ("cpufeatures", "sha2 and chacha20 of different generations, below sqlx and rand"),
    ("base64", "sqlx, and the PEM reader below rcgen"),
    ("hashbrown", "sqlx and indexmap"),
    ("block-buffer", "sha2 of two generations, below sqlx and rmcp"),
    ("crypto-common", "sha2 of two generations, below sqlx and rmcp"),
    ("digest", "sha2 of two generations, below sqlx and rmcp"),
    ("sha2", "sqlx and rmcp"),
    ("synstructure", "procedural macros of two generations; build time only"),
    ("untrusted", "aws-lc-rs's ring-compatible face, which jsonwebtoken asks for, and webpki"),
    ("syn", "procedural macros of two generations; build time only"),
    ("unicode-width", "cedar's error reports"),
];

const LICENCES: &[&str] = &[
    "MIT",
    "Apache-2.0",
    "BSD-2-Clause",
    "BSD-3-Clause",
    "ISC",
    "Zlib",
    "Unlicense",
    "0BSD",
    "CC0-1.0",
    "Unicode-3.0",
    "OpenSSL",
    "MIT-0",
    "BSL-1.0",
    "CDLA-Permissive-2.0",
    "Apache-2.0 WITH LLVM-exception",
];

/// Everything that breaks a rule.
pub(crate) fn findings() -> Outcome<Vec<String>> {
    let text = output(command("cargo").args([
        "metadata",
        "--format-version",
        "1",
        "--locked",
        "--filter-platform",
        "x86_64-unknown-linux-gnu",
    ]))?;
    let metadata: Value = serde_json::from_str(&text).map_err(|cause| format!("read cargo metadata: {cause}"))?;
    let graph = Graph::read(&metadata);
    let mut findings = graph.forbidden();
    findings.extend(graph.across_the_line());
    findings.extend(doubled()?);
    findings.extend(provenance(&metadata));
    Ok(findings)
}

struct Graph {
    names: BTreeMap<String, String>,
    side: BTreeMap<String, Side>,
    edges: BTreeMap<String, Vec<String>>,
}

#[derive(Clone, Copy, PartialEq)]
enum Side {
    Control,
    Perimeter,
}

impl Graph {
    fn read(metadata: &Value) -> Self {
        let mut graph = Self { names: BTreeMap::new(), side: BTreeMap::new(), edges: BTreeMap::new() };
        for package in items(&metadata["packages"]) {
            let (id, name) = (text(&package["id"]), text(&package["name"]));
            graph.names.insert(id, name.clone());
            let path = text(&package["manifest_path"]);
            if package["source"].is_null() && path.contains("/crates/control/") {
                graph.side.insert(name, Side::Control);
            } else if package["source"].is_null() && path.contains("/crates/perimeter/") {
                graph.side.insert(name, Side::Perimeter);
            }
        }
        for node in items(&metadata["resolve"]["nodes"]) {
            let normal = items(&node["deps"]).filter(|dep| items(&dep["dep_kinds"]).any(|kind| kind["kind"].is_null()));
            graph.edges.insert(text(&node["id"]), normal.map(|dep| text(&dep["pkg"])).collect());
        }
        graph
    }

    fn reach(&self, from: &str) -> BTreeSet<String> {
        let mut seen = BTreeSet::from([from.to_owned()]);
        let mut open = vec![from.to_owned()];
        while let Some(id) = open.pop() {
            for next in self.edges.get(&id).into_iter().flatten() {
                if seen.insert(next.clone()) {
                    open.push(next.clone());
                }
            }
        }
        seen
    }

    fn reached_names(&self, name: &str) -> BTreeSet<&str> {
        let start = self.names.iter().find(|(id, found)| *found == name && self.edges.contains_key(*id));
        let Some((id, _)) = start else { return BTreeSet::new() };
        self.reach(id)
            .iter()
            .filter(|other| *other != id)
            .filter_map(|other| self.names.get(other))
            .map(String::as_str)
            .collect()
    }

    fn forbidden(&self) -> Vec<String> {
        let mut findings = Vec::new();
        for (from, targets, reason) in FORBIDDEN {
            let reached = self.reached_names(from);
            if reached.is_empty() && !self.names.values().any(|name| name == from) {
                findings.push(format!("the rule about {from} names a crate that does not exist"));
            }
            for target in targets.iter().filter(|target| reached.contains(**target)) {
                findings.push(format!("{from} reaches {target}: {reason}"));
            }
        }
        findings
    }

    fn across_the_line(&self) -> Vec<String> {
        let mut findings = Vec::new();
        for (name, side) in &self.side {
            for other in self.reached_names(name) {
                if self.side.get(other).is_some_and(|found| found != side) {
                    findings.push(format!("{name} reaches {other} across the line between control and perimeter"));
                }
            }
        }
        findings
    }
}

/// Crates that the build carries in two versions, by cargo's own account of the features in use.
fn doubled() -> Outcome<Vec<String>> {
    let tree = output(command("cargo").args([
        "tree",
        "--workspace",
        "--locked",
        "--duplicates",
        "--edges",
        "normal",
        "--depth",
        "0",
    ]))?;
    // One version that is built for the machine and for a procedural macro is one version.
    let mut versions: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    for line in tree.lines() {
        let mut words = line.split(' ');
        if let (Some(name), Some(version)) = (words.next().filter(|name| !name.is_empty()), words.next()) {
            versions.entry(name).or_default().insert(version);
        }
    }
    let doubled: BTreeSet<&str> =
        versions.iter().filter(|(_, versions)| versions.len() > 1).map(|(name, _)| *name).collect();
    let new = doubled.iter().filter(|name| DOUBLED.iter().all(|(known, _)| known != *name));
    let gone = DOUBLED.iter().filter(|(known, _)| !doubled.contains(known));
    Ok(new
        .map(|name| format!("{name} is built in two versions"))
        .chain(gone.map(|(known, _)| format!("{known} has one version now: drop it from the list of doubled crates")))
        .collect())
}

fn provenance(metadata: &Value) -> Vec<String> {
    let mut findings = Vec::new();
    for package in items(&metadata["packages"]).filter(|package| !package["source"].is_null()) {
        let name = text(&package["name"]);
        if !text(&package["source"]).starts_with("registry+") && !text(&package["source"]).starts_with("sparse+") {
            findings.push(format!("{name} does not come from a registry"));
        }
        let licence = text(&package["license"]);
        if !licence.replace('/', " OR ").split(" OR ").any(allowed) {
            findings.push(format!("{name} has the licence '{licence}', which is not on the list"));
        }
    }
    findings
}

fn allowed(choice: &str) -> bool {
    let choice = choice.trim().trim_matches(['(', ')']);
    LICENCES.contains(&choice)
        || choice.split(" AND ").all(|part| LICENCES.contains(&part.trim().trim_matches(['(', ')'])))
}

fn items(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().into_iter().flatten()
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}
