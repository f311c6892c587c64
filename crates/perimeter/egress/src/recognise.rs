//! Recognises placeholders and secrets in what a sandbox sends, in any rendering: whole texts with everything that
//! stands in them, streams up to the first one. Knows every placeholder of the perimeter and this session's secrets.

use std::{
    collections::BTreeSet,
    ops::Range,
    sync::{Arc, LazyLock},
};

use postern_custody::VaultGrant;
use postern_policy::{CredentialName, FoundValue, Issued};
use postern_secret::{
    MARKER, Placeholder, SecretBytes,
    detect::Detector,
    scrub::{Plan, Scrubber},
};
use zeroize::Zeroizing;

use crate::custodian::IssuedPlaceholder;

/// Every placeholder that the perimeter remembers; one for all sessions, replaced whole when a session opens.
pub(crate) struct Catalogue {
    issued: Vec<IssuedPlaceholder>,
    detector: Detector,
    lower_case: Detector,
    wire: Arc<Plan>,
}

/// One session's credentials: its placeholders and, for those granted, the secrets. A secret that was replaced stays
/// known: an upstream may still hold it, and hand it back.
pub(crate) struct Keyring {
    /// The youngest first.
    keys: Vec<Key>,
    detector: Detector,
    scrub: Arc<Plan>,
}

/// One credential of a session.
pub(crate) struct Key {
    /// Its name.
    pub(crate) credential: CredentialName,
    /// What the sandbox holds.
    pub(crate) placeholder: Placeholder,
    /// What the upstream wants.
    pub(crate) secret: SecretBytes,
    /// Of a vault's: which, and how far it may go.
    pub(crate) vault: Option<VaultGrant>,
}

/// Something recognised in a text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Sighting {
    /// Whose.
    pub(crate) credential: CredentialName,
    /// What.
    pub(crate) value: FoundValue,
    /// Where in the text.
    pub(crate) range: Range<usize>,
    /// Whether it stands there as it is, in no encoding.
    pub(crate) plain: bool,
}

/// Both lists, as one session reads them.
#[derive(Clone)]
pub(crate) struct Recogniser {
    /// The session that sends.
    pub(crate) session: Arc<str>,
    /// The perimeter's list.
    pub(crate) catalogue: Arc<Catalogue>,
    /// The session's own.
    pub(crate) keyring: Arc<Keyring>,
}

impl Catalogue {
    /// Compiles the list.
    pub(crate) fn new(issued: Vec<IssuedPlaceholder>) -> Self {
        let pairs: Vec<_> = issued.iter().map(|one| itself(&one.placeholder)).collect();
        let lower_case: Vec<_> = issued.iter().map(|one| one.placeholder.as_bytes().to_ascii_lowercase()).collect();
        Self {
            detector: Detector::new(issued.iter().map(|one| one.placeholder.as_bytes())),
            lower_case: Detector::new(lower_case.iter().map(Vec::as_slice)),
            wire: Plan::new(&pairs),
            issued,
        }
    }
}

impl Keyring {
    /// Of a session that has none. One for all: what is compiled is large, whatever is in it.
    pub(crate) fn empty() -> Arc<Self> {
        static EMPTY: LazyLock<Arc<Keyring>> = LazyLock::new(|| Arc::new(Keyring::new(Vec::new())));
        Arc::clone(&EMPTY)
    }

    /// Compiles the session's secrets.
    pub(crate) fn new(keys: Vec<Key>) -> Self {
        let scrub: Vec<_> = keys.iter().map(|key| (key.secret.duplicate(), key.placeholder.clone())).collect();
        Self { detector: Detector::new(keys.iter().map(|key| exposed(&key.secret))), scrub: Plan::new(&scrub), keys }
    }

    /// Whether there is anything to scrub.
    pub(crate) fn is_empty(&self) -> bool {
        self.keys.is_empty()
    }

    /// What puts placeholders back into responses.
    pub(crate) fn scrub(&self) -> &Arc<Plan> {
        &self.scrub
    }

    /// The credentials whose secrets are here.
    pub(crate) fn credentials(&self) -> Vec<CredentialName> {
        self.keys.iter().map(|key| &key.credential).collect::<BTreeSet<_>>().into_iter().cloned().collect()
    }

    /// Secrets that others replaced.
    pub(crate) fn former(&self) -> usize {
        self.keys.len() - self.credentials().len()
    }

    /// The present key of a credential.
    pub(crate) fn key(&self, credential: &CredentialName) -> Option<&Key> {
        self.keys.iter().find(|key| key.credential == *credential)
    }

    /// The same keys with one added before them.
    pub(crate) fn with(&self, added: Key) -> Self {
        let same = |key: &&Key| key.credential == added.credential && exposed(&key.secret) == exposed(&added.secret);
        let others: Vec<_> = self.keys.iter().filter(|key| !same(key)).map(Key::duplicate).collect();
        Self::new(std::iter::once(added).chain(others).collect())
    }

    /// The secret that a header's name holds, in any rendering: names arrive in lower case, so case is ignored.
    pub(crate) fn named(&self, lower_case: &str) -> Option<&Key> {
        let text = lower_case.as_bytes();
        let rendered = self.detector.find(text).first().map(|hit| hit.index);
        let lowered = || {
            self.keys.iter().position(|key| {
                let secret = Zeroizing::new(exposed(&key.secret).to_ascii_lowercase());
                contains(text, &secret)
            })
        };
        rendered.or_else(lowered).map(|index| &self.keys[index])
    }
}

impl Key {
    /// Another copy, zeroed by itself.
    pub(crate) fn duplicate(&self) -> Self {
        Self {
            credential: self.credential.clone(),
            placeholder: self.placeholder.clone(),
            secret: self.secret.duplicate(),
            vault: self.vault.clone(),
        }
    }
}

impl Recogniser {
    /// Everything of ours in `text`, and whatever is marked as a placeholder without being one we know.
    pub(crate) fn find(&self, text: &[u8]) -> Vec<Sighting> {
        let mut found = self.find_known(text);
        let unknown: Vec<_> =
            marked(text).filter(|range| !found.iter().any(|known| overlap(&known.range, range))).collect();
        found.extend(unknown.into_iter().map(|range| Sighting {
            credential: CredentialName::new("unknown"),
            value: FoundValue::Placeholder(Issued::Unknown),
            range,
            plain: true,
        }));
        found
    }

    /// Everything of ours in `text`. Bodies are read with this one: in megabytes of base64 the bare marker occurs
    /// by chance.
    pub(crate) fn find_known(&self, text: &[u8]) -> Vec<Sighting> {
        let placeholders = self.catalogue.detector.find(text).into_iter().map(|hit| {
            let issued = &self.catalogue.issued[hit.index];
            Sighting {
                credential: issued.credential.clone(),
                value: FoundValue::Placeholder(self.issued(issued)),
                plain: text.get(hit.range.clone()) == Some(issued.placeholder.as_bytes()),
                range: hit.range,
            }
        });
        let secrets = self.keyring.detector.find(text).into_iter().map(|hit| Sighting {
            credential: self.keyring.keys[hit.index].credential.clone(),
            value: FoundValue::Secret,
            plain: text.get(hit.range.clone()) == Some(exposed(&self.keyring.keys[hit.index].secret)),
            range: hit.range,
        });
        let found = placeholders.chain(secrets);
        found.filter(|sighting| sighting.plain || !postern_danger::off!("tripwire-renderings")).collect()
    }

    /// Whatever the name of a header or host holds: such names arrive in lower case, so case is ignored.
    pub(crate) fn find_in_name(&self, lower_case: &str) -> Vec<Sighting> {
        let hits = self.catalogue.lower_case.find(lower_case.as_bytes());
        let lowered = hits.into_iter().map(|hit| {
            let issued = &self.catalogue.issued[hit.index];
            Sighting {
                credential: issued.credential.clone(),
                value: FoundValue::Placeholder(self.issued(issued)),
                range: hit.range,
                plain: false,
            }
        });
        let secret = self.keyring.named(lower_case).map(|key| Sighting {
            credential: key.credential.clone(),
            value: FoundValue::Secret,
            range: 0..lower_case.len(),
            plain: false,
        });
        // Some renderings have no capitals to lose.
        let known: Vec<_> = self.find_known(lower_case.as_bytes()).into_iter().chain(lowered).chain(secret).collect();
        if known.is_empty() { self.find(lower_case.as_bytes()) } else { known }
    }

    /// The text without anything of ours, for records and answers.
    pub(crate) fn withhold(&self, text: &str) -> String {
        let mut ranges: Vec<_> = self.find_in_name(text).into_iter().map(|sighting| sighting.range).collect();
        ranges.sort_by_key(|range| range.start);
        let mut clean = String::with_capacity(text.len());
        let mut done = 0;
        for range in ranges {
            clean.push_str(text.get(done..range.start.max(done)).unwrap_or_default());
            clean.push_str(if range.end > done { WITHHELD } else { "" });
            done = done.max(range.end);
        }
        clean.push_str(text.get(done..).unwrap_or_default());
        clean
    }

    /// A recogniser for one stream.
    pub(crate) fn stream(&self) -> StreamRecogniser {
        StreamRecogniser {
            placeholders: Scrubber::with(self.catalogue.wire.clone()),
            secrets: Scrubber::with(self.keyring.scrub.clone()),
        }
    }

    fn issued(&self, issued: &IssuedPlaceholder) -> Issued {
        if issued.alive && *issued.session == *self.session { Issued::ThisSession } else { Issued::AnotherSession }
    }
}

/// Recognises in a stream, across the borders of its chunks. Bytes that may be the start of something are held back,
/// so nothing recognised has left in whole.
pub(crate) struct StreamRecogniser {
    placeholders: Scrubber,
    secrets: Scrubber,
}

/// Something of ours is in the stream.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Recognised;

impl StreamRecogniser {
    /// The bytes that may go on.
    pub(crate) fn push(&mut self, chunk: &[u8]) -> Result<Vec<u8>, Recognised> {
        let passed = self.placeholders.push(chunk);
        let passed = self.secrets.push(&passed);
        self.unless_recognised(passed)
    }

    /// The bytes held back, at the stream's end.
    pub(crate) fn finish(&mut self) -> Result<Vec<u8>, Recognised> {
        let held = self.placeholders.finish();
        let mut passed = self.secrets.push(&held);
        passed.extend(self.secrets.finish());
        self.unless_recognised(passed)
    }

    fn unless_recognised(&self, passed: Vec<u8>) -> Result<Vec<u8>, Recognised> {
        if self.placeholders.replaced() + self.secrets.replaced() == 0 { Ok(passed) } else { Err(Recognised) }
    }
}

/// Stands for what is not repeated.
const WITHHELD: &str = "[withheld]";
/// Random characters that follow the marker in the shortest unshaped placeholder.
const AFTER_MARKER: usize = 12;

fn marked(text: &[u8]) -> impl Iterator<Item = Range<usize>> + '_ {
    text.windows(MARKER.len()).enumerate().filter(|(_, window)| *window == MARKER.as_bytes()).filter_map(|(at, _)| {
        let random = text[at + MARKER.len()..].iter().take_while(|byte| byte.is_ascii_alphanumeric()).count();
        (random >= AFTER_MARKER).then_some(at..at + MARKER.len() + random)
    })
}

fn overlap(one: &Range<usize>, other: &Range<usize>) -> bool {
    one.start < other.end && other.start < one.end
}

fn contains(text: &[u8], part: &[u8]) -> bool {
    !part.is_empty() && text.windows(part.len()).any(|window| window == part)
}

/// A placeholder is recognised by "replacing" it with itself: the stream's bytes stay what they were.
fn itself(placeholder: &Placeholder) -> (SecretBytes, Placeholder) {
    (SecretBytes::new(placeholder.as_bytes().to_vec()), placeholder.clone())
}

#[expect(clippy::disallowed_methods, reason = "what is to be recognised must be compared with what is sent")]
fn exposed(secret: &SecretBytes) -> &[u8] {
    secret.expose()
}
