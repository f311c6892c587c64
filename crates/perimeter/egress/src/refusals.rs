//! Refusals that had no body in which to say so, until the worker collects them. Bounded, one entry per destination
//! and reason, newest kept.

use std::collections::VecDeque;

use crate::{limits, message::Refusal};

/// The refusals of one session since the worker last asked.
#[derive(Debug, Default)]
pub(crate) struct Refusals(VecDeque<Refusal>);

impl Refusals {
    /// Adds one; a repeated one moves to the end.
    pub(crate) fn add(&mut self, refusal: Refusal) {
        self.0.retain(|kept| *kept != refusal);
        if self.0.len() >= limits::REFUSALS_KEPT {
            self.0.pop_front();
        }
        self.0.push_back(refusal);
    }

    /// Takes them all, oldest first.
    pub(crate) fn drain(&mut self) -> Vec<Refusal> {
        self.0.drain(..).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(port: u16) -> Refusal {
        Refusal { host: "h.example".into(), port, reason: "udp_refused".into(), next_step: "use TCP".into() }
    }

    #[test]
    fn refusals_are_bounded_deduplicated_and_the_newest_stay() {
        let mut refusals = Refusals::default();
        let kept = u16::try_from(limits::REFUSALS_KEPT).unwrap();
        for port in 0..kept + 3 {
            refusals.add(refusal(port));
            refusals.add(refusal(port));
        }
        refusals.add(refusal(5));
        let ports: Vec<u16> = refusals.drain().iter().map(|refusal| refusal.port).collect();
        assert_eq!(ports.len(), limits::REFUSALS_KEPT);
        assert_eq!(ports.first(), Some(&3));
        assert_eq!(ports.last(), Some(&5));
        assert!(refusals.drain().is_empty());
    }
}
