//! What a session knows of its MCP servers, and what the model's window holds: the parts of the model that no client sees.

use postern_model::ids::EventId;

/// How the servers stand.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Known {
    /// There are none.
    #[default]
    Nothing,
    /// They were not asked in this turn, or not by this process.
    Unasked,
    Asking,
    Answered,
}

/// The MCP servers of an agent: `wiki` and `docs`.
#[derive(Debug, Default)]
pub(super) struct Lines {
    known: Known,
    /// Which of them failed when they were asked last.
    wiki_fails: bool,
    docs_fails: bool,
    /// The calls that run, in the order they began.
    running: Vec<EventId>,
}

impl Lines {
    pub(super) fn unasked() -> Self {
        Self { known: Known::Unasked, ..Self::default() }
    }

    /// Sees that they were asked. Whether they have all answered.
    pub(super) fn connect(&mut self) -> bool {
        if self.known == Known::Unasked {
            self.known = Known::Asking;
        }
        self.known != Known::Asking
    }

    pub(super) fn is_asking(&self) -> bool {
        self.known == Known::Asking
    }

    pub(super) fn connected(&mut self, wiki_fails: bool, docs_fails: bool) {
        (self.known, self.wiki_fails, self.docs_fails) = (Known::Answered, wiki_fails, docs_fails);
    }

    /// A turn begins: they are asked anew.
    pub(super) fn lapse(&mut self) {
        if self.known != Known::Nothing {
            self.known = Known::Unasked;
        }
    }

    /// What runs for them is cancelled.
    pub(super) fn stop(&mut self) {
        if self.is_asking() || !self.running.is_empty() {
            self.lapse();
        }
        self.running.clear();
    }

    /// Another process goes on. Which calls had begun, whose end nobody saw.
    pub(super) fn crash(&mut self) -> Vec<EventId> {
        self.lapse();
        (self.wiki_fails, self.docs_fails) = (false, false);
        std::mem::take(&mut self.running)
    }

    pub(super) fn wiki_fails(&self) -> bool {
        self.wiki_fails
    }

    pub(super) fn docs_fails(&self) -> bool {
        self.docs_fails
    }

    pub(super) fn running(&self) -> &[EventId] {
        &self.running
    }

    pub(super) fn begin(&mut self, call: &EventId) {
        self.running.push(call.clone());
    }

    pub(super) fn end(&mut self, call: &EventId) -> bool {
        let before = self.running.len();
        self.running.retain(|running| running != call);
        self.running.len() < before
    }
}

/// What the conversation ends with.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum End {
    /// Somebody's words, or nothing yet.
    #[default]
    Words,
    /// What the model said.
    Said,
    /// Results of the calls that it made.
    Results,
}

/// The conversation as far as it decides what becomes of one that the endpoint finds too long.
#[derive(Debug, Default)]
pub(super) struct Window {
    /// The endpoint said so.
    pub(super) outgrown: bool,
    /// It was shortened, and not asked with since.
    shortened: bool,
    /// The request that runs is the first since.
    tried_short: bool,
    /// The request that runs is for a summary.
    pub(super) summary: bool,
    /// The model said something that is still in it word for word.
    is_heard: bool,
    end: End,
}

impl Window {
    pub(super) fn said(&mut self) {
        self.is_heard = true;
        self.end = End::Said;
    }

    pub(super) fn words(&mut self) {
        if self.end == End::Said {
            self.end = End::Words;
        }
    }

    pub(super) fn results(&mut self) {
        if self.end == End::Said {
            self.end = End::Results;
        }
    }

    /// Something stands before the newest input: a summary can take its place.
    fn has_head(&self) -> bool {
        self.is_heard
    }

    /// A request begins.
    pub(super) fn ask(&mut self) {
        self.summary = self.outgrown && self.has_head();
        if self.summary {
            return;
        }
        if std::mem::take(&mut self.outgrown) {
            self.shortened = true;
        }
        self.tried_short = std::mem::take(&mut self.shortened);
    }

    pub(super) fn summarised(&mut self) {
        self.is_heard = self.end == End::Results;
        if !self.is_heard {
            self.end = End::Words;
        }
        (self.outgrown, self.shortened, self.summary) = (false, true, false);
    }

    /// The endpoint says that it is too long. Whether it is shortened and tried again.
    pub(super) fn outgrow(&mut self) -> bool {
        let again = !self.summary && !self.tried_short;
        self.outgrown |= again;
        again
    }

    pub(super) fn rest(&mut self) {
        (self.shortened, self.tried_short) = (false, false);
    }
}
