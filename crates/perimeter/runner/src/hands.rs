//! What serving a session needs of the perimeter, as two traits: the real boundary implements them, and so does a test's double.

use std::future::Future;

use postern_tools::Block;
use serde_json::{Map, Value};

/// One tool use that is ours to run.
#[derive(Debug, Clone, PartialEq)]
pub struct ToolCall {
    /// The event id, which the result refers to.
    pub id: String,
    /// The tool.
    pub name: String,
    /// Its arguments.
    pub input: Map<String, Value>,
    /// The thread it belongs to, where the event says so.
    pub thread: Option<String>,
    /// Whether it waited for a confirmation: one that runs was allowed by whoever the control plane took for a person.
    pub asked: bool,
}

/// How a tool use ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outcome {
    /// Whether it failed.
    pub is_error: bool,
    /// What the model reads; at least one block.
    pub content: Vec<Block>,
}

impl Outcome {
    /// A failure in words.
    pub fn failed(text: impl Into<String>) -> Self {
        Self { is_error: true, content: vec![Block::text(text)] }
    }

    /// Says something more, on lines of its own.
    pub(crate) fn append(&mut self, lines: &str) {
        match &mut self.content[..] {
            [.., Block::Text { text }] => {
                if !text.ends_with('\n') {
                    text.push('\n');
                }
                text.push_str(lines);
            }
            _ => self.content.push(Block::text(lines)),
        }
    }
}

/// A file or memory that is about to pass between a session and the control plane.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Passage {
    /// Which way.
    pub way: Way,
    /// Where it lies in the sandbox.
    pub path: String,
    /// `sha256:` and the digest of its bytes, where it is one file.
    pub digest: Option<String>,
    /// How many bytes.
    pub bytes: u64,
}

/// Which way something passes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// To the session.
    In,
    /// To the control plane.
    Out,
}

/// A session as the perimeter judges it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SessionFacts {
    /// Session id, checked to be usable as a file name.
    pub session: String,
    /// The environment that this worker serves, by its own configuration and not by what the server says.
    pub environment: String,
    /// Agent id.
    pub agent_id: String,
    /// Agent version.
    pub agent_version: u64,
    /// Digest of the effective definition.
    pub definition_digest: String,
}

impl SessionFacts {
    /// `id@version`, as audit records name an agent.
    pub fn agent(&self) -> String {
        format!("{}@{}", self.agent_id, self.agent_version)
    }
}

/// Why the perimeter does not serve a session.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{code}: {message}")]
pub struct Refused {
    /// A stable code.
    pub code: String,
    /// What happened and what to do next.
    pub message: String,
}

/// The perimeter: opens sessions.
pub trait Perimeter: Send + Sync + 'static {
    /// What runs a session's tool uses.
    type Hands: Hands;

    /// Decides whether a session is served, and makes ready what its tool uses need.
    fn open(&self, facts: SessionFacts) -> impl Future<Output = Result<Self::Hands, Refused>> + Send;
}

/// Runs the tool uses of one session, one after the other.
pub trait Hands: Send + 'static {
    /// Runs one tool use to its end, once what must come before it has: `ready` ends well, or with the outcome of a tool use that is not run. It goes on
    /// beside what is made ready here. Dropping the future leaves the tool use in an unknown state: close then.
    fn run(
        &mut self,
        call: &ToolCall,
        ready: impl Future<Output = Result<(), Outcome>> + Send,
    ) -> impl Future<Output = Outcome> + Send;

    /// The same, where nothing else comes before it.
    fn call(&mut self, call: &ToolCall) -> impl Future<Output = Outcome> + Send {
        self.run(call, std::future::ready(Ok(())))
    }

    /// Has it written down that something passes. Without that nothing passes: the error says why.
    fn passes(&mut self, passage: Passage) -> impl Future<Output = Result<(), String>> + Send;

    /// Why the token of one of the session's repositories is not there to be used, where it was sent and is not.
    fn withheld(&self, _resource: &str) -> Option<&str> {
        None
    }

    /// Ends everything of the session that runs; its workspace stays.
    fn close(self) -> impl Future<Output = ()> + Send;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_added_follows_the_output_on_lines_of_its_own() {
        let mut outcome = Outcome { is_error: true, content: vec![Block::text("curl: (7) failed")] };
        outcome.append("[postern] refused a:1 reason=x next=y");
        assert_eq!(outcome.content, vec![Block::text("curl: (7) failed\n[postern] refused a:1 reason=x next=y")]);
        let mut silent = Outcome { is_error: false, content: vec![Block::text("")] };
        silent.append("line");
        assert_eq!(silent.content, vec![Block::text("(no output)\nline")]);
    }
}
