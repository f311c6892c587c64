//! Reading a zone's credentials: `[[zone.NAME.credential]]`.

use crate::credential::{BasicPart, Credential, CredentialName, Location, Source};
use crate::document::{Item, Table};
use crate::overrides;
use crate::reach::Reach;
use std::collections::BTreeSet;
use std::path::PathBuf;

/// All credentials of the zone; `None` if one of them is wrong.
pub(super) fn read_credentials(zone: &mut Table<'_>) -> Option<Vec<Credential>> {
    let (mut names, mut variables, mut sources) = (BTreeSet::new(), BTreeSet::new(), BTreeSet::new());
    let tables = zone.tables("credential");
    let given = tables.len();
    let mut credentials = Vec::new();
    for mut table in tables {
        let credential = read_credential(&mut table);
        if let Some(credential) = credential {
            let at = table.at();
            if !names.insert(credential.name.clone()) {
                table.reader().error(at, format!("two credentials of this zone are named {}", credential.name));
            }
            if let Some(variable) = credential.env.clone().filter(|variable| !variables.insert(variable.clone())) {
                table.reader().error(at, format!("two credentials of this zone have the variable {variable}"));
            }
            if matches!(credential.source, Source::Api(_)) && !sources.insert(credential.source.clone()) {
                let message = format!("two credentials of this zone have the source {}", credential.source);
                table.reader().error(at, message);
            }
            credentials.push(credential);
        }
    }
    (credentials.len() == given).then_some(credentials)
}

fn read_credential(table: &mut Table<'_>) -> Option<Credential> {
    table.not_in_this_build(&["kind", "shape", "format", "hosts", "danger_short"]);
    let name = read_name(table);
    let source = table.string("source");
    let source = table.required("source", source).and_then(|item| read_source(table, item));
    let env = read_variable(table);
    let inject = read_inject(table);
    let mut credential = Credential { name: name?, source: source?, env: env?, inject: inject? };
    (check_certificate(table, &credential) && complete_variable(table, &mut credential)).then_some(credential)
}

/// A variable of a vault stands in headers and bodies alone, and the sandbox sees its placeholder under its own name, unless the zone says another.
fn complete_variable(table: &Table<'_>, credential: &mut Credential) -> bool {
    let Source::Api(name) = &credential.source else { return true };
    let elsewhere = credential.inject.iter().find(|location| !Reach::ANYWHERE.covers_place(location));
    if let Some(elsewhere) = elsewhere {
        let message = format!(
            "a vault's variable goes into headers and bodies alone (header, basic, json, form), not {elsewhere}"
        );
        table.reader().error(table.at(), message);
        return false;
    }
    if credential.env.is_none() && is_reserved(name) {
        let message =
            format!("{name} has a meaning of its own in the sandbox; say with env under which name it is seen there");
        table.reader().error(table.at(), message);
        return false;
    }
    credential.env.get_or_insert_with(|| name.clone());
    true
}

/// A client certificate is proven, not sent: it has no other place, and nothing in the sandbox stands for it.
fn check_certificate(table: &Table<'_>, credential: &Credential) -> bool {
    let alone = credential.inject.len() == 1 && credential.env.is_none();
    let holds = !credential.is_client_certificate() || alone;
    if !holds {
        table
            .reader()
            .error(table.at(), "a client certificate is presented by the proxy: it has no other place and no env");
    }
    holds
}

fn read_name(table: &mut Table<'_>) -> Option<CredentialName> {
    let item = table.string("name");
    let item = table.required("name", item)?;
    let well_formed = (1..=64).contains(&item.value.len())
        && item.value.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.'));
    if !well_formed {
        table.reader().error(item.at, "name must have letters, digits, `-`, `_` and `.` only, at most 64");
    }
    well_formed.then(|| CredentialName::new(item.value))
}

/// Where a secret comes from.
pub(crate) fn read_source(table: &Table<'_>, item: Item<&str>) -> Option<Source> {
    let known = "store: env: file: command: vault: aws-sm: k8s: api:";
    let Some((kind, rest)) = item.value.split_once(':') else {
        table.reader().error(item.at, format!("source must begin with one of {known}"));
        return None;
    };
    let source = match kind {
        "store" => Some(Source::Store(rest.to_owned())),
        "env" => Some(Source::Env(rest.to_owned())),
        "file" => Some(Source::File(PathBuf::from(rest))),
        "api" if !is_variable(rest) => {
            let message = "source = \"api:\" is followed by a variable's name: letters, digits and `_`, no digit first";
            table.reader().error(item.at, message);
            return None;
        }
        "api" => Some(Source::Api(rest.to_owned())),
        "command" | "vault" | "aws-sm" | "k8s" => {
            table.reader().error(item.at, format!("not in this build: source = \"{kind}:\""));
            return None;
        }
        _ => None,
    };
    if source.is_none() {
        table.reader().error(item.at, format!("source must begin with one of {known}"));
    }
    if rest.is_empty() {
        table.reader().error(item.at, format!("source names nothing after {kind}:"));
        return None;
    }
    source
}

/// What vaults take for a variable's name.
fn is_variable(name: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
    (1..=255).contains(&name.len()) && name.bytes().all(plain) && !name.as_bytes()[0].is_ascii_digit()
}

/// The variable for the placeholder. The outer `None` is an error.
fn read_variable(table: &mut Table<'_>) -> Option<Option<String>> {
    let Some(item) = table.string("env") else {
        return (!table.has("env")).then_some(None);
    };
    let first = item.value.bytes().next().is_some_and(|byte| byte.is_ascii_uppercase() || byte == b'_');
    let all = item.value.bytes().all(|byte| byte.is_ascii_uppercase() || byte.is_ascii_digit() || byte == b'_');
    if !(first && all) {
        table.reader().error(item.at, "env must be a variable's name: upper-case letters, digits and `_`");
        return None;
    }
    if is_reserved(item.value) {
        table.reader().error(
            item.at,
            format!("env: {} has a meaning of its own in the sandbox; choose another name", item.value),
        );
        return None;
    }
    Some(Some(item.value.to_owned()))
}

/// Variables that programs obey: a random text in them breaks the sandbox or the proxy settings.
fn is_reserved(name: &str) -> bool {
    RESERVED.contains(&name)
        || RESERVED_BEGINNINGS.iter().any(|beginning| name.starts_with(beginning))
        || RESERVED_ENDS.iter().any(|end| name.ends_with(end))
}

fn read_inject(table: &mut Table<'_>) -> Option<Vec<Location>> {
    if !table.has("inject") {
        table.required::<()>("inject", None);
        return None;
    }
    let tables = table.tables("inject");
    let given = tables.len();
    if given == 0 {
        table.reader().error(table.at(), "inject is empty, so the credential could be used nowhere");
        return None;
    }
    let locations: Vec<Location> = tables.into_iter().filter_map(|mut entry| read_location(&mut entry)).collect();
    (locations.len() == given).then_some(locations)
}

fn read_location(table: &mut Table<'_>) -> Option<Location> {
    let given: Vec<&str> = PLACES.iter().copied().filter(|key| table.has(key)).collect();
    match given[..] {
        ["header"] => table.string("header").and_then(|item| read_header(table, item)),
        ["basic"] => table.string("basic").and_then(|item| read_basic(table, item)),
        ["query"] => table.parsed("query").map(|item| Location::Query(item.value)),
        ["path"] => table.parsed("path").map(|item| Location::Path(item.value)),
        ["json"] => table.parsed("json").map(|item| Location::Json(item.value)),
        ["client_certificate"] => read_certificate(table),
        ["form"] => table.parsed("form").map(|item| Location::Form(item.value)),
        _ => {
            table.reader().error(table.at(), ONE_PLACE);
            None
        }
    }
}

fn read_certificate(table: &mut Table<'_>) -> Option<Location> {
    let item = table.boolean("client_certificate")?;
    if !item.value {
        table.reader().error(item.at, "client_certificate is true, or left out");
    }
    item.value.then_some(Location::ClientCertificate)
}

fn read_basic(table: &Table<'_>, item: Item<&str>) -> Option<Location> {
    let part = match item.value {
        "username" => Some(BasicPart::Username),
        "password" => Some(BasicPart::Password),
        _ => None,
    };
    if part.is_none() {
        table.reader().error(item.at, "basic must be \"username\" or \"password\"");
    }
    part.map(Location::Basic)
}

fn read_header(table: &Table<'_>, item: Item<&str>) -> Option<Location> {
    let Ok(name) = http::HeaderName::try_from(item.value) else {
        table.reader().error(item.at, "header is not the name of a header");
        return None;
    };
    if name == http::header::COOKIE {
        table.reader().error(item.at, "not in this build: header = \"cookie\"");
        return None;
    }
    if reserved_header(&name) {
        table.reader().error(item.at, format!("header: {name} is set by the proxy and cannot hold a credential"));
        return None;
    }
    Some(Location::Header(name.as_str().to_owned()))
}

/// Whether a header is not for a credential.
pub(crate) fn reserved_header(name: &http::HeaderName) -> bool {
    FRAMING.contains(&name.as_str()) || overrides::is_header(name)
}

/// What an entry of `inject` names.
const PLACES: &[&str] = &["header", "basic", "query", "path", "json", "form", "client_certificate"];
const ONE_PLACE: &str = "an inject entry names one place: { header = \"...\" }, { basic = \"password\" }, \
     { query = \"key\" }, { path = \"/x/{secret}/**\" }, { json = \"/pointer\" }, { form = \"key\" } or \
     { client_certificate = true }";

/// Headers that say where a message goes or ends, or that the proxy rewrites.
const FRAMING: &[&str] = &[
    "host",
    "connection",
    "content-length",
    "transfer-encoding",
    "te",
    "trailer",
    "upgrade",
    "expect",
    "range",
    "accept-encoding",
    "content-encoding",
    "content-type",
    "proxy-authorization",
    "proxy-authenticate",
    "proxy-connection",
    "keep-alive",
    "date",
    "via",
    "forwarded",
];

/// Variables that a shell, a loader or an interpreter obeys.
const RESERVED: &[&str] = &[
    "_",
    "BASHOPTS",
    "BASH_ENV",
    "CDPATH",
    "CURL_HOME",
    "DENO_CERT",
    "ENV",
    "GIT_ASKPASS",
    "GIT_EXEC_PATH",
    "GIT_PROXY_COMMAND",
    "GIT_SSH",
    "GIT_SSH_COMMAND",
    "GIT_SSL_CAINFO",
    "GIT_SSL_NO_VERIFY",
    "GLIBC_TUNABLES",
    "HOME",
    "HOSTALIASES",
    "IFS",
    "JAVA_TOOL_OPTIONS",
    "JDK_JAVA_OPTIONS",
    "LANG",
    "LANGUAGE",
    "LOCALDOMAIN",
    "NODE_OPTIONS",
    "NODE_PATH",
    "NODE_TLS_REJECT_UNAUTHORIZED",
    "OPENSSL_CONF",
    "OPENSSL_MODULES",
    "PATH",
    "PGSSLROOTCERT",
    "POSIXLY_CORRECT",
    "PROMPT_COMMAND",
    "PS0",
    "PS1",
    "PS2",
    "PS4",
    "PWD",
    "PYTHONBREAKPOINT",
    "PYTHONHOME",
    "PYTHONPATH",
    "PYTHONSTARTUP",
    "PYTHONUSERBASE",
    "PYTHONWARNINGS",
    "RES_OPTIONS",
    "RUBYLIB",
    "RUBYOPT",
    "SHELL",
    "SHELLOPTS",
    "SSLKEYLOGFILE",
    "TERM",
    "TMPDIR",
    "TZ",
    "UID",
    "USER",
    "_JAVA_OPTIONS",
];
const RESERVED_BEGINNINGS: &[&str] = &["BASH_FUNC_", "GIT_CONFIG", "LC_", "LD_", "PERL5", "SSL_CERT_"];
const RESERVED_ENDS: &[&str] = &["_CA_BUNDLE", "_EXTRA_CA_CERTS", "_PROXY"];
