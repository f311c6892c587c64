//! Which creations take an `Idempotency-Key`, what of their body is compared, and what one that comes again is answered.

use crate::routes::{Method, Route};

/// A creation that takes a key.
#[derive(Debug)]
pub(crate) struct Creation {
    path: &'static str,
    pub(crate) body: Body,
    pub(crate) again: Again,
}

/// What of a body is compared.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Body {
    /// Its digest.
    Plain,
    /// Its digest under the server's own key, for there may be a secret in it, or what is redacted later: whoever has the
    /// database alone tries no guess at it.
    Confidential,
}

/// What a creation that comes again is answered.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Again {
    /// The same.
    AsBefore,
    /// What it said, as the session's log has it now: nothing of it is kept beside the log, where it would outlive the session.
    FromTheLog,
    /// The same. Path and text of a memory, which lie nowhere but where they can be redacted, are those of the request.
    WithItsText,
    /// That it made what it made: the secret in the answer was shown once, and is not kept. Says how to come to another.
    Refused {
        /// What was shown.
        secret: &'static str,
        /// The next step, `{id}` being what was made.
        next_step: &'static str,
    },
}

const REVOKE: &str = "Delete {id}, which nobody has the key of, and create another with another Idempotency-Key.";

const TAKEN: &[Creation] = &[
    plain("/v1/agents", Again::AsBefore),
    plain("/v1/api_keys", Again::Refused { secret: "key", next_step: REVOKE }),
    confidential("/v1/deployments", Again::AsBefore),
    plain("/v1/deployments/{deployment}/run", Again::AsBefore),
    plain("/v1/environments", Again::AsBefore),
    plain("/v1/environments/{environment}/keys", Again::Refused { secret: "key", next_step: REVOKE }),
    plain("/v1/files", Again::AsBefore),
    plain("/v1/memory_stores", Again::AsBefore),
    confidential("/v1/memory_stores/{memory_store}/memories", Again::WithItsText),
    plain("/v1/perimeters", Again::AsBefore),
    confidential("/v1/sessions", Again::AsBefore),
    confidential("/v1/sessions/{session}/events", Again::FromTheLog),
    confidential("/v1/sessions/{session}/resources", Again::AsBefore),
    plain("/v1/skills", Again::AsBefore),
    plain("/v1/skills/{skill}/versions", Again::AsBefore),
    plain("/v1/tunnels", Again::AsBefore),
    // By mistake there may be a private key in it, which is refused; nothing is stored of what is refused.
    plain("/v1/tunnels/{tunnel}/certificates", Again::AsBefore),
    plain("/v1/vaults", Again::AsBefore),
    confidential("/v1/vaults/{vault}/credentials", Again::AsBefore),
    plain(
        "/v1/webhooks",
        Again::Refused { secret: "signing secret", next_step: "POST /v1/webhooks/{id}/rotate_secret shows another." },
    ),
    plain("/v1/workspaces", Again::AsBefore),
];

/// What the route creates, where it takes a key.
pub(crate) fn creation(route: &Route) -> Option<&'static Creation> {
    let posts = matches!(route.method, Method::Post | Method::Upload);
    TAKEN.iter().find(|creation| posts && creation.path == route.path)
}

const fn plain(path: &'static str, again: Again) -> Creation {
    Creation { path, body: Body::Plain, again }
}

const fn confidential(path: &'static str, again: Again) -> Creation {
    Creation { path, body: Body::Confidential, again }
}
