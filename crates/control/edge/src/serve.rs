//! The listener: takes connections while there is room, and ends with every connection ended.

use std::future::Future;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use postern_net::Places;
use rustls::ServerConfig;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::accept;
use crate::edge::Edge;

/// Settings of the outer TLS: version 1.3 alone, no client certificates, `http/1.1`.
///
/// # Errors
/// Key and certificate do not belong together, or are of no usable kind.
pub fn server_config(
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
) -> Result<Arc<ServerConfig>, rustls::Error> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_no_client_auth()
        .with_single_cert(chain, key)?;
    config.alpn_protocols = vec![postern_tunnel::wire::ALPN.to_vec()];
    Ok(Arc::new(config))
}

/// Runs the tasks of connections so that their end can be awaited.
#[derive(Debug, Clone)]
pub(crate) struct Tracked(TaskTracker);

impl<F> hyper::rt::Executor<F> for Tracked
where
    F: Future + Send + 'static,
    F::Output: Send + 'static,
{
    fn execute(&self, task: F) {
        self.0.spawn(task);
    }
}

impl Edge {
    /// Serves connectors on this listener until `stop`; then ends every connection it took and returns when they have ended. A connection
    /// that negotiated less than TLS 1.3 is dropped, whatever `tls` allows.
    pub async fn serve(&self, listener: TcpListener, tls: Arc<ServerConfig>, stop: CancellationToken) {
        let tasks = TaskTracker::new();
        let waiting = Places::new(self.limits().unauthenticated);
        loop {
            let accepted = tokio::select! {
                () = stop.cancelled() => break,
                accepted = listener.accept() => accepted,
            };
            match accepted {
                Ok((tcp, peer)) => {
                    // Strangers hold a place for seconds, connectors only while they are let in: the longest there gives way.
                    let place = tokio::select! {
                        () = stop.cancelled() => break,
                        place = waiting.take() => place,
                    };
                    let connection = accept::connection(
                        self.clone(),
                        tcp,
                        peer,
                        Arc::clone(&tls),
                        place,
                        stop.child_token(),
                        Tracked(tasks.clone()),
                    );
                    tasks.spawn(connection);
                }
                Err(error) => pause(&error).await,
            }
        }
        tasks.close();
        tasks.wait().await;
    }
}

/// Out of descriptors, mostly: the connections that end meanwhile give some back.
async fn pause(error: &io::Error) {
    tracing::warn!(%error, "the edge cannot accept a connection");
    tokio::time::sleep(Duration::from_millis(50)).await;
}
