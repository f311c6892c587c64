//! The edge itself: which connections stand, opening streams on them, ending them.

use std::collections::HashMap;
use std::pin::pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};

use postern_tunnel::carry::{Carry, CarryError, Opening, Stream};
use postern_tunnel::identity::IdentityKey;
use postern_tunnel::wire::{Lane, Welcome, reason};
use tokio::sync::Notify;
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout, timeout_at};

use crate::directory::{Directory, TunnelEntry};
use crate::limits::{self, Limits, RECENT};
use crate::link::{Link, OpenError};
use crate::status::{Notes, TunnelStatus};
use crate::stream::Carried;

/// What an edge is made with.
#[derive(Debug, Clone, Default)]
pub struct Settings {
    /// Handed to every connector: the keys that sign identities.
    pub identity_keys: Vec<IdentityKey>,
    /// Its bounds.
    pub limits: Limits,
}

/// The edge of one process. `Clone` gives another handle to the same.
#[derive(Clone)]
pub struct Edge {
    inner: Arc<Inner>,
}

struct Inner {
    directory: Directory,
    identity_keys: RwLock<Vec<IdentityKey>>,
    limits: Limits,
    links: Mutex<HashMap<String, Vec<Arc<Link>>>>,
    /// When the last connection of a tunnel was lost.
    lost: Mutex<HashMap<String, Instant>>,
    began: Instant,
    came: Notify,
    notes: Notes,
    next_id: AtomicU64,
}

impl Edge {
    /// An edge without connections; [`Edge::serve`] brings some.
    #[must_use]
    pub fn new(directory: Directory, settings: Settings) -> Self {
        let inner = Inner {
            directory,
            identity_keys: RwLock::new(settings.identity_keys),
            limits: settings.limits,
            links: Mutex::default(),
            lost: Mutex::default(),
            began: Instant::now(),
            came: Notify::new(),
            notes: Notes::default(),
            next_id: AtomicU64::new(1),
        };
        Self { inner: Arc::new(inner) }
    }

    /// The tunnels it knows; changes there take effect at once for new connections and streams.
    #[must_use]
    pub fn directory(&self) -> &Directory {
        &self.inner.directory
    }

    /// Ends every connection of this tunnel, of every generation, with all its streams. Put the tunnel's new state into the directory first:
    /// a connection that is just being let in looks there once more. Does not wait; reads and writes of its streams fail from now on.
    pub fn sever(&self, tunnel: &str) {
        let links = self.links().remove(tunnel).unwrap_or_default();
        for link in &links {
            link.cut.cancel();
        }
        if !links.is_empty() {
            self.inner.notes.add(
                tunnel,
                "severed",
                format!("{} connections were ended by the control plane", links.len()),
            );
        }
    }

    /// The connections of this tunnel and its last errors.
    #[must_use]
    pub fn status(&self, tunnel: &str) -> TunnelStatus {
        let connections = self.links().get(tunnel).map(|links| links.iter().map(|link| link.status()).collect());
        TunnelStatus { connections: connections.unwrap_or_default(), last_errors: self.inner.notes.of(tunnel) }
    }

    /// Changes the keys that sign identities and tells every connector. Waits for their answers, a few seconds at most; a connection that does
    /// not take them is ended, so that it comes back with them.
    pub async fn set_identity_keys(&self, keys: Vec<IdentityKey>) {
        *self.inner.identity_keys.write().unwrap_or_else(PoisonError::into_inner) = keys;
        let links: Vec<_> = self.links().values().flatten().cloned().collect();
        let mut telling = JoinSet::new();
        for link in links {
            let Some(entry) = self.directory().by_id(&link.entrant.tunnel) else { continue };
            let edge = self.clone();
            telling.spawn(async move { edge.tell(&link, &entry).await });
        }
        telling.join_all().await;
    }

    /// Tells a connector that streams may come, and how its tunnel is now; one that does not take the word is no connector. What is told is
    /// read when its turn comes: of two words on a connection the later is never the older.
    pub(crate) async fn tell(&self, link: &Link, entry: &TunnelEntry) {
        let told = async {
            let _turn = link.turn.lock().await;
            link.tell(&self.welcome(entry)).await
        };
        if !matches!(timeout(limits::WELCOME, told).await, Ok(Ok(()))) {
            link.cut.cancel();
        }
    }

    pub(crate) fn notes(&self) -> &Notes {
        &self.inner.notes
    }

    pub(crate) fn limits(&self) -> &Limits {
        &self.inner.limits
    }

    pub(crate) fn next_id(&self) -> u64 {
        self.inner.next_id.fetch_add(1, Ordering::Relaxed)
    }

    pub(crate) fn welcome(&self, entry: &TunnelEntry) -> Welcome {
        Welcome {
            tunnel_id: entry.id.clone(),
            domain: entry.domain.clone(),
            identity_keys: self.inner.identity_keys.read().unwrap_or_else(PoisonError::into_inner).clone(),
        }
    }

    pub(crate) fn has_room(&self, tunnel: &str) -> bool {
        self.links().get(tunnel).is_none_or(|links| links.len() < self.inner.limits.connections_per_tunnel)
    }

    /// Lists a connection, unless the tunnel has as many as it may.
    pub(crate) fn list(&self, link: &Arc<Link>) -> bool {
        let mut links = self.links();
        let of_tunnel = links.entry(link.entrant.tunnel.clone()).or_default();
        let room = of_tunnel.len() < self.inner.limits.connections_per_tunnel;
        if room {
            of_tunnel.push(Arc::clone(link));
            drop(links);
            self.lost().remove(&link.entrant.tunnel);
            self.inner.came.notify_waiters();
        }
        room
    }

    pub(crate) fn unlist(&self, link: &Link) {
        let mut links = self.links();
        if let Some(of_tunnel) = links.get_mut(&link.entrant.tunnel) {
            of_tunnel.retain(|other| other.entrant.id != link.entrant.id);
            if of_tunnel.is_empty() {
                links.remove(&link.entrant.tunnel);
                drop(links);
                self.note_loss(&link.entrant.tunnel);
            }
        }
    }

    pub(crate) fn note_end(&self, link: &Link, error: Option<hyper::Error>) {
        let Some(error) = error else { return };
        tracing::debug!(tunnel = link.entrant.tunnel, connection = link.entrant.id, %error, "connection ended");
        let silent = error.is_timeout();
        let (code, what) = if silent {
            ("connection_silent", "did not answer a ping")
        } else {
            ("connection_lost", "ended without a farewell")
        };
        self.inner.notes.add(
            &link.entrant.tunnel,
            code,
            format!("a connection of the {} lane {what}", link.entrant.lane),
        );
    }

    async fn open_stream(&self, host: &str, lane: Lane) -> Result<Stream, CarryError> {
        let (entry, _route) = self.directory().by_host(host).ok_or(CarryError::UnknownHost)?;
        let give_up = Instant::now() + self.inner.limits.reconnect;
        let error = loop {
            let mut came = pin!(self.inner.came.notified());
            came.as_mut().enable();
            let opened = timeout(self.inner.limits.open, self.try_each(&entry.id, host, lane)).await;
            let error = match opened {
                Ok(Ok(stream)) => return Ok(Box::new(stream)),
                Ok(Err(None | Some(OpenError::Lost))) => CarryError::Offline { tunnel: entry.id.clone() },
                Ok(Err(Some(OpenError::Full))) => CarryError::TooMany,
                Ok(Err(Some(OpenError::Refused(reason)))) => CarryError::Refused { reason },
                Err(_) => CarryError::Slow,
            };
            // Nothing was sent: a connector that is just dialling again may still carry it.
            let offline = matches!(error, CarryError::Offline { .. });
            if !(offline && self.may_return(&entry.id)) || timeout_at(give_up, came).await.is_err() {
                break error;
            }
        };
        self.inner.notes.add(&entry.id, error.code(), error.to_string());
        Err(error)
    }

    /// Whether a tunnel without a connection had one a moment ago, or this edge is too young to know.
    fn may_return(&self, tunnel: &str) -> bool {
        let live = self.directory().by_id(tunnel).is_some_and(|entry| !entry.archived && entry.token_digest.is_some());
        let recent = |at: Instant| at.elapsed() < RECENT;
        live && (recent(self.inner.began) || self.lost().get(tunnel).copied().is_some_and(recent))
    }

    fn note_loss(&self, tunnel: &str) {
        let mut lost = self.lost();
        lost.retain(|_, at| at.elapsed() < RECENT);
        lost.insert(tunnel.to_owned(), Instant::now());
    }

    fn lost(&self) -> MutexGuard<'_, HashMap<String, Instant>> {
        self.inner.lost.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Tries the connections in turn. A stream that was not opened carried nothing, so the next one may be tried; a refusal that every
    /// connector would repeat is not asked for twice.
    async fn try_each(&self, tunnel: &str, host: &str, lane: Lane) -> Result<Carried, Option<OpenError>> {
        let mut worst = None;
        for link in self.candidates(tunnel, lane) {
            match link.open(host).await {
                Ok(stream) => return Ok(stream),
                Err(OpenError::Refused(word)) if word == reason::HOST_FOREIGN => {
                    return Err(Some(OpenError::Refused(word)));
                }
                Err(OpenError::Lost) if worst.is_some() => {}
                Err(error) => worst = Some(error),
            }
        }
        Err(worst)
    }

    /// The connections to try: those of the lane first, the least busy first.
    fn candidates(&self, tunnel: &str, lane: Lane) -> Vec<Arc<Link>> {
        let mut links: Vec<_> = self.links().get(tunnel).cloned().unwrap_or_default();
        links.retain(|link| link.is_usable());
        links.sort_by_key(|link| (link.entrant.lane != lane, link.open_streams()));
        links
    }

    fn links(&self) -> MutexGuard<'_, HashMap<String, Vec<Arc<Link>>>> {
        self.inner.links.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Carry for Edge {
    fn open<'a>(&'a self, host: &'a str, lane: Lane) -> Opening<'a> {
        Box::pin(self.open_stream(host, lane))
    }
}
