//! One session as the targets see it: a zone, a placeholder and its secret, always the same.

use std::{
    collections::BTreeMap,
    sync::{Arc, LazyLock, RwLock},
    time::SystemTime,
};

use postern_audit::Memory;
use postern_custody::{Purpose, UseGrant};
use postern_net::Dialer;
use postern_policy::{CredentialName, Document, ZoneInForce, Zones};
use postern_secret::{Placeholder, Secret};
use tokio::sync::Semaphore;

use crate::{
    authority::SessionAuthority,
    custodian::{Custodian, IssuedPlaceholder, Later, NotGranted},
    limits::{Bounds, CONNECTIONS_TOTAL},
    phases::accept::Kernel,
    recognise::{Catalogue, Key},
    session::{Perimeter, Session},
};

pub(super) const SECRET: &str = "sk-live/0123456789+\"&ab";
pub(super) const PLACEHOLDER: &str = "pstnAbCdEfGhIjKlMnOpQrS";
const SESSION: &str = "sesn_one";

/// The session; made once, so that a target costs its own time alone.
pub(super) fn session() -> &'static Arc<Session> {
    static ONCE: LazyLock<Arc<Session>> = LazyLock::new(|| Arc::new(made()));
    &ONCE
}

fn made() -> Session {
    let credential = CredentialName::new("key");
    let placeholder = Placeholder::from_issued(PLACEHOLDER.to_owned());
    let issued = IssuedPlaceholder {
        session: SESSION.to_owned(),
        credential: credential.clone(),
        placeholder: placeholder.clone(),
        alive: true,
    };
    let document = Document::parse("postern.toml", ZONE).expect("a document of ours");
    let environments = BTreeMap::from([("default".to_owned(), "env_one".to_owned())]);
    let zone = Zones::load(&document, &environments).ok().and_then(|zones| zones.named("t")).expect("a zone of ours");
    let perimeter = Perimeter {
        audit: Arc::new(Memory::new()),
        custody: Arc::new(Ready),
        dialer: Dialer::new(),
        origins: Arc::new(Kernel),
        trust: Default::default(),
        bounds: Bounds { request_body_bytes: 1 << 20, decoded_body_bytes: 1 << 20, ..Bounds::default() },
        connections: Arc::new(Semaphore::new(CONNECTIONS_TOTAL)),
        catalogue: RwLock::new(Arc::new(Catalogue::new(vec![issued]))),
    };
    let authority = SessionAuthority::issue(SESSION, SystemTime::UNIX_EPOCH).expect("the library makes keys");
    let placeholders = vec![(credential.clone(), placeholder.clone())];
    let session = Session::new(SESSION, None, ZoneInForce::new(zone), authority, placeholders, Arc::new(perimeter));
    session.remember(Key { credential, placeholder, secret: Secret::new(SECRET.as_bytes().to_vec()), vault: None });
    session
}

/// Has the one secret, and is never waited for.
struct Ready;

impl Custodian for Ready {
    fn grant<'a>(
        &'a self,
        _session: &'a str,
        _credential: &'a CredentialName,
        _policy_digest: &'a str,
        _purpose: Purpose,
    ) -> Later<'a, Result<UseGrant, NotGranted>> {
        let secret = Secret::new(SECRET.as_bytes().to_vec());
        Box::pin(std::future::ready(Ok(UseGrant { secret, kept: None, vault: None })))
    }

    fn revoked<'a>(&'a self, _session: &'a str, _credential: &'a CredentialName) -> Later<'a, Result<(), NotGranted>> {
        Box::pin(std::future::ready(Ok(())))
    }

    fn placeholders(&self) -> Later<'_, Result<Vec<IssuedPlaceholder>, NotGranted>> {
        Box::pin(std::future::ready(Ok(Vec::new())))
    }
}

const ZONE: &str = r#"config = 1
[zone.t]
environment = "default"
agents = ["*"]
[[zone.t.credential]]
name = "key"
source = "env:KEY"
env = "KEY"
inject = [{ header = "authorization" }, { header = "x-api-key" }, { basic = "password" }, { query = "key" }]
[[zone.t.egress]]
host = "api.test"
scheme = "https"
ports = [443]
methods = ["GET", "POST"]
paths = ["/v1/**"]
credential = "key"
[[zone.t.egress]]
host = "plain.test"
scheme = "http"
ports = [80]
"#;
