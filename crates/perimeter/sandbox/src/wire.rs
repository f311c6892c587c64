//! What worker and spawner say to each other. Both are ours; the limits stop defects, not attacks.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::control::ControlStatus;
use crate::error::BuildError;
use crate::spec::Spec;

/// The longest message in either direction: a specification with a certificate, its mounts and its variables.
pub(crate) const MESSAGE_LIMIT: usize = 4 << 20;

/// The spawner's first word: it serves, or why not.
pub(crate) type Ready = Result<(), BuildError>;

/// From the worker.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Asked {
    pub(crate) id: u64,
    pub(crate) ask: Ask,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Ask {
    Build(Box<Spec>),
    Destroy { session: String },
    Pause { session: String },
    Resume { session: String },
    Controls,
}

/// From the spawner.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Told {
    /// An answer to the question with this id; a built sandbox brings its descriptors, in the order of [`crate::sandbox::Network`] after the tool channel.
    Answer { id: u64, answer: Answer },
    /// A sandbox ended by itself or was destroyed.
    Ended { session: String, exit: crate::sandbox::Exit },
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Answer {
    Built {
        pid: u32,
        controls: Vec<ControlStatus>,
        open: Vec<PathBuf>,
    },
    NotBuilt(BuildError),
    /// Nothing of that session is left.
    Destroyed,
    Controls(Vec<ControlStatus>),
    /// Every process of that session is stopped, or goes on; whether it has a sandbox.
    Signalled {
        found: bool,
    },
}
