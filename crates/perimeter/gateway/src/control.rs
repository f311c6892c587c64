//! The gateway's answers to the control stream: how it stands, and holding a session. It obeys what narrows and nothing
//! that widens; files and the rest are a worker's.

use std::sync::Arc;

use postern_model::{
    Timestamp,
    control::{
        CommandBody, CommandRefusal, ErrorNote, GatewayStanding, Hello, PerimeterStatus, Reply, Role, RouteStanding,
        SessionStanding, SessionState,
    },
    ids::SessionId,
};
use postern_net::control::{ControlHandler, Obeying};
use postern_policy::{Denial, gateway::RouteCredential};
use tokio::sync::watch;

use crate::{gateway::Gateway, oauth, sessions::Held, troubles::Trouble};

/// The gateway as the control stream sees it.
pub(crate) struct Handler {
    gateway: Arc<Gateway>,
    name: String,
    audit_key: String,
    perimeter_public_key: String,
    degraded: Vec<String>,
    sessions: watch::Receiver<Vec<SessionId>>,
}

impl Handler {
    /// With what audit and custody said at their start.
    pub(crate) fn new(gateway: Arc<Gateway>, name: String, standing: &postern_custody::keeper::Standing) -> Self {
        Self {
            sessions: ids(&gateway),
            gateway,
            name,
            audit_key: standing.audit_key.clone(),
            perimeter_public_key: standing.perimeter_public_key.clone(),
            degraded: standing.degraded.clone(),
        }
    }

    fn status(&self) -> PerimeterStatus {
        PerimeterStatus {
            role: Role::Gateway,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            name: self.name.clone(),
            perimeter_public_key: Some(self.perimeter_public_key.clone()),
            sessions: self.gateway.sessions.list().iter().filter_map(standing).collect(),
            controls: Vec::new(),
            degraded: self.degraded.clone(),
            audit_head: None,
            audit_key: Some(self.audit_key.clone()),
            gateway: Some(self.gateway_standing()),
        }
    }

    fn gateway_standing(&self) -> GatewayStanding {
        let (link, rules) = (self.gateway.link(), self.gateway.rules());
        let connections = link.status.connections.iter().filter(|one| one.connected).count();
        GatewayStanding {
            tunnel_id: self.gateway.tunnel_id.clone(),
            domain: link.domain,
            routes: rules.routes.iter().map(|route| route_standing(route)).collect(),
            leaf_days_left: self.gateway.leaf.days_left(),
            connections: u32::try_from(connections).unwrap_or(u32::MAX),
            last_errors: self.gateway.troubles.list().into_iter().filter_map(note).collect(),
        }
    }

    /// In force here before custody is asked, so that nothing passes meanwhile.
    async fn hold(&self, session: &SessionId, held: Held) -> Result<Reply, CommandRefusal> {
        let id = session.to_string();
        self.gateway.sessions.hold(&id, held).map_err(|denial| refused(&denial))?;
        let custody = &self.gateway.custody;
        let asked = match held {
            Held::Frozen => custody.freeze(&id).await,
            Held::Revoked => custody.revoke(&id).await,
        };
        asked.map(|()| Reply::Done).map_err(|denial| refused(&denial))
    }
}

impl ControlHandler for Handler {
    fn hello(&self) -> Hello {
        Hello {
            role: Role::Gateway,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            name: self.name.clone(),
            sessions: self.sessions.borrow().clone(),
            perimeter_public_key: Some(self.perimeter_public_key.clone()),
        }
    }

    fn sessions(&self) -> watch::Receiver<Vec<SessionId>> {
        self.sessions.clone()
    }

    fn obey(&self, command: CommandBody) -> Obeying<'_> {
        Box::pin(async move {
            match &command {
                CommandBody::Status => Ok(Reply::Status(Box::new(self.status()))),
                CommandBody::Freeze { session } => {
                    postern_danger::when_off!("freezing", { return Ok(Reply::Done) });
                    self.hold(session, Held::Frozen).await
                }
                CommandBody::RevokeGrants { session } => {
                    postern_danger::when_off!("revocation", { return Ok(Reply::Done) });
                    self.hold(session, Held::Revoked).await
                }
                CommandBody::Thaw { session } => {
                    let id = session.to_string();
                    self.gateway.custody.thaw(&id).await.map_err(|denial| refused(&denial))?;
                    self.gateway.sessions.thaw(&id);
                    Ok(Reply::Done)
                }
                CommandBody::OauthRefresh { parts } => oauth::refresh(&self.gateway, parts).await,
                CommandBody::OauthValidate { parts } => oauth::validate(&self.gateway, parts).await,
                CommandBody::PutFile { .. } | CommandBody::Variables { .. } | CommandBody::Rewrap { .. } => {
                    Err(CommandRefusal::unsupported(&command))
                }
            }
        })
    }
}

/// The sessions as ids; a probe's own name is none.
fn ids(gateway: &Arc<Gateway>) -> watch::Receiver<Vec<SessionId>> {
    let mut names = gateway.sessions.watch();
    let (sender, receiver) = watch::channel(Vec::new());
    gateway.drain.spawn_until_drain(async move {
        while names.changed().await.is_ok() {
            let ids: Vec<SessionId> = names.borrow_and_update().iter().filter_map(|name| name.parse().ok()).collect();
            sender.send_if_modified(|now| {
                *now != ids && {
                    *now = ids;
                    true
                }
            });
        }
    });
    receiver
}

fn standing((id, held): &(String, Option<Held>)) -> Option<SessionStanding> {
    Some(SessionStanding {
        session: id.parse().ok()?,
        zone: None,
        state: if *held == Some(Held::Frozen) { SessionState::Frozen } else { SessionState::Serving },
        grants_revoked: *held == Some(Held::Revoked),
    })
}

fn route_standing(route: &postern_policy::gateway::Route) -> RouteStanding {
    let credential = match route.credential {
        None => "none",
        Some(RouteCredential::Own { .. }) => "own",
        Some(RouteCredential::Api) => "api",
    };
    RouteStanding { name: route.name.clone(), upstream: route.upstream.to_string(), credential: credential.to_owned() }
}

fn note(trouble: Trouble) -> Option<ErrorNote> {
    let at = jiff::Timestamp::try_from(trouble.at).ok()?;
    Some(ErrorNote { at: Timestamp::from(at), code: trouble.code, message: trouble.message })
}

fn refused(denial: &Denial) -> CommandRefusal {
    CommandRefusal::new(denial.reason.code(), "the gateway did not obey in full", denial.next_step.clone())
}
