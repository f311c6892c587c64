//! What a session puts out: found after each tool use and sent before its result, so that whoever sees the result finds the files.

use std::collections::BTreeMap;

use postern_sandbox::OUTPUTS;

use super::walk::{self, Bounds, Version};
use super::{Parcels, leaving, patiently, read, write};
use crate::hands::Hands;
use crate::session::{Subject, chain};

/// The largest file that is sent, and the most that a session puts out.
const BOUNDS: Bounds = Bounds { bytes: 64 << 20, entries: 1000 };

/// What was sent, as it was then: it is sent again when it is another.
type Sent = BTreeMap<String, Version>;

impl Parcels {
    /// Sends what the session put out since the last time. Each line says of one file why it was not sent.
    pub(super) async fn take_outputs<H: Hands>(&self, subject: Subject<'_>, hands: &mut H) -> Vec<String> {
        let looked = || {
            let sent: Sent = read(&self.place.sent)?;
            walk::look(&self.place.outputs, BOUNDS).map(|found| (sent, found))
        };
        let (sent, found) = match looked() {
            Ok(looked) => looked,
            Err(error) => {
                tracing::error!(session = subject.session, %error, "outputs cannot be looked through");
                return vec![line(
                    "/mnt/session/outputs",
                    "the worker cannot read it; an operator finds the cause in its log",
                )];
            }
        };
        let mut lines: Vec<String> = found.refused.iter().map(|(path, why)| line(path, why)).collect();
        for (path, version) in found.files {
            if sent.get(&path) == Some(&version) {
                continue;
            }
            if let Err(why) = self.send(subject, hands, &path, version).await {
                lines.push(line(&path, &why));
            }
        }
        lines
    }

    async fn send<H: Hands>(
        &self,
        subject: Subject<'_>,
        hands: &mut H,
        path: &str,
        version: Version,
    ) -> Result<(), String> {
        let bytes = walk::contents(&self.place.outputs, path, BOUNDS.bytes).map_err(|error| error.to_string())?;
        hands.passes(leaving(format!("{OUTPUTS}/{path}"), &bytes)).await?;
        let sent = patiently(subject, || subject.remote.put_out(subject.key, subject.session, path, bytes.clone()));
        sent.await.map_err(|error| {
            tracing::warn!(session = subject.session, error = chain(&error), "an output could not be sent");
            error.to_string()
        })?;
        let noted = || {
            let mut sent: Sent = read(&self.place.sent)?;
            sent.insert(path.to_owned(), version);
            write(&self.place.sent, &sent)
        };
        // Sent again after a restart: it takes the place of the first.
        noted().unwrap_or_else(|error| tracing::warn!(session = subject.session, %error, "an output is not noted"));
        Ok(())
    }
}

fn line(path: &str, why: &str) -> String {
    let path: String = path.chars().take(200).collect();
    format!("[postern] output not kept path={path} because {why}")
}
