//! The session of a deployment's run. Its id is made of the deployment's and the run's: so a custody, which knows a session by its id alone, sees whether a
//! token that was sealed for a deployment is for a session without believing anybody.

use aws_lc_rs::digest::{SHA256, digest};
use serde::{Deserialize, Serialize};

/// For which run a token of a deployment is sent along, and as what of its session. Beside the seal: a word of whoever sends it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Run {
    /// The run's id. Of the deployment's own runs only this one has the session's id.
    pub id: String,
    /// The session's resource that it is the token of: how it is called there, and nothing else.
    pub resource: String,
}

/// The id of the session that a run begins. Whoever chooses the run cannot choose the id: no other deployment, and no run of it, comes to the id of a session
/// that is there (140 bits of SHA-256).
#[must_use]
pub fn session_of_run(deployment: &str, run: &str) -> String {
    let named = serde_json::json!(["postern session of a run", deployment, run]).to_string();
    let mut number = digest(&SHA256, named.as_bytes()).as_ref().to_vec();
    let tail = (0..LENGTH).map(|_| char::from(BASE58[usize::from(next_digit(&mut number))]));
    format!("{PREFIX}{}", tail.collect::<String>())
}

/// Divides a big-endian number by the base: the remainder.
fn next_digit(number: &mut [u8]) -> u8 {
    let mut rest = 0;
    for byte in number {
        let value = u32::from(rest) << 8 | u32::from(*byte);
        *byte = u8::try_from(value / BASE).expect("a remainder is below the base, so the quotient is one byte");
        rest = u8::try_from(value % BASE).expect("the base is below 256");
    }
    rest
}

/// As ids of sessions are: the prefix, then as many characters of as many kinds.
const PREFIX: &str = "sesn_";
const LENGTH: usize = 24;
const BASE: u32 = 58;
const BASE58: &[u8; BASE as usize] = b"123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_has_one_session_and_no_other_run_has_it() {
        let session = session_of_run("depl_1", "drun_1");
        assert_eq!(session, "sesn_kFgntmA9baz9rFfeYxUqcUMz", "sessions that began keep their ids");
        assert_eq!(session.len(), PREFIX.len() + LENGTH);
        for (deployment, run) in
            [("depl_1", "drun_2"), ("depl_2", "drun_1"), ("depl_1d", "run_1"), ("", "depl_1drun_1")]
        {
            assert_ne!(session_of_run(deployment, run), session, "{deployment} {run}");
        }
    }
}
