//! `postern audit`: is the record whole, and what does it say.

use std::path::{Path, PathBuf};

use postern_audit::{BadKey, Decision, Destination, Entry, Kind, Noted, PublicKey, Report};

use crate::cli::{AuditVerb, Place};
use crate::config;
use crate::failure::{Failure, Or, chain};

/// Runs the verb.
///
/// # Errors
/// [`Failure::NotHeld`] when the chain or a signature is broken, naming the first broken record.
pub(crate) fn run(verb: &AuditVerb) -> Result<(), Failure> {
    match verb {
        AuditVerb::Verify { path, key, at_least, place } => {
            let noted = noted(key.as_deref(), at_least.as_deref())?;
            match there(path.as_deref(), place) {
                // Whoever noted something of a log had one.
                Err(Failure::Misused(gone)) if key.is_some() || at_least.is_some() => Err(Failure::NotHeld(gone)),
                path => verify(&path?, &noted),
            }
        }
        AuditVerb::Show { path, session, json, place } => {
            show(&there(path.as_deref(), place)?, session.as_deref(), *json)
        }
    }
}

/// The log that is meant, which has to be there.
fn there(path: Option<&Path>, place: &Place) -> Result<PathBuf, Failure> {
    let path = path.map_or_else(|| log_of(place), |path| Ok(path.to_owned()))?;
    match path.try_exists() {
        Ok(true) => Ok(path),
        Ok(false) => Err(Failure::Misused(format!(
            "no audit log is at {}; name its directory or one of its files, or --data-dir or --config of the perimeter that writes it",
            path.display()
        ))),
        Err(error) => Err(error).or_misused(&format!("look for the audit log {}", path.display())),
    }
}

/// The log that the configuration names, or that of the data directory.
///
/// # Errors
/// The configuration is not usable.
pub(crate) fn log_of(place: &Place) -> Result<PathBuf, Failure> {
    config::read(place).map(|configuration| configuration.audit_dir(&place.data_dir))
}

/// What the operator knows of the log from elsewhere.
fn noted(key: Option<&str>, record: Option<&str>) -> Result<Noted, Failure> {
    Ok(Noted {
        key: key.map(public_key).transpose()?,
        record: record.map(str::parse).transpose().or_misused("--at-least")?,
    })
}

fn public_key(given: &str) -> Result<PublicKey, Failure> {
    if let Ok(key) = given.parse() {
        return Ok(key);
    }
    let text = std::fs::read_to_string(given).or_misused(&format!("--key: {BadKey}; read {given}"))?;
    text.parse().or_misused(&format!("--key: read {given}"))
}

#[expect(clippy::print_stdout, reason = "the verdict is the command's result")]
fn verify(path: &Path, noted: &Noted) -> Result<(), Failure> {
    let report = postern_audit::verify_with(path, noted)
        .map_err(|broken| Failure::NotHeld(chain("the audit log does not hold", &broken)))?;
    println!("{} records, {} to {}, one unbroken chain", report.records, report.first_seq, report.last_seq);
    match report.last_checkpoint {
        Some(seq) => println!("last signed checkpoint: {seq}; {} records after it are not signed yet", report.unsigned),
        None => println!("no signed checkpoint yet; {} records are not signed", report.unsigned),
    }
    for line in to_note(&report) {
        println!("{line}");
    }
    Ok(())
}

/// Whose log it is and how far it reaches, for somebody to note where whoever writes the log cannot.
fn to_note(report: &Report) -> [String; 2] {
    let Report { last_seq, last_hash, key, .. } = report;
    let key = if report.key_pinned {
        format!("key: {key}, the one that was given")
    } else {
        format!(
            "key: {key}, taken from beside the log, where whoever made the log put it. Next step: compare it with the key that was noted when the log began, and give that with --key"
        )
    };
    [
        key,
        format!(
            "last record: {last_seq}:{last_hash}. Next step: note it elsewhere, and give it with --at-least the next time"
        ),
    ]
}

const DOES_NOT_HOLD: &str = "what is shown is not the whole log as it was written (next step: `postern audit verify` with the key that was noted elsewhere)";

#[expect(clippy::print_stdout, reason = "the records are the command's result")]
fn show(path: &Path, session: Option<&str>, json: bool) -> Result<(), Failure> {
    let doing = format!("read the audit log {}", path.display());
    for entry in postern_audit::entries(path).or_misused(&doing)? {
        let entry = entry.or_misused(&doing)?;
        if session.is_some() && session != entry.record.session.as_deref() {
            continue;
        }
        if json {
            println!("{}", as_json(&entry)?);
        } else {
            println!("{}", line(&entry));
        }
    }
    // What was taken out of it cannot be shown: silence would say that nothing was.
    postern_audit::verify(path).map(drop).map_err(|broken| Failure::NotHeld(chain(DOES_NOT_HOLD, &broken)))
}

fn as_json(entry: &Entry) -> Result<String, Failure> {
    let mut record = serde_json::to_value(&entry.record).or_misused("write a record")?;
    record["seq"] = entry.seq.into();
    record["ts"] = entry.ts.to_string().into();
    record["hash"] = entry.hash.clone().into();
    Ok(record.to_string())
}

/// `https://host:port/path` or `mcp://route/tool`, with the method before it, as far as known.
pub(crate) fn place(destination: &Destination) -> String {
    let scheme = destination.scheme.as_ref().map(|scheme| format!("{scheme}://")).unwrap_or_default();
    let port = destination.port.map(|port| format!(":{port}")).unwrap_or_default();
    let host = destination.host.as_deref().or(destination.address.as_deref()).unwrap_or_default();
    let method = destination.method.as_ref().map(|method| format!("{method} ")).unwrap_or_default();
    // A path begins with a slash; the name of a tool does not.
    let path = destination.path.as_deref().unwrap_or_default();
    let gap = if path.is_empty() || path.starts_with('/') { "" } else { "/" };
    harmless(&format!("{method}{scheme}{host}{port}{gap}{path}"))
}

/// Text of a log as a terminal may have it: what would move the cursor or turn the reading around stands as an escape.
pub(crate) fn harmless(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    for letter in text.chars() {
        match letter {
            '"' | '\'' | '\\' => shown.push(letter),
            _ => shown.extend(letter.escape_debug()),
        }
    }
    shown
}

/// One record on one line: when, what, where, and why not.
pub(crate) fn line(entry: &Entry) -> String {
    let kind = kind_of(entry.record.kind);
    let record = &entry.record;
    let decision = match record.decision {
        Decision::Allow => "allow",
        Decision::Deny => "DENY",
        Decision::Info => "",
    };
    let destination = record.destination.as_ref().map(place);
    let parts = [
        Some(format!("{:>6} {} {:<16} {decision:<5}", entry.seq, entry.ts.strftime("%H:%M:%S%.3f"), kind)),
        record.session.clone(),
        destination,
        record.credential.as_ref().map(|name| format!("credential={name}")),
        record.rule.as_ref().map(|rule| format!("rule={rule}")),
        record.reason.as_ref().map(|reason| format!("reason={reason}")),
        record.outcome.clone(),
    ];
    harmless(&parts.into_iter().flatten().collect::<Vec<_>>().join(" "))
}

/// The kind as the log spells it.
pub(crate) fn kind_of(kind: Kind) -> String {
    serde_json::to_value(kind).ok().and_then(|name| name.as_str().map(str::to_owned)).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_log_that_is_read_is_the_one_that_the_configuration_names() {
        let directory = tempfile::tempdir().unwrap();
        let config = directory.path().join("postern.toml");
        let data_dir = directory.path().join("data");
        for (text, expected) in
            [("[audit]\ndir = \"log\"\n", directory.path().join("log")), ("", data_dir.join("perimeter/audit"))]
        {
            std::fs::write(&config, format!("config = 1\n{text}")).unwrap();
            let place = Place { config: Some(config.clone()), data_dir: data_dir.clone() };
            assert_eq!(log_of(&place).unwrap(), expected);
        }
    }

    #[test]
    fn a_log_that_lacks_something_is_not_shown_as_if_it_were_whole() {
        let directory = tempfile::tempdir().unwrap();
        let log = directory.path().join("log");
        let now = jiff::Timestamp::now();
        let mut writer = postern_audit::Log::open(&log, now).unwrap();
        for session in ["sesn_1", "sesn_2", "sesn_3"] {
            let mut record = postern_audit::Record::new(Kind::SessionOpened, Decision::Allow);
            record.session = Some(session.to_owned());
            writer.append(record, now).unwrap();
        }
        writer.close(now).unwrap();
        show(&log, None, false).unwrap();
        let mut files = std::fs::read_dir(&log).unwrap().map(|entry| entry.unwrap().path());
        let file = files.find(|path| path.extension().is_some_and(|end| end == "jsonl")).unwrap();
        let whole = std::fs::read_to_string(&file).unwrap();
        let without: String =
            whole.lines().filter(|line| !line.contains("sesn_2")).map(|line| format!("{line}\n")).collect();
        for damaged in [without.as_str(), ""] {
            std::fs::write(&file, damaged).unwrap();
            let refused = show(&log, Some("sesn_3"), true).unwrap_err();
            assert!(matches!(&refused, Failure::NotHeld(text) if text.contains("postern audit verify")), "{refused}");
        }
        let missing = show(&directory.path().join("none"), None, false).unwrap_err();
        assert!(matches!(&missing, Failure::Misused(text) if text.contains("/none")), "{missing}");
    }

    #[test]
    fn a_verdict_says_whose_key_it_rests_on_and_what_to_note() {
        let directory = tempfile::tempdir().unwrap();
        let log = directory.path().join("log");
        postern_audit::Log::open(&log, jiff::Timestamp::now()).unwrap().close(jiff::Timestamp::now()).unwrap();
        let file = log.join("key.pub");
        let hex = std::fs::read_to_string(&file).unwrap().trim().to_owned();
        let report = |noted: &Noted| postern_audit::verify_with(&log, noted);

        let [key, last] = to_note(&report(&noted(None, None).unwrap()).unwrap());
        assert!(key.contains(&hex) && key.contains("taken from beside the log") && key.contains("--key"), "{key}");
        let anchor = last.split([' ', '.']).find(|word| word.len() > 64).unwrap();
        for given in [&hex, file.to_str().unwrap()] {
            let [key, _] = to_note(&report(&noted(Some(given), Some(anchor)).unwrap()).unwrap());
            assert!(key.contains(&hex) && key.ends_with("the one that was given"), "{key}");
        }
        assert!(report(&noted(Some(&"ab".repeat(32)), None).unwrap()).is_err());
        assert!(report(&noted(None, Some("99")).unwrap()).is_err());
        let misused = noted(Some("nothing"), None).unwrap_err();
        assert!(matches!(&misused, Failure::Misused(text) if text.contains("64 hexadecimal digits")), "{misused}");
        assert!(matches!(noted(None, Some("x")).unwrap_err(), Failure::Misused(_)));
    }

    #[test]
    fn what_an_agent_wrote_moves_no_cursor_and_turns_no_reading_around() {
        let mut record = postern_audit::Record::new(Kind::McpCall, Decision::Deny);
        record.session = Some("sesn_1\r".to_owned());
        record.destination = Some(Destination {
            scheme: Some("mcp".to_owned()),
            host: Some("wiki".to_owned()),
            path: Some("\u{202e}gnp.exe\nall is well\u{1b}[2J \u{200b}\"caf\u{e9}\"".to_owned()),
            ..Destination::default()
        });
        let shown = place(record.destination.as_ref().unwrap());
        assert_eq!(shown, r#"mcp://wiki/\u{202e}gnp.exe\nall is well\u{1b}[2J \u{200b}"café""#);
        let (ts, text) = ("2026-01-02T03:04:05Z".parse().unwrap(), String::new);
        let entry =
            Entry { seq: 1, ts, previous: text(), class_uid: 0, activity_id: 0, severity_id: 0, record, hash: text() };
        let line = line(&entry);
        assert!(line.contains(&shown) && line.contains(r"sesn_1\r"), "{line}");
    }
}
