//! What the gateway may ask: the credential of a route for one MCP call. The zone must name the route and the route must say whose credential it sends;
//! a vault credential is opened here, for the URL it was sealed for and no other. The use is on record before the answer.

use std::collections::HashMap;
use std::sync::{Arc, MutexGuard};
use std::time::{Duration, Instant};

use postern_audit::{Decision, Record};
use postern_policy::{Route, RouteCredential, Source, Zone, normalise_mcp_url};
use postern_secret::seal::SealedCredential;
use postern_secret::{SecretBytes, admit};

use super::{Asker, Custodian, Kind, Refusal, RefusalReason, about, blocking, lock, require, same_digest};
use crate::generation::Generation;
use crate::message::{CallerKind, Purpose, RouteGrant, RoutePurpose};
use crate::source::Sources;

/// A decision in favour of a grant: whose credential, and who decided.
struct Permitted {
    zone: Option<Arc<Zone>>,
    credential: Wanted,
}

enum Wanted {
    /// The route's own, and its name.
    Own { route: String, source: Source },
    /// The caller's, for this very route.
    Vault(Box<SealedCredential>),
}

impl Wanted {
    /// How records and refusals call it.
    fn name(&self) -> &str {
        match self {
            Self::Own { route, .. } => route,
            Self::Vault(credential) => &credential.binding.credential,
        }
    }
}

impl Custodian {
    /// The secret for one MCP call.
    pub(crate) async fn grant_route(&self, asker: impl Into<Asker>, grant: RouteGrant) -> Result<SecretBytes, Refusal> {
        let asker = asker.into();
        let granted = self.decide_and_resolve(asker, &grant).await;
        let (permitted, secret) = match granted {
            Ok(granted) => granted,
            Err(refusal) => {
                let record = self.record_of(&grant, refusal.reason.kind(), Decision::Deny, None);
                self.note(&refusal, record).await;
                return Err(refusal);
            }
        };
        let name = permitted.credential.name().to_owned();
        let mut record = self.record_of(&grant, Kind::CredentialUse, Decision::Allow, permitted.zone.as_deref());
        record.credential = Some(name.clone());
        self.record(record).await?;
        // The session may have been frozen while the record was written.
        self.not_held(&grant.session, Purpose::Inject).map_err(|refusal| refusal.about(&name))?;
        let mut grants = self.route_grants();
        if !self.has_left(asker.connection) {
            grants.keep(asker.connection, &grant.session, &name, secret.duplicate(), Instant::now());
        }
        Ok(secret)
    }

    /// What this connection was granted for a session, to scrub and to search for.
    pub(crate) fn known(&self, asker: impl Into<Asker>, session: &str) -> Result<Vec<SecretBytes>, Refusal> {
        let asker = asker.into();
        require(asker.kind, CallerKind::Gateway)?;
        Ok(self.route_grants().known(asker.connection, session))
    }

    /// Zeroes what no call has used for long.
    pub(crate) fn forget_idle(&self, now: Instant) {
        self.route_grants().forget_idle(now);
    }

    /// Zeroes what any gateway was granted for a session.
    pub(super) async fn close_route_grants(&self, session: &str) -> Result<(), Refusal> {
        let ended = self.route_grants().end(session);
        if ended == 0 {
            return Ok(());
        }
        let mut record = about(Kind::CredentialRevoked, Decision::Info, session, None, None);
        record.counts.insert("credentials".to_owned(), ended);
        record.outcome = Some("secrets zeroed".to_owned());
        self.record(record).await.map(drop)
    }

    pub(super) fn route_grants(&self) -> MutexGuard<'_, RouteGrants> {
        lock(&self.route_grants)
    }

    async fn decide_and_resolve(&self, asker: Asker, grant: &RouteGrant) -> Result<(Permitted, SecretBytes), Refusal> {
        require(asker.kind, CallerKind::Gateway)?;
        self.not_held(&grant.session, Purpose::Inject)?;
        let generation = self.generation_for(grant)?;
        let route = generation.routes.by_host_label(&grant.route).ok_or_else(|| {
            let next = "custody has no such [[gateway.route]] in its document: reload or restart the gateway";
            Refusal::new(RefusalReason::RouteUnknown, next)
        })?;
        let zone = zone_for(&generation, grant, route)?;
        let permitted = Permitted { zone, credential: wanted(grant, route)? };
        let secret = self.secret_of(&permitted.credential, &generation.sources).await?;
        Ok((permitted, secret))
    }

    /// The very document that the gateway decided by: a credential never meets another document's upstream.
    fn generation_for(&self, grant: &RouteGrant) -> Result<Arc<Generation>, Refusal> {
        let mut all = lock(&self.generations).for_calls(Instant::now());
        all.retain(|one| one.routes.digest() == grant.routes_digest);
        let at = all.iter().position(|one| match &grant.purpose {
            RoutePurpose::Probe | RoutePurpose::Validation => true,
            RoutePurpose::Call { zone, policy_digest } => {
                one.zones.named(zone).is_some_and(|zone| zone.digest() == policy_digest)
            }
        });
        // Where none has the zone, judging by the first says what is missing.
        if all.is_empty() {
            let next = "the routes were loaded in different versions: reload or restart the gateway";
            return Err(Refusal::new(RefusalReason::DigestMismatch, next));
        }
        Ok(all.swap_remove(at.unwrap_or(0)))
    }

    async fn secret_of(&self, wanted: &Wanted, sources: &Arc<Sources>) -> Result<SecretBytes, Refusal> {
        match wanted {
            Wanted::Own { route, source } => {
                let (sources, route, source) = (Arc::clone(sources), route.clone(), source.clone());
                blocking(move || sources.resolve_for(&route, &source)).await
            }
            Wanted::Vault(credential) => self.open_sealed(credential),
        }
    }

    #[expect(clippy::disallowed_methods, reason = "its strength is judged from its bytes")]
    pub(super) fn open_sealed(&self, credential: &SealedCredential) -> Result<SecretBytes, Refusal> {
        let name = &credential.binding.credential;
        let value = self
            .opener
            .open(credential)
            .map_err(|why| Refusal::new(RefusalReason::CredentialUnopenable, why.next_step()).about(name))?;
        admit(value.expose().clone(), false).map_err(|weak| {
            let next = format!("the credential's value cannot be scrubbed safely ({weak}): use a stronger one");
            Refusal::new(RefusalReason::SecretWeak, next).about(name)
        })
    }

    fn record_of(&self, grant: &RouteGrant, kind: Kind, decision: Decision, zone: Option<&Zone>) -> Record {
        let mut record = about(kind, decision, &grant.session, zone, grant.agent.as_deref());
        record.tool_use.clone_from(&grant.tool_use);
        record.destination = Some(postern_audit::Destination { host: Some(grant.route.clone()), ..Default::default() });
        if let (None, RoutePurpose::Call { zone, .. }) = (zone, &grant.purpose) {
            record.zone = Some(zone.clone());
        }
        match grant.purpose {
            RoutePurpose::Probe => record.outcome = Some("for the operator's probe".to_owned()),
            RoutePurpose::Validation => record.outcome = Some("to see whether it works".to_owned()),
            RoutePurpose::Call { .. } => {}
        }
        record
    }
}

/// The zone that permits the call, judged anew: the gateway's word is not enough.
fn zone_for(generation: &Generation, grant: &RouteGrant, route: &Route) -> Result<Option<Arc<Zone>>, Refusal> {
    let RoutePurpose::Call { zone, policy_digest } = &grant.purpose else { return Ok(None) };
    let zone = generation.zones.named(zone).ok_or_else(|| {
        let next = "custody has no such zone in its document: reload or restart the gateway";
        Refusal::new(RefusalReason::ZoneUnknown, next)
    })?;
    same_digest(&zone, policy_digest)?;
    if zone.mcp_servers().iter().any(|server| server.eq_ignore_ascii_case(&route.name)) {
        return Ok(Some(zone));
    }
    let next = format!("zone {} has no mcp rule for {}: add one", zone.name(), route.name);
    Err(Refusal::new(RefusalReason::NotGranted, next).about(&route.name))
}

/// Whose credential the route sends. A route's own is never replaced by one that came with the call, which stays unopened; and a vault credential goes nowhere but to its own URL.
fn wanted(grant: &RouteGrant, route: &Route) -> Result<Wanted, Refusal> {
    match (&route.credential, &grant.sealed) {
        (Some(RouteCredential::Own { .. }), _) if grant.purpose == RoutePurpose::Validation => {
            let next = "this route sends a credential of its own and none of a vault's";
            Err(Refusal::new(RefusalReason::NotGranted, next).about(&route.name))
        }
        (Some(RouteCredential::Own { source, .. }), _) => {
            Ok(Wanted::Own { route: route.name.clone(), source: source.clone() })
        }
        (Some(RouteCredential::Api), Some(credential)) => {
            may_open(grant, route, credential).map_err(|refusal| refusal.about(&credential.binding.credential))?;
            Ok(Wanted::Vault(Box::new(credential.clone())))
        }
        (Some(RouteCredential::Api) | None, None) => {
            let next = "this route has no credential of its own, and none came with the call";
            Err(Refusal::new(RefusalReason::NotGranted, next).about(&route.name))
        }
        (None, Some(credential)) => {
            let next = format!(
                "route {} does not send vault credentials: give it `credential = {{ source = \"api:\" }}`",
                route.name
            );
            Err(Refusal::new(RefusalReason::NotGranted, next).about(&credential.binding.credential))
        }
    }
}

fn may_open(grant: &RouteGrant, route: &Route, credential: &SealedCredential) -> Result<(), Refusal> {
    if grant.purpose == RoutePurpose::Probe {
        return Err(Refusal::new(RefusalReason::NotGranted, "a probe uses no vault credential"));
    }
    if grant.purpose == RoutePurpose::Validation && credential.binding.kind != "mcp_oauth" {
        let next = "only mcp_oauth credentials are validated";
        return Err(Refusal::new(RefusalReason::CredentialKindUnsupported, next));
    }
    let unsupported = |next: &str| Err(Refusal::new(RefusalReason::CredentialKindUnsupported, next));
    match credential.binding.kind.as_str() {
        // The access token; what is kept beside it to get another is sealed as another kind each, and goes to no MCP server.
        "static_bearer" | "mcp_oauth" => {}
        _ if postern_danger::off!("renewal-parts") => {}
        "environment_variable" => {
            return unsupported(
                "an environment variable's value is for the requests of a sandbox and never for an MCP server; use a static_bearer or mcp_oauth credential",
            );
        }
        _ => {
            return unsupported(
                "a credential of this kind is not known to this build; use a static_bearer or mcp_oauth credential",
            );
        }
    }
    let not_for_route = || {
        let next = format!("the credential is bound to another URL than route {} was called by", route.name);
        Refusal::new(RefusalReason::CredentialNotForRoute, next)
    };
    let bound = credential.binding.mcp_url.as_deref().and_then(|url| normalise_mcp_url(url).ok());
    let called = normalise_mcp_url(&grant.mcp_url).ok();
    match (bound, called) {
        (Some(bound), Some(called)) if bound == called && leads_to(&called, route) => Ok(()),
        _ => Err(not_for_route()),
    }
}

/// Whether a normalised URL is this route's: the public one that it stands for, or a host whose first label it is.
pub(super) fn leads_to(url: &str, route: &Route) -> bool {
    let host = url.split_once("://").map_or("", |(_, rest)| rest);
    let label = host.split(['/', ':', '?', '.']).next().unwrap_or_default();
    let is_host_of_route = host.as_bytes().get(label.len()) == Some(&b'.') && label.eq_ignore_ascii_case(&route.name);
    route.url.as_deref() == Some(url) || is_host_of_route
}

/// What gateways were granted, by session. A session that no call used for [`IDLE`] is forgotten, its secrets zeroed.
#[derive(Default)]
pub(super) struct RouteGrants {
    sessions: HashMap<(u64, String), Granted>,
}

struct Granted {
    used: Instant,
    secrets: HashMap<String, SecretBytes>,
}

impl RouteGrants {
    fn keep(&mut self, connection: u64, session: &str, name: &str, secret: SecretBytes, now: Instant) {
        let key = (connection, session.to_owned());
        if !self.sessions.contains_key(&key) {
            self.make_room();
        }
        let granted = self.sessions.entry(key).or_insert_with(|| Granted { used: now, secrets: HashMap::new() });
        granted.used = now;
        if granted.secrets.len() < MOST_SECRETS || granted.secrets.contains_key(name) {
            granted.secrets.insert(name.to_owned(), secret);
        }
    }

    /// Over the bound the session that was used least recently goes.
    fn make_room(&mut self) {
        if self.sessions.len() < MOST_SESSIONS {
            return;
        }
        if let Some(oldest) = self.sessions.iter().min_by_key(|(_, granted)| granted.used).map(|(key, _)| key.clone()) {
            self.sessions.remove(&oldest);
        }
    }

    fn known(&self, connection: u64, session: &str) -> Vec<SecretBytes> {
        let granted = self.sessions.get(&(connection, session.to_owned()));
        granted.map(|granted| granted.secrets.values().map(SecretBytes::duplicate).collect()).unwrap_or_default()
    }

    /// How many secrets were zeroed.
    fn end(&mut self, session: &str) -> u64 {
        let before = self.secrets();
        self.sessions.retain(|(_, name), _| name != session);
        before - self.secrets()
    }

    pub(super) fn left(&mut self, connection: u64) {
        self.sessions.retain(|(owner, _), _| *owner != connection);
    }

    /// What these routes sent of their own is not sent any more.
    pub(super) fn forget(&mut self, routes: &[&str]) {
        for granted in self.sessions.values_mut() {
            granted.secrets.retain(|name, _| !routes.contains(&name.as_str()));
        }
    }

    fn forget_idle(&mut self, now: Instant) {
        self.sessions.retain(|_, granted| now.duration_since(granted.used) < IDLE);
    }

    fn secrets(&self) -> u64 {
        self.sessions.values().map(|granted| granted.secrets.len() as u64).sum()
    }
}

const IDLE: Duration = Duration::from_secs(15 * 60);
const MOST_SESSIONS: usize = 4096;
const MOST_SECRETS: usize = 64;

#[cfg(test)]
mod tests {
    use super::*;

    fn secret() -> SecretBytes {
        SecretBytes::new(b"the-wiki's-0wn-s3cret-token".to_vec())
    }

    #[test]
    fn of_too_many_sessions_the_one_that_was_used_least_recently_goes_and_none_for_one_that_is_known() {
        let (mut grants, begun) = (RouteGrants::default(), Instant::now());
        for number in 0..MOST_SESSIONS {
            let at = begun + Duration::from_millis(number as u64);
            grants.keep(1, &format!("sesn_{number}"), "wiki", secret(), at);
        }
        let later = begun + Duration::from_secs(60);
        grants.keep(1, "sesn_1", "wiki", secret(), later);
        assert_eq!(grants.known(1, "sesn_0").len(), 1, "nobody came besides");
        grants.keep(1, "sesn_new", "wiki", secret(), later);
        let known = ["sesn_0", "sesn_1", "sesn_2", "sesn_new"].map(|session| grants.known(1, session).len());
        assert_eq!(known, [0, 1, 1, 1]);
    }

    #[test]
    fn so_many_secrets_of_a_session_are_kept() {
        let (mut grants, now) = (RouteGrants::default(), Instant::now());
        for number in 0..=MOST_SECRETS {
            grants.keep(1, "sesn_1", &format!("route-{number}"), secret(), now);
        }
        assert_eq!(grants.known(1, "sesn_1").len(), MOST_SECRETS);
    }
}
