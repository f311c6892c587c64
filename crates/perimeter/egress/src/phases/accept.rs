//! Phase: takes connections and datagrams from the sandbox's sockets, within the bounds, each in a task that ends with
//! the session. Decides nothing but whether there is room.

use std::{
    future::Future,
    io,
    net::SocketAddr,
    os::fd::{AsFd, OwnedFd},
    sync::{Arc, PoisonError},
    time::Duration,
};

use postern_policy::{Denial, Host, Port, Reason};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream, UdpSocket},
    sync::{OwnedSemaphorePermit, Semaphore},
    time::timeout,
};
use tokio_util::sync::CancellationToken;

use super::{
    identify::{self, Named},
    intercept, refuse, reports,
};
use crate::{dns, limits, message::Socket, session::Session};

/// Tells where a redirected connection was going before it was redirected.
pub(crate) trait OriginSource: Send + Sync {
    /// The original destination.
    fn original(&self, stream: &TcpStream) -> io::Result<SocketAddr>;
}

/// The kernel's connection tracking.
pub(crate) struct Kernel;

impl OriginSource for Kernel {
    fn original(&self, stream: &TcpStream) -> io::Result<SocketAddr> {
        let original = match stream.local_addr()? {
            SocketAddr::V4(_) => rustix::net::sockopt::ip_original_dst(stream.as_fd()).map(SocketAddr::V4),
            SocketAddr::V6(_) => rustix::net::sockopt::ipv6_original_dst(stream.as_fd()).map(SocketAddr::V6),
        };
        Ok(original?)
    }
}

/// Serves one socket of the sandbox until the session ends, or its next sandbox is there.
///
/// # Errors
/// When the descriptor is not a socket of its kind.
pub(crate) fn serve(
    session: &Arc<Session>,
    socket: Socket,
    descriptor: OwnedFd,
    attached: &CancellationToken,
) -> io::Result<()> {
    match socket {
        Socket::RedirectV4 | Socket::RedirectV6 => {
            while_attached(session, attached, accept(session.clone(), listener(descriptor)?, redirected));
        }
        Socket::Proxy => {
            while_attached(session, attached, accept(session.clone(), listener(descriptor)?, proxied));
        }
        Socket::DnsTcpV4 | Socket::DnsTcpV6 => {
            while_attached(session, attached, dns_connections(session.clone(), listener(descriptor)?));
        }
        Socket::DnsUdpV4 | Socket::DnsUdpV6 => {
            let socket = std::net::UdpSocket::from(descriptor);
            socket.set_nonblocking(true)?;
            while_attached(session, attached, dns_datagrams(session.clone(), UdpSocket::from_std(socket)?));
        }
        Socket::RefusedUdp => while_attached(session, attached, reports::serve(session, descriptor)?),
    }
    Ok(())
}

fn while_attached<F>(session: &Session, attached: &CancellationToken, task: F)
where
    F: Future<Output: Send> + Send + 'static,
{
    session.drain.spawn_until_drain(attached.clone().run_until_cancelled_owned(task));
}

fn listener(descriptor: OwnedFd) -> io::Result<TcpListener> {
    let listener = std::net::TcpListener::from(descriptor);
    listener.set_nonblocking(true)?;
    TcpListener::from_std(listener)
}

async fn accept<F, S>(session: Arc<Session>, listener: TcpListener, serve: F)
where
    F: Fn(Arc<Session>, TcpStream) -> S,
    S: Future<Output = ()> + Send + 'static,
{
    loop {
        let stream = next_connection(&listener).await;
        // Before the question whether it is frozen: a freeze that comes later ends what runs under this.
        let cut = session.halt.cut();
        if let Some(denial) = session.halt.refusal() {
            refuse::connection(&session, &named_or_local(&session, &stream), "tcp", &denial).await;
            continue;
        }
        let Some(room) = room(&session) else {
            no_room(&session, &stream).await;
            continue;
        };
        let named = named_or_local(&session, &stream);
        let told = session.clone();
        // Its requests have their records; this is for the tool's result, which may be made as soon as the connection is gone.
        let tell = move |denial: &Denial| refuse::unanswered(&told, &named, denial);
        let served = timeout(session.perimeter.bounds.connection_total, serve(session.clone(), stream));
        let work = cut.over_telling(served, tell);
        session.drain.spawn_until_drain(async move {
            let _room = room;
            if let Some(Err(_)) = work.await {
                tracing::info!("a connection reached its total time");
            }
        });
    }
}

/// A failing accept is a shortage (descriptors, memory) that passes: waiting is all that helps.
async fn next_connection(listener: &TcpListener) -> TcpStream {
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                // Small answers should not wait for more to send; a socket without the option works too.
                let _ = stream.set_nodelay(true);
                return stream;
            }
            Err(error) => {
                tracing::warn!(%error, "accept from a sandbox");
                tokio::time::sleep(PAUSE).await;
            }
        }
    }
}

fn room(session: &Session) -> Option<(OwnedSemaphorePermit, OwnedSemaphorePermit)> {
    let own = session.connections.clone().try_acquire_owned().ok()?;
    let total = session.perimeter.connections.clone().try_acquire_owned().ok()?;
    Some((own, total))
}

async fn no_room(session: &Arc<Session>, stream: &TcpStream) {
    let named = named_or_local(session, stream);
    refuse::connection(session, &named, "tcp", &Denial::new(Reason::LimitConnections)).await;
}

fn named_or_local(session: &Session, stream: &TcpStream) -> Named {
    let original = session.perimeter.origins.original(stream).or_else(|_| stream.local_addr());
    let address = original.unwrap_or_else(|_| SocketAddr::from(([0, 0, 0, 0], 1)));
    identify::destination(session, address).unwrap_or_else(|_| at(address))
}

async fn redirected(session: Arc<Session>, stream: TcpStream) {
    match origin(&session, &stream) {
        Ok(named) => intercept::redirected(session, named, stream).await,
        Err((address, denial)) => refuse::connection(&session, &at(address), "tcp", &denial).await,
    }
}

/// Where the connection was going. One that nothing redirected came to the port itself, which is for nobody.
fn origin(session: &Session, stream: &TcpStream) -> Result<Named, (SocketAddr, Denial)> {
    let nowhere = SocketAddr::from(([0, 0, 0, 0], 1));
    let local = stream.local_addr().unwrap_or(nowhere);
    let direct = || Denial::advising(Reason::RawAddress, "connect to the host itself, not to the redirect port");
    let original = session.perimeter.origins.original(stream).map_err(|_| (local, direct()))?;
    if original == local {
        return Err((local, direct()));
    }
    identify::destination(session, original).map_err(|denial| (original, denial))
}

async fn proxied(session: Arc<Session>, stream: TcpStream) {
    intercept::proxied(session, stream).await;
}

pub(crate) fn at(address: SocketAddr) -> Named {
    let port = Port::new(address.port()).unwrap_or_else(|| postern_policy::Scheme::Http.default_port());
    Named { host: Host::from(address.ip()), port }
}

async fn dns_datagrams(session: Arc<Session>, socket: UdpSocket) {
    let mut question = vec![0; limits::DNS_MESSAGE_BYTES + 1];
    loop {
        let Ok((length, client)) = socket.recv_from(&mut question).await else {
            tokio::time::sleep(PAUSE).await;
            continue;
        };
        if let Some(answer) = answer(&session, &question[..length]) {
            // A client that is gone needs no answer.
            let _gone = socket.send_to(&answer, client).await;
        }
    }
}

async fn dns_connections(session: Arc<Session>, listener: TcpListener) {
    let room = Arc::new(Semaphore::new(limits::DNS_CONNECTIONS));
    loop {
        let stream = next_connection(&listener).await;
        if let Ok(permit) = room.clone().try_acquire_owned() {
            let session_of_task = session.clone();
            session.drain.spawn_until_drain(async move {
                let _permit = permit;
                // A client that breaks off has asked its last question.
                let _ended = dns_connection(&session_of_task, stream).await;
            });
        }
    }
}

/// RFC 7766: each message follows its length.
async fn dns_connection(session: &Session, mut stream: TcpStream) -> io::Result<()> {
    let idle = session.perimeter.bounds.dns_idle;
    loop {
        let length = usize::from(timeout(idle, stream.read_u16()).await??);
        let mut question = vec![0; length];
        timeout(idle, stream.read_exact(&mut question)).await??;
        let Some(answer) = answer(session, &question) else {
            return Ok(());
        };
        let mut message = u16::try_from(answer.len()).unwrap_or(u16::MAX).to_be_bytes().to_vec();
        message.extend(answer);
        timeout(idle, stream.write_all(&message)).await??;
    }
}

fn answer(session: &Session, question: &[u8]) -> Option<Vec<u8>> {
    dns::answer(question, &mut session.names.lock().unwrap_or_else(PoisonError::into_inner))
}

/// Waiting time after a failed accept or read.
pub(crate) const PAUSE: Duration = Duration::from_millis(50);
