//! `postern session`: holds a session's hands back, through the server and every perimeter that serves it.

use serde_json::{Value, json};

use crate::cli::{OneSession, SessionVerb};
use crate::client::Client;
use crate::failure::Failure;

/// Runs the verb.
///
/// # Errors
/// The server is not reachable, has no such session, or a perimeter that holds it did not obey.
#[expect(clippy::print_stdout, reason = "what became of it is the command's result")]
pub(crate) async fn run(verb: &SessionVerb) -> Result<(), Failure> {
    let (OneSession { id, server }, path, done) = match verb {
        SessionVerb::Freeze(session) => (session, "freeze", "frozen"),
        SessionVerb::Thaw(session) => (session, "thaw", "thawed"),
        SessionVerb::RevokeGrants(session) => (session, "revoke_grants", "without its credentials"),
    };
    let answer = Client::of(server)?.post(&format!("/v1/sessions/{id}/{path}"), &json!({})).await?;
    println!("{id} is {done}; {}", told(&answer));
    Ok(())
}

/// Who obeyed already; the others are told when they connect or take the session.
fn told(answer: &Value) -> String {
    let perimeters = answer["perimeters"].as_array().map(Vec::as_slice).unwrap_or_default();
    match perimeters.iter().filter(|perimeter| perimeter["obeyed"] == true).count() {
        0 => "no perimeter has it now: whoever takes it next is told first".to_owned(),
        1 => "one perimeter obeyed".to_owned(),
        more => format!("{more} perimeters obeyed"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_obeyed_is_counted_and_nobody_is_said_aloud() {
        let answer = |obeyed: &[bool]| {
            let perimeters: Vec<_> = obeyed.iter().map(|obeyed| json!({"obeyed": obeyed})).collect();
            told(&json!({"perimeters": perimeters}))
        };
        assert!(answer(&[]).starts_with("no perimeter") && answer(&[false]).starts_with("no perimeter"));
        assert_eq!(
            (answer(&[true, false]).as_str(), answer(&[true, true]).as_str()),
            ("one perimeter obeyed", "2 perimeters obeyed")
        );
    }
}
