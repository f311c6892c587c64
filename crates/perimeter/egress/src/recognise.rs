//! Recognises placeholders and secrets in what a sandbox sends, in any rendering: whole texts with everything that
//! stands in them, streams up to the first one. Knows every placeholder of the perimeter and this session's secrets.

use std::{
    collections::BTreeSet,
    ops::Range,
    sync::{Arc, LazyLock, Mutex, PoisonError, Weak},
};

use bytes::Bytes;
use postern_custody::VaultGrant;
use postern_policy::{CredentialName, FoundValue, Issued};
use postern_secret::{
    MARKER, Placeholder, SecretBytes,
    detect::Detector,
    scrub::{Plan, Scrubber, Sieve},
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
    /// Looks for these and for the placeholders of a catalogue at once; made for the first long body.
    sieve: Mutex<Option<(Weak<Catalogue>, Arc<Sieve>)>>,
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
        let detector = Detector::new(keys.iter().map(|key| exposed(&key.secret)));
        Self { detector, scrub: Plan::new(&scrub), sieve: Mutex::default(), keys }
    }

    /// Whether there is anything to scrub.
    pub(crate) fn is_empty(&self) -> bool {
        self.keys.is_empty()
    }

    /// What puts placeholders back into responses.
    pub(crate) fn scrub(&self) -> &Arc<Plan> {
        &self.scrub
    }

    /// What looks for the secrets here and for the placeholders of a catalogue at once.
    fn sieve(&self, catalogue: &Arc<Catalogue>) -> Arc<Sieve> {
        let mut kept = self.sieve.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((of, sieve)) = &*kept
            && std::ptr::eq(of.as_ptr(), Arc::as_ptr(catalogue))
        {
            return sieve.clone();
        }
        let sieve = Arc::new(Sieve::of(&catalogue.wire, &self.scrub));
        // A weak one keeps the place in memory: no other catalogue can come to lie there.
        *kept = Some((Arc::downgrade(catalogue), sieve.clone()));
        sieve
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
                if key.secret.len() > text.len() {
                    return false;
                }
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
            of: self.clone(),
            sieve: None,
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
    /// Whose.
    of: Recogniser,
    /// Looks for both at once, from the first long piece on.
    sieve: Option<Arc<Sieve>>,
}

/// Something of ours is in the stream.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Recognised;

impl StreamRecogniser {
    /// The bytes that may go on; of a long chunk without anything of ours they are the chunk's own.
    pub(crate) fn pass(&mut self, chunk: &Bytes) -> Result<Bytes, Recognised> {
        let long = self.sieve.is_some() || chunk.len() >= LONG_BYTES;
        let clear = if long && self.held() == 0 { self.clear(chunk) } else { 0 };
        let after = self.push(&chunk[clear..])?;
        Ok(joined(&chunk.slice(..clear), after))
    }

    fn held(&self) -> usize {
        self.placeholders.held() + self.secrets.held()
    }

    /// The same, always in bytes of their own.
    pub(crate) fn push(&mut self, chunk: &[u8]) -> Result<Vec<u8>, Recognised> {
        let (mut passed, mut rest) = (Vec::with_capacity(chunk.len()), chunk);
        let long = self.sieve.is_some() || chunk.len() >= LONG_BYTES;
        while long && rest.len() > STEP_BYTES {
            if self.held() == 0 {
                // Nothing is held and nothing begins before there: whatever the two did with it, it would pass.
                let (clear, after) = rest.split_at(self.clear(rest));
                passed.extend_from_slice(clear);
                rest = after;
            }
            let (step, after) = rest.split_at(rest.len().min(STEP_BYTES));
            passed.extend(self.read(step));
            rest = after;
        }
        passed.extend(self.read(rest));
        self.unless_recognised(passed)
    }

    fn read(&mut self, step: &[u8]) -> Vec<u8> {
        let passed = self.placeholders.push(step);
        self.secrets.push(&passed)
    }

    fn clear(&mut self, text: &[u8]) -> usize {
        self.sieve.get_or_insert_with(|| self.of.keyring.sieve(&self.of.catalogue)).clear(text)
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

/// Read at a time where something may begin.
const STEP_BYTES: usize = 512;
/// Where a piece begins to be long: for a shorter one a sieve costs more than it saves.
const LONG_BYTES: usize = 8 * 1024;
/// Stands for what is not repeated.
const WITHHELD: &str = "[withheld]";
/// Random characters that follow the marker in the shortest unshaped placeholder.
const AFTER_MARKER: usize = 12;

/// What passed as it came, and what was made of the rest.
pub(crate) fn joined(clear: &Bytes, after: Vec<u8>) -> Bytes {
    match (clear.is_empty(), after.is_empty()) {
        (_, true) => clear.clone(),
        (true, false) => after.into(),
        (false, false) => [clear, after.as_slice()].concat().into(),
    }
}

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

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    const SECRET: &str = "a-secret-of-the-ledger-01";

    pub(crate) fn recogniser(placeholder: &Placeholder) -> Recogniser {
        let credential = CredentialName::new("ledger");
        let issued = IssuedPlaceholder {
            session: "sesn_1".into(),
            credential: credential.clone(),
            placeholder: placeholder.clone(),
            alive: true,
        };
        let secret = SecretBytes::new(SECRET.as_bytes().to_vec());
        Recogniser {
            session: "sesn_1".into(),
            catalogue: Arc::new(Catalogue::new(vec![issued])),
            keyring: Arc::new(Keyring::new(vec![Key {
                credential,
                placeholder: placeholder.clone(),
                secret,
                vault: None,
            }])),
        }
    }

    /// What passes of a text in pieces of this size.
    fn passed(recogniser: &Recogniser, text: &[u8], size: usize) -> Result<Vec<u8>, Recognised> {
        let (mut stream, mut passed) = (recogniser.stream(), Vec::new());
        for piece in text.chunks(size) {
            passed.extend(stream.pass(&Bytes::copy_from_slice(piece))?);
        }
        passed.extend(stream.finish()?);
        Ok(passed)
    }

    #[test]
    fn a_long_body_is_read_to_its_last_byte_however_it_is_cut() {
        let placeholder = Placeholder::issue(SECRET.len(), None);
        let recogniser = recogniser(&placeholder);
        // Beginnings of what is looked for among what is nothing of it.
        let almost = [&SECRET.as_bytes()[..20], &placeholder.as_bytes()[..20], b" \x00\xff%61&#x"].concat();
        let noise = [b"0123456789 lorem ipsum ".repeat(1200), almost.repeat(40), vec![0xa7; 9_000]].concat();
        let percent: String = SECRET.bytes().map(|byte| format!("%{byte:02X}")).collect();
        for size in [700, 8_192, 16_384, 30_001, usize::MAX] {
            let size = size.min(4 * noise.len());
            assert_eq!(passed(&recogniser, &noise.repeat(2), size), Ok(noise.repeat(2)), "{size}");
            for ours in [placeholder.as_bytes(), SECRET.as_bytes(), percent.as_bytes()] {
                for before in [0, 1, 511, 8_190, 16_380, 30_000, noise.len()] {
                    let text = [&noise[..before], ours, &noise].concat();
                    assert_eq!(passed(&recogniser, &text, size), Err(Recognised), "{before} in pieces of {size}");
                }
            }
        }
    }

    #[test]
    fn another_catalogue_is_looked_for_by_another_sieve() {
        let (first, second) = (Placeholder::issue(24, None), Placeholder::issue(24, None));
        let before = recogniser(&first);
        let text = |placeholder: &Placeholder| [&[b' '; 20_000][..], placeholder.as_bytes(), &[b' '; 20_000]].concat();
        assert_eq!(passed(&before, &text(&first), 40_000), Err(Recognised));
        assert!(passed(&before, &text(&second), 40_000).is_ok());
        let after = Recogniser { catalogue: recogniser(&second).catalogue, ..before };
        assert_eq!(passed(&after, &text(&second), 40_000), Err(Recognised));
    }
}
