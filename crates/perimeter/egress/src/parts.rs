//! Streams of parts that cannot wait for each other: messages, frames. Each part is scrubbed, or looked through, by itself
//! to its end; all of them are read once more as one stream, so that what stands across their borders is noticed before
//! its last part has passed.

use std::sync::Arc;

use postern_secret::scrub::{Plan, Scrubber};

use crate::recognise::{Recognised, Recogniser, StreamRecogniser};

/// Takes secrets out of parts.
pub(crate) struct ScrubbedParts {
    plan: Arc<Plan>,
    part: Scrubber,
    in_ended_parts: u64,
    all: Scrubber,
    /// By those before it, which looked for fewer.
    by_former: u64,
}

/// A secret stands across the border of two parts. Half of it has passed; the rest must not.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Split;

impl ScrubbedParts {
    /// No part yet.
    pub(crate) fn new(plan: &Arc<Plan>) -> Self {
        let scrubber = || Scrubber::with(plan.clone());
        Self { plan: plan.clone(), part: scrubber(), in_ended_parts: 0, all: scrubber(), by_former: 0 }
    }

    /// What may pass by now of the part.
    pub(crate) fn push(&mut self, bytes: &[u8]) -> Result<Vec<u8>, Split> {
        let clean = self.part.push(bytes);
        let _the_same = self.all.push(bytes);
        self.unless_split(clean)
    }

    /// Looks for more from here on, in what was held back too: what has begun to stand across a border still does. Gives
    /// what may pass by now of the part.
    pub(crate) fn follow(&mut self, plan: &Arc<Plan>) -> Result<Vec<u8>, Split> {
        let (of_part, of_all) = (self.end(), self.all.finish());
        self.unless_split(())?;
        self.by_former = self.replaced();
        self.plan = plan.clone();
        self.all = Scrubber::with(plan.clone());
        self.part = Scrubber::with(plan.clone());
        let clean = self.part.push(&of_part);
        let _the_same = self.all.push(&of_all);
        self.unless_split(clean)
    }

    fn unless_split<T>(&self, clean: T) -> Result<T, Split> {
        if self.by_former + self.all.replaced() > self.replaced() { Err(Split) } else { Ok(clean) }
    }

    /// The rest of the part; another begins.
    pub(crate) fn end(&mut self) -> Vec<u8> {
        let clean = self.part.finish();
        self.in_ended_parts += self.part.replaced();
        self.part = Scrubber::with(self.plan.clone());
        clean
    }

    /// Secrets put back to placeholders so far.
    pub(crate) fn replaced(&self) -> u64 {
        self.in_ended_parts + self.part.replaced()
    }
}

/// Recognises placeholders and secrets in parts.
pub(crate) struct InspectedParts {
    recogniser: Recogniser,
    part: StreamRecogniser,
    all: StreamRecogniser,
}

impl InspectedParts {
    /// No part yet.
    pub(crate) fn new(recogniser: &Recogniser) -> Self {
        Self { part: recogniser.stream(), all: recogniser.stream(), recogniser: recogniser.clone() }
    }

    /// What may pass by now of the part.
    pub(crate) fn push(&mut self, bytes: &[u8]) -> Result<Vec<u8>, Recognised> {
        let passed = self.part.push(bytes)?;
        let _the_same = self.all.push(bytes)?;
        Ok(passed)
    }

    /// The rest of the part; another begins.
    pub(crate) fn end(&mut self) -> Result<Vec<u8>, Recognised> {
        let passed = self.part.finish()?;
        self.part = self.recogniser.stream();
        Ok(passed)
    }

    /// Looks for what the session knows now from here on, in what was held back too: what has begun to stand across a
    /// border still does. Gives what may pass by now of the part.
    pub(crate) fn follow(&mut self, recogniser: &Recogniser) -> Result<Vec<u8>, Recognised> {
        if self.is_for(recogniser) {
            return Ok(Vec::new());
        }
        let (of_part, of_all) = (self.part.finish()?, self.all.finish()?);
        *self = Self::new(recogniser);
        let passed = self.part.push(&of_part)?;
        let _the_same = self.all.push(&of_all)?;
        Ok(passed)
    }

    fn is_for(&self, recogniser: &Recogniser) -> bool {
        Arc::ptr_eq(&self.recogniser.keyring, &recogniser.keyring)
            && Arc::ptr_eq(&self.recogniser.catalogue, &recogniser.catalogue)
    }
}

#[cfg(test)]
mod tests {
    use postern_secret::{Placeholder, SecretBytes};

    use super::*;
    use crate::recognise::tests::recogniser;

    const SECRET: &str = "a-secret-of-some-length/42";
    const SHOWN: &str = "pstn-stands-for-the-secret";

    fn plan() -> Arc<Plan> {
        let secret = SecretBytes::new(SECRET.as_bytes().to_vec());
        Plan::new(&[(secret, Placeholder::from_issued(SHOWN.to_owned()))])
    }

    #[test]
    fn a_part_passes_whole_at_its_end_and_its_secrets_do_not() {
        let mut parts = ScrubbedParts::new(&plan());
        for _ in 0..3 {
            let mut passed = parts.push(format!("x {SECRET} a-secret-of").as_bytes()).unwrap();
            passed.extend(parts.end());
            assert_eq!(passed, format!("x {SHOWN} a-secret-of").as_bytes());
        }
        assert_eq!(parts.replaced(), 3);
    }

    #[test]
    fn a_secret_across_any_border_of_parts_never_passes_whole() {
        for cut in 1..SECRET.len() {
            let (one, other) = SECRET.split_at(cut);
            let mut parts = ScrubbedParts::new(&plan());
            parts.push(one.as_bytes()).unwrap();
            assert_eq!(parts.end(), one.as_bytes());
            // Noticed with its last byte, or with the next one where it could still become something longer.
            let rest = parts.push(other.as_bytes()).and_then(|_| parts.push(b"  "));
            assert_eq!(rest, Err(Split), "{cut}");
        }
    }

    #[test]
    fn what_stands_across_a_border_is_noticed_when_other_secrets_came_at_that_border() {
        let placeholder = || Placeholder::from_issued(SHOWN.to_owned());
        let two = Plan::new(&[
            (SecretBytes::new(SECRET.as_bytes().to_vec()), placeholder()),
            (SecretBytes::new(b"another-one-that-came-late".to_vec()), placeholder()),
        ]);
        for cut in 1..SECRET.len() {
            let (one, other) = SECRET.split_at(cut);
            let mut parts = ScrubbedParts::new(&plan());
            parts.push(format!("x {SECRET} {one}").as_bytes()).unwrap();
            parts.end();
            assert_eq!(parts.follow(&two), Ok(Vec::new()));
            assert_eq!(parts.replaced(), 1);
            let rest = parts.push(other.as_bytes()).and_then(|_| parts.push(b"  "));
            assert_eq!(rest, Err(Split), "{cut}");
        }
        // Within a part it is replaced as if nothing had come.
        let mut parts = ScrubbedParts::new(&plan());
        let mut passed = parts.push(b"x a-secret-of").unwrap();
        passed.extend(parts.follow(&two).unwrap());
        passed.extend(parts.push(b"-some-length/42 another-one-that-came-late").unwrap());
        passed.extend(parts.end());
        assert_eq!(passed, format!("x {SHOWN} {SHOWN}").as_bytes());
        assert_eq!(parts.replaced(), 2);
    }

    #[test]
    fn what_the_sandbox_says_across_a_border_is_recognised_when_other_placeholders_came_at_that_border() {
        let placeholder = Placeholder::issue(24, None);
        let (before, after) = (recogniser(&placeholder), recogniser(&placeholder));
        for cut in 1..placeholder.as_bytes().len() {
            let (one, other) = placeholder.as_bytes().split_at(cut);
            let mut parts = InspectedParts::new(&before);
            parts.push(one).unwrap();
            parts.end().unwrap();
            assert_eq!(parts.follow(&after), Ok(Vec::new()));
            let rest = parts.push(other).and_then(|_| parts.push(b"  "));
            assert_eq!(rest, Err(Recognised), "{cut}");
        }
    }
}
