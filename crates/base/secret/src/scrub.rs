//! Puts placeholders back where an upstream reflects secrets, before an agent sees the answer. What is not a secret
//! passes byte for byte; output is always exactly as long as input, so an announced length stays true.

use std::sync::Arc;

use zeroize::{Zeroize, Zeroizing};

use crate::filter::Filter;
use crate::matcher::{Input, Match, Matcher, Search, Step};
use crate::symbols::{self, Form};
use crate::trie::{Alignment, BASE64, BASE64_URL, Class, nibble, sextet};
use crate::{Placeholder, SecretBytes};

/// Secrets and their placeholders, compiled once and shared by every scrubber of a session.
pub struct Plan {
    matcher: Matcher,
    /// For each secret a placeholder of its very length.
    substitutes: Vec<Vec<u8>>,
}

impl Plan {
    /// Compiles the pairs. A placeholder of another length than its secret is cut, or repeated, to fit.
    #[must_use]
    #[expect(clippy::disallowed_methods, reason = "a secret must be known to be recognised in an answer")]
    pub fn new(pairs: &[(SecretBytes, Placeholder)]) -> Arc<Self> {
        let pairs = if postern_danger::off!("scrubbing") { &[] } else { pairs };
        let fitted = |(secret, placeholder): &(SecretBytes, Placeholder)| {
            placeholder.as_bytes().iter().copied().cycle().take(secret.len()).collect()
        };
        Arc::new(Self {
            matcher: Matcher::new(pairs.iter().map(|(secret, _)| secret.expose().as_slice())),
            substitutes: pairs.iter().map(fitted).collect(),
        })
    }

    /// Scrubs a complete text, such as a header's value; the count tells how many values were replaced.
    #[must_use]
    pub fn scrub(&self, text: &[u8]) -> (Vec<u8>, u64) {
        let mut output = Vec::with_capacity(text.len());
        let (_, replaced) = self.replace(text, Input::Complete, &mut output);
        (output, replaced)
    }

    /// Whether a complete text has nothing to scrub.
    #[must_use]
    pub fn leaves(&self, text: &[u8]) -> bool {
        !self.matcher.is_in(text)
    }

    /// Writes all that is decided to `output`; returns how much input that took and how many values were replaced.
    fn replace(&self, text: &[u8], input: Input, output: &mut Vec<u8>) -> (usize, u64) {
        let (mut done, mut replaced) = (0, 0);
        loop {
            match self.matcher.search(text, done, input) {
                Search::Found(found) => {
                    output.extend_from_slice(&text[done..found.start]);
                    self.substitute(text, &found, output);
                    done = found.end;
                    replaced += 1;
                }
                Search::Open(at) => {
                    output.extend_from_slice(&text[done..at]);
                    return (at, replaced);
                }
                Search::Nothing => {
                    output.extend_from_slice(&text[done..]);
                    return (text.len(), replaced);
                }
            }
        }
    }

    fn substitute(&self, text: &[u8], found: &Match, output: &mut Vec<u8>) {
        let substitute = self.substitutes.get(found.index).map_or(&[][..], Vec::as_slice);
        let rewriting = Rewriting { text, found, output };
        match found.class {
            Class::Text => rewriting.text(substitute),
            Class::Base64(alignment) => rewriting.base64(alignment, substitute),
            Class::Hex | Class::Utf16Le | Class::Utf16Be => rewriting.keys(&found.class.path(substitute).keys),
        }
    }
}

/// Tells quickly that nothing of two plans begins in a text: one look at it where two scrubbers would take two.
pub struct Sieve {
    filter: Filter,
    plans: [Arc<Plan>; 2],
}

impl Sieve {
    /// For what either plan knows.
    #[must_use]
    pub fn of(one: &Arc<Plan>, other: &Arc<Plan>) -> Self {
        let filter = one.matcher.filter().or(other.matcher.filter());
        Self { filter, plans: [one, other].map(Arc::clone) }
    }

    /// How many bytes at the beginning are before everything that begins a secret, or may once more text follows.
    #[must_use]
    pub fn clear(&self, text: &[u8]) -> usize {
        let mut from = 0;
        while let Some(at) = self.filter.next(text, from) {
            if self.plans.iter().any(|plan| plan.matcher.may_begin(text, at)) {
                return at;
            }
            from = at + 1;
        }
        text.len()
    }
}

/// Writes one value anew, each character in the form it had.
struct Rewriting<'a> {
    text: &'a [u8],
    found: &'a Match,
    output: &'a mut Vec<u8>,
}

impl<'a> Rewriting<'a> {
    fn text(mut self, substitute: &[u8]) {
        let mut rest = substitute;
        for step in &self.found.steps {
            let (bytes, after) = rest.split_at(step.reading.bytes().len().min(rest.len()));
            self.write(step, bytes);
            rest = after;
        }
    }

    fn base64(mut self, alignment: Alignment, substitute: &[u8]) {
        let path = Class::Base64(alignment).path(substitute);
        let mut parts = (0..).zip(path.keys).map(|(at, key)| (alignment.mask(at > 0), key));
        let mut parts = parts.by_ref().chain(path.tail.map(|tail| (tail.mask, tail.bits)));
        for step in &self.found.steps {
            let original = step.reading.bytes().first().copied().and_then(sextet);
            match (step.reading.form, original) {
                (Form::Skipped, _) | (_, None) => self.keep(step),
                (_, Some(original)) => {
                    let (mask, bits) = parts.next().unwrap_or((0, 0));
                    let url = self.is_url_safe();
                    self.write(step, &[base64_character(original & !mask | bits & mask, url)]);
                }
            }
        }
    }

    fn keys(mut self, keys: &[u8]) {
        let upper = self.found.class == Class::Hex && self.has_upper_hex();
        for (at, step) in self.found.steps.iter().enumerate() {
            let key = keys.get(at).copied().unwrap_or(nibble(0));
            self.write(step, &[if upper { key.to_ascii_uppercase() } else { key }]);
        }
    }

    fn write(&mut self, step: &Step, bytes: &[u8]) {
        symbols::write(step.reading.form, self.original(step), bytes, self.output);
    }

    fn keep(&mut self, step: &Step) {
        self.output.extend_from_slice(self.original(step));
    }

    fn original(&self, step: &Step) -> &'a [u8] {
        &self.text[step.start..step.start + step.reading.length]
    }

    fn is_url_safe(&self) -> bool {
        self.found.steps.iter().any(|step| matches!(step.reading.bytes(), b"-" | b"_"))
    }

    fn has_upper_hex(&self) -> bool {
        self.found.steps.iter().any(|step| step.reading.bytes()[0].is_ascii_uppercase())
    }
}

fn base64_character(sextet: u8, url: bool) -> u8 {
    let alphabet: &[u8; 64] = if url { BASE64_URL } else { BASE64 };
    alphabet[usize::from(sextet & 63)]
}

/// Scrubs one stream, across the borders of its chunks.
pub struct Scrubber {
    plan: Arc<Plan>,
    /// The start of what may become a secret.
    held: Zeroizing<Vec<u8>>,
    replaced: u64,
}

impl Scrubber {
    /// A scrubber for one stream.
    #[must_use]
    pub fn new(pairs: &[(SecretBytes, Placeholder)]) -> Self {
        Self::with(Plan::new(pairs))
    }

    /// A scrubber that shares a compiled plan.
    #[must_use]
    pub fn with(plan: Arc<Plan>) -> Self {
        Self { plan, held: Zeroizing::default(), replaced: 0 }
    }

    /// Takes a chunk and returns what is certain by now. The start of a possible secret is held back, at most the
    /// length of the longest rendering.
    pub fn push(&mut self, chunk: &[u8]) -> Vec<u8> {
        self.advance(chunk, Input::Partial)
    }

    /// Ends the stream and returns what was held back.
    pub fn finish(&mut self) -> Vec<u8> {
        self.advance(&[], Input::Complete)
    }

    /// How many bytes at the beginning of a chunk pass as they are, for whoever has no need of a copy of them: the rest is to be pushed. None as long
    /// as something is held.
    #[must_use]
    pub fn clear(&self, chunk: &[u8]) -> usize {
        if !self.held.is_empty() {
            return 0;
        }
        match self.plan.matcher.search(chunk, 0, Input::Partial) {
            Search::Found(found) => found.start,
            Search::Open(at) => at,
            Search::Nothing => chunk.len(),
        }
    }

    /// How many values were replaced so far.
    #[must_use]
    pub fn replaced(&self) -> u64 {
        self.replaced
    }

    /// How many bytes are held back at the moment.
    #[must_use]
    pub fn held(&self) -> usize {
        self.held.len()
    }

    fn advance(&mut self, chunk: &[u8], input: Input) -> Vec<u8> {
        let mut output = Vec::with_capacity(self.held.len() + chunk.len());
        let mut rest = chunk;
        // What is held is read with a little of what follows, not with all of it: mostly it comes to nothing.
        while !self.held.is_empty() && rest.len() > STEP_BYTES {
            let (step, after) = rest.split_at(STEP_BYTES);
            self.held.extend_from_slice(step);
            self.replace_held(Input::Partial, &mut output);
            rest = after;
            if self.held.len() <= step.len() {
                // What is held now is of this chunk: it is read on there, where a step would follow a step if every one ended with the start of something.
                rest = &chunk[chunk.len() - rest.len() - self.held.len()..];
                self.held.zeroize();
            }
        }
        if self.held.is_empty() {
            let (taken, replaced) = self.plan.replace(rest, input, &mut output);
            self.held.extend_from_slice(&rest[taken..]);
            self.replaced += replaced;
        } else {
            self.held.extend_from_slice(rest);
            self.replace_held(input, &mut output);
        }
        output
    }

    fn replace_held(&mut self, input: Input, output: &mut Vec<u8>) {
        let (taken, replaced) = self.plan.replace(&self.held, input, output);
        self.held.drain(..taken);
        self.replaced += replaced;
    }
}

/// Read at a time with what is held.
const STEP_BYTES: usize = 256;

#[cfg(test)]
mod tests;
